"""Folders of images and of measured k-space, for training and testing on data of one's own."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data import dicom, io, nifti, tiff
from diffimg.data.extras import optional
from diffimg.data.fastmri import read_fastmri
from diffimg.data.kspace import KSpace
from diffimg.data.photographs import SPLITS, read_picture

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm")
_HDF5, _NUMPY, _DICOM = (".h5", ".hdf5"), (".npy",), (".dcm", ".ima")
SUFFIXES = (*PICTURES, *tiff.SUFFIXES, *_DICOM, *nifti.SUFFIXES, *_HDF5, *_NUMPY)
_USUAL = ("data", "image", "images")  # the dataset of an HDF5 file with several
_CROP = "Pass shape=({}) to crop or zero-pad all about their centre, or stack=False."

PathLike = str | os.PathLike[str]


def read_folder(path: PathLike, pattern: str | None = None, shape: Sequence[int] | None = None, stack: bool = False) -> Any:
    """All images of a folder (not of its subfolders), float32, in natural order (``im2`` before ``im10``).

    PNG and other pictures become luminance with white = 1. Everything else keeps its values: TIFF, NIfTI, NPY, HDF5 (its only dataset, or
    ``data``, ``image`` or ``images``), DICOM (HU for CT; the files of one series make one volume, named after the first). Leading axes of
    length 1 are dropped, so that a single DICOM slice is ``[y, x]``. Hidden files and those of other suffixes are passed over.

    Args:
        path: the folder.
        pattern: only files whose names match, e.g. ``"*.png"``; each of them has to be an image.
        shape: every image is cropped or zero-padded about its centre to this shape.
        stack: also put them into one array.

    Returns:
        ``((name, image), …)``; with ``stack`` ``((name, …), [n, *shape])``.

    Raises:
        ValueError: no such folder, no images in it, a file that cannot be read, NaN/Inf, another number of axes than ``shape``, or
            images of several shapes where they are to be stacked.
        ImportError: the package that reads a format is not installed (extra ``io``).
    """
    pairs = tuple((group[0].name, _shaped(group[0].name, _read(group), shape)) for group in _images(path, pattern))
    if not stack:
        return pairs
    first, one = pairs[0]
    for name, image in pairs:
        if image.shape != one.shape:
            smallest = ", ".join(str(min(n)) for n in zip(*(i.shape for _, i in pairs), strict=False))
            got = f"{first} of shape {one.shape} beside {name} of shape {image.shape}"
            check.fail("path", "images of one shape, where stack=True", got, _CROP.format(smallest))
    return tuple(name for name, _ in pairs), np.stack([image for _, image in pairs])


def bsd68(path: PathLike) -> tuple[tuple[str, np.ndarray], ...]:
    """The pictures of a folder as a test set for denoising: ``((name, image), …)``, float32 ``[y, x]`` in [0, 1].

    Meant for BSD68, 68 grey images of 321 × 481 or 481 × 321 out of the Berkeley segmentation dataset; its protocol adds Gaussian noise of
    σ/255 without clipping, and takes the mean of the 68 PSNRs. Colour becomes luminance.

    Raises:
        ValueError, ImportError: as :func:`read_folder`; only pictures are looked for.

    Warns:
        UserWarning: there are not 68, so that figures are not those of BSD68.

    D. Martin et al., ICCV 2001; S. Roth, M. J. Black, Int. J. Comput. Vis. 82 (2009) 205.
    """
    folder = _folder(path)
    files = [f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith(".") and f.is_file()]
    if not files:
        check.fail("path", f"a folder with pictures ({' '.join(PICTURES)})", f"{folder.name}, which has none", "Check the path.")
    if len(files) != 68:
        remedy = "The mean over them is not a figure of BSD68."
        warnings.warn(f"path: {len(files)} pictures in {folder.name}, expected 68. {remedy}", UserWarning, stacklevel=2)
    return tuple((file.name, read_picture(file)) for file in sorted(files, key=tiff._natural))


@dataclasses.dataclass(frozen=True)
class FastMRIFolder(Sequence):
    """The files of a fastMRI folder; each is read when it is asked for.

    ``len(folder)``, ``folder[k]`` and iteration give one :class:`KSpace` a file (a volume of slices); a slice gives a shorter folder.

    Attributes:
        files: in natural order. slices: which slices of every file are read, or None for all.
    """

    files: tuple[Path, ...]
    slices: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return dataclasses.replace(self, files=self.files[index])
        return read_fastmri(self.files[index], self.slices)

    def __iter__(self) -> Iterator[KSpace]:
        return (self[k] for k in range(len(self)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, without suffix."""
        return tuple(file.stem for file in self.files)


