"""A picture of a scan geometry: source trajectory, detector, object and some rays, to scale, from above and from the side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffimg.core import check
from diffimg.experiment.pictures import png
from diffimg.forward.divergent import Divergent
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.scan_fields import host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# colour-blind safe (Okabe & Ito); a view keeps its colour in both drawings
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_PLANE, _SIDE = (-1, -2), (-1, 0)  # (horizontal, vertical) coordinates of vectors in array order: x, y and x, z


def geometry_picture(geometry: Any, views: int = 3, rays: int = 5, title: str | None = None) -> bytes:
    """The geometry as PNG bytes: the plane of the rotation, y downwards like the rows of an image, and in 3-D also x against z.

    Args:
        geometry: ``ParallelBeam``, ``FanBeam``, ``ConeBeam``, ``Helical`` or ``Modular`` with known leaves.
        views: how many views are drawn in full, spread over two thirds of the scan (a helix: over all of it); at most 6.
        rays: how many rays of each view.
        title: the class and its shapes by default.

    Raises:
        ValueError: another object, or a geometry that is being traced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not isinstance(geometry, (ParallelBeam, Divergent)):
        check.fail("geometry", "a scan geometry", type(geometry).__name__, "E.g. forward.FanBeam(...).")
    known = host(geometry)
    if known is None:
        check.fail("geometry", "known leaves", "a traced geometry", "Draw it outside jit and grad.")
    count = min(check.positive_int("views", views), known.view_count, len(_COLOURS))
    rays = max(2, check.positive_int("rays", rays))
    scan = _parallel_scan(known) if isinstance(known, ParallelBeam) else _divergent_scan(known)
    chosen = _spread(count, known.view_count, scan["helical"])
    solid = len(known.image_shape) == 3

    figure = Figure(figsize=(13.5 if solid else 7.5, 7.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    text = f"{type(known).__name__}: image {_times(known.image_shape)}, sinogram {_times(known.sinogram_shape)}"
    figure.suptitle(text if title is None else title, fontsize=13, fontweight="bold")
    axes = np.atleast_1d(figure.subplots(1, 2 if solid else 1))
    _draw(axes[0], known, scan, chosen, rays, _PLANE)
    axes[0].set(xlabel="x / mm", ylabel="y / mm", title="plane of the rotation")
    axes[0].invert_yaxis()
    if solid:
        _draw(axes[1], known, scan, chosen, rays, _SIDE)
        axes[1].set(xlabel="x / mm", ylabel="z / mm", title="side view")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6 if solid else 3, fontsize=10, frameon=False)
    return png(figure)


def _divergent_scan(geometry: Divergent) -> dict[str, Any]:
    poses = geometry.poses
    edges = [np.linspace(-0.5, 0.5, 33) * n for n in geometry.detector_shape[::-1]]
    corners = np.asarray(poses.points(*edges))
    if corners.ndim == 4:  # the rim of a flat detector
        rim = [corners[:, 0], corners[:, :, -1], corners[:, -1, ::-1], corners[:, ::-1, 0]]
        corners = np.concatenate(rim, 1)
    source = np.asarray(poses.source)
    helical = poses.ndim == 3 and (np.all(np.diff(source[:, 0]) > 0) or np.all(np.diff(source[:, 0]) < 0))
    return {"source": source, "detector": corners, "parallel": None, "helical": helical}


def _parallel_scan(geometry: ParallelBeam) -> dict[str, Any]:
    """Parallel rays drawn from a line at one diagonal in front of the centre to one behind it."""
    angles, reach = np.asarray(geometry.angles, np.float64), geometry.diagonal
    along = np.stack([np.cos(angles), -np.sin(angles)], -1)
    across = np.stack([np.sin(angles), np.cos(angles)], -1)
    half = geometry.detector_count * geometry.detector_spacing / 2
    l = np.linspace(-half, half, 33) + float(geometry.detector_offset)
    detector = reach * along[:, None] + l[:, None] * across[:, None]
    return {"source": -reach * along, "detector": detector, "parallel": 2 * reach * along, "helical": False}


def _spread(count: int, total: int, helical: bool) -> np.ndarray:
    """Views that stand well apart: a scan of whole or half turns ends where it began, or opposite, a helix does not."""
    return np.unique(np.linspace(0, total - 1 if helical else 2 * total // 3, count).round().astype(int))


def _draw(ax: Axes, geometry: Any, scan: dict[str, Any], chosen: np.ndarray, rays: int, plane: tuple[int, int]) -> None:
    from matplotlib.patches import Circle, Rectangle

    extent = [positions[-1] - positions[0] + step for positions, step in zip(geometry.pixel_positions, _steps(geometry), strict=True)]
    width, height = extent[plane[0]], extent[plane[1]]
    name = "image" if len(extent) == 2 else "volume"
    ax.add_patch(Rectangle((-width / 2, -height / 2), width, height, facecolor="0.85", edgecolor="0.3", label=name, zorder=1))
    field = float(geometry.field_of_view)
    if plane == _PLANE and field > 0:
        ax.add_patch(Circle((0, 0), field / 2, fill=False, linestyle="--", color="0.3", label=f"field of view, {field:.4g} mm", zorder=3))

    source, detector = scan["source"], scan["detector"]
    if scan["parallel"] is None:
        ax.plot(*_flat(source, plane), ".", color="0.45", markersize=3, label="source positions", zorder=2)
    for view, colour in zip(chosen, _COLOURS, strict=False):
        ax.plot(*_flat(detector[view], plane), color=colour, linewidth=3, zorder=4, solid_capstyle="butt", label=f"view {view}")
        ends = _ends(detector[view], rays, rim=source.shape[-1] == 3)
        starts = np.broadcast_to(source[view], ends.shape) if scan["parallel"] is None else ends - scan["parallel"][view]
        for start, end in zip(starts, ends, strict=True):
            ax.plot(*_flat(np.stack([start, end]), plane), color=colour, linewidth=0.7, alpha=0.8, zorder=2)
        if scan["parallel"] is None:
            ax.plot(*_flat(source[view : view + 1], plane), "o", color=colour, markersize=8, markeredgecolor="black", zorder=5)
    ax.set_aspect("equal")
    ax.grid(alpha=0.25)
    ax.margins(0.05)


def _ends(points: np.ndarray, rays: int, rim: bool) -> np.ndarray:
    """Where the rays of a view hit: spread over a row, or over the corners and edges of a panel."""
    if rim:
        return points[:: max(1, (len(points) - 1) // max(4, rays - 1))]
    return points[np.linspace(0, len(points) - 1, rays).round().astype(int)]


def _flat(points: np.ndarray, plane: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return points[..., plane[0]], points[..., plane[1]]


def _steps(geometry: Any) -> tuple[float, ...]:
    sizes = (geometry.pixel_size, geometry.pixel_size)
    return sizes if len(geometry.image_shape) == 2 else (geometry.slice_thickness, *sizes)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
