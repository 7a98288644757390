"""The fan-beam projector against its definition, ASTRA, analytic sinograms, finite differences and itself."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pose_derivatives import check_first, check_second, check_smooth, means, noise, relative

from diffimg import data
from diffimg.forward import FanBeam, ParallelBeam, Radon, radon_divergent

RNG = np.random.default_rng(3)
ANGLES = np.array([0.0, 0.61, 0.93, np.pi / 2, 2.4, 4.1, 5.6])  # beside the views: lines of rows and lines of columns
SHAPE, CELLS, PIXEL = (9, 13), 24, 0.9
WOBBLE = RNG.uniform(-1, 1, ANGLES.size)


def fan(source_distance=20.0, detector_distance=12.0, detector_spacing=0.8, **fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some detectors do not see everything is the point
        return FanBeam(SHAPE, ANGLES, CELLS, source_distance, detector_distance, PIXEL, detector_spacing, **fields)


def flipped(geometry):
    """The cells in the other order."""
    m = geometry.modular()
    return dataclasses.replace(m, column=-m.column)


# of one shape, as free poses: one compiled program for all flat ones, one for all curved ones
GEOMETRIES = {
    "flat": fan(detector_spacing=1.4),
    "offset, tilted": fan(20 + WOBBLE, 12 - WOBBLE, 1.2, detector_offset=WOBBLE, source_offset=0.4, detector_tilt=0.3 * WOBBLE),
    "steep tilt": fan(detector_spacing=2.5, detector_tilt=1.1),
    "cells smaller than pixels": fan(40.0, 3.0, 0.11, detector_offset=0.5),
    "cells larger than pixels": fan(9.0, 1.0, 2.3),
    "source near the image, detector far away": fan(7.6, 300.0, 40.0),
    "detector inside the image": fan(20.0, 0.5, 0.6),
    "flipped": flipped(fan(detector_spacing=1.4, detector_offset=0.7)),
    "curved": fan(detector_spacing=1.4, curved=True),
    "curved, wide": fan(9.0, 4.0, 1.2, curved=True),
    "curved, offset": fan(20 + WOBBLE, 12.0, 0.5, detector_offset=WOBBLE, source_offset=0.4, curved=True),
    "curved, flipped": flipped(fan(detector_spacing=1.4, detector_offset=0.7, curved=True)),
}
every_geometry = pytest.mark.parametrize("name", GEOMETRIES)


def crossings(geometry):
    """The main direction of each view, the lines' distances from the source, where on them the cells' edges lie, and paths a line."""
    p, n = geometry.pixel_size, geometry.detector_shape[0]
    sources, points = np.asarray(geometry.poses.source), np.asarray(geometry.poses.points(np.arange(n + 1) - n / 2))
    for source, ends in zip(sources, points, strict=True):
        depth = int(abs(source[1]) > abs(source[0]))  # the axis that the lines are stacked along
        lateral = 1 - depth
        away, ahead = ends[:, lateral] - source[lateral], (ends[:, depth] - source[depth]) * -np.sign(source[depth])
        slopes = -np.sign(source[depth]) * away / np.maximum(ahead, np.abs(away) / 1e3)  # a ray at right angles, or backwards, misses
        length = p * np.sqrt(1 + ((slopes[1:] + slopes[:-1]) / 2) ** 2)
        distances = (np.arange(geometry.image_shape[depth]) - (geometry.image_shape[depth] - 1) / 2) * p - source[depth]
        yield depth, distances * source[depth] < 0, source[lateral] + distances[:, None] * slopes, length


def dense(geometry, fixed=None):
    """``[view, cell, ny, nx]``, by the definition: on each line, the mean over the segment between the rays to a cell's edges.

    Where the edges moved from those of the geometry ``fixed``, they did so over the pixels interpolated linearly.
    """
    p, counts = geometry.pixel_size, geometry.image_shape
    out = np.zeros((*geometry.sinogram_shape, *counts))
    for view, ((depth, ahead, edges, length), (*_, start, _)) in enumerate(
        zip(crossings(geometry), crossings(geometry if fixed is None else fixed), strict=True)
    ):
        pixels = (np.arange(counts[1 - depth] + 1) - counts[1 - depth] / 2) * p
        lines = length[:, None] * means(edges, start, pixels) * ahead[:, None, None]  # [line, cell, pixel]
        np.moveaxis(out[view], 1 + depth, 0)[:] = lines
    return out


@every_geometry
def test_equals_the_dense_matrix(name, x64):
    geometry = GEOMETRIES[name]
    free = Radon(geometry.modular() if isinstance(geometry, FanBeam) else geometry)
    matrix, x, y = dense(geometry), noise(*SHAPE), noise(*geometry.sinogram_shape)
    assert matrix.any((2, 3)).mean() > 0.3
    forward, back = np.einsum("vcyx,yx->vc", matrix, x), np.einsum("vcyx,vc->yx", matrix, y)
    assert relative(free(jnp.asarray(x)), forward) < 1e-12
    assert relative(free.H(jnp.asarray(y)), back) < 1e-12


@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_adjoint_is_matched(double, tolerance):
    with jax.enable_x64(double):
        dtype = np.float64 if double else np.float32
        operator = Radon(FanBeam((60, 50), RNG.uniform(0, 2 * np.pi, 40), 110, 90.0, 60.0, 1.0, 1.5, 0.3, 0.2, 0.1))
        x, y = noise(60, 50).astype(dtype), noise(40, 110).astype(dtype)
        ax, aty = (np.asarray(v, np.float64) for v in (operator(x), operator.H(y)))
        assert abs(np.vdot(ax, y) - np.vdot(x, aty)) / np.linalg.norm(ax) / np.linalg.norm(y) < tolerance


def test_the_fan_is_its_poses():
    for geometry in (GEOMETRIES["offset, tilted"], GEOMETRIES["curved, offset"]):
        x = noise(*SHAPE).astype(np.float32)
        assert relative(Radon(geometry)(x), Radon(geometry.modular())(x)) < 1e-5


@pytest.mark.slow
def test_one_view_batches_complex_numbers_and_half_precision():
    geometry = GEOMETRIES["flat"]
    operator, one = Radon(geometry), Radon(geometry.subset([2]))
    x = noise(2, 3, *SHAPE).astype(np.float32)
    y = noise(2, 3, *geometry.sinogram_shape).astype(np.float32)
    expected, back = operator(x[1, 2]), operator.H(y[1, 2])
    assert relative(operator(x)[1, 2], expected) < 1e-6
    assert relative(operator.H(y)[1, 2], back) < 1e-6
    assert relative(jax.vmap(operator)(x[1])[2], expected) < 1e-6
    assert relative(one(x[1, 2]), expected[2:3]) < 1e-6
    parts = radon_divergent.forward(geometry, x[1, 2] + 2j * x[0, 0], "distance-driven", "pixel")
    assert relative(parts, expected + 2j * operator(x[0, 0])) < 1e-6
    half = radon_divergent.forward(geometry, jnp.asarray(x[1, 2], jnp.float16), "distance-driven", "pixel")
    assert half.dtype == jnp.float16 and relative(half.astype(jnp.float32), expected) < 2e-3


@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
def test_equals_analytic_sinograms(curved):
    n = 256
    phantom = data.shepp_logan(n / 2)
    geometry = FanBeam((n, n), np.linspace(0, 2 * np.pi, 120, endpoint=False), 420, 500.0, 250.0, 1.0, 1.5, curved=curved)
    exact = data.project(phantom, geometry)
    error = relative(Radon(geometry)(phantom.rasterize((n, n))), exact)
    assert error < 0.008
    if not curved:
        assert error < 1.05 * min(
            relative(astra_project(geometry, phantom.rasterize((n, n)), model)[0], exact) for model in ("line", "strip")
        )


def astra_project(geometry, x, model, y=None):
    """ASTRA's sinogram of x and its backprojection of y; its y axis points up, against the row index."""
    astra = pytest.importorskip("astra")
    (ny, nx), p = geometry.image_shape, geometry.pixel_size
    volume = astra.create_vol_geom(ny, nx, -nx * p / 2, nx * p / 2, -ny * p / 2, ny * p / 2)
    distances = (geometry.source_distance, geometry.detector_distance)
    scan = astra.create_proj_geom("fanflat", geometry.detector_spacing, geometry.detector_count, np.asarray(geometry.angles), *distances)
    projector = astra.create_projector(f"{model}_fanflat", scan, volume)
    identifiers = []
    try:
        identifier, sinogram = astra.create_sino(np.asarray(x, np.float32)[::-1].copy(), projector)
        identifiers.append(identifier)
        if y is None:
            return sinogram, None
        identifier, back = astra.create_backprojection(np.asarray(y, np.float32), projector)
        identifiers.append(identifier)
        return sinogram, back[::-1]
    finally:
        astra.data2d.delete(identifiers)
        astra.projector.delete(projector)


