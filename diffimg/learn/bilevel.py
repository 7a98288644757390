"""Bilevel learning: parameters of an energy, a step size or the physics, such that the *minimiser* is good."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.solve import FISTA, GradientRule, Implicit, Problem, Solver, Status, run


def _mean_square(x, batch):
    truth = batch["truth"]
    error = x - truth
    return jnp.mean((error * jnp.conj(error)).real)


@dataclasses.dataclass(frozen=True)
class Bilevel:
    """``loss(params, batch, key)`` for ``learn.train``: outer(x*(params), batch) with x* = argmin of lower(params, batch).

    Args:
        lower: ``lower(params, batch) → (Problem, x0)``, the problem to solve for a batch and where to start. Whatever ``params`` reach is
            learned: filters, weight maps, λ, sampling masks, angles.
        outer: ``outer(x, batch) → scalar``; by default the mean square of x − batch["truth"].
        solver, steps, tolerance, gradient: as in ``solve.run``. For smooth lower problems ``Implicit("cg")`` is the cheapest exact rule
            where they are convex, "minres" where not; with a proximable term take "gmres" or "bicgstab".

    The log shows how many iterations the lower problem took, its last relative change and whether it converged: implicit gradients are
    right only where it did. ``hypergradient`` reports the adjoint system's residual as well.
    """

    lower: Callable[[Any, Any], tuple[Problem, Any]]
    outer: Callable[[Any, Any], Any] = _mean_square
    solver: Solver = dataclasses.field(default_factory=FISTA)
    steps: int = 200
    tolerance: float = 1e-4
    gradient: GradientRule = dataclasses.field(default_factory=Implicit)

    def __post_init__(self):
        for name in ("lower", "outer"):
            if not callable(getattr(self, name)):
                check.fail(name, "a function", check.describe(getattr(self, name)))
        if not isinstance(self.gradient, GradientRule):
            check.fail("gradient", "a gradient rule", repr(self.gradient), "Unroll(), Checkpoint(), Truncated(last), Implicit() …")

    def __call__(self, params: Any, batch: Any, key: Any = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self._evaluate(params, batch, self.gradient)

    def solve(self, params: Any, batch: Any) -> Any:
        """The lower problem's ``Result``."""
        problem, x0 = self._lower(params, batch)
        return run(self.solver, problem, x0, self.steps, self.tolerance, self.gradient, objective_every=0)

    def hypergradient(self, params: Any, batch: Any) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """(loss, its gradient, report); the report has ``adjoint_residual``, that of the linear system, where the rule is ``Implicit``."""

        def value(params, probe):
            rule = replace(self.gradient, probe=probe) if isinstance(self.gradient, Implicit) else self.gradient
            return self._evaluate(params, batch, rule)

        (loss, report), (gradient, residual) = jax.value_and_grad(value, (0, 1), has_aux=True)(params, jnp.zeros(()))
        if isinstance(self.gradient, Implicit):
            report["adjoint_residual"] = residual
        return loss, gradient, report

    def _lower(self, params, batch):
        pair = self.lower(params, batch)
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Problem)):
            check.fail("lower", "a function that returns (Problem, x0)", f"one that returns {check.describe(pair)}")
        return pair

    def _evaluate(self, params, batch, rule):
        problem, x0 = self._lower(params, batch)
        result = run(self.solver, problem, x0, self.steps, self.tolerance, rule, objective_every=0)
        value = self.outer(result.x, batch)
        last = result.residual[jnp.maximum(result.iterations - 1, 0)]
        converged = (result.status == Status.CONVERGED).astype(last.dtype)
        report = {"lower_iterations": result.iterations, "lower_residual": last, "lower_converged": converged}
        return value, jax.lax.stop_gradient(report)
