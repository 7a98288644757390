"""The front door of image files: DICOM, NIfTI and TIFF by what they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diffimg.core import check
from diffimg.data import dicom, nifti, tiff
from diffimg.data.dicom_write import write_dicom
from diffimg.data.volume import Volume

PathLike = str | os.PathLike[str]
_FORMATS = "a DICOM file or series, NIfTI (.nii, .nii.gz) or TIFF (.tif, .tiff)"


def read(source: PathLike | Sequence[PathLike]) -> Volume:
    """Read an image or a volume: float32 on a grid, without anything that names the patient.

    A file is taken by its suffix or DICOM's mark; a folder is a DICOM series or a stack of TIFF pages; a list is one of the two. For
    options and details see :func:`read_dicom`, :func:`read_nifti`, :func:`read_tiff`; sinograms are read by
    ``diffimg.ct.read_sinogram``.

    Raises:
        ValueError: the file is missing, damaged, inconsistent or of another format.
        ImportError: the package that reads the format is not installed (extra ``io``).
    """
    if not isinstance(source, (str, os.PathLike)):
        files = [Path(file) for file in source]
        return tiff.read_tiff(files) if files and files[0].name.lower().endswith(tiff.SUFFIXES) else dicom.read_dicom(files)
    path = Path(source)
    if path.is_dir():
        pages = any(p.name.lower().endswith(tiff.SUFFIXES) and not p.name.startswith(".") for p in path.iterdir())
        return tiff.read_tiff(path) if pages else dicom.read_dicom(path)
    if not path.is_file():
        check.fail("source", "an existing file or folder", f"{path.name}, which is none", "Check the path.")
    name = path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return nifti.read_nifti(path)
    if name.endswith(tiff.SUFFIXES):
        return tiff.read_tiff(path)
    if dicom.is_dicom(path) or name.endswith((".dcm", ".ima")):
        return dicom.read_dicom(path)
    remedy = (
        "Sinograms (.h5, .npz) are read by diffimg.ct.read_sinogram." if name.endswith((".h5", ".hdf5", ".npz")) else "Convert it first."
    )
    check.fail("source", _FORMATS, path.name, remedy)


def write(path: PathLike, volume: Volume) -> None:
    """Write a volume, in one piece: ``….nii``, ``….nii.gz``, ``….tif``, ``….dcm`` (one slice), or a folder as DICOM series (HU).

    Raises:
        ValueError: a name or a volume that the format cannot take, or a folder that is taken.
        ImportError: the package that writes the format is not installed (extra ``io``).
    """
    name = Path(path).name.lower()
    if name.endswith(nifti.SUFFIXES):
        nifti.write_nifti(path, volume)
    elif name.endswith(tiff.SUFFIXES):
        tiff.write_tiff(path, volume)
    elif name.endswith(".dcm") or not Path(path).suffix:
        write_dicom(path, volume)
    else:
        check.fail("path", ".nii, .nii.gz, .tif, .tiff, .dcm or the name of a folder", Path(path).name, "Choose one of them.")
