"""Gradient descent and conjugate gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree
from diffimg.solve.problem import Problem
from diffimg.solve.result import Status
from diffimg.solve.solver import Solver


class DescentState(NamedTuple):
    """Iterate and step size."""

    x: Any
    step: jax.Array


@pytree
class GradientDescent(Solver):
    """x ← x − τ∇E(x) for a smooth problem; ``step_size`` τ defaults to 1/L, L the Lipschitz constant of ∇E.

    A given step size may be differentiated; the default is held constant in derivatives.
    """

    step_size: Any = None

    def __post_init__(self):
        if self.step_size is not None:
            check.minimum("step_size", self.step_size, 0.0, strict=True)

    def init(self, problem, x0):
        problem.require("GradientDescent")
        return DescentState(x0, first_step(self.step_size, problem, x0))

    def step(self, problem, state):
        tau = state.step if self.step_size is None else self.step_size
        return state._replace(x=tree.add(state.x, problem.grad(state.x), -tau))


def first_step(step_size: Any, problem: Problem, x0: Any) -> jax.Array:
    """The given step size, or 1/L (1 where L = 0).

    Raises:
        ValueError: if L is not finite. Where L is traced the step is NaN instead, which ends a run with NONFINITE.
    """
    dtype = tree.norm(x0).dtype
    if step_size is not None:
        return jnp.asarray(step_size, dtype)
    lipschitz = finite_lipschitz(problem, dtype)
    return jnp.where(lipschitz == 0, 1, 1 / jnp.where(lipschitz == 0, 1, lipschitz))


def finite_lipschitz(problem: Problem, dtype: Any) -> jax.Array:
    """L of the smooth part, held constant in derivatives. One that is not finite is refused; where it is traced it becomes NaN: from
    L = ∞ would follow a step of 0, after which every point looks converged."""
    lipschitz = jax.lax.stop_gradient(problem).lipschitz()
    if check.is_concrete(lipschitz) and not np.isfinite(lipschitz):
        remedy = "Give the solver a step size, use FISTA(backtracking=0.5), or smooth the energy (a background, a threshold)."
        check.fail("problem.lipschitz()", "a finite number", f"{lipschitz}", remedy)
    lipschitz = jnp.asarray(lipschitz, dtype)
    return jnp.where(jnp.isfinite(lipschitz), lipschitz, jnp.nan)


class ConjugateGradientState(NamedTuple):
    """Iterate, residual r = −∇E(x), search direction, ‖r‖², ‖r‖² that counts as zero, the last α and β, an upper bound on the
    eigenvalues of H seen so far, steps taken, status."""

    x: Any
    r: Any
    p: Any
    rr: jax.Array
    floor: jax.Array
    alpha: jax.Array
    beta: jax.Array
    largest: jax.Array
    count: jax.Array
    status: jax.Array


@pytree
class ConjugateGradient(Solver):
    """Conjugate gradients (Hestenes & Stiefel, 1952) for a *quadratic* smooth problem, e.g. least squares + Tikhonov.

    Works from ``problem.grad`` alone: Hessian products are exact derivatives of it. Reports INDEFINITE where ⟨p, Hp⟩ < 0, ASYMMETRIC where
    residuals are not orthogonal, and stands still once the residual is rounding error.

    The fixed point is that of a gradient step, whose Jacobian is symmetric, so ``Implicit`` may use "cg" and "minres" too;
    ``Truncated`` and ``JacobianFree`` differentiate such steps, because r and p hold the problem's parameters in their values.
    """

    def init(self, problem, x0):
        problem.require("ConjugateGradient")
        r = tree.scale(-1, problem.grad(x0))
        rr = tree.real_dot(r, r)
        one, zero = jnp.ones_like(rr), jnp.zeros_like(rr)
        floor = rr * jnp.finfo(rr.dtype).eps ** 2
        return ConjugateGradientState(x0, r, r, rr, floor, one, zero, zero, jnp.int32(0), jnp.int32(Status.COMPLETED))

    def step(self, problem, state):
        zero = tree.zeros_like(state.x)
        hp = jax.jvp(problem.grad, (zero,), (state.p,))[1]
        curvature = tree.real_dot(state.p, hp)
        done = state.rr <= state.floor
        flat = done | (curvature == 0)
        alpha = jnp.where(flat, 0, state.rr / jnp.where(flat, 1, curvature))
        x = tree.add(state.x, state.p, alpha)
        r = tree.add(state.r, hp, -alpha)
        rr = tree.real_dot(r, r)
        beta = jnp.where(done, 0, rr / jnp.where(done, 1, state.rr))
        p = tree.add(r, state.p, beta)
        # Gershgorin's bound for this row of the Lanczos matrix, whose eigenvalues are the Ritz values of H.
        safe = jnp.where(flat, 1, alpha)
        a, b, a0, b0 = jax.lax.stop_gradient((safe, beta, state.alpha, state.beta))
        row = 1 / a + jnp.sqrt(b) / a + (b0 + jnp.sqrt(b0)) / a0
        largest = jnp.where(flat, state.largest, jnp.maximum(state.largest, row))
        # residuals of a symmetric system are orthogonal
        condition = jnp.maximum(state.largest, 1 / safe) * tree.real_dot(state.p, state.p) / jnp.where(flat, 1, curvature)
        rounding = (jnp.sqrt(rr) + jnp.sqrt(state.rr)) ** 2 * (1 + condition)
        bound = 0.01 * jnp.sqrt(rr * state.rr) + 1000 * jnp.finfo(rr.dtype).eps * rounding
        skew = (jnp.abs(tree.real_dot(r, state.r)) > bound) & ~flat & (state.count < 5)  # later steps gather rounding
        status = jnp.where(skew, Status.ASYMMETRIC, Status.COMPLETED)
        status = jnp.where((curvature < 0) & ~done, Status.INDEFINITE, status).astype(jnp.int32)
        return ConjugateGradientState(x, r, p, rr, state.floor, safe, beta, largest, state.count + 1, status)

    def tail_step(self, problem, state):
        tau = 1 / jnp.where(state.largest > 0, state.largest, 1)
        return state._replace(x=tree.add(state.x, problem.grad(state.x), -jax.lax.stop_gradient(tau)))
