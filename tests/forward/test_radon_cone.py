"""The cone-beam projector against its definition, analytic projections, finite differences and itself."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pose_derivatives import check_first, check_second, check_smooth, means, noise, relative

from diffimg import data
from diffimg.forward import ConeBeam, FanBeam, Helical, Radon, radon_divergent

RNG = np.random.default_rng(4)
ANGLES = np.array([0.0, 0.61, np.pi / 2, 2.4, 4.1])
SHAPE, CELLS = (6, 7, 9), (5, 16)
SIZES = {"pixel_size": 0.9, "slice_thickness": 1.1}
WOBBLE = RNG.uniform(-1, 1, (4, ANGLES.size))


def cone(kind=ConeBeam, source_distance=14.0, detector_distance=9.0, detector_spacing=(1.3, 1.4), **fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some detectors do not see everything is the point
        return kind(SHAPE, ANGLES, CELLS, source_distance, detector_distance, detector_spacing=detector_spacing, **SIZES, **fields)


def flipped(geometry, *names):
    """The cells in the other order, along the rows, the columns or both."""
    return dataclasses.replace(geometry.modular(aligned=True), **{name: -getattr(geometry.poses, name) for name in names})


# of one shape, as free poses: one compiled program for all
GEOMETRIES = {
    "circle": cone(),
    "offsets": cone(
        source_distance=14 + WOBBLE[0], detector_distance=9 - WOBBLE[1], detector_offset=(WOBBLE[2], 0.3), source_offset=(0.4, WOBBLE[3])
    ),
    "helix": cone(Helical, table=np.linspace(-2, 2.5, ANGLES.size)),
    "helix beyond the ends": cone(Helical, table=np.linspace(-9, 9, ANGLES.size), source_offset=(0.5, 0.2)),
    "cells smaller than voxels": cone(source_distance=30.0, detector_distance=2.0, detector_spacing=(0.1, 0.12)),
    "cells larger than voxels": cone(source_distance=9.0, detector_distance=1.0, detector_spacing=(2.3, 2.1)),
    "detector far away": cone(source_distance=7.0, detector_distance=200.0, detector_spacing=(30.0, 31.0)),
    "detector inside the volume": cone(source_distance=15.0, detector_distance=0.5, detector_spacing=(0.8, 0.7)),
    "columns flipped": flipped(cone(detector_offset=(0.2, 0.7)), "column"),
    "rows flipped": flipped(cone(detector_offset=(0.2, 0.7)), "row"),
    "both flipped": flipped(cone(detector_offset=(0.2, 0.7)), "row", "column"),
}
every_geometry = pytest.mark.parametrize("name", GEOMETRIES)


def crossings(geometry):
    """Of every line of every view: the lateral axis, where the cells' edges lie on it, where those of the rows lie on each of its voxel
    columns, and the path of each cell, 0 behind the source."""
    p, counts, poses = geometry.pixel_size, geometry.image_shape, geometry.poses
    rows, columns = geometry.detector_shape
    for view in range(geometry.view_count):
        source, detector, column, row = (np.asarray(v)[view] for v in (poses.source, poses.detector, poses.column, poses.row))
        depth = 2 if abs(source[2]) > abs(source[1]) else 1  # the axis that the lines are stacked along
        lateral = 3 - depth
        ends = detector + (np.arange(columns + 1) - columns / 2)[:, None] * column - source
        ahead = ends[:, depth] * -np.sign(source[depth])
        slopes = -np.sign(source[depth]) * ends[:, lateral] / np.maximum(ahead, np.abs(ends[:, lateral]) / 1e3)
        middle = (slopes[1:] + slopes[:-1]) / 2
        heights = detector[0] - source[0] + (np.arange(rows + 1) - rows / 2) * row[0]
        normal = np.array([0, column[2], -column[1]])
        reach = normal @ (detector - source)  # the detector's plane: normal · (point − source) = reach
        direction = np.zeros((columns, 3))
        direction[:, depth], direction[:, lateral] = 1, middle
        climb = (heights[1:] + heights[:-1])[:, None] / 2 / (reach / (direction @ normal))
        length = p * np.sqrt(1 + middle**2 + climb**2)  # [row, column]
        for line in range(counts[depth]):
            distance = (line - (counts[depth] - 1) / 2) * p - source[depth]
            voxel = np.zeros((counts[lateral], 3))
            voxel[:, depth], voxel[:, lateral] = distance, (np.arange(counts[lateral]) - (counts[lateral] - 1) / 2) * p - source[lateral]
            inverse = np.maximum(voxel @ normal / reach, 1e-6)  # one over the magnification
            seen = length * (distance * source[depth] < 0)
            yield view, line, lateral, source[lateral] + distance * slopes, source[0] + inverse[:, None] * heights, seen


def dense(geometry, fixed=None):
    """``[view, row, column, nz, ny, nx]``, by the definition: on each line, the mean over the rectangle that a cell sees, whose height is
    taken at the magnification of each voxel column.

    Where the edges moved from those of the geometry ``fixed``, they did so over the voxels interpolated linearly.
    """
    p, thickness, counts = geometry.pixel_size, geometry.slice_thickness, geometry.image_shape
    out = np.zeros((*geometry.sinogram_shape, *counts))
    slices = (np.arange(counts[0] + 1) - counts[0] / 2) * thickness
    starts = crossings(geometry if fixed is None else fixed)
    for (view, line, lateral, edges, heights, length), (*_, first_edges, first_heights, _) in zip(crossings(geometry), starts, strict=True):
        pixels = (np.arange(counts[lateral] + 1) - counts[lateral] / 2) * p
        across = means(edges, first_edges, pixels)  # [column, pixel]
        along = means(heights, first_heights, slices)  # [pixel, row, slice]
        np.moveaxis(out[view], 2 + 3 - lateral, 2)[:, :, line] += np.einsum("rc,cq,qrz->rczq", length, across, along)
    return out


@every_geometry
def test_equals_the_dense_matrix(name, x64):
    geometry = GEOMETRIES[name]
    free = Radon(geometry if hasattr(geometry, "column") else geometry.modular(aligned=True))
    matrix, x, y = dense(geometry), noise(*SHAPE), noise(*geometry.sinogram_shape)
    assert matrix.any((3, 4, 5)).mean() > 0.2
    forward, back = np.einsum("vrczyx,zyx->vrc", matrix, x), np.einsum("vrczyx,vrc->zyx", matrix, y)
    assert relative(free(jnp.asarray(x)), forward) < 1e-12
    assert relative(free.H(jnp.asarray(y)), back) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_adjoint_is_matched(double, tolerance):
    with jax.enable_x64(double):
        dtype = np.float64 if double else np.float32
        geometry = ConeBeam(
            (30, 40, 36), RNG.uniform(0, 2 * np.pi, 40), (44, 72), 60.0, 40.0, 0.9, 1.1, (1.5, 1.4), (0.3, 0.2), (0.1, -0.4)
        )
        operator = Radon(geometry)
        x, y = noise(30, 40, 36).astype(dtype), noise(*geometry.sinogram_shape).astype(dtype)
        ax, aty = (np.asarray(v, np.float64) for v in (operator(x), operator.H(y)))
        assert abs(np.vdot(ax, y) - np.vdot(x, aty)) / np.linalg.norm(ax) / np.linalg.norm(y) < tolerance


@pytest.mark.slow
def test_batches_complex_numbers_and_half_precision():
    geometry = GEOMETRIES["circle"]
    operator = Radon(geometry)
    x = noise(2, *SHAPE).astype(np.float32)
    y = noise(2, *geometry.sinogram_shape).astype(np.float32)
    expected = operator(x[1])
    assert relative(operator(x)[1], expected) < 1e-6
    assert relative(operator.H(y)[1], operator.H(y[1])) < 1e-6
    parts = radon_divergent.forward(geometry, x[1] + 2j * x[0], "distance-driven", "pixel")
    assert relative(parts, expected + 2j * operator(x[0])) < 1e-6
    half = radon_divergent.forward(geometry, jnp.asarray(x[1], jnp.float16), "distance-driven", "pixel")
    assert half.dtype == jnp.float16 and relative(half.astype(jnp.float32), expected) < 3e-3


def test_the_middle_row_is_the_fan():
    """Of an object that does not change along z, when the rows are so narrow that they do not climb."""
    x = noise(*SHAPE[1:]).astype(np.float32)
    geometry = cone(detector_spacing=(0.05, 1.4), detector_offset=(0.0, 0.3))
    flat = FanBeam(SHAPE[1:], ANGLES, CELLS[1], 14.0, 9.0, 0.9, 1.4, 0.3)
    sinogram = Radon(geometry)(np.broadcast_to(x, SHAPE))
    assert relative(sinogram[:, 2], Radon(flat)(x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("n", "pixel", "band_limited"), [(32, 0.025, 0.02), (128, 0.0095, 0.008)])
def test_equals_analytic_projections(n, pixel, band_limited):
    """Shepp and Logan's head, as published."""
    phantom = data.shepp_logan_3d(n / 2, modified=False)
    geometry = ConeBeam((n, n, n), np.linspace(0, 2 * np.pi, 24, endpoint=False), (n, n * 3 // 2), 3.0 * n, 1.5 * n, 1.0, None, 1.5)
    x, exact = phantom.rasterize((n, n, n)), data.project(phantom, geometry)
    assert relative(Radon(geometry)(x), exact) < pixel
    assert relative(Radon(geometry, image_model="band-limited")(x), exact) < band_limited


# Derivatives in the geometry


def scan():
    """Every leaf off its mark, and known in double precision."""
    fields = {"detector_offset": (WOBBLE[2], 0.3), "source_offset": (0.4, WOBBLE[3]), "table": np.linspace(-1, 1.2, ANGLES.size)}
    geometry = cone(Helical, source_distance=14 + WOBBLE[0], detector_distance=9 - WOBBLE[1], **fields)
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), geometry)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "rows flipped"])
def test_first_derivatives_equal_their_definition(flip, x64):
    geometry = jax.tree.map(jnp.asarray, flipped(scan(), "row")) if flip else scan()
    volume = noise(*SHAPE)
    sinogram = noise(*geometry.sinogram_shape)
    check_first(geometry, volume, sinogram, lambda g, fixed: np.einsum("vrczyx,zyx->vrc", dense(g, fixed), volume))


