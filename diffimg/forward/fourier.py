"""The centred orthonormal Fourier transform, and Cartesian MRI: coil maps, transform, sampling mask."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct, lax

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.coil_maps import admit_coils
from diffimg.forward.operator import Operator
from diffimg.forward.structure import DiagonalForm


def fft(x: Any, ndim: int = 2) -> jax.Array:
    """Centred orthonormal discrete Fourier transform over the last ``ndim`` axes.

    X[k] = Π N^{−1/2} Σ_n x[n] exp(−2πi (k − N//2)(n − N//2)/N) per axis, for even and odd N: the zero frequency lies at index N//2,
    as in ``fftshift(fft(ifftshift(x), norm="ortho"))``, but no array is copied: a shift by N//2 in one domain is a phase in the other.

    Args:
        x: ``[..., n1, …]`` real or complex. ndim: number of trailing axes transformed.

    Returns:
        ``[..., n1, …]`` complex, in the precision of x.
    """
    return _transform(x, ndim, -1)


def ifft(k: Any, ndim: int = 2) -> jax.Array:
    """The inverse, and adjoint, of ``fft``: centred and orthonormal over the last ``ndim`` axes."""
    return _transform(k, ndim, 1)


def _transform(x, ndim, sign):
    x = jnp.asarray(x)
    if x.ndim < ndim:
        check.fail("x", f"at least {ndim} axes", f"{x.ndim} axes, shape {x.shape}", "Give ndim, the number of axes to transform.")
    x = x.astype(jnp.promote_types(x.dtype, jnp.complex64))
    shape = x.shape[x.ndim - ndim :]
    phase = centring_phase(shape, sign, x.dtype)
    axes = tuple(range(-ndim, 0))
    # Σ_n x[n] e^{±2πi(k−c)(n−c)/N}: the phases of n before and of k after the transform; both ends fuse with what stands there.
    x = (jnp.fft.fftn if sign < 0 else jnp.fft.ifftn)(x * phase, axes=axes, norm="ortho")
    constant = np.exp(sign * 2j * np.pi * sum((n // 2) ** 2 % n / n for n in shape))
    return x * (phase * (constant.real if abs(constant.imag) < 1e-12 else constant.astype(phase.dtype)))


def centring_phase(shape: tuple[int, ...], sign: int, dtype: Any) -> Any:
    """exp(−sign·2πi (N//2) n/N) over all axes: ±1 for even sizes, a real array then."""
    real = np.finfo(jnp.dtype(dtype)).dtype
    out: Any = np.ones((), real)
    for axis, n in enumerate(shape):
        k = np.arange(n)
        values = (1 - 2 * (k % 2)).astype(real) if n % 2 == 0 else np.exp(-sign * 2j * np.pi * ((n // 2) * k % n) / n).astype(dtype)
        out = out * values.reshape(n, *(1,) * (len(shape) - axis - 1))
    return out


@pytree
class MaskedFFT(Operator):
    """Cartesian MRI: y = M F (S x), with coil maps S, the centred orthonormal Fourier transform F and a sampling mask M.

    ``domain`` is the mask's shape; ``codomain`` the same, with an axis of coils before the spatial ones where there are coil maps:
    ``[..., y, x]`` → ``[..., coil, y, x]``. All leaves are traced: masks and coil maps can be learned.

    Args:
        mask: ``[*image_shape]`` bool, real (weights) or complex: the factor of every sample; zero where nothing is measured. Axes
            before the last ``ndim`` are frames of a dynamic series, each with a mask of its own.
        coils: complex maps ``[..., coil, *spatial]``, or None for one coil of unit sensitivity. Leading axes broadcast with the
            mask's.
        ndim: number of spatial axes (2 or 3; 1 works too); default: all axes of the mask.

    Raises:
        ValueError: a mask without any sample, or with NaN; maps that do not fit the mask, or that vanish everywhere.

    A.prepare() finds the axes along which the mask does not change (the readout of a Cartesian scan): their transforms cancel in
    AᴴA. K. P. Pruessmann et al., Magn. Reson. Med. 42 (1999) 952.
    """

    batched: ClassVar[bool] = True

    mask: Any
    coils: Any = None
    ndim: Any = static(default=None)

    def __post_init__(self):
        object.__setattr__(self, "mask", check.array("mask", self.mask))
        object.__setattr__(self, "ndim", admit_ndim(self.ndim, jnp.ndim(self.mask)))
        check.finite("mask", self.mask)
        if check.is_concrete(self.mask) and not np.any(np.asarray(self.mask)):
            check.fail("mask", "at least one sample", "zero everywhere", "Nothing would be measured; see diffimg.mri for masks.")
        if self.coils is not None:
            object.__setattr__(self, "coils", admit_coils(self.coils, self._spatial))

    @property
    def _spatial(self):
        return tuple(jnp.shape(self.mask)[jnp.ndim(self.mask) - self.ndim :])

    @property
    def domain(self):
        return ShapeDtypeStruct(jnp.shape(self.mask), jnp.complex64)

    @property
    def _coil_axis(self):
        return -self.ndim - 1

    def __call__(self, x):
        if self.coils is None:
            return self._factor(x.dtype) * fft(x, self.ndim)
        x = jnp.expand_dims(x, self._coil_axis) * self.coils.astype(x.dtype)
        return jnp.expand_dims(self._factor(x.dtype), self._coil_axis) * fft(x, self.ndim)

    def adjoint(self, y):
        factor = jnp.conj(self._factor(y.dtype))
        if self.coils is None:
            return ifft(factor * y, self.ndim)
        x = ifft(jnp.expand_dims(factor, self._coil_axis) * y, self.ndim)
        return jnp.sum(jnp.conj(self.coils).astype(x.dtype) * x, axis=self._coil_axis)

    def gram(self, x):
        m = self._factor(x.dtype)
        power = jnp.fft.ifftshift((m * jnp.conj(m)).real, axes=tuple(range(-self.ndim, 0)))
        return masked_normal(power, self.coils, self.ndim, self.ndim, x)

    def prepare(self):
        if not check.is_concrete(self.mask) or (self.coils is not None and not check.is_concrete(self.coils)):
            return self
        mask = np.asarray(self.mask)
        power = (mask * np.conj(mask)).real.astype(np.float64) if mask.dtype != bool else mask.astype(np.float64)
        axes = tuple(range(-self.ndim, 0))
        power = np.fft.ifftshift(power, axes=axes)
        fixed = [a for a in axes if np.all(power == np.take(power, [0], axis=a))]
        for a in fixed:
            power = np.take(power, [0], axis=a)
        order = (*fixed, *(a for a in axes if a not in fixed))
        real = jax.dtypes.canonicalize_dtype(np.float64)
        maps = None if self.coils is None else _reordered(jnp.asarray(self.coils), order)
        return PreparedMaskedFFT(self.mask, self.coils, self.ndim, _reordered(jnp.asarray(power, real), order), maps, order, len(fixed))

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max: max |M| for one coil; estimated from above with coil maps."""
        if self.coils is None:
            return jnp.max(jnp.abs(self._factor(jnp.complex64)))
        return super().norm(key, steps)

    def diagonal_form(self):
        """M and the unitary F, for one coil; None with coil maps."""
        if self.coils is not None:
            return None
        return DiagonalForm(self.mask, lambda x: fft(x, self.ndim), lambda k: ifft(k, self.ndim))

    def _factor(self, dtype):
        mask = jnp.asarray(self.mask)
        return mask.astype(dtype if jnp.iscomplexobj(mask) else jnp.finfo(dtype).dtype)


@pytree
class PreparedMaskedFFT(MaskedFFT):
    """``MaskedFFT`` with |M|² in the transform's own order; made by ``MaskedFFT.prepare()``. Mask and maps are fixed."""

    power: Any = None  # |M|², zero frequency first, one long along axes on which it does not change; those come first
    maps: Any = None  # the coil maps with their axes in that order
    order: tuple[int, ...] = static(default=())  # of the spatial axes
    fixed: int = static(default=0)  # how many do not change: their transforms cancel

    def gram(self, x):
        x = _reordered(x, self.order)
        x = masked_normal(self.power, self.maps, self.ndim, self.ndim - self.fixed, x)
        return _reordered(x, tuple(np.argsort(self.order) - self.ndim))

    def tangent(self, direction, x):
        got = "one with respect to the mask or maps of a prepared MaskedFFT, which are fixed"
        remedy = "Differentiate the operator before prepare(): MaskedFFT(mask, coils)(x)."
        check.fail("mask, coils", "a derivative with respect to the image only", got, remedy)

    def prepare(self):
        return self

    def _name(self):
        return "PreparedMaskedFFT"


def _reordered(x, order):
    """The last axes of x in another order (given as negative numbers)."""
    return jnp.transpose(x, (*range(x.ndim - len(order)), *(x.ndim + a for a in order)))


def masked_normal(power: Any, coils: Any, ndim: int, transformed: int, x: jax.Array) -> jax.Array:
    """Sᴴ Fᴴ |M|² F S x over the last ``transformed`` of ``ndim`` spatial axes; ``power`` has its zero frequency first.

    A shift commutes with a convolution, so that no centring phase is needed.
    """
    power = power.astype(jnp.finfo(x.dtype).dtype)
    axes = tuple(range(-transformed, 0))

    def convolve(v):
        return jnp.fft.ifftn(power * jnp.fft.fftn(v, axes=axes), axes=axes) if axes else power * v

    if coils is None:
        return convolve(x)
    s = jnp.moveaxis(coils.astype(x.dtype), -ndim - 1, 0)
    s = s.reshape(s.shape[0], *(1,) * (x.ndim - s.ndim + 1), *s.shape[1:])

    def at_once(s, x):
        return jnp.sum(jnp.conj(s) * convolve(s * x), axis=0)

    def in_turn(s, x):  # the working set of one or two coils stays in a CPU's cache
        pairs = s.reshape(-1, 2, *s.shape[1:]) if s.shape[0] % 2 == 0 else s[:, None]
        return lax.scan(lambda total, pair: (total + at_once(pair, x), None), jnp.zeros_like(x), pairs)[0]

    return lax.platform_dependent(s, x, cpu=in_turn, default=at_once)


def admit_ndim(ndim: Any, available: int) -> int:
    """The number of spatial axes; all axes by default."""
    if ndim is None:
        if not 1 <= available <= 3:
            expected = "1 to 3 axes [y, x] or [z, y, x]"
            check.fail("mask", expected, f"{available} axes", "For a dynamic series [t, y, x] say how many axes are spatial: ndim=2.")
        return available
    if check.positive_int("ndim", ndim) > min(3, available):
        remedy = "The mask has one axis for each, after those of the frames."
        check.fail("ndim", f"1 to {min(3, available)} spatial axes", str(ndim), remedy)
    return ndim
