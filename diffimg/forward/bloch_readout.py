"""The signal of spins that precess freely while it is read.

Σ_s q_s e^{−λ_s(t_k)} is a sum over spins for every sample. Where the samples are even in time and the gradient is constant, sample
k = aB + b + 1 has the phasor e^{−aBλ} e^{−(b+1)λ}: A + B phasors a spin instead of AB, and the sum is a matrix product.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from diffimg.core.trigonometry import sincos
from diffimg.forward.bloch_excitation import outer


def phasors(moments: Any, damping: Any, places: Any) -> tuple[Any, Any]:
    """Real and imaginary part of e^{−λ}, λ = R₂t + 2πi (t, m)·places.

    Args:
        moments: ``[sample, 4]``: time in s, then ∫γ/2π G dt in turns/m.
        damping: ``[spin]``: R₂ in 1/s.
        places: ``[4, spin]``: off-resonance in Hz, then positions in m.

    Returns:
        Two arrays ``[sample, spin]``.
    """
    sin, cos = sincos(outer(moments, places))
    size = jnp.exp(-outer(moments[:, :1], damping[None]))
    return size * cos, -size * sin


@jax.custom_jvp
def free_signal(steps: Any, damping: Any, places: Any, weighted: Any) -> Any:
    """Σ over the spins of weighted · e^{−λ} after each interval, ``[sample, row]``.

    Args:
        steps: ``[sample, 4]``: duration, then γ/2π G times duration, of each interval.
        damping, places: of the spins, see ``phasors``.
        weighted: complex ``[row, spin]``, e.g. transverse magnetization times receive sensitivities.
    """
    even = jnp.all(steps == steps[0])
    # nothing of a branch is kept for derivatives: the other one would have to keep as much
    return lax.cond(even, jax.checkpoint(_factored), jax.checkpoint(_full), steps, damping, places, weighted)


@functools.partial(free_signal.defjvp, symbolic_zeros=True)
def _free_signal_jvp(primals, tangents):
    steps, damping, places, weighted = primals
    d_steps, d_damping, d_places, d_weighted = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    out = free_signal(*primals)
    moments, rows, slope = jnp.cumsum(steps, axis=0), weighted.shape[0], jnp.zeros_like(out)
    turn = 2j * math.pi
    if d_steps is not None:
        rates = (damping + turn * places[0], *(turn * p for p in places[1:]))
        parts = free_signal(steps, damping, places, jnp.concatenate([weighted * r for r in rates])).reshape(-1, 4, rows)
        slope -= jnp.einsum("kj,kjr->kr", jnp.cumsum(d_steps, axis=0).astype(parts.dtype), parts)
    columns, factors = [], []
    if d_weighted is not None:
        columns, factors = [d_weighted], [jnp.ones_like(moments[:, :1])]
    if d_damping is not None or d_places is not None:
        rates = [jnp.zeros_like(weighted[0]) for _ in range(4)] if d_places is None else [turn * d for d in d_places]
        rates[0] += 0 if d_damping is None else d_damping
        columns += [-weighted * r for r in (rates[:1] if d_places is None else rates)]
        factors.append(moments[:, :1] if d_places is None else moments)
    if columns:
        # not factored: JAX takes functions of tangents apart, and the second derivatives in single steps would be lost
        parts = jax.checkpoint(_full)(steps, damping, places, jnp.concatenate(columns)).reshape(-1, len(columns), rows)
        slope += jnp.einsum("kj,kjr->kr", jnp.concatenate(factors, axis=1).astype(parts.dtype), parts)
    return out, slope


def _full(steps, damping, places, weighted):
    return product(phasors(jnp.cumsum(steps, axis=0), damping, places), (weighted.real, weighted.imag))


def _factored(steps, damping, places, weighted):
    count, rows = steps.shape[0], weighted.shape[0]
    coarse = max(1, round(math.sqrt(count / 2)))
    fine = -(-count // coarse)
    times = jnp.asarray([*(a * fine for a in range(coarse)), *range(1, fine + 1)], steps.dtype)
    real, imaginary = phasors(times[:, None] * steps[0], damping, places)
    # not one product: its transpose would be a reduction, which XLA does slowly
    first = jnp.concatenate([lax.complex(real[a], imaginary[a]) * weighted for a in range(coarse)])
    out = product((first.real, first.imag), (real[coarse:], imaginary[coarse:]))
    return jnp.moveaxis(out.reshape(coarse, rows, fine), 1, -1).reshape(-1, rows)[:count]


def product(a, b):
    """a bᵀ of complex matrices given by their parts, as one real product."""
    m, n = a[0].shape[0], b[0].shape[0]
    p = jnp.einsum("ms,ns->mn", jnp.concatenate(a), jnp.concatenate(b), precision=lax.Precision.HIGHEST)
    return lax.complex(p[:m, :n] - p[m:, n:], p[:m, n:] + p[m:, :n])
