"""The proximal gradient method and its acceleration, FISTA."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static
from diffimg.solve.descent import first_step
from diffimg.solve.problem import Problem
from diffimg.solve.result import Status
from diffimg.solve.solver import Solver, relative_change


class ProximalState(NamedTuple):
    """Iterate, step size, the prox's auxiliary (dual) variable, status."""

    x: Any
    step: jax.Array
    auxiliary: Any
    status: jax.Array


def _check_step(step_size, backtracking):
    if step_size is not None:
        check.minimum("step_size", step_size, 0.0, strict=True)
    check.minimum("backtracking", backtracking, 0.0)
    if backtracking >= 1:
        check.fail("backtracking", "a shrink factor in (0, 1), or 0 for none", repr(backtracking), "0.5 halves the step.")


_TRIALS = 60  # 0.5⁶⁰ ≈ 1e-18


def _backtrack(problem: Problem, y: Any, value: Any, gradient: Any, step: Any, auxiliary: Any, factor: float) -> tuple[Any, Any]:
    """The largest step·factorⁿ with f(x) ≤ f(y) + ⟨∇f, x−y⟩ + ‖x−y‖²/(2 step), x = prox(y − step ∇f); and whether there is one.

    ``value`` is f(y). No step leads to an x where f is not finite, and none leads away from such a y: there the inequality says nothing.
    Where the difference of values drowns in rounding, the curvature is read from the gradients (as in TFOCS; Becker, Candès & Grant, 2011),
    up to their own rounding, so that the step does not collapse at the solution.
    """
    problem, y, value, gradient, step, auxiliary = jax.lax.stop_gradient((problem, y, value, gradient, step, auxiliary))
    eps = jnp.finfo(step.dtype).eps

    def trial(tau):
        x, _ = problem.prox(tree.add(y, gradient, -tau), tau, auxiliary)
        d = tree.add(x, y, -1)
        allowed = tree.real_dot(d, d) / tau

        def from_values():
            reached = problem.smooth(x)
            return 2 * (reached - value - tree.real_dot(gradient, d)).astype(step.dtype), jnp.isfinite(reached)

        def from_gradients():
            reached, slope = problem.smooth.value_and_grad(x)
            rounding = 10 * eps * tree.norm(d) * (tree.norm(gradient) + tree.norm(x) / tau)
            return (tree.real_dot(d, tree.add(slope, gradient, -1)) - rounding).astype(step.dtype), jnp.isfinite(reached)

        curvature, inside = jax.lax.cond(allowed > 1e2 * eps * jnp.abs(value), from_values, from_gradients)
        excessive = ~(curvature <= allowed)  # so that NaN is
        return excessive | ~inside | ~jnp.isfinite(value), allowed > 0

    def shrink(loop):
        tau, n, *_ = loop
        tau = tau * factor
        return tau, n + 1, *trial(tau)

    tau, n, excessive, moves = jax.lax.while_loop(lambda s: s[2] & (s[1] < _TRIALS), shrink, (step, 0, *trial(step)))
    return tau, ~excessive & (moves | (n == 0))  # a step that was shrunk until x stayed the same is none


@pytree
class ProximalGradient(Solver):
    """Proximal gradient method (ISTA): x ← prox_{τh}(x − τ∇f(x)); objective error O(1/k).

    ``step_size`` τ defaults to 1/L. ``backtracking`` in (0, 1): shrink factor of a line search that starts from the last step
    (from ``step_size`` or 1 first), where L is unknown; 0: none. It takes no step to where the smooth energy is not finite.
    Derivatives hold a default or searched step constant.
    """

    step_size: Any = None
    backtracking: float = static(default=0.0)

    def __post_init__(self):
        _check_step(self.step_size, self.backtracking)

    def init(self, problem, x0):
        problem.require("ProximalGradient", proximable=True)
        step = 1.0 if self.backtracking and self.step_size is None else self.step_size
        return ProximalState(x0, first_step(step, problem, x0), problem.prox_start(x0), jnp.int32(Status.COMPLETED))

    def step(self, problem, state):
        gradient = problem.grad(state.x)
        value = problem.smooth(state.x) if self.backtracking else None
        tau, ok = _step_size(self, problem, state.x, value, gradient, state)
        x, auxiliary = problem.prox(tree.add(state.x, gradient, -tau), tau, state.auxiliary)
        return ProximalState(x, _kept(self, state, tau), auxiliary, ok)

    def variables(self, state):
        return state.x, state.auxiliary

    def with_variables(self, state, z):
        return state._replace(x=z[0], auxiliary=z[1])


