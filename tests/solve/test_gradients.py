"""The gradient rules against central differences in double precision, for every solver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.energy import L1, LeastSquares, SquaredL2, TotalVariation
from diffimg.forward.basic import Diagonal, Matrix
from diffimg.solve import (
    ADMM,
    FISTA,
    Checkpoint,
    ConjugateGradient,
    GradientDescent,
    HalfQuadraticSplitting,
    Implicit,
    JacobianFree,
    PrimalDual,
    Problem,
    ProximalGradient,
    Status,
    Truncated,
    Unroll,
    run,
)

pytestmark = pytest.mark.usefixtures("x64")
N = 4
X0 = np.zeros(N)


def parameters(dtype=float):
    """Operator, data, weight and step: everything that a gradient should reach."""
    rng = np.random.default_rng(1)
    draw = lambda *s: rng.normal(size=s) + (1j * rng.normal(size=s) if dtype is complex else 0)  # noqa: E731
    u, v = np.linalg.qr(draw(N + 2, N))[0], np.linalg.qr(draw(N, N))[0]
    matrix = (u * np.linspace(1.0, 2.0, N)) @ v
    return {"matrix": matrix, "y": 2 * draw(N + 2), "weight": np.array(0.3), "step": np.array(0.24)}


DIFFERENCES = np.eye(N)[1:] - np.eye(N)[:-1]


def smooth(t):
    return Problem(LeastSquares(Matrix(t["matrix"]), t["y"]) + t["weight"] * SquaredL2())


def sparse(t):
    return Problem(LeastSquares(Matrix(t["matrix"]), t["y"], tolerance=1e-14), L1(t["weight"]))


def composed(t):
    return Problem(LeastSquares(Matrix(t["matrix"]), t["y"]), composed=((L1(t["weight"]), Matrix(DIFFERENCES.astype(t["matrix"].dtype))),))


SOLVERS = {
    "GradientDescent": (lambda t: GradientDescent(t["step"]), smooth),
    "ConjugateGradient": (lambda t: ConjugateGradient(), smooth),
    "ProximalGradient": (lambda t: ProximalGradient(t["step"]), sparse),
    "FISTA": (lambda t: FISTA(t["step"]), sparse),
    "ADMM": (lambda t: ADMM(8 * t["step"], inner_tolerance=1e-13), composed),
    "PrimalDual": (lambda t: PrimalDual(t["step"], 2 * t["step"]), composed),
    "HalfQuadraticSplitting": (lambda t: HalfQuadraticSplitting(8 * t["step"]), sparse),
}


def loss(name, steps, rule, t, tolerance=0.0, x0=X0, c=None):
    solver, problem = SOLVERS[name]
    x = run(solver(t), problem(t), x0, steps, tolerance, rule, objective_every=0).x
    c = np.arange(1.0, N + 1) if c is None else c
    return jnp.sum(c * x.real) + 0.5 * jnp.sum(jnp.abs(x) ** 2) + jnp.sum(c * x.imag)


def inner(a, b):
    """What JAX's gradient a, which is conjugated, predicts along b."""
    return sum(jnp.sum(p * q).real for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def direction(t, seed=0):
    rng = np.random.default_rng(seed)
    complex_ = lambda v: np.iscomplexobj(v)  # noqa: E731
    return {k: rng.normal(size=np.shape(v)) * 0.1 + (0.1j * rng.normal(size=np.shape(v)) if complex_(v) else 0) for k, v in t.items()}


def central_difference(f, t, d, h=1e-5):
    """The derivative of every entry of f(t) in direction d."""
    plus, minus = (f(jax.tree.map(lambda a, b, e=e: a + e * b, t, d)) for e in (h, -h))
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)


def relative(a, b):
    return float(abs(a - b) / abs(b))


def distance(a, b):
    """Relative distance of two gradients."""
    leaves = lambda g: np.concatenate([np.ravel(v) for v in jax.tree.leaves(g)])  # noqa: E731
    return np.linalg.norm(leaves(a) - leaves(b)) / np.linalg.norm(leaves(b))


