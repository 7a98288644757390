"""DICOM in and out: real files against SimpleITK, synthetic ones against what was put in, bad ones refused."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from dicom_files import REAL, SERIES, ct_slice, enhanced, save, series  # noqa: E402

from diffimg import data  # noqa: E402
from diffimg.data import Grid, Volume  # noqa: E402
from diffimg.data.deidentify import NUMBERS  # noqa: E402
from diffimg.data.dicom_write import _NOT_CT  # noqa: E402


def itk_image(files):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage([str(f) for f in files] if isinstance(files, list) else str(files))
    return sitk.GetArrayFromImage(image), image


def assert_same_place(grid, image, spacing=True):
    np.testing.assert_allclose(grid.itk["origin"], image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(grid.itk["direction"], image.GetDirection(), atol=1e-6)
    if spacing:
        np.testing.assert_allclose(grid.itk["spacing"], image.GetSpacing(), atol=1e-6)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm", "MR_small_RLE.dcm"])
def test_real_images_agree_with_simpleitk(name):
    volume = data.read(REAL / name)
    expected, image = itk_image(REAL / name)
    header = pydicom.dcmread(REAL / name, stop_before_pixels=True)
    padding = header.get("PixelPaddingValue")
    padded = np.zeros(expected.shape, bool) if padding is None else expected == padding + float(header.RescaleIntercept)
    np.testing.assert_array_equal(volume.image[~padded], expected[~padded])
    np.testing.assert_array_equal(volume.image[padded], -1000)
    assert volume.unit == ("HU" if header.Modality == "CT" else "1")
    assert volume.image.dtype == np.float32
    assert_same_place(volume.grid, image, spacing="SpacingBetweenSlices" in header and header.Modality == "CT")
    assert volume.grid.spacing[1:] == tuple(header.PixelSpacing)


def test_real_series_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    volume = data.read(SERIES)
    expected, image = itk_image(list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(SERIES))))
    np.testing.assert_array_equal(volume.image, expected)
    assert_same_place(volume.grid, image)
    assert volume.metadata["age_years"] == 43
    assert volume.metadata["tube_voltage_kv"] == 120
    assert volume.metadata["kernel"] == "STANDARD"
    again = data.read(sorted(SERIES.iterdir(), reverse=True))
    np.testing.assert_array_equal(again.image, volume.image)


def test_synthetic_series(tmp_path):
    (series(tmp_path / "s") / "notes.txt").write_text("not an image")
    volume = data.read(tmp_path / "s")
    assert volume.grid == Grid((4, 6, 8), (2.0, 0.5, 0.25), (0.0, 4.0, -3.0))
    np.testing.assert_array_equal(volume.image, 100 * np.arange(4)[:, None, None] + np.arange(48).reshape(6, 8) - 1000.0)


def test_slices_are_sorted_along_the_normal_of_any_orientation(tmp_path):
    tmp_path.joinpath("s").mkdir()
    for k in range(3):  # sagittal: rows of pixels run backwards (+y), columns downwards (−z); the normal is −x
        position = [-1.5 * k, 7.0, 9.0]
        save(ct_slice(k, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=position), tmp_path / "s" / f"{9 - k}.dcm")
    grid = data.read(tmp_path / "s").grid
    np.testing.assert_allclose(grid.index_to_world(np.array([1.0, 1.0, 1.0])), (9 - 0.5, 7 + 0.25, -1.5))
    assert data.read(tmp_path / "s").image[1, 0, 0] == 100 - 1000
    _, image = itk_image([tmp_path / "s" / f"{9 - k}.dcm" for k in range(3)])
    assert_same_place(grid, image)


def test_enhanced_multiframe(tmp_path):
    dataset, stored = enhanced()
    save(dataset, tmp_path / "e.dcm", "1.2.840.10008.5.1.4.1.1.2.1")
    volume = data.read(tmp_path / "e.dcm")
    assert volume.grid == Grid((3, 4, 5), (1.5, 0.7, 0.6), (-3.0, 2.0, 1.0))
    np.testing.assert_array_equal(volume.image, (2.0 * stored - 10.0 * np.arange(3)[:, None, None])[::-1])
    assert volume.metadata["tube_voltage_kv"] == 100
    assert volume.metadata["slice_thickness_mm"] == 3


@pytest.mark.parametrize(("value", "limit", "signed"), [(5, None, False), (5, 7, False), (65531, None, True)])
def test_padding_becomes_air(tmp_path, value, limit, signed):
    dataset = ct_slice()
    if signed:  # −5, written as unsigned by a careless program
        dataset.PixelRepresentation = 1
        dataset.PixelData = np.full((6, 8), -5, "<i2").tobytes()
        dataset.add_new("PixelPaddingValue", "US", value)
    else:
        dataset.PixelPaddingValue = value
    if limit:
        dataset.PixelPaddingRangeLimit = limit
    save(dataset, tmp_path / "p.dcm")
    image = data.read(tmp_path / "p.dcm").image.ravel()
    expected = {(5, None, False): [5], (5, 7, False): [5, 6, 7], (65531, None, True): list(range(48))}[(value, limit, signed)]
    assert list(np.flatnonzero(image == -1000)) == sorted({*expected, *([] if signed else [0])})  # stored 0 is −1000 HU itself


def test_monochrome1_keeps_values(tmp_path):
    save(ct_slice(PhotometricInterpretation="MONOCHROME1"), tmp_path / "m.dcm")
    volume = data.read(tmp_path / "m.dcm")
    assert volume.image[0, 0, 1] == -999
    assert volume.metadata["photometric_interpretation"] == "MONOCHROME1"


def test_series_of_a_folder(tmp_path):
    series(tmp_path)
    save(ct_slice(0, SeriesInstanceUID="1.2.4"), tmp_path / "x.dcm")
    with pytest.raises(ValueError, match=r"of one series.*dicom_series"):
        data.read(tmp_path)
    lists = data.dicom_series(tmp_path)
    assert sorted(map(len, lists)) == [1, 4]
    assert {data.read(files).grid.shape[0] for files in lists} == {1, 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}}, "one orientation"),
        ({1: {"PixelSpacing": [0.5, 0.5]}}, "one pixel spacing"),
        ({1: {"shape": (6, 9)}}, "one size"),
        ({1: {"Modality": "MR"}}, "one modality"),
        ({3: {"ImagePositionPatient": [-3.0, 4.0, 10.0]}}, "evenly spaced slices, got gaps of 2 to 6 mm"),
        ({3: {"ImagePositionPatient": [-3.0, 4.0, 4.0]}}, "one slice at each position"),
        ({k: {"ImagePositionPatient": [-3.0, 4.0 + 0.3 * k, 2.0 * k]} for k in range(4)}, "gantry was tilted"),
        ({2: {"RescaleSlope": None}}, "RescaleSlope, 1 finite number, got none"),
        ({2: {"RescaleIntercept": None}}, "not HU without these tags"),
        ({2: {"RescaleSlope": 0}}, "other than 0"),
        ({2: {"PixelSpacing": None}}, "PixelSpacing"),
        ({2: {"ImagePositionPatient": None}}, "ImagePositionPatient"),
        ({2: {"PhotometricInterpretation": "RGB"}}, "grey image"),
        ({2: {"BurnedInAnnotation": "YES"}}, "burned-in"),
        ({2: {"PixelData": None}}, "pixel data, got none"),
    ],
)
def test_bad_series(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.read(series(tmp_path / "s", change=change))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_truncated_file(tmp_path, share):
    content = (REAL / "CT_small.dcm").read_bytes()
    (tmp_path / "t.dcm").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"t\.dcm"):
        data.read(tmp_path / "t.dcm")
    with pytest.raises(ValueError, match=r"t\.dcm"):  # nor is it passed over in a folder
        data.read(tmp_path)


def test_damaged_value_is_named(tmp_path):
    save(ct_slice(), tmp_path / "d.dcm")
    content = bytearray((tmp_path / "d.dcm").read_bytes())
    at = content.index(b"\x28\x00\x52\x10DS") + 4
    content[at : at + 2] = b"\x44\xfe"  # no value representation of DICOM
    (tmp_path / "d.dcm").write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.dcm: expected a readable RescaleIntercept"):
        data.read(tmp_path / "d.dcm")


def test_real_files_that_are_refused():
    for name, message in {
        "MR_truncated.dcm": "whole pixel data",
        "dicomdirtests/77654033/CT2": "gaps of 1.25 to 202.5 mm",
        "dicomdirtests/98892001/CT2N": "one orientation",  # two localizers
        "rtplan.dcm": "an image",
        "rtdose.dcm": "positions of all frames",
        "examples_rgb_color.dcm": "grey image",
    }.items():
        with pytest.raises(ValueError, match=message):
            data.read(REAL / name)


def test_missing_decoder_is_named(tmp_path, monkeypatch):
    dataset = pydicom.dcmread(REAL / "SC_rgb_jpeg_gdcm.dcm")  # JPEG lossless
    # as if no decoder were installed, whatever is
    monkeypatch.setattr(pydicom.pixels.get_decoder(dataset.file_meta.TransferSyntaxUID), "_available", {})
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelSpacing = "OT", "MONOCHROME2", 1, [1, 1]
    dataset.save_as(tmp_path / "j.dcm")
    with pytest.raises(ValueError, match=r"JPEG Lossless.*Install a decoder"):
        data.read(tmp_path / "j.dcm")


# Writing


def head(seed=0, fraction=False):
    values = np.random.default_rng(seed).integers(-1000, 2000, (3, 6, 8)).astype(np.float32)
    grid = Grid((3, 6, 8), (2.5, 0.7, 0.3), (-100.0, 20.0, 5.5), np.eye(3)[[1, 0, 2]].tolist())
    return Volume(values + (0.37 if fraction else 0), grid, "HU", {"tube_voltage_kv": 120.0, "exposure_mas": 98.0, "age_years": 61})


def test_written_series_reads_back(tmp_path):
    volume = head()
    data.write(tmp_path / "out", volume)
    back = data.read(tmp_path / "out")
    ends = [back.grid.index_to_world(np.array(i)) for i in ((0, 0, 0), (2, 5, 7))]
    corners = [volume.grid.index_to_world(np.array(i)) for i in ((0, 0, 0), (2, 5, 7))]
    flipped = not np.allclose(ends[0], corners[0])  # a left-handed grid comes back with its slices reversed, in the same place
    image = back.image[::-1] if flipped else back.image
    np.testing.assert_array_equal(image, volume.image)
    at = back.grid.index_to_world(np.array([2 if flipped else 0, 0, 0]))
    np.testing.assert_allclose(at, corners[0], atol=1e-6)
    assert {"tube_voltage_kv": 120.0, "exposure_mas": 98.0, "age_years": 61}.items() <= dict(back.metadata).items()
    expected, image = itk_image(sorted((tmp_path / "out").iterdir()))
    np.testing.assert_array_equal(expected, volume.image)


def test_written_files_are_valid_and_name_nobody(tmp_path):
    data.write_dicom(tmp_path / "a", head())
    data.write_dicom(tmp_path / "b", head())
    first, second, other = (pydicom.dcmread(tmp_path / name) for name in ("a/slice_0001.dcm", "a/slice_0002.dcm", "b/slice_0001.dcm"))
    assert first.PatientIdentityRemoved == "YES"
    assert first.DeidentificationMethod
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "ReferringPhysicianName", "AccessionNumber"):
        assert keyword in first
        assert not first[keyword].value
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != other.SeriesInstanceUID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert first.SOPClassUID.name == "CT Image Storage"
    with pydicom.config.disable_value_validation():
        values = [v for element in first.iterall() if element.VR in ("DS", "UI", "IS") for v in np.atleast_1d(element.value)]
    assert all(len(str(v)) <= 64 for v in values)


def test_acquisition_is_handed_on(tmp_path):
    source = data.read(SERIES)
    numbers = {name: 2.5 for name in NUMBERS if name not in _NOT_CT} | {
        "tube_current_ma": 3.0,
        "exposure_time_ms": 4.0,
        "exposure_mas": 5.0,
    }
    volume = Volume(source.image, source.grid, "HU", {**source.metadata, **numbers})
    data.write(tmp_path / "out", volume)
    assert data.read(tmp_path / "out").metadata == volume.metadata


@pytest.mark.parametrize("quantum", [1.0, 0.1, 0.25])
def test_values_are_exact_to_the_quantum(tmp_path, quantum):
    volume = head(fraction=True)
    data.write_dicom(tmp_path / "q", volume, quantum=quantum)
    back = data.read(tmp_path / "q").image
    error = min(np.abs(image - volume.image).max() for image in (back, back[::-1]))
    assert error <= quantum / 2 + 2e-4


def test_one_slice(tmp_path):
    image = np.arange(12.0).reshape(3, 4)
    data.write(tmp_path / "one.dcm", Volume(image, Grid.centred((3, 4), 0.5), "HU"))
    back = data.read(tmp_path / "one.dcm")
    np.testing.assert_array_equal(back.image[0], image)
    assert back.grid == Grid.centred((3, 4), 0.5).as_volume()


def test_nothing_is_half_written(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="16 bits"):
        data.write(folder, Volume(np.full((2, 3, 3), 4e4), Grid((2, 3, 3)), "HU"))
    with pytest.raises(ValueError, match="hounsfield"):
        data.write(folder, Volume(np.zeros((2, 3, 3)), Grid((2, 3, 3)), "1/mm"))
    calls = []

    def fail_at_the_second(self, *_, **__):
        calls.append(self)
        if len(calls) == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail_at_the_second)
    with pytest.raises(OSError, match="no space"):
        data.write(folder, head())
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    folder.mkdir()
    data.write(folder, head())
    with pytest.raises(ValueError, match="new or empty folder"):
        data.write(folder, head())
    assert len(list(folder.iterdir())) == 3
