"""Filtered backprojection of fan beams, straight from the rays of each view.

With source S, detector points d(u) = a + u c seen from it, and the ray through a point x meeting the detector at u_x, where
x − S = λ d(u_x), the distance of x from the ray u is λ |a × c| (u − u_x) / |d(u)|. The ramp's kernel h is homogeneous of degree −2, so

    f(x) = ∫ dβ 1 / (λ² |a × c|) ∫ du h(u_x − u) w(β, u) p(β, u) |S · d(u)| / |d(u)|,

for any flat detector: shifted, tilted, at any distance, under a source that is offset too. It reduces to the textbook's formula
(A. C. Kak, M. Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4) where c is at right angles to S. For cells at
equal angles d(u) is an arc, the kernel is h(γ) (γ / sin γ)² and the distance weight 1 / |x − S|². Redundancy: ``scan_weights``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.ct import ramp
from diffimg.ct.scan_weights import plane, recognise, scan_weights
from diffimg.forward.divergent import Divergent
from diffimg.forward.gathers import split, take
from diffimg.forward.poses import Poses, array_module
from diffimg.forward.radon_fan import arctan
from diffimg.forward.scan_fields import centred

_FINE = 2  # readings of the filtered view in a cell: the linear interpolation between them blurs little
_VIEWS = 4  # in one compiled loop body


def fan_fbp(
    sinogram: Any,
    geometry: Divergent,
    filter: str = "ramlak",
    cutoff: float = 1.0,
    weights: str | Any = "voronoi",
    scan: str = "auto",
) -> jax.Array:
    """``ct.fbp`` of a ``FanBeam`` (or of a ``Modular`` in the plane whose source keeps its distance)."""
    if geometry.ndim != 2:
        check.fail("geometry", "a plane one", f"image_shape {geometry.image_shape}", "In space: di.ct.fdk.")
    ramp.admit_window(filter, cutoff, ramp.WINDOWS[:-1])
    sinogram = admit(sinogram, geometry, "view, detector")
    scan = recognise(geometry, scan)
    poses = geometry.poses
    count = geometry.detector_shape[-1]
    beyond = cells_beyond(geometry, scan)
    n = ramp.length_for(count, beyond)
    if poses.curved:
        step = _pitch(poses)
        same = check.is_concrete(step) and float(np.ptp(np.asarray(step))) < 1e-9 * float(np.max(step))
        response = ramp.fan_response(n, step[:1] if same else step, filter, cutoff)
    else:
        response = ramp.ramp_response(n, 1.0, filter, cutoff)
    before = scan_weights(geometry, scan, weights) * _obliquity(poses, count)

    def real(q):
        return _reconstruct(q, poses, before, response, geometry.image_shape, geometry.pixel_size, beyond)

    return ramp.by_parts(real, sinogram)


def admit(sinogram: Any, geometry: Divergent, axes: str) -> jax.Array:
    """The sinogram as a floating or complex array of at least single precision."""
    sinogram = check.array("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, geometry.sinogram_shape, axes)
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram, "Mask or in-paint the dead detector cells first.")
    return jnp.asarray(sinogram).astype(jnp.promote_types(sinogram.dtype, jnp.float32))


def cells_beyond(geometry: Divergent, scan: str) -> int:
    """Cells on either side of the detector where the filtered views are needed: there the readings of an offset detector have
    weight zero, and the tails of the others remain."""
    return geometry.detector_shape[-1] if scan == "offset" else 0


def _pitch(poses: Poses) -> Any:
    """``[view, 1]``: the angle between neighbouring cells of a curved detector."""
    xp = array_module(poses)
    arm = poses.detector - poses.source
    return xp.sqrt(xp.sum(poses.column**2, -1, keepdims=True) / xp.sum(arm**2, -1, keepdims=True))


def _obliquity(poses: Poses, count: int) -> Any:
    """|S · d| / |d| in the plane, mm, ``[view, cell]``: the distance of the source from the foot of the axis' perpendicular on the ray."""
    poses = plane(poses)
    xp = array_module(poses)
    d = poses.points(centred(count)) - poses.source[:, None]
    return xp.abs(xp.sum(poses.source[:, None] * d, -1)) / xp.sqrt(xp.sum(d * d, -1))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _reconstruct(q, poses, weights, response, image_shape, pixel_size, beyond):
    dtype, lead = q.dtype, q.shape[:-2]
    views, count = q.shape[-2:]
    q = q.reshape(math.prod(lead), views, count) * jnp.asarray(weights, dtype)
    q = ramp.filter_cells(q, response, beyond, _FINE)
    source, arm, column = (jnp.asarray(v, dtype) for v in (poses.source, poses.detector - poses.source, poses.column))
    area = _cross(arm, column)
    tables = jnp.pad(jnp.swapaxes(q, 0, 1), ((0, 0), (0, 0), (1, 1)))  # [view, slice, cell], zeros at both ends
    middle = 1 + _FINE * ((count - 1) / 2 + beyond)
    last = tables.shape[2] - 2
    starts = tables.shape[2] * jnp.arange(q.shape[0], dtype=jnp.int32)[:, None, None]
    y, x = ((centred(n) * pixel_size).astype(dtype) for n in image_shape)
    if poses.curved:
        radius, width = (jnp.sqrt(jnp.sum(v * v, -1)) for v in (arm, column))
        axes, scale = (arm / radius[:, None], column / width[:, None]), radius / width
    else:
        axes, scale = (arm, column), area

    @jax.checkpoint
    def add(sy, sx, ay, ax, cy, cx, scale, table):
        ry, rx = y[:, None] - sy, x - sx
        if poses.curved:
            along, across = ry * ay + rx * ax, ry * cy + rx * cx
            square = ry * ry + rx * rx
            u = 2 * arctan(across / (along + jnp.sqrt(square))) * scale
            weight = scale / square
        else:
            inverse = 1 / (ry * cx - rx * cy)  # r × c
            u = (rx * ay - ry * ax) * inverse
            weight = jnp.abs(scale) * inverse * inverse
        position = jnp.clip(_FINE * u + middle, 0, last + 0.999)
        cell = position.astype(jnp.int32)
        low, high = take(table, starts + cell), take(table, starts + cell + 1)
        return weight * (low + (position - cell.astype(dtype)) * (high - low))

    def step(image, parts):
        return image + sum(add(*view) for view in zip(*parts, strict=True)), None

    columns = (source, *axes)
    xs = split((*(v[:, k] for v in columns for k in (0, 1)), scale, tables.reshape(views, -1)), _VIEWS)
    image = lax.scan(step, jnp.zeros((q.shape[0], *image_shape), dtype), xs)[0]
    return image.reshape(*lead, *image_shape)


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
