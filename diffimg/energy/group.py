"""Group sparsity."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.thresholding import block_soft_threshold, safe_sqrt, squared_modulus
from diffimg.energy.weight import nonnegative, real_like


@pytree
class GroupL1(Energy):
    """Σ_groups weight ‖x_group‖₂ (Yuan, Lin 2006): a group vanishes as a whole or stays.

    ``axis`` (an integer or several) runs within a group. With x = ∇u of shape ``[ndim, *image]``, ``axis=0`` gives isotropic total
    variation for splitting solvers; with contrasts or coils on axis 0, joint sparsity.

    Args:
        weight: ≥ 0, a scalar or an array that broadcasts to x with ``axis`` reduced to 1.
        axis: the axes within a group.
    """

    weight: Any = 1.0
    axis: int | tuple[int, ...] = static(default=0)
    smooth: ClassVar[bool] = False

    def __post_init__(self):
        nonnegative("weight", self.weight)
        if not isinstance(self.axis, int):
            object.__setattr__(self, "axis", tuple(self.axis))

    def __call__(self, x):
        norms = safe_sqrt(jnp.sum(squared_modulus(x), self.axis, keepdims=True))
        return jnp.sum(real_like(self.weight, x) * norms)

    def prox(self, v, step):
        """Block soft thresholding at weight·step."""
        return block_soft_threshold(v, real_like(self.weight, v) * real_like(step, v), self.axis)