def test_agrees_with_astra():
    shape, angles = (48, 64), np.linspace(0.01, 2 * np.pi, 60, endpoint=False)
    geometry = FanBeam(shape, angles, 84, 90.0, 50.0, 0.8, 1.3)
    phantom = data.Ellipses([[2.0, -5.0], [-6.0, 8.0]], [[12.0, 9.0], [6.0, 4.0]], [0.4, 1.0], [1.0, 0.5], exponent=1)
    x = phantom.rasterize(shape, 0.8)
    y = Radon(geometry)(x)
    sinogram, back = astra_project(geometry, x, "strip", y)
    assert relative(y, sinogram) < 3e-3
    assert relative(Radon(geometry).H(y), back) < 5e-3


@pytest.mark.slow
def test_far_away_it_is_the_parallel_beam():
    angles = np.linspace(0.1, 2 * np.pi, 16)
    x = data.shepp_logan(24).rasterize((48, 48))
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        far = Radon(FanBeam((48, 48), angles, 73, 1e7, 50.0, detector_offset=0.3))(x)
        sampled = Radon(ParallelBeam((48, 48), angles, 73, detector_offset=0.3), method="joseph")(x)
        assert relative(far, sampled) < 0.02  # Joseph's is not averaged over the cells
        assert relative(np.sum(far, 1), np.sum(sampled, 1)) < 2e-3


