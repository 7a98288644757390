"""Measures of a registration on transforms whose Jacobians are known."""

import numpy as np
import pytest

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
    np.testing.assert_allclose(r.log_jacobian_deviation(u, grid, learn2reg=True), np.log(inner + 3).std())
