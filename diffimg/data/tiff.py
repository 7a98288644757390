"""Grey TIFF images and stacks: one file of many pages, or a folder of single pages."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file, whole_folder
from diffimg.data.extras import optional
from diffimg.data.grid import Grid
from diffimg.data.volume import Volume

SUFFIXES = (".tif", ".tiff")
_MM = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "inch": 25.4, "m": 1e3}
_UNIT_TAG = {2: 25.4, 3: 10.0}  # inch, centimetre
_SCREEN = (72.0, 96.0)  # dots an inch that programs write when they know nothing

PathLike = str | os.PathLike[str]


def read_tiff(
    source: PathLike | Sequence[PathLike], *, spacing: Sequence[float] | None = None, dtype: Any = np.float32, unit: str = "1"
) -> Volume:
    """Read ``[y, x]`` from one page, ``[z, y, x]`` from several pages, a folder of pages or a list of page files.

    The files of a folder are sorted naturally (``slice_9`` before ``slice_10``) and have to be numbered without gaps. Values are as
    stored (an 8 bit white is 255). The spacing is that of the resolution tags (inch, cm, or ImageJ's unit and z spacing), with
    72 and 96 dots an inch taken as unknown; ``metadata["spacing"]`` says ``"file"``, ``"argument"`` or ``"unknown"`` (then 1 mm).

    Args:
        source: a file, a folder or a list of files.
        spacing: mm, (y, x) or (z, y, x), in place of what the file says.
        dtype: of the result; None keeps what the file holds.
        unit: what the values are: ``"1/mm"``, ``"HU"`` or ``"1"``.

    Raises:
        ValueError: not a TIFF file, truncated, colour, pages of several sizes, missing pages, NaN/Inf.
        ImportError: tifffile is not installed.
    """
    many = not isinstance(source, (str, os.PathLike))
    files = [Path(f) for f in source] if many else tiff_pages(source) if Path(source).is_dir() else [Path(source)]
    if not files:
        check.fail("source", "TIFF files", "an empty list", "Name a file, a folder or a list of files.")
    pages, steps = zip(*(_read(file) for file in files), strict=True)
    for file, page in zip(files, pages, strict=True):
        if page.shape != pages[0].shape or page.dtype != pages[0].dtype:
            got = f"{file.name} of {page.dtype} {page.shape} beside {files[0].name} of {pages[0].dtype} {pages[0].shape}"
            check.fail("source", "pages of one size and type", got, "List the files that belong together.")
        if len(files) > 1 and page.ndim != 2:
            check.fail("source", "files of one page", f"{file.name} of shape {page.shape}", "Read files of many pages one by one.")
    image = np.asarray(np.stack(pages) if len(files) > 1 else pages[0], pages[0].dtype.newbyteorder("=") if dtype is None else dtype)
    check.finite(files[0].name, image, "Replace NaN and Inf first: np.nan_to_num on tifffile's array.")
    n = min(image.ndim, 3)
    known = steps[0]
    if spacing is not None:
        check.shape("spacing", np.asarray(spacing), (n,), "(z, y, x)" if n == 3 else "(y, x)")
        found, origin = tuple(map(float, spacing)), "argument"
    elif known is not None:
        found, origin = known[-n:], "file"
    else:
        found, origin = (1.0,) * n, "unknown"
    return Volume(image, Grid(image.shape[-n:], found), unit, {"spacing": origin})


def tiff_pages(folder: PathLike) -> list[Path]:
    """The TIFF files of a folder in natural order.

    Raises:
        ValueError: there is none, or the last numbers in their names show that some are missing.
    """
    files = sorted((p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")), key=_natural)
    if not files:
        check.fail("source", "TIFF files", "a folder without", "Name a folder with .tif files, or a list of files.")
    numbers = [re.findall(r"\d+", file.stem) for file in files]
    if len(files) > 2 and all(numbers):
        steps = np.diff([int(n[-1]) for n in numbers])
        if steps.min() > 0 and steps.max() != steps.min():
            k = int(np.argmax(steps))
            remedy = "Pages are missing: fetch them, or list the files that are to be read."
            check.fail("source", "pages numbered evenly", f"a gap between {files[k].name} and {files[k + 1].name}", remedy)
    return files


def write_tiff(path: PathLike, volume: Volume) -> None:
    """Write a stack: ``….tif`` becomes one file of many pages, any other name a folder of numbered pages; both in one piece.

    Resolution tags hold the pixel size (dots a centimetre), the image description the distance of slices. float64 is written as
    float32, bool as uint8; origin and direction of the grid are lost (take NIfTI to keep them). Files beyond 4 GB are BigTIFF.

    Args:
        path: the file (one that is there is replaced), or a new or empty folder.
        volume: ``[z, y, x]`` or ``[y, x]``.

    Raises:
        ValueError: batch axes, or a folder that is taken.
        ImportError: tifffile is not installed.
    """
    if volume.image.ndim != volume.grid.ndim:
        check.fail("volume", "[y, x] or [z, y, x]", f"shape {volume.image.shape}", "Write the members of a batch one by one.")
    tifffile = optional("tifffile", "Writing TIFF")
    image = volume.image
    image = image.astype(np.uint8) if image.dtype.kind == "b" else image if image.dtype.kind in "iu" else image.astype(np.float32)
    spacing = volume.grid.spacing
    description: dict[str, Any] = {"axes": "YX", "unit": "mm"}
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "resolution": (10 / spacing[-1], 10 / spacing[-2]),
        "resolutionunit": "CENTIMETER",
        "software": False,
    }
    target = Path(path)
    if volume.grid.ndim == 3:
        description["spacing"] = spacing[0]
    if target.suffix.lower() in SUFFIXES:
        axes = "ZYX" if image.ndim == 3 else "YX"
        with whole_file(target) as temporary:
            tifffile.imwrite(temporary, image, metadata=description | {"axes": axes}, bigtiff=image.nbytes > 2**32 - 2**25, **options)
        return
    with whole_folder(target) as temporary:
        for k, page in enumerate(image.reshape(-1, *image.shape[-2:])):
            tifffile.imwrite(temporary / f"slice_{k + 1:04d}.tif", page, metadata=description, **options)


def _read(file: Path) -> tuple[np.ndarray, tuple[float, float, float] | None]:
    """Pages ``[y, x]`` or ``[z, y, x]`` and the spacing (z, y, x), if known."""
    tifffile = optional("tifffile", "Reading TIFF")
    if not file.is_file():
        check.fail("source", "an existing file", f"{file.name}, which is none", "Check the path.")
    try:
        with tifffile.TiffFile(file) as tiff:
            series, pages = tiff.series, len(tiff.pages)
            whole = _chain_ends(tiff)
            first = tiff.pages[0]
            grey = first.samplesperpixel == 1 and first.photometric.name in ("MINISBLACK", "MINISWHITE")
            data = series[0].asarray() if whole and grey and len(series) == 1 else None
            spacing = _spacing(tiff, first)
    except Exception as error:  # parsers raise many kinds
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail("source", "a whole TIFF file", got, "It is truncated, damaged or of another format: fetch it again.")
    if not whole:
        check.fail("source", "a whole TIFF file", f"{file.name}, whose pages after the {pages}th are cut off", "Fetch it again.")
    if not grey:
        check.fail("source", "a grey image", f"{file.name} in colour", "Convert it, or read it with tifffile.")
    if data is None:
        check.fail("source", "pages of one size", f"{file.name} with {len(series)} kinds of pages", "Split it with tifffile.")
    data = data.reshape([n for n in data.shape[:-2] if n > 1] + list(data.shape[-2:]))
    if data.ndim > 3 or data.dtype.kind not in "biuf":
        check.fail(
            "source", "[y, x] or [z, y, x] of real numbers", f"{file.name} of {data.dtype} {data.shape}", "Take it apart with tifffile."
        )
    return data, spacing


def _chain_ends(tiff: Any) -> bool:
    """Whether the chain of pages ends with its end mark, and not because the file does (which tifffile only logs)."""
    form, last, handle = tiff.tiff, tiff.pages[-1], tiff.filehandle
    if tiff.pages[0].offset == last.offset and len(tiff.pages) > 1:  # one directory stands for a contiguous stack
        last = tiff.pages[0]
    handle.seek(last.offset)
    count = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    handle.seek(last.offset + form.tagnosize + count * form.tagsize)
    mark = handle.read(form.offsetsize)
    return len(mark) == form.offsetsize and struct.unpack(form.offsetformat, mark)[0] == 0


def _spacing(tiff: Any, page: Any) -> tuple[float, float, float] | None:
    described = {**((tiff.shaped_metadata or ({},))[0]), **(tiff.imagej_metadata or {})}
    tags = {name: page.tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit") if name in page.tags}
    length = _UNIT_TAG.get(int(tags.get("ResolutionUnit", 1)), _MM.get(str(described.get("unit", "")).lower()))
    if length is None or not {"XResolution", "YResolution"} <= set(tags):
        return None
    (xn, xd), (yn, yd) = tags["XResolution"], tags["YResolution"]
    if not (xn and xd and yn and yd) or (length == 25.4 and xn / xd in _SCREEN):
        return None
    depth = described.get("spacing")
    y, x = length * yd / yn, length * xd / xn
    unit = _MM.get(str(described.get("unit", "mm")).lower(), 1.0)
    return (float(depth) * unit if isinstance(depth, (int, float)) and depth > 0 else y, y, x)


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]
