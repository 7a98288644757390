"""The Fourier projector against the exact non-uniform transform, analytic projections, and its own contract."""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core.pytree import replace
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.radon import Radon
from diffimg.forward.radon_fourier import DERIVATIVE_PERIODS
from diffimg.forward.radon_prepared import PreparedRadon


def exact(geometry, x, image_model="pixel", detector_model="bin", angles=None, offset=None, periods=1):
    """The projections of the modelled image by direct float64 sums, without grid or window, over ``periods`` of the detector's period."""
    ny, nx = geometry.image_shape
    pixel, spacing = geometry.pixel_size, geometry.detector_spacing
    angles = np.asarray(geometry.angles if angles is None else angles, np.float64)
    offset = float(geometry.detector_offset if offset is None else offset)
    plan = Radon(geometry)._plan
    length = periods * plan.period * spacing / plan.subsampling
    nu = np.arange(periods * plan.period // 2 + 1) / length
    y, columns = ((np.arange(n) - (n - 1) / 2) * pixel for n in (ny, nx))
    cells = (np.arange(geometry.detector_count) - (geometry.detector_count - 1) / 2) * spacing + offset
    ends = (nu == 0) | (nu == nu[-1])
    inverse = np.exp(2j * np.pi * np.outer(nu, cells)) * np.where(ends, 1, 2)[:, None] * (abs(cells) <= length / 2 / periods) / length
    out = []
    for t in angles:
        u, v = nu * np.cos(t), nu * np.sin(t)
        s = np.einsum("kn,nk->k", np.exp(-2j * np.pi * np.outer(v, y)), x @ np.exp(-2j * np.pi * np.outer(columns, u))) * pixel**2
        if image_model == "pixel":
            s *= np.sinc(u * pixel) * np.sinc(v * pixel)
        else:
            s *= (abs(u * pixel) <= 0.5) & (abs(v * pixel) <= 0.5)
        out.append((s * (np.sinc(nu * spacing) if detector_model == "bin" else 1) @ inverse).real)
    return np.array(out)


def error(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def phantom(shape, kind, rng):
    ny, nx = shape
    y, x = np.mgrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j]
    r = np.hypot(x - 0.2, y + 0.1)
    return {"noise": rng.standard_normal(shape), "smooth": np.exp(-8 * r**2) * np.cos(20 * r), "disc": (r < 0.55) * 1.0}[kind]


def beam(shape=(32, 32), views=7, detectors=None, **kwargs):
    angles = kwargs.pop("angles", np.random.default_rng(1).uniform(-7, 7, views))
    return ParallelBeam(shape, angles, detectors or int(np.ceil(np.hypot(*shape))) + 1, **kwargs)


GEOMETRIES = {
    "square": beam(),
    "odd, not square": beam((31, 20)),
    "wide": beam((6, 40)),
    "offset": beam(detectors=52, detector_offset=2.3),
    "millimetres": beam(pixel_size=0.7, detector_spacing=0.7, detectors=50),
    "coarse detector": beam(pixel_size=0.7, detector_spacing=1.3, detectors=30),
    "fine detector": beam(pixel_size=1.0, detector_spacing=0.6, detectors=80),
    "long detector": beam(detectors=150, detector_offset=-20.0),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_exact_transform(name):
    g = GEOMETRIES[name]
    x = phantom(g.image_shape, "smooth", np.random.default_rng(0)) + 0.5
    for image_model, detector_model in (("pixel", "bin"), ("band-limited", "point")):
        A = Radon(g, image_model=image_model, detector_model=detector_model, width=6).prepare()
        assert error(A(x.astype(np.float32)), exact(g, x, image_model, detector_model)) <= 1e-5


@pytest.mark.parametrize("name", GEOMETRIES)
def test_prepared_traced_and_adjoint_agree(name):
    g = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    A = Radon(g)
    P = A.prepare()
    assert isinstance(P, PreparedRadon)
    assert P.domain == A.domain
    assert P.codomain == A.codomain == jax.eval_shape(lambda a: a._forward(jnp.zeros(a.domain.shape)), A)
    x, y = rng.standard_normal(A.domain.shape).astype(np.float32), rng.standard_normal(A.codomain.shape).astype(np.float32)
    assert error(A(x), np.asarray(P(x))) <= 2e-5
    for B in (A, P) if name in ("square", "coarse detector", "fine detector") else (P,):
        assert dot_defect(B, x, y) <= 1e-6


def dot_defect(A, x, y):
    ax, ay = np.asarray(A(x), np.float64), np.asarray(A.H(y), np.float64)
    return abs(np.vdot(ax, y) - np.vdot(x, ay)) / (np.linalg.norm(ax) * np.linalg.norm(y))


def test_tolerances_by_width():
    g = beam((48, 48))
    x = np.random.default_rng(0).random((48, 48)).astype(np.float32)
    for image_model, detector_model in (("pixel", "bin"), ("band-limited", "bin")):
        reference = exact(g, x, image_model, detector_model)
        for width, tolerance in ((4, 5e-4), (6, 1e-5)):
            assert error(Radon(g, "fourier", image_model, detector_model, width).prepare()(x), reference) <= tolerance


def test_double_precision():
    g = beam((24, 20), views=5, detector_offset=0.4)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 20)), rng.standard_normal(g.sinogram_shape)
    with jax.enable_x64(True):
        A = Radon(g, width=12)
        for B in (A, A.prepare()):
            assert B(x).dtype == np.float64
            assert B(x.astype(np.float32)).dtype == np.float32
            assert dot_defect(B, x, y) <= 1e-13
            assert error(B(x), exact(g, x)) <= 1e-10


