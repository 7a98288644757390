"""Density compensation against areas known in closed form, and SigPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import data, forward
from diffimg.mri import density_compensation

SIZE, SPOKES, READOUT = 32, 51, 64
ANGLES = np.arange(SPOKES) * np.pi / SPOKES
RADIUS = (np.arange(READOUT) - READOUT // 2) * 2 * np.pi / READOUT
RADIAL = RADIUS[:, None] * np.stack([np.sin(ANGLES), np.cos(ANGLES)], -1)[:, None]
STEP = 2 * np.pi / READOUT
AREA = np.abs(RADIUS) * (np.pi / SPOKES) * STEP * SIZE**2 / (2 * np.pi) ** 2


@pytest.mark.parametrize("method", ["pipe", "voronoi"])
def test_cartesian_samples_weigh_one(method):
    axes = [2 * np.pi / n * (np.arange(n) - n // 2) for n in (12, 15)]
    w = density_compensation(np.stack(np.meshgrid(*axes, indexing="ij"), -1), (12, 15), method)
    np.testing.assert_allclose(w, 1, atol=2e-3)


def test_voronoi_of_spokes_is_their_area():
    w = np.asarray(density_compensation(RADIAL, (SIZE, SIZE), "voronoi"))
    away = np.abs(np.arange(READOUT) - READOUT // 2) > 1
    away[[0, -1]] = False
    np.testing.assert_allclose(w[:, away], np.broadcast_to(AREA[away], w[:, away].shape), rtol=2e-3)
    np.testing.assert_allclose(w[:, READOUT // 2].sum() * (2 * np.pi) ** 2 / SIZE**2, np.pi / 4 * STEP**2, rtol=0.02)
    assert abs(w.sum() / (np.pi / 4 * SIZE**2) - 1) < 0.03


@pytest.mark.parametrize("method", ["pipe", "voronoi"])
def test_gridding_reconstruction(method):
    """A direct reconstruction of radial samples reaches the image up to the missing corners of k-space."""
    image = jnp.asarray(data.shepp_logan_image(SIZE), jnp.complex64)
    k = 2 * np.pi / SIZE * (np.arange(SIZE) - SIZE // 2)
    disc = np.hypot(k[:, None], k) < np.pi
    expected = forward.MaskedFFT(disc).normal(image)
    A = forward.NUFFT((SIZE, SIZE), RADIAL)
    out = A.H(density_compensation(RADIAL, (SIZE, SIZE), method) * A(image))
    assert float(jnp.linalg.norm(out - expected) / jnp.linalg.norm(expected)) < 0.07  # without weights: 3.9


def test_pipe_is_sigpys_up_to_scale():
    mri = pytest.importorskip("sigpy.mri")
    theirs = mri.pipe_menon_dcf(RADIAL / (2 * np.pi) * SIZE, img_shape=(SIZE, SIZE), show_pbar=False)
    ours = np.asarray(density_compensation(RADIAL, (SIZE, SIZE)))
    away = (np.abs(np.arange(READOUT) - READOUT // 2) > 6) & (np.abs(np.arange(READOUT) - READOUT // 2) < 28)
    ratio = theirs[:, away] / ours[:, away]
    assert ratio.std() / ratio.mean() < 0.1


def test_pipe_is_differentiable_in_the_trajectory():
    gradient = jax.grad(lambda t: jnp.sum(density_compensation(t, (8, 8), steps=3) ** 2))(jnp.asarray(RADIAL[:5, ::8], jnp.float32))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_refused():
    with pytest.raises(ValueError, match="method"):
        density_compensation(RADIAL, (8, 8), "voronio")
    with pytest.raises(ValueError, match="Voronoi"):
        density_compensation(RADIAL[:1], (8, 8), "voronoi")
    with pytest.raises(ValueError, match="pipe"):
        jax.jit(lambda t: density_compensation(t, (8, 8), "voronoi"))(RADIAL)
