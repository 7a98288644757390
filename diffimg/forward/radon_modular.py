"""Joseph's projector for a source and a flat detector in any pose in space, and its exact adjoint.

A ray is sampled where it crosses the planes of voxels across the volume axis that the view runs along, interpolating linearly
between the four nearest voxels of the plane; the sum is scaled by the path length between two planes. Backward, each voxel
looks up the cells whose rays pass within a voxel of it, around the one that it projects onto, and weighs them by the same
interpolation: as many as the pose asks for, so that the loop over them has a traced length. Slower than the distance-driven projector
of aligned detectors, which needs no such search, but free of any condition on the pose.

The interpolated image has steps in its slopes, so its own derivatives in the pose are several per cent off in a single reading, and
of second order nothing is left. So derivatives take it to be the quadratic spline with the voxels as coefficients: its slopes are
the differences between voxels, interpolated linearly, exact to second order in the voxels' size where the image is smooth.

P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1(3), 1982.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core.pair import Pair, by_jvp, by_transposition, paired
from diffimg.core.pytree import pytree, static
from diffimg.forward.batches import in_steps
from diffimg.forward.gathers import take
from diffimg.forward.poses import Poses

_UNROLLED = 2  # planes in one compiled loop body
_BEFORE, _ROUND = 2, 5  # zeros before a plane of voxels, and on both sides
_ORDER = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])  # (depth, first, second lateral axis) of views along z, y, x


@pytree
class ModularRays:
    """The rays of a scan in voxels, the axes of each view ordered (depth, first, second): from ``source`` to the centre of cell (k, j)
    at source + ``corner`` + k·``row`` + j·``column``."""

    source: Any  # [view, 3]
    corner: Any  # [view, 3]
    row: Any  # [view, 3]
    column: Any  # [view, 3]
    axis: Any  # [view], the depth axis: 0 for z, 1 for y, 2 for x
    image_shape: tuple[int, int, int] = static()
    detector_shape: tuple[int, int] = static()


def rays(poses: Poses, image_shape: tuple[int, ...], sizes: tuple[float, float], shape: tuple[int, int], dtype: Any) -> tuple[Any, Any]:
    """The rays, and the path between two planes, ``[view, row, column]`` in mm; ``sizes``: slice thickness, pixel size."""
    voxel = np.array([sizes[0], sizes[1], sizes[1]])
    source, detector, row, column = (jnp.asarray(v / voxel) for v in (poses.source, poses.detector, poses.row, poses.column))
    rows, columns = shape
    corner = detector - source - (rows - 1) / 2 * row - (columns - 1) / 2 * column
    axis = jnp.argmax(jnp.abs(poses.source), -1)  # the direction to the volume's centre, in mm

    def turned(v):
        return jnp.take_along_axis(v, jnp.asarray(_ORDER)[axis], -1).astype(dtype)

    out = ModularRays(*map(turned, (source, corner, row, column)), axis, tuple(image_shape), tuple(shape))
    first, second = _slopes(out)
    size = jnp.asarray(voxel, dtype)[jnp.asarray(_ORDER)[axis]][:, :, None, None]
    return out, jnp.sqrt(size[:, 0] ** 2 + (first * size[:, 1]) ** 2 + (second * size[:, 2]) ** 2)


def project(rays: ModularRays, x: jax.Array) -> jax.Array:
    """Sums of the samples of real ``x [nz, ny, nx]``: ``[view, row, column]``."""
    return paired(_PAIR, rays, x)


def backproject(rays: ModularRays, y: jax.Array) -> jax.Array:
    """The transpose of ``project``."""
    return paired(_PAIR.swapped, rays, y)


def _slopes(rays):
    """Lateral steps a plane of every ray, ``[view, row, column]`` each."""
    rows, columns = (jnp.arange(n, dtype=rays.source.dtype) for n in rays.detector_shape)
    depth, first, second = (
        (rays.corner[:, k, None] + rows * rays.row[:, k, None])[..., None] + (columns * rays.column[:, k, None])[:, None] for k in range(3)
    )
    towards = _towards(rays)[:, None, None]
    inverse = towards / jnp.maximum(depth * towards, 1e-6)  # a cell behind the source sees nothing
    return first * inverse, second * inverse


def _towards(rays):
    return -jnp.sign(rays.source[:, 0])


def _sizes(rays):
    """Voxels along depth, first and second axis, ``[view]`` each."""
    sizes = jnp.asarray(np.array(rays.image_shape)[_ORDER], rays.source.dtype)[rays.axis]
    return sizes[:, 0], sizes[:, 1], sizes[:, 2]


def _distance(rays, index):
    """Planes from the source to plane ``index``, ``[view]``, and whether it is there and in front."""
    planes = _sizes(rays)[0]
    distance = index - (planes - 1) / 2 - rays.source[:, 0]
    return distance, (distance * _towards(rays) > 0) & (index < planes)


def _project(rays, x, moving=False):
    """``moving``: with the derivative in the rays described above."""
    return in_steps(functools.partial(_project_in_steps, moving=moving), rays, x)


def _project_in_steps(work, rays, x, moving):
    planes = _planes(x)
    interpolated = _moving_interpolated if moving else _interpolated
    shape = (_views_a_step(rays, work), *rays.detector_shape)

    def some_views(views):
        slopes = _slopes(views)

        def step(total, planes):
            for k in range(_UNROLLED):
                total = total + interpolated(views, slopes, planes[0][k], planes[1][k])
            return total, None

        return lax.scan(step, jnp.zeros(shape, x.dtype), planes)[0]

    chunks, together = _chunks(rays, work)
    return together(lax.map(some_views, chunks))


def _planes(x):
    """Scan inputs: the index of a plane, and the planes of the three axes side by side with zeros around, ``[3 · width²]``."""
    width, count = max(x.shape) + _ROUND, -(-max(x.shape) // _UNROLLED) * _UNROLLED

    def padded(v):
        return jnp.pad(v, ((0, count - v.shape[0]), *((_BEFORE, width - _BEFORE - n) for n in v.shape[1:])))

    planes = jnp.stack([padded(jnp.moveaxis(x, k, 0)) for k in range(3)], 1).reshape(count, -1)
    return jax.tree.map(lambda v: v.reshape(-1, _UNROLLED, *v.shape[1:]), (jnp.arange(count, dtype=x.dtype), planes))


def _views_a_step(rays, work):
    rows, columns = rays.detector_shape
    return max(1, min(rays.source.shape[0], work // (rows * columns)))


def _chunks(rays, work):
    """The rays in chunks of views, and what puts results of the chunks together."""
    views, chunk = rays.source.shape[0], _views_a_step(rays, work)

    def cut(v):
        return jnp.pad(v, ((0, -views % chunk), *((0, 0),) * (v.ndim - 1)), mode="edge").reshape(-1, chunk, *v.shape[1:])

    return jax.tree.map(cut, rays), lambda v: v.reshape(-1, *v.shape[2:])[:views]


def _places(rays, slopes, index):
    """Where the rays cross the plane along each lateral axis, from the first voxel, and 1 where they do, ``[view, row, column]``."""
    distance, there = _distance(rays, index)
    places = []
    for slope, source, size in zip(slopes, rays.source[:, 1:].T, _sizes(rays)[1:], strict=True):
        place = (source + (size - 1) / 2)[:, None, None] + distance[:, None, None] * slope
        places.append(jnp.clip(place, -1.5, (size + 0.5)[:, None, None]))
    return places, jnp.where(there, 1, 0).astype(rays.source.dtype)[:, None, None]


def _voxel(rays, plane, first, second):
    """The voxels at whole places, also those just outside."""
    width = max(rays.image_shape) + _ROUND
    table = (rays.axis[:, None, None].astype(jnp.int32) * width + first + _BEFORE) * width + second + _BEFORE
    return take(plane, table)


def _interpolated(rays, slopes, index, plane):
    """The plane at the rays, linearly between the four voxels around each."""
    places, there = _places(rays, slopes, index)
    whole = [jnp.floor(p).astype(jnp.int32) for p in places]
    f, s = (p - w.astype(p.dtype) for p, w in zip(places, whole, strict=True))
    a, b, c, d = (_voxel(rays, plane, whole[0] + i, whole[1] + j) for i in (0, 1) for j in (0, 1))
    low, high = a + s * (b - a), c + s * (d - c)
    return there * (low + f * (high - low))


def _moving_interpolated(rays, slopes, index, plane):
    """The same, with the derivative of the spline."""
    places, there = _places(rays, slopes, index)
    fixed = [lax.stop_gradient(p) for p in places]
    change = _spline(rays, plane, places, (0, 0)) - _spline(rays, plane, fixed, (0, 0))
    return there * change + _interpolated(*lax.stop_gradient((rays, slopes)), index, plane)


def _spline(rays, plane, places, order):
    """The quadratic spline with the voxels as coefficients, or its derivative of the given order along (first, second) axis."""
    whole = [jnp.floor(lax.stop_gradient(p) + 0.5).astype(jnp.int32) for p in places]
    first, second = (_SPLINE[k](p - w.astype(p.dtype)) for p, w, k in zip(places, whole, order, strict=True))
    return sum(
        a * sum(b * _voxel(rays, plane, whole[0] + i, whole[1] + j) for j, b in zip((-1, 0, 1), second, strict=True))
        for i, a in zip((-1, 0, 1), first, strict=True)
    )


_SPLINE = (
    lambda u: ((0.5 - u) ** 2 / 2, 0.75 - u**2, (0.5 + u) ** 2 / 2),
    lambda u: (u - 0.5, -2 * u, u + 0.5),
)


def _backproject(rays, y):
    return in_steps(_backproject_in_steps, rays, y)


def _backproject_in_steps(work, rays, y):
    order = jnp.argsort(rays.axis, stable=True)
    views = jax.tree.map(lambda v: v[order], (rays, y))
    reach = _reach(rays)
    total = 0
    for axis in range(3):
        total = total + jnp.moveaxis(_views_along(work, rays, views, reach, axis), 0, axis)
    return total


def _views_along(work, rays, views, reach, axis):
    """What the views along one axis leave on its planes: ``[plane, first, second]``."""
    shape = tuple(rays.image_shape[k] for k in _ORDER[axis])
    chunk = max(1, min(shape[0], work // (shape[1] * shape[2])))
    dtype = rays.source.dtype

    def some_planes(start):
        places = (start + jnp.arange(chunk, dtype=dtype), *(jnp.arange(n, dtype=dtype) for n in shape[1:]))
        offset = [p - (n - 1) / 2 for p, n in zip(places, shape, strict=True)]

        def add(image, part):
            view, y = part
            there = (offset[0] - view.source[0]) * -jnp.sign(view.source[0]) > 0
            return lax.cond(
                view.axis == axis, lambda i: i + jnp.where(there, 1, 0)[:, None, None] * _seen(view, y, offset, reach), lambda i: i, image
            ), None

        return lax.scan(add, jnp.zeros((chunk, *shape[1:]), dtype), views)[0]

    out = lax.map(some_planes, jnp.arange(0, shape[0], chunk).astype(dtype))
    return out.reshape(-1, *shape[1:])[: shape[0]]


def _seen(view, y, offset, reach):
    """Of one view: Σ over cells near each voxel's own of ``y`` times the interpolation weight, ``[plane, first, second]``."""
    rows, columns = view.detector_shape
    r = [o.reshape([-1 if a == k else 1 for a in range(3)]) - view.source[k] for k, o in enumerate(offset)]
    row, column = _cell(view, r)
    spans = [jnp.floor(2 * h).astype(jnp.int32) + 1 for h in reach]
    firsts = [jnp.ceil(jnp.clip(c - h, -1, n)).astype(jnp.int32) for c, h, n in zip((row, column), reach, (rows, columns), strict=True)]
    flat = y.reshape(-1)

    def tap(n, total):
        k, j = firsts[0] + n // spans[1], firsts[1] + n % spans[1]
        inside = (k >= 0) & (k < rows) & (j >= 0) & (j < columns)
        value = take(flat, jnp.clip(k, 0, rows - 1) * columns + jnp.clip(j, 0, columns - 1))
        k, j = k.astype(y.dtype), j.astype(y.dtype)
        depth, first, second = (view.corner[a] + k * view.row[a] + j * view.column[a] for a in range(3))
        towards = -jnp.sign(view.source[0])
        scale = r[0] * (towards / jnp.maximum(depth * towards, 1e-6))
        weight = jnp.maximum(1 - jnp.abs(first * scale - r[1]), 0) * jnp.maximum(1 - jnp.abs(second * scale - r[2]), 0)
        return total + jnp.where(inside, value * weight, 0)

    shape = jnp.broadcast_shapes(*(v.shape for v in r))
    return lax.fori_loop(0, spans[0] * spans[1], tap, jnp.zeros(shape, y.dtype))


