"""B-splines: β⁰ … β⁵ and their spectra, what repeated interpolation costs, smoothing, and landmarks that bend a grid."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Turns(Section):
    """An image turned many times by an angle, until it stands upright again."""

    size: int = Field(default=128, ge=16, le=256)  # pixels over 256 mm
    turns: int = Field(default=16, ge=2)  # of 360°/turns


class Config(Experiment):
    """Everything that determines a run of ``splines``."""

    turns: Turns = Turns()
    noise: float = Field(default=0.1, gt=0)  # of the curve that is smoothed


DEFINITIONS = {
    "psnr_db": "of the image after all turns against the image, within the circle that never leaves it",
    "ms_per_turn": "compiled, prefilter included",
}


def function(config: Config, run: Run) -> None:
    """Curves, turns, smoothing, thin plates."""
    import numpy as np

    from diffimg import data

    run.define(**DEFINITIONS)
    slices = data.brain_slices("test", size=config.turns.size, factor=1)
    image = np.asarray(slices.truth[len(slices) // 2])
    grid = data.Grid.centred(image.shape, slices.spacing)
    with run.stage("turns"):
        turned = {order: _turned(image, grid, order, config.turns.turns) for order in range(6)}
    y, x = (np.indices(image.shape) - (np.array(image.shape) - 1).reshape(-1, 1, 1) / 2) / (image.shape[0] / 2)
    inside = x * x + y * y < 0.9
    for order, (result, seconds) in turned.items():
        square = float(((result - image)[inside] ** 2).mean())
        run.metric(f"order {order}", psnr_db=float(10 * np.log10(image.max() ** 2 / square)), ms_per_turn=1e3 * seconds)
    run.arrays(image=image, **{f"order_{k}": v for k, (v, _) in turned.items()})
    with run.stage("report"):
        _report(config, run, image, grid, turned)


def _turned(image, grid, order, turns):
    """(the image after all turns, seconds of one)."""
    import time

    import jax
    import numpy as np

    from diffimg import forward

    angle = np.float32([2 * np.pi / turns])
    turn = forward.Rigid(angle, np.zeros(2, np.float32), np.asarray(grid.centre, np.float32))
    step = jax.jit(lambda v: forward.warp(v, turn, order, grid=grid))
    jax.block_until_ready(step(image))
    began, result = time.perf_counter(), image
    for _ in range(turns):
        result = step(result)
    jax.block_until_ready(result)
    return np.asarray(result), (time.perf_counter() - began) / turns


def _curves():
    """Plots of the splines and of their spectra, sinc^{n+1}; each spline is also the convolution of the last with the box."""
    import numpy as np

    from diffimg import forward
    from diffimg.experiment.pictures import Plot

    x = np.linspace(-3, 3, 1201)
    frequency = np.linspace(0, 2, 401)
    splines: dict[str, Any] = {}
    spectra: dict[str, Any] = {}
    box = np.where(np.abs(x) < 0.5, 1.0, 0.0)
    last = None
    for order in range(6):
        values = np.asarray(forward.bspline(x, order))
        splines[f"β{'⁰¹²³⁴⁵'[order]}"] = (x, values)
        if last is not None and order == 3:
            splines["β² ∗ β⁰"] = (x[::60], np.convolve(last, box, "same")[::60] * (x[1] - x[0]), "k.")
        spectra[f"n = {order}"] = (frequency, np.abs(np.sinc(frequency)) ** (order + 1))
        last = values
    return (
        Plot(splines, "B-splines, each the last convolved with the box", ("x, samples", "βⁿ(x)")),
        Plot(spectra, "their spectra", ("frequency, 1/sample", "|sinc|ⁿ⁺¹")),
    )


def _smoothing(config):
    """A noisy curve and its smoothing splines."""
    import numpy as np

    from diffimg import data, forward
    from diffimg.experiment.pictures import Plot

    rng = np.random.default_rng(config.seed)
    x = np.arange(100.0)
    truth = np.exp(-(((x - 30) / 12) ** 2)) - 0.7 * np.exp(-(((x - 65) / 7) ** 2))
    noisy = truth + config.noise * rng.standard_normal(x.shape)
    series: dict[str, Any] = {"samples": (x, noisy, "k."), "truth": (x, truth, "k:")}
    strip = data.Grid((2, len(x)))
    for weight in (1.0, 1e2, 1e4):
        spline = forward.smoothing_spline(np.stack([noisy, noisy]), weight, grid=strip)
        series[f"weight {weight:g}"] = (x, np.asarray(spline.on_grid(strip))[0])
    return Plot(series, "smoothing splines", ("x, mm", "value"))


def _report(config, run, image, grid, turned):
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    window = (0.0, float(image.max()))
    panels = [pictures.Panel(image, "image", window=window, pixel_size=grid.spacing[0])]
    for order in (0, 1, 3, 5):
        quality = run.metrics["methods"][f"order {order}"]["psnr_db"]
        name = f"order {order}: {config.turns.turns} turns"
        panels.append(pictures.Panel(turned[order][0], name, f"{quality:.1f} dB", window, pixel_size=grid.spacing[0]))
    title = config.title or "Splines"
    curves = [*_curves(), _smoothing(config)]
    run.write("overview.png", pictures.png(pictures.grid([panels], title)))
    run.write("splines.png", pictures.png(pictures.grid([curves], title)))
    report = standard_report(run, title, config.description or "", DEFINITIONS)
    report.picture("Splines", (run.folder / "splines.png").read_bytes())
    report.table("Turned until upright again", run.metrics["methods"], list(DEFINITIONS))
    report.picture("Turned until upright again", (run.folder / "overview.png").read_bytes())
    report.images("Swipe between them", {"image": image} | {f"order {k}": v for k, (v, _) in turned.items()}, window)
    run.write("report.html", report.html())


recipe = Recipe(Config, function, tuple(DEFINITIONS))
