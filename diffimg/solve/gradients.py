"""How the gradient of a solution with respect to everything before it is computed: an object handed to ``run``.

Which one? ``Unroll`` is exact for the number of steps taken and stores all of them; ``Checkpoint`` the same in O(√steps)
memory for one more forward pass; ``Implicit`` is exact at convergence with memory independent of the steps;
``Truncated`` and ``JacobianFree`` are cheap and biased.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static


class GradientRule:
    """Base of the gradient rules."""


@dataclasses.dataclass(frozen=True)
class Unroll(GradientRule):
    """Differentiate through every step (reverse and forward mode); memory grows with the steps.

    The gradient of a run that ended NONFINITE is NaN.
    """


@dataclasses.dataclass(frozen=True)
class Checkpoint(GradientRule):
    """As ``Unroll``, keeping one state in ``every`` steps (default ⌈√steps⌉) and computing the others again."""

    every: int | None = None

    def __post_init__(self):
        if self.every is not None:
            check.positive_int("every", self.every)


@dataclasses.dataclass(frozen=True)
class Truncated(GradientRule):
    """Differentiate through the ``last`` steps only (Shaban et al., 2019): biased, with an error that decays geometrically in ``last``
    for a contraction. ``last`` ≥ steps is ``Unroll``. With a tolerance, the ``last`` steps are taken after the others have converged."""

    last: int

    def __post_init__(self):
        check.positive_int("last", self.last)


@dataclasses.dataclass(frozen=True)
class JacobianFree(GradientRule):
    """One step at the solution: dL/dθ ≈ (∂_θT)ᵀ ∇L (Fung et al., 2022). Biased by design; equals ``Truncated(1)`` at the fixed point.

    The smaller the step, the smaller (and the more biased in length) the gradient; its direction is what is useful.
    """


@pytree
class Implicit(GradientRule):
    """Implicit function theorem at the fixed point z = T(z, θ): dL/dθ = (∂_θT)ᵀ w with (I − ∂_zT)ᵀ w = ∇_zL.

    ``linear_solver``: "gmres" (default; ``restart`` vectors are kept) or "bicgstab" for any solver; "cg" or "minres" only where ∂_zT is
    symmetric (``GradientDescent`` and ``ConjugateGradient``; for "cg" also a convex problem): met with another, they give NaN.
    ``tolerance``: relative residual of the linear system, found in at most ``max_steps`` products with (∂_zT)ᵀ. Reverse mode only, and
    first order: the answer does not depend on x0. Memory does not depend on the number of steps.

    When it holds. z must have converged (run to a small ``tolerance``), T must be differentiable there (thresholds and bounds must
    not be hit exactly: a stable support), and x must be locally unique. Dual variables need not be: then I − ∂_zT is singular, but the
    system is consistent and Krylov methods solve it, as long as the eigenvalue 1 of ∂_zT is semisimple (true of averaged maps: proximal
    gradient, ADMM, primal-dual). Where x itself is not unique the gradient does not exist, and the residual stays large.
    A warm-started prox must answer to its input at the solution (``TotalVariation`` always takes a block of steps): one that returns
    its stored dual unchanged makes the dual a constant, and the gradient wrong (so for ``Truncated`` and ``JacobianFree``).

    ``probe``: its "gradient" is the relative residual that the adjoint system reached, summed over a vmapped batch. To read it,
    differentiate with respect to it: ``jax.grad(lambda p: loss(run(..., gradient=Implicit(probe=p)).x))(0.0)``.
    """

    linear_solver: str = static(default="gmres")
    tolerance: float = static(default=1e-6)
    max_steps: int = static(default=300)
    restart: int = static(default=40)
    probe: Any = 0.0

    def __post_init__(self):
        check.one_of("linear_solver", self.linear_solver, ("gmres", "bicgstab", "cg", "minres"))
        check.minimum("tolerance", self.tolerance, 0.0, strict=True)
        check.positive_int("max_steps", self.max_steps)
        check.positive_int("restart", self.restart)
        if isinstance(self.probe, (int, float)):
            object.__setattr__(self, "probe", jnp.asarray(float(self.probe)))
