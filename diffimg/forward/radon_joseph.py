"""The parallel-beam projector of Joseph: linear interpolation along the axis that the ray crosses fastest, and its exact adjoint.

A ray that is closer to the rows' normal is sampled once in every row, one closer to the columns' normal once in every
column; the sample interpolates the two nearest pixels of that line, and the sum is scaled by the path length in a line:

    (A x)[v, t] = pixel_size / |c_v| · Σ_ρ lerp(x_ρ; X),    X = a_v t + b_v ρ + e_v,    c_v = cosθ or sinθ, the larger.

Everything is a gather. Forward, one line of the image and its differences (a few kB, in the first cache) serve all
rays of all views; backward, one view serves all pixels, with the same weight h(X − q), h(u) = max(0, 1 − |u|), read as a
function of the pixel. Since X is affine in (a, b, e), the derivative in the geometry is the same sum with h' in place of h:

    dA = (t da + de) A₁[1] + db A₁[ρ],

two projections whose own adjoints are known, so derivatives of every order in image, angles and detector offset exist in
both modes and none of them scatters or stores samples. h'' = 0 (almost everywhere): the kinks are not differentiated.

P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1(3), 1982.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core import check
from diffimg.core.pair import Pair, paired
from diffimg.core.pytree import pytree, static
from diffimg.forward.gathers import split, take
from diffimg.forward.geometry import ParallelBeam

_GATHERS = 8  # table look-ups in one compiled loop body: fewer passes over the accumulator, still vectorised


@jax.jit
def forward(geometry: ParallelBeam, x: jax.Array) -> jax.Array:
    """Line integrals of an image.

    Args:
        geometry: the scan; its angles (any order, any range) and detector offset are traced.
        x: ``[..., ny, nx]``, real or complex, e.g. attenuation in 1/mm; zero outside the pixels.

    Returns:
        ``[..., view, detector]``, in the unit of ``x`` times mm.

    Raises:
        ValueError: shape or dtype do not fit.
    """
    check.trailing_shape("x", x, geometry.image_shape, "ny, nx")
    check.inexact("x", x)
    lines, weight = _lines(geometry, x.dtype)
    out = _project(lines, x.astype(_working(x.dtype)).reshape(-1, *geometry.image_shape))
    return (weight[:, None] * out).astype(x.dtype).reshape(*x.shape[:-2], *geometry.sinogram_shape)


@jax.jit
def adjoint(geometry: ParallelBeam, y: jax.Array) -> jax.Array:
    """The exact adjoint of ``forward``: a backprojection with the same weights.

    Args:
        geometry: the scan.
        y: ``[..., view, detector]``, real or complex.

    Returns:
        ``[..., ny, nx]``, in the unit of ``y`` times mm.

    Raises:
        ValueError: shape or dtype do not fit.
    """
    check.trailing_shape("y", y, geometry.sinogram_shape, "view, detector")
    check.inexact("y", y)
    lines, weight = _lines(geometry, y.dtype)
    out = _backproject(lines, (weight[:, None] * y.astype(_working(y.dtype))).reshape(-1, *geometry.sinogram_shape))
    return out.astype(y.dtype).reshape(*y.shape[:-2], *geometry.image_shape)


@pytree
class _Lines:
    """Where ray t (counted from the detector's centre) meets line ρ (from the image's centre): X = slope·t + shear·ρ + shift.

    ``order`` 0 is the projection, 1 its derivative in X; ``moment`` 1 weighs the lines by ρ.
    """

    slope: Any
    shear: Any
    shift: Any
    steep: Any  # lines are columns, not rows
    image_shape: tuple[int, int] = static()
    detector_count: int = static()
    reach: float = static()  # largest 1/|slope|: half the number of cells that see one pixel
    order: int = static(default=0)
    moment: int = static(default=0)


def _working(dtype):
    """Coordinates of half-precision images need single precision."""
    return jnp.promote_types(dtype, jnp.float32)


def _lines(geometry, dtype):
    """The lines of a scan, and the length of a ray between two lines (mm), ``[view]``."""
    real = jnp.finfo(_working(dtype)).dtype
    p, d = geometry.pixel_size, geometry.detector_spacing
    angles = jnp.asarray(geometry.angles)
    angles = angles.astype(jnp.promote_types(angles.dtype, real))
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    steep = jnp.abs(sine) > jnp.abs(cosine)
    along, across = jnp.where(steep, sine, cosine), jnp.where(steep, cosine, sine)
    slope, shear, shift = d / p / along, -across / along, geometry.detector_offset / p / along
    lines = _Lines(slope.astype(real), shear.astype(real), shift.astype(real), steep, geometry.image_shape, geometry.detector_count, p / d)
    return lines, (p / jnp.abs(along)).astype(real)


def _project(lines, x):
    return paired(_PAIR, lines, x)


def _backproject(lines, y):
    return paired(_PAIR.swapped, lines, y)


def _project_tangent(lines, direction, x):
    zero = jnp.zeros((x.shape[0], lines.slope.shape[0], lines.detector_count), x.dtype)
    return sum((rate * _project(derivative, x) for rate, derivative in _derivatives(lines, direction)), zero)


def _backproject_tangent(lines, direction, y):
    zero = jnp.zeros((y.shape[0], *lines.image_shape), y.dtype)
    return sum((_backproject(derivative, rate * y) for rate, derivative in _derivatives(lines, direction)), zero)


def _derivatives(lines, direction):
    """dX = (t dslope + dshift)·1 + dshear·ρ as pairs of a factor ``[view, detector]`` and the lines that it multiplies."""
    if lines.order:
        return
    t = _centred(lines.detector_count, lines.slope.dtype)
    yield direction.slope[:, None] * t + direction.shift[:, None], dataclasses.replace(lines, order=1)
    yield direction.shear[:, None], dataclasses.replace(lines, order=1, moment=1)


def _centred(count, dtype):
    return jnp.arange(count, dtype=dtype) - (count - 1) / 2


def _gather_lines(lines, x):
    """Σ_ρ ρ^moment h⁽ᵒʳᵈᵉʳ⁾-interpolation of line ρ of ``x [slice, ny, nx]`` at X: ``[slice, view, detector]``."""
    (ny, nx), real = lines.image_shape, lines.slope.dtype
    count, width = max(ny, nx), max(ny, nx) + 3
    # Two tables a line and slice, one for each driving axis, side by side: a view picks its own by an index, without a
    # branch. The two zeros around a line (value and slope) answer for all X outside it.
    padded = jnp.stack([_padded_lines(x, lines.moment), _padded_lines(jnp.swapaxes(x, 1, 2), lines.moment)], 2)
    tables = [(padded[..., 1:] - padded[..., :-1]).reshape(count, -1)]
    if lines.order == 0:
        tables.append(padded[..., :-1].reshape(count, -1))
    xs = split((jnp.arange(count, dtype=real), *tables), _GATHERS // 2)

    first = jnp.where(lines.steep, (nx - 1) / 2, (ny - 1) / 2).astype(real)
    size = jnp.where(lines.steep, ny, nx).astype(real)
    start = lines.shift - lines.shear * first + (size - 1) / 2 + 2
    t = _centred(lines.detector_count, real)
    table = (2 * jnp.arange(x.shape[0], dtype=jnp.int32)[:, None, None] + lines.steep[:, None]) * width

    def step(total, rows):
        for index, difference, *value in zip(*rows, strict=True):
            position = jnp.clip(t * lines.slope[:, None] + (lines.shear * index + start)[:, None], 0, size[:, None] + 2)
            cell = position.astype(jnp.int32)
            sample = take(difference, table + cell)
            if value:
                sample = take(value[0], table + cell) + (position - cell.astype(real)) * sample
            total = total + sample
        return total, None

    zero = jnp.zeros((x.shape[0], lines.slope.shape[0], lines.detector_count), x.dtype)
    return lax.scan(step, zero, xs)[0]


def _padded_lines(x, moment):
    """Lines of ``x [slice, line, pixel]`` as ``[line, slice, pixel]``, with two zeros before and at least two behind."""
    count = max(x.shape[1:])
    if moment:
        x = x * _centred(x.shape[1], x.real.dtype)[:, None]
    return jnp.pad(jnp.swapaxes(x, 0, 1), ((0, count - x.shape[1]), (0, 0), (2, count - x.shape[2] + 2)))


def _gather_cells(lines, y):
    """The transpose of ``_gather_lines``: for each pixel the cells t of ``y [slice, view, detector]`` with |X(t) − q| < 1."""
    (ny, nx), real, reach = lines.image_shape, lines.slope.dtype, lines.reach
    taps = math.ceil(2 * reach)
    inverse = 1 / lines.slope
    across = -lines.shear * inverse
    along_x, along_y = jnp.where(lines.steep, across, inverse), jnp.where(lines.steep, inverse, across)
    start = -lines.shift * inverse + (lines.detector_count - 1) / 2 + 1 - reach + taps
    padded = jnp.pad(jnp.swapaxes(y, 0, 1), ((0, 0), (0, 0), (taps, taps)))
    width = lines.detector_count + taps + 1
    tables = (padded[..., k : k + width].reshape(padded.shape[0], -1) for k in range(taps))
    xs = split((lines.slope, along_x, along_y, start, lines.steep, *tables), max(1, _GATHERS // taps))
    px, py = _centred(nx, real), _centred(ny, real)[:, None]
    table = width * jnp.arange(y.shape[0], dtype=jnp.int32)[:, None, None]

    def step(image, views):
        for slope, along_x, along_y, start, steep, *cells in zip(*views, strict=True):
            position = jnp.clip(px * along_x + (py * along_y + start), 0, width - 1)
            first = position.astype(jnp.int32)
            distance = position - first.astype(real)
            total = 0
            for k, cell in enumerate(cells):
                u = slope * (k + 1 - reach - distance)
                weight = jnp.maximum(0, 1 - jnp.abs(u)) if lines.order == 0 else _hat_derivative(u)
                total = total + weight * take(cell, table + first)
            if lines.moment:
                total = total * jnp.where(steep, px, py)
            image = image + total
        return image, None

    return lax.scan(step, jnp.zeros((y.shape[0], ny, nx), y.dtype), xs)[0]


_PAIR = Pair(_gather_lines, _gather_cells, _project_tangent, _backproject_tangent)


def _hat_derivative(u):
    """h'(u), continuous from the right like floor."""
    return jnp.where((u >= -1) & (u < 0), 1, jnp.where((u >= 0) & (u < 1), -1, 0)).astype(u.dtype)
