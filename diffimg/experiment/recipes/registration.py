"""Registration of two files, or of the template deformed by a known transform: image, transform, pictures, a report to swipe in."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run

Kind = Literal["moments", "translation", "rigid", "similarity", "affine", "bspline", "displacement", "velocity", "implicit"]


class StageSection(Section):
    """One stage, see ``diffimg.registration``."""

    kind: Kind
    levels: list[float] = Field(default=[4, 2, 1], min_length=1)
    steps: int = Field(default=50, ge=1)
    spacing: float | None = Field(default=None, gt=0)  # mm between control points, for bspline; default a tenth of the image


class Demo(Section):
    """What is registered where no files are given: the MNI152 template seen through a known deformation."""

    factor: float = Field(default=2.0, ge=1)  # of the template's 1 mm
    amplitude: float = Field(default=5.0, ge=0)  # mm, standard deviation of the control points' moves
    mesh: int = Field(default=6, ge=1)
    noise: float = Field(default=0.01, ge=0)  # of the largest value


class Config(Experiment):
    """Everything that determines a run of ``registration``."""

    fixed: str | None = None  # files that data.read takes; relative to where the command runs
    moving: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_labels: str | None = None  # to judge by: Dice and HD95 of each label
    moving_labels: str | None = None
    stages: list[StageSection] = Field(
        default=[StageSection(kind="rigid"), StageSection(kind="affine"), StageSection(kind="bspline")], min_length=1
    )
    similarity: Literal["ssd", "ncc", "lncc", "mi", "nmi", "ngf", "mind"] = "ncc"
    regularizer: Literal["bending", "diffusion", "elastic", "curvature", "tv", "volume", "folding"] = "bending"
    weight: float = Field(default=1.0, ge=0)
    order: int = Field(default=3, ge=0, le=5)  # of the interpolation of the result
    both_ways: bool = False  # register moving ← fixed, too, to judge how far the two are from inverses of each other
    consistency: float = Field(default=0.0, ge=0)  # per mm²: both ways, and in the end together, held to be inverses
    transform_file: Literal["transform.h5", "transform.tfm"] = "transform.tfm"
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        for a, b in (("fixed", "moving"), ("fixed_labels", "moving_labels")):
            if (getattr(self, a) is None) != (getattr(self, b) is None):
                raise ValueError(f"{a}, {b}: expected both or neither, got one. Give the other one, too.")
        if self.fixed is None and (self.fixed_mask or self.moving_mask or self.fixed_labels):
            raise ValueError("fixed: expected a file, for masks or labels that go with it, got none.")
        return self


DEFINITIONS = {
    "similarity": "what is minimised, without the penalty, at full resolution",
    "nmse_foreground": "mean squared difference to the fixed image over its variance, where it is above its mean and both are",
    "folding_percent": "inner samples whose Jacobian determinant is not positive",
    "sd_log_jacobian": "standard deviation of log det ∂T/∂x over inner samples",
    "mean_error_mm": "mean distance to the known transform in the foreground (demonstration only)",
    "dice": "mean Dice coefficient of the labels, warped by nearest neighbours",
    "hd95_mm": "mean 95th percentile of surface distances of the labels, the larger direction",
    "inverse_consistency_mm": "mean distance, in the foreground, of there and back from the start",
    "seconds": "of the search, compilation included",
}
NAMES = {"translation": "Translation", "rigid": "Rigid", "similarity": "Similar", "affine": "Affine", "bspline": "BSpline"}


def function(config: Config, run: Run) -> None:
    """Read, register, write, judge, draw."""
    import time

    import jax
    import numpy as np

    from diffimg import data, forward, registration

    run.define(**DEFINITIONS)
    with run.stage("read"):
        fixed, moving, truth = _images(config)
        masks = {name: None if path is None else _slices(data.read(path)).image for name, path in _masks(config).items()}
    stages, similarity, penalty = _stages(config, fixed.grid), _similarity(config.similarity), _penalty(config)
    with run.stage("register") as watch:
        started = time.perf_counter()

        def tell(level):
            found = {"status": level.status.name, "iterations": level.iterations, "energy": level.after}
            run.log("level", stage=level.stage, shape=list(level.shape), **found)
            watch.note = f"{level.stage} {'×'.join(map(str, level.shape))}: {level.status.name.lower()} after {level.iterations}"

        back = None
        if config.both_ways or config.consistency:
            both = {"consistency": config.consistency, "progress": tell, **masks}
            result, back = registration.register_both_ways(fixed, moving, stages, similarity, penalty, **both)
        else:
            result = registration.register(fixed, moving, stages, similarity, penalty, progress=tell, **masks)
        jax.block_until_ready(result.warped)
        seconds = time.perf_counter() - started
    with run.stage("write"):
        grids = {"grid": moving.grid, "onto": fixed.grid}
        before = forward.warp(moving.image, forward.Translation(np.zeros(fixed.grid.ndim, np.float32)), config.order, "constant", **grids)
        warped = forward.warp(moving.image, result.transform, config.order, "constant", **grids)
        ones = np.ones(moving.grid.shape, np.float32)
        still = forward.Translation(np.zeros(fixed.grid.ndim, np.float32))
        ways = {"before": still, "after": result.transform}
        seen = {k: np.asarray(forward.warp(ones, t, 1, "constant", **grids)) > 0.999 for k, t in ways.items()}
        determinant = result.transform.jacobian_determinant(fixed.grid)
        _write(config, run, result, np.asarray(warped), fixed)
        run.arrays(fixed=np.asarray(fixed.image), warped=np.asarray(warped), before=np.asarray(before), jacobian=np.asarray(determinant))
    with run.stage("judge"):
        scores = {"before": {"similarity": result.before}, "after": {"similarity": result.after, "seconds": seconds}}
        for name, image in (("before", before), ("after", warped)):
            scores[name]["nmse_foreground"] = _difference(np.asarray(fixed.image), np.asarray(image), seen[name])
        scores["after"]["folding_percent"] = 100 * float(registration.folding(result.transform, fixed.grid))
        scores["after"]["sd_log_jacobian"] = float(registration.log_jacobian_deviation(result.transform, fixed.grid))
        if back is not None:
            there_and_back = np.asarray((back.transform @ result.transform).displacement(fixed.grid))
            inside = np.asarray(fixed.image) > np.mean(fixed.image)
            scores["after"]["inverse_consistency_mm"] = float(np.linalg.norm(there_and_back, axis=-1)[inside].mean())
        if truth is not None:
            inside = np.asarray(fixed.image) > 0.1 * np.max(fixed.image)
            still = forward.Translation(np.zeros(fixed.grid.ndim, np.float32))
            for name, transform in (("before", still), ("after", result.transform)):
                apart = np.linalg.norm(np.asarray(transform.displacement(fixed.grid) - truth.displacement(fixed.grid)), axis=-1)
                scores[name]["mean_error_mm"] = float(apart[inside].mean())
        _labels(config, scores, result, fixed.grid, moving.grid, truth)
        for name, values in scores.items():
            run.metric(name, **values)
    with run.stage("report"):
        _report(config, run, result, fixed, np.asarray(before), np.asarray(warped), np.asarray(determinant))


def _images(config):
    """(fixed, moving, the true transform or None)."""
    import numpy as np

    from diffimg import data, forward, registration

    if config.fixed is not None:
        volumes = [data.read(path) for path in (config.fixed, config.moving)]
        for name, volume in zip(("fixed", "moving"), volumes, strict=True):
            if volume.image.ndim != volume.grid.ndim:
                raise ValueError(f"{name}: expected one image, got shape {volume.image.shape}. Take one member of the series: image[0].")
        return *(_slices(v) for v in volumes), None
    volume = np.asarray(data.sample("mni152_t1").image, np.float32)
    image, grid = registration.coarse(volume / volume.max(), data.Grid(volume.shape), config.demo.factor)
    image = np.asarray(image)
    rng = np.random.default_rng(config.seed)
    start = forward.FreeForm.identity(grid, mesh=config.demo.mesh)
    moves = rng.normal(0, config.demo.amplitude, start.coefficients.shape).astype(np.float32)
    truth = forward.FreeForm(moves, start.lattice)
    fixed = np.asarray(forward.warp(image, truth, 3, grid=grid)) + config.demo.noise * rng.standard_normal(image.shape).astype(np.float32)
    return data.Volume(fixed, grid), data.Volume(image, grid), truth


def _slices(volume):
    """A volume of one slice as an image in the plane of two of the world's axes; an oblique slice stays as it is."""
    import numpy as np

    from diffimg import data

    grid = volume.grid
    if grid.ndim != 3 or grid.shape.count(1) != 1:
        return volume
    along = grid.shape.index(1)
    normal = np.abs(np.asarray(grid.direction)[:, along])
    across = int(np.argmax(normal))
    if normal[across] < 1 - 1e-6:
        return volume
    drop = lambda values, k: tuple(v for j, v in enumerate(values) if j != k)  # noqa: E731
    direction = [drop(row, along) for row in drop(grid.direction, across)]
    flat = data.Grid(drop(grid.shape, along), drop(grid.spacing, along), drop(grid.origin, across), direction)
    return data.Volume(np.take(volume.image, 0, along), flat, volume.unit)


