"""Noise models: moments of the samples, and likelihoods whose gradient is that of the stated law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffimg.energy.noise import Gaussian, Poisson, PoissonGaussian, Transmission
from diffimg.forward.basic import Matrix

KEY = jax.random.key(0)
DRAWS = 20000


def draws(model, clean):
    return np.asarray(model.noise(KEY, jnp.full((DRAWS,), clean)), np.float64)


@pytest.mark.parametrize(
    ("model", "clean", "mean", "variance"),
    [
        (Gaussian(0.5), 3.0, 3.0, 0.25),
        (Poisson(10.0, 2.0), 3.0, 32.0, 32.0),
        (PoissonGaussian(10.0, 2.0, 4.0), 3.0, 32.0, 48.0),
    ],
)
def test_moments(model, clean, mean, variance):
    y = draws(model, clean)
    assert abs(y.mean() - mean) < 5 * np.sqrt(variance / DRAWS)
    assert abs(y.var() / variance - 1) < 0.06


def test_laws_against_scipy():
    assert stats.kstest(draws(Gaussian(0.5), 3.0), stats.norm(3.0, 0.5).cdf).pvalue > 1e-3
    observed = np.bincount(draws(Poisson(2.0, 1.0), 1.5).astype(int), minlength=15)[:15]
    expected = stats.poisson(4.0).pmf(np.arange(15)) * DRAWS
    assert ((observed - expected) ** 2 / expected).sum() < stats.chi2(14).ppf(0.999)
    z = np.asarray(Gaussian(0.5).noise(KEY, jnp.zeros(DRAWS, jnp.complex64)))
    np.testing.assert_allclose([z.real.std(), z.imag.std()], 0.5, rtol=0.03)


@pytest.mark.slow
def test_transmission_has_the_variance_that_its_weights_state():
    model = Transmission(photons=1e4, background=50.0, sigma=10.0)
    y = draws(model, 2.0)
    assert abs(y.mean() - 2.0) < 3e-3
    np.testing.assert_allclose(1 / y.var(), model.weights(jnp.asarray([2.0]))[0], rtol=0.05)
    np.testing.assert_allclose(model.log(1e4 * jnp.exp(-jnp.asarray([0.0, 3.0])) + 50), [0, 3], atol=1e-5)
    starved = Transmission(photons=10.0).noise(KEY, jnp.full(100, 20.0))
    np.testing.assert_allclose(starved, np.log(10.0), rtol=1e-6)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return Matrix(rng.random((6, 4)).astype("f4")), jnp.asarray(rng.random(4), jnp.float32), jnp.asarray(rng.integers(1, 9, 6), jnp.float32)


@pytest.mark.parametrize(
    ("model", "residual"),
    [
        (Gaussian(0.5), lambda m, y: (m - y) / 0.25),
        (Gaussian(np.linspace(1, 2, 6)), lambda m, y: (m - y) / np.linspace(1, 2, 6) ** 2),
        (Poisson(3.0, 0.5), lambda m, y: 3 * (1 - y / (3 * m + 0.5))),
        (PoissonGaussian(3.0, 0.5, 2.0), lambda m, y: 3 * (1 - (y + 4) / (3 * m + 4.5))),
        (Transmission(100.0, 5.0), lambda m, y: (100 * np.exp(-y)) ** 2 / (100 * np.exp(-y) + 5) * (m - y)),
    ],
)
def test_likelihood_gradient(model, residual, problem):
    operator, x, y = problem
    matrix = np.asarray(operator.matrix(), np.float64)
    want = matrix.T @ residual(matrix @ np.asarray(x, np.float64), np.asarray(y, np.float64))
    np.testing.assert_allclose(model.likelihood(operator, y).grad(x), want, rtol=2e-4, atol=1e-5)


def test_parameters_are_leaves_and_batches_pass(problem):
    clean = jnp.ones((2, 6))
    y = jax.vmap(lambda s: Gaussian(s).noise(KEY, clean))(jnp.array([0.0, 1.0]) + 1e-3)
    assert y.shape == (2, 2, 6)
    assert float(jnp.abs(y[0] - 1).max()) < 0.01 < float(jnp.abs(y[1] - 1).max())
    derivative = jax.grad(lambda s: Gaussian(s).noise(KEY, clean).sum())(1.0)
    np.testing.assert_allclose(derivative, (Gaussian(1.0).noise(KEY, clean) - 1).sum(), rtol=1e-4)
    assert Transmission(jnp.full(6, 1e3)).noise(KEY, clean).shape == (2, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(0.0), "sigma: expected values > 0"),
        (lambda: Poisson(-1.0), "scale"),
        (lambda: Poisson(np.ones(3)), "scale: expected a scalar"),
        (lambda: Transmission(0.0), "photons"),
        (lambda: Gaussian(1.0).noise(KEY, np.array([np.nan])), "clean: expected finite"),
        (lambda: Gaussian(1.0).noise(KEY, np.array([1, 2])), "clean: expected a floating"),
        (lambda: Poisson().noise(KEY, np.ones(2, np.complex64)), "clean: expected a real"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_negative_counts_are_refused_where_there_is_no_electronic_noise():
    with pytest.raises(ValueError, match="counts: expected values ≥ 0"):
        Transmission(1e4).log(-jnp.ones(3))
    assert np.isfinite(Transmission(1e4, sigma=2.0).log(-jnp.ones(3))).all()