def shepp_logan_sinogram(size, angles, detectors, oversampling=8):
    """Bin-averaged analytic projections, and the area-averaged image, of the modified Shepp–Logan phantom on [−1, 1]²."""
    ellipses = np.array(
        [
            [1.0, 0.69, 0.92, 0, 0, 0],
            [-0.8, 0.6624, 0.874, 0, -0.0184, 0],
            [-0.2, 0.11, 0.31, 0.22, 0, -18],
            [-0.2, 0.16, 0.41, -0.22, 0, 18],
            [0.1, 0.21, 0.25, 0, 0.35, 0],
            [0.1, 0.046, 0.046, 0, 0.1, 0],
            [0.1, 0.046, 0.046, 0, -0.1, 0],
            [0.1, 0.046, 0.023, -0.08, -0.605, 0],
            [0.1, 0.023, 0.023, 0, -0.606, 0],
            [0.1, 0.023, 0.046, 0.06, -0.605, 0],
        ]
    )
    fine = size * oversampling
    y, x = (np.mgrid[:fine, :fine] + 0.5) / fine * 2 - 1
    cells = (np.arange(detectors * oversampling) - (detectors * oversampling - 1) / 2) / fine * 2
    image, sinogram = np.zeros((fine, fine)), np.zeros((len(angles), len(cells)))
    for value, a, b, x0, y0, degrees in ellipses:
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        image += value * ((((x - x0) * c + (y - y0) * s) / a) ** 2 + (((y - y0) * c - (x - x0) * s) / b) ** 2 <= 1)
        turned = angles - np.deg2rad(degrees)
        w2 = ((a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2)[:, None]
        t = cells - (x0 * np.cos(angles) + y0 * np.sin(angles))[:, None]
        sinogram += value * 2 * a * b / w2 * np.sqrt(np.maximum(0, w2 - t**2)) * size / 2
    image = image.reshape(size, oversampling, size, oversampling).mean((1, 3))
    return image.astype(np.float32), sinogram.reshape(len(angles), detectors, oversampling).mean(-1)


def test_shepp_logan_against_analytic_projections():
    angles = np.linspace(0, np.pi, 180, endpoint=False)
    image, sinogram = shepp_logan_sinogram(256, angles, 365)
    g = ParallelBeam((256, 256), angles, 365)
    limits = {("band-limited", "point"): 0.0054, ("band-limited", "bin"): 0.0060, ("pixel", "bin"): 0.0078}
    for (image_model, detector_model), limit in limits.items():
        A = Radon(g, image_model=image_model, detector_model=detector_model)
        assert error(A(image), sinogram) <= limit


SMALL = [("smooth", 96), ("disc", 64), ("disc", 96), ("disc", 128), ("noise", 64)]
LARGE = [pytest.param("disc", n, marks=pytest.mark.slow) for n in (256, 512)]


@pytest.mark.parametrize(("kind", "n"), [*SMALL, *LARGE])
def test_geometry_derivatives_are_those_of_the_exact_transform(kind, n):
    first, second = (1e-4, 1e-2) if kind == "smooth" else (5e-3, 3e-2)
    angles = np.array([0.3, 0.77, 2.2, 4.0])
    g = ParallelBeam((n, n), angles, math.ceil(n * math.sqrt(2)) + 1)
    x = phantom((n, n), kind, np.random.default_rng(0))
    f = lambda a, o: Radon(replace(g, angles=a, detector_offset=o))(jnp.asarray(x, jnp.float32))  # noqa: E731
    d1 = lambda a, o, along: jax.jvp(f, (a, o), along)[1]  # noqa: E731
    both = jax.jit(lambda a, o, along: jax.jvp(lambda a, o: d1(a, o, along), (a, o), along))
    at = jnp.asarray(angles, jnp.float32), jnp.float32(0)
    periods = -(-8192 // Radon(g)._plan.period)  # nothing left of what wraps around
    value = exact(g, x, periods=periods)
    for turn, shift in ((1.0, 0.0), (0.0, 1.0)):
        own = both(*at, (jnp.full(4, turn), jnp.float32(shift)))
        h1, h2 = (1e-5, 1e-4) if turn else (1e-3, 1e-2)
        near, far = ([exact(g, x, angles=angles + h * turn, offset=h * shift, periods=periods) for h in (-h, h)] for h in (h1, h2))
        assert error(own[0], (near[1] - near[0]) / (2 * h1)) <= first
        assert error(own[1], (far[1] - 2 * value + far[0]) / h2**2) <= second


def test_reverse_mode_in_angles_offset_and_image():
    g = beam((16, 14), views=3, detector_offset=0.3)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 14)), rng.standard_normal(g.sinogram_shape)

    def loss(angles, offset, x):
        return 0.5 * jnp.sum((Radon(replace(g, angles=angles, detector_offset=offset), width=12)(x) - y) ** 2)

    def projection(angles, offset, x, periods):
        return exact(g, x, angles=angles, offset=offset, periods=periods)

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at = (jnp.asarray(g.angles), jnp.asarray(0.3), jnp.asarray(x))
        gradient = jax.grad(loss, (0, 1, 2))(*at)
        direction = jax.tree.map(lambda v: jnp.asarray(rng.standard_normal(v.shape)), at)
        along = sum(float(jnp.vdot(p, q)) for p, q in zip(gradient, direction, strict=True))
        h = 1e-5
        residual = projection(*map(np.asarray, at), 1) - y
        for periods, tolerance in ((DERIVATIVE_PERIODS, 1e-6), (200, 1e-2)):
            ends = [projection(*(np.asarray(p + t * d) for p, d in zip(at[:2], direction, strict=False)), x, periods) for t in (h, -h)]
            expected = np.vdot(residual, (ends[0] - ends[1]) / (2 * h) + projection(*at[:2], np.asarray(direction[2]), 1))
            assert abs(along - expected) <= tolerance * abs(along)
        # mixed second derivatives: the image gradient's derivative in the angles, forward over reverse and reverse over reverse
        mixed = jax.jvp(lambda a: jax.grad(loss, 2)(a, *at[1:]), at[:1], direction[:1])[1]
        other = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(*at[:2], x), direction[0]))(at[2])
        np.testing.assert_allclose(mixed, other, rtol=1e-9, atol=1e-9 * float(jnp.abs(other).max()))


