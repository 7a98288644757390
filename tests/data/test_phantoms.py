"""Ellipse phantoms against supersampling, quadrature, SciPy's Bessel functions and scikit-image's phantom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad
from scipy.special import j1

from diffimg.data import Ellipses, random_ellipses, shepp_logan, shepp_logan_image

ANGLES = np.linspace(0, np.pi, 5) + 0.1
POSITIONS = (np.arange(43) - 21) * 1.0


def inside(ellipses, y, x):
    """The phantom at points, from its definition."""
    total = 0.0
    for c, s, r, d in zip(*(np.asarray(v, np.float64) for v in jax.tree.leaves(ellipses)), strict=True):
        p, q = x - c[1], y - c[0]
        total = total + d * (((np.cos(r) * p + np.sin(r) * q) / s[1]) ** 2 + ((np.cos(r) * q - np.sin(r) * p) / s[0]) ** 2 <= 1)
    return total


@pytest.fixture(scope="module")
def ellipses():
    return random_ellipses(jax.random.key(1), 4, radius=20.0)


def in_f64(e):
    return Ellipses(*(np.asarray(v, np.float64) for v in jax.tree.leaves(e)))


def test_raster_is_the_pixel_average(ellipses):
    rows, columns, size, sub = 36, 44, 1.1, 32
    y, x = ((np.arange(n * sub) - (n * sub - 1) / 2) * size / sub for n in (rows, columns))
    want = inside(ellipses, y[:, None], x[None, :]).reshape(rows, sub, columns, sub).mean((1, 3))
    image = ellipses.rasterize((rows, columns), size)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, want, atol=5e-3)
    assert np.abs(image - want).mean() < 2e-4
    mass = np.pi * np.sum(np.asarray(ellipses.density) * np.prod(np.asarray(ellipses.semi_axes), -1))
    np.testing.assert_allclose(np.sum(np.asarray(image, np.float64)) * size**2, mass, rtol=1e-5)


def test_ellipses_smaller_than_a_pixel_and_across_the_border_keep_their_area():
    tiny = Ellipses([[0.2, 0.3], [0.0, 2.0]], [[0.05, 0.1], [1e-3, 3.0]], [0.4, 0.0], [1.0, 1.0])
    image = np.asarray(tiny.rasterize((4, 4)))
    np.testing.assert_allclose(image[2, 2], np.pi * 0.005 + image[1, 2], rtol=1e-4)
    np.testing.assert_allclose(image.sum(), np.pi * (0.005 + 1.5e-3), rtol=1e-4)  # half of the second is outside


def test_projection_is_the_line_integral(ellipses):
    along = (np.arange(8001) - 4000) * 0.005
    want = [
        [inside(ellipses, at * np.sin(a) + along * np.cos(a), at * np.cos(a) - along * np.sin(a)).sum() * 0.005 for at in POSITIONS]
        for a in ANGLES
    ]
    sinogram = ellipses.project(ANGLES, POSITIONS)
    assert sinogram.shape == (5, 43)
    assert sinogram.dtype == jnp.float32
    np.testing.assert_allclose(sinogram, want, atol=0.03, rtol=1e-3)


def test_bin_average_is_the_integral_over_the_bin(ellipses):
    sinogram = np.asarray(ellipses.project(ANGLES, POSITIONS, 1.0))
    for view, bin_ in ((0, 21), (2, 12), (4, 30), (1, 5)):
        with jax.enable_x64(True):
            line = functools.partial(in_f64(ellipses).project, ANGLES[view : view + 1])
            at = POSITIONS[bin_]
            integral, _ = quad(lambda p, line=line: float(line(np.array([p]))[0, 0]), at - 0.5, at + 0.5, limit=60, epsabs=1e-6)
        np.testing.assert_allclose(sinogram[view, bin_], integral, atol=2e-4)
    mass = np.pi * np.sum(np.asarray(ellipses.density) * np.prod(np.asarray(ellipses.semi_axes), -1))
    np.testing.assert_allclose(sinogram.sum(1), mass, rtol=1e-5)


def test_central_slice_theorem(ellipses):
    with jax.enable_x64(True):
        exact, spacing = in_f64(ellipses), 2e-3
        positions = np.arange(-10500, 10501) * spacing
        rho = np.linspace(-2, 2, 15)
        sinogram = np.asarray(exact.project(ANGLES[:2], positions, spacing))
        for view, a in enumerate(ANGLES[:2]):
            transform = np.exp(-2j * np.pi * rho[:, None] * positions) @ sinogram[view] * spacing
            want = exact.fourier(rho * np.sin(a), rho * np.cos(a))
            np.testing.assert_allclose(want, transform, atol=1e-4 * np.abs(transform).max())
        disc = Ellipses([[0.0, 0.0]], [[3.0, 3.0]], [0.0], [1.0])
        f = np.linspace(1e-3, 40, 999)
        np.testing.assert_allclose(disc.fourier(f, 0.0), 3 * j1(2 * np.pi * 3 * f) / f, atol=1e-6)
        np.testing.assert_allclose(disc.fourier(0.0, 0.0), np.pi * 9)


@pytest.mark.parametrize("bin_width", [None, 0.7])
def test_projection_gradient_against_finite_differences(ellipses, bin_width):
    weights = np.random.default_rng(0).standard_normal((5, 43))
    with jax.enable_x64(True):
        f = jax.jit(lambda e, a, p: jnp.vdot(weights, e.project(a, p, bin_width)))
        _check_gradient(f, (in_f64(ellipses), jnp.asarray(ANGLES), jnp.asarray(POSITIONS)))


def test_raster_gradient_against_finite_differences(ellipses):
    weights = np.random.default_rng(0).standard_normal((20, 21))
    with jax.enable_x64(True):
        f = jax.jit(lambda e, size: jnp.vdot(weights, e.rasterize((20, 21), size)))
        _check_gradient(f, (in_f64(ellipses), jnp.asarray(2.0)))


def _check_gradient(f, arguments):
    point, unravel = ravel_pytree(arguments)
    gradient = ravel_pytree(jax.grad(lambda p: f(*unravel(p)))(point))[0]
    h = 1e-6
    for seed in range(4):
        direction = np.random.default_rng(seed).standard_normal(point.shape)
        numeric = (f(*unravel(point + h * direction)) - f(*unravel(point - h * direction))) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), numeric, rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_finite_where_rays_touch_or_miss():
    disc = Ellipses([[0.0, 0.0]], [[2.0, 2.0]], [0.0], [1.0])
    for width in (None, 1.0):
        gradient = jax.grad(lambda e, w=width: e.project(jnp.zeros(1), jnp.array([-4.0, -2.0, -1.5, 0.0, 2.0, 2.5]), w).sum())(disc)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))
    gradient = jax.grad(lambda e: (e.rasterize((6, 6)) ** 2).sum())(disc)  # pixel corners on the centre and on the rim
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def test_shepp_logan_resembles_the_published_one_and_is_upright():
    from skimage.data import shepp_logan_phantom

    image, published = np.asarray(shepp_logan_image(400)), shepp_logan_phantom()
    correlation = [np.corrcoef(v.ravel(), published.ravel())[0, 1] for v in (image, image[::-1], image[:, ::-1])]
    assert correlation[0] > 0.97
    assert correlation[0] > max(correlation[1:])
    assert image.min() > -1e-5
    assert image.max() < 1 + 1e-5
    original = np.asarray(shepp_logan(32, modified=False).rasterize((64, 64)))
    np.testing.assert_allclose([original.max(), original[32, 32]], [2.0, 1.02], atol=1e-5)


def test_random_ellipses_fit_and_vmap_equals_a_loop():
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.vmap(lambda k: random_ellipses(k, 5, radius=8.0))(keys)
    sinograms = jax.vmap(lambda e: e.project(ANGLES, POSITIONS, 1.0))(batch)
    for k in range(3):
        one = random_ellipses(keys[k], 5, radius=8.0)
        np.testing.assert_allclose(sinograms[k], one.project(ANGLES, POSITIONS, 1.0), atol=1e-4)
        assert float(jnp.max(jnp.hypot(*one.centers.T) + one.semi_axes.max(-1))) <= 8.0001
        assert not np.asarray(one.project(ANGLES, np.array([-8.1, 8.1]))).any()


def test_one_trace_for_changed_parameters(ellipses):
    traces = []

    @jax.jit
    def f(e, angles):
        traces.append(0)
        return e.project(angles, POSITIONS)

    f(ellipses, ANGLES), f(random_ellipses(jax.random.key(2), 4), ANGLES + 1)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ellipses([[0, 0]], [[1, 0]], [0], [1.0]), "semi_axes: expected values > 0"),
        (lambda: Ellipses([[0, 0]], [[1, 1]], [0, 0], [1.0]), "rotation: expected shape"),
        (lambda: Ellipses([[np.nan, 0]], [[1, 1]], [0], [1.0]), "centers: expected finite"),
        (lambda: shepp_logan().rasterize((4, 4, 4)), "image_shape"),
        (lambda: shepp_logan().rasterize((4, 4), 0.0), "pixel_size"),
        (lambda: shepp_logan().project(0.0, np.zeros(3)), "angles: expected 1 axes"),
        (lambda: shepp_logan().project(np.zeros(1), np.zeros(3), -1.0), "bin_width"),
        (lambda: random_ellipses(jax.random.key(0), 0), "count"),
        (lambda: random_ellipses(jax.random.key(0), 2, semi_axes=(0.5, 1.5)), "semi_axes"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_astra_projects_the_raster_to_the_sinogram():
    astra = pytest.importorskip("astra")
    n, detectors = 96, 137
    phantom = random_ellipses(jax.random.key(3), 5, radius=45.0)
    angles = np.linspace(0, np.pi, 24, endpoint=False) + 0.05
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    rays = np.stack([-sin, -cos, zero, zero, cos, -sin], 1)  # ASTRA's y points up
    projector = astra.create_projector("linear", astra.create_proj_geom("parallel_vec", detectors, rays), astra.create_vol_geom(n, n))
    number, measured = astra.create_sino(np.asarray(phantom.rasterize((n, n))), projector)
    astra.data2d.delete(number)
    astra.projector.delete(projector)
    exact = np.asarray(phantom.project(angles, np.arange(detectors) - (detectors - 1) / 2, 1.0))
    assert np.linalg.norm(measured - exact) < 0.015 * np.linalg.norm(exact)
