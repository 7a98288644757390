"""LISTA: iterative soft thresholding with learned matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffimg.core import check


class LISTA(nnx.Module):
    """x ← soft(W y + S x, θ) from x = 0: sparse codes of y ``[..., data]`` → ``[..., code]`` in few iterations.

    It starts as ISTA for ½‖Ax − y‖² + weight ‖x‖₁: W = Aᵀ/L, S = 1 − AᵀA/L, θ = weight/L, L = σ_max(A)².

    Args:
        dictionary: A ``[data, code]``, real. weight: > 0. iterations: of shared matrices; each has thresholds of its own.

    K. Gregor, Y. LeCun, ICML 2010.
    """

    def __init__(self, dictionary: Any, weight: float, iterations: int = 10):
        dictionary = check.array("dictionary", dictionary)
        check.ndim("dictionary", dictionary, 2, "[data, code]")
        check.real("dictionary", dictionary)
        check.finite("dictionary", dictionary)
        check.minimum("weight", weight, 0.0, strict=True)
        self.iterations = check.positive_int("iterations", iterations)
        if not np.any(dictionary):
            check.fail("dictionary", "atoms that are not all 0", "zeros only")
        top = jnp.linalg.norm(dictionary, 2) ** 2
        self.encode = nnx.Param(dictionary.T / top)
        self.inhibit = nnx.Param(jnp.eye(dictionary.shape[1], dtype=dictionary.dtype) - dictionary.T @ dictionary / top)
        self.thresholds = nnx.Param(jnp.full((iterations, dictionary.shape[1]), weight / top))

    def __call__(self, y: Any) -> jax.Array:
        y = jnp.asarray(y)
        check.trailing_shape("y", y, self.encode[...].shape[1:])
        driven = jnp.matmul(y, self.encode[...].T, precision="highest")
        x = jnp.zeros_like(driven)
        for threshold in self.thresholds[...]:
            v = driven + jnp.matmul(x, self.inhibit[...].T, precision="highest")
            x = jnp.sign(v) * jax.nn.relu(jnp.abs(v) - threshold)
        return x
