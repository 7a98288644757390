"""The orthonormal discrete wavelet transform with periodic boundaries, in any number of dimensions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator

# Synthesis low-pass filters: I. Daubechies, Ten Lectures on Wavelets, SIAM 1992 (tables 6.1, 6.3 and 8.1), in the digits,
# order and sign of PyWavelets; the symlets refined by Newton's method to orthonormality in double precision.
# fmt: off
FILTERS: dict[str, tuple[float, ...]] = {
    "haar": (0.7071067811865476, 0.7071067811865476),
    "db2": (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037),
    "db3": (0.33267055295008263, 0.8068915093110925, 0.45987750211849154, -0.13501102001025458, -0.08544127388202666,
        0.03522629188570953),
    "db4": (0.2303778133088965, 0.7148465705529157, 0.6308807679298589, -0.027983769416859854, -0.18703481171909309,
        0.030841381835560764, 0.0328830116668852, -0.010597401785069032),
    "db6": (0.11154074335010947, 0.49462389039845306, 0.7511339080210954, 0.31525035170919763, -0.22626469396543983,
        -0.12976686756726194, 0.09750160558732304, 0.027522865530305727, -0.03158203931748603, 0.0005538422011614961,
        0.004777257510945511, -0.0010773010853084796),
    "db8": (0.05441584224310401, 0.31287159091429995, 0.6756307362972898, 0.5853546836542067, -0.015829105256349306,
        -0.2840155429615469, 0.0004724845739132828, 0.12874742662047847, -0.017369301001807547, -0.044088253930794755,
        0.013981027917398282, 0.008746094047405777, -0.004870352993451574, -0.00039174037337694705, 0.0006754494064505693,
        -0.00011747678412476953),
    "sym4": (0.03222310060405146, -0.012603967262031305, -0.09921954357663348, 0.297857795605306, 0.8037387518051321,
        0.49761866763277496, -0.029635527646002503, -0.07576571478950221),
    "sym6": (-0.00780070832503238, 0.0017677118642540092, 0.044724901770781374, -0.02106029251237085, -0.07263752278637657,
        0.33792942172816587, 0.787641141028651, 0.49105594192797364, -0.04831174258569806, -0.11799011114851998,
        0.0034907120842221657, 0.015404109327044826),
    "sym8": (0.0018899503327676895, -0.00030292051472413325, -0.014952258337062202, 0.0038087520138944926, 0.04913717967373029,
        -0.027219029917103496, -0.05194583810788179, 0.36444189483617895, 0.777185751699628, 0.4813596512590534,
        -0.06127335906781109, -0.14329423835127267, 0.007607487324976614, 0.031695087811525996, -0.0005421323318000109,
        -0.0033824159510050028),
    "coif1": (-0.07273261951252645, 0.3378976624574818, 0.8525720202116004, 0.3848648468648578, -0.07273261951252645,
        -0.015655728135791993),
}
# fmt: on


@pytree
class Wavelet(Operator):
    """Separable multilevel DWT of ``[..., *image_shape]``; orthonormal, so the adjoint is the inverse.

    The coefficients keep the shape of the image, in the layout of ``pywt.coeffs_to_array``: of each axis the first half
    holds averages and the second details, and the corner of averages is split again ``levels`` − 1 times. Equal to PyWavelets'
    ``mode="periodization"``.

    Args:
        image_shape: shape of one image; every axis divisible by 2^levels.
        wavelet: a name in ``FILTERS``: ``"haar"``, ``"db2"`` … ``"db8"`` (extremal phase), ``"sym4"`` … ``"sym8"`` (least
            asymmetric), ``"coif1"``.
        levels: number of levels, ≥ 1.
        dtype: nominal dtype, real or complex.

    Raises:
        ValueError: an unknown wavelet, or a shape that cannot be halved ``levels`` times.

    S. Mallat, A theory for multiresolution signal decomposition, IEEE Trans. Pattern Anal. Mach. Intell. 11(7), 1989.
    """

    orthonormal: ClassVar[bool] = True

    image_shape: tuple[int, ...] = static()
    wavelet: str = static(default="db4")
    levels: int = static(default=3)
    dtype: str = static(default="float32")

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(check.positive_int("image_shape", n) for n in self.image_shape))
        check.one_of("wavelet", self.wavelet, FILTERS)
        check.positive_int("levels", self.levels)
        step = 2**self.levels
        if not self.image_shape or any(n % step for n in self.image_shape):
            most = min((n & -n).bit_length() - 1 for n in self.image_shape) if self.image_shape else 0
            padded = tuple(math.ceil(n / step) * step for n in self.image_shape)
            remedy = f"Pad the image to {padded}" + (f", or use levels ≤ {most}." if most else ".")
            check.fail("image_shape", f"axes divisible by 2^levels = {step}", str(self.image_shape), remedy)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jnp.dtype(self.dtype))

    def __call__(self, x):
        for level in range(self.levels):
            corner = self._corner(level)
            part = x[corner]
            for axis in range(part.ndim):
                part = jnp.moveaxis(_analysis(jnp.moveaxis(part, axis, -1), FILTERS[self.wavelet]), -1, axis)
            x = jax.lax.dynamic_update_slice(x, part, (0,) * x.ndim) if level else part
        return x

    def adjoint(self, y):
        for level in reversed(range(self.levels)):
            corner = self._corner(level)
            part = y[corner]
            for axis in range(part.ndim):
                part = jnp.moveaxis(_synthesis(jnp.moveaxis(part, axis, -1), FILTERS[self.wavelet]), -1, axis)
            y = jax.lax.dynamic_update_slice(y, part, (0,) * y.ndim) if level else part
        return y

    def gram(self, x):
        return x

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max = 1: all singular values of an orthonormal transform (nothing is iterated)."""
        return jnp.ones((), jnp.finfo(jax.dtypes.canonicalize_dtype(jnp.dtype(self.dtype))).dtype)

    def subband(self, coefficients: Any, level: int, details: tuple[bool, ...]) -> Any:
        """One subband of ``coefficients [..., *image_shape]``: ``level`` 1 is the finest; ``details`` says of each axis whether
        its details (True) or its averages (False) are meant."""
        if not isinstance(level, int) or not 1 <= level <= self.levels:
            check.fail("level", f"an integer in 1 … {self.levels}", repr(level))
        if len(details) != len(self.image_shape):
            check.fail("details", f"{len(self.image_shape)} flags, one an axis", repr(details))
        if level < self.levels and not any(details):
            remedy = "Those averages were split further."
            check.fail("details", f"at least one True below the last level {self.levels}", repr(details), remedy)
        check.trailing_shape("coefficients", coefficients, self.image_shape)
        half = [n >> level for n in self.image_shape]
        return coefficients[(..., *(slice(h, 2 * h) if d else slice(0, h) for h, d in zip(half, details, strict=True)))]

    def _corner(self, level):
        return tuple(slice(0, n >> level) for n in self.image_shape)


