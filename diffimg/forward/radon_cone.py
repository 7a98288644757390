"""The distance-driven projector of cone beams whose detector columns are parallel to z, and its exact adjoint.

In the plane it is the one of ``radon_fan``; along z, a cell sees the segment between the rays to its upper and lower edge:

    (A x)[v, i, j] = length_ij Σ_ρ Σ_q |[q − ½, q + ½] ∩ [X_i, X_{i+1}]| / |X_{i+1} − X_i| · (C(Z_{j+1}) − C(Z_j)) / (Z_{j+1} − Z_j),

with C the running integral of the voxel column (ρ, q) along z, Z_e = h + w_e / λ(ρ, q) the height at which the ray to edge e of
the rows crosses the column, and λ its magnification: 1/λ is linear in the column's position. So the running integrals
stay one-dimensional (two-dimensional ones lose single precision), the look-ups along z share one line of the volume, and the overlaps
in the plane are weights of whole rows of numbers. Backward the same weights are read from the other side, gathers again.

B. De Man, S. Basu, Distance-driven projection and backprojection in three dimensions, Phys. Med. Biol. 49(11), 2004; the height at
the voxel's own magnification as in Y. Long, J. A. Fessler, J. M. Balter, IEEE Trans. Med. Imaging 29(11), 2010.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core.pair import Pair, by_jvp, by_transposition, paired
from diffimg.core.pytree import pytree, static
from diffimg.forward import radon_fan, radon_lines
from diffimg.forward.batches import in_steps
from diffimg.forward.gathers import stored, take
from diffimg.forward.poses import Poses
from diffimg.forward.radon_fan import FanRays

_UNROLLED = 4  # lines or views in one compiled loop body


@pytree
class ConeRays:
    """``fan`` in the plane; along z, in slices: ``height`` of the source, ``first`` edge and ``pitch`` of the rows on the detector
    seen from the source, and 1/λ = ``inverse_magnification`` · (lateral, depth)."""

    fan: FanRays
    height: Any  # [view]
    first: Any  # [view]
    pitch: Any  # [view]
    inverse_magnification: Any  # [view, 2]
    rows: int = static()
    slices: int = static()


def rays(
    poses: Poses, image_shape: tuple[int, ...], sizes: tuple[float, float], shape: tuple[int, int], dtype: Any
) -> tuple[ConeRays, Any]:
    """The rays to the edges of the cells, and length / Δm, ``[view, row, column]`` in mm; ``sizes``: slice thickness, pixel size."""
    thickness, pixel = sizes
    rows, columns = shape
    plane = Poses(poses.source[:, 1:], poses.detector[:, 1:], poses.column[:, 1:])
    fan, per_slope = radon_fan.rays(plane, image_shape[1:], pixel, columns, dtype)
    arm, column = (jnp.asarray(v) / pixel for v in (plane.detector - plane.source, plane.column))
    arm, column = (radon_fan.turned(fan.steep, v) for v in (arm, column))
    normal = jnp.stack([-column[:, 1], column[:, 0]], -1)  # of the detector; normal · r = normal · arm at the detector
    scale = normal / jnp.sum(normal * arm, -1, keepdims=True)
    rise = poses.detector[:, 0] - poses.source[:, 0]
    pitch = poses.row[:, 0]
    first = rise - rows / 2 * pitch
    leaves = (jnp.asarray(v / thickness, dtype) for v in (poses.source[:, 0], first, pitch))
    cone = ConeRays(fan, *leaves, scale.astype(dtype), rows, image_shape[0])
    # from lines to lengths: the ray to the middle of cell (j, i) climbs (first + (j + ½) pitch) / depth to the detector
    middle = (fan.slopes[:, 1:] + fan.slopes[:, :-1]) / 2
    depth = 1 / (scale[:, :1] * middle + scale[:, 1:]) * pixel
    climb = (first[:, None] + (jnp.arange(rows) + 0.5) * pitch[:, None])[:, :, None] / depth[:, None]
    stretch = jnp.sqrt(1 + climb**2 / (1 + middle[:, None] ** 2))
    return cone, jnp.asarray(jnp.abs(per_slope)[:, None] * stretch, dtype)


def project(cone: ConeRays, x: jax.Array) -> jax.Array:
    """The sum over lines, times Δm, of real ``x [nz, ny, nx]``: ``[view, row, column]``."""
    return paired(_PAIR, cone, x)


def backproject(cone: ConeRays, y: jax.Array) -> jax.Array:
    """The transpose of ``project``."""
    return paired(_PAIR.swapped, cone, y)


def _project(cone, x, moving=False):
    """``moving``: with the derivative in the rays that ``radon_fan`` describes."""
    return in_steps(functools.partial(_project_in_steps, moving=moving), cone, x)


def _project_in_steps(work, cone, x, moving):
    columns = _columns(cone, x)
    shape = (_views_a_step(cone, work), cone.fan.slopes.shape[1] - 1, cone.rows + 1)
    lines = (jnp.arange(columns.shape[0], dtype=x.dtype), columns)
    blocks = jax.tree.map(lambda v: v.reshape(-1, _UNROLLED, _UNROLLED, *v.shape[1:]), lines)

    def some_views(views):
        def step(total, lines):
            for k in range(_UNROLLED):
                total = total + _line(views, lines[0][k], lines[1][k], moving)
            return total, None

        def block(total, lines):
            return total + jnp.diff(lax.scan(step, jnp.zeros(shape, x.dtype), lines)[0]), None

        return lax.scan(block, jnp.zeros((*shape[:2], cone.rows), x.dtype), blocks)[0]

    chunks, together = _chunks(cone, work)
    return jnp.swapaxes(together(lax.map(some_views, chunks)), 1, 2)


def _chunks(cone, work):
    """The rays in chunks of views, and what puts results of the chunks together."""
    views, chunk = cone.height.shape[0], _views_a_step(cone, work)
    fill = -views % chunk

    def cut(v):
        return jnp.pad(v, ((0, fill), *((0, 0),) * (v.ndim - 1)), mode="edge").reshape(-1, chunk, *v.shape[1:])

    return jax.tree.map(cut, cone), lambda v: v.reshape(-1, *v.shape[2:])[:views]


def _views_a_step(cone, work):
    return max(1, min(cone.height.shape[0], work // (max(cone.fan.image_shape) * (cone.rows + 1))))


def _columns(cone, x):
    """Running integrals along z from a slice before the first to one behind the last, ``[line, 2, pixel, edge]``: lines of rows and lines
    of columns side by side, filled up."""
    ny, nx = cone.fan.image_shape
    pixels, lines = max(ny, nx), -(-max(ny, nx) // _UNROLLED**2) * _UNROLLED**2
    total = jnp.pad(jnp.cumsum(jnp.moveaxis(x, 0, 2), 2), ((0, 0), (0, 0), (2, 0)))
    total = jnp.pad(total, ((0, 0), (0, 0), (0, 2)), mode="edge")
    both = total, jnp.swapaxes(total, 0, 1)
    return jnp.stack([jnp.pad(v, ((0, lines - v.shape[0]), (0, pixels - v.shape[1]), (0, 0))) for v in both], 1)


def _line(cone, index, columns, moving):
    """What one line adds to the running integrals over the rows: ``[view, column, edge]``."""
    index = jnp.broadcast_to(index, cone.height.shape)
    if moving:
        return radon_lines.weighed(cone.fan, index, _heights(cone, index, columns, moving))
    return radon_lines.to_cells(cone.fan, index, _heights(cone, index, columns))


def _heights(cone, index, columns, moving=False):
    """C(Z_e) / (Z_{e+1} − Z_e) for every voxel column of a line: ``[view, pixel, edge]``."""
    position, table, pitch = _crossings(cone, index, columns)
    fixed = lax.stop_gradient(position) if moving else position
    integral = _read(columns.reshape(-1), table + 1, jnp.clip(fixed, 0, cone.slices), cone.slices)
    if moving:
        first, second, fraction, shift = _beside(cone, position, table, columns)
        integral = integral + shift * (first + (fraction + shift / 2) * (second - first))
    return integral / pitch


def _slopes(cone, index, columns):
    """C'(Z_e) / (Z_{e+1} − Z_e), of which the heights are the integral as far as derivatives are concerned."""
    position, table, pitch = _crossings(cone, index, columns)
    first, second, fraction, shift = _beside(cone, position, table, columns)
    return ((1 - (fraction + shift)) * first + (fraction + shift) * second) / pitch


