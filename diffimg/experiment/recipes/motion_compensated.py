"""Reconstruction of something that moves: image and motion estimated together, through scan ∘ warp, for CT and for MRI."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Object(Section):
    """A slice of the template that breathes: u_g = s_g · u, u a smooth random deformation, s_g from 0 to 1 and back."""

    size: int = Field(default=96, ge=32)  # pixels over 256 mm
    slice: int = Field(default=88, ge=20, le=150)
    states: int = Field(default=6, ge=2)
    amplitude: float = Field(default=7.0, ge=0)  # mm, standard deviation of the control points' moves at the largest state
    mesh: int = Field(default=4, ge=1)


class CTScan(Section):
    """Interleaved views: each state sees every states-th one."""

    views: int = Field(default=120, ge=4)
    photons: float = Field(default=2e5, gt=0)
    tv: float = Field(default=0.02, gt=0)


class MRIScan(Section):
    """Interleaved lines of k-space, the centre in every state."""

    centre: int = Field(default=16, ge=0)  # lines of every state
    noise: float = Field(default=0.005, ge=0)  # of the largest value
    tv: float = Field(default=0.02, gt=0)


class Estimation(Section):
    """Alternating: some steps of the image, some of the motion."""

    rounds: int = Field(default=8, ge=1)
    image_steps: int = Field(default=40, ge=1)
    motion_steps: int = Field(default=25, ge=1)
    mesh: int = Field(default=5, ge=1)  # of the motion that is sought: not that of the truth
    bending: float = Field(default=0.1, ge=0)
    baseline_tv: list[float] = Field(default=[1, 3, 10, 30], min_length=1)  # factors of tv; ignoring the motion takes the best for itself


class Config(Experiment):
    """Everything that determines a run of ``motion_compensated``."""

    object: Object = Object()
    ct: CTScan | None = CTScan()
    mri: MRIScan | None = MRIScan()
    estimation: Estimation = Estimation()

    @model_validator(mode="after")
    def _something(self) -> Config:
        if self.ct is None and self.mri is None:
            raise ValueError("ct, mri: expected at least one scan, got neither. Leave out one of ct=null and mri=null.")
        return self


DEFINITIONS = {
    "psnr_db": "10 log10(max²/MSE) against the object in its state of rest",
    "tv": "weight of total variation; without knowledge of the motion the best of several, chosen by the PSNR",
    "motion_error_mm": "mean distance of the estimated from the true motion within the object, over all states",
    "seconds": "of the estimation, compilation included",
}


def function(config: Config, run: Run) -> None:
    """Simulate on a finer grid, reconstruct ignoring the motion, estimating it, and knowing it."""
    import numpy as np

    run.define(**DEFINITIONS)
    rows: list[Any] = []
    pictures: dict[str, Any] = {}
    for name, section in (("CT", config.ct), ("MRI", config.mri)):
        if section is None:
            continue
        with run.stage(f"{name}: simulate"):
            problem = _problem(config, name)
        truth, peak = problem["truth"], float(np.max(problem["truth"]))
        still = [problem["still"]] * len(problem["scans"])
        images = {"at rest (truth)": truth}
        for method in ("motion ignored", "motion estimated", "motion known"):
            factors = config.estimation.baseline_tv if method == "motion ignored" else [1.0]
            tries = []
            with run.stage(f"{name}: {method}"):
                for factor in factors:
                    image, motion, seconds = _reconstruct(config, problem | {"tv": factor * problem["tv"]}, method, still)
                    score = float(10 * np.log10(peak**2 / np.mean((image - truth) ** 2)))
                    tries.append((score, factor * problem["tv"], image, motion, seconds))
            score, weight, image, motion, seconds = max(tries, key=lambda t: t[0])
            found = {"psnr_db": score, "tv": weight, "seconds": seconds}
            if motion is not None:
                found["motion_error_mm"] = _apart(motion, problem)
            run.metric(f"{name}, {method}", **found)
            images[method] = image
        rows.append(_row(name, images, problem))
        pictures[name] = images
        run.arrays(**{f"{name}_{k}".replace(" ", "_"): np.asarray(v) for k, v in images.items()})
    with run.stage("report"):
        _report(config, run, rows, pictures)


def _problem(config, name):
    """Scans and data of every state, the object at rest and its true motion."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import data, forward

    o = config.object
    slices = data.brain_slices("test", size=o.size, factor=2)
    chosen = int(np.argmin(np.abs(np.asarray(slices.z) - o.slice)))
    fine, truth = np.asarray(slices.fine[chosen]), np.asarray(slices.truth[chosen])
    grid = data.Grid.centred(truth.shape, slices.spacing)
    fine_grid = data.Grid.centred(fine.shape, slices.fine_spacing)
    rng = np.random.default_rng(config.seed)
    start = forward.FreeForm.identity(fine_grid, mesh=o.mesh)
    moves = rng.normal(0, o.amplitude, start.coefficients.shape).astype(np.float32)
    share = np.sin(np.pi * np.arange(o.states) / o.states)
    motions = [forward.FreeForm(s * moves, start.lattice) for s in share]
    moved = [np.asarray(forward.warp(fine, m, 3, grid=fine_grid)) for m in motions]
    keys = jax.random.split(jax.random.key(config.seed), o.states)
    scans, measured = [], []
    if name == "CT":
        angles = np.linspace(0, np.pi, config.ct.views, endpoint=False)
        attenuation = 0.02  # 1/mm at the largest value
        for g in range(o.states):
            own = angles[g :: o.states]
            bins = int(np.ceil(1.5 * o.size))
            scan = forward.Radon(forward.ParallelBeam(truth.shape, own, bins, slices.spacing, slices.spacing)).prepare()
            finer = forward.ParallelBeam(fine.shape, own, 2 * bins, slices.fine_spacing, slices.fine_spacing)
            lines = attenuation * forward.Radon(finer)(moved[g]).reshape(len(own), bins, 2).mean(-1)
            counts = jax.random.poisson(keys[g], config.ct.photons * jnp.exp(-lines)).astype(jnp.float32)
            measured.append(-jnp.log(jnp.maximum(counts, 0.5) / config.ct.photons) / attenuation)
            scans.append(scan)
    else:
        n = o.size
        for g in range(o.states):
            mask = np.zeros((n, 1), np.float32)
            mask[g :: o.states] = 1
            mask[n // 2 - config.mri.centre // 2 : n // 2 + (config.mri.centre + 1) // 2] = 1
            scan = forward.MaskedFFT(np.broadcast_to(mask, (n, n)).copy())
            big = forward.fft(jnp.asarray(moved[g], jnp.complex64)) / 2  # orthonormal: the cut keeps the mean
            k = big[n // 2 : n // 2 + n, n // 2 : n // 2 + n]
            noise = jax.random.normal(keys[g], (2, n, n)) * config.mri.noise * float(truth.max())
            measured.append(scan.mask * (k + noise[0] + 1j * noise[1]))
            scans.append(scan)
    lattice = forward.spline_lattice(grid, mesh=config.estimation.mesh)
    return {
        "name": name,
        "truth": truth,
        "grid": grid,
        "motions": motions,
        "scans": tuple(scans),
        "data": tuple(measured),
        "lattice": lattice,
        "still": forward.FreeForm(jnp.zeros((*lattice.shape, 2)), lattice),
        "tv": config.ct.tv if name == "CT" else config.mri.tv,
    }


def _reconstruct(config, problem, method, still):
    """(image, motion or None, seconds)."""
    import time

    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import energy, forward, registration, solve

    started = time.perf_counter()
    e, grid, scans, measured = config.estimation, problem["grid"], problem["scans"], problem["data"]
    complex_values = jnp.iscomplexobj(measured[0])
    kind = jnp.complex64 if complex_values else jnp.float32
    prior = energy.TotalVariation(problem["tv"], lower=None if complex_values else 0.0, spacing=(1.0, 1.0), max_steps=10, gap=0.0)

    @jax.jit
    def image_steps(x, motions):
        name = jnp.dtype(kind).name
        operators = tuple(a @ forward.Warp(m, grid, dtype_name=name) for a, m in zip(scans, motions, strict=True))
        task = solve.Problem(smooth=energy.LeastSquares(forward.Stack(operators), measured), proximable=prior)
        return solve.run(solve.FISTA(), task, x, e.image_steps, objective_every=0).x

    norm = float(sum(jnp.sum(jnp.abs(y) ** 2) for y in measured))

    @jax.jit
    def motion_steps(x, theta):
        task = registration.MotionEnergy(x, scans, measured, e.bending * energy.Bending(), jnp.float32(norm), grid, problem["lattice"])
        return solve.run(solve.LBFGS(typical=1.0), solve.Problem(smooth=task), theta, e.motion_steps, objective_every=0).x

    x = jnp.zeros(grid.shape, kind)
    motion = None
    if method == "motion known":
        for _ in range(e.rounds):
            x = image_steps(x, tuple(problem["motions"]))
    elif method == "motion ignored":
        for _ in range(e.rounds):
            x = image_steps(x, tuple(still))
    else:
        theta = jnp.zeros((len(scans), *problem["lattice"].shape, 2))
        free = lambda c: tuple(forward.FreeForm(c[g] * (g > 0), problem["lattice"]) for g in range(len(scans)))  # noqa: E731
        x = image_steps(x, free(theta))
        for _ in range(e.rounds):
            theta = motion_steps(x, theta)
            x = image_steps(x, free(theta))
        motion = free(theta)
    return np.asarray(jnp.abs(x) if complex_values else x), motion, time.perf_counter() - started


def _apart(motion, problem):
    import numpy as np

    inside = problem["truth"] > 0.1 * problem["truth"].max()
    grid = problem["grid"]
    moves = [np.asarray(a.displacement(grid) - b.displacement(grid)) for a, b in zip(motion, problem["motions"], strict=True)]
    return float(np.mean([np.linalg.norm(u, axis=-1)[inside].mean() for u in moves]))


def _row(name, images, problem):
    from diffimg.experiment.pictures import Panel

    high, pixel = float(problem["truth"].max()), problem["grid"].spacing[0]
    return [Panel(v, f"{name}: {k}", window=(0.0, high), pixel_size=pixel) for k, v in images.items()]


def _report(config, run, rows, images):
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.write("overview.png", pictures.png(pictures.grid(rows, config.title or "Motion-compensated reconstruction")))
    report = standard_report(run, config.title or "Motion-compensated reconstruction", config.description or "", DEFINITIONS)
    report.table("Measures", run.metrics["methods"], list(DEFINITIONS))
    for name, group in images.items():
        high = float(group["at rest (truth)"].max())
        report.images(f"{name}: swipe between them", group, (0.0, high), pixel_size=256 / config.object.size)
    report.picture("Overview", (run.folder / "overview.png").read_bytes())
    run.write("report.html", report.html())


recipe = Recipe(Config, function, tuple(DEFINITIONS))
