"""Exact rays through phantoms, and the sinograms of divergent geometries, against SciPy's quadrature, closed forms and ASTRA."""

import dataclasses
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad
from scipy.spatial.transform import Rotation

from diffimg.core.pytree import replace
from diffimg.data import Ellipses, Ellipsoids, project, random_ellipses, random_ellipsoids
from diffimg.data.rays import full, power_integral
from diffimg.forward import ConeBeam, FanBeam, ParallelBeam

RNG = np.random.default_rng(7)


def in_f64(phantom, exponent=None):
    fields = (np.asarray(v, np.float64) for v in jax.tree.leaves(phantom))
    return type(phantom)(*fields, phantom.exponent if exponent is None else exponent)


def value(phantom, points):
    """The phantom at points ``[..., nd]``, from its definition, with SciPy's rotations."""
    total = 0.0
    for c, s, r, d in zip(*(np.asarray(v, np.float64) for v in jax.tree.leaves(phantom)), strict=True):
        turn = Rotation.from_rotvec(r[::-1].copy() if r.ndim else [0, 0, r]).as_matrix()  # in (x, y, z)
        turn = turn[::-1, ::-1] if r.ndim else turn[1::-1, 1::-1]
        gap = 1 - ((((points - c) @ turn) / s) ** 2).sum(-1)
        total = total + d * np.where(gap > 0, np.maximum(gap, 0) ** phantom.exponent, 0)
    return total


def along(phantom, origin, direction):
    """The integral along one line by Gauss–Legendre quadrature between its crossings with each body."""
    unit = direction / np.linalg.norm(direction)
    total = 0.0
    for i in range(len(phantom.density)):
        one = type(phantom)(*(v[i : i + 1] for v in jax.tree.leaves(phantom)), phantom.exponent)
        matrix, center = (np.asarray(v, np.float64)[0] for v in one.unit_frames())
        d, p = matrix @ unit, matrix @ (origin - center)
        roots = np.roots([d @ d, 2 * p @ d, p @ p - 1])
        if np.isreal(roots).all():
            low, high = np.sort(roots.real)
            total += quad(lambda t, one=one: value(one, origin + t * unit), low, high)[0]
    return total


PHANTOMS = {
    "ellipses": random_ellipses(jax.random.key(1), 4, 20.0),
    "ellipsoids": random_ellipsoids(jax.random.key(2), 4, 20.0, semi_axes=(0.2, 0.6)),
}


@pytest.mark.parametrize("exponent", [0, 1, 2])
@pytest.mark.parametrize("name", PHANTOMS)
def test_integrals_are_those_of_the_definition(name, exponent):
    with jax.enable_x64(True):
        phantom = in_f64(PHANTOMS[name], exponent)
        n = phantom.centers.shape[-1]
        aims = np.asarray(phantom.centers)[RNG.integers(0, 4, 6)] + RNG.normal(size=(6, n))
        directions = RNG.normal(size=(6, n)) * 3
        origins = aims - 40 * directions
        got = phantom.integrals(origins, directions)
        want = [along(phantom, o, d) for o, d in zip(origins, directions, strict=True)]
        assert np.min(want) > 0
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(phantom.integrals(aims, -0.1 * directions), got, rtol=1e-9)
    out = replace(PHANTOMS[name], exponent=exponent).integrals(origins.astype(np.float32), directions.astype(np.float32))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, got, rtol=2e-4, atol=2e-4)


