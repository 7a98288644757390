"""ISMRMRD and fastMRI files against the ismrmrd package and h5py."""

import dataclasses

import numpy as np
import pytest

from diffimg import data

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(13)
HEADER = data.ScanHeader(
    (16, 12, 1), (0.32, 0.24, 5e-3), (8, 12, 1), (0.16, 0.24, 5e-3), tr=(0.5,), te=(0.015, 0.03), flip=(np.pi / 2,), field=3.0
)


def noise(*shape):
    return (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype(np.complex64)


def test_round_trip(tmp_path):
    k = noise(2, 3, 12, 16)
    k[:, :, 1::2] = 0
    scan = noise(3, 50)
    data.write_ismrmrd(tmp_path / "a.h5", k, HEADER, axes=("slice",), noise=scan)
    out = data.read_ismrmrd(tmp_path / "a.h5")
    np.testing.assert_array_equal(out.data, k)
    np.testing.assert_array_equal(out.noise, scan)
    assert out.axes == ("slice",) and out.mask[:, ::2].all() and not out.mask[:, 1::2].any()
    for name in ("matrix", "recon_matrix", "trajectory"):
        assert getattr(out.header, name) == getattr(HEADER, name)
    np.testing.assert_allclose(out.header.te, (0.015, 0.03))
    np.testing.assert_allclose(out.header.flip, (np.pi / 2,))
    np.testing.assert_allclose(out.header.fov, HEADER.fov)


def test_the_reference_package_reads_what_we_write(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    k = noise(3, 12, 16)
    data.write_ismrmrd(tmp_path / "a.h5", k, HEADER)
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset", create_if_needed=False) as source:
        header = ismrmrd.xsd.CreateFromDocument(source.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == 16
        assert header.sequenceParameters.TE == [15.0, 30.0]
        assert source.number_of_acquisitions() == 12
        for i in range(12):
            a = source.read_acquisition(i)
            np.testing.assert_array_equal(a.data, k[:, a.idx.kspace_encode_step_1])


def test_we_read_what_the_reference_package_writes(tmp_path):
    """Averages, a reversed line, a partial echo, a noise scan and a dummy."""
    ismrmrd = pytest.importorskip("ismrmrd")
    k = noise(2, 12, 16)
    path = str(tmp_path / "b.h5")
    with ismrmrd.Dataset(path, "dataset") as out:
        out.write_xml_header(data.write_header(HEADER, 2).encode())

        def put(samples, y, centre, *flags):
            a = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples), center_sample=centre)
            a.idx.kspace_encode_step_1 = y
            for f in flags:
                a.set_flag(f)
            out.append_acquisition(a)

        put(noise(2, 40), 0, 0, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        put(noise(2, 16), 3, 8, ismrmrd.ACQ_IS_DUMMYSCAN_DATA)
        for y in range(12):
            if y == 2:
                put(1.5 * k[:, y], y, 8)
                put(0.5 * k[:, y], y, 8)
            elif y == 5:
                put(k[:, y, ::-1], y, 7, ismrmrd.ACQ_IS_REVERSE)
            elif y == 7:
                put(k[:, y, 3:], y, 5)
            else:
                put(k[:, y], y, 8)
    out = data.read_ismrmrd(path)
    expected = k.copy()
    expected[:, 7, :3] = 0
    np.testing.assert_allclose(out.data, expected, atol=1e-6)
    assert out.noise.shape == (2, 40) and out.axes == () and out.mask.all()


def test_oversampling_is_removed_by_cropping_the_image(tmp_path):
    k = noise(2, 12, 16)
    data.write_ismrmrd(tmp_path / "a.h5", k, HEADER)
    out = data.read_ismrmrd(tmp_path / "a.h5", remove_oversampling=True)
    shift = lambda v, f: np.fft.fftshift(f(np.fft.ifftshift(v, axes=-1), norm="ortho"), axes=-1)  # noqa: E731
    np.testing.assert_allclose(shift(out.data, np.fft.ifft), shift(k, np.fft.ifft)[..., 4:12], atol=1e-5)


def test_volumes_and_trajectories(tmp_path):
    volume = dataclasses.replace(HEADER, matrix=(8, 6, 5))
    k = noise(2, 5, 6, 8)
    data.write_ismrmrd(tmp_path / "v.h5", k, volume)
    np.testing.assert_array_equal(data.read_ismrmrd(tmp_path / "v.h5").data, k)
    radial = dataclasses.replace(HEADER, trajectory="radial")
    t = RNG.uniform(-np.pi, np.pi, (7, 20, 2))
    y = noise(2, 3, 7, 20)
    data.write_ismrmrd(tmp_path / "r.h5", y, radial, axes=("repetition",), trajectory=t)
    out = data.read_ismrmrd(tmp_path / "r.h5")
    np.testing.assert_array_equal(out.data, y)
    np.testing.assert_allclose(out.trajectory, t, atol=1e-5)
    assert out.mask is None and out.axes == ("repetition",)


def test_fastmri_layout(tmp_path):
    k = noise(3, 4, 20, 18)
    data.write_fastmri(tmp_path / "f.h5", k, header=HEADER, crop=(10, 12), attributes={"acquisition": "AXT2", "patient_id": "0"})
    with h5py.File(tmp_path / "f.h5") as raw:  # the layout, by name
        assert raw["kspace"].shape == (3, 4, 20, 18) and raw["kspace"].dtype == np.complex64
        images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(raw["kspace"][()], axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        rss = np.sqrt((np.abs(images) ** 2).sum(1))[:, 5:15, 3:15]
        np.testing.assert_allclose(raw["reconstruction_rss"][()], rss, rtol=1e-5)
        assert raw.attrs["max"] == pytest.approx(rss.max(), rel=1e-5) and raw.attrs["acquisition"] == "AXT2"
    out = data.read_fastmri(tmp_path / "f.h5", slices=[2, 0])
    np.testing.assert_array_equal(out.data, k[[2, 0]])
    assert out.header.matrix == HEADER.matrix and out.reference.shape == (2, 10, 12) and out.attributes["patient_id"] == "0"
    mask = np.arange(18) % 4 == 0
    data.write_fastmri(tmp_path / "t.h5", k[:, 0] * mask, mask=mask)
    out = data.read_fastmri(tmp_path / "t.h5")
    assert out.data.shape == (3, 1, 20, 18) and out.reference is None
    np.testing.assert_array_equal(out.mask, np.tile(mask, (3, 1)))


@pytest.mark.parametrize("reader", [data.read_ismrmrd, data.read_fastmri])
def test_bad_files(reader, tmp_path):
    with pytest.raises(ValueError, match="existing file"):
        reader(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="truncated"):
        reader(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as out:
        out["x"] = np.ones(3)
    with pytest.raises(ValueError, match="expected a"):
        reader(tmp_path / "foreign.h5")
    whole = tmp_path / "whole.h5"
    k = noise(2, 12, 16)
    if reader is data.read_ismrmrd:
        data.write_ismrmrd(whole, k, HEADER)
    else:
        data.write_fastmri(whole, k)
    (tmp_path / "cut.h5").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        reader(tmp_path / "cut.h5")


def test_refused(tmp_path):
    k = noise(2, 12, 16)
    bad = k.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        data.write_ismrmrd(tmp_path / "a.h5", bad, HEADER)
    assert not list(tmp_path.iterdir())
    with h5py.File(tmp_path / "n.h5", "w") as out:
        out["kspace"] = bad[None]
    with pytest.raises(ValueError, match="finite"):
        data.read_fastmri(tmp_path / "n.h5")
    with pytest.raises(ValueError, match="entities"):
        data.parse_header('<!DOCTYPE x [<!ENTITY a "b">]><ismrmrdHeader/>')
    with pytest.raises(ValueError, match="XML"):
        data.parse_header("<a")
    with pytest.raises(ValueError, match="encoding"):
        data.parse_header("<ismrmrdHeader/>")
    with pytest.raises(ValueError, match="axes"):
        data.write_ismrmrd(tmp_path / "a.h5", k[None], HEADER, axes=("slices",))
    data.write_fastmri(tmp_path / "f.h5", k[None])
    with pytest.raises(ValueError, match="slices"):
        data.read_fastmri(tmp_path / "f.h5", slices=[4])
