"""Filtered backprojection of parallel-beam sinograms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.radon import Radon

WINDOWS = ("ramlak", "shepp-logan", "cosine", "hamming", "hann", "none")


def fbp(
    sinogram: Any,
    geometry: ParallelBeam,
    filter: str = "ramlak",
    cutoff: float = 1.0,
    weights: str | Any = "voronoi",
    circle: bool = False,
) -> jax.Array:
    """Filtered backprojection, differentiable in the sinogram and the geometry.

    Args:
        sinogram: ``[..., view, detector]``, line integrals (dimensionless for attenuation in 1/mm); real, or complex, of which real
            and imaginary part are reconstructed.
        geometry: the ``ParallelBeam`` it was measured with.
        filter: window on the ramp: "ramlak" (none), "shepp-logan", "cosine", "hamming", "hann"; "none": no ramp at all
            (plain backprojection).
        cutoff: fraction in (0, 1] of the detector's Nyquist frequency where the window ends.
        weights: angular weights, see ``angular_weights``; "voronoi", "uniform", or an array ``[view]`` in radians: real, finite, of
            either sign (0 leaves a view out).
        circle: set pixels outside the inscribed circle to zero.

    Returns:
        ``[..., y, x]``, in the unit of the image (1/mm).

    Raises:
        ValueError: shape, dtype, NaN/Inf in the sinogram or the weights, unknown filter, cutoff outside (0, 1].

    The ramp is the DFT of the sampled kernel of Kak & Slaney (1988), eq. 61 of chapter 3, zero-padded; sampling |ρ| itself would
    remove the mean.
    """
    sinogram = _admit(sinogram, geometry)
    filtered = sinogram if filter == "none" else ramp_filter(sinogram, geometry.detector_spacing, filter, cutoff)
    return backproject(filtered, geometry, weights, circle)


def backproject(sinogram: Any, geometry: ParallelBeam, weights: str | Any = "uniform", circle: bool = False) -> jax.Array:
    """∫ q(θ, x cosθ + y sinθ) dθ by the views' angular weights: ``[..., view, detector]`` → ``[..., y, x]``.

    The interpolation is band-limited. One view gives its smear across the image; without a ramp filter the image is
    blurred by 1/r. Complex sinograms and arrays of weights as in ``fbp``.
    """
    sinogram = _admit(sinogram, geometry)
    w = angular_weights(geometry.angles, weights) if isinstance(weights, str) else _admit_weights(weights, geometry.view_count)
    operator = Radon(geometry, image_model="band-limited", detector_model="point")
    scale = geometry.detector_spacing / geometry.pixel_size**2
    image = scale * _by_parts(operator.H, sinogram * jnp.asarray(w, sinogram.real.dtype)[:, None])
    if circle:
        ny, nx = geometry.image_shape
        y, x = np.ogrid[:ny, :nx]
        inside = (y - (ny - 1) / 2) ** 2 + (x - (nx - 1) / 2) ** 2 <= (min(ny, nx) / 2) ** 2
        image = jnp.where(inside, image, 0)
    return image


def ramp_filter(sinogram: jax.Array, spacing: float, window: str = "ramlak", cutoff: float = 1.0) -> jax.Array:
    """Convolve every view of ``[..., view, detector]``, real or complex, with the windowed ramp; ``spacing`` in mm."""
    check.inexact("sinogram", sinogram)
    check.one_of("filter", window, WINDOWS)
    if not 0 < cutoff <= 1:
        check.fail("cutoff", "a fraction of Nyquist in (0, 1]", repr(cutoff))
    count = sinogram.shape[-1]
    n = 2 ** math.ceil(math.log2(max(2 * count, 64)))
    response = jnp.asarray(ramp_response(n, spacing, window, cutoff), sinogram.real.dtype)
    return _by_parts(lambda q: jnp.fft.irfft(jnp.fft.rfft(q, n=n, axis=-1) * response, n=n, axis=-1)[..., :count], sinogram)


def ramp_response(n: int, spacing: float, window: str = "ramlak", cutoff: float = 1.0) -> np.ndarray:
    """Transfer function ``[n//2 + 1]`` (1/mm) of the windowed ramp for ``n`` samples of ``spacing`` mm."""
    k = np.fft.fftfreq(n) * n
    kernel = np.zeros(n)
    kernel[0] = 0.25
    odd = (k % 2) == 1
    kernel[odd] = -1 / (np.pi * k[odd]) ** 2
    ramp = np.fft.rfft(kernel).real / spacing
    f = np.fft.rfftfreq(n) * 2 / cutoff  # 1 at the cutoff
    shape = {
        "ramlak": np.ones_like(f),
        "shepp-logan": np.sinc(f / 2),
        "cosine": np.cos(np.pi * f / 2),
        "hamming": 0.54 + 0.46 * np.cos(np.pi * f),
        "hann": 0.5 + 0.5 * np.cos(np.pi * f),
        "none": np.ones_like(f),
    }[window]
    return ramp * np.where(f <= 1, shape, 0)


def angular_weights(angles: Any, rule: str = "voronoi") -> jax.Array:
    """Weights dθ ``[view]``, in radians, of views at ``angles`` for the integral over half a turn.

    "uniform": π / views. "voronoi": half the distance to the two neighbours modulo π; in a scan of less than half a turn
    (the largest gap is over four times the second largest) the views at its ends count as the inner ones do.
    """
    check.one_of("weights", rule, ("voronoi", "uniform"))
    angles = jnp.asarray(angles)
    n = angles.shape[0]
    if rule == "uniform" or n == 1:
        return jnp.full(n, np.pi / n, angles.dtype)
    folded = jnp.mod(angles, np.pi)
    order = jnp.argsort(folded)
    ordered = folded[order]
    gaps = jnp.diff(ordered, append=ordered[:1] + np.pi)
    second = jnp.sort(gaps)[-2]
    gaps = jnp.where((gaps > 4 * second) & (second > 0), second, gaps)
    cell = (gaps + jnp.roll(gaps, 1)) / 2
    return cell[jnp.argsort(order)]


def _admit(sinogram: Any, geometry: ParallelBeam) -> jax.Array:
    if not isinstance(geometry, ParallelBeam):
        check.fail("geometry", "a ParallelBeam", type(geometry).__name__)
    sinogram = check.array("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, geometry.sinogram_shape, "view, detector")
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram, "Mask or in-paint the dead detector cells first.")
    return jnp.asarray(sinogram)


def _admit_weights(weights: Any, view_count: int) -> Any:
    weights = check.array("weights", weights, "Or name a rule: 'voronoi' or 'uniform'.")
    if not any(jnp.issubdtype(weights.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        remedy = "To leave views out: mask * angular_weights(geometry.angles)." if weights.dtype == bool else ""
        check.fail("weights", "real angles dθ in radians", str(weights.dtype), remedy)
    check.shape("weights", weights, (view_count,), "[view]")
    check.finite("weights", weights, "A weight of 0 leaves a view out.")
    return weights


def _by_parts(function: Callable[[jax.Array], jax.Array], q: jax.Array) -> jax.Array:
    """A real linear function of real and imaginary part."""
    return jax.lax.complex(function(q.real), function(q.imag)) if jnp.iscomplexobj(q) else function(q)
