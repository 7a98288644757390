"""Values of an image between its samples: B-splines of order 0 to 5, differentiable in image and position."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffimg.core import check
from diffimg.forward.spline import MODES, _check_order, fold_index, padding, spline_coefficients, symmetry, tap_weights


def interpolate(
    image: Any, points: Any, order: int = 1, mode: str = "nearest", cval: Any = 0.0, prefilter: bool = True
) -> jax.Array:
    """The image at fractional positions, equal to ``scipy.ndimage.map_coordinates`` (in mode "reflect" exact on axes of
    a few samples, too, where SciPy's prefilter misses its own samples).

    Differentiable in ``image`` and ``points`` to any order, with exact derivatives of the spline (an order-0 image has none; an
    order-1 image has kinks at its samples, where the derivative to the right is taken).

    Args:
        image: ``[..., *samples]`` with one, two or three sample axes; leading axes are batch. Integers for order 0 only.
        points: ``[*any, ndim]`` positions in samples, array order: (y, x) or (z, y, x).
        order: 0 nearest neighbour, 1 linear, 3 cubic, … 5.
        mode: what lies outside, as SciPy names it:
            ``"nearest"`` a a a | a b c d | d d d;
            ``"reflect"`` c b a | a b c d | d c b (about the edge of the samples);
            ``"mirror"`` d c b | a b c d | c b a (about their centres);
            ``"grid-wrap"`` b c d | a b c d | a b c (period n) and ``"wrap"`` (period n − 1, first and last sample are the same);
            ``"constant"`` ``cval`` beyond the first and last sample; ``"grid-constant"`` the image goes on with samples ``cval``.
        cval: value outside; traced.
        prefilter: the image holds samples (True), or coefficients from ``spline_coefficients`` with the same order and mode (False).

    Returns:
        ``[..., *any]`` in the image's dtype. NaN positions give NaN (for order 0: the first sample).

    Raises:
        ValueError: axes, order, mode or dtype do not fit.
    """
    points = jnp.asarray(check.array("points", points))
    check.real("points", points)
    points = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(jnp.float32)
    if points.ndim == 0 or points.shape[-1] not in (1, 2, 3):
        check.fail("points", "shape [..., ndim] with ndim 1, 2 or 3", f"shape {points.shape}", "Axes go last: jnp.moveaxis(points, 0, -1).")
    return interpolate_planes(image, [points[..., k] for k in range(points.shape[-1])], order, mode, cval, prefilter)


def interpolate_planes(
    image: Any, planes: Sequence[Any], order: int = 1, mode: str = "nearest", cval: Any = 0.0, prefilter: bool = True
) -> jax.Array:
    """``interpolate`` with one array of positions for each axis (they broadcast), which the compiler likes better."""
    _check_order(order)
    check.one_of("mode", mode, MODES)
    image = jnp.asarray(check.array("image", image))
    ndim = len(planes)
    if image.ndim < ndim or 0 in image.shape:
        check.fail("image", f"at least {ndim} axes, as many as the points have coordinates, none empty", f"shape {image.shape}")
    if order > 0:
        check.inexact("image", image)
    planes = [p.astype(jnp.promote_types(p.dtype, image.real.dtype)) if order and p.dtype != image.real.dtype else p for p in planes]
    extra = padding(order, mode)
    if prefilter:
        shape = image.shape[image.ndim - ndim :]
        coefficients = spline_coefficients(image, order, mode, ndim, cval)
    else:
        coefficients = image
        shape = tuple(n - 2 * extra for n in image.shape[image.ndim - ndim :])
        check.minimum("image", np.asarray(shape), 1, remedy="Coefficients of this order and mode are longer than the samples.")

    coefficients, reach = _extended(coefficients, ndim, order, mode, cval)
    positions, inside = [], None
    for plane, n in zip(planes, shape, strict=True):
        position, ok = _folded(plane, n, mode, extra, order)
        positions.append(position + reach)
        if ok is not None:
            inside = ok if inside is None else inside & ok
    out = _over_leading(coefficients, tuple(positions), ndim, (order,) * ndim)
    return out if inside is None else jnp.where(inside, out, jnp.asarray(cval, out.dtype))


def value_and_slopes(coefficients: Any, planes: Sequence[Any], order: int) -> tuple[jax.Array, list[jax.Array]]:
    """(value, derivative along each axis) in mode ``"nearest"`` from coefficients, positions inside or not."""
    ndim, extra = len(planes), padding(order, "nearest")
    shape = [n - 2 * extra for n in coefficients.shape]
    coefficients, reach = _extended(coefficients, ndim, order, "nearest", 0.0)
    # beyond the clipped positions the image is constant, and so are they: no derivative of the clipping is needed
    positions = tuple(_folded(p, n, "nearest", extra, order)[0] + reach for p, n in zip(planes, shape, strict=True))
    units = [tuple(int(j == k) for j in range(ndim)) for k in range(ndim)]
    value = _sample(coefficients, positions, (order,) * ndim, (0,) * ndim)
    return value, [_sample(coefficients, positions, (order,) * ndim, unit) for unit in units]


def _extended(coefficients, ndim, order, mode, cval):
    """The coefficients with as many more on each side as a point inside can reach, so that its neighbours lie at fixed offsets."""
    reach = order + 3
    batch = coefficients.ndim - ndim
    if mode == "grid-constant":
        width = [(0, 0)] * batch + [(reach, reach)] * ndim
        return jnp.pad(coefficients, width, constant_values=jnp.asarray(cval, coefficients.dtype)), reach
    for axis in range(batch, coefficients.ndim):
        n = coefficients.shape[axis]
        index = np.arange(-reach, n + reach)
        index = np.clip(index, 0, n - 1) if mode == "nearest" else fold_index(index, n, symmetry(mode))
        coefficients = jnp.concatenate(
            [jnp.take(coefficients, index[:reach], axis), coefficients, jnp.take(coefficients, index[-reach:], axis)], axis
        )
    return coefficients, reach


def _folded(x, n, mode, extra, order):
    """(the equivalent position near 0 … n−1, whether it counts or None for everywhere)."""
    if mode in ("nearest", "grid-constant"):  # farther than the support of the spline nothing changes
        far = 1 + order / 2
        return jnp.clip(x + extra, -far, n - 1 + 2 * extra + far), None
    if mode == "constant":
        return jnp.clip(x, 0, n - 1), (x >= 0) & (x <= n - 1)
    if n == 1:
        return jnp.zeros_like(x), None
    if mode == "wrap":
        y = jnp.where(x < 0, x + (n - 1) * (jnp.floor(-x / (n - 1)) + 1), x - (n - 1) * jnp.floor(x / (n - 1)))
        return jnp.where((x >= 0) & (x <= n - 1), x, y), None
    if mode == "grid-wrap":
        y = x - n * jnp.floor(x / n)
        return jnp.where((x >= 0) & (x <= n - 1), x, y), None
    if mode == "mirror":
        period = 2 * n - 2
        y = x - period * jnp.floor(x / period)
        return jnp.where((x >= 0) & (x <= n - 1), x, jnp.where(y < jnp.where(x < 0, n - 1, n), y, period - y)), None  # ties as in SciPy
    y = x + 0.5 - 2 * n * jnp.floor((x + 0.5) / (2 * n))
    return jnp.where((x >= 0) & (x <= n - 1), x, jnp.where(y <= n, y, 2 * n - y) - 0.5), None


def _over_leading(coefficients, positions, ndim, orders):
    batch = coefficients.shape[: coefficients.ndim - ndim]
    if not batch:
        return _sample(coefficients, positions, orders, (0,) * ndim)
    flat = coefficients.reshape(-1, *coefficients.shape[len(batch) :])
    values = jax.vmap(lambda c: _sample(c, positions, orders, (0,) * ndim))(flat)
    return values.reshape(*batch, *values.shape[1:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _sample(coefficients, positions, orders, derivatives):
    """Σ_k c[k] Π β(x − k), with the given derivative along each axis; positions lie inside."""
    # A derivative is a spline of one order less of the differences: the same neighbours, one fewer along the axis. The differences
    # are taken of the flat array, whose index needs no division.
    shape = coefficients.shape
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    flat = coefficients.reshape(-1)
    base: Any = 0
    weights = []
    for axis, (x, order, derivative) in enumerate(zip(positions, orders, derivatives, strict=True)):
        for _ in range(derivative):
            flat = jnp.pad(flat[strides[axis] :], (0, strides[axis])) - flat
        shifted = x - (order - 1) / 2
        first = jnp.floor(shifted)
        base = base + jnp.clip(first.astype(jnp.int32), 0, shape[axis] - 1 - order) * strides[axis]
        weights.append(tap_weights(shifted - first, order - derivative) if order > derivative else [None])

    def total(axis, offset):
        if axis == len(strides):
            return flat.at[base + offset].get(mode="promise_in_bounds")
        terms = (total(axis + 1, offset + k * strides[axis]) for k in range(len(weights[axis])))
        terms = [t if w is None else t * w for t, w in zip(terms, weights[axis], strict=True)]
        return functools.reduce(jnp.add, terms)

    # The weights sum to 1. XLA does not copy a division into everything that uses it, as it does sums and products: without one, a
    # value used twice is gathered in eight slow kernels instead of a fast one, and large orders compile for minutes.
    last = [w for w in weights if w[0] is not None]
    return total(0, 0) / functools.reduce(jnp.add, last[-1]) if last else total(0, 0)


@functools.partial(_sample.defjvp, symbolic_zeros=True)
def _sample_jvp(orders, derivatives, primals, tangents):
    coefficients, positions = primals
    dc, dp = tangents
    out = _sample(coefficients, positions, orders, derivatives)
    terms = [] if _nothing(dc) else [_sample(dc, positions, orders, derivatives)]
    for axis, direction in enumerate(dp):
        higher = tuple(d + (k == axis) for k, d in enumerate(derivatives))
        if higher[axis] <= orders[axis] and not _nothing(direction):
            terms.append(_sample(coefficients, positions, orders, higher) * direction)
    return out, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(out)


def _nothing(tangent):
    return isinstance(tangent, SymbolicZero)
