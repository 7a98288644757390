"""The weight of an energy term: checked once, and used in the precision of the image."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check


def nonnegative(argument: str, value: Any) -> None:
    """Refuse weights that are negative, complex, NaN or Inf (looked at only where they are concrete)."""
    check.array(argument, value)
    check.real(argument, value)
    check.finite(argument, value)
    check.minimum(argument, value, 0.0, remedy="A negative weight rewards what it should punish: the energy has no minimum.")


def positive(argument: str, value: Any, remedy: str = "") -> None:
    """Refuse values that are not positive, finite and real."""
    check.array(argument, value)
    check.real(argument, value)
    check.finite(argument, value)
    check.minimum(argument, value, 0.0, strict=True, remedy=remedy)


def real_like(value: Any, x: Any) -> jax.Array:
    """``value`` in the real precision of ``x``: a float64 weight must not promote a float32 image."""
    return jnp.asarray(value, jnp.finfo(jnp.result_type(x)).dtype)