def _masks(config):
    return {"fixed_mask": config.fixed_mask, "moving_mask": config.moving_mask}


def _stages(config, grid) -> list[Any]:
    from diffimg import registration

    out: list[Any] = []
    for stage in config.stages:
        common = {"levels": tuple(stage.levels), "steps": stage.steps}
        if stage.kind == "moments":
            out.append(registration.Moments())
        elif stage.kind == "bspline":
            out.append(registration.BSpline(spacing=stage.spacing or max(grid.extent) / 10, **common))
        elif stage.kind in ("displacement", "velocity", "implicit"):
            out.append(getattr(registration, stage.kind.capitalize())(**common))
        else:
            out.append(getattr(registration, NAMES[stage.kind])(**common))
    return out


def _similarity(name):
    from diffimg import energy

    kinds = {
        "ssd": energy.SSD(),
        "ncc": energy.NCC(),
        "lncc": energy.LNCC(),
        "mi": energy.MutualInformation(),
        "nmi": energy.MutualInformation(normalized=True),
        "ngf": energy.NGF(),
        "mind": energy.MIND(),
    }
    return kinds[name]


def _penalty(config):
    from diffimg import energy

    kind = {"bending": energy.Bending, "diffusion": energy.Diffusion, "elastic": energy.Elastic, "curvature": energy.Curvature}
    kind |= {"tv": energy.VectorTotalVariation, "volume": energy.VolumeChange, "folding": energy.Folding}
    return config.weight * kind[config.regularizer]()


