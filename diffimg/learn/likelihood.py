"""Maximum likelihood: an energy falls at the data and rises at its own samples, which Langevin dynamics draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy import Energy
from diffimg.learn.sampling import METHODS, langevin


class Replay(NamedTuple):
    """Chains that go on from step to step: the ``carry`` of ``learn.train``.

    Attributes:
        chains: ``[capacity, ...]``. fresh: share of the chains drawn that start anew from the data of the batch.
    """

    chains: Any
    fresh: Any = 0.05


def contrastive_divergence(
    build: Callable[[Any], Energy], steps: int, step_size: Any, *, temperature: float = 1.0, method: str = "metropolis",
    size_penalty: float = 0.0,
) -> Callable[..., Any]:  # fmt: skip
    """(E(data) − E(samples)) per pixel: its gradient is that of −log likelihood, where the samples are of exp(−E).

    ``loss(params, batch, key)`` starts the samples at the data (biased for few steps);
    ``loss(params, batch, key, replay)``, with ``carry=Replay(chains)`` in ``learn.train``, goes on with chains of a buffer (persistent).

    Args:
        steps, step_size, method: of ``langevin``. temperature: T of the chains. What is learned is the density exp(−E/T), by maximum
            likelihood at any T: as a prior take E/T. Chains that are cold, short and unadjusted, as often used with networks, sample no
            density: then neither E nor E/T has a likelihood; say so where you report it.
        size_penalty: weight of the mean square of both energies per pixel, which keeps their level.

    The log shows the gap, the acceptance, and the root mean square of the gradient at the samples.

    G. E. Hinton, Neural Comput. 14 (2002) 1771; T. Tieleman, ICML 2008 (persistent).
    """
    check.positive_int("steps", steps)
    check.one_of("method", method, METHODS)
    check.minimum("temperature", temperature, 0.0, strict=True)
    check.minimum("size_penalty", size_penalty, 0.0)

    def compare(params, data, start, key):
        check.inexact("batch", data)
        energy = build(params)
        fixed = jax.lax.stop_gradient(build(jax.lax.stop_gradient(params)))
        drawn = langevin(fixed, start, steps, step_size, key, temperature=temperature, method=method)
        samples = jax.lax.stop_gradient(drawn.last)
        pixels = data.size
        low, high = energy(data) / pixels, energy(samples) / samples.size
        value = low - high
        if size_penalty:
            value = value + size_penalty * (low**2 + high**2)
        slope = jax.lax.stop_gradient(fixed.grad(samples))
        size = jnp.sqrt(jnp.mean((slope * jnp.conj(slope)).real))
        report = {"gap": high - low, "acceptance": jnp.mean(drawn.acceptance), "slope": size}
        return value, report, samples

    def loss(params, batch, key, replay=None):
        if replay is None:
            return compare(params, batch, batch, key)[:2]
        capacity, count = replay.chains.shape[0], batch.shape[0]
        check.shape("carry.chains", replay.chains, (capacity, *batch.shape[1:]), remedy="Chains are images like those of the batch.")
        if capacity < count:
            check.fail("carry.chains", f"at least as many chains as images in a batch, {count}", str(capacity))
        keys = jax.random.split(key, 3)
        which = jax.random.choice(keys[0], capacity, (count,), replace=False)
        anew = jax.random.bernoulli(keys[1], replay.fresh, (count, *(1,) * (batch.ndim - 1)))
        start = jnp.where(anew, batch, replay.chains[which])
        value, report, samples = compare(params, batch, start, keys[2])
        return value, report, replay._replace(chains=replay.chains.at[which].set(samples))

    return loss
