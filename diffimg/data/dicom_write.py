"""CT volumes as DICOM series that name nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file, whole_folder
from diffimg.data.deidentify import CODES, NUMBERS, TEXTS
from diffimg.data.extras import optional
from diffimg.data.grid import Grid
from diffimg.data.volume import Volume

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_NOT_CT = {
    *("modality", "photometric_interpretation", "field_strength_t", "repetition_time_ms", "echo_time_ms", "inversion_time_ms"),
    *("flip_angle_deg", "echo_train_length", "pixel_bandwidth_hz", "number_of_averages", "imaging_frequency_mhz", "diffusion_b_value"),
    *("scanning_sequence", "sequence_variant", "mr_acquisition_type"),
}


def write_dicom(path: str | os.PathLike[str], volume: Volume, *, quantum: float = 1.0, description: str = "") -> None:
    """Write a CT volume as CT Image Storage (PS3.3 A.3), signed 16 bit, uncompressed.

    ``path`` becomes a new folder with one file a slice, in one piece; one slice may also go to a file named ``….dcm``. Study, series,
    frame of reference and instances get new random UIDs; the patient's module is empty and marked as de-identified. Values are
    rounded to multiples of ``quantum`` HU. What the metadata hold of the acquisition is written back, the age only in years.

    Args:
        path: a new or empty folder, or a file ``….dcm``.
        volume: ``[z, y, x]`` or ``[y, x]`` in HU.
        quantum: RescaleSlope, HU; at 1 the range is ±32767 HU.
        description: SeriesDescription.

    Raises:
        ValueError: another unit, batch axes, values beyond 16 bits, or a path that is taken.
        ImportError: pydicom is not installed.
    """
    if volume.unit != "HU":
        remedy = "Convert attenuation first: diffimg.ct.hounsfield(mu, mu_water)."
        if volume.unit == "1":
            remedy = "Only CT in HU is written: MR volumes go to NIfTI (data.write_nifti), their k-space to ISMRMRD (data.write_ismrmrd)."
        check.fail("volume.unit", "'HU'", repr(volume.unit), remedy)
    grid = volume.grid.as_volume(float(volume.metadata.get("slice_thickness_mm", 1.0)))
    if volume.image.ndim != volume.grid.ndim:
        check.fail("volume", "one volume [z, y, x]", f"shape {volume.image.shape}", "Write the members of a batch one by one.")
    if not 1e-6 <= quantum <= 1e3:
        check.fail("quantum", "a step in HU from 1e-6 to 1000", repr(quantum), "1 is what scanners store.")
    pydicom = optional("pydicom", "Writing DICOM")
    slope = pydicom.valuerep.format_number_as_ds(float(quantum))
    image = volume.image.reshape(grid.shape)
    largest = float(np.abs(image).max())
    if largest > 32767 * float(slope):
        remedy = f"Clip them, or take quantum={largest / 32767:.2g} or more."
        check.fail("volume", f"values within ±{32767 * float(slope):g} HU (16 bits of {quantum:g} HU)", f"{largest:g}", remedy)
    series = _series(pydicom, volume, grid, slope, description)
    target = Path(path)
    if target.suffix.lower() == ".dcm":
        if len(image) > 1:
            check.fail("path", "a folder for a series", f"{target.name} for {len(image)} slices", "Leave the suffix away.")
        with whole_file(target) as temporary:
            _write_slice(pydicom, temporary, series, grid, image, 0)
        return
    with whole_folder(target) as temporary:
        for k in range(len(image)):
            _write_slice(pydicom, temporary / f"slice_{k + 1:04d}.dcm", series, grid, image, k)


def _series(pydicom: Any, volume: Volume, grid: Grid, slope: str, description: str) -> Any:
    """The dataset that all slices share."""
    new_uid = lambda: pydicom.uid.generate_uid(prefix=None)  # noqa: E731  (random, 2.25.…)
    data = pydicom.Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID = _CT_IMAGE_STORAGE
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    data.Modality = "CT"
    for empty in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
        *("ReferringPhysicianName", "PositionReferenceIndicator", "AcquisitionNumber", "KVP", "Manufacturer", "PatientPosition"),
    ):
        setattr(data, empty, None)
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "diffimg: whitelist of acquisition parameters, new UIDs, no dates"
    data.BurnedInAnnotation = "NO"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = new_uid(), new_uid(), new_uid()
    data.SeriesNumber = 1
    data.SeriesDescription = description[:64]
    _acquisition(pydicom, data, volume.metadata)
    direction = np.asarray(grid.direction)[::-1]
    data.ImageOrientationPatient = [_ds(pydicom, v) for v in (*direction[:, 2], *direction[:, 1])]
    data.PixelSpacing = [_ds(pydicom, v) for v in grid.spacing[1:]]
    data.SliceThickness = _ds(pydicom, volume.metadata.get("slice_thickness_mm", grid.spacing[0]))
    data.SpacingBetweenSlices = _ds(pydicom, grid.spacing[0])
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = grid.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, "0", "HU"
    data.WindowCenter, data.WindowWidth = "40", "400"
    return data


def _acquisition(pydicom: Any, data: Any, metadata: Any) -> None:
    for name, keywords in (NUMBERS | CODES | TEXTS).items():
        value = metadata.get(name)
        if value is None or name in _NOT_CT:
            continue
        kind = pydicom.datadict.dictionary_VR(keywords[-1])
        convert = {"IS": lambda v: str(round(v)), "DS": lambda v: _ds(pydicom, v), "FD": float}.get(kind, str)
        setattr(data, keywords[-1], convert(value))
    if "age_years" in metadata:
        data.PatientAge = f"{int(metadata['age_years']):03d}Y"


def _write_slice(pydicom: Any, path: Path, series: Any, grid: Grid, image: np.ndarray, k: int) -> None:
    data = pydicom.Dataset()
    data.update(series)
    data.SOPInstanceUID = pydicom.uid.generate_uid(prefix=None)
    data.InstanceNumber = k + 1
    position = grid.index_to_world(np.array([k, 0.0, 0.0]))[::-1]
    data.ImagePositionPatient = [_ds(pydicom, v) for v in position]
    data.PixelData = np.round(image[k] / float(series.RescaleSlope)).astype("<i2").tobytes()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = _CT_IMAGE_STORAGE
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def _ds(pydicom: Any, value: float) -> str:
    """A number as DICOM's decimal string of at most 16 characters."""
    return pydicom.valuerep.format_number_as_ds(float(value))
