"""Water and bone from two energy bins: ray by ray with FBP, in one step from the counts, and images at one energy without hardening."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.xray_scan import Fan, Tube
from diffimg.experiment.run import Run


class Object(Section):
    """A cylinder of water with two rods of bone: analytic, never on a grid."""

    radius: float = Field(default=80.0, gt=0)  # mm


class Detector(Section):
    """Photon counting in energy bins."""

    thresholds: tuple[float, ...] = Field(default=(25.0, 65.0), min_length=2, strict=False)  # keV
    resolution: float = Field(default=6.0, ge=0)  # keV, full width at half maximum


class Image(Section):
    """The grid reconstructed on."""

    size: int = Field(default=160, ge=16)
    pixel_size: float = Field(default=1.15, gt=0)  # mm
    energy: float = Field(default=70.0, gt=10)  # keV, of the virtual monoenergetic image


class Projection(Section):
    """Lengths of the materials ray by ray, then FBP."""

    filter: str = "hann"
    cutoff: float = Field(default=0.8, gt=0, le=1)


class OneStep(Section):
    """½ Σ w (log model(maps) − log data)² + TV of the maps in whitened coordinates."""

    energies_per_bin: int = Field(default=6, ge=2)  # keV
    tv_weight: float = Field(default=0.03, ge=0)
    steps: int = Field(default=100, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_material_decomposition``."""

    object: Object = Object()
    tube: Tube = Tube(photons=2e6)
    fan: Fan = Fan(views=300)
    detector: Detector = Detector()
    image: Image = Image()
    projection: Projection = Projection()
    one_step: OneStep = OneStep()


DEFINITIONS = {
    "water_bias_percent": "mean error of the water fraction in the water around the rods, percent of pure water",
    "bone_bias_percent": "mean error of the bone fraction in the bone rods, percent of pure bone",
    "water_rmse": "root mean square error of the water fraction in the cylinder (0.95 radii)",
    "bone_rmse": "the same of the bone fraction",
    "mono_mae_hu": "mean |error| of the image at one energy in the cylinder, HU",
    "mono_cupping_percent": "100·(1 − mean μ in the central quarter radius / mean μ of water at 0.8 to 0.9 radii)",
}
MATERIALS = ("water", "bone")


def function(config: Config, run: Run) -> None:
    """Count photons in bins, decompose in two ways, compare densities and the image at one energy."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct, data
    from diffimg.experiment.recipes import xray_scan as xs
    from diffimg.forward import xray

    run.define(**DEFINITIONS)
    n, pixel, radius = config.image.size, config.image.pixel_size, config.object.radius
    geometry = xs.fan_beam(config.fan, n, pixel)
    detector = config.detector
    with run.stage("simulate"):
        phantom = {k: v for k, v in data.material_phantom("cylinder", radius, 0.0).items() if k in (*MATERIALS, "titanium")}
        phantom = {"water": merged(phantom["water"], phantom.pop("titanium")), "bone": phantom["bone"]}  # the pin's hole is filled
        spectrum = xs.spectrum(config.tube)
        bins = xray.photon_counting(spectrum.energies, detector.thresholds, resolution=detector.resolution)
        mu = xray.linear_attenuation(MATERIALS, spectrum.energies)
        t = xs.lengths([phantom[m] for m in MATERIALS], xs.fan_beam(config.fan, n, pixel, xs.SUBCELLS))
        counts = xs.readings(jax.random.key(config.seed), spectrum.fluence, mu, bins, t, counting=True)
        flat = jnp.sum(spectrum.fluence * bins, -1)[:, None, None]
        log_data = ct.log_transform(counts, flat)
        truth = np.stack([np.asarray(phantom[m].rasterize((n, n), pixel)) for m in MATERIALS])

    # the reconstruction knows spectrum and response in bins of a few keV
    step = config.one_step.energies_per_bin
    coarse = spectrum.coarsened(step)
    response = binned(spectrum.fluence * bins, step) / binned(spectrum.fluence, step)
    mu = xray.linear_attenuation(MATERIALS, coarse.energies)
    weights = coarse.fluence * response
    maps: dict[str, Any] = {}
    with run.stage("ray by ray"):
        lengths = jax.block_until_ready(ct.decompose(log_data, mu, weights, counts))
        maps["ray by ray"] = jax.block_until_ready(ct.fbp(lengths, geometry, config.projection.filter, config.projection.cutoff))
    with run.stage("one step", config.one_step.steps):
        physics = xray.PolyenergeticTransmission(coarse.fluence, mu, geometry.sinogram_shape, response)
        basis = ct.whitened_basis(mu, weights, jnp.array([1.5 * radius, 0.1 * radius]))
        result = one_step(config, geometry, physics, basis, log_data, counts, maps["ray by ray"], run.iterations("one step"))
        maps["one step"] = jax.block_until_ready(ct.MaterialBasis(basis, (n, n))(result.x))

    reference = xray.linear_attenuation(MATERIALS, config.image.energy)
    mu_water = float(reference[0])
    true_mono = np.asarray(ct.hounsfield(ct.virtual_monoenergetic(truth, reference), mu_water))
    body, centre = xs.disc((n, n), pixel, 0, 0.95 * radius), xs.disc((n, n), pixel, 0, 0.25 * radius)
    rods = xs.disc((n, n), pixel, 0, 0.11 * radius, (0.0, 0.55 * radius)) | xs.disc((n, n), pixel, 0, 0.11 * radius, (0.0, -0.55 * radius))
    rim = xs.disc((n, n), pixel, 0.8 * radius, 0.9 * radius)
    mono = {}
    for name, found in maps.items():
        error = np.asarray(found) - truth
        image = ct.virtual_monoenergetic(found, reference)
        mono[name] = np.asarray(ct.hounsfield(image, mu_water))
        run.metric(
            name,
            water_bias_percent=100 * float(error[0][centre | rim].mean()),
            bone_bias_percent=100 * float(error[1][rods].mean()),
            water_rmse=float(np.sqrt(np.mean(error[0][body] ** 2))),
            bone_rmse=float(np.sqrt(np.mean(error[1][body] ** 2))),
            mono_mae_hu=float(np.abs(mono[name] - true_mono)[body].mean()),
            mono_cupping_percent=100 * float(ct.cupping(image, centre, rim)),
        )
    run.arrays(truth=truth, log_data=log_data, lengths=lengths, **{k.replace(" ", "_"): v for k, v in maps.items()})
    with run.stage("report"):
        _present(config, run, {"truth": truth, **maps}, {"truth": true_mono, **mono}, result.objective)


def merged(first: Any, second: Any) -> Any:
    """Two analytic maps as one."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def binned(values: Any, factor: int) -> Any:
    """Sums of ``factor`` neighbours along the last axis, as ``Spectrum.coarsened`` takes them."""
    import jax.numpy as jnp

    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % factor)])
    return padded.reshape(*values.shape[:-1], -1, factor).sum(-1)


