"""DICOM images, single or series, classic or multi-frame, as volumes without their patient.

Source: the DICOM standard, PS3.3 C.7.6.2 (image plane), C.7.6.16 (functional groups), C.8.2.1 (CT image), C.11.1 (modality LUT).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from diffimg.core import check
from diffimg.data import dicom_mr
from diffimg.data.deidentify import kept_metadata
from diffimg.data.extras import optional
from diffimg.data.grid import Grid
from diffimg.data.volume import Volume

_SIDE_FILES = {".txt", ".xml", ".json", ".csv", ".md", ".html", ".pdf", ".log", ".yaml", ".png", ".jpg", ".jpeg", ".zip", ".gz"}
_AIR = -1000.0  # HU
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SAME_PLACE = 1e-3  # mm

PathLike = str | os.PathLike[str]


def read_dicom(source: PathLike | Sequence[PathLike]) -> Volume:
    """Read one image, a folder that holds one series, or a list of the files of one series.

    The image is float32 ``[z, y, x]`` (z = 1 for one slice): stored values · RescaleSlope + RescaleIntercept, in HU for CT; slices are
    sorted by their position along the normal. Pixels that the file declares as padding (PixelPaddingValue, up to
    PixelPaddingRangeLimit) become air, −1000 HU; in other modalities 0. No window is applied, and MONOCHROME1 does not invert
    values: it is a rule for displays, and is handed on in the metadata. Enhanced (multi-frame) objects are read by their functional
    groups. The metadata are the whitelist of ``diffimg.data.deidentify``.

    Where an MR series holds several images of each slice, the image is ``[image, z, y, x]``, and what differs between the images is a tuple
    in the metadata, one value an image. They are sorted by ``component``, ``echo_time_ms``, ``inversion_time_ms``, ``flip_angle_deg``,
    ``repetition_time_ms``, ``diffusion_b_value`` (s/mm²), ``temporal_position``, ``trigger_time_ms``; any of these that changes from slice
    to slice is left out. ``component`` is "magnitude", "phase", "real" or "imaginary" where the file says so; a phase keeps its maker's
    unit (often ±4096 or milliradians for ±π). For seconds and radians see :func:`diffimg.data.mr_parameters`.

    Args:
        source: a file, a folder (not its subfolders) or a list of files.

    Raises:
        ValueError: no DICOM file, a truncated one, colour, burned-in text, no decoder for a compressed one; a CT image without rescale
            tags; several series, sizes or orientations in one list; missing, duplicate or sheared slices; an echo (or
            another image of an MR series) that is missing at a slice.
        ImportError: pydicom is not installed.
    """
    files = dicom_files(source)
    headers = [(file, _header(file)) for file in files]
    _same_series(headers)
    images, grid, telling = _arrange([frame for file, header in headers for frame in _frames(file, header)], _size(*headers[0]))
    frames = [frame for image in images for frame in image]
    image = np.empty((len(frames), *grid.shape[1:]), np.float32)
    decoded: dict[Path, list[int]] = {}
    for place, frame in enumerate(frames):
        decoded.setdefault(frame.file, []).append(place)
    for file, places in decoded.items():
        stored, padding = _stored(file)
        for place in places:
            frame = frames[place]
            if frame.index >= len(stored):
                check.fail(file.name, f"at least {frame.index + 1} frames", str(len(stored)), "The file is truncated: fetch it again.")
            values = stored[frame.index]
            image[place] = values * frame.slope + frame.intercept
            if padding is not None:
                image[place][(values >= padding[0]) & (values <= padding[1])] = _AIR if frame.unit == "HU" else 0.0
    first = headers[0][1]
    metadata = {k: v for k, v in (kept_metadata(first, _Tags(files[0], first, 0).value) | telling).items() if v is not None}
    if any(str(header.get("LossyImageCompression", "00")) == "01" for _, header in headers):
        metadata["lossy_compression"] = True
    return Volume(image.reshape((len(images), *grid.shape) if len(images) > 1 else grid.shape), grid, frames[0].unit, metadata)


def dicom_series(folder: PathLike) -> list[list[Path]]:
    """The files of a folder, by series; each list can be read by :func:`read_dicom`."""
    found: dict[str, list[Path]] = {}
    for file in dicom_files(folder):
        found.setdefault(str(_header(file).get("SeriesInstanceUID", "")), []).append(file)
    return list(found.values())


def dicom_files(source: PathLike | Sequence[PathLike]) -> list[Path]:
    """The DICOM files that ``source`` names; in a folder, hidden files, DICOMDIR and files of other known types are passed over.

    Raises:
        ValueError: there is none, or something in the folder is neither (a damaged slice must not be dropped silently).
    """
    if not isinstance(source, (str, os.PathLike)):
        files = [Path(file) for file in source]
    elif Path(source).is_dir():
        inside = sorted(p for p in Path(source).iterdir() if p.is_file() and not p.name.startswith(".") and p.name != "DICOMDIR")
        files = [p for p in inside if p.suffix.lower() not in _SIDE_FILES]
    else:
        files = [Path(source)]
    if not files:
        check.fail("source", "DICOM files", "none in it", "Name a file, a folder with the files of one series (no subfolders), or a list.")
    for file in files:
        if not file.is_file():
            check.fail("source", "an existing file", f"{file.name}, which is none", "Check the path.")
        if not is_dicom(file):
            expected, got = "DICOM files (with the mark DICM at byte 128)", f"{file.name} of {file.stat().st_size} bytes"
            check.fail("source", expected, got, "Fetch it again if it is damaged; leave it out if it is something else.")
    return files


def is_dicom(path: PathLike) -> bool:
    """Whether a file bears the mark of DICOM part 10."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """One slice of a file."""

    file: Path
    index: int
    position: np.ndarray  # of the first pixel, mm, (x, y, z) in LPS
    orientation: np.ndarray  # [2, 3]: along a row (towards larger column indices), along a column
    spacing: tuple[float, float]  # mm, (y, x)
    thickness: float  # mm, of a slice or from one to the next
    slope: float
    intercept: float
    unit: str
    parameters: dict[str, Any]  # what may tell it from others of its slice; empty but for MR


@dataclasses.dataclass(frozen=True)
class _Tags:
    """The attributes of one frame of a file."""

    file: Path
    header: Any
    index: int

    def value(self, keyword: str) -> Any:
        """From the frame's own functional groups, the shared ones, or the dataset itself; None where it is missing."""
        try:
            return self._value(keyword)
        except NotImplementedError:  # pydicom decodes values when they are asked for
            self.fail(f"a readable {keyword}", "an unknown value representation", "Fetch it again: it is damaged.")

    def _value(self, keyword: str) -> Any:
        for groups, item in (("PerFrameFunctionalGroupsSequence", self.index), ("SharedFunctionalGroupsSequence", 0)):
            if item < len(self.header.get(groups) or ()):
                for group in self.header[groups].value[item]:
                    if group.VR == "SQ" and not group.tag.is_private and group.value and keyword in group.value[0]:
                        return group.value[0][keyword].value
        return self.header.get(keyword)

    def numbers(self, keyword: str, size: int, required: str = "") -> np.ndarray | None:
        """A vector of finite numbers; None where it is missing and nothing requires it (``required``: the remedy)."""
        value = self.value(keyword)
        if (value is None or value == "") and not required:
            return None
        try:
            numbers = np.atleast_1d(np.asarray(value, float))
        except (TypeError, ValueError):
            numbers = np.full(0, np.nan)
        if value is None or value == "" or numbers.shape != (size,) or not np.isfinite(numbers).all():
            got = "none" if value is None or value == "" else "something else"
            self.fail(f"{keyword}, {size} finite number{'s' if size > 1 else ''}", got, required or "Mend the tag with pydicom.")
        return numbers

    def fail(self, expected: str, got: str, remedy: str) -> NoReturn:
        check.fail(self.file.name, expected, got, remedy)


