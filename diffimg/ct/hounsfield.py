"""Hounsfield units."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check


def hounsfield(mu: Any, mu_water: Any, mu_air: Any = 0.0) -> jax.Array:
    """HU = 1000 (μ − μ_water) / (μ_water − μ_air): attenuation in any one unit → Hounsfield units (water 0, air −1000)."""
    _distinct(mu_water, mu_air)
    return 1000 * (jnp.asarray(check.array("mu", mu)) - mu_water) / (mu_water - mu_air)


def attenuation(hu: Any, mu_water: Any, mu_air: Any = 0.0) -> jax.Array:
    """The inverse of ``hounsfield``."""
    _distinct(mu_water, mu_air)
    return mu_water + jnp.asarray(check.array("hu", hu)) * (mu_water - mu_air) / 1000


def _distinct(mu_water, mu_air):
    concrete = check.is_concrete(mu_water) and check.is_concrete(mu_air)
    if concrete and not bool(jnp.all(jnp.asarray(mu_water) > jnp.asarray(mu_air))):
        remedy = "Both are in the unit of mu, e.g. 0.0193 and 0 per mm."
        check.fail("mu_water", "a value above mu_air", f"{mu_water} against {mu_air}", remedy)
