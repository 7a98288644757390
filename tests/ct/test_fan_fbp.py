"""Fan-beam filtered backprojection against exact sinograms, and against scikit-image through rebinning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import iradon

from diffimg import ct, data
from diffimg.core.pytree import replace
from diffimg.forward import ConeBeam, FanBeam, ParallelBeam

N = 80
FULL = np.linspace(0, 2 * np.pi, 240, endpoint=False)
FLAT = FanBeam((N, N), FULL, 180, 130.0, 70.0, detector_spacing=1.25)
# bodies of known value with smooth rims: the reconstruction itself is compared, not its rendering of edges
BODIES = data.Ellipses(
    [(1.0, -2.0), (-12.0, 8.0), (14.0, 10.0)], [(32.0, 28.0), (11.0, 9.0), (8.0, 12.0)], [0.3, 1.0, 0.0], [1.0, 0.5, -0.4], exponent=2
)
DISC = data.Ellipses([(2.0, -3.0)], [(28.0, 25.0)], [0.4], [0.02])
Y, X = np.mgrid[:N, :N] - (N - 1) / 2
TRUTH = np.asarray(BODIES.rasterize((N, N)))
INSIDE = np.hypot(Y, X) < N / 2 - 2

RANDOM = np.random.default_rng(0).uniform(0, 2 * np.pi, 240)
CASES = {
    "flat": FLAT,
    "curved": replace(FLAT, curved=True),
    "shifted source, tilted detector": replace(FLAT, source_offset=4.0, detector_tilt=0.15, detector_offset=-3.0),
    "short": replace(FLAT, angles=FULL[:156] + 1.0),
    "short, backwards, curved": replace(FLAT, angles=-FULL[:156], curved=True),
    "over-scan": replace(FLAT, angles=FULL[:210]),
    "uneven": replace(FLAT, angles=RANDOM),
    "pixels of 2 mm": replace(FLAT, image_shape=(36, 38), pixel_size=2.0),
}


def scan(phantom, geometry):
    return jnp.asarray(data.project(phantom, geometry, oversample=4), jnp.float32)


def rms(a, b, where=...):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b))[where] ** 2)))


@pytest.mark.parametrize("fan", CASES.values(), ids=CASES)
def test_exact_sinograms(fan):
    image = np.asarray(ct.fbp(scan(BODIES, fan), fan))
    if fan.image_shape == (N, N):
        truth, inside = TRUTH, INSIDE
    else:
        truth, inside = np.asarray(BODIES.rasterize(fan.image_shape, 2.0)), ...
    assert image[inside].sum() / truth[inside].sum() == pytest.approx(1, abs=2e-3)
    assert rms(image, truth, inside) < (0.03 if fan is CASES["uneven"] else 0.006)


@pytest.mark.filterwarnings("ignore:detector_count")
@pytest.mark.parametrize("change", [{}, {"detector_offset": -32.0}, {"curved": True}], ids=str)
def test_half_fan(change):
    half = replace(FLAT, **({"detector_count": 100, "detector_offset": 32.0} | change))
    image = ct.fbp(scan(BODIES, half), half)
    assert rms(image, TRUTH, INSIDE) < 0.008
    wrong = ct.fbp(scan(BODIES, half), half, scan="full")
    assert rms(wrong, TRUTH, INSIDE) > 0.05


def test_values_inside_a_uniform_body():
    for fan in (FLAT, CASES["curved"], CASES["short"]):
        image = np.asarray(ct.fbp(scan(DISC, fan), fan, "hann"))
        assert image[np.hypot(Y, X) < 18].mean() == pytest.approx(0.02, rel=3e-3)
        assert image[np.hypot(Y, X) < 18].std() < 2e-4


@pytest.mark.filterwarnings("ignore:detector_count")
def test_as_good_as_scikit_image_on_rebinned_data():
    fan = replace(FLAT, image_shape=(95, 95), angles=np.linspace(0, 2 * np.pi, 360, endpoint=False))
    sinogram = scan(BODIES, fan)
    lines = ParallelBeam((95, 95), np.linspace(0, np.pi, 180, endpoint=False), 95)
    parallel, _ = ct.rebin(sinogram, fan, lines)
    peer = iradon(np.asarray(parallel).T, -np.rad2deg(lines.angles), output_size=95, filter_name="ramp", circle=True)
    own = np.asarray(ct.fbp(sinogram, fan))
    truth = np.asarray(BODIES.rasterize((95, 95)))
    y, x = np.mgrid[:95, :95] - 47.0
    inside = np.hypot(y, x) < 40
    assert rms(own, peer, inside) < 0.012
    assert rms(own, truth, inside) < 1.1 * rms(peer, truth, inside)


def test_windows_smooth_and_options_work():
    sinogram = scan(DISC, FLAT)
    noisy = sinogram + 0.05 * jax.random.normal(jax.random.key(0), sinogram.shape)
    plain, smooth = (ct.fbp(noisy, FLAT, name) for name in ("ramlak", "hann"))
    exact = ct.fbp(sinogram, FLAT)
    assert rms(smooth, exact, INSIDE) < 0.5 * rms(plain, exact, INSIDE)
    masked = ct.fbp(sinogram, FLAT, circle=True, weights=np.full(240, 2 * np.pi / 240))
    np.testing.assert_allclose(masked, jnp.where(np.hypot(Y, X) <= N / 2, exact, 0), atol=1e-6)


def test_batch_complex_jit_and_one_trace():
    small = replace(FLAT, angles=FULL[::8])
    sinogram = scan(DISC, small)
    single = ct.fbp(sinogram, small)
    both = ct.fbp(jnp.stack([sinogram, 2j * sinogram])[:, None], small)
    assert both.shape == (2, 1, N, N) and both.dtype == jnp.complex64
    np.testing.assert_allclose(both[1, 0].imag, 2 * single, atol=1e-6)
    traces = []

    @jax.jit
    def traced(sinogram, fan):
        traces.append(1)
        return ct.fbp(sinogram, fan, scan="full")

    np.testing.assert_allclose(traced(sinogram, small), single, atol=2e-6)
    traced(sinogram, replace(small, angles=small.angles + 0.1, source_distance=140.0))
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(lambda s: ct.fbp(s, small))(jnp.stack([sinogram, -sinogram]))[1], -single, atol=1e-6)


def test_derivatives_in_sinogram_and_geometry(x64):
    small = FanBeam((14, 14), np.linspace(0, 4.5, 24), 30, 30.0, 10.0)
    bodies = data.Ellipses([(0.5, -1.0)], [(5.0, 4.0)], [0.3], [1.0], exponent=3)
    sinogram = jnp.asarray(data.project(bodies, small, oversample=1), jnp.float64)

    def loss(angles, distance, offset, sinogram):
        fan = replace(small, angles=angles, source_distance=distance, detector_offset=offset)
        return jnp.sum(ct.fbp(sinogram, fan, "hann", scan="short") ** 2)

    point = jnp.asarray(small.angles), jnp.float64(30.1), jnp.float64(0.17), sinogram
    step = jnp.sin(3 * point[0]), jnp.float64(0.4), jnp.float64(-0.6), jnp.sin(jnp.arange(sinogram.size)).reshape(sinogram.shape)
    both = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    for k, (gradient, direction) in enumerate(zip(both(*point)[1], step, strict=True)):
        ahead, behind = (both(*(p + h * direction if j == k else p for j, p in enumerate(point)))[0] for h in (1e-6, -1e-6))
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


def test_bad_input():
    sinogram = np.zeros(FLAT.sinogram_shape, np.float32)
    with pytest.raises(ValueError, match="geometry: expected views over at least π"):
        ct.fbp(sinogram[:100], FLAT.subset(slice(0, 100)))
    with pytest.raises(ValueError, match="scan: expected 'full', 'short' or 'offset' for a traced geometry"):
        jax.jit(lambda f: ct.fbp(sinogram, f))(FLAT)
    with pytest.raises(ValueError, match="filter: expected one of"):
        ct.fbp(sinogram, FLAT, "none")
    with pytest.raises(ValueError, match=r"sinogram: expected shape \[\.\.\., 240, 180\].*transpose"):
        ct.fbp(sinogram.T, FLAT)
    with pytest.raises(ValueError, match="sinogram: expected finite"):
        ct.fbp(np.full_like(sinogram, np.nan), FLAT)
    with pytest.raises(ValueError, match=r"geometry: expected a ParallelBeam or FanBeam.*fdk"):
        ct.fbp(np.zeros((8, 16, 32), np.float32), ConeBeam((8, 8, 8), FULL[:8], (16, 32), 50.0, 50.0))
