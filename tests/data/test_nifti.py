"""NIfTI in and out against nibabel and SimpleITK."""

import gzip

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from nibabel.testing import data_path  # noqa: E402

from diffimg import data  # noqa: E402
from diffimg.data import Grid, Volume, read_nifti, write_nifti  # noqa: E402


def volume(dtype=np.float32):
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    return Volume(np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype), Grid((4, 5, 6), (3.0, 0.8, 0.7), (10.0, -20.0, 5.0), q.tolist()))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_round_trip_by_nibabel_and_simpleitk(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    written, file = volume(), tmp_path / f"v{suffix}"
    data.write(file, written)
    loaded = nibabel.load(file)
    np.testing.assert_array_equal(loaded.get_fdata(), written.image.T)
    np.testing.assert_allclose(loaded.affine, written.grid.affine, atol=1e-5)
    np.testing.assert_allclose(loaded.header.get_qform(), written.grid.affine, atol=1e-4)
    assert loaded.header.get_xyzt_units()[0] == "mm"
    assert loaded.get_data_dtype() == np.float32
    image = sitk.ReadImage(str(file))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), written.image)
    np.testing.assert_allclose(image.GetOrigin(), written.grid.itk["origin"], atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), written.grid.itk["spacing"], atol=1e-5)
    np.testing.assert_allclose(image.GetDirection(), written.grid.itk["direction"], atol=1e-5)
    back = data.read(file)
    np.testing.assert_array_equal(back.image, written.image)
    np.testing.assert_allclose(back.grid.affine, written.grid.affine, atol=1e-5)


def test_real_files():
    file = f"{data_path}/example4d.nii.gz"
    loaded, read = nibabel.load(file), read_nifti(file)
    np.testing.assert_array_equal(read.image, loaded.get_fdata(dtype=np.float32).T)
    assert read.image.shape == (2, 24, 96, 128)
    np.testing.assert_allclose(read.grid.affine, loaded.affine, atol=1e-4)
    assert read.metadata == {"time_step_s": 2000.0}  # so says its header


def test_labels_batches_and_slices(tmp_path):
    labels = volume(np.uint8)
    write_nifti(tmp_path / "l.nii", labels)
    back = read_nifti(tmp_path / "l.nii", dtype=None)
    assert back.image.dtype == np.uint8
    np.testing.assert_array_equal(back.image, labels.image)
    series = Volume(np.stack([labels.image, labels.image + 1.0]), labels.grid)
    write_nifti(tmp_path / "t.nii", series)
    np.testing.assert_array_equal(read_nifti(tmp_path / "t.nii").image, series.image)
    flat = Volume(np.eye(4), Grid.centred((4, 4), 0.5))
    write_nifti(tmp_path / "f.nii", flat)
    assert read_nifti(tmp_path / "f.nii").grid == flat.grid.as_volume()