def test_toeplitz_normal():
    angles = np.random.default_rng(0).uniform(0, np.pi, 60)
    g = ParallelBeam((64, 60), angles, 95)
    P = Radon(g).prepare()
    assert P.spectrum is not None
    rng = np.random.default_rng(0)
    images = {
        "noise": (rng.standard_normal((64, 60)), 5e-3),
        "positive": (rng.random((64, 60)), 1e-3),
        "disc": (phantom((64, 60), "disc", rng), 1e-3),
    }
    for x, tolerance in images.values():
        x = x.astype(np.float32)
        assert error(P.normal(x), np.asarray(P.H(P(x)))) <= tolerance


@pytest.mark.filterwarnings("ignore:detector_count")
@pytest.mark.parametrize("change", [{"detectors": 50}, {"detector_spacing": 1.5}])
def test_normal_falls_back_where_it_is_no_convolution(change):
    P = Radon(beam((48, 48), **{"detectors": 69, **change})).prepare()
    x = np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32)
    assert P.spectrum is None
    assert error(P.normal(x), np.asarray(P.H(P(x)))) <= 1e-6


def test_prepared_refuses_geometry_derivatives():
    g = beam((16, 16), views=3)
    P = Radon(g).prepare()
    x = jnp.ones((16, 16))
    loss = lambda op: jnp.sum(op(x) ** 2)  # noqa: E731
    with pytest.raises(ValueError, match=r"geometry.*Differentiate the operator before prepare"):
        jax.grad(loss, allow_int=True)(P)
    with pytest.raises(ValueError, match="geometry"):
        jax.grad(lambda op: jnp.sum(op.normal(x) ** 2), allow_int=True)(P)
    gradient = jax.grad(lambda x: jnp.sum(P(x) ** 2) / 2)(x)
    np.testing.assert_allclose(gradient, P.H(P(x)), rtol=1e-6)
    # a traced geometry has no tables: prepare() returns the operator itself, whose derivative is right
    through = jax.jit(jax.grad(lambda a: jnp.sum(Radon(replace(g, angles=a)).prepare()(x) ** 2)))(jnp.asarray(g.angles))
    assert np.all(np.isfinite(through))
    assert np.any(through != 0)


