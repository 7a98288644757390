"""Preconditioned denoisers, and the score matching that trains them: against the Gaussian whose best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffimg import learn, nn


def zero(params, x, level):
    return jnp.zeros_like(x)


def test_a_silent_network_leaves_the_best_linear_denoiser():
    """For images of independent Gaussian values of that standard deviation it is the best of all: s²/(s² + σ²) x."""
    denoise = nn.preconditioned(zero, 0.5)
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    sigma = np.array([0.1, 0.5, 2.0], np.float32)
    shrink = 0.25 / (0.25 + sigma**2)
    np.testing.assert_allclose(denoise(None, x, sigma), shrink[:, None, None] * x, rtol=1e-6)
    np.testing.assert_allclose(denoise(None, x + 1j * x, 0.5), 0.5 * (x + 1j * x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_score_matching_finds_the_shrinkage_of_another_gaussian(dtype):
    """Values of standard deviation 0.2 a part, a network that only scales, preconditioned for 0.5: D must become 0.04/(0.04 + σ²) x."""
    denoise = nn.preconditioned(lambda params, x, level: params[0] * x, 0.5)
    loss = learn.denoiser_score_matching(denoise, (0.2999, 0.3001), 0.5)

    def batch(key, step):
        parts = 0.2 * jax.random.normal(key, (64, 8, 8, 2))
        return (jax.lax.complex(parts[..., 0], parts[..., 1]) if dtype is np.complex64 else parts[..., 0]).astype(dtype)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))
    found = learn.train(loss, [jnp.zeros(())], batch, 300, key=jax.random.key(0), optimizer=optimizer)
    x = np.ones((1, 2, 2), dtype)
    np.testing.assert_allclose(denoise(found.params, x, 0.3), 0.04 / (0.04 + 0.09) * x, rtol=0.02)


def test_what_is_refused():
    with pytest.raises(ValueError, match="sigma_data"):
        nn.preconditioned(zero, 0.0)
    with pytest.raises(ValueError, match="network"):
        nn.preconditioned("unet", 1.0)
    with pytest.raises(ValueError, match="sigma_range"):
        learn.denoiser_score_matching(nn.preconditioned(zero, 1.0), (0.5, 0.1), 1.0)


def test_levels_it_was_not_trained_for_are_refused():
    denoise = nn.preconditioned(zero, 0.5, (0.1, 0.4))
    x = np.ones((2, 2), np.float32)
    for sigma in (0.5, 25.0, 0.0, -0.2, np.nan):
        with pytest.raises(ValueError, match=r"sigma: expected a noise level in 0\.1 … 0\.4"):
            denoise(None, x, sigma)
    assert np.all(np.isnan(jax.jit(denoise)(None, x, 0.5))) and np.all(np.isfinite(jax.jit(denoise)(None, x, 0.4)))
    with pytest.raises(ValueError, match="sigma"):
        nn.preconditioned(zero, 0.5)(None, x, -0.2)
