"""Extrapolation of truncated projections."""

import warnings

import jax
import numpy as np
import pytest

from diffimg import ct
from diffimg.data import Ellipses, project
from diffimg.forward import FanBeam, ParallelBeam

N = 48
WATER = Ellipses([[1.0, -2.0]], [[20.0, 20.0]], [0.0], [0.02])
ANGLES = np.linspace(0, 2 * np.pi, 60, endpoint=False)


def scans(count):
    with warnings.catch_warnings(action="ignore"):
        return ParallelBeam((N, N), ANGLES, count), FanBeam((N, N), ANGLES, count, 200.0, 100.0, detector_spacing=1.5)


@pytest.mark.parametrize("index", [0, 1], ids=["parallel", "fan"])
def test_a_water_cylinder_is_continued_exactly(index):
    """Up to the detector's cell, and the fan's curvature."""
    narrow, wide = (scans(count)[index] for count in (31, 71))
    y, geometry = ct.extrapolate(project(WATER, narrow), narrow, 20, water=0.02, fit=3)
    assert geometry.detector_count == 71
    exact = project(WATER, wide)
    np.testing.assert_array_equal(y[:, 20:-20], project(WATER, narrow))
    assert np.linalg.norm(y - exact) < 0.06 * np.linalg.norm(exact)


def test_it_cures_the_bright_rim():
    narrow, _ = scans(31)
    y = project(WATER, narrow)
    yy, xx = np.mgrid[:N, :N] - (N - 1) / 2
    near = np.hypot(yy, xx) < 12
    errors, rims = {}, {}
    with warnings.catch_warnings(action="ignore"):
        images = {
            "plain": ct.fbp(y, narrow),
            **{m: ct.fbp(*ct.extrapolate(y, narrow, method=m)) for m in ("water", "cosine")},
        }
    for name, image in images.items():
        errors[name] = np.sqrt(np.mean((np.asarray(image)[near] - 0.02) ** 2)) / 0.02
        rims[name] = np.std(np.asarray(image)[near]) / 0.02
    assert errors["plain"] > 0.1 and errors["water"] < 0.05
    assert rims["cosine"] < 0.8 * rims["plain"], rims


@pytest.mark.slow
def test_differentiable_and_batched():
    narrow, _ = scans(31)
    y = project(WATER, narrow)
    both = ct.extrapolate(np.stack([y, 2 * y]), narrow, 20)[0]
    np.testing.assert_allclose(both[0], ct.extrapolate(y, narrow, 20)[0], rtol=1e-6)
    with warnings.catch_warnings(action="ignore"):
        slope = jax.grad(lambda v: (ct.extrapolate(v, narrow, 8)[0] ** 2).sum())(y * 0)
    assert np.isfinite(slope).all()


def test_bad_input():
    narrow, _ = scans(31)
    y = project(WATER, narrow)
    with pytest.raises(ValueError, match="geometry: expected a ParallelBeam or a FanBeam"):
        ct.extrapolate(y, ANGLES)
    with pytest.raises(ValueError, match="method: expected one of 'water', 'cosine'"):
        ct.extrapolate(y, narrow, method="watter")
    with pytest.raises(ValueError, match="water: expected values > 0"):
        ct.extrapolate(y, narrow, water=0.0)
    with pytest.raises(ValueError, match="fit: expected 2 to 31 cells"):
        ct.extrapolate(y, narrow, fit=1)
