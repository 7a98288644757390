"""Pictures of results: panels side by side with shared windows, scale bars in mm, colour bars with units and captions."""

from __future__ import annotations

import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One image of a picture.

    Args:
        image: ``[y, x]``.
        title, caption: above and below it.
        window: values shown as black and white (or the ends of ``colors``); panels of one window and unit share a colour bar.
        unit: of the values.
        pixel_size: mm; draws a scale bar. None: no bar.
        extent: ``(left, right, bottom, top)`` with ``axes`` = (x label, y label), for panels that are not images, e.g. sinograms.
        colors: a matplotlib colour map.
    """

    image: Any
    title: str
    caption: str = ""
    window: tuple[float, float] | None = None
    unit: str = ""
    pixel_size: float | None = None
    extent: tuple[float, float, float, float] | None = None
    axes: tuple[str, str] | None = None
    colors: str = "gray"


@dataclasses.dataclass(frozen=True, eq=False)
class Plot:
    """Curves in a picture: ``series`` is ``{name: (x, y)}`` or ``{name: (x, y, matplotlib format)}``, ``axes`` the labels of x and y."""

    series: Mapping[str, tuple]
    title: str
    axes: tuple[str, str]
    log: tuple[bool, bool] = (False, False)
    limits: tuple[float, float] | None = None  # of y


def grid(rows: Sequence[Sequence[Panel | Plot | None]], title: str = "", width: float = 16.0) -> Figure:
    """A figure of panels in rows, ``width`` inches wide; None leaves a gap. Colour bars stand right of the last panel that shares them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    cell = width / columns
    head = 0.3 + 0.25 * len(title.splitlines()) if title else 0.1
    # one or two plots are broad, so that the page shows them whole
    aspect = 0.6 if columns < 3 and not any(isinstance(panel, Panel) for row in rows for panel in row) else 1.0
    height = len(rows) * (0.87 * cell * aspect + (0.6 if aspect < 1 else 0.2)) + sum(_text_height(row, cell) for row in rows) + head
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=15, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        row = [*row, *[None] * (columns - len(row))]
        for k, (panel, ax) in enumerate(zip(row, line, strict=True)):
            if panel is None:
                ax.axis("off")
                continue
            if isinstance(panel, Plot):
                _plot(ax, panel, aspect)
                continue
            drawn = _draw(ax, panel)
            ax.set_title(_title(panel, cell), fontsize=13)
            following = row[k + 1] if k + 1 < columns else None
            if not isinstance(following, Panel) or _scale(following) != _scale(panel):
                bar = figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02, extend=_overflow(row, panel))
                bar.set_label(panel.unit, fontsize=11)
                bar.ax.tick_params(labelsize=10)
                bar.formatter.set_powerlimits((-3, 4))
    return figure


def picard(diagnosis: Any, title: str = "Picard plot") -> Figure:
    """The Picard plot of ``core.linalg.diagnose(A, y)``: σᵢ, the coefficients |uᵢᴴy| of the data, and their ratio, on a logarithmic axis.

    The coefficients must fall faster than the σᵢ for a useful solution; where the ratio turns up, noise takes over (Hansen, 1990).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = diagnosis.picard
    if data is None:
        raise ValueError("diagnosis: expected one made with data, diagnose(A, y), got one without. Pass the measurement y.")
    figure = Figure(figsize=(7, 4.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    index = np.arange(1, len(data.singular_values) + 1)
    series = {"σᵢ": data.singular_values, "|uᵢᴴy|": data.coefficients, "|uᵢᴴy| / σᵢ": data.ratios}
    for (label, values), marker in zip(series.items(), ("-", "x", "o"), strict=True):
        shown = np.isfinite(values) & (np.asarray(values) > 0)
        ax.semilogy(index[shown], np.asarray(values)[shown], marker, label=label, markersize=5, fillstyle="none")
    ax.set_xlabel("i")
    ax.set_title(f"{title}: rank {diagnosis.rank} of {' × '.join(map(str, diagnosis.shape))}, condition {diagnosis.condition_number:.2g}")
    ax.legend()
    ax.grid(alpha=0.3)
    return figure


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as PNG bytes, without metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def grey_png(image: Any, window: tuple[float, float], colors: str = "gray") -> bytes:
    """An image at its own resolution as PNG bytes, one pixel a pixel, windowed and coloured."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    low, high = window
    level = np.clip((np.asarray(image, np.float64) - low) / (high - low), 0, 1)
    buffer = io.BytesIO()
    imsave(buffer, colormaps[colors](level, bytes=True), format="png", metadata={"Software": None})
    return buffer.getvalue()


