"""A real DICOM slice through the physics and back: HU → materials → polyenergetic fan beam → noise → log → correction → HU."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_serializer

from diffimg.experiment.config import ConfigError, Experiment, Section
from diffimg.experiment.provenance import portable
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.xray_scan import Fan, Tube
from diffimg.experiment.run import Run


class Data(Section):
    """The slice, in HU."""

    file: str | None = None  # DICOM, NIfTI or TIFF; None: the head that comes with pydicom (J2K_pixelrep_mismatch.dcm)
    slice: int | None = Field(default=None, ge=0)  # of a volume; None: the middle one
    size: int = Field(default=256, ge=16)  # side of the grid reconstructed on, pixels
    refinement: int = Field(default=2, ge=2, le=8)  # simulation cells along one side of a pixel

    @field_serializer("file")
    def _portable(self, file: str | None) -> str | None:
        return portable(file) if file else file  # run folders name no folder of the machine


class Model(Section):
    """½ Σ w (model(x) − log data)² + weight·TV(x), one unknown a pixel, water and bone."""

    energies_per_bin: int = Field(default=6, ge=2)  # keV
    tv_weight: float = Field(default=0.01, ge=0)
    soft_limit: float = Field(default=1.1, gt=1)
    steps: int = Field(default=60, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``ct_hounsfield``."""

    data: Data = Data()
    tube: Tube = Tube()
    fan: Fan = Fan(views=480, detector_spacing=1.0)
    reference_energy: float = Field(default=70.0, gt=10)  # keV
    model: Model = Model()


SOFT = (-50.0, 100.0)  # HU
DEFINITIONS = {
    "soft_mae_hu": "mean |HU − true HU| over soft tissue: pixels of the slice with this one and its 8 neighbours in −50 … 100 HU",
    "soft_bias_hu": "mean (HU − true HU) over the same pixels",
    "bone_bias_hu": "the same over pixels that are with their neighbours above 300 HU",
}


