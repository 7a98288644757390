"""Score matching: energies whose −∇E is the gradient of a log-density; Tweedie's formula between scores and denoisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.random import standard_normal
from diffimg.energy import Energy
from diffimg.energy.weight import positive

Loss = Callable[[Any, Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


def explicit_score_matching(build: Callable[[Any], Energy], score: Callable[[Any], Any]) -> Loss:
    """½ mean |∇E(x) + score(x)|² over a batch of images ``[n, ...]``, where the score ∇log p of their density is known.

    A. Hyvärinen, J. Mach. Learn. Res. 6 (2005) 695.
    """

    def loss(params, batch, key=None):
        check.inexact("batch", batch)
        return _mean_square(build(params).grad(batch) + score(batch)), {}

    return loss


def implicit_score_matching(build: Callable[[Any], Energy], probes: int = 1) -> Loss:
    """mean (½|∇E|² − ΔE), which equals explicit score matching up to a constant, without the score (Hyvärinen, 2005).

    The Laplacian is Hutchinson's estimate with ``probes`` random signs; images ``[n, ...]`` are real.
    """
    check.positive_int("probes", probes)

    def loss(params, batch, key):
        energy = build(params)
        check.inexact("batch", batch)
        check.real("batch", batch, "Take real and imaginary parts as two images.")

        def trace(key):
            signs = jax.random.rademacher(key, batch.shape, batch.dtype)
            slope, bent = jax.jvp(energy.grad, (batch,), (signs,))
            return 0.5 * slope**2 - signs * bent

        return jnp.mean(jax.vmap(trace)(jax.random.split(key, probes))), {}

    return loss


def denoising_score_matching(build: Callable[..., Energy], sigma: Any) -> Loss:
    """½ mean |σ∇E(x + σn) − n|²: −∇E becomes the score of the density of images with noise of standard deviation σ.

    The weight σ² makes all levels count alike. One level: ``build(params)``; several ``[levels]``: every image draws one at random, and
    ``build(params, sigma)`` makes the energy for it.

    P. Vincent, Neural Comput. 23 (2011) 1661; Y. Song, S. Ermon, NeurIPS 2019 (several levels).
    """
    levels = check.array("sigma", sigma)
    positive("sigma", levels)
    if levels.ndim > 1:
        check.fail("sigma", "one level or a list of them", f"shape {levels.shape}")

    def loss(params, batch, key):
        check.inexact("batch", batch)
        which, noise_key = jax.random.split(key)
        noise = standard_normal(noise_key, batch.shape, batch.dtype)
        if not levels.ndim:
            return denoising_loss(build(params), batch, noise, levels), {}
        chosen = jnp.asarray(levels, noise.real.dtype)[jax.random.randint(which, batch.shape[:1], 0, levels.shape[0])]
        each = jax.vmap(lambda x, n, s: denoising_loss(build(params, s), x, n, s))
        return jnp.mean(each(batch, noise, chosen)), {}

    return loss


def denoiser_score_matching(denoise: Callable[..., Any], sigma_range: tuple[float, float], sigma_data: float) -> Loss:
    """mean |D(x + σn, σ) − x|² (σ² + s²)/(σs)² with ln σ uniform over the range: denoising score matching of a denoiser at all levels.

    (D − x)/σ² becomes the score (``denoiser_score``). The weight makes all levels count alike for ``nn.preconditioned`` networks.

    Args:
        denoise: ``denoise(params, x, sigma)`` for images ``[n, ...]`` and one σ an image. sigma_range: (least, largest) level.
        sigma_data: s, the standard deviation of the images (of complex ones, of each part).

    T. Karras et al., NeurIPS 2022.
    """
    low, high = sigma_range
    positive("sigma_range[0]", low)
    if check.is_concrete(low) and check.is_concrete(high) and not low < high:
        check.fail("sigma_range", "0 < least < largest level", str(sigma_range))
    check.minimum("sigma_data", sigma_data, 0.0, strict=True)

    def loss(params, batch, key):
        check.inexact("batch", batch)
        level_key, noise_key = jax.random.split(key)
        sigma = jnp.exp(jax.random.uniform(level_key, batch.shape[:1], batch.real.dtype, jnp.log(low), jnp.log(high)))
        each = sigma.reshape(-1, *(1,) * (batch.ndim - 1))
        error = denoise(params, batch + each * standard_normal(noise_key, batch.shape, batch.dtype), sigma) - batch
        weight = (each**2 + sigma_data**2) / (each * sigma_data) ** 2
        return jnp.mean(weight * (error * jnp.conj(error)).real), {}

    return loss


def denoising_loss(energy: Energy, x: Any, noise: Any, sigma: Any) -> jax.Array:
    """½ mean |σ∇E(x + σ·noise) − noise|² for given standard normal noise."""
    sigma = jnp.asarray(sigma, jnp.finfo(jnp.result_type(x)).dtype)
    return _mean_square(sigma * energy.grad(x + sigma * noise) - noise)


def tweedie(energy: Energy, y: Any, sigma: Any) -> Any:
    """E[x | y] = y − σ²∇E(y) for y = x + σn, where exp(−E) is the density of y (not of x): what score matching at σ learns.

    B. Efron, J. Am. Stat. Assoc. 106 (2011) 1602.
    """
    positive("sigma", sigma)
    check.inexact("y", y)
    return y - jnp.asarray(sigma, jnp.finfo(jnp.result_type(y)).dtype) ** 2 * energy.grad(y)


def denoiser_score(denoise: Callable[[Any, Any], Any], y: Any, sigma: Any) -> Any:
    """∇log p_σ(y) = (D(y, σ) − y)/σ², the score that belongs to a denoiser of least squared error."""
    positive("sigma", sigma)
    check.inexact("y", y)
    return (denoise(y, sigma) - y) / jnp.asarray(sigma, jnp.finfo(jnp.result_type(y)).dtype) ** 2


def _mean_square(r):
    return 0.5 * jnp.mean((r * jnp.conj(r)).real)
