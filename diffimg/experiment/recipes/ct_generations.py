"""The seven generations of CT scanners: their geometries, and what a moving object looks like to a slow and to a fast one."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Scan(Section):
    """An object of ellipses, one of which beats, behind scanners of the first, third and fifth generation."""

    size: int = Field(default=96, ge=32, le=512)  # pixels of 1 mm
    views: int = Field(default=120, ge=16)  # 1G, over half a turn; 3G and 5G take as many over the half that they need
    photons: float = Field(default=1e5, gt=0)  # unattenuated, per cell and view


class Motion(Section):
    """The beating body, and how long the scans last."""

    beat: float = Field(default=1.0, gt=0)  # seconds
    amplitude: float = Field(default=6.0, ge=0)  # mm
    seconds: tuple[float, float, float] = Field(default=(250.0, 2.0, 0.05), strict=False)  # of a scan of 1G, 3G, 5G


class Config(Experiment):
    """Everything that determines a run of ``ct_generations``."""

    scan: Scan = Scan()
    motion: Motion = Motion()


DEFINITIONS = {
    "rays": "samples of a scan (6G, 7G: of the small volume drawn)",
    "views": "views of the geometry that stores them",
    "order": "what is measured at one moment",
    "scan_seconds": "duration of a scan",
    "beats": "heart beats in it",
    "psnr_db": "10 log10(R²/MSE) in the inscribed circle against the object at mid-scan, R = max − min of the truth",
    "rest_psnr_db": "the same for an object at rest",
}
ORDER = {1: "one ray", 2: "a few rays", 3: "a view", 4: "a ray to every detector in the fan", 5: "a view", 6: "a view", 7: "a cone view"}


def beating(size: int, shift: Any) -> Any:
    """The object while its beating body is ``shift`` mm (along y) off its place."""
    import jax.numpy as jnp

    from diffimg.data import Ellipses

    centers = size * jnp.asarray([[0.0, 0.0], [0.0, -0.23], [0.0, 0.23], [0.02, 0.0], [0.3, 0.0]], jnp.float32)
    centers = centers.at[3, 0].add(shift)
    axes = [[0.38, 0.45], [0.2, 0.13], [0.2, 0.13], [0.1, 0.09], [0.05, 0.05]]
    density = [2.0, -1.4, -1.4, 2.0, 2.0]
    return Ellipses(centers, size * jnp.asarray(axes), jnp.zeros(5), jnp.asarray(density) / size)


def measure(config: Config, acquisition: Any, seconds: float, amplitude: float) -> Any:
    """The sinogram of the beating object; every sample sees it at its own moment.

    The bodies project independently, and of the moving one there are exact sinograms at ``steps`` phases, between which each sample is
    interpolated. The beat is a sine that passes its middle at mid-scan.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg.data import project

    steps = 33 if amplitude else 2
    shifts = np.linspace(-amplitude, amplitude, steps) if amplitude else np.zeros(2)
    frames = jnp.stack([project(beating(config.scan.size, float(s)), acquisition.geometry, oversample=4) for s in shifts])
    clock = (np.asarray(acquisition.times) - 0.5) * seconds / config.motion.beat
    phase = (np.sin(2 * np.pi * clock) + 1) / 2 * (steps - 1)
    low = np.minimum(phase.astype(int), steps - 2)
    part = jnp.asarray(phase - low, jnp.float32)

    def at(index: Any) -> Any:
        return jnp.take_along_axis(frames, jnp.asarray(index)[None], 0)[0]

    clean = (1 - part) * at(low) + part * at(low + 1)
    from diffimg.energy import Transmission

    return Transmission(config.scan.photons).noise(jax.random.key(config.seed), clean)


def scanners(size: int, views: int) -> dict[int, Any]:
    """A small scanner of every generation."""
    from diffimg.ct import generations as g

    flat, solid = (size, size), (8, 24, 24)
    half = math.ceil(views * 210 / 180)
    return {
        1: g.first_generation(flat, views),
        2: g.second_generation(flat, views // 8 * 8, 8),
        3: g.third_generation(flat, 2 * views),
        4: g.fourth_generation(flat, 2 * views),
        5: g.fifth_generation(flat, half, 12 * half // 7 * 4),
        6: g.sixth_generation(solid, 24, 1.0, detector_shape=None),
        7: g.seventh_generation(solid, 36),
    }


def function(config: Config, run: Run) -> None:
    """Draw the seven, scan the beating object with three, reconstruct by filtered backprojection."""

    import numpy as np

    from diffimg import ct, metrics
    from diffimg.experiment import pictures
    from diffimg.experiment.geometry_picture import geometry_picture
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    n, motion = config.scan.size, config.motion
    with run.stage("draw"):
        acquisitions = scanners(n, config.scan.views)
        drawings = {k: geometry_picture(a.geometry, title=f"{k}G: {a.description.movement}") for k, a in acquisitions.items()}
    for k, a in acquisitions.items():
        rays = int(np.prod(a.geometry.sinogram_shape))
        run.metric(f"{k}G", rays=rays, views=a.geometry.view_count, order=ORDER[k])
    truth = np.asarray(beating(n, 0.0).rasterize((n, n)))
    inside = np.asarray(metrics.circle((n, n)))
    images = {}
    for k, seconds in zip((1, 3, 5), motion.seconds, strict=True):
        scores = []
        with run.stage(f"scan {k}G"):
            for amplitude in (0.0, motion.amplitude):
                image = np.asarray(ct.fbp(measure(config, acquisitions[k], seconds, amplitude), acquisitions[k].geometry, "shepp-logan"))
                scores.append(float(metrics.psnr(image, truth, definition="skimage", mask=inside)))
        images[f"{k}G, {seconds:g} s"] = image
        run.metric(f"{k}G", scan_seconds=seconds, beats=seconds / motion.beat, psnr_db=scores[1], rest_psnr_db=scores[0])
    run.arrays(truth=truth, **{name.split(",")[0]: image for name, image in images.items()})
    with run.stage("report"):
        window = (0.0, 1.1 * float(truth.max()))
        captions = {name: f"{run.metrics['methods'][name.split(',')[0]]['psnr_db']:.1f} dB" for name in images}
        top = [pictures.Panel(truth, "object at mid-scan", "", window, "1/mm", 1.0)]
        top += [pictures.Panel(image, name, captions[name], window, "1/mm", 1.0) for name, image in images.items()]
        times = [
            pictures.Panel(
                acquisitions[k].times,
                f"{k}G: when each sample is taken",
                window=(0.0, 1.0),
                unit="part of the scan",
                extent=(0.0, 1.0, 1.0, 0.0),
                axes=("detector", "view"),
                colors="viridis",
            )
            for k in (1, 2, 3, 4)
        ]
        title = config.title or "Seven generations of CT"
        overview = pictures.png(pictures.grid([top, times], title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "Above: a body beats during the scan. Below: the order in which the samples are taken.")
        report.table("Scanners", run.metrics["methods"], tuple(DEFINITIONS))
        for k, drawing in drawings.items():
            run.write(f"generation_{k}.png", drawing)
            d = acquisitions[k].description
            report.picture(f"{k}G", drawing, f"{d.source}; {d.detector}; {d.movement}. + {d.advantages}. − {d.disadvantages}.")
        report.images("Reconstructions", {"truth": truth, **images}, window, "1/mm", 1.0, captions)
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=tuple(DEFINITIONS))