def _header(file: Path) -> Any:
    pydicom = optional("pydicom", "Reading DICOM")
    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except Exception as error:  # parsers raise many kinds; their messages may quote the patient
        check.fail(file.name, "a readable DICOM header", f"{type(error).__name__} while reading it", "Fetch it again: it is damaged.")


def _same_series(headers: list[tuple[Path, Any]]) -> None:
    rules: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("of one modality", lambda h: str(h.get("Modality", ""))),
        ("of one size", lambda h: (h.get("Rows"), h.get("Columns"))),
        ("of one series", lambda h: str(h.get("SeriesInstanceUID", ""))),
    )
    first_file, first = headers[0]
    for what, of in rules:
        for file, header in headers[1:]:
            if of(header) != of(first):
                shown = "" if what == "of one series" else f" ({of(header)} against {of(first)})"
                remedy = "diffimg.data.dicom_series(folder) lists the files by series: read one of its lists."
                check.fail("source", f"images {what}", f"{file.name} beside {first_file.name}{shown}", remedy)


def _frames(file: Path, header: Any) -> Iterator[_Frame]:
    modality = str(header.get("Modality", ""))
    _size(file, header)
    if header.get("PhotometricInterpretation") not in _GREY or int(header.get("SamplesPerPixel", 1)) != 1:
        got = str(header.get("PhotometricInterpretation"))[:16]
        check.fail(file.name, f"a grey image ({' or '.join(_GREY)})", got, "Convert colour images with pydicom.pixels.convert_color_space.")
    if header.get("BurnedInAnnotation") == "YES":
        remedy = "Text in the pixels may name the patient: blank it, then set BurnedInAnnotation to NO with pydicom."
        check.fail(file.name, "an image without burned-in annotation", "one with", remedy)
    count = _count(file, header)
    if count > 1 and "PerFrameFunctionalGroupsSequence" not in header:
        remedy = "Take such cine or dose objects apart with pydicom: their frames are not slices with a position."
        check.fail(file.name, "positions of all frames (PerFrameFunctionalGroupsSequence)", f"{count} frames without", remedy)
    groups = len(header.get("PerFrameFunctionalGroupsSequence", ())) or 1
    if groups < count:
        check.fail(file.name, f"functional groups for {count} frames", str(groups), "The file is truncated: fetch it again.")
    for index in range(count):
        yield _frame(_Tags(file, header, index), modality)


