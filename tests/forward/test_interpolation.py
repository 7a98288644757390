"""B-splines and interpolation against SciPy: orders 0 to 5, every boundary mode, and their derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage
from scipy.interpolate import BSpline

from diffimg.forward import bspline, interpolate, spline_coefficients
from diffimg.forward.spline import MODES, ORDERS, padding, sampled_bspline

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((21, 30))
SIZE = np.array(IMAGE.shape)
# far outside, near the edges, at the samples and half way between
POINTS = np.concatenate([RNG.uniform(-3 * SIZE, 4 * SIZE, (300, 2)), RNG.uniform(-1, SIZE, (300, 2))])
POINTS = np.concatenate([POINTS, np.round(POINTS), np.round(2 * POINTS) / 2])


@pytest.mark.parametrize("order", ORDERS[1:])
def test_basis_equals_scipy(order, x64):
    x = np.linspace(-3.5, 3.5, 57)
    element = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    for derivative in range(order):
        expected = np.nan_to_num((element.derivative(derivative) if derivative else element)(x))
        np.testing.assert_allclose(bspline(x, order, derivative), expected, atol=1e-13)


@pytest.mark.parametrize("order", ORDERS[1:])
def test_basis_is_the_box_convolved_with_itself(order, x64):
    """The lecture's definition, by numerical convolution: n + 1 boxes, each a mean over one unit."""
    step = 2**-7
    middles = (np.arange(-0.5 / step, 0.5 / step) + 0.5) * step
    x, values = middles, np.ones_like(middles)
    for _ in range(order):
        x = x[0] + middles[0] + step * np.arange(len(x) + len(middles) - 1)
        values = np.convolve(values, np.ones_like(middles)) * step
    np.testing.assert_allclose(values, bspline(x, order), atol=1e-4)


def test_box():
    np.testing.assert_array_equal(bspline(np.array([-0.6, -0.5, 0.0, 0.5, 0.6]), 0), [0, 0.5, 1, 0.5, 0])
    np.testing.assert_allclose(sampled_bspline(3), [1 / 6, 2 / 3, 1 / 6])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [0, 1, 2, 3, pytest.param(4, marks=pytest.mark.slow), 5])