def _write(config, run, result, warped, fixed):
    from diffimg import data, registration

    registration.write_transform(run.folder / config.transform_file, _in_itk(result.transform, fixed.grid))
    data.write_nifti(run.folder / "warped.nii.gz", data.Volume(warped, fixed.grid))


def _in_itk(transform, grid):
    """The transform, sampled where ITK's files have no counterpart."""
    from diffimg.forward import Composition, DisplacementField, FreeForm, LinearTransform, VelocityField

    parts = transform.transforms if isinstance(transform, Composition) else (transform,)
    if all(isinstance(t, (LinearTransform, FreeForm, DisplacementField, VelocityField)) for t in parts):
        return transform
    return DisplacementField.from_world(transform.displacement(grid), grid)


def _difference(fixed, image, seen):
    inside = (fixed > fixed.mean()) & seen
    return float(((fixed - image)[inside] ** 2).mean() / fixed[inside].var()) if inside.any() else float("nan")


def _labels(config, scores, result, fixed_grid, moving_grid, truth):
    """Dice and HD95 of labels, before and after."""
    import numpy as np

    from diffimg import data, forward, metrics, registration

    still = forward.Translation(np.zeros(fixed_grid.ndim, np.float32))
    if config.fixed_labels is not None:
        there, moving = (np.round(_slices(data.read(p)).image).astype(np.int32) for p in (config.fixed_labels, config.moving_labels))
    elif truth is not None and config.fixed is None:
        tissues = [np.asarray(data.sample(f"mni152_{k}").image, np.float32) for k in ("gm", "wm")]
        grey, white = (np.asarray(registration.coarse(t / t.max(), data.Grid(t.shape), config.demo.factor)[0]) for t in tissues)
        moving = np.where(white > 0.5, 2, np.where(grey > 0.5, 1, 0)).astype(np.int32)
        there = np.asarray(forward.warp(moving, truth, order=0, grid=moving_grid, onto=fixed_grid))
    else:
        return
    labels = [int(v) for v in np.unique(there) if v]
    for name, transform in (("before", still), ("after", result.transform)):
        here = np.asarray(forward.warp(moving, transform, order=0, grid=moving_grid, onto=fixed_grid))
        scores[name]["dice"] = float(np.mean(metrics.dice(here, there, labels)))
        distances = [float(metrics.hd95(here == k, there == k, fixed_grid.spacing)) for k in labels]
        scores[name]["hd95_mm"] = float(np.mean(distances))


