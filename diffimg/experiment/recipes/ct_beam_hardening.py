"""Beam hardening: cupping and dark bands in a water cylinder with inserts, the water correction, and the model that removes both."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.xray_scan import Fan, Tube
from diffimg.experiment.run import Run


class Object(Section):
    """A cylinder of water with two rods of bone, one of dilute iodine and one of fat: analytic, never on a grid."""

    radius: float = Field(default=100.0, gt=0)  # mm
    iodine: float = Field(default=10.0, ge=0)  # mg/ml


class Image(Section):
    """The grid reconstructed on."""

    size: int = Field(default=192, ge=16)
    pixel_size: float = Field(default=1.2, gt=0)  # mm
    reference_energy: float = Field(default=70.0, gt=10)  # keV, at which HU are stated


class Model(Section):
    """½ Σ w (model(x) − log data)² + weight·TV(x), one unknown a pixel."""

    energies_per_bin: int = Field(default=6, ge=2)  # keV: the reconstruction knows the spectrum more coarsely than the simulation
    tv_weight: float = Field(default=0.01, ge=0)
    soft_limit: float = Field(default=1.1, gt=1)  # up to here (in units of water) a pixel is denser water, above it mixes with bone
    steps: int = Field(default=200, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_beam_hardening``."""

    object: Object = Object()
    tube: Tube = Tube()
    fan: Fan = Fan()
    image: Image = Image()
    model: Model = Model()


DEFINITIONS = {
    "cupping_percent": "100·(1 − mean μ in the central quarter radius / mean μ of water at 0.85 to 0.93 radii)",
    "cupping_reduction": "|cupping of FBP| / |cupping|",
    "band_hu": "mean HU of the water between the bone rods (|x| ≤ 0.35, |y| ≤ 0.06 radii) − mean HU at 0.85 to 0.93 radii",
    "rmse_hu": "root mean square error in the cylinder (0.96 radii), HU at the reference energy",
}


def function(config: Config, run: Run) -> None:
    """Simulate with many energies from analytic shapes, reconstruct in three ways, measure the cupping."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct, data
    from diffimg.experiment import pictures
    from diffimg.experiment.recipes import xray_scan as xs
    from diffimg.forward import xray

    run.define(**DEFINITIONS)
    n, pixel, radius = config.image.size, config.image.pixel_size, config.object.radius
    geometry = xs.fan_beam(config.fan, n, pixel)
    with run.stage("simulate"):
        phantom = data.material_phantom("cylinder", radius, config.object.iodine, "adipose")
        spectrum = xs.spectrum(config.tube)
        response = xray.energy_integrating(spectrum.energies)
        flat = jnp.sum(spectrum.fluence * response)
        t = xs.lengths(list(phantom.values()), xs.fan_beam(config.fan, n, pixel, xs.SUBCELLS))
        mu = xray.linear_attenuation(list(phantom), spectrum.energies)
        signal = xs.readings(jax.random.key(config.seed), spectrum.fluence, mu, response, t)
        log_data = ct.log_transform(signal, flat, floor=spectrum.mean_energy)
        reference = xray.linear_attenuation(list(phantom), config.image.reference_energy)
        truth = sum(m * p.rasterize((n, n), pixel) for m, p in zip(reference, phantom.values(), strict=True))
        mu_water, mu_bone = float(reference[0]), float(reference[1])

    images: dict[str, Any] = {}
    coarse = spectrum.coarsened(config.model.energies_per_bin)
    weights = coarse.fluence * xray.energy_integrating(coarse.energies)
    mu = xray.linear_attenuation(("water", "bone"), coarse.energies)
    with run.stage("FBP"):
        images["FBP"] = jax.block_until_ready(ct.fbp(log_data, geometry, "hann"))
    with run.stage("water correction"):
        polynomial = ct.water_polynomial(mu[0], weights, mu_water, 2.5 * radius)
        images["water correction"] = jax.block_until_ready(ct.fbp(ct.linearize(log_data, polynomial), geometry, "hann"))
    with run.stage("polyenergetic model", config.model.steps):
        physics = xray.PolyenergeticTransmission(coarse.fluence, mu, geometry.sinogram_shape, xray.energy_integrating(coarse.energies))
        limit = config.model.soft_limit
        path = ct.MaterialPath((limit * mu_water, mu_bone), ((limit, 0.0), (0.0, 1.0)), (n, n))
        model = xs.log_model(physics, geometry, path)
        start = jnp.maximum(images["water correction"], 0)
        progress = run.iterations("polyenergetic model")
        result = xs.fit(model, log_data, signal / flat, start, config.model.tv_weight, config.model.steps, progress)
        images["polyenergetic model"] = jax.block_until_ready(result.x)

    centre, body = xs.disc((n, n), pixel, 0, 0.25 * radius), xs.disc((n, n), pixel, 0, 0.96 * radius)
    rim = xs.disc((n, n), pixel, 0.85 * radius, 0.93 * radius)
    at = np.abs(np.arange(n) - (n - 1) / 2) * pixel / radius
    band = (at[:, None] <= 0.06) & (at <= 0.35)
    first = abs(float(ct.cupping(images["FBP"], centre, rim)))
    hu = {name: np.asarray(ct.hounsfield(image, mu_water)) for name, image in images.items()}
    true_hu = np.asarray(ct.hounsfield(truth, mu_water))
    for name, image in images.items():
        cup = float(ct.cupping(image, centre, rim))
        run.metric(
            name,
            cupping_percent=100 * cup,
            cupping_reduction=first / max(abs(cup), 1e-9),
            band_hu=float(hu[name][band].mean() - hu[name][rim].mean()),
            rmse_hu=float(np.sqrt(np.mean((hu[name] - true_hu)[body] ** 2))),
        )
    run.arrays(truth=truth, log_data=log_data, **{k.replace(" ", "_"): v for k, v in images.items()})
    with run.stage("report"):
        values = run.metrics["methods"]
        captions = {
            k: f"cupping {v['cupping_percent']:.2f} % · band {v['band_hu']:.0f} HU · RMSE {v['rmse_hu']:.0f} HU" for k, v in values.items()
        }
        profile = pictures.Plot(_profiles({"truth": true_hu, **hu}, pixel, radius), "water, mean over rings", ("radius (mm)", "HU"))
        title = config.title or "Beam hardening"
        xs.present(
            run, title, hu, true_hu, pixel, ((-150.0, 250.0), (-100.0, 100.0)), captions, profile, history=("model", result.objective)
        )


def _profiles(images: dict[str, Any], pixel: float, radius: float) -> dict[str, Any]:
    """Mean HU by radius, along the diagonals, where there is only water."""
    import numpy as np

    n = next(iter(images.values())).shape[0]
    at = (np.arange(n) - (n - 1) / 2) * pixel
    r, angle = np.hypot(at[:, None], at), np.arctan2(at[:, None], at)
    free = np.abs(np.mod(angle, np.pi / 2) - np.pi / 4) < np.pi / 10
    rings = np.arange(2 * pixel, 0.96 * radius, 2 * pixel)
    masks = [free & (np.abs(r - ring) < pixel) for ring in rings]
    return {name: (rings, [image[m].mean() if m.any() else np.nan for m in masks]) for name, image in images.items()}


recipe = Recipe(Config, function, headline=("cupping_percent", "cupping_reduction", "band_hu", "rmse_hu"))