def _frame(tags: _Tags, modality: str) -> _Frame:
    slope, intercept, unit = _rescale(tags, modality)
    spacing = tags.numbers("PixelSpacing", 2)
    if spacing is None and modality != "CT":
        spacing = tags.numbers("ImagerPixelSpacing", 2)  # radiographs: at the detector
    if spacing is None or not (spacing > 0).all():
        got = "none" if spacing is None else str(spacing.tolist())
        tags.fail("PixelSpacing, two positive numbers of mm", got, "Add the tag with pydicom if you know the pixel size.")
    orientation, position = tags.numbers("ImageOrientationPatient", 6), tags.numbers("ImagePositionPatient", 3)
    if (orientation is None) != (position is None) or (orientation is None and modality == "CT"):
        got = f"{'no' if position is None else 'a'} position, {'no' if orientation is None else 'an'} orientation"
        tags.fail("ImagePositionPatient and ImageOrientationPatient", got, "Add both tags with pydicom if you know them.")
    thickness = [v for v in (tags.numbers("SpacingBetweenSlices", 1), tags.numbers("SliceThickness", 1)) if v is not None and v[0]]
    return _Frame(
        tags.file,
        tags.index,
        np.zeros(3) if position is None else position,
        np.eye(3)[:2] if orientation is None else orientation.reshape(2, 3),
        (float(spacing[0]), float(spacing[1])),
        abs(float(thickness[0][0])) if thickness else 1.0,
        slope,
        intercept,
        unit,
        dicom_mr.parameters(tags.value) if modality == "MR" else {},
    )


def _count(file: Path, header: Any) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        check.fail(file.name, "NumberOfFrames, an integer", "something else", "Mend the tag with pydicom.")


def _rescale(tags: _Tags, modality: str) -> tuple[float, float, str]:
    remedy = "Stored values are not HU without these tags: write RescaleSlope and RescaleIntercept with pydicom if you know them."
    required = remedy if modality == "CT" else ""
    if "ModalityLUTSequence" in tags.header:
        tags.fail("a linear rescale", "a ModalityLUTSequence", "Apply it with pydicom.pixels.apply_modality_lut.")
    slope, intercept = tags.numbers("RescaleSlope", 1, required), tags.numbers("RescaleIntercept", 1, required)
    if slope is not None and slope[0] == 0:
        tags.fail("RescaleSlope other than 0", "0", remedy)
    unit = "HU" if modality == "CT" and str(tags.value("RescaleType") or "HU").strip().upper() == "HU" else "1"
    return 1.0 if slope is None else float(slope[0]), 0.0 if intercept is None else float(intercept[0]), unit


def _arrange(frames: list[_Frame], size: tuple[int, int]) -> tuple[list[list[_Frame]], Grid, dict[str, Any]]:
    """The frames of each image in the order of their positions, their grid, and what the metadata say of the images."""
    first = frames[0]
    for frame in frames[1:]:
        for what, a, b in (("orientation", frame.orientation, first.orientation), ("pixel spacing", frame.spacing, first.spacing)):
            if not np.allclose(a, b, rtol=0, atol=1e-3):
                got = f"{_name(frame)} beside {_name(first)}"
                check.fail("source", f"slices of one {what}", got, "A localizer may be among them: list the files that belong together.")
        if frame.unit != first.unit:
            check.fail("source", "slices of one unit", f"{_name(frame)} beside {_name(first)}", "List the files that belong together.")
    row, column = first.orientation
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > 1e-2 or abs(row @ column) > 1e-2:
        check.fail(first.file.name, "an orthonormal ImageOrientationPatient", str(first.orientation.tolist()), "Mend the tag.")
    frames = sorted(frames, key=lambda f: float(f.position @ normal))
    images, telling = dicom_mr.told_apart(_at_each_place(frames, normal), _name) if first.parameters else ([frames], {})
    frames = images[0]
    step = _even_step(frames, normal) if len(frames) > 1 else first.thickness
    direction = np.stack([normal, column, row], 1)[::-1]  # world axes and array axes both from z to x
    direction = direction / np.linalg.norm(direction, axis=0)
    grid = Grid((len(frames), *size), (step, *first.spacing), tuple(frames[0].position[::-1].tolist()), direction.tolist())
    return images, grid, telling


