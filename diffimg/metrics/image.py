"""Reference-based image quality: PSNR, SSIM, NMSE, NRMSE, RMSE, MAE.

All of them: the last ``ndim`` axes (default 2) are the image, leading axes are batch and remain in the result; integer images are
compared in float32; ``mask`` (bool, of the image's shape) restricts the comparison; non-finite input and unequal shapes raise
ValueError. Everything is differentiable and may be called inside jit.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004
_GAUSSIAN_SIGMA, _GAUSSIAN_RADIUS = 1.5, 5


def psnr(
    x: Any,
    reference: Any,
    data_range: Any = None,
    definition: str = "skimage",
    mask: Any = None,
    ndim: int = 2,
) -> jax.Array:
    """Peak signal-to-noise ratio 10·log₁₀(data_range² / MSE), in dB; infinite for equal images.

    Args:
        x, reference: real, ``[..., *image]``.
        data_range: scalar or of the batch shape; ``None``: see ``definition``.
        definition: the data range where none is given; "skimage": max − min of the reference (scikit-image's advice for floating
            images); "fastmri": max of the reference (Zbontar et al., arXiv:1811.08839). Over a volume, as in that
            challenge, with ``ndim=3``.
        mask: where to compare, bool; the range is taken inside it too.
        ndim: number of image axes.
    """
    check.one_of("definition", definition, ("skimage", "fastmri"))
    x, reference, mask = _admit(x, reference, mask, ndim)
    check.real("reference", reference)
    scale = _range(data_range, reference, mask, ndim, definition)
    return 20 * jnp.log10(scale) - 10 * jnp.log10(_mean(_square(x - reference), mask, ndim))


def ssim(
    x: Any,
    reference: Any,
    data_range: Any = None,
    definition: str = "skimage",
    mask: Any = None,
    ndim: int = 2,
) -> jax.Array:
    """Mean structural similarity (Z. Wang et al., IEEE Trans. Image Process. 13(4), 2004), K₁ = 0.01, K₂ = 0.03.

    Args:
        x, reference: real, ``[..., *image]``.
        data_range: scalar or of the batch shape; ``None``: see ``definition``.
        definition: "skimage": uniform 7-pixel window, sample covariance, range max − min of the reference;
            "fastmri": the same with the maximum of the reference as range (the challenge takes that of the *volume* for each of its
            slices: pass it, and average); "wang": the paper's Gaussian window (σ = 1.5, 11 pixels), population covariance.
            Windows that leave the image are not counted, as in scikit-image.
        mask: which window centres to average over, bool.
        ndim: number of image axes; 3 uses cubic windows.
    """
    check.one_of("definition", definition, ("skimage", "fastmri", "wang"))
    x, reference, mask = _admit(x, reference, mask, ndim)
    check.real("x", x)
    check.real("reference", reference)
    radius = _GAUSSIAN_RADIUS if definition == "wang" else 3
    smallest = min(reference.shape[reference.ndim - ndim :])
    if smallest < 2 * radius + 1:
        check.fail("x", f"at least {2 * radius + 1} pixels on every image axis", f"shape {x.shape}", "The SSIM window does not fit.")
    scale = _range(data_range, reference, mask, ndim, definition)
    return _ssim(x, reference, scale, mask, ndim, definition == "wang")


def nmse(x: Any, reference: Any, mask: Any = None, ndim: int = 2) -> jax.Array:
    """Normalised mean squared error ‖x − reference‖² / ‖reference‖², as in fastMRI (there over a volume: ``ndim=3``)."""
    x, reference, mask = _admit(x, reference, mask, ndim)
    return _mean(_square(x - reference), mask, ndim) / _mean(_square(reference), mask, ndim)


def nrmse(x: Any, reference: Any, normalization: str = "euclidean", mask: Any = None, ndim: int = 2) -> jax.Array:
    """Root mean squared error over a scale of the reference, as scikit-image's ``normalized_root_mse``.

    ``normalization``: "euclidean": root mean square; "min-max": max − min; "mean": mean.
    """
    check.one_of("normalization", normalization, ("euclidean", "min-max", "mean"))
    x, reference, mask = _admit(x, reference, mask, ndim)
    if normalization == "euclidean":
        scale = jnp.sqrt(_mean(_square(reference), mask, ndim))
    else:
        check.real("reference", reference)
        scale = _mean(reference, mask, ndim) if normalization == "mean" else _extent(reference, mask, ndim, "skimage")
    return jnp.sqrt(_mean(_square(x - reference), mask, ndim)) / scale


def rmse(x: Any, reference: Any, mask: Any = None, ndim: int = 2) -> jax.Array:
    """Root mean squared error, in the unit of the images."""
    x, reference, mask = _admit(x, reference, mask, ndim)
    return jnp.sqrt(_mean(_square(x - reference), mask, ndim))


def mae(x: Any, reference: Any, mask: Any = None, ndim: int = 2) -> jax.Array:
    """Mean absolute error, in the unit of the images."""
    x, reference, mask = _admit(x, reference, mask, ndim)
    return _mean(jnp.abs(x - reference), mask, ndim)


def circle(image_shape: tuple[int, int]) -> np.ndarray:
    """The mask ``[y, x]`` of pixels whose centre lies in the largest circle inside the image (tomography's field of view)."""
    if len(tuple(image_shape)) != 2:
        check.fail("image_shape", "(rows, columns)", repr(tuple(image_shape)))
    rows, columns = (check.positive_int("image_shape", n) for n in image_shape)
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    return np.hypot(y[:, None], x[None, :]) <= min(rows, columns) / 2


def _admit(x, reference, mask, ndim):
    x, reference = check.array("x", x), check.array("reference", reference)
    check.shape("x", x, np.shape(reference), remedy="Images are not broadcast: crop, pad or resample one of them.")
    if not 1 <= ndim <= np.ndim(reference):
        check.fail("ndim", f"a number of image axes from 1 to {np.ndim(reference)}", repr(ndim))
    check.finite("x", x)
    check.finite("reference", reference)
    dtype = jnp.result_type(x, reference)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.float32  # unsigned differences would wrap around
    if mask is not None:
        image = np.shape(reference)[np.ndim(reference) - ndim :]
        check.shape("mask", mask, image, "(the image axes)")
        if check.is_concrete(mask) and not np.any(mask):
            check.fail("mask", "at least one pixel that is True", "none")
        mask = jnp.asarray(mask, bool)
    return jnp.asarray(x, dtype), jnp.asarray(reference, dtype), mask


def _range(data_range, reference, mask, ndim, definition):
    if data_range is None:
        data_range = _extent(reference, mask, ndim, definition)
        remedy = "An image of the reference is constant or not positive: pass data_range; for volumes pass ndim=3."
    else:
        remedy = "Pass the span of possible values, e.g. reference.max() - reference.min()."
        batch = reference.shape[: reference.ndim - ndim]
        if jnp.ndim(data_range):
            check.shape("data_range", data_range, batch, "(a scalar, or the batch axes)")
    check.finite("data_range", data_range)
    check.minimum("data_range", data_range, 0.0, strict=True, remedy=remedy)
    return jnp.asarray(data_range, reference.dtype)


def _extent(reference, mask, ndim, definition):
    axes = tuple(range(-ndim, 0))
    high = jnp.max(reference, axes, initial=-jnp.inf, where=mask)
    return high if definition == "fastmri" else high - jnp.min(reference, axes, initial=jnp.inf, where=mask)


def _square(v):
    return v.real**2 + v.imag**2 if jnp.iscomplexobj(v) else v * v


def _mean(v, mask, ndim):
    return jnp.mean(v, tuple(range(-ndim, 0)), where=mask)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _ssim(x, y, scale, mask, ndim, gaussian):
    axes = tuple(range(-ndim, 0))
    if gaussian:
        weights = np.exp(-0.5 * (np.arange(-_GAUSSIAN_RADIUS, _GAUSSIAN_RADIUS + 1) / _GAUSSIAN_SIGMA) ** 2)
        weights /= weights.sum()
        correction = 1.0
    else:
        weights = np.full(7, 1 / 7)
        correction = 7**ndim / (7**ndim - 1)
    # Variances do not change with the origin of the values, but E[v²] − E[v]² cancels: count from the mean of the reference.
    origin = jnp.mean(y, axes, keepdims=True)
    x, y = x - origin, y - origin
    stack = jnp.stack([x, y, x * x, y * y, x * y])
    for axis in axes:
        stack = _correlate(stack, weights, axis)
    mx, my, xx, yy, xy = stack
    vx, vy, vxy = correction * (xx - mx * mx), correction * (yy - my * my), correction * (xy - mx * my)
    mx, my = mx + origin, my + origin
    c1, c2 = ((k * scale.reshape(scale.shape + (1,) * ndim)) ** 2 for k in (_K1, _K2))
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    if mask is not None:
        radius = len(weights) // 2
        mask = mask[(slice(radius, -radius),) * ndim]
    return jnp.mean(index, axes, where=mask)


def _correlate(v: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Correlation along one axis, where the window fits."""
    length = v.shape[axis] - len(weights) + 1
    terms = (float(w) * jax.lax.slice_in_dim(v, k, k + length, axis=v.ndim + axis) for k, w in enumerate(weights))
    return functools.reduce(jnp.add, terms)
