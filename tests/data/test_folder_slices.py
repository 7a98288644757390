"""Slices of folders: shares, subfolders, areas against block means, the layouts of LoDoPaB-CT and fastMRI."""

import numpy as np
import pytest

pytest.importorskip("h5py")

from diffimg import data

RNG = np.random.default_rng(0)


def test_split_by_file_and_averaged_over_areas(tmp_path):
    images = {f"im{k}.npy": RNG.uniform(size=(32, 24)).astype(np.float32) for k in range(12)}
    for name, image in images.items():
        np.save(tmp_path / name, image)
    parts = [data.folder_slices(tmp_path, split, 4, 2) for split in ("train", "validation", "test")]
    assert [len(p.fine) for p in parts] == [10, 1, 1] and parts[2].names == ("im11.npy",)
    assert sum((p.names for p in parts), ()) == tuple(images)
    image = np.pad(images["im11.npy"], ((0, 0), (4, 4))) / images["im11.npy"].max()
    np.testing.assert_allclose(parts[2].fine[0], image.reshape(8, 4, 8, 4).mean((1, 3)), atol=1e-6)
    assert len(data.folder_slices(tmp_path, "train", 4, 2, most=3).fine) == 3
    pairs = data.split_folder(tmp_path, "validation")
    assert [name for name, _ in pairs] == ["im10.npy"]
    assert len(data.patches(pairs, 8)) == 12
    (tmp_path / "im0.npy").write_bytes(b"broken")  # a file of the training split
    assert data.split_folder(tmp_path, "test")[0][0] == "im11.npy"
    with pytest.raises(ValueError, match=r"im0\.npy"):
        data.split_folder(tmp_path, "train")


def test_subfolders_volumes_and_negative_values(tmp_path):
    for folder, value in (("train", 1.0), ("val", 2.0), ("test", 3.0)):
        (tmp_path / folder).mkdir()
        volume = np.full((3, 16, 16), -1000.0)
        volume[1:, 4:8, 4:8] = 100 * value
        np.save(tmp_path / folder / "ct.npy", volume)
    found = data.folder_slices(tmp_path, "validation", 8, 2)
    assert found.fine.shape == (2, 16, 16) and found.fine.min() == 0 and found.fine.max() == 1  # the empty slice is left out
    assert data.folder_slices(tmp_path, "test", 16, 2).fine.shape == (2, 32, 32)  # pixels become squares


def test_public_layouts(tmp_path):
    truths = RNG.uniform(size=(4, 16, 16)).astype(np.float32)
    (tmp_path / "ct").mkdir()
    for split in ("train", "validation", "test"):
        data.write_lodopab(tmp_path / "ct", split, np.zeros((4, 5, 7), np.float32), truths)
    np.testing.assert_allclose(data.folder_slices(tmp_path / "ct", "test", 8, 2, "lodopab").fine[1], truths[1] / truths[1].max(), rtol=1e-6)
    (tmp_path / "mri" / "multicoil_val").mkdir(parents=True)
    coils = np.array([0.6, 0.8])[:, None, None] * truths[:, None]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils, (-2, -1)), norm="ortho"), (-2, -1)).astype(np.complex64)
    data.write_fastmri(tmp_path / "mri" / "multicoil_val" / "a.h5", kspace)
    fine = data.folder_slices(tmp_path / "mri", "validation", 8, 2, "fastmri").fine
    np.testing.assert_allclose(fine, truths / truths.max(), atol=1e-5)


def test_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        data.folder_slices(tmp_path / "nowhere", "train")
    np.save(tmp_path / "a.npy", np.ones((4, 4)))
    with pytest.raises(ValueError, match="at least three files"):
        data.folder_slices(tmp_path, "train", 4)
    for name in "bc":
        np.save(tmp_path / f"{name}.npy", np.ones((4, 4)))
    with pytest.raises(ValueError, match="at least 128 pixels"):
        data.folder_slices(tmp_path, "train", 128)
    with pytest.raises(ValueError, match="layout"):
        data.folder_slices(tmp_path, "train", 4, layout="dicom")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="subfolder test"):
        data.folder_slices(tmp_path, "test", 4)
