"""Fields of experts: a sum of potentials of filter responses, the lecture's learned prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.filter_bank import admit_filters, gain, responses
from diffimg.energy.weight import nonnegative, positive, real_like

POTENTIALS = ("student", "huber", "charbonnier")


@pytree
class FieldsOfExperts(Energy):
    """Σ_i weight_i Σ ρ(|f_i ∗ x|/scale) for images ``[..., y, x]``, real or complex, with periodic boundaries.

    ρ is smooth: "student" ½·log(1 + t²) (not convex), "huber" t²/2 up to 1 and t − ½ beyond, "charbonnier" √(1 + t²) − 1. All leaves are
    traced: filters, weights and scale can be learned.

    Args:
        filters: ``[filter, ky, kx]`` real; ``dct_filters`` gives a start.
        weights: ``[filter]`` ≥ 0, or one for all.
        scale: > 0, the size of responses at which ρ turns from quadratic; in units of x.
        potential: "student", "huber" or "charbonnier".

    Raises:
        ValueError: filters of another shape, negative weights, an unknown potential.

    S. Roth and M. J. Black, Int. J. Comput. Vis. 82 (2009) 205.
    """

    filters: Any
    weights: Any = 1.0
    scale: Any = 1.0
    potential: str = static(default="student")

    def __post_init__(self):
        filters = admit_filters(self.filters)
        object.__setattr__(self, "filters", filters)
        nonnegative("weights", self.weights)
        positive("scale", self.scale)
        if tuple(jnp.shape(self.weights)) not in ((), (jnp.shape(filters)[0],)):
            check.fail("weights", f"one, or {jnp.shape(filters)[0]} of them, one a filter", f"shape {tuple(jnp.shape(self.weights))}")
        check.one_of("potential", self.potential, POTENTIALS)

    def __call__(self, x):
        squared = self._squared(self.responses(x))
        return jnp.sum(self._weights(x) * _value(self.potential, squared))

    def grad(self, x):
        """Σ_i weight_i f_iᵀ ∗ (ρ'(r)/r · f_i ∗ x), r the responses' sizes: real filters act on real and imaginary part alike."""
        responses = self.responses(x)
        scale = real_like(self.scale, x)
        factors = self._weights(x) * _factor(self.potential, self._squared(responses)) / scale**2
        out, pull = jax.linear_transpose(self.responses, x), factors * responses
        return out(pull)[0]

    def responses(self, x: Any) -> jax.Array:
        """f_i ∗ x, ``[filter, ..., y, x]``."""
        return responses(self.filters, x)

    def lipschitz(self) -> jax.Array:
        """max over frequencies of Σ_i weight_i |f̂_i|², times sup|ρ''| = 1, over scale²."""
        return gain(self.filters, self.weights) / jnp.asarray(self.scale) ** 2

    def _squared(self, responses):
        return (responses * jnp.conj(responses)).real / real_like(self.scale, responses) ** 2

    def _weights(self, x):
        weights = real_like(self.weights, x)
        return weights.reshape(-1, *(1,) * x.ndim) if weights.ndim else weights


def _value(potential, squared):
    if potential == "student":
        return 0.5 * jnp.log1p(squared)
    if potential == "charbonnier":
        return squared / (jnp.sqrt(1 + squared) + 1)
    return jnp.where(squared <= 1, 0.5 * squared, jnp.sqrt(jnp.maximum(squared, 1)) - 0.5)


def _factor(potential, squared):
    """ρ'(t)/t of t²."""
    if potential == "student":
        return 1 / (1 + squared)
    if potential == "charbonnier":
        return 1 / jnp.sqrt(1 + squared)
    return 1 / jnp.sqrt(jnp.maximum(squared, 1))