def test_the_centre_of_a_ball_and_its_tangents():
    for exponent, chord in ((0, 2.0), (1, 4 / 3), (2, 16 / 15), (3, 32 / 35)):
        ball = Ellipsoids([[1.0, 2.0, 3.0]], [[2.0, 2.0, 2.0]], [0.3], [5.0], exponent)
        h = np.array([0.0, 0.5, 1.0, 1.9, 2.0, 2.5])
        origins = np.stack([1 + h, 0 * h, 3 + 0 * h], -1)
        got = ball.integrals(origins, np.array([0.0, 3.0, 0.0]))
        np.testing.assert_allclose(got, 10 * chord * np.maximum(0, 1 - h**2 / 4) ** (exponent + 0.5), rtol=1e-5, atol=1e-6)
        assert np.isclose(full(exponent), chord)
    gradient = jax.grad(lambda b: b.integrals(origins, jnp.array([0.0, 3.0, 0.0])).sum())(replace(ball, exponent=0))
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def test_antiderivatives_against_quadrature(x64):
    t = np.array([-1.5, -1.0, -0.4, 0.0, 0.7, 1.0, 2.0])
    for m in (0, 0.5, 1, 1.5, 2, 2.5):
        want = [quad(lambda s, m=m: (1 - s * s) ** m, 0, np.clip(v, -1, 1))[0] for v in t]
        np.testing.assert_allclose(power_integral(jnp.asarray(t), m), want, atol=1e-10)
        slope = jax.vmap(jax.grad(lambda v, m=m: power_integral(v, m)))(jnp.asarray(t))
        np.testing.assert_allclose(slope, np.where(np.abs(t) < 1, np.maximum(0, 1 - t * t) ** m, 0), atol=1e-12)


@pytest.mark.parametrize("name", PHANTOMS)
def test_gradients_of_integrals_against_finite_differences(name, x64):
    phantom = in_f64(PHANTOMS[name], 1)
    n = phantom.centers.shape[-1]
    aims = jnp.asarray(phantom.centers) + RNG.normal(size=(4, n))
    directions = jnp.asarray(RNG.normal(size=(4, n)))
    check_gradient(lambda p, o, d: p.integrals(o, d).sum(), (phantom, aims - 5 * directions, directions))


def check_gradient(f, arguments, rtol=1e-6):
    point, unravel = ravel_pytree(arguments)
    f = jax.jit(lambda p, f=f: f(*unravel(p)))
    gradient, h = jax.grad(f)(point), 1e-6
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(point.shape)
        numeric = (f(point + h * direction) - f(point - h * direction)) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), numeric, rtol=rtol)


def fan(curved=False, **changes):
    arguments = {"detector_spacing": 1.7, "detector_offset": 0.6, "curved": curved} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FanBeam((40, 40), np.linspace(0, 2 * np.pi, 6, endpoint=False) + 0.1, 48, 60.0, 50.0, **arguments)


@pytest.mark.parametrize("curved", [False, True])
def test_fan_rays_are_the_parallel_rays_of_the_textbook(curved, x64):
    phantom, geometry = in_f64(PHANTOMS["ellipses"]), fan(curved)
    arc = (np.arange(48) - 23.5) * 1.7 + 0.6
    gamma = arc / 110 if curved else np.arctan(arc / 110)
    want = [
        np.diag(phantom.project(beta - gamma, 60 * np.sin(gamma)))  # θ = β − γ, l = R sin γ
        for beta in geometry.angles
    ]
    np.testing.assert_allclose(project(phantom, geometry, oversample=1), want, atol=1e-9)


@pytest.mark.parametrize("curved", [False, True])
def test_a_cell_holds_the_average_over_its_rays(curved, x64):
    phantom, geometry = in_f64(PHANTOMS["ellipses"], 1), fan(curved)
    sinogram = project(phantom, geometry, oversample=6)
    beta = geometry.angles[2:3]

    def ray(arc):
        gamma = arc / 110 if curved else np.arctan(arc / 110)
        return float(phantom.project(beta - gamma, np.array([60 * np.sin(gamma)]))[0, 0])

    for cell in (18, 29):
        middle = (cell - 23.5) * 1.7 + 0.6
        want = quad(ray, middle - 0.85, middle + 0.85, limit=40, epsabs=1e-5)[0] / 1.7
        np.testing.assert_allclose(sinogram[2, cell], want, rtol=1e-4)