def test_one_trace_for_new_angles():
    g = beam((12, 12), views=3)
    traces = []

    @jax.jit
    def project(op, x):
        traces.append(1)
        return op(x)

    for offset in (0.0, 0.2, 0.3):
        project(Radon(replace(g, angles=g.angles + offset, detector_offset=offset)), jnp.ones((12, 12)))
    assert len(traces) == 1


@pytest.mark.slow
def test_batches_and_vmap():
    g = beam((14, 18), views=4)
    x = np.random.default_rng(0).standard_normal((2, 2, 14, 18)).astype(np.float32)
    for A in (Radon(g), Radon(g).prepare()):
        one_by_one = np.array([[A(v) for v in row] for row in x])
        scale = np.abs(one_by_one).max()
        np.testing.assert_allclose(A(x), one_by_one, atol=1e-6 * scale)
        np.testing.assert_allclose(jax.vmap(A)(x), one_by_one, atol=1e-6 * scale)
        np.testing.assert_allclose(A.H(one_by_one)[1, 0], A.H(one_by_one[1, 0]), atol=1e-5 * scale**2)
    np.testing.assert_allclose(jax.vmap(A.normal)(x[0])[1], A.normal(x[0, 1]), atol=1e-5 * scale**2)
    angles = jnp.stack([jnp.asarray(g.angles), jnp.asarray(g.angles) + 0.1])
    both = jax.vmap(lambda a: Radon(replace(g, angles=a))(x[0, 0]))(angles)
    np.testing.assert_allclose(both[1], Radon(replace(g, angles=angles[1]))(x[0, 0]), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_lowers_for(platform):
    g = beam((12, 12), views=3)
    for A in (Radon(g), Radon(g).prepare()):

        def everything(op, x):
            return op.normal(x), op.H(op(x))

        leaves, tree = jax.tree.flatten(A)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(v), jax.dtypes.canonicalize_dtype(jnp.result_type(v))) for v in leaves]
        f = jax.jit(lambda leaves, x, tree=tree: everything(jax.tree.unflatten(tree, leaves), x))
        jax.export.export(f, platforms=[platform])(shapes, jax.ShapeDtypeStruct((12, 12), jnp.float32))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "fuorier"}, "method.*'fourier'"),
        ({"image_model": "box"}, "image_model.*'pixel'"),
        ({"detector_model": "line"}, "detector_model.*'bin'"),
        ({"width": 1}, "width.*2 to 16"),
        ({"method": "joseph", "detector_model": "point"}, "detector_model.*joseph"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        Radon(beam((8, 8)), **arguments)


def test_bad_images():
    with pytest.raises(ValueError, match="geometry: expected a ParallelBeam"):
        Radon((8, 8))
    with pytest.raises(ValueError, match=r"axes are permuted|8, 9"):
        Radon(beam((8, 9)))(np.ones((9, 8), np.float32))
    with pytest.raises(ValueError, match="real values"):
        Radon(beam((8, 8)))(np.ones((8, 8), np.complex64))
