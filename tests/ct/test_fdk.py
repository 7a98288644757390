"""Cone-beam filtered backprojection, on circles and helices, against exact sinograms of ellipsoids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import ct, data
from diffimg.core.pytree import replace
from diffimg.forward import ConeBeam, FanBeam, Helical

N = 40
FULL = np.linspace(0, 2 * np.pi, 150, endpoint=False)
CONE = ConeBeam((N, N, N), FULL, (80, 110), 150.0, 75.0, detector_spacing=(1.4, 1.0))
BODIES = data.Ellipsoids(
    [(0.0, 0.0, 0.0), (5.0, -5.0, 4.0), (-6.0, 4.0, -5.0)],
    [(17.0, 16.0, 15.0), (6.0, 7.0, 5.0), (7.0, 5.0, 6.0)],
    [[0.0, 0.0, 0.0], [0.3, 0.2, 0.1], [0.0, 0.4, 0.0]],
    [1.0, 0.5, -0.4],
    exponent=2,
)
PILLAR = data.Ellipsoids([(0.0, 1.0, -2.0)], [(1e4, 15.0, 13.0)], [[0.0, 0.0, 0.0]], [0.02])  # does not change along z
Z, Y, X = np.mgrid[:N, :N, :N] - (N - 1) / 2
INSIDE = np.hypot(Y, X) < N / 2 - 1
TRUTH = np.asarray(BODIES.rasterize((N, N, N)))

CASES = {
    "circle": {},
    "short": {"angles": FULL[:100]},
    "offset": {"detector_shape": (80, 73), "detector_offset": (0.0, 15.0)},
    "lifted": {"detector_offset": (4.0, 1.0), "source_offset": (2.0, -3.0)},
    "tilted": {"detector_tilt": (0.03, 0.05, 0.1)},
    "slices of 2 mm": {"image_shape": (N // 2, N, N), "slice_thickness": 2.0},
}


def scan(phantom, geometry):
    return jnp.asarray(data.project(phantom, geometry, oversample=2), jnp.float32)


def rms(a, b, where=...):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b))[where] ** 2)))


@pytest.mark.filterwarnings("ignore:detector_shape")
@pytest.mark.parametrize("name", CASES)
def test_exact_sinograms(name):
    cone = replace(CONE, **CASES[name])
    volume = np.asarray(ct.fdk(scan(BODIES, cone), cone))
    if cone.slice_thickness == 2.0:
        truth, inside, middle = np.asarray(BODIES.rasterize(cone.image_shape, 1.0, 2.0)), INSIDE[::2], slice(8, 12)
    else:
        truth, inside, middle = TRUTH, INSIDE, slice(17, 23)
    assert volume[inside].sum() / truth[inside].sum() == pytest.approx(1, abs=4e-3)
    assert rms(volume[middle], truth[middle], inside[middle]) < 0.012
    assert rms(volume, truth, inside) < (0.03 if name == "short" else 0.015)


@pytest.mark.parametrize("name", ["circle", "short"])
def test_values_where_nothing_changes_along_z(name):
    cone = replace(CONE, **CASES[name])
    volume = np.asarray(ct.fdk(scan(PILLAR, cone), cone, "hann"))
    inside = np.hypot(Y, X) < 8
    assert volume[inside].mean() == pytest.approx(0.02, rel=3e-3)
    for slices in (slice(0, 4), slice(18, 22), slice(-4, None)):  # far from the plane of the source too
        assert volume[slices][inside[slices]].mean() == pytest.approx(0.02, rel=3e-3)


def test_a_short_scan_is_as_good_as_a_full_one_in_the_plane_of_the_source():
    plane = replace(CONE, image_shape=(1, N, N))
    truth, inside = np.asarray(BODIES.rasterize((1, N, N))), INSIDE[:1]
    full, short = (rms(ct.fdk(scan(BODIES, g), g), truth, inside) for g in (plane, replace(plane, angles=FULL[:90])))
    assert short < 1.2 * full < 0.003


def test_the_plane_of_the_source_is_a_fan_beam():
    cone = replace(CONE, image_shape=(1, N, N), detector_shape=(1, 110), angles=FULL[:99] + 0.3, detector_offset=(0.0, 0.4))
    fan = FanBeam((N, N), cone.angles, 110, 150.0, 75.0, detector_offset=0.4)
    sinogram = jax.random.normal(jax.random.key(0), fan.sinogram_shape)
    np.testing.assert_allclose(ct.fdk(sinogram[:, None], cone)[0], ct.fbp(sinogram, fan), atol=2e-5)


def test_a_circle_given_pose_by_pose():
    sinogram = scan(BODIES, CONE)
    np.testing.assert_allclose(ct.fdk(sinogram, CONE.modular()), ct.fdk(sinogram, CONE), atol=1e-5)


def helix(pitch, turns=5.0, **others):
    return Helical.from_pitch((N, N, N), turns, 120, pitch, (20, 96), 150.0, 75.0, detector_spacing=(1.8, 1.0), **others)


HELICES = {
    "pitch 0.6": helix(0.6),
    "pitch 1": helix(1.0),
    "pitch 1.4": helix(1.4),
    "backwards": helix(-1.0),
    "clockwise": replace(helix(1.0), angles=-helix(1.0).angles),
    "shifted": helix(1.0, detector_offset=(1.0, 0.25), source_offset=(2.0, 3.0)),
}


@pytest.mark.parametrize("geometry", HELICES.values(), ids=HELICES)
def test_helices(geometry):
    volume = np.asarray(ct.fdk(scan(BODIES, geometry), geometry))
    assert np.all(volume[INSIDE] != 0)
    assert volume[INSIDE].sum() / TRUTH[INSIDE].sum() == pytest.approx(1, abs=4e-3)
    assert rms(volume, TRUTH, INSIDE) < 0.015


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:detector_shape")
def test_helix_of_an_offset_detector():
    geometry = replace(helix(0.6), detector_shape=(20, 70), detector_offset=(0.0, -13.0))
    volume = np.asarray(ct.fdk(scan(BODIES, geometry), geometry))
    assert np.all(volume[INSIDE] != 0)
    assert rms(volume, TRUTH, INSIDE) < 0.01


def test_slices_that_a_helix_does_not_cover_are_zero():
    geometry = helix(1.0, 1.2)
    volume = np.asarray(ct.fdk(scan(PILLAR, geometry), geometry, "hann"))
    assert np.all(volume[[0, -1]] == 0)
    inside = np.hypot(Y, X) < 8
    assert volume[18:22][inside[18:22]].mean() == pytest.approx(0.02, rel=4e-3)
    found = volume[inside]
    assert np.mean(found == 0) > 0.1 and found[found != 0].mean() == pytest.approx(0.02, rel=2e-2)


SMALL = ConeBeam((6, 8, 8), np.linspace(0, 2 * np.pi, 16, endpoint=False), (10, 18), 30.0, 10.0)
SPIRAL = Helical.from_pitch((6, 8, 8), 2.0, 16, 0.8, (8, 18), 30.0, 10.0)


@pytest.mark.parametrize("geometry", [SMALL, pytest.param(SPIRAL, marks=pytest.mark.slow)], ids=["circle", "helix"])
def test_batch_complex_and_one_trace(geometry):
    sinogram = jax.random.normal(jax.random.key(1), geometry.sinogram_shape)
    single = ct.fdk(sinogram, geometry)
    both = ct.fdk(jnp.stack([sinogram, 2j * sinogram])[:, None], geometry)
    assert both.shape == (2, 1, 6, 8, 8) and both.dtype == jnp.complex64
    np.testing.assert_allclose(both[1, 0].imag, 2 * single, atol=1e-5)
    traces = []

    @jax.jit
    def traced(sinogram, distance):
        traces.append(1)
        return ct.fdk(sinogram, replace(geometry, source_distance=distance), scan="full")

    np.testing.assert_allclose(traced(sinogram, 30.0), single, atol=1e-5)
    traced(-sinogram, 31.0)
    assert len(traces) == 1


def energy(kind):
    """A function of distance, offset, angles or table, and sinogram; a point, and a direction."""
    bodies = data.Ellipsoids([(0.3, 0.5, -0.4)], [(2.0, 2.5, 2.2)], [[0.2, 0.1, 0.3]], [1.0], exponent=3)
    geometry = SMALL if kind == "circle" else SPIRAL
    sinogram = jnp.asarray(data.project(bodies, geometry, oversample=1), jnp.float64)

    def loss(distance, offset, free, sinogram):
        change = {"source_distance": distance, "detector_offset": (offset, 0.3 * offset)}
        change |= {"angles": free, "detector_tilt": (0.02, offset / 9, 0.01)} if kind == "circle" else {"table": free}
        return jnp.sum(ct.fdk(sinogram, replace(geometry, **change), "hann", scan="full") ** 2)

    free = jnp.asarray(geometry.angles if kind == "circle" else geometry.table)
    point = jnp.float64(30.01), jnp.float64(0.17), free, sinogram
    wave = jnp.sin(jnp.arange(sinogram.size)).reshape(sinogram.shape)
    return loss, point, (jnp.float64(0.4), jnp.float64(-0.6), jnp.sin(3.0 * jnp.arange(free.size)), wave)


@pytest.mark.parametrize("kind", ["circle", pytest.param("helix", marks=pytest.mark.slow)])
def test_derivatives_in_sinogram_and_geometry(kind, x64):
    loss, point, direction = energy(kind)
    along = jax.jit(lambda p, d: jax.jvp(loss, p, d))
    for k in range(4):
        step = tuple(d if j == k else jnp.zeros_like(d) for j, d in enumerate(direction))
        ahead, behind = (along(tuple(p + h * s for p, s in zip(point, step, strict=True)), step)[0] for h in (1e-6, -1e-6))
        assert float(along(point, step)[1]) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["circle", "helix"])
def test_reverse_mode_agrees_with_forward_mode(kind, x64):
    loss, point, direction = energy(kind)
    slope = jax.jit(lambda: jax.jvp(loss, point, direction)[1])()
    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*point)
    assert sum(float(jnp.sum(g * d)) for g, d in zip(gradients, direction, strict=True)) == pytest.approx(float(slope), rel=1e-9)


@pytest.mark.filterwarnings("ignore:detector_shape")
def test_bad_input():
    sinogram = np.zeros(SMALL.sinogram_shape, np.float32)
    with pytest.raises(ValueError, match=r"geometry: expected a ConeBeam, Helical or Modular in space, got FanBeam.*fbp"):
        ct.fdk(sinogram, FanBeam((8, 8), FULL, 24, 50.0, 50.0))
    with pytest.raises(ValueError, match=r"sinogram: expected shape \[\.\.\., 16, 10, 18\]"):
        ct.fdk(sinogram[1:], SMALL)
    with pytest.raises(ValueError, match=r"geometry: expected views over at least π"):
        ct.fdk(sinogram[:6], SMALL.subset(slice(0, 6)))
    with pytest.raises(ValueError, match=r"geometry: expected detector columns along z.*detector_tilt"):
        ct.fdk(sinogram, replace(SMALL, detector_tilt=(0.1, 0.0, 0.0)).modular())
    with pytest.raises(ValueError, match=r"geometry: expected a source on a circle, got one that moves .*Helical"):
        ct.fdk(np.zeros(SPIRAL.sinogram_shape, np.float32), SPIRAL.modular())
    with pytest.raises(ValueError, match=r"filter: expected one of"):
        ct.fdk(sinogram, SMALL, "none")
    spiral = np.zeros(SPIRAL.sinogram_shape, np.float32)
    with pytest.raises(ValueError, match=r"geometry.table: expected a feed of at most"):
        ct.fdk(spiral, replace(SPIRAL, table=3 * SPIRAL.table))
    with pytest.raises(ValueError, match=r"geometry.angles: expected angles that increase or decrease steadily.*unwrap"):
        ct.fdk(spiral, replace(SPIRAL, angles=np.mod(SPIRAL.angles, 6.0)))
    with pytest.raises(ValueError, match="source_distance: expected one value for all views"):
        ct.fdk(spiral, replace(SPIRAL, source_distance=np.full(32, 30.0)))
    with pytest.raises(ValueError, match=r"geometry.angles: expected known values for a helical scan"):
        jax.jit(lambda g: ct.fdk(spiral, g, scan="full"))(SPIRAL)
    with pytest.raises(ValueError, match=r"scan: expected 'full' or 'offset' for a traced geometry"):
        jax.jit(lambda d: ct.fdk(spiral, replace(SPIRAL, source_distance=d)))(30.0)
    half = replace(SPIRAL, detector_shape=(8, 11), detector_offset=(0.0, 3.5))
    with pytest.raises(ValueError, match=r"geometry.table: expected a feed .* in a turn of an offset detector.*below 1 ·"):
        ct.fdk(np.zeros(half.sinogram_shape, np.float32), replace(half, table=1.5 * half.table))
    far = replace(half, detector_offset=(0.0, 5.6))
    with pytest.raises(ValueError, match=r"geometry: expected a detector that sees both sides of the axis"):
        ct.fdk(np.zeros(half.sinogram_shape, np.float32), far)
    for options in ({"scan": "short"}, {"weights": np.ones(32)}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
            ct.fdk(spiral, SPIRAL, **options)
