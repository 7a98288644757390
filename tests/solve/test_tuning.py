import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from sklearn.linear_model import RidgeCV

from diffimg.energy import L1, LeastSquares
from diffimg.forward.basic import Function, Identity, Matrix
from diffimg.solve import Problem, ProximalGradient, run, tuning

pytestmark = pytest.mark.usefixtures("x64")
THREE = Identity((3,))
FIVE = np.arange(1.0, 6)
WEIGHTS = np.geomspace(1e-4, 10, 26)


def blur(n=40, width=2.5):
    """A circulant blur: all data have the same leverage."""
    d = np.minimum(np.arange(n), n - np.arange(n))
    return scipy.linalg.circulant(np.exp(-0.5 * (d / width) ** 2) / np.exp(-0.5 * (d / width) ** 2).sum())


def data(noise=0.05, n=40):
    a = blur(n)
    truth = np.sin(2 * np.pi * np.arange(n) / n) + (np.abs(np.arange(n) - 25) < 6)
    return a, truth, a @ truth + noise * np.random.default_rng(0).normal(size=n)


def ridge(a):
    return lambda weight, y: jnp.linalg.solve(a.T @ a + weight * jnp.eye(a.shape[1]), a.T @ y)


def test_gcv_against_the_formula_and_scikit_learn():
    a, _, y = data()
    choice = tuning.gcv_tikhonov(a, y, WEIGHTS)
    expected = []
    for weight in WEIGHTS:
        h = a @ np.linalg.solve(a.T @ a + weight * np.eye(len(y)), a.T)
        expected.append(len(y) * np.sum((h @ y - y) ** 2) / (len(y) - np.trace(h)) ** 2)
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)
    # With equal leverages the leave-one-out error is the generalized one.
    peer = RidgeCV(alphas=WEIGHTS, fit_intercept=False, store_cv_results=True).fit(a, y)
    np.testing.assert_allclose(choice.curve, peer.cv_results_.mean(0), rtol=1e-8)
    assert choice.weight == pytest.approx(peer.alpha_)


def test_gcv_spectrum_in_the_fourier_basis_and_gcv_of_a_tall_matrix():
    a, _, y = data()
    spectral = tuning.gcv_spectrum(np.fft.fft(a[:, 0]), np.fft.fft(y, norm="ortho"), WEIGHTS)
    np.testing.assert_allclose(spectral.curve, tuning.gcv_tikhonov(a, y, WEIGHTS).curve, rtol=1e-8)
    tall = np.random.default_rng(1).normal(size=(12, 5))
    b = np.random.default_rng(2).normal(size=12)
    h = tall @ np.linalg.solve(tall.T @ tall + 0.7 * np.eye(5), tall.T)
    expected = 12 * np.sum((h @ b - b) ** 2) / (12 - np.trace(h)) ** 2
    with pytest.warns(UserWarning, match="gcv_tikhonov: the best weight that was tried is at an end"):
        choice = tuning.gcv_tikhonov(tall, b, [0.7])
    np.testing.assert_allclose(choice.curve, [expected], rtol=1e-10)


def test_stochastic_gcv_approaches_the_exact_one():
    a, _, y = data()
    exact = tuning.gcv_tikhonov(a, y, WEIGHTS)
    choice = jax.jit(lambda y: tuning.gcv(ridge(a), Matrix(a), y, WEIGHTS, jax.random.key(0), probes=32))(y)
    np.testing.assert_allclose(choice.curve, exact.curve, rtol=0.2)
    assert abs(np.argmin(choice.curve) - np.argmin(exact.curve)) <= 1


def test_discrepancy_finds_the_root():
    a, _, y = data()
    solve = ridge(a)
    choice = jax.jit(lambda y: tuning.discrepancy(lambda w: solve(w, y), Matrix(a), y, 0.05, (1e-6, 1e2), steps=40))(y)

    def excess(log_weight):
        x = np.linalg.solve(a.T @ a + np.exp(log_weight) * np.eye(len(y)), a.T @ y)
        return np.linalg.norm(a @ x - y) - 0.05 * np.sqrt(len(y))

    root = np.exp(scipy.optimize.brentq(excess, np.log(1e-6), np.log(1e2), xtol=1e-12))
    assert float(choice.weight) == pytest.approx(root, rel=1e-6)
    assert float(choice.curve[-1]) == pytest.approx(1, abs=1e-6)
    assert choice.found


