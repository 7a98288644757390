"""Every iterative method on every divergent geometry, from exact sinograms of smooth ellipsoids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import ct, data
from diffimg.forward import ConeBeam, FanBeam, Helical, Radon
from diffimg.solve import SIRT

N, VIEWS = 16, 20
FULL = np.linspace(0, 2 * np.pi, VIEWS, endpoint=False)
WOBBLE = np.random.default_rng(0).normal(size=(VIEWS, 3))
FLAT = FanBeam((N, N), FULL, 40, 60.0, 30.0)
CONE = ConeBeam((8, N, N), FULL, (16, 40), 60.0, 30.0)
GEOMETRIES = {
    "flat": FLAT,
    "curved": FanBeam((N, N), FULL, 40, 60.0, 30.0, curved=True),
    "cone": CONE,
    "helical": Helical.from_pitch((8, N, N), 3, VIEWS // 2, 0.8, (12, 40), 60.0, 30.0),
    "modular": CONE.modular().moved(0.03 * WOBBLE, 0.2 * WOBBLE[::-1]),
    "modular in the plane": FLAT.modular().moved(0.03 * WOBBLE[:, 0], 0.2 * WOBBLE[:, 1:]),
}
SOLID = data.Ellipsoids(
    [(0.0, 0.0, 0.0), (0.5, -2.0, 1.5), (-0.5, 2.0, -2.0)],
    [(3.9, 7.0, 6.0), (2.5, 3.0, 2.5), (2.5, 2.5, 3.0)],
    np.zeros((3, 3)),
    [1.0, 0.6, -0.5],
    exponent=2,
)
PLANE = data.Ellipses(SOLID.centers[:, 1:], SOLID.semi_axes[:, 1:], np.zeros(3), SOLID.density, exponent=2)
EXPOSURE = 1e4

METHODS = {
    "sirt": functools.partial(ct.sirt, steps=15, relaxation=1.5),
    "sart": functools.partial(ct.sart, steps=2, relaxation=0.5),
    "os_sart": functools.partial(ct.os_sart, steps=3),
    "cgls": functools.partial(ct.cgls, steps=6),
    "mlem": functools.partial(ct.mlem, steps=15),
    "osem": functools.partial(ct.osem, steps=4),
    "pwls": functools.partial(ct.pwls, weights=1.0, steps=8, subsets=2),
    "fista_tv": functools.partial(ct.fista_tv, weight=0.01, steps=15),
    "poisson_tv, emission": functools.partial(ct.poisson_tv, weight=0.1, steps=150, background=5.0),
    "poisson_tv, transmission": functools.partial(ct.poisson_tv, weight=1.0, steps=20, flat=EXPOSURE),
}
COUNTS = {
    "poisson_tv, emission": (lambda p: 100 * p + 5, 0.01),
    "poisson_tv, transmission": (lambda p: EXPOSURE * jnp.exp(-p / 10), 10.0),
}
QUICK = {("modular", "osem")}


@functools.cache
def scan(name):
    """(image, sinogram)."""
    geometry = GEOMETRIES[name]
    phantom = PLANE if geometry.ndim == 2 else SOLID
    return phantom.rasterize(geometry.image_shape), jnp.asarray(data.project(phantom, geometry, oversample=2), jnp.float32)


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "method"),
    [pytest.param(g, m, marks=() if (g, m) in QUICK else pytest.mark.slow) for g in GEOMETRIES for m in METHODS],
)
def test_misfit_and_error_fall(name, method):
    geometry = GEOMETRIES[name]
    truth, sinogram = scan(name)
    counts, scale = COUNTS.get(method, (lambda p: p, 1.0))
    result = METHODS[method](counts(sinogram), geometry).check()
    x = scale * result.x
    assert x.shape == geometry.image_shape and x.dtype == jnp.float32
    floor = relative(Radon(geometry)(truth), sinogram)
    assert relative(Radon(geometry)(x), sinogram) < floor + 0.05
    assert relative(x, truth) < 0.2
    if method != "cgls":
        assert float(x.min()) >= 0


def test_one_trace_for_other_data_and_another_geometry(monkeypatch):
    geometry, (_, sinogram) = GEOMETRIES["modular"], scan("modular")
    traced, step = [], SIRT.step
    monkeypatch.setattr(SIRT, "step", lambda *arguments: traced.append(1) or step(*arguments))
    first = ct.sirt(sinogram, geometry, 2).x
    count = len(traced)
    other = ct.sirt(2 * sinogram, jax.tree.map(lambda v: 1.01 * v, geometry), 2).x
    assert len(traced) == count > 0
    assert relative(other, 2 * first) > 1e-3
