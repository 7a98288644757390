"""Parallel imaging with lines measured every R-th: SENSE, GRAPPA and networks trained on the calibration lines, and their noise."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, scores, simulate
from diffimg.experiment.run import Run


class Methods(Section):
    """Accelerations, calibration, and what is tuned on the tuning slice."""

    accelerations: list[int] = Field(default=[2, 3, 4], min_length=1)
    acs: int = Field(default=32, ge=8)
    kernel_lines: list[int] = Field(default=[2, 4], min_length=1)
    kernel_width: int = Field(default=9, ge=1)  # samples along the readout
    sense_weights: list[float] = Field(default=[1e-4, 1e-3, 3e-3, 1e-2, 3e-2], min_length=1)
    sense_steps: list[int] = Field(default=[40], min_length=1)
    grappa_weights: list[float] = Field(default=[1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], min_length=1)
    networks: list[str] = ["raki", "residual", "linear-residual"]
    network_steps: int = Field(default=400, ge=1)
    replicas: int = Field(default=16, ge=2)


class Config(Experiment):
    """Everything that determines a run of ``mri_parallel``."""

    scan: Scan = Scan(size=128, test_slices=[74])
    methods: Methods = Methods()


MORE = {
    "noise": "median over the brain of the standard deviation of |image| under fresh noise, over that of fully sampled data (replicas)",
    "artefact": "NMSE of the same reconstruction (trained on noisy data) applied to data without noise",
    "weight": "λ, chosen on the tuning slice",
    "size": "lines of the GRAPPA kernel, or steps of SENSE's conjugate gradients, chosen on the tuning slice",
}

GRAPPA, PLAIN = "GRAPPA", "GRAPPA, unweighted"


class _Scanner:
    """One acceleration: makes a reconstruction (k-space to an image) from calibration data and settings, by the method's name."""

    def __init__(self, r: int, config: Config, coils: Any, key: Any) -> None:
        import numpy as np

        from diffimg import forward, mri

        shape = (config.scan.size, config.scan.size)
        self.mask = mri.sampling.equispaced_mask(shape, r, config.methods.acs)
        self.operator = forward.MaskedFFT(self.mask, coils).prepare()
        ones = np.broadcast_to(self.mask, (1, *shape)).astype(np.complex64)
        self.pattern = mri.undersampling(ones)
        self.r, self.steps, self.coils, self.key = r, config.methods.network_steps, coils, key
        self.width = config.methods.kernel_width

    def make(self, name: str, kspace: Any, weight: float, size: int) -> Any:
        import importlib

        from diffimg import mri

        coils, pattern, operator = self.coils, self.pattern, self.operator
        region = kspace[:, pattern.start : pattern.stop]
        if name == "zero-filled":
            return lambda k: mri.combined_image(k, coils)
        if name == "SENSE":
            return lambda k: mri.sense(k, operator, size, regularization=weight).x
        if name in (GRAPPA, PLAIN):
            kernel = mri.calibrate(region, self.r, (size, self.width), weight, weighting=1.0 if name == GRAPPA else 0.0)
            return lambda k: mri.combined_image(mri.fill(k, kernel, pattern), coils)
        raki = importlib.import_module("diffimg.mri.raki")
        network = mri.Raki(variant=name, steps=self.steps, kernel=(size, self.width), regularization=weight)
        parameters, linear = raki.fit(region, self.r, network, self.key)
        return lambda k: mri.combined_image(raki.apply(k, parameters, linear, network, pattern), coils)