@pytest.mark.parametrize(("noise_level", "end"), [(1e-9, 1e-4), (10.0, 1e2)])
def test_discrepancy_says_that_the_bracket_misses(noise_level, end):
    a, _, y = data()
    with pytest.warns(UserWarning, match="discrepancy: the residual is not as large as the noise anywhere") as record:
        choice = tuning.discrepancy(lambda w: ridge(a)(w, y), Matrix(a), y, noise_level, (1e-4, 1e2))
    assert record[0].filename == __file__
    assert not choice.found
    assert float(choice.weight) == pytest.approx(end, rel=1e-9)


def test_a_batch_of_data_gets_one_weight():
    a, _, y = data()
    batch = np.stack([y, -y])
    solve = lambda w: jax.vmap(lambda v: ridge(a)(w, v))(jnp.asarray(batch))  # noqa: E731
    one = tuning.discrepancy(lambda w: ridge(a)(w, y), Matrix(a), y, 0.05)
    rows = Function(lambda x: jnp.matmul(x, a.T), jax.ShapeDtypeStruct((40,), "float64"))
    assert float(tuning.discrepancy(solve, rows, batch, 0.05).weight) == pytest.approx(float(one.weight))
    with pytest.raises(ValueError, match=r"solve: expected a reconstruction whose data have the shape of y, \(2, 40\), got \(40,\)"):
        tuning.discrepancy(lambda w: ridge(a)(w, y), Matrix(a), batch, 0.05)


def test_l_curve_against_the_analytic_curvature():
    """Curvature of the L-curve from the SVD (Hansen, Rank-Deficient and Discrete Ill-Posed Problems, 1998, eq. 4.19)."""
    a, _, y = data()
    solve = ridge(a)
    weights = np.geomspace(1e-5, 10, 80)
    choice = jax.jit(lambda y: tuning.l_curve(lambda w: solve(w, y), Matrix(a), y, jnp.linalg.norm, weights))(y)
    u, s, _ = np.linalg.svd(a)
    c = u.T @ y
    turning = []
    for weight in weights:
        f = s**2 / (s**2 + weight)
        eta, rho = np.sum((f * c / s) ** 2), np.sum(((1 - f) * c) ** 2)
        alpha = np.sqrt(weight)
        slope = -4 / alpha * np.sum((1 - f) * f**2 * (c / s) ** 2)
        bracket = weight * slope * rho + 2 * alpha * eta * rho + weight**2 * eta * slope
        curvature = -2 * eta * rho / slope * bracket / (weight**2 * eta**2 + rho**2) ** 1.5
        # Of the squared norms: dη/dλ = slope/2α, and dρ/dλ = −λ dη/dλ.
        speed = np.hypot(weight / rho, 1 / eta) / 2 * weight * abs(slope) / (2 * alpha)
        turning.append(curvature * speed)
    np.testing.assert_allclose(choice.curve[1:-1], turning[1:-1], atol=0.01)
    assert np.max(turning) > 0.4
    assert abs(np.argmax(choice.curve) - np.argmax(turning)) <= 1
    assert choice.found


def regression(noise=0.05):
    """30 equations in 20 unknowns: well-posed, so that the L-curve has no upper arm."""
    rng = np.random.default_rng(0)
    a, truth = rng.normal(size=(30, 20)), rng.normal(size=20)
    return a, truth, a @ truth + noise * rng.normal(size=30)


