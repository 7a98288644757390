"""Blur and Wiener deconvolution against SciPy and scikit-image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import restoration

from diffimg.core.lengths import fast_length
from diffimg.forward.blur import Blur, gaussian_psf, transfer_function, wiener
from diffimg.testing import check_operator

RNG = np.random.default_rng(0)
MODES = {"reflect": "reflect", "periodic": "wrap", "zero": "constant"}


@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize(("shape", "psf_shape"), [((11,), (4,)), ((12, 9), (5, 3)), ((8, 9), (4, 9)), ((6, 7, 5), (3, 2, 4))])
def test_equals_scipy(shape, psf_shape, boundary):
    x, psf = RNG.standard_normal((2, *shape)).astype(np.float32), RNG.standard_normal(psf_shape).astype(np.float32)
    expected = [ndimage.convolve(v.astype(np.float64), psf.astype(np.float64), mode=MODES[boundary]) for v in x]
    np.testing.assert_allclose(Blur(psf, shape, boundary)(x), expected, atol=2e-5)


def test_promises():
    check_operator(Blur(RNG.standard_normal((4, 3)).astype(np.float32), (7, 8)))


@pytest.mark.slow
def test_double_complex_and_norm():
    psf = RNG.standard_normal((3, 4)) + 1j * RNG.standard_normal((3, 4))
    with jax.enable_x64(True):
        blur = Blur(psf, (6, 7), "periodic")
        check_operator(blur, platforms=())
        np.testing.assert_allclose(blur.norm(), np.linalg.norm(blur.matrix(), 2), rtol=1e-12)
        check_operator(Blur(psf.real, (6, 7), "zero"), platforms=())


def test_gradient_with_respect_to_the_psf():
    with jax.enable_x64(True):
        x, y = jnp.asarray(RNG.standard_normal((2, 9, 8)))
        psf, direction = RNG.standard_normal((2, 3, 4))
        loss = lambda h: jnp.vdot(y, Blur(h, (9, 8))(x))  # noqa: E731
        numeric = (loss(psf + direction) - loss(psf - direction)) / 2  # exact: the blur is linear in the PSF
        np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(psf), direction), numeric, rtol=1e-11)


def test_gaussian_psf():
    psf = gaussian_psf((1.0, 2.0), (9, 15))
    np.testing.assert_allclose(psf.sum(), 1, rtol=1e-6)
    impulse = np.zeros((31, 31))
    impulse[15, 15] = 1
    expected = ndimage.gaussian_filter(impulse, (1.0, 2.0), radius=(4, 7))[11:20, 8:23]
    np.testing.assert_allclose(psf, expected, atol=1e-7)
    assert np.isfinite(jax.grad(lambda s: gaussian_psf(s, (5, 5))[2, 2])(1.0))


def test_wiener_equals_scikit_image_and_the_normal_equations():
    image, psf = RNG.random((16, 20)).astype(np.float32), np.asarray(gaussian_psf(1.2, (5, 5)))
    expected = restoration.wiener(image, psf, 0.03, reg=np.ones((1, 1)), clip=False)
    np.testing.assert_allclose(wiener(image, psf, 0.03), expected, atol=1e-5)
    matrix = np.asarray(Blur(psf, image.shape, "periodic").matrix(), np.float64)
    solved = np.linalg.solve(matrix.T @ matrix + 0.03 * np.eye(image.size), matrix.T @ image.ravel().astype(np.float64))
    np.testing.assert_allclose(wiener(image, psf, 0.03).ravel(), solved, atol=1e-5)
    spectrum = np.full(image.shape, 0.03, np.float32)
    np.testing.assert_allclose(wiener(np.stack([image, image]), psf, spectrum)[1], expected, atol=1e-5)


def test_wiener_restores():
    rows, columns = np.mgrid[:48, :48]
    truth = ((rows - 20) ** 2 + (columns - 26) ** 2 < 150).astype(np.float32) + rows.astype(np.float32) / 48
    psf = gaussian_psf(1.5, (9, 9))
    data = Blur(psf, truth.shape)(truth) + 0.002 * RNG.standard_normal(truth.shape).astype(np.float32)
    error = {b: np.linalg.norm(wiener(data, psf, 1e-3, b) - truth) for b in ("periodic", "reflect")}
    assert error["reflect"] < 0.75 * np.linalg.norm(data - truth)
    assert error["reflect"] < 0.5 * error["periodic"]


def test_transfer_function_and_fft_lengths():
    psf = gaussian_psf(1.0, (5, 5))
    transfer = transfer_function(psf, (8, 8))
    np.testing.assert_allclose(transfer[0, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(transfer.imag, 0, atol=1e-6)
    assert [fast_length(n) for n in (1, 7, 11, 725, 1000)] == [1, 8, 12, 729, 1000]


def test_bad_input():
    with pytest.raises(ValueError, match=r"psf: expected no axis longer than the image \(8, 8\), got shape \(9, 3\)"):
        Blur(np.ones((9, 3)), (8, 8))
    with pytest.raises(ValueError, match="psf: expected 2 axes"):
        Blur(np.ones(3), (8, 8))
    with pytest.raises(ValueError, match="psf: expected finite values"):
        Blur(np.array([[np.nan]]), (8, 8))
    with pytest.raises(ValueError, match="boundary: expected one of"):
        Blur(np.ones((3, 3)), (8, 8), "mirror")
    with pytest.raises(ValueError, match="noise_to_signal: expected values ≥ 0"):
        wiener(np.ones((8, 8), np.float32), np.ones((3, 3)), -1.0)
    with pytest.raises(ValueError, match="noise_to_signal: expected one number"):
        wiener(np.ones((8, 8), np.float32), np.ones((3, 3)), np.ones((8, 8)), "reflect")
    with pytest.raises(ValueError, match="sigma: expected values > 0"):
        gaussian_psf(0.0, (3, 3))
