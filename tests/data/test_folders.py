"""Folders of images, of fastMRI files and of LoDoPaB-CT: written by other packages, read here; every error names its file."""

import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

h5py, tifffile, nibabel = (pytest.importorskip(name) for name in ("h5py", "tifffile", "nibabel"))
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("pydicom")

from dicom_files import ct_slice, save, series  # noqa: E402

from diffimg.data import LoDoPaB, bsd68, fastmri_folder, read_folder, sample, write_fastmri, write_lodopab  # noqa: E402
from diffimg.forward import ParallelBeam, Radon  # noqa: E402

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8)).astype(np.uint8)


def test_every_format(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(np.stack([GREY, GREY // 2, GREY // 3], -1)).save(tmp_path / "b.PNG")
    tifffile.imwrite(tmp_path / "c.tif", GREY.astype(np.uint16), photometric="minisblack")
    save(ct_slice(), tmp_path / "d.dcm")
    series(tmp_path / "s", 3, SeriesInstanceUID="1.2.4")
    for k, file in enumerate(sorted((tmp_path / "s").iterdir())):
        file.rename(tmp_path / f"e{k}")  # one series, no suffix
    nibabel.save(nibabel.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), np.eye(4)), tmp_path / "f.nii.gz")
    np.save(tmp_path / "g.npy", GREY)
    with h5py.File(tmp_path / "h.hdf5", "w") as out:
        out["deep/inside"], out["angles"] = GREY / 7, np.arange(3)
    with h5py.File(tmp_path / "i.h5", "w") as out:
        out["data"], out["mask"] = GREY / 9, GREY > 9
    (tmp_path / "README.txt").write_text("passed over"), (tmp_path / ".hidden.png").write_text(""), (tmp_path / "LICENSE").write_text("x")
    found = dict(read_folder(tmp_path))
    assert list(found) == ["a.png", "b.PNG", "c.tif", "d.dcm", "e0", "f.nii.gz", "g.npy", "h.hdf5", "i.h5"]
    assert all(image.dtype == np.float32 for image in found.values())
    np.testing.assert_allclose(found["a.png"], GREY / 255, rtol=1e-6)
    rgb = np.stack([GREY, GREY // 2, GREY // 3], -1)
    np.testing.assert_allclose(found["b.PNG"], rgb @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    np.testing.assert_array_equal(found["c.tif"], GREY)
    np.testing.assert_array_equal(found["d.dcm"], np.arange(48).reshape(6, 8) - 1000)
    np.testing.assert_array_equal(found["e0"], np.arange(48).reshape(1, 6, 8) + 100 * np.arange(3)[:, None, None] - 1000)
    assert found["f.nii.gz"].shape == (4, 3, 2)
    np.testing.assert_array_equal(found["g.npy"], GREY)
    np.testing.assert_allclose(found["h.hdf5"], GREY / 7, rtol=1e-6)
    np.testing.assert_allclose(found["i.h5"], GREY / 9, rtol=1e-6)


def test_order_pattern_shape_and_stack(tmp_path):
    for k in (10, 9, 1):
        np.save(tmp_path / f"im{k}.npy", np.full((4 + k % 2, 5), k))
    Image.fromarray(GREY).save(tmp_path / "im2.png")
    assert [name for name, _ in read_folder(tmp_path)] == ["im1.npy", "im2.png", "im9.npy", "im10.npy"]
    names, images = read_folder(str(tmp_path), "*.npy", shape=(5, 3), stack=True)
    assert names == ("im1.npy", "im9.npy", "im10.npy") and images.shape == (3, 5, 3) and images.dtype == np.float32
    np.testing.assert_array_equal(images[0], np.ones((5, 3)))
    np.testing.assert_array_equal(images[2], np.repeat([[10], [10], [10], [10], [0]], 3, 1))
    with pytest.raises(ValueError, match=r"im1\.npy of shape \(5, 5\) beside im10\.npy of shape \(4, 5\).*Pass shape=\(4, 5\) to crop"):
        read_folder(tmp_path, "*.npy", stack=True)
    with pytest.raises(ValueError, match=r"shape: expected 2 numbers for im1\.npy"):
        read_folder(tmp_path, "*.npy", shape=(4, 4, 4))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, r"images \(\.png .*\.npy, or DICOM"),
        (lambda f: (f / "inner").mkdir(), "Its subfolders are not read"),
        (lambda f: (f / "a.png").write_text("x"), r"a\.png \(UnidentifiedImageError"),
        (lambda f: (f / "a.npy").write_bytes(b"\x93NUMPY"), r"a\.npy"),
        (lambda f: np.save(f / "a.npy", np.array([{}], object)), r"a\.npy"),
        (lambda f: np.save(f / "a.npy", np.array(["x"])), r"a\.npy: expected a numeric array"),
        (lambda f: np.save(f / "a.npy", np.array([[1.0, np.nan]])), r"a\.npy: expected finite"),
        (lambda f: np.save(f / "a.npy", np.ones(4)), r"a\.npy: expected an image of at least two axes"),
        (lambda f: np.save(f / "a.npy", np.ones((2, 2)) * 1j), r"a\.npy: expected a real dtype"),
        (lambda f: (f / "a.tif").write_text("x"), r"a\.tif"),
        (lambda f: (f / "a.dcm").write_text("x"), r"a\.dcm"),
        (lambda f: (f / "a.nii").write_text("x"), r"a\.nii"),
        (lambda f: (f / "a.h5").write_text("x"), r"a\.h5 \(OSError"),
        (lambda f: h5py.File(f / "a.h5", "w").close(), r"a\.h5: expected one dataset of an image.*got none"),
        (lambda f: series(f, 4) and (f / "im6.dcm").unlink(), r"im\d\.dcm"),  # a slice is missing
    ],
)
def test_folders_that_cannot_be_read(tmp_path, spoil, message):
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_no_such_folder_and_ambiguous_files(tmp_path):
    with pytest.raises(ValueError, match="nowhere, which is none"):
        read_folder(tmp_path / "nowhere")
    with h5py.File(tmp_path / "two.h5", "w") as out:
        out["a"], out["b"] = GREY, GREY
    with pytest.raises(ValueError, match=r"two\.h5: expected one dataset.*got \['a', 'b'\]"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match=r"two\.h5, a file"):
        read_folder(tmp_path / "two.h5")
    with pytest.raises(ValueError, match=r"files '\*\.png'"):
        read_folder(tmp_path, "*.png")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        read_folder(tmp_path, "*.txt")


def test_bsd68(tmp_path):
    with pytest.raises(ValueError, match=r"a folder with pictures \(\.png"):
        bsd68(tmp_path)
    for k in range(68):
        Image.fromarray(np.full((3, 5), k, np.uint8)).save(tmp_path / f"test{k}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bsd68(tmp_path)
    assert [name for name, _ in found] == [f"test{k}.png" for k in range(68)]
    np.testing.assert_allclose([image[1, 1] for _, image in found], np.arange(68) / 255, rtol=1e-6)
    (tmp_path / "test7.png").unlink()
    with pytest.warns(UserWarning, match="67 pictures"):
        assert len(bsd68(tmp_path)) == 67


def test_fastmri_folder_reads_one_file_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "multicoil_val"
    folder.mkdir(), (tmp_path / "multicoil_train").mkdir()
    kspace = RNG.normal(size=(3, 4, 2, 6, 8)) + 1j * RNG.normal(size=(3, 4, 2, 6, 8))
    for k, number in enumerate((10, 9, 2)):
        write_fastmri(folder / f"file{number}.h5", kspace[k])
    files = fastmri_folder(tmp_path, "validation", slices=[1, 3])
    assert files.names == ("file2", "file9", "file10") and len(files) == 3
    np.testing.assert_allclose(files[0].data, kspace[2][[1, 3]].astype(np.complex64))
    np.testing.assert_allclose(files[-1].data, kspace[0][[1, 3]].astype(np.complex64))
    assert files[1:].names == ("file9", "file10")
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda file, mode: opened.append(file.name) or original(file, mode))
    stream = iter(fastmri_folder(folder))
    assert not opened
    assert next(stream).data.shape == (4, 2, 6, 8) and opened == ["file2.h5"]
    with pytest.raises(ValueError, match=r"whose name ends in 'test', got multicoil_train, multicoil_val"):
        fastmri_folder(tmp_path, "test")
    (tmp_path / "singlecoil_val").mkdir()
    with pytest.raises(ValueError, match=r"got multicoil_val, singlecoil_val.*Name one of them as path"):
        fastmri_folder(tmp_path, "validation")
    with pytest.raises(ValueError, match=r"multicoil_train, which has none"):
        fastmri_folder(tmp_path, "train")
    with pytest.raises(IndexError):
        files[3]


def lodopab(folder, n=7, views=12, bins=9, side=6, per_file=3, split="train"):
    pairs = RNG.random((n, views, bins)).astype(np.float32), RNG.random((n, side, side)).astype(np.float32)
    write_lodopab(folder, split, *pairs, per_file=per_file)
    return pairs


def test_lodopab_reads_what_is_asked(tmp_path, monkeypatch):
    seen, true = lodopab(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir())[:2] == ["ground_truth_train_000.hdf5", "ground_truth_train_001.hdf5"]
    with h5py.File(tmp_path / "observation_train_001.hdf5") as file:
        np.testing.assert_array_equal(file["data"], seen[3:6])
    data = LoDoPaB(tmp_path, "train")
    assert len(data) == 7 and "7 pairs" in repr(data)
    for index in (0, 2, 3, 6, -1, -7, np.int64(4)):
        np.testing.assert_array_equal(data[index][0], seen[index])
        np.testing.assert_array_equal(data[index][1], true[index])
    for part in (slice(None), slice(2, 5), slice(1, None, 3), slice(None, None, -2), slice(-2, None), slice(3, 3)):
        np.testing.assert_array_equal(data[part][0], seen[part])
        np.testing.assert_array_equal(data[part][1], true[part])
    assert sum(1 for _ in data) == 7
    for index in (7, -8):
        with pytest.raises(IndexError, match="one of 7 members"):
            data[index]
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda file, mode: opened.append(file.name) or original(file, mode))
    data[4]
    assert opened == ["observation_train_001.hdf5", "ground_truth_train_001.hdf5"]


def test_lodopab_takes_its_length_from_the_observations(tmp_path):
    """The last file of truths of the dataset is longer than that of the observations."""
    true = lodopab(tmp_path)[1]
    with h5py.File(tmp_path / "ground_truth_train_002.hdf5", "w") as out:
        out["data"] = np.concatenate([true[6:], np.zeros((2, 6, 6), np.float32)])
    data = LoDoPaB(tmp_path, "train")
    assert len(data) == 7
    np.testing.assert_array_equal(data[-1][1], true[6])


def test_lodopab_geometry_is_that_of_the_article(tmp_path):
    """362² over 26 cm, 1000 views in the middle of 1000 parts of [0, π), 513 bins on the diagonal (ODL's uniform_partition)."""
    data = LoDoPaB.__new__(LoDoPaB)
    data.observation_shape, data.image_shape = (1000, 513), (362, 362)
    found = data.geometry()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the detector covers the diagonal
        geometry = ParallelBeam(**found)
    assert geometry.image_shape == (362, 362) and geometry.detector_count == 513
    np.testing.assert_allclose([362 * found["pixel_size"], 513 * found["detector_spacing"]], [260, np.hypot(260, 260)])
    np.testing.assert_allclose(np.pi / 2 - found["angles"][[0, 1, -1]], np.pi * np.array([0.5, 1.5, 999.5]) / 1000)
    assert len(found["angles"]) == 1000
    # Nyquist for 362 pixels, as in ODL: 2 ceil(ρ / pixel) + 1 bins
    assert 2 * int(np.ceil(130 * 2**0.5 / found["pixel_size"])) + 1 == 513
    np.testing.assert_allclose(LoDoPaB.mu_max, 81.35858, rtol=1e-9)


def test_lodopab_pairs_fit_the_projector(tmp_path):
    """An off-centre disc, its chords by the closed form in the axes of the authors' scripts (first axis x, in metres)."""
    side, views, bins, radius, x0, y0 = 128, 90, 181, 0.05, 0.04, -0.02
    axis = (np.arange(8 * side) + 0.5) * 0.26 / (8 * side) - 0.13
    inside = (axis[:, None] - x0) ** 2 + (axis[None, :] - y0) ** 2 < radius**2  # [x, y]
    image = 0.25 * inside.reshape(side, 8, side, 8).mean((1, 3))
    phi = (np.arange(views) + 0.5) * np.pi / views
    reach = 0.13 * 2**0.5
    s = (np.arange(bins) + 0.5) * 2 * reach / bins - reach
    distance = s[None, :] - (x0 * np.cos(phi) + y0 * np.sin(phi))[:, None]
    sinogram = 0.25 * 2 * np.sqrt(np.maximum(0, radius**2 - distance**2))  # of the normalised image, over metres
    write_lodopab(tmp_path, "test", sinogram[None], image[None])
    data = LoDoPaB(tmp_path, "test", unit="1/mm")
    observation, truth = data[0]
    projector = Radon(ParallelBeam(**data.geometry()))
    np.testing.assert_allclose(truth, image * 81.35858e-3, rtol=1e-5)
    np.testing.assert_allclose(observation, sinogram * 81.35858, rtol=1e-5, atol=1e-7)
    error = np.asarray(projector(jnp.asarray(truth))) - observation
    assert np.linalg.norm(error) / np.linalg.norm(observation) < 0.02  # a sharp edge on 128²
    stored = LoDoPaB(tmp_path, "test")[0]
    np.testing.assert_allclose(stored[0], sinogram, rtol=1e-5)
    wrong = Radon(ParallelBeam(**(data.geometry() | {"angles": phi})))(jnp.asarray(truth)) - observation
    assert np.linalg.norm(wrong) / np.linalg.norm(observation) > 0.3


def spoiled(change):
    def build(folder):
        lodopab(folder)
        change(folder)
        return LoDoPaB(folder, "train")[:]

    return build


def rewrite(file, **datasets):
    with h5py.File(file, "w") as out:
        for name, value in datasets.items():
            out[name] = value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: LoDoPaB(f / "no", "train"), "no, which is none"),
        (lambda f: LoDoPaB(f, "train"), "observation_train_000.hdf5"),
        (lambda f: LoDoPaB(f, "valid"), "Did you mean 'validation'"),
        (lambda f: LoDoPaB(f, "train", unit="HU"), "unit"),
        (spoiled(lambda f: (f / "observation_train_001.hdf5").unlink()), "no observation_train_001.hdf5"),
        (spoiled(lambda f: (f / "ground_truth_train_002.hdf5").unlink()), "3 of observations and 2 of truths"),
        (spoiled(lambda f: (f / "ground_truth_train_001.hdf5").write_text("x")), r"ground_truth_train_001\.hdf5 \(OSError"),
        (spoiled(lambda f: rewrite(f / "observation_train_001.hdf5", other=GREY)), r"observation_train_001\.hdf5 \(KeyError"),
        (spoiled(lambda f: rewrite(f / "observation_train_001.hdf5", data=GREY)), "observation_train_001.hdf5: expected a dataset"),
        (spoiled(lambda f: rewrite(f / "observation_train_001.hdf5", data=np.zeros((3, 12, 8)))), r"shapes \(3, 12, 8\)"),
        (spoiled(lambda f: rewrite(f / "ground_truth_train_001.hdf5", data=np.zeros((2, 6, 6)))), "a truth for every observation"),
        (
            spoiled(lambda f: rewrite(f / "ground_truth_train_001.hdf5", data=np.full((3, 6, 6), np.nan))),
            "train_001.hdf5: expected finite",
        ),
        (spoiled(lambda f: lodopab(f)), "a folder without files of the split 'train'"),
        (lambda f: write_lodopab(f, "train", np.zeros((2, 3, 4)), np.zeros((3, 4, 4))), "truths: expected one for each of the 2"),
        (lambda f: write_lodopab(f, "train", np.zeros((2, 3, 4)), np.zeros((2, 4, 5))), "square images"),
        (lambda f: write_lodopab(f, "train", np.zeros((3, 4)), np.zeros((2, 4, 5))), "observations: expected 3 axes"),
        (lambda f: write_lodopab(f / "no", "train", np.zeros((2, 3, 4)), np.zeros((2, 4, 4))), "existing folder"),
    ],
)
def test_lodopab_refuses(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    lodopab(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "diffimg-jax\[io\]"'):
        LoDoPaB(tmp_path, "train")


def test_real_dicom_files(tmp_path):
    """Two unrelated real files side by side: two images."""
    import shutil

    import pydicom.data

    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(pydicom.data.get_testdata_file(name, download=False), tmp_path / name)
    found = dict(read_folder(tmp_path))
    np.testing.assert_array_equal(found["CT_small.dcm"], sample("ct_small").image)
    assert found["MR_small.dcm"].shape == (64, 64)
