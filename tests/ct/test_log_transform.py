"""The logarithm of starved rays, contrast, and SNR = C√N measured on Poisson counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffimg import ct
from diffimg.forward import xray

READINGS = np.array([[0.0, 0.5, 2.0, 100.0, 1000.0]], "float32")


def test_bright_rays_are_the_plain_logarithm():
    bright = READINGS[:, 2:]
    for mode in ("clip", "linear", "adaptive"):
        np.testing.assert_allclose(ct.log_transform(bright, 1e3, floor=1.0, starvation=mode), -np.log(bright / 1e3), rtol=1e-5, atol=1e-6)
    flat = np.linspace(900, 1100, 3).astype("float32")
    np.testing.assert_allclose(ct.log_transform(bright, flat, background=1.0), -np.log((bright - 1) / flat), rtol=1e-5, atol=1e-6)


def test_starved_rays_are_finite_and_continuous():
    clip = ct.log_transform(READINGS, 1e3)
    np.testing.assert_allclose(clip[0, :2], np.log(1e3), rtol=1e-6)
    linear = ct.log_transform(READINGS, 1e3, starvation="linear")
    np.testing.assert_allclose(linear[0, :2], np.log(1e3) + np.array([1.0, 0.5]), rtol=1e-6)
    below = ct.log_transform(READINGS, 1e3, background=20.0, starvation="linear")
    assert bool(jnp.all(jnp.isfinite(below)))
    slope = jax.grad(lambda r: ct.log_transform(r, 1e3, starvation="linear").sum())
    np.testing.assert_allclose(slope(jnp.array([[0.999, 1.001]])), [[-1, -1]], rtol=2e-3)


@pytest.mark.parametrize("mean", [3.0, 10.0])
def test_linear_continuation_is_less_biased_than_clipping(mean):
    """The mean of the logarithm of Poisson counts with a background of 4, at a floor of the mean signal."""
    counts = np.random.default_rng(0).poisson(mean + 4, 40000).astype("float32")
    bias = {m: ct.log_transform(counts, 1.0, 4.0, mean, m).mean() + np.log(mean) for m in ("clip", "linear")}
    assert bias["clip"] < 0  # raised signals: too little attenuation
    assert abs(bias["linear"]) < 0.6 * abs(bias["clip"])


def test_adaptive_filter_against_scipy():
    rng = np.random.default_rng(0)
    signal = rng.poisson(8, (3, 40)).astype("float32")
    weight = np.clip(signal / 10, 0, 1)
    count = ndimage.convolve1d(np.ones_like(signal), np.ones(5), mode="constant")
    mean = ndimage.convolve1d(signal, np.ones(5), mode="constant") / count
    mixed = weight * signal + (1 - weight) * mean
    own = ct.log_transform(signal, 1e3, floor=10.0, starvation="adaptive")
    np.testing.assert_allclose(own, -np.log(np.maximum(mixed, 10) / 1e3), rtol=1e-5)


def test_contrast_and_snr_of_counts():
    """SNR = C√N for a counting detector; an integrating one falls short by the root of Swank's factor."""
    n, contrast = 400.0, 0.1
    np.testing.assert_allclose(ct.local_contrast(n * (1 + contrast), n), contrast, rtol=1e-5)
    key_t, key_b = jax.random.split(jax.random.key(0))
    target = jax.random.poisson(key_t, n * (1 + contrast), (200, 200)).astype(jnp.float32)
    background = jax.random.poisson(key_b, n, (200, 200)).astype(jnp.float32)
    np.testing.assert_allclose(ct.measured_snr(target, background), ct.snr(contrast, n), rtol=0.05)
    energies, fluence = np.array([20.0, 100.0]), np.array([100.0, 100.0])
    factor = 120.0**2 / (2 * (20.0**2 + 100.0**2))
    np.testing.assert_allclose(ct.swank_factor(xray.energy_integrating(energies), fluence), factor, rtol=1e-6)
    assert ct.swank_factor(np.ones(2), fluence) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ct.log_transform(-READINGS, 1e3), "readings"),
        (lambda: ct.log_transform(READINGS, 0.0), "dead"),
        (lambda: ct.log_transform(READINGS, np.array([1.0, 0.0, 1.0, 1.0, 1.0])), "dead"),
        (lambda: ct.log_transform(READINGS * np.nan, 1e3), "finite"),
        (lambda: ct.log_transform(READINGS, np.ones(4)), "broadcast"),
        (lambda: ct.log_transform(READINGS, 1e3, floor=0.0), "floor"),
        (lambda: ct.log_transform(READINGS, 1e3, starvation="clamp"), "clip"),
        (lambda: ct.local_contrast(1.0, 0.0), "background"),
        (lambda: ct.measured_snr(np.ones(3), np.ones(1)), "two readings"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