def _beside(cone, position, table, columns):
    """The slices whose middles lie below and above a position, its place between them, and 0 with the derivative of that."""
    place = jnp.clip(position, -0.5, cone.slices + 0.5) + 0.5
    fixed = lax.stop_gradient(place)
    cell = fixed.astype(jnp.int32)
    slices = jnp.diff(columns, append=columns[..., -1:]).reshape(-1)
    low, high = (take(slices, table[..., None] + cell + k) for k in (0, 1))
    return low, high, fixed - cell.astype(fixed.dtype), place - fixed


def _crossings(cone, index, columns):
    """Z_e of every voxel column of a line from the first slice's edge, where its table begins in ``columns``, and Z_{e+1} − Z_e."""
    _, count, width = columns.shape
    inverse = _inverse_magnification(cone, index, count)
    edges = cone.first[:, None] + jnp.arange(cone.rows + 1, dtype=columns.dtype) * cone.pitch[:, None]
    position = cone.height[:, None, None] + cone.slices / 2 + inverse[..., None] * edges[:, None]
    table = (cone.fan.steep[:, None] * count + jnp.arange(count, dtype=jnp.int32)) * width
    return position, table, (inverse * cone.pitch[:, None])[..., None]


def _read(flat, table, position, cells):
    """Linear interpolation at ``position [..., number]`` in [0, cells] of the parts of ``flat`` from ``table [...]`` on."""
    cell = jnp.minimum(position.astype(jnp.int32), cells - 1)
    low, high = (take(flat, table[..., None] + cell + k) for k in (0, 1))
    return low + (position - cell.astype(position.dtype)) * (high - low)


