"""The fan beam: one source, one row of detector cells, turning together in a plane."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import scan_fields as fields
from diffimg.forward.divergent import Divergent
from diffimg.forward.poses import Poses, array_module


@pytree
class FanBeam(Divergent):
    """Rays from a source to a row of cells on the other side of the object, turning about the image's centre.

    In view β, in (x, y), the central ray runs along e = (−sin β, cos β) and the detector along f = (cos β, sin β): the source is at
    −source_distance·e + source_offset·f and the detector's centre at detector_distance·e + detector_offset·f. As the source moves
    away, this becomes the ``ParallelBeam`` of the same angles. A flat detector has its cells ``detector_spacing`` apart; a curved one
    is an arc around the source, its cells at equal angles detector_spacing / (source_distance + detector_distance), shifted along the
    arc by ``detector_offset``. With fan angle γ, measured from e towards f, and no source offset, a cell sees the parallel ray
    θ = β − γ, l = source_distance · sin γ (A. C. Kak, M. Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4).

    Args:
        image_shape: ``(ny, nx)``.
        angles: ``[view]``, β in radians, in any order and spacing. Traced, as all that follows unless it is called static.
        detector_count: number of detector cells; static.
        source_distance: from the source to the axis, mm; scalar or ``[view]``.
        detector_distance: from the axis to the detector, mm; scalar or ``[view]``.
        pixel_size: edge of a (square) pixel, mm; static.
        detector_spacing: distance of neighbouring cells on the detector itself, mm; static.
        detector_offset: shift of the detector along f (a curved one: along the arc), mm; scalar or ``[view]``.
        source_offset: shift of the source along f, mm; scalar or ``[view]``.
        detector_tilt: rotation of a flat detector in the plane about its centre, radians, f towards e; scalar or ``[view]``.
        curved: whether the detector is an arc around the source; static.

    Raises:
        ValueError: wrong shapes, NaN, distances that are not positive, a source inside the image's circumscribed circle, a detector
            that sees nothing, rays more than 90° off the central one, a tilt beyond ±80° or of a curved detector.

    Warns:
        UserWarning: angles that look like degrees, or a detector that does not cover the image's diagonal.
    """

    image_shape: tuple[int, int] = static()
    angles: Any
    detector_count: int = static()
    source_distance: Any
    detector_distance: Any
    pixel_size: float = static(default=1.0)
    detector_spacing: float = static(default=1.0)
    detector_offset: Any = 0.0
    source_offset: Any = 0.0
    detector_tilt: Any = 0.0
    curved: bool = static(default=False)

    def __post_init__(self):
        angles = fields.angles(self.angles)
        n = angles.shape[0]
        self._set(
            {
                "image_shape": fields.image_shape(self.image_shape),
                "angles": angles,
                "detector_count": check.positive_int("detector_count", self.detector_count),
                "source_distance": fields.distance("source_distance", self.source_distance, n),
                "detector_distance": fields.distance("detector_distance", self.detector_distance, n),
                "pixel_size": fields.length("pixel_size", self.pixel_size),
                "detector_spacing": fields.length("detector_spacing", self.detector_spacing),
                "detector_offset": fields.per_view("detector_offset", self.detector_offset, n),
                "source_offset": fields.per_view("source_offset", self.source_offset, n),
                "detector_tilt": fields.tilt("detector_tilt", self.detector_tilt, n),
                "curved": bool(self.curved),
            }
        )
        if self.curved and check.is_concrete(self.detector_tilt) and np.any(np.asarray(self.detector_tilt) != 0):
            check.fail(
                "detector_tilt", "0 for a curved detector", "a tilt", "Shift it along its arc with detector_offset, or pass curved=False."
            )
        self._check_opening()
        self._check_rays()

    @property
    def detector_shape(self) -> tuple[int]:
        """``(detector,)``."""
        return (self.detector_count,)

    @property
    def magnification(self) -> Any:
        """Source to detector over source to axis; scalar or ``[view]``."""
        return (self.source_distance + self.detector_distance) / self.source_distance

    @property
    def poses(self) -> Poses:
        xp = array_module(self)
        e, f = beam_frame(xp, self.angles)

        def column(v):
            return xp.reshape(xp.asarray(v), (-1, 1))

        reach = column(self.source_distance + self.detector_distance)
        source = column(self.source_offset) * f - column(self.source_distance) * e
        if self.curved:
            middle = column(self.detector_offset) / reach
            cos, sin = xp.cos(middle), xp.sin(middle)
            return Poses(source, source + reach * (cos * e + sin * f), self.detector_spacing * (cos * f - sin * e), curved=True)
        cos, sin = xp.cos(column(self.detector_tilt)), xp.sin(column(self.detector_tilt))
        detector = column(self.detector_offset) * f + column(self.detector_distance) * e
        return Poses(source, detector, self.detector_spacing * (cos * f + sin * e))

    @property
    def fan_angles(self) -> Any:
        """``[view, detector]``: γ of every cell, from e towards f, in radians."""
        xp = array_module(self)
        poses = self.poses
        e, f = beam_frame(xp, self.angles)
        d = self.cell_positions - poses.source[:, None]
        return xp.arctan2(xp.sum(d * f[:, None], -1), xp.sum(d * e[:, None], -1))

    def _check_opening(self):
        known = fields.host(self)
        if known is None:
            return
        if self.curved:  # an arc may run around the source, where the angle itself would wrap
            half = self.detector_count / 2 * self.detector_spacing
            worst = np.max((half + np.abs(known.detector_offset)) / (known.source_distance + known.detector_distance))
        else:
            worst = np.max(np.abs(known.fan_angles))
        if worst >= math.pi / 2:
            check.fail(
                "detector_count, detector_spacing",
                "rays within 90° of the central one",
                f"{math.degrees(float(worst)):.4g}°",
                "Use fewer or narrower cells, less tilt, or a larger distance.",
            )


def beam_frame(xp: Any, angles: Any) -> tuple[Any, Any]:
    """e and f, ``[view, (y, x)]``; angles known on the host are reduced in double precision."""
    trig = np if isinstance(angles, np.ndarray) else xp
    cos, sin = trig.cos(angles), trig.sin(angles)
    return xp.stack([cos, -sin], -1), xp.stack([sin, cos], -1)
