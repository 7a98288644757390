"""Sampling patterns and trajectories by their definitions."""

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree

from diffimg import forward, mri
from diffimg.mri import sampling, trajectories

KEY = jax.random.key(3)


def test_equispaced_lines_and_centre():
    mask = sampling.equispaced_mask((24, 10), 4, 6, offset=1)
    lines = mask[:, 0]
    assert (mask == lines[:, None]).all()
    assert lines[1::4].all() and lines[9:15].all() and lines.sum() == 6 + 4
    assert sampling.equispaced_mask((24, 10), 2, axis=-1)[0].sum() == 5
    frames = sampling.shifted_mask((4, 24, 10), 4)
    assert frames.any(0).all() and (frames.sum(0) == 1).all()


@pytest.mark.parametrize("shape", [(64, 48), (63, 49), (5, 64, 48)])
@pytest.mark.parametrize("r", [2, 4.0])
def test_random_lines_have_the_exact_count_and_full_centre(shape, r):
    for mask in (sampling.variable_density_mask(shape, r, KEY, acs=8), sampling.random_mask(shape, r, KEY, acs=8)):
        lines = mask[..., 0].reshape(-1, shape[-2])[0]
        assert mask.shape == shape and lines.sum() == round(shape[-2] / r)
        assert lines[sampling.centre(shape[-2], 8)].all()
    points = sampling.variable_density_mask(shape, r, KEY, acs=8, axis=None)
    assert sampling.acceleration(points) == pytest.approx(r, rel=0.01)


def test_density_falls_from_the_centre():
    hits = sum(sampling.variable_density_mask((64, 1), 4, jax.random.key(i), acs=0)[:, 0].astype(int) for i in range(200))
    assert hits[24:40].mean() > 3 * hits[[*range(8), *range(56, 64)]].mean()


def test_poisson_discs_keep_their_distance():
    mask = sampling.poisson_disc_mask((80, 72), 5.0, KEY, acs=10, growth=0.0)
    assert sampling.acceleration(mask) == pytest.approx(5.0, rel=0.02)
    outside = mask.copy()
    outside[35:45, 31:41] = False
    points = np.argwhere(outside)
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    uniform = sampling.variable_density_mask((80, 72), 5.0, KEY, acs=10, power=0.0, axis=None)
    uniform[35:45, 31:41] = False
    other = cKDTree(np.argwhere(uniform)).query(np.argwhere(uniform), k=2)[0][:, 1]
    assert nearest.min() > 1.2 > other.min()
    varied = sampling.poisson_disc_mask((80, 72), 5.0, KEY, acs=10, growth=2.0)
    assert varied[30:50, 26:46].mean() > 1.5 * varied[:12].mean()


def test_seeded():
    np.testing.assert_array_equal(sampling.random_mask((32, 8), 4, KEY), sampling.random_mask((32, 8), 4, KEY))
    assert (sampling.random_mask((32, 8), 4, KEY) != sampling.random_mask((32, 8), 4, jax.random.key(9))).any()


def test_partial_fourier():
    assert sampling.partial_fourier_mask((16, 4), 0.625)[:, 0].sum() == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.equispaced_mask((8, 8), 0), "acceleration"),
        (lambda: sampling.random_mask((8, 8), 0.5, KEY), "acceleration"),
        (lambda: sampling.equispaced_mask((8, 8), 2, 9), "acs"),
        (lambda: sampling.variable_density_mask((16, 8), 8, KEY, acs=8), "At most R"),
        (lambda: sampling.equispaced_mask((8, 8), 2, axis=3), "axis"),
        (lambda: sampling.partial_fourier_mask((8, 8), 0.4), "fraction"),
        (lambda: sampling.shifted_mask((8, 8), 2), "frame"),
        (lambda: trajectories.radial(4, 8, "gold"), "Did you mean 'golden'"),
        (lambda: trajectories.echo_planar((9, 8), shots=2), "divisor"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_radial_spokes():
    k = np.asarray(trajectories.radial(5, 16))
    np.testing.assert_allclose(k[:, 8], 0, atol=1e-7)
    np.testing.assert_allclose(np.hypot(*np.moveaxis(k, -1, 0))[:, 0], np.pi, rtol=1e-6)
    angle = np.unwrap(2 * np.arctan2(k[:, 12, 0], k[:, 12, 1])) / 2
    np.testing.assert_allclose(np.mod(np.diff(angle), np.pi), np.deg2rad(111.246), atol=1e-3)


def test_spiral_reaches_the_edge_and_turns():
    k = np.asarray(trajectories.spiral(3, 400, 5.0))
    r = np.hypot(k[..., 0], k[..., 1])
    assert r.max() == pytest.approx(np.pi, rel=1e-5) and (np.diff(r, axis=1) > 0).all()
    turns = np.unwrap(np.arctan2(k[0, 1:, 0], k[0, 1:, 1]))
    assert (turns[-1] - turns[0]) / (2 * np.pi) == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize("shape", [(8, 10), (9, 7)])
def test_echo_planar_without_ramps_is_cartesian(shape):
    k = np.asarray(trajectories.echo_planar(shape)).reshape(-1, 2)
    grid = np.asarray(trajectories.cartesian(shape)).reshape(-1, 2)
    np.testing.assert_allclose(cKDTree(grid).query(k)[0], 0, atol=1e-6)
    assert len(np.unique(cKDTree(grid).query(k)[1])) == len(grid)


def test_three_dimensional_trajectories():
    assert trajectories.stack_of_stars(4, 5, 16).shape == (4, 5, 16, 3)
    k = np.asarray(trajectories.radial_3d(50, 16))
    np.testing.assert_allclose(np.linalg.norm(k[:, 0], axis=-1), np.pi, rtol=1e-6)
    assert np.abs(trajectories.rad_per_voxel(k / 2e-3, 2e-3) - k).max() < 1e-6


def test_point_spread():
    full = mri.point_spread(forward.MaskedFFT(np.ones((16, 16), bool)))
    assert full.sidelobe < 1e-5
    folded = mri.point_spread(forward.MaskedFFT(sampling.equispaced_mask((32, 32), 2)))
    assert folded.sidelobe == pytest.approx(1.0, abs=1e-5)  # a perfect ghost
    random = mri.point_spread(forward.MaskedFFT(sampling.variable_density_mask((32, 32), 2, KEY, acs=4, axis=None)))
    assert random.sidelobe < 0.3
    k = trajectories.radial(51, 64)
    weights = mri.density_compensation(k, (32, 32))
    radial = mri.point_spread(forward.NUFFT((32, 32), k), weights)
    assert all(0.9 < w < 1.7 for w in radial.width) and radial.sidelobe < 0.2
    np.testing.assert_allclose(radial.image[16, 16], 1)
