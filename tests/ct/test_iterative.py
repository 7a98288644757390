"""Every iterative method in one line, on data that were not simulated on its own grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import ct
from diffimg.data import shepp_logan
from diffimg.energy import HuberTV, Transmission
from diffimg.forward import FanBeam, ParallelBeam, Radon

N, VIEWS = 32, 40
GEOMETRY = ParallelBeam((N, N), np.linspace(0, np.pi, VIEWS, endpoint=False), 47)
PHANTOM = shepp_logan(N / 2)
TRUTH = np.asarray(PHANTOM.rasterize((N, N)))
CLEAN = np.asarray(PHANTOM.project(GEOMETRY.angles, GEOMETRY.detector_positions, 1.0), np.float32)
NOISY = np.asarray(Transmission(5e3, floor=1.0).noise(jax.random.key(0), jnp.asarray(CLEAN) / 10) * 10)


def error(x):
    return float(np.sqrt(np.mean((np.asarray(x) - TRUTH) ** 2)))


FLAT = error(np.full_like(TRUTH, TRUTH.mean()))
METHODS = {
    "sirt": (functools.partial(ct.sirt, steps=60, relaxation=1.5), 0.5),
    "sart": (functools.partial(ct.sart, steps=2, relaxation=0.4), 0.4),
    "os-sart": (ct.os_sart, 0.4),
    "cgls": (functools.partial(ct.cgls, steps=8), 0.5),
    "mlem": (functools.partial(ct.mlem, steps=40), 0.5),
    "osem": (ct.osem, 0.5),
    "pwls": (functools.partial(ct.pwls, weights=Transmission(5e3).weights(jnp.asarray(NOISY / 10)), penalty=HuberTV(500.0, 0.05)), 0.4),
    "fista-tv": (functools.partial(ct.fista_tv, weight=0.5, steps=40), 0.3),
    "fista-tv, joseph": (functools.partial(ct.fista_tv, weight=0.5, steps=40, method="joseph"), 0.3),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "joseph" in n else n for n in METHODS])
def test_every_method_reconstructs(name):
    method, fraction = METHODS[name]
    result = method(np.maximum(NOISY, 0), GEOMETRY).check()
    assert result.x.shape == (N, N) and result.x.dtype == jnp.float32
    assert error(result.x) < fraction * FLAT
    if name != "cgls":
        assert float(result.x.min()) >= 0


def low_dose():
    """Counts in transmission, of 300 photons and 5 background events a ray."""
    return jax.random.poisson(jax.random.key(1), 300.0 * jnp.exp(-CLEAN / 10) + 5.0, CLEAN.shape)


def test_counts_without_a_logarithm():
    result = ct.poisson_tv(low_dose(), GEOMETRY, 20.0, 40, flat=300.0, background=5.0).check()
    assert result.x.dtype == jnp.float32 and float(result.x.min()) >= 0
    assert error(10 * result.x) < 0.45 * FLAT


@pytest.mark.slow
def test_counts_against_their_logarithm_and_in_emission():
    counts = low_dose()
    direct = ct.poisson_tv(counts, GEOMETRY, 20.0, 40, flat=300.0, background=5.0).x
    y = -jnp.log(jnp.maximum(counts - 5.0, 1) / 300.0)
    assert error(10 * direct) < error(10 * ct.fista_tv(y, GEOMETRY, 20.0 / 300.0, 40, weights=counts / 300.0).x)
    emission = jax.random.poisson(jax.random.key(2), 5 * CLEAN + 5.0, CLEAN.shape).astype(jnp.float32)
    both = ct.poisson_tv(jnp.stack([emission, emission[:, ::-1]]), GEOMETRY, 1.0, 60, background=5.0).check()
    assert both.x.shape == (2, N, N) and error(both.x[0] / 5) < 0.5 * FLAT


def test_batches_weights_and_starts():
    dead = np.ones(47, np.float32)
    dead[20] = 0
    y = np.stack([CLEAN, CLEAN[:, ::-1]])
    y[..., 20] = 99.0
    result = ct.os_sart(y, GEOMETRY, 3, weights=dead, upper=1.0)
    assert result.x.shape == (2, N, N) and error(result.x[0]) < 0.5 * FLAT and float(result.x.max()) <= 1
    warm = ct.os_sart(y, GEOMETRY, 3, weights=dead, upper=1.0, x0=result.x)
    assert error(warm.x[0]) < error(result.x[0])


@pytest.mark.parametrize(
    "method",
    [ct.os_sart, pytest.param(functools.partial(ct.pwls, weights=1.0), marks=pytest.mark.slow)],
    ids=["os-sart", "pwls"],
)
def test_fan_beam(method):
    fan = FanBeam((N, N), np.linspace(0, 2 * np.pi, VIEWS, endpoint=False), 80, 100.0, 60.0)
    result = method(Radon(fan)(TRUTH.astype(np.float32)), fan, 8)
    assert error(result.x) < 0.3 * FLAT


@pytest.mark.slow
def test_subsets_of_pwls_keep_enough_views_for_the_momentum():
    y = Radon(GEOMETRY, method="joseph")(TRUTH.astype(np.float32))
    few = ct.pwls(y, GEOMETRY, 30, weights=1.0, objective_every=1).objective
    assert few[30] < 0.1 * few[10] < 0.01 * few[0]


def test_bad_input():
    with pytest.raises(ValueError, match="sinogram: expected finite values"):
        ct.sirt(np.full_like(CLEAN, np.nan), GEOMETRY)
    with pytest.raises(ValueError, match=r"sinogram: expected shape .*40, 47.*transpose"):
        ct.cgls(CLEAN.T, GEOMETRY)
    with pytest.raises(ValueError, match=r"sinogram: expected values ≥ 0.*background="):
        ct.osem(NOISY - 5, GEOMETRY)
    with pytest.raises(ValueError, match="counts: expected values ≥ 0"):
        ct.poisson_tv(NOISY - 5, GEOMETRY, 0.1)
    with pytest.raises(ValueError, match="background: expected values ≥ 0"):
        ct.mlem(CLEAN, GEOMETRY, background=-1.0)
    flat = np.ones(47)
    flat[5] = 0
    with pytest.raises(ValueError, match=r"flat: expected values > 0.*dead"):
        ct.poisson_tv(CLEAN, GEOMETRY, 0.1, flat=flat)
    with pytest.raises(ValueError, match=r"flat: expected a shape that broadcasts to \(40, 47\)"):
        ct.poisson_tv(CLEAN, GEOMETRY, 0.1, flat=flat[:46] + 1)
    with pytest.raises(ValueError, match="Take 5 or 8 subsets"):
        ct.os_sart(CLEAN, GEOMETRY, subsets=7)
    with pytest.raises(ValueError, match="subsets: expected a divisor of the number of views, 40, got 80"):
        ct.pwls(CLEAN, GEOMETRY, weights=1.0, subsets=80)
    for method in (ct.sart, ct.osem):
        with pytest.raises(ValueError, match="geometry: expected a ParallelBeam, FanBeam"):
            method(CLEAN, "parallel")
    with pytest.raises(ValueError, match="prepare=False"):
        ct.os_sart(CLEAN, GEOMETRY, subsets=8, method="fourier", prepare=True)


def test_a_misspelt_option_is_named():
    geometry = ParallelBeam((8, 8), np.linspace(0, 3, 4), 12)
    with pytest.raises(ValueError, match=r"option: expected one of .*'itertions'"):
        ct.sirt(np.ones(geometry.sinogram_shape, np.float32), geometry, itertions=3)
