"""Joseph's projector for any pose: exact adjoint and derivatives in float64, and exact projections of ellipsoids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.filterwarnings("ignore:detector_shape")
def test_derivatives_in_every_pose_equal_finite_differences():
    with jax.enable_x64(True):
        geometry = jax.tree.map(jnp.asarray, scan())
        x, y = jnp.asarray(noise(0, geometry.image_shape)), jnp.asarray(noise(1, geometry.sinogram_shape))
        direction = jax.tree.map(lambda v: jnp.asarray(noise(2, v.shape)), geometry)

        def moved(t):
            return jax.tree.map(lambda v, d: v + t * d, geometry, direction)

        value = jax.jit(lambda g: jnp.vdot(y, Radon(g)(x)))
        back = jax.jit(lambda g: jnp.vdot(x, Radon(g).H(y)))
        difference = (value(moved(1e-7)) - value(moved(-1e-7))) / 2e-7
        gradient = jax.jit(jax.grad(value))(geometry)
        inner = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        for derivative in (inner, jax.jvp(value, (geometry,), (direction,))[1], jax.jvp(back, (geometry,), (direction,))[1]):
            np.testing.assert_allclose(derivative, difference, rtol=1e-5)


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