def scale_bar(field_mm: float) -> float:
    """A round length (1, 2 or 5 times a power of ten, mm) of about a fifth of the field of view."""
    target = field_mm / 4
    power = 10.0 ** math.floor(math.log10(target))
    return max(step * power for step in (1, 2, 5) if step * power <= target)


def symmetric_window(images: Sequence[Any], quantile: float = 0.995) -> tuple[float, float]:
    """(−w, w) that holds the given share of all values: for error maps."""
    values = np.concatenate([np.abs(np.asarray(i)).ravel() for i in images])
    w = float(np.quantile(values, quantile)) or 1.0
    digits = 1 - math.floor(math.log10(w))
    w = math.ceil(w * 10**digits) / 10**digits
    return -w, w


def _title(panel: Panel, cell: float) -> str:
    """The title in lines that fit the column: a longer one would push the columns apart."""
    return "\n".join(textwrap.fill(line, max(14, int(7 * cell))) for line in panel.title.splitlines())


def _text_height(row: Sequence[Panel | Plot | None], cell: float) -> float:
    """Inches that the titles and captions of a row take."""
    panels = [panel for panel in row if isinstance(panel, Panel)]
    titles = max((_title(panel, cell).count("\n") for panel in panels), default=0)
    captions = max((panel.caption.count("\n") for panel in panels), default=0)
    return 0.24 * (1 + titles) + 0.2 * (1 + captions)


def _draw(ax: Axes, panel: Panel):
    image = np.asarray(panel.image)
    low, high = panel.window or (float(image.min()), float(image.max()))
    kind = {"cmap": panel.colors, "vmin": low, "vmax": high if high > low else low + 1}
    if panel.extent:
        drawn = ax.imshow(image, **kind, extent=panel.extent, aspect="auto", interpolation="nearest")
        ax.set_box_aspect(1)
    else:
        drawn = ax.imshow(image, **kind, interpolation="nearest")
    if panel.axes:
        ax.set_xlabel(panel.axes[0], fontsize=11)
        ax.set_ylabel(panel.axes[1], fontsize=11)
        ax.tick_params(labelsize=10)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(panel.caption, fontsize=11)
    if panel.pixel_size:
        _scale_bar(ax, image.shape, panel.pixel_size, "white" if panel.colors == "gray" else "black")
    return drawn


def _plot(ax: Axes, plot: Plot, aspect: float) -> None:
    for name, (x, y, *style) in plot.series.items():
        ax.plot(x, y, *style, label=name, linewidth=1.6, markersize=6)
    ax.set_xscale("log" if plot.log[0] else "linear")
    ax.set_yscale("log" if plot.log[1] else "linear")
    if plot.limits:
        ax.set_ylim(*plot.limits)
    ax.set_title(plot.title, fontsize=13)
    ax.set_xlabel(plot.axes[0], fontsize=11)
    ax.set_ylabel(plot.axes[1], fontsize=11)
    ax.tick_params(labelsize=10)
    ax.set_box_aspect(aspect)
    ax.grid(alpha=0.3)
    if any(plot.series):
        ax.legend(fontsize=9)


def _scale_bar(ax: Axes, shape: tuple[int, ...], pixel_size: float, color: str) -> None:
    ny, nx = shape
    length = scale_bar(nx * pixel_size)
    pixels = length / pixel_size
    x0, y0 = 0.04 * nx, 0.955 * ny
    ax.plot([x0, x0 + pixels], [y0, y0], color=color, linewidth=3, solid_capstyle="butt")
    ax.text(x0 + pixels / 2, y0 - 0.015 * ny, f"{length:g} mm", color=color, ha="center", va="bottom", fontsize=10)
    ax.set_xlim(-0.5, nx - 0.5)
    ax.set_ylim(ny - 0.5, -0.5)


def _scale(panel: Panel) -> tuple:
    return panel.window, panel.unit, panel.colors


def _overflow(row: Sequence[Panel | Plot | None], panel: Panel) -> str:
    """Which ends of the colour bar stand for values beyond it."""
    if panel.window is None:
        return "neither"
    sharing = [np.asarray(p.image) for p in row if isinstance(p, Panel) and _scale(p) == _scale(panel)]
    tolerance = 1e-6 * (panel.window[1] - panel.window[0])
    below = any(float(i.min()) < panel.window[0] - tolerance for i in sharing)
    above = any(float(i.max()) > panel.window[1] + tolerance for i in sharing)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]
