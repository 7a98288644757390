"""Undersampled multi-coil MRI: zero-filled, SENSE, wavelet and total-variation compressed sensing on held-out slices."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, scores, simulate
from diffimg.experiment.run import Run


class Sampling(Section):
    """Which samples are measured."""

    acceleration: float = Field(default=4.0, gt=1)
    acs: int = Field(default=16, ge=0)  # width of the full centre
    pattern: Literal["lines", "points", "poisson"] = "lines"


class Solver(Section):
    """Iterations, and the weights to choose from on the tuning slice."""

    steps: int = Field(default=60, ge=1)
    sense_steps: list[int] = Field(default=[5, 10, 20, 40], min_length=1)
    weights: list[float] = Field(default=[3e-4, 1e-3, 3e-3, 1e-2, 3e-2], min_length=1)
    coil_maps: Literal["known", "espirit"] = "known"


class Config(Experiment):
    """Everything that determines a run of ``mri_compressed_sensing``."""

    scan: Scan = Scan()
    sampling: Sampling = Sampling()
    solver: Solver = Solver()


def function(config: Config, run: Run) -> None:
    """Simulate, tune on one slab, score on another, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import forward, mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, weight="the penalty's relative weight or the number of CG steps, chosen on the tuning slice")
    scan, sampling, solver = config.scan, config.sampling, config.solver
    key = jax.random.key(config.seed)
    with run.stage("simulate"):
        tune = simulate(scan, [scan.tune_slice], jax.random.fold_in(key, 0))
        test = simulate(scan, scan.test_slices, jax.random.fold_in(key, 1))
        shape, pattern_key = (scan.size, scan.size), jax.random.fold_in(key, 2)
        if sampling.pattern == "poisson":
            mask = mri.sampling.poisson_disc_mask(shape, sampling.acceleration, pattern_key, acs=sampling.acs)
        else:
            axis = -2 if sampling.pattern == "lines" else None
            mask = mri.sampling.variable_density_mask(shape, sampling.acceleration, pattern_key, acs=sampling.acs, axis=axis)

    known, strength = mri.unit_maps(test.coils)

    def operator(kspace):
        maps = mri.espirit(kspace * mask, calibration=sampling.acs) if solver.coil_maps == "espirit" else known
        return forward.MaskedFFT(mask, maps).prepare()

    methods = {
        "SENSE": (solver.sense_steps, lambda y, a, w: mri.sense(y, a, int(w)).x / strength),
        "wavelet": (solver.weights, lambda y, a, w: mri.compressed_sensing(y, a, w, "wavelet", solver.steps).x / strength),
        "total variation": (solver.weights, lambda y, a, w: mri.compressed_sensing(y, a, w, "tv", solver.steps).x / strength),
    }
    images: dict[str, Any] = {"zero-filled": np.asarray(mri.combine(forward.ifft(test.kspace * mask), test.coils))}
    run.metric("zero-filled", **scores(images["zero-filled"], test.truth))
    for name, (candidates, reconstruct) in methods.items():
        with run.stage(name):
            y = jnp.asarray(tune.kspace[0] * mask)
            a = operator(tune.kspace[0])
            tried = {w: scores(np.asarray(reconstruct(y, a, w))[None], tune.truth)["psnr_db"] for w in candidates}
            best = max(tried, key=lambda w: tried[w])
            images[name] = np.stack([np.asarray(reconstruct(jnp.asarray(k * mask), operator(k), best)) for k in test.kspace])
        run.metric(name, **scores(images[name], test.truth), weight=float(best))
    run.arrays(truth=test.truth, mask=mask, **{k.replace(" ", "_").replace("-", "_"): v for k, v in images.items()})

    with run.stage("report"):
        title = config.title or f"Compressed sensing at R = {mri.sampling.acceleration(mask):.2g}"
        truth = np.abs(test.truth[0])
        window = (0.0, float(np.quantile(truth, 0.999)))
        errors = {n: np.abs(i[0]) - truth for n, i in images.items()}
        symmetric = pictures.symmetric_window([errors["SENSE"], errors["total variation"]])
        caption = {n: f"{run.metrics['methods'][n]['psnr_db']:.1f} dB, SSIM {run.metrics['methods'][n]['ssim']:.3f}" for n in images}
        top = [pictures.Panel(truth, "truth", "fully sampled, no noise", window, pixel_size=test.spacing)]
        top += [pictures.Panel(np.abs(i[0]), n, caption[n], window, pixel_size=test.spacing) for n, i in images.items()]
        bottom: list[Any] = [pictures.Panel(mask.astype(float), f"samples, R = {mri.sampling.acceleration(mask):.2g}", window=(0.0, 1.0))]
        bottom += [pictures.Panel(e, f"{n} − truth", "", symmetric, colors="RdBu_r") for n, e in errors.items()]
        overview = pictures.png(pictures.grid([top, bottom], title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, SPLIT)
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "weight"))
        report.images("Reconstructions", {"truth": truth, **{n: np.abs(i[0]) for n, i in images.items()}}, window, "", test.spacing)
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "nmse"))
