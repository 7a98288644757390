"""The LoDoPaB-CT dataset: chest CT slices and simulated low-dose parallel-beam sinograms.

A folder of HDF5 files ``observation_{split}_000.hdf5`` and ``ground_truth_{split}_000.hdf5``, …, 128 members each, dataset ``data``.

J. Leuschner, M. Schmidt, D. O. Baguer, P. Maass, Scientific Data 8 (2021) 109; files: doi:10.5281/zenodo.3384092. What the article leaves
open (where the angles lie, the order of axes) is taken from the authors' scripts (github.com/jleuschn/lodopab_tech_ref, …/dival).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file
from diffimg.data.extras import optional
from diffimg.data.photographs import SPLITS

FIELD_OF_VIEW = 260.0  # mm, both sides of the image
MU_MAX = 3071 * (20 - 0.02) / 1000 + 20  # 81.35858 1/m: of 3071 HU, with 20 for water and 0.02 for air
PHOTONS = 4096  # mean number in a detector bin without attenuation; counts of 0 became 0.1
_KINDS = ("observation", "ground_truth")


class LoDoPaB(Sequence):
    """One split of a folder of LoDoPaB-CT; only what is asked for is read.

    ``data[k]`` is a pair ``(observation [view, bin], truth [y, x])``, ``data[a:b:c]`` the pairs stacked ``[n, …]``, float32; shapes are
    those of the files (1000 × 513 and 362 × 362 in the dataset, with 35820, 3522 and 3553 members).

    As stored, an image g is μ/mu_max and lies in [0, 1]; an observation is −log(counts/4096)/mu_max, the line integral of g over lengths in
    *metres*. With ``unit="1/mm"`` the pair is what ``Radon(ParallelBeam(**data.geometry()))`` relates, lengths in mm: μ in 1/mm
    (g · mu_max/1000) and post-log data −log(counts/4096).

    Args:
        path: the folder with the files. split: ``"train"``, ``"validation"`` or ``"test"``. unit: ``"1"`` (as stored) or ``"1/mm"``.

    Attributes:
        mu_max: 81.35858, 1/m. photons: 4096, of the Poisson noise.

    Raises:
        ValueError: no such folder or split, missing or foreign files, observations without truths, NaN/Inf.
        IndexError: no such member.
        ImportError: h5py is not installed.
    """

    mu_max = MU_MAX
    photons = PHOTONS

    def __init__(self, path: str | os.PathLike[str], split: str, unit: str = "1"):
        check.one_of("split", split, SPLITS)
        check.one_of("unit", unit, ("1", "1/mm"))
        folder = Path(path)
        if not folder.is_dir():
            check.fail("path", "an existing folder", f"{folder.name}, which is none", "Check the path.")
        self.split, self.unit = split, unit
        observations, truths = (_numbered(folder, kind, split) for kind in _KINDS)
        if len(observations) != len(truths):
            got = f"{len(observations)} of observations and {len(truths)} of truths"
            check.fail("path", f"as many files of both kinds for {split!r}", got, "Unpack both archives of the split.")
        self._files = list(zip(observations, truths, strict=True))
        shapes = [tuple(_shape(file) for file in pair) for pair in self._files]
        self.observation_shape, self.image_shape = (shape[1:] for shape in shapes[0])
        for k, ((seen, true), pair) in enumerate(zip(shapes, self._files, strict=True)):
            if (seen[1:], true[1:]) != (self.observation_shape, self.image_shape):
                got = f"{pair[0].name} and {pair[1].name} of shapes {seen} and {true}"
                check.fail("path", f"members of shape {self.observation_shape} and {self.image_shape}", got, "Put them apart.")
            # the last file of truths was never cut to its length: zeros follow
            if seen[0] != true[0] and not (k == len(shapes) - 1 and seen[0] < true[0]):
                got = f"{pair[0].name} with {seen[0]} and {pair[1].name} with {true[0]} members"
                check.fail("path", "a truth for every observation", got, "Files of different sets are mixed, or truncated.")
        self._starts = np.cumsum([0] + [seen[0] for seen, _ in shapes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._read(range(*index.indices(len(self))))
        k = int(index)
        if not -len(self) <= k < len(self):
            raise IndexError(f"index: expected one of {len(self)} members, got {k}.")
        observation, truth = self._read([k % len(self)])
        return observation[0], truth[0]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"LoDoPaB({self.split!r}: {len(self)} pairs of {self.observation_shape} and {self.image_shape}, unit {self.unit!r})"

    def geometry(self) -> dict[str, Any]:
        """The keyword arguments of ``forward.ParallelBeam`` that go with the files, lengths in mm.

        The image covers 260 mm × 260 mm and the detector its diagonal. View k lies at φ = (k + ½) π/views, the middle of its cell, with
        rays i cosφ + j sinφ = l, where i runs along the *first* axis of the stored image, which is transposed (``truth.T`` is upright).
        In this project's x cosθ + y sinθ = l the first axis is y, so that ``angles`` are θ = π/2 − φ.
        """
        views, bins = self.observation_shape
        side = self.image_shape[0]
        return {
            "image_shape": self.image_shape,
            "angles": np.pi / 2 - (np.arange(views) + 0.5) * np.pi / views,
            "detector_count": bins,
            "pixel_size": FIELD_OF_VIEW / side,
            "detector_spacing": FIELD_OF_VIEW * 2**0.5 / bins,
        }

    def _read(self, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        h5py = optional("h5py", "Reading LoDoPaB-CT")
        observations = np.empty((len(members), *self.observation_shape), np.float32)
        truths = np.empty((len(members), *self.image_shape), np.float32)
        numbers = np.asarray(members, int)
        places = np.searchsorted(self._starts, numbers, "right") - 1
        for place in np.unique(places):
            wanted = np.flatnonzero(places == place)
            for file, array in zip(self._files[place], (observations, truths), strict=True):
                try:
                    with h5py.File(file, "r") as source:
                        for k in wanted:
                            array[k] = source["data"][int(numbers[k] - self._starts[place])]
                except (OSError, KeyError, RuntimeError) as error:
                    _damaged(file, error)
                check.finite(file.name, array[wanted], "It is damaged: fetch it again.")
        if self.unit == "1/mm":
            observations *= MU_MAX
            truths *= MU_MAX / 1000
        return observations, truths


def write_lodopab(path: str | os.PathLike[str], split: str, observations: Any, truths: Any, per_file: int = 128) -> None:
    """Write pairs in the layout of the dataset, e.g. simulations with another noise or geometry.

    Args:
        path: an existing folder. split: ``"train"``, ``"validation"`` or ``"test"``.
        observations: ``[n, view, bin]``, post-log, divided by mu_max. truths: ``[n, y, x]`` in [0, 1]. per_file: members of a file.

    Raises:
        ValueError: shapes that do not fit, NaN/Inf, no such folder, or a folder that already holds files of this split.
        ImportError: h5py is not installed.
    """
    h5py = optional("h5py", "Writing LoDoPaB-CT")
    check.one_of("split", split, SPLITS)
    per_file = check.positive_int("per_file", per_file)
    folder = Path(path)
    arrays = [np.asarray(check.array(name, value), np.float32) for name, value in (("observations", observations), ("truths", truths))]
    for name, axes, value in zip(("observations", "truths"), ("[n, view, bin]", "[n, y, x]"), arrays, strict=True):
        check.ndim(name, value, 3, axes)
        check.finite(name, value)
    if len(arrays[0]) != len(arrays[1]) or not len(arrays[0]):
        check.fail("truths", f"one for each of the {len(arrays[0])} observations, at least one", str(len(arrays[1])))
    if arrays[1].shape[1] != arrays[1].shape[2]:
        check.fail("truths", "square images", f"shape {arrays[1].shape}")
    if folder.is_dir() and any(folder.glob(f"*_{split}_*.hdf5")):
        check.fail("path", f"a folder without files of the split {split!r}", folder.name, "Choose another folder, or remove them first.")
    for number, start in enumerate(range(0, len(arrays[0]), per_file)):
        for kind, value in zip(_KINDS, arrays, strict=True):
            with whole_file(folder / f"{kind}_{split}_{number:03d}.hdf5") as temporary, h5py.File(temporary, "w") as out:
                out.create_dataset("data", data=value[start : start + per_file], chunks=(1, *value.shape[1:]))


def _numbered(folder: Path, kind: str, split: str) -> list[Path]:
    name = re.compile(rf"{kind}_{split}_(\d+)\.hdf5")
    found = {int(match[1]): file for file in folder.iterdir() if (match := name.fullmatch(file.name))}
    if not found:
        remedy = "Unpack the archives of the split into it."
        check.fail("path", f"a folder with files {kind}_{split}_000.hdf5, …", f"{folder.name}, which has none", remedy)
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        check.fail("path", "files numbered from 000 without gaps", f"no {kind}_{split}_{missing[0]:03d}.hdf5", "Unpack the archive again.")
    return [found[k] for k in sorted(found)]


def _shape(file: Path) -> tuple[int, ...]:
    h5py = optional("h5py", "Reading LoDoPaB-CT")
    try:
        with h5py.File(file, "r") as source:
            shape, kind = source["data"].shape, source["data"].dtype.kind
    except (OSError, KeyError, AttributeError, RuntimeError) as error:
        _damaged(file, error)
    if len(shape) != 3 or kind != "f":
        check.fail(file.name, "a dataset 'data' of real numbers with 3 axes", f"shape {shape}", "It is of another format.")
    return tuple(shape)


def _damaged(file: Path, error: Exception) -> None:
    got = f"{file.name} ({type(error).__name__} while reading it)"
    check.fail("path", "whole HDF5 files with a dataset 'data'", got, "It is truncated, damaged or of another format: fetch it again.")
