"""Every solver against a solution found by somebody else, and the rates of ISTA and FISTA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import Lasso

from diffimg.energy import L1, Box, LeastSquares, SquaredL2
from diffimg.forward.basic import Diagonal, Identity, Matrix
from diffimg.solve import (
    ADMM,
    FISTA,
    ConjugateGradient,
    GradientDescent,
    HalfQuadraticSplitting,
    PrimalDual,
    Problem,
    ProximalGradient,
    run,
)

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
A, Y = RNG.normal(size=(12, 6)), RNG.normal(size=12)
WEIGHT = 1.5
DATA = LeastSquares(Matrix(A), Y)


@pytest.mark.parametrize(
    "solver",
    [
        ProximalGradient(),
        ProximalGradient(backtracking=0.5),
        FISTA(),
        pytest.param(FISTA(restart=False), marks=pytest.mark.slow),
        FISTA(monotone=True),
        FISTA(backtracking=0.7),
        ADMM(5.0, inner_tolerance=1e-8),
        PrimalDual(),
        pytest.param(PrimalDual(balance=1.0), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_lasso_against_scikit_learn(solver):
    expected = Lasso(alpha=WEIGHT / 12, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(A, Y).coef_
    assert 0 < np.count_nonzero(expected) < 6
    if isinstance(solver, PrimalDual):
        problem = Problem(DATA, composed=((L1(WEIGHT), Identity((6,), "float64")),))
    else:
        problem = Problem(DATA, L1(WEIGHT))
    result = run(solver, problem, jnp.zeros(6), 4000, 1e-11).check()
    np.testing.assert_allclose(result.x, expected, atol=1e-7)
    if isinstance(solver, FISTA) and solver.monotone:
        assert np.diff(result.objective[: result.iterations + 1]).max() < 1e-14


@pytest.mark.parametrize("solver", [GradientDescent(), ConjugateGradient(), FISTA()], ids=repr)
def test_ridge_against_numpy(solver):
    result = run(solver, Problem(DATA + 0.5 * SquaredL2()), jnp.ones(6), 2000, 1e-12).check()
    np.testing.assert_allclose(result.x, np.linalg.solve(A.T @ A + 0.5 * np.eye(6), A.T @ Y), atol=1e-9)


def test_conjugate_gradients_end_after_n_steps_and_stand_still():
    result = run(ConjugateGradient(), Problem(DATA), jnp.zeros(6), 60)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(A, Y)[0], atol=1e-12)
    np.testing.assert_allclose(result.objective[8:], result.objective[-1], rtol=1e-12)
    assert result.residual[-1] == 0


@pytest.mark.parametrize("solver", [FISTA(), ADMM(10.0, inner_tolerance=1e-8), PrimalDual()], ids=repr)
def test_bounds_against_scipy(solver):
    expected = scipy.optimize.lsq_linear(A, Y, (-0.1, 0.2), tol=1e-14).x
    box = Box(-0.1, 0.2)
    composed = ((L1(0.0), Identity((6,), "float64")),) if isinstance(solver, PrimalDual) else ()
    result = run(solver, Problem(DATA, box, composed), jnp.zeros(6), 4000, 1e-11, objective_every=0).check()
    np.testing.assert_allclose(result.x, expected, atol=1e-6)


@pytest.mark.parametrize("solver", [ADMM(5.0, inner_tolerance=1e-8), PrimalDual()], ids=repr)
def test_fused_and_sparse_against_scipy(solver):
    """½‖Ax − y‖² + 0.3‖x‖₁ + 0.5‖Dx‖₁ as a linear program's cousin: SLSQP on x = p − q, Dx = r − s."""
    d = np.eye(6)[1:] - np.eye(6)[:-1]
    problem = Problem(DATA, L1(0.3), ((L1(0.5), Matrix(d)),))
    x = np.asarray(run(solver, problem, jnp.zeros(6), 6000, 1e-12).check().x)

    def objective(v):
        p, q, r, s = np.split(v, [6, 12, 17])
        residual = A @ (p - q) - Y
        value = 0.5 * residual @ residual + 0.3 * (p + q).sum() + 0.5 * (r + s).sum()
        g = A.T @ residual
        return value, np.concatenate([g + 0.3, -g + 0.3, np.full(10, 0.5)])

    equality = np.concatenate([d, -d, -np.eye(5), np.eye(5)], axis=1)
    peer = scipy.optimize.minimize(
        objective, np.full(22, 0.1), jac=True, method="SLSQP", bounds=[(0, None)] * 22, tol=1e-14,
        constraints={"type": "eq", "fun": lambda v: equality @ v, "jac": lambda v: equality}, options={"maxiter": 2000},
    )  # fmt: skip
    np.testing.assert_allclose(x, peer.x[:6] - peer.x[6:12], atol=1e-6)
    assert float(problem(x)) <= peer.fun + 1e-10


