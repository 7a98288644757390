"""Operators made of operators: adjoint, normal, composition, sum, scaling, stack, linearization."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pair import paired
from diffimg.core.pytree import pytree, summary
from diffimg.forward.operator import GRAM, Operator, apply_adjoint, apply_forward, provides
from diffimg.forward.structure import same_structure, text


@pytree
class Adjoint(Operator):
    """Aᴴ of an operator A."""

    operator: Operator

    @property
    def domain(self):
        return self.operator.codomain

    @property
    def codomain(self):
        return self.operator.domain

    @property
    def batched(self):  # type: ignore[override]
        return self.operator.batched

    def __call__(self, y):
        return apply_adjoint(self.operator, y)

    @property
    def H(self):
        return self.operator

    def prepare(self):
        return Adjoint(self.operator.prepare())

    def _name(self):
        return f"{self.operator._name()}ᴴ"


@pytree
class Normal(Operator):
    """AᴴA of an operator A."""

    operator: Operator

    @property
    def domain(self):
        return self.operator.domain

    @property
    def codomain(self):
        return self.operator.domain

    @property
    def batched(self):  # type: ignore[override]
        return self.operator.batched

    def __call__(self, x):
        if provides(self.operator, "gram"):
            return paired(GRAM, self.operator, x)
        return apply_adjoint(self.operator, apply_forward(self.operator, x))

    @property
    def H(self):
        return self

    def prepare(self):
        return Normal(self.operator.prepare())

    def _name(self):
        return f"{self.operator._name()}ᴴ{self.operator._name()}"


@pytree
class Compose(Operator):
    """outer ∘ inner."""

    outer: Operator
    inner: Operator

    @property
    def domain(self):
        return self.inner.domain

    @property
    def linear(self):  # type: ignore[override]
        return self.outer.linear and self.inner.linear

    def __call__(self, x):
        return apply_forward(self.outer, apply_forward(self.inner, x))

    @property
    def approximate_normal(self):  # type: ignore[override]
        return self.outer.approximate_normal or self.inner.approximate_normal

    @property
    def H(self):
        return self.inner.H @ self.outer.H

    @property
    def normal(self):
        self._needs_linear("normal")
        return self.inner.H @ self.outer.normal @ self.inner

    def prepare(self):
        return Compose(self.outer.prepare(), self.inner.prepare())

    def _name(self):
        return f"{self.outer._name()} ∘ {self.inner._name()}"


@pytree
class Sum(Operator):
    """Sum of operators with one domain and one codomain."""

    terms: tuple[Operator, ...]

    @property
    def domain(self):
        return self.terms[0].domain

    @property
    def linear(self):  # type: ignore[override]
        return all(t.linear for t in self.terms)

    def __call__(self, x):
        return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), [apply_forward(t, x) for t in self.terms])

    def prepare(self):
        return Sum(tuple(t.prepare() for t in self.terms))

    def _name(self):
        return " + ".join(t._name() for t in self.terms)


@pytree
class Scaled(Operator):
    """factor · A; the factor is a traced scalar."""

    operator: Operator
    factor: Any

    def __post_init__(self):
        if jnp.ndim(self.factor):
            check.fail("factor", "a scalar", f"shape {jnp.shape(self.factor)}", "Use Diagonal(weights) @ A to weigh the data.")

    @property
    def domain(self):
        return self.operator.domain

    @property
    def linear(self):  # type: ignore[override]
        return self.operator.linear

    def __call__(self, x):
        def scaled(v):
            return (self.factor * v).astype(jnp.result_type(v, 1j) if _complex(self.factor) else v.dtype)

        return jax.tree.map(scaled, apply_forward(self.operator, x))

    def prepare(self):
        return Scaled(self.operator.prepare(), self.factor)

    def _name(self):
        return f"{summary(self.factor)}·{self.operator._name()}"


def _complex(v):
    return jnp.issubdtype(jnp.result_type(v), jnp.complexfloating)


@pytree
class Stack(Operator):
    """x ↦ (A₁x, A₂x, …): several operators on one image; the codomain is a tuple."""

    operators: tuple[Operator, ...]

    def __post_init__(self):
        object.__setattr__(self, "operators", tuple(self.operators))
        if not self.operators:
            check.fail("operators", "at least one operator", "none")
        for a in self.operators[1:]:
            if not same_structure(a.domain, self.operators[0].domain):
                check.fail("operators", f"one domain, {text(self.operators[0].domain)}", f"{a!r}")

    @property
    def domain(self):
        return self.operators[0].domain

    @property
    def linear(self):  # type: ignore[override]
        return all(a.linear for a in self.operators)

    def __call__(self, x):
        return tuple(apply_forward(a, x) for a in self.operators)

    def prepare(self):
        return Stack(tuple(a.prepare() for a in self.operators))

    def _name(self):
        return "Stack(" + ", ".join(a._name() for a in self.operators) + ")"


@pytree
class Linearized(Operator):
    """The derivative of a nonlinear operator at a point."""

    operator: Operator
    point: Any

    @property
    def domain(self):
        return jax.tree.map(lambda v: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)), self.point)

    def __call__(self, x):
        direction = jax.tree.map(lambda v, p: v.astype(p.dtype), x, self.point)
        return jax.jvp(lambda p: apply_forward(self.operator, p), (self.point,), (direction,))[1]

    def _name(self):
        return f"d{self.operator._name()}"
