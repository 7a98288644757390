import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import iradon

from diffimg import ct, data, forward
from diffimg.testing import gradient_error

UNIFORM = np.linspace(0, np.pi, 96, endpoint=False)


def scan(n, angles, count):
    geometry = forward.ParallelBeam((n, n), angles, count, 0.8, 0.8)
    phantom = data.shepp_logan(0.8 * n / 2)
    sinogram = phantom.project(jnp.asarray(angles), jnp.asarray(geometry.detector_positions), 0.8)
    return geometry, sinogram.astype(jnp.float32), np.asarray(phantom.rasterize((n, n), 0.8))


def inside(n):
    return np.hypot(*np.mgrid[-(n - 1) / 2 : (n - 1) / 2 : n * 1j, -(n - 1) / 2 : (n - 1) / 2 : n * 1j]) <= n / 2


def psnr(a, truth):
    c = inside(len(truth))
    return 10 * np.log10(1 / np.mean((np.asarray(a)[c] - truth[c]) ** 2))


def test_reconstructs_an_analytic_sinogram_in_absolute_units():
    geometry, sinogram, truth = scan(96, UNIFORM, 137)
    image = np.asarray(ct.fbp(sinogram, geometry))
    c = inside(96)
    assert abs(image[c].sum() / truth[c].sum() - 0.9999) < 1e-3
    assert psnr(image, truth) > 26
    batch = ct.fbp(jnp.stack([sinogram, 2 * sinogram]), geometry)
    np.testing.assert_allclose(batch[1], 2 * image, atol=1e-5)


@pytest.mark.slow
def test_gain_and_quality_at_full_size():
    geometry, sinogram, truth = scan(512, np.linspace(0, np.pi, 360, endpoint=False), 725)
    image = np.asarray(ct.fbp(sinogram, geometry))
    c = inside(512)
    assert abs(image[c].sum() / truth[c].sum() - 0.9999) < 2e-4
    assert psnr(image, truth) > 30.1


@pytest.mark.filterwarnings("ignore:detector_count")
def test_agrees_with_scikit_image():
    sinogram = scan(96, UNIFORM, 97)[1]
    # scikit-image rotates the other way, about pixel N//2, and takes pixels as the unit of length
    peer = iradon(np.asarray(sinogram).T / 0.8, np.rad2deg(-UNIFORM), output_size=97, filter_name="ramp", circle=True)
    ours = ct.fbp(sinogram, forward.ParallelBeam((97, 97), UNIFORM, 97, 0.8, 0.8))
    assert np.linalg.norm(peer - np.asarray(ours)) / np.linalg.norm(peer) < 0.25


@pytest.mark.parametrize("window", ["ramlak", "shepp-logan", "cosine", "hamming", "hann"])
def test_windows_follow_their_definition(window):
    n = 256
    response = ct.ramp_response(n, 1.0, window)
    plain = ct.ramp_response(n, 1.0)
    f = np.fft.rfftfreq(n)
    np.testing.assert_allclose(plain[1:], f[1:], atol=2e-3)  # the ramp, but for the tail of the truncated kernel
    assert 0 < plain[0] < 1e-2  # a sampled |f| would be zero here
    expected = {
        "ramlak": 1 + 0 * f,
        "shepp-logan": np.sinc(f),
        "cosine": np.cos(np.pi * f),
        "hamming": 0.54 + 0.46 * np.cos(2 * np.pi * f),
        "hann": np.cos(np.pi * f) ** 2,
    }[window]
    np.testing.assert_allclose(response, plain * expected, atol=1e-12)
    assert np.all(ct.ramp_response(n, 1.0, window, 0.5)[f > 0.25] == 0)


def test_random_views_get_the_weights_of_their_cells():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 150)
    weights = np.asarray(ct.angular_weights(angles))
    assert abs(weights.sum() - np.pi) < 1e-5
    folded = np.sort(angles % np.pi)
    cell = (np.roll(folded, -1) - np.roll(folded, 1)) % np.pi / 2
    np.testing.assert_allclose(weights[np.argsort(angles % np.pi)], cell, atol=1e-5)
    np.testing.assert_allclose(ct.angular_weights(UNIFORM), np.pi / 96, rtol=1e-4)
    np.testing.assert_allclose(ct.angular_weights(np.linspace(0, 2, 50)), 2 / 49, rtol=1e-4)  # limited arc: no huge end weights
    geometry, sinogram, truth = scan(64, angles, 91)
    weighted, uniform = ct.fbp(sinogram, geometry), ct.fbp(sinogram, geometry, weights="uniform")
    assert psnr(weighted, truth) > psnr(uniform, truth) + 3


