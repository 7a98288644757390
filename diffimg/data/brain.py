"""Slices of a brain on two grids, split by slab: to train and test reconstructions without the inverse crime."""

from __future__ import annotations

import dataclasses

import numpy as np

from diffimg.core import check
from diffimg.data.photographs import SPLITS
from diffimg.data.samples import _centered, _overlaps, sample

NATIVE = 256  # pixels of 1 mm; the brain is padded with zeros to this square
# first and last slice; 5 slices of 1 mm lie between slabs
_SLABS = {
    "axial": {
        "train": ((20, 46), (65, 77), (100, 112), (129, 144)),
        "validation": ((52, 59),),
        "test": ((83, 94), (118, 123)),
    },
    "coronal": {
        "train": ((38, 72), (91, 107), (132, 148), (171, 190)),
        "validation": ((78, 85),),
        "test": ((113, 126), (154, 165)),
    },
    "sagittal": {
        "train": ((34, 56), (75, 81)),
        "validation": ((62, 69),),
        "test": ((87, 98),),
    },
}
_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}


@dataclasses.dataclass(frozen=True, eq=False)
class BrainSlices:
    """Slices to measure on ``fine`` and to reconstruct and judge on ``truth``'s grid.

    Attributes:
        fine: float32 ``[slice, factor·size, factor·size]``, read-only; the volume's largest value is 1.
        truth: float32 ``[slice, size, size]``, read-only: the means of ``fine`` over factor × factor pixels.
        spacing: mm, of ``truth``'s pixels. fine_spacing: mm, of ``fine``'s.
        z: index of each slice in ``data.sample("mni152_t1")``, along the normal of the plane (1 mm).
        source: where they come from.
    """

    fine: np.ndarray = dataclasses.field(repr=False)
    truth: np.ndarray = dataclasses.field(repr=False)
    spacing: float
    fine_spacing: float
    z: tuple[int, ...] = dataclasses.field(repr=False)
    source: str

    def __len__(self) -> int:
        return len(self.z)


def brain_slices(
    split: str, size: int = 128, factor: int = 2, step: int = 1, plane: str = "axial", name: str = "mni152_t1"
) -> BrainSlices:
    """Slices of the MNI152 T1 template (1 mm) of one split, square, over a field of view of 256 mm.

    The split is by slab along the normal of the plane; 5 slices (5 mm) between slabs belong to none. First and last index:

    - axial: train 20–46, 65–77, 100–112, 129–144 (69 slices); validation 52–59 (8); test 83–94 (lateral ventricles, 11 to 22 mm above
      the anterior commissure), 118–123 (18)
    - coronal, from front to back: train 38–72, 91–107, 132–148, 171–190 (89); validation 78–85 (8); test 113–126, 154–165 (26)
    - sagittal, one half only: train 34–56, 75–81 (30); validation 62–69 (8); test 87–98 (12)

    Every slice has at least 40 cm² of brain. This is *one* average subject without skull, mirror symmetric, and neighbouring slabs are
    alike: such a split shows that a method works, not how it generalises to patients. Do not mix planes across splits: they cross.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: side of the reconstruction grid. factor: fine pixels along a side of its pixels; at least 2 avoids the inverse crime. Their
            product is at most 256 (then no value is resampled); smaller grids are exact area averages of the native one.
        step: take every ``step``-th slice of each slab.
        plane: ``"axial"`` (rows from front to back), ``"coronal"`` or ``"sagittal"`` (rows from top to bottom).
        name: of the volume: ``"mni152_t1"``, or the same slices of ``"mni152_gm"``, ``"mni152_wm"`` (tissue maps).

    Raises:
        ValueError: an unknown split or plane, a grid that is too fine.
        ImportError: nilearn is not installed.

    V. S. Fonov et al., NeuroImage 54 (2011) 313 (the template, symmetric version of 2009a).
    """
    check.one_of("split", split, SPLITS)
    check.one_of("plane", plane, _SLABS)
    size, factor, step = check.positive_int("size", size), check.positive_int("factor", factor), check.positive_int("step", step)
    side = size * factor
    if side > NATIVE:
        got, remedy = f"{size} · {factor} = {side}", "Choose a smaller size or factor: the template has pixels of 1 mm."
        check.fail("size", f"size · factor of at most {NATIVE}", got, remedy)
    check.one_of("name", name, ("mni152_t1", "mni152_gm", "mni152_wm"))
    brain = sample(name)
    z = tuple(k for first, last in _SLABS[plane][split] for k in range(first, last + 1, step))
    slices = np.moveaxis(brain.image, _AXIS[plane], 0)[list(z)]
    if plane != "axial":
        slices = slices[:, ::-1]  # the head up
    native = np.stack([_centered(image, NATIVE) for image in slices]) / brain.image.max()
    fine = native
    if side != NATIVE:
        weights = _overlaps(NATIVE, side)
        fine = (weights @ native.astype(np.float64) @ weights.T).astype(np.float32)
    truth = fine.reshape(len(z), size, factor, size, factor).mean((2, 4), dtype=np.float64).astype(np.float32)
    for image in (fine, truth):
        image.flags.writeable = False
    return BrainSlices(fine, truth, NATIVE / size, NATIVE / side, z, f"{plane} slices of {brain.source}")
