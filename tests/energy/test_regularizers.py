"""Regularizers with a closed-form prox: the lecture's examples, complex values, and SciPy / scikit-learn as oracles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.energy import H1, L1, Box, GroupL1, HuberTV, LeastSquares, NonNegative, SmoothTV, SquaredL2, TotalVariation
from diffimg.energy.thresholding import project_ball
from diffimg.forward.basic import Matrix

rng = np.random.default_rng(0)


def test_soft_thresholding():
    v = jnp.array([-3.0, -0.5, 0.0, 0.2, 0.9, 4.0])
    np.testing.assert_allclose(L1(2.0).prox(v, 0.5), [-2.0, 0.0, 0.0, 0.0, 0.0, 3.0])
    complex_v = jnp.array([3 + 4j, 0.3j, 0.0])
    np.testing.assert_allclose(L1(1.0).prox(complex_v, 1.0), [(3 + 4j) * 0.8, 0, 0], rtol=1e-6)
    assert float(L1(2.0)(complex_v)) == pytest.approx(2 * 5.3)
    np.testing.assert_allclose(L1(jnp.array([1.0, 5.0, 0.0])).prox(jnp.array([2.0, 2.0, 2.0]), 1.0), [1, 0, 2])
    derivative = jax.jacobian(lambda w: L1(w).prox(v, 0.5))(2.0)
    np.testing.assert_allclose(derivative, [0.5, 0, 0, 0, 0, -0.5])


def test_thresholds_are_continuous_at_the_edge():
    # Points on the threshold but for rounding: a comparison evaluated twice, once with fused multiply-add, must not tear them.
    angle = jnp.asarray(rng.uniform(0, 2 * np.pi, 4096), jnp.float32)
    parts = (0.3 * jnp.cos(angle), 0.3 * jnp.sin(angle))
    for p, q in zip(jax.jit(project_ball, static_argnums=2)(parts, 0.3, True), parts, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-7)
    z = jax.lax.complex(*parts)
    np.testing.assert_allclose(jax.jit(L1(0.3).prox)(z, 1.0), 0, atol=1e-7)
    np.testing.assert_allclose(jax.jit(GroupL1(0.3).prox)(jnp.stack(parts), 1.0), 0, atol=1e-7)


def test_lasso_against_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    a, truth = rng.normal(size=(30, 8)), np.array([0, 2.0, 0, 0, -3, 0, 0, 1])
    y = a @ truth + 0.1 * rng.normal(size=30)
    expected = linear_model.Lasso(alpha=0.2, fit_intercept=False, tol=1e-12, max_iter=100000).fit(a, y).coef_
    with jax.enable_x64(True):
        data, prior = LeastSquares(Matrix(a), y), L1(0.2 * 30)
        step = 1 / np.linalg.norm(a, 2) ** 2
        x = jax.lax.fori_loop(0, 2000, lambda _, x: prior.prox(x - step * data.grad(x), step), jnp.zeros(8))
    np.testing.assert_allclose(x, expected, atol=1e-7)
    assert np.array_equal(np.asarray(x) == 0, expected == 0)


@pytest.mark.parametrize(("shape", "spacing"), [((9,), None), ((3, 4, 5), None), ((2, 4, 5), (1.0, 3.0))])
def test_h1_prox_solves_the_neumann_problem(shape, spacing):
    with jax.enable_x64(True):
        v = jnp.asarray(rng.normal(size=shape))
        e = H1(0.7, spacing)
        x = e.prox(v, 1.3)
        value, gradient = jax.jit(lambda e, v, x: (e(v), e.grad(x)))(e, v, x)
        np.testing.assert_allclose(x + 1.3 * gradient, v, atol=1e-12)
        finite = [np.diff(v, axis=v.ndim - len(spacing or shape) + k) / h for k, h in enumerate(spacing or np.ones(len(shape)))]
        np.testing.assert_allclose(value, 0.35 * sum(np.sum(d**2) for d in finite))
        w = v + 1j * v[::-1]
        np.testing.assert_allclose(
            e.prox(w, 1.3), x + 1j * x[::-1] if spacing is None else e.prox(w.real, 1.3) + 1j * e.prox(w.imag, 1.3), atol=1e-12
        )


def test_squared_l2_with_reference():
    v, reference, w = jnp.array([1.0, -2.0]), jnp.array([3.0, 0.0]), jnp.array([1.0, 2.0])
    e = SquaredL2(w, reference)
    np.testing.assert_allclose(e(v), 0.5 * (4 + 8))
    np.testing.assert_allclose(e.prox(v, 2.0), (v + 2 * w * reference) / (1 + 2 * w), rtol=1e-6)


def test_bounds():
    v = jnp.array([-1.0, 0.5, 3.0])
    np.testing.assert_allclose(Box(0.0, jnp.array([1.0, 0.2, 5.0])).prox(v, 9.0), [0, 0.2, 3])
    np.testing.assert_allclose(NonNegative().prox(v, 9.0), [0, 0.5, 3])
    assert float(Box(-1.0, 3.0)(v)) == 0
    assert np.isinf(Box(upper=2.0)(v))
    assert np.isinf(NonNegative()(v))
    assert float((NonNegative() + SquaredL2())(-v)) == np.inf


def test_group_sparsity_keeps_or_kills_whole_groups():
    v = jnp.array([[3.0, 0.1], [4.0, 0.2]])
    np.testing.assert_allclose(GroupL1(1.0, axis=0).prox(v, 1.0), [[2.4, 0], [3.2, 0]], rtol=1e-6)
    np.testing.assert_allclose(GroupL1(2.0, axis=0)(v), 2 * (5 + np.hypot(0.1, 0.2)), rtol=1e-6)
    both = GroupL1(1.0, axis=(0, 1))
    np.testing.assert_allclose(both.prox(v, 1.0), v * (1 - 1 / np.linalg.norm(v)), rtol=1e-6)
    z = v * np.exp(0.3j)
    np.testing.assert_allclose(GroupL1().prox(z, 1.0), GroupL1().prox(v, 1.0) * np.exp(0.3j), rtol=1e-5)


def test_smooth_tv_approaches_tv():
    x = rng.normal(size=(6, 7))
    z = x + 1j * x[::-1]
    value = jax.jit(lambda e, x: e(x))
    for isotropic, image in ((True, z), (False, x)):
        tv = float(value(TotalVariation(0.7, isotropic), image))
        for smooth in (HuberTV(0.7, 1e-4, isotropic), SmoothTV(0.7, 1e-4, isotropic)):
            assert tv - 0.7 * 1e-4 * 2 * image.size <= float(value(smooth, image)) <= tv * (1 + 1e-6)
    with jax.enable_x64(True):
        e = HuberTV(0.7, 0.5)
        z = jnp.asarray(z, complex)
        d = z[:, ::-1] * 1j
        finite = (value(e, z + 1e-6 * d) - value(e, z - 1e-6 * d)) / 2e-6
        gradient, automatic = jax.jit(lambda e, z: (e.grad(z), jax.grad(e)(z)))(e, z)
        np.testing.assert_allclose(jnp.vdot(gradient, d).real, finite, rtol=1e-7)
        np.testing.assert_allclose(gradient, jnp.conj(automatic), atol=1e-12)
