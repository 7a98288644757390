"""The proximal map of total variation against scikit-image, SciPy and its own certificate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffimg.energy import TotalVariation

rng = np.random.default_rng(0)
STEPS = np.add.outer(np.repeat([0.0, 1.0], 8), np.repeat([0.0, 0.5, 1.5, 0.2], 4)) + 0.2 * rng.normal(size=(16, 16))


def warm(e, v, step, state=None):
    return e.prox_warm(v, step, e.prox_state(v) if state is None else state)


def test_value():
    x = STEPS
    dy, dx = np.zeros((2, 16, 16))
    dy[:-1], dx[:, :-1] = np.diff(x, axis=0) / 2, np.diff(x, axis=1) / 0.5
    with jax.enable_x64(True):
        spacing = (2.0, 0.5)
        np.testing.assert_allclose(TotalVariation(0.3, spacing=spacing)(x), 0.3 * np.hypot(dy, dx).sum())
        np.testing.assert_allclose(TotalVariation(0.3, isotropic=False, spacing=spacing)(x), 0.3 * (abs(dy) + abs(dx)).sum())
        weights = rng.uniform(size=x.shape)
        np.testing.assert_allclose(TotalVariation(weights, spacing=spacing)(x), (weights * np.hypot(dy, dx)).sum())
        np.testing.assert_allclose(TotalVariation(0.3)(x * np.exp(0.4j)), TotalVariation(0.3)(x))
        assert np.isinf(TotalVariation(0.3, lower=0.0)(x - 1))


def test_prox_against_scikit_image():
    restoration = pytest.importorskip("skimage.restoration")
    with jax.enable_x64(True):
        x, state = warm(TotalVariation(0.3, gap=1e-7, max_steps=5000), jnp.asarray(STEPS), 1.0)
    chambolle = restoration.denoise_tv_chambolle(STEPS, weight=0.3, eps=1e-12, max_num_iter=20000)
    assert float(state.gap) <= 1e-7
    np.testing.assert_allclose(x, chambolle, atol=2e-3)


@pytest.mark.parametrize(("isotropic", "lower", "upper"), [(True, None, None), (False, None, None), (True, 0.1, 1.2)])
def test_prox_against_scipy(isotropic, lower, upper):
    v = STEPS[5:10, 2:8]
    with jax.enable_x64(True):
        e = TotalVariation(0.3, isotropic, lower, upper, gap=1e-11, max_steps=5000)
        x = np.asarray(e.prox(jnp.asarray(v), 0.8))

    # an oracle with its own discretization and optimizer: TV smoothed by 1e-10, L-BFGS-B with bounds, homotopy in the smoothing
    def objective(u, smoothing):
        u = u.reshape(v.shape)
        dy, dx = np.zeros_like(u), np.zeros_like(u)
        dy[:-1], dx[:, :-1] = np.diff(u, axis=0), np.diff(u, axis=1)
        groups = [np.stack([dy, dx])] if isotropic else [dy[None], dx[None]]
        value, gradient = np.sum((u - v) ** 2) / 1.6, (u - v) / 0.8
        factors = []
        for g in groups:
            m = np.sqrt(np.sum(g**2, 0) + smoothing**2)
            value += 0.3 * m.sum()
            factors.append(0.3 / m)
        py, px = factors[0] * dy, factors[-1] * dx
        gradient[:-1] -= py[:-1]
        gradient[1:] += py[:-1]
        gradient[:, :-1] -= px[:, :-1]
        gradient[:, 1:] += px[:, :-1]
        return value, gradient.ravel()

    u = np.clip(v, lower, upper) if lower is not None else v
    u = u.ravel()
    for smoothing in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        options = {"maxiter": 20000, "maxfun": 200000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
        u = scipy.optimize.minimize(objective, u, (smoothing,), "L-BFGS-B", True, bounds=[(lower, upper)] * u.size, options=options).x
    assert objective(x.ravel(), 0.0 + 1e-12)[0] <= objective(u, 1e-12)[0] + 1e-9
    np.testing.assert_allclose(x.ravel(), u, atol=2e-3)


def test_gap_is_reached_and_bounds_the_error():
    with jax.enable_x64(True):
        v = jnp.asarray(STEPS)
        best = warm(TotalVariation(0.3, gap=1e-13, max_steps=5000), v, 1.0)[0]
        last = 0
        for gap in (1e-2, 1e-4, 1e-6):
            e = TotalVariation(0.3, gap=gap, max_steps=5000)
            x, state = warm(e, v, 1.0)
            primal = e(x) + 0.5 * jnp.sum((x - v) ** 2)
            assert float(state.gap) <= gap
            assert last < int(state.steps) < 2000
            assert float(jnp.sum((x - best) ** 2)) <= 2 * float(state.gap * primal)
            last = int(state.steps)
        assert int(warm(TotalVariation(0.3, gap=0.0, max_steps=23), v, 1.0)[1].steps) == 25


def test_warm_start_needs_few_steps():
    v = jnp.asarray(STEPS, jnp.float32)
    e = TotalVariation(0.3, gap=1e-4, max_steps=500)
    x, state = warm(e, v, 1.0)
    cold = int(state.steps)
    again, state = warm(e, v + 1e-4 * v[::-1], 1.0, state)
    assert 2 * int(state.steps) <= cold
    np.testing.assert_allclose(again, x, atol=1e-2)
    # the state holds for another step and inside a scaled energy
    half = warm(2.0 * e, v + 1e-4 * v[::-1], 0.5, state)
    assert int(half[1].steps) == 5  # one block, so that the dual answers to its input
    np.testing.assert_allclose(half[0], x, atol=1e-2)


def test_limits():
    v = jnp.asarray(STEPS, jnp.float32)
    np.testing.assert_array_equal(TotalVariation(0.0).prox(v, 1.0), v)
    np.testing.assert_array_equal(TotalVariation(1.0).prox(v, 0.0), v)
    np.testing.assert_array_equal(TotalVariation(1.0).prox(jnp.full((4, 4), 2.0), 1.0), jnp.full((4, 4), 2.0))
    np.testing.assert_allclose(TotalVariation(1e3, max_steps=2000, gap=1e-7).prox(v, 1.0), float(v.mean()), atol=2e-3)
    assert TotalVariation(1.0).prox(jnp.ones((1, 5)), 1.0).shape == (1, 5)


def test_complex_and_three_dimensional():
    with jax.enable_x64(True):
        v = jnp.asarray(rng.normal(size=(4, 5, 6)))
        e = TotalVariation(0.2, gap=1e-10, max_steps=3000)
        x, state = warm(e, v, 1.0)
        assert float(state.gap) <= 1e-10
        assert len(state.dual) == 3
        # a global phase commutes with the prox
        np.testing.assert_allclose(warm(e, v * np.exp(0.7j), 1.0)[0], x * np.exp(0.7j), atol=1e-5)
        # leading axes are batch where the spacing names fewer axes
        stack, _ = warm(TotalVariation(0.2, gap=1e-10, spacing=(1.0, 1.0), max_steps=3000), v, 1.0)
        np.testing.assert_allclose(stack[1], warm(e, v[1], 1.0)[0], atol=1e-4)


def test_prox_is_differentiable():
    with jax.enable_x64(True):
        v, d = jnp.asarray(STEPS[:6, :5]), jnp.asarray(rng.normal(size=(6, 5)))

        def loss(v, weight, step):
            e = TotalVariation(weight, lower=-0.5, upper=1.0, gap=1e-14, max_steps=1000)
            return jnp.sum(d * e.prox(v, step))

        gradient = jax.jit(jax.grad(loss, (0, 1, 2)))(v, 0.2, 0.9)
        forward = jax.jit(lambda: jax.jvp(loss, (v, 0.2, 0.9), (d, 1.0, 1.0))[1])()
        h = 1e-6
        value = jax.jit(loss)
        finite = [
            (value(v + h * d, 0.2, 0.9) - value(v - h * d, 0.2, 0.9)) / (2 * h),
            (value(v, 0.2 + h, 0.9) - value(v, 0.2 - h, 0.9)) / (2 * h),
            (value(v, 0.2, 0.9 + h) - value(v, 0.2, 0.9 - h)) / (2 * h),
        ]
        np.testing.assert_allclose([jnp.sum(gradient[0] * d), gradient[1], gradient[2]], finite, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(forward, sum(finite), rtol=1e-4)


def test_nan_is_passed_on_at_once():
    x, state = warm(TotalVariation(0.3, max_steps=500), jnp.full((4, 4), jnp.nan), 1.0)
    assert np.isnan(x).all()
    assert int(state.steps) == 5
