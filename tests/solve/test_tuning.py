import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from sklearn.linear_model import RidgeCV

from diffimg.energy import L1, LeastSquares
from diffimg.forward.basic import Identity, Matrix
from diffimg.solve import Problem, ProximalGradient, run, tuning

pytestmark = pytest.mark.usefixtures("x64")
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
    np.testing.assert_allclose(tuning.gcv_tikhonov(tall, b, [0.7]).curve, [expected], rtol=1e-10)


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


def test_l_curve_against_the_analytic_curvature():
    """Curvature of the L-curve from the SVD (Hansen, Rank-Deficient and Discrete Ill-Posed Problems, 1998, eq. 4.19)."""
    a, _, y = data()
    solve = ridge(a)
    weights = np.geomspace(1e-5, 10, 80)
    choice = jax.jit(lambda y: tuning.l_curve(lambda w: solve(w, y), Matrix(a), y, jnp.linalg.norm, weights))(y)
    u, s, _ = np.linalg.svd(a)
    c = u.T @ y
    curvature = []
    for weight in weights:
        f = s**2 / (s**2 + weight)
        eta, rho = np.sum((f * c / s) ** 2), np.sum(((1 - f) * c) ** 2)
        alpha = np.sqrt(weight)
        slope = -4 / alpha * np.sum((1 - f) * f**2 * (c / s) ** 2)
        bracket = weight * slope * rho + 2 * alpha * eta * rho + weight**2 * eta * slope
        curvature.append(-2 * eta * rho / slope * bracket / (weight**2 * eta**2 + rho**2) ** 1.5)
    curvature = np.array(curvature)
    flat = (np.abs(curvature) < 2) & (np.arange(80) > 5) & (np.arange(80) < 74)  # at the corner differences of 0.17 in log λ are coarse
    assert flat.sum() > 30
    np.testing.assert_allclose(choice.curve[flat], curvature[flat], rtol=0.1, atol=0.05)
    assert abs(np.argmax(choice.curve[2:-2]) - np.argmax(curvature[2:-2])) <= 1


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

    weights = np.array([0.5, 1.0])
    choice = tuning.sure(solve, y, 1.0, weights, jax.random.key(0), operator=Identity((30,), "float64"))
    expected = [np.mean(np.minimum(np.abs(y), w) ** 2) - 1 + 2 * np.mean(np.abs(y) > w) for w in weights]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)


def test_validation_grid():
    a, truth, y = data()
    solve = ridge(a)
    choice = tuning.validation_grid(lambda w: solve(w, y), lambda x: jnp.mean((x - truth) ** 2), WEIGHTS)
    expected = [np.mean((np.linalg.solve(a.T @ a + w * np.eye(40), a.T @ y) - truth) ** 2) for w in WEIGHTS]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)
    assert choice.weight == WEIGHTS[np.argmin(expected)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tuning.validation_grid(None, None, [[1.0]]), r"weights: expected 1 axes"),
        (lambda: tuning.validation_grid(None, None, [-1.0]), r"weights: expected values > 0"),
        (lambda: tuning.l_curve(None, None, np.ones(3), None, [1.0]), r"weights: expected at least 5"),
        (lambda: tuning.discrepancy(None, None, np.ones(3), 0.0), r"noise_level: expected values > 0"),
        (lambda: tuning.discrepancy(None, None, np.ones(3), 1.0, (1.0, 0.1)), r"bracket: expected values > 0"),
        (lambda: tuning.gcv_tikhonov(np.ones((3, 2)), np.ones(2), [1.0]), r"y: expected shape \(3,\) \[m\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
