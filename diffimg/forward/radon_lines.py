"""The plane of a cone beam: rows of numbers weighed by the overlap of detector cells and pixels on lines of pixels, to and fro.

Each entry of the leading axis is one line seen in one view: several views of a line, or several lines of a view. A cell's row is

    Σ_q |[q − ½, q + ½] ∩ [X_i, X_{i+1}]| / |ρ − t| · values_q,

the mean of ``radon_fan`` but for a factor. The derivative in the edges X is the image under them, interpolated as described there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core.pair import Pair, by_jvp, paired
from diffimg.forward.gathers import take, take_rows
from diffimg.forward.radon_fan import FanRays


def weighed(fan: FanRays, index: Any, values: Any) -> jax.Array:
    """Rows of cells ``[view, cell, number]`` from rows of pixels ``[view, pixel, number]``, on line ``index [view]`` of each view."""
    return paired(_PAIR, (fan, index), values)


def lines_and_pixels(fan: FanRays) -> tuple[Any, Any]:
    """How many lines a view has, and pixels a line, ``[view]`` each."""
    ny, nx = fan.image_shape
    steep, real = fan.steep, fan.slopes.dtype
    return jnp.where(steep, nx, ny).astype(real), jnp.where(steep, ny, nx).astype(real)


def distance(fan: FanRays, index: Any) -> Any:
    """ρ − t, ``[view]``."""
    return index - (lines_and_pixels(fan)[0] - 1) / 2 - fan.depth


def centres(fan: FanRays, count: int) -> Any:
    """q − s of the first ``count`` pixels of a line, ``[view, pixel]``."""
    return jnp.arange(count, dtype=fan.slopes.dtype) + 0.5 - (lines_and_pixels(fan)[1] / 2 + fan.lateral)[:, None]


def to_cells(fan: FanRays, index: Any, values: Any) -> Any:
    """What ``weighed`` computes."""
    views, count, width = values.shape
    low, high, weight = _segments(fan, index)
    start, table = low.astype(jnp.int32), values.reshape(-1, width)
    offset = count * jnp.arange(views, dtype=jnp.int32)[:, None]

    def tap(k):
        pixel = start + k
        return (weight * _overlap(low, high, pixel.astype(low.dtype)))[..., None] * take_rows(table, offset + jnp.minimum(pixel, count - 1))

    return _taps(tap, jnp.max(jnp.ceil(high) - jnp.floor(low)).astype(jnp.int32), (*low.shape, width), values.dtype)


def onto_pixels(fan: FanRays, index: Any, table: Any, offset: Any) -> Any:
    """The transpose, of the rows of ``table [cell, number]`` that begin at ``offset [view, 1]``: ``[view, pixel, number]``."""
    low, high, weight = _segments(fan, index)
    own = low.shape[1] * jnp.arange(low.shape[0], dtype=jnp.int32)[:, None]

    def overlap(cell, pixel):
        return _overlap(take(low.reshape(-1), own + cell), take(high.reshape(-1), own + cell), pixel)

    return _from_cells(fan, index, table, offset, weight, overlap, 0.5)


def onto_pixels_of(fan: FanRays, index: Any, y: Any) -> Any:
    """The transpose, of ``y [view, cell, number]``."""
    return onto_pixels(fan, index, *_rows(y))


def onto_pixels_moving(fan: FanRays, index: Any, y: Any) -> Any:
    """As ``onto_pixels_of``, with its derivative in the rays."""
    edges, weight = _crossings(fan, index)
    own, side = edges.shape[1] * jnp.arange(edges.shape[0], dtype=jnp.int32)[:, None], _side(fan)

    def moved(cell, pixel):
        last, first = (take(edges.reshape(-1), own + cell + k) - pixel - 0.5 for k in (1, 0))
        return side * (_way(last) - _way(first))

    return onto_pixels_of(fan, index, y) + _from_cells(fan, index, *_rows(y), weight, moved, 1.0)


def gradient(fan: FanRays, index: Any, values: Any, y: Any, spread: Any, content: Any) -> FanRays:
    """Of ⟨y, weighed(fan, index, values)⟩ = ``content [view]`` in the rays; ``spread = spread_over_edges(y)``."""
    moving = ("lateral", "depth", "slopes")

    def crossings(*fields):
        return _crossings(dataclasses.replace(fan, **dict(zip(moving, fields, strict=True))), index)

    (edges, weight), pullback = jax.vjp(crossings, *(getattr(fan, name) for name in moving))
    first, second, fraction, shift = _beside(edges, values)
    place = (fraction + shift)[..., None]
    sample = (1 - place) * first + place * second
    # a matrix product is faster than a reduction
    rate = weight * _side(fan) * ((spread * sample) @ jnp.ones((values.shape[-1], 1), values.dtype))[..., 0]
    seen = weight[:, 0] != 0
    out = pullback((rate, jnp.where(seen, content / jnp.where(seen, weight[:, 0], 1), 0)[:, None]))
    still = {name: jnp.zeros(getattr(fan, name).shape, values.dtype) for name in ("start", "step", "per_radian", "steep")}
    return dataclasses.replace(fan, **dict(zip(moving, out, strict=True)), **still)


def spread_over_edges(y: Any) -> Any:
    """y's differences from cell to cell, ``[view, cell, number]`` → ``[view, edge, number]``: the transpose of jnp.diff."""
    return jnp.pad(y, ((0, 0), (1, 0), (0, 0))) - jnp.pad(y, ((0, 0), (0, 1), (0, 0)))