def _at_each_place(frames: list[_Frame], normal: np.ndarray) -> list[list[_Frame]]:
    """Sorted frames, those of one slice together."""
    places = [[frames[0]]]
    for frame in frames[1:]:
        shift = frame.position - places[-1][0].position
        if shift @ normal > _SAME_PLACE:
            places.append([frame])
        elif np.linalg.norm(shift) > 2 * _SAME_PLACE:
            pair, remedy = f"{_name(places[-1][0])} and {_name(frame)}", "List the files that belong together."
            check.fail("source", "images of a slice at one place", f"{pair} {np.linalg.norm(shift):.4g} mm apart in its plane", remedy)
        else:
            places[-1].append(frame)
    return places


def _even_step(frames: list[_Frame], normal: np.ndarray) -> float:
    along = np.array([f.position @ normal for f in frames])
    gaps = np.diff(along)
    typical = float(np.median(gaps))
    for k, gap in enumerate(gaps):
        pair = f"{_name(frames[k])} and {_name(frames[k + 1])}"
        if gap < max(0.1 * typical, 1e-4):
            remedy = "Two phases or echoes may be mixed, or a file is there twice: list the files of one."
            check.fail("source", "one slice at each position", f"{pair} at the same one", remedy)
    step = float(along[-1] - along[0]) / len(gaps)
    tolerance = min(max(0.02 * step, 0.051), 0.2 * step)  # positions may be rounded to 0.1 mm
    worst = int(np.argmax(gaps))
    if np.abs(along - along[0] - step * np.arange(len(along))).max() > tolerance:
        got = f"gaps of {gaps.min():.4g} to {gaps.max():.4g} mm, the largest between {_name(frames[worst])} and {_name(frames[worst + 1])}"
        check.fail("source", "evenly spaced slices", got, "Slices are missing: fetch them, or list the files of an even part.")
    sideways = (frames[-1].position - frames[0].position) / len(gaps)
    shear = float(np.linalg.norm(sideways - step * normal))
    if shear > max(0.01 * step, 0.051 / len(gaps)):
        remedy = "The gantry was tilted: resample the series to an upright grid, or read slice by slice."
        check.fail("source", "slices stacked along their normal", f"a shift of {shear:.3g} mm a slice", remedy)
    return step


def _name(frame: _Frame) -> str:
    return frame.file.name if frame.index == 0 else f"{frame.file.name} (frame {frame.index + 1})"


def _size(file: Path, header: Any) -> tuple[int, int]:
    modality = str(header.get("Modality", ""))
    if not header.get("Rows") or not header.get("Columns"):
        check.fail(file.name, "an image (Rows and Columns)", f"a DICOM object without, modality {modality!r}", "Leave it out.")
    return int(header.Rows), int(header.Columns)


def _stored(file: Path) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Stored values ``[frame, y, x]`` and the range of padding values, if any."""
    pydicom = optional("pydicom", "Reading DICOM")
    try:
        dataset = pydicom.dcmread(file)
        if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            check.fail(file.name, "pixel data", "none", "The file is truncated, or holds no image: fetch it again.")
        stored = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        syntax = getattr(getattr(dataset.file_meta, "TransferSyntaxUID", None), "name", "unknown")
        if "missing dependencies" not in str(error) and not isinstance(error, NotImplementedError):
            remedy = "The file is damaged, or the installed decoder does not know its kind (12-bit JPEG: pip install python-gdcm)."
            check.fail(file.name, "decodable pixel data", f"{type(error).__name__} while decoding {syntax}", remedy)
        remedy = 'Install a decoder: pip install pillow "pylibjpeg[openjpeg,rle]" (JPEG 2000, RLE) or python-gdcm (all JPEG families).'
        check.fail(file.name, "a transfer syntax that an installed package decodes", str(syntax), remedy)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{file.name}: expected"):
            raise
        got = f"{type(error).__name__} while reading it"
        check.fail(file.name, "whole pixel data", got, "The file is truncated or damaged: fetch it again.")
    stored = stored.reshape(-1, *stored.shape[-2:])
    if "PixelPaddingValue" not in dataset:
        return stored, None
    limits = (dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
    low, high = sorted(_as_stored(int(v), dataset) for v in limits)
    return stored, (low, high)


def _as_stored(value: int, dataset: Any) -> int:
    """A padding value written as unsigned where the pixels are signed, and the other way round."""
    bits = int(dataset.BitsAllocated)
    if int(dataset.PixelRepresentation) and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if not int(dataset.PixelRepresentation) and value < 0 else value