def one_step(config: Config, geometry: Any, physics: Any, basis: Any, log_data: Any, counts: Any, start: Any, progress: Any) -> Any:
    """Maps in whitened coordinates from the log data of all bins at once, from a start ``[material, y, x]``."""
    import jax.numpy as jnp

    from diffimg import ct, energy, solve
    from diffimg.core import linalg
    from diffimg.forward import Channelwise, Radon

    n = config.image.size
    model = ct.NegativeLog(physics.flat) @ physics @ Channelwise(Radon(geometry), len(MATERIALS)) @ ct.MaterialBasis(basis, (n, n))
    weights = counts / jnp.sum(physics.flat, 0)
    z = jnp.tensordot(jnp.linalg.inv(basis), start, 1)
    derivative = model.linearize(z)
    root = jnp.sqrt(weights)
    norm = linalg.operator_norm(lambda v: root * derivative(v), lambda v: derivative.H(root * v), model.domain, steps=12).upper
    tv = energy.TotalVariation(config.one_step.tv_weight, gap=0.0, max_steps=10, spacing=(1.0, 1.0))
    problem = solve.Problem(energy.LeastSquares(model, log_data, weights), tv)
    steps = config.one_step.steps
    return solve.run(solve.FISTA(1 / norm**2), problem, z, steps, objective_every=max(1, steps // 10), progress=progress).check()


def _present(config: Config, run: Run, maps: dict[str, Any], mono: dict[str, Any], objective: Any) -> None:
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    pixel = config.image.pixel_size
    methods = run.metrics["methods"]
    window = (-150.0, 200.0)
    rows = []
    for name in maps:
        v = methods.get(name)
        water, bone = np.asarray(maps[name])
        text = ("", "", "")
        if v:
            text = (
                f"bias {v['water_bias_percent']:.2f} %, RMSE {v['water_rmse']:.3f}",
                f"bias {v['bone_bias_percent']:.1f} %, RMSE {v['bone_rmse']:.3f}",
                f"mean |error| {v['mono_mae_hu']:.1f} HU, cupping {v['mono_cupping_percent']:.2f} %",
            )
        rows.append(
            [
                pictures.Panel(water, f"water, {name}", text[0], (0.8, 1.1), "volume fraction of water", pixel),
                pictures.Panel(bone, f"bone, {name}", text[1], (-0.1, 1.1), "volume fraction of bone", pixel),
                pictures.Panel(mono[name], f"{config.image.energy:g} keV, {name}", text[2], window, "HU", pixel),
            ]
        )
    title = config.title or "Material decomposition"
    overview = pictures.png(pictures.grid(rows, title, 13.0))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    report.picture("Overview", overview)
    report.table("Metrics", methods, tuple(DEFINITIONS))
    report.images("Water", {k: np.asarray(v)[0] for k, v in maps.items()}, (0.8, 1.1), "volume fraction", pixel)
    report.images("Bone", {k: np.asarray(v)[1] for k, v in maps.items()}, (-0.1, 1.1), "volume fraction", pixel)
    report.images(f"At {config.image.energy:g} keV", mono, window, "HU", pixel)
    values = np.asarray(objective)
    report.curves("Objective", {"one step": (np.arange(len(values)), values)}, "iteration", "objective")
    report.table("Time by stage", run.metrics["stages"], ("seconds", "compile_seconds"))
    run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("water_bias_percent", "bone_bias_percent", "water_rmse", "bone_rmse", "mono_mae_hu"))
