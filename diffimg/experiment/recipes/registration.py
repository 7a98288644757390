"""Registration of two files, or of the template deformed by a known transform: image, transform, pictures, a report to swipe in."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.registration_report import Shown, difference, intensity_fit, pages
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
    weight: float | None = Field(default=None, ge=0)  # of the regularizer; default WEIGHTS
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
    "similarity": "what is minimised (smaller is better), without the penalty, at full resolution",
    "nmse_foreground": "mean squared difference to the fixed image over its variance, where it is above its mean and both are; for ncc and "
    "lncc with intensities fitted linearly after registration, for other similarities left out",
    "folding_percent": "inner samples whose Jacobian determinant is not positive",
    "sd_log_jacobian": "standard deviation of log det ∂T/∂x over inner samples",
    "mean_error_mm": "mean distance to the known transform in the foreground (demonstration only)",
    "dice": "mean Dice coefficient of the labels, warped by nearest neighbours",
    "hd95_mm": "mean 95th percentile of surface distances of the labels, the larger direction",
    "inverse_consistency_mm": "mean distance, in the foreground, of there and back from the start",
    "seconds": "of the search, compilation included",
}
COMPARABLE = {"ssd": "same", "ncc": "linear", "lncc": "linear"}  # intensities of the two images; "other" for the rest
# beside ncc, at 4 mm: the error of a known 5 mm deformation is at most a quarter above that of ten times less, and a rigid pair bends less
WEIGHTS = {"bending": 10.0, "curvature": 10.0, "diffusion": 0.1, "elastic": 0.1, "tv": 0.01, "volume": 0.01, "folding": 1.0}
NAMES = {"translation": "Translation", "rigid": "Rigid", "similarity": "Similar", "affine": "Affine", "bspline": "BSpline"}


def function(config: Config, run: Run) -> None:
    """Read, register, write, judge, draw."""
    import time

    import jax
    import numpy as np

    from diffimg import data, forward, registration
    from diffimg.registration import itk_file

    run.define(**DEFINITIONS)
    if config.transform_file.endswith(".h5"):
        itk_file.require_h5py()
    with run.stage("read"):
        fixed, moving, truth = _images(config)
        masks = {name: None if path is None else _slices(_read(name, path)) for name, path in _masks(config).items()}
        labels = _read_labels(config, fixed.grid, moving.grid)
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
        if back is not None:
            registration.write_transform(run.folder / f"back_{config.transform_file}", _in_itk(back.transform, moving.grid))
            inward = forward.warp(fixed.image, back.transform, config.order, "constant", grid=fixed.grid, onto=moving.grid)
            data.write_nifti(run.folder / "back_warped.nii.gz", data.Volume(np.asarray(inward), moving.grid))
        run.arrays(fixed=np.asarray(fixed.image), warped=np.asarray(warped), before=np.asarray(before), jacobian=np.asarray(determinant))
    with run.stage("judge"):
        scores = {"before": {"similarity": result.before}, "after": {"similarity": result.after, "seconds": seconds}}
        fit = intensity_fit(np.asarray(fixed.image), np.asarray(warped), seen["after"], COMPARABLE.get(config.similarity, "other"))
        for name, image in (("before", before), ("after", warped)):
            if fit is not None:
                scores[name]["nmse_foreground"] = difference(np.asarray(fixed.image), np.asarray(image), seen[name], fit)
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
        _labels(config, scores, result, fixed.grid, moving.grid, truth, labels)
        for name, values in scores.items():
            run.metric(name, **values)
    with run.stage("report"):
        images = (np.asarray(v) for v in (fixed.image, before, warped))
        shown = Shown(*images, seen, np.asarray(determinant), fit)
        pages(config, run, result, fixed.grid, shown, DEFINITIONS)


def _images(config):
    """(fixed, moving, the true transform or None)."""
    import numpy as np

    from diffimg import data, forward, registration

    if config.fixed is not None:
        volumes = [_read(name, path) for name, path in (("fixed", config.fixed), ("moving", config.moving))]
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


def _read(name, path):
    from diffimg import data

    try:
        return data.read(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _read_labels(config, fixed_grid, moving_grid):
    """Labels of both images as integers on the images' grids, or None."""
    import numpy as np

    from diffimg import registration

    if config.fixed_labels is None:
        return None
    ways = (("fixed_labels", config.fixed_labels, fixed_grid), ("moving_labels", config.moving_labels, moving_grid))
    found = [(_slices(_read(name, path)), grid) for name, path, grid in ways]
    return [np.round(registration.resampled_labels(v, grid)).astype(np.int32) for v, grid in found]


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
    return (WEIGHTS[config.regularizer] if config.weight is None else config.weight) * kind[config.regularizer]()


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


def _labels(config, scores, result, fixed_grid, moving_grid, truth, given):
    """Dice and HD95 of labels, before and after."""
    import numpy as np

    from diffimg import data, forward, metrics, registration

    still = forward.Translation(np.zeros(fixed_grid.ndim, np.float32))
    if given is not None:
        there, moving = given
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


HEADLINE = ("similarity", "nmse_foreground", "mean_error_mm", "dice", "hd95_mm", "folding_percent", "sd_log_jacobian")
recipe = Recipe(Config, function, (*HEADLINE, "inverse_consistency_mm", "seconds"))