def fastmri_folder(path: PathLike, split: str | None = None, slices: Sequence[int] | None = None) -> FastMRIFolder:
    """The ``.h5`` files of a fastMRI folder, to be read one by one by :func:`read_fastmri`.

    Args:
        path: a folder of files, or, with ``split``, the folder above, which holds ``multicoil_train``, ``singlecoil_val``, ``test``, ….
        split: ``"train"``, ``"validation"`` or ``"test"``; the dataset is split by volume, one a file.
        slices: read only these of every file.

    Raises:
        ValueError: no such folder, no ``.h5`` files, no subfolder of that split or several (single- and multi-coil).

    J. Zbontar et al., arXiv:1811.08839.
    """
    folder = _folder(path)
    if split is not None:
        check.one_of("split", split, SPLITS)
        ends = ("validation", "val") if split == "validation" else (split,)
        inside = sorted(f for f in folder.iterdir() if f.is_dir())
        found = [f for f in inside if f.name.lower().rpartition("_")[2] in ends]
        if len(found) != 1:
            got = ", ".join(f.name for f in found or inside[:6]) or "no subfolders"
            remedy = "Name one of them as path, without split." if found else "Name the folder with the files as path, without split."
            check.fail("split", f"one subfolder of {folder.name} whose name ends in {ends[-1]!r}", got, remedy)
        folder = found[0]
    files = tuple(sorted((f for f in folder.glob("*.h5") if f.is_file() and not f.name.startswith(".")), key=tiff._natural))
    if not files:
        check.fail("path", "a folder with .h5 files", f"{folder.name}, which has none", "Pass split to read a subfolder.")
    return FastMRIFolder(files, None if slices is None else tuple(int(s) for s in slices))


def _images(path: PathLike, pattern: str | None = None) -> list[list[Path]]:
    """The files of every image of a folder, not read yet."""
    folder = _folder(path)
    files = [f for f in folder.glob(pattern or "*") if f.is_file() and not f.name.startswith(".")]
    files = sorted((f for f in files if pattern or _is_image(f)), key=tiff._natural)
    if not files:
        wanted = f"files {pattern!r}" if pattern else f"images ({' '.join(SUFFIXES)}, or DICOM without a suffix)"
        below = any(f.is_dir() for f in folder.iterdir())
        remedy = "Its subfolders are not read: name one of them." if below else "Check the path."
        check.fail("path", f"a folder with {wanted}", f"{path}, which has none", remedy)
    return _series(files)


def _folder(path: PathLike) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        kind = "a file" if folder.is_file() else "which is none"
        check.fail("path", "an existing folder", f"{path}, {kind}", "Check the path.")
    return folder


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES) or (not file.suffix and file.name != "DICOMDIR" and dicom.is_dicom(file))


def _series(files: list[Path]) -> list[list[Path]]:
    """Files by image: those of one DICOM series together, every other alone."""
    groups: dict[Any, list[Path]] = {}
    for file in files:
        series = str(dicom._header(file).get("SeriesInstanceUID", "")) if _is_dicom(file) else ""
        groups.setdefault(series or file, []).append(file)
    return list(groups.values())


def _is_dicom(file: Path) -> bool:
    known = file.name.lower().endswith(tuple(s for s in SUFFIXES if s not in _DICOM))
    return not known and dicom.is_dicom(file)


def _read(files: list[Path]) -> np.ndarray:
    file = files[0]
    name = file.name.lower()
    if name.endswith(PICTURES):
        image = read_picture(file)
    elif name.endswith(_NUMPY):
        image = _numpy(file)
    elif name.endswith(_HDF5):
        image = _hdf5(file)
    else:
        try:
            image = io.read(files if len(files) > 1 else file).image
        except ValueError as error:
            if file.name in str(error):
                raise
            check.fail("path", "readable images", f"{file.name}: {error}")
    check.array(file.name, image)
    check.real(file.name, image, "K-space and other complex data are not images.")
    image = np.asarray(image, np.float32)
    check.finite(file.name, image, "Replace NaN and Inf in the file, or leave it out.")
    while image.ndim > 2 and image.shape[0] == 1:
        image = image[0]
    if image.ndim < 2 or not image.size:
        check.fail(file.name, "an image of at least two axes", f"shape {image.shape}", "Leave it out.")
    return image


def _numpy(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        check.fail("path", "whole .npy files of numbers", f"{file.name} ({type(error).__name__} while reading it)", "Save it again.")


def _hdf5(file: Path) -> np.ndarray:
    h5py = optional("h5py", "Reading HDF5")
    found: dict[str, Any] = {}
    try:
        with h5py.File(file, "r") as source:

            def collect(name, item):
                if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "biufc":
                    found[name] = item

            source.visititems(collect)
            usual = [name for name in _USUAL if name in found] or list(found)
            if len(usual) == 1 or (usual and usual[0] in _USUAL):
                return found[usual[0]][()]
    except (OSError, EOFError, RuntimeError, KeyError) as error:
        check.fail("path", "whole HDF5 files", f"{file.name} ({type(error).__name__} while reading it)", "Fetch it again.")
    expected = f"one dataset of an image, or one named {', '.join(_USUAL)}"
    check.fail(file.name, expected, str(sorted(found)[:6]) if found else "none", "Read it with h5py.")


def _shaped(name: str, image: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    """Cropped or zero-padded about the centre."""
    if shape is None:
        return image
    sides = tuple(check.positive_int("shape", n) for n in shape)
    if image.ndim != len(sides):
        check.fail("shape", f"{image.ndim} numbers for {name} of shape {image.shape}", str(sides), "Leave out what has other axes.")
    for axis, (n, side) in enumerate(zip(image.shape, sides, strict=True)):
        start = abs(n - side) // 2
        if n > side:
            image = np.take(image, np.arange(start, start + side), axis)
        elif n < side:
            image = np.pad(image, [(start, side - n - start) if k == axis else (0, 0) for k in range(image.ndim)])
    return image
