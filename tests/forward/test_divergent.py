"""What all divergent geometries promise: their poses against ASTRA and SciPy, their text, their leaves, their derived quantities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffimg.core.pytree import replace
from diffimg.forward import ConeBeam, FanBeam, Helical, Modular, ParallelBeam, Radon
from diffimg.forward.poses import Poses

ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
WOBBLE = np.random.default_rng(0).uniform(-1, 1, 12)
FLAT = FanBeam((16, 20), ANGLES, 60, 60.0, 40.0, 0.9, 0.8)
CURVED = FanBeam((16, 20), ANGLES, 60, 60.0, 40.0, 0.9, 0.8, detector_offset=0.2, source_offset=0.3, curved=True)
BENT = FanBeam((16, 20), ANGLES, 70, 60 + WOBBLE, 40.0, 0.9, 0.8, detector_offset=WOBBLE, source_offset=0.3, detector_tilt=0.1 * WOBBLE)
CONE = ConeBeam((8, 16, 20), ANGLES, (24, 60), 60.0, 40.0, 0.9, 1.5, (1.1, 0.8), (0.5, 0.2 * WOBBLE), (0.1, 0.2))
TILTED = replace(CONE, detector_shape=(24, 70), detector_tilt=(0.2, -0.1, 0.1 * WOBBLE))
HELIX = Helical.from_pitch((16, 12, 12), 2.5, 12, 0.8, (6, 50), 60.0, 40.0, start_angle=0.3, detector_spacing=(1.2, 0.8))
GEOMETRIES = {
    "fan": FLAT,
    "curved": CURVED,
    "bent": BENT,
    "cone": CONE,
    "tilted": TILTED,
    "helix": HELIX,
    "modular": BENT.modular(),
    "modular-curved": CURVED.modular(),
    "modular-3d": TILTED.modular(),
    "modular-helix": HELIX.modular(),
    "device": FanBeam((16, 20), jnp.asarray(ANGLES, jnp.float32), 60, jnp.float32(60), 40.0, 0.9, 0.8),
}
every_geometry = pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)


@every_geometry
def test_repr_rebuilds_it(g):
    scope = {"np": np, **{c.__name__: c for c in (FanBeam, ConeBeam, Helical, Modular)}}
    again = eval(repr(g), scope)
    assert again == g and hash(again) == hash(g)
    assert all(np.asarray(a).dtype == v.dtype for a, v in zip(jax.tree.leaves(again), jax.tree.leaves(g), strict=True) if np.ndim(v))
    assert g != g.subset(slice(0, 3)) and g != FLAT.subset([1, 0])


@every_geometry
def test_shapes_and_views(g):
    cells = g.cell_positions
    assert cells.shape == (*g.sinogram_shape, g.ndim) and g.sinogram_shape == (g.view_count, *g.detector_shape)
    assert [len(p) for p in g.pixel_positions] == list(g.image_shape)
    assert np.mean(g.pixel_positions[0]) == pytest.approx(0)
    np.testing.assert_allclose(np.diff(g.pixel_positions[0]), g.slice_thickness if g.ndim == 3 else g.pixel_size)
    for index in (slice(1, None, 3), [0, 5, -1], jnp.array([2, 4])):
        part = g.subset(index)
        np.testing.assert_allclose(part.cell_positions, cells[np.arange(g.view_count)[index]], atol=1e-4)
        assert part.sinogram_shape == (len(np.arange(g.view_count)[index]), *g.detector_shape)
    assert jax.jit(lambda g, i: g.subset(i).poses.source)(g, np.array([3, 1])).shape == (2, g.ndim)


@every_geometry
def test_one_trace_and_the_same_poses_when_leaves_change(g):
    seen = []

    @jax.jit
    def positions(g):
        seen.append(g.sees_whole_object)
        return g.cell_positions, g.poses.source, g.field_of_view, g.fan_angle, g.cone_angle, g.magnification

    for h in (g, jax.tree.map(lambda v: v * 1.0078125, g)):
        expected = (h.cell_positions, h.poses.source, h.field_of_view, h.fan_angle, h.cone_angle, h.magnification)
        for a, b in zip(positions(h), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4)
    assert seen == [None]


@every_geometry
def test_modular_has_the_same_rays(g):
    m = g.modular()
    np.testing.assert_allclose(m.cell_positions, g.cell_positions, atol=1e-5)
    assert m.sinogram_shape == g.sinogram_shape and m.pixel_size == g.pixel_size and m.image_shape == g.image_shape
    np.testing.assert_allclose(m.field_of_view, g.field_of_view, rtol=1e-6)
    assert m.aligned == (m.ndim == 2) and m.poses.aligned == g.poses.aligned
    still = m.moved(np.zeros(()) if m.ndim == 2 else np.zeros(3), np.zeros(m.ndim))
    np.testing.assert_allclose(still.cell_positions, g.cell_positions, atol=1e-5)


@pytest.mark.parametrize("g", [CURVED, BENT, TILTED, HELIX, TILTED.modular()], ids=["curved", "bent", "tilted", "helix", "modular"])
def test_every_leaf_has_its_gradient(g):
    @jax.jit
    def f(g):
        return jnp.sum(jnp.sin(g.cell_positions)) + jnp.sum(jnp.cos(g.poses.source))

    with jax.enable_x64(True):
        g = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), g)
        slopes = jax.jit(jax.grad(f))(g)
        for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
            assert np.isfinite(slope).all(), path
        direction = jax.tree.map(lambda v: jnp.cos(jnp.arange(1.0, v.size + 1)).reshape(v.shape), g)
        exact = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True))
        ahead, back = (f(jax.tree.map(lambda v, d, s=s: v + s * 1e-6 * d, g, direction)) for s in (1, -1))
        assert float(exact) == pytest.approx(float(ahead - back) / 2e-6, rel=1e-5)


def test_poses_against_astra():
    astra = pytest.importorskip("astra")
    angles = ANGLES + 0.1
    vectors = astra.geom_2vec(astra.create_proj_geom("fanflat", 0.8, 60, angles, 60.0, 40.0))["Vectors"]
    p = replace(FLAT, angles=angles).poses
    np.testing.assert_allclose(np.concatenate([v[:, ::-1] for v in (p.source, p.detector, p.column)], -1), vectors, atol=1e-12)
    vectors = astra.geom_2vec(astra.create_proj_geom("cone", 0.8, 1.1, 24, 60, angles, 60.0, 40.0))["Vectors"]
    p = ConeBeam((8, 16, 20), angles, (24, 60), 60.0, 40.0, 0.9, detector_spacing=(1.1, 0.8)).poses
    np.testing.assert_allclose(np.concatenate([v[:, ::-1] for v in (p.source, p.detector, p.column, p.row)], -1), vectors, atol=1e-12)


def test_offsets_against_astra():
    astra = pytest.importorskip("astra")
    shifted = astra.geom_postalignment(astra.create_proj_geom("fanflat", 0.8, 60, ANGLES, 60.0, 40.0), 2.5)["Vectors"]  # in cells
    np.testing.assert_allclose(replace(FLAT, detector_offset=2.5 * 0.8).poses.detector[:, ::-1], shifted[:, 2:4], atol=1e-12)


def test_far_away_it_is_the_parallel_beam():
    far = FanBeam((16, 16), ANGLES[:6], 30, 1e7, 20.0, detector_offset=0.7)
    bent = FanBeam((16, 16), ANGLES[:6], 30, 1e7, 20.0, detector_offset=0.7, curved=True)
    parallel = ParallelBeam((16, 16), ANGLES[:6], 30, detector_offset=0.7)
    for g in (far, bent):
        theta, l = g.rays
        np.testing.assert_allclose(theta, np.broadcast_to(ANGLES[:6, None], (6, 30)), atol=1e-5)
        np.testing.assert_allclose(l, np.broadcast_to(parallel.detector_positions, (6, 30)), atol=1e-4)
        assert g.field_of_view == pytest.approx(float(parallel.field_of_view), rel=1e-4)
    assert far.magnification == pytest.approx(1, abs=1e-5)
    assert parallel.subset([0, 3]) == replace(parallel, angles=ANGLES[[0, 3]])


def test_curved_cells_see_equal_fan_angles():
    g = replace(CURVED, source_offset=0.0)
    step = 0.8 / 100
    gamma = (np.arange(60) - 29.5) * step + 0.2 / 100
    np.testing.assert_allclose(g.fan_angles, np.broadcast_to(gamma, (12, 60)), atol=1e-12)
    theta, l = g.rays
    np.testing.assert_allclose(l, np.broadcast_to(60 * np.sin(gamma), l.shape), atol=1e-12)
    np.testing.assert_allclose(np.exp(1j * theta), np.exp(1j * (ANGLES[:, None] - gamma)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(g.cell_positions - g.poses.source[:, None], axis=-1), 100.0)
    assert g.fan_angle == pytest.approx(60 * step)


def test_tilt_turns_about_fixed_axes():
    roll, pitch, yaw = TILTED.detector_tilt
    for view in (0, 5):
        b = ANGLES[view]
        e, f, z = np.array([-np.sin(b), np.cos(b), 0]), np.array([np.cos(b), np.sin(b), 0]), np.array([0, 0, 1.0])
        r = Rotation.from_rotvec(yaw[view] * z) * Rotation.from_rotvec(pitch * f) * Rotation.from_rotvec(roll * e)
        np.testing.assert_allclose(TILTED.poses.column[view, ::-1], 0.8 * r.apply(f), atol=1e-12)
        np.testing.assert_allclose(TILTED.poses.row[view, ::-1], 1.1 * r.apply(z), atol=1e-12)
    fan = replace(FLAT, detector_tilt=0.3).poses
    cone = replace(CONE, detector_tilt=(0.0, 0.0, 0.3)).poses
    np.testing.assert_allclose(fan.column, cone.column[:, 1:], atol=1e-12)


@pytest.mark.filterwarnings("ignore:detector_shape")
@pytest.mark.parametrize("small", [1.0, 1e-3], ids=["large", "near zero"])
def test_moved_is_the_inverse_motion_of_source_and_detector(small):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        m = TILTED.modular()
        rotation, shift = small * rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
        moved = m.moved(rotation, shift)
        r = Rotation.from_rotvec(rotation[:, ::-1])
        for a, b in ((moved.source, m.source), (moved.detector, m.detector)):
            np.testing.assert_allclose(r.apply(np.array(a)[:, ::-1]) + shift[:, ::-1], b[:, ::-1], atol=1e-10)
        for a, b in ((moved.column, m.column), (moved.row, m.row)):
            np.testing.assert_allclose(r.apply(np.array(a)[:, ::-1]), b[:, ::-1], atol=1e-10)
        plane, angle = BENT.modular(), rng.normal(size=12)
        turned = plane.moved(angle, shift[:, :2])
        r = Rotation.from_rotvec(angle[:, None] * [0, 0, 1])
        lifted = np.concatenate([np.asarray(turned.source)[:, ::-1], np.zeros((12, 1))], -1)
        np.testing.assert_allclose(r.apply(lifted)[:, :2] + shift[:, 1::-1], plane.source[:, ::-1], atol=1e-10)


def test_motion_is_differentiable_at_rest():
    m = CONE.modular()
    with jax.enable_x64(True):
        for order in (jax.grad, lambda f: jax.grad(lambda w: jnp.sum(jax.grad(f)(w)))):
            slope = jax.jit(order(lambda w: jnp.sum(jnp.sin(m.poses.moved(w).source))))(jnp.zeros((12, 3)))
            assert np.isfinite(slope).all() and np.abs(slope).max() > 0.1
    # a rotation about z is what turning the gantry back is
    back = m.moved(np.array([0.1, 0, 0])).source
    np.testing.assert_allclose(back, replace(CONE, angles=ANGLES - 0.1).poses.source, atol=1e-4)


def test_alignment():
    assert CONE.aligned and HELIX.aligned and not TILTED.aligned and BENT.modular().aligned
    free, kept = CONE.modular(), CONE.modular(aligned=True)
    assert not free.aligned and kept.aligned and kept.moved(translation=np.ones(3)).aligned
    assert not kept.moved(np.array([0.0, 0.0, 0.1])).aligned


def test_free_poses_see_a_tilt_also_while_traced():
    """No component of a pose is taken for granted because it happens to be zero."""
    g = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), CONE.modular().subset([0, 3]))
    x = jnp.asarray(np.random.default_rng(1).uniform(size=CONE.image_shape), jnp.float32)
    slope = jax.jit(jax.grad(lambda g: jnp.sum(Radon(g)(x) ** 2)))(g)
    assert np.abs(slope.row).max(0).min() > 0 and np.abs(slope.column).max(0).min() > 0
    tilted = replace(g, row=g.row + np.array([0.0, 0.3, 0.1], np.float32))
    traced = jax.jit(lambda t: Radon(replace(g, row=g.row + t * jnp.array([0.0, 0.3, 0.1])))(x))(1.0)
    np.testing.assert_allclose(traced, Radon(tilted)(x), rtol=1e-4, atol=1e-4)
    assert np.abs(traced - Radon(g)(x)).max() > 0.01


def test_field_of_view_fan_and_cone_angle():
    half = 60 * 0.8 / 2
    assert FLAT.fan_angle == pytest.approx(2 * np.arctan(half / 100))
    assert FLAT.field_of_view == pytest.approx(2 * 60 * np.sin(np.arctan(half / 100)))
    assert FLAT.magnification == pytest.approx(100 / 60)
    np.testing.assert_allclose(FLAT.modular().magnification, 100 / 60)
    assert FLAT.cone_angle == 0
    assert replace(CONE, source_offset=(0.0, 0.0), detector_offset=(0.0, 0.0)).cone_angle == pytest.approx(2 * np.arctan(12 * 1.1 / 100))
    flipped = Modular((16, 20), FLAT.poses.source, FLAT.poses.detector, -FLAT.poses.column, 60, pixel_size=0.9)
    assert flipped.field_of_view == pytest.approx(FLAT.field_of_view)
    with pytest.warns(UserWarning, match=r"detector_count: 20 cells see a circle of .* Use detector_count ≥ 49 unless"):
        short = replace(FLAT, detector_count=20)
    assert not short.sees_whole_object and FLAT.sees_whole_object
    assert replace(FLAT, detector_count=49).sees_whole_object
    with pytest.warns(UserWarning, match="truncated"):
        half_fan = replace(FLAT, detector_offset=25.0)
    assert half_fan.field_of_view == 0


def test_helix_from_pitch():
    width = 6 * 1.2 * 60 / 100
    np.testing.assert_allclose(np.diff(HELIX.table), 0.8 * width / 12)
    assert HELIX.view_count == 30 and np.mean(HELIX.table) == pytest.approx(0)
    assert HELIX.pitch == pytest.approx(0.8)
    np.testing.assert_allclose(HELIX.poses.source[:, 0], HELIX.table)
    np.testing.assert_allclose(HELIX.poses.detector[:, 0], HELIX.table)
    down = Helical.from_pitch((16, 12, 12), 2.5, 12, -0.8, (6, 50), 60.0, 40.0)
    assert down.table[0] > down.table[-1]


def test_numbers_on_the_host_stay_in_double_precision():
    assert all(v.dtype == np.float64 for v in jax.tree.leaves(CONE.poses))
    far = Helical.from_pitch((16, 12, 12), 200, 360, 0.1, (6, 50), 60.0, 40.0)  # many turns: no degrees are suspected
    assert isinstance(far.poses, Poses)


BAD_FAN = [
    ({"image_shape": (8, 8, 8)}, r"image_shape: expected two integers"),
    ({"angles": [0.1, np.nan] * 6}, "angles: expected finite"),
    ({"source_distance": 0.0}, "source_distance: expected values > 0.*From the source to the axis"),
    ({"detector_distance": -1.0}, "detector_distance: expected values > 0"),
    ({"source_distance": np.full(11, 60.0)}, r"source_distance: expected shape \(12,\) \[view\]"),
    ({"source_distance": np.nan}, "source_distance: expected finite"),
    ({"source_distance": 11.0}, r"source_distance: expected a source outside the image's circle of radius 11\.5"),
    ({"source_distance": 60 - 50 * (np.arange(12) == 7)}, "in view 7"),
    ({"detector_offset": np.zeros((12, 2))}, "detector_offset: expected shape"),
    ({"detector_offset": 1j}, "detector_offset: expected a real"),
    ({"detector_offset": 90.0}, "detector: expected rays that meet the image"),
    ({"detector_tilt": 1.5}, "detector_tilt: expected angles within ±80°"),
    ({"detector_tilt": 0.1, "curved": True}, "detector_tilt: expected 0 for a curved"),
    ({"detector_tilt": -1.39, "detector_count": 500}, r"detector_count, detector_spacing: expected rays within 90°"),
    ({"detector_count": 400, "curved": True}, r"expected rays within 90°.*91\.67°"),
    ({"pixel_size": 0}, "pixel_size: expected a positive"),
    ({"detector_spacing": np.ones(2)}, "detector_spacing: expected a positive"),
    ({"detector_count": 0}, "detector_count: expected an integer"),
]
BAD_CONE = [
    ({"image_shape": (8, 8)}, r"image_shape: expected three integers \(nz, ny, nx\)"),
    ({"detector_shape": 24}, r"detector_shape: expected 2 integers \(rows, columns\)"),
    ({"slice_thickness": -1.0}, "slice_thickness"),
    ({"detector_offset": 1.0}, r"detector_offset: expected 2 values \(along z, along the rows of cells\), got float 1\.0"),
    ({"source_offset": (1.0, [1.0, 2.0])}, r"source_offset\[1\]: expected shape \(12,\)"),
    ({"detector_tilt": (0.1, 0.2)}, r"detector_tilt: expected 3 values \(roll, pitch, yaw\), got 2"),
    ({"detector_tilt": (0.1, 0.2, 2.0)}, r"detector_tilt\[2\]: expected angles within"),
    ({"detector_tilt": (0.0, -1.39, 0.0), "detector_shape": (300, 60)}, "expected rays within 90°"),
    ({"source_distance": 11.0}, "source outside the image's cylinder"),
    ({"detector_offset": (80.0, 0.0)}, "detector: expected rays that meet the image"),
    ({"detector_offset": (0.0, np.inf)}, r"detector_offset\[1\]: expected finite"),
]
BAD_HELIX = [
    ({"table": np.zeros(30)}, "table: expected strictly increasing or decreasing positions, got a step of 0 mm after view 0"),
    ({"table": np.abs(HELIX.table)}, "table: expected strictly"),
    ({"table": HELIX.table[:-1]}, r"table: expected shape \(30,\)"),
    ({"table": 3.0}, "table: expected 1 axes"),
    ({"table": np.where(np.arange(30) == 3, np.nan, HELIX.table)}, "table: expected finite"),
]
SOURCE, DETECTOR, COLUMN = FLAT.poses.source, FLAT.poses.detector, FLAT.poses.column
BAD_MODULAR = [
    ({"source": SOURCE[:-1]}, r"detector: expected shape \(11, 2\)"),
    ({"source": np.zeros((12, 2))}, "source: expected a source outside"),
    ({"source": CONE.poses.source}, r"source: expected shape \(12, 2\) \[view, \(y, x\)\]"),
    ({"row": COLUMN}, "row: expected no row in the plane"),
    ({"image_shape": (8, 8, 8)}, r"row: expected \[view, 3\] in space"),
    ({"column": 0 * COLUMN}, "column: expected vectors of positive length"),
    ({"detector": SOURCE}, "detector: expected a detector that faces the source, got one seen edge-on in view 0"),
    ({"column": np.where(np.arange(12)[:, None] == 4, DETECTOR - SOURCE, COLUMN)}, "edge-on in view 4"),
    ({"detector": 3 * SOURCE}, "detector: expected rays that meet the image.*other side of the source"),
    ({"detector": np.where(SOURCE == 0, np.nan, DETECTOR)}, "detector: expected finite"),
    ({"detector_shape": (3, 4)}, "detector_shape: expected 1 integers"),
    ({"image_shape": 8}, "image_shape: expected two"),
]
CASES = [
    (g, *case) for g, cases in ((FLAT, BAD_FAN), (CONE, BAD_CONE), (HELIX, BAD_HELIX), (FLAT.modular(), BAD_MODULAR)) for case in cases
]


@pytest.mark.parametrize(("g", "change", "text"), CASES, ids=lambda v: type(v).__name__ if hasattr(v, "poses") else str(v)[:40])
def test_bad_arguments(g, change, text):
    with pytest.raises(ValueError, match=text):
        replace(g, **change)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FLAT.subset(slice(5, 5)), "index: expected at least one"),
        (lambda: FLAT.subset([0, 12]), r"index: expected views 0 … 11, got 0 … 12"),
        (lambda: FLAT.subset(np.ones(12, bool)), r"index: expected a slice or integers.*flatnonzero"),
        (lambda: FLAT.subset(3), "index: expected 1 axes"),
        (lambda: CONE.rays, "geometry: expected a plane one"),
        (lambda: FLAT.modular().moved(np.zeros((12, 3))), r"rotation: expected shape \(12,\)"),
        (lambda: CONE.modular().moved(np.zeros(12)), r"rotation: expected shape \(12, 3\)"),
        (lambda: CONE.modular().moved(translation=np.full(3, np.nan)), "translation: expected finite"),
        (lambda: replace(TILTED.modular(), aligned=True), "aligned: expected False"),
        (lambda: replace(CONE.modular(), curved=True), "curved: expected False in space"),
        (lambda: Helical.from_pitch((8, 8, 8), 2, 10, 0.0, (4, 40), 60.0, 40.0), "pitch: expected a number other than 0"),
        (lambda: Helical.from_pitch((8, 8, 8), -2, 10, 1.0, (4, 40), 60.0, 40.0), "turns: expected a positive"),
    ],
)
def test_bad_calls(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_degrees_are_noticed():
    for g, angles in ((FLAT, np.arange(0, 360.0, 30)), (CONE, np.arange(0, 360.0, 30)), (HELIX, np.arange(30.0))):
        with pytest.warns(UserWarning, match="expected radians") as caught:
            type(g)(**{name: getattr(g, name) for name in type(g).__dataclass_fields__ if name != "angles"}, angles=angles)
        assert caught[0].filename == __file__
