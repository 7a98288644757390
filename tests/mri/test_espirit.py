"""Coil maps from the calibration region against the true ones and SigPy's."""

import numpy as np
import pytest

from diffimg import forward, mri

RNG = np.random.default_rng(10)
SHAPE = (48, 40)


def scan(count=5, level=0.002):
    coils = np.asarray(mri.simulated_coils(SHAPE, count))
    y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    r = np.hypot(y[:, None], 1.1 * x)
    image = (r < 0.75) * (1 + 0.3 * np.cos(9 * r)) * np.exp(0.7j * x)
    noise = level * (RNG.normal(size=(count, *SHAPE)) + 1j * RNG.normal(size=(count, *SHAPE)))
    return coils, r < 0.7, np.asarray(forward.fft((coils * image).astype(np.complex64))) + noise.astype(np.complex64)


def alignment(a, b):
    """|⟨a, b⟩| over the coils."""
    a, b = (v / np.maximum(np.linalg.norm(v, axis=0), 1e-12) for v in (np.asarray(a), np.asarray(b)))
    return np.abs(np.sum(np.conj(a) * b, axis=0))


def test_espirit_finds_the_maps():
    coils, inside, kspace = scan()
    maps = mri.espirit(kspace, calibration=20, kernel=5)
    assert alignment(maps, coils)[inside].min() > 0.995
    np.testing.assert_allclose(np.linalg.norm(maps, axis=0)[inside], 1, atol=1e-4)
    corner = np.linalg.norm(np.asarray(maps)[:, :4, :4], axis=0)
    assert np.median(corner) == 0


def test_espirit_is_sigpys():
    app = pytest.importorskip("sigpy.mri.app")
    _, _, kspace = scan()
    theirs = app.EspiritCalib(kspace, calib_width=20, kernel_width=5, thresh=0.02, crop=0.95, show_pbar=False).run()
    ours = np.asarray(mri.espirit(kspace, calibration=20, kernel=5, threshold=0.02, crop=0.95))
    both = (np.abs(ours).sum(0) > 0) & (np.abs(theirs).sum(0) > 0)
    assert alignment(ours, theirs)[both].min() > 0.999
    assert np.mean((np.abs(ours).sum(0) > 0) == (np.abs(theirs).sum(0) > 0)) > 0.98


@pytest.mark.slow
def test_two_sets_for_a_folded_field_of_view():
    """An object larger than the field of view folds onto itself; the second set sees what the first cannot."""
    _, _, kspace = scan(count=6)
    folded = kspace[:, ::2]  # half the field of view along y
    single = mri.espirit(folded, calibration=(20, 20), kernel=5)
    double = mri.espirit(folded, calibration=(20, 20), kernel=5, maps=2)
    assert single.shape == (6, 24, 40) and double.shape == (2, 6, 24, 40)
    assert (np.abs(double[1]).sum(0) > 0).sum() > 50


def test_walsh_finds_the_maps():
    coils, inside, kspace = scan()
    region = mri.calibration_region(kspace, 24)
    for images in (forward.ifft(kspace), mri.calibration_images(region, SHAPE)):
        maps = mri.walsh(images)
        assert alignment(maps, coils)[inside].min() > 0.98


def test_walsh_is_the_local_principal_component():
    images = (RNG.normal(size=(3, 9, 8)) + 1j * RNG.normal(size=(3, 9, 8))).astype(np.complex64)
    maps = np.asarray(mri.walsh(images, width=3, steps=200))
    for i, j in ((0, 0), (4, 3), (8, 7)):
        patch = images[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].reshape(3, -1)
        vector = np.linalg.eigh(patch @ patch.conj().T)[1][:, -1]
        assert abs(np.vdot(vector, maps[:, i, j])) > 0.999


def test_refused():
    _, _, kspace = scan()
    with pytest.raises(ValueError, match="kernel"):
        mri.espirit(kspace, calibration=4, kernel=6)
    few = kspace * mri.sampling.equispaced_mask(SHAPE, 4, 8)
    with pytest.raises(ValueError, match="fully sampled"):
        mri.espirit(few, calibration=24)
    with pytest.raises(ValueError, match="zeros only"):
        mri.espirit(np.zeros_like(kspace))
    with pytest.raises(ValueError, match="crop"):
        mri.espirit(kspace, calibration=20, crop=1.5)
    with pytest.raises(ValueError, match="width"):
        mri.walsh(kspace, width=4)
    bad = kspace.copy()
    bad[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        mri.espirit(bad)
    for function in (mri.espirit, mri.grappa):
        with pytest.raises(ValueError, match="slice by slice"):
            function(kspace[:, None])
