"""B-splines on a lattice of control points: their values along the axes of a grid, and the integrals of their products."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.spline import bspline

_SLACK = 1e-4  # of a cell: points on the edge of the domain belong to it, in float32 too


def spline_lattice(domain: Grid, spacing: Any = None, mesh: Any = None, order: int = 3) -> Grid:
    """The control points of a B-spline on all cells of ``domain`` (half a sample beyond the first and last).

    Args:
        domain: an image's grid.
        spacing: about this many mm a cell, one number or one an axis; or
        mesh: exactly this many cells, one number or one an axis.
        order: of the spline; the lattice reaches (order − 1)/2 cells beyond the domain.

    Raises:
        ValueError: neither or both are given, or a number that is not positive.
    """
    if (spacing is None) == (mesh is None):
        check.fail("spacing, mesh", "one of the two", "both or neither", "spacing=20.0 is in mm, mesh=(6, 6, 6) counts cells.")
    length = np.asarray(domain.extent)
    if mesh is None:
        cells = np.broadcast_to(np.asarray(spacing, float), length.shape)
        check.minimum("spacing", cells, 0, strict=True, remedy="In mm.")
        mesh = np.maximum(1, np.round(length / cells)).astype(int)
    mesh = [check.positive_int("mesh", n) for n in np.broadcast_to(np.asarray(mesh), length.shape).tolist()]
    steps = length / np.asarray(mesh)
    before = np.asarray(domain.spacing) / 2 + steps * (order - 1) / 2
    origin = np.asarray(domain.origin) - np.asarray(domain.direction) @ before
    return Grid(tuple(m + order for m in mesh), tuple(steps.tolist()), tuple(origin.tolist()), domain.direction)


@functools.lru_cache(256)
def basis(grid: Grid, lattice: Grid, order: int, axis: int, derivative: int = 0) -> np.ndarray:
    """float64 ``[grid.shape[axis], lattice.shape[axis]]``: the B-splines along one axis of a grid of the lattice's direction, 1/mmᵈ."""
    along = np.asarray(grid.direction)[:, axis]
    start = float(along @ (np.asarray(grid.origin) - np.asarray(lattice.origin)))
    index = (start + np.arange(grid.shape[axis]) * grid.spacing[axis]) / lattice.spacing[axis]
    n, low = lattice.shape[axis], (order - 1) / 2
    index = np.where(np.abs(index - low) < _SLACK, low, np.where(np.abs(index - (n - 1 - low)) < _SLACK, n - 1 - low, index))
    inside = (index >= low) & (index <= n - 1 - low)
    return np.where(inside[:, None], _values(index[:, None] - np.arange(n), order, derivative), 0) / lattice.spacing[axis] ** derivative


@functools.lru_cache(256)
def gram(cells: int, step: float, order: int, first: int, second: int) -> np.ndarray:
    """float64 ``[cells + order]²``: ∫ β_i^(first) β_j^(second) dx over a domain of ``cells`` cells of ``step`` mm; exact."""
    nodes, weights = np.polynomial.legendre.leggauss(order + 1)
    x = (np.arange(cells)[:, None] + (nodes + 1) / 2).ravel() + (order - 1) / 2
    w = np.tile(weights / 2, cells) * step
    difference = x[:, None] - np.arange(cells + order)
    a, b = (_values(difference, order, d) / step**d for d in (first, second))
    return a.T @ (w[:, None] * b)


def separable(coefficients: Any, matrices: Any) -> jax.Array:
    """Apply one matrix along each of the leading axes of ``[*lattice, …]``."""
    out = coefficients
    for axis, matrix in enumerate(matrices):
        out = jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, out.dtype), out, axes=(1, axis), precision="highest"), 0, axis)
    return out


def second_derivatives(ndim: int) -> list[tuple[int, tuple[int, ...]]]:
    """(how often it counts, derivative along each axis) of the entries of a Hessian: pure ones once, mixed ones twice."""
    out = []
    for a in range(ndim):
        for b in range(a, ndim):
            out.append((1 if a == b else 2, tuple((k == a) + (k == b) for k in range(ndim))))
    return out


def bending(coefficients: Any, lattice: Grid, order: int) -> jax.Array:
    """∫ ‖∇²f‖²_F dx over the domain, f = Σ c β, coefficients ``[*lattice.shape, …]`` (summed over what follows); in closed form."""
    total = jnp.zeros((), coefficients.dtype)
    for count, derivatives in second_derivatives(lattice.ndim):
        matrices = [
            gram(n - order, h, order, d, d) for n, h, d in zip(lattice.shape, lattice.spacing, derivatives, strict=True)
        ]
        total = total + count * jnp.sum(coefficients * separable(coefficients, matrices))
    return total


def _values(x, order, derivative):
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(bspline(x, order, derivative))
