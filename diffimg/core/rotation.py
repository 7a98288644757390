"""Rotations in space, by rotation vectors in array order."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def rotation_matrix(vector: jax.Array) -> jax.Array:
    """``[..., 3, 3]`` from rotation vectors ``[..., 3]`` (axis × angle), both in array order (z, y, x); smooth at zero.

    Right-handed in (x, y, z). Rodrigues' formula, R = I + (sinθ/θ) K + ((1−cosθ)/θ²) K².
    """
    z, y, x = (vector[..., i] for i in range(3))
    zero = jnp.zeros_like(z)
    cross = jnp.stack([jnp.stack(row, -1) for row in ((zero, x, -y), (-x, zero, z), (y, -z, zero))], -2)
    square = (vector * vector).sum(-1)[..., None, None]
    small = square < 1e-2
    angle = jnp.sqrt(jnp.where(small, 1, square))
    near = jnp.where(small, square, 0)
    sine = jnp.where(small, _series(near, 1), jnp.sin(angle) / angle)
    versine = jnp.where(small, _series(near, 2), 2 * (jnp.sin(angle / 2) / angle) ** 2)
    outer = vector[..., :, None] * vector[..., None, :]  # K² = v vᵀ − θ² I
    return jnp.eye(3, dtype=vector.dtype) * (1 - versine * square) + sine * cross + versine * outer


def turn_back(vectors: jax.Array, rotation: jax.Array) -> jax.Array:
    """``vectors [..., 3]`` turned by the inverse of the rotation vectors ``rotation [..., 3]``; both broadcast."""
    return jnp.sum(rotation_matrix(jnp.asarray(rotation)) * vectors[..., :, None], -2)  # Rᵀv, in full precision on every device


def _series(square, start):
    """Σ (−θ²)ⁿ / (2n + start)!, to 1e-18 for θ² < 0.01."""
    return sum((-square) ** n / math.factorial(2 * n + start) for n in range(6))