def test_a_distant_source_is_a_parallel_beam(x64):
    angles, positions = np.linspace(0, 3, 5), (np.arange(43) - 21) * 1.0
    for exponent, tolerance in ((0, 1e-3), (1, 3e-5)):
        phantom = in_f64(PHANTOMS["ellipses"], exponent)
        far = SimpleNamespace(
            poses=SimpleNamespace(
                source=-1e7 * np.stack([np.cos(angles), -np.sin(angles)], -1),
                detector=np.zeros((5, 2)),
                column=np.stack([np.sin(angles), np.cos(angles)], -1),
                row=None,
            ),
            sinogram_shape=(5, 43),
        )
        want = project(phantom, ParallelBeam((30, 30), angles, 43))
        np.testing.assert_allclose(want, phantom.project(angles, positions, 1.0))
        got = project(phantom, far)
        assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)


def cone(**changes):
    arguments = {"detector_spacing": (2.5, 2.0), "detector_offset": (0.5, -0.8)} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ConeBeam((30, 30, 30), np.array([0.2, 1.7, 4.0]), (20, 26), 70.0, 50.0, **arguments)


def test_cone_rays_run_from_the_source_to_the_cells(x64):
    phantom, geometry = in_f64(PHANTOMS["ellipsoids"], 1), cone()
    sinogram = np.asarray(project(phantom, geometry, oversample=1))
    assert sinogram.shape == (3, 20, 26)
    for view, k, j in ((0, 9, 12), (1, 12, 10), (2, 7, 15)):
        beta = geometry.angles[view]
        e, f = np.array([0, np.cos(beta), -np.sin(beta)]), np.array([0, np.sin(beta), np.cos(beta)])
        cell = 50 * e + ((j - 12.5) * 2.0 - 0.8) * f + np.array([(k - 9.5) * 2.5 + 0.5, 0, 0])
        want = along(phantom, -70 * e, cell + 70 * e)
        assert want > 0.1
        np.testing.assert_allclose(sinogram[view, k, j], want, rtol=1e-7)
    fine = project(phantom, geometry, oversample=12)
    assert np.linalg.norm(project(phantom, geometry) - fine) < 2e-4 * np.linalg.norm(fine)


