"""B-splines on a uniform grid: the basis, its weights, and the coefficients that interpolate samples."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check

ORDERS = (0, 1, 2, 3, 4, 5)
MODES = ("nearest", "mirror", "reflect", "grid-wrap", "wrap", "constant", "grid-constant")
_EDGE = 12  # samples by which images without a symmetry are extended before their coefficients are taken (SciPy's choice)
_BLOCK, _HALO = 256, 48  # long axes: the inverse filter decays by 0.43 a sample or faster


def bspline(x: Any, order: int, derivative: int = 0) -> jax.Array:
    """The centred B-spline βⁿ(x), the box β⁰ convolved n times with itself, or a derivative of it.

    Args:
        x: positions, any shape, in units of the knots.
        order: n = 0 … 5 (the degree); the support is |x| < (n+1)/2.
        derivative: how many times to differentiate, at most ``order``.

    Returns:
        Values shaped like ``x``. β⁰(±½) = ½, as in the convolution's limit.

    Raises:
        ValueError: an order or derivative outside 0 … 5.
    """
    _check_order(order)
    if derivative not in range(order + 1):
        check.fail("derivative", f"0 … {order}, the order", repr(derivative), "Beyond it the derivative is no function.")
    x = jnp.asarray(check.array("x", x))
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    if order == 0:
        return jnp.where(jnp.abs(x) == 0.5, 0.5, (jnp.abs(x) < 0.5) * 1.0).astype(x.dtype)
    position = x + (order + 1) / 2
    piece = jnp.floor(position)
    weights = tap_weights(position - piece, order, derivative)
    out = jnp.zeros_like(x)
    for k, value in enumerate(weights):  # tap k sees piece order − k
        out = jnp.where(piece == order - k, value, out)
    return out


def tap_weights(fraction: Any, order: int, derivative: int = 0) -> list[Any]:
    """βⁿ at the n+1 neighbours of a point, first neighbour ⌊x − (n−1)/2⌋; ``fraction`` = x − (n−1)/2 − ⌊…⌋ in [0, 1)."""
    weights = []
    for coefficients in _pieces(order)[::-1]:
        for _ in range(derivative):
            coefficients = [k * c for k, c in enumerate(coefficients)][1:]
        value = jnp.full_like(fraction, float(coefficients[-1]))
        for c in coefficients[-2::-1]:
            value = value * fraction + float(c)
        weights.append(value)
    return weights


@functools.lru_cache(None)
def _pieces(order: int) -> tuple[tuple[Fraction, ...], ...]:
    """Polynomials in t ∈ [0, 1) of βⁿ on its n+1 unit intervals, lowest power first, by the recursion βⁿ = βⁿ⁻¹ * β⁰."""
    if order == 0:
        return ((Fraction(1),),)
    last = _pieces(order - 1)
    integrals = [[Fraction(0)] + [c / (k + 1) for k, c in enumerate(p)] for p in last]
    zero = [Fraction(0)] * (order + 1)
    out = []
    for j in range(order + 1):  # ∫₀ᵗ of this piece + ∫ₜ¹ of the one before
        here = integrals[j] if j < order else zero
        before = integrals[j - 1] if j > 0 else zero
        polynomial = [a - b for a, b in zip(here, before, strict=True)]
        polynomial[0] += sum(before)
        out.append(tuple(polynomial))
    return tuple(out)


def spline_coefficients(image: Any, order: int, mode: str = "mirror", ndim: int | None = None, cval: Any = 0.0) -> jax.Array:
    """Coefficients c with Σ_k c[k] βⁿ(i − k) = image[i]: what ``interpolate(…, prefilter=False)`` takes.

    The system of each axis is inverted once (float64) and applied as a matrix product, in blocks on long axes; linear and
    differentiable in the image.

    Args:
        image: ``[..., *samples]``, floating or complex.
        order: 0 … 5; for 0 and 1 the coefficients are the samples.
        mode: how the image goes on outside, as in ``interpolate``.
        ndim: how many trailing axes to filter; default all.
        cval: value outside for ``mode="grid-constant"``.

    Returns:
        The coefficients; ``padding(order, mode)`` longer at either end of each axis than the samples.

    Raises:
        ValueError: order, mode or dtype do not fit.

    M. Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 1999.
    """
    _check_order(order)
    check.one_of("mode", mode, MODES)
    image = jnp.asarray(check.array("image", image))
    ndim = image.ndim if ndim is None else ndim
    if order < 2:
        return image
    check.inexact("image", image)
    outside = jnp.asarray(cval if mode == "grid-constant" else 0.0, image.dtype)
    out = image - outside
    for axis in range(image.ndim - ndim, image.ndim):
        out = _filtered(out, axis, order, mode)
    return out + outside


def padding(order: int, mode: str) -> int:
    """Samples that ``spline_coefficients`` adds at either end of an axis."""
    return _EDGE if order > 1 and mode in ("nearest", "grid-constant") else 0


def _filtered(x, axis, order, mode):
    n = x.shape[axis]
    extra = padding(order, mode)
    if n + 2 * extra <= 2 * _BLOCK:
        return _along(x, jnp.asarray(_inverse(n, order, mode), x.real.dtype), axis)
    total = n + 2 * extra
    blocks = -(-total // _BLOCK)
    reach = blocks * _BLOCK + 2 * _HALO
    index = np.arange(reach) - _HALO - extra
    edge = {"nearest": "nearest", "grid-constant": "zero"}.get(mode)
    if edge is None:
        source, inside = fold_index(index, n, symmetry(mode)), np.ones(reach, bool)
    else:  # the extension of the samples, then the filter's own symmetry
        padded = fold_index(np.arange(reach) - _HALO, total, symmetry(mode)) - extra
        inside = (padded >= 0) & (padded < n) | (edge == "nearest")
        source = np.clip(padded, 0, n - 1)
    x = jnp.moveaxis(x, axis, -1)[..., source] * jnp.asarray(inside, x.dtype)
    windows = jnp.stack([x[..., k * _BLOCK : (k + 1) * _BLOCK + 2 * _HALO] for k in range(blocks)], -2)
    middle = _inverse(_BLOCK + 2 * _HALO, order, "mirror")[_HALO:-_HALO]
    out = _along(windows, jnp.asarray(middle, x.real.dtype), windows.ndim - 1)
    return jnp.moveaxis(out.reshape(*out.shape[:-2], -1)[..., :total], -1, axis)


def _along(x, matrix, axis):
    return jnp.moveaxis(jnp.tensordot(x, matrix.astype(x.dtype), axes=(axis, 1), precision="highest"), -1, axis)


@functools.lru_cache(64)
def _inverse(n: int, order: int, mode: str) -> np.ndarray:
    """float64 ``[n + 2·padding, n]``: samples → coefficients along one axis."""
    extra = padding(order, mode)
    total = n + 2 * extra
    values = sampled_bspline(order)
    matrix = np.zeros((total, total))
    rows = np.arange(total)
    for k, value in enumerate(values):
        np.add.at(matrix, (rows, fold_index(rows + k - len(values) // 2, total, symmetry(mode))), value)
    inverse = np.linalg.inv(matrix)
    if mode == "nearest":
        extension = np.zeros((total, n))
        extension[rows, np.clip(rows - extra, 0, n - 1)] = 1
        return inverse @ extension
    return inverse[:, extra : extra + n]


def sampled_bspline(order: int) -> np.ndarray:
    """βⁿ at the integers −⌊n/2⌋ … ⌊n/2⌋, float64."""
    half = order // 2
    t = Fraction(0) if order % 2 else Fraction(1, 2)
    values = [sum(c * t**k for k, c in enumerate(p)) for p in _pieces(order)]
    values = values[1:] if order % 2 else values  # at the first knot an odd spline is 0
    assert len(values) == 2 * half + 1
    return np.asarray([float(v) for v in values])


def symmetry(mode: str) -> str:
    """The symmetry of the coefficients: ``"reflect"``, ``"mirror"`` or ``"grid-wrap"``."""
    return {"nearest": "reflect", "reflect": "reflect", "grid-wrap": "grid-wrap"}.get(mode, "mirror")


def fold_index(index: np.ndarray, n: int, kind: str) -> np.ndarray:
    """The sample in 0 … n−1 that a symmetric or periodic signal has at integer positions."""
    if kind == "grid-wrap":
        return index % n
    if kind == "reflect":
        index = index % (2 * n)
        return np.where(index < n, index, 2 * n - 1 - index)
    period = max(2 * n - 2, 1)
    index = index % period
    return np.where(index < n, index, period - index)


def _check_order(order: Any) -> None:
    if isinstance(order, bool) or order not in ORDERS:
        check.fail("order", "a B-spline order 0 … 5", repr(order), "1 is linear, 3 cubic.")
