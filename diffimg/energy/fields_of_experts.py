"""Fields of experts: a sum of potentials of filter responses, the lecture's learned prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
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
        filters = check.array("filters", self.filters)
        check.ndim("filters", filters, 3, "[filter, ky, kx]")
        check.real("filters", filters)
        check.finite("filters", filters)
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
        filters = jnp.asarray(self.filters, jnp.finfo(x.dtype).dtype)
        count, ky, kx = filters.shape
        if x.ndim < 2 or x.shape[-2] < ky or x.shape[-1] < kx:
            check.fail("x", f"images of at least {ky} × {kx}", f"shape {x.shape}")
        parts = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x[None]
        flat = parts.reshape(-1, 1, *x.shape[-2:])
        top, left = ky // 2, kx // 2
        padded = jnp.pad(flat, ((0, 0), (0, 0), (top, ky - 1 - top), (left, kx - 1 - left)), mode="wrap")
        out = jax.lax.conv_general_dilated(padded, filters[:, None], (1, 1), "VALID", precision="highest")
        out = jnp.moveaxis(out, 1, 0).reshape(count, *parts.shape)
        return jax.lax.complex(out[:, 0], out[:, 1]) if jnp.iscomplexobj(x) else out[:, 0]

    def lipschitz(self) -> jax.Array:
        """max over frequencies of Σ_i weight_i |f̂_i|², times sup|ρ''| = 1, over scale²; bounded by Young's inequality: ‖f_i‖₁²."""
        filters = jnp.asarray(self.filters)
        norms = jnp.sum(jnp.abs(filters), axis=(1, 2)) ** 2
        size = 64
        spectrum = jnp.abs(jnp.fft.rfft2(filters, (size, size))) ** 2
        weights = jnp.broadcast_to(jnp.asarray(self.weights, norms.dtype), norms.shape)
        # between 64² sampled frequencies a short filter's spectrum rises little: Bernstein's inequality for trigonometric polynomials
        ky, kx = filters.shape[1:]
        slack = 1 / (1 - np.pi * (ky - 1 + kx - 1) / size)
        bound = jnp.max(jnp.sum(weights[:, None, None] * spectrum, 0)) * (slack if 0 < slack < 4 else jnp.inf)
        return jnp.minimum(bound, jnp.sum(weights * norms)) / jnp.asarray(self.scale) ** 2

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


def dct_filters(size: int = 5) -> np.ndarray:
    """The size² − 1 two-dimensional cosine filters without the constant one, ``[filter, size, size]`` float32, orthonormal."""
    check.positive_int("size", size)
    n = np.arange(size)
    basis = np.cos(np.pi * (n + 0.5) * n[:, None] / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    filters = np.einsum("iy,jx->ijyx", basis, basis).reshape(-1, size, size)
    return filters[1:].astype(np.float32)
