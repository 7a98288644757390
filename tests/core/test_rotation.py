"""Rotation vectors against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from diffimg.core.rotation import rotation_matrix, turn_back


def test_rotation_vectors_are_scipys_and_smooth_at_zero(x64):
    vectors = np.random.default_rng(0).normal(size=(5, 3)) * np.array([[1.0], [1e-3], [0.0], [0.1], [0.099]])
    want = [Rotation.from_rotvec(v[::-1].copy()).as_matrix()[::-1, ::-1] for v in vectors]
    np.testing.assert_allclose(rotation_matrix(jnp.asarray(vectors)), want, atol=1e-14)
    for function in (jax.jacfwd(rotation_matrix), jax.jacrev(jax.jacfwd(rotation_matrix))):
        assert bool(jnp.isfinite(jax.jit(function)(jnp.zeros(3))).all())
    h, step = 1e-5, jnp.array([0.3, -0.5, 0.8])
    numeric = (rotation_matrix(h * step) - rotation_matrix(-h * step)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(rotation_matrix))(jnp.zeros(3)) @ step, numeric, atol=1e-9)


def test_vectors_are_turned_back_by_their_own_rotation_or_by_one_for_all(x64):
    rng = np.random.default_rng(1)
    vectors, rotations = rng.normal(size=(2, 6, 3))
    for rotation in (rotations, rotations[0], 1e-4 * rotations):
        want = Rotation.from_rotvec(rotation[..., ::-1].copy()).inv().apply(vectors[:, ::-1])[:, ::-1]
        np.testing.assert_allclose(turn_back(jnp.asarray(vectors), rotation), want, atol=1e-14)
