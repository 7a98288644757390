"""Pictures and page of the ``registration`` recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from diffimg.experiment import pictures
from diffimg.experiment.report import standard_report


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """What is drawn: images on the fixed grid, ``seen`` where the moving one reaches before and after; ``fit``: slope and
    offset from the moving image's intensities to the fixed one's, None where they do not correspond."""

    fixed: Any
    before: Any
    after: Any
    seen: dict[str, Any]
    determinant: Any
    fit: tuple[float, float] | None


def intensity_fit(fixed: Any, image: Any, seen: Any, comparable: str) -> tuple[float, float] | None:
    """(slope, offset) that bring the intensities of a registered image to those of the fixed one; None for other modalities."""
    if comparable == "other":
        return None
    inside = (fixed > fixed.mean()) & seen
    if comparable == "same" or inside.sum() < 3 or np.ptp(image[inside]) == 0:
        return 1.0, 0.0
    slope, offset = np.polyfit(image[inside].astype(float), fixed[inside].astype(float), 1)
    return float(slope), float(offset)


def difference(fixed: Any, image: Any, seen: Any, fit: tuple[float, float]) -> float:
    """Mean squared difference over the fixed image's variance where it is above its mean and both are; NaN where nothing is."""
    inside = (fixed > fixed.mean()) & seen
    apart = fixed[inside] - (fit[0] * image[inside] + fit[1])
    return float((apart**2).mean() / fixed[inside].var()) if inside.any() else float("nan")


def pages(config: Any, run: Any, result: Any, grid: Any, shown: Shown, definitions: dict[str, str]) -> None:
    """``overview.png``, ``grid.png`` and ``report.html``."""
    title = config.title or "Registration"
    levels = {
        f"{k + 1} {level.stage} {'×'.join(map(str, level.shape))}": {
            "status": level.status.name, "iterations": level.iterations, "before": level.before, "after": level.after
        }
        for k, level in enumerate(result.levels)
    }  # fmt: skip
    windows = [_window(v) for v in (shown.fixed, shown.after)]
    deforms = any(kind in ("bspline", "displacement", "velocity", "implicit") for kind in (s.kind for s in config.stages))
    rows = [_row(shown, grid, axis, windows, deforms) for axis in range(1 if grid.ndim == 2 else 3)]
    run.write("overview.png", pictures.png(pictures.grid(rows, title, width=20.0)))
    middle = _plane(grid, 0)
    run.write("grid.png", pictures.png(deformed_grid(result.transform, grid)(middle(shown.fixed), windows[0])))
    report = standard_report(run, title, config.description or "", definitions)
    measures = {
        name: {when: found[name] for when, found in run.metrics["methods"].items() if name in found}
        for name in definitions
        if any(name in found for found in run.metrics["methods"].values())
    }
    report.table("Measures (similarity: smaller is better)", measures, ["before", "after"])
    report.table("Levels (energy with the penalty)", levels, ["status", "iterations", "before", "after"])
    names = ("fixed", "moving, registered", "moving, as it lies")
    swipe = {name: _unit(middle(v), w) for name, v, w in zip(names, (shown.fixed, shown.after, shown.before), _three(windows), strict=True)}
    swipe = dict(list(swipe.items())[2:] + list(swipe.items())[:2])  # opens with the last two
    report.images("Swipe between them (each in its own window)", swipe, (0.0, 1.0), pixel_size=grid.spacing[-1])
    report.picture("Overview", (run.folder / "overview.png").read_bytes())
    report.picture("Where the fixed image's grid goes", (run.folder / "grid.png").read_bytes())
    run.write("report.html", report.html())


def _three(windows):
    return (windows[0], windows[1], windows[1])


def _window(image):
    low, high = float(np.quantile(image, 0.005)), float(np.quantile(image, 0.999))
    return (low, high) if high > low else (float(np.min(image)), float(np.max(image)) + 1e-12)


def _unit(image, window):
    return np.clip((image - window[0]) / (window[1] - window[0]), 0, 1)