def function(config: Config, run: Run) -> None:
    """Read, simulate on the finer grid, reconstruct, compare HU."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from scipy import ndimage

    from diffimg import ct
    from diffimg.experiment import pictures
    from diffimg.experiment.recipes import xray_scan as xs
    from diffimg.forward import Radon, xray

    run.define(**DEFINITIONS)
    factor = config.data.refinement
    with run.stage("simulate"):
        fine_hu, true_hu, fine_pixel, source = read_slice(config)
        n, pixel = len(true_hu), fine_pixel * factor
        tissues = ("adipose", "soft tissue", "bone")
        energy = config.reference_energy
        mu_water = float(xray.linear_attenuation("water", energy))
        # the object is made of other materials than the reconstruction knows
        nodes = xray.linear_attenuation(tissues, energy)
        fractions = ct.MaterialPath(nodes, np.eye(3, dtype=np.float32), fine_hu.shape)(ct.attenuation(jnp.asarray(fine_hu), mu_water))
        fine = xs.fan_beam(config.fan, n * factor, fine_pixel, xs.SUBCELLS)
        geometry = xs.fan_beam(config.fan, n, pixel)
        spectrum = xs.spectrum(config.tube)
        response = xray.energy_integrating(spectrum.energies)
        flat = jnp.sum(spectrum.fluence * response)
        dark = config.tube.electronic_noise * float(spectrum.mean_energy)
        mu = xray.linear_attenuation(tissues, spectrum.energies)
        signal = xs.readings(jax.random.key(config.seed), spectrum.fluence, mu, response, Radon(fine)(fractions), electronic=dark)
        log_data = ct.log_transform(signal, flat, floor=spectrum.mean_energy)

    coarse = spectrum.coarsened(config.model.energies_per_bin)
    quanta = xray.energy_integrating(coarse.energies)
    mu = xray.linear_attenuation(("water", "bone"), coarse.energies)
    mu_bone = float(xray.linear_attenuation("bone", energy))
    images: dict[str, Any] = {}
    with run.stage("FBP"):
        images["FBP, uncorrected"] = jax.block_until_ready(ct.fbp(log_data, geometry, "hann"))
    with run.stage("water correction"):
        corrected = ct.water_correction(log_data, mu[0], coarse.fluence * quanta, mu_water)
        images["FBP, water correction"] = jax.block_until_ready(ct.fbp(corrected, geometry, "hann"))
    with run.stage("polyenergetic model", config.model.steps):
        physics = xray.PolyenergeticTransmission(coarse.fluence, mu, geometry.sinogram_shape, quanta)
        limit = config.model.soft_limit
        path = ct.MaterialPath((limit * mu_water, mu_bone), ((limit, 0.0), (0.0, 1.0)), (n, n))
        start = jnp.maximum(images["FBP, water correction"], 0)
        progress = run.iterations("polyenergetic model")
        model = xs.log_model(physics, geometry, path)
        result = xs.fit(model, log_data, signal / flat, start, config.model.tv_weight, config.model.steps, progress)
        images["polyenergetic model"] = jax.block_until_ready(result.x)

    low, high = ndimage.minimum_filter(true_hu, 3), ndimage.maximum_filter(true_hu, 3)
    soft, bone = (low > SOFT[0]) & (high < SOFT[1]), low > 300
    hu = {name: np.asarray(ct.hounsfield(image, mu_water)) for name, image in images.items()}
    for name, image in hu.items():
        error = image - true_hu
        bias = {"bone_bias_hu": float(error[bone].mean())} if bone.any() else {}
        run.metric(name, soft_mae_hu=float(np.abs(error[soft]).mean()), soft_bias_hu=float(error[soft].mean()), **bias)
    run.arrays(true_hu=true_hu, soft=soft, log_data=log_data, **{k.replace(",", "").replace(" ", "_"): v for k, v in hu.items()})
    with run.stage("report"):
        captions = {
            k: f"soft tissue: mean |error| {v['soft_mae_hu']:.1f} HU, bias {v['soft_bias_hu']:.1f}"
            for k, v in run.metrics["methods"].items()
        }
        labels = np.where(soft, 1.0, np.where(bone, 2.0, 0.0))
        masks = pictures.Panel(labels, "1 soft tissue, 2 bone", window=(0.0, 2.0), unit="mask", pixel_size=pixel, colors="viridis")
        title = config.title or "From HU through the physics to HU"
        windows = ((-150.0, 200.0), (-100.0, 100.0))
        xs.present(run, title, hu, true_hu, pixel, windows, captions, masks, f"Object: {source}.", ("model", result.objective))


def read_slice(config: Config) -> tuple[Any, Any, float, str]:
    """``(fine HU, HU on the reconstruction grid, fine pixel size in mm, source)``; air outside the inscribed circle."""
    import numpy as np

    from diffimg import ct, data
    from diffimg.data.extras import optional
    from diffimg.data.samples import MU_WATER
    from diffimg.experiment.recipes.ct_sparse_view import read_image

    if config.data.file:
        file = config.data.file
    else:
        examples = optional("pydicom.data", "the example slice", "demo")
        file = str(examples.get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False))
    chosen = read_image(file, None, config.data.slice)
    if chosen.unit != "HU":
        raise ConfigError(f"data.file: expected an image in HU, got one in {chosen.unit!r}. Take a CT image with rescale tags.")
    try:
        grids = data.slice_for_ct(chosen, config.data.size, config.data.refinement)
    except ValueError as error:
        raise ConfigError(f"data.size, data.refinement: {error}") from error
    fine, coarse = (np.asarray(ct.hounsfield(v, MU_WATER)) for v in (grids.fine, grids.truth))
    return fine, coarse, grids.fine_pixel_size, chosen.source


recipe = Recipe(Config, function, headline=("soft_mae_hu", "soft_bias_hu", "bone_bias_hu"))
