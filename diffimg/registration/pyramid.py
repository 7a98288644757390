"""Coarse copies of an image: smoothed and sampled less densely, one matrix an axis."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.spline_lattice import separable


def coarse(image: Any, grid: Grid, factor: Any) -> tuple[jax.Array, Grid]:
    """(image, grid) with about 1/factor of the samples along each axis, after a Gaussian of half a new sample.

    Args:
        image: ``[*grid.shape]``.
        grid: where its samples lie.
        factor: ≥ 1, one number or one an axis; 1 gives the image itself.

    Raises:
        ValueError: a factor below 1, or image and grid that do not fit.
    """
    check.minimum("factor", np.asarray(factor, float), 1)
    check.shape("image", image, grid.shape, "the grid")
    target = grid.coarser(factor)
    if target == grid:
        return jnp.asarray(image), grid
    matrices = [_smoothing(n, m) for n, m in zip(grid.shape, target.shape, strict=True)]
    return separable(jnp.asarray(image), matrices), target


@functools.lru_cache(64)
def _smoothing(fine: int, few: int) -> np.ndarray:
    """float64 ``[few, fine]``: Gaussian means about the new samples, rows of sum 1."""
    if fine == few:
        return np.eye(fine)
    ratio = fine / few
    centre = (np.arange(few) + 0.5) * ratio - 0.5
    matrix = np.exp(-0.5 * ((np.arange(fine) - centre[:, None]) / (0.5 * ratio)) ** 2)
    return matrix / matrix.sum(1, keepdims=True)
