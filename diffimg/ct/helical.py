"""Weighted filtered backprojection of helical scans.

Every row of the detector is rebinned to parallel rays in the plane, which keep their heights; they are filtered along the lines that the
rows draw, and backprojected along the rays in space. A voxel is seen under one direction θ (mod π) from several half-turns: their
values are averaged with weights that fall off towards the upper and lower rows, so that all pitches that cover the volume are used
whole, and nothing jumps where a ray leaves the detector.

K. Stierstorfer, A. Rauscher, J. Boese, H. Bruder, S. Schaller, T. Flohr, Weighted FBP: a simple approximate 3D FBP algorithm for multislice
spiral CT with good dose usage for arbitrary pitch, Phys. Med. Biol. 49 (2004) 2209. Approximate: the cone angle is neglected in the
filter, which is good for up to some 64 clinical rows.

A detector that is shifted to one side has measured the lines of a direction completely only together with those of the opposite one: its
readings are weighed as on a circle (``scan_weights.offset_weights``), and the half-turns of either sense averaged for themselves.
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
from diffimg.core.pytree import pytree, static
from diffimg.ct import ramp
from diffimg.ct.rebin import interpolate
from diffimg.ct.scan_weights import ITERATIVE, check_sides, offset_weights, one_sided
from diffimg.forward.cone_beam import Helical
from diffimg.forward.gathers import take
from diffimg.forward.scan_fields import centred, host

_FLAT = 0.6  # part of the rows, from the middle, whose weight is 1
_FINE = 2  # readings of the filtered view in a cell
_SLAB = 16  # slices that are reconstructed together, from the half-turns that see them


@pytree
class _Gantry:
    """What all views share, in mm: ``radius`` of the source's circle and ``lag``, its offset as an angle; along z from the source,
    ``rise`` to the detector's middle and ``pitch`` of its rows."""

    distance: Any
    source_offset: Any
    reach: Any
    detector_offset: Any
    height: Any
    rise: Any
    spacing: float = static()
    pitch: float = static()

    @property
    def radius(self):
        return jnp.sqrt(self.distance**2 + self.source_offset**2)

    @property
    def lag(self):
        return jnp.arctan2(self.source_offset, self.distance)

    def angle(self, shift):
        """Of the ray to a place ``shift`` mm from the detector's middle, with the one through the axis."""
        return jnp.arctan2(shift + self.detector_offset - self.source_offset, self.reach) + self.lag


def weighted_fbp(sinogram: jax.Array, geometry: Helical, filter: str, cutoff: float, scan: str) -> jax.Array:
    """``ct.fdk`` of a ``Helical`` geometry without tilt. ``sinogram``: real ``[..., view, row, column]``; ``scan``: "full", "offset"."""
    for name in ("source_distance", "detector_distance", "detector_offset", "source_offset"):
        if any(jnp.ndim(leaf) for leaf in jax.tree.leaves(getattr(geometry, name))):
            check.fail(name, "one value for all views", "one a view", f"Reconstruct iteratively: {ITERATIVE}.")
    angles, turning, directions, half_turns = _directions(geometry)
    senses = 2 if scan == "offset" else 1
    _check_coverage(geometry, senses)
    source_z, source_f = geometry.source_offset
    detector_z, detector_f = geometry.detector_offset
    row, column = geometry.detector_spacing
    reach = geometry.source_distance + geometry.detector_distance
    numbers = (geometry.source_distance, source_f, reach, detector_f, source_z, detector_z - source_z)
    gantry = _Gantry(*(jnp.asarray(v, sinogram.dtype) for v in numbers), column, row)
    columns = geometry.detector_shape[1]
    beyond = columns if senses == 2 else 0
    response = ramp.ramp_response(ramp.length_for(columns, beyond), 1.0, filter, cutoff)
    sizes = (geometry.slice_thickness, geometry.pixel_size)
    axes = np.stack([np.cos(directions), np.sin(directions)], -1)
    motion = (gantry, angles * turning, directions * turning, axes, geometry.table)
    return _reconstruct(sinogram, *motion, turning, response, half_turns, geometry.image_shape, sizes, senses, beyond)


def recognise_helix(geometry: Helical, scan: str) -> str:
    """ "full", or "offset" where the columns do not reach the circle inscribed in the slices on one side; as in ``scan_weights``."""
    check.one_of("scan", scan, ("auto", "full", "offset"), "A helix has no other kinds.")
    known = host(geometry)
    if known is None:
        if scan == "auto":
            expected = "'full' or 'offset' for a traced geometry"
            check.fail("scan", expected, "'auto'", "Which one it is must be known when the program is compiled: pass scan='full'.")
        return scan
    if scan == "auto":
        scan = "offset" if one_sided(known) else "full"
    if scan == "offset":
        check_sides(known)
    return scan


