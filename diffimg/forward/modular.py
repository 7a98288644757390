"""Source and detector anywhere: every pose is free, in the plane and in space."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import scan_fields as fields
from diffimg.forward.divergent import Divergent
from diffimg.forward.poses import Poses

_EDGE_ON = 1e-6  # sine of the angle between the detector and the ray to its middle


@pytree
class Modular(Divergent):
    """Rays from an arbitrary source to an arbitrary detector in every view: calibrated scanners, robots, laminography, motion.

    Positions are in mm from the image's centre, vectors in array order: (y, x) in the plane, (z, y, x) in space. Cell j of n lies at
    detector + (j − (n−1)/2)·column, in space also + (k − (rows−1)/2)·row.

    Args:
        image_shape: ``(ny, nx)`` or ``(nz, ny, nx)``.
        source: ``[view, nd]``, the focal spot. Traced, like the other three.
        detector: ``[view, nd]``, the centre of the detector.
        column: ``[view, nd]``, from one cell to the next along a row.
        detector_shape: number of cells, or ``(rows, columns)`` in space.
        row: ``[view, nd]``, from one row to the next; in space only.
        pixel_size, slice_thickness: edges of a pixel or voxel, mm; the thickness is ``pixel_size`` by default.
        aligned: in space, a promise that all rows run along z and all columns across it, and that they stay so: projections are then
            distance-driven, which is faster, and derivatives towards poses that break the promise are zero.
        curved: in the plane, whether the detector is an arc around the source, as in ``FanBeam``; ``column`` is its tangent.

    Raises:
        ValueError: wrong shapes, NaN, a source inside the image's circumscribed circle or cylinder, a detector that sees nothing, is
            seen edge-on or has cells of no size, a row in the plane or none in space, ``aligned=True`` where the poses are not.

    Warns:
        UserWarning: the detector does not cover the slices' diagonal.
    """

    image_shape: tuple[int, ...] = static()
    source: Any
    detector: Any
    column: Any
    detector_shape: Any = static()
    row: Any = None
    pixel_size: float = static(default=1.0)
    slice_thickness: Any = static(default=None)
    aligned: bool = static(default=False)
    curved: bool = static(default=False)

    def __post_init__(self):
        nd = len(self.image_shape) if isinstance(self.image_shape, (tuple, list)) else 0
        axes = ("nz", "ny", "nx") if nd == 3 else ("ny", "nx")
        shape = fields.image_shape(self.image_shape, axes)
        if (self.row is None) != (nd == 2):
            check.fail("row", "no row in the plane" if nd == 2 else "[view, 3] in space", "None" if self.row is None else "one")
        if self.curved and nd == 3:
            check.fail("curved", "False in space", "True", "Only the plane has curved detectors.")
        count = None
        vectors = {}
        for name in ("source", "detector", "column", "row") if nd == 3 else ("source", "detector", "column"):
            value = check.array(name, getattr(self, name))
            count = np.shape(value)[0] if count is None and np.ndim(value) == 2 else count
            check.shape(name, value, (count or 1, nd), "[view, (z, y, x)]" if nd == 3 else "[view, (y, x)]", "One vector a view.")
            check.real(name, value)
            check.finite(name, value)
            vectors[name] = fields.floating(value)
            if name in ("column", "row") and check.is_concrete(value) and not np.asarray(value).any(-1).all():
                check.fail(name, "vectors of positive length", "a zero vector", "It leads from one detector cell to the next, in mm.")
        pixel_size = fields.length("pixel_size", self.pixel_size)
        self._set(
            {
                **vectors,
                "image_shape": shape,
                "detector_shape": fields.detector_shape(self.detector_shape, ("rows", "columns")[3 - nd :]),
                "pixel_size": pixel_size,
                "slice_thickness": pixel_size if self.slice_thickness is None else fields.length("slice_thickness", self.slice_thickness),
                "curved": bool(self.curved),
            }
        )
        self._set({"aligned": self._alignment()})
        self._check_panel()
        self._check_rays()

    @classmethod
    def from_poses(cls, geometry: Divergent, aligned: bool = False) -> Modular:
        """The poses of another geometry, set free; ``aligned`` as above."""
        poses = geometry.poses
        new = object.__new__(cls)  # checked already, and its warnings given
        thickness = geometry.slice_thickness if geometry.ndim == 3 else geometry.pixel_size
        vectors = {name: getattr(poses, name) for name in ("source", "detector", "column", "row")}
        static_fields = {name: getattr(geometry, name) for name in ("image_shape", "detector_shape", "pixel_size")}
        new._set({**vectors, **static_fields, "slice_thickness": thickness, "aligned": aligned, "curved": poses.curved})
        new._set({"aligned": new._alignment()})
        return new

    @property
    def view_count(self) -> int:
        """Number of views."""
        return jnp.shape(self.source)[0]

    @property
    def detector_count(self) -> int:
        """Number of cells of a row."""
        return self.detector_shape[-1]

    @property
    def poses(self) -> Poses:
        return Poses(self.source, self.detector, self.column, self.row, self.curved)

    def moved(self, rotation: Any = None, translation: Any = None) -> Modular:
        """The geometry that an object sees which has been rotated about the image's centre, then shifted, view by view.

        Projecting the resting object with it gives the projections of the moving one: motion, jitter, a stage that wobbles.

        Args:
            rotation: 2-D: ``[view]`` or one angle in radians, from +x towards +y. 3-D: ``[view, 3]`` or ``[3]``, the rotation vector
                (axis · angle) with components (z, y, x), right-handed in (x, y, z). Differentiable, also at zero.
            translation: ``[view, nd]`` or ``[nd]``, mm.
        """
        nd, n = self.ndim, self.view_count
        if rotation is not None:
            rotation = check.array("rotation", rotation)
            _per_view_vector("rotation", rotation, n, () if nd == 2 else (3,))
        if translation is not None:
            translation = check.array("translation", translation)
            _per_view_vector("translation", translation, n, (nd,))
        poses = self.poses.moved(rotation, translation)
        known = rotation is None and self.aligned  # a shift leaves the directions alone
        vectors = (poses.source, poses.detector, poses.column)
        return Modular(
            self.image_shape, *vectors, self.detector_shape, poses.row, self.pixel_size, self.slice_thickness, known, self.curved
        )

    def _check_panel(self) -> None:
        """Refuse a detector whose line or plane holds the source: its cells have no size there."""
        known = fields.host(self)
        if known is None:
            return
        vectors = [known.detector - known.source, known.column] + ([] if known.row is None else [known.row])
        frames = np.stack(vectors, 1).astype(np.float64)  # [view, vector, nd]
        edge_on = np.abs(np.linalg.det(frames)) <= _EDGE_ON * np.prod(np.linalg.norm(frames, axis=-1), -1)
        if edge_on.any():
            got = f"one seen edge-on in view {int(np.argmax(edge_on))}"
            check.fail("detector", "a detector that faces the source", got, "Check detector, column and row: it passes through the source.")

    def _alignment(self) -> bool:
        poses = self.poses
        if poses.ndim == 3 and self.aligned and all(check.is_concrete(v) for v in (poses.column, poses.row)) and not poses.aligned:
            check.fail("aligned", "False where rows do not run along z, or columns not across it", "True", "Leave it out.")
        return poses.ndim == 2 or bool(self.aligned)


def _per_view_vector(name: str, value: Any, view_count: int, trailing: tuple[int, ...]) -> None:
    if tuple(jnp.shape(value)) not in ((view_count, *trailing), trailing):
        expected = f"shape {(view_count, *trailing)} [view{', vector' if trailing else ''}]"
        check.fail(name, expected, f"shape {tuple(jnp.shape(value))}", f"Or one for all views, shape {trailing}.")
    check.real(name, value)
    check.finite(name, value)
