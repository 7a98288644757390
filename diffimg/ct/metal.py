"""Metal artifacts: the metal's trace in the sinogram, and what is put in its place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.forward.radon import Radon


def metal_trace(mask: Any, geometry: Any, threshold: float = 0.0, margin: int = 1) -> jax.Array:
    """The cells that see metal: bool ``[*geometry.sinogram_shape]``.

    Args:
        mask: ``[*image_shape]``, where the metal is, e.g. ``image > 0.08`` (1/mm) of a first reconstruction.
        geometry: of the scan.
        threshold: mm of metal above which a ray counts.
        margin: cells added on both sides of the trace, for partial volume and the rim of a segmentation.

    Raises:
        ValueError: a mask of another shape, a negative threshold or margin.
    """
    mask = jnp.asarray(check.array("mask", mask))
    check.shape("mask", mask, geometry.image_shape, "of the geometry's image")
    check.minimum("threshold", threshold, 0.0)
    check.minimum("margin", margin, 0)
    method = "joseph" if not hasattr(geometry, "poses") else "auto"  # projections of a mask must not ring
    trace = Radon(geometry, method)(mask.astype(jnp.float32)) > threshold
    for _ in range(int(margin)):
        before = jnp.pad(trace, [(0, 0)] * (trace.ndim - 1) + [(1, 1)])
        trace = before[..., :-2] | trace | before[..., 2:]
    return trace


def interpolate_trace(sinogram: Any, trace: Any) -> jax.Array:
    """The sinogram with the cells of ``trace`` replaced by straight lines along the last (detector) axis.

    W. A. Kalender, R. Hebel, J. Ebersberger, Radiology 164, 576 (1987). A trace that touches an end of the detector takes the value at
    its other side. Differentiable in the sinogram.

    Args:
        sinogram: ``[..., detector]``.
        trace: bool, of a shape that the sinogram's ends with.

    Raises:
        ValueError: shapes that do not fit, a view in which no cell is left.
    """
    sinogram, trace = _admit(sinogram, trace)
    n = sinogram.shape[-1]
    cell = jnp.arange(n)
    axis = trace.ndim - 1
    before = jax.lax.cummax(jnp.where(trace, -1, cell), axis)
    after = jax.lax.cummin(jnp.where(trace, n, cell), axis, reverse=True)
    left, right = jnp.where(before < 0, after, before), jnp.where(after >= n, before, after)
    share = (cell - left) / jnp.maximum(right - left, 1)  # 0 where both are the same cell
    share = jnp.clip(share, 0, 1).astype(sinogram.dtype)

    def at(index):
        index = jnp.broadcast_to(jnp.clip(index, 0, n - 1), sinogram.shape)
        return jnp.take_along_axis(sinogram, index, -1)

    return (1 - share) * at(left) + share * at(right)


def normalized_interpolation(sinogram: Any, prior: Any, trace: Any, floor: float = 0.05) -> jax.Array:
    """NMAR: the sinogram is divided by that of a prior image, interpolated across the ``trace``, and multiplied again.

    E. Meyer, R. Raupach, M. Lell, B. Schmidt, M. Kachelrieß, Med. Phys. 37(10), 5482 (2010). The quotient is nearly flat, so that lines
    across the gap keep the edges which the prior knows; plain ``interpolate_trace`` smears them.

    Args:
        sinogram: ``[..., detector]``, line integrals.
        prior: shaped like the sinogram: the projections of a prior image (``tissue_prior``), ≥ 0.
        trace: as in ``interpolate_trace``.
        floor: the smallest divisor, a line integral: rays that see next to nothing of the prior are not blown up.
    """
    sinogram, trace = _admit(sinogram, trace)
    prior = jnp.asarray(check.array("prior", prior), sinogram.dtype)
    check.trailing_shape("prior", prior, trace.shape, "view, detector")
    check.minimum("floor", floor, 0.0, strict=True)
    divisor = jnp.maximum(prior, floor)
    filled = interpolate_trace(sinogram / divisor, trace) * divisor
    return jnp.where(trace, filled, sinogram)


def tissue_prior(image: Any, mu_water: Any, air_below: float = 0.5, bone_above: float = 1.3, metal: Any = None) -> jax.Array:
    """The prior image of NMAR: air as 0, all soft tissue as water, bone as it is; ``metal`` (bool) as water.

    Args:
        image: ``[..., y, x]``, 1/mm: a first reconstruction, best one from an interpolated sinogram.
        mu_water: 1/mm.
        air_below, bone_above: limits, in units of water.
        metal: mask of the metal.
    """
    check.minimum("mu_water", mu_water, 0.0, strict=True)
    if not 0 < air_below < 1 < bone_above:
        check.fail("air_below, bone_above", "0 < air_below < 1 < bone_above", f"{air_below}, {bone_above}", "In units of water.")
    image = jnp.asarray(check.array("image", image))
    ratio = image / mu_water
    prior = jnp.where(ratio < air_below, 0, jnp.where(ratio > bone_above, image, mu_water))
    return prior if metal is None else jnp.where(jnp.asarray(metal, bool), mu_water, prior)


def _admit(sinogram, trace):
    sinogram, trace = check.array("sinogram", sinogram), jnp.asarray(check.array("trace", trace), bool)
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, trace.shape, "view, detector", "It has the shape of the trace behind any batch axes.")
    if check.is_concrete(trace) and bool(jnp.any(jnp.all(trace, -1))):
        remedy = "Give that view no weight in an iterative reconstruction."
        check.fail("trace", "a cell without metal in every view", "a view without", remedy)
    return jnp.asarray(sinogram), trace
