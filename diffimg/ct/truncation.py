"""Truncated projections: a detector that does not see the whole object, continued beyond its ends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.fan_beam import FanBeam
from diffimg.forward.geometry import ParallelBeam

METHODS = ("water", "cosine")


def extrapolate(
    sinogram: Any,
    geometry: Any,
    margin: int | None = None,
    method: str = "water",
    water: Any = 0.02,
    fit: int = 5,
) -> tuple[jax.Array, Any]:
    """The sinogram on a wider detector, whose added cells continue the measured ones: less cupping and no bright rim in ``fbp``.

    Args:
        sinogram: ``[..., view, detector]``.
        geometry: ``ParallelBeam`` or ``FanBeam``.
        margin: cells to add at each end; by default as many as cover the image's diagonal, and at least a tenth of the detector.
        method: "water": each end of each view continues as the shadow 2μ√(R² − (l − c)²) of a water cylinder, of the radius R
            and the centre c that fit the value and the slope there (J. Hsieh et al., Med. Phys. 31 (2004) 2385); "cosine": the last value
            rolls off to zero by a half period of the cosine over the margin.
        water: μ of water in 1/mm, for "water".
        fit: cells at each end from which value and slope are taken, by a straight line.

    Returns:
        ``[..., view, detector + 2·margin]`` and its geometry. Measured cells are kept. Differentiable.

    Raises:
        ValueError: other geometries, wrong shapes, a margin, ``fit`` or μ out of range.
    """
    if not isinstance(geometry, (ParallelBeam, FanBeam)):
        check.fail("geometry", "a ParallelBeam or a FanBeam", type(geometry).__name__)
    sinogram = check.array("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, geometry.sinogram_shape, "view, detector")
    check.inexact("sinogram", sinogram)
    check.real("sinogram", sinogram)
    check.finite("sinogram", sinogram)
    check.one_of("method", method, METHODS)
    check.minimum("water", water, 0.0, strict=True)
    count = geometry.detector_count
    if not 2 <= check.positive_int("fit", fit) <= count:
        check.fail("fit", f"2 to {count} cells", str(fit))
    y = jnp.asarray(sinogram)
    magnification = geometry.magnification if isinstance(geometry, FanBeam) else 1.0
    step = jnp.broadcast_to(jnp.asarray(geometry.detector_spacing / magnification, y.dtype), geometry.sinogram_shape[:1])[:, None]
    if margin is None:
        cells = geometry.diagonal * float(np.max(np.asarray(magnification))) / geometry.detector_spacing
        margin = max(math.ceil((cells - count) / 2), math.ceil(count / 10))
    margin = check.positive_int("margin", margin)
    left, right = (_beyond(end, margin, method, step, water, fit) for end in (y[..., ::-1], y))
    wider = jnp.concatenate([left[..., ::-1], y, right], -1)
    return wider, dataclasses.replace(geometry, detector_count=count + 2 * margin)


def _beyond(y: jax.Array, margin: int, method: str, step: jax.Array, water: Any, fit: int) -> jax.Array:
    """``margin`` cells behind the last one of ``y``; ``step``: mm at the axis, ``[view, 1]``."""
    tail = y[..., -fit:]
    offsets = jnp.asarray(np.arange(fit) - (fit - 1), y.dtype)
    centred = offsets - offsets.mean()
    slope = jnp.sum(tail * centred, -1, keepdims=True) / jnp.sum(centred**2) / step  # 1/mm · mm
    value = jnp.maximum(jnp.mean(tail, -1, keepdims=True) - slope * step * offsets.mean(), 0)
    cells = jnp.arange(1, margin + 1, dtype=y.dtype)
    if method == "cosine":
        return value * (0.5 + 0.5 * jnp.cos(math.pi * cells / (margin + 1)))
    chord = value / (2 * water)
    beside = -value * slope / (4 * water**2)  # of the last cell from the cylinder's centre
    square = chord**2 + beside**2 - (beside + step * cells) ** 2
    return 2 * water * jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)
