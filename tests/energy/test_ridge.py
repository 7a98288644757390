"""The ridge regularizer against numerical integration, its bounds against eigenvalues, and networks as energies and denoisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, ndimage

from diffimg import energy, forward, solve, testing
from diffimg.energy.filter_bank import gain
from diffimg.energy.ridge import constrained_ridge, ridge_parameters

RNG = np.random.default_rng(21)
KNOTS = (0.0, 0.5, 1.0, 2.0)


def ridge(curvatures=(1.0, -0.4, 0.3), weight=0.6):
    return energy.RidgeRegularizer(RNG.normal(size=(4, 3, 5)), 0.3 + RNG.random(4), np.array(curvatures), weight, KNOTS)


@pytest.mark.parametrize("dtype", [complex, pytest.param(float, marks=pytest.mark.slow)])
def test_value_is_the_double_integral_of_the_curvature(dtype, x64):
    e = ridge()
    x = RNG.normal(size=(6, 9)) + (1j * RNG.normal(size=(6, 9)) if dtype is complex else 0)
    second = lambda t: next((c for c, high in zip(e.curvatures, KNOTS[1:], strict=True) if t < high), 0.0)  # noqa: E731
    psi = lambda t: integrate.quad(lambda u: (t - u) * second(u), 0, t, points=[k for k in KNOTS if 0 < k < t], limit=200)[0]  # noqa: E731
    expected = 0.0
    for f, s in zip(e.filters, e.scales, strict=True):
        r = ndimage.correlate(x.real, np.asarray(f), mode="wrap") + 1j * ndimage.correlate(np.imag(x), np.asarray(f), mode="wrap")
        expected += s**2 * sum(psi(t) for t in np.abs(r).ravel() / s)
    np.testing.assert_allclose(e(x), 0.6 * expected, rtol=1e-8)
    np.testing.assert_allclose(e.grad(x), np.conj(jax.grad(e.__call__)(x)), rtol=1e-10, atol=1e-12)
    testing.check_energy(e, jnp.asarray(x))


@pytest.mark.slow
def test_bounds_of_the_curvature(x64):
    """All responses within the first piece, and within the second: the Hessian is ψ'' Σ fᵀf, as large and as negative as it gets."""
    e = ridge((1.0, -0.7, 0.0))
    hessian = lambda x: jax.hessian(lambda v: e(v.reshape(16, 16)))(x.ravel())  # noqa: E731
    top = np.linalg.eigvalsh(hessian(np.zeros((16, 16)))).max()
    assert top <= float(e.lipschitz()) < 1.05 * top
    bottom = np.linalg.eigvalsh(hessian(RNG.normal(size=(16, 16)))).min()
    assert -bottom <= float(e.weak_convexity()) and float(e.weak_convexity()) == pytest.approx(0.7 * float(e.lipschitz()))


@pytest.mark.slow
def test_constrained_parameters_keep_denoising_convex(x64):
    rng = np.random.default_rng(3)  # others may leave no negative curvature to constrain
    params = ridge_parameters(5, 10)
    params = jax.tree.map(lambda v: v + rng.normal(size=v.shape), params)
    e = constrained_ridge(params, 0.9)
    assert 0.9 >= float(e.weak_convexity()) > 0.3
    assert float(gain(e.filters)) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(np.sum(e.filters, (1, 2)), 0, atol=1e-12)
    x = rng.normal(size=(12, 12)) * 0.2
    eigenvalues = np.linalg.eigvalsh(jax.hessian(lambda v: e(v.reshape(12, 12)))(x.ravel()))
    assert eigenvalues.min() >= -0.9


def test_a_constrained_potential_never_falls(x64):
    params = jax.tree.map(lambda v: v + 3 * RNG.normal(size=v.shape), ridge_parameters(3, 4))
    params["curvatures"] = np.array([1.0, -9, -9, -9, 2, -9, -9, -9, -9])
    e = constrained_ridge(params, 0.9)
    slopes = np.cumsum(np.asarray(e.curvatures) * np.diff(e.knots))
    assert np.all(slopes >= -1e-12) and slopes[-1] == pytest.approx(0, abs=1e-12) and float(e.weak_convexity()) <= 0.9
    large = [float(e(scale * RNG.normal(size=(8, 8)))) for scale in (1.0, 10.0, 100.0)]
    assert min(large) >= 0


def test_ridge_refuses_what_it_cannot_be():
    filters = np.ones((2, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"scales.*one, or 2"):
        energy.RidgeRegularizer(filters, np.ones(3), np.ones(9))
    with pytest.raises(ValueError, match=r"curvatures.*\(9,\)"):
        energy.RidgeRegularizer(filters, 1.0, np.ones(4))
    with pytest.raises(ValueError, match="increasing from 0"):
        energy.RidgeRegularizer(filters, 1.0, np.ones(2), knots=(0.0, 2.0, 1.0))


def soft(params, x, sigma):
    """The proximal map of sigma²·params·‖·‖₁."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - params * sigma**2, 0)


