"""The public checks catch every promise that is broken on purpose, and say which."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static
from diffimg.energy import Energy, LeastSquares
from diffimg.forward import Matrix, Operator
from diffimg.solve import Problem, Solver
from diffimg.testing import check_energy, check_operator, check_solver

WEIGHTS = jnp.linspace(0.5, 1.5, 6)


@pytree
class Honest(Operator):
    weights: Any = dataclasses.field(default_factory=lambda: WEIGHTS)
    dtype: str = static(default="float32")

    @property
    def domain(self):
        return jax.ShapeDtypeStruct((6,), jnp.dtype(self.dtype))

    def __call__(self, x):
        return self.weights * x


@pytree
class WrongAdjoint(Honest):
    def adjoint(self, y):
        return 1.001 * self.weights * y


@pytree
class WrongGram(Honest):
    def gram(self, x):
        return 1.003 * self.weights**2 * x


@pytree
class WrongTangent(Honest):
    def adjoint(self, y):
        return self.weights * y

    def tangent(self, direction, x):
        return 3 * direction.weights * x


@pytree
class Stopped(Honest):
    def __call__(self, x):
        return jax.lax.stop_gradient(self.weights) * x


@pytree
class WrongPrepare(Honest):
    def prepare(self):
        return Honest(2 * self.weights)


@pytree
class NotOrthonormal(Honest):
    orthonormal = True


@pytree
class Affine(Honest):
    def __call__(self, x):
        return self.weights * x + 1


@pytree
class Antilinear(Honest):
    def __call__(self, x):
        return jnp.conj(x) * self.weights


class Undecorated(Operator):
    domain = jax.ShapeDtypeStruct((3,), jnp.float32)

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("operator", "promise"),
    [
        (WrongAdjoint(), "⟨Ax, y⟩"),
        (WrongGram(), "normal"),
        (WrongTangent(), "derivative in its parameters"),
        (Stopped(), "derivative in its parameters"),
        (WrongPrepare(), "prepare"),
        (NotOrthonormal(), "orthonormal"),
        (Affine(), "linear"),
        (Antilinear(dtype="complex64"), "linear"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_broken_operators_are_caught(operator, promise):
    check_operator(Honest(dtype=operator.dtype), platforms=())
    with pytest.raises(AssertionError, match=promise):
        check_operator(operator, platforms=())


def test_what_is_no_pytree_is_refused_with_the_remedy():
    for use in (lambda: Undecorated()(np.ones(3, np.float32)), lambda: Undecorated().codomain, lambda: check_operator(Undecorated())):
        with pytest.raises(ValueError, match="@pytree above class Undecorated"):
            use()
    assert "Undecorated" in repr(Undecorated())


def test_scalar_leaves_follow_the_dtype_of_x(x64):
    op = Honest(2.0)
    check_operator(op, platforms=())
    assert op.codomain.dtype == op(np.ones(6, np.float32)).dtype == jnp.float32


@pytree
class WrongGradient(Energy):
    def __call__(self, x):
        return jnp.sum(jnp.abs(x) ** 2) / 2

    def grad(self, x):
        return 2 * x


@pytree
class WrongProx(Energy):
    smooth = False

    def __call__(self, x):
        return jnp.sum(jnp.abs(x))

    def prox(self, v, step):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - 2 * step, 0)


def test_broken_energies_are_caught(x64):
    x = jnp.linspace(-2, 3, 6)
    with pytest.raises(AssertionError, match="grad is the derivative"):
        check_energy(WrongGradient(), x)
    with pytest.raises(AssertionError, match="prox minimises"):
        check_energy(WrongProx(), x)


class TwoState(NamedTuple):
    x: Any
    dual: Any


@pytree
class Stale(Solver):
    """Its answer follows from the dual, but ``with_variables`` leaves the old x in place."""

    def init(self, problem, x0):
        return TwoState(x0, x0)

    def step(self, problem, state):
        dual = tree.add(state.dual, problem.grad(state.dual), -0.5)
        return TwoState(dual, dual)

    def variables(self, state):
        return state.dual

    def with_variables(self, state, z):
        return TwoState(state.x, z)


def test_a_solver_with_stale_memory_is_caught(x64):
    problem = Problem(LeastSquares(Matrix(np.diag([1.0, 0.5, 0.7])), jnp.ones(3)))
    with pytest.raises(AssertionError, match="stale x"):
        check_solver(Stale(), problem, jnp.zeros(3), steps=300)