@pytest.mark.parametrize("start", [1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", [data, regression])
def test_l_curve_chooses_a_weight_that_predicts_well(problem, dtype, start):
    a, truth, y = problem()
    weights = np.geomspace(start, 100, 30)
    _, s, vt = np.linalg.svd(a, full_matrices=False)

    def expected_error(weight):
        f = s**2 / (s**2 + weight)
        return np.sum(((1 - f) * s * (vt @ truth)) ** 2) + 0.05**2 * np.sum(f**2)

    errors = [expected_error(w) for w in weights]
    a, y = a.astype(dtype), y.astype(dtype)
    choice = tuning.l_curve(lambda w: ridge(a)(w, y), Matrix(a), y, jnp.linalg.norm, weights)
    assert choice.found and choice.weight.dtype == dtype
    assert abs(np.log10(choice.weight / weights[np.argmin(errors)])) < 1
    assert expected_error(float(choice.weight)) < 1.15 * min(errors)


@pytest.mark.parametrize("problem", [data, regression])
def test_l_curve_says_that_there_is_no_corner(problem):
    a, _, y = problem()
    weights = np.geomspace(10, 1e4, 15)
    with pytest.warns(UserWarning, match="l_curve: the curve has no corner"):
        choice = tuning.l_curve(lambda w: ridge(a)(w, y), Matrix(a), y, jnp.linalg.norm, weights)
    assert not choice.found and np.isfinite(choice.weight)


def test_l_curve_passes_over_weights_at_which_the_seminorm_is_zero():
    """As total variation is at great weights."""
    a, _, y = data()
    weights = np.geomspace(1e-5, 1e3, 30)
    size = lambda x: jnp.where(jnp.linalg.norm(x) > 1, jnp.linalg.norm(x), 0)  # noqa: E731
    solve = lambda w: ridge(a)(w, y)  # noqa: E731
    choice = tuning.l_curve(solve, Matrix(a), y, size, weights)
    assert np.isnan(choice.curve).any()
    assert choice.found and choice.weight == tuning.l_curve(solve, Matrix(a), y, jnp.linalg.norm, weights).weight


def test_sure_of_soft_thresholding_is_exact_and_close_to_the_true_error():
    rng = np.random.default_rng(3)
    n, sigma = 20_000, 0.5
    truth = np.where(rng.random(n) < 0.1, 4 * rng.normal(size=n), 0)
    y = truth + sigma * rng.normal(size=n)
    weights = np.linspace(0.1, 2, 8)
    soft = lambda weight, v: L1(weight).prox(v, 1.0)  # noqa: E731
    choice = tuning.sure(soft, y, sigma, weights, jax.random.key(0))
    expected = [np.mean(np.minimum(np.abs(y), w) ** 2) - sigma**2 + 2 * sigma**2 * np.mean(np.abs(y) > w) for w in weights]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-9)  # Donoho & Johnstone, 1995
    error = [np.mean((np.sign(y) * np.maximum(np.abs(y) - w, 0) - truth) ** 2) for w in weights]
    np.testing.assert_allclose(choice.curve, error, rtol=0.05)
    assert float(choice.weight) == weights[np.argmin(error)]
    black_box = tuning.sure(soft, y, sigma, weights, jax.random.key(0), epsilon=1e-3)
    np.testing.assert_allclose(black_box.curve, choice.curve, rtol=0.02)


def test_sure_of_complex_data():
    rng = np.random.default_rng(4)
    n, sigma = 20_000, 0.4
    noise = lambda: (rng.normal(size=n) + 1j * rng.normal(size=n)) / np.sqrt(2)  # noqa: E731
    truth = np.where(rng.random(n) < 0.2, 3 * noise(), 0)
    y = truth + sigma * noise()
    soft = lambda weight, v: L1(weight).prox(v, 1.0)  # noqa: E731
    weights = np.linspace(0.1, 1, 4)
    choice = tuning.sure(soft, y, sigma, weights, jax.random.key(0))
    error = [np.mean(np.abs(np.asarray(soft(w, y)) - truth) ** 2) for w in weights]
    np.testing.assert_allclose(choice.curve, error, rtol=0.05)


def test_a_run_that_stops_early_can_be_tuned():
    """A solver with a tolerance has forward derivatives, which is all that SURE needs."""
    y = np.random.default_rng(5).normal(size=30) + 2 * (np.arange(30) < 6)

    def solve(weight, y):
        problem = Problem(LeastSquares(Identity((30,), "float64"), y), L1(weight))
        return run(ProximalGradient(0.5), problem, jnp.zeros(30), 200, 1e-12, objective_every=0).x

    weights = np.array([0.2, 1.0, 5.0])
    choice = tuning.sure(solve, y, 1.0, weights, jax.random.key(0), operator=Identity((30,), "float64"))
    expected = [np.mean(np.minimum(np.abs(y), w) ** 2) - 1 + 2 * np.mean(np.abs(y) > w) for w in weights]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)