def function(config: Config, run: Run) -> None:
    """Simulate, tune, reconstruct at every acceleration, measure noise, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, **MORE)
    scan, m = config.scan, config.methods
    key = jax.random.key(config.seed)
    with run.stage("simulate"):
        tune = simulate(scan, [scan.tune_slice], jax.random.fold_in(key, 0))
        test = simulate(scan, scan.test_slices, jax.random.fold_in(key, 1))
        clean = simulate(scan.model_copy(update={"noise": 0.0}), scan.test_slices, jax.random.fold_in(key, 1))
        full = np.asarray(mri.full_deviation(test.coils, scan.noise)) / np.sqrt(2)
        inside = test.inside[0]
    tuned = list(itertools.product(m.grappa_weights, m.kernel_lines))
    candidates = {"zero-filled": [(0.0, 0)], "SENSE": list(itertools.product(m.sense_weights, m.sense_steps)), PLAIN: tuned, GRAPPA: tuned}
    shown = m.accelerations[-1]
    pictured: dict[str, Any] = {}
    for r in m.accelerations:
        scanner = _Scanner(r, config, test.coils, jax.random.fold_in(key, 7))
        chosen: dict[str, tuple[float, int]] = {}
        for name in [*candidates, *m.networks]:
            with run.stage(f"R = {r}, {name}"):
                settings = candidates[name] if name in candidates else [chosen[GRAPPA]]
                best = settings[0]
                if len(settings) > 1:
                    y = jnp.asarray(tune.kspace[0] * scanner.mask)
                    tried = {s: scores(np.asarray(scanner.make(name, y, *s)(y))[None], tune.truth)["psnr_db"] for s in settings}
                    best = max(tried, key=lambda s: tried[s])
                chosen[name] = best
                images, ideal = [], []
                for i, (k, k0) in enumerate(zip(test.kspace, clean.kspace, strict=True)):
                    y = jnp.asarray(k * scanner.mask)
                    reconstruct = scanner.make(name, y, *best)
                    images.append(np.asarray(reconstruct(y)))
                    ideal.append(np.asarray(reconstruct(jnp.asarray(k0 * scanner.mask))))
                    if i == 0:
                        deviation = mri.replica_deviation(
                            lambda v, f=reconstruct: jnp.abs(f(v)), y, scan.noise, jax.random.fold_in(key, 8),
                            replicas=m.replicas, mask=scanner.mask,
                        )  # fmt: skip
                        noise_map = np.where(inside, np.asarray(deviation) / np.maximum(full, 1e-12), 0)
            noise = float(np.median(noise_map[inside]))
            if r == shown:
                pictured[name] = (np.abs(images[0]), noise_map)
            artefact = scores(np.stack(ideal), clean.truth)["nmse"]
            setting = {"weight": float(best[0]), "size": best[1]}
            run.metric(f"R = {r}: {name}", **scores(np.stack(images), test.truth), noise=noise, artefact=artefact, **setting)

    with run.stage("report"):
        title = config.title or "Parallel imaging: one linear rule, or a network, from the calibration lines"
        truth = np.abs(test.truth[0])
        window = (0.0, float(np.quantile(truth, 0.999)))
        del pictured["zero-filled"]
        errors = {n: v[0] - truth for n, v in pictured.items()}
        symmetric = pictures.symmetric_window(list(errors.values()))
        high = float(np.ceil(np.quantile(np.concatenate([v[1][inside] for v in pictured.values()]), 0.98)))
        top: list[Any] = [pictures.Panel(truth, "truth", "", window, pixel_size=test.spacing)]
        middle: list[Any] = [None]
        bottom: list[Any] = [None]
        for name, (image, noise_map) in pictured.items():
            score = run.metrics["methods"][f"R = {shown}: {name}"]
            top.append(pictures.Panel(image, name, f"{score['psnr_db']:.1f} dB", window, pixel_size=test.spacing))
            middle.append(pictures.Panel(errors[name], "error", f"without noise: NMSE {score['artefact']:.1e}", symmetric, colors="RdBu_r"))
            bottom.append(pictures.Panel(noise_map, "noise amplification", f"median {score['noise']:.2f}", (0.0, high), colors="magma"))
        overview = pictures.png(pictures.grid([top, middle, bottom], f"{title} (R = {shown})"))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS | MORE)
        report.picture("Overview", overview, SPLIT)
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "noise", "artefact", "weight", "size"))
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "noise", "artefact"))
