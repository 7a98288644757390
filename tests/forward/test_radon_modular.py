"""Joseph's projector for any pose: exact adjoint and derivatives in float64, and exact projections of ellipsoids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pose_derivatives import check_first, check_second, check_smooth
from scipy import ndimage

from diffimg import data
from diffimg.forward import ConeBeam, Modular, Radon
from diffimg.testing import check_lowering

ANGLES = np.linspace(0.1, 2 * np.pi + 0.1, 5, endpoint=False)
TILT = (0.3, 0.1, 0.2)  # roll, pitch, yaw


def scan(spacing=1.7):
    """Tilted, shifted, on voxels that are no cubes; five views around the axis and one from above."""
    cone = ConeBeam(
        (7, 10, 12),
        ANGLES,
        (9, 14),
        30.0,
        25.0,
        slice_thickness=1.3,
        detector_spacing=spacing,
        detector_offset=(0.3, 0.7),
        source_offset=(-0.4, 0.2),
        detector_tilt=TILT,
    )
    above = [np.concatenate([v, v[:1][:, [1, 2, 0]]]) for v in (cone.poses.source, cone.poses.detector, cone.poses.column, cone.poses.row)]
    source, detector, column, row = above
    return Modular((7, 10, 12), source, detector, column, (9, 14), row, slice_thickness=1.3)


def noise(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.filterwarnings("ignore:detector_shape")
@pytest.mark.parametrize("spacing", [1.7, 0.6, 5.0])
def test_adjoint_is_exact_whatever_the_magnification(spacing):
    with jax.enable_x64(True):
        A = Radon(scan(spacing))
        x, y = noise(0, A.domain.shape), noise(1, A.codomain.shape)
        forward, back = np.asarray(A(jnp.asarray(x))), np.asarray(A.H(jnp.asarray(y)))
    assert np.linalg.norm(forward) > 0
    assert abs(np.vdot(forward, y) - np.vdot(x, back)) < 1e-13 * np.linalg.norm(forward) * np.linalg.norm(y)


def crossings(geometry):
    """Of each view: the depth axis, where every ray crosses every plane in voxels, ``[lateral, plane, row, column]``, and the path."""
    sizes, counts = np.array([geometry.slice_thickness, geometry.pixel_size, geometry.pixel_size]), np.array(geometry.image_shape)
    poses, (rows, columns) = geometry.poses, geometry.detector_shape
    k, j = np.arange(rows)[:, None, None] - (rows - 1) / 2, np.arange(columns)[:, None] - (columns - 1) / 2
    for source, detector, column, row in zip(*map(np.asarray, (poses.source, poses.detector, poses.column, poses.row)), strict=True):
        axis = int(np.argmax(np.abs(source)))
        ray = (detector + k * row + j * column - source) / sizes
        ray = ray / ray[..., axis : axis + 1]
        planes = np.arange(counts[axis]) - (counts[axis] - 1) / 2 - source[axis] / sizes[axis]
        places = (source / sizes + (counts - 1) / 2)[:, None, None, None] + planes[:, None, None] * np.moveaxis(ray, -1, 0)[:, None]
        yield axis, np.delete(places, axis, 0), np.linalg.norm(ray * sizes, axis=-1)


def sampled(x, geometry, fixed):
    """The sinogram: samples linearly interpolated at the geometry ``fixed``, moved on by the quadratic spline through SciPy."""
    views = []
    for (axis, places, path), (_, start, _) in zip(crossings(geometry), crossings(fixed), strict=True):
        planes = np.moveaxis(x, axis, 0)
        total = 0
        for plane, place, first in zip(planes, np.moveaxis(places, 1, 0), np.moveaxis(start, 1, 0), strict=True):
            linear, spline, moved = (
                ndimage.map_coordinates(plane, at, order=order, prefilter=False, mode="grid-constant")
                for at, order in ((first, 1), (first, 2), (place, 2))
            )
            total = total + linear + moved - spline
        views.append(path * total)
    return np.stack(views)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:detector_shape")
def test_first_derivatives_equal_their_definition(x64):
    geometry = jax.tree.map(jnp.asarray, scan())
    x = noise(0, geometry.image_shape)
    np.testing.assert_allclose(Radon(geometry)(jnp.asarray(x)), sampled(x, geometry, geometry), rtol=0, atol=1e-10)
    check_first(geometry, x, noise(1, geometry.sinogram_shape), lambda g, fixed: sampled(x, g, fixed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:detector_shape")
def test_second_derivatives_are_symmetric(x64):
    geometry = jax.tree.map(jnp.asarray, scan())
    check_second(geometry, noise(0, geometry.image_shape), noise(1, geometry.sinogram_shape))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:detector_shape")
def test_derivatives_for_smooth_bodies_equal_analytic_ones_reading_by_reading():
    body = data.Ellipsoids(np.zeros((1, 3)), np.array([[18.0, 22.0, 16.0]]), np.array([[0.3, 0.2, 0.1]]), np.ones(1), exponent=3)
    fields = {"detector_spacing": 1.4, "detector_tilt": jnp.asarray(TILT, jnp.float32)}
    geometry = ConeBeam((48, 48, 48), jnp.asarray(ANGLES, jnp.float32), (72, 72), 140.0, 70.0, **fields)
    x = body.rasterize((48, 48, 48), oversample=4)

    def path(g, t):
        return dataclasses.replace(
            g, angles=g.angles + 0.02 * t, detector_tilt=tuple(v + 0.1 * t for v in g.detector_tilt), source_distance=g.source_distance + t
        )

    check_smooth((lambda g: Radon(g)(x), lambda g: data.project(body, g)), geometry, path, 0.02, 0.05)


@pytest.mark.filterwarnings("ignore:detector_shape")
def test_agrees_with_exact_projections_of_a_tilted_detector():
    body = data.Ellipsoids(np.zeros((1, 3)), np.array([[9.0, 11.0, 8.0]]), np.zeros((1, 3)), np.ones(1), exponent=1)
    geometry = ConeBeam((24, 24, 24), ANGLES, (36, 36), 70.0, 35.0, detector_spacing=1.4, detector_tilt=TILT)
    x = body.rasterize((24, 24, 24))
    exact = np.asarray(data.project(body, geometry))
    for model, bound in (("pixel", 0.02), ("band-limited", 0.01)):
        own = np.asarray(Radon(geometry, image_model=model)(x))
        assert np.linalg.norm(own - exact) < bound * np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:detector_shape")
def test_lowers_for_every_platform():
    check_lowering(Radon(scan()))


@pytest.mark.filterwarnings("ignore:detector_shape")
def test_method_must_fit_the_pose():
    with pytest.raises(ValueError, match="joseph"):
        Radon(ConeBeam((8, 8, 8), ANGLES, (12, 16), 30.0, 15.0, detector_tilt=TILT), method="distance-driven")