def _inverse_magnification(cone, index, count):
    """1/λ of every voxel column of a line, ``[view, pixel]``; positive in front of the source."""
    g, fan = cone.inverse_magnification, cone.fan
    away = radon_lines.distance(fan, index)[:, None]
    return jnp.maximum(g[:, :1] * radon_lines.centres(fan, count) + g[:, 1:] * away, 1e-6)


def _backproject(cone, y):
    """Lines a few at a time, for each of them all views; first the views with lines of rows, then those with lines of columns."""
    return in_steps(_backproject_in_steps, cone, y)


def _backproject_in_steps(work, cone, y):
    total = jnp.pad(jnp.cumsum(jnp.swapaxes(y, 1, 2), 2), ((0, 0), (0, 0), (1, 0))) * jnp.sign(cone.pitch)[:, None, None]
    order = jnp.argsort(cone.fan.steep, stable=True)
    fill = -order.shape[0] % _UNROLLED**2
    order = jnp.pad(order, (0, fill), mode="edge")
    real = (jnp.arange(order.shape[0]) < order.shape[0] - fill).reshape(-1, _UNROLLED, _UNROLLED)
    views = jax.tree.map(lambda v: v[order].reshape(-1, _UNROLLED, _UNROLLED, *v.shape[1:]), (cone, total))
    ny, nx = cone.fan.image_shape
    flat = _lines_of_views(work, cone, views, real, False, ny, nx)
    steep = _lines_of_views(work, cone, views, real, True, nx, ny)
    return jnp.moveaxis(flat + jnp.swapaxes(steep, 0, 1), 2, 0)