def _step_size(solver, problem, y, value, gradient, state):
    """The step to take and the status; a given step size is read from the solver, so that gradients reach it at every step."""
    ok = jnp.int32(Status.COMPLETED)
    if solver.backtracking:
        tau, found = _backtrack(problem, y, value, gradient, state.step, state.auxiliary, solver.backtracking)
        return tau, jnp.where(found, ok, Status.LINE_SEARCH).astype(jnp.int32)
    return (state.step if solver.step_size is None else solver.step_size), ok


def _kept(solver, state, tau):
    return jnp.asarray(tau, state.step.dtype) if solver.backtracking else state.step


class FISTAState(NamedTuple):
    """As ``ProximalState``, with the extrapolated point y, momentum t, length of the last prox-gradient step from y, and (for
    ``monotone``) the objective at x."""

    x: Any
    y: Any
    t: jax.Array
    step: jax.Array
    auxiliary: Any
    moved: jax.Array
    objective: jax.Array
    status: jax.Array


@pytree
class FISTA(Solver):
    """Accelerated proximal gradient (Beck & Teboulle, 2009): objective error O(1/k²).

    ``restart``: drop the momentum where ⟨y − x⁺, x⁺ − x⟩ > 0 (O'Donoghue & Candès, 2015). ``monotone``: never let the objective rise
    (MFISTA), for one more objective a step. ``step_size``, ``backtracking``: as in ``ProximalGradient``; backtracking also drops the
    momentum where y left the domain of the smooth energy.
    """

    step_size: Any = None
    backtracking: float = static(default=0.0)
    restart: bool = static(default=True)
    monotone: bool = static(default=False)

    def __post_init__(self):
        _check_step(self.step_size, self.backtracking)

    def init(self, problem, x0):
        problem.require("FISTA", proximable=True)
        step = 1.0 if self.backtracking and self.step_size is None else self.step_size
        tau = first_step(step, problem, x0)
        objective = problem(x0).astype(tau.dtype) if self.monotone else jnp.zeros((), tau.dtype)
        one = jnp.ones((), tau.dtype)
        return FISTAState(x0, x0, one, tau, problem.prox_start(x0), jnp.zeros_like(one), objective, jnp.int32(Status.COMPLETED))

    def step(self, problem, state):
        start, value, momentum = state.y, None, state.t
        if self.backtracking:
            start, value, momentum = self._within_domain(problem, state)
        gradient = problem.grad(start)
        tau, ok = _step_size(self, problem, start, value, gradient, state)
        z, auxiliary = problem.prox(tree.add(start, gradient, -tau), tau, state.auxiliary)
        t = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        x, objective = z, state.objective
        if self.monotone:
            value = problem(z).astype(objective.dtype)
            better = value <= state.objective
            x, objective = tree.where(better, z, state.x), jnp.where(better, value, state.objective)
        moved = tree.add(x, state.x, -1)
        y = tree.add(x, moved, (momentum - 1) / t)
        if self.monotone:
            y = tree.add(y, tree.add(z, x, -1), momentum / t)
        if self.restart:
            forth = tree.add(z, state.x, -1)
            back = tree.real_dot(tree.add(start, z, -1), forth) > 0
            y, t = tree.where(back, x, y), jnp.where(back, 1.0, t).astype(t.dtype)
        length = jax.lax.stop_gradient(tree.norm(jax.lax.stop_gradient(tree.add(z, start, -1))))
        return FISTAState(x, y, t, _kept(self, state, tau), auxiliary, length, objective, ok)

    def _within_domain(self, problem, state):
        """(y, f(y), t), or those of a fresh start from x where the extrapolation left the domain of f."""
        fixed, x, y = jax.lax.stop_gradient((problem, state.x, state.y))
        ahead = fixed.smooth(y)
        inside = jnp.isfinite(ahead)
        value = jax.lax.cond(inside, lambda: ahead, lambda: fixed.smooth(x))
        return tree.where(inside, state.y, state.x), value, jnp.where(inside, state.t, 1).astype(state.t.dtype)

    def residual(self, old, new):
        """The larger of ‖x⁺ − x‖ and the prox-gradient step from y (``monotone`` may leave x where it is), relative to ‖x⁺‖."""
        size = tree.norm(new.x)
        return jnp.maximum(relative_change(old.x, new.x), new.moved / jnp.maximum(size, jnp.finfo(size.dtype).tiny))

    def variables(self, state):
        return state.x, state.auxiliary

    def with_variables(self, state, z):
        big = jnp.asarray(jnp.inf, state.objective.dtype)
        return state._replace(x=z[0], y=z[0], t=jnp.ones_like(state.t), auxiliary=z[1], objective=big)
