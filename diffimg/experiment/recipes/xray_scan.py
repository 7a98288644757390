"""What the CT experiments with many photon energies share: tube, fan beam, and noisy readings of an object that is not on the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section

SUBCELLS = 2  # the signal of a cell is the mean of the intensities on its parts


class Tube(Section):
    """A tungsten tube and the dose behind it."""

    kvp: float = Field(default=120.0, gt=20, le=200)
    aluminium: float = Field(default=2.5, ge=0)  # mm
    copper: float = Field(default=0.0, ge=0)  # mm
    photons: float = Field(default=1e6, gt=0)  # of an unattenuated ray
    electronic_noise: float = Field(default=0.0, ge=0)  # standard deviation, in units of a photon of mean energy


class Fan(Section):
    """A full turn of a flat fan beam."""

    views: int = Field(default=360, ge=8)
    source_distance: float = Field(default=570.0, gt=0)  # mm
    detector_distance: float = Field(default=470.0, gt=0)  # mm
    detector_spacing: float = Field(default=1.4, gt=0)  # mm


def fan_beam(fan: Fan, size: int, pixel_size: float, subcells: int = 1) -> Any:
    """The geometry whose detector covers a ``size``² image; ``subcells`` > 1: the same detector in finer cells."""
    import numpy as np

    from diffimg.forward import FanBeam

    radius = math.hypot(size, size) / 2 * pixel_size
    half = (fan.source_distance + fan.detector_distance) * math.tan(math.asin(radius / fan.source_distance))
    count = math.ceil(2 * half / fan.detector_spacing * 1.01) + 1
    angles = np.linspace(0, 2 * np.pi, fan.views, endpoint=False)
    spacing = fan.detector_spacing / subcells
    return FanBeam((size, size), angles, count * subcells, fan.source_distance, fan.detector_distance, pixel_size, spacing)


def spectrum(tube: Tube, kvp: float | None = None) -> Any:
    """Photons of one unattenuated ray in bins of 1 keV."""
    from diffimg.forward import xray

    filtration = {"aluminium": tube.aluminium, "copper": tube.copper}
    return xray.tube_spectrum(kvp or tube.kvp, filtration=filtration).scaled(tube.photons)


def lengths(objects: Sequence[Any], geometry: Any) -> Any:
    """Exact lengths (mm) of materials given as analytic phantoms, ``[material, view, cell]``."""
    import jax.numpy as jnp

    from diffimg.data import project

    return jnp.stack([project(o, geometry, oversample=4) for o in objects])


def readings(key: Any, fluence: Any, mu: Any, response: Any, t: Any, counting: bool = False, electronic: float = 0.0) -> Any:
    """Noisy readings ``[..., view, cell]`` behind lengths ``t [material, view, cell·SUBCELLS]`` of materials ``mu [material, E]``.

    Counts are Poisson. The energy of an integrating detector is drawn as gain·Poisson(mean/gain) with the gain that gives the variance of
    the compound Poisson law, ∫E²n / ∫E n behind the object. ``electronic``: standard deviation, in the unit of the readings.
    """
    import jax
    import jax.numpy as jnp

    from diffimg.forward.xray import PolyenergeticTransmission

    def signal(r):
        fine = PolyenergeticTransmission(fluence, mu, t.shape[1:], r)(t)
        return fine.reshape(*fine.shape[:-1], -1, SUBCELLS).mean(-1)

    quanta, dark = jax.random.split(key)
    mean = signal(response)
    gain = 1.0 if counting else signal(jnp.square(jnp.asarray(response))) / mean
    noisy = gain * jax.random.poisson(quanta, mean / gain).astype(mean.dtype)
    if electronic:
        noisy = jnp.maximum(noisy + electronic * jax.random.normal(dark, noisy.shape, noisy.dtype), 0)
    return jax.block_until_ready(noisy)


def log_model(physics: Any, geometry: Any, path: Any) -> Any:
    """Image of attenuation at the reference energy → log data: path through the materials, projections, transmission, logarithm."""
    from diffimg import ct
    from diffimg.forward import Channelwise, Radon

    materials = path.codomain.shape[0]
    return ct.NegativeLog(physics.flat) @ physics @ Channelwise(Radon(geometry), materials) @ path


def fit(model: Any, log_data: Any, weights: Any, start: Any, tv_weight: float, steps: int, progress: Any) -> Any:
    """min ½ Σ weights (model(x) − log data)² + tv_weight·TV(x), x ≥ 0, by FISTA from ``start``."""
    from diffimg import energy, solve

    tv = energy.TotalVariation(tv_weight, lower=0.0, gap=0.0, max_steps=10)
    problem = solve.Problem(energy.LeastSquares(model, log_data, weights), tv)
    solver = solve.FISTA(step_size(model, weights, start))
    return solve.run(solver, problem, start, steps, objective_every=max(1, steps // 10), progress=progress).check()


def step_size(model: Any, weights: Any, start: Any) -> Any:
    """1/max(Jᵀ W J 1) of the model's derivative J at ``start``: a step for ½‖model(x) − y‖²_W where J ≥ 0 holds."""
    import jax.numpy as jnp

    derivative = model.linearize(start)
    return 0.9 / jnp.max(derivative.H(weights * derivative(jnp.ones_like(start))))


def disc(shape: tuple[int, int], pixel_size: float, inner: float, outer: float, centre: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Boolean mask ``[y, x]`` of pixels at distances (mm) in [inner, outer] from a centre (y, x)."""
    import numpy as np

    y, x = ((np.arange(n) - (n - 1) / 2) * pixel_size for n in shape)
    r = np.hypot(y[:, None] - centre[0], x - centre[1])
    return (r >= inner) & (r <= outer)


def present(
    run: Any,
    title: str,
    images: dict[str, Any],
    truth: Any,
    pixel_size: float,
    windows: tuple[tuple[float, float], tuple[float, float]],
    captions: dict[str, str],
    below: Any,
    note: str = "",
    history: tuple[str, Any] | None = None,
) -> None:
    """overview.png and report.html of reconstructions in HU: truth and images above, ``below`` (a panel or plot) and the errors under them.

    ``windows``: of the images and of the errors, HU.
    """
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    def panel(image, name, window, colors="gray", caption="", unit="HU"):
        return pictures.Panel(image, name, caption, window, unit, pixel_size, colors=colors)

    definitions = run.metrics.get("definitions", {})
    errors = {name: np.asarray(image) - truth for name, image in images.items()}
    top = [panel(truth, "truth", windows[0]), *(panel(i, n, windows[0], caption=captions.get(n, "")) for n, i in images.items())]
    low = [panel(e, f"{n} − truth", windows[1], "RdBu_r", unit="error (HU)") for n, e in errors.items()]
    overview = pictures.png(pictures.grid([top, [below, *low]], title))
    run.write("overview.png", overview)
    report = standard_report(run, title, run.config.description, definitions)
    report.picture("Overview", overview, note)
    columns = [c for c in definitions if any(c in m for m in run.metrics["methods"].values())]
    report.table("Metrics", run.metrics["methods"], columns)
    report.images("Reconstructions", {"truth": truth, **images}, windows[0], "HU", pixel_size, captions)
    report.images("Errors", errors, windows[1], "HU", pixel_size, colors="RdBu_r")
    if history:
        name, values = history
        values = np.asarray(values)
        report.curves("Objective", {name: (np.arange(len(values)), values)}, "iteration", "objective")
    report.table("Time by stage", run.metrics["stages"], ("seconds", "compile_seconds"))
    run.write("report.html", report.html())
