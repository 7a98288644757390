"""Contrast: T1-, T2- and density-weighted images of one tissue map, over TR and TE, and the Ernst angle."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Object(Section):
    """A slice of the brain template and the field whose relaxation times its tissues have."""

    size: int = Field(default=192, ge=48, le=512)
    field_of_view: float = Field(default=215.0, gt=150)  # mm
    slice: int = Field(default=74, ge=0, le=188)
    field: float = Field(default=3.0)  # T, 1.5 or 3


class Times(Section):
    """What is explored."""

    tr: list[float] = Field(default=[0.5, 1.5, 12.0], min_length=2)  # s
    te: list[float] = Field(default=[0.01, 0.04, 0.1], min_length=2)  # s
    flash_tr: float = Field(default=0.05, gt=0)  # s
    ti: list[float] = Field(default=[0.45, 0.9, 2.6], min_length=1)  # s, with the longest TR + TI


class Config(Experiment):
    """Everything that determines a run of ``mri_contrast``."""

    object: Object = Object()
    times: Times = Times()


DEFINITIONS = {
    "grey": "signal of grey matter over that of M₀ of water",
    "white": "the same of white matter",
    "csf": "the same of cerebrospinal fluid",
    "grey_white": "contrast (S_white − S_grey)/(S_white + S_grey)",
    "csf_grey": "contrast (S_csf − S_grey)/(S_csf + S_grey)",
}


def function(config: Config, run: Run) -> None:
    """Evaluate the signal equations on the tissue map and along curves, draw."""
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    o, times = config.object, config.times
    spacing = o.field_of_view / o.size
    with run.stage("tissue map"):
        brain = mri.brain([o.slice], (o.size, o.size), spacing=spacing, oversampling=1, field=o.field, phase=0.0, off_resonance=0.0)
    tissue = brain.tissues
    rows: list[list[Any]] = []
    with run.stage("TR and TE"):
        extremes = {
            (min(times.tr), min(times.te)): "T1-weighted",
            (max(times.tr), min(times.te)): "density-weighted",
            (max(times.tr), max(times.te)): "T2-weighted",
            (min(times.tr), max(times.te)): "neither: T1 and T2 cancel",
        }
        for tr in times.tr:
            rows.append([])
            for te in times.te:
                signal = {n: float(mri.spin_echo(t.density, t.t1, t.t2, tr=tr, te=te)) for n, t in tissue.items()}
                image = brain.image(lambda t, s=signal: s[t.name]).real[0]
                name = f"TR {tr * 1e3:g} ms, TE {te * 1e3:g} ms"
                run.metric(name, **contrasts(signal))
                window = (0.0, float(np.quantile(image, 0.997)))
                rows[-1].append(pictures.Panel(image, name, extremes.get((tr, te), ""), window, pixel_size=spacing))
    with run.stage("curves"):
        shown = ("white", "grey", "csf")
        tr, te = np.linspace(0.02, 1.2 * max(times.tr), 200), np.linspace(1e-3, 1.5 * max(times.te), 200)
        angle, ti = np.linspace(0.5, 90, 180), np.linspace(0.01, 3.5, 200)
        first, last = min(times.te), max(times.tr)
        recovery = {n: (tr, np.asarray(mri.spin_echo(tissue[n].density, tissue[n].t1, tissue[n].t2, tr=tr, te=first))) for n in shown}
        decay = {n: (te * 1e3, np.asarray(mri.spin_echo(tissue[n].density, tissue[n].t1, tissue[n].t2, tr=last, te=te))) for n in shown}
        flash: dict[str, Any] = {}
        for n in shown:
            t = tissue[n]
            scan = {"tr": times.flash_tr, "te": 0.004}
            flash[n] = (angle, np.asarray(mri.spoiled_gradient_echo(t.density, t.t1, t.t2_star, flip=np.radians(angle), **scan)))
            best = float(mri.ernst_angle(times.flash_tr, t.t1))
            top = float(mri.spoiled_gradient_echo(t.density, t.t1, t.t2_star, flip=best, **scan))
            flash[f"Ernst angle {math.degrees(best):.0f}°"] = ([math.degrees(best)], [top], "k.")
            run.metric(f"FLASH, TR {times.flash_tr * 1e3:g} ms: {n}", ernst_angle=math.degrees(best), signal=top)
        inversion = {n: (ti, np.asarray(mri.inversion_recovery(tissue[n].density, tissue[n].t1, ti=ti, tr=ti + 10.0))) for n in shown}
        # null points, M_z = 0
        nulls = [
            pictures.Panel(
                np.abs(brain.image(lambda t, x=v: float(mri.inversion_recovery(t.density, t.t1, ti=x, tr=x + 10.0)))).real[0],
                f"|inversion recovery|, TI {v * 1e3:g} ms",
                "",
                (0.0, 0.8),
                pixel_size=spacing,
            )
            for v in times.ti
        ]

    with run.stage("report"):
        title = config.title or "One tissue map, every contrast"
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        axes = [
            pictures.Plot(recovery, f"spin echo, TE {first * 1e3:g} ms", ("TR (s)", "signal/M₀ of water")),
            pictures.Plot(decay, f"spin echo, TR {last:g} s", ("TE (ms)", "signal/M₀ of water")),
            pictures.Plot(flash, f"FLASH, TR {times.flash_tr * 1e3:g} ms", ("flip angle (°)", "signal/M₀ of water")),
            pictures.Plot(inversion, "inversion recovery", ("TI (s)", "M_z/M₀ of water")),
        ]
        curves = pictures.png(pictures.grid([axes, [*nulls][:4]], "Signal equations"))
        run.write("curves.png", curves)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("TR and TE", overview, "Spin echoes; every panel has its own window. Template of one averaged subject.")
        report.picture("Signal equations", curves, f"Tissues at {o.field:g} T: {tissue['grey'].source}.")
        report.table("Metrics", run.metrics["methods"], ("grey", "white", "csf", "grey_white", "csf_grey", "ernst_angle", "signal"))
        run.write("report.html", report.html())


def contrasts(signal: dict[str, float]) -> dict[str, float]:
    """Signals of the tissues and their contrasts."""
    grey, white, csf = (signal[n] for n in ("grey", "white", "csf"))
    return {
        "grey": grey,
        "white": white,
        "csf": csf,
        "grey_white": (white - grey) / (white + grey),
        "csf_grey": (csf - grey) / (csf + grey),
    }


recipe = Recipe(Config, function, headline=("grey", "white", "csf", "grey_white", "csf_grey"))
