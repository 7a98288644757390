"""Penalties on deformations: closed forms on polynomials, and lattices against dense sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import energy as e
from diffimg import forward as f
from diffimg.data import Grid

RNG = np.random.default_rng(0)
GRID = Grid((9, 12, 8), (1.5, 0.8, 2.0), (3.0, 1.0, -4.0))


def field(grid, *components):
    """Displacements given as functions of the world's coordinates."""
    position = np.moveaxis(grid.index_to_world(np.stack(np.indices(grid.shape), -1)), -1, 0)
    return f.DisplacementField.from_world(np.stack([c(*position) + 0 * position[0] for c in components], -1), grid)


def test_linear_displacements(x64):
    """Of constant derivatives: everything is known."""
    a = RNG.standard_normal((3, 3)) * 0.1
    linear = field(GRID, *[lambda z, y, x, r=r: a[r, 0] * z + a[r, 1] * y + a[r, 2] * x + 2 for r in range(3)])
    np.testing.assert_allclose(e.Diffusion()(linear, GRID), 0.5 * np.sum(a**2))
    expected = 0.7 / 4 * np.sum((a + a.T) ** 2) + 0.3 / 2 * np.trace(a) ** 2
    np.testing.assert_allclose(e.Elastic(0.7, 0.3)(linear, GRID), expected)
    np.testing.assert_allclose(e.VolumeChange(1e-6)(linear, GRID), abs(1 - np.linalg.det(np.eye(3) + a)), atol=1e-5)
    for bends in (e.Bending(), e.Curvature()):
        np.testing.assert_allclose(bends(linear, GRID), 0, atol=1e-24)
    assert float(e.Folding()(linear, GRID)) == 0
    same = f.Affine(np.eye(3) + a, np.zeros(3))
    np.testing.assert_allclose(e.Diffusion()(same, GRID), 0.5 * np.sum(a**2))


def test_quadratic_displacements(x64):
    u = (
        lambda z, y, x: 0.1 * z * y + 0.2 * x**2,
        lambda z, y, x: 0.3 * y**2 - 0.1 * z**2,
        lambda z, y, x: 0.05 * x * y + 0.1 * x * z,
    )
    moved = field(GRID, *u)
    squares = (2 * 0.1**2 + 0.4**2) + (0.6**2 + 0.2**2) + (2 * 0.05**2 + 2 * 0.1**2)  # of all second derivatives
    np.testing.assert_allclose(e.Bending()(moved, GRID), squares / 2, rtol=1e-9)
    np.testing.assert_allclose(e.Curvature()(moved, GRID), (0.4**2 + 0.4**2) / 2, rtol=1e-9)


@pytest.mark.parametrize("penalty", [e.Diffusion(), e.Bending(), e.Curvature(), e.Elastic(1.0, 0.5)], ids=lambda p: type(p).__name__)
def test_lattices_in_closed_form(penalty, x64):
    """Against dense sampling of the same spline, in two dimensions with turned axes."""
    turn = [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid((20, 24), (1.5, 0.8), (3.0, 1.0), turn)
    start = f.FreeForm.identity(grid, mesh=(4, 3))
    free = f.FreeForm(RNG.standard_normal(start.coefficients.shape), start.lattice)
    fine = 40
    shift = (1 - 1 / fine) / 2 * np.array(grid.spacing)
    origin = tuple(np.array(grid.origin) - np.array(turn) @ shift)
    dense = Grid(tuple(n * fine for n in grid.shape), tuple(s / fine for s in grid.spacing), origin, turn)
    axes = jnp.asarray(turn)
    sampled = penalty._field(list(jnp.einsum("ka,...k->a...", axes, free.displacement(dense))), dense.spacing)
    np.testing.assert_allclose(penalty(free, grid), sampled, rtol=5e-3)


def test_folding_and_volume(x64):
    grid = Grid((10, 10))
    fold = field(grid, lambda y, x: 0 * y, lambda y, x: -1.5 * x)
    np.testing.assert_allclose(fold.jacobian_determinant(grid), -0.5, atol=1e-12)
    np.testing.assert_allclose(e.Folding(0.2)(fold, grid), 0.5 * 3.5**2)
    np.testing.assert_allclose(e.VolumeChange(1e-9)(fold, grid), 1.5)
    slide = field(grid, lambda y, x: 0 * y, lambda y, x: 1.0 * (y > 4.5))
    np.testing.assert_allclose(e.VectorTotalVariation(1e-9)(slide, grid), 0.1, atol=1e-6)


def test_inverse_consistency(x64):
    grid = Grid((10, 12), (1.5, 0.8))
    turn = f.Rigid(np.array([0.2]), np.array([1.0, 2.0]), np.array([5.0, 5.0]))
    np.testing.assert_allclose(e.inverse_consistency(turn, turn.inverse(), grid), 0, atol=1e-25)
    np.testing.assert_allclose(e.inverse_consistency(f.Translation(np.array([3.0, 0.0])), f.Translation(np.zeros(2)), grid), 4.5)


def test_sums_and_gradients(x64):
    grid = Grid((8, 9))
    both = 0.5 * e.Bending() + 2 * e.VectorTotalVariation() + e.Folding(0.9) + 0.1 * e.VolumeChange()
    u = f.DisplacementField(0.3 * RNG.standard_normal((8, 9, 2)), grid)
    total = 0.5 * e.Bending()(u, grid) + 2 * e.VectorTotalVariation()(u, grid) + e.Folding(0.9)(u, grid) + 0.1 * e.VolumeChange()(u, grid)
    np.testing.assert_allclose(both(u, grid), total)
    slope = jax.grad(lambda v: both(f.DisplacementField(v, grid), grid))(u.vectors)
    direction = RNG.standard_normal(slope.shape)
    step = 1e-6
    ends = [both(f.DisplacementField(u.vectors + s * step * direction, grid), grid) for s in (1, -1)]
    np.testing.assert_allclose(jnp.vdot(slope, direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)
    still = jax.grad(lambda v: both(f.DisplacementField(v, grid), grid))(0 * u.vectors)
    np.testing.assert_allclose(still, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: e.Bending()(np.zeros((8, 9, 2)), Grid((8, 9))), "transform: expected a diffimg transform"),
        (lambda: e.Bending()(f.Translation(np.zeros(3)), Grid((8, 9))), "grid: expected a grid of 3 axes"),
        (lambda: e.Folding(0.0), "threshold: expected values > 0"),
        (lambda: -1.0 * e.Bending(), "factor: expected values ≥ 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
