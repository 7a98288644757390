"""One-line reconstructions against dense solutions, SigPy and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, mri, solve

RNG = np.random.default_rng(9)
N = 32


def noise(*shape):
    return (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype(np.complex64)


@pytest.fixture(scope="module")
def scan():
    coils = mri.simulated_coils((N, N), 4)
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    image = ((np.hypot(x, 1.2 * y) < 0.7) + 0.5 * (np.hypot(x - 0.2, y) < 0.3)) * np.exp(1j * (x + 0.5 * y * y))
    image = image.astype(np.complex64)
    kspace = np.asarray(forward.MaskedFFT(np.ones((N, N), bool), coils)(image)) + 0.01 * noise(4, N, N)
    return coils, image, kspace


def error(x, image):
    return np.linalg.norm(np.asarray(x) - image) / np.linalg.norm(image)


@pytest.mark.parametrize("regularization", [0.0, 0.05])
def test_sense_is_the_dense_solution(regularization, x64):
    maps, mask = noise(3, 6, 7).astype(complex), RNG.random((6, 7)) < 0.6
    A = forward.MaskedFFT(mask, maps)
    y = np.asarray(A(noise(6, 7).astype(complex))) + 0.1 * noise(3, 6, 7) * mask
    matrix = np.asarray(A(np.eye(42, dtype=complex).reshape(-1, 6, 7))).reshape(42, -1).T
    expected = np.linalg.solve(matrix.conj().T @ matrix + regularization * np.eye(42), matrix.conj().T @ y.ravel())
    result = mri.sense(y, A, 120, regularization=regularization)
    np.testing.assert_allclose(result.check().x.ravel(), expected, atol=1e-8)


def test_sense_is_sigpys(scan):
    sigpy_mri = pytest.importorskip("sigpy.mri")
    coils, _, kspace = scan
    mask = mri.sampling.equispaced_mask((N, N), 3, 8)
    y = kspace * mask
    theirs = sigpy_mri.app.SenseRecon(y, np.asarray(coils), lamda=0.01, weights=mask.astype(np.float32), max_iter=30, show_pbar=False).run()
    ours = mri.sense(y, forward.MaskedFFT(mask, coils), 30, regularization=0.01).x
    assert error(ours, theirs) < 1e-3


def test_sense_from_spokes(scan):
    coils, image, _ = scan
    A = forward.NUFFT((N, N), mri.trajectories.radial(24, 2 * N), coils)
    y = A(image)
    assert error(mri.sense(y, A, 30).x, image) < 0.1 < error(mri.zero_filled(y, A), image)


@pytest.mark.parametrize("regularizer", ["wavelet", "tv"])
def test_compressed_sensing_beats_sense_and_zero_filling(scan, regularizer):
    coils, image, kspace = scan
    mask = mri.sampling.variable_density_mask((N, N), 4, jax.random.key(0), acs=8, axis=None)
    A, y = forward.MaskedFFT(mask, coils), kspace * mask
    out = mri.compressed_sensing(y, A, 3e-3, regularizer, 60, levels=3).check()
    zero = mri.combine(forward.ifft(y), coils)
    assert error(out.x, image) < 0.8 * error(mri.sense(y, A, 15).x, image)
    assert error(out.x, image) < 0.6 * error(zero, image)


@pytest.mark.parametrize(("regularizer", "size"), [("wavelet", N), ("wavelet", 30), ("tv", N)])
def test_nothing_is_shown_where_no_coil_sees(scan, regularizer, size):
    """Maps that were cut off, as ESPIRiT's are: penalties extend the image there, unseen by the data."""
    coils, image, _ = scan
    coils, image = coils[:, :size, :size], image[:size, :size]
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j][:, :size, :size]
    maps = np.asarray(coils) * (np.hypot(x, y) < 0.8)
    mask = mri.sampling.variable_density_mask((size, size), 3, jax.random.key(0), acs=8, axis=None)
    A = forward.MaskedFFT(mask, maps)
    out = np.asarray(mri.compressed_sensing(A(image), A, 1e-3, regularizer, 30, levels=3).x)
    assert np.all(out[~np.any(maps, axis=0)] == 0) and error(out, image) < 0.2


