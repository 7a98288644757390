"""Brain phantom, coils and analytic k-space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad_vec

from diffimg import data, forward, mri

pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def slices():
    return mri.brain((90,), (96, 128), spacing=2.0)


def test_full_data_give_the_image_at_the_same_place_and_intensity(slices):
    image = slices.image(lambda t: t.density)
    out = np.asarray(mri.reference(image, slices.shape))
    coarse = slices.coarse(image)
    # a block average is a crude low-pass: the same object, no half-voxel shift, no factor
    assert np.linalg.norm(out - coarse) / np.linalg.norm(coarse) < 0.06
    shifted = [np.linalg.norm(np.roll(out, s, a) - coarse) for s in (-1, 1) for a in (-1, -2)]
    assert min(shifted) > 2 * np.linalg.norm(out - coarse)
    constant = np.ones((20, 30), np.complex64)
    np.testing.assert_allclose(forward.ifft(mri.acquire(constant, (10, 15))), 1, atol=1e-5)


def test_tissue_fractions_and_parameters(slices):
    total = sum(slices.fractions.values())
    assert total.max() <= 1 + 1e-5 and all(v.min() >= 0 for v in slices.fractions.values())
    support = slices.support()
    assert support.shape == (1, 96, 128) and 0.15 < support.mean() < 0.5
    t1 = slices.coarse(slices.parameter("t1"))[support]
    assert t1.min() >= 0.8 and t1.max() <= 4.2
    assert set(mri.TRAIN_SLICES).isdisjoint(mri.TEST_SLICES)


def test_noise_has_the_stated_deviation():
    k = mri.acquire(np.zeros((64, 64), np.complex64), (32, 32), noise=0.1, key=jax.random.key(0))
    assert np.std(np.asarray(k).real) == pytest.approx(0.1, rel=0.05)
    assert np.std(np.asarray(forward.ifft(k)).imag) == pytest.approx(0.1, rel=0.05)


def test_phantom_is_reproducible_and_refuses(slices):
    again = mri.brain((90,), (96, 128), spacing=2.0)
    np.testing.assert_array_equal(again.phase, slices.phase)
    other = mri.brain((90,), (96, 128), spacing=2.0, key=jax.random.key(1))
    assert np.abs(other.phase - slices.phase).max() > 0.1
    with pytest.raises(ValueError, match="slices"):
        mri.brain((400,))
    with pytest.raises(ValueError, match="field of view"):
        mri.brain((90,), (64, 64), spacing=1.0)
    with pytest.raises(ValueError, match="multiples"):
        mri.acquire(np.zeros((30, 30), np.complex64), (20, 20))
    with pytest.raises(ValueError, match="key"):
        mri.acquire(np.zeros((20, 20), np.complex64), (20, 20), noise=0.1)


def test_coils_are_functions_of_space():
    coarse, fine = mri.simulated_coils((16, 20), 6), mri.simulated_coils((32, 40), 6)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse, atol=1e-5)
    assert float(mri.root_sum_of_squares(coarse)[8, 10]) == pytest.approx(1, abs=1e-5)
    volume = mri.simulated_coils((6, 8, 9), 8)
    assert volume.shape == (8, 6, 8, 9) and np.linalg.matrix_rank(np.asarray(volume).reshape(8, -1), tol=1e-3) == 8


def test_field_of_a_loop_on_its_axis():
    """Biot–Savart on the axis of a loop: B ∝ R²/(R² + d²)^{3/2}."""
    maps = np.asarray(mri.simulated_coils((64, 64), 1, distance=2.0, radius=0.6, normalized=False))[0]
    x = (np.arange(64) - 32) / 32
    expected = 2 * np.pi * 0.6**2 / (0.6**2 + (2.0 - x) ** 2) ** 1.5
    np.testing.assert_allclose(np.abs(maps[32]), expected, rtol=1e-3)


def test_combination_recovers_the_image():
    coils = mri.simulated_coils((12, 14), 4)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 14)) + 0j, jnp.complex64)
    np.testing.assert_allclose(mri.combine(image[:, None] * coils, coils), image, atol=1e-5)
    zero = jax.grad(lambda v: jnp.sum(mri.root_sum_of_squares(v)))(jnp.zeros((3, 4, 4), jnp.complex64))
    assert np.all(np.asarray(zero) == 0)


@pytest.mark.parametrize("shape", [(10, 12), (9, 11)])
def test_analytic_kspace_is_the_integral(shape, x64):
    phantom = data.Ellipses(np.array([[1.0, -0.7]]), np.array([[2.0, 3.0]]), np.array([0.4]), np.array([1.3]))
    k = np.random.default_rng(1).uniform(-3, 3, (4, 2))

    def ring(r):
        t = (np.arange(400) + 0.5) * 2 * np.pi / 400
        x, y = 3.0 * r * np.cos(t), 2.0 * r * np.sin(t)
        px, py = -0.7 + np.cos(0.4) * x - np.sin(0.4) * y, 1.0 + np.sin(0.4) * x + np.cos(0.4) * y
        centre = [(n - 1) / 2 - n // 2 for n in shape]
        return (np.exp(-1j * (k[:, :1] * (py + centre[0]) + k[:, 1:] * (px + centre[1]))).mean(1)) * 2 * np.pi * 6.0 * r

    expected = 1.3 * quad_vec(ring, 0, 1, epsabs=1e-10)[0] / np.sqrt(np.prod(shape))
    np.testing.assert_allclose(mri.ellipses_kspace(phantom, k, shape), expected, atol=1e-6)


def test_analytic_data_reconstruct_to_the_raster_and_take_coils():
    phantom = data.shepp_logan(half_width=30.0)
    k = mri.trajectories.cartesian((64, 64))
    y = mri.ellipses_kspace(phantom, k, (64, 64))
    raster = phantom.rasterize((64, 64))
    error = np.linalg.norm(np.asarray(forward.ifft(y)) - raster) / np.linalg.norm(raster)
    assert error < 0.2  # Gibbs ringing
    frequencies, coefficients = np.array([[0.05, 0.02], [0.0, -0.03]]), np.array([[1.0, 0.4j], [0.2, 0.9]])
    coil = mri.ellipses_kspace(phantom, k, (64, 64), harmonics=(frequencies, coefficients))
    # an eight times finer raster under the continuous maps, summed
    fine, r = phantom.rasterize((512, 512), 1 / 8), (np.arange(512) - 255.5) / 8 - 0.5
    maps = sum(c[:, None, None] * np.exp(1j * (f[0] * r[:, None] + f[1] * r)) for f, c in zip(frequencies, coefficients.T, strict=True))
    waves = np.exp(-1j * np.asarray(k)[:, 0, 0][:, None] * r)
    expected = waves @ (maps * np.asarray(fine)) @ waves.T / 64 / 64
    np.testing.assert_allclose(coil, expected, atol=3e-3 * np.abs(expected).max())
    assert np.linalg.norm(coil - expected) < 0.01 * np.linalg.norm(expected)
