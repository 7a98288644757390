"""MR series with several images of each slice: against SimpleITK's reading of each image, and what pydicom wrote."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from dicom_files import REAL, ct_slice, pixels, save  # noqa: E402

from diffimg import data, mri  # noqa: E402
from diffimg.data import Grid, Volume, mr_parameters  # noqa: E402
from diffimg.data.deidentify import CODES, NUMBERS, TEMPORAL, TEXTS  # noqa: E402

MR_IMAGE, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
NORMAL = np.array([0.0, -np.sin(0.3), np.cos(0.3)])  # of an oblique slice
ORIENTATION = [1.0, 0.0, 0.0, 0.0, float(np.cos(0.3)), float(np.sin(0.3))]


def mr_slice(path, k, value, **tags):
    """The k-th slice (3 mm apart) of an image; its 6 × 8 stored values tell slice and ``value``."""
    data = pydicom.dcmread(REAL / "MR_small.dcm")
    data.SeriesInstanceUID = "1.2.3"
    pixels(data, (1000 * k + 50 * value + np.arange(48).reshape(6, 8)).astype(np.uint16))
    data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [0.5, 0.25], 3.0, 3.0
    data.ImageOrientationPatient, data.ImagePositionPatient = ORIENTATION, [float(f"{v:.8g}") for v in 3.0 * k * NORMAL]
    for name, tag in tags.items():
        setattr(data, name, tag)
    save(data, path, MR_IMAGE)
    return path


def grid_of_images(folder, images, slices=3, change=lambda k, n: {}):
    """A file for each slice and image (tags), in a scrambled order of names: ``[image][slice]`` paths."""
    order = np.random.default_rng(1).permutation(len(images) * slices)
    name = lambda n, k: folder / f"im{order[n * slices + k]:03d}.dcm"  # noqa: E731
    return [[mr_slice(name(n, k), k, n, **(tags | change(k, n))) for k in range(slices)] for n, tags in enumerate(images)]


def assert_images(volume, files):
    """Each image of the volume is what SimpleITK reads from the files of that image."""
    sitk = pytest.importorskip("SimpleITK")
    assert volume.image.shape == (len(files), len(files[0]), 6, 8)
    for own, names in zip(volume.image, files, strict=True):
        image = sitk.ReadImage([str(f) for f in names])
        np.testing.assert_array_equal(own, sitk.GetArrayFromImage(image))
        for key, value in (("origin", image.GetOrigin()), ("spacing", image.GetSpacing()), ("direction", image.GetDirection())):
            np.testing.assert_allclose(volume.grid.itk[key], value, atol=1e-5)


def test_echoes(tmp_path):
    times = [40.0, 10.0, 20.5, 80.0]
    files = grid_of_images(tmp_path, [{"EchoTime": t, "EchoNumbers": n + 1} for n, t in enumerate(times)])
    volume = data.read(tmp_path)
    assert_images(volume, [files[n] for n in (1, 2, 0, 3)])
    assert volume.metadata["echo_time_ms"] == (10.0, 20.5, 40.0, 80.0)
    assert volume.metadata["repetition_time_ms"] == float(pydicom.dcmread(REAL / "MR_small.dcm").RepetitionTime)
    assert volume.unit == "1"
    assert set(volume.metadata) <= {*NUMBERS, *CODES, *TEXTS, *TEMPORAL, "component", "age_years"}
    one = data.read(files[0])  # a list of one echo is a plain volume
    np.testing.assert_array_equal(one.image, volume.image[2])
    assert one.metadata["echo_time_ms"] == 40.0
    assert one.grid == volume.grid


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("EchoTime", "echo_time_ms"),
        ("InversionTime", "inversion_time_ms"),
        ("FlipAngle", "flip_angle_deg"),
        ("RepetitionTime", "repetition_time_ms"),
        ("DiffusionBValue", "diffusion_b_value"),
        ("TemporalPositionIdentifier", "temporal_position"),
        ("TriggerTime", "trigger_time_ms"),
    ],
)
def test_whatever_tells_images_apart(tmp_path, keyword, name):
    files = grid_of_images(tmp_path, [{keyword: 900}, {keyword: 30}], slices=2)
    volume = data.read(tmp_path)
    assert_images(volume, files[::-1])
    assert volume.metadata[name] == (30.0, 900.0)
    assert not {key for key, value in volume.metadata.items() if isinstance(value, tuple)} - {name}


def test_components_and_echoes(tmp_path):
    kinds = {"P": "phase", "M": "magnitude"}
    images = [{"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"], "EchoTime": time} for time in (20, 10) for kind in kinds]
    files = grid_of_images(tmp_path, images)
    volume = data.read(tmp_path)
    assert_images(volume, [files[n] for n in (3, 1, 2, 0)])
    assert volume.metadata["component"] == ("magnitude", "magnitude", "phase", "phase")
    assert volume.metadata["echo_time_ms"] == (10.0, 20.0, 10.0, 20.0)


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "magnitude"),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "magnitude"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "phase"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP"], "phase"),
        (["DERIVED", "PRIMARY", "REAL"], "real"),
        (["ORIGINAL", "PRIMARY", "I_FFE", "I", "FFE"], "imaginary"),
        (["ORIGINAL", "PRIMARY", "OTHER"], None),
        (["ORIGINAL", "PRIMARY", "IN_PHASE"], None),
        ("P", None),  # the first value says original or derived
    ],
)
def test_component_of_one_image(tmp_path, kind, component):
    assert data.read(mr_slice(tmp_path / "m.dcm", 0, 0, ImageType=kind)).metadata.get("component") == component


def test_only_mr_has_components_and_echoes(tmp_path):
    save(ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "M"], TriggerTime=1), tmp_path / "a.dcm")
    assert "component" not in data.read(tmp_path).metadata
    save(ct_slice(0, TriggerTime=2), tmp_path / "b.dcm")
    with pytest.raises(ValueError, match=r"one slice at each position, got a\.dcm and b\.dcm"):
        data.read(tmp_path)


def test_real_files():
    assert data.read(REAL / "examples_overlay.dcm").metadata["component"] == "magnitude"
    metadata = data.read(REAL / "MR_small.dcm").metadata
    header = pydicom.dcmread(REAL / "MR_small.dcm")
    told = {"echo_time_ms": "EchoTime", "echo_train_length": "EchoTrainLength", "imaging_frequency_mhz": "ImagingFrequency"}
    told |= {"number_of_averages": "NumberOfAverages", "pixel_bandwidth_hz": "PixelBandwidth", "inversion_time_ms": "InversionTime"}
    expected = {name: float(header[keyword].value) for name, keyword in told.items() if header.get(keyword) not in (None, "")}
    assert len(expected) >= 3
    assert {name: value for name, value in metadata.items() if name in told} == expected
    assert metadata["scanning_sequence"] == header.ScanningSequence
    assert metadata["mr_acquisition_type"] == header.MRAcquisitionType
    with pytest.raises(ValueError, match="one orientation"):  # two planes of a localizer in one real series
        data.read(next(files for files in data.dicom_series(REAL / "dicomdirtests" / "98892003" / "MR2") if len(files) > 1))


def test_trigger_times_may_change_from_slice_to_slice(tmp_path):
    images = [{"TemporalPositionIdentifier": n + 1} for n in range(3)]
    files = grid_of_images(tmp_path, images, change=lambda k, n: {"TriggerTime": 30 * n + 7 * k, "RepetitionTime": 500 + k})
    volume = data.read(tmp_path)
    assert_images(volume, files)
    assert volume.metadata["temporal_position"] == (1.0, 2.0, 3.0)
    assert not {"trigger_time_ms", "repetition_time_ms"} & set(volume.metadata)


def enhanced(times, components, slices):
    """An enhanced MR object, frame by frame: [slice, echo, component]; and its stored values."""
    dataset = pydicom.Dataset()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.MagneticFieldStrength = "MR", "1.2.3", 3.0
    dataset.ImageType, dataset.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"], "MIXED"
    count = slices * len(times) * len(components)
    stored = np.random.default_rng(0).integers(0, 4096, (count, 4, 5)).astype(np.uint16)
    pixels(dataset, stored)
    dataset.NumberOfFrames = count

    def group(name, **tags):
        item = pydicom.Dataset()
        for key, value in tags.items():
            setattr(item, key, value)
        return name, pydicom.Sequence([item])

    def groups(*found):
        item = pydicom.Dataset()
        for name, sequence in found:
            setattr(item, name, sequence)
        return item

    shared = groups(
        group("PixelMeasuresSequence", PixelSpacing=[0.7, 0.6], SliceThickness=3.0, SpacingBetweenSlices=1.5),
        group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        group("MRTimingAndRelatedParametersSequence", RepetitionTime=600.0, FlipAngle=25.0, RFEchoTrainLength=0),
        group("MRImagingModifierSequence", TransmitterFrequency=123.25, PixelBandwidth=400.0),
        group("MRModifierSequence", InversionTimes=300.0),
    )
    dataset.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence(
        groups(
            group("PlanePositionSequence", ImagePositionPatient=[1.0, 2.0, 1.5 * k]),
            group("MREchoSequence", EffectiveEchoTime=float(np.float32(time))),
            group("MRImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", "OTHER", "NONE"], ComplexImageComponent=component),
            group("PixelValueTransformationSequence", RescaleSlope=2.0, RescaleIntercept=-10.0, RescaleType="US"),
        )
        for k in range(slices)
        for time in times
        for component in components
    )
    return dataset, stored.reshape(slices, len(times), len(components), 4, 5)


def test_enhanced_echoes(tmp_path):
    dataset, stored = enhanced([9.2, 4.6], ["IMAGINARY", "REAL"], 3)
    save(dataset, tmp_path / "e.dcm", ENHANCED_MR)
    volume = data.read(tmp_path / "e.dcm")
    assert volume.grid == Grid((3, 4, 5), (1.5, 0.7, 0.6), (0.0, 2.0, 1.0))
    expected = [stored[:, echo, component] for component in (1, 0) for echo in (1, 0)]
    np.testing.assert_array_equal(volume.image, 2.0 * np.stack(expected) - 10.0)
    assert volume.metadata["component"] == ("real", "real", "imaginary", "imaginary")
    assert volume.metadata["echo_time_ms"] == (4.6, 9.2, 4.6, 9.2)
    parameters = mr_parameters(volume.metadata)
    np.testing.assert_allclose(parameters.pop("te"), [4.6e-3, 9.2e-3, 4.6e-3, 9.2e-3], rtol=1e-12)
    assert parameters == pytest.approx({"tr": 0.6, "ti": 0.3, "flip": np.pi * 25 / 180, "field": 3.0, "frequency": 123.25e6})
    assert volume.metadata["pixel_bandwidth_hz"] == 400.0


def test_parameters_go_straight_into_fits(tmp_path):
    times = np.array([10.0, 30.0, 60.0, 120.0])
    for n, t in enumerate(times):
        path = mr_slice(tmp_path / f"{n}.dcm", 0, 0, EchoTime=t)
        dataset = pydicom.dcmread(path)
        pixels(dataset, np.full((6, 8), round(30000 * np.exp(-t / 80.0)), np.uint16))
        dataset.save_as(path)
    volume = data.read(tmp_path)
    fit = mri.fit_t2_multi_echo(volume.image, **mr_parameters(volume.metadata, "te"), magnitude=True)
    np.testing.assert_allclose(fit.parameters, 0.08, rtol=1e-3)
    assert fit.parameters.shape == (1, 6, 8)


def test_parameters():
    assert mr_parameters({}) == {}
    assert mr_parameters({"flip_angle_deg": 90.0, "modality": "MR"}) == {"flip": pytest.approx(np.pi / 2)}
    with pytest.raises(ValueError, match=r"metadata: expected inversion_time_ms, for 'ti', got None. .* give the value"):
        mr_parameters({"flip_angle_deg": 90.0}, "flip", "ti")
    with pytest.raises(ValueError, match="Did you mean 'flip'"):
        mr_parameters({}, "flp")
    assert mr_parameters({"echo_time_ms": (None, 3.0)}) == {}


def test_missing_echo(tmp_path):
    files = grid_of_images(tmp_path, [{"EchoTime": t} for t in (10, 20, 30)])
    files[1][2].unlink()
    with pytest.raises(ValueError) as caught:
        data.read(tmp_path)
    message = str(caught.value)
    assert message.startswith("source: expected each image at each position, as ")
    assert "of echo_time_ms 20, got none of it at (0, -1.77312, 5.73202) mm, where " in message
    assert message.endswith("Fetch what is missing, or list the files of one image, or of one slice, at a time.")
    assert any(f"as {files[1][k].name} of" in message for k in (0, 1))


@pytest.mark.parametrize("tags", [{"EchoTime": 20}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}])
def test_echoes_are_not_mixed_in_one_volume(tmp_path, tags):
    grid_of_images(tmp_path, [{}], change=lambda k, n: tags if k == 1 else {})  # one image of each slice, one of them another's
    with pytest.raises(ValueError, match="each image at each position"):
        data.read(tmp_path)


def test_identical_files(tmp_path):
    files = grid_of_images(tmp_path, [{"EchoTime": 10}, {"EchoTime": 20}])
    (tmp_path / "copy.dcm").write_bytes(files[0][1].read_bytes())
    message = r"source: expected one slice at each position, got .*copy\.dcm.* at the same one\. A file is there twice"
    with pytest.raises(ValueError, match=message) as caught:
        data.read(tmp_path)
    assert files[0][1].name in str(caught.value)
    with pytest.raises(ValueError, match="A file is there twice"):
        data.read([files[0][0], files[0][1], tmp_path / "copy.dcm"])


def test_images_of_other_places(tmp_path):
    images, other = [{"EchoTime": 10}, {"EchoTime": 20}], {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    grid_of_images(tmp_path, images, change=lambda k, n: other if n else {})
    with pytest.raises(ValueError, match="slices of one orientation"):
        data.read(tmp_path)
    files = grid_of_images(tmp_path, images, 1, lambda k, n: {"ImagePositionPatient": [0.5, 0.0, 0.0]} if n else {})
    with pytest.raises(ValueError, match=r"images of a slice at one place, got .* 0\.5 mm apart in its plane"):
        data.read([f for image in files for f in image])


def test_missing_slice_of_all_echoes(tmp_path):
    files = grid_of_images(tmp_path, [{"EchoTime": 10}, {"EchoTime": 20}], slices=4)
    for image in files:
        image[1].unlink()
    with pytest.raises(ValueError, match="evenly spaced slices"):
        data.read(tmp_path)


def test_mr_is_not_written_as_ct(tmp_path):
    volume = data.read(mr_slice(tmp_path / "m.dcm", 0, 0))
    with pytest.raises(ValueError, match=r"volume\.unit: expected 'HU', got '1'.*write_nifti.*write_ismrmrd"):
        data.write(tmp_path / "out", volume)
    echoes = Volume(np.stack([volume.image, 2 * volume.image]), volume.grid, "1", volume.metadata)
    data.write(tmp_path / "echoes.nii", echoes)
    np.testing.assert_array_equal(data.read(tmp_path / "echoes.nii").image, echoes.image)
