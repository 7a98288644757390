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
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core.pair import Pair, paired
from diffimg.core.pytree import pytree, static
from diffimg.forward import radon_fan
from diffimg.forward.gathers import stored, take, take_rows
from diffimg.forward.poses import Poses
from diffimg.forward.radon_fan import FanRays

_UNROLLED = 4  # lines or views in one compiled loop body
_WORK = 2**17  # numbers in one step: they stay in the cache


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


def _project(cone, x):
    columns = _columns(cone, x)
    shape = (_views_a_step(cone), cone.fan.slopes.shape[1] - 1, cone.rows + 1)
    lines = (jnp.arange(columns.shape[0], dtype=x.dtype), columns)
    blocks = jax.tree.map(lambda v: v.reshape(-1, _UNROLLED, _UNROLLED, *v.shape[1:]), lines)

    def some_views(views):
        def step(total, lines):
            for k in range(_UNROLLED):
                total = total + _line(views, lines[0][k], lines[1][k])
            return total, None

        def block(total, lines):
            return total + jnp.diff(lax.scan(step, jnp.zeros(shape, x.dtype), lines)[0]), None

        return lax.scan(block, jnp.zeros((*shape[:2], cone.rows), x.dtype), blocks)[0]

    chunks, together = _chunks(cone)
    return jnp.swapaxes(together(lax.map(some_views, chunks)), 1, 2)


def _chunks(cone):
    """The rays in chunks of views, and what puts results of the chunks together."""
    views, chunk = cone.height.shape[0], _views_a_step(cone)
    fill = -views % chunk

    def cut(v):
        return jnp.pad(v, ((0, fill), *((0, 0),) * (v.ndim - 1)), mode="edge").reshape(-1, chunk, *v.shape[1:])

    return jax.tree.map(cut, cone), lambda v: v.reshape(-1, *v.shape[2:])[:views]


