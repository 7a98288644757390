"""Rings: the sorting method against SciPy's median, and gains estimated with the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffimg import ct
from diffimg.data import project, random_ellipses
from diffimg.energy import Transmission
from diffimg.forward import ParallelBeam

N, VIEWS, CELLS = 64, 90, 91
GEOMETRY = ParallelBeam((N, N), np.linspace(0, np.pi, VIEWS, endpoint=False), CELLS)
PHANTOM = random_ellipses(jax.random.key(3), 12, 0.45 * N, (0.1, 0.4), (0.005, 0.02))
CLEAN = project(PHANTOM, GEOMETRY)
LOG_GAIN = 0.02 * np.random.default_rng(0).standard_normal(CELLS).astype(np.float32)


def test_sorting_is_a_median_of_the_ranked_rows():
    y = np.random.default_rng(1).normal(size=(2, 12, 15)).astype(np.float32)
    order = np.argsort(y, axis=1, kind="stable")
    level = ndimage.median_filter(np.take_along_axis(y, order, 1), (1, 1, 5), mode="reflect")
    expected = np.empty_like(y)
    np.put_along_axis(expected, order, level, 1)
    np.testing.assert_array_equal(jax.jit(ct.remove_stripes, static_argnums=1)(y, 5), expected)


def test_stripes_are_removed_and_the_object_kept():
    assert jnp.std(jnp.mean(ct.remove_stripes(CLEAN - LOG_GAIN, 5) - CLEAN, 0)) < 0.75 * np.std(LOG_GAIN)
    assert jnp.linalg.norm(ct.remove_stripes(CLEAN, 5) - CLEAN) < 0.03 * jnp.linalg.norm(CLEAN)


@pytest.mark.slow
def test_gains_are_estimated_with_the_image():
    y = Transmission(1e6).noise(jax.random.key(0), CLEAN - LOG_GAIN)
    truth = PHANTOM.rasterize((N, N))
    found = ct.estimate_gains(y, GEOMETRY, 0.01, 150, spread=3.0)
    seen = np.abs(np.arange(CELLS) - (CELLS - 1) / 2) < 0.45 * N  # beyond, no ray meets the object
    error = np.log(np.asarray(found.gains)) - LOG_GAIN
    assert np.std(error[seen]) < 0.35 * np.std(LOG_GAIN[seen]) and np.std(error[~seen]) < 0.05 * np.std(LOG_GAIN)
    plain = ct.fista_tv(y, GEOMETRY, 0.01, 150, lower=0.0).x
    assert jnp.linalg.norm(found.image - truth) < 0.5 * jnp.linalg.norm(plain - truth)


def test_bad_input():
    with pytest.raises(ValueError, match="width: expected an odd number"):
        ct.remove_stripes(CLEAN, 4)
    with pytest.raises(ValueError, match="sinogram: expected finite"):
        ct.remove_stripes(CLEAN.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="spread: expected values > 0"):
        ct.estimate_gains(CLEAN, GEOMETRY, 0.1, spread=0.0)
    with pytest.raises(ValueError, match="sinogram: expected shape"):
        ct.estimate_gains(CLEAN[1:], GEOMETRY, 0.1)
