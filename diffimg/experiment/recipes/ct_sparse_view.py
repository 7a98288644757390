"""Sparse-view, low-dose CT of a real slice: simulate on a finer grid, reconstruct by FBP, Tikhonov and TV, compare with the truth."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator

from diffimg.experiment.config import ConfigError, Experiment, Section
from diffimg.experiment.provenance import portable
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run, RunError


class Data(Section):
    """The object: a slice out of an installed package, or a file."""

    sample: str = "ct_head"
    file: str | None = None  # instead of the sample: DICOM (a file or a series' folder), NIfTI, TIFF, or .npy [y, x] in 1/mm
    slice: int | None = Field(default=None, ge=0)  # of a volume, from the feet; None: the middle one
    unit: Literal["HU", "1/mm", "1"] | None = None  # of a file that does not tell (NIfTI, TIFF); "1" is scaled to water
    pixel_size: float | None = Field(default=None, gt=0)  # mm; instead of what the file says (.npy: nothing)
    size: int = Field(default=256, ge=16, le=2048)  # side of the grid reconstructed on, pixels
    refinement: int = Field(default=2, ge=2, le=8)  # simulation cells along one side of a pixel

    @field_validator("sample")
    @classmethod
    def _known(cls, name: str) -> str:
        from diffimg.core.check import one_of
        from diffimg.data import names

        one_of("sample", name, names())
        return name

    @field_serializer("file")
    def _portable(self, file: str | None) -> str | None:
        return portable(file) if file else file  # run folders name no folder of the machine


class Geometry(Section):
    """The scan: equidistant parallel views."""

    views: int = Field(default=60, ge=1)
    arc: float = Field(default=180.0, ge=10, le=360)  # degrees
    detector_count: int | None = Field(default=None, ge=2)  # None: covers the image's diagonal
    detector_spacing: float | None = Field(default=None, gt=0)  # mm; None: the pixel size
    detector_offset: float = 0.0  # mm


class Noise(Section):
    """Beer–Lambert counting noise."""

    photons: float = Field(default=2e4, gt=0)  # unattenuated beam, per detector cell and view
    statistical_weights: bool = False  # weigh the data of Tikhonov and TV by 1/variance


class FilteredBackprojection(Section):
    """The window on the ramp filter."""

    filter: Literal["ramlak", "shepp-logan", "cosine", "hamming", "hann"] = "hann"
    cutoff: float = Field(default=1.0, gt=0, le=1)  # of the detector's Nyquist frequency


class TikhonovSection(Section):
    """½‖Ax − y‖² + weight/2 ‖Gx‖², by conjugate gradients."""

    weight: float = Field(default=1.0, ge=0)
    operator: Literal["gradient", "identity"] = "gradient"
    steps: int = Field(default=50, ge=1)


class TotalVariationSection(Section):
    """½‖Ax − y‖² + weight Σ|∇x|."""

    weight: float = Field(default=1.0, ge=0)
    isotropic: bool = True
    nonnegative: bool = True


class Solver(Section):
    """How the TV problem is solved."""

    name: Literal["FISTA", "ProximalGradient"] = "FISTA"
    steps: int = Field(default=200, ge=1)
    tolerance: float = Field(default=0.0, ge=0)  # relative change at which to stop; 0 takes all steps
    restart: bool = True
    inner_steps: int = Field(default=10, ge=1)  # of the TV prox, warm-started


class Report(Section):
    """How results are shown."""

    window: tuple[float, float] | None = Field(default=None, strict=False)  # 1/mm, black and white; None: 0 to the largest value

    @field_validator("window")
    @classmethod
    def _increasing(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and not window[0] < window[1]:
            raise ValueError(f"expected black < white, got {list(window)}")
        return window


class Config(Experiment):
    """Everything that determines a run of ``ct_sparse_view``."""

    data: Data = Data()
    geometry: Geometry = Geometry()
    noise: Noise = Noise()
    fbp: FilteredBackprojection = FilteredBackprojection()
    tikhonov: TikhonovSection = TikhonovSection()
    tv: TotalVariationSection = TotalVariationSection()
    solver: Solver = Solver()
    report: Report = Report()


DEFINITIONS = {
    "psnr_db": "10 log10(R²/MSE) over the whole image, R = max − min of the truth (scikit-image)",
    "ssim": "mean SSIM, uniform 7×7 window, sample covariance, R = max − min of the truth (scikit-image)",
    "nmse": "‖x − truth‖² / ‖truth‖² (fastMRI)",
    "seconds": "wall clock of the stage without compilation",
    "compile_seconds": "tracing, lowering and compiling in that stage",
    "iterations": "steps taken by the solver",
    "objective": "the minimised function at the result",
}
METHODS = ("FBP", "Tikhonov", "TV")


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """A simulated scan: ``truth [y, x]`` (1/mm) of ``pixel_size`` mm, ``sinogram [view, detector]`` of a ``geometry``, its noise model."""

    truth: Any
    pixel_size: float
    geometry: Any
    sinogram: Any
    noise: Any
    source: str


def read_image(file: str, pixel_size: float | None, position: int | None = None, unit: str | None = None) -> Any:
    """A slice out of a file as a ``diffimg.data.Sample``: DICOM, NIfTI, TIFF, or .npy with attenuation in 1/mm.

    Nothing of the patient comes with it: the readers hand on pixels, spacing and unit only.
    """
    import numpy as np

    from diffimg.data import Sample, read

    name = Path(file).name
    try:
        if file.endswith(".npy"):
            image, spacing, found = np.load(file, allow_pickle=False), (pixel_size or 1.0,) * 2, "1/mm"
        else:
            volume = read(file)
            image, found = volume.image, volume.unit
            spacing = (pixel_size,) * 2 if pixel_size else volume.grid.spacing[-2:]
            if image.ndim == 3:
                at = len(image) // 2 if position is None else position
                if at >= len(image):
                    raise ConfigError(f"data.slice: expected 0 to {len(image) - 1}, got {at}. {name} has {len(image)} slices.")
                image = image[at]
        image = np.asarray(image, np.float32)
    except (ImportError, ConfigError):
        raise
    except Exception as error:  # readers raise many kinds
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"data.file: expected a readable DICOM, NIfTI, TIFF or .npy file, got {name} ({reason.replace(file, name)}). "
            "Check the path and the format."
        ) from error
    if image.ndim != 2 or not np.isfinite(image).all() or not np.ptp(image) > 0:
        raise ConfigError(
            f"data.file: expected one image [y, x] of finite values that are not all the same, got shape {image.shape} in {name}. "
            "Take one slice, and replace NaN and Inf."
        )
    return Sample(name, image, spacing, unit or found, f"file {name}", "as stated by its owner")


def measure(config: Config) -> Measurement:
    """Photon counts behind the object on a grid ``refinement`` times finer (Joseph's method, finer detector too), as line integrals.

    The counts of the fine cells are summed, so the data carry the partial volume effect, and neither the grid nor the projector is
    the one used to reconstruct.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg.data import slice_for_ct
    from diffimg.energy.noise import Transmission
    from diffimg.forward.geometry import ParallelBeam
    from diffimg.forward.radon import Radon

    data, scan, factor = config.data, config.geometry, config.data.refinement
    chosen = read_image(data.file, data.pixel_size, data.slice, data.unit) if data.file else data.sample
    try:
        ct = slice_for_ct(chosen, config.data.size, factor)
    except ValueError as error:
        raise ConfigError(f"data.size, data.refinement: {error}") from error
    largest = float(ct.fine.max())
    if largest > 1.0:
        expected = "attenuation in 1/mm (water is 0.019, bone 0.05)"
        raise ConfigError(f"data.file: expected {expected}, got values up to {largest:g}. Convert HU first: ct.attenuation(hu, 0.0193).")
    angles = np.arange(scan.views) * (math.radians(scan.arc) / scan.views)
    spacing = scan.detector_spacing or ct.pixel_size
    count = scan.detector_count or math.ceil(
        math.sqrt(2) * config.data.size * ct.pixel_size / spacing + 2 * abs(scan.detector_offset) / spacing
    )
    geometry = ParallelBeam((config.data.size,) * 2, angles, count, ct.pixel_size, spacing, scan.detector_offset)
    fine = ParallelBeam(ct.fine.shape, angles, count * factor, ct.fine_pixel_size, spacing / factor, scan.detector_offset)
    integrals = Radon(fine, method="joseph")(jnp.asarray(ct.fine))
    transmitted = jnp.exp(-integrals).reshape(scan.views, count, factor).mean(-1)
    noise = Transmission(photons=config.noise.photons)
    sinogram = noise.noise(jax.random.key(config.seed), -jnp.log(transmitted))
    return Measurement(np.asarray(ct.truth), ct.pixel_size, geometry, jax.block_until_ready(sinogram), noise, ct.sample.source)


def problems(config: Config, measurement: Measurement, operator: Any) -> dict[str, Any]:
    """The two variational problems, by method."""
    from diffimg.energy import H1, LeastSquares, SquaredL2, TotalVariation
    from diffimg.solve import Problem

    y = measurement.sinogram
    data = LeastSquares(operator, y, measurement.noise.weights(y) / config.noise.photons if config.noise.statistical_weights else None)
    quadratic = (H1 if config.tikhonov.operator == "gradient" else SquaredL2)(config.tikhonov.weight)
    tv = TotalVariation(
        config.tv.weight, config.tv.isotropic, lower=0.0 if config.tv.nonnegative else None, gap=0.0, max_steps=config.solver.inner_steps
    )
    return {"Tikhonov": Problem(smooth=data + quadratic), "TV": Problem(smooth=data, proximable=tv)}


def solver_for(config: Config, method: str) -> tuple[Any, int, float]:
    """Solver, steps and tolerance."""
    from diffimg.solve import FISTA, ConjugateGradient, ProximalGradient

    if method == "Tikhonov":
        return ConjugateGradient(), config.tikhonov.steps, 0.0
    chosen = FISTA(restart=config.solver.restart) if config.solver.name == "FISTA" else ProximalGradient()
    return chosen, config.solver.steps, config.solver.tolerance


def scores(image: Any, truth: Any) -> dict[str, float]:
    """PSNR, SSIM and NMSE against the truth."""
    from diffimg import metrics

    return {
        "psnr_db": float(metrics.psnr(image, truth, definition="skimage")),
        "ssim": float(metrics.ssim(image, truth, definition="skimage")),
        "nmse": float(metrics.nmse(image, truth)),
    }


def function(config: Config, run: Run) -> None:
    """Simulate, reconstruct three times, score, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import solve
    from diffimg.ct import fbp
    from diffimg.forward.radon import Radon
    from diffimg.solve import Status

    run.define(**DEFINITIONS)
    with run.stage("simulate"):
        scan = measure(config)
    run.arrays(truth=scan.truth, sinogram=scan.sinogram, angles=scan.geometry.angles, pixel_size=scan.pixel_size)
    images: dict[str, Any] = {}
    histories: dict[str, Any] = {}

    def finish(method: str, image: Any, watch: Any, **more: Any) -> None:
        images[method] = np.asarray(image)
        seconds = {"seconds": watch.seconds - watch.compile_seconds, "compile_seconds": watch.compile_seconds}
        run.metric(method, **scores(images[method], scan.truth), **seconds, **more)
        run.arrays(**{method.lower(): images[method]})

    with run.stage("FBP") as watch:
        image = jax.block_until_ready(fbp(scan.sinogram, scan.geometry, filter=config.fbp.filter, cutoff=config.fbp.cutoff))
    finish("FBP", image, watch, iterations=None, status="DIRECT")

    with run.stage("prepare"):  # tables of the projector, its adjoint and AᴴA
        operator = jax.block_until_ready(Radon(scan.geometry).prepare())
    start = jnp.zeros(scan.geometry.image_shape, scan.sinogram.dtype)
    for method, problem in problems(config, scan, operator).items():
        solver, steps, tolerance = solver_for(config, method)
        with run.stage(method, steps) as watch:
            result = jax.block_until_ready(solve.run(solver, problem, start, steps, tolerance, progress=run.iterations(method)))
            status = Status(int(result.status))
            watch.note = f"{int(result.iterations)} iterations" + ("" if status.ok else f", {status.name}")
        if not (status.ok or status is Status.MAX_STEPS):
            raise RunError(f"{method}: {status.message} (after {int(result.iterations)} iterations).")
        objective, change = np.asarray(result.objective), np.asarray(result.residual)
        run.history(method, objective, change)
        histories[method] = (objective, change)
        reached = float(objective[np.isfinite(objective)][-1])
        finish(method, result.x, watch, iterations=int(result.iterations), status=status.name, objective=reached)

    with run.stage("report"):
        _present(config, run, scan, images, histories)


def _present(config: Config, run: Run, scan: Measurement, images: dict[str, Any], histories: dict[str, Any]) -> None:
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    window = config.report.window or (0.0, float(np.quantile(scan.truth, 0.999)))
    errors = {name: image - scan.truth for name, image in images.items()}
    error_window = pictures.symmetric_window(list(errors.values()))
    detector, arc = scan.geometry.detector_positions, config.geometry.arc
    titles = {
        "FBP": f"FBP ({config.fbp.filter}, cutoff {config.fbp.cutoff:g})",
        "Tikhonov": f"Tikhonov ({config.tikhonov.operator}, λ = {config.tikhonov.weight:g})",
        "TV": f"{config.solver.name}-TV (λ = {config.tv.weight:g})",
    }
    size = scan.pixel_size
    sinogram = pictures.Panel(
        scan.sinogram,
        f"sinogram, {config.geometry.views} views, {config.noise.photons:g} photons",
        unit="line integral",
        extent=(float(detector[0]), float(detector[-1]), arc, 0.0),
        axes=("detector position (mm)", "view angle (°)"),
    )
    captions = {name: caption(run.metrics["methods"][name]) for name in images}
    first = pictures.Panel(scan.truth, "truth", f"{scan.truth.shape[0]}², pixel {size:.3g} mm", window, "attenuation (1/mm)", size)
    top = [first, *(pictures.Panel(i, titles[n], captions[n], window, first.unit, size) for n, i in images.items())]
    low = [
        pictures.Panel(e, f"{n} − truth", f"largest |error| {np.abs(e).max():.2g}/mm", error_window, "error (1/mm)", size, colors="RdBu_r")
        for n, e in errors.items()
    ]
    title = config.title or "Sparse-view CT"
    overview = pictures.png(pictures.grid([top, [sinogram, *low]], title))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    report.picture("Overview", overview, f"Object: {scan.source}.")
    report.table("Metrics", run.metrics["methods"], COLUMNS)
    report.images("Reconstructions", {"truth": scan.truth, **images}, window, "1/mm", size, captions)
    report.images("Error maps", errors, error_window, "1/mm", size, captions, colors="RdBu_r")
    report.curves("Objective", {n: (np.arange(len(o)), o) for n, (o, _) in histories.items()}, "iteration", "objective")
    report.curves("Relative change", {n: (np.arange(1, len(c) + 1), c) for n, (_, c) in histories.items()}, "iteration", "‖x⁺ − x‖ / ‖x⁺‖")
    report.table("Time by stage", run.metrics["stages"], ("seconds", "compile_seconds"))
    run.write("report.html", report.html())


def caption(values: dict[str, Any]) -> str:
    """PSNR, SSIM and NMSE in one line."""
    return f"PSNR {values['psnr_db']:.2f} dB · SSIM {values['ssim']:.3f} · NMSE {values['nmse']:.4f}"


COLUMNS = ("psnr_db", "ssim", "nmse", "iterations", "objective", "seconds", "compile_seconds", "status")
recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "nmse", "iterations", "seconds", "compile_seconds"))
