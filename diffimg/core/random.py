"""Random arrays, real or complex."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


def standard_normal(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Independent standard normal numbers; complex ones have variance 1 in each part (those of ``jax.random.normal`` in both together)."""
    x = jax.random.normal(key, shape, dtype)
    return math.sqrt(2) * x if jnp.issubdtype(dtype, jnp.complexfloating) else x
