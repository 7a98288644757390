"""The distance-driven projector of rays that leave a point in the plane, and its exact adjoint.

On each line of pixels across the ray's main direction, a detector cell sees the segment between the two rays to its edges;
its reading is the mean of the pixels over that segment, times the path length in a line, summed over the lines:

    (A x)[v, i] = p √(1 + m²) Σ_ρ (P_ρ(X_{i+1}) − P_ρ(X_i)) / (X_{i+1} − X_i),    X_b = s + (ρ − t) m_b,

with P_ρ the running integral of line ρ, (s, t) the source and m_b the slope of the ray to edge b. The detector's shape enters
only through the slopes, the segments always tile the line, and no weight depends on a magnification: flat and curved, tilted and
shifted detectors, near and far sources run through the same two gathers for each edge and line. Backward, the edges of pixels fall
onto the running integral of the view in the same way, G(m) being linear between the slopes m_b, so the adjoint is
a gather too, with the same weights. Running integrals are differenced after a few lines or views, before they outgrow the
precision of what they differ by.

B. De Man, S. Basu, Distance-driven projection and backprojection in three dimensions, Phys. Med. Biol. 49(11), 2004.

Derivatives in the geometry need the image under the edges, P'. Of the sum above that is the pixel there: a step function, in a
single reading several per cent off, with a second derivative of zero. So derivatives take P' to be interpolated linearly between the
centres of the pixels: where the image is smooth, the first are exact to second order in the pixels' size, and the second, which see
the steps in the slope of P', are right to some per cent in a single reading and much better in sums. They are the same in both modes,
and store nothing a line.
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
from diffimg.forward.gathers import split, take
from diffimg.forward.poses import Poses

_GATHERS = 4  # lines or views in one compiled loop body
_BLOCK = 4  # loop steps between two differences of running integrals
_STEEPEST = 1e3  # slope that stands for rays at right angles to the main direction or beyond


@pytree
class FanRays:
    """The rays of a scan in the plane, in pixels, view by view along (``lateral``) and across (``depth``) the view's lines.

    ``start`` and ``step`` say which edge b a direction r points to: start + b·step is parallel to r on a flat detector; on a
    curved one start + τ·step is, of the middle, and b − count/2 = arctan(τ)·per_radian.
    """

    lateral: Any  # [view], the source
    depth: Any  # [view]
    slopes: Any  # [view, edge]
    start: Any  # [view, 2]: (lateral, depth)
    step: Any  # [view, 2]
    per_radian: Any  # [view], cells in a radian of a curved detector
    steep: Any  # [view]: the lines are columns, not rows
    image_shape: tuple[int, int] = static()
    curved: bool = static(default=False)


def rays(poses: Poses, image_shape: tuple[int, int], pixel_size: float, count: int, dtype: Any) -> tuple[FanRays, Any]:
    """The rays to the edges of ``count`` cells, and p √(1 + m²) / Δm, ``[view, cell]``, in mm."""
    source, detector, column = (jnp.asarray(v) / pixel_size for v in (poses.source, poses.detector, poses.column))
    steep = jnp.abs(source[:, 1]) > jnp.abs(source[:, 0])

    source, arm, column = (turned(steep, v).astype(dtype) for v in (source, detector - source, column))
    edges = (jnp.arange(count + 1) - count / 2).astype(dtype)[:, None]
    if poses.curved:
        radius, pitch = (jnp.sqrt(jnp.sum(v * v, -1, keepdims=True)) for v in (arm, column))
        tangent, angle = column / pitch, pitch / radius
        points = jnp.cos(edges * angle[:, None]) * arm[:, None] + jnp.sin(edges * angle[:, None]) * (radius * tangent)[:, None]
        start, step, per_radian = arm / radius, tangent, 1 / angle[:, 0]
    else:
        points = arm[:, None] + edges * column[:, None]
        start, step, per_radian = arm - count / 2 * column, column, jnp.ones_like(arm[:, 0])
    side = jnp.sign(_cross(step, start))[:, None]
    towards = -jnp.sign(source[:, 1:])
    ahead = points[..., 1] * towards
    slopes = towards * points[..., 0] / jnp.maximum(ahead, jnp.abs(points[..., 0]) / _STEEPEST)
    width = jnp.diff(slopes)
    middle = (slopes[:, 1:] + slopes[:, :-1]) / 2
    fixed = jax.tree.map(lax.stop_gradient, (start * side, step * side, per_radian))
    out = FanRays(source[:, 0], source[:, 1], slopes, *fixed, steep, image_shape, poses.curved)
    seen = width != 0  # not beyond the right angle
    return out, jnp.where(seen, pixel_size * jnp.sqrt(1 + middle**2) / jnp.where(seen, width, 1), 0)


def project(fan: FanRays, x: jax.Array) -> jax.Array:
    """Σ_ρ (P(X_{i+1}) − P(X_i)) / (ρ − t) of real ``x [slice, ny, nx]``: ``[slice, view, cell]``."""
    return paired(_PAIR, fan, x)


def backproject(fan: FanRays, y: jax.Array) -> jax.Array:
    """The transpose of ``project``."""
    return paired(_PAIR.swapped, fan, y)


def turned(steep: Any, v: Any) -> Any:
    """Vectors (y, x) ``[view, 2]`` as (lateral, depth). Not v[:, ::-1]: jaxlib 0.10.1 on a CPU miscompiles derivatives through it."""
    y, x = v[:, 0], v[:, 1]
    return jnp.stack([jnp.where(steep, y, x), jnp.where(steep, x, y)], -1)


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _centred(count, dtype):
    return jnp.arange(count, dtype=dtype) - (count - 1) / 2


def _project(fan, x, moving=False):
    """``moving``: with the derivative in the rays described above, for two look-ups more."""
    xs = _lines(fan, x)
    zero = jnp.zeros((x.shape[0], *fan.slopes.shape), x.dtype)

    def block(total, lines):
        edges = lax.scan(lambda t, rows: (t + sum(w * p for w, p in _integrals(fan, rows, moving)), None), zero, lines)[0]
        return total + jnp.diff(edges), None

    return lax.scan(block, zero[..., 1:], xs)[0]


def _lines(fan, x):
    """Scan inputs: the lines' indices, their values and their running integrals, those of both axes side by side."""
    count = max(fan.image_shape)
    values = jnp.stack([_padded(x, count), _padded(jnp.swapaxes(x, 1, 2), count)], 2)  # [line, slice, axis, pixel]
    before = jnp.cumsum(values, -1) - values
    return split((jnp.arange(count, dtype=x.dtype), values.reshape(count, -1), before.reshape(count, -1)), _GATHERS, _BLOCK)


