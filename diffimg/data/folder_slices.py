"""Slices of a folder of one's own, or of a public data set, as images to learn reconstruction from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.folders import PathLike, _folder, _images, _read, fastmri_folder
from diffimg.data.lodopab import LoDoPaB
from diffimg.data.photographs import SPLITS
from diffimg.data.samples import _overlaps

LAYOUTS = ("images", "lodopab", "fastmri")
_SHARES = (0.8, 0.9)  # of the files: where training and where validation end
_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class FolderSlices:
    """What ``folder_slices`` gives.

    Attributes:
        fine: ``[slice, size·factor, size·factor]``, float32, read-only, 0 … 1 (white is the largest value of each file).
        names: of the files they come from, one a slice. source: in words.
    """

    fine: np.ndarray = dataclasses.field(repr=False)
    names: tuple[str, ...] = dataclasses.field(repr=False)
    source: str


def folder_slices(
    path: PathLike, split: str, size: int = 128, factor: int = 2, layout: str = "images", most: int = 2000
) -> FolderSlices:
    """Square slices of one split.

    A folder with subfolders ``train``, ``validation`` (or ``val``) and ``test`` is split by them; another one by file, in natural order:
    eight tenths, one, one, at least one file each. Files of one patient belong into one split: use subfolders where there are several.

    Every file is scaled so that white is its largest value; where it has negative ones (HU), the smallest becomes 0. Slices are padded with
    zeros to a square and averaged over areas to ``size·factor`` pixels a side. Of volumes the slices along the first axis count, where
    their largest value is at least a tenth of that of the volume.

    Args:
        path: the folder. split: ``"train"``, ``"validation"`` or ``"test"``.
        size: side of the reconstruction grid. factor: fine pixels along a side of its pixels; at least 2 avoids the inverse crime.
        layout: ``"images"``, what ``read_folder`` reads; ``"lodopab"``, the true images of ``LoDoPaB``; ``"fastmri"``, the
            reference images of ``fastmri_folder`` (the root sum of squares of all coils; fully sampled files).
        most: slices at most, spread evenly over the files.

    Raises:
        ValueError: no such folder or split, too few files, slices smaller than half the grid, files that cannot be read.
    """
    check.one_of("split", split, SPLITS)
    check.one_of("layout", layout, LAYOUTS)
    side = check.positive_int("size", size) * check.positive_int("factor", factor)
    check.positive_int("most", most)
    if layout == "lodopab":
        pairs = LoDoPaB(path, split)
        found = [(f"member {k}", _square(_scaled(pairs[k][1]), side)) for k in _spread(len(pairs), most)]
    else:
        found = [(name, _square(image, side)) for name, volume in _files(path, split, layout) for image in _slices(_scaled(volume))]
        found = [found[k] for k in _spread(len(found), most)]
    if not found:
        check.fail("path", "slices that are not empty", "none", "Check the files.")
    fine = np.stack([image for _, image in found])
    fine.flags.writeable = False
    return FolderSlices(fine, tuple(name for name, _ in found), f"{split} slices of {Path(path).name}")


def split_folder(path: PathLike, split: str) -> tuple[tuple[str, np.ndarray], ...]:
    """``read_folder`` of one split: a subfolder of that name, or a share of the files, as ``folder_slices`` says."""
    check.one_of("split", split, SPLITS)
    folder = _split_of(_folder(path), split)
    images = _images(folder)
    chosen = images if folder != Path(path) else _share(images, split)
    return tuple((files[0].name, _read(files)) for files in chosen)


def _split_of(folder: Path, split: str) -> Path:
    inside = {f.name.lower(): f for f in folder.iterdir() if f.is_dir()}
    found = {s: [inside[n] for n in names if n in inside] for s, names in _NAMES.items()}
    if not any(found.values()):
        return folder
    if not found[split]:
        remedy = f"Make one in {folder}, for all splits or for none."
        check.fail("path", f"a subfolder {' or '.join(_NAMES[split])}", ", ".join(sorted(inside)), remedy)
    return found[split][0]


def _files(path: PathLike, split: str, layout: str) -> Iterator[tuple[str, np.ndarray]]:
    if layout == "images":
        yield from split_folder(path, split)
        return
    folder = _folder(path)
    has_splits = any(f.is_dir() for f in folder.iterdir())
    files: Any = fastmri_folder(folder, split if has_splits else None)
    entries: Sequence[tuple[str, int]] = list(zip(files.names, range(len(files)), strict=True))
    for name, index in entries if has_splits else _share(entries, split):
        kspace = files[index]
        if kspace.mask is not None and not np.all(kspace.mask):
            check.fail("path", "fully sampled files", f"{name}, of which lines are missing", "Take the training or validation files.")
        if kspace.reference is not None:  # without the oversampling of the readout
            yield name, kspace.reference
            continue
        images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace.data, (-2, -1))), (-2, -1))
        yield name, np.sqrt(np.sum(np.abs(images) ** 2, -3)).astype(np.float32)


def _share(entries: Sequence[Any], split: str) -> Sequence[Any]:
    n = len(entries)
    if n < 3:
        remedy = "Or make subfolders train, validation and test."
        check.fail("path", "at least three files, which are split by file", str(n), remedy)
    first = min(max(1, round(_SHARES[0] * n)), n - 2)
    second = min(max(first + 1, round(_SHARES[1] * n)), n - 1)
    return {"train": entries[:first], "validation": entries[first:second], "test": entries[second:]}[split]


def _scaled(volume: np.ndarray) -> np.ndarray:
    volume = np.asarray(volume, np.float32)
    volume = volume - min(float(volume.min()), 0.0)
    top = float(volume.max())
    return volume / top if top > 0 else volume


def _slices(volume: np.ndarray) -> Iterator[np.ndarray]:
    for image in volume.reshape(-1, *volume.shape[-2:]):
        if image.max() >= 0.1:
            yield image


def _square(image: np.ndarray, side: int) -> np.ndarray:
    n = max(image.shape)
    if n < side / 2:
        check.fail("path", f"slices of at least {side // 2} pixels a side", str(image.shape), "Choose a smaller size.")
    before = [(n - s) // 2 for s in image.shape]
    image = np.pad(image, [(b, n - s - b) for b, s in zip(before, image.shape, strict=True)])
    if n < side:  # every pixel becomes several: an object of small squares, which the grid of half as many samples still averages
        repeat = -(-side // n)
        image, n = np.kron(image, np.ones((repeat, repeat), np.float32)), n * repeat
    if n == side:
        return np.ascontiguousarray(image, np.float32)
    weights = _overlaps(n, side)
    return (weights @ image.astype(np.float64) @ weights.T).astype(np.float32)


def _spread(n: int, most: int) -> list[int]:
    return list(range(n)) if n <= most else [int(k) for k in np.linspace(0, n - 1, most)]