def test_a_sinogram_is_the_mass_of_the_phantom_seen_through_a_small_cone():
    ball = Ellipsoids([[1.0, -2.0, 0.5]], [[4.0, 3.0, 5.0]], [[0.3, -0.8, 0.5]], [0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        geometry = ConeBeam((16, 16, 16), np.array([0.4]), (40, 40), 1e4, 1e4, detector_spacing=0.8)
    mass = 0.7 * 4 / 3 * np.pi * 4 * 3 * 5
    np.testing.assert_allclose(float(project(ball, geometry).sum()) * 0.4**2, mass, rtol=2e-3)


def test_gradients_in_the_geometry_against_finite_differences(x64):
    phantom, geometry = in_f64(PHANTOMS["ellipses"], 1), fan()
    weights = jnp.asarray(RNG.normal(size=geometry.sinogram_shape))

    def f(distance, offset, angles, phantom):
        moved = dataclasses.replace(geometry, source_distance=distance, detector_offset=offset, angles=angles)
        return jnp.vdot(weights, project(phantom, moved, oversample=2))

    check_gradient(f, (jnp.asarray(60.0), jnp.asarray(0.6), jnp.asarray(geometry.angles), phantom), rtol=1e-5)


def test_one_trace_for_changed_leaves_and_vmap_equals_a_loop():
    traces = []

    @jax.jit
    def f(phantom, geometry):
        traces.append(0)
        return project(phantom, geometry)

    phantoms = [random_ellipses(jax.random.key(k), 4, 20.0) for k in range(2)]
    one = [f(p, fan(source_offset=k)) for k, p in enumerate(phantoms)]
    assert len(traces) == 1
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *phantoms)
    both = jax.vmap(lambda p: project(p, fan(source_offset=1.0)))(stacked)
    np.testing.assert_allclose(both[1], one[1], atol=1e-4)


def test_smooth_ellipses_have_consistent_rasters_and_projections(x64):
    phantom = in_f64(PHANTOMS["ellipses"], 2)
    y, x = ((np.arange(44 * 8) - (44 * 8 - 1) / 2) / 8 for _ in range(2))
    want = value(phantom, np.stack(np.meshgrid(y, x, indexing="ij"), -1)).reshape(44, 8, 44, 8).mean((1, 3))
    np.testing.assert_allclose(phantom.rasterize((44, 44)), want, atol=3e-3 * want.max())
    lines = phantom.project(np.array([0.0, 0.4]), np.array([1.3, -2.0]))
    directions = np.array([[1.0, 0.0], [np.cos(0.4), -np.sin(0.4)]])[:, None]
    origins = np.array([1.3, -2.0])[:, None] * np.array([[0.0, 1.0], [np.sin(0.4), np.cos(0.4)]])[:, None]
    np.testing.assert_allclose(lines, phantom.integrals(origins, directions), rtol=1e-9)
    averaged = phantom.project(np.array([0.4]), (np.arange(50) - 24.5) * 1.0, 1.0).sum()
    mass = np.sum(np.asarray(phantom.density) * np.prod(np.asarray(phantom.semi_axes), -1)) * np.pi / 3
    np.testing.assert_allclose([averaged, phantom.rasterize((44, 44)).sum()], mass, rtol=1e-5)


def test_astra_projects_the_raster_to_the_fan_sinogram():
    astra = pytest.importorskip("astra")
    n, fine = 96, 2
    phantom = random_ellipses(jax.random.key(3), 5, radius=45.0)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False) + 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        geometry = FanBeam((n, n), angles, 160, 150.0, 100.0, detector_spacing=1.5)
    poses = geometry.poses
    flip = np.array([-1.0, 1.0])  # ASTRA's y points up
    rays = np.concatenate([(np.asarray(v) * flip)[:, ::-1] for v in (poses.source, poses.detector, poses.column)], 1)
    window = (n / 2 * np.array([-1, 1, -1, 1])).tolist()
    volume = astra.create_vol_geom(n * fine, n * fine, *window)
    line = astra.create_projector("line_fanflat", astra.create_proj_geom("fanflat_vec", 160, rays), volume)
    number, measured = astra.create_sino(np.asarray(phantom.rasterize((n * fine, n * fine), 1 / fine)), line)
    astra.data2d.delete(number)
    astra.projector.delete(line)
    exact = np.asarray(project(phantom, geometry, oversample=1))
    assert np.linalg.norm(measured - exact) < 0.015 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: project(PHANTOMS["ellipsoids"], fan()), "phantom: expected a phantom in 2 dimensions"),
        (lambda: project(PHANTOMS["ellipses"], cone()), "phantom: expected a phantom in 3 dimensions"),
        (lambda: project(PHANTOMS["ellipsoids"], ParallelBeam((8, 8), np.zeros(1), 13)), "phantom: expected Ellipses"),
        (lambda: project(PHANTOMS["ellipses"], fan(), oversample=0), "oversample"),
        (lambda: PHANTOMS["ellipses"].integrals(np.zeros((4, 3)), np.ones(2)), "origins: expected shape"),
        (lambda: PHANTOMS["ellipses"].integrals(np.zeros(2), np.zeros((4, 2))), "directions: expected vectors that are not zero"),
        (lambda: PHANTOMS["ellipses"].integrals(np.zeros(2), [np.nan, 1.0]), "directions: expected finite"),
        (lambda: Ellipses([[0, 0]], [[1, 1]], [0], [1.0], exponent=0.5), "exponent"),
        (lambda: Ellipses([[0, 0]], [[1, 1]], [0], [1.0], exponent=1).fourier(0.0, 0.0), "exponent: expected 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
