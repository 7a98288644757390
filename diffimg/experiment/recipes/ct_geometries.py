"""One phantom behind every geometry: parallel, fan (flat, curved, modular), cone and helix; analytic and iterative reconstruction."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Scan(Section):
    """A head whose ellipsoids are centred in the middle slice, which all geometries see."""

    size: int = Field(default=64, ge=16, le=256)  # pixels of 1 mm, along y and x
    slices: int = Field(default=9, ge=3)  # of the volumes, odd
    views: int = Field(default=120, ge=16)  # over a full turn
    turns: int = Field(default=3, ge=2)  # of the helix
    photons: float = Field(default=1e5, gt=0)  # unattenuated, per cell and view


class Reconstruction(Section):
    """Filter of the analytic and steps of the iterative method (FISTA-TV)."""

    filter: str = "shepp-logan"
    tv_weight: float = Field(default=0.01, ge=0)
    tv_steps: int = Field(default=60, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_geometries``."""

    scan: Scan = Scan()
    reconstruction: Reconstruction = Reconstruction()


DEFINITIONS = {
    "psnr_db": "10 log10(R²/MSE) in the inscribed circle of the middle slice, R = max − min of the truth",
    "rmse": "root mean square error there, 1/mm",
    "samples": "detector readings",
    "seconds": "wall clock without compilation",
    "compile_seconds": "tracing, lowering and compiling",
}


def geometries(scan: Scan) -> dict[str, Any]:
    """All of them, seeing the whole object with cells of about a pixel at the axis."""
    import warnings

    import numpy as np

    from diffimg.forward import ConeBeam, FanBeam, Helical, ParallelBeam

    n, m = scan.size, scan.slices
    turn = np.linspace(0, 2 * np.pi, scan.views, endpoint=False)
    far = {"source_distance": 2.5 * n, "detector_distance": 1.25 * n}
    cells = int(np.ceil(1.55 * n))
    fan = FanBeam((n, n), turn, cells, **far, detector_spacing=1.5)
    rng = np.random.default_rng(0)
    wobble = rng.normal(0, 0.5, (scan.views, 2))
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return {
            "parallel": ParallelBeam((n, n), turn[: scan.views // 2], 2 * int(np.ceil(0.72 * n)) + 1),
            "fan, flat": fan,
            "fan, curved": FanBeam((n, n), turn, cells, **far, detector_spacing=1.5, curved=True),
            "modular, wobbling": fan.modular().moved(rng.normal(0, 0.02, scan.views), wobble),
            "cone": ConeBeam((m, n, n), turn, (m + 6, cells), **far, detector_spacing=1.5),
            "helical": Helical.from_pitch(
                (m, n, n), scan.turns, scan.views, 0.6, (max(4, m - 1), cells), 2.5 * n, 1.25 * n, detector_spacing=1.5
            ),
        }


def bodies(size: int, height: float) -> tuple[Any, Any]:
    """The Shepp–Logan head in the plane, and ellipsoids of which it is the middle section, at most ``height`` mm to either side."""
    import dataclasses

    import jax.numpy as jnp

    from diffimg.data import Ellipsoids, shepp_logan

    flat = shepp_logan(0.48 * size)
    flat = dataclasses.replace(flat, density=flat.density * (4.0 / size))
    zero = jnp.zeros_like(flat.density)[:, None]
    heights = jnp.minimum(1.5 * flat.semi_axes.max(-1, keepdims=True), height)
    solid = Ellipsoids(
        jnp.concatenate([zero, flat.centers], -1), jnp.concatenate([heights, flat.semi_axes], -1), flat.rotation, flat.density
    )
    return flat, solid


def function(config: Config, run: Run) -> None:
    """Project, reconstruct analytically and iteratively, compare the middle slice with the truth."""
    import jax
    import numpy as np

    from diffimg import ct, data, energy, metrics
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    scan, how = config.scan, config.reconstruction
    flat, solid = bodies(scan.size, 1.2 * scan.slices)
    truth = np.asarray(flat.rasterize((scan.size, scan.size)))
    inside = np.asarray(metrics.circle(truth.shape))
    analytic: dict[str, Any] = {}
    iterative: dict[str, Any] = {}

    def finish(method: str, name: str, image: Any, watch: Any, samples: int, images: dict[str, Any]) -> None:
        middle = np.asarray(image if image.ndim == 2 else image[scan.slices // 2])
        score = float(metrics.psnr(middle, truth, definition="skimage", mask=inside))
        rmse = float(np.sqrt(np.mean((middle - truth)[inside] ** 2)))
        times = {"seconds": watch.seconds - watch.compile_seconds, "compile_seconds": watch.compile_seconds}
        run.metric(f"{name}: {method}", psnr_db=score, rmse=rmse, samples=samples, **times)
        images[name] = middle

    for number, (name, geometry) in enumerate(geometries(scan).items()):
        space = len(geometry.image_shape) == 3
        with run.stage(f"project, {name}"):
            clean = data.project(solid if space else flat, geometry, oversample=3 if space else None)
            y = jax.block_until_ready(energy.Transmission(scan.photons).noise(jax.random.key(config.seed + number), clean))
        if name != "modular, wobbling":  # whose source keeps no distance: no analytic formula
            with run.stage(f"analytic, {name}") as watch:
                image = jax.block_until_ready((ct.fdk if space else ct.fbp)(y, geometry, how.filter))
            finish("analytic", name, image, watch, y.size, analytic)
        with run.stage(f"TV, {name}") as watch:
            image = jax.block_until_ready(ct.fista_tv(y, geometry, how.tv_weight, how.tv_steps, lower=0.0).x)
        finish("TV", name, image, watch, y.size, iterative)
    run.arrays(truth=truth, **{f"{k} {n}": v for k, d in (("analytic", analytic), ("TV", iterative)) for n, v in d.items()})
    with run.stage("report"):
        window = (0.0, 0.5 * float(truth.max()))

        def panel(images: dict[str, Any], name: str, method: str) -> Any:
            if name not in images:
                return None
            score = run.metrics["methods"][f"{name}: {method}"]["psnr_db"]
            return pictures.Panel(images[name], f"{name}: {method}", f"{score:.1f} dB", window, "1/mm", 1.0)

        title = config.title or "One object, every geometry"
        rows = [[panel(i, n, m) for n in iterative] for i, m in ((analytic, "analytic"), (iterative, "TV"))]
        rows[0] = [p or pictures.Panel(truth, "truth", "", window, "1/mm", 1.0) for p in rows[0]]
        overview = pictures.png(pictures.grid(rows, title, width=20.0))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "The middle slice. The wobbling fan has no analytic formula; the truth stands in its place.")
        report.table("Metrics", run.metrics["methods"], tuple(DEFINITIONS))
        report.images("Analytic", {"truth": truth, **analytic}, window, "1/mm", 1.0)
        report.images("TV", {"truth": truth, **iterative}, window, "1/mm", 1.0)
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=tuple(DEFINITIONS))
