"""Low rank: images of a series that are combinations of few."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy
from diffimg.energy.weight import nonnegative, real_like


@pytree
class NuclearNorm(Energy):
    """weight · Σ singular values of the Casorati matrix ``[frame, voxel]`` of a series x ``[frame, ...]``.

    The prox thresholds the singular values softly, exactly; it costs an eigenvalue problem of the number of frames.

    Args:
        weight: ≥ 0.

    Z.-P. Liang, ISBI 2007, 988; J.-F. Cai, E. J. Candès, Z. Shen, SIAM J. Optim. 20 (2010) 1956.
    """

    weight: Any = 1.0
    smooth: ClassVar[bool] = False

    def __post_init__(self):
        nonnegative("weight", self.weight)

    def __call__(self, x):
        return real_like(self.weight, x) * jnp.sum(jnp.linalg.svd(_casorati(x), compute_uv=False))

    def prox(self, v, step):
        """Singular values s become max(s − weight·step, 0)."""
        matrix = _casorati(v)
        threshold = real_like(self.weight, v) * real_like(step, v)
        if matrix.shape[0] > matrix.shape[1]:
            return _shrink(matrix.T, threshold).T.reshape(v.shape)
        return _shrink(matrix, threshold).reshape(v.shape)


def _casorati(x):
    if jnp.ndim(x) < 2:
        check.fail("x", "a series [frame, ...]", f"shape {jnp.shape(x)}", "The first axis is that of the frames.")
    return x.reshape(x.shape[0], -1)


def _shrink(matrix, threshold):
    """U max(s − t, 0) Vᴴ from the SVD of ``[few, many]``."""
    u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return jnp.matmul(u * jnp.maximum(s - threshold, 0).astype(u.dtype), vh, precision="highest")
