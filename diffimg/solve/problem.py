"""The Problem: min_x smooth(x) + proximable(x) + Σᵢ gᵢ(Kᵢ x)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check, linalg
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy, Zero
from diffimg.forward.operator import Operator


@pytree
class Problem:
    """What is minimised: ``smooth`` through its gradient, ``proximable`` through its prox, each pair ``(g, K)`` of
    ``composed`` as g(Kx) through K, Kᴴ and the prox of g (primal-dual and ADMM)."""

    smooth: Energy = Zero()
    proximable: Energy = Zero()
    composed: tuple[tuple[Energy, Operator], ...] = ()

    def __post_init__(self):
        for name in ("smooth", "proximable"):
            if not isinstance(getattr(self, name), Energy):
                check.fail(name, "an Energy", repr(getattr(self, name)), "Wrap a function in a class with __call__: see CONTRIBUTING.")
            check.is_pytree(name, getattr(self, name))
        if not self.smooth.smooth:
            check.fail("smooth", "an energy with a gradient", f"{self.smooth!r}", "Pass it as proximable= or composed=.")
        if not self.proximable.has_prox:
            check.fail("proximable", "an energy with a prox", f"{self.proximable!r}", "Pass it as smooth= or composed=((g, K),).")
        object.__setattr__(self, "composed", tuple(self.composed))
        for pair in self.composed:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Energy) and isinstance(pair[1], Operator)):
                check.fail("composed", "pairs (Energy, Operator)", repr(pair), "E.g. composed=((L1(0.1), Gradient(shape)),).")
            if not pair[0].has_prox:
                check.fail("composed", "energies with a prox", f"{pair[0]!r}")

    def __call__(self, x: Any) -> jax.Array:
        """The objective at ``x``."""
        parts = [self.smooth(x), self.proximable(x)] + [g(k(x)) for g, k in self.composed]
        return functools.reduce(jnp.add, parts)

    def grad(self, x: Any) -> Any:
        """Gradient of the smooth part."""
        return self.smooth.grad(x)

    def lipschitz(self) -> Any:
        """Lipschitz constant of that gradient."""
        return self.smooth.lipschitz()

    def prepare(self) -> Problem:
        """The same problem with every table computed once."""
        return Problem(self.smooth.prepare(), self.proximable.prepare(), tuple((g.prepare(), k.prepare()) for g, k in self.composed))

    def prox_start(self, x: Any) -> Any:
        """The auxiliary (e.g. dual) variable with which an iterative prox starts; ``()`` where it has none."""
        return self.proximable.prox_state(x)

    def prox(self, v: Any, step: Any, auxiliary: Any) -> tuple[Any, Any]:
        """prox of the proximable part at ``v``, and its auxiliary variable for the next call."""
        return self.proximable.prox_warm(v, step, auxiliary)

    def require(self, solver: str, *, proximable: bool = False, composed: bool = False) -> None:
        """Refuse parts that a solver would silently ignore."""
        if not proximable and not isinstance(self.proximable, Zero):
            remedy = "Use ProximalGradient, FISTA, ADMM or PrimalDual."
            check.fail("problem.proximable", f"nothing, for {solver}", f"{self.proximable!r}", remedy)
        if not composed and self.composed:
            check.fail("problem.composed", f"nothing, for {solver}", f"{len(self.composed)} terms", "Use ADMM or PrimalDual.")

    def composed_norm(self, x: Any) -> Any:
        """σ_max of the stacked operator (K₁, K₂, …)."""
        domain = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x)
        return linalg.operator_norm(
            lambda v: tuple(k(v) for _, k in self.composed),
            lambda ys: functools.reduce(
                lambda a, b: jax.tree.map(jnp.add, a, b), [k.H(y) for (_, k), y in zip(self.composed, ys, strict=True)]
            ),
            domain,
        ).upper

    def __repr__(self):
        parts = [repr(e) for e in (self.smooth, self.proximable) if not isinstance(e, Zero)]
        return "Problem: min " + " + ".join(parts + [f"{g!r} ∘ {k!r}" for g, k in self.composed])
