"""An image with its place in space: what readers return and writers take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """An image, where it lies, and what may be known of it without knowing the patient.

    Args:
        image: ``[..., z, y, x]`` or ``[..., y, x]``, real and finite; the last axes are those of ``grid``.
        grid: spacing, origin and direction.
        unit: ``"HU"``, ``"1/mm"`` or ``"1"`` (arbitrary intensity).
        metadata: acquisition parameters; of a DICOM file only those on the list of ``diffimg.data.deidentify``.

    Raises:
        ValueError: image and grid disagree, or NaN/Inf.
    """

    image: np.ndarray = dataclasses.field(repr=False)
    grid: Grid
    unit: str = "1"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        image = np.asarray(check.array("image", self.image))
        check.real("image", image)
        check.trailing_shape("image", image, self.grid.shape, "z, y, x" if self.grid.ndim == 3 else "y, x")
        check.finite("image", image, "Replace them first, e.g. np.nan_to_num(image).")
        object.__setattr__(self, "image", image)
