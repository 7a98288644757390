"""A picture of a pulse sequence: RF, gradients and samples against time, and the path through k-space."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.experiment.pictures import png
from diffimg.forward.nuclei import Nucleus, named
from diffimg.forward.sequence import Sequence
from diffimg.mri.sequences import kspace_path

_ROWS = (("RF", "µT"), ("G_z (slice)", "mT/m"), ("G_y (phase)", "mT/m"), ("G_x (read)", "mT/m"), ("samples", ""))
_COLOURS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#222222")  # colour-blind safe (Okabe & Ito)


def sequence_picture(
    sequence: Sequence, *, repetition: int | None = None, title: str = "", nucleus: str | Nucleus = "1H"
) -> bytes:
    """The pulse-sequence diagram of one repetition beside its path through k-space, as PNG bytes.

    The gradients of all other repetitions of the same timing lie behind it in grey, and so do all samples of the sequence in k-space.

    Args:
        sequence: with known leaves.
        repetition: which one, counted by ideal spoilers (or, without any, by excitations); by default a third of the way through.
        title: above the picture. nucleus: whose angles and k-space are drawn.

    Raises:
        ValueError: another object, a sequence that is being traced, a repetition that it lacks.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not isinstance(sequence, Sequence):
        check.fail("sequence", "a Sequence", type(sequence).__name__, "E.g. mri.sequences.gradient_echo(...).sequence.")
    if not all(check.is_concrete(v) for v in (sequence.duration, sequence.rf, sequence.gradient)):
        check.fail("sequence", "known values", "one that is being traced", "Draw it outside jit and grad.")
    gamma = named(nucleus).gamma
    parts = _repetitions(sequence)
    chosen = len(parts) // 3 if repetition is None else repetition
    if isinstance(chosen, bool) or not isinstance(chosen, (int, np.integer)):
        check.fail("repetition", "an integer", repr(chosen))
    if not 0 <= chosen < len(parts):
        check.fail("repetition", f"0 … {len(parts) - 1}", str(repetition))
    duration = np.asarray(sequence.duration, np.float64)
    part = parts[chosen]
    stop = part.start + _played(sequence, part)  # without the wait at the end
    part = slice(part.start, stop)
    figure = Figure(figsize=(15, 6.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=15, fontweight="bold", x=0.01, ha="left")
    grid = figure.add_gridspec(len(_ROWS), 2, width_ratios=(1.65, 1), height_ratios=(1, 1, 1, 1, 0.45))
    edges = np.concatenate([[0], np.cumsum(duration[part])]) * 1e3
    alike = [p for p in parts if p.stop - p.start == parts[chosen].stop - parts[chosen].start]
    samples = np.asarray(sequence.samples)
    first = None
    for row, ((name, unit), colour) in enumerate(zip(_ROWS, _COLOURS, strict=True)):
        ax = figure.add_subplot(grid[row, 0], sharex=first)
        first = first or ax
        if row < 4:
            for p in alike[:: max(1, len(alike) // 16)] if row else ():
                ax.stairs(_wave(sequence, row, slice(p.start, p.start + len(edges) - 1)), edges, color="#c8c8c8", linewidth=0.8)
            values = _wave(sequence, row, part)
            ax.stairs(values, edges, color=colour, linewidth=1.6, fill=True, alpha=0.25)
            ax.stairs(values, edges, color=colour, linewidth=1.4)
            everywhere = np.abs(_wave(sequence, row, slice(None)))
            if row == 0:
                everywhere = everywhere[~_hard(sequence)]
                _draw_hard_pulses(ax, sequence, part, edges, gamma)
            size = max(everywhere.max(initial=0), 1e-3) * 1.3
            ax.set_ylim(-size, size)
        else:
            read = samples[(samples >= part.start) & (samples < part.stop)] - part.start + 1
            ax.vlines(edges[read], 0, 1, color=colour, linewidth=0.8)
            ax.set_ylim(0, 1.2)
            ax.set_yticks([])
            ax.set_xlabel("time in this repetition (ms)", fontsize=11)
        ax.axhline(0, color="#888888", linewidth=0.6)
        ax.set_ylabel(f"{name}\n({unit})" if unit else name, fontsize=11)
        ax.tick_params(labelsize=9, labelbottom=row == 4)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    _draw_path(figure.add_subplot(grid[:, 1]), sequence, part, nucleus)
    return png(figure)


def _repetitions(sequence):
    """Slices of intervals."""
    n = len(sequence)
    if sequence.spoil is not None:
        ends = np.flatnonzero(np.asarray(sequence.spoil)) + 1
        # an inversion's spoiler ends no repetition: something must have been read
        read = np.asarray(sequence.samples)
        starts, kept = 0, []
        for end in ends:
            if np.any((read >= starts) & (read < end)):
                kept.append(slice(starts, int(end)))
                starts = int(end)
        return kept or [slice(0, n)]
    on = np.asarray(sequence.rf) != 0
    starts = np.flatnonzero(on & ~np.concatenate([[False], on[:-1]]))
    if len(starts) < 2:
        return [slice(0, n)]
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], n], strict=True)]


