"""Plug-and-play reconstruction: half-quadratic splitting with falling noise levels, and how much a denoiser expands.

``energy.PlugAndPlay`` and ``energy.RED`` make a denoiser part of any problem: ``ProximalGradient`` with the first is PnP-PGM, ``ADMM``
PnP-ADMM, ``HalfQuadraticSplitting`` PnP-HQS, ``GradientDescent`` with the second RED.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.energy import Energy, PlugAndPlay
from diffimg.energy.learned import within
from diffimg.energy.weight import positive


def dpir(
    data: Energy, prior: PlugAndPlay, noise_level: Any, x0: Any, steps: int = 8, *, first: float = 49 / 255, strength: Any = 0.23
) -> jax.Array:
    """Half-quadratic splitting with a denoiser whose level falls geometrically from ``first`` to ``noise_level``.

    z_k = denoise(x_k, σ_k), x_{k+1} = argmin D(x) + α_k/2 ‖x − z_k‖² with α_k = strength·σ²/σ_k².

    Args:
        data: D with a prox, e.g. ``LeastSquares(A, y)``. prior: its denoiser is used, its weight is not.
        noise_level: σ of the data, in the units of y and of the image (an A of norm about 1); at least the smallest the denoiser knows is
            used for its levels. x0: start. steps: denoisings.
        first: the first level, in units of the image (0 … 1 for the default).

    Returns:
        The last denoised image.

    K. Zhang et al., IEEE Trans. Pattern Anal. Mach. Intell. 44 (2022) 6360.
    """
    steps = check.positive_int("steps", steps)
    if not isinstance(prior, PlugAndPlay):
        check.fail("prior", "PlugAndPlay(denoise, params)", check.describe(prior))
    if not data.has_prox:
        check.fail("data", "an energy with a prox, such as LeastSquares(A, y)", repr(data))
    positive("noise_level", noise_level, "Noiseless data: give a small level, e.g. 0.01 of the brightest pixel.")
    positive("strength", strength)
    check.inexact("x0", x0)
    dtype = jnp.finfo(jnp.result_type(x0)).dtype
    sigma = jnp.asarray(noise_level, dtype)
    lowest = 0.0 if prior.sigma_range is None else prior.sigma_range[0]
    levels = jnp.geomspace(jnp.asarray(first, dtype), jnp.maximum(sigma, lowest), steps)
    levels = within("first, noise_level", levels, prior.sigma_range)
    data = data.prepare()

    def step(z, level):
        x = data.prox(z, level**2 / (jnp.asarray(strength, dtype) * sigma**2))
        return prior.denoise(prior.params, x, level), None

    return jax.lax.scan(step, jnp.asarray(x0), levels)[0]


class LipschitzEstimate(NamedTuple):
    """Largest singular values of the Jacobians of D and of I − D at the images given."""

    denoiser: jax.Array
    residual: jax.Array


def lipschitz_estimate(prior: Any, x: Any, sigma: Any, key: Any, steps: int = 30) -> LipschitzEstimate:
    """How much a denoiser expands differences around x: power iterations with exact products JᵀJ v.

    Lower bounds of the Lipschitz constants. D ≤ 1: RED and PnP-PGM with step below 2/L converge. I − D < 1: PnP-ADMM and PnP-PGM
    converge where the data term is strongly convex (Ryu et al., ICML 2019).

    Args:
        prior: ``PlugAndPlay`` or ``RED``. x: images, the worst of the batch counts. sigma: level of noise. steps: power iterations.
    """
    check.positive_int("steps", steps)
    positive("sigma", sigma)
    x = jnp.asarray(x)
    check.inexact("x", x)
    level = within("sigma", jnp.asarray(sigma, jnp.finfo(x.dtype).dtype), prior.sigma_range)

    def denoise(v):
        return prior.denoise(prior.params, v, level)

    def largest(function):
        _, push = jax.linearize(function, x)
        pull = jax.linear_transpose(push, x)

        def step(v, _):
            u = push(v)
            w = jax.tree.map(jnp.conj, pull(jax.tree.map(jnp.conj, u))[0])
            return tree.scale(1 / jnp.maximum(tree.norm(w), jnp.finfo(level.dtype).tiny), w), tree.norm(u)

        start = jax.random.normal(key, x.shape, x.dtype)
        return jax.lax.scan(step, tree.scale(1 / tree.norm(start), start), None, steps)[1][-1]

    return LipschitzEstimate(largest(denoise), largest(lambda v: v - denoise(v)))
