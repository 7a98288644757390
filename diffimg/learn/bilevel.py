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
    if not isinstance(batch, dict) or "truth" not in batch:
        got = f"a dict with {', '.join(map(repr, batch))}" if isinstance(batch, dict) else type(batch).__name__
        check.fail("batch", 'a dict with "truth", for the default outer', got, "Or pass outer=.")
    truth = batch["truth"]
    check.shape('batch["truth"]', truth, jnp.shape(x), remedy="The solution has that shape.")
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

    A weight must stay ≥ 0: learn its logarithm, ``lower`` taking exp of it.
    The log shows how many iterations the lower problem took, its last relative change and whether it converged: implicit gradients are
    right only where it did. With ``Implicit`` it also shows ``adjoint_residual``, how well the linear system of the gradient was solved.
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
        if not isinstance(self.solver, Solver):
            check.fail("solver", "a Solver such as FISTA()", repr(self.solver))
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

        value = jax.value_and_grad(lambda params, probe: self._probed(params, batch, None, probe), (0, 1), has_aux=True)
        (loss, report), (gradient, residual) = value(params, jnp.zeros(()))
        if isinstance(self.gradient, Implicit):
            report["adjoint_residual"] = residual
        return loss, gradient, report

    @property
    def probed(self) -> Callable[..., Any] | None:
        """``loss(params, batch, key, probe)`` for ``learn.train``, which logs the slope in the probe: the adjoint system's residual."""
        return self._probed if isinstance(self.gradient, Implicit) else None

    def _probed(self, params, batch, key, probe):
        rule = replace(self.gradient, probe=probe) if isinstance(self.gradient, Implicit) else self.gradient
        return self._evaluate(params, batch, rule)

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
