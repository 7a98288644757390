"""Five artifacts of CT and their cures: too few views, rings, truncation, photon starvation, and motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Scan(Section):
    """Analytic phantoms, exact averages over the detector's cells, counting noise."""

    size: int = Field(default=128, ge=32, le=512)  # pixels of 1 mm
    views: int = Field(default=180, ge=16)
    photons: float = Field(default=1e5, gt=0)  # unattenuated, per cell and view


class Artifacts(Section):
    """How strong each cause is."""

    few_views: int = Field(default=30, ge=4)
    gain: float = Field(default=0.03, gt=0)  # standard deviation of the cells' relative gain
    seen: float = Field(default=0.55, gt=0.2, lt=1)  # of the image's width that the truncating detector covers
    starved_photons: float = Field(default=2e4, gt=0)
    shift: float = Field(default=4.0, ge=0)  # mm, of the moving object
    turn: float = Field(default=5.0, ge=0)  # degrees


class Cures(Section):
    """How they are treated."""

    tv_weight: float = Field(default=0.2, ge=0)
    few_tv_weight: float = Field(default=0.05, ge=0)  # for few views
    tv_steps: int = Field(default=100, ge=1)
    stripe_width: float = Field(default=3.0, gt=0)  # cells
    gain_spread: float = Field(default=10.0, gt=0)  # of log gain, over the noise
    floor: float = Field(default=3.0, gt=0)  # photons, of the adaptive logarithm
    pwls_weight: float = Field(default=1000.0, ge=0)
    pwls_steps: int = Field(default=30, ge=1)
    knots: int = Field(default=6, ge=1)  # of the motion's piecewise linear course
    calibration_steps: int = Field(default=3, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_artifacts``."""

    scan: Scan = Scan()
    artifacts: Artifacts = Artifacts()
    cures: Cures = Cures()


DEFINITIONS = {
    "psnr_db": "10 log10(R²/MSE) where the scan sees the object (inscribed circle; truncation: nine tenths of the field of view), "
    "R = max − min of the truth",
    "rmse": "root mean square error there, 1/mm",
    "ceiling_db": "psnr_db of the same reconstruction from the same scan without gain errors",
    "pose_error": "root mean square over the views of the error (mm, across the beam) of four points at a quarter of the image's width "
    "from the centre, but for one shift and one linear map of the object, which the data hardly tell from motion and which are removed",
    "stretch_percent": "largest |singular value of that linear map − 1|, percent: by so much would sizes in the image have been wrong",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An artifact: the truth, where to compare, the images (artifact first, then the cures), further numbers by name."""

    truth: Any
    mask: Any
    images: dict[str, Any]
    numbers: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


def psnr(image: Any, case: Case) -> float:
    """dB, where the case compares."""
    import numpy as np

    from diffimg import metrics

    return float(metrics.psnr(np.asarray(image), case.truth, definition="skimage", mask=case.mask))


def head(size: int) -> Any:
    """Shepp–Logan phantom in a field of ``size`` mm, its densest part 4/size per mm."""
    from diffimg.data import shepp_logan

    phantom = shepp_logan(0.48 * size)
    return dataclasses.replace(phantom, density=phantom.density * (4.0 / size))


def shoulders(size: int) -> Any:
    """Two dense joints in a wide body: along their line hardly a photon arrives."""
    from diffimg.data import Ellipses

    centers = [[0, 0], [0, -0.31], [0, 0.31], [-0.1, 0.03], [0.1, -0.08], [0.1, 0.09]]
    axes = [[0.26, 0.46], [0.08, 0.08], [0.08, 0.08], [0.05, 0.08], [0.03, 0.03], [0.03, 0.05]]
    density = [5.0, 16.0, 16.0, -2.0, 2.0, 1.5]
    return Ellipses([[size * v for v in c] for c in centers], [[size * v for v in a] for a in axes], [0.0] * 6, [d / size for d in density])


def parallel(config: Config, views: int | None = None, width: float = 1.42) -> Any:
    """Parallel views over half a turn, cells of 1 mm over ``width`` times the image."""
    import numpy as np

    from diffimg.forward import ParallelBeam

    n = config.scan.size
    angles = np.linspace(0, np.pi, views or config.scan.views, endpoint=False)
    return ParallelBeam((n, n), angles, 2 * int(np.ceil(width * n / 2)) + 1)


def noisy(config: Config, line_integrals: Any, number: int) -> Any:
    """With counting noise, the ``number``-th stream of the seed."""
    import jax

    from diffimg.energy import Transmission

    return Transmission(config.scan.photons).noise(jax.random.fold_in(jax.random.key(config.seed), number), line_integrals)


def truth_of(config: Config, phantom: Any) -> tuple[Any, Any]:
    """The phantom's averages over the pixels, and the inscribed circle."""
    import numpy as np

    from diffimg import metrics

    n = config.scan.size
    return np.asarray(phantom.rasterize((n, n))), np.asarray(metrics.circle((n, n)))


def aliasing(config: Config) -> Case:
    """Streaks between too few views; cured by more of them, or by TV."""
    from diffimg import ct, data

    phantom = head(config.scan.size)
    few, many = parallel(config, config.artifacts.few_views), parallel(config)
    y = noisy(config, data.project(phantom, few), 0)
    images = {
        f"FBP, {few.view_count} views": ct.fbp(y, few, "shepp-logan"),
        f"TV, {few.view_count} views": ct.fista_tv(y, few, config.cures.few_tv_weight, config.cures.tv_steps, lower=0.0).x,
        f"FBP, {many.view_count} views": ct.fbp(noisy(config, data.project(phantom, many), 1), many, "shepp-logan"),
    }
    return Case(*truth_of(config, phantom), images)


def rings(config: Config) -> Case:
    """Cells of unequal gain; cured in the sinogram, or by estimating the gains with the image."""
    import numpy as np

    from diffimg import ct, data

    phantom, geometry, cures = head(config.scan.size), parallel(config), config.cures
    gain = 1 + config.artifacts.gain * np.random.default_rng(config.seed).standard_normal(geometry.detector_count)
    exact = data.project(phantom, geometry)
    y, equal = (noisy(config, p, 2) for p in (exact - np.log(gain).astype(np.float32), exact))
    found = ct.estimate_gains(y, geometry, cures.tv_weight, cures.tv_steps, spread=cures.gain_spread, width=cures.stripe_width)
    images = {
        "FBP": ct.fbp(y, geometry, "shepp-logan"),
        "stripes removed, FBP": ct.fbp(ct.remove_stripes(y, cures.stripe_width), geometry, "shepp-logan"),
        "gains estimated, TV": found.image,
    }
    case = Case(*truth_of(config, phantom), images)
    analytic = psnr(ct.fbp(equal, geometry, "shepp-logan"), case)
    iterative = psnr(ct.fista_tv(equal, geometry, cures.tv_weight, 2 * cures.tv_steps, lower=0.0).x, case)
    ceilings = dict(zip(images, (analytic, analytic, iterative), strict=True))
    return dataclasses.replace(case, numbers={name: {"ceiling_db": value} for name, value in ceilings.items()})


def truncation(config: Config) -> Case:
    """A detector narrower than the object; cured by extrapolation, or by an iterative image that holds the whole object."""
    import warnings

    import numpy as np

    from diffimg import ct, data

    n = config.scan.size
    phantom = head(n)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        geometry = parallel(config, width=config.artifacts.seen)
        y = noisy(config, data.project(phantom, geometry), 3)
        images = {
            "FBP": ct.fbp(y, geometry, "shepp-logan"),
            "water extrapolation, FBP": ct.fbp(*ct.extrapolate(y, geometry, water=0.8 / n), "shepp-logan"),
            "TV on the whole object": ct.fista_tv(y, geometry, config.cures.tv_weight, 2 * config.cures.tv_steps, lower=0.0).x,
        }
    truth, _ = truth_of(config, phantom)
    yy, xx = np.mgrid[:n, :n] - (n - 1) / 2
    return Case(truth, np.hypot(yy, xx) < 0.45 * float(geometry.field_of_view), images)


def starvation(config: Config) -> Case:
    """Hardly any photon through both joints; cured by an adaptive logarithm, or by statistical weights."""
    import jax
    import jax.numpy as jnp

    from diffimg import ct, data, energy

    phantom, geometry, cures = shoulders(config.scan.size), parallel(config), config.cures
    photons = config.artifacts.starved_photons
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    counts = energy.Poisson(photons).noise(key, jnp.exp(-data.project(phantom, geometry)))
    plain = ct.log_transform(counts, photons)
    penalty = energy.HuberTV(cures.pwls_weight, 0.05 / config.scan.size)
    smooth = ct.log_transform(counts, photons, floor=cures.floor, starvation="adaptive")
    images = {
        "FBP": ct.fbp(plain, geometry, "shepp-logan"),
        "adaptive logarithm, FBP": ct.fbp(smooth, geometry, "shepp-logan"),
        "PWLS": ct.pwls(plain, geometry, cures.pwls_steps, weights=counts, penalty=penalty).x,
    }
    return Case(*truth_of(config, phantom), images)


def motion(config: Config) -> Case:
    """An object that shifts and turns during the scan; cured by its poses, estimated from the data or known."""
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct, data
    from diffimg.forward import FanBeam

    n, views, cures = config.scan.size, config.scan.views, config.cures
    phantom = head(n)
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    resting = FanBeam((n, n), angles, int(np.ceil(2.5 * n / 1.5)), 2.0 * n, 1.0 * n, detector_spacing=1.5)
    time = np.arange(views) / views
    rotation = np.deg2rad(config.artifacts.turn) * time**2
    translation = config.artifacts.shift * np.stack([np.sin(0.5 * np.pi * time), -(time**2)], 1)
    moving = resting.modular().moved(rotation, translation)
    y = noisy(config, data.project(phantom, moving), 5)
    course = np.stack([np.interp(time, np.linspace(0, 1, cures.knots + 1), row) for row in np.eye(cures.knots + 1)[1:]], 1)

    def moved(geometry: Any, knots: dict[str, Any]) -> Any:
        return geometry.moved(jnp.asarray(course) @ knots["rotation"], jnp.asarray(course) @ knots["translation"])

    start = {"rotation": np.zeros(cures.knots), "translation": np.zeros((cures.knots, 2))}
    prior = {"rotation": 0.05, "translation": 3.0}
    found = ct.calibrate(y, resting.modular(), start, model=moved, prior=prior, steps=cures.calibration_steps)
    estimated = [course @ np.asarray(found.parameters[name]) for name in ("rotation", "translation")]
    corrected, numbers = in_frame(estimated, (rotation, translation), resting, n / 4)
    images = {
        "FBP, as if at rest": ct.fbp(y, resting, "shepp-logan"),
        "TV, estimated poses": ct.fista_tv(y, resting.modular().moved(*corrected), cures.tv_weight, cures.tv_steps, lower=0.0).x,
        "TV, known poses": ct.fista_tv(y, moving, cures.tv_weight, cures.tv_steps, lower=0.0).x,
    }
    return Case(*truth_of(config, phantom), images, {"TV, estimated poses": numbers})


def in_frame(estimated: Any, true: Any, geometry: Any, radius: float) -> tuple[tuple[Any, Any], dict[str, float]]:
    """Poses (rotation, translation) in the frame of the true ones, their error and the stretch removed.

    With unknown poses, the data of parallel rays do not change if the object goes through an affine map p ↦ p + Gp + s and each view's
    rotation and scale with it; in a fan a shift by a along the beam does the scaling, by 1 − a/R. So G and s are fitted to the errors
    across the beam of four points at ``radius`` from the centre, and taken out of the poses. The error is the root mean square of what is
    left, in mm.
    """
    import numpy as np

    angles, distance = np.asarray(geometry.angles), float(geometry.source_distance)
    points = radius * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # (y, x)
    across = np.stack([np.sin(angles), np.cos(angles)], -1)
    along = np.stack([np.cos(angles), -np.sin(angles)], -1)

    def turned(v: Any, angle: Any) -> Any:
        y, x = v[..., 0], v[..., 1]
        return np.stack([np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y], -1)

    def seen(pose: Any) -> Any:
        place = turned(points[:, None], pose[0]) + pose[1]
        return np.sum(place * across, -1) - (points @ across.T) * np.sum(pose[1] * along, -1) / distance

    error = (seen(estimated) - seen(true)).ravel()
    design = np.concatenate([np.einsum("vi,pj->pvij", across, points).reshape(-1, 4), np.tile(across, (4, 1))], 1)
    fitted = np.linalg.lstsq(design, error, rcond=None)[0]
    linear, shift = fitted[:4].reshape(2, 2), fitted[4:]
    rotation = estimated[0] + np.einsum("vi,ij,vj->v", across, linear, along)
    scaling = distance * np.einsum("vi,ij,vj->v", across, linear, across)
    translation = estimated[1] - turned(shift, rotation) + scaling[:, None] * along
    stretch = np.max(np.abs(np.linalg.svd(np.eye(2) + linear, compute_uv=False) - 1))
    left = float(np.sqrt(np.mean((error - design @ fitted) ** 2)))
    return (rotation, translation), {"pose_error": left, "stretch_percent": 100 * float(stretch)}


CASES: dict[str, Callable[[Config], Case]] = {
    "aliasing": aliasing,
    "rings": rings,
    "truncation": truncation,
    "starvation": starvation,
    "motion": motion,
}


def function(config: Config, run: Run) -> None:
    """Every case, its numbers, and one picture of all."""
    import jax
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    rows, groups = [], {}
    for name, simulate in CASES.items():
        with run.stage(name):
            case = jax.block_until_ready(simulate(config))
        window = (0.0, (0.6 if name == "starvation" else 0.5) * float(np.quantile(case.truth, 0.995)))
        panels = [pictures.Panel(case.truth, f"{name}: truth", "", window, "1/mm", 1.0)]
        for title, image in case.images.items():
            image = np.asarray(image)
            score = psnr(image, case)
            rmse = float(np.sqrt(np.mean((image - case.truth)[case.mask] ** 2)))
            run.metric(f"{name}: {title}", psnr_db=score, rmse=rmse, **case.numbers.get(title, {}))
            where = " in the field of view" if name == "truncation" else ""
            panels.append(pictures.Panel(image, title, f"{score:.1f} dB{where}", window, "1/mm", 1.0))
        rows.append(panels)
        groups[name] = ({p.title.removeprefix(f"{name}: "): p.image for p in panels}, window)
        run.arrays(**{f"{name}_{k}": np.asarray(v) for k, v in enumerate(case.images.values())}, **{f"{name}_truth": case.truth})
    with run.stage("report"):
        title = config.title or "Artifacts of CT and their cures"
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "Truth, artifact, and two cures of each.")
        report.table("Metrics", run.metrics["methods"], tuple(DEFINITIONS))
        for name, (images, window) in groups.items():
            report.images(name.capitalize(), images, window, "1/mm", 1.0)
        report.table("Time by stage", run.metrics["stages"], ("seconds", "compile_seconds"))
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "rmse", "ceiling_db", "pose_error"))
