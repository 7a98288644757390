"""Ellipsoid phantoms against supersampling, SciPy's rotations and the published table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.spatial.transform import Rotation

from diffimg.data import Ellipsoids, defrise, random_ellipsoids, shepp_logan, shepp_logan_3d


def supersampled(phantom, shape, sizes, sub):
    """Voxel averages of the phantom's definition, in (x, y, z) with SciPy's rotations."""
    axes = [(np.arange(n * sub) - (n * sub - 1) / 2) * size / sub for n, size in zip(shape, sizes, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)[..., ::-1]
    total = 0.0
    for c, s, r, d in zip(*(np.asarray(v, np.float64)[..., ::-1] if v.ndim > 1 else v for v in jax.tree.leaves(phantom)), strict=True):
        gap = 1 - ((((points - c) @ Rotation.from_rotvec(r.copy()).as_matrix()) / s) ** 2).sum(-1)
        total = total + float(d) * np.where(gap > 0, np.maximum(gap, 0) ** phantom.exponent, 0)
    split = [v for n in shape for v in (n, sub)]
    return total.reshape(split).mean((1, 3, 5))


def mass(phantom):
    return np.sum(np.asarray(phantom.density) * np.prod(np.asarray(phantom.semi_axes), -1))


@pytest.mark.parametrize(("exponent", "tolerance", "share"), [(0, 6e-3, 4 / 3 * np.pi), (2, 2e-3, 4 / 3 * np.pi * 8 / 35)])
def test_raster_is_the_voxel_average(exponent, tolerance, share):
    phantom = random_ellipsoids(jax.random.key(1), 3, 9.0, semi_axes=(0.2, 0.5), exponent=exponent)
    shape, sizes = (14, 20, 18), (1.5, 1.1, 1.1)
    image = phantom.rasterize(shape, 1.1, 1.5)
    want = supersampled(phantom, shape, sizes, 10)
    assert image.dtype == jnp.float32
    assert np.linalg.norm(image - want) < tolerance * np.linalg.norm(want)
    np.testing.assert_allclose(np.sum(np.asarray(image, np.float64)) * 1.1**2 * 1.5, share * mass(phantom), rtol=1e-3)


def test_a_voxel_inside_is_exact_and_thin_bodies_keep_their_volume():
    ball = Ellipsoids([[0.2, 0.0, -0.3]], [[3.5, 3.5, 3.5]], [0.0], [1.25])
    image = np.asarray(ball.rasterize((9, 9, 9)))
    assert image[4, 4, 4] == 1.25
    assert image[0, 0, 0] == 0
    needle = Ellipsoids([[0.0, 0.0, 0.0]], [[2.0, 0.8, 0.01]], [0.0], [1.0])
    np.testing.assert_allclose(needle.rasterize((7, 7, 7)).sum(), 4 / 3 * np.pi * 0.016, rtol=5e-3)


def test_angles_about_z_are_those_of_ellipses():
    flat = shepp_logan(16.0)
    thick = Ellipsoids(
        np.pad(np.asarray(flat.centers), ((0, 0), (1, 0))),
        np.pad(np.asarray(flat.semi_axes), ((0, 0), (1, 0)), constant_values=1e4),
        flat.rotation,
        flat.density,
    )
    assert thick.rotation.shape == (10, 3)
    np.testing.assert_allclose(thick.rasterize((1, 32, 32), oversample=16)[0], flat.rasterize((32, 32)), atol=2e-2)


@pytest.mark.parametrize("exponent", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_raster_gradient_against_finite_differences(exponent):
    weights = np.random.default_rng(0).standard_normal((6, 8, 7))
    with jax.enable_x64(True):
        phantom = random_ellipsoids(jax.random.key(4), 2, 5.0, semi_axes=(0.3, 0.6), exponent=exponent, dtype=jnp.float64)
        point, unravel = ravel_pytree((phantom, jnp.asarray(1.3)))

        @jax.jit
        def f(p):
            phantom, size = unravel(p)
            return jnp.vdot(weights, phantom.rasterize((6, 8, 7), size, 1.9, oversample=3))

        gradient, h = jax.grad(f)(point), 1e-7
        for seed in range(3):
            direction = np.random.default_rng(seed).standard_normal(point.shape)
            numeric = (f(point + h * direction) - f(point - h * direction)) / (2 * h)
            np.testing.assert_allclose(jnp.vdot(gradient, direction), numeric, rtol=1e-5)


def test_shepp_logan_has_the_published_values_and_is_upright():
    half = 40
    original = np.asarray(shepp_logan_3d(half, modified=False).rasterize((80, 80, 80), oversample=2))

    def at(x, y, z):  # of the published frame: y up, lengths in [−1, 1]
        return original[round(half * z + half - 0.5), round(-half * y + half - 0.5), round(half * x + half - 0.5)]

    points = {  # from the table of Kak and Slaney, p. 102
        (0.0, 0.897, 0.0): 2.0,
        (0.0, -0.4, 0.4): 1.02,
        (-0.22, 0.05, -0.25): 1.0,
        (0.22, 0.0, -0.25): 1.0,
        (0.0, 0.4, -0.25): 1.04,
        (-0.3, 0.25, -0.25): 1.0,  # the tip of the left ventricle leans outwards
        (-0.1, 0.25, 0.9): 0.0,
        (0.0, 0.1, 0.63): 1.0,
        (0.0, -0.97, 0.0): 0.0,
    }
    np.testing.assert_allclose([at(*p) for p in points], list(points.values()), atol=1e-5)
    modified = np.asarray(shepp_logan_3d(16.0).rasterize((32, 32, 32), oversample=2))
    assert modified.min() > -1e-5
    assert modified.max() < 1 + 1e-5


def test_random_ellipsoids_fit_and_defrise_fills_half_of_its_height():
    for key in range(3):
        phantom = random_ellipsoids(jax.random.key(key), 20, 8.0)
        assert float(jnp.max(jnp.linalg.norm(phantom.centers, axis=-1) + phantom.semi_axes.max(-1))) <= 8.0001
    disks = defrise(20.0, 28.0, 7)
    on_axis = disks.integrals(np.zeros(3), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(on_axis, 14.0, rtol=1e-5)
    np.testing.assert_allclose(disks.integrals(np.array([4.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])), 40.0, rtol=1e-5)
    np.testing.assert_allclose(disks.integrals(np.array([2.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1, 0]], [0], [1.0]), "semi_axes: expected values > 0"),
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1, 1]], [[0, 0]], [1.0]), "rotation: expected shape"),
        (lambda: Ellipsoids([[0, 0]], [[1, 1, 1]], [0], [1.0]), "centers: expected shape"),
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1, 1]], [0], 1.0), "density: expected 1 axes"),
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1, 1]], [0], [1.0], -1), "exponent"),
        (lambda: shepp_logan_3d().rasterize((4, 4)), "image_shape"),
        (lambda: shepp_logan_3d().rasterize((4, 4, 4), 1.0, -1.0), "slice_thickness"),
        (lambda: shepp_logan_3d().rasterize((4, 4, 4), oversample=0), "oversample"),
        (lambda: random_ellipsoids(jax.random.key(0), 2, semi_axes=(0.5, 1.5)), "semi_axes"),
        (lambda: defrise(count=0), "count"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
