"""The Energy: a real function of an image with gradient and proximal map, and the algebra of energies."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, scale, summary
from diffimg.forward.operator import Operator


class Energy:
    """A real-valued function E of an array (or pytree) x, as a ``@pytree`` whose arrays are traced leaves.

    A subclass defines ``__call__(self, x)`` (scalar), and where they exist

    - ``prox(self, v, step)`` = argmin_x E(x) + ‖x − v‖² / (2·step), exact or to a stated accuracy,
    - ``grad(self, x)``, by default from autodiff: the direction of steepest *ascent*, so that ``x - step * E.grad(x)`` descends;
      for complex x this is the conjugate of ``jax.grad``; inner products are Re⟨·,·⟩,
    - ``lipschitz(self)``: a Lipschitz constant of ``grad``,
    - ``prepare(self)``: an equal energy with tables computed, called once before a loop,
    - ``prox_state(self, x)`` and ``prox_warm(self, v, step, state)``: the same prox, started from where its last call ended.

    ``smooth = False`` marks an energy whose gradient does not exist everywhere. Derived: ``E + F``, ``2 * E``, ``E @ A`` = E(A(x)),
    ``value_and_grad``, ``conjugate_prox``.
    """

    smooth: ClassVar[bool] = True

    def __call__(self, x: Any) -> jax.Array:
        raise TypeError(f"{type(self).__name__} must define __call__(self, x).")

    def grad(self, x: Any) -> Any:
        """∇E(x), shaped like x."""
        if not self.smooth:
            check.fail(f"{self!r}.grad", "a smooth energy", "one with kinks", "Use its prox (proximal, splitting or primal-dual solvers).")
        return jax.tree.map(jnp.conj, jax.grad(self.__call__)(x))

    def value_and_grad(self, x: Any) -> tuple[jax.Array, Any]:
        """(E(x), ∇E(x))."""
        return self(x), self.grad(x)

    def prox(self, v: Any, step: Any) -> Any:
        """argmin_x E(x) + ‖x − v‖² / (2·step)."""
        remedy = "Put it into Problem(smooth=…), or split it: Problem(composed=((g, K),))."
        check.fail(f"{self!r}.prox", "an energy with a proximal map", "one without", remedy)

    def prox_state(self, x: Any) -> Any:
        """What an iterative prox carries from one call to the next (e.g. a dual variable), for images like x; ``()`` for a direct one."""
        return ()

    def prox_warm(self, v: Any, step: Any, state: Any) -> tuple[Any, Any]:
        """(prox, state), started from the state of an earlier call."""
        return self.prox(v, step), state

    @property
    def has_prox(self) -> bool:
        """Whether ``prox`` can be called."""
        return type(self).prox is not Energy.prox

    def conjugate_prox(self, v: Any, step: Any) -> Any:
        """prox of step·E*, the convex conjugate, by Moreau: v − step · prox_{E/step}(v/step)."""
        inner = self.prox(scale(1 / step, v), 1 / step)
        return jax.tree.map(lambda a, b: a - step * b, v, inner)

    def lipschitz(self) -> Any:
        """A Lipschitz constant of ``grad``."""
        remedy = "Give the solver a step size, or use backtracking."
        check.fail(f"{self!r}.lipschitz", "an energy with a known Lipschitz constant", "one without", remedy)

    def prepare(self) -> Energy:
        """An equal energy with tables computed already."""
        return self

    def __add__(self, other: Energy) -> Energy:
        if not isinstance(other, Energy):
            return NotImplemented
        mine = self.terms if isinstance(self, EnergySum) else (self,)
        theirs = other.terms if isinstance(other, EnergySum) else (other,)
        return EnergySum(mine + theirs)

    def __mul__(self, factor: Any) -> Energy:
        if isinstance(factor, (Energy, Operator)):
            return NotImplemented
        return ScaledEnergy(self, factor)

    __rmul__ = __mul__

    def __matmul__(self, operator: Operator) -> Energy:
        if not isinstance(operator, Operator):
            return NotImplemented
        return ComposedEnergy(self, operator)


@pytree
class Zero(Energy):
    """E(x) = 0."""

    def __call__(self, x):
        return jnp.zeros((), jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).dtype)

    def grad(self, x):
        return jax.tree.map(jnp.zeros_like, x)

    def prox(self, v, step):
        return v

    def lipschitz(self):
        return 0.0


@pytree
class EnergySum(Energy):
    """E₁ + E₂ + …"""

    terms: tuple[Energy, ...]

    @property
    def smooth(self):  # type: ignore[override]
        return all(t.smooth for t in self.terms)

    def __call__(self, x):
        return functools.reduce(jnp.add, (t(x) for t in self.terms))

    def grad(self, x):
        return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), (t.grad(x) for t in self.terms))

    @property
    def has_prox(self):
        return False

    def lipschitz(self):
        return functools.reduce(jnp.add, (t.lipschitz() for t in self.terms))

    def prepare(self):
        return EnergySum(tuple(t.prepare() for t in self.terms))

    def __repr__(self):
        return " + ".join(map(repr, self.terms))


@pytree
class ScaledEnergy(Energy):
    """factor · E with a traced factor ≥ 0 (a regularization weight that may be learned)."""

    energy: Energy
    factor: Any

    def __post_init__(self):
        if jnp.ndim(self.factor):
            check.fail("factor", "a scalar", f"shape {jnp.shape(self.factor)}", "Use the energy's own weight for a map.")
        check.minimum("factor", self.factor, 0.0, remedy="An energy scaled by a negative number has no minimum.")

    @property
    def smooth(self):  # type: ignore[override]
        return self.energy.smooth

    def __call__(self, x):
        return self.factor * self.energy(x)

    def grad(self, x):
        return scale(self.factor, self.energy.grad(x))

    def prox(self, v, step):
        return self.energy.prox(v, step * self.factor)

    def prox_state(self, x):
        return self.energy.prox_state(x)

    def prox_warm(self, v, step, state):
        return self.energy.prox_warm(v, step * self.factor, state)

    @property
    def has_prox(self):
        return self.energy.has_prox

    def lipschitz(self):
        return self.factor * self.energy.lipschitz()

    def prepare(self):
        return ScaledEnergy(self.energy.prepare(), self.factor)

    def __repr__(self):
        return f"{summary(self.factor)} · {self.energy!r}"


@pytree
class ComposedEnergy(Energy):
    """x ↦ E(A(x))."""

    energy: Energy
    operator: Operator

    @property
    def smooth(self):  # type: ignore[override]
        return self.energy.smooth

    def __call__(self, x):
        return self.energy(self.operator(x))

    def grad(self, x):
        linear = self.operator.linearize(x)
        return linear.H(self.energy.grad(self.operator(x)))

    @property
    def has_prox(self):
        return False

    def lipschitz(self):
        return self.energy.lipschitz() * self.operator.norm() ** 2

    def prepare(self):
        return ComposedEnergy(self.energy.prepare(), self.operator.prepare())

    def __repr__(self):
        return f"{self.energy!r} ∘ {self.operator!r}"
