"""Measures of a registration on transforms whose Jacobians are known."""

import numpy as np
import pytest
from scipy import ndimage

from diffimg import forward as f
from diffimg import registration as r
from diffimg.data import Grid

RNG = np.random.default_rng(0)


def test_landmarks(x64):
    shift = f.Translation(np.array([3.0, 4.0]))
    points = RNG.uniform(0, 9, (7, 2))
    np.testing.assert_allclose(r.target_registration_error(shift, points, points), 5)
    with pytest.raises(ValueError, match="moving_points: expected shape"):
        r.target_registration_error(shift, points, points[:3])


def test_jacobians(x64):
    grid = Grid((8, 9))
    stretch = f.Affine(np.diag([2.0, 0.7]), np.zeros(2))
    assert float(r.folding(stretch, grid)) == 0
    np.testing.assert_allclose(r.log_jacobian_deviation(stretch, grid), 0, atol=1e-12)
    rows = np.broadcast_to(np.where(np.arange(9) < 5, 0.0, -1.5 * (np.arange(9) - 4)), (8, 9))
    fold = f.DisplacementField(np.stack([0 * rows, rows], -1), grid)
    determinant = (1 + np.gradient(rows, axis=1))[1:-1, 1:-1]
    np.testing.assert_allclose(r.folding(fold, grid), (determinant <= 0).mean())
    u = f.DisplacementField(0.1 * RNG.standard_normal((8, 9, 2)), grid)
    inner = np.asarray(u.jacobian_determinant(grid))[1:-1, 1:-1]
    np.testing.assert_allclose(r.log_jacobian_deviation(u, grid), np.log(inner).std())


def test_the_challenge_s_definition(x64):
    """Learn2Reg's evaluation in NumPy and SciPy: correlation with [−½, 0, ½] in samples, two samples cut, +3, clipped."""
    turn = np.array([[0.0, 0.6, -0.8], [1.0, 0.0, 0.0], [0.0, 0.8, 0.6]])
    grid = Grid((8, 9, 10), (2.0, 1.0, 3.0), (5.0, -3.0, 1.0), turn.tolist())
    u = RNG.normal(0, 0.3, (8, 9, 10, 3))
    matrix = np.stack(
        [np.stack([ndimage.correlate1d(u[..., k], [-0.5, 0, 0.5], axis=j) for j in range(3)], -1) for k in range(3)], -2
    ) + np.eye(3)
    determinant = np.linalg.det(matrix[2:-2, 2:-2, 2:-2])
    expected = np.log((determinant + 3).clip(1e-9, 1e9)).std()
    np.testing.assert_allclose(r.log_jacobian_deviation(f.DisplacementField(u, grid), grid, learn2reg=True), expected)
    with pytest.raises(ValueError, match="5 samples or more"):
        r.log_jacobian_deviation(f.DisplacementField(u[:4], Grid((4, 9, 10))), Grid((4, 9, 10)), learn2reg=True)