def _plane(grid, axis):
    """A function from a volume to its middle slice across an axis, samples square, head up."""
    if grid.ndim == 2:
        kept, up = [0, 1], False
    else:
        kept = [k for k in range(3) if k != axis]
        up = axis != 0 and grid.direction[0][0] > 0
    spacing = [grid.spacing[k] for k in kept]
    factors = [h / min(spacing) for h in spacing]

    def cut(volume):
        image = np.asarray(volume) if grid.ndim == 2 else np.take(np.asarray(volume), grid.shape[axis] // 2, axis)
        if max(factors) > 1.01:
            from scipy.ndimage import zoom

            image = zoom(image.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest")
        return image[::-1] if up else image

    return cut


def _row(shown, grid, axis, windows, deforms):
    cut = _plane(grid, axis)
    images = [shown.fixed, shown.before, shown.after]
    where = "" if grid.ndim == 2 else f"\nslice {grid.shape[axis] // 2 + 1} of {grid.shape[axis]} across {'zyx'[axis]}"
    pixel = min(h for k, h in enumerate(grid.spacing) if grid.ndim == 2 or k != axis)
    titles = ["fixed" + where, "moving, as it lies", "moving, registered"]
    panels = [
        pictures.Panel(cut(v), t, window=w, pixel_size=pixel) for v, t, w in zip(images, titles, _three(windows), strict=True)
    ]
    board = checkerboard(*(_unit(cut(v), w) for v, w in zip((shown.fixed, shown.after), windows, strict=True)))
    board = pictures.Panel(board, "checkerboard of the first and the third", window=(0, 1), pixel_size=pixel)
    if shown.fit is None:
        panels.append(board)
    else:
        error = 0.3 * (windows[0][1] - windows[0][0])
        for name, image in (("before", shown.before), ("after", shown.after)):
            apart = np.where(shown.seen[name], shown.fit[0] * image + shown.fit[1] - shown.fixed, 0)
            panels.append(pictures.Panel(cut(apart), f"difference {name}", window=(-error, error), colors="RdBu_r"))
        panels.append(board)
    if deforms:
        panels.append(pictures.Panel(cut(shown.determinant), "Jacobian determinant", window=(0.5, 1.5), unit="volume ratio", colors="PuOr"))
    return panels


def checkerboard(a: Any, b: Any, squares: int = 8) -> Any:
    """Squares of one image and the other in turn, ``[y, x]``."""
    y, x = np.indices(np.shape(a))
    size = max(2, max(np.shape(a)) // squares)
    return np.where((y // size + x // size) % 2 == 0, a, b)


def deformed_grid(transform: Any, grid: Any) -> Any:
    """A drawing function (image, window) → figure: lines of the fixed grid where the transform takes them, in the plane of the middle
    slice; a shift of the whole by more than a tenth of the image is left out, and told."""
    moved = np.asarray(transform.displacement(grid)) @ np.asarray(grid.direction)  # mm along the grid's axes
    moved = moved if grid.ndim == 2 else moved[grid.shape[0] // 2][..., 1:]
    spacing = np.asarray(grid.spacing[-2:])
    shift = moved.mean((0, 1))
    far = np.linalg.norm(shift) > 0.1 * min(n * h for n, h in zip(grid.shape[-2:], spacing, strict=True))
    u = (moved - shift if far else moved) / spacing
    away = f", less a shift of the whole by {shift[0]:.1f}, {shift[1]:.1f} mm (y, x)" if far else ""
    plane = "" if grid.ndim == 2 else f" (slice {grid.shape[0] // 2 + 1} of {grid.shape[0]}; motion across it is not drawn)"

    def draw(image, window):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        aspect = spacing[0] / spacing[1]
        shape = moved.shape[:2]
        figure = Figure(figsize=(8, 8 * shape[0] * aspect / shape[1] + 0.7), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        box = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
        ax.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], extent=box, aspect=aspect)
        y, x = np.indices(shape)
        step = max(2, max(shape) // 20)
        for k in range(0, shape[0], step):
            ax.plot((x + u[..., 1])[k], (y + u[..., 0])[k], color="tab:orange", linewidth=0.8)
        for k in range(0, shape[1], step):
            ax.plot((x + u[..., 1])[:, k], (y + u[..., 0])[:, k], color="tab:orange", linewidth=0.8)
        arrows = (slice(step // 2, None, step),) * 2
        ax.quiver(
            x[arrows], y[arrows], u[..., 1][arrows], u[..., 0][arrows],
            angles="xy", scale_units="xy", scale=1, color="tab:cyan", width=0.002,
        )  # fmt: skip
        ax.set_xlim(box[:2])
        ax.set_ylim(box[2:])
        ax.set_title(f"Where points of the fixed image lie in the moving one{plane}{away};\nat most {_largest(moved):.1f} mm", fontsize=10)
        ax.set_axis_off()
        return figure

    return draw


def _largest(moved):
    return float(np.linalg.norm(moved, axis=-1).max())
