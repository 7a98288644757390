"""An RF pulse optimised through the Bloch simulation until its slice is a box."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Slab(Section):
    """The slice that is wanted."""

    flip: float = Field(default=90.0, gt=0, le=180)  # degrees
    thickness: float = Field(default=5.0, gt=0)  # mm
    transition: float = Field(default=0.2, gt=0, lt=1)  # part of the thickness at either edge that does not count


class PulseShape(Section):
    """The pulse to start from, and its limits."""

    duration: float = Field(default=3.0, gt=0)  # ms
    time_bandwidth: float = Field(default=6.0, gt=0)
    intervals: int = Field(default=128, ge=8)
    peak: float | None = Field(default=None, gt=0)  # µT, bound of |B₁|


class Search(Section):
    """Adam."""

    steps: int = Field(default=300, ge=1)
    rate: float = Field(default=0.03, gt=0)
    energy: float = Field(default=1e-5, ge=0)
    positions: int = Field(default=241, ge=16)


class Config(Experiment):
    """Everything that determines a run of ``mri_pulse_design``."""

    slab: Slab = Slab()
    pulse: PulseShape = PulseShape()
    search: Search = Search()


DEFINITIONS = {
    "inside": "root mean square of |M_xy| − sin(flip) inside the slice, over sin(flip)",
    "outside": "root mean square of |M_xy| outside the slice, over sin(flip)",
    "edge": "width in mm over which |M_xy| rises from 10 to 90 % of sin(flip), mean of both edges",
    "peak": "largest |B₁|, µT",
    "energy": "∫|B₁|²dt over that of the start",
}


def function(config: Config, run: Run) -> None:
    """Optimise, compare with the start between the positions that were fitted, draw."""
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    s, p, search = config.slab, config.pulse, config.search
    flip, half = math.radians(s.flip), 0.5 * s.thickness * 1e-3
    start = mri.sinc_pulse(flip, p.duration * 1e-3, time_bandwidth=p.time_bandwidth, intervals=p.intervals)
    z = np.linspace(-4, 4, search.positions) * half
    inside, outside = (np.abs(z) <= half * (1 - s.transition)), (np.abs(z) >= half * (1 + s.transition))
    wanted = math.sin(flip) * (np.abs(z) <= half)
    with run.stage("optimise"):
        peak = None if p.peak is None else p.peak * 1e-6
        design = mri.design_pulse(
            start, s.thickness * 1e-3, z, 1j * wanted, weights=(inside | outside).astype(float), steps=search.steps, rate=search.rate,
            energy=search.energy, peak=peak,
        )  # fmt: skip
    # other positions than those of the fit
    fine = np.linspace(-4, 4, 3 * search.positions + 2) * half
    profiles, pulses = {}, {"sinc": start, "optimised": design.pulse}
    size = math.sin(flip)
    for name, pulse in pulses.items():
        profile = np.asarray(mri.slice_profile(mri.excitation(pulse, s.thickness * 1e-3), fine))
        profiles[name] = profile
        rf = np.asarray(pulse.rf)
        middle, far = (np.abs(fine) <= half * (1 - s.transition)), (np.abs(fine) >= half * (1 + s.transition))
        run.metric(
            name,
            inside=float(np.sqrt(np.mean((np.abs(profile[middle]) - size) ** 2)) / size),
            outside=float(np.sqrt(np.mean(np.abs(profile[far]) ** 2)) / size),
            edge=edge(fine * 1e3, np.abs(profile) / size),
            peak=float(np.abs(rf).max() * 1e6),
            energy=float(np.sum(np.abs(rf) ** 2) / np.sum(np.abs(np.asarray(start.rf)) ** 2)),
        )
    with run.stage("report"):
        title = config.title or "An RF pulse designed by gradients through the Bloch simulation"
        time = (np.arange(p.intervals) + 0.5) * p.duration / p.intervals
        shapes = {name: (time, np.asarray(v.rf).real * 1e6) for name, v in pulses.items()}
        sizes: dict[str, Any] = {name: (fine * 1e3, np.abs(v)) for name, v in profiles.items()}
        sizes["wanted"] = (z * 1e3, wanted, "k:")
        outer = {name: (fine * 1e3, np.maximum(np.abs(v), 1e-5)) for name, v in profiles.items()}
        phases = {name: (fine[np.abs(fine) <= half] * 1e3, np.angle(-1j * v[np.abs(fine) <= half])) for name, v in profiles.items()}
        loss = np.asarray(design.loss)
        plots = [
            pictures.Plot(shapes, "pulse", ("time (ms)", "B₁ (µT)")),
            pictures.Plot(sizes, f"{s.flip:g}° slice of {s.thickness:g} mm", ("z (mm)", "|M_xy|/M₀")),
            pictures.Plot(outer, "outside", ("z (mm)", "|M_xy|/M₀"), (False, True)),
            pictures.Plot(phases, "phase inside", ("z (mm)", "rad against +y")),
            pictures.Plot({"loss": (np.arange(1, len(loss) + 1), loss)}, "optimisation", ("step", "loss"), (False, True)),
        ]
        overview = pictures.png(pictures.grid([plots[:3], plots[3:]], title))
        run.write("overview.png", overview)
        run.arrays(rf=np.asarray(design.pulse.rf), z=fine, profile=profiles["optimised"])
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "The gradient of the slice profile with respect to every sample of B₁.")
        report.table("Metrics", run.metrics["methods"], ("inside", "outside", "edge", "peak", "energy"))
        run.write("report.html", report.html())


def edge(z: Any, profile: Any) -> float:
    """Mean width of the two flanks between 10 and 90 %."""
    import numpy as np

    z, profile = np.asarray(z), np.asarray(profile)
    widths = []
    for side in (1, -1):
        keep = side * z >= 0
        at, values = side * z[keep][::side], profile[keep][::side]
        levels = []
        for level in (0.9, 0.1):
            k = int(np.flatnonzero(values >= level)[-1])
            if k + 1 == len(values):
                return float("nan")
            levels.append(at[k] + (values[k] - level) / (values[k] - values[k + 1]) * (at[k + 1] - at[k]))
        widths.append(levels[1] - levels[0])
    return float(np.mean(widths))


recipe = Recipe(Config, function, headline=("inside", "outside", "edge", "peak", "energy"))