def _cell(view, r):
    """(row, column) of the detector on which ``r`` from the source ends, as real numbers: corner + k·row + j·column ∥ r."""
    corner, row, column = view.corner, view.row, view.column

    def ratio(above, below):
        n, d = (sum(v[a] * r[a] for a in range(3)) for v in (jnp.cross(corner, above), jnp.cross(below, above)))
        side = jnp.sign(jnp.sum(jnp.cross(below, above) * corner))
        return -n * side / jnp.maximum(d * side, 1e-6 * jnp.abs(r[0]) * jnp.linalg.norm(jnp.cross(below, above)))

    return ratio(column, row), ratio(row, column)


def _reach(rays):
    """How many rows and columns around its own a voxel may need, largest over the views and the volume's corners."""
    sizes = jnp.stack(_sizes(rays), -1)
    corners = jnp.asarray(np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T, rays.source.dtype)

    def one(view, size):
        def widths(corner):
            r = corner * (size + 1) / 2 - view.source
            pushes = jnp.eye(3, dtype=r.dtype)[1:]
            moved = [jax.jvp(lambda v: jnp.stack(_cell(view, v)), (r,), (p,))[1] for p in pushes]
            return jnp.abs(moved[0]) + jnp.abs(moved[1])

        return jnp.max(jax.vmap(widths)(corners), 0)

    half = jnp.max(jax.vmap(one)(lax.stop_gradient(rays), sizes), 0) * 1.02  # the map bends a little within a voxel
    return half[0], half[1]


