"""No value of a patient's tag, of a private tag or of any tag off the whitelist leaves a DICOM file."""

import dataclasses
import json

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from dicom_files import REAL, SERIES, ct_slice, save  # noqa: E402
from pydicom.datadict import DicomDictionary  # noqa: E402

from diffimg import data  # noqa: E402
from diffimg.data.deidentify import CODES, NUMBERS, TEXTS, age_in_years  # noqa: E402
from diffimg.experiment.config import Experiment  # noqa: E402
from diffimg.experiment.recipes import Recipe, ct_sparse_view  # noqa: E402
from diffimg.experiment.run import Run, execute  # noqa: E402

SECRETS = ("MARK", "JOHN", "19311224", "20190305", "20190306", "20190307", "1.2.777")
TEXT_KINDS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE")
READ = {"RescaleType", *(keyword for names in (NUMBERS, CODES, TEXTS) for keywords in names.values() for keyword in keywords)}


def marked():
    """A CT slice in which every textual attribute of the standard but those kept holds a mark of its own, and some private ones do."""
    dataset, marks = ct_slice(SeriesInstanceUID="1.2.777.3"), []
    for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
        ordinary = keyword and tag >> 16 not in (0, 2, 4) and tag < 0x50000000
        if ordinary and kind in TEXT_KINDS and keyword not in READ and keyword not in dataset:
            marks.append(f"MARK{tag:08X}")
            dataset.add_new(tag, kind, marks[-1])
    block = dataset.private_block(0x0099, "MARKCREATOR", create=True)
    block.add_new(1, "LO", "MARKPRIVATE")
    inner = pydicom.Dataset()
    inner.PatientName = "MARK^NESTED"
    dataset.ReferencedPatientSequence = pydicom.Sequence([inner])
    dates = {"PatientBirthDate": "19311224", "StudyDate": "20190305", "SeriesDate": "20190306", "AcquisitionDateTime": "20190307101112"}
    for keyword, value in dates.items():
        setattr(dataset, keyword, value)
    dataset.PatientSex = "O"
    dataset.FrameOfReferenceUID = "1.2.777.1"
    dataset.StudyInstanceUID = "1.2.777.2"
    dataset.Manufacturer, dataset.KVP, dataset.BodyPartExamined = "ACME", "120", "HEAD"
    dataset.ManufacturerModelName = "Scanner 9000"
    dataset.PatientName = "MARKNAME^JOHN"
    dataset.ConvolutionKernel = "soft MARKNAME"
    assert len(marks) > 700
    return dataset


def test_only_the_whitelist_comes_out(tmp_path):
    save(marked(), tmp_path / "m.dcm")
    volume = data.read(tmp_path / "m.dcm")
    allowed = {*NUMBERS, *CODES, *TEXTS, "age_years", "lossy_compression"}
    assert set(volume.metadata) <= allowed
    assert volume.metadata["age_years"] == 87
    assert volume.metadata["manufacturer"] == "ACME"
    assert volume.metadata["model"] == "Scanner 9000"
    assert "kernel" not in volume.metadata  # somebody wrote the patient's name there
    text = repr(dataclasses.asdict(volume))
    assert not [secret for secret in SECRETS if secret in text]


def test_nothing_reaches_a_run_folder(tmp_path):
    dataset = marked()
    y, x = np.mgrid[:40, :40] - 19.5
    dataset.PixelData, dataset.Rows, dataset.Columns = (1000 * (np.hypot(y, x) < 15)).astype("<u2").tobytes(), 40, 40
    save(dataset, tmp_path / "scan.dcm")

    def function(config, run):
        volume = data.read(tmp_path / "scan.dcm")
        sample = ct_sparse_view.read_image(str(tmp_path / "scan.dcm"), None)
        np.testing.assert_array_equal(sample.image, volume.image[0])
        assert (sample.unit, sample.spacing) == ("HU", (0.5, 0.25))
        run.arrays(image=volume.image)
        run.metric("file", source=sample.source, **volume.metadata)
        run.write("report.html", f"{volume!r} {sample!r}")

    run = Run(tmp_path / "run", Experiment(recipe="test"))
    execute(Recipe(Experiment, function), run)
    assert json.loads((run.folder / "provenance.json").read_text())["status"] == "complete"
    content = b"".join(file.read_bytes() for file in run.folder.rglob("*") if file.is_file())
    assert not [secret for secret in SECRETS if secret.encode() in content]


@pytest.mark.parametrize("source", [REAL / "CT_small.dcm", REAL / "693_J2KI.dcm", REAL / "MR_small.dcm", SERIES])
def test_real_patients_stay_behind(source):
    metadata = dict(data.read(source).metadata)
    model = metadata.pop("model", "")  # private tags repeat it
    text = repr(metadata)
    header = pydicom.dcmread(next(source.iterdir()) if source.is_dir() else source, stop_before_pixels=True)
    for element in header.iterall():
        secret = element.tag.group in (0x0010, 0x0032, 0x0040) or element.tag.is_private or element.VR in ("PN", "DA", "TM", "UI", "DT")
        values = str(element.value)
        if secret and element.VR != "SQ" and len(values) > 4 and values not in model and element.keyword != "PatientAge":
            assert values not in text, element.tag


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientBirthDate": "19800615", "StudyDate": "20200614"}, 39),
        ({"PatientBirthDate": "19800615", "StudyDate": "20200615"}, 40),
        ({"PatientBirthDate": "19200101", "StudyDate": "20200615"}, 90),
        ({"PatientBirthDate": "20210101", "StudyDate": "20200615", "PatientAge": "034Y"}, 34),
        ({"PatientBirthDate": "19800615"}, None),
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "097Y"}, 90),
        ({"PatientAge": "old"}, None),
        ({}, None),
    ],
)
def test_age(tags, age):
    assert age_in_years(tags) == age


def test_errors_quote_no_patient(tmp_path):
    dataset = marked()
    dataset.RescaleSlope = None
    save(dataset, tmp_path / "m.dcm")
    with pytest.raises(ValueError) as caught:
        data.read(tmp_path / "m.dcm")
    assert "MARK" not in str(caught.value)
