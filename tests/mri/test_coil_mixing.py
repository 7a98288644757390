"""Noise whitening and coil compression."""

import numpy as np
import pytest

from diffimg import forward, mri

RNG = np.random.default_rng(2)


def noise(*shape):
    return (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype(np.complex64)


def test_whitened_noise_is_white():
    mixing = noise(4, 4)
    scan = np.einsum("ij,jkl->ikl", mixing, noise(4, 60, 70))
    covariance = mri.noise_covariance(scan)
    np.testing.assert_allclose(covariance, 2 * mixing @ mixing.conj().T, rtol=0.1, atol=0.6)
    white = mri.mix_coils(mri.whitening_matrix(covariance), scan)
    np.testing.assert_allclose(mri.noise_covariance(white), np.eye(4), atol=1e-4)


def test_compression_keeps_the_leading_components():
    k = np.einsum("ij,jkl->ikl", noise(8, 3), noise(3, 20, 21)) + 1e-3 * noise(8, 20, 21)
    matrix = mri.compression_matrix(k, 3)
    np.testing.assert_allclose(matrix @ np.conj(matrix).T, np.eye(3), atol=1e-5)
    virtual = mri.mix_coils(matrix, k)
    assert np.linalg.norm(virtual) ** 2 > 0.9999 * np.linalg.norm(k) ** 2
    singular = np.linalg.svd(k.reshape(8, -1), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(virtual).reshape(3, -1), axis=1), singular[:3], rtol=1e-4)
    np.testing.assert_allclose(forward.fft(virtual), mri.mix_coils(matrix, forward.fft(k)), atol=1e-3)


def test_refused():
    with pytest.raises(ValueError, match="samples of 8 coils"):
        mri.noise_covariance(noise(8, 4))
    with pytest.raises(ValueError, match="positive"):
        mri.whitening_matrix(np.diag([1.0, 0.0]))
    with pytest.raises(ValueError, match="virtual"):
        mri.compression_matrix(noise(4, 5, 5), 5)
    with pytest.raises(ValueError, match="axis="):
        mri.mix_coils(np.eye(3), noise(4, 5, 5))
