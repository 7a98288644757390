"""From detector readings to line integrals, and how well a lesion is seen: logarithm, local contrast, signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check

STARVATION = ("clip", "linear", "adaptive")


def log_transform(readings: Any, flat: Any, background: Any = 0.0, floor: Any = 1.0, starvation: str = "clip") -> jax.Array:
    """Line integrals −log((readings − background)/flat), finite for every reading.

    Args:
        readings: ``[..., view, detector]`` or ``[..., view, row, column]``, counts or integrated energy, ≥ 0.
        flat: reading without object *and* without background, > 0, a number or broadcasting (one a cell).
        background: known scatter or offset, subtracted first, ≥ 0.
        floor: the signal, in units of the readings and > 0, below which a ray is starved: 1 count, or the energy of a few photons.
        starvation: what is done there.
            "clip": signals below ``floor`` are raised to it. Simple and bounded; starved rays lose attenuation.
            "linear": below ``floor`` the logarithm continues along its tangent, log s ≈ log floor + s/floor − 1: C¹, and
            unbiased where the signal stays below the floor (the mean of a linear function is that of its argument): set it to the mean
            of a starved ray.
            "adaptive": starved signals are first mixed with the mean of their neighbours along the last axis, the more the lower they
            are, then clipped: w·s + (1 − w)·mean, w = clip(s/floor, 0, 1), window 5. The idea of J. Hsieh's adaptive filter against streaks
            (Med. Phys. 25(11), 1998), with a plain mean for his trimmed one; ``floor`` is then some 10 to 30 counts.

    Returns:
        Shape and dtype of ``readings``; differentiable.

    Raises:
        ValueError: negative, complex or non-finite readings, a flat field or floor that is not positive, a negative background.
    """
    readings = check.array("readings", readings)
    check.real("readings", readings)
    check.inexact("readings", readings)
    check.finite("readings", readings, "Mask or in-paint dead detector cells first.")
    check.minimum("readings", readings, 0.0, remedy="Electronic noise or an offset: pass jnp.maximum(readings, 0), or add the offset back.")
    check.one_of("starvation", starvation, STARVATION)
    for name, value, strict, remedy in (
        ("flat", flat, True, "A cell without flat field is dead: in-paint its readings, set its flat to 1."),
        ("background", background, False, ""),
        ("floor", floor, True, "The logarithm has no value at zero."),
    ):
        value = check.array(name, value)
        check.real(name, value)
        check.finite(name, value)
        check.minimum(name, value, 0.0, strict=strict, remedy=remedy)
    readings = jnp.asarray(readings)
    flat, background, floor = (jnp.asarray(v, readings.dtype) for v in (flat, background, floor))
    try:
        fits = jnp.broadcast_shapes(readings.shape, flat.shape, background.shape, floor.shape) == readings.shape
    except ValueError:
        fits = False
    if not fits:
        got = f"shapes {flat.shape}, {background.shape}, {floor.shape}"
        check.fail("flat, background, floor", f"shapes that broadcast to the readings {readings.shape}", got)
    signal = readings - background
    if starvation == "adaptive":
        own = jnp.clip(signal / floor, 0, 1)
        signal = own * signal + (1 - own) * _neighbours(signal)
    log = jnp.log(jnp.maximum(signal, floor))
    if starvation == "linear":
        log = log + jnp.minimum(signal / floor - 1, 0)
    return jnp.log(flat) - log


def local_contrast(target: Any, background: Any) -> jax.Array:
    """C = (I_t − I_b)/I_b of a target's mean intensity against that of its background."""
    check.minimum("background", background, 0.0, strict=True, remedy="Contrast is relative to the background's intensity.")
    return (jnp.asarray(target) - background) / background


def snr(contrast: Any, photons: Any) -> jax.Array:
    """SNR = C·√N_b: the signal-to-noise ratio of local contrast C at N_b background photons (counted one by one: Poisson).

    An energy-integrating detector reaches it times √(Swank factor) ≤ 1, see ``swank_factor``.
    """
    check.minimum("photons", photons, 0.0)
    return jnp.asarray(contrast) * jnp.sqrt(jnp.asarray(photons))


def measured_snr(target: Any, background: Any) -> jax.Array:
    """SNR = (mean I_t − mean I_b)/σ_b from the readings of two regions (any shapes)."""
    target, background = jnp.asarray(target), jnp.asarray(background)
    if background.size < 2:
        check.fail("background", "at least two readings", f"{background.size}", "Their spread is the noise.")
    return (jnp.mean(target) - jnp.mean(background)) / jnp.std(background, ddof=1)


def swank_factor(quanta: Any, fluence: Any) -> jax.Array:
    """(∫E n)² / (∫n ∫E² n): the loss of SNR² by weighing photons with their energy (R. K. Swank, J. Appl. Phys. 44, 4199, 1973).

    ``quanta`` and ``fluence``: ``[E]``, signal per photon and number of detected photons.
    """
    quanta, fluence = jnp.asarray(quanta), jnp.asarray(fluence)
    check.minimum("fluence", fluence, 0.0)
    return jnp.sum(quanta * fluence) ** 2 / (jnp.sum(fluence) * jnp.sum(quanta**2 * fluence))


def _neighbours(signal, reach: int = 2):
    """Mean over 2·reach + 1 cells of the last axis, fewer at its ends."""
    reach = min(reach, signal.shape[-1] - 1)
    edges = [(0, 0)] * (signal.ndim - 1) + [(reach, reach)]
    n = signal.shape[-1]

    def total(v):
        padded = jnp.pad(v, edges)
        return sum(padded[..., k : k + n] for k in range(2 * reach + 1))

    return total(signal) / total(jnp.ones_like(signal))
