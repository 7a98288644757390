"""What fan, cone, helical and modular geometries share: all of it follows from their poses."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward import scan_fields as fields
from diffimg.forward.poses import Poses, array_module
from diffimg.forward.scan_fields import centred

if TYPE_CHECKING:
    from diffimg.forward.modular import Modular


class Divergent:
    """Base of the geometries whose rays start in a point. A subclass is a ``@pytree`` with a property ``poses`` and the fields below.

    Of the derived quantities, those that depend on traced leaves are traced; the yes-or-no ones are None then.
    """

    image_shape: tuple[int, ...]
    detector_shape: tuple[int, ...]
    pixel_size: float
    slice_thickness: float
    poses: Any  # source and detector of every view (``Poses``), differentiable in the leaves

    @property
    def view_count(self) -> int:
        """Number of views."""
        return jnp.shape(getattr(self, "angles", None))[0]

    @property
    def ndim(self) -> int:
        """2 for an image, 3 for a volume."""
        return len(self.image_shape)

    @property
    def sinogram_shape(self) -> tuple[int, ...]:
        """``(view, detector)`` or ``(view, row, column)``."""
        return (self.view_count, *self.detector_shape)

    @property
    def pixel_positions(self) -> tuple[np.ndarray, ...]:
        """``(y [ny], x [nx])`` or ``(z [nz], y [ny], x [nx])``, mm: the coordinates of the pixel centres."""
        return tuple(centred(n) * size for n, size in zip(self.image_shape, self._sizes))

    @property
    def cell_positions(self) -> Any:
        """``[*sinogram_shape, nd]``, mm: the centre of every detector cell in every view."""
        counts = [centred(n) for n in self.detector_shape]
        return self.poses.points(*counts[::-1])

    @property
    def rays(self) -> tuple[Any, Any]:
        """``(θ, l)``, each ``[view, detector]``: the parallel ray x cosθ + y sinθ = l that every cell sees (2-D), radians and mm."""
        if self.ndim != 2:
            check.fail("geometry", "a plane one", f"image_shape {self.image_shape}", "In space, use poses.source and cell_positions.")
        poses, cells = self.poses, self.cell_positions
        xp = array_module(poses)
        source = poses.source[:, None]
        dy, dx = xp.moveaxis(cells - source, -1, 0)
        length = xp.hypot(dy, dx)
        return xp.arctan2(-dx, dy), (source[..., 1] * dy - source[..., 0] * dx) / length

    @property
    def diagonal(self) -> float:
        """Length of a slice's diagonal, mm."""
        return math.hypot(*self.image_shape[-2:]) * self.pixel_size

    @property
    def magnification(self) -> Any:
        """Source to detector over source to image centre, along the detector's normal: of a plate at the centre; scalar or ``[view]``."""
        poses = self.poses
        xp = array_module(poses)
        if poses.curved:
            normal = poses.detector - poses.source
        elif self.ndim == 2:
            normal = xp.stack([poses.column[:, 1], -poses.column[:, 0]], -1)
        else:
            normal = xp.cross(poses.column, poses.row)
        return xp.sum((poses.detector - poses.source) * normal, -1) / xp.sum(-poses.source * normal, -1)

    @property
    def fan_angle(self) -> Any:
        """The angle between a detector row's two ends, seen from the source, in radians: the largest of the views."""
        return self._opening(0)

    @property
    def cone_angle(self) -> Any:
        """The angle between a detector column's two ends, seen from the source, in radians: the largest of the views; 0 in 2-D."""
        return self._opening(1) if self.ndim == 3 else 0.0

    @property
    def field_of_view(self) -> Any:
        """Diameter of the centred circle (3-D: of the cylinder along z) that every view's columns see whole, mm; 0 if none."""
        return _field_of_view(self.poses, self.detector_shape)

    @property
    def sees_whole_object(self) -> bool | None:
        """Whether in every view the detector's columns cover a slice's diagonal; None while a leaf is traced.

        It says nothing of the rows: a cone beam sees the end slices, and a helix most slices, only in part of the views.
        """
        known = fields.host(self)
        return None if known is None else bool(known.field_of_view >= self.diagonal * (1 - 1e-6))

    def subset(self, index: Any) -> Self:
        """The geometry of some of the views: a slice or integers ``[n]``, which may be traced (their number is static).

        Raises:
            ValueError: no views, or views that do not exist.
        """
        return fields.select_views(self, index, self.view_count)

    def modular(self, aligned: bool = False) -> Modular:
        """The same rays as a ``Modular`` geometry, every pose of which is free (with ``aligned``: as long as it stays so)."""
        from diffimg.forward.modular import Modular

        return Modular.from_poses(self, aligned)

    def __repr__(self):
        return fields.geometry_text(self)

    @property
    def _sizes(self) -> tuple[float, ...]:
        plane = (self.pixel_size, self.pixel_size)
        return plane if self.ndim == 2 else (self.slice_thickness, *plane)

    def _opening(self, axis: int) -> Any:
        poses = self.poses
        half = np.array([-0.5, 0.5]) * self.detector_shape[-1 - axis]
        ends = poses.points(half) if self.ndim == 2 else poses.points(*((half, 0.0) if axis == 0 else (0.0, half)))
        xp = array_module(poses)
        d = ends - poses.source[:, None]
        u, v = xp.moveaxis(d / xp.linalg.norm(d, axis=-1, keepdims=True), 1, 0)
        return xp.max(2 * xp.arctan2(xp.linalg.norm(u - v, axis=-1), xp.linalg.norm(u + v, axis=-1)))

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_rays(self) -> None:
        """Refuse a source inside the object and a detector that sees nothing; warn of truncation. Only where all leaves are known.

        It is called by ``__post_init__``: the warning points at the line that constructs the geometry.
        """
        known = fields.host(self)
        if known is None:
            return
        poses = jax.tree.map(lambda v: np.asarray(v, np.float64), known.poses)
        radius, half_height = self.diagonal / 2, self.image_shape[0] * self._sizes[0] / 2
        near = np.linalg.norm(poses.source[:, -2:], axis=-1) <= radius
        if self.ndim == 3:
            near &= np.abs(poses.source[:, 0]) <= half_height
        if near.any():
            view = int(np.argmax(near))
            where = f"{float(np.linalg.norm(poses.source[view, -2:])):g} mm from the centre in view {view}"
            figure = "circle" if self.ndim == 2 else "cylinder"
            name = "source_distance" if hasattr(self, "source_distance") else "source"
            check.fail(
                name,
                f"a source outside the image's {figure} of radius {radius:g} mm",
                where,
                "Check the units (mm) of pixel_size and source.",
            )
        if not _sees_something(poses, self.detector_shape, radius, half_height):
            check.fail(
                "detector",
                f"rays that meet the image (radius {radius:g} mm)",
                "rays that all miss it",
                "Check detector_offset, detector_spacing and, for given poses, that the detector is on the other side of the source.",
            )
        if not known.sees_whole_object:
            warnings.warn(
                f"{self._count_name}: {self.detector_shape[-1]} cells see a circle of {float(known.field_of_view):.4g} mm in every view, "
                f"not the slice's diagonal of {self.diagonal:.4g} mm: some projections are truncated. {_remedy(poses, self)}",
                UserWarning,
                stacklevel=4,
            )

    @property
    def _count_name(self) -> str:
        names = {f.name for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return "detector_count" if "detector_count" in names else "detector_shape"


def _plane_rays(poses: Poses, columns: int, rows: int) -> tuple[Any, Any]:
    """Distances from the axis, ``[view, corner, end]``, of the rays to the two ends of the outermost rows, projected on the slice,
    and the products of their directions with the one to the axis."""
    xp = array_module(poses)
    ends = np.array([-0.5, 0.5]) * columns
    points = poses.points(ends)[:, None] if poses.ndim == 2 else poses.points(ends, np.array([-0.5, 0.5]) * rows)
    source = poses.source[:, None, None, -2:]
    d = points[..., -2:] - source
    l = (source[..., 1] * d[..., 0] - source[..., 0] * d[..., 1]) / xp.hypot(d[..., 0], d[..., 1])
    return l, -xp.sum(d * source, -1)


def _field_of_view(poses: Poses, detector_shape: tuple[int, ...]) -> Any:
    xp = array_module(poses)
    l, ahead = _plane_rays(poses, detector_shape[-1], detector_shape[0])
    low, high = xp.min(l, -1), xp.max(l, -1)
    ok = xp.all(ahead > 0)
    return xp.where(ok, 2 * xp.maximum(xp.minimum(xp.min(-low), xp.min(high)), 0), 0.0)


def _sees_something(poses: Poses, detector_shape: tuple[int, ...], radius: float, half_height: float) -> bool:
    """Whether the hull of some view's rays meets the cylinder (conservative in 3-D: it looks at columns and rows in turn)."""
    l, ahead = _plane_rays(poses, detector_shape[-1], detector_shape[0])
    seen = (l.min((-2, -1)) <= radius) & (l.max((-2, -1)) >= -radius) & (ahead > 0).any((-2, -1))
    if poses.ndim == 3:
        corners = poses.points(*(np.array([-0.5, 0.5]) * n for n in detector_shape[::-1])).reshape(-1, 4, 3) - poses.source[:, None]
        rise = corners[..., 0] / np.maximum(np.linalg.norm(corners[..., 1:], axis=-1), 1e-300)
        away = np.linalg.norm(poses.source[:, 1:], axis=-1)[:, None]
        reach = np.concatenate([rise * np.maximum(away - radius, 0), rise * (away + radius)], -1) + poses.source[:, :1]
        steep = np.linalg.norm(poses.source[:, 1:], axis=-1) <= radius  # a source above or below the volume: columns decide alone
        seen = np.where(steep, True, seen & (reach.min(-1) <= half_height) & (reach.max(-1) >= -half_height))
    return bool(seen.any())


def _remedy(poses: Poses, geometry: Divergent) -> str:
    """How many cells would do, by bisection."""

    def enough(count):
        return _field_of_view(poses, (*geometry.detector_shape[:-1], count)) >= geometry.diagonal * (1 - 1e-6)

    low, high = geometry.detector_shape[-1], geometry.detector_shape[-1]
    while not enough(high):
        low, high = high, 2 * high
        if high > 64 * geometry.detector_shape[-1]:
            return "Move the source away or turn the detector unless the corners of the image are empty."
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    wanted = high if geometry._count_name == "detector_count" else (*geometry.detector_shape[:-1], high)
    return f"Use {geometry._count_name} ≥ {wanted} unless the corners of the image are empty."
