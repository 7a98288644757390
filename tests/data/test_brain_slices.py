"""Slices of the MNI152 template on two grids: splits apart, averages exact."""

import numpy as np
import pytest

pytest.importorskip("nilearn")

from diffimg.data import brain_slices, sample

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_splits_are_slabs_apart(plane):
    """Slices of different splits are at least 6 mm apart (5 slices of 1 mm lie between), and show brain."""
    slabs = {split: brain_slices(split, 32, 4, plane=plane) for split in SPLITS}
    for a in SPLITS:
        assert len(slabs[a]) == len(slabs[a].z) == len(slabs[a].fine) == len(slabs[a].truth)
        for b in SPLITS:
            if a != b:
                assert np.abs(np.subtract.outer(slabs[a].z, slabs[b].z)).min() >= 6
        assert ((slabs[a].fine > 0.1).sum((1, 2)) * slabs[a].fine_spacing ** 2).min() > 4000  # mm²
    assert len(slabs["train"]) > len(slabs["test"]) > len(slabs["validation"]) >= 8
    if plane == "sagittal":  # the template is its own mirror image: one half only
        width = sample("mni152_t1").image.shape[2]
        assert max(max(s.z) for s in slabs.values()) <= width // 2


def test_axial_splits_are_those_of_the_documentation():
    def indices(*slabs):
        return tuple(k for first, last in slabs for k in range(first, last + 1))

    assert brain_slices("train", 16, 1).z == indices((20, 46), (65, 77), (100, 112), (129, 144))
    assert brain_slices("validation", 16, 1).z == indices((52, 59))
    assert brain_slices("test", 16, 1).z == indices((83, 94), (118, 123))
    assert brain_slices("test", 16, 1, step=5).z == (83, 88, 93, 118, 123)
    # ventricles: dark holes deep inside the slice through them, none near the top
    at = brain_slices("test")
    centre = at.fine[:, 100:156, 113:143]
    assert centre[at.z.index(88)].min() < 0.35 < 0.4 < np.median(centre[at.z.index(88)])


def test_native_slices_are_the_template_and_truth_is_their_mean():
    brain = sample("mni152_t1").image
    slices = brain_slices("test")
    assert (slices.fine.shape, slices.truth.shape) == ((18, 256, 256), (18, 128, 128))
    assert (slices.spacing, slices.fine_spacing) == (2.0, 1.0)
    assert slices.fine.dtype == slices.truth.dtype == np.float32
    assert "nilearn" in slices.source and "axial" in slices.source
    ny, nx = brain.shape[1:]
    top, left = (256 - ny) // 2, (256 - nx) // 2
    k = slices.z.index(88)
    np.testing.assert_array_equal(slices.fine[k, top : top + ny, left : left + nx], brain[88] / brain.max())
    np.testing.assert_allclose(slices.fine.sum(), (brain[list(slices.z)] / brain.max()).sum(), rtol=1e-5)  # zeros elsewhere
    np.testing.assert_allclose(slices.truth, slices.fine.reshape(18, 128, 2, 128, 2).mean((2, 4)), atol=1e-6)
    for image in (slices.fine, slices.truth):
        with pytest.raises(ValueError, match="read-only"):
            image[0] = 0


def test_other_grids_are_area_averages():
    native, coarse = brain_slices("validation"), brain_slices("validation", 24, 4, step=3)
    assert (coarse.fine.shape, coarse.truth.shape, coarse.z) == ((3, 96, 96), (3, 24, 24), native.z[::3])
    np.testing.assert_allclose([coarse.spacing, coarse.fine_spacing], [256 / 24, 256 / 96])
    # 96 cells of 256: on the grid of 768, 3 to a native pixel and 8 to a coarse one
    finest = np.repeat(np.repeat(native.fine[::3], 3, 1), 3, 2)
    np.testing.assert_allclose(coarse.fine, finest.reshape(3, 96, 8, 96, 8).mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(coarse.truth, finest.reshape(3, 24, 32, 24, 32).mean((2, 4)), atol=1e-6)


def test_coronal_and_sagittal_stand_upright():
    brain = sample("mni152_t1").image / sample("mni152_t1").image.max()
    for plane, cut in (("coronal", lambda k: brain[::-1, k]), ("sagittal", lambda k: brain[::-1, :, k])):
        slices = brain_slices("test", 256, 1, step=9, plane=plane)
        expected = cut(slices.z[0])
        ny, nx = expected.shape
        top, left = (256 - ny) // 2, (256 - nx) // 2
        np.testing.assert_array_equal(slices.fine[0, top : top + ny, left : left + nx], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: brain_slices("val"), "split: expected one of 'train', 'validation', 'test'"),
        (lambda: brain_slices("train", plane="axil"), "Did you mean 'axial'"),
        (lambda: brain_slices("train", 256), "size · factor of at most 256, got 256 · 2 = 512"),
        (lambda: brain_slices("train", 0), "size"),
        (lambda: brain_slices("train", step=0), "step"),
        (lambda: brain_slices("train", factor=1.5), "factor"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
