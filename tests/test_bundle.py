"""One bundle of properties over every registered operator, energy and solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import solve
from diffimg.testing import PLATFORMS, check_energy, check_operator, check_solver, dot_test, random_like
from tests.registry import ENERGIES, OPERATORS, SLOW, SOLVERS, image_of, problem

every_operator = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in OPERATORS])


@every_operator
def test_operator_single_precision(name):
    check_operator(OPERATORS[name]("float32"))


def double(structure):
    return jax.ShapeDtypeStruct(structure.shape, jnp.promote_types(structure.dtype, jnp.float64))


@every_operator
def test_operator_double_precision(name, x64):
    op = OPERATORS[name]("float64")
    if op.domain.dtype in (jnp.float64, jnp.complex128):
        check_operator(op, platforms=())
    else:  # single precision by name; computes in the precision of its input
        x, y = (random_like(k, double(s)) for k, s in zip(jax.random.split(jax.random.key(0)), (op.domain, op.codomain), strict=True))
        assert op(x).dtype == y.dtype
        assert dot_test(op, x, y) < 1e-12


@every_operator
def test_operator_one_trace_for_other_arrays(name):
    op = OPERATORS[name]("float32")
    traces = []

    @jax.jit
    def call(a, x):
        traces.append(1)
        return a(x)

    x = random_like(jax.random.key(0), op.domain)
    call(op, x)
    call(jax.tree.map(lambda v: v * 2 if jnp.issubdtype(v.dtype, jnp.inexact) else v, jax.tree.map(jnp.asarray, op)), x)
    assert len(traces) == 1


LONG = ("radon fan", "radon fourier", "radon joseph")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in (*SLOW, *LONG) else n for n in OPERATORS])
def test_operator_compiled_equals_eager(name):
    """A canary against a miscompiling jaxlib: the same operations one by one."""
    op = OPERATORS[name]("float32")
    x = random_like(jax.random.key(0), op.domain)
    with jax.disable_jit():
        eager = op._forward(x)
    for a, b in zip(jax.tree.leaves(op(x)), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("name", ENERGIES)
def test_energy(name, x64):
    energy, x = ENERGIES[name]("float64"), image_of(name, "float64")
    check_energy(energy, x)
    if energy.smooth:
        np.testing.assert_allclose(energy.grad(x), jax.grad(lambda v: energy(v))(x), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(energy.prepare().grad(x), energy.grad(x), rtol=1e-6, atol=1e-9)
    else:
        with pytest.raises(ValueError, match="prox"):
            energy.grad(x)
    if not energy.has_prox:
        with pytest.raises(ValueError, match="prox"):
            energy.prox(x, 0.7)


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_lowers_everywhere_and_follows_the_dtype(name):
    energy = ENERGIES[name]("float32")
    x = image_of(name, "float32")
    assert energy(x).dtype == jnp.float32
    jax.export.export(jax.jit(lambda e, v: e(v)), platforms=PLATFORMS)(energy, x)
    if energy.has_prox:
        jax.export.export(jax.jit(lambda e, v: e.prox(v, jnp.float32(0.5))), platforms=PLATFORMS)(energy, x)


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_decreases_and_converges(name, x64):
    factory, kind = SOLVERS[name]
    p = problem(kind, "float64")
    result = solve.run(factory(), p, jnp.zeros(6), steps=3000, tolerance=1e-10, objective_every=0).check()
    other = solve.ADMM(penalty=0.3, inner_steps=20) if kind == "composed" else solve.ProximalGradient()
    reference = solve.run(other, p, jnp.zeros(6), steps=6000, objective_every=0)
    if name != "half-quadratic splitting":  # at finite coupling it minimises a Moreau envelope
        np.testing.assert_allclose(result.x, reference.x, atol=2e-6)
    assert result.objective[0] > p(result.x)


@pytest.mark.parametrize("name", [n for n in SOLVERS if "backtracking" not in n and "monotone" not in n])
def test_solver_promises(name, x64):
    factory, kind = SOLVERS[name]
    steps = {"conjugate gradient": 12, "cgls": 12, "admm": 300}.get(name, 1500)
    check_solver(factory(), problem(kind, "float64"), jnp.zeros(6), steps=steps)


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_lowers_everywhere(name):
    factory, kind = SOLVERS[name]
    p = problem(kind, "float32")
    jax.export.export(jax.jit(lambda q, x: solve.run(factory(), q, x, steps=3, tolerance=1e-3).x), platforms=PLATFORMS)(p, jnp.zeros(6))
