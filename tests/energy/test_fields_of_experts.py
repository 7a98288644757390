"""Fields of experts and the nuclear norm against NumPy, SciPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, optimize

from diffimg import energy, forward, solve

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("potential", ["student", "huber", "charbonnier"])
@pytest.mark.parametrize("dtype", [float, complex])
def test_value_and_gradient(potential, dtype, x64):
    filters = RNG.normal(size=(4, 3, 5))
    e = energy.FieldsOfExperts(filters, RNG.random(4), 0.7, potential)
    x = RNG.normal(size=(6, 9)) + (1j * RNG.normal(size=(6, 9)) if dtype is complex else 0)
    rho = {
        "student": lambda t: 0.5 * np.log(1 + t * t),
        "huber": lambda t: np.where(t <= 1, t * t / 2, t - 0.5),
        "charbonnier": lambda t: np.sqrt(1 + t * t) - 1,
    }[potential]
    correlate = lambda v, f: ndimage.correlate(v, f, mode="wrap")  # noqa: E731
    responses = [correlate(x.real, f) + 1j * correlate(x.imag, f) if dtype is complex else correlate(x, f) for f in filters]
    expected = sum(w * rho(np.abs(r) / 0.7).sum() for w, r in zip(e.weights, responses, strict=True))
    np.testing.assert_allclose(e(x), expected, rtol=1e-12)
    np.testing.assert_allclose(e.grad(x), np.conj(jax.grad(e.__call__)(x)), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_lipschitz_constant_bounds_the_curvature(x64):
    e = energy.FieldsOfExperts(energy.dct_filters(3), 1.0, 0.5)
    hessian = jax.hessian(lambda v: e(v.reshape(7, 8)))(np.zeros(56))
    top = np.linalg.eigvalsh(hessian).max()
    assert top <= float(e.lipschitz()) < 1.3 * top


def test_filters_can_be_learned(x64):
    x, filters = RNG.normal(size=(6, 6)), RNG.normal(size=(2, 3, 3))
    step = 1e-6 * RNG.normal(size=filters.shape)
    value = lambda f: energy.FieldsOfExperts(f)(x)  # noqa: E731
    np.testing.assert_allclose(np.vdot(jax.grad(value)(filters), step), (value(filters + step) - value(filters - step)) / 2, rtol=1e-6)


def test_lectures_reconstruction_reaches_scipys_minimum(x64):
    """ρ(Wx) explicit, the masked transform through its closed-form prox."""
    mask = RNG.random((5, 6)) < 0.6
    A = forward.MaskedFFT(mask)
    y = np.asarray(A(RNG.normal(size=(5, 6)) + 1j * RNG.normal(size=(5, 6))))
    prior = energy.FieldsOfExperts(energy.dct_filters(3), 0.05, 0.5, "charbonnier")
    data = energy.LeastSquares(A, y)
    result = solve.run(solve.FISTA(), solve.Problem(smooth=prior, proximable=data), jnp.zeros((5, 6), complex), steps=800)

    def value(v):
        x = v[:30].reshape(5, 6) + 1j * v[30:].reshape(5, 6)
        return float(prior(x) + data(x))

    def gradient(v):
        x = v[:30].reshape(5, 6) + 1j * v[30:].reshape(5, 6)
        g = np.asarray(prior.grad(x) + data.grad(x)).ravel()
        return np.concatenate([g.real, g.imag])

    best = optimize.minimize(value, np.zeros(60), jac=gradient, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-9})
    v = np.concatenate([np.asarray(result.x).real.ravel(), np.asarray(result.x).imag.ravel()])
    assert value(v) <= best.fun * (1 + 1e-6)
    assert np.abs(np.asarray(result.x).ravel() - (best.x[:30] + 1j * best.x[30:])).max() < 1e-3


def test_dct_filters_are_orthonormal_and_without_mean():
    f = energy.dct_filters(4).reshape(15, 16)
    np.testing.assert_allclose(f @ f.T, np.eye(15), atol=1e-6)
    np.testing.assert_allclose(f.sum(1), 0, atol=1e-6)


def test_nuclear_norm(x64):
    x = RNG.normal(size=(4, 3, 5)) + 1j * RNG.normal(size=(4, 3, 5))
    e = energy.NuclearNorm(0.6)
    singular = np.linalg.svd(x.reshape(4, 15), compute_uv=False)
    np.testing.assert_allclose(e(x), 0.6 * singular.sum(), rtol=1e-12)
    p = np.asarray(e.prox(x, 0.5))
    u, s, vh = np.linalg.svd(x.reshape(4, 15), full_matrices=False)
    np.testing.assert_allclose(p.reshape(4, 15), u * np.maximum(s - 0.3, 0) @ vh, atol=1e-12)
    tall = np.asarray(e.prox(np.moveaxis(x, 0, -1).reshape(15, 4), 0.5))
    np.testing.assert_allclose(tall, p.reshape(4, 15).T, atol=1e-12)


def test_refused():
    with pytest.raises(ValueError, match="filters"):
        energy.FieldsOfExperts(np.ones((3, 3)))
    with pytest.raises(ValueError, match="potential"):
        energy.FieldsOfExperts(np.ones((1, 3, 3)), potential="cauchy")
    with pytest.raises(ValueError, match="weights"):
        energy.FieldsOfExperts(np.ones((2, 3, 3)), np.ones(3))
    with pytest.raises(ValueError, match="frame"):
        energy.NuclearNorm(1.0)(np.ones(4))
