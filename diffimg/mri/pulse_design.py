"""RF pulses designed by gradients through the Bloch simulation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffimg.core import check
from diffimg.core.pytree import pytree, replace
from diffimg.mri.pulses import Pulse, excitation, slice_profile


@pytree
class Design:
    """``pulse``; its complex slice profile ``[position]``; the loss ``[step]``."""

    pulse: Pulse
    profile: Any
    loss: Any


def design_pulse(
    start: Pulse, thickness: float, z: Any, target: Any, *, weights: Any = None, steps: int = 300, rate: float = 0.05,
    energy: float = 1e-4, peak: float | None = None, phase: bool = False,
) -> Design:  # fmt: skip
    """A pulse whose slice is the target: min Σ w |M_xy(z) − target|²/Σw + energy · mean|B₁|²/mean|start|² by Adam.

    Args:
        start: where to begin, e.g. a windowed sinc of the wanted duration and angle; keeps its gradient. thickness: of its slice, m.
        z: positions ``[position]``, m. target: complex M_xy there (m0 = 1), e.g. 1j sin(flip) inside. weights: ≥ 0, e.g. 0 where
            the profile may fall.
        steps, rate: of Adam; the rate is relative to the largest |B₁| of the start.
        energy: penalty of the pulse's power. peak: bound of |B₁|, T, kept by a smooth saturation.
        phase: False compares magnitudes only inside the slice.

    Returns:
        ``Design``.

    Raises:
        ValueError: shapes that do not fit, a bound below zero.

    S. Conolly, D. Nishimura, A. Macovski, IEEE Trans. Med. Imaging 5 (1986) 106 (optimal control of the Bloch equation).
    """
    z, target = jnp.asarray(z), jnp.asarray(target)
    check.finite("z", z)
    check.finite("target", target)
    check.shape("target", target, tuple(z.shape), "[position]")
    weights = jnp.ones(z.shape) if weights is None else jnp.asarray(weights)
    check.shape("weights", weights, tuple(z.shape), "[position]")
    check.minimum("weights", weights, 0.0)
    if peak is not None:
        check.minimum("peak", peak, 0.0, strict=True, remedy="Give tesla.")
    check.positive_int("steps", steps)
    return _design(start, thickness, z, target, weights, steps, rate, energy, peak, bool(phase))


@functools.partial(jax.jit, static_argnums=(5, 9))
def _design(start, thickness, z, target, weights, steps, rate, energy, peak, phase):
    scale = jnp.max(jnp.abs(start.rf))
    mean_power = jnp.mean(jnp.abs(start.rf) ** 2)

    def pulse(parameters):
        rf = jax.lax.complex(parameters[0], parameters[1]) * scale
        if peak is not None:
            size = jnp.sqrt(jnp.abs(rf) ** 2 + 1e-12 * scale**2)
            rf = rf * (peak * jnp.tanh(size / peak) / size)
        return replace(start, rf=rf)

    def loss(parameters):
        p = pulse(parameters)
        profile = slice_profile(excitation(p, thickness), z, nucleus=p.nucleus)
        if phase:
            difference = jnp.abs(profile - target) ** 2
        else:
            # √(|M|² + ε): the magnitude with a derivative at 0
            difference = (jnp.sqrt(jnp.abs(profile) ** 2 + 1e-8) - jnp.abs(target)) ** 2
        return jnp.sum(weights * difference) / jnp.sum(weights) + energy * jnp.mean(jnp.abs(p.rf) ** 2) / mean_power

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(state, _):
        parameters, moments = state
        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    parameters = jnp.stack([jnp.asarray(start.rf).real, jnp.asarray(start.rf).imag]) / scale
    (parameters, _), history = jax.lax.scan(step, (parameters, optimizer.init(parameters)), None, length=steps)
    final = pulse(parameters)
    return Design(final, slice_profile(excitation(final, thickness), z, nucleus=final.nucleus), history)
