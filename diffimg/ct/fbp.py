"""Filtered backprojection in the plane: of parallel beams here, of fan beams in ``fan``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.ct.fan import fan_fbp
from diffimg.ct.ramp import by_parts, ramp_filter
from diffimg.ct.scan_weights import admit_weights
from diffimg.forward.divergent import Divergent
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.radon import Radon


def fbp(
    sinogram: Any,
    geometry: ParallelBeam | Divergent,
    filter: str = "ramlak",
    cutoff: float = 1.0,
    weights: str | Any = "voronoi",
    circle: bool = False,
    scan: str = "auto",
) -> jax.Array:
    """Filtered backprojection, differentiable in the sinogram and the geometry.

    Args:
        sinogram: ``[..., view, detector]``, line integrals (dimensionless for attenuation in 1/mm); real, or complex, of which real
            and imaginary part are reconstructed.
        geometry: the ``ParallelBeam`` or ``FanBeam`` it was measured with; or a ``Modular`` in the plane whose source keeps its distance.
        filter: window on the ramp: "ramlak" (none), "shepp-logan", "cosine", "hamming", "hann"; "none": no ramp at all
            (plain backprojection; of parallel beams).
        cutoff: fraction in (0, 1] of the detector's Nyquist frequency where the window ends.
        weights: angular weights, see ``angular_weights``; "voronoi", "uniform", or an array ``[view]`` in radians: real, finite, of
            either sign (0 leaves a view out). For a fan: of a full turn or of the scan, see ``scan_weights``.
        circle: set pixels outside the inscribed circle to zero.
        scan: of a fan: "full", "short", "offset", or "auto", see ``scan_weights``.

    Returns:
        ``[..., y, x]``, in the unit of the image (1/mm).

    Raises:
        ValueError: shape, dtype, NaN/Inf in the sinogram or the weights, unknown filter, cutoff outside (0, 1]; for a fan also what
            ``scan_weights`` refuses, e.g. too short a scan.

    The ramp is the DFT of the sampled kernel of Kak & Slaney (1988), eq. 61 of chapter 3, zero-padded; sampling |ρ| itself would
    remove the mean.
    """
    if isinstance(geometry, Divergent) and geometry.ndim == 2:
        return _circle(fan_fbp(sinogram, geometry, filter, cutoff, weights, scan), geometry, circle)
    sinogram = _admit(sinogram, geometry)
    check.one_of("scan", scan, ("auto",), "The others are kinds of fan-beam scans.")
    filtered = sinogram if filter == "none" else ramp_filter(sinogram, geometry.detector_spacing, filter, cutoff)
    return backproject(filtered, geometry, weights, circle)


def backproject(sinogram: Any, geometry: ParallelBeam, weights: str | Any = "uniform", circle: bool = False) -> jax.Array:
    """∫ q(θ, x cosθ + y sinθ) dθ by the views' angular weights: ``[..., view, detector]`` → ``[..., y, x]``.

    The interpolation is band-limited. One view gives its smear across the image; without a ramp filter the image is
    blurred by 1/r. Complex sinograms and arrays of weights as in ``fbp``.
    """
    sinogram = _admit(sinogram, geometry)
    w = angular_weights(geometry.angles, weights) if isinstance(weights, str) else admit_weights(weights, geometry.view_count)
    operator = Radon(geometry, image_model="band-limited", detector_model="point")
    scale = geometry.detector_spacing / geometry.pixel_size**2
    image = scale * by_parts(operator.H, sinogram * jnp.asarray(w, sinogram.real.dtype)[:, None])
    return _circle(image, geometry, circle)


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


def _circle(image, geometry, wanted):
    if not wanted:
        return image
    ny, nx = geometry.image_shape
    y, x = np.ogrid[:ny, :nx]
    return jnp.where((y - (ny - 1) / 2) ** 2 + (x - (nx - 1) / 2) ** 2 <= (min(ny, nx) / 2) ** 2, image, 0)


def _admit(sinogram: Any, geometry: ParallelBeam) -> jax.Array:
    if not isinstance(geometry, ParallelBeam):
        check.fail("geometry", "a ParallelBeam or FanBeam", type(geometry).__name__, "In space: di.ct.fdk.")
    sinogram = check.array("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, geometry.sinogram_shape, "view, detector")
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram, "Mask or in-paint the dead detector cells first.")
    return jnp.asarray(sinogram)