@pytest.mark.slow
def test_second_derivatives_are_symmetric(x64):
    geometry = scan()
    check_second(geometry, noise(*SHAPE), noise(*geometry.sinogram_shape))


@pytest.mark.slow
def test_gradients_for_smooth_bodies_equal_analytic_ones():
    """Of the least-squares misfit of a scan whose poses are wrong, view by view."""
    n, views = 48, 16
    bodies = ([[2.0, 3.0, -5.0], [-4.0, -7.0, 6.0]], [[14.0, 16.0, 12.0], [10.0, 8.0, 9.0]], [0.4, 1.0], [1.0, 0.5])
    phantom = data.Ellipsoids(*bodies, exponent=2)
    each = np.ones(views)
    angles, shape = np.linspace(0.1, 2 * np.pi, views), (n, n + n // 2)
    offsets = {"detector_offset": (0.2 * each, 0.3 * each), "source_offset": (0.1 * each, 0.2 * each)}
    geometry = ConeBeam((n, n, n), angles, shape, 3.0 * n * each, 1.5 * n * each, 1.0, None, 1.5, **offsets)
    geometry = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry)
    wobble = jnp.asarray(noise(2, views), jnp.float32)
    true = dataclasses.replace(geometry, angles=geometry.angles + 0.01 * wobble[0], detector_offset=(1.0 + 0.3 * wobble[1], 1.3 * each))
    x, y = phantom.rasterize((n, n, n), oversample=4), data.project(phantom, true)
    own = jax.jit(jax.grad(lambda g: 0.5 * jnp.sum((Radon(g)(x) - y) ** 2)))(geometry)
    exact = jax.jit(jax.grad(lambda g: 0.5 * jnp.sum((data.project(phantom, g) - y) ** 2)))(geometry)
    for path, slope in jax.tree_util.tree_leaves_with_path(own):
        reference = functools.reduce(lambda v, key: getattr(v, key.name) if hasattr(key, "name") else v[key.idx], path, exact)
        assert relative(slope, reference) < 0.03, path

    def along(g, t):
        offsets = tuple(v + t for v in g.detector_offset)
        return dataclasses.replace(
            g, angles=g.angles + 0.02 * t, detector_offset=offsets, source_distance=g.source_distance * (1 + 0.03 * t)
        )

    check_smooth((lambda g: Radon(g)(x), lambda g: data.project(phantom, g)), geometry, along, 0.03, 0.1)