def _views_a_step(cone):
    return max(1, min(cone.height.shape[0], _WORK // (max(cone.fan.image_shape) * (cone.rows + 1))))


def _columns(cone, x):
    """Running integrals along z, ``[line, 2, pixel, edge]``: lines of rows and lines of columns side by side, filled up."""
    ny, nx = cone.fan.image_shape
    pixels, lines = max(ny, nx), -(-max(ny, nx) // _UNROLLED**2) * _UNROLLED**2
    total = jnp.pad(jnp.cumsum(jnp.moveaxis(x, 0, 2), 2), ((0, 0), (0, 0), (1, 0)))
    both = total, jnp.swapaxes(total, 0, 1)
    return jnp.stack([jnp.pad(v, ((0, lines - v.shape[0]), (0, pixels - v.shape[1]), (0, 0))) for v in both], 1)


def _line(cone, index, columns):
    """What one line adds to the running integrals over the rows: ``[view, column, edge]``."""
    index = jnp.broadcast_to(index, cone.height.shape)
    return _to_cells(cone.fan, index, _heights(cone, index, columns))


def _heights(cone, index, columns):
    """C(Z_e) / (Z_{e+1} − Z_e) for every voxel column of a line: ``[view, pixel, edge]``."""
    _, count, width = columns.shape
    inverse = _inverse_magnification(cone, index, count)
    edges = cone.first[:, None] + jnp.arange(cone.rows + 1, dtype=columns.dtype) * cone.pitch[:, None]
    position = jnp.clip(cone.height[:, None, None] + cone.slices / 2 + inverse[..., None] * edges[:, None], 0, cone.slices)
    table = (cone.fan.steep[:, None] * count + jnp.arange(count, dtype=jnp.int32)) * width
    return _read(columns.reshape(-1), table, position, cone.slices) / (inverse * cone.pitch[:, None])[..., None]


def _read(flat, table, position, cells):
    """Linear interpolation at ``position [..., number]`` in [0, cells] of the parts of ``flat`` from ``table [...]`` on."""
    cell = jnp.minimum(position.astype(jnp.int32), cells - 1)
    low, high = (take(flat, table[..., None] + cell + k) for k in (0, 1))
    return low + (position - cell.astype(position.dtype)) * (high - low)


def _lines_and_pixels(fan):
    ny, nx = fan.image_shape
    return tuple(jnp.where(fan.steep, a, b).astype(fan.slopes.dtype) for a, b in ((nx, ny), (ny, nx)))


def _distance(fan, index):
    """ρ − t."""
    return index - (_lines_and_pixels(fan)[0] - 1) / 2 - fan.depth


def _pixel_edges(fan, count):
    """q − ½ − s of ``count`` + 1 edges of pixels."""
    return jnp.arange(count + 1, dtype=fan.slopes.dtype) - (_lines_and_pixels(fan)[1] / 2 + fan.lateral)[:, None]


def _inverse_magnification(cone, index, count):
    """1/λ of every voxel column of a line, ``[view, pixel]``; positive in front of the source."""
    g = cone.inverse_magnification
    lateral = _pixel_edges(cone.fan, count)[:, :-1] + 0.5
    return jnp.maximum(g[:, :1] * lateral + g[:, 1:] * _distance(cone.fan, index)[:, None], 1e-6)


# In the plane, rows of numbers are weighed by the overlap of cells and pixels on one line for each entry of the leading axis:
# several views of one line, or several lines of one view.


def _segments(fan, index):
    """Where the cells lie on the lines, ``low, high [view, cell]`` in pixels from the first pixel's edge, and 1/|ρ − t|, 0 behind."""
    lines, pixels = (v[:, None] for v in _lines_and_pixels(fan))
    distance = _distance(fan, index)[:, None]
    ahead = (distance * -jnp.sign(fan.depth)[:, None] > 0) & (index[:, None] < lines)
    edges = jnp.clip(fan.lateral[:, None] + pixels / 2 + distance * fan.slopes, 0, pixels)
    first, last = edges[:, :-1], edges[:, 1:]
    return jnp.minimum(first, last), jnp.maximum(first, last), jnp.where(ahead, 1 / jnp.abs(jnp.where(ahead, distance, 1)), 0)


def _overlap(low, high, pixel):
    return jnp.maximum(jnp.minimum(high, pixel + 1) - jnp.maximum(low, pixel), 0)


def _taps(tap, needed, shape, dtype):
    """Σ_k tap(k) for k < needed, three at a time; usually that is once. The loop also keeps what the taps read from being fused into
    each of them, where it would be computed for every neighbour anew."""

    def step(k, total):
        return total + (tap(3 * k) + tap(3 * k + 1) + tap(3 * k + 2))

    return lax.fori_loop(0, (needed + 2) // 3, step, jnp.zeros(shape, dtype))


def _to_cells(fan, index, values):
    """Σ_q overlap / |ρ − t| · values: ``[view, pixel, number]`` → ``[view, cell, number]``."""
    views, count, width = values.shape
    low, high, weight = _segments(fan, index)
    start, table = low.astype(jnp.int32), values.reshape(-1, width)
    offset = count * jnp.arange(views, dtype=jnp.int32)[:, None]

    def tap(k):
        pixel = start + k
        return (weight * _overlap(low, high, pixel.astype(low.dtype)))[..., None] * take_rows(table, offset + jnp.minimum(pixel, count - 1))

    return _taps(tap, jnp.max(jnp.ceil(high) - jnp.floor(low)).astype(jnp.int32), (*low.shape, width), values.dtype)


def _onto_pixels(fan, index, table, offset):
    """The transpose, of the rows of ``table [cell, number]`` that begin at ``offset [view, 1]``: ``[view, pixel, number]``."""
    cells, count = fan.slopes.shape[1] - 1, max(fan.image_shape)
    low, high, weight = _segments(fan, index)
    distance, shift = _distance(fan, index)[:, None], _pixel_edges(fan, count)
    edge = (fan.start[:, 1:] * shift - fan.start[:, :1] * distance) / jnp.maximum(
        fan.step[:, :1] * distance - fan.step[:, 1:] * shift, 1e-6 * jnp.abs(distance)
    )
    edge = jnp.clip(edge, 0, cells)
    first, last = jnp.minimum(edge[:, :-1], edge[:, 1:]), jnp.maximum(edge[:, :-1], edge[:, 1:])
    start, pixel = first.astype(jnp.int32), jnp.arange(count, dtype=low.dtype)
    own = cells * jnp.arange(low.shape[0], dtype=jnp.int32)[:, None]
    low, high, weight = low.reshape(-1), high.reshape(-1), jnp.where(pixel < _lines_and_pixels(fan)[1][:, None], weight, 0)

    def tap(k):
        cell = jnp.minimum(start + k, cells - 1)
        overlap = _overlap(take(low, own + cell), take(high, own + cell), pixel)
        return jnp.where(start + k < cells, weight * overlap, 0)[..., None] * take_rows(table, offset + cell)

    return _taps(tap, jnp.max(jnp.ceil(last) - jnp.floor(first)).astype(jnp.int32), (*start.shape, table.shape[1]), table.dtype)


def _backproject(cone, y):
    """Lines a few at a time, for each of them all views; first the views with lines of rows, then those with lines of columns."""
    total = jnp.pad(jnp.cumsum(jnp.swapaxes(y, 1, 2), 2), ((0, 0), (0, 0), (1, 0))) * jnp.sign(cone.pitch)[:, None, None]
    order = jnp.argsort(cone.fan.steep, stable=True)
    fill = -order.shape[0] % _UNROLLED**2
    order = jnp.pad(order, (0, fill), mode="edge")
    real = (jnp.arange(order.shape[0]) < order.shape[0] - fill).reshape(-1, _UNROLLED, _UNROLLED)
    views = jax.tree.map(lambda v: v[order].reshape(-1, _UNROLLED, _UNROLLED, *v.shape[1:]), (cone, total))
    ny, nx = cone.fan.image_shape
    flat = _lines_of_views(cone, views, real, False, ny, nx)
    steep = _lines_of_views(cone, views, real, True, nx, ny)
    return jnp.moveaxis(flat + jnp.swapaxes(steep, 0, 1), 2, 0)


def _lines_of_views(cone, views, real, steep, lines, pixels):
    """What the views of one kind leave on their lines: ``[line, pixel, slice]``."""
    count, width = max(cone.fan.image_shape), cone.rows + 1
    chunk = max(1, min(lines, _WORK // (count * width)))
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
    rows = _onto_pixels(lines.fan, index, total, jnp.zeros((index.shape[0], 1), jnp.int32))
    inverse = 1 / _inverse_magnification(lines, index, rows.shape[1])
    slices = jnp.arange(cone.slices + 1, dtype=index.dtype) - cone.slices / 2 - cone.height
    position = jnp.clip((slices * inverse[..., None] - cone.first) / cone.pitch, 0, cone.rows)
    table = (cone.rows + 1) * jnp.arange(rows.shape[0] * rows.shape[1], dtype=jnp.int32).reshape(rows.shape[:2])
    return jnp.where(wanted, 1, 0) * _read(rows.reshape(-1), table, position, cone.rows)


def _tangent(function):
    def rule(cone, direction, v):
        return jax.jvp(lambda c: function(c, v), (cone,), (direction,))[1]

    return rule


def _gradient(cone, x, y):
    """Of ⟨y, project(cone, x)⟩ in the rays: a line of a chunk of views at a time."""
    columns = _columns(cone, x)
    y = jnp.swapaxes(y, 1, 2)
    spread = jnp.pad(-y, ((0, 0), (0, 0), (0, 1))) + jnp.pad(y, ((0, 0), (0, 0), (1, 0)))
    chunks, together = _chunks(cone)
    fill = -y.shape[0] % _views_a_step(cone)
    parts = jnp.pad(spread, ((0, fill), (0, 0), (0, 0))).reshape(-1, _views_a_step(cone), *spread.shape[1:])
    lines = (jnp.arange(columns.shape[0], dtype=x.dtype), columns)

    def some_views(part):
        views, spread = part

        def step(total, line):
            return jax.tree.map(jnp.add, total, _line_gradient(views, *line, spread)), None

        zero = jax.tree.map(lambda v: jnp.zeros(v.shape, x.dtype), views)
        return lax.scan(step, zero, lines)[0]

    return jax.tree.map(together, lax.map(some_views, (chunks, parts)))


def _line_gradient(cone, index, columns, y):
    """Of ⟨y, _line⟩; ``y [view, column, edge]``. The sums over edges are matrix products, which are faster than reductions."""
    real, (views, _, width) = y.dtype, y.shape
    index, count = jnp.broadcast_to(index, (views,)), columns.shape[1]
    fan, moving = cone.fan, ("lateral", "depth", "slopes")

    def segments(lateral, depth, slopes):
        return _segments(dataclasses.replace(fan, lateral=lateral, depth=depth, slopes=slopes), index)

    (low, high, weight), pullback = jax.vjp(segments, *(getattr(fan, name) for name in moving))

    def heights(cone):
        inverse = _inverse_magnification(cone, index, count)
        return inverse, inverse * cone.first[:, None], inverse * cone.pitch[:, None], cone.height, cone.pitch

    (inverse, first, pitch, height, step), pull_heights = jax.vjp(heights, cone)
    edges = jnp.arange(width, dtype=real)
    powers = jnp.stack([jnp.ones(width, real), edges], 1)
    needed = jnp.max(jnp.floor(high) - jnp.floor(low)).astype(jnp.int32) + 1
    values = stored(lambda: _heights(cone, index, columns), jnp.zeros((views, count, width), real), needed)

    # in the plane: the ends of a cell's segment move over the pixels that they lie in
    start, rows = low.astype(jnp.int32), values.reshape(-1, width)
    offset = count * jnp.arange(views, dtype=jnp.int32)[:, None]

    def taps(k, totals):
        pixel = start + k
        row = ((y * take_rows(rows, offset + jnp.minimum(pixel, count - 1))) @ powers)[..., 0]
        parts = (jnp.where(pixel == v.astype(jnp.int32), row, 0) for v in (low, high))
        return jax.tree.map(jnp.add, totals, (*parts, row * _overlap(low, high, pixel.astype(real))))

    at_low, at_high, total = lax.fori_loop(0, needed, taps, (jnp.zeros_like(low),) * 3)
    in_plane = pullback((-weight * at_low, weight * at_high, jnp.sum(total, -1, keepdims=True)))

    # along z: every height moves over the slice that it lies in
    position = (height[:, None] + cone.slices / 2 + first)[..., None] + pitch[..., None] * edges
    cell = jnp.clip(position, 0, cone.slices - 1).astype(jnp.int32)
    table = (fan.steep[:, None] * count + jnp.arange(count, dtype=jnp.int32)) * cone.slices
    slope = take(jnp.diff(columns).reshape(-1), table[..., None] + cell)
    inside = (position >= 0) & (position <= cone.slices)
    back = _onto_pixels(fan, index, y.reshape(-1, width), y.shape[1] * jnp.arange(views, dtype=jnp.int32)[:, None])
    moments = ((back * jnp.where(inside, slope, 0)) @ powers) / (inverse * step[:, None])[..., None]
    shift, stretch = moments[..., 0], moments[..., 1]
    content = -((back * values) @ powers)[..., 0]
    rates = (content / inverse, shift, stretch, jnp.sum(shift, 1), jnp.sum(content, 1) / step)
    out = pull_heights(rates)[0]
    names = {name: getattr(out.fan, name) + rate for name, rate in zip(moving, in_plane, strict=True)}
    still = {name: jnp.zeros(getattr(fan, name).shape, real) for name in ("start", "step", "per_radian", "steep")}
    return dataclasses.replace(out, fan=dataclasses.replace(out.fan, **names, **still))


_PAIR = Pair(_project, _backproject, _tangent(_project), _tangent(_backproject), _gradient)