def _directions(geometry):
    """The views' angles, their sense, and equal steps of θ over whole half-turns that hold all rays."""
    if not check.is_concrete(geometry.angles):
        remedy = "The number of directions follows from them; table, distances and offsets may be traced."
        check.fail("geometry.angles", "known values for a helical scan", "traced ones", remedy)
    angles = np.asarray(geometry.angles, np.float64)
    steps = np.diff(angles)
    if len(angles) < 4 or not (np.all(steps > 0) or np.all(steps < 0)):
        check.fail(
            "geometry.angles", "angles that increase or decrease steadily, turn by turn", "others", "Unwrap them: np.unwrap(angles)."
        )
    turning = 1 if steps[0] > 0 else -1
    span = abs(angles[-1] - angles[0])
    per_half = max(1, round(math.pi / np.median(np.abs(steps))))
    step = math.pi / per_half
    margin = math.ceil(math.pi / 2 / step)  # no ray is more than 90° from the central one
    half_turns = -(-(math.ceil(span / step) + 1 + 2 * margin) // per_half)
    first = angles[0] - turning * margin * step
    return angles, turning, first + turning * step * np.arange(half_turns * per_half), half_turns


def _check_coverage(geometry, senses):
    known = host(geometry)
    if known is None:
        return
    feed = np.max(np.abs(np.diff(known.table) / np.diff(known.angles))) * math.pi * senses
    width = geometry.detector_shape[0] * geometry.detector_spacing[0] / float(known.magnification)
    if feed > width * (1 + 1e-6):
        turn, most = ("a turn of an offset detector", 1) if senses == 2 else ("half a turn", 2)
        remedy = f"The pitch must be below {most} · (1 − radius / source_distance); else reconstruct iteratively: {ITERATIVE}."
        check.fail("geometry.table", f"a feed of at most {width:.4g} mm in {turn}, the beam at the axis", f"{feed:.4g} mm", remedy)


@functools.partial(jax.jit, static_argnums=(8, 9, 10, 11, 12))
def _reconstruct(q, gantry, angles, directions, axes, table, turning, response, half_turns, image_shape, sizes, senses, beyond):
    dtype, lead = q.dtype, q.shape[:-3]
    views, rows, columns = q.shape[-3:]
    # elevation of the rays
    along = centred(columns).astype(dtype) * gantry.spacing + gantry.detector_offset - gantry.source_offset
    climb = gantry.rise + centred(rows).astype(dtype) * gantry.pitch
    plane = jnp.sqrt(gantry.reach**2 + along**2)
    cosine = plane / jnp.sqrt(plane**2 + climb[:, None] ** 2)
    # parallel rays: cells as they appear at the axis
    spacing = gantry.spacing * gantry.distance / gantry.reach
    middle = gantry.radius * jnp.sin(gantry.angle(0.0))
    l = middle + centred(columns + 2 * beyond).astype(dtype) * spacing
    gamma = jnp.arcsin(jnp.clip(l / gantry.radius, -0.999, 0.999)) - gantry.lag
    cell = (gantry.reach * jnp.tan(gamma) + gantry.source_offset - gantry.detector_offset) / gantry.spacing + (columns - 1) / 2
    seen = ((cell >= -0.5) & (cell <= columns - 0.5)).astype(dtype)
    beta = jnp.asarray(directions, dtype)[:, None] + turning * gamma
    index = jnp.interp(beta, jnp.asarray(angles, dtype), jnp.arange(views, dtype=dtype))
    inside = ((beta >= angles[0]) & (beta <= angles[-1])).astype(dtype)
    source = jnp.interp(index, jnp.arange(views, dtype=dtype), jnp.asarray(table, dtype)) + gantry.height
    if senses == 1:
        inside = share = inside * seen  # what was not measured does not count
    else:
        half = columns / 2 * gantry.spacing
        share = inside * seen * offset_weights(gamma + gantry.lag, gantry.angle(-half), gantry.angle(half))
    own = slice(beyond, beyond + columns)  # the cells that exist
    geometry = jax.tree.map(lambda v: v.reshape(half_turns, -1, *v.shape[1:]), (jnp.asarray(axes, dtype), source, inside))

    def one(q):
        per_row = jnp.moveaxis(q * cosine, 1, 0)
        parallel = lax.map(lambda v: interpolate(v, index[:, own], cell[own], False, 4), per_row)  # [row, direction, l]
        filtered = ramp.filter_cells(parallel * share[:, own], response / spacing, beyond, _FINE)
        tables = jnp.transpose(filtered, (1, 2, 0)).reshape(half_turns, -1, _FINE * len(l), rows)
        return _backproject(gantry, geometry, tables, (middle, spacing), image_shape, sizes, senses)

    volumes = lax.map(one, q.reshape(math.prod(lead), views, rows, columns))
    return volumes.reshape(*lead, *image_shape)


def _backproject(gantry, geometry, tables, grid, image_shape, sizes, senses):
    """The mean over half-turns (of either sense, where there are two), integrated over the directions of half a turn; slab by slab."""
    dtype, (middle, spacing) = tables.dtype, grid
    half_turns, per_half, cells, rows = tables.shape
    nz = image_shape[0]
    y, x = ((centred(n) * sizes[1]).astype(dtype) for n in image_shape[1:])
    y = y[:, None]
    slabs = -(-nz // _SLAB)
    z = ((jnp.arange(slabs * _SLAB, dtype=dtype) - (nz - 1) / 2) * sizes[0]).reshape(slabs, -1)
    corner = math.hypot(*image_shape[1:]) / 2 * sizes[1]
    reach = (jnp.abs(gantry.rise) + rows / 2 * gantry.pitch) * (gantry.radius + corner) / gantry.reach  # of the rays along z

    @jax.checkpoint
    def half_turn(z, axis, source, inside, table):
        cos, sin = axis
        l = x * cos + y * sin
        position = jnp.clip(((l - middle) / spacing + (cells / _FINE - 1) / 2) * _FINE, 0, cells - 1.001)
        cell = position.astype(jnp.int32)
        right = position - cell.astype(dtype)
        coarse = jnp.clip(position / _FINE, 0, source.shape[0] - 1.001)
        ray = coarse.astype(jnp.int32)
        height = take(source, ray) + (coarse - ray.astype(dtype)) * (take(source, ray + 1) - take(source, ray))
        measured = jnp.minimum(take(inside, ray), take(inside, ray + 1))
        foot = jnp.sqrt(jnp.maximum(gantry.radius**2 - l**2, 1e-6))
        straight = (foot * gantry.distance + l * gantry.source_offset) / gantry.radius**2  # cos γ
        scale = gantry.reach / ((foot + y * cos - x * sin) * straight) / gantry.pitch
        v = (z - height[..., None]) * scale[..., None] - gantry.rise / gantry.pitch
        part = jnp.abs(v) / (rows / 2)
        weight = jnp.cos(math.pi / 2 * jnp.clip((part - _FLAT) / (1 - _FLAT), 0, 1)) ** 2 * measured[..., None]
        v = jnp.clip(v + (rows - 1) / 2, 0, rows - 1.001)
        row = v.astype(jnp.int32)
        up = v - row.astype(dtype)
        index = (cell * rows)[..., None] + row
        a, b, c, d = (take(table, index + k) for k in (0, 1, rows, rows + 1))
        low, high = a + up * (b - a), c + up * (d - c)
        return weight * (low + right[..., None] * (high - low)), weight

    def slab(z):
        zero = jnp.zeros((*image_shape[1:], _SLAB), dtype)

        def direction(totals, half_turns):
            def add(sums, one):
                heights = jnp.where(one[2] > 0, one[1], jnp.inf), jnp.where(one[2] > 0, one[1], -jnp.inf)
                sees = (jnp.min(heights[0]) - reach <= z[-1]) & (jnp.max(heights[1]) + reach >= z[0])
                return lax.cond(sees, lambda s: jax.tree.map(jnp.add, s, half_turn(z, *one)), lambda s: s, sums), None

            total, seen = zero, True
            for sense in range(senses):
                every = slice(sense, None, senses)
                value, weight = lax.scan(add, (zero, zero), tuple(v[every] for v in half_turns))[0]
                there = weight > 1e-6
                total, seen = total + jnp.where(there, value / jnp.where(there, weight, 1), 0), there & seen
            return (totals[0] + total, totals[1] + seen), None

        xs = jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), (*geometry, tables.reshape(half_turns, per_half, -1)))
        total, count = lax.scan(direction, (zero, zero), xs)[0]
        return jnp.where(count >= per_half, total, 0) * (math.pi / per_half)

    volume = lax.map(slab, z)  # [slab, y, x, z]
    return jnp.moveaxis(volume, 3, 1).reshape(slabs * _SLAB, *image_shape[1:])[:nz]
