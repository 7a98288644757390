"""Moduli with a gradient at zero, soft thresholding and the projection dual to it; real and complex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def squared_modulus(x: jax.Array) -> jax.Array:
    """|x|², real."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


def safe_sqrt(x: jax.Array) -> jax.Array:
    """√x for x ≥ 0, with derivative 0 (a subgradient of the modulus) instead of ∞ at 0."""
    least = _least(x)
    return jnp.where(x > least, jnp.sqrt(jnp.maximum(x, least)), 0)


def modulus(x: jax.Array) -> jax.Array:
    """|x|; its derivative at 0 is 0."""
    return safe_sqrt(squared_modulus(x)) if jnp.iscomplexobj(x) else jnp.abs(x)


def soft_threshold(x: jax.Array, threshold: Any) -> jax.Array:
    """argmin_u threshold·|u| + ½|u − x|²: the modulus shrinks by ``threshold`` (≥ 0, broadcast), the phase stays."""
    if jnp.iscomplexobj(x):
        return x * _shrinkage(squared_modulus(x), threshold)
    return x - jnp.clip(x, -threshold, threshold)


def block_soft_threshold(x: jax.Array, threshold: Any, axis: int | tuple[int, ...]) -> jax.Array:
    """Soft thresholding of the Euclidean norm over ``axis``: a group shrinks as a whole or vanishes."""
    return x * _shrinkage(jnp.sum(squared_modulus(x), axis, keepdims=True), threshold)


def _shrinkage(squared, threshold):
    """1 − threshold/√squared, or 0 inside the threshold."""
    return jnp.where(squared > threshold * threshold, 1 - _ratio(threshold, squared), 0)


def _ratio(radius, squared):
    """radius/√squared, or 1 where that is more. Continuous: XLA may evaluate a comparison twice with different rounding (fused
    multiply-add), so a value on the edge must not meet the placeholder of a ``where`` inside a ``where``."""
    return radius * lax.rsqrt(jnp.maximum(jnp.maximum(squared, radius * radius), _least(squared)))


def _least(x):
    """A square so small that its root counts as 0, and large enough that x^(-3/2), in derivatives, is finite."""
    return float(jnp.finfo(x.dtype).tiny) ** 0.6


def project_ball(parts: Sequence[jax.Array], radius: Any, jointly: bool) -> tuple[jax.Array, ...]:
    """The point of {|p| ≤ radius}, pixel by pixel, nearest to the vector field ``parts``: jointly (isotropic) or each part alone."""
    if not jointly:
        return tuple(project_ball((p,), radius, True)[0] for p in parts)
    factor = _ratio(radius, sum(squared_modulus(p) for p in parts))
    return tuple(p * factor for p in parts)
