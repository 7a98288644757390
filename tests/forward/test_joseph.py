"""Joseph's projector against ASTRA, a brute-force matrix, finite differences and itself."""

from __future__ import annotations

import dataclasses
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.forward import radon_joseph as joseph
from diffimg.forward.geometry import ParallelBeam

RNG = np.random.default_rng(0)
ANGLES = np.concatenate([np.linspace(0, 2 * np.pi, 13, endpoint=False), [0.3, 5.1, 2.2, -1.1]])[::-1].copy()
GEOMETRIES = {
    "square": ParallelBeam((16, 16), ANGLES, 23),
    "wide": ParallelBeam((7, 12), ANGLES, 19, 0.7, 0.7, 0.31),
    "tall, fine detector": ParallelBeam((13, 6), ANGLES, 51, 1.0, 0.3, -0.2),
    "coarse detector": ParallelBeam((12, 15), ANGLES, 9, 0.5, 1.7, 0.1),
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that the detector does not see everything is the point
    GEOMETRIES["truncated"] = ParallelBeam((12, 12), ANGLES, 5, 1.0, 1.0, 2.0)


def brute_force(geometry):
    """[view, detector, ny, nx], by the definition: the ray meets each line once and weighs its two nearest pixels."""
    ny, nx = geometry.image_shape
    y, x = geometry.pixel_positions
    p = geometry.pixel_size
    out = np.zeros((*geometry.sinogram_shape, ny, nx))
    for v, angle in enumerate(geometry.angles):
        c, s = np.cos(angle), np.sin(angle)
        for t, ray in enumerate(np.asarray(geometry.detector_positions)):
            if abs(s) > abs(c):
                for q in range(nx):
                    out[v, t, :, q] = np.maximum(0, 1 - np.abs((ray - x[q] * c) / s - y) / p) * p / abs(s)
            else:
                for q in range(ny):
                    out[v, t, q] = np.maximum(0, 1 - np.abs((ray - y[q] * s) / c - x) / p) * p / abs(c)
    return out


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_equals_the_dense_matrix(name):
    geometry = GEOMETRIES[name]
    with jax.enable_x64(True):
        matrix = brute_force(geometry)
        x, y = RNG.standard_normal(geometry.image_shape), RNG.standard_normal(geometry.sinogram_shape)
        assert relative(joseph.forward(geometry, jnp.asarray(x)), np.einsum("vtyx,yx->vt", matrix, x)) < 1e-13
        assert relative(joseph.adjoint(geometry, jnp.asarray(y)), np.einsum("vtyx,vt->yx", matrix, y)) < 1e-13


@pytest.mark.parametrize(("shape", "pixel", "spacing"), [((32, 48), 1.0, 1.0), ((40, 40), 0.8, 1.1)])
def test_equals_astra(shape, pixel, spacing):
    astra = pytest.importorskip("astra")
    angles = np.linspace(0.01, 2 * np.pi, 24, endpoint=False)
    geometry = ParallelBeam(shape, angles, 67, pixel, spacing)
    x = RNG.random(shape, dtype=np.float32)
    y = RNG.random(geometry.sinogram_shape, dtype=np.float32)
    half = np.array(shape) * pixel / 2
    volume = astra.create_vol_geom(*shape, -half[1], half[1], -half[0], half[0])
    # ASTRA's y axis points up, against the row index: its angles run the other way.
    projector = astra.create_projector("linear", astra.create_proj_geom("parallel", spacing, 67, -angles), volume)
    identifiers = [projector]
    try:
        sino, expected = astra.create_sino(x, projector)
        back, expected_back = astra.create_backprojection(y, projector)
        identifiers += [sino, back]
        assert relative(joseph.forward(geometry, x), expected) < 1e-3
        assert relative(joseph.adjoint(geometry, y), expected_back) < 1e-3
    finally:
        astra.data2d.delete(identifiers[1:])
        astra.projector.delete(projector)


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_adjoint_is_matched(x64, tolerance):
    geometry = ParallelBeam((60, 50), RNG.uniform(0, 2 * np.pi, 40), 100, 1.0, 0.8, 0.3)
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        x, y = RNG.standard_normal(geometry.image_shape).astype(dtype), RNG.standard_normal(geometry.sinogram_shape).astype(dtype)
        ax, aty = (np.asarray(v, np.float64) for v in (joseph.forward(geometry, x), joseph.adjoint(geometry, y)))
        error = abs(np.sum(ax * y.astype(np.float64)) - np.sum(x.astype(np.float64) * aty))
        assert error / np.linalg.norm(ax) / np.linalg.norm(y) < tolerance


def test_batch_complex_and_half_precision():
    geometry = GEOMETRIES["wide"]
    x = RNG.standard_normal((2, 3, *geometry.image_shape)).astype(np.float32)
    y = RNG.standard_normal((2, 3, *geometry.sinogram_shape)).astype(np.float32)
    one, back = joseph.forward(geometry, x[1, 2]), joseph.adjoint(geometry, y[1, 2])
    assert relative(joseph.forward(geometry, x)[1, 2], one) < 1e-6
    assert relative(joseph.adjoint(geometry, y)[1, 2], back) < 1e-6
    assert relative(jax.vmap(lambda v: joseph.forward(geometry, v))(x[1])[2], one) < 1e-6
    assert relative(joseph.forward(geometry, x[1, 2] + 2j * x[0, 0]).real, one) < 1e-6
    half = joseph.forward(geometry, jnp.asarray(x[1, 2], jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert relative(half.astype(jnp.float32), one) < 2e-2


def test_derivatives_in_the_image_are_the_operator_itself():
    geometry = GEOMETRIES["wide"]
    x, y = RNG.standard_normal(geometry.image_shape).astype(np.float32), RNG.standard_normal(geometry.sinogram_shape).astype(np.float32)
    value, tangent = jax.jvp(lambda v: joseph.forward(geometry, v), (x,), (2 * x,))
    assert relative(tangent, 2 * value) < 1e-6
    loss = lambda v: 0.5 * jnp.sum((joseph.forward(geometry, v) - y) ** 2)  # noqa: E731
    gradient = jax.grad(loss)
    assert relative(gradient(x), joseph.adjoint(geometry, value - y)) < 1e-5
    assert relative(jax.jvp(gradient, (x,), (x,))[1], joseph.adjoint(geometry, value)) < 1e-5
    assert "scatter" not in str(jax.make_jaxpr(gradient)(x))


@pytest.mark.parametrize("name", ["wide", pytest.param("tall, fine detector", marks=pytest.mark.slow)])
def test_geometry_gradients_equal_finite_differences(name):
    with jax.enable_x64(True):
        geometry = dataclasses.replace(GEOMETRIES[name], angles=np.sort(RNG.uniform(0.02, 2 * np.pi, 9)))
        x, y = jnp.asarray(RNG.standard_normal(geometry.image_shape)), jnp.asarray(RNG.standard_normal(geometry.sinogram_shape))
        start, direction = (geometry.angles, geometry.detector_offset), (RNG.standard_normal(9), 0.7)

        def project(angles, offset):
            return joseph.forward(dataclasses.replace(geometry, angles=angles, detector_offset=offset), x)

        def back(angles, offset):
            return joseph.adjoint(dataclasses.replace(geometry, angles=angles, detector_offset=offset), y)

        def shifted(function, step):
            return function(start[0] + step * direction[0], start[1] + step * direction[1])

        # Piecewise smooth: a step so short that no sample crosses a pixel's centre.
        step = 1e-8
        for function, weight in ((project, y), (back, x)):
            numeric = (shifted(function, step) - shifted(function, -step)) / (2 * step)
            tangent = jax.jvp(function, start, direction)[1]
            assert relative(tangent, numeric) < 1e-6
            gradient = jax.grad(lambda a, o, f=function, w=weight: jnp.vdot(w, f(a, o)), (0, 1))(*start)
            paired = jnp.vdot(gradient[0], direction[0]) + gradient[1] * direction[1]
            np.testing.assert_allclose(paired, jnp.vdot(weight, tangent), rtol=1e-11)


@pytest.mark.slow
def test_second_and_mixed_derivatives():
    with jax.enable_x64(True):
        geometry = dataclasses.replace(GEOMETRIES["wide"], angles=np.array([0.3, 1.1, 2.9, 4.4]))
        x, h = (jnp.asarray(RNG.standard_normal(geometry.image_shape)) for _ in range(2))
        y = jnp.asarray(RNG.standard_normal(geometry.sinogram_shape))
        direction = RNG.standard_normal(4)

        def loss(angles, image):
            return 0.5 * jnp.sum((joseph.forward(dataclasses.replace(geometry, angles=angles), image) - y) ** 2)

        step = 1e-6
        gradient = jax.grad(loss, (0, 1))
        numeric = [
            (p - q) / (2 * step)
            for p, q in zip(gradient(geometry.angles + step * direction, x), gradient(geometry.angles - step * direction, x), strict=True)
        ]
        exact = jax.jvp(lambda a: gradient(a, x), (geometry.angles,), (direction,))[1]
        for a, b in zip(exact, numeric, strict=True):
            assert relative(a, b) < 1e-6
        mixed = jax.grad(lambda a: jnp.vdot(h, jax.grad(loss, 1)(a, x)))(geometry.angles)
        np.testing.assert_allclose(mixed @ direction, jnp.vdot(h, exact[1]), rtol=1e-10)


def test_one_trace_for_any_angles():
    x = jnp.ones((8, 8))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def project(geometry):
        return joseph.forward(geometry, x)

    for angles in ([0.0, 0.1, 0.2], [3.0, 6.2, 0.7], [1.5, 1.6, -2.0]):
        for offset in (0.0, 1.0):
            geometry = ParallelBeam((8, 8), jnp.asarray(angles), 14, detector_offset=jnp.asarray(offset))
            assert np.isfinite(project(geometry)).all()


def test_bad_input():
    geometry = GEOMETRIES["wide"]
    with pytest.raises(ValueError, match=r"x: expected shape \[\.\.\., 7, 12\]"):
        joseph.forward(geometry, np.ones((12, 7), np.float32))
    with pytest.raises(ValueError, match="y: expected a floating"):
        joseph.adjoint(geometry, np.ones(geometry.sinogram_shape, np.int32))