@pytest.mark.parametrize("name", SOLVERS)
def test_unroll_checkpoint_and_implicit_against_central_differences(name, record_property):
    t = parameters()
    d = direction(t)
    few, every = (4, 2) if name == "ConjugateGradient" else (6, 3)
    many = 12 if name == "ConjugateGradient" else 400
    rules = [(few, Unroll()), (few, Checkpoint(every)), (many, Implicit(tolerance=1e-12))]
    unrolled, checkpointed, implicit = jax.jit(lambda t: [jax.grad(functools.partial(loss, name, k, rule))(t) for k, rule in rules])(t)
    fd_few, fd_many = central_difference(jax.jit(lambda t: [loss(name, k, None, t) for k in (few, many)]), t, d)
    errors = relative(inner(unrolled, d), fd_few), relative(inner(checkpointed, d), fd_few), relative(inner(implicit, d), fd_many)
    record_property("relative errors", errors)
    assert max(errors) < 1e-6
    assert implicit["step"] == pytest.approx(0, abs=1e-9) or name == "HalfQuadraticSplitting"  # a solution has no step size


@pytest.mark.parametrize("name", ["FISTA", "PrimalDual"])
def test_complex_unknowns(name):
    t = parameters(complex)
    d = direction(t)
    few, many = 6, 400
    rules = [(few, Unroll()), (many, Implicit(tolerance=1e-12))]
    x0 = np.zeros(N, complex)
    unrolled, implicit = jax.jit(lambda t: [jax.grad(functools.partial(loss, name, k, rule, x0=x0))(t) for k, rule in rules])(t)
    fd = central_difference(jax.jit(lambda t: [loss(name, k, None, t, x0=x0) for k in (few, many)]), t, d)
    assert relative(inner(unrolled, d), fd[0]) < 1e-6
    assert relative(inner(implicit, d), fd[1]) < 1e-6


OTHERS = [("bicgstab", "PrimalDual"), ("cg", "GradientDescent"), ("minres", "ConjugateGradient")]


@pytest.mark.parametrize(("linear_solver", "name"), OTHERS)
def test_other_linear_solvers(linear_solver, name):
    t = parameters()
    d = direction(t)
    many = 12 if name == "ConjugateGradient" else 400
    rule = Implicit(linear_solver=linear_solver, tolerance=1e-12)
    gradient = jax.jit(jax.grad(functools.partial(loss, name, many, rule)))(t)
    fd = central_difference(jax.jit(functools.partial(loss, name, many, None)), t, d)
    assert relative(inner(gradient, d), fd) < 1e-6


def test_probe_tells_the_residual_of_the_adjoint_system():
    t = parameters()
    residual = lambda tolerance: jax.grad(lambda p: loss("GradientDescent", 100, Implicit(probe=p, tolerance=tolerance), t))(0.0)  # noqa: E731
    assert 0 < residual(1e-3) <= 1e-3
    assert residual(1e-11) <= 1e-11


@pytest.mark.parametrize("solver", [ADMM(2.0, inner_tolerance=1e-13), PrimalDual(0.24, 0.48)], ids=["ADMM", "PrimalDual"])
def test_implicit_with_a_dual_that_is_not_unique(solver):
    """K repeats its rows, so that only the sum of two duals is determined and I − ∂T is singular."""
    t = parameters()
    twice = Matrix(np.concatenate([DIFFERENCES, DIFFERENCES]))

    def value(rule, t):
        problem = Problem(LeastSquares(Matrix(t["matrix"]), t["y"]), composed=((L1(t["weight"]), twice),))
        x = run(solver, problem, X0, 2000, 0.0 if rule is None else 1e-14, rule, objective_every=0).x
        return jnp.sum(jnp.arange(1.0, N + 1) * x)

    gradient = jax.jit(jax.grad(functools.partial(value, Implicit(tolerance=1e-11))))(t)
    d = direction(t)
    assert relative(inner(gradient, d), central_difference(jax.jit(functools.partial(value, None)), t, d)) < 1e-6