def test_validation_grid():
    a, truth, y = data()
    solve = ridge(a)
    choice = tuning.validation_grid(lambda w: solve(w, y), lambda x: jnp.mean((x - truth) ** 2), WEIGHTS)
    expected = [np.mean((np.linalg.solve(a.T @ a + w * np.eye(40), a.T @ y) - truth) ** 2) for w in WEIGHTS]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)
    assert choice.weight == WEIGHTS[np.argmin(expected)] and choice.found


@pytest.mark.parametrize("found", [True, False])
def test_the_best_weight_is_found_strictly_inside_the_range(found):
    metric = lambda x: jnp.where(x > 5, jnp.nan, (x - (2.0 if found else 0.5)) ** 2)  # noqa: E731
    search = lambda: tuning.validation_grid(lambda w: w, metric, [3.0, 1.0, 2.0, 9.0])  # noqa: E731
    if found:
        choice = search()
    else:
        with pytest.warns(UserWarning, match="validation_grid: the best weight that was tried is at an end"):
            choice = search()
    assert bool(choice.found) == found
    assert choice.weight == (2 if found else 1)
    assert bool(jax.jit(search)().found) == found


def solvers(y):
    operator, identity, key = Matrix(np.eye(3)), lambda w, *v: jnp.zeros(3), jax.random.key(0)
    return {
        "discrepancy": lambda: tuning.discrepancy(identity, operator, y, 1.0),
        "l_curve": lambda: tuning.l_curve(identity, operator, y, jnp.linalg.norm, np.geomspace(1, 2, 5)),
        "gcv": lambda: tuning.gcv(identity, operator, y, [1.0], key),
        "gcv_tikhonov": lambda: tuning.gcv_tikhonov(np.eye(3), y, [1.0]),
        "sure": lambda: tuning.sure(identity, y, 1.0, [1.0], key, operator=operator),
    }


@pytest.mark.parametrize("criterion", list(solvers(None)))
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([1.0, np.nan, 0.0]), "y: expected finite values"),
        (np.ones(1), "y: expected shape"),
        (np.ones(4), "y: expected shape"),
        ("data", "y: expected a numeric array"),
        (np.ones(3) * 1j, "y: expected real values"),
    ],
)
def test_data_are_admitted_as_the_energies_admit_them(criterion, y, message):
    with pytest.raises(ValueError, match=message):
        solvers(y)[criterion]()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tuning.validation_grid(None, None, [[1.0]]), r"weights: expected 1 axes"),
        (lambda: tuning.validation_grid(None, None, [-1.0]), r"weights: expected values > 0"),
        (lambda: tuning.validation_grid(None, None, [np.nan]), r"weights: expected finite values"),
        (lambda: tuning.l_curve(None, THREE, np.ones(3), None, [1.0]), r"weights: expected at least 5"),
        (lambda: tuning.l_curve(None, THREE, np.ones(3), None, [1.0, 3, 2, 4, 5]), r"differences of weights: expected values > 0"),
        (lambda: tuning.l_curve(lambda w: w * jnp.ones(3), THREE, np.zeros(3), jnp.abs, FIVE), r"seminorm\(x\): expected shape"),
        (lambda: tuning.discrepancy(None, None, np.ones(3), 1.0), r"operator: expected an Operator"),
        (lambda: tuning.discrepancy(None, THREE, np.ones(3), 0.0), r"noise_level: expected values > 0"),
        (lambda: tuning.discrepancy(None, THREE, np.ones(3), np.nan), r"noise_level: expected finite values"),
        (lambda: tuning.discrepancy(None, THREE, np.ones(3), np.ones(3)), r"noise_level: expected 0 axes"),
        (lambda: tuning.discrepancy(None, THREE, np.ones(3), 1.0, (1.0, 0.1)), r"bracket: expected values > 0"),
        (lambda: tuning.sure(None, [1.0, np.inf], 1.0, [1.0], None), r"y: expected finite values"),
        (lambda: tuning.gcv_spectrum(np.ones(3), [1.0, 1.0, np.nan], [1.0]), r"coefficients: expected finite values"),
        (lambda: tuning.gcv_tikhonov(np.ones((3, 2)), np.ones(2), [1.0]), r"y: expected shape \(3,\) \[m\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
