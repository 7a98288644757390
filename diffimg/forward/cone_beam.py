"""Cone beams onto a flat detector: on a circle, and on a helix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import scan_fields as fields
from diffimg.forward.divergent import Divergent
from diffimg.forward.fan_beam import beam_frame
from diffimg.forward.poses import Poses, array_module


class FlatPanel(Divergent):
    """Base of source and flat detector turning about z."""

    angles: Any
    source_distance: Any
    detector_distance: Any
    detector_spacing: Any
    detector_offset: Any
    source_offset: Any
    detector_tilt: Any

    @property
    def aligned(self) -> bool:
        """Whether the detector's columns are parallel to z: no tilt was given."""
        return self.detector_tilt is None

    @property
    def magnification(self) -> Any:
        """Source to detector over source to axis; scalar or ``[view]``."""
        return (self.source_distance + self.detector_distance) / self.source_distance

    @property
    def poses(self) -> Poses:
        xp = array_module(self)
        n = self.view_count
        zero = np.zeros((n, 1))
        e, f = (xp.concatenate([zero, v], -1) for v in beam_frame(xp, self.angles))
        z = np.broadcast_to(np.array([1.0, 0.0, 0.0]), (n, 3))

        def column(v):
            return xp.reshape(xp.asarray(v), (-1, 1))

        source_z, source_f = map(column, self.source_offset)
        detector_z, detector_f = map(column, self.detector_offset)
        table = column(self._table)
        source = (source_z + table) * z + source_f * f - column(self.source_distance) * e
        detector = (detector_z + table) * z + detector_f * f + column(self.detector_distance) * e
        across, up = f, z
        if self.detector_tilt is not None:
            roll, pitch, yaw = map(column, self.detector_tilt)
            cr, sr, cp, sp, cy, sy = (g(a) for a in (roll, pitch, yaw) for g in (xp.cos, xp.sin))
            across, e_turned = cy * f + sy * e, cy * e - sy * f
            up = cp * z - sp * e_turned
            across, up = cr * across - sr * up, cr * up + sr * across
        row, spacing = self.detector_spacing
        return Poses(source, detector, spacing * across, row * up)

    @property
    def _table(self) -> Any:
        return 0.0

    def _normalise(self, angles: Any) -> None:
        n = angles.shape[0]
        pixel_size = fields.length("pixel_size", self.pixel_size)
        spacing = self.detector_spacing
        row, column = spacing if isinstance(spacing, (tuple, list)) and len(spacing) == 2 else (spacing, spacing)
        self._set(
            {
                "image_shape": fields.image_shape(self.image_shape, ("nz", "ny", "nx")),
                "angles": angles,
                "detector_shape": fields.detector_shape(self.detector_shape, ("rows", "columns")),
                "source_distance": fields.distance("source_distance", self.source_distance, n),
                "detector_distance": fields.distance("detector_distance", self.detector_distance, n),
                "pixel_size": pixel_size,
                "slice_thickness": pixel_size if self.slice_thickness is None else fields.length("slice_thickness", self.slice_thickness),
                "detector_spacing": (fields.length("detector_spacing", row), fields.length("detector_spacing", column)),
                "detector_offset": fields.pair("detector_offset", self.detector_offset, n),
                "source_offset": fields.pair("source_offset", self.source_offset, n),
                "detector_tilt": self.detector_tilt if self.detector_tilt is None else fields.tilts("detector_tilt", self.detector_tilt, n),
            }
        )

    def _check_opening(self) -> None:
        known = fields.host(self)
        if known is None:
            return
        e, _ = beam_frame(np, known.angles)
        half = (np.array([-0.5, 0.5]) * n for n in self.detector_shape[::-1])
        ahead = np.sum((known.poses.points(*half) - known.poses.source[:, None, None])[..., 1:] * e[:, None, None], -1)
        if ahead.min() <= 0:
            remedy = "Use fewer or narrower cells, less tilt, or a larger distance."
            check.fail("detector_tilt, detector_shape", "rays within 90° of the central one", "cells beside or behind the source", remedy)