def test_units_are_converted(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.diag([20.0, 30.0, 40.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "m.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "m.nii").grid.spacing, (0.04, 0.03, 0.02))


@pytest.mark.parametrize(("unit", "step", "seconds"), [("sec", 0.72, 0.72), ("msec", 1500.0, 1.5), ("usec", 2e6, 2.0), ("hz", 3.0, None)])
def test_time_series(tmp_path, unit, step, seconds):
    sitk = pytest.importorskip("SimpleITK")
    values = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(np.float32)  # [x, y, z, t]
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_zooms((2.0, 3.0, 4.0, step))
    image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, tmp_path / "t.nii")
    read = read_nifti(tmp_path / "t.nii")
    np.testing.assert_array_equal(read.image, np.transpose(values, (3, 2, 1, 0)))
    assert read.grid.shape == (4, 5, 6)
    assert read.metadata == ({} if seconds is None else {"time_step_s": pytest.approx(seconds, rel=1e-12)})
    by_itk = sitk.ReadImage(str(tmp_path / "t.nii"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(by_itk), read.image)
    if seconds:
        assert by_itk.GetSpacing()[3] == pytest.approx(seconds, rel=1e-6)
    write_nifti(tmp_path / "back.nii.gz", read)
    header = nibabel.load(tmp_path / "back.nii.gz").header
    assert header.get_xyzt_units() == ("mm", "sec" if seconds else "unknown")
    np.testing.assert_allclose(header.get_zooms(), (2.0, 3.0, 4.0, seconds or 1.0))
    if seconds:
        assert sitk.ReadImage(str(tmp_path / "back.nii.gz")).GetSpacing()[3] == pytest.approx(seconds, rel=1e-6)
    assert read_nifti(tmp_path / "back.nii.gz").metadata == read.metadata


def test_time_step_of_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    series = sitk.JoinSeries([sitk.GetImageFromArray(v) for v in values], 0.0, 2.5)
    sitk.WriteImage(series, str(tmp_path / "s.nii.gz"))
    read = read_nifti(tmp_path / "s.nii.gz")
    np.testing.assert_array_equal(read.image, values)
    assert read.metadata == {"time_step_s": 2.5}


def test_time_step_needs_a_time_axis(tmp_path):
    grid = Grid((2, 3, 4))
    write_nifti(tmp_path / "v.nii", Volume(np.zeros((2, 3, 4)), grid, metadata={"time_step_s": 2.0}))
    assert read_nifti(tmp_path / "v.nii").metadata == {}
    values = np.arange(5 * 2 * 2 * 3 * 4, dtype=np.float32).reshape(5, 2, 2, 3, 4)  # [vector, t, z, y, x]
    write_nifti(tmp_path / "v.nii", Volume(values, grid, metadata={"time_step_s": 2.0}))
    assert nibabel.load(tmp_path / "v.nii").header.get_zooms()[3:] == (2.0, 1.0)
    np.testing.assert_array_equal(read_nifti(tmp_path / "v.nii").image, values)
    for step in (0.0, -1.0, np.nan, np.inf, "2 s"):
        with pytest.raises(ValueError, match=r"time_step_s.*positive number of seconds"):
            write_nifti(tmp_path / "none.nii", Volume(values, grid, metadata={"time_step_s": step}))
    assert not (tmp_path / "none.nii").exists()


def test_remedy_for_complex_files_works(tmp_path):
    values = (np.random.default_rng(0).normal(size=(3, 4, 5, 2)) + 1j).astype(np.complex64)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "c.nii")
    with pytest.raises(ValueError, match=r"real numbers, got c\.nii of complex64\. A Volume is real"):
        read_nifti(tmp_path / "c.nii")
    v = nibabel.load(tmp_path / "c.nii")  # as the message says
    c = np.asanyarray(v.dataobj).T
    volume = Volume(abs(c), Grid.from_affine(c.shape[-3:], v.affine))
    np.testing.assert_array_equal(volume.image, np.abs(values).T)
    assert volume.grid.spacing == (4.0, 3.0, 2.0)


def test_files_name_nobody(tmp_path):
    write_nifti(tmp_path / "DOE_JOHN.nii.gz", volume())
    content = (tmp_path / "DOE_JOHN.nii.gz").read_bytes()
    assert b"DOE" not in content + gzip.decompress(content)
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    image.header["descrip"], image.header["db_name"] = b"DOE_JOHN", b"DOE_JOHN"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE_JOHN"))
    nibabel.save(image, tmp_path / "d.nii")
    assert "DOE" not in repr(vars(read_nifti(tmp_path / "d.nii")))


def test_bad_files(tmp_path):
    write_nifti(tmp_path / "v.nii", volume())
    write_nifti(tmp_path / "v.nii.gz", volume())
    for name, keep in [("v.nii", 500), ("v.nii", 100), ("v.nii.gz", 200), ("v.nii", 0)]:
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes((tmp_path / name).read_bytes()[:keep])
        with pytest.raises(ValueError, match=f"whole NIfTI file, got {cut.name}"):
            data.read(cut)
    content = bytearray((tmp_path / "v.nii.gz").read_bytes())
    content[-6] ^= 1  # the checksum that gzip keeps
    (tmp_path / "flipped.nii.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"whole NIfTI file, got flipped\.nii\.gz"):
        data.read(tmp_path / "flipped.nii.gz")
    for array, affine, message in [
        (np.full((3, 3, 3), np.nan, np.float32), np.eye(4), "finite values"),
        (np.zeros((3, 3, 3), np.complex64), np.eye(4), "real numbers"),
        (np.zeros((3, 3, 3), np.float32), np.eye(4) + 0.3 * np.eye(4, k=1), "orthonormal"),
    ]:
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "bad.nii")
        with pytest.raises(ValueError, match=message):
            data.read(tmp_path / "bad.nii")
    with pytest.raises(ValueError, match="existing file"):
        data.read(tmp_path / "none.nii")


def test_nothing_is_half_written(tmp_path):
    with pytest.raises(ValueError, match="holds the values exactly"):
        write_nifti(tmp_path / "v.nii", Volume(np.full((2, 2, 2), 0.5), Grid((2, 2, 2))), dtype=np.uint8)
    with pytest.raises(ValueError, match="batch axes"):
        write_nifti(tmp_path / "v.nii", Volume(np.zeros((1, 1, 1, 2, 2, 2)), Grid((2, 2, 2))))
    with pytest.raises(ValueError, match="existing folder"):
        write_nifti(tmp_path / "nowhere" / "v.nii", volume())
    with pytest.raises(ValueError, match="path: expected"):
        data.write(tmp_path / "v.jpg", volume())
    assert not list(tmp_path.iterdir())
