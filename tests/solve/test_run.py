import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core.pytree import pytree
from diffimg.energy import L1, Energy, LeastSquares, SquaredL2
from diffimg.forward.basic import Identity, Matrix
from diffimg.solve import (
    ADMM,
    FISTA,
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

TRACES = []


@pytree
class Bowl(Energy):
    """½ Σ curvature |x − centre|², over all leaves of x; counts its traces."""

    curvature: object
    centre: object = 0.0

    def __call__(self, x):
        TRACES.append(1)
        return 0.5 * sum(jnp.sum(self.curvature * jnp.abs(v - self.centre) ** 2) for v in jax.tree.leaves(x))

    def lipschitz(self):
        return jnp.max(jnp.abs(jnp.asarray(self.curvature)))


@pytree
class Point(Energy):
    """Finite at one point only."""

    def __call__(self, x):
        return jnp.where(jnp.all(x == 1), 0.0, jnp.nan)

    def grad(self, x):
        return jnp.where(x == 1, x, jnp.nan)


CURVATURE = np.array([1.0, 0.5, 0.2], np.float32)


def test_vmapped_runs_equal_a_loop_and_stop_each_for_itself():
    problem = Problem(Bowl(CURVATURE, 1.0), L1(0.1))
    starts = jnp.array([[0.0, 0.0, 0.0], [0.9, 0.8, 0.5], [50.0, -3.0, 7.0]], jnp.float32)

    def solve(x0, weight):
        return run(ProximalGradient(), Problem(problem.smooth, L1(weight)), x0, 200, 1e-5)

    weights = jnp.array([0.1, 0.1, 0.3], jnp.float32)
    batch = jax.vmap(solve)(starts, weights)
    assert len(set(batch.iterations.tolist())) == 3
    for i in range(3):
        single = solve(starts[i], weights[i])
        assert single.iterations == batch.iterations[i]
        assert single.status == batch.status[i] == Status.CONVERGED
        np.testing.assert_allclose(single.x, batch.x[i], rtol=1e-6)
        np.testing.assert_allclose(single.objective, batch.objective[i], rtol=1e-5)
        assert np.isnan(batch.residual[i][batch.iterations[i] :]).all()
    assert "CONVERGED" in repr(batch)


def test_history_and_stopping_rules():
    problem = Problem(Bowl(CURVATURE, 1.0))
    x0 = jnp.zeros(3, jnp.float32)
    result = run(GradientDescent(), problem, x0, 6)
    assert result.status == Status.COMPLETED and result.iterations == 6 and result.check() is result
    assert result.objective.shape == (7,) and result.residual.shape == (6,)
    x, expected = np.zeros(3), [0.5 * CURVATURE.sum()]
    for _ in range(6):
        x = x - CURVATURE * (x - 1)
        expected.append(0.5 * np.sum(CURVATURE * (x - 1) ** 2))
    np.testing.assert_allclose(result.objective, expected, rtol=1e-5)
    np.testing.assert_allclose(result.x, x, rtol=1e-5)

    sparse = run(GradientDescent(), problem, x0, 100, 1e-3, objective_every=4)
    k = int(sparse.iterations)
    assert sparse.status == Status.CONVERGED and 4 < k < 100
    assert sparse.residual[k - 1] <= 1e-3 < sparse.residual[k - 2]
    known = np.flatnonzero(~np.isnan(sparse.objective))
    assert known.tolist() == sorted({*range(0, k + 1, 4), k})
    np.testing.assert_allclose(sparse.objective[k], problem(sparse.x), rtol=1e-6)

    short = run(GradientDescent(), problem, x0, 4, 1e-9, objective_every=0)
    assert short.status == Status.MAX_STEPS
    assert np.flatnonzero(~np.isnan(short.objective)).tolist() == [0, 4]
    with pytest.raises(RuntimeError, match=r"MAX_STEPS: the tolerance was not reached.*\(after 4 iterations\)"):
        short.check()


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_a_diverging_run_returns_the_last_finite_iterate(tolerance):
    result = run(GradientDescent(1e8), Problem(Bowl(CURVATURE, 1.0)), jnp.zeros(3, jnp.float32), 50, tolerance)
    assert result.status == Status.NONFINITE
    assert 0 < result.iterations < 10
    assert np.isfinite(result.x).all() and np.abs(result.x).max() > 1e8
    assert np.isfinite(result.objective[1]) or np.isinf(result.objective[1])
    with pytest.raises(RuntimeError, match=r"NONFINITE: an iterate became NaN or Inf.*lower the step size"):
        result.check()


def test_indefinite_problems_are_reported():
    x0 = jnp.ones(3, jnp.float32)
    saddle = Bowl(np.array([1.0, -2.0, 0.5], np.float32))
    cg = run(ConjugateGradient(), Problem(saddle), x0, 5)
    assert cg.status == Status.INDEFINITE and np.isfinite(cg.x).all()
    with pytest.raises(RuntimeError, match="INDEFINITE: the system is not positive definite"):
        cg.check()
    admm = run(ADMM(penalty=0.1), Problem(saddle, L1(0.1)), x0, 5)
    assert admm.status == Status.INDEFINITE and np.isfinite(admm.x).all()


def test_a_line_search_without_an_acceptable_step_is_reported():
    x0 = jnp.ones(3, jnp.float32)
    result = run(ProximalGradient(backtracking=0.5), Problem(Point()), x0, 5)
    assert result.status == Status.LINE_SEARCH and result.iterations == 0
    np.testing.assert_array_equal(result.x, x0)


def test_progress_is_told_from_inside_jit():
    problem, x0, told = Problem(Bowl(CURVATURE, 1.0)), jnp.zeros(3, jnp.float32), []
    result = jax.jit(lambda x: run(GradientDescent(), problem, x, 250, progress=lambda *v: told.append(v), objective_every=10))(x0)
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert sorted(int(k) for k, *_ in told) == list(range(2, 251, 2))
    assert all(np.isfinite(v) == (k % 10 == 0) for k, v, _ in told)

    told.clear()
    starts = jnp.array([[0.0, 0.0, 0.0], [0.99, 0.98, 0.97]], jnp.float32)
    batch = jax.vmap(lambda x: run(GradientDescent(), problem, x, 60, 1e-4, progress=lambda *v: told.append(v)))(starts)
    jax.block_until_ready(batch)
    jax.effects_barrier()
    assert sorted(int(k) for k, *_ in told) == sorted(k for n in batch.iterations.tolist() for k in range(1, n + 1))


def test_changed_arrays_do_not_trace_again():
    def solve(curvature, weight, rule):
        problem = Problem(Bowl(curvature, 1.0), L1(weight))
        return run(FISTA(), problem, jnp.zeros(3, jnp.float32), 20, 1e-3, rule).x

    for rule in (None, Implicit()):
        solve(CURVATURE, 0.1, rule)
        before = len(TRACES)
        again = solve(2 * CURVATURE, 0.2, rule)
        assert len(TRACES) == before
        np.testing.assert_allclose(again, 1 - 0.1 / CURVATURE, atol=2e-3)


def test_pytrees_and_batches():
    x0 = {"image": jnp.zeros((2, 3), jnp.float32), "phase": jnp.zeros(3, jnp.complex64)}
    result = run(GradientDescent(), Problem(Bowl(CURVATURE, 2.0)), x0, 200, 1e-6).check()
    assert result.x["phase"].dtype == jnp.complex64
    jax.tree.map(lambda v: np.testing.assert_allclose(v, 2 * np.ones(v.shape), rtol=1e-4), result.x)

    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    problem = Problem(LeastSquares(Matrix(a), y), L1(0.1), ((L1(0.05), Matrix(np.eye(3, dtype=np.float32)[1:])),))
    joint = run(PrimalDual(), problem, jnp.zeros((4, 3), jnp.float32), 2000)
    admm = run(ADMM(1.0), problem, jnp.zeros((4, 3), jnp.float32), 1000)
    assert joint.x.shape == (4, 3) and joint.x.dtype == jnp.float32
    np.testing.assert_allclose(joint.x, admm.x, atol=1e-3)


def test_dtype_follows_the_input(x64):
    problem = Problem(Bowl(CURVATURE, 1.0), L1(0.1))
    for solver in (FISTA(monotone=True), HalfQuadraticSplitting()):
        problem = Problem(LeastSquares(Identity((3,)), np.ones(3, np.float32)), L1(0.1))
        result = run(solver, problem, jnp.zeros(3, jnp.float32), 3)
        assert result.x.dtype == result.objective.dtype == result.residual.dtype == jnp.float32


def test_a_problem_without_slope_stands_still():
    result = run(FISTA(), Problem(proximable=SquaredL2()), jnp.zeros(3, jnp.float32), 10, 1e-6).check()
    np.testing.assert_array_equal(result.x, 0)


def test_early_stopping_without_a_rule_refuses_reverse_mode_and_admits_forward_mode():
    def f(centre, rule=None):
        return jnp.sum(run(GradientDescent(), Problem(Bowl(CURVATURE, centre)), jnp.zeros(3, jnp.float32), 300, 1e-7, rule).x)

    with pytest.raises(ValueError, match=r"run\(gradient=\): expected a gradient rule.*Pass gradient=Unroll"):
        jax.grad(f)(1.0)
    with pytest.raises(ValueError, match=r"run\(gradient=\): expected a gradient rule"):
        jax.vmap(jax.grad(f))(jnp.ones(2))
    assert jax.jvp(f, (1.0,), (1.0,))[1] == pytest.approx(3, rel=1e-4)
    assert jax.grad(f)(1.0, Implicit()) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("rule", [Truncated(3), JacobianFree()])
def test_the_differentiated_steps_are_taken_after_convergence(rule):
    x0 = jnp.zeros(3, jnp.float32)
    f = lambda c: (lambda r: (r.x.sum(), r))(run(GradientDescent(0.9), Problem(Bowl(CURVATURE, c)), x0, 300, 1e-4, rule))  # noqa: E731
    slope, result = jax.grad(f, has_aux=True)(1.0)
    last = rule.last if isinstance(rule, Truncated) else 1
    np.testing.assert_allclose(slope, np.sum(1 - (1 - 0.9 * CURVATURE) ** last), rtol=1e-5)
    plain = run(GradientDescent(0.9), Problem(Bowl(CURVATURE, 1.0)), x0, 300, 1e-4)
    assert result.status == Status.CONVERGED and result.iterations == plain.iterations + last
    n = int(result.iterations)
    assert np.isfinite(result.objective[: n + 1]).all() and np.isnan(result.objective[n + 1 :]).all()


SMOOTH, X0 = Problem(Bowl(CURVATURE)), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(FISTA, SMOOTH, X0), r"solver: expected a Solver such as FISTA\(\)"),
        (lambda: run(FISTA(), SMOOTH.smooth, X0), "problem: expected a Problem"),
        (lambda: run(FISTA(), SMOOTH, X0, 0), "steps: expected an integer ≥ 1"),
        (lambda: run(FISTA(), SMOOTH, X0, tolerance=-1.0), "tolerance: expected values ≥ 0"),
        (lambda: run(FISTA(), SMOOTH, X0, gradient="implicit"), "gradient: expected a gradient rule"),
        (lambda: run(FISTA(), SMOOTH, np.zeros(3, int)), "x0: expected a floating or complex dtype"),
        (lambda: run(GradientDescent(), Problem(Bowl(CURVATURE), L1()), X0), "problem.proximable: expected nothing, for GradientDescent"),
        (lambda: run(FISTA(), Problem(composed=((L1(), Identity((3,))),)), X0), "problem.composed: expected nothing, for FISTA"),
        (lambda: run(ADMM(), SMOOTH, X0), "expected a proximable or composed term, for ADMM"),
        (lambda: run(PrimalDual(), SMOOTH, X0), r"problem.composed: expected at least one pair \(g, K\)"),
        (lambda: run(HalfQuadraticSplitting(), Problem(Bowl(CURVATURE), L1()), X0), "problem.smooth: expected an energy with a prox"),
        (lambda: Problem(L1()), "smooth: expected an energy with a gradient"),
        (lambda: Problem(proximable=Bowl(CURVATURE)), "proximable: expected an energy with a prox"),
        (lambda: Problem(composed=((L1(), np.eye(3)),)), r"composed: expected pairs \(Energy, Operator\)"),
        (lambda: Problem(lambda x: x), "smooth: expected an Energy"),
        (lambda: GradientDescent(-1.0), "step_size: expected values > 0"),
        (lambda: FISTA(backtracking=1.5), r"backtracking: expected a shrink factor in \(0, 1\)"),
        (lambda: ADMM(0.0), "penalty: expected values > 0"),
        (lambda: PrimalDual(tau=0.1), "tau, sigma: expected both or neither"),
        (lambda: HalfQuadraticSplitting(growth=0.5), "growth: expected values ≥ 1"),
        (lambda: Implicit(linear_solver="gmress"), "linear_solver: expected one of .* Did you mean 'gmres'"),
        (lambda: Truncated(0), "last: expected an integer ≥ 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unroll_runs_forwards_too():
    f = lambda c: run(GradientDescent(0.5), Problem(Bowl(CURVATURE, c)), jnp.zeros(3, jnp.float32), 5, gradient=Unroll()).x.sum()  # noqa: E731
    assert jax.jvp(f, (1.0,), (1.0,))[1] == pytest.approx(np.sum(1 - (1 - 0.5 * CURVATURE) ** 5), rel=1e-5)