def _crossings(fan, index):
    """Where the rays to the edges cross the lines, ``[view, edge]`` in pixels from the first pixel's edge, and 1/|ρ − t|, 0 behind."""
    lines, pixels = (v[:, None] for v in lines_and_pixels(fan))
    away = distance(fan, index)[:, None]
    ahead = (away * -jnp.sign(fan.depth)[:, None] > 0) & (index[:, None] < lines)
    weight = jnp.where(ahead, 1 / jnp.abs(jnp.where(ahead, away, 1)), 0)
    return jnp.clip(fan.lateral[:, None] + pixels / 2 + away * fan.slopes, -0.5, pixels + 0.5), weight


def _segments(fan, index):
    """Where the cells lie on the lines, ``low, high [view, cell]``; without derivative, which is that of the functions named moving."""
    edges, weight = _crossings(fan, index)
    edges = lax.stop_gradient(jnp.clip(edges, 0, lines_and_pixels(fan)[1][:, None]))
    first, last = edges[:, :-1], edges[:, 1:]
    return jnp.minimum(first, last), jnp.maximum(first, last), weight


def _side(fan):
    """1 where the cells follow each other in the direction of the pixels, else −1, ``[view, 1]``."""
    return (jnp.sign(fan.slopes[:, -1] - fan.slopes[:, 0]) * -jnp.sign(fan.depth))[:, None]


def _overlap(low, high, pixel):
    return jnp.maximum(jnp.minimum(high, pixel + 1) - jnp.maximum(low, pixel), 0)


def _way(u):
    """0, with the derivative of what a pixel contributes to an edge at ``u`` from its centre: max(0, 1 − |u|), and so on."""

    def integral(u):
        return u - u * jnp.abs(u) / 2

    u = jnp.clip(u, -1, 1)
    return integral(u) - integral(lax.stop_gradient(u))


def _beside(edges, values):
    """The rows of the pixels whose centres lie before and behind each edge, ``[view, edge, number]``, the place between them, and 0 with
    the derivative of that."""
    views, count, width = values.shape
    place = edges + 0.5
    fixed = lax.stop_gradient(place)
    above = fixed.astype(jnp.int32)
    offset, table = count * jnp.arange(views, dtype=jnp.int32)[:, None], values.reshape(-1, width)

    def row(pixel):
        inside = (pixel >= 0) & (pixel < count)
        return jnp.where(inside, 1, 0).astype(values.dtype)[..., None] * take_rows(table, offset + jnp.clip(pixel, 0, count - 1))

    return row(above - 1), row(above), fixed - above.astype(fixed.dtype), place - fixed


def _to_cells_moving(parameters, values):
    fan, index = parameters
    edges, weight = _crossings(fan, index)
    first, second, fraction, shift = (v if v.ndim == 3 else v[..., None] for v in _beside(edges, values))
    moved = shift * (first + (fraction + shift / 2) * (second - first))
    return to_cells(fan, index, values) + (weight * _side(fan))[..., None] * jnp.diff(moved, axis=1)


def _rows(y):
    """``y [view, cell, number]`` as a table of rows, and where those of each view begin."""
    return y.reshape(-1, y.shape[-1]), y.shape[1] * jnp.arange(y.shape[0], dtype=jnp.int32)[:, None]


def _taps(tap, needed, shape, dtype):
    """Σ_k tap(k) for k < needed, three at a time; usually that is once. The loop also keeps what the taps read from being fused into
    each of them, where it would be computed for every neighbour anew."""

    def step(k, total):
        return total + (tap(3 * k) + tap(3 * k + 1) + tap(3 * k + 2))

    return lax.fori_loop(0, (needed + 2) // 3, step, jnp.zeros(shape, dtype))


def _from_cells(fan, index, table, offset, weight, overlap, reach):
    """Σ over cells within ``reach`` of a pixel's centre of weight · overlap(cell, pixel) · row of the cell, ``[view, pixel, number]``."""
    cells, count = fan.slopes.shape[1] - 1, max(fan.image_shape)
    away = distance(fan, index)[:, None]

    def edge(shift):
        below = jnp.maximum(fan.step[:, :1] * away - fan.step[:, 1:] * shift, 1e-6 * jnp.abs(away))
        return jnp.clip((fan.start[:, 1:] * shift - fan.start[:, :1] * away) / below, 0, cells)

    ends = [edge(lax.stop_gradient(centres(fan, count)) + r) for r in (-reach, reach)]
    first, last = lax.stop_gradient((jnp.minimum(*ends), jnp.maximum(*ends)))
    start, pixel = first.astype(jnp.int32), jnp.arange(count, dtype=weight.dtype)
    weight = jnp.where(pixel < lines_and_pixels(fan)[1][:, None], weight, 0)

    def tap(k):
        cell = jnp.minimum(start + k, cells - 1)
        return jnp.where(start + k < cells, weight * overlap(cell, pixel), 0)[..., None] * take_rows(table, offset + cell)

    return _taps(tap, jnp.max(jnp.ceil(last) - jnp.floor(first)).astype(jnp.int32), (*start.shape, table.shape[1]), table.dtype)


def _gradient(parameters, values, y):
    fan, index = parameters
    content = jnp.sum(y * to_cells(fan, index, values), (1, 2))
    return gradient(fan, index, values, y, spread_over_edges(y), content), jnp.zeros_like(index)


_PAIR = Pair(
    lambda parameters, values: to_cells(*parameters, values),
    lambda parameters, y: onto_pixels_of(*parameters, y),
    by_jvp(_to_cells_moving),
    by_jvp(lambda parameters, y: onto_pixels_moving(*parameters, y)),
    _gradient,
)