def test_equals_scipy(order, mode, x64):
    expected = ndimage.map_coordinates(IMAGE, POINTS.T, order=order, mode=mode, cval=0.7)
    np.testing.assert_allclose(interpolate(IMAGE, POINTS, order, mode, 0.7), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", [pytest.param(m, marks=() if m in ("nearest", "constant") else pytest.mark.slow) for m in MODES])
@pytest.mark.parametrize(("shape", "order"), [((17,), 3), ((9, 8, 31), 3), ((31, 9, 8), 1)])
def test_equals_scipy_in_one_and_three_dimensions(shape, order, mode, x64):
    image = RNG.standard_normal(shape)
    points = RNG.uniform(-np.array(shape), 2 * np.array(shape), (200, len(shape)))
    tolerance = 1e-7 if mode == "reflect" else 1e-12  # SciPy's filter stops early on short axes there; ours meets the samples:
    expected = ndimage.map_coordinates(image, points.T, order=order, mode=mode, cval=0.3)
    np.testing.assert_allclose(interpolate(image, points, order, mode, 0.3), expected, atol=tolerance)
    samples = np.stack(np.indices(shape), -1)
    np.testing.assert_allclose(interpolate(image, samples, order, mode), image, atol=1e-12)


def test_coefficients_equal_scipy(x64):
    for order in (2, 3, 4, 5):
        for mode in ("mirror", "reflect", "grid-wrap"):
            expected = ndimage.spline_filter(IMAGE, order, mode=mode)
            np.testing.assert_allclose(spline_coefficients(IMAGE, order, mode), expected, atol=1e-8)


@pytest.mark.parametrize("mode", ["mirror", "reflect", "grid-wrap", "nearest", "grid-constant"])
def test_long_axes_are_filtered_in_blocks(mode, x64):
    line = RNG.standard_normal(1200)
    points = np.concatenate([np.arange(1200.0), RNG.uniform(-20, 1220, 500)])[:, None]
    for order in (3, 5):
        expected = ndimage.map_coordinates(line, points.T, order=order, mode=mode, cval=0.4)
        np.testing.assert_allclose(interpolate(line, points, order, mode, 0.4), expected, atol=1e-10)


def test_coefficients_once_for_many_points(x64):
    for mode in MODES:
        coefficients = spline_coefficients(IMAGE, 3, mode, cval=0.5)
        assert coefficients.shape == tuple(n + 2 * padding(3, mode) for n in IMAGE.shape)
        np.testing.assert_allclose(
            interpolate(coefficients, POINTS, 3, mode, 0.5, prefilter=False), interpolate(IMAGE, POINTS, 3, mode, 0.5), atol=1e-14
        )


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)])
def test_gradients_in_image_and_position(order, x64):
    inside = jnp.asarray(RNG.uniform(0.2, 0.8, (6, 2)) + RNG.integers(0, 8, (6, 2)))
    image = jnp.asarray(IMAGE[:9, :9])
    check_grads(lambda i, p: interpolate(i, p, order), (image, inside), order=1, modes=("fwd", "rev"), rtol=1e-5)
    # second derivatives in the position are the spline's own
    if order > 1:
        hessian = jax.hessian(lambda p: interpolate(image, p, order))(inside[0])
        c = np.asarray(spline_coefficients(image, order, "nearest"))
        place = np.asarray(inside[0]) + 12
        at = [[np.asarray(bspline(p - np.arange(len(c)), order, d)) for d in (0, 1, 2)] for p in place]
        np.testing.assert_allclose(hessian[0, 0], at[0][2] @ c @ at[1][0], atol=1e-10)
        np.testing.assert_allclose(hessian[0, 1], at[0][1] @ c @ at[1][1], atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_outside(mode, x64):
    points = jnp.array([[-3.3, 2.4], [22.7, 31.6], [-1.2, 40.3], [5.3, 7.8]])
    check_grads(lambda p: interpolate(IMAGE, p, 3, mode), (points,), order=1, modes=("rev",), rtol=1e-4, atol=1e-6)


def test_batch_complex_labels_and_precision():
    batch = RNG.standard_normal((2, 3, 9, 8)).astype(np.float32)
    points = RNG.uniform(0, 7, (4, 5, 2)).astype(np.float32)
    out = interpolate(batch, points, 3)
    assert out.shape == (2, 3, 4, 5) and out.dtype == jnp.float32
    np.testing.assert_allclose(out[1, 2], interpolate(batch[1, 2], points, 3), atol=1e-6)
    np.testing.assert_allclose(interpolate(batch + 1j * batch, points), (1 + 1j) * interpolate(batch, points), atol=1e-6)
    labels = RNG.integers(0, 9, (9, 8))
    nearest = interpolate(labels, points, order=0)
    assert nearest.dtype == jnp.asarray(labels).dtype
    np.testing.assert_array_equal(nearest, ndimage.map_coordinates(labels, np.moveaxis(points, -1, 0), order=0, mode="nearest"))
    loop = jax.vmap(lambda i, p: interpolate(i, p))(batch[0], jnp.stack([points] * 3))
    np.testing.assert_allclose(loop[2], interpolate(batch[0, 2], points), atol=1e-6)


def test_positions_that_are_no_numbers():
    points = np.array([[np.nan, 1.0], [1.0, 1.0], [np.inf, 2.0]], np.float32)
    out = np.asarray(interpolate(IMAGE.astype(np.float32), points))
    assert np.isnan(out[0]) and np.isfinite(out[1]) and np.isfinite(out[2])
    assert not np.isnan(interpolate(IMAGE.astype(np.float32), points, order=0)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolate(IMAGE, POINTS, order=6), "order: expected a B-spline order 0 … 5"),
        (lambda: interpolate(IMAGE, POINTS, order=True), "order"),
        (lambda: interpolate(IMAGE, POINTS, mode="edge"), "mode: expected one of"),
        (lambda: interpolate(IMAGE, POINTS.T), r"points: expected shape \[..., ndim\]"),
        (lambda: interpolate(IMAGE[0], POINTS), "image: expected at least 2 axes"),
        (lambda: interpolate(np.zeros((3, 3), int), POINTS), "image: expected a floating or complex dtype"),
        (lambda: interpolate(IMAGE, POINTS * 1j), "points: expected a real dtype"),
        (lambda: interpolate(np.zeros((0, 3)), POINTS), "none empty"),
        (lambda: bspline(0.0, 2, 3), "derivative: expected 0 … 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