def _gradient(rays, x, y):
    """Of ⟨y, project(rays, x)⟩ in the rays: from the sums of the two lateral slopes of the image, by themselves and times the distance."""
    return in_steps(_gradient_in_steps, rays, x, y)


def _gradient_in_steps(work, rays, x, y):
    planes = _planes(x)
    chunks, together = _chunks(rays, work)
    parts = jnp.pad(y, ((0, -y.shape[0] % _views_a_step(rays, work)), (0, 0), (0, 0))).reshape(-1, _views_a_step(rays, work), *y.shape[1:])

    def some_views(part):
        views, y = part
        slopes, pullback = jax.vjp(_slopes, views)

        def step(totals, planes):
            for k in range(_UNROLLED):
                places, there = _places(views, slopes, planes[0][k])
                distance = _distance(views, planes[0][k])[0][:, None, None]
                first, second = (there * _spline(views, planes[1][k], places, order) for order in ((1, 0), (0, 1)))
                totals = jax.tree.map(jnp.add, totals, (first, second, distance * first, distance * second))
            return totals, None

        near1, near2, far1, far2 = lax.scan(step, (jnp.zeros_like(y),) * 4, planes)[0]
        out = pullback((y * far1, y * far2))[0]
        lateral = jnp.stack([-y * (slopes[0] * near1 + slopes[1] * near2), y * near1, y * near2], 1)
        return dataclasses.replace(out, source=out.source + jnp.sum(lateral, (2, 3)), axis=jnp.zeros(views.axis.shape, y.dtype))

    return jax.tree.map(together, lax.map(some_views, (chunks, parts)))


def _volume(rays, y):
    return jax.ShapeDtypeStruct(rays.image_shape, y.dtype)


_tangent = by_jvp(functools.partial(_project, moving=True))
_PAIR = Pair(_project, _backproject, _tangent, by_transposition(_tangent, _volume), _gradient)