@pytest.mark.parametrize("solver", [solve.ProximalGradient(), solve.FISTA(), solve.ADMM(inner_tolerance=1e-9)])
def test_a_proximal_map_plugged_in_gives_the_minimiser(solver, x64):
    """A denoiser that is the proximal map of an energy: every solver finds that energy's minimiser."""
    A = forward.Matrix(RNG.normal(size=(12, 8)))
    data = energy.LeastSquares(A, RNG.normal(size=12))
    plugged = energy.PlugAndPlay(soft, jnp.asarray(0.5), 1.3)
    known = energy.L1(0.5 * 1.3)
    x = [solve.run(solver, solve.Problem(smooth=data, proximable=p), jnp.zeros(8), 3000, 1e-10).x for p in (plugged, known)]
    np.testing.assert_allclose(x[0], x[1], atol=1e-6)


def wiener(params, x, sigma):
    """The proximal map of a quadratic energy params/2 ‖x‖², linear and symmetric: RED's assumptions hold."""
    return x / (1 + params * sigma**2)


def test_red_is_the_gradient_of_its_energy(x64):
    e = energy.RED(wiener, jnp.asarray(2.0), 0.5, 3.0)
    testing.check_energy(e, jnp.asarray(RNG.normal(size=(5, 6))))
    expected = 3.0 / 2 * (1 - 1 / 1.5)
    x = RNG.normal(size=(5, 6))
    assert float(e(x)) == pytest.approx(expected * np.sum(x**2))


def test_denoisers_stay_within_their_range():
    plugged = energy.PlugAndPlay(wiener, jnp.asarray(2.0), 1.0, (0.01, 0.2))
    with pytest.raises(ValueError, match=r"noise level in 0.01 … 0.2"):
        plugged.prox(jnp.ones(3), 1.0)
    assert np.all(np.isnan(jax.jit(plugged.prox)(jnp.ones(3), 1.0)))
    problem = solve.Problem(smooth=energy.LeastSquares(forward.Identity((3,)), np.ones(3, np.float32)), proximable=plugged)
    assert solve.run(solve.ProximalGradient(), problem, jnp.zeros(3), 5).status == solve.Status.NONFINITE
    np.testing.assert_allclose(jax.jit(plugged.prox)(jnp.ones(3), 0.01), wiener(2.0, np.ones(3), 0.1), rtol=1e-6)
    # below the lowest level the correction shrinks with the variance, to nothing
    half = 1 + (wiener(2.0, np.ones(3), 0.01) - 1) / 4
    np.testing.assert_allclose(plugged.prox(jnp.ones(3), 0.005**2), half, rtol=1e-6)
    np.testing.assert_array_equal(plugged.prox(jnp.ones(3), 0.0), 1)
    with pytest.raises(ValueError, match="sigma_range"):
        energy.RED(wiener, jnp.asarray(2.0), 0.1, sigma_range=(0.2, 0.1))
    with pytest.raises(ValueError, match="pure function"):
        energy.PlugAndPlay(3, jnp.asarray(2.0))


def test_network_energy_is_differentiable_in_both(x64):
    net = lambda params, x: jnp.log1p((params * x) ** 2)  # noqa: E731
    e = energy.Network(net, jnp.asarray(0.7), 0.5)
    testing.check_energy(e, jnp.asarray(RNG.normal(size=(4, 5))))
    testing.check_energy(e @ forward.Matrix(RNG.normal(size=(4, 6))), jnp.asarray(RNG.normal(size=6)))