def test_maps_of_unit_norm(scan):
    """The same data; FISTA with maps whose norm varies by ten is far from done where it is with these, and says why."""
    coils, image, _ = scan
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    bright = np.asarray(coils) * (1 + 9 * (np.hypot(x, y) > 1.2))
    maps, norm = mri.unit_maps(bright)
    np.testing.assert_allclose(np.linalg.norm(maps, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(maps * norm, bright, atol=1e-5)
    mask = mri.sampling.variable_density_mask((N, N), 3, jax.random.key(0), acs=8, axis=None)
    uneven, even = forward.MaskedFFT(mask, bright), forward.MaskedFFT(mask, maps)
    data = uneven(image)
    with pytest.warns(UserWarning, match="unit_maps"):
        slow = mri.compressed_sensing(data, uneven, 1e-4, "tv", 30).x
    assert error(mri.compressed_sensing(data, even, 1e-4, "tv", 30).x / norm, image) < 0.5 * error(slow, image)
    nothing, zero = mri.unit_maps(np.zeros((2, 3, 3), complex))
    assert not np.any(nothing) and not np.any(zero)
    volume = mri.unit_maps(noise(2, 3, 4, 5), axis=-4)
    assert volume[0].shape == (2, 3, 4, 5) and volume[1].shape == (3, 4, 5)


def test_odd_sizes_are_continued_for_wavelets():
    mask = mri.sampling.variable_density_mask((27, 30), 2, jax.random.key(0), acs=8, axis=None)
    image = np.zeros((27, 30), np.complex64)
    image[8:20, 9:22] = 1
    A = forward.MaskedFFT(mask)
    y = A(image)
    out = mri.compressed_sensing(y, A, 1e-3, "wavelet", 100, levels=3, wavelet="haar").x
    assert out.shape == (27, 30) and error(out, image) < 0.5 * error(mri.zero_filled(y, A), image)


@pytest.mark.slow
def test_low_rank_series():
    t = np.arange(12)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    parts = np.stack([np.exp(-4 * ((x - 0.3) ** 2 + y**2)), np.hypot(x, y) < 0.8])
    series = (np.cos(2 * np.pi * t / 12)[:, None, None] * parts[0] + parts[1]).astype(np.complex64)
    mask = np.stack([mri.sampling.variable_density_mask((16, 16), 3, jax.random.key(int(i)), acs=4, axis=None) for i in t])
    A = forward.MaskedFFT(mask, ndim=2)
    y = A(series)
    before = error(mri.zero_filled(y, A), series)
    assert error(mri.low_rank(y, A, 0.005, 80).x, series) < 0.5 * before
    assert error(mri.low_rank(y, A, 0.02, 80, sparse=0.01).x, series) < 0.2 * before


def test_solution_is_differentiable_in_the_maps(x64):
    maps, mask = noise(2, 5, 5).astype(complex), RNG.random((5, 5)) < 0.7
    y, w = noise(2, 5, 5).astype(complex) * mask, noise(5, 5).astype(complex)

    def value(maps):
        result = mri.sense(y, forward.MaskedFFT(mask, maps), 60, regularization=0.1, tolerance=1e-12, gradient=solve.Implicit("cg"))
        return jnp.vdot(w, result.x).real

    step = 1e-5 * noise(2, 5, 5)
    difference = (value(maps + step) - value(maps - step)) / 2
    np.testing.assert_allclose(np.vdot(np.conj(jax.grad(value)(maps)), step).real, difference, rtol=1e-4)


def test_samples_that_are_nan_are_refused():
    bad = np.full((2, 4, 4), np.nan + 0j)
    for call in (mri.coil_images, lambda v: mri.combine(v, np.ones_like(v)), lambda v: mri.acquire(v, (4, 4))):
        with pytest.raises(ValueError, match="finite"):
            call(bad)


def test_refused(scan):
    coils, _, kspace = scan
    A = forward.MaskedFFT(np.ones((N, N), bool), coils)
    with pytest.raises(ValueError, match="operator is"):
        mri.sense(kspace[:2], A)
    bad = kspace.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not measured"):
        mri.sense(bad, A)
    with pytest.raises(ValueError, match="regularizer"):
        mri.compressed_sensing(kspace, A, 0.1, "l0")
    with pytest.raises(ValueError, match="series"):
        mri.low_rank(kspace, A, 0.1)
    with pytest.raises(ValueError, match="options"):
        mri.sense(kspace, A, tol=1e-3)
    with pytest.raises(ValueError, match="one set"):
        mri.sense(np.stack([kspace, kspace]), A)