def _padded(x, count):
    """Lines of ``x [slice, line, pixel]`` as ``[line, slice, pixel]``, with a zero before and at least two behind."""
    return jnp.pad(jnp.swapaxes(x, 0, 1), ((0, count - x.shape[1]), (0, 0), (1, count - x.shape[2] + 2)))


def _integrals(fan, rows, moving=False):
    """1 / (ρ − t) and P_ρ(X_b), line by line; zero for lines behind the source."""
    for weight, position, table, value, before in _crossings(fan, rows):
        fixed = lax.stop_gradient(position) if moving else position
        pixel = fixed.astype(jnp.int32)
        integral = take(before, table + pixel) + (fixed - pixel.astype(fixed.dtype)) * take(value, table + pixel)
        if moving:
            first, second, fraction, shift = _beside(position, table, value)
            integral = integral + shift * (first + (fraction + shift / 2) * (second - first))
        yield weight, integral


def _samples(fan, rows):
    """1 / (ρ − t) and P'_ρ(X_b), of which P_ρ(X_b) is the integral as far as derivatives are concerned."""
    for weight, position, table, value, _ in _crossings(fan, rows):
        first, second, fraction, shift = _beside(position, table, value)
        yield weight, (1 - (fraction + shift)) * first + (fraction + shift) * second


def _beside(position, table, value):
    """The pixels whose centres lie before and behind a position, its place between them, and 0 with the derivative of that."""
    place = position - 0.5
    fixed = lax.stop_gradient(place)
    pixel = fixed.astype(jnp.int32)
    return take(value, table + pixel), take(value, table + pixel + 1), fixed - pixel.astype(fixed.dtype), place - fixed


