"""Blur by a point spread function, its transfer function, and Wiener deconvolution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.lengths import fast_length
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator

_PAD = {"reflect": "symmetric", "zero": "constant"}


@pytree
class Blur(Operator):
    """Convolution y[n] = Σ_k psf[k] x[n + c − k] of images ``[..., *image_shape]`` of one to three axes, centre c = ⌊K/2⌋ along each axis.

    The centre is that of ``scipy.ndimage.convolve``: the middle (K−1)/2 of an odd PSF. A symmetric PSF of even size shifts
    the image by half a pixel.

    Args:
        psf: point spread function, as many axes as the image, no longer than it along any. Traced: differentiable, learnable.
            A complex one makes the operator complex.
        image_shape: shape of one image.
        boundary: what lies outside the image: ``"reflect"`` (d c b a | a b c d | d c b a, as SciPy names it), ``"periodic"`` or ``"zero"``.

    Raises:
        ValueError: axes, size, dtype or boundary do not fit, or the PSF is not finite.
    """

    psf: Any
    image_shape: tuple[int, ...] = static()
    boundary: str = static(default="reflect")

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(check.positive_int("image_shape", n) for n in self.image_shape))
        object.__setattr__(self, "psf", _validated_psf(self.psf, self.image_shape))
        check.one_of("boundary", self.boundary, ("reflect", "periodic", "zero"))

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jax.dtypes.canonicalize_dtype(jnp.result_type(self.psf)))

    def __call__(self, x):
        psf = jnp.asarray(self.psf, x.dtype)
        if self.boundary == "periodic":
            return _circular(x, _at_origin(psf, x.shape))
        before = [k - 1 - k // 2 for k in psf.shape]
        after = [k // 2 for k in psf.shape]
        x = jnp.pad(x, list(zip(before, after, strict=True)), mode=_PAD[self.boundary])
        # A circular convolution of the extended image; what wraps around falls before entry K−1 and is cut off.
        shape = [fast_length(n) for n in x.shape]
        out = _circular(_zero_padded(x, shape), _zero_padded(psf, shape))
        return out[tuple(slice(k - 1, k - 1 + n) for k, n in zip(psf.shape, self.image_shape, strict=True))]

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max: the largest modulus of the transfer function for periodic boundaries, an estimate from above for others."""
        if self.boundary == "periodic":
            return jnp.max(jnp.abs(transfer_function(self.psf, self.image_shape)))
        return super().norm(key, steps)