# Derivatives in the geometry


def scan(curved):
    """Every leaf off its mark, and known in double precision."""
    tilt = {} if curved else {"detector_tilt": 0.2}
    geometry = fan(20 + WOBBLE, 12 - WOBBLE, 1.2, detector_offset=WOBBLE, source_offset=0.4, curved=curved, **tilt)
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), geometry)


@pytest.mark.parametrize("curved", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["flat", "curved"])
def test_first_derivatives_equal_their_definition(curved, x64):
    geometry = scan(curved)
    image = noise(*SHAPE)
    check_first(geometry, image, noise(*geometry.sinogram_shape), lambda g, fixed: np.einsum("vcyx,yx->vc", dense(g, fixed), image))


@pytest.mark.slow
def test_second_derivatives_are_symmetric(x64):
    geometry = scan(curved=False)
    check_second(geometry, noise(*SHAPE), noise(*geometry.sinogram_shape))


@pytest.mark.slow
def test_derivatives_for_smooth_bodies_equal_analytic_ones_reading_by_reading():
    """First and second, along a path that turns, shifts and stretches the scan."""
    phantom, geometry = dataclasses.replace(BODIES, exponent=3), wobbling(8)
    x = phantom.rasterize((128, 128))

    def path(g, t):
        return dataclasses.replace(
            g, angles=g.angles + 0.02 * t, detector_offset=g.detector_offset + t, source_distance=g.source_distance * (1 + 0.03 * t)
        )

    check_smooth((lambda g: Radon(g)(x), lambda g: data.project(phantom, g, oversample=4)), geometry, path, 0.005, 0.1)