def _lines_of_views(work, cone, views, real, steep, lines, pixels):
    """What the views of one kind leave on their lines: ``[line, pixel, slice]``."""
    count, width = max(cone.fan.image_shape), cone.rows + 1
    chunk = max(1, min(lines, work // (count * width)))
    starts = jnp.arange(0, lines, chunk)

    def some_lines(start):
        index = start + jnp.arange(chunk, dtype=cone.height.dtype)

        def block(image, part):
            (rays, total), real = part
            wanted = real & (rays.fan.steep == steep)

            def step(edges, part):
                rays, total, wanted = part
                for k in range(_UNROLLED):
                    edges = edges + _edges(jax.tree.map(lambda v, k=k: v[k], rays), total[k], wanted[k], index)
                return edges, None

            def add(image):
                zero = jnp.zeros((*image.shape[:2], cone.slices + 1), image.dtype)
                return image + jnp.diff(lax.scan(step, zero, (rays, total, wanted))[0])

            return lax.cond(jnp.any(wanted), add, lambda image: image, image), None

        return lax.scan(block, jnp.zeros((chunk, count, cone.slices), cone.height.dtype), (views, real))[0]

    out = lax.map(some_lines, starts.astype(cone.height.dtype))
    return out.reshape(-1, count, cone.slices)[:lines, :pixels]


def _edges(cone, total, wanted, index):
    """Of one view: the running integral over its rows at the edges of the slices, on some lines: ``[line, pixel, edge]``."""
    lines = jax.tree.map(lambda v: jnp.broadcast_to(v, (index.shape[0], *v.shape)), cone)
    rows = radon_lines.onto_pixels(lines.fan, index, total, jnp.zeros((index.shape[0], 1), jnp.int32))
    inverse = 1 / _inverse_magnification(lines, index, rows.shape[1])
    slices = jnp.arange(cone.slices + 1, dtype=index.dtype) - cone.slices / 2 - cone.height
    position = jnp.clip((slices * inverse[..., None] - cone.first) / cone.pitch, 0, cone.rows)
    table = (cone.rows + 1) * jnp.arange(rows.shape[0] * rows.shape[1], dtype=jnp.int32).reshape(rows.shape[:2])
    return jnp.where(wanted, 1, 0) * _read(rows.reshape(-1), table, position, cone.rows)


def _gradient(cone, x, y, moving=False):
    """Of ⟨y, project(cone, x)⟩ in the rays: a line of a chunk of views at a time. ``moving``: itself with the right derivative."""
    return in_steps(functools.partial(_gradient_in_steps, moving=moving), cone, x, y)


def _gradient_in_steps(work, cone, x, y, moving):
    columns = _columns(cone, x)
    y = jnp.swapaxes(y, 1, 2)
    y = jnp.pad(y, ((0, 0), (0, 0), (1, 0))) - jnp.pad(y, ((0, 0), (0, 0), (0, 1)))  # at the edges of the rows
    chunks, together = _chunks(cone, work)
    fill = -y.shape[0] % _views_a_step(cone, work)
    parts = jnp.pad(y, ((0, fill), (0, 0), (0, 0))).reshape(-1, _views_a_step(cone, work), *y.shape[1:])
    lines = (jnp.arange(columns.shape[0], dtype=x.dtype), columns)

    def some_views(part):
        views, y = part
        spread = radon_lines.spread_over_edges(y)

        def step(total, line):
            return jax.tree.map(jnp.add, total, _line_gradient(views, *line, y, spread, moving)), None

        zero = jax.tree.map(lambda v: jnp.zeros(v.shape, x.dtype), views)
        return lax.scan(step, zero, lines)[0]

    return jax.tree.map(together, lax.map(some_views, (chunks, parts)))


def _line_gradient(cone, index, columns, y, spread, moving):
    """Of ⟨y, _line⟩; ``y [view, column, edge]``. The sums over edges are matrix products, which are faster than reductions."""
    real, (views, _, width) = y.dtype, y.shape
    index, count, fan = jnp.broadcast_to(index, (views,)), columns.shape[1], cone.fan

    def heights(cone):
        inverse = _inverse_magnification(cone, index, count)
        return inverse, inverse * cone.first[:, None], inverse * cone.pitch[:, None], cone.height, cone.pitch

    (inverse, *_, step), pullback = jax.vjp(heights, cone)
    like = jax.ShapeDtypeStruct((views, count, width), real)
    once = jnp.ceil(jnp.max(inverse)).astype(jnp.int32)
    values = stored(lambda: _heights(cone, index, columns, moving), like, once)
    back = (radon_lines.onto_pixels_moving if moving else radon_lines.onto_pixels_of)(fan, index, y)
    powers = jnp.stack([jnp.ones(width, real), jnp.arange(width, dtype=real)], 1)
    content = ((back * values) @ powers)[..., 0]
    moments = (back * _slopes(cone, index, columns)) @ powers
    shift, stretch = moments[..., 0], moments[..., 1]
    total = jnp.sum(content, 1)
    out = pullback((-content / inverse, shift, stretch, jnp.sum(shift, 1), -total / step))[0]
    plane = radon_lines.gradient(fan, index, values, y, spread, total)
    steep = jnp.zeros(fan.steep.shape, real)
    return dataclasses.replace(out, fan=jax.tree.map(jnp.add, dataclasses.replace(out.fan, steep=steep), plane))


def _volume(cone, y):
    return jax.ShapeDtypeStruct((cone.slices, *cone.fan.image_shape), y.dtype)


_tangent = by_jvp(functools.partial(_project, moving=True))
_PAIR = Pair(
    _project,
    _backproject,
    _tangent,
    by_transposition(_tangent, _volume),
    _gradient,
    by_jvp(functools.partial(_gradient, moving=True)),
)
