"""Real images: what is promised about them, and clear errors."""

import sys

import numpy as np
import pytest

from diffimg.data import names, sample, samples, slice_for_ct


@pytest.mark.parametrize("name", names())
def test_every_sample_loads_as_promised(name):
    pytest.importorskip("pydicom"), pytest.importorskip("nilearn"), pytest.importorskip("skimage")
    one = sample(name)
    assert one.name == name
    assert one.image.dtype == np.float32
    assert one.image.flags.c_contiguous
    assert np.isfinite(one.image).all()
    assert one.source
    assert one.license
    assert one.unit in ("HU", "1/mm", "1")
    assert np.ptp(one.image) > 0
    assert one.spacing is None or len(one.spacing) == one.image.ndim
    with pytest.raises(ValueError, match="read-only"):
        one.image[0] = 0


def test_ct_units():
    pytest.importorskip("pydicom")
    hu, mu = sample("ct_head"), sample("ct_head", unit="1/mm")
    assert hu.unit == "HU"
    assert hu.image.shape == (512, 512)
    assert hu.spacing == (0.431, 0.431)
    assert hu.image.min() == -1000
    np.testing.assert_allclose(mu.image, np.maximum(0, 0.0193 * (1 + hu.image / 1000)), rtol=1e-6)
    brain = mu.image[330:380, 230:280]
    assert 0.0193 < brain.mean() < 0.0205
    assert mu.unit == "1/mm"
    assert 0.03 < mu.image.max() < 0.07


def test_brain_is_displayed_upright():
    pytest.importorskip("nilearn")
    import nibabel
    from nilearn.datasets import load_mni152_template

    reference = nibabel.as_closest_canonical(load_mni152_template(resolution=1)).get_fdata()  # x right, y front, z up
    x, y, z = 60, 170, 90
    np.testing.assert_allclose(sample("mni152_t1").image[z, -1 - y, -1 - x], reference[x, y, z], rtol=1e-6)


def test_slice_for_ct_pairs_a_fine_grid_with_its_averages():
    pytest.importorskip("pydicom")
    pair = slice_for_ct()
    assert pair.fine.shape == (512, 512)
    assert pair.truth.shape == (256, 256)
    assert pair.pixel_size == 2 * pair.fine_pixel_size == 0.862
    np.testing.assert_allclose(pair.truth, pair.fine.reshape(256, 2, 256, 2).mean((1, 3)), rtol=1e-5, atol=1e-9)
    y, x = np.mgrid[:512, :512] - 255.5
    assert not pair.fine[np.hypot(y, x) > 256].any()
    assert pair.fine.min() == 0
    assert pair.truth.dtype == np.float32
    np.testing.assert_array_equal(pair.fine[200:300, 200:300], sample("ct_head", "1/mm").image[200:300, 200:300])
    small = slice_for_ct(n=50, factor=3)
    assert small.fine.shape == (150, 150)
    assert np.isclose(small.pixel_size * 50, 513 * 0.431)
    np.testing.assert_allclose(small.truth.sum() * small.pixel_size**2, pair.truth.sum() * pair.pixel_size**2, rtol=2e-3)


def test_resampling_is_an_exact_area_average():
    weights = samples._overlaps(7, 3)
    fine = np.repeat(np.arange(7.0), 3)  # 21 cells divide both grids
    np.testing.assert_allclose(weights @ np.arange(7.0), fine.reshape(3, 7).mean(1))
    np.testing.assert_allclose(weights.sum(1), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample("ct_hed"), "Did you mean 'ct_head'"),
        (lambda: sample("camera", unit="1/mm"), "unit"),
        (lambda: sample("ct_head", unit="1/cm"), "unit"),
        (lambda: slice_for_ct("ihc"), "grey image"),
        (lambda: slice_for_ct("ct_small", n=128), "n: expected at most 64"),
        (lambda: slice_for_ct(factor=0), "factor"),
    ],
)
def test_bad_input_is_refused(call, message):
    pytest.importorskip("pydicom"), pytest.importorskip("skimage")
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    samples._dicom.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "diffimg-jax\[demo\]"'):
        sample("ct_small")