def test_implicit_through_a_warm_started_prox():
    """The dual of the prox is part of the fixed point."""
    rng = np.random.default_rng(3)
    t = {"y": np.repeat([0.0, 2.0, 1.0], 4) + 0.1 * rng.normal(size=12), "weight": np.array(0.3), "blur": np.linspace(0.8, 1.2, 12)}

    def value(rule, t):
        problem = Problem(LeastSquares(Diagonal(t["blur"]), t["y"]), TotalVariation(t["weight"], gap=1e-12, max_steps=10))
        return jnp.sum(jnp.cos(jnp.arange(12)) * run(FISTA(0.6), problem, np.zeros(12), 1500, 0.0, rule, objective_every=0).x)

    gradient = jax.jit(jax.grad(functools.partial(value, Implicit(tolerance=1e-10))))(t)
    d = direction(t)
    fd = central_difference(jax.jit(functools.partial(value, None)), t, d)
    assert relative(inner(gradient, d), fd) < 1e-6


def test_vmap_of_grad_equals_a_loop():
    t = parameters()
    ys = t["y"] * np.array([[1.0], [0.3], [-2.0]])
    gradient = lambda y: jax.grad(lambda y: loss("FISTA", 500, Implicit(tolerance=1e-12), {**t, "y": y}, tolerance=1e-13))(y)  # noqa: E731
    batch, single = jax.jit(jax.vmap(gradient))(ys), jax.jit(gradient)
    for row, y in zip(batch, ys, strict=True):
        np.testing.assert_allclose(row, single(y), rtol=1e-8, atol=1e-10)


def test_truncated_to_all_steps_is_unroll_and_its_error_decays_geometrically():
    """For gradient descent on a quadratic the error of Truncated(K) falls like (1 − τμ)^K."""
    t = parameters()
    gradient = lambda rule: jax.jit(jax.grad(functools.partial(loss, "GradientDescent", 60, rule)))(t)  # noqa: E731
    exact = gradient(Unroll())
    assert distance(gradient(Truncated(60)), exact) == 0
    lasts = np.array([2, 6, 10, 14])
    errors = [distance(gradient(Truncated(int(k)))["y"], exact["y"]) for k in lasts]
    slope = np.polyfit(lasts, np.log(errors), 1)[0]
    contraction = 1 - 0.24 * (1.0 + t["weight"])  # the smallest singular value of the matrix is 1
    assert slope == pytest.approx(np.log(contraction), rel=0.2)


@pytest.mark.parametrize("name", [n if n in ("FISTA", "ConjugateGradient") else pytest.param(n, marks=pytest.mark.slow) for n in SOLVERS])
def test_jacobian_free_is_one_truncated_step_at_the_fixed_point(name):
    t = parameters()
    rules = JacobianFree(), Truncated(1), Implicit(tolerance=1e-10)
    many = 12 if name == "ConjugateGradient" else 400
    free, truncated, implicit = jax.jit(lambda t: [jax.grad(functools.partial(loss, name, many, rule))(t) for rule in rules])(t)
    assert distance(free, truncated) < 1e-9
    # Biased by design, but an ascent direction in the data.
    assert inner(free["y"], implicit["y"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_truncated_approaches_unroll_for_every_solver(name):
    t = parameters()
    steps, lasts = (30, (2, 10, 25)) if name == "ConjugateGradient" else (300, (2, 30, 100))
    exact = jax.grad(functools.partial(loss, name, 300, Implicit(tolerance=1e-12)))(t)["y"]
    errors = [distance(jax.grad(functools.partial(loss, name, steps, Truncated(k)))(t)["y"], exact) for k in lasts]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2


@pytest.mark.parametrize("rule", [Unroll(), Checkpoint(), Implicit(tolerance=1e-12)], ids=["Unroll", "Checkpoint", "Implicit"])
def test_gradient_of_an_early_stopping_run(rule):
    t = parameters()

    def value(rule, t):
        result = run(GradientDescent(0.24), smooth(t), X0, 300, 1e-13, rule)
        return jnp.sum(result.x), result

    gradient, result = jax.jit(jax.grad(functools.partial(value, rule), has_aux=True))(t)
    assert result.status == Status.CONVERGED and result.iterations < 150
    h = t["matrix"].T @ t["matrix"] + t["weight"] * np.eye(N)
    np.testing.assert_allclose(gradient["y"], t["matrix"] @ np.linalg.solve(h, np.ones(N)), rtol=1e-8)