def _crossings(fan, rows):
    """Where the rays to the edges cross a few lines: 1 / (ρ − t), X_b from before the first pixel, where its tables begin, and they."""
    (ny, nx), real = fan.image_shape, fan.slopes.dtype
    width = max(ny, nx) + 3
    lines, pixels = (jnp.where(fan.steep, a, b).astype(real)[:, None] for a, b in ((nx, ny), (ny, nx)))
    lateral, depth, towards = fan.lateral[:, None], fan.depth[:, None], -jnp.sign(fan.depth)[:, None]
    table = (2 * jnp.arange(rows[1][0].shape[0] // (2 * width), dtype=jnp.int32)[:, None, None] + fan.steep[:, None]) * width
    for index, value, before in zip(*rows, strict=True):
        distance = index - (lines - 1) / 2 - depth
        ahead = (distance * towards > 0) & (index < lines)
        weight = jnp.where(ahead, 1 / jnp.where(ahead, distance, 1), 0)
        position = jnp.clip(lateral + pixels / 2 + 1 + distance * fan.slopes, 0.5, pixels + 1.5)
        yield weight, position, table, value, before


def _backproject(fan, y):
    (ny, nx), order = fan.image_shape, jnp.argsort(fan.steep, stable=True)
    width = jnp.diff(fan.slopes)
    rate = y * (jnp.sign(width) * -jnp.sign(fan.depth)[:, None])
    total = jnp.pad(jnp.cumsum(rate * width, -1), ((0, 0), (0, 0), (1, 0)))
    # G(m) = ∫ y dm = offset + rate·m in each cell; constant beyond the detector's ends
    rates = jnp.pad(rate, ((0, 0), (0, 0), (1, 1)))
    offsets = jnp.concatenate([total[..., :1], total[..., :-1] - fan.slopes[:, :-1] * rate, total[..., -1:]], -1)
    tables = (jnp.swapaxes(v, 0, 1).reshape(v.shape[1], -1)[order] for v in (offsets, rates))
    geometry = (fan.lateral, fan.depth, fan.start[:, 0], fan.start[:, 1], fan.step[:, 0], fan.step[:, 1], fan.per_radian)
    xs = split((fan.steep[order], *(v[order] for v in geometry), *tables), _GATHERS, _BLOCK)
    images = tuple(jnp.zeros((y.shape[0], *shape), y.dtype) for shape in ((ny, nx), (nx, ny)))
    width = y.shape[2] + 2

    def add(image, views, steep):
        _, n, m = image.shape
        table = width * jnp.arange(y.shape[0], dtype=jnp.int32)[:, None, None]
        across, along = _centred(n, y.dtype)[:, None], (jnp.arange(m + 1) - m / 2).astype(y.dtype)

        def step(edges, view):
            for kind, *geometry, offset, rate in zip(*view, strict=True):
                edges = edges + _sums(fan.curved, across, along, kind == steep, width - 2, table, *geometry, offset, rate)
            return edges, None

        edges = lax.scan(step, jnp.zeros((y.shape[0], n, m + 1), y.dtype), views)[0]
        return image + jnp.diff(edges)

    def block(images, views):
        # sorted by axis: at most one block has views of both
        kinds = jnp.stack(views[0])
        flat = lax.cond(jnp.all(kinds), lambda i: i, lambda i: add(i, views, False), images[0])
        steep = lax.cond(jnp.any(kinds), lambda i: add(i, views, True), lambda i: i, images[1])
        return (flat, steep), None

    flat, steep = lax.scan(block, images, xs)[0]
    return flat + jnp.swapaxes(steep, 1, 2)


def _sums(curved, across, along, wanted, cells, table, lateral, depth, start0, start1, step0, step1, per_radian, offset, rate):
    """G of one view at the edges of all pixels: ``[slice, line, edge]``."""
    distance, shift = across - depth, along - lateral
    ahead = (distance * -jnp.sign(depth) > 0) & wanted
    inverse = 1 / jnp.where(ahead, distance, 1)
    slope = shift * inverse
    edge = (start1 * shift - start0 * distance) / jnp.maximum(step0 * distance - step1 * shift, 1e-6 * jnp.abs(distance))
    if curved:
        edge = arctan(edge) * per_radian + cells / 2
    cell = jnp.clip(edge + 1, 0, cells + 1).astype(jnp.int32)
    return jnp.where(ahead, 1, 0) * (take(offset, table + cell) + slope * take(rate, table + cell))


def arctan(t):
    """arctan by its series at half the angle: vectorised, unlike the library's; exact to rounding for |t| ≤ 1."""
    t = jnp.clip(t, -2, 2)  # beyond any detector
    z = t / (1 + jnp.sqrt(1 + t * t))
    square, terms = z * z, 10 if t.dtype == jnp.float32 else 24
    total = jnp.zeros_like(z)
    for k in reversed(range(terms)):
        total = total * square + (-1) ** k / (2 * k + 1)
    return 2 * z * total


def _gradient(fan, x, y, moving=False):
    """Of ⟨y, project(fan, x)⟩ in the rays, with X = s + (ρ − t) m: from three projections onto the edges.

    One after the other: where two sums share a look-up, XLA on a CPU stores it, and does not vectorise it. ``moving``: itself with the
    right derivative.
    """
    spread = jnp.pad(-y, ((0, 0), (0, 0), (0, 1))) + jnp.pad(y, ((0, 0), (0, 0), (1, 0)))
    xs = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), _lines(fan, x))

    def total(terms):
        return lax.scan(lambda t, rows: (t + sum(terms(rows)), None), jnp.zeros_like(spread), xs)[0]

    near = total(lambda rows: (w * p for w, p in _samples(fan, rows)))
    far = total(lambda rows: (jnp.where(w != 0, p, 0) for w, p in _samples(fan, rows)))
    shrink = total(lambda rows: (w**2 * p for w, p in _integrals(fan, rows, moving)))
    lateral, slopes = spread * near, jnp.sum(spread * far, 0)
    depth = jnp.sum(spread * shrink - lateral * fan.slopes, (0, 2))
    still = {name: jnp.zeros_like(getattr(fan, name)) for name in ("start", "step", "per_radian")}
    return dataclasses.replace(fan, lateral=jnp.sum(lateral, (0, 2)), depth=depth, slopes=slopes, **still)


def _image(fan, y):
    return jax.ShapeDtypeStruct((y.shape[0], *fan.image_shape), y.dtype)


_tangent = by_jvp(functools.partial(_project, moving=True))
_second = by_jvp(functools.partial(_gradient, moving=True))
_PAIR = Pair(_project, _backproject, _tangent, by_transposition(_tangent, _image), _gradient, _second)
