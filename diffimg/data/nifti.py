"""NIfTI images: arrays ``[z, y, x]`` on a grid, to and from files ``[x, y, z]`` with a RAS affine.

Source: R. W. Cox et al., "A (sort of) new image data format standard: NIfTI-1", 2004; https://nifti.nimh.nih.gov/nifti-1.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file
from diffimg.data.extras import optional
from diffimg.data.grid import Grid
from diffimg.data.volume import Volume

SUFFIXES = (".nii", ".nii.gz")
_MM = {"mm": 1.0, "meter": 1e3, "micron": 1e-3, "unknown": 1.0}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}  # the fourth axis may also be in Hz, ppm or nothing at all
_LARGEST_NIFTI1 = 32767  # samples along an axis


def read_nifti(path: str | os.PathLike[str], *, dtype: Any = np.float32, unit: str = "1") -> Volume:
    """Read a ``.nii`` or ``.nii.gz`` file as ``[z, y, x]``, with further axes (time) in front: ``[…, t, z, y, x]``.

    The samples stay where the file has them; the grid tells where they lie (sform, else qform, else the spacing alone). Where the header
    has a time step and its unit, it is ``metadata["time_step_s"]``, the seconds between neighbours along the axis t. The header's free
    texts and extensions, which may name the patient, are not read.

    Args:
        path: the file.
        dtype: of the result; None keeps what the file holds (label maps).
        unit: what the values are; the format does not tell: ``"HU"`` for a CT image.

    Raises:
        ValueError: not a NIfTI file, truncated, complex or coloured values, NaN/Inf, a sheared affine.
        ImportError: nibabel is not installed.
    """
    file = Path(path)
    nibabel = optional("nibabel", "Reading NIfTI")
    if not file.is_file():
        check.fail("path", "an existing file", f"{file.name}, which is none", "Check the path.")
    try:
        if file.name.endswith(".gz"):
            _check_sum(file)
        loaded = nibabel.load(file)
        if not isinstance(loaded, nibabel.Nifti1Image):
            check.fail("path", "a NIfTI file", f"{file.name} ({type(loaded).__name__})", "Convert it with nibabel.")
        data = np.asanyarray(loaded.dataobj)
        header, affine = loaded.header, np.asarray(loaded.affine, float)
        length, time = header.get_xyzt_units()
        length, time = _MM[length], _SECONDS.get(time, 0.0)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("path: expected"):
            raise
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail("path", "a whole NIfTI file", got, "It is truncated, damaged or of another format: fetch it again.")
    if data.dtype.kind not in "biuf":
        remedy = "Take the colours apart with nibabel, and write each as a file of its own."
        if data.dtype.kind == "c":
            remedy = (
                "A Volume is real. With v = nibabel.load(path) and c = np.asanyarray(v.dataobj).T, make Volume(abs(c), grid), or one each "
                "of c.real and c.imag; grid = Grid.from_affine(c.shape[-3:], v.affine). Fits of complex echoes (mri.fit_b0) take c itself."
            )
        check.fail("path", "a file of real numbers", f"{file.name} of {data.dtype}", remedy)
    metadata = {}
    if data.ndim > 3 and data.shape[3] > 1:
        step = float(str(header.get_zooms()[3])) * time  # the shortest decimal: 0.72, not the 0.7200000286 of single precision
        metadata = {"time_step_s": step} if np.isfinite(step) and step > 0 else {}
    data = data.reshape(data.shape + (1,) * (3 - data.ndim))
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    image = np.array(data.T, data.dtype.newbyteorder("=") if dtype is None else dtype, order="C")  # .T reverses all axes
    check.finite(file.name, image, "Replace NaN and Inf first: np.nan_to_num on nibabel's array.")
    affine[:3] *= length
    return Volume(image, Grid.from_affine(image.shape[-3:], affine), unit, metadata)


def write_nifti(path: str | os.PathLike[str], volume: Volume, *, dtype: Any = None) -> None:
    """Write a ``.nii`` or ``.nii.gz`` file, in one piece; sform and qform hold the RAS affine of the grid, lengths are mm.

    The last batch axis is the format's time axis; ``metadata["time_step_s"]``, where there is one, is its step. Other metadata are
    left out.

    Args:
        path: the file; one that is there is replaced.
        volume: ``[..., z, y, x]`` with up to two batch axes, or ``[y, x]`` (written as one slice).
        dtype: of the file; by default that of the image, float64 and bfloat16 as float32, bool as uint8.

    Raises:
        ValueError: another suffix, too many axes, a dtype that the format does not know or that would change values; a
            time step that is not a positive number.
        ImportError: nibabel is not installed.
    """
    target = Path(path)
    if not target.name.endswith(SUFFIXES):
        check.fail("path", "a name that ends in .nii or .nii.gz", target.name, "Add the suffix.")
    nibabel = optional("nibabel", "Writing NIfTI")
    image = volume.image if volume.grid.ndim == 3 else volume.image[..., None, :, :]
    if image.ndim > 5:
        check.fail("volume", "at most two batch axes", f"shape {volume.image.shape}", "Write the members of a batch one by one.")
    step = volume.metadata.get("time_step_s") if image.ndim > 3 else None
    if step is not None and not (isinstance(step, (int, float, np.number)) and 0 < step < np.inf):
        check.fail("volume.metadata['time_step_s']", "a positive number of seconds", repr(step), "Leave it out if it is not known.")
    wanted = np.dtype(dtype if dtype is not None else _plain(image.dtype))
    with np.errstate(invalid="ignore"):
        values = image.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(values, image):
        check.fail("dtype", "one that holds the values exactly", str(wanted), "Write float32, or round the values first.")
    large = max(values.shape) > _LARGEST_NIFTI1
    try:
        out = (nibabel.Nifti2Image if large else nibabel.Nifti1Image)(values.T, volume.grid.affine, dtype=wanted)
    except (ValueError, TypeError, nibabel.spatialimages.HeaderDataError) as error:
        check.fail("dtype", "a type that NIfTI knows", str(wanted), f"Write float32. ({type(error).__name__})")
    out.set_sform(volume.grid.affine, code="scanner")
    out.set_qform(volume.grid.affine, code="scanner")
    if step is not None:
        zooms = list(out.header.get_zooms())
        zooms[3] = step
        out.header.set_zooms(zooms)
    out.header.set_xyzt_units("mm", None if step is None else "sec")
    content = out.to_bytes()
    with whole_file(target) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if target.name.endswith(".gz") else content)


def _check_sum(file: Path) -> None:
    """Read to the end, where gzip compares the checksum; nibabel stops at the last sample."""
    with gzip.open(file) as content:
        while content.read(2**20):
            pass


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return dtype if dtype.kind in "iu" else np.dtype(np.float32)
