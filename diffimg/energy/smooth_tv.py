"""Differentiable relatives of total variation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.differences import admit_spacing, gradient, gradient_adjoint, spatial_steps, squared_norm_bound
from diffimg.energy.thresholding import safe_sqrt, squared_modulus
from diffimg.energy.weight import nonnegative, positive, real_like


class _PotentialOfGradient(Energy):
    """Σ weight φ(|∇x|) with φ(m) = ψ(m²): a subclass gives ψ as ``_value(squared)``, φ'(m)/m = 2ψ'(m²) as
    ``_factor(squared)``, and sup φ'' as ``_curvature()``."""

    weight: Any
    isotropic: bool
    spacing: Any

    def __call__(self, x):
        parts = gradient(x, spatial_steps(x, self.spacing))
        return jnp.sum(real_like(self.weight, x) * sum(self._value(s) for s in self._squared(parts)))

    def grad(self, x):
        steps = spatial_steps(x, self.spacing)
        parts = gradient(x, steps)
        factors = [real_like(self.weight, x) * self._factor(s) for s in self._squared(parts)]
        return gradient_adjoint([f * p for f, p in zip(factors * (len(parts) // len(factors)), parts, strict=True)], steps)

    def lipschitz(self):
        return jnp.max(jnp.asarray(self.weight)) * squared_norm_bound(self.spacing) * self._curvature()

    def _squared(self, parts):
        squares = [squared_modulus(p) for p in parts]
        return [sum(squares)] if self.isotropic else squares


@pytree
class HuberTV(_PotentialOfGradient):
    """Σ weight h(|∇x|), h(m) = m²/(2δ) for m ≤ δ, m − δ/2 above: total variation without staircases (Huber 1973; Werlberger et al. 2009).

    Args:
        weight: ≥ 0, a scalar or a map that broadcasts to x.
        delta: δ > 0, in units of x per unit of spacing.
        isotropic, spacing: as in ``TotalVariation``.
    """

    weight: Any
    delta: Any
    isotropic: bool = static(default=True)
    spacing: Any = None

    def __post_init__(self):
        nonnegative("weight", self.weight)
        positive("delta", self.delta, "For δ → 0 use TotalVariation.")
        object.__setattr__(self, "spacing", admit_spacing(self.spacing))

    def _value(self, squared):
        delta = real_like(self.delta, squared)
        return jnp.where(squared <= delta**2, squared / (2 * delta), safe_sqrt(squared) - delta / 2)

    def _factor(self, squared):
        return 1 / jnp.maximum(safe_sqrt(squared), real_like(self.delta, squared))

    def _curvature(self):
        return 1 / self.delta


@pytree
class SmoothTV(_PotentialOfGradient):
    """Σ weight (√(|∇x|² + ε²) − ε), infinitely differentiable.

    Args:
        weight: ≥ 0, a scalar or a map that broadcasts to x.
        epsilon: ε > 0, in units of x per unit of spacing.
        isotropic, spacing: as in ``TotalVariation``.
    """

    weight: Any
    epsilon: Any
    isotropic: bool = static(default=True)
    spacing: Any = None

    def __post_init__(self):
        nonnegative("weight", self.weight)
        positive("epsilon", self.epsilon, "For ε → 0 use TotalVariation.")
        object.__setattr__(self, "spacing", admit_spacing(self.spacing))

    def _value(self, squared):
        epsilon = real_like(self.epsilon, squared)
        return squared / (jnp.sqrt(squared + epsilon**2) + epsilon)

    def _factor(self, squared):
        return 1 / jnp.sqrt(squared + real_like(self.epsilon, squared) ** 2)

    def _curvature(self):
        return 1 / self.epsilon
