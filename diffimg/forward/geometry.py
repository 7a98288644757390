"""Scan geometries: where the rays run. They hold no image and compute no projection."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static, summary


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
        shape = self.image_shape
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            check.fail("image_shape", "two integers (ny, nx)", repr(shape), "A stack of slices is a batch: it stays out of the geometry.")
        fields = {
            "image_shape": tuple(check.positive_int("image_shape", n) for n in shape),
            "angles": _angles(self.angles),
            "detector_count": check.positive_int("detector_count", self.detector_count),
            "pixel_size": _length("pixel_size", self.pixel_size),
            "detector_spacing": _length("detector_spacing", self.detector_spacing),
            "detector_offset": _offset(self.detector_offset),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
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

    def __repr__(self):
        parts = [f"image_shape={self.image_shape}", f"angles={_angles_repr(self.angles)}", f"detector_count={self.detector_count}"]
        parts += [f"{name}={getattr(self, name)!r}" for name in ("pixel_size", "detector_spacing")]
        offset = self.detector_offset
        parts.append(f"detector_offset={float(offset)!r}" if check.is_concrete(offset) else f"detector_offset={summary(offset)}")
        return f"ParallelBeam({', '.join(parts)})"


def centred(count: int) -> np.ndarray:
    """Indices 0 … count−1 counted from the centre (count−1)/2, float64."""
    return np.arange(count) - (count - 1) / 2


def _angles(angles):
    """Concrete lists and NumPy arrays become float64 (float32 stays), so that tables can be built from them in full precision."""
    if isinstance(angles, (int, float)) or not isinstance(angles, (jax.Array, np.ndarray)):
        angles = check.array("angles", angles, "Pass a vector of radians, e.g. np.linspace(0, np.pi, 180, endpoint=False).")
    check.ndim("angles", angles, 1, "[view]", "Pass a vector of radians, one a view.")
    check.real("angles", angles, "Pass radians.")
    if angles.shape[0] == 0:
        check.fail("angles", "at least one view", "an empty array", "Pass e.g. np.linspace(0, np.pi, 180, endpoint=False).")
    if not jnp.issubdtype(angles.dtype, jnp.floating):
        angles = angles.astype(np.float64 if isinstance(angles, np.ndarray) else jnp.float32)
    check.finite("angles", angles, "Drop the views without a known angle.")
    if check.is_concrete(angles) and float(np.max(np.abs(np.asarray(angles)))) > 4 * math.pi:
        warnings.warn(
            f"angles: expected radians, got values up to {float(np.max(np.abs(np.asarray(angles)))):g}, beyond 4π. "
            "If they are degrees, pass np.deg2rad(angles).",
            UserWarning,
            stacklevel=4,
        )
    return angles


def _length(name, value):
    if isinstance(value, (bool, str)) or not np.isscalar(value) or not np.isreal(value) or not math.isfinite(value) or value <= 0:
        check.fail(
            name, "a positive number of mm", check.describe(value), "Lengths are static Python floats; rescale the image to trace them."
        )
    return float(value)


def _offset(value):
    if not isinstance(value, (jax.Array, np.ndarray)):
        value = check.array("detector_offset", value, "Pass one shift in mm.")
    check.ndim("detector_offset", value, 0, "", "Pass one shift in mm for all views.")
    check.real("detector_offset", value)
    check.finite("detector_offset", value)
    return value if isinstance(value, jax.Array) else float(value)


def _angles_repr(angles):
    if not check.is_concrete(angles):
        return summary(angles)
    values = np.asarray(angles)
    kind = "" if values.dtype == np.float64 else f", dtype=np.{values.dtype.name}"
    first, last, n = float(values[0]), float(values[-1]), len(values)
    if n > 2:
        stop = first + (last - first) * (n / (n - 1))
        eighth = math.pi / 4
        candidates = [(round(stop / eighth) * eighth, False), (last, True)]
        candidates += [(stop + ulps * float(np.spacing(stop)), False) for ulps in range(-4, 5)]
        for end, endpoint in candidates:
            if np.array_equal(np.linspace(first, end, n, endpoint=endpoint).astype(values.dtype), values):
                return f"np.linspace({first!r}, {end!r}, {n}{'' if endpoint else ', endpoint=False'}{kind})"
    return f"np.array({values.tolist()!r}{kind})"
