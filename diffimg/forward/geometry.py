"""Scan geometries: where the rays run. They hold no image and compute no projection."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import scan_fields as fields
from diffimg.forward.scan_fields import centred


@pytree
class ParallelBeam:
    """Parallel rays in a plane: view θ, detector cell l holds the integral over x cosθ + y sinθ = l.

    x runs along the columns (last axis), y along the rows, both in mm from the image centre (N−1)/2; detector cell j
    lies at l_j = (j − (D−1)/2)·detector_spacing + detector_offset.

    Args:
        image_shape: ``(ny, nx)``.
        angles: ``[view]``, radians, in any order and spacing. Traced: differentiable, replaced without a new trace.
        detector_count: number D of detector cells.
        pixel_size: edge of a (square) pixel, mm.
        detector_spacing: distance of neighbouring detector cells, mm.
        detector_offset: scalar shift of the detector along l, mm. Traced, like the angles.

    Raises:
        ValueError: an argument of the wrong rank, sign or kind, no views, or NaN/Inf.

    Warns:
        UserWarning: angles that look like degrees, or a detector shorter than the image's diagonal.
    """

    image_shape: tuple[int, int] = static()
    angles: Any
    detector_count: int = static()
    pixel_size: float = static(default=1.0)
    detector_spacing: float = static(default=1.0)
    detector_offset: Any = 0.0

    def __post_init__(self):
        values = {
            "image_shape": fields.image_shape(self.image_shape),
            "angles": fields.angles(self.angles),
            "detector_count": check.positive_int("detector_count", self.detector_count),
            "pixel_size": fields.length("pixel_size", self.pixel_size),
            "detector_spacing": fields.length("detector_spacing", self.detector_spacing),
            "detector_offset": fields.offset(self.detector_offset),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not self._touches_image:
            reach = self.detector_count * self.detector_spacing / 2
            got = f"cells {float(self.detector_offset) - reach:g} to {float(self.detector_offset) + reach:g} mm from the axis"
            remedy = "Lower detector_offset: it is in mm, and so is detector_spacing."
            check.fail("detector_offset", f"a detector that sees the image's circle of {self.diagonal:g} mm", got, remedy)
        if self.sees_whole_object is False:
            need = math.ceil((self.diagonal + 2 * abs(float(self.detector_offset))) / self.detector_spacing)
            warnings.warn(
                f"detector_count: {self.detector_count} cells of {self.detector_spacing:g} mm "
                f"(offset {float(self.detector_offset):g} mm) do not cover the image's diagonal of {self.diagonal:g} mm: some projections "
                f"are truncated. Use detector_count ≥ {need} unless the corners of the image are empty.",
                UserWarning,
                stacklevel=3,
            )

    @property
    def view_count(self) -> int:
        """Number of views."""
        return jnp.shape(self.angles)[0]

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """``(view, detector)``."""
        return (self.view_count, self.detector_count)

    @property
    def detector_positions(self) -> Any:
        """``[detector]``, mm: the coordinate l of each detector cell's centre."""
        return centred(self.detector_count) * self.detector_spacing + self.detector_offset

    @property
    def pixel_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """``(y [ny], x [nx])``, mm: the coordinates of the pixel centres."""
        ny, nx = self.image_shape
        return centred(ny) * self.pixel_size, centred(nx) * self.pixel_size

    @property
    def diagonal(self) -> float:
        """Length of the image's diagonal, mm."""
        return math.hypot(*self.image_shape) * self.pixel_size

    @property
    def sees_whole_object(self) -> bool | None:
        """Whether the detector covers the image's diagonal in every view; ``None`` while the offset is traced."""
        if not check.is_concrete(self.detector_offset):
            return None
        half = self.detector_count * self.detector_spacing / 2 - abs(float(self.detector_offset))
        return half >= self.diagonal / 2 * (1 - 1e-6)

    @property
    def _touches_image(self) -> bool:
        if not check.is_concrete(self.detector_offset):
            return True
        return abs(float(self.detector_offset)) - self.detector_count * self.detector_spacing / 2 < self.diagonal / 2

    @property
    def field_of_view(self) -> Any:
        """Diameter of the centred circle that every view sees whole, mm; 0 where the centre is missed."""
        return 2 * jnp.maximum(self.detector_count * self.detector_spacing / 2 - jnp.abs(self.detector_offset), 0)

    def subset(self, index: Any) -> ParallelBeam:
        """The geometry of some of the views: a slice or integers ``[n]``, which may be traced (their number is static)."""
        return fields.select_views(self, index, self.view_count)

    def __repr__(self):
        return fields.geometry_text(self)