# What is compiled


def test_no_scatter():
    operator = Radon(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), GEOMETRIES["offsets"]))
    x, y = jnp.zeros(SHAPE), jnp.zeros(operator.codomain.shape)
    for function, v in ((lambda a, v: a(v), x), (lambda a, v: a.H(v), y), (jax.grad(lambda a, v: jnp.sum(a(v) ** 2)), x)):
        assert "scatter" not in jax.jit(function).lower(operator, v).as_text()


@pytest.mark.slow
def test_a_geometry_gradient_needs_little_memory():
    n = 32
    geometry = ConeBeam((n, n, n), np.linspace(0, 2 * np.pi, 45, endpoint=False), (n, n + n // 2), 3.0 * n, 1.5 * n, 1.0, None, 1.5)
    operator = Radon(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry))
    x, y = jnp.zeros((n, n, n)), jnp.zeros(geometry.sinogram_shape)
    forward = jax.jit(lambda a: a(x)).lower(operator).compile().memory_analysis()
    gradient = jax.jit(jax.value_and_grad(lambda a: jnp.sum((a(x) - y) ** 2))).lower(operator).compile().memory_analysis()
    total = forward.temp_size_in_bytes + forward.output_size_in_bytes + forward.argument_size_in_bytes
    assert gradient.temp_size_in_bytes <= 4 * total
