"""Smoothing splines, scattered data and thin plates against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.interpolate import BSpline, RBFInterpolator, make_smoothing_spline

from diffimg.data import Grid
from diffimg.forward import ThinPlate, fit_spline, smoothing_spline, thin_plate_spline
from diffimg.forward.spline_lattice import basis, bending, gram, spline_lattice

RNG = np.random.default_rng(0)


def design(x, lattice, axis, derivative=0):
    """SciPy's B-splines of a lattice, dense."""
    knots = lattice.origin[axis] + lattice.spacing[axis] * (np.arange(lattice.shape[axis] + 4) - 2)
    return np.stack([np.nan_to_num(BSpline(knots, e, 3).derivative(derivative)(x)) for e in np.eye(lattice.shape[axis])], -1)


def penalty(lattice):
    """Bending energy as a dense matrix, by Gauss quadrature of SciPy's derivatives."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    grams = []
    for axis, (n, h) in enumerate(zip(lattice.shape, lattice.spacing, strict=True)):
        x = lattice.origin[axis] + h * (1 + np.arange(n - 3)[:, None] + (nodes + 1) / 2).ravel()
        w = np.tile(weights * h / 2, n - 3)
        grams.append([d.T @ (w[:, None] * d) for d in (design(x, lattice, axis, k) for k in range(3))])
    (a0, a1, a2), (b0, b1, b2) = grams
    return np.kron(a2, b0) + 2 * np.kron(a1, b1) + np.kron(a0, b2)


def test_one_dimension_is_the_natural_smoothing_spline():
    y, h, weight = RNG.standard_normal(23), 0.7, 0.01
    line = Grid((2, 22), (1.0, h), (0.0, h / 2))
    lattice = spline_lattice(line, mesh=(2, 22))
    samples = basis(Grid((2, 23), (1.0, h)), lattice, 3, 1)
    c = np.linalg.solve(samples.T @ samples + 2 * weight * gram(22, h, 3, 2, 2), samples.T @ y)
    expected = make_smoothing_spline(np.arange(23) * h, y, lam=2 * weight)
    np.testing.assert_allclose(samples @ c, expected(np.arange(23) * h), atol=1e-12)


def test_smoothing_spline_of_an_image(x64):
    image, weight = RNG.standard_normal((7, 9)), 0.3
    grid = Grid(image.shape, (1.3, 0.7), (2.0, -5.0))
    fit = smoothing_spline(image, weight, grid, tolerance=1e-12)
    axes = [np.asarray(grid.origin[k]) + np.arange(n) * grid.spacing[k] for k, n in enumerate(grid.shape)]
    samples = np.kron(design(axes[0], fit.lattice, 0), design(axes[1] * (1 - 1e-15), fit.lattice, 1))
    expected = np.linalg.solve(samples.T @ samples + 2 * weight * penalty(fit.lattice), samples.T @ image.ravel())
    np.testing.assert_allclose(fit.coefficients.ravel(), expected, atol=1e-6)
    np.testing.assert_allclose(fit.on_grid(grid), fit(np.stack(np.meshgrid(*axes, indexing="ij"), -1)), atol=1e-10)
    plane = grid.index_to_world(np.stack(np.indices(grid.shape), -1)) @ np.array([0.3, -2.0]) + 1  # bends nowhere: kept
    np.testing.assert_allclose(smoothing_spline(plane, 100.0, grid, tolerance=1e-12).on_grid(grid), plane, atol=1e-7)


def test_scattered_data(x64):
    points = RNG.uniform(0, 19, (60, 2))
    values = np.stack([np.sin(points[:, 0] / 4), points[:, 1] * 0.1], -1)
    confidence = RNG.uniform(0.5, 2, 60)
    domain = Grid((20, 20))
    fit = fit_spline(points, values, domain, mesh=5, weight=1e-3, confidence=confidence, tolerance=1e-12)
    samples = np.einsum("ni,nj->nij", design(points[:, 0], fit.lattice, 0), design(points[:, 1], fit.lattice, 1)).reshape(60, -1)
    normal = samples.T @ (confidence[:, None] * samples) + 2e-3 * penalty(fit.lattice)
    expected = np.linalg.solve(normal, samples.T @ (confidence[:, None] * values))
    np.testing.assert_allclose(fit.coefficients.reshape(-1, 2), expected, atol=1e-6)

    def energy(weight):
        return jnp.sum(fit_spline(points, values, domain, mesh=5, weight=weight, tolerance=1e-12).coefficients ** 2)

    step = 1e-5
    np.testing.assert_allclose(jax.grad(energy)(1e-2), (energy(1e-2 + step) - energy(1e-2 - step)) / (2 * step), rtol=1e-4)


def test_bending_energy_is_exact(x64):
    lattice = spline_lattice(Grid((20, 14), (1.0, 2.0)), mesh=(5, 4))
    c = RNG.standard_normal(lattice.shape)
    np.testing.assert_allclose(bending(jnp.asarray(c), lattice, 3), c.ravel() @ penalty(lattice) @ c.ravel(), rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 3.0])
@pytest.mark.parametrize(("ndim", "kernel"), [(2, "thin_plate_spline"), (3, "linear")])
def test_thin_plate_equals_scipy(ndim, kernel, smoothing, x64):
    points, values, at = RNG.uniform(-40, 60, (37, ndim)), RNG.standard_normal((37, 2)), RNG.uniform(-50, 70, (50, ndim))
    expected = RBFInterpolator(points, values, kernel=kernel, smoothing=smoothing, degree=1)(at)
    np.testing.assert_allclose(thin_plate_spline(points, values, at, smoothing), expected, atol=1e-10)
    np.testing.assert_allclose(thin_plate_spline(points, values[:, 0], at, smoothing), expected[:, 0], atol=1e-10)
    single = thin_plate_spline(points.astype("float32"), values.astype("float32"), at.astype("float32"), smoothing)
    np.testing.assert_allclose(single, expected, atol=2e-3)
    spline = jax.jit(lambda p, v, s: thin_plate_spline(p, v, at[:3], s))
    check_grads(spline, (points[:9], values[:9], smoothing + 1.0), order=1, modes=("rev",), rtol=1e-5)


def test_thin_plate_takes_landmarks_to_landmarks(x64):
    source = RNG.uniform(0, 50, (12, 3))
    target = source + RNG.standard_normal((12, 3))
    transform = ThinPlate(source, target)
    np.testing.assert_allclose(transform(source), target, atol=1e-11)
    matrix = np.eye(3) + 0.1 * RNG.standard_normal((3, 3))
    affine = ThinPlate(source, source @ matrix.T + 4)  # an affine map bends nowhere
    np.testing.assert_allclose(affine(target), target @ matrix.T + 4, atol=1e-10)
    assert float(jnp.abs(ThinPlate(source, target, 1e9)(source) - target).max()) > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothing_spline(np.zeros((4, 4)), 0.0), "weight: expected values > 0"),
        (lambda: smoothing_spline(np.full((4, 4), np.nan), 1.0), "image: expected finite"),
        (lambda: fit_spline(np.zeros((3, 2)), np.zeros(4), Grid((5, 5)), mesh=2), "points: expected shape"),
        (lambda: fit_spline(np.full((3, 2), 9.0), np.zeros(3), Grid((5, 5)), mesh=2), "points: expected points inside"),
        (lambda: fit_spline(np.zeros((3, 2)), np.zeros(3), Grid((5, 5)), mesh=2, spacing=1.0), "one of the two"),
        (lambda: thin_plate_spline(np.zeros((2, 2)), np.zeros(2), np.zeros(2)), "points: expected"),
        (lambda: ThinPlate(np.zeros((5, 2)), np.zeros((5, 3))), "target: expected shape"),
        (lambda: ThinPlate(np.arange(5.0)[:, None] * np.ones(2), np.ones((5, 2))), "source: expected landmarks that span"),
        (lambda: ThinPlate(np.array([[0, 0], [0, 0], [1, 0], [0, 1.0]]), np.ones((4, 2))), "source: expected each landmark once"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
