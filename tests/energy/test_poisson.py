"""The Poisson likelihood against SciPy's, and its extension below the threshold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from diffimg.energy import Poisson, PoissonLikelihood
from diffimg.forward.algebra import Stack
from diffimg.forward.basic import Diagonal, Identity, Matrix

rng = np.random.default_rng(0)
A, X = np.abs(rng.normal(size=(6, 4))), np.abs(rng.normal(size=4))
COUNTS = np.array([0.0, 0.01, 0.6, 1.0, 2.0, 30.0])
BACKGROUNDS = (0.0, 3.0)


def start_of_parabola(y, b, threshold=0.02):
    rare = (threshold * scipy.special.factorial(y)) ** (1 / np.maximum(y, 1))
    return np.maximum(rare, np.minimum(b, y / 2))


def test_value_and_gradient_are_those_of_the_log_probability():
    y, b = np.array([0, 1, 3, 8, 2, 0]), np.linspace(0, 1, 6)
    with jax.enable_x64(True):
        e = PoissonLikelihood(Matrix(A), y, b)
        z = A @ X + b
        assert (z > start_of_parabola(y, b)).all()
        log_factorial = scipy.special.gammaln(y + 1)
        np.testing.assert_allclose(e(X) + log_factorial.sum(), -scipy.stats.poisson.logpmf(y, z).sum(), rtol=1e-12)
        np.testing.assert_allclose(e.grad(X), A.T @ (1 - y / z), rtol=1e-12)
        np.testing.assert_allclose(e.value_and_grad(X)[0], e(X), rtol=1e-14)


@pytest.mark.parametrize("b", BACKGROUNDS)
def test_exact_above_the_threshold_and_a_c1_convex_parabola_below(b):
    t = start_of_parabola(COUNTS, b)
    with jax.enable_x64(True):
        e = PoissonLikelihood(Identity((6,), "float64"), COUNTS, b)
        each = jax.jit(jax.vmap(lambda z, e=e: (e(z - b), e.grad(z - b))))
        above = np.where(COUNTS > 0, t, 0) + np.linspace(1e-9, 40, 30)[:, None]
        exact = (above - scipy.special.xlogy(COUNTS, above)).sum(1)
        np.testing.assert_allclose(each(above)[0], exact, rtol=1e-11)
        # central differences along a line through both seams, z = t and z = 0
        line, h = np.sort(np.concatenate([np.linspace(-5, 45, 400), t, [0.0]]))[:, None] * np.ones(6), 1e-6
        slope = np.asarray(each(line)[1])
        for k in range(6):
            d = h * np.eye(6)[k]
            finite = (each(line + d)[0] - each(line - d)[0]) / (2 * h)
            np.testing.assert_allclose(slope[:, k], finite, rtol=1e-5, atol=0.6 * h * float(e.lipschitz()) + 1e-6)
        change = np.diff(slope, axis=0)
        assert (change >= -1e-12).all()  # convex
        assert (change <= float(e.lipschitz()) * np.diff(line, axis=0) * (1 + 1e-9) + 1e-12).all()
        # bounded below, with the minimum not far below the domain
        lowest = np.array([scipy.optimize.brentq(lambda z, k=k: float(each(np.full((1, 6), z))[1][0, k]), -10, 50) for k in range(6)])
        np.testing.assert_allclose(lowest[t <= COUNTS], COUNTS[t <= COUNTS], rtol=1e-9)
        assert (lowest >= -max(b, 0.02) - 1e-9).all()


def test_threshold_bounds_the_probability_of_what_is_altered():
    y = np.arange(1, 60)
    assert (scipy.stats.poisson.sf(y - 1, start_of_parabola(y, 0)) <= 0.02).all()
    for threshold in (1e-3, 0.1):
        with jax.enable_x64(True):
            e = PoissonLikelihood(Identity(y.shape, "float64"), y, threshold=threshold)
            z = 1.001 * start_of_parabola(y, 0, threshold)
            np.testing.assert_allclose(e(z), (z - y * np.log(z)).sum(), rtol=1e-12)
            assert abs(e(0.9 * z) - (0.9 * z - y * np.log(0.9 * z)).sum()) > 1e-3


@pytest.mark.slow
def test_lipschitz_is_finite_and_bounds_the_hessian():
    with jax.enable_x64(True):
        for y in (COUNTS, np.stack([COUNTS, COUNTS[::-1]])):
            e = PoissonLikelihood(Matrix(A), y)
            for x in (0 * X, -X, X, 0.02 * X):
                hessian = jax.hessian(PoissonLikelihood(Matrix(A), COUNTS))(jnp.asarray(x))
                assert np.linalg.eigvalsh(hessian)[-1] <= float(e.lipschitz()) < np.inf
        stack = PoissonLikelihood(Stack((Matrix(A), Matrix(A))), (COUNTS, COUNTS))
        one = PoissonLikelihood(Matrix(A), COUNTS)
        np.testing.assert_allclose(stack.lipschitz(), 2 * one.lipschitz(), rtol=1e-6)
        np.testing.assert_allclose(stack(-X), 2 * one(-X))


@pytest.mark.parametrize("b", BACKGROUNDS)
@pytest.mark.parametrize("step", [0.05, 0.8])
def test_prox_against_scipy(b, step):
    y, v = np.repeat(COUNTS, 5), np.tile([-60.0, -1.0, 0.02, 0.7, 40.0], 6)
    d = np.resize([1.0, 0.5, 2.0, -1.5], 30)
    with jax.enable_x64(True):
        got = PoissonLikelihood(Diagonal(jnp.asarray(d)), y, b).prox(v, step)
        energy = PoissonLikelihood(Diagonal(jnp.asarray(d), (30,)), y, b)
        each = jax.jit(jax.vmap(lambda x: jnp.diag(jax.jacobian(energy.grad)(x))))  # warm: one compilation
        assert np.isfinite(each(got[None])).all()
    t = start_of_parabola(y, b)

    def objective(x, k):
        z = d[k] * x + b
        u, below = max(z, t[k]), min(z - t[k], 0)
        phi = u - y[k] * np.log(u) + (1 - y[k] / t[k]) * below + y[k] / (2 * t[k] ** 2) * below**2
        phi += max(1 - y[k] / t[k], 0) / max(0.02, b) / 2 * min(z, 0) ** 2
        return phi + (x - v[k]) ** 2 / (2 * step)

    for k in range(30):
        best = scipy.optimize.minimize_scalar(objective, args=(k,), bounds=(-100, 100), method="bounded", options={"xatol": 1e-10})
        np.testing.assert_allclose(got[k], best.x, atol=2e-6, err_msg=f"y = {y[k]}, v = {v[k]}, d = {d[k]}")


@pytest.mark.slow
def test_prox_of_blind_pixels_and_its_derivatives_are_finite():
    e = PoissonLikelihood(Diagonal(jnp.array([0.0, 1.0, 1.0])), np.array([2.0, 0.0, 0.0]))
    v = jnp.array([1.5, 1.0, -1.0])
    assert e.prox(v, 1.0)[0] == 1.5
    assert np.isfinite(jax.jacobian(lambda v: e.prox(v, 1.0))(v)).all()
    assert np.isfinite(jax.grad(lambda e: e.prox(v, 1.0).sum() + e(v))(e).y).all()


def test_multiples_of_the_identity_have_a_prox():
    y = jnp.asarray(COUNTS, jnp.float32)
    v = jnp.linspace(-1, 3, 6)
    expected = PoissonLikelihood(Diagonal(jnp.full(6, 6.0)), y, 0.5).prox(v, 0.3)
    for e in (Poisson(6.0, 0.5).likelihood(Identity((6,)), y), Poisson(3.0, 0.5).likelihood(2 * Diagonal(jnp.ones(6)), y)):
        assert e.has_prox and e.prepare().has_prox
        np.testing.assert_allclose(e.prox(v, 0.3), expected, rtol=1e-5)
        assert e.prox(v, 0.3).dtype == jnp.float32
    assert not Poisson(3.0).likelihood(Matrix(np.ones((6, 6))), y).has_prox


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PoissonLikelihood(Matrix(A), -np.ones(6)), "y: expected values ≥ 0"),
        (lambda: PoissonLikelihood(Matrix(A), np.ones(6) + 1j), "y: expected a real dtype"),
        (lambda: PoissonLikelihood(Matrix(A), np.ones(6), -1.0), "background: expected values ≥ 0"),
        (lambda: PoissonLikelihood(Matrix(A), np.ones(6), threshold=0.0), "threshold: expected values > 0"),
        (lambda: PoissonLikelihood(Matrix(A), np.ones(6), threshold=2.0), "threshold: expected one probability"),
        (lambda: PoissonLikelihood(Matrix(A), np.ones(6)).prox(X, 1.0), "a proximal map"),
    ],
)
def test_bad_input_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
