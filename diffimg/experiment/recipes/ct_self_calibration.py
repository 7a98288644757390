"""Geometry self-calibration of a fan or cone beam: the centre of rotation and a jittering detector, found from the data themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Scan(Section):
    """Shepp–Logan phantom behind a flat detector, exact averages over its cells, counting noise."""

    size: int = Field(default=96, ge=16, le=1024)  # pixels of 1 mm, along y and x
    slices: int = Field(default=8, ge=3, le=256)  # of the cone beam's volume, 1 mm each
    views: int = Field(default=150, ge=16)  # over a full turn
    photons: float = Field(default=1e5, gt=0)  # unattenuated, per cell and view
    cell: float = Field(default=1.5, gt=0)  # mm; the magnification is 1.5


class Errors(Section):
    """What is wrong with the geometry that the reconstruction assumes."""

    centre: float = 2.0  # of the detector, cells
    jitter: float = Field(default=0.5, ge=0)  # root mean square over the views, cells


class Search(Section):
    """Arguments of ``ct.calibrate``."""

    blur: tuple[float, ...] = Field(default=(4.0, 2.0, 1.0, 0.0), strict=False, min_length=1)  # cells
    steps: int = Field(default=3, ge=1)
    inner_steps: int = Field(default=20, ge=1)
    prior: float = Field(default=1.0, gt=0)  # standard deviation of a view's offset, cells; wide enough for the centre too


class Config(Experiment):
    """Everything that determines a run of ``ct_self_calibration``."""

    geometry: Literal["fan", "cone"] = "fan"
    scan: Scan = Scan()
    centre_alone: bool = True  # a scan without jitter, too
    errors: Errors = Errors()
    search: Search = Search()
    tv_weight: float = Field(default=0.2, ge=0)
    tv_steps: int = Field(default=60, ge=1)


DEFINITIONS = {
    "psnr_db": "10 log10(R²/MSE) in the inscribed circle (cone: of the middle slice), R = max − min of the truth",
    "centre_error": "mean over the views of assumed − true detector offset, cells",
    "jitter_error": "root mean square over the views of assumed − true offset without mean and first harmonics, cells "
    "(the first harmonics are a shift of the object and cannot be known; their part is gauge)",
    "harmonics": "root mean square of the first harmonics of assumed − true offset, cells",
    "misfit": "root mean square of Ax − y after the calibration, x the smooth image it works with",
    "seconds": "wall clock of the calibration without compilation",
}
COLUMNS = ("centre_error", "jitter_error", "harmonics", "psnr_db", "misfit", "seconds")


def split(error: Any, angles: Any) -> tuple[float, float, float]:
    """Mean, root mean square of the rest, and of the first harmonics, of ``error [view]``."""
    import numpy as np

    harmonics = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], 1)
    fitted = np.linalg.lstsq(harmonics, error, rcond=None)[0]
    rest, shift = error - harmonics @ fitted, harmonics[:, 1:] @ fitted[1:]
    return float(fitted[0]), float(np.sqrt(np.mean(rest**2))), float(np.sqrt(np.mean(shift**2)))


def setting(config: Config) -> tuple[Any, Any, Any]:
    """The geometry as it is assumed, the analytic phantom, and the truth ``[y, x]`` (cone: of the middle slice)."""
    import numpy as np

    from diffimg.experiment.recipes.ct_geometries import bodies
    from diffimg.forward import ConeBeam, FanBeam

    scan, n = config.scan, config.scan.size
    angles = np.linspace(0, 2 * np.pi, scan.views, endpoint=False)
    cells = int(np.ceil(2.6 * n / scan.cell))
    flat, solid = bodies(n, 0.4 * scan.slices)  # inside the volume
    if config.geometry == "fan":
        geometry = FanBeam((n, n), angles, cells, 2.0 * n, 1.0 * n, detector_spacing=scan.cell)
        return geometry, flat, np.asarray(flat.rasterize((n, n)))
    rows = int(np.ceil(1.5 * scan.slices / scan.cell * 2.0 / 1.3)) + 2  # sees the volume's corners next to the source
    geometry = ConeBeam((scan.slices, n, n), angles, (rows, cells), 2.0 * n, 1.0 * n, detector_spacing=scan.cell)
    return geometry, solid, np.asarray(solid.rasterize((scan.slices, n, n)))[scan.slices // 2]


def shifted(geometry: Any, parameters: dict[str, Any]) -> Any:
    """With the detector moved along its rows."""
    import dataclasses

    shift = parameters["shift"]
    return dataclasses.replace(geometry, detector_offset=shift if len(geometry.image_shape) == 2 else (0.0, shift))


def function(config: Config, run: Run) -> None:
    """Simulate two scans (centre wrong; centre and jitter), calibrate, reconstruct before and after."""
    import warnings

    import jax
    import numpy as np

    from diffimg import ct, data, energy, metrics

    run.define(**DEFINITIONS)
    scan, cell = config.scan, config.scan.cell
    rng = np.random.default_rng(config.seed)
    angles = np.linspace(0, 2 * np.pi, scan.views, endpoint=False)
    jitter = rng.standard_normal(scan.views)
    jitter *= config.errors.jitter / max(np.sqrt(np.mean((jitter - jitter.mean()) ** 2)), 1e-12)
    base, phantom, truth = setting(config)
    inside = np.asarray(metrics.circle(truth.shape))
    images: dict[str, Any] = {}
    offsets: dict[str, tuple[Any, Any]] = {}
    misfits: dict[str, Any] = {}

    def finish(name: str, y: Any, offset: Any, true: Any, **more: Any) -> None:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            geometry = shifted(base, {"shift": np.broadcast_to(offset, angles.shape)})
            image = np.asarray(ct.fista_tv(y, geometry, config.tv_weight, config.tv_steps, lower=0.0).x)
        image = image if image.ndim == 2 else image[scan.slices // 2]
        error = np.broadcast_to(offset - true, angles.shape) / cell
        centre, rest, shift = split(error, angles)
        score = float(metrics.psnr(image, truth, definition="skimage", mask=inside))
        run.metric(name, psnr_db=score, centre_error=centre, jitter_error=rest, harmonics=shift, **more)
        images[name] = image

    centre = np.full(scan.views, config.errors.centre * cell)
    cases = {"centre": (centre, False)} if config.centre_alone else {}
    cases["centre and jitter"] = (centre + jitter * cell, True)
    for number, (case, (true, per_view)) in enumerate(cases.items()):
        with run.stage(f"simulate {case}"):
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            y = energy.Transmission(scan.photons).noise(key, data.project(phantom, shifted(base, {"shift": true}), oversample=4))
        start = {"shift": np.zeros(scan.views) if per_view else 0.0}
        search = config.search
        with run.stage(f"calibrate {case}") as watch:
            prior = cell * (search.prior + abs(config.errors.centre)) if per_view else None
            how = {"blur": search.blur, "steps": search.steps, "inner_steps": search.inner_steps}
            found = ct.calibrate(y, base, start, model=shifted, prior=prior, **how)
            jax.block_until_ready(found.image)
            result = np.broadcast_to(np.asarray(found.parameters["shift"]), angles.shape)
        seconds = watch.seconds - watch.compile_seconds
        with run.stage(f"reconstruct {case}"):
            finish(f"{case}: assumed 0", y, 0.0, true)
            finish(f"{case}: calibrated", y, result, true, misfit=float(found.misfit[-1]), seconds=seconds)
            finish(f"{case}: known", y, true, true)
        offsets[case] = (true / cell, result / cell)
        misfits[case] = np.asarray(found.misfit)
        run.arrays(**{f"{case.replace(' ', '_')}_{k}": v for k, v in {"sinogram": y, "true": true, "found": result}.items()})
    run.arrays(truth=truth, angles=angles)
    with run.stage("report"):
        _present(config, run, truth, images, offsets, misfits, np.rad2deg(angles))


def _present(config: Config, run: Run, truth: Any, images: Any, offsets: Any, misfits: Any, degrees: Any) -> None:
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    methods = run.metrics["methods"]
    window = (0.0, 0.5 * float(truth.max()))

    def caption(name: str) -> str:
        m = methods[name]
        return f"{m['psnr_db']:.1f} dB\nerror: centre {m['centre_error']:+.3f}, jitter {m['jitter_error']:.3f} cells"

    captions = {name: caption(name) for name in images}
    rows = []
    for case, (true, found) in offsets.items():
        shown = [pictures.Panel(i, n, captions[n], window, "1/mm", 1.0) for n, i in images.items() if n.startswith(f"{case}:")]
        first = [pictures.Panel(truth, "truth", "", window, "1/mm", 1.0)] if not rows else []
        if case != "centre":
            few = slice(0, 60)
            series = {"true": (degrees[few], true[few], "-"), "found": (degrees[few], found[few], ".")}
            first.append(pictures.Plot(series, "detector offset, first views", ("view angle (°)", "offset (cells)")))
        rows.append([*first, *shown])
    title = config.title or "Geometry self-calibration"
    overview = pictures.png(pictures.grid(rows, title))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    note = "Unknown centre of rotation, and unknown shifts of the detector, view by view." + (
        " Of the volume, the middle slice." if config.geometry == "cone" else ""
    )
    report.picture("Overview", overview, note)
    report.table("Metrics", methods, COLUMNS)
    report.images("Reconstructions", {"truth": truth, **images}, window, "1/mm", 1.0, captions)
    for case, (true, found) in offsets.items():
        curves = {"true": (degrees, true), "found": (degrees, found)}
        report.curves(f"Detector offset, {case}", curves, "view angle (°)", "offset (cells)", log=(False, False))
    report.curves("Misfit", {n: (np.arange(len(m)), m) for n, m in misfits.items()}, "step", "misfit", log=(False, True))
    report.table("Time by stage", run.metrics["stages"], ("seconds", "compile_seconds"))
    run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=COLUMNS)
