"""How good a registration is: landmarks, folding, smoothness of the Jacobian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.transform import Transform, determinant


def target_registration_error(transform: Transform, fixed_points: Any, moving_points: Any) -> jax.Array:
    """‖T(fixed) − moving‖ of each pair of landmarks, mm (TRE).

    Args:
        transform: fixed → moving.
        fixed_points, moving_points: ``[n, ndim]`` mm, array order.

    Returns:
        ``[n]``.

    Raises:
        ValueError: shapes do not fit.
    """
    moved = transform(fixed_points)
    moving_points = jnp.asarray(check.array("moving_points", moving_points), moved.dtype)
    check.shape("moving_points", moving_points, moved.shape, "like fixed_points")
    return jnp.sqrt(jnp.sum((moved - moving_points) ** 2, -1))


def folding(transform: Transform, grid: Grid) -> jax.Array:
    """The share of inner samples (not on the border) whose Jacobian determinant is not positive, 0 … 1."""
    return jnp.mean(_inner(transform, grid) <= 0)


def log_jacobian_deviation(transform: Transform, grid: Grid, learn2reg: bool = False) -> jax.Array:
    """Standard deviation of log det ∂T/∂x over inner samples (SDlogJ); determinants below 1e-9 count as 1e-9.

    ``learn2reg``: as the challenge's evaluation computes it: central differences of the displacement in samples, two samples left out
    on every side, and log(clip(det + 3, 1e-9, 1e9)), whose deviation is about a quarter as large: compare like with like.
    """
    if not learn2reg:
        return jnp.std(jnp.log(jnp.maximum(_inner(transform, grid), 1e-9)))
    small = [n for n in grid.shape if n < 5]
    if small:
        check.fail("grid", "5 samples or more along each axis, for Learn2Reg's definition", f"{min(small)}")
    u = transform.displacement(grid)  # mm along the world's axes → samples along the grid's
    u = jnp.einsum("jk,...j->...k", jnp.asarray(grid.direction, u.dtype), u, precision="highest") / jnp.asarray(grid.spacing, u.dtype)
    inside = (slice(2, -2),) * grid.ndim
    rows = [[jnp.gradient(u[..., k], axis=j)[inside] + (k == j) for j in range(grid.ndim)] for k in range(grid.ndim)]
    return jnp.std(jnp.log(jnp.clip(determinant(rows) + 3, 1e-9, 1e9)))


def _inner(transform, grid):
    determinant = transform.jacobian_determinant(grid)
    return determinant[tuple(slice(1, -1) if n > 2 else slice(None) for n in grid.shape)]
