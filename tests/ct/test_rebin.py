"""Rebinning against the exact projections of ellipses in both geometries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import data
from diffimg.core.pytree import replace
from diffimg.ct import rebin
from diffimg.forward import FanBeam, ParallelBeam

FULL = np.linspace(0, 2 * np.pi, 180, endpoint=False)
SHAPE = (56, 56)
PHANTOM = data.Ellipses([(3.0, -2.0), (-8.0, 6.0)], [(20.0, 26.0), (9.0, 5.0)], [0.4, 1.0], [0.02, -0.01], exponent=2)
FLAT = FanBeam(SHAPE, FULL, 140, 100.0, 60.0)
CURVED = replace(FLAT, curved=True)
SHORT = FanBeam(SHAPE, np.arange(122) * np.deg2rad(2.0) + 0.3, 140, 100.0, 60.0)
FANS = {
    "flat": FLAT,
    "curved, source shifted": replace(CURVED, source_offset=1.5, detector_count=170),
    "tilt, quarter offset": replace(FLAT, detector_tilt=0.2, source_offset=-1.0, detector_offset=0.25, detector_count=190),
    "short": SHORT,
    "short, backwards, curved": replace(SHORT, angles=SHORT.angles[::-1].copy(), curved=True),
}


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


def exact(geometry):
    if isinstance(geometry, ParallelBeam):
        poses = geometry.detector_positions
        theta = np.asarray(geometry.angles)
        normal = np.stack([np.sin(theta), np.cos(theta)], -1)[:, None]
        along = np.stack([np.cos(theta), -np.sin(theta)], -1)[:, None]
        origins = np.asarray(poses)[None, :, None] * normal
        return data.rays.integrals(PHANTOM, origins, np.broadcast_to(along, origins.shape))
    return data.project(PHANTOM, geometry, oversample=1)


@pytest.mark.parametrize("fan", FANS.values(), ids=FANS)
def test_against_exact_parallel_projections(fan):
    sinogram = exact(fan)
    found, parallel = rebin(sinogram, fan)
    assert found.shape == parallel.sinogram_shape and parallel.sees_whole_object
    assert relative(found, exact(parallel)) < 2e-4
    if fan is FLAT:
        rough, _ = rebin(sinogram, fan, method="linear")
        assert relative(found, exact(parallel)) < 0.3 * relative(rough, exact(parallel)) < 5e-4


def test_half_fan_of_a_full_turn():
    with pytest.warns(UserWarning, match="truncated"):
        half = replace(FLAT, detector_count=100, detector_offset=25.0)
    found, parallel = rebin(exact(half), half)
    assert parallel.detector_count > half.detector_count
    assert relative(found, exact(parallel)) < 1e-3


def test_lines_of_any_choosing():
    parallel = ParallelBeam(SHAPE, np.random.default_rng(0).uniform(-4, 4, 15), 120, detector_spacing=0.8, detector_offset=0.3)
    found, same = rebin(exact(FLAT), FLAT, parallel)
    assert same is parallel
    assert relative(found, exact(parallel)) < 2e-4


def test_batch_complex_and_jit():
    sinogram = exact(FLAT)
    parallel = ParallelBeam(SHAPE, FULL[:20], 92)
    single, _ = rebin(sinogram, FLAT, parallel)
    many = jax.jit(lambda s, f: rebin(s, f, parallel)[0])(jnp.stack([sinogram, 2j * sinogram]), FLAT)
    np.testing.assert_allclose(many[0].real, single, atol=1e-4)
    np.testing.assert_allclose(many[1].imag, 2 * single, atol=2e-4)


def test_derivatives_in_sinogram_and_geometry(x64):
    parallel = ParallelBeam(SHAPE, FULL[:12] + 0.0123, 92)
    sinogram = jnp.asarray(exact(FLAT), jnp.float64)

    @jax.jit
    def energy(source_distance, detector_offset, angles, sinogram):
        fan = replace(FLAT, source_distance=source_distance, detector_offset=detector_offset, angles=angles)
        return jnp.sum(rebin(sinogram, fan, parallel)[0] ** 2)

    point = (jnp.float64(100.0), jnp.float64(0.2), jnp.asarray(FULL), sinogram)
    step = (0.3, -0.7, 0.1 * jnp.sin(5 * FULL), jnp.cos(jnp.arange(sinogram.size)).reshape(sinogram.shape))
    slope = jax.jvp(energy, point, tuple(jnp.asarray(s, p.dtype) for s, p in zip(step, point, strict=True)))[1]
    ahead, back = (energy(*(p + h * s for p, s in zip(point, step, strict=True))) for h in (1e-6, -1e-6))
    assert float(slope) == pytest.approx(float(ahead - back) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "arguments", "text"),
    [
        ({}, {"method": "spline"}, "method: expected one of 'linear', 'cubic'"),
        ({}, {"parallel": FLAT}, "parallel: expected a ParallelBeam"),
        ({"source_distance": np.full(180, 100.0)}, {}, "source_distance: expected one value for all views"),
        ({"angles": np.random.default_rng(0).permutation(FULL)}, {}, "fan.angles: expected at least 3"),
        ({"angles": 2 * FULL}, {}, "fan.angles: expected at most one turn"),
        ({"angles": np.linspace(0, 2 * np.pi, 180)}, {}, "fan.angles: expected a turn that ends"),
        (
            {"angles": FULL / 2},
            {},
            r"parallel: expected lines that the fan has measured.*must be π \+ the fan angle, 3\.96",
        ),
    ],
)
def test_bad_arguments(change, arguments, text):
    with pytest.raises(ValueError, match=text):
        rebin(np.zeros(FLAT.sinogram_shape, np.float32), replace(FLAT, **change), **arguments)


def test_a_traced_fan_needs_its_lines():
    with pytest.raises(ValueError, match="parallel: expected given where the fan is traced"):
        jax.jit(lambda f: rebin(jnp.zeros(FLAT.sinogram_shape), f))(FLAT)
    with pytest.raises(ValueError, match="sinogram: expected shape"):
        rebin(np.zeros((3, 3), np.float32), FLAT)
    with pytest.raises(ValueError, match="fan: expected a FanBeam"):
        rebin(np.zeros((3, 3), np.float32), ParallelBeam(SHAPE, FULL, 92))
