"""Pairs of images with a known deformation between them, drawn at random: to train on and to judge by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.deformation import FreeForm
from diffimg.forward.spline_lattice import spline_lattice
from diffimg.forward.warp import warp


def random_deformation(key: Any, grid: Grid, spacing: float, amplitude: Any) -> FreeForm:
    """A free-form deformation with independent Gaussian coefficients.

    Args:
        grid: its domain. spacing: mm between control points.
        amplitude: mm, standard deviation of a coefficient; below a third of ``spacing`` it rarely folds.
    """
    lattice = spline_lattice(grid, spacing)
    return FreeForm(amplitude * jax.random.normal(key, (*lattice.shape, grid.ndim)), lattice)


def synthetic_pairs(
    images: Any, grid: Grid, batch: int, *, spacing: float, amplitude: float, noise: float = 0.0
) -> Callable[[Any, Any], tuple[jax.Array, jax.Array, FreeForm]]:
    """``draw(key, step) → (fixed, moving, transforms)`` for ``learn.train``: i a random image, fixed = i ∘ T + noise, moving = i + noise.

    Args:
        images: ``[n, *grid.shape]``. batch: pairs at a time. spacing, amplitude: of ``random_deformation``.
        noise: standard deviation.

    Returns:
        ``draw``; ``fixed`` and ``moving`` are ``[batch, *grid.shape]``, the arrays of ``transforms`` have the batch in front.

    Raises:
        ValueError: images that do not fit the grid, numbers out of range.
    """
    images = jnp.asarray(check.array("images", images), jnp.float32)
    if images.ndim != grid.ndim + 1:
        check.fail("images", f"[n, {grid.ndim} axes]", f"shape {images.shape}", "One image: image[None].")
    check.trailing_shape("images", images, grid.shape, "the grid")
    check.positive_int("batch", batch)
    check.minimum("amplitude", amplitude, 0)
    check.minimum("noise", noise, 0)
    lattice = spline_lattice(grid, spacing)  # complains about spacing

    def deform(image, coefficients):
        transform = FreeForm(coefficients, lattice)
        return warp(image, transform, 3, grid=grid), transform

    @jax.jit
    def draw(key, images):
        chosen, moves, grain = jax.random.split(key, 3)
        moving = images[jax.random.randint(chosen, (batch,), 0, len(images))]
        coefficients = amplitude * jax.random.normal(moves, (batch, *lattice.shape, grid.ndim))
        fixed, transforms = jax.vmap(deform)(moving, coefficients)
        grain = noise * jax.random.normal(grain, (2, *fixed.shape))
        return fixed + grain[0], moving + grain[1], transforms

    return lambda key, step: draw(jax.random.fold_in(key, step), images)
