"""Losses without a ground truth, and diffusion, where the right answer is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffimg import forward, learn

RNG = np.random.default_rng(23)
KEY = jax.random.key(9)


def soft(threshold, y):
    return jnp.sign(y) * jnp.maximum(jnp.abs(y) - threshold, 0)


@pytest.mark.parametrize("network", [lambda p, y: p * y, soft])
def test_sure_is_the_mean_squared_error_on_average(network, x64):
    sigma = 0.4
    truth = RNG.normal(size=(1, 400)) * (RNG.random((1, 400)) < 0.3)
    y = truth + sigma * RNG.normal(size=(2000, 400))
    estimate, report = learn.sure(network, sigma)(0.6, y, KEY)
    error = np.mean((np.asarray(network(0.6, y)) - truth) ** 2)
    assert float(estimate) == pytest.approx(error, rel=0.01)
    exact = 0.6 if network is not soft else np.mean(np.abs(y) > 0.6)
    assert float(report["divergence"]) == pytest.approx(exact, rel=1e-6)


def test_noise2noise_has_the_minimiser_of_the_supervised_loss(x64):
    """A gain: E|p y₁ − y₂|² and E|p y₁ − x|² are both least at var(x)/(var(x) + σ²)."""
    x = RNG.normal(size=(4000, 50))
    pair = tuple(x + 0.5 * RNG.normal(size=x.shape) for _ in range(2))
    loss = learn.noise2noise(lambda p, y: p * y)
    slope = jax.grad(lambda p: loss(p, pair)[0])
    a, b = float(slope(0.0)), float(slope(1.0))
    assert -a / (b - a) == pytest.approx(1 / 1.25, rel=0.01)


def test_split_masks_are_disjoint_and_keep_the_centre():
    mask = jnp.asarray(RNG.random((32, 30)) < 0.5, jnp.float32).at[14:18, 13:17].set(1)
    inside, outside = learn.split_mask(mask, KEY, 0.4, 4)
    np.testing.assert_array_equal(inside + outside, mask)
    np.testing.assert_array_equal(inside * outside, 0)
    assert float(outside[14:18, 13:17].sum()) == 0 and 0.3 < float(outside.sum() / mask.sum()) < 0.5


def test_ssdu_prefers_the_gain_that_fits_the_data_left_out():
    x = jnp.asarray(RNG.normal(size=(3, 16, 16)) + 1j * RNG.normal(size=(3, 16, 16)), jnp.complex64)
    y = forward.MaskedFFT(jnp.ones((16, 16)))(x)
    masks = jnp.ones((3, 16, 16))
    loss = jax.jit(learn.ssdu(lambda p, y, A: p * x[0], forward.MaskedFFT))  # a reconstruction that knows the first image up to a gain
    values = [float(loss(p, (y[:1], masks[:1]), KEY)[0]) for p in (0.8, 1.0, 1.2)]
    assert values[1] < 1e-5 and values[0] == pytest.approx(2 * 0.2, rel=1e-3) and values[2] == pytest.approx(2 * 0.2, rel=1e-3)


def test_equivariance_reveals_what_the_data_do_not_show(x64):
    """A linear reconstruction of images that all shifts leave likely: consistency alone leaves the missing pixel free."""
    n = 6
    mask = np.ones((1, n))
    mask[0, 2] = 0  # one pixel is never seen
    A = forward.Inpaint(jnp.asarray(mask))
    ramp = np.sin(2 * np.pi * (np.arange(n)[None] + np.arange(n)[:, None]) / n)[:, None, :]  # a sine at all its shifts
    y = np.asarray(A(ramp))
    group = [lambda x, k=k: jnp.roll(x, k, -1) for k in range(1, n)]
    loss = learn.equivariant(lambda p, y: y @ p, A, group)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 1500))
    trained = learn.train(loss, jnp.eye(n), lambda key, step: y, 1500, key=KEY, optimizer=optimizer)
    found = np.asarray(y @ trained.params)
    np.testing.assert_allclose(found, ramp, atol=0.05)


VARIANCE = 1.0


def wiener(x, sigma):
    """E[x | x + σn] for unit variance."""
    return x * VARIANCE / (VARIANCE + sigma**2)


def test_unconditional_samples_have_the_moments_of_the_prior():
    """Every step of a Gaussian is linear: the variance of the samples follows by recursion, and is that of the prior for many levels."""
    levels = np.geomspace(30, 0.01, 300)
    x = learn.diffusion_sample(wiener, (20_000, 2), levels, KEY)

    def variance(levels):
        v = levels[0] ** 2
        for now, then in itertools.pairwise(levels):
            ratio, w = (then / now) ** 2, 1 / (1 + now**2)
            v = (w + ratio * (1 - w)) ** 2 * v + then**2 * (1 - ratio)
        return v / (1 + levels[-1] ** 2) ** 2

    np.testing.assert_allclose(np.mean(x, 0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), variance(levels) * np.eye(2), atol=0.03)
    assert variance(levels) == pytest.approx(1, abs=0.06) and variance(np.geomspace(30, 0.01, 3000)) == pytest.approx(1, abs=0.006)


def test_guided_samples_have_the_moments_of_the_posterior():
    """One of two pixels is seen: its posterior is that of the closed form, the other keeps its prior."""
    A = forward.Inpaint(jnp.asarray([1.0, 0.0]))
    sigma, y = 0.5, jnp.asarray([1.2, 0.0])
    x = learn.diffusion_sample(
        wiener, (20_000, 2), jnp.geomspace(30, 0.005, 600), KEY, operator=A, y=y, noise_level=sigma, guidance="pigdm"
    )
    np.testing.assert_allclose(np.mean(x, 0), [1.2 / 1.25, 0.0], atol=0.04)
    np.testing.assert_allclose(np.var(x, 0), [0.25 / 1.25, 1.0], rtol=0.06)


def test_proximal_guidance_has_the_moments_of_the_posterior_for_any_operator():
    """Two pixels, their sum and a third of their difference measured: covariance (I + AᴴA/σ²)⁻¹."""
    matrix = np.array([[1.0, 1.0], [1 / 3, -1 / 3]])
    sigma, y = 0.5, np.array([1.2, 0.4])
    A, levels = forward.Matrix(jnp.asarray(matrix, jnp.float32)), jnp.geomspace(30, 0.005, 600)
    given = {"operator": A, "y": jnp.asarray(y), "noise_level": sigma, "guidance": "proximal"}
    x = learn.diffusion_sample(wiener, (20_000, 2), levels, KEY, **given)
    covariance = np.linalg.inv(np.eye(2) + matrix.T @ matrix / sigma**2)
    np.testing.assert_allclose(np.mean(x, 0), covariance @ matrix.T @ y / sigma**2, atol=0.04)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=0.03)


def test_posterior_sampling_by_dps_moves_towards_the_data():
    A = forward.Inpaint(jnp.asarray([1.0, 0.0]))
    y = jnp.asarray([2.0, 0.0])
    x = learn.diffusion_sample(wiener, (2000, 2), jnp.geomspace(30, 0.01, 300), KEY, operator=A, y=y, guidance="dps", strength=0.3)
    assert 1.0 < float(x[:, 0].mean()) < 2.2 and abs(float(x[:, 1].mean())) < 0.1
    A = forward.Identity((2,), dtype="complex64")
    z = learn.diffusion_sample(wiener, (50, 2), jnp.geomspace(30, 0.01, 50), KEY, operator=A, y=1j * y, guidance="dps", strength=0.3)
    assert z.dtype == jnp.complex64 and float(z[:, 0].imag.mean()) > 1


def test_mistakes_are_explained():
    levels = jnp.geomspace(10, 0.1, 5)
    with pytest.raises(ValueError, match="decrease"):
        learn.diffusion_sample(wiener, (1, 2), levels[::-1], KEY)
    with pytest.raises(ValueError, match="denoise"):
        learn.diffusion_sample(2.0, (1, 2), levels, KEY)
    with pytest.raises(ValueError, match="sigmas: expected levels for which the samples stay finite"):
        learn.diffusion_sample(lambda x, sigma: jnp.where(sigma > 5, jnp.nan, x), (1, 2), levels, KEY)
    for shape, y, name in (((2,), jnp.ones(2), "shape"), ((3, 2), jnp.ones((2, 2)), "y")):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            learn.diffusion_sample(wiener, shape, levels, KEY, operator=forward.Identity((2,)), y=y, noise_level=0.1)
    with pytest.raises(ValueError, match="both or neither"):
        learn.diffusion_sample(wiener, (1, 2), levels, KEY, y=jnp.ones(2))
    with pytest.raises(ValueError, match="noise_level"):
        learn.diffusion_sample(wiener, (1, 2), levels, KEY, operator=forward.Identity((2,)), y=jnp.ones(2), guidance="pigdm")
    with pytest.raises(ValueError, match="batch"):
        learn.noise2noise(soft)(0.1, jnp.ones(3))
    with pytest.raises(ValueError, match="fraction"):
        learn.split_mask(jnp.ones((4, 4)), KEY, 1.0)
    with pytest.raises(ValueError, match="group"):
        learn.equivariant(soft, forward.Identity((2,)), [])