@pytree
class ConeBeam(FlatPanel):
    """Rays from a source on a circle about z to a flat detector on the other side of the volume.

    Source and detector stand as in ``FanBeam``, in the plane z = 0: the central ray along e = (−sin β, cos β), the detector's rows of
    cells along f = (cos β, sin β), its columns of cells along z (Feldkamp, Davis, Kress, J. Opt. Soc. Am. A 1 (1984) 612). Pairs are
    (along z, along f), like the detector's (row, column).

    Args:
        image_shape: ``(nz, ny, nx)``.
        angles: ``[view]``, β in radians. Traced, as all that follows unless it is called static.
        detector_shape: ``(rows, columns)``; static.
        source_distance: from the source to the axis, mm; scalar or ``[view]``.
        detector_distance: from the axis to the detector, mm; scalar or ``[view]``.
        pixel_size: edge of a voxel in the plane, mm; static.
        slice_thickness: edge of a voxel along z, mm; ``pixel_size`` by default; static.
        detector_spacing: distance of neighbouring cells, mm: one number, or (row, column); static.
        detector_offset: shift of the detector, (along z, along f) in mm, each scalar or ``[view]``.
        source_offset: shift of the source, likewise.
        detector_tilt: None, where the detector's columns are exactly parallel to z, which projectors rely on; or (roll, pitch, yaw) in
            radians, each scalar or ``[view]``: right-handed rotations about the detector's centre, first about its normal e (z towards
            f), then about f (e towards z), then about z (f towards e).

    Raises:
        ValueError: wrong shapes, NaN, distances that are not positive, a source inside the image's circumscribed cylinder, a detector
            that sees nothing, rays more than 90° off the central one, a tilt beyond ±80°.

    Warns:
        UserWarning: angles that look like degrees, or rows of cells that do not cover the slices' diagonal.
    """

    image_shape: tuple[int, int, int] = static()
    angles: Any
    detector_shape: tuple[int, int] = static()
    source_distance: Any
    detector_distance: Any
    pixel_size: float = static(default=1.0)
    slice_thickness: Any = static(default=None)
    detector_spacing: Any = static(default=1.0)
    detector_offset: Any = (0.0, 0.0)
    source_offset: Any = (0.0, 0.0)
    detector_tilt: Any = None

    def __post_init__(self):
        self._normalise(fields.angles(self.angles))
        self._check_opening()
        self._check_rays()


@pytree
class Helical(FlatPanel):
    """As ``ConeBeam``, while source and detector travel along z: in view v both are shifted by ``table[v]``.

    Args:
        table: ``[view]``, mm, strictly increasing or decreasing. Traced. The other arguments are those of ``ConeBeam``.

    Raises:
        ValueError: as ``ConeBeam``; a table that is not strictly monotone.
    """

    image_shape: tuple[int, int, int] = static()
    angles: Any
    detector_shape: tuple[int, int] = static()
    source_distance: Any
    detector_distance: Any
    table: Any
    pixel_size: float = static(default=1.0)
    slice_thickness: Any = static(default=None)
    detector_spacing: Any = static(default=1.0)
    detector_offset: Any = (0.0, 0.0)
    source_offset: Any = (0.0, 0.0)
    detector_tilt: Any = None

    def __post_init__(self):
        angles = fields.angles(self.angles, many_turns=True)
        self._normalise(angles)
        table = fields.per_view("table", self.table, angles.shape[0])
        check.ndim("table", table, 1, "[view]", "Pass the position of every view, mm, or use Helical.from_pitch.")
        if check.is_concrete(table):
            steps = np.diff(np.asarray(table, np.float64))
            if not (np.all(steps > 0) or np.all(steps < 0)):
                stop = int(np.argmax(steps * (np.sign(steps.sum()) or 1) <= 0))
                remedy = "The table moves one way: sort the views, or use ConeBeam where it stands still."
                check.fail(
                    "table", "strictly increasing or decreasing positions", f"a step of {steps[stop]:g} mm after view {stop}", remedy
                )
        self._set({"table": table})
        self._check_opening()
        self._check_rays()

    @classmethod
    def from_pitch(
        cls,
        image_shape: tuple[int, int, int],
        turns: float,
        views_per_turn: int,
        pitch: float,
        detector_shape: tuple[int, int],
        source_distance: float,
        detector_distance: float,
        *,
        start_angle: float = 0.0,
        detector_spacing: Any = 1.0,
        **others: Any,
    ) -> Helical:
        """A regular helix centred on the volume.

        Args:
            turns: number of turns, which may be fractional.
            views_per_turn: views in a turn.
            pitch: table feed in a turn over the width of the beam at the axis, rows · row spacing / magnification (IEC 60601-2-44);
                negative to travel towards −z.
            start_angle: β of the first view, radians.
            others: as for ``Helical``.
        """
        per_turn = check.positive_int("views_per_turn", views_per_turn)
        for name, value in (("turns", turns), ("pitch", pitch)):
            if not np.isscalar(value) or not math.isfinite(value) or value == 0 or (name == "turns" and value < 0):
                check.fail(name, "a positive number" if name == "turns" else "a number other than 0", check.describe(value))
        distances = {"source_distance": source_distance, "detector_distance": detector_distance}
        for name, value in distances.items():
            fields.length(name, value)
        rows, _ = fields.detector_shape(detector_shape, ("rows", "columns"))
        spacing = detector_spacing[0] if isinstance(detector_spacing, (tuple, list)) else detector_spacing
        width = rows * fields.length("detector_spacing", spacing) * source_distance / (source_distance + detector_distance)
        count = max(1, round(turns * per_turn))
        return cls(
            image_shape=image_shape,
            angles=start_angle + 2 * math.pi / per_turn * np.arange(count),
            detector_shape=detector_shape,
            table=fields.centred(count) * (pitch * width / per_turn),
            detector_spacing=detector_spacing,
            **distances,
            **others,
        )

    @property
    def pitch(self) -> Any:
        """Mean table feed in a turn over the width of the beam at the axis."""
        feed = (self.table[-1] - self.table[0]) / (self.angles[-1] - self.angles[0]) * (2 * math.pi)
        return feed * self.magnification / (self.detector_shape[0] * self.detector_spacing[0])

    @property
    def _table(self) -> Any:
        return self.table