def test_the_lectures_pictures_one_smear_and_a_blurred_backprojection():
    geometry, sinogram, truth = scan(64, UNIFORM, 91)
    one = forward.ParallelBeam((64, 64), UNIFORM[:1], 91, 0.8, 0.8)
    smear = np.asarray(ct.backproject(sinogram[:1], one))
    assert np.ptp(smear, axis=0).max() < 5e-3 * np.ptp(smear)  # view 0 looks along y: constant in y
    blurred = np.asarray(ct.fbp(sinogram, geometry, "none"))
    scale = (blurred * truth).sum() / (blurred**2).sum()
    assert psnr(scale * blurred, truth) < psnr(ct.fbp(sinogram, geometry), truth) - 6


@pytest.mark.slow
def test_differentiable_in_sinogram_and_angles(x64):
    angles = np.sort(np.random.default_rng(3).uniform(0, np.pi, 9))
    geometry, sinogram, truth = scan(16, angles, 23)
    sinogram = sinogram.astype(jnp.float64)
    assert gradient_error(lambda s: jnp.sum(ct.fbp(s, geometry) ** 2), sinogram, jax.random.key(0)) < 1e-6

    def loss(t):
        return jnp.sum((ct.fbp(sinogram, forward.ParallelBeam((16, 16), t, 23, 0.8, 0.8)) - truth) ** 2)

    # the derivative is the exact one, the difference quotient that of 4 taps
    assert gradient_error(loss, jnp.asarray(geometry.angles), jax.random.key(1)) < 3e-2


def test_bad_input():
    geometry, sinogram, _ = scan(16, UNIFORM[:9], 23)
    with pytest.raises(ValueError, match=r"sinogram: expected shape \[\.\.\., 9, 23\].*transpose"):
        ct.fbp(sinogram.T, geometry)
    with pytest.raises(ValueError, match=r"filter: expected one of.*Did you mean 'hann'"):
        ct.fbp(sinogram, geometry, "hanning")
    with pytest.raises(ValueError, match="sinogram: expected finite values"):
        ct.fbp(sinogram.at[0, 0].set(jnp.nan), geometry)
    with pytest.raises(ValueError, match="cutoff"):
        ct.fbp(sinogram, geometry, cutoff=0)
    with pytest.raises(ValueError, match="geometry: expected a ParallelBeam"):
        ct.fbp(sinogram, "parallel")


def test_complex_sinograms_are_reconstructed_by_parts():
    geometry, sinogram, _ = scan(16, UNIFORM[::8], 23)
    other = np.random.default_rng(4).normal(size=sinogram.shape).astype(np.float32)
    for window in ("hann", "none"):
        image = ct.fbp(sinogram + 1j * other, geometry, window, circle=True)
        assert image.dtype == jnp.complex64
        np.testing.assert_allclose(image.real, ct.fbp(sinogram, geometry, window, circle=True), atol=1e-6)
        np.testing.assert_allclose(image.imag, ct.fbp(other, geometry, window, circle=True), atol=1e-6)


def test_given_weights_may_be_zero_or_negative_but_must_be_finite_real_numbers():
    geometry, sinogram, _ = scan(16, UNIFORM[:9], 23)
    one = forward.ParallelBeam((16, 16), UNIFORM[3:4], 23, 0.8, 0.8)
    image = ct.backproject(sinogram, geometry, weights=-2.0 * (np.arange(9) == 3))
    np.testing.assert_allclose(image, -2 * ct.backproject(sinogram[3:4], one, weights=[1]), atol=1e-5)
    for weights, message in (
        (np.where(np.arange(9) == 3, np.nan, 1), "weights: expected finite values"),
        (np.ones(9) * 1j, "weights: expected real angles dθ in radians, got complex128"),
        (np.ones(9, bool), "weights: expected real angles.*bool.*mask"),
        (np.array(["a"] * 9), "weights: expected a numeric array.*voronoi"),
        (np.array([None] * 9), "weights: expected a numeric array"),
        (None, "weights: expected a numeric array"),
        (np.ones(8), r"weights: expected shape \(9,\) \[view\]"),
        ("voronoy", "weights: expected one of.*Did you mean 'voronoi'"),
    ):
        with pytest.raises(ValueError, match=message):
            ct.fbp(sinogram, geometry, weights=weights)


def test_the_ramp_filter_refuses_integers():
    with pytest.raises(ValueError, match="sinogram: expected a floating or complex dtype"):
        ct.ramp_filter(np.ones((9, 23), int), 0.8)


def test_hounsfield():
    mu = np.array([0.0, 0.0193, 0.0386])
    np.testing.assert_allclose(ct.hounsfield(mu, 0.0193), [-1000, 0, 1000], atol=1e-3)
    np.testing.assert_allclose(ct.attenuation(ct.hounsfield(mu, 0.0193, 1e-5), 0.0193, 1e-5), mu, atol=1e-8)
    with pytest.raises(ValueError, match="mu_water"):
        ct.hounsfield(mu, 0.0, 0.1)
    with pytest.raises(ValueError, match="mu: expected a numeric array"):
        ct.hounsfield("mu", 0.0193)