def gaussian_psf(sigma: Any, shape: int | tuple[int, ...]) -> jax.Array:
    """A sampled Gaussian of sum 1, symmetric about (K−1)/2.

    Args:
        sigma: standard deviation in pixels, one number or one an axis; traced.
        shape: size of the PSF, e.g. ``(9, 9)``: odd sizes for ``Blur``, which they do not shift; 6σ holds 99.7 % along an axis.

    Returns:
        ``[*shape]``.

    Raises:
        ValueError: a σ that is not positive, or not one or ``len(shape)`` of them.
    """
    shape = tuple(check.positive_int("shape", k) for k in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    sigma = check.array("sigma", sigma)
    check.minimum("sigma", sigma, 0, strict=True)
    if jnp.ndim(sigma) > 1 or jnp.size(sigma) not in (1, len(shape)):
        check.fail("sigma", f"1 or {len(shape)} numbers", check.describe(sigma))
    dtype = sigma.dtype if jnp.issubdtype(sigma.dtype, jnp.floating) and isinstance(sigma, jax.Array) else jnp.float32
    sigma = jnp.broadcast_to(jnp.ravel(jnp.asarray(sigma, dtype)), (len(shape),))
    psf = jnp.ones((), dtype)
    for k, n in enumerate(shape):
        line = jnp.exp(-0.5 * ((jnp.arange(n, dtype=dtype) - (n - 1) / 2) / sigma[k]) ** 2)
        psf = psf[..., None] * (line / line.sum())
    return psf


def transfer_function(psf: Any, image_shape: tuple[int, ...]) -> jax.Array:
    """The DFT of the PSF with its centre ⌊K/2⌋ at the origin, unnormalised (1 at zero frequency for a PSF of sum 1).

    Returns:
        ``[*image_shape]``, complex, in the order of ``jnp.fft.fftn``: the eigenvalues of the periodic ``Blur``.

    Raises:
        ValueError: the PSF has other axes than the image, or is wider than it.
    """
    return jnp.fft.fftn(_at_origin(jnp.asarray(_validated_psf(psf, tuple(image_shape))), tuple(image_shape)))


def wiener(image: Any, psf: Any, noise_to_signal: Any, boundary: str = "periodic") -> jax.Array:
    """Wiener deconvolution x̂ = F⁻¹[conj(K)·Y / (|K|² + S_n/S_f)], K the unnormalised transfer function.

    The linear estimate of least mean square error where object and noise are stationary; differentiable in all arguments.

    Args:
        image: ``[..., *psf axes]``, blurred and noisy.
        psf: point spread function, as for ``Blur``.
        noise_to_signal: S_n/S_f, power of the noise over power of the object: one number, or (periodic boundary only) a
            spectrum ``[*image_shape]`` in the order of ``jnp.fft.fftn``. Not negative; at 0 the plain inverse filter.
        boundary: ``"periodic"``, or ``"reflect"`` or ``"zero"``: the image is so extended by a PSF's width on both sides
            before the filter and cropped after it, which moves the ringing of unlike edges out of the picture.

    Returns:
        The estimate, shape and dtype of ``image``.

    Raises:
        ValueError: shapes, dtypes or boundary do not fit, or a negative ``noise_to_signal``.

    N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949.
    """
    image = jnp.asarray(check.array("image", image))
    check.inexact("image", image)
    psf = check.array("psf", psf)
    if image.ndim < psf.ndim:
        check.fail("image", f"at least the {psf.ndim} axes of the PSF", f"shape {image.shape}")
    image_shape = image.shape[image.ndim - psf.ndim :]
    psf = jnp.asarray(_validated_psf(psf, image_shape), image.dtype)
    check.one_of("boundary", boundary, ("reflect", "periodic", "zero"))
    ratio = jnp.asarray(check.array("noise_to_signal", noise_to_signal), jnp.finfo(image.dtype).dtype)
    check.minimum("noise_to_signal", noise_to_signal, 0)
    if ratio.ndim and (boundary != "periodic" or ratio.shape != image_shape):
        expected = "one number" + (f", or a spectrum of shape {image_shape}" if boundary == "periodic" else "")
        check.fail("noise_to_signal", expected, f"shape {ratio.shape}", "A spectrum needs boundary='periodic' and the image's shape.")

    width = [k if boundary != "periodic" else 0 for k in psf.shape]
    if boundary != "periodic":
        image = jnp.pad(image, [(0, 0)] * (image.ndim - psf.ndim) + [(k, k) for k in width], mode=_PAD[boundary])
    axes = tuple(range(-psf.ndim, 0))
    transfer = transfer_function(psf, image.shape[image.ndim - psf.ndim :])
    estimate = jnp.fft.ifftn(jnp.conj(transfer) * jnp.fft.fftn(image, axes=axes) / (jnp.abs(transfer) ** 2 + ratio), axes=axes)
    estimate = estimate[(..., *(slice(k, k + n) for k, n in zip(width, image_shape, strict=True)))]
    return estimate if jnp.iscomplexobj(image) else estimate.real


def _validated_psf(psf, image_shape):
    psf = check.array("psf", psf)
    if not jnp.issubdtype(psf.dtype, jnp.inexact):
        psf = psf.astype(np.float32)
    check.ndim("psf", psf, len(image_shape), f"like the image {tuple(image_shape)}")
    if not 1 <= psf.ndim <= 3:
        check.fail("image_shape", "one to three axes", f"{psf.ndim}", "Leading axes of x are batch axes; they do not count.")
    if any(k > n for k, n in zip(psf.shape, image_shape, strict=True)):
        check.fail("psf", f"no axis longer than the image {tuple(image_shape)}", f"shape {psf.shape}", "Crop the PSF or pad the image.")
    if 0 in psf.shape:
        check.fail("psf", "at least one entry an axis", f"shape {psf.shape}")
    check.finite("psf", psf)
    return psf


def _zero_padded(a, shape):
    return jnp.pad(a, [(0, n - k) for k, n in zip(a.shape, shape, strict=True)])


def _at_origin(psf, shape):
    """The PSF in an array of zeros, its centre ⌊K/2⌋ at index 0."""
    return jnp.roll(_zero_padded(psf, shape), [-(k // 2) for k in psf.shape], tuple(range(psf.ndim)))


def _circular(x, kernel):
    if jnp.iscomplexobj(x):
        return jnp.fft.ifftn(jnp.fft.fftn(x) * jnp.fft.fftn(kernel))
    return jnp.fft.irfftn(jnp.fft.rfftn(x) * jnp.fft.rfftn(kernel), s=x.shape)