BODIES = data.Ellipses([[5.0, -12.0], [-20.0, 16.0]], [[40.0, 30.0], [18.0, 12.0]], [0.4, 1.0], [1.0, 0.5])
LEAVES = ("angles", "source_distance", "detector_distance", "detector_offset", "source_offset")


def wobbling(views=24, pixels_a_mm=1):
    """128 mm across."""
    each, n, p = np.ones(views), 128 * pixels_a_mm, 1 / pixels_a_mm
    angles, cells = np.linspace(0.1, 2 * np.pi, views), 210 * pixels_a_mm
    geometry = FanBeam((n, n), angles, cells, 250 * each, 125 * each, p, 1.5 * p, 0.3 * each, 0.2 * each)
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry)


def test_gradients_for_smooth_bodies_equal_analytic_ones():
    """Of the least-squares misfit of a scan whose poses are wrong, view by view."""
    phantom = dataclasses.replace(BODIES, exponent=2)
    x, geometry = phantom.rasterize((128, 128)), wobbling()
    wobble = jnp.asarray(noise(2, 24), jnp.float32)
    true = dataclasses.replace(geometry, angles=geometry.angles + 0.004 * wobble[0], detector_offset=1.3 + 0.3 * wobble[1])
    y = data.project(phantom, true, oversample=4)
    own = jax.jit(jax.grad(lambda g: 0.5 * jnp.sum((Radon(g)(x) - y) ** 2)))(geometry)
    exact = jax.jit(jax.grad(lambda g: 0.5 * jnp.sum((data.project(phantom, g, oversample=4) - y) ** 2)))(geometry)
    for name in LEAVES:
        assert relative(getattr(own, name), getattr(exact, name)) < 0.01, name


@pytest.mark.slow
def test_gradients_for_uniform_bodies_equal_analytic_ones(x64):
    """Of a smooth functional of a sinogram with kinks, view by view."""
    phantom, geometry = (jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), v) for v in (BODIES, wobbling(12, 2)))
    x = phantom.rasterize((256, 256), 0.5)
    s = (jnp.arange(420) - 209.5) / 120
    weight = jnp.sin(2 * s) * jnp.exp(-(s**2)) + 0.5 * jnp.exp(-((s - 0.3) ** 2) / 0.1)
    own = jax.jit(jax.grad(lambda g: jnp.vdot(weight, jnp.sum(Radon(g)(x), 0))))(geometry)
    functional = jax.jit(lambda g: data.project(phantom, g, oversample=32) @ weight)  # [view]; the slopes of the sinogram are unbounded
    for name, step in zip(LEAVES, (1e-3, 0.5, 0.5, 0.1, 0.1), strict=True):
        ahead, behind = (functional(dataclasses.replace(geometry, **{name: getattr(geometry, name) + k * step})) for k in (1, -1))
        assert relative(getattr(own, name), (ahead - behind) / (2 * step)) < 0.01, name


# What is compiled


def test_no_scatter():
    geometry = fan(detector_spacing=1.4)
    operator = Radon(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry))
    x, y = jnp.zeros(SHAPE), jnp.zeros(geometry.sinogram_shape)
    for function, v in ((lambda a, v: a(v), x), (lambda a, v: a.H(v), y), (jax.grad(lambda a, v: jnp.sum(a(v) ** 2)), x)):
        assert "scatter" not in jax.jit(function).lower(operator, v).as_text()


@pytest.mark.slow
def test_a_geometry_gradient_needs_little_memory():
    geometry = FanBeam((128, 128), np.linspace(0, 2 * np.pi, 180), 200, 250.0, 125.0, 1.0, 1.5)
    operator = Radon(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry))
    x, y = jnp.zeros((128, 128)), jnp.zeros(geometry.sinogram_shape)
    forward = jax.jit(lambda a: a(x)).lower(operator).compile().memory_analysis()
    gradient = jax.jit(jax.value_and_grad(lambda a: jnp.sum((a(x) - y) ** 2))).lower(operator).compile().memory_analysis()
    total = forward.temp_size_in_bytes + forward.output_size_in_bytes + forward.argument_size_in_bytes
    assert gradient.temp_size_in_bytes <= 4 * total
