"""Where the samples of an image lie in space."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffimg.core import check

_ORTHONORMAL = 1e-3  # headers carry directions in four to six digits


@dataclasses.dataclass(frozen=True)
class Grid:
    """Shape, spacing, origin and direction of an image, all in *array order*: (y, x) in 2-D, (z, y, x) in 3-D.

    The sample of index i lies at ``origin + direction @ (spacing * i)`` mm. World axes are DICOM's patient axes, listed in array
    order too: z towards the head (superior), y towards the back (posterior), x towards the patient's left. An axial CT volume
    with rows from front to back, columns from the patient's right to left and slices upwards has the identity as direction. Other
    conventions are met at the border: :attr:`itk` and :meth:`from_itk` (SimpleITK, LPS, x first), :attr:`affine` and
    :meth:`from_affine` (NIfTI, RAS, x first).

    A grid is immutable, hashable (so it may be a static field) and ``eval(repr(grid)) == grid``.

    Args:
        shape: samples along each axis.
        spacing: mm between neighbours along each axis, one number or one an axis; default 1.
        origin: world position of the first sample, mm; default 0.
        direction: ``[world axis][array axis]``, orthonormal columns: the unit vector along each array axis; default identity.

    Raises:
        ValueError: two or three axes are expected; a length that is not positive, NaN/Inf, or axes that are not orthogonal.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    origin: tuple[float, ...] = ()
    direction: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):
        if not isinstance(self.shape, (tuple, list)) or len(self.shape) not in (2, 3):
            check.fail("shape", "(ny, nx) or (nz, ny, nx)", repr(self.shape), "Batch axes stay out of the grid.")
        n = len(self.shape)
        object.__setattr__(self, "shape", tuple(check.positive_int("shape", s) for s in self.shape))
        object.__setattr__(self, "spacing", _vector("spacing", self.spacing, (1.0,) * n))
        object.__setattr__(self, "origin", _vector("origin", self.origin, (0.0,) * n))
        check.minimum("spacing", np.asarray(self.spacing), 0, strict=True, remedy="Spacings are in mm.")
        matrix = np.asarray(self.direction if np.size(self.direction) else np.eye(n), float)
        check.shape("direction", matrix, (n, n), "[world axis, array axis]")
        check.finite("direction", matrix)
        if np.abs(matrix.T @ matrix - np.eye(n)).max() > _ORTHONORMAL:
            remedy = "A sheared grid (gantry tilt) has to be resampled first."
            check.fail("direction", "orthonormal columns", str(np.round(matrix, 4).tolist()), remedy)
        object.__setattr__(self, "direction", tuple(tuple(float(v) + 0.0 for v in row) for row in matrix))  # + 0.0: no −0

    @classmethod
    def centred(cls, shape: Sequence[int], spacing: Sequence[float] | float = 1.0) -> Grid:
        """The grid of a reconstruction: its centre (N−1)/2 is the world's origin, where the rotation axis of the geometries is."""
        steps = (float(spacing),) * len(shape) if isinstance(spacing, (int, float)) else tuple(map(float, spacing))
        return cls(tuple(shape), steps, tuple(-(n - 1) / 2 * s for n, s in zip(shape, steps, strict=True)))

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Edge lengths of the whole image, mm, cells included."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def centre(self) -> tuple[float, ...]:
        """World position of the image's centre, mm."""
        return tuple(float(v) for v in self.index_to_world((np.asarray(self.shape) - 1) / 2))

    def index_to_world(self, index: Any) -> Any:
        """``[..., axis]`` indices (may be fractional) → ``[..., axis]`` mm; NumPy or JAX."""
        steps = np.asarray(self.direction) * np.asarray(self.spacing)
        return (index[..., None, :] * steps).sum(-1) + np.asarray(self.origin)

    def world_to_index(self, position: Any) -> Any:
        """The inverse of :meth:`index_to_world`."""
        inverse = np.linalg.inv(np.asarray(self.direction) * np.asarray(self.spacing))
        return ((position - np.asarray(self.origin))[..., None, :] * inverse).sum(-1)

    def coarser(self, factor: float | Sequence[float]) -> Grid:
        """The grid of the same extent with about 1/factor as many samples along each axis, at least one."""
        factors = np.broadcast_to(np.asarray(factor, float), (self.ndim,))
        check.minimum("factor", factors, 0, strict=True)
        shape = tuple(max(1, int(np.ceil(n / f - 1e-9))) for n, f in zip(self.shape, factors, strict=True))
        return self.resampled(shape)

    def resampled(self, shape: Sequence[int]) -> Grid:
        """The grid of the same extent with another number of samples."""
        spacing = np.asarray(self.extent) / np.asarray(shape)
        origin = np.asarray(self.origin) + np.asarray(self.direction) @ ((spacing - np.asarray(self.spacing)) / 2)
        return Grid(tuple(shape), tuple(spacing.tolist()), tuple(origin.tolist()), self.direction)

    def as_volume(self, slice_thickness: float = 1.0) -> Grid:
        """A 2-D grid as the 3-D grid of one axial slice at z = 0; a 3-D one unchanged."""
        if self.ndim == 3:
            return self
        direction = np.eye(3)
        direction[1:, 1:] = self.direction
        return Grid((1, *self.shape), (slice_thickness, *self.spacing), (0.0, *self.origin), direction.tolist())

    @property
    def itk(self) -> dict[str, tuple]:
        """``size``, ``spacing``, ``origin`` and ``direction`` (flat, by rows) as SimpleITK has them: x first, LPS."""
        direction = np.asarray(self.direction)[::-1, ::-1]
        return {
            "size": self.shape[::-1],
            "spacing": self.spacing[::-1],
            "origin": self.origin[::-1],
            "direction": tuple(float(v) for v in direction.ravel()),
        }

    @classmethod
    def from_itk(
        cls, size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float] | np.ndarray
    ) -> Grid:
        """From SimpleITK's ``GetSize()``, ``GetSpacing()``, ``GetOrigin()``, ``GetDirection()``."""
        matrix = np.asarray(direction, float).reshape(len(size), len(size))[::-1, ::-1]
        return cls(tuple(map(int, size[::-1])), tuple(spacing[::-1]), tuple(origin[::-1]), matrix.tolist())

    @property
    def affine(self) -> np.ndarray:
        """``[4, 4]``, float64: voxel index (x, y, z) → mm in RAS, as in NIfTI; for the array transposed to ``[x, y, z]``."""
        grid = self.as_volume()
        matrix = np.eye(4)
        matrix[:3, :3] = (np.asarray(grid.direction) * np.asarray(grid.spacing))[::-1, ::-1]
        matrix[:3, 3] = grid.origin[::-1]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix + 0.0

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: Any) -> Grid:
        """From a RAS affine of the index (x, y, z); ``shape`` is (nz, ny, nx).

        Raises:
            ValueError: the affine is singular or sheared.
        """
        matrix = np.asarray(affine, float)
        check.shape("affine", matrix, (4, 4))
        check.finite("affine", matrix)
        matrix = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)[:3]
        steps = matrix[::-1, 2::-1]
        spacing = np.linalg.norm(steps, axis=0)
        check.minimum("affine", spacing, 0, strict=True, remedy="A column of the affine is zero: the header holds no spacing.")
        return cls(tuple(shape), tuple(spacing.tolist()), tuple(matrix[::-1, 3].tolist()), (steps / spacing).tolist())


def _vector(name: str, value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    numbers = np.asarray(value if np.size(value) else default, float)
    if name == "spacing" and numbers.ndim == 0:
        numbers = np.full(len(default), numbers)
    check.shape(name, numbers, (len(default),), "(z, y, x)" if len(default) == 3 else "(y, x)")
    check.finite(name, numbers)
    return tuple(float(v) if not math.isclose(v, 0, abs_tol=1e-300) else 0.0 for v in numbers)
