"""Metal in CT: streaks of FBP, interpolation across the metal's trace, its normalised form, and two statistical polyenergetic models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.xray_scan import Fan, Tube
from diffimg.experiment.run import Run


class Object(Section):
    """A head (skull, vessels of iodine) with two pins of metal: analytic, never on a grid."""

    radius: float = Field(default=95.0, gt=0)  # mm
    metal: Literal["titanium", "iron", "gold"] = "iron"
    iodine: float = Field(default=10.0, ge=0)  # mg/ml


class Image(Section):
    """The grid reconstructed on."""

    size: int = Field(default=192, ge=16)
    pixel_size: float = Field(default=1.1, gt=0)  # mm
    reference_energy: float = Field(default=70.0, gt=10)  # keV, at which HU are stated


class Inpainting(Section):
    """What counts as metal."""

    threshold_hu: float = Field(default=3000.0, gt=0)  # in the first FBP
    margin: int = Field(default=1, ge=0)  # cells on both sides of the trace


class Model(Section):
    """½ Σ w (model(x) − log data)² + weight·TV(x), 1/w = variance + (metal_error · metal's line integral)².

    So starved rays hardly count, and rays through metal count as far as a metal object made of pixels is to be believed.
    """

    energies_per_bin: int = Field(default=6, ge=2)  # keV
    tv_weight: float = Field(default=0.01, ge=0)
    soft_limit: float = Field(default=1.1, gt=1)
    metal_error: float = Field(default=0.2, ge=0)  # relative error of the metal's line integral
    steps: int = Field(default=100, ge=1)


class Likelihood(Section):
    """−log P(readings | model(x)) + weight·TV(x): a shifted Poisson law of the readings' mean and variance, no logarithm of the data.

    Rays through metal count as the part of a reading that gives their logarithm the variance of ``Model``.
    """

    tv_weight: float = Field(default=3000.0, ge=0)
    steps: int = Field(default=100, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_metal``."""

    object: Object = Object()
    tube: Tube = Tube(photons=3e5, electronic_noise=5.0)
    fan: Fan = Fan()
    image: Image = Image()
    inpainting: Inpainting = Inpainting()
    model: Model = Model()
    likelihood: Likelihood = Likelihood()


DEFINITIONS = {
    "rmse_outside_hu": "root mean square error in the head, pixels further than 2 from metal",
    "mae_near_hu": "mean absolute error between 2 pixels and 12 mm from the metal's surface",
    "bias_between_hu": "mean error in the soft tissue on the line between the two pins",
}


def function(config: Config, run: Run) -> None:
    """Simulate, reconstruct in five ways, measure outside and near the metal."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from scipy import ndimage

    from diffimg import ct, energy, solve
    from diffimg.experiment.recipes import xray_scan as xs
    from diffimg.forward import Channelwise, Diagonal, Radon, xray

    run.define(**DEFINITIONS)
    n, pixel, metal_name = config.image.size, config.image.pixel_size, config.object.metal
    geometry = xs.fan_beam(config.fan, n, pixel)
    with run.stage("simulate"):
        phantom = head_with_pins(config)
        spectrum = xs.spectrum(config.tube)
        response = xray.energy_integrating(spectrum.energies)
        flat = jnp.sum(spectrum.fluence * response)
        t = xs.lengths(list(phantom.values()), xs.fan_beam(config.fan, n, pixel, xs.SUBCELLS))
        mu = xray.linear_attenuation(list(phantom), spectrum.energies)
        dark = config.tube.electronic_noise * float(spectrum.mean_energy)
        signal = xs.readings(jax.random.key(config.seed), spectrum.fluence, mu, response, t, electronic=dark)
        log_data = ct.log_transform(signal, flat, floor=2 * max(dark, float(spectrum.mean_energy)))
        reference = dict(zip(phantom, xray.linear_attenuation(list(phantom), config.image.reference_energy), strict=True))
        truth = sum(reference[k] * p.rasterize((n, n), pixel) for k, p in phantom.items())
        mu_water = float(reference["water"])

    coarse = spectrum.coarsened(config.model.energies_per_bin)
    quanta = xray.energy_integrating(coarse.energies)
    images: dict[str, Any] = {}
    with run.stage("FBP"):
        mu = xray.linear_attenuation(("water", "bone", metal_name), coarse.energies)
        corrected = ct.water_correction(log_data, mu[0], coarse.fluence * quanta, mu_water)
        images["FBP"] = jax.block_until_ready(ct.fbp(corrected, geometry, "hann"))
    with run.stage("inpainting"):
        metal = ct.hounsfield(images["FBP"], mu_water) > config.inpainting.threshold_hu
        trace = ct.metal_trace(metal, geometry, margin=config.inpainting.margin)
        first = ct.fbp(ct.interpolate_trace(corrected, trace), geometry, "hann")
        prior = ct.tissue_prior(first, mu_water, metal=metal)
        filled = ct.normalized_interpolation(corrected, Radon(geometry)(prior), trace)
        images["interpolation"] = jnp.where(metal, images["FBP"], first)
        images["NMAR"] = jax.block_until_ready(jnp.where(metal, images["FBP"], ct.fbp(filled, geometry, "hann")))
    with run.stage("PWLS", config.model.steps):
        physics = xray.PolyenergeticTransmission(coarse.fluence, mu, geometry.sinogram_shape, quanta)
        limit = config.model.soft_limit
        values = (limit * mu_water, float(reference["bone"]), float(reference[metal_name]))
        path = ct.MaterialPath(values, ((limit, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (n, n))
        start = jnp.clip(images["NMAR"], 0, reference[metal_name])
        weights = signal**2 / (signal + dark**2 / spectrum.mean_energy) / flat
        doubt = config.model.metal_error * Radon(geometry)(jnp.where(metal, start, 0))
        share = 1 / (1 + weights * config.tube.photons * doubt**2)
        progress = run.iterations("PWLS")
        expected = physics @ Channelwise(Radon(geometry), len(values)) @ path
        model = ct.NegativeLog(physics.flat) @ expected
        result = xs.fit(model, log_data, share * weights, start, config.model.tv_weight, config.model.steps, progress)
        images["PWLS"] = jax.block_until_ready(result.x)
    with run.stage("Poisson TV", config.likelihood.steps):
        law = energy.CompoundPoisson(quanta, coarse.fluence, dark)
        data_term = law.likelihood(Diagonal(share) @ expected, share * signal)  # a reading in doubt counts as a part of one
        tv = energy.TotalVariation(config.likelihood.tv_weight, lower=0.0, gap=0.0, max_steps=10)
        curvature = data_term.y  # of the likelihood in the line integrals, where the model fits the readings
        solver = solve.FISTA(xs.step_size(model, curvature, start))
        progress = run.iterations("Poisson TV")
        fitted = solve.run(solver, solve.Problem(data_term, tv), start, config.likelihood.steps, objective_every=0, progress=progress)
        images["Poisson TV"] = jax.block_until_ready(fitted.check().x)

    true_metal = np.asarray(phantom[metal_name].rasterize((n, n), pixel)) > 0
    distance = ndimage.distance_transform_edt(~true_metal)
    body = np.asarray(truth) > 0.5 * mu_water
    outside = body & (distance > 2)
    near = outside & (distance * pixel <= 12)
    between = outside & _between(config, n, pixel)
    hu = {name: np.asarray(ct.hounsfield(image, mu_water)) for name, image in images.items()}
    true_hu = np.asarray(ct.hounsfield(truth, mu_water))
    for name, image in hu.items():
        error = image - true_hu
        run.metric(
            name,
            rmse_outside_hu=float(np.sqrt(np.mean(error[outside] ** 2))),
            mae_near_hu=float(np.abs(error[near]).mean()),
            bias_between_hu=float(error[between].mean()),
        )
    run.arrays(truth=truth, log_data=log_data, trace=trace, **{k.replace(" ", "_"): v for k, v in images.items()})
    with run.stage("report"):
        from diffimg.experiment import pictures

        captions = {k: f"{v['rmse_outside_hu']:.0f} HU · near {v['mae_near_hu']:.0f} HU" for k, v in run.metrics["methods"].items()}
        cells = (geometry.detector_count - 1) / 2 * geometry.detector_spacing
        sinogram = pictures.Panel(
            log_data,
            f"log data, {float(jnp.mean(trace)):.1%} of the cells see metal",
            unit="line integral",
            extent=(-cells, cells, 360.0, 0.0),
            axes=("detector position (mm)", "view angle (°)"),
        )
        title = config.title or "Metal artifacts"
        history = ("PWLS", result.objective)
        xs.present(run, title, hu, true_hu, pixel, ((-300.0, 400.0), (-200.0, 200.0)), captions, sinogram, history=history)


def head_with_pins(config: Config) -> dict[str, Any]:
    """Analytic maps of volume fractions: the head of ``data.material_phantom``, with a second pin opposite the first."""
    import jax
    import jax.numpy as jnp

    from diffimg import data

    metal = config.object.metal
    phantom = data.material_phantom("head", config.object.radius, config.object.iodine, metal)
    pin = phantom[metal]
    other = data.Ellipses(pin.centers * jnp.array([1.0, -1.0]), pin.semi_axes, pin.rotation, pin.density)
    hole = data.Ellipses(other.centers, other.semi_axes, other.rotation, -other.density)

    def both(a, b):
        return jax.tree.map(lambda p, q: jnp.concatenate([p, q]), a, b)

    return {**phantom, metal: both(pin, other), "water": both(phantom["water"], hole)}


def _between(config: Config, n: int, pixel: float) -> Any:
    """The strip between the pins, two pixels high."""
    import numpy as np

    (y, x), r = head_with_pins(config)[config.object.metal].centers[0], config.object.radius
    at = (np.arange(n) - (n - 1) / 2) * pixel
    return (np.abs(at[:, None] - float(y)) <= pixel) & (np.abs(at) <= abs(float(x)) - 0.05 * r)


recipe = Recipe(Config, function, headline=("rmse_outside_hu", "mae_near_hu", "bias_between_hu"))
