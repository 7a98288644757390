"""Filtered backprojection of cone beams: on a circle here (Feldkamp, Davis and Kress), on a helix in ``helical``.

The formula of ``fan`` for rays that leave the plane: the readings are weighed by the cosine of their elevation as well, filtered along
the detector's rows, and read where the ray through a voxel meets the detector. Exact in the plane of the source and for objects that do
not change along z; elsewhere what a circle does not measure is missing: values fall with the cone angle, flat discs smear, more so in a
short scan.

L. A. Feldkamp, L. C. Davis, J. W. Kress, Practical cone-beam algorithm, J. Opt. Soc. Am. A 1 (1984) 612.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.ct import ramp
from diffimg.ct.fan import admit, cells_beyond
from diffimg.ct.helical import recognise_helix, weighted_fbp
from diffimg.ct.rebin import interpolate
from diffimg.ct.scan_weights import ITERATIVE, recognise, scan_weights
from diffimg.forward.cone_beam import FlatPanel, Helical
from diffimg.forward.divergent import Divergent
from diffimg.forward.gathers import split, take
from diffimg.forward.poses import Poses
from diffimg.forward.scan_fields import centred, host

_FINE = 2  # columns of the filtered view for one of the detector's: the linear interpolation between them blurs little
_VIEWS = 4  # in one compiled loop body
_LEVEL = 0.02  # height of the source's track, relative to its radius, that still is a circle


def fdk(
    sinogram: Any,
    geometry: Divergent,
    filter: str = "ramlak",
    cutoff: float = 1.0,
    weights: str | Any = "voronoi",
    scan: str = "auto",
) -> jax.Array:
    """Filtered backprojection of a cone beam, differentiable in the sinogram and the geometry.

    Args:
        sinogram: ``[..., view, row, column]``, line integrals; real or complex.
        geometry: ``ConeBeam``; ``Helical`` (weighted filtered backprojection, Stierstorfer et al. 2004); or a ``Modular`` whose detector
            rows are level and whose source moves on a circle about z. A tilted panel is resampled (cubic) on an upright one first.
        filter: window on the ramp, as in ``fbp``, without "none".
        cutoff: fraction in (0, 1] of the detector's Nyquist frequency where the window ends.
        weights: dβ, "voronoi", "uniform" or ``[view]``, see ``scan_weights``; not of a helix.
        scan: "full", "short" (not of a helix), "offset", or "auto", see ``scan_weights``. Where leaves of the geometry are traced it must
            be said; of a helix the angles must be known.

    Returns:
        ``[..., z, y, x]``, in the unit of the volume (1/mm). On a circle, voxels that a view does not see get nothing from it. On a
        helix, voxels that are not seen from half a turn of directions (with an offset detector, a whole one) are 0.

    Raises:
        ValueError: wrong types, shapes, NaN, unknown filter; what ``scan_weights`` refuses; a Modular that is tilted or not on a circle;
            a helix whose pitch is too high, whose angles turn back, or whose parameters differ from view to view.
    """
    ramp.admit_window(filter, cutoff, ramp.WINDOWS[:-1])
    if not isinstance(geometry, Divergent) or geometry.ndim != 3:
        check.fail("geometry", "a ConeBeam, Helical or Modular in space", type(geometry).__name__, "In the plane: di.ct.fbp.")
    sinogram = admit(sinogram, geometry, "view, row, column")
    if isinstance(geometry, FlatPanel) and not geometry.aligned:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of truncation, given already
            upright = replace(geometry, detector_tilt=None)
        own, other = geometry.poses, upright.poses
        sinogram, geometry = ramp.by_parts(lambda q: _level(q, own, other), sinogram), upright
    if isinstance(geometry, Helical):
        scan = recognise_helix(geometry, scan)
        check.one_of("weights", weights if isinstance(weights, str) else "an array", ("voronoi",), "A helix is rebinned to equal steps.")
        return ramp.by_parts(lambda q: weighted_fbp(q, geometry, filter, cutoff, scan), sinogram)
    _check_circle(geometry)
    scan = recognise(geometry, scan)
    poses = geometry.poses
    columns = geometry.detector_shape[1]
    beyond = cells_beyond(geometry, scan)
    response = ramp.ramp_response(ramp.length_for(columns, beyond), 1.0, filter, cutoff)
    before = scan_weights(geometry, scan, weights)
    sizes = (geometry.slice_thickness, geometry.pixel_size)

    def real(q):
        return _reconstruct(q, poses, before, response, geometry.image_shape, sizes, beyond)

    return ramp.by_parts(real, sinogram)


def _check_circle(geometry):
    if not (geometry.aligned or geometry.poses.aligned):
        remedy = f"Give a ConeBeam its detector_tilt, or reconstruct iteratively: {ITERATIVE}."
        check.fail("geometry", "detector columns along z and rows across it", "a Modular that is tilted, or not known not to be", remedy)
    known = host(geometry)
    if known is not None:
        source = np.asarray(known.poses.source, np.float64)
        if np.ptp(source[:, 0]) > _LEVEL * np.linalg.norm(source[:, 1:], axis=-1).mean():
            remedy = f"Pass a Helical, or reconstruct iteratively: {ITERATIVE}."
            check.fail("geometry", "a source on a circle", f"one that moves {np.ptp(source[:, 0]):g} mm along z", remedy)


@jax.jit
def _level(q: jax.Array, tilted: Poses, upright: Poses) -> jax.Array:
    """The readings ``[..., view, row, column]`` where the rays to the cells of the upright panel cross the tilted one."""
    *_, rows, columns = q.shape
    own, other = (jnp.stack([p.column, p.row, p.detector - p.source], -1).astype(q.dtype) for p in (tilted, upright))
    maps = jnp.linalg.inv(own) @ other  # (column, row, 1) of the one panel, times depth, from those of the other

    def one(part):
        view, matrix = part
        j, k = centred(columns).astype(q.dtype), centred(rows).astype(q.dtype)[:, None]
        across, up, depth = (m[0] * j + m[1] * k + m[2] for m in matrix)
        j, k = across / depth, up / depth
        value = interpolate(view, k + (rows - 1) / 2, j + (columns - 1) / 2, False, 4)
        return jnp.where((jnp.abs(j) <= columns / 2) & (jnp.abs(k) <= rows / 2), value, 0)

    return jnp.moveaxis(lax.map(one, (jnp.moveaxis(q, -3, 0), maps)), 0, -3)


def _obliquity(poses, columns, rows, dtype):
    """|S · d| / |d|, with S and S · d in the plane and |d| in space, mm, ``[view, row, column]``."""
    j, k = centred(columns).astype(dtype)[:, None], centred(rows).astype(dtype)
    source, arm, column, row = (jnp.asarray(v, dtype) for v in (poses.source, poses.detector - poses.source, poses.column, poses.row))
    d = arm[:, None, 1:] + j * column[:, None, 1:]
    height = arm[:, :1] + k * row[:, :1]
    foot = jnp.abs(jnp.sum(source[:, None, 1:] * d, -1))
    return foot[:, None] / jnp.sqrt(jnp.sum(d * d, -1)[:, None] + height[..., None] ** 2)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _reconstruct(q, poses, weights, response, image_shape, sizes, beyond):
    dtype, lead = q.dtype, q.shape[:-3]
    views, rows, columns = q.shape[-3:]
    before = _obliquity(poses, columns, rows, dtype) * jnp.asarray(weights, dtype)[:, None]

    def one(q):
        filtered = ramp.filter_cells(q * before, response, beyond, _FINE)
        return _backproject(filtered, poses, image_shape, sizes, 1 + _FINE * ((columns - 1) / 2 + beyond))

    volumes = lax.map(one, q.reshape(math.prod(lead), views, rows, columns))
    return volumes.reshape(*lead, *image_shape)


def _backproject(q, poses, image_shape, sizes, middle):
    dtype = q.dtype
    views, rows, cells = q.shape
    tables = jnp.pad(jnp.swapaxes(q, 1, 2), ((0, 0), (1, 1), (1, 1)))  # [view, column, row], zeros around
    width = rows + 2
    z, y, x = ((centred(n) * size).astype(dtype) for n, size in zip(image_shape, (sizes[0], sizes[1], sizes[1]), strict=True))
    source, arm, column = (jnp.asarray(v, dtype) for v in (poses.source, poses.detector - poses.source, poses.column))
    pitch = jnp.asarray(poses.row, dtype)[:, 0]
    area = arm[:, 1] * column[:, 2] - arm[:, 2] * column[:, 1]

    @jax.checkpoint
    def add(sz, sy, sx, rise, ay, ax, cy, cx, area, pitch, table):
        ry, rx = y[:, None] - sy, x - sx
        inverse = 1 / (ry * cx - rx * cy)  # r × c
        u = jnp.clip(_FINE * (rx * ay - ry * ax) * inverse + middle, 0, cells + 0.999)
        magnification = area * inverse
        column = u.astype(jnp.int32)
        right = (u - column.astype(dtype))[..., None]
        weight = jnp.abs(area) * inverse * inverse
        per_mm = (magnification / pitch)[..., None]
        v = jnp.clip((z - sz) * per_mm + ((rows - 1) / 2 + 1 - rise / pitch), 0, rows + 0.999)
        row = v.astype(jnp.int32)
        up = v - row.astype(dtype)
        index = (column * width)[..., None] + row
        a, b, c, d = (take(table, index + k) for k in (0, 1, width, width + 1))
        left_value, right_value = a + up * (b - a), c + up * (d - c)
        return weight[..., None] * (left_value + right * (right_value - left_value))

    def step(volume, parts):
        return volume + sum(add(*view) for view in zip(*parts, strict=True)), None

    per_view = (*(source[:, k] for k in range(3)), *(arm[:, k] for k in range(3)), column[:, 1], column[:, 2], area, pitch)
    xs = split((*per_view, tables.reshape(views, -1)), _VIEWS)
    volume = lax.scan(step, jnp.zeros((*image_shape[1:], image_shape[0]), dtype), xs)[0]
    return jnp.moveaxis(volume, 2, 0)
