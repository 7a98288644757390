"""How filtered backprojection works, in pictures: one view's smear, several, all of them unfiltered, filtered, and the truth."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Scan(Section):
    """Shepp–Logan phantom, its exact bin-averaged projections, no noise."""

    size: int = Field(default=256, ge=32, le=1024)  # pixels
    views: int = Field(default=180, ge=8)  # over half a turn
    few: int = Field(default=6, ge=2)  # views of the second picture
    filter: Literal["ramlak", "shepp-logan", "cosine", "hamming", "hann"] = "ramlak"

    @model_validator(mode="after")
    def _few_of_all(self) -> Scan:
        if self.few > self.views:
            raise ValueError(f"few: expected at most views = {self.views}, got {self.few}")
        return self


class Config(Experiment):
    """Everything that determines a run of ``ct_backprojection``."""

    scan: Scan = Scan()


DEFINITIONS = {
    "psnr_db": "10 log10(R²/MSE) in the inscribed circle after the best scaling, R = max − min of the truth",
    "gain": "sum over the circle, reconstruction / truth",
}


def function(config: Config, run: Run) -> None:
    """Project analytically, backproject in steps, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct, data, metrics
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report
    from diffimg.forward import ParallelBeam

    run.define(**DEFINITIONS)
    scan = config.scan
    n = scan.size
    with run.stage("project"):
        phantom = data.shepp_logan(n / 2)
        angles = np.linspace(0, np.pi, scan.views, endpoint=False)
        geometry = ParallelBeam((n, n), angles, int(np.ceil(np.sqrt(2) * n)) + 1)
        sinogram = phantom.project(jnp.asarray(angles), jnp.asarray(geometry.detector_positions), 1.0).astype(jnp.float32)
        truth = np.asarray(phantom.rasterize((n, n)))
    chosen = {
        "one view": np.array([scan.views // 6]),
        f"{scan.few} views": np.arange(scan.few) * scan.views // scan.few,
        "all views, unfiltered": np.arange(scan.views),
    }
    images: dict[str, Any] = {}
    with run.stage("backproject"):
        for name, views in chosen.items():
            part = ParallelBeam((n, n), angles[views], geometry.detector_count)
            images[name] = np.asarray(ct.backproject(sinogram[views], part))
        filtered = jax.block_until_ready(ct.fbp(sinogram, geometry, scan.filter))
        images["filtered"] = np.asarray(filtered)
    run.arrays(truth=truth, sinogram=sinogram, **{k.replace(" ", "_").replace(",", ""): v for k, v in images.items()})
    inside = np.asarray(metrics.circle((n, n)))
    for name, image in images.items():
        scale = float((image * truth)[inside].sum() / (image**2)[inside].sum())
        score = float(metrics.psnr(jnp.asarray(scale * image), jnp.asarray(truth), definition="skimage", mask=jnp.asarray(inside)))
        run.metric(name, psnr_db=score, gain=float(image[inside].sum() / truth[inside].sum()))

    with run.stage("report"):
        title = config.title or "Filtered backprojection, step by step"
        panels = [pictures.Panel(i, name, pixel_size=1.0) for name, i in images.items()]
        panels[-1] = pictures.Panel(images["filtered"], f"FBP ({scan.filter})", window=(0.0, 1.0), pixel_size=1.0)
        detector = np.asarray(geometry.detector_positions)
        extent = (float(detector[0]), float(detector[-1]), 180.0, 0.0)
        shadow = pictures.Panel(sinogram, "sinogram", unit="mm", extent=extent, axes=("detector position (mm)", "view angle (°)"))
        rows = [[shadow, *panels[:2]], [panels[2], panels[3], pictures.Panel(truth, "truth", window=(0.0, 1.0), pixel_size=1.0)]]
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "Shepp–Logan phantom, exact projections.")
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "gain"))
        report.images("Filtered and truth", {"filtered": images["filtered"], "truth": truth}, (0.0, 1.0), "1/mm", 1.0)
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "gain"))
