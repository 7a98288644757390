"""Transforms and warps against SimpleITK, in oriented, anisotropic grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from diffimg import forward as f
from diffimg.data import Grid

sitk = pytest.importorskip("SimpleITK")
RNG = np.random.default_rng(0)
CENTRE, SHIFT = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.7, 0.3])


def grid(ndim, shape=(14, 17, 12)):
    q = np.linalg.qr(np.random.default_rng(3).standard_normal((ndim, ndim)))[0]
    q *= np.sign(np.linalg.det(q))
    return Grid(shape[:ndim], (1.5, 0.8, 2.0)[:ndim], (3.0, -7.0, 5.0)[:ndim], q.tolist())


def image(values, where, vector=False):
    out = sitk.GetImageFromArray(values, isVector=vector)
    out.SetOrigin(where.itk["origin"])
    out.SetSpacing(where.itk["spacing"])
    out.SetDirection(where.itk["direction"])
    return out


def moved(transform, points):
    """Points in array order through a SimpleITK transform."""
    return np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points])


def affine(matrix, translation, centre):
    out = sitk.AffineTransform(len(centre))
    out.SetMatrix(np.asarray(matrix)[::-1, ::-1].ravel().tolist())
    out.SetTranslation(translation[::-1].tolist())
    out.SetCenter(centre[::-1].tolist())
    return out


def rigid(ndim):
    rotation = np.array([0.3]) if ndim == 2 else np.array([0.1, -0.2, 0.3])
    return f.Rigid(rotation, SHIFT[:ndim], CENTRE[:ndim])


def linear(kind, ndim):
    c, t = CENTRE[:ndim], SHIFT[:ndim]
    if kind == "rigid":
        theirs = sitk.Euler2DTransform() if ndim == 2 else sitk.VersorRigid3DTransform()
        theirs.SetCenter(c[::-1].tolist())
        theirs.SetTranslation(t[::-1].tolist())
        ours = rigid(ndim)
        if ndim == 2:
            theirs.SetAngle(0.3)
        else:
            axis = np.asarray(ours.rotation)[::-1]
            theirs.SetRotation((axis / np.linalg.norm(axis)).tolist(), float(np.linalg.norm(axis)))
        return ours, theirs
    if kind == "similarity":
        ours = f.Similarity(rigid(ndim).rotation, np.log(1.2), t, c)
        return ours, affine(1.2 * rigid(ndim).matrix, t, c)
    if kind == "translation":
        return f.Translation(t), sitk.TranslationTransform(ndim, t[::-1].tolist())
    matrix = np.eye(ndim) + 0.1 * np.random.default_rng(1).standard_normal((ndim, ndim))
    return f.Affine(matrix, t, c), affine(matrix, t, c)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity", "affine"])
def test_linear_transforms_equal_itk(kind, ndim, x64):
    ours, theirs = linear(kind, ndim)
    points = RNG.uniform(-30, 30, (20, ndim))
    np.testing.assert_allclose(ours(points), moved(theirs, points), atol=1e-12)
    np.testing.assert_allclose(ours.inverse()(ours(points)), points, atol=1e-12)
    np.testing.assert_allclose(ours.homogeneous @ np.append(points[0], 1), np.append(ours(points[0]), 1), atol=1e-12)
    np.testing.assert_allclose(ours.jacobian_determinant(grid(ndim)), np.linalg.det(ours.matrix), rtol=1e-12)
    same = type(ours).identity(ndim, CENTRE[:ndim], jnp.float64)
    np.testing.assert_allclose(same(points), points, atol=1e-14)
    check_grads(lambda t: t(points[:2]), (ours,), order=2, modes=("rev",), rtol=1e-5)
    check_grads(lambda t: t(points[:2]), (same,), order=2, modes=("rev",), rtol=1e-5)


def test_rotations(x64):
    vectors = (np.zeros(3), np.array([1e-9, 0, 0]), np.array([0.01, 0.02, -0.01]), np.array([2.0, -1.0, 1.0]), np.array([0, np.pi, 0]))
    for w in vectors:
        matrix = f.rotation_matrix(jnp.asarray(w))
        cross = np.array([[0, w[2], -w[1]], [-w[2], 0, w[0]], [w[1], -w[0], 0.0]])  # of (x, y, z), both axes reversed
        np.testing.assert_allclose(matrix, scipy.linalg.expm(cross), atol=1e-12)
        back = f.rotation_vector(matrix)
        np.testing.assert_allclose(f.rotation_matrix(jnp.asarray(back)), matrix, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(back), np.linalg.norm(w), atol=1e-9)
    np.testing.assert_allclose(f.rotation_vector(f.rotation_matrix(jnp.array([2.5]))), [2.5])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_warp_equals_itk_resampling(order, ndim, x64):
    where, values = grid(ndim), RNG.standard_normal((14, 17, 12)[:ndim])
    onto = Grid((11, 13, 9)[:ndim], (1.1, 1.3, 2.2)[:ndim], tuple(np.array(where.centre) - np.array((5.0, 7.0, 9.0)[:ndim])))
    ours, theirs = linear("affine", ndim)
    interpolator = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline}[order]
    expected = sitk.GetArrayFromImage(sitk.Resample(image(values, where), image(np.zeros(onto.shape), onto), theirs, interpolator, np.nan))
    out = np.asarray(f.warp(values, ours, order, "constant", np.nan, where, onto))
    both = np.isfinite(out) & np.isfinite(expected)  # ITK goes half a sample beyond the last
    assert both.mean() > 0.5
    assert not (np.isfinite(out) & np.isnan(expected)).any()
    np.testing.assert_allclose(out[both], expected[both], atol=1e-12)


@pytest.mark.parametrize("ndim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_free_form_equals_itk(ndim, x64):
    where = grid(ndim)
    theirs = sitk.BSplineTransformInitializer(image(np.zeros(where.shape), where), [2, 4, 3][:ndim], 3)
    fixed = theirs.GetFixedParameters()
    lattice = Grid.from_itk([int(v) for v in fixed[:ndim]], fixed[2 * ndim : 3 * ndim], fixed[ndim : 2 * ndim], fixed[3 * ndim :])
    coefficients = RNG.standard_normal((*lattice.shape, ndim))
    theirs.SetParameters(np.concatenate([coefficients[..., k].ravel() for k in range(ndim)[::-1]]).tolist())
    ours = f.FreeForm(coefficients, lattice)
    points = where.index_to_world(RNG.uniform(-2, 1.1 * np.array(where.shape), (300, ndim)))
    expected = moved(theirs, points)
    assert 0.1 < (np.abs(expected - points).max(1) == 0).mean() < 0.9  # some lie outside
    np.testing.assert_allclose(ours(points), expected, atol=1e-11)
    samples = where.index_to_world(np.stack(np.indices(where.shape), -1))
    np.testing.assert_allclose(ours.displacement(where), ours(samples) - samples, atol=1e-12)
    fast = ours.jacobian_on_grid(where)
    slow = f.Transform.jacobian_on_grid(ours, where)
    np.testing.assert_allclose(np.asarray(fast), np.asarray(slow), atol=1e-10)
    point = samples[(5,) * ndim]
    theirs_jacobian = np.stack([(moved(theirs, [point + e])[0] - moved(theirs, [point - e])[0]) / 2e-5 for e in 1e-5 * np.eye(ndim)], -1)
    np.testing.assert_allclose(np.asarray(fast)[(..., *(5,) * ndim)], theirs_jacobian, atol=1e-7)


def test_free_form_lattice():
    where = Grid((40, 60), (2.0, 1.0), (5.0, -3.0))
    free = f.FreeForm.identity(where, spacing=15.0)
    assert free.lattice.shape == (5 + 3, 4 + 3) and free.lattice.spacing == (16.0, 15.0)
    np.testing.assert_allclose(free.lattice.index_to_world(np.array([1.0, 1.0])), np.array(where.origin) - np.array(where.spacing) / 2)
    shift = f.FreeForm(jnp.ones((8, 7, 2)), free.lattice)  # a constant displacement everywhere on the image
    np.testing.assert_allclose(shift.displacement(where), 1, atol=1e-6)
    np.testing.assert_allclose(shift.jacobian_determinant(where), 1, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_displacement_field_equals_itk(ndim, x64):
    where = grid(ndim)
    u = RNG.standard_normal((*where.shape, ndim))
    ours = f.DisplacementField.from_world(u, where, outside="zero")
    theirs = sitk.DisplacementFieldTransform(sitk.Cast(image(u[..., ::-1].copy(), where, True), sitk.sitkVectorFloat64))
    points = where.index_to_world(RNG.uniform(-2, 1.1 * np.array(where.shape), (300, ndim)))
    np.testing.assert_allclose(ours(points), moved(theirs, points), atol=1e-12)
    np.testing.assert_allclose(ours.displacement(where), u, atol=1e-12)
    upright = Grid(where.shape, where.spacing)  # ITK's determinant leaves the direction out
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image(u[..., ::-1].copy(), upright, True)))
    inner = (slice(1, -1),) * ndim
    straight = f.DisplacementField.from_world(u, upright).jacobian_determinant(upright)
    np.testing.assert_allclose(straight[inner], determinant[inner], atol=1e-5)
    axes = np.asarray(where.direction)
    turned = f.DisplacementField.from_world(u @ axes.T, where).jacobian_determinant(where)
    np.testing.assert_allclose(turned[inner], determinant[inner], atol=1e-5)


def smooth_velocity(where):
    index = np.indices(where.shape)
    waves = [np.sin(index[k] / 3.0 + k) * np.cos(index[-1] / 4) for k in range(where.ndim)]
    return f.VelocityField(0.5 * np.stack(waves, -1), where)


def test_velocity_field(x64):
    where = Grid((16, 18), (1.5, 0.8))
    velocity = smooth_velocity(where)
    # the flow dx/dt = v(x) from 0 to 1, by SciPy
    from scipy.integrate import solve_ivp
    from scipy.ndimage import map_coordinates

    def right(_, x):
        return np.stack([map_coordinates(np.asarray(velocity.vectors[..., k]), x[:, None], order=1, mode="nearest")[0] for k in range(2)])

    start = np.array([[5.0, 6.0], [9.0, 12.0], [7.3, 4.4]])
    expected = [solve_ivp(right, (0, 1), x, rtol=1e-8, atol=1e-10).y[:, -1] for x in start]
    found = velocity(start * np.array(where.spacing)) / np.array(where.spacing)
    np.testing.assert_allclose(found, expected, atol=0.02)
    there_and_back = (velocity.inverse() @ velocity)(start * np.array(where.spacing))
    np.testing.assert_allclose(there_and_back, start * np.array(where.spacing), atol=0.02)
    assert float(velocity.jacobian_determinant(where).min()) > 0


@pytest.mark.slow
def test_inverse_of_any_transform(x64):
    where = grid(2)
    free = f.FreeForm.identity(where, mesh=(5, 6))
    moves = 0.4 * RNG.standard_normal(free.coefficients.shape)
    moves[:3], moves[-3:], moves[:, :3], moves[:, -3:] = 0, 0, 0, 0  # at rest at the edge of the lattice, beyond which nothing moves
    free = f.FreeForm(moves, free.lattice)
    for transform in (free, smooth_velocity(where), rigid(2) @ free):
        inverse, residual = jax.jit(lambda t: f.invert(t, where))(transform)
        assert residual.shape == where.shape and float(jnp.max(residual)) < 1e-9
        samples = where.index_to_world(np.stack(np.indices(where.shape), -1))
        np.testing.assert_allclose(transform(inverse(samples)), samples, atol=1e-9)
    with pytest.raises(ValueError, match=r"Use forward.invert"):
        free.inverse()
    folded = f.DisplacementField(4 * RNG.standard_normal((*where.shape, 2)), where)
    assert not float(jnp.max(f.invert(folded, where).residual)) < 0.1  # and says so


def test_composition_interpolates_once(x64):
    where = grid(2)
    values = RNG.standard_normal(where.shape)
    free = f.FreeForm.identity(where, mesh=3)
    free = f.FreeForm(0.5 * RNG.standard_normal(free.coefficients.shape), free.lattice)
    both = rigid(2) @ free @ f.Translation(np.array([0.2, 0.1]))
    composite = sitk.CompositeTransform(2)
    points = where.index_to_world(RNG.uniform(3, 10, (20, 2)))
    np.testing.assert_allclose(both(points), rigid(2)(free(points + np.array([0.2, 0.1]))), atol=1e-12)
    composite.AddTransform(linear("rigid", 2)[1])
    composite.AddTransform(sitk.TranslationTransform(2, [0.1, 0.2]))
    np.testing.assert_allclose((rigid(2) @ f.Translation(np.array([0.2, 0.1])))(points), moved(composite, points), atol=1e-12)
    index = where.world_to_index(both(samples_of(where)))
    np.testing.assert_allclose(f.warp(values, both, 3, grid=where), f.interpolate(values, index, 3), atol=1e-12)
    assert len(both.transforms) == 3 and "@" in repr(both)
    np.testing.assert_allclose((rigid(2) @ f.Translation(SHIFT[:2])).inverse()(rigid(2)(points + SHIFT[:2])), points, atol=1e-12)


def samples_of(where):
    return where.index_to_world(np.stack(np.indices(where.shape), -1))


def test_warp_of_labels_channels_and_densities(x64):
    where = Grid((24, 30))
    centre = np.array([12.0, 15.0])
    y, x = np.indices(where.shape)
    blob = np.exp(-((y - 12) ** 2 + (x - 15) ** 2) / 8)
    grow = f.Affine(0.7 * np.eye(2), np.zeros(2), centre)  # pull-back: the blob becomes larger
    kept = f.warp(blob, grow, 3, modulated=True)
    np.testing.assert_allclose(kept.sum(), blob.sum(), rtol=1e-3)
    assert float(f.warp(blob, grow, 3).sum()) > 1.9 * blob.sum()
    channels = f.warp(np.stack([blob, 2 * blob]), grow)
    np.testing.assert_allclose(channels[1], 2 * channels[0], atol=1e-12)
    labels = f.warp((blob > 0.5).astype(np.int32), grow, order=0)
    assert labels.dtype == jnp.int32 and set(np.unique(labels)) == {0, 1}
    check_grads(lambda t: f.warp(blob, t, 3), (grow,), order=1, modes=("rev",), rtol=1e-4)


def test_warp_is_an_operator_that_composes_with_a_scan():
    where = Grid.centred((16, 16))
    scan = f.Radon(f.ParallelBeam((16, 16), np.linspace(0, np.pi, 12, endpoint=False), 25))
    turn = f.Rigid(np.array([0.2]), np.zeros(2))
    x = RNG.standard_normal((16, 16)).astype(np.float32)
    moving = scan @ f.Warp(turn, where)
    np.testing.assert_allclose(moving(x), scan(f.warp(x, turn, grid=where)), atol=1e-4)
    slope = jax.grad(lambda angle: jnp.sum((scan @ f.Warp(f.Rigid(angle, np.zeros(2)), where))(x) ** 2))(np.array([0.2], np.float32))
    assert np.isfinite(slope).all() and abs(float(slope[0])) > 0


WHERE = Grid((4, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.Affine(np.diag([1.0, -1.0]), np.zeros(2)), "linear: expected a matrix of positive determinant, got -1"),
        (lambda: f.Affine(np.eye(3), np.zeros(2)), "linear: expected shape"),
        (lambda: f.Rigid(np.zeros(3), np.zeros(2)), "rotation: expected shape"),
        (lambda: f.Rigid(np.zeros(1), np.zeros(2), np.zeros(3)), "centre: expected shape"),
        (lambda: f.Translation(np.array([np.nan, 0.0])), "translation: expected finite"),
        (lambda: f.Translation(np.zeros(4)), "translation: expected 2 or 3 numbers"),
        (lambda: f.FreeForm.identity(WHERE), "spacing, mesh: expected one of the two"),
        (lambda: f.FreeForm(np.zeros((3, 3, 2)), Grid((3, 3))), "lattice: expected more than 3"),
        (lambda: f.FreeForm(np.zeros((5, 5, 3)), Grid((5, 5))), "coefficients: expected shape"),
        (lambda: f.DisplacementField(np.zeros((5, 4, 2)), WHERE), "vectors: expected shape"),
        (lambda: f.DisplacementField(np.zeros((4, 5, 2)), WHERE, "wrap"), "outside: expected one of"),
        (lambda: f.Composition((f.Translation(np.zeros(2)), f.Translation(np.zeros(3)))), "transforms of one dimension"),
        (lambda: f.warp(np.zeros((4, 5)), f.Translation(np.zeros(3))), "image: expected at least 3 axes"),
        (lambda: f.warp(np.zeros((4, 5)), f.Translation(np.zeros(3)), grid=WHERE), "grid: expected a grid of 3 axes"),
        (lambda: f.warp(np.zeros((5, 4)), f.Translation(np.zeros(2)), grid=WHERE), "image: expected shape"),
        (lambda: f.warp(np.zeros((4, 5)), np.zeros((4, 5, 2))), "transform: expected a diffimg transform"),
        (lambda: f.Translation(np.zeros(2))(np.zeros(3)), "points: expected shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