def _report(config, run, result, fixed, before, warped, determinant):
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    grid = fixed.grid
    middle = (lambda v: v) if grid.ndim == 2 else (lambda v: v[grid.shape[0] // 2])
    image, first, last, change = (middle(np.asarray(v)) for v in (fixed.image, before, warped, determinant))
    low, high = float(np.quantile(image, 0.005)), float(np.quantile(image, 0.999))
    window, pixel = (low, high), grid.spacing[-1]
    error = 0.3 * (high - low)
    board = checkerboard(image, last)
    panel = lambda v, title: pictures.Panel(v, title, window=window, pixel_size=pixel)  # noqa: E731
    difference = lambda v, title: pictures.Panel(v - image, title, window=(-error, error), colors="RdBu_r")  # noqa: E731
    rows = [
        [panel(image, "fixed"), panel(first, "moving, as it lies"), panel(last, "moving, registered"), panel(board, "checkerboard")],
        [
            None,
            difference(first, "difference before"),
            difference(last, "difference after"),
            pictures.Panel(change, "Jacobian determinant", window=(0.5, 1.5), colors="PuOr"),
        ],
    ]
    lattice = deformed_grid(result.transform, grid)
    run.write("overview.png", pictures.png(pictures.grid(rows, config.title or "Registration")))
    run.write("grid.png", pictures.png(lattice(image, window)))
    report = standard_report(run, config.title or "Registration", config.description or "", DEFINITIONS)
    report.table("Measures", run.metrics["methods"], [c for c in DEFINITIONS if any(c in m for m in run.metrics["methods"].values())])
    stages = {
        f"{k + 1} {level.stage} {'×'.join(map(str, level.shape))}": {
            "status": level.status.name, "iterations": level.iterations, "before": level.before, "after": level.after
        }
        for k, level in enumerate(result.levels)
    }  # fmt: skip
    report.table("Levels (energy with the penalty)", stages, ["status", "iterations", "before", "after"])
    report.images("Swipe between them", {"fixed": image, "moving, as it lies": first, "moving, registered": last}, window, pixel_size=pixel)
    report.picture("Overview", (run.folder / "overview.png").read_bytes())
    report.picture("Where the fixed image's grid goes", (run.folder / "grid.png").read_bytes())
    run.write("report.html", report.html())


def checkerboard(a: Any, b: Any, squares: int = 8) -> Any:
    """Squares of one image and the other in turn, ``[y, x]``."""
    import numpy as np

    y, x = np.indices(np.shape(a))
    size = max(2, max(np.shape(a)) // squares)
    return np.where((y // size + x // size) % 2 == 0, a, b)


def deformed_grid(transform: Any, grid: Any) -> Any:
    """A drawing function (image, window) → figure: lines of the fixed grid where the transform takes them, in the plane of the slice."""
    import numpy as np

    u = np.asarray(transform.displacement(grid)) @ np.asarray(grid.direction) / np.asarray(grid.spacing)
    u = u if grid.ndim == 2 else u[grid.shape[0] // 2][..., 1:]

    def draw(image, window):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 8 * image.shape[0] / image.shape[1]), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        ax.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], alpha=0.6)
        y, x = np.indices(image.shape)
        step = max(2, max(image.shape) // 25)
        for k in range(0, image.shape[0], step):
            ax.plot((x + u[..., 1])[k], (y + u[..., 0])[k], color="tab:orange", linewidth=0.8)
        for k in range(0, image.shape[1], step):
            ax.plot((x + u[..., 1])[:, k], (y + u[..., 0])[:, k], color="tab:orange", linewidth=0.8)
        arrows = (slice(step // 2, None, step),) * 2
        ax.quiver(
            x[arrows], y[arrows], u[..., 1][arrows], u[..., 0][arrows],
            angles="xy", scale_units="xy", scale=1, color="tab:blue", width=0.002,
        )  # fmt: skip
        ax.set_axis_off()
        return figure

    return draw


recipe = Recipe(Config, function, ("similarity", "nmse_foreground", "mean_error_mm", "dice", "hd95_mm", "folding_percent", "seconds"))
