"""The lecture's reconstruction: a field of experts as the prior, the masked Fourier transform through its closed-form prox."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, scores, simulate
from diffimg.experiment.run import Run


class Prior(Section):
    """Fixed filters (discrete cosines without the mean) and a potential; what is learned later starts here."""

    filter_size: int = Field(default=5, ge=2, le=11)
    potential: Literal["student", "huber", "charbonnier"] = "student"
    scale: float = Field(default=0.003, gt=0)  # of filter responses, relative to the brightest pixel of the zero-filled image
    weights: list[float] = Field(default=[3e-7, 6e-7, 1.2e-6, 2.4e-6], min_length=1)  # to choose from, relative to its square
    steps: int = Field(default=120, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``mri_fields_of_experts``."""

    scan: Scan = Scan(coils=1, size=160)
    acceleration: float = Field(default=4.0, gt=1)
    acs: int = Field(default=16, ge=0)
    prior: Prior = Prior()
    tv_weights: list[float] = Field(default=[2e-4, 4e-4, 8e-4], min_length=1)


MORE = {"weight": "chosen on the tuning slice"}


def function(config: Config, run: Run) -> None:
    """Simulate one coil, tune, reconstruct, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import energy, forward, mri, solve
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, **MORE)
    scan, prior = config.scan.model_copy(update={"coils": 1}), config.prior
    key = jax.random.key(config.seed)
    with run.stage("simulate"):
        tune, test = (simulate(scan, s, jax.random.fold_in(key, i)) for i, s in enumerate(([scan.tune_slice], scan.test_slices)))
        shape = (scan.size, scan.size)
        mask = mri.sampling.variable_density_mask(shape, config.acceleration, jax.random.fold_in(key, 2), acs=config.acs, axis=None)
        operator = forward.MaskedFFT(mask)
    filters = energy.dct_filters(prior.filter_size)

    def experts(y, weight):
        top = float(jnp.max(jnp.abs(operator.H(y))))
        regularizer = energy.FieldsOfExperts(filters, weight * top**2, prior.scale * top, prior.potential)
        problem = solve.Problem(smooth=regularizer, proximable=energy.LeastSquares(operator, y))
        return solve.run(solve.FISTA(), problem, operator.H(y), steps=prior.steps).x

    methods = {
        "total variation": (config.tv_weights, lambda y, w: mri.compressed_sensing(y, operator, w, "tv", prior.steps).x),
        "field of experts": (prior.weights, experts),
    }
    truth = test.truth
    images: dict[str, Any] = {"zero-filled": np.stack([np.asarray(operator.H(jnp.asarray(k[0] * mask))) for k in test.kspace])}
    run.metric("zero-filled", **scores(images["zero-filled"], truth))
    for name, (candidates, reconstruct) in methods.items():
        with run.stage(name):
            y = jnp.asarray(tune.kspace[0, 0] * mask)
            tried = {w: scores(np.asarray(reconstruct(y, w))[None], tune.truth)["psnr_db"] for w in candidates}
            best = max(tried, key=lambda w: tried[w])
            images[name] = np.stack([np.asarray(reconstruct(jnp.asarray(k[0] * mask), best)) for k in test.kspace])
        run.metric(name, **scores(images[name], truth), weight=float(best))

    with run.stage("report"):
        title = config.title or "A field of experts and a closed-form prox"
        shown = np.abs(truth[0])
        window = (0.0, float(np.quantile(shown, 0.999)))
        errors = {n: np.abs(i[0]) - shown for n, i in images.items()}
        symmetric = pictures.symmetric_window([errors["total variation"]])
        caption = {n: f"{run.metrics['methods'][n]['psnr_db']:.1f} dB, SSIM {run.metrics['methods'][n]['ssim']:.3f}" for n in images}
        top: list[Any] = [pictures.Panel(shown, "truth", "fully sampled, no noise", window, pixel_size=test.spacing)]
        top += [pictures.Panel(np.abs(i[0]), n, caption[n], window, pixel_size=test.spacing) for n, i in images.items()]
        label = f"samples, R = {mri.sampling.acceleration(mask):.2g}"
        bottom: list[Any] = [pictures.Panel(mask.astype(float), label, window=(0.0, 1.0))]
        bottom += [pictures.Panel(e, f"{n} − truth", "", symmetric, colors="RdBu_r") for n, e in errors.items()]
        overview = pictures.png(pictures.grid([top, bottom], title))
        run.write("overview.png", overview)
        n = prior.filter_size
        bank = [pictures.Panel(np.asarray(f), "", window=(-0.5, 0.5), colors="RdBu_r") for f in np.asarray(filters)]
        experts_png = pictures.png(pictures.grid([bank[i : i + n * 2] for i in range(0, len(bank), n * 2)], "Filters", width=12.0))
        report = standard_report(run, title, config.description, DEFINITIONS | MORE)
        report.picture("Overview", overview, SPLIT.replace("smooth simulated phase", "one coil, smooth simulated phase"))
        report.picture("Experts", experts_png, "Discrete cosines without the mean; each response goes through the same potential.")
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "weight"))
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "nmse", "weight"))
