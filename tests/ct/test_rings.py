"""Rings: stripe offsets against SciPy's Gaussian and NumPy's median, and gains estimated with the image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffimg import ct
from diffimg.data import project, shepp_logan
from diffimg.energy import Transmission
from diffimg.forward import ConeBeam, ParallelBeam

N, VIEWS, CELLS = 96, 120, 137
GEOMETRY = ParallelBeam((N, N), np.linspace(0, np.pi, VIEWS, endpoint=False), CELLS)
PHANTOM = shepp_logan(0.48 * N)
PHANTOM = dataclasses.replace(PHANTOM, density=PHANTOM.density * (4.0 / N))
CLEAN = project(PHANTOM, GEOMETRY)
LOG_GAIN = 0.02 * np.random.default_rng(0).standard_normal(CELLS).astype(np.float32)


def test_offsets_are_the_median_of_the_high_passed_rows():
    y = np.random.default_rng(1).normal(size=(2, 12, 15)).astype(np.float32)
    for width in (1.0, 3.0):  # the wider one is mirrored several times
        expected = np.median(y - ndimage.gaussian_filter1d(y, width, axis=-1, mode="reflect"), axis=1)
        np.testing.assert_allclose(ct.stripe_offsets(y, width), expected, atol=2e-4)
    np.testing.assert_allclose(ct.stripe_offsets(y.transpose(1, 0, 2), 2.0, axis=0), ct.stripe_offsets(y, 2.0), atol=1e-6)


def test_stripes_are_removed_and_the_object_kept():
    clean, ringed, cured = (ct.fbp(p, GEOMETRY) for p in (CLEAN, CLEAN - LOG_GAIN, ct.remove_stripes(CLEAN - LOG_GAIN)))
    assert jnp.linalg.norm(cured - clean) < 0.4 * jnp.linalg.norm(ringed - clean)
    assert jnp.linalg.norm(ct.remove_stripes(CLEAN) - CLEAN) < 0.03 * jnp.linalg.norm(CLEAN)


@pytest.mark.slow
def test_gains_are_estimated_with_the_image():
    y, clean = (Transmission(1e5).noise(jax.random.key(0), p) for p in (CLEAN - LOG_GAIN, CLEAN))
    found = ct.estimate_gains(y, GEOMETRY, 0.2, 60)
    error = np.log(np.asarray(found.gains)) - LOG_GAIN
    assert np.std(error - ndimage.gaussian_filter1d(error, 3.0)) < 0.2 * np.std(LOG_GAIN)
    truth = PHANTOM.rasterize((N, N))
    assert jnp.linalg.norm(found.image - truth) < jnp.linalg.norm(ct.fbp(clean, GEOMETRY) - truth)  # of the scan without gain errors


@pytest.mark.slow
def test_gains_of_a_cone_beam():
    """Every row and column has its own."""
    geometry = ConeBeam((4, 12, 12), np.linspace(0, 2 * np.pi, 16, endpoint=False), (6, 27), 40.0, 20.0)
    offsets = 0.02 * np.random.default_rng(2).standard_normal((6, 27)).astype(np.float32)
    found = ct.estimate_gains(jnp.broadcast_to(offsets, geometry.sinogram_shape), geometry, 0.1, 4)
    assert found.image.shape == (4, 12, 12)
    assert np.std(np.asarray(found.gains) - np.exp(-offsets)) < 0.05 * np.std(offsets)


def test_bad_input():
    with pytest.raises(ValueError, match="width: expected values > 0"):
        ct.remove_stripes(CLEAN, 0.0)
    with pytest.raises(ValueError, match="axis: expected the axis of the views"):
        ct.remove_stripes(CLEAN, axis=1)
    with pytest.raises(ValueError, match="sinogram: expected finite"):
        ct.remove_stripes(CLEAN.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="spread: expected values > 0"):
        ct.estimate_gains(CLEAN, GEOMETRY, 0.1, spread=0.0)
    with pytest.raises(ValueError, match="sinogram: expected shape"):
        ct.estimate_gains(CLEAN[1:], GEOMETRY, 0.1)
