"""Samples of images, and of images given data, by reversing the growth of noise with a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.random import standard_normal
from diffimg.energy import LeastSquares
from diffimg.energy.weight import positive
from diffimg.forward.operator import Operator

GUIDANCES = ("dps", "pigdm", "proximal")


def diffusion_sample(
    denoise: Callable[[Any, Any], Any], shape: tuple[int, ...], sigmas: Any, key: Any, *, dtype: str | None = None,
    operator: Operator | None = None, y: Any = None, noise_level: Any = None, guidance: str = "proximal", strength: Any = 1.0,
    prior_variance: Any = 1.0, max_steps: int = 30,
) -> jax.Array:  # fmt: skip
    """Ancestral sampling of the variance-exploding diffusion x_σ = x + σn, from the largest level to the denoised image of the last.

    x_{k+1} = D + (σ_{k+1}²/σ_k²)(x_k − D) + σ_{k+1}√(1 − σ_{k+1}²/σ_k²) n with D = denoise(x_k, σ_k) ≈ E[x | x_k] (Tweedie).
    With data, D moves; along a gradient by autodiff through the denoiser, or without one:

    - "proximal", which fits any linear A: to argmin_x ‖y − A x‖²/(2 noise²) + ‖x − D‖²/(2r²) with r² = v σ²/(v + σ²) (Zhu et al.,
      "DiffPIR"), v the ``prior_variance`` of the images (of complex ones in each part): in closed form or by conjugate gradients. Exact
      for a Gaussian prior v·I; the denoiser is not differentiated.
    - "dps": strength · ∇_x ‖y − A D‖ (after Chung et al., who move x_{k+1} and not D: here the step is 1 − σ_{k+1}²/σ_k² of theirs and
      does not grow with the number of levels). Its length is a matter of tuning and knows no noise: on a Gaussian the samples crowd
      around A x = y instead of spreading as the posterior does; for a Radon transform no single strength was found that does well.
    - "pigdm": σ_k² ∇_x of −½‖y − A D‖²/(noise² + r²) (Song et al.), only for an A whose rows are orthonormal (lines of an FFT, missing
      pixels). Exact for a Gaussian prior v·I.

    Args:
        denoise: ``denoise(x, sigma)`` for ``[n, ...]`` images. shape: of the samples, ``[n, ...]``. dtype: theirs; None: that of the
            operator's domain, float32 without one.
        sigmas: decreasing levels; the first much larger than the images, the last small. operator, y, noise_level: data y = A x + noise,
            y ``[n, ...]`` or for all samples; the noise is needed for all but "dps". strength: of "dps", ≥ 0.
        prior_variance: v of "pigdm" and "proximal".
        max_steps: of the conjugate gradients of "proximal".

    H. Chung et al., ICLR 2023; J. Song et al., ICLR 2023; Y. Zhu et al., CVPR Workshops 2023; Y. Song et al., ICLR 2021 (variance
    exploding).
    """
    if not callable(denoise):
        remedy = "E.g. lambda x, s: model.denoiser()(model.params, x, s)."
        check.fail("denoise", "a function of (x, sigma)", check.describe(denoise), remedy)
    if dtype is None:
        dtype = "float32" if operator is None else jax.tree.leaves(operator.domain)[0].dtype.name
    check.inexact("dtype", jnp.zeros((), dtype), 'Images are "float32" or "complex64".')
    sigmas = jnp.asarray(check.array("sigmas", sigmas), jnp.finfo(dtype).dtype)
    check.minimum("strength", strength, 0)
    check.ndim("sigmas", sigmas, 1, "[level]")
    check.one_of("guidance", guidance, GUIDANCES)
    if check.is_concrete(sigmas):
        values = np.asarray(sigmas)  # with jnp they would be traced inside jit
        if len(values) < 2 or np.any(values <= 0) or np.any(np.diff(values) >= 0):
            check.fail("sigmas", "at least two positive levels that decrease", str(values), "E.g. jnp.geomspace(10, 0.01, 100).")
    if (operator is None) != (y is None):
        check.fail("operator, y", "both or neither", "one of them", "Data need the operator that made them.")
    if guidance != "dps" and operator is not None:
        if noise_level is None:
            check.fail("noise_level", f"the standard deviation of the data's noise, for {guidance}", "None")
        positive("noise_level", noise_level)
        positive("prior_variance", prior_variance)
    if operator is not None and y is not None:
        _admit_shapes(operator, jnp.shape(y), shape)
        check.finite("y", y)
    start_key, loop_key = jax.random.split(key)
    data = None if operator is None else (operator.prepare(), jnp.asarray(y))

    def spread(sigma):
        """Variance of what is not known of the image at that level."""
        prior = jnp.asarray(prior_variance, sigma.dtype)
        return sigma**2 * prior / (prior + sigma**2)

    def misfit(x, sigma):
        """(sum over the samples of what is descended, D)."""
        estimate = denoise(x, sigma)
        assert data is not None
        error = data[1] - data[0](estimate)
        squares = jnp.sum((error * jnp.conj(error)).real, tuple(range(1, error.ndim)))
        if guidance == "dps":
            return jnp.sum(jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))), estimate
        return jnp.sum(squares) / 2 / (jnp.asarray(noise_level, sigma.dtype) ** 2 + spread(sigma)), estimate

    def estimate(x, sigma):
        if data is None:
            return denoise(x, sigma)
        if guidance == "proximal":
            term = LeastSquares(*data, tolerance=1e-4, max_steps=max_steps)
            return term.prox(denoise(x, sigma), spread(sigma) / jnp.asarray(noise_level, sigma.dtype) ** 2)
        slope, mean = jax.grad(misfit, has_aux=True)(x, sigma)
        slope = jnp.conj(slope)
        return mean - (jnp.asarray(strength, sigma.dtype) if guidance == "dps" else sigma**2) * slope

    def step(x, given):
        now, then, key = given
        mean, ratio = estimate(x, now), (then / now) ** 2
        return mean + ratio * (x - mean) + then * jnp.sqrt(1 - ratio) * standard_normal(key, shape, dtype), None

    x = sigmas[0] * standard_normal(start_key, shape, dtype)
    keys = jax.random.split(loop_key, sigmas.shape[0] - 1)
    x, _ = jax.lax.scan(step, x, (sigmas[:-1], sigmas[1:], keys))
    x = denoise(x, sigmas[-1])  # a last gradient of "dps" has length 1 however small the misfit: it would leave the data again
    if check.is_concrete(x) and not np.all(np.isfinite(np.asarray(x))):
        remedy = 'Stay within the levels the denoiser was trained for; with data, guidance="proximal" bears an A of any norm.'
        check.fail("sigmas", "levels for which the samples stay finite", f"{float(sigmas[0]):g} … {float(sigmas[-1]):g}", remedy)
    return x


def _admit_shapes(operator, y, samples):
    space, data = (tuple(jax.tree.leaves(d)[0].shape) for d in (operator.domain, operator.codomain))
    if len(samples) != len(space) + 1 or tuple(samples[1:]) != space:
        check.fail("shape", f"[n, {', '.join(map(str, space))}], of n samples", str(tuple(samples)), "One sample: n = 1.")
    if y not in (data, (samples[0], *data), (1, *data)):
        check.fail("y", f"shape {data} (for all samples) or [{samples[0]}, *{data}]", str(y))
