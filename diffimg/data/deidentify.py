"""What may leave a DICOM file: a whitelist of acquisition parameters, and the patient's age instead of dates.

Names, identifiers, dates, times, places, people, free descriptions, UIDs, sex and private elements are never read out. The list
holds only attributes that the Basic Application Confidentiality Profile (DICOM PS3.15, table E.1-1) lets stand, and the age, which its
option "retain patient characteristics" allows; ages over 89 are one class, as the Safe Harbor rule of HIPAA (45 CFR 164.514(b)(2)) has it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from typing import Any

OLDEST = 90  # years; stands for "90 or older"

# name → attributes, the first that is present counts (enhanced CT objects name some of them differently; the last is the classic one)
NUMBERS = {
    "tube_voltage_kv": ("KVP",),
    "tube_current_ma": ("XRayTubeCurrentInmA", "XRayTubeCurrent"),
    "exposure_time_ms": ("ExposureTimeInms", "ExposureTime"),
    "exposure_mas": ("ExposureInmAs", "Exposure"),
    "ctdi_vol_mgy": ("CTDIvol",),
    "slice_thickness_mm": ("SliceThickness",),
    "gantry_tilt_deg": ("GantryDetectorTilt",),
    "source_to_detector_mm": ("DistanceSourceToDetector",),
    "source_to_axis_mm": ("DistanceSourceToDataCollectionCenter", "DistanceSourceToPatient"),
    "reconstruction_diameter_mm": ("ReconstructionDiameter",),
    "collection_diameter_mm": ("DataCollectionDiameter",),
    "spiral_pitch": ("SpiralPitchFactor",),
    "field_strength_t": ("MagneticFieldStrength",),
    "repetition_time_ms": ("RepetitionTime",),
    "echo_time_ms": ("EchoTime", "EffectiveEchoTime"),
    "inversion_time_ms": ("InversionTimes", "InversionTime"),
    "flip_angle_deg": ("FlipAngle",),
    "echo_train_length": ("RFEchoTrainLength", "EchoTrainLength"),
    "pixel_bandwidth_hz": ("PixelBandwidth",),
    "number_of_averages": ("NumberOfAverages",),
    "imaging_frequency_mhz": ("TransmitterFrequency", "ImagingFrequency"),
    "diffusion_b_value": ("DiffusionBValue",),  # s/mm²
}
TEMPORAL = {  # kept only where they tell the images of an MR slice apart
    "temporal_position": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "trigger_time_ms": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
}
CODES = {
    "modality": ("Modality",),
    "body_part": ("BodyPartExamined",),
    "patient_position": ("PatientPosition",),
    "filter_type": ("FilterType",),
    "rotation_direction": ("RotationDirection",),
    "photometric_interpretation": ("PhotometricInterpretation",),
    "scanning_sequence": ("ScanningSequence",),  # several codes are joined by blanks: "GR IR"
    "sequence_variant": ("SequenceVariant",),
    "mr_acquisition_type": ("MRAcquisitionType",),
}
TEXTS = {
    "manufacturer": ("Manufacturer",),
    "model": ("ManufacturerModelName",),
    "kernel": ("ConvolutionKernel",),
}
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")  # DICOM's value representation CS


def kept_metadata(dataset: Any, lookup: Callable[[str], Any]) -> dict[str, Any]:
    """The whitelisted parameters of a pydicom dataset, as built-in types, and ``age_years``.

    Args:
        dataset: the dataset, for the patient's age.
        lookup: the value of an attribute by keyword, or None; it knows of functional groups.
    """
    kept: dict[str, Any] = {}
    for name, keywords in NUMBERS.items():
        value = number(lookup, keywords)
        if value is not None:
            kept[name] = value
    names = set(_words(dataset))
    for name, keywords in (CODES | TEXTS).items():
        value = _first(lookup, keywords, _text)
        if not value or (name in CODES and not _CODE.fullmatch(value)):
            continue
        if not names & set(_tokens(value)):  # nobody should write a name there, but somebody might
            kept[name] = value
    age = age_in_years(dataset)
    if age is not None:
        kept["age_years"] = age
    return kept


def number(lookup: Callable[[str], Any], keywords: Iterable[str]) -> float | None:
    """The first of the attributes that is present; None where there is none, or it is not one number."""
    return _first(lookup, keywords, _number)


def age_in_years(dataset: Any) -> int | None:
    """Whole years at the time of the study, at most 90 (which means 90 or older); None where it is not known.

    From the birth date and the first of study, series, acquisition and content date that is there, or else from PatientAge.
    """
    birth = _date(dataset.get("PatientBirthDate"))
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        day = _date(dataset.get(keyword))
        if birth and day and day >= birth:
            return min(day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day)), OLDEST)
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", str(dataset.get("PatientAge") or "").strip())
    if not stated:
        return None
    return min(int(int(stated[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[stated[2]]), OLDEST)


def _first(lookup: Callable[[str], Any], keywords: Iterable[str], convert: Callable[[Any], Any]) -> Any:
    for keyword in keywords:
        value = lookup(keyword)
        if value is not None and value != "":
            return convert(value)
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):  # several values, or text where a number belongs
        return None


def _text(value: Any) -> str:
    parts = [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else [value]
    return " ".join(str(p).strip() for p in parts)[:64]


def _date(value: Any) -> datetime.date | None:
    digits = re.sub(r"\D", "", str(value or ""))[:8]
    try:
        return datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) if len(digits) == 8 else None
    except ValueError:
        return None


def _words(dataset: Any) -> Iterable[str]:
    for keyword in ("PatientName", "PatientID", "OtherPatientNames", "PatientBirthName"):
        yield from _tokens(str(dataset.get(keyword) or ""))


def _tokens(text: str) -> list[str]:
    return [t for t in re.split(r"[^\w]+", text.lower()) if len(t) > 2]
