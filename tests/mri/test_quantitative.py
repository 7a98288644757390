"""Maps against the truth, SciPy's fits and the Cramér–Rao bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

from diffimg import mri
from diffimg.mri.quantitative import fit_signal

RNG = np.random.default_rng(12)
T1 = RNG.uniform(0.3, 3.0, (6, 7))
T2 = RNG.uniform(0.02, 0.4, (6, 7))
M0 = RNG.uniform(0.5, 1.5, (6, 7)) * np.exp(1j * RNG.uniform(-3, 3, (6, 7)))
TI = np.array([0.05, 0.2, 0.5, 1.0, 2.0, 4.0])
TE = np.arange(1, 9) * 20e-3
FLIP = np.deg2rad([3.0, 8.0, 15.0, 25.0])


def noise(*shape):
    return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)


def recovery(t1=T1, m0=M0):
    return np.stack([np.asarray(mri.inversion_recovery(m0, t1, ti=t, tr=8.0)) for t in TI])


@pytest.mark.slow
def test_noise_free_maps_are_exact():
    for magnitude in (False, True):
        images = recovery().astype(np.complex64)
        fit = mri.fit_t1_inversion_recovery(np.abs(images) if magnitude else images, TI, tr=8.0, magnitude=magnitude)
        assert fit.valid.all() and np.abs(fit.parameters / T1 - 1).max() < 0.02
    images = np.moveaxis(np.asarray(mri.multi_echo(M0, T2, te=TE)), -1, 0)
    fit = mri.fit_t2_multi_echo(images.astype(np.complex64), TE)
    assert fit.valid.all() and np.abs(fit.parameters / T2 - 1).max() < 0.02
    np.testing.assert_allclose(fit.amplitude, M0, rtol=0.01)
    b1 = RNG.uniform(0.8, 1.2, (6, 7))
    images = np.stack([np.asarray(mri.spoiled_gradient_echo(M0, T1, np.inf, tr=15e-3, te=0.0, flip=a * b1)) for a in FLIP])
    fit = mri.fit_t1_variable_flip_angle(images.astype(np.complex64), FLIP, 15e-3, b1=b1)
    assert fit.valid.all() and np.abs(fit.parameters / T1 - 1).max() < 0.02


def test_field_maps():
    omega, rate = 2 * np.pi * RNG.uniform(-100, 100, (6, 7)), RNG.uniform(10, 60, (6, 7))
    te = np.array([2e-3, 4.3e-3, 6.6e-3, 11e-3])
    images = M0 * np.exp(-te[:, None, None] * (rate + 1j * omega))
    fit = mri.fit_b0(images.astype(np.complex64), te)
    assert fit.valid.all()
    np.testing.assert_allclose(fit.parameters[0], omega, atol=1.0)
    np.testing.assert_allclose(fit.parameters[1], rate, rtol=0.02)
    b1 = RNG.uniform(0.7, 1.2, (6, 7))
    angles = np.deg2rad([60.0, 120.0])
    images = (M0 * np.sin(angles[:, None, None] * b1)).astype(np.complex64)
    for data, magnitude in ((images, False), (np.abs(images), True)):
        np.testing.assert_allclose(mri.fit_b1(data, angles, magnitude=magnitude).parameters, b1, rtol=1e-3)


def test_scipys_fit(x64):
    level = 0.02
    images = np.moveaxis(np.asarray(mri.multi_echo(np.abs(M0), T2, te=TE)), -1, 0)
    images = images + level * RNG.normal(size=images.shape)
    fit = mri.fit_t2_multi_echo(images, TE, steps=40)
    for i, j in ((0, 0), (3, 4), (5, 6)):
        p, covariance = curve_fit(lambda t, a, t2: a * np.exp(-t / t2), TE, images[:, i, j], (1, 0.1), xtol=1e-12, ftol=1e-12)
        np.testing.assert_allclose(fit.parameters[i, j], p[1], rtol=1e-4)
        np.testing.assert_allclose(fit.deviation[i, j], np.sqrt(covariance[1, 1]), rtol=1e-2)


@pytest.mark.parametrize("kind", ["t1", "t2", "vfa"])
def test_unbiased_and_as_precise_as_the_bound(kind):
    """4,000 repeats at a signal-to-noise ratio of 100: the mean within three standard errors and 0.5 %, the scatter that of the bound."""
    repeats, level = 4000, 0.01
    if kind == "t1":
        clean, truth = recovery(np.array(1.2), np.array(1.0 + 0j)), 1.2
        fit = lambda d: mri.fit_t1_inversion_recovery(d, TI, tr=8.0)  # noqa: E731
    elif kind == "t2":
        clean, truth = np.exp(-TE / 0.08), 0.08
        fit = lambda d: mri.fit_t2_multi_echo(d, TE)  # noqa: E731
    else:
        level = 1e-3  # flip angles this small give a twentieth of the signal
        clean = np.stack([np.asarray(mri.spoiled_gradient_echo(1.0, 1.2, np.inf, tr=15e-3, te=0.0, flip=a)) for a in FLIP])
        truth = 1.2
        fit = lambda d: mri.fit_t1_variable_flip_angle(d, FLIP, 15e-3)  # noqa: E731
    data = clean[:, None] + level * noise(len(clean), repeats)
    out = fit(data.astype(np.complex64))
    assert out.valid.all()
    values = np.asarray(out.parameters, np.float64)
    scatter = values.std()
    assert abs(values.mean() - truth) < max(4 * scatter / np.sqrt(repeats), 0.005 * truth)
    assert np.sqrt(np.mean(np.asarray(out.deviation, np.float64) ** 2)) == pytest.approx(scatter, rel=0.1)


def test_rician_magnitudes_need_the_noise_level():
    level, t2 = 0.08, 0.05
    data = np.abs(np.exp(-TE / t2)[:, None] + level * noise(len(TE), 3000)).astype(np.float32)
    naive = mri.fit_t2_multi_echo(data, TE, magnitude=True)
    aware = mri.fit_t2_multi_echo(data, TE, magnitude=True, noise=level)
    bias = lambda f: abs(float(jnp.sum(f.parameters) / jnp.sum(f.valid)) / t2 - 1)  # noqa: E731
    assert bias(naive) > 0.2 > 0.1 > bias(aware)


def test_background_is_marked_and_never_nan():
    images = recovery().astype(np.complex64)
    images[:, 0] = 0
    fit = mri.fit_t1_inversion_recovery(images, TI, tr=8.0)
    assert not fit.valid[0].any() and fit.valid[1:].all()
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(fit))


def echo_train(theta, extra):
    return mri.spin_echo_train(np.deg2rad(np.full(8, 150.0)), 15e-3, 1.0, jnp.exp(theta[0])) / 1j


@pytest.mark.slow
def test_any_simulation_can_be_fitted():
    """T2 through an imperfectly refocused train, where a single exponential is wrong."""
    t2 = np.array([0.04, 0.08, 0.15], np.float32)
    data = np.stack([np.asarray(echo_train(jnp.log(jnp.asarray([v])), None)) for v in t2], 1) * 1.3
    fit = fit_signal(echo_train, data.astype(np.complex64), np.log(np.geomspace(0.02, 0.5, 12)))
    np.testing.assert_allclose(np.exp(fit.parameters[0]), t2, rtol=0.01)


def test_refused():
    with pytest.raises(ValueError, match="ti"):
        mri.fit_t1_inversion_recovery(np.ones((2, 4)), [0.1, 0.1])
    with pytest.raises(ValueError, match="measurements"):
        fit_signal(echo_train, np.ones((1, 4)), [0.1])
    with pytest.raises(ValueError, match="finite"):
        mri.fit_t2_multi_echo(np.full((3, 4), np.nan), TE[:3])
    with pytest.raises(ValueError, match="te: expected values ≥ 0"):
        mri.fit_t2_multi_echo(np.ones((2, 4)), [-0.01, 0.02])
    with pytest.raises(ValueError, match=r"images: expected 3 images \[te, ...\]"):
        mri.fit_t2_multi_echo(np.ones((4, 4)), [0.01, 0.02, 0.03])
    with pytest.warns(UserWarning, match="te: values up to 20, expected seconds"):
        mri.fit_t2_multi_echo(np.ones((2, 4)), [10.0, 20.0])
    with pytest.warns(UserWarning, match="flip: values up to 10, expected radians"):
        mri.fit_t1_variable_flip_angle(np.ones((2, 4)), [5.0, 10.0], 0.02)
    with pytest.raises(ValueError, match="complex"):
        mri.fit_b0(np.ones((2, 4)), [1e-3, 2e-3])
    with pytest.raises(ValueError, match="tr"):
        mri.fit_t1_variable_flip_angle(np.ones((2, 4)), [0.1, 0.2], 0.0)