def _played(sequence, part):
    """Intervals of a repetition until the last in which anything happens."""
    active = (np.asarray(sequence.rf)[part] != 0) | np.any(np.asarray(sequence.gradient)[part] != 0, axis=1)
    return int(np.flatnonzero(active)[-1]) + 1 if active.any() else part.stop - part.start


def _hard(sequence):
    """Intervals of RF too short to be seen, ``[interval]`` bool."""
    return (np.asarray(sequence.rf) != 0) & (np.asarray(sequence.duration) < 1e-5)


def _draw_hard_pulses(ax, sequence, part, edges, gamma):
    """Arrows with the angle, without a scale."""
    rf, duration = np.asarray(sequence.rf)[part], np.asarray(sequence.duration)[part]
    for i in np.flatnonzero(_hard(sequence)[part]):
        if i and rf[i - 1] != 0:
            continue  # inside a shaped pulse
        angle = np.degrees(abs(gamma) * abs(rf[i]) * duration[i])
        ends = {"xy": (edges[i], 0.8), "xytext": (edges[i], 0.5), "xycoords": ("data", "axes fraction")}
        ax.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": _COLOURS[0], "linewidth": 1.8})
        ax.text(
            edges[i], 0.82, f"{angle:.0f}°", transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=10, color=_COLOURS[0]
        )


def _wave(sequence, row, part):
    if row == 0:
        rf = np.where(_hard(sequence), 0, np.asarray(sequence.rf))[part] * 1e6
        # along the axis of the largest value: a sinc's side lobes are negative
        peak = rf[np.argmax(np.abs(rf))] if rf.size else 0
        return np.real(rf * np.conj(peak) / abs(peak)) if peak != 0 else np.zeros(rf.shape)
    return np.asarray(sequence.gradient)[part, 3 - row] * 1e3


def _draw_path(ax: Any, sequence: Sequence, part: slice, nucleus: str | Nucleus) -> None:
    path = kspace_path(sequence, nucleus)
    samples = np.asarray(sequence.samples)
    ax.plot(*path[samples][:, :2].T, ".", color="#c8c8c8", markersize=2.5, label="all samples")
    here = path[part][:, :2]
    jumps = np.flatnonzero(np.any(np.asarray(sequence.rf)[part, None] != 0, axis=1))
    line = np.concatenate([np.zeros((1, 2)), here])
    # pulses move spins, not the gradients: break the line there
    for run in np.split(np.arange(len(line)), jumps + 1):
        if len(run) > 1:
            ax.plot(*line[run].T, color=_COLOURS[0], linewidth=1.4)
    read = samples[(samples >= part.start) & (samples < part.stop)]
    ax.plot(*path[read][:, :2].T, ".", color=_COLOURS[2], markersize=5, label="read in this repetition")
    ax.plot(0, 0, "+", color="black", markersize=10)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("k_x (rad/m)", fontsize=11)
    ax.set_ylabel("k_y (rad/m)", fontsize=11)
    ax.set_title("k = γ ∫ G dτ", fontsize=13)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9, loc="upper right")
