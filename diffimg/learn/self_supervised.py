"""Losses without a ground truth: noisy pairs, Stein's unbiased risk, split measurements, equivariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.random import standard_normal
from diffimg.energy.weight import positive
from diffimg.forward.operator import Operator

Loss = Callable[[Any, Any, Any], tuple[jax.Array, dict[str, jax.Array]]]
Network = Callable[[Any, Any], Any]


def noise2noise(network: Network) -> Loss:
    """mean |network(y₁) − y₂|², a batch (y₁, y₂) of two noisy images of the same object: noise of mean 0 in y₂ changes no minimiser.

    Args:
        network: ``network(params, y) → x``, images ``[n, ...]``.

    J. Lehtinen et al., ICML 2018.
    """

    def loss(params, batch, key=None):
        first, second = _pair(batch, "(one noisy image, another one)")
        check.shape("batch[1]", second, jnp.shape(first), remedy="Two images of the same objects.")
        return _mean_square(network(params, first) - second), {}

    return loss


def sure(network: Network, sigma: Any, probes: int = 1) -> Loss:
    """|network(y) − y|² − σ² + 2σ² div network, means per pixel: an unbiased estimate of the mean squared error (Stein, 1981).

    White Gaussian noise of standard deviation σ on real images ``[n, ...]``. The divergence is Hutchinson's estimate from exact directional
    derivatives in ``probes`` random directions (no finite differences).

    C. A. Metzler et al., arXiv:1805.10531 (training with it).
    """
    positive("sigma", sigma)
    check.shape("sigma", sigma, (), remedy="One noise level for all pixels.")
    check.positive_int("probes", probes)

    def loss(params, batch, key):
        check.inexact("batch", batch)
        check.real("batch", batch, "Take real and imaginary parts as two images.")
        variance = jnp.asarray(sigma, batch.dtype) ** 2

        def along(key):
            direction = jax.random.rademacher(key, batch.shape, batch.dtype)
            out, change = jax.jvp(lambda y: network(params, y), (batch,), (direction,))
            return out, jnp.mean(direction * change)

        out, slopes = jax.vmap(along, out_axes=(None, 0))(jax.random.split(key, probes))
        divergence = jnp.mean(slopes)
        fidelity = _mean_square(out - batch)
        return fidelity - variance + 2 * variance * divergence, {"fidelity": fidelity, "divergence": divergence}

    return loss


def split_mask(mask: Any, key: Any, fraction: float = 0.4, centre: int = 4) -> tuple[jax.Array, jax.Array]:
    """(input mask, loss mask): the measured samples in two disjoint parts, at random.

    Args:
        mask: ``[..., ky, kx]``, which samples were measured (> 0). fraction: of them, for the loss.
        centre: side of the central square that always goes into the input.
    """
    check.minimum("fraction", fraction, 0.0, strict=True)
    if fraction >= 1:
        check.fail("fraction", "a share below 1", repr(fraction))
    mask = jnp.asarray(mask)
    for_loss = jax.random.bernoulli(key, fraction, mask.shape) & (mask > 0)
    near = [(jnp.arange(n) >= n // 2 - centre // 2) & (jnp.arange(n) < n // 2 - centre // 2 + centre) for n in mask.shape[-2:]]
    for_loss = jnp.where(near[0][:, None] & near[1], False, for_loss)
    none = jnp.zeros((), mask.dtype)
    return jnp.where(for_loss, none, mask), jnp.where(for_loss, mask, none)


def ssdu(reconstruct: Callable[[Any, Any, Any], Any], operator: Callable[[Any], Operator], fraction: float = 0.4, centre: int = 4) -> Loss:
    """Reconstruct from a random part of the measured k-space, compare with the rest of it: (‖·‖₂ + ‖·‖₁) / size, normalised.

    A batch is (y ``[n, ..., ky, kx]``, mask ``[ky, kx]`` given with a leading axis of n).

    Args:
        reconstruct: ``reconstruct(params, y, operator) → x`` of one data set. operator: mask → operator.

    B. Yaman et al., Magn. Reson. Med. 84 (2020) 3172.
    """

    def one(params, y, mask, key):
        inside, outside = split_mask(mask, key, fraction, centre)
        x = reconstruct(params, inside * y, operator(inside))
        target = outside * y
        error = operator(outside)(x) - target
        tiny = jnp.finfo(error.real.dtype).tiny
        squares = jnp.sum((error * jnp.conj(error)).real) / jnp.maximum(jnp.sum((target * jnp.conj(target)).real), tiny)
        return jnp.sqrt(jnp.maximum(squares, tiny)) + jnp.sum(jnp.abs(error)) / jnp.maximum(jnp.sum(jnp.abs(target)), tiny)

    def loss(params, batch, key):
        y, mask = _pair(batch, "(k-space, masks)")
        return jnp.mean(jax.vmap(one, (None, 0, 0, 0))(params, y, mask, jax.random.split(key, y.shape[0]))), {}

    return loss


def equivariant(
    reconstruct: Callable[[Any, Any], Any], operator: Operator, group: Sequence[Callable[[Any], Any]], weight: Any = 1.0, noise: Any = 0.0
) -> Loss:
    """mean |A x − y|² + weight · mean |reconstruct(A T x) − T x|², x = reconstruct(y), T a random member of the group.

    What the data do not show is learned from symmetry: images turned or shifted are images. A batch is y ``[n, ...]``.

    Args:
        reconstruct: ``reconstruct(params, y) → x`` for a batch. group: maps of images ``[..., y, x]``, e.g. ``jnp.rot90`` with its axes.
        noise: standard deviation of noise added to A T x, like that of the data (of complex data in each part): a number, or a map
            that broadcasts to the data, 0 where nothing is measured.

    D. Chen, J. Tachella, M. E. Davies, ICCV 2021.
    """
    if not len(group):
        check.fail("group", "at least one map of images", "none", "E.g. [lambda x: jnp.rot90(x, k, (-2, -1)) for k in (1, 2, 3)].")

    def loss(params, batch, key):
        which, noise_key = jax.random.split(key)
        x = reconstruct(params, batch)
        turned = jax.lax.switch(jax.random.randint(which, (), 0, len(group)), list(group), x)
        data = operator(turned)
        data = data + noise * standard_normal(noise_key, data.shape, data.dtype)
        consistency, symmetry = _mean_square(operator(x) - batch), _mean_square(reconstruct(params, data) - turned)
        return consistency + weight * symmetry, {"consistency": consistency, "symmetry": symmetry}

    return loss


def _pair(batch, expected):
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        check.fail("batch", expected, check.describe(batch))
    return batch


def _mean_square(r):
    return jnp.mean((r * jnp.conj(r)).real)
