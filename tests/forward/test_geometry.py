"""The parallel-beam geometry: its coordinates, its text, and what it refuses."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core.pytree import replace
from diffimg.forward.geometry import ParallelBeam

ANGLES = np.linspace(0, np.pi, 12, endpoint=False)


@pytest.mark.parametrize(
    "angles",
    [
        ANGLES,
        np.linspace(0, np.pi, 720, endpoint=False),
        np.linspace(0.1, 2, 5),
        np.random.default_rng(0).uniform(-3, 3, 7),
        [0.3],
        [1, 2],
        ANGLES.astype(np.float32),
        jnp.asarray([0.5, 0.25]),
    ],
    ids=lambda a: f"{type(a).__name__}{len(a)}",
)
def test_repr_rebuilds_it(angles):
    g = ParallelBeam((16, 20), angles, 40, 0.5, 0.7, 1.5)
    assert eval(repr(g), {"np": np, "ParallelBeam": ParallelBeam}) == g
    assert len(repr(g)) < 400


def test_regular_angles_print_short():
    assert "np.linspace(0.0, 3.141592653589793, 180, endpoint=False)" in repr(
        ParallelBeam((8, 8), np.linspace(0, np.pi, 180, endpoint=False), 12)
    )


def test_coordinates():
    g = ParallelBeam((2, 3), ANGLES, 5, pixel_size=2.0, detector_spacing=3.0, detector_offset=0.5)
    y, x = g.pixel_positions
    np.testing.assert_array_equal(y, [-1, 1])
    np.testing.assert_array_equal(x, [-2, 0, 2])
    np.testing.assert_allclose(g.detector_positions, np.array([-6, -3, 0, 3, 6]) + 0.5)
    assert g.view_count == 12
    assert g.sinogram_shape == (12, 5)
    assert g.diagonal == pytest.approx(2 * np.sqrt(13))


def test_host_angles_stay_in_double_precision():
    assert ParallelBeam((8, 8), ANGLES, 12).angles.dtype == np.float64
    assert isinstance(ParallelBeam((8, 8), [1, 2], 12).angles, np.ndarray)
    assert ParallelBeam((8, 8), np.arange(3), 12).angles.dtype == np.float64


def test_angles_and_offset_are_leaves():
    g = ParallelBeam((8, 8), ANGLES, 12)
    assert len(jax.tree.leaves(g)) == 2
    seen = []

    @jax.jit
    def positions(g):
        seen.append(g.sees_whole_object)
        return g.detector_positions + g.angles.sum()

    for offset in (0.0, 0.1):
        positions(replace(g, angles=ANGLES + offset, detector_offset=offset))
    assert seen == [None]


def test_sees_whole_object():
    assert ParallelBeam((512, 512), ANGLES, 725).sees_whole_object
    with pytest.warns(UserWarning, match="detector_count.*Use detector_count ≥ 12"):
        assert ParallelBeam((8, 8), ANGLES, 8).sees_whole_object is False
    with pytest.warns(UserWarning, match="offset 2 mm"):
        assert ParallelBeam((8, 8), ANGLES, 12, detector_offset=2.0).sees_whole_object is False


def test_degrees_are_noticed():
    with pytest.warns(UserWarning, match="expected radians.*np.deg2rad"):
        ParallelBeam((8, 8), np.arange(0, 180.0), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParallelBeam((8, 8), np.linspace(0, 4 * np.pi, 10), 12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image_shape": (8, 8, 8)}, r"image_shape: expected two integers \(ny, nx\)"),
        ({"image_shape": 64}, "image_shape"),
        ({"image_shape": (8, 0)}, "image_shape: expected an integer ≥ 1"),
        ({"angles": 0.3}, "angles: expected 1 axes"),
        ({"angles": np.zeros((3, 2))}, r"angles: expected 1 axes \[view\]"),
        ({"angles": []}, "angles: expected at least one view"),
        ({"angles": [0.1, np.nan]}, "angles: expected finite"),
        ({"angles": "many"}, "angles: expected a numeric array"),
        ({"angles": [1j]}, "angles: expected a real"),
        ({"detector_count": 0}, "detector_count: expected an integer"),
        ({"detector_count": 10.5}, "detector_count"),
        ({"pixel_size": 0.0}, "pixel_size: expected a positive"),
        ({"detector_spacing": -1.0}, "detector_spacing: expected a positive"),
        ({"pixel_size": np.inf}, "pixel_size"),
        ({"detector_offset": [1.0, 2.0]}, "detector_offset: expected 0 axes"),
        ({"detector_offset": np.nan}, "detector_offset: expected finite"),
    ],
)
def test_bad_arguments(change, text):
    with pytest.raises(ValueError, match=text):
        ParallelBeam(**{"image_shape": (8, 8), "angles": ANGLES, "detector_count": 12, **change})


def test_a_detector_that_sees_nothing_is_refused():
    with pytest.raises(ValueError, match="detector_offset: expected a detector that sees"):
        ParallelBeam((64, 64), np.linspace(0, 3, 10), 90, detector_offset=500.0)
