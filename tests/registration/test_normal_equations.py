"""Gauss–Newton matrices of warped images: moments against columns, and both against automatic differentiation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from diffimg import forward as f
from diffimg.data import Grid
from diffimg.energy import NCC, SSD
from diffimg.registration.alignment import Alignment, prepared_image
from diffimg.registration.normal_equations import _of_columns, normal_equations


def problem(similarity, ndim, kind, order=1, masks=False, after=False):
    """Smooth random images on two grids that lie differently."""
    rng = np.random.default_rng(5)
    turn = np.eye(ndim)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    fixed_grid = Grid((13, 11, 9)[:ndim], (2.0, 1.5, 1.0)[:ndim], (1.0, -4.0, 3.0)[:ndim])
    moving_grid = Grid((12, 14, 10)[:ndim], (1.7, 1.6, 1.2)[:ndim], (-3.0, -2.0, 1.0)[:ndim], turn)
    fixed, moving = (rng.random(grid.shape) + 2 for grid in (fixed_grid, moving_grid))
    masked = [np.indices(grid.shape)[0] < 9 if masks else None for grid in (fixed_grid, moving_grid)]
    frame = kind.identity(ndim, np.asarray(fixed_grid.centre), np.float64)
    then = f.Affine(np.eye(ndim) + 0.1 * rng.standard_normal((ndim, ndim)), rng.standard_normal(ndim)) if after else None
    energy = Alignment(
        fixed, prepared_image(jnp.asarray(moving), order), similarity, frame, fixed_grid, moving_grid, None, then, *masked, order, 5.0
    )
    return energy, jax.tree.map(lambda v: v + 0.2 * rng.standard_normal(v.shape), energy.start())


@pytest.mark.parametrize("similarity", [SSD(), NCC(), NCC(0.3)], ids=["SSD", "NCC", "NCC with a floor"])
@pytest.mark.parametrize(
    ("ndim", "kind", "order", "masks", "after"),
    [(2, f.Rigid, 1, True, False), (3, f.Rigid, 1, False, True), (3, f.Affine, 3, True, True), (2, f.Translation, 1, False, False)],
)
def test_moments_are_columns(similarity, ndim, kind, order, masks, after, x64):
    energy, x = problem(similarity, ndim, kind, order, masks, after)
    assert np.isfinite(energy(x))
    quick, slow = normal_equations(energy, x), _of_columns(energy, x)
    for a, b in zip(quick, slow, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * float(jnp.max(jnp.abs(b))))
    if similarity == NCC(0.3):
        return  # a floor of that size moves with the image, which Gauss–Newton leaves out
    gradient = ravel_pytree(jax.grad(energy)(x))[0]
    np.testing.assert_allclose(quick[1], gradient, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(gradient))))


def test_matrix_of_ncc(x64):
    """Its matrix is that of the normalized image's derivative, taken by forward mode."""
    energy, x = problem(NCC(1e-9), 2, f.Affine)
    flat, back = ravel_pytree(x)

    def image(v):
        warped, weights = energy.warped(back(v))
        weights = weights / jnp.sum(weights)
        centred = warped - jnp.sum(weights * warped)
        return (jnp.sqrt(weights) * centred / jnp.sqrt(jnp.sum(weights * centred**2))).ravel()

    jacobian = jax.jacfwd(image)(flat)
    np.testing.assert_allclose(normal_equations(energy, x)[2], jacobian.T @ jacobian, rtol=1e-8, atol=1e-12)