def test_half_quadratic_splitting_minimises_the_envelope_and_in_the_limit_the_problem():
    data = LeastSquares(Matrix(A), Y, tolerance=1e-13)
    fixed = run(HalfQuadraticSplitting(4.0), Problem(data, L1(WEIGHT)), jnp.zeros(6), 2000, 1e-12).check()

    def huber(x):  # the Moreau envelope of WEIGHT·|x| for μ = 4
        small = np.abs(x) <= WEIGHT / 4
        value = np.where(small, 2 * x**2, WEIGHT * np.abs(x) - WEIGHT**2 / 8).sum()
        return 0.5 * np.sum((A @ x - Y) ** 2) + value, A.T @ (A @ x - Y) + np.where(small, 4 * x, WEIGHT * np.sign(x))

    peer = scipy.optimize.minimize(huber, np.zeros(6), jac=True, tol=1e-14, options={"gtol": 1e-10}).x
    np.testing.assert_allclose(fixed.x, peer, atol=1e-7)
    growing = run(HalfQuadraticSplitting(1.0, growth=1.004, limit=1e4), Problem(data, L1(WEIGHT)), jnp.zeros(6), 6000, objective_every=0)
    lasso = Lasso(alpha=WEIGHT / 12, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(A, Y).coef_
    np.testing.assert_allclose(growing.x, lasso, atol=3e-3)


def test_complex_lasso_meets_its_optimality_conditions():
    a = RNG.normal(size=(8, 5)) + 1j * RNG.normal(size=(8, 5))
    y = RNG.normal(size=8) + 1j * RNG.normal(size=8)
    solutions = []
    for solver in (FISTA(), ADMM(8.0, inner_tolerance=1e-8)):
        x = np.asarray(run(solver, Problem(LeastSquares(Matrix(a), y), L1(3.0)), jnp.zeros(5, complex), 3000, 1e-12).check().x)
        solutions.append(x)
    x = solutions[0]
    np.testing.assert_allclose(solutions[1], x, atol=1e-7)
    g = a.conj().T @ (a @ x - y)
    support = np.abs(x) > 0
    assert 0 < support.sum() < 5
    np.testing.assert_allclose(g[support], -3 * x[support] / np.abs(x[support]), atol=1e-9)
    assert np.abs(g[~support]).max() < 3


def test_rates_of_ista_and_fista():
    """A Lasso with known minimum whose eigenvalues are even in log λ: ISTA falls like 1/k, FISTA like 1/k², as their bounds say."""
    eigenvalues, weight = np.geomspace(1e-8, 1, 120), 1e-5
    y = (eigenvalues + weight) / np.sqrt(eigenvalues)  # so that x* = 1
    problem = Problem(LeastSquares(Diagonal(np.sqrt(eigenvalues)), y), L1(weight))
    best = float(np.sum(0.5 * weight**2 / eigenvalues + weight))
    assert float(problem(jnp.ones(120))) == pytest.approx(best, rel=1e-12)
    k = np.unique(np.geomspace(20, 1000, 40).astype(int))
    slopes, distance = {}, 120.0  # ‖x0 − x*‖²
    for solver, bound in ((ProximalGradient(1.0), distance / (2 * k)), (FISTA(1.0, restart=False), 2 * distance / (k + 1) ** 2)):
        gap = np.asarray(run(solver, problem, jnp.zeros(120), 1000).objective)[k] - best
        assert (gap > 0).all() and (gap <= bound).all()
        slopes[type(solver)] = np.polyfit(np.log(k), np.log(gap), 1)[0]
    assert slopes[ProximalGradient] == pytest.approx(-1, abs=0.05)
    assert slopes[FISTA] == pytest.approx(-2, abs=0.1)


@pytest.mark.slow
def test_backtracking_holds_its_step_in_single_precision():
    with jax.enable_x64(False):
        problem = Problem(LeastSquares(Matrix(A.astype(np.float32)), Y.astype(np.float32)), L1(WEIGHT))
        result = run(ProximalGradient(backtracking=0.5), problem, jnp.zeros(6, jnp.float32), 3000)
        assert result.status == 1 and result.state.step > 0.25 / np.linalg.norm(A, 2) ** 2
