"""The adversarial regularizer: small on true images, large on reconstructions, with a slope of at most one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy import Energy
from diffimg.forward.operator import Operator


def adversarial(build: Callable[[Any], Energy], penalty: float = 10.0) -> Callable[[Any, Any, Any], tuple[jax.Array, dict[str, jax.Array]]]:
    """mean R(real) − mean R(fake) + penalty · mean max(0, ‖∇R(x_t)‖ − 1)² with x_t = t·real + (1 − t)·fake, t uniform, one an image.

    A batch is (real, fake), images ``[n, ...]`` each: true ones, and reconstructions that should look like them. R is taken per image as
    it is (not per pixel), and norms are per image, so that it approaches a critic of slope 1, whose gap is the Wasserstein-1 distance.
    The log shows the gap E R(fake) − E R(real), the penalty and the mean norm of the gradient.

    S. Lunz, O. Öktem, C.-B. Schönlieb, NeurIPS 2018.
    """
    check.minimum("penalty", penalty, 0.0)

    def loss(params, batch, key):
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            check.fail("batch", "(real images, fake images)", check.describe(batch))
        real, fake = batch
        check.inexact("batch[0]", real)
        check.inexact("batch[1]", fake)
        check.shape("fake", fake, real.shape, remedy="As many fake images as real ones, of one size.")
        energy = build(params)
        count = real.shape[0]
        gap = (energy(fake) - energy(real)) / count
        t = jax.random.uniform(key, (count, *(1,) * (real.ndim - 1)), gap.dtype)
        slope = energy.grad(t * real + (1 - t) * fake)
        squares = jnp.sum((slope * jnp.conj(slope)).real, tuple(range(1, real.ndim)))
        norms = jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
        excess = jnp.mean(jax.nn.relu(norms - 1) ** 2)
        return penalty * excess - gap, {"gap": gap, "penalty": excess, "gradient_norm": jnp.mean(norms)}

    return loss


def adversarial_weight(operator: Operator, truth: Any, y: Any) -> jax.Array:
    """mean ‖Aᴴ(Ax − y)‖ over true images and their data: the weight at which a regularizer of slope 1 balances the noise (Lunz et al.).

    Args:
        truth: ``[n, ...]``. y: their data.
    """
    back = operator.H(operator(jnp.asarray(truth)) - y)
    return jnp.mean(jnp.sqrt(jnp.sum((back * jnp.conj(back)).real, tuple(range(1, back.ndim)))))
