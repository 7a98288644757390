"""Levenberg–Marquardt: Gauss–Newton steps for sums of squares with few unknowns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy
from diffimg.energy.data import LeastSquares
from diffimg.solve.quasi_newton import change_of
from diffimg.solve.solver import Solver


class LevenbergMarquardtState(NamedTuple):
    """Iterate, its energy, gradient ``[n]``, Gauss–Newton matrix ``[n, n]``, damping, whether the last trial was taken, and the part of
    the energy that it was expected to save."""

    x: Any
    value: jax.Array
    gradient: jax.Array
    matrix: jax.Array
    damping: jax.Array
    taken: jax.Array
    promise: jax.Array


@pytree
class LevenbergMarquardt(Solver):
    """x⁺ = x − (H + λ diag H)⁻¹ ∇E(x), H the Gauss–Newton matrix JᵀJ; λ falls after a success and rises after a failure.

    The smooth term is a ``LeastSquares`` with any differentiable operator, or an energy with ``gauss_newton(x) → (value, gradient,
    matrix)`` over the entries of x in the order of ``jax.flatten_util.ravel_pytree``. For up to some hundred real unknowns.

    Args:
        damping: λ to begin with.
        typical: as in ``LBFGS``.

    Raises:
        ValueError: the smooth term is no such energy.

    D. Marquardt, Journal of SIAM 1963.
    """

    damping: Any = 1e-3
    typical: Any = 0.0

    def __post_init__(self):
        check.minimum("damping", self.damping, 0, strict=True)
        check.minimum("typical", self.typical, 0)

    def init(self, problem, x0):
        problem.require("LevenbergMarquardt")
        value, gradient, matrix = gauss_newton(problem.smooth, x0)
        damping = jnp.asarray(self.damping, gradient.dtype)
        return LevenbergMarquardtState(x0, value, gradient, matrix, damping, jnp.bool_(True), jnp.ones_like(damping))

    def step(self, problem, state):
        move, expected = self._move(state.gradient, state.matrix, state.damping)
        x = tree.add(state.x, _like(move, state.x))
        value, gradient, matrix = gauss_newton(problem.smooth, x)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(matrix))
        good = finite & (value < state.value)
        pick = lambda a, b: jnp.where(good, a, b)  # noqa: E731
        return LevenbergMarquardtState(
            tree.where(good, x, state.x),
            pick(value, state.value),
            pick(gradient, state.gradient),
            pick(matrix, state.matrix),
            jnp.clip(pick(state.damping / 10, state.damping * 10), 1e-9, 1e12),
            good,
            (expected / jnp.maximum(jnp.abs(state.value), jnp.finfo(value.dtype).tiny)).astype(state.promise.dtype),
        )

    def _move(self, gradient, matrix, damping):
        """(−(H + λ diag H)⁻¹ g, the energy that the quadratic model saves), scaled to unit diagonal."""
        diagonal = jnp.diagonal(matrix)
        size = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
        scaled = matrix * size[:, None] * size + (damping + 10 * jnp.finfo(matrix.dtype).eps) * jnp.eye(len(size), dtype=matrix.dtype)
        move = -size * jax.scipy.linalg.solve(scaled, size * gradient, assume_a="pos")
        return move, -(jnp.vdot(gradient, move) + 0.5 * jnp.vdot(move, matrix @ move))

    def objective(self, problem, state):
        return state.value, state.value

    def tail_step(self, problem, state):
        # one undamped step with the matrix held: its fixed point is where the gradient vanishes
        gradient = ravel_pytree(problem.grad(state.x))[0]
        matrix = jax.lax.stop_gradient(gauss_newton(problem.smooth, state.x)[2])
        return state._replace(x=tree.add(state.x, _like(self._move(gradient, matrix, 0.0)[0], state.x)))

    def residual(self, old, new):
        nothing_left = new.promise <= 16 * jnp.finfo(new.promise.dtype).eps
        given_up = new.damping >= 1e9
        moved = jnp.where(new.taken, change_of(old.x, new.x, self.typical), 1.0)
        return jnp.where(nothing_left | given_up, 0.0, moved)


def gauss_newton(energy: Energy, x: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(E(x), gradient ``[n]``, Gauss–Newton matrix ``[n, n]``) over the raveled entries of x.

    Raises:
        ValueError: no sum of squares, complex x, or more than 4096 unknowns.
    """
    if hasattr(energy, "gauss_newton"):
        return energy.gauss_newton(x)  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(energy, LeastSquares):
        remedy = "Give it a method gauss_newton(x) → (value, gradient, matrix), or take LBFGS()."
        check.fail("problem.smooth", "LeastSquares, or an energy with gauss_newton", f"{energy!r}", remedy)
    flat, back = ravel_pytree(x)
    if jnp.iscomplexobj(flat) or flat.size > 4096:
        check.fail("x0", "at most 4096 real unknowns", f"{flat.size} of {flat.dtype}", "LBFGS() takes any number.")

    def residual(v):
        r = jax.tree.map(jnp.subtract, energy.operator(back(v)), energy.y)
        weights = energy.weights
        scaled = r if weights is None else jax.tree.map(lambda a, w: a * jnp.sqrt(w), r, weights)
        parts = [jnp.stack([a.real, a.imag]) if jnp.iscomplexobj(a) else a for a in jax.tree.leaves(scaled)]
        return jnp.concatenate([p.ravel() for p in parts])

    r, push = jax.linearize(residual, flat)
    columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))
    product = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731
    return 0.5 * jnp.vdot(r, r, precision="highest"), product(columns, r), product(columns, columns.T)


def _like(vector, x):
    return ravel_pytree(x)[1](vector)