def _polyphase(low):
    """(low-pass, high-pass) taps as pairs (even, odd), and the shift that aligns them with PyWavelets."""
    high = [(-1) ** m * h for m, h in enumerate(reversed(low))]
    pairs = [(low[m], low[m + 1], high[m], high[m + 1]) for m in range(0, len(low), 2)]
    return pairs, len(low) // 2 - 1


def _analysis(x, low):
    """[..., n] → [..., averages n/2 | details n/2]: Σ_m h[m] x[2k + m − shift], periodic."""
    pairs, shift = _polyphase(low)
    phases = _wrapped(x, shift, len(low) - 2 - shift).reshape(*x.shape[:-1], -1, 2)
    half = x.shape[-1] // 2
    average = detail = 0
    for i, (h0, h1, g0, g1) in enumerate(pairs):
        even, odd = phases[..., i : i + half, 0], phases[..., i : i + half, 1]
        average, detail = average + h0 * even + h1 * odd, detail + g0 * even + g1 * odd
    return jnp.concatenate([average, detail], -1)


def _synthesis(y, low):
    """The transpose, and inverse, of ``_analysis``."""
    pairs, shift = _polyphase(low)
    half, reach = y.shape[-1] // 2, len(pairs) - 1
    averages, details = (_wrapped(v, reach, 0) for v in jnp.split(y, 2, -1))
    even = odd = 0
    for i, (h0, h1, g0, g1) in enumerate(pairs):
        average, detail = averages[..., reach - i : reach - i + half], details[..., reach - i : reach - i + half]
        even, odd = even + h0 * average + g0 * detail, odd + h1 * average + g1 * detail
    return jnp.roll(jnp.stack([even, odd], -1).reshape(y.shape), -shift, -1)


def _wrapped(x, before, after):
    """Periodic extension along the last axis, also beyond one period."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)], mode="wrap")
