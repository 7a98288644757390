"""Non-Cartesian MRI: radial and spiral scans through the NUFFT, by gridding, SENSE and total variation, and off-resonance."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, brain_image, coil_maps, scores
from diffimg.experiment.run import Run


class Radial(Section):
    """Spokes of the golden angle."""

    spokes: int = Field(default=48, ge=1)
    readout: int = Field(default=256, ge=8)


class Spiral(Section):
    """Arms long enough that off-resonance blurs."""

    arms: int = Field(default=8, ge=1)
    readout: int = Field(default=3000, ge=8)
    duration: float = Field(default=20.0, gt=0)  # ms
    field: float = Field(default=60.0, ge=0)  # Hz, standard deviation of the smooth field
    steps: int = Field(default=16, ge=1)  # of conjugate gradients


class Solver(Section):
    """Iterations, and what is chosen on the tuning slice."""

    sense_steps: list[int] = Field(default=[10, 20, 40, 80], min_length=1)
    tv_weights: list[float] = Field(default=[3e-5, 1e-4, 3e-4], min_length=1)
    tv_steps: int = Field(default=80, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``mri_non_cartesian``."""

    scan: Scan = Scan(size=160, noise=0.004)
    radial: Radial = Radial()
    spiral: Spiral = Spiral()
    solver: Solver = Solver()


MORE = {"weight": "CG steps, or the penalty's relative weight, chosen on the tuning slice"}


def function(config: Config, run: Run) -> None:
    """Simulate on a finer grid, tune, reconstruct, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import forward, mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, **MORE)
    scan, solver, n = config.scan, config.solver, config.scan.size
    key = jax.random.key(config.seed)
    with run.stage("simulate"):
        tune, test = (brain_image(scan, s, jax.random.fold_in(key, i)) for i, s in enumerate(([scan.tune_slice], scan.test_slices)))
        coils = coil_maps(scan, n)
        spokes = mri.trajectories.radial(config.radial.spokes, config.radial.readout)
        arms, per_arm = config.spiral.arms, config.spiral.readout
        turns = 0.5 * n / arms
        interleaves = mri.trajectories.spiral(arms, per_arm, turns)
        times = np.arange(per_arm) / per_arm * config.spiral.duration * 1e-3
        field = 2 * math.pi * config.spiral.field / (2 * math.pi * 40)  # the phantom's field has 40 Hz

    def scanned(phantom, trajectory, key, off=False):
        """Samples ``[slice, coil, ...]`` of the twice finer image, scaled as those of the coarse grid."""
        out = []
        for i in range(len(phantom.image)):
            fine = forward.NUFFT((2 * n, 2 * n), trajectory / 2, coil_maps(scan, 2 * n), tolerance=1e-5)
            if off:
                fine = forward.off_resonance(fine, field * phantom.brain.off_resonance[i], times, tolerance=1e-4)
            y = fine(jnp.asarray(phantom.image[i])) / 2
            parts = jax.random.normal(jax.random.fold_in(key, i), (2, *y.shape))
            out.append(y + scan.noise * (parts[0] + 1j * parts[1]))
        return out

    images: dict[str, Any] = {}
    with run.stage("radial"):
        maps, strength = mri.unit_maps(coils)
        operator = forward.NUFFT((n, n), spokes, maps).prepare()
        weights = mri.density_compensation(spokes, (n, n))
        data = [scanned(p, spokes, jax.random.fold_in(key, 10 + i)) for i, p in enumerate((tune, test))]
        methods = {
            "radial: gridding": ([1.0], lambda y, w: operator.H(weights * y) / strength),
            "radial: SENSE": (solver.sense_steps, lambda y, w: mri.sense(y, operator, int(w)).x / strength),
            "radial: total variation": (
                solver.tv_weights, lambda y, w: mri.compressed_sensing(y, operator, w, "tv", solver.tv_steps).x / strength,
            ),
        }  # fmt: skip
        for name, (candidates, reconstruct) in methods.items():
            tried = {w: scores(np.asarray(reconstruct(data[0][0], w))[None], tune.truth)["psnr_db"] for w in candidates}
            best = max(tried, key=lambda w: tried[w])
            images[name] = np.stack([np.asarray(reconstruct(y, best)) for y in data[1]])
            run.metric(name, **scores(images[name], test.truth), weight=float(best))
    with run.stage("spiral"):
        plain = forward.NUFFT((n, n), interleaves, coils)
        data = scanned(test, interleaves, jax.random.fold_in(key, 20), off=True)
        fields = [field * test.brain.coarse(m) for m in test.brain.off_resonance]
        aware = [forward.off_resonance(plain, m, times).prepare() for m in fields]
        prepared, steps = plain.prepare(), config.spiral.steps
        images["spiral: off-resonance ignored"] = np.stack([np.asarray(mri.sense(y, prepared, steps).x) for y in data])
        images["spiral: off-resonance in the model"] = np.stack(
            [np.asarray(mri.sense(y, a, steps).x) for y, a in zip(data, aware, strict=True)]
        )
        for name in list(images)[-2:]:
            run.metric(name, **scores(images[name], test.truth))
    with run.stage("report"):
        title = config.title or "Non-Cartesian MRI"
        truth = np.abs(test.truth[0])
        window = (0.0, float(np.quantile(truth, 0.999)))
        errors = {name: np.abs(v[0]) - truth for name, v in images.items()}
        symmetric = pictures.symmetric_window([errors["radial: SENSE"]], 0.99)

        def shown(name):
            score = run.metrics["methods"][name]
            caption = f"{score['psnr_db']:.1f} dB, SSIM {score['ssim']:.3f}"
            return pictures.Panel(np.abs(images[name][0]), name, caption, window, pixel_size=test.spacing)

        def error(name):
            return pictures.Panel(errors[name], "error", "", symmetric, colors="RdBu_r")

        def path(k, name):
            return pictures.Plot({"": (k[..., 1].T, k[..., 0].T, "-")}, name, ("k_x (rad/voxel)", "k_y (rad/voxel)"))

        radial, spiral = [m for m in images if m.startswith("radial")], [m for m in images if m.startswith("spiral")]
        hertz = fields[0] / (2 * math.pi)
        reach = float(np.ceil(np.abs(hertz).max()))
        rows = [
            [pictures.Panel(truth, "truth", "fully sampled, no noise", window, pixel_size=test.spacing), *map(shown, radial)],
            [path(np.asarray(spokes), f"{len(spokes)} spokes"), *map(error, radial)],
            [pictures.Panel(hertz, "off-resonance", "", (-reach, reach), "Hz", colors="RdBu_r"), *map(shown, spiral)],
            [path(np.asarray(interleaves)[:2], f"2 of {arms} arms of {config.spiral.duration:g} ms"), *map(error, spiral)],
        ]
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS | MORE)
        report.picture("Overview", overview, SPLIT)
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "weight"))
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "nmse", "weight"))
