"""Quantitative maps: T1, T2, B₀ and B₁ of a brain slice by gradient-based fits in every voxel, with and without noise."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Object(Section):
    """A slice of the brain template."""

    size: int = Field(default=128, ge=48, le=512)
    field_of_view: float = Field(default=215.0, gt=150)  # mm
    slice: int = Field(default=74, ge=0, le=188)
    noise: float = Field(default=0.003, gt=0)  # standard deviation of real and imaginary part; water is 1


class Protocol(Section):
    """Times in s, angles in degrees."""

    inversion_times: list[float] = Field(default=[0.05, 0.2, 0.5, 1.0, 1.8, 3.0, 5.0], min_length=3)
    inversion_tr: float = Field(default=8.0, gt=0)
    flips: list[float] = Field(default=[3.0, 6.0, 12.0, 20.0], min_length=2)
    flip_tr: float = Field(default=0.02, gt=0)
    echo_times: list[float] = Field(default=[0.01, 0.02, 0.04, 0.08, 0.16, 0.32], min_length=2)
    field_times: list[float] = Field(default=[0.002, 0.004, 0.007, 0.011], min_length=3)
    double_angle: list[float] = Field(default=[60.0, 120.0], min_length=2)


class Config(Experiment):
    """Everything that determines a run of ``mri_quantitative``."""

    object: Object = Object()
    protocol: Protocol = Protocol()


DEFINITIONS = {
    "worst": "largest error inside the brain without noise: relative (T1, T2, B₁), or in Hz (B₀)",
    "bias": "median error inside the brain under noise: relative, or in Hz",
    "mean": "the mean of that error, which noise in the weakest signals moves more",
    "deviation": "robust standard deviation (1.4826 · MAD) of that error",
    "predicted": "median of the standard error that each fit states itself (Cramér–Rao), in the same unit",
}


def function(config: Config, run: Run) -> None:
    """Measure, fit, compare, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS)
    o, protocol = config.object, config.protocol
    spacing = o.field_of_view / o.size
    with run.stage("tissue maps"):
        brain = mri.brain([o.slice], (o.size, o.size), spacing=spacing, oversampling=1, key=jax.random.key(config.seed))
        density, t1, t2 = (jnp.asarray(brain.parameter(n)[0]) for n in ("density", "t1", "t2"))
        inside = np.asarray(brain.support()[0])
        omega = jnp.asarray(brain.off_resonance[0])
        at = np.linspace(-1, 1, o.size)
        b1 = jnp.asarray(1.12 - 0.35 * (at[:, None] ** 2 + at**2), jnp.float32)
        phase = jnp.exp(1j * jnp.asarray(brain.phase[0]))
    angles = {n: np.radians(getattr(protocol, n)) for n in ("flips", "double_angle")}
    ti, te, field_te = (np.asarray(v) for v in (protocol.inversion_times, protocol.echo_times, protocol.field_times))

    def stack(values, signal):
        return phase * jnp.stack([signal(v) for v in values])

    scans = {
        "T1, inversion recovery": (
            stack(ti, lambda v: mri.inversion_recovery(density, t1, ti=v, tr=protocol.inversion_tr)),
            lambda y: mri.fit_t1_inversion_recovery(y, ti, tr=protocol.inversion_tr),
            t1,
            "s",
        ),
        "T1, variable flip angle": (
            stack(angles["flips"], lambda v: mri.spoiled_gradient_echo(density, t1, jnp.inf, tr=protocol.flip_tr, te=0.0, flip=v * b1)),
            lambda y: mri.fit_t1_variable_flip_angle(y, angles["flips"], protocol.flip_tr, b1=b1),
            t1,
            "s",
        ),
        "T2, spin echoes": (
            stack(te, lambda v: mri.spin_echo(density, t1, t2, tr=1e3, te=v)),
            lambda y: mri.fit_t2_multi_echo(y, te),
            t2,
            "s",
        ),
        "B₀, gradient echoes": (
            stack(field_te, lambda v: density * jnp.exp(-v / (0.6 * t2) - 1j * omega * v)),
            lambda y: mri.fit_b0(y, field_te),
            omega,
            "Hz",
        ),
        "B₁, double angle": (
            stack(angles["double_angle"], lambda v: density * jnp.sin(v * b1)),
            lambda y: mri.fit_b1(y, angles["double_angle"]),
            b1,
            "",
        ),
    }
    rows: list[list[Any]] = []
    key = jax.random.key(config.seed + 1)
    for n, (name, (images, fit, truth, unit)) in enumerate(scans.items()):
        with run.stage(name):
            parts = jax.random.normal(jax.random.fold_in(key, n), (2, *images.shape))
            noisy = images + o.noise * (parts[0] + 1j * parts[1])
            found = [(fit(y)) for y in (images, noisy)]

            # B₀'s second parameter, R2*, is not shown
            def first(v, like):
                return np.asarray(v[0] if v.ndim > like.ndim else v)

            scale = 1 / (2 * math.pi) if unit == "Hz" else 1.0
            truth = np.asarray(truth) * scale
            maps = [first(f.parameters, truth) * scale for f in found]
            error = [(m - truth) if unit == "Hz" else (m - truth) / truth for m in maps]
            stated = first(found[1].deviation, truth) * scale / (1 if unit == "Hz" else truth)
            good = inside & np.asarray(found[1].valid)
            centre = float(np.median(error[1][good]))
            run.metric(
                name,
                worst=float(np.abs(error[0][inside & np.asarray(found[0].valid)]).max()),
                bias=centre,
                mean=float(np.mean(error[1][good])),
                deviation=float(1.4826 * np.median(np.abs(error[1][good] - centre))),
                predicted=float(np.median(stated[good])),
            )
        low, high = np.quantile(truth[inside], [0.005, 0.995])
        window = (float(low - 0.05 * (high - low)), float(high + 0.05 * (high - low)))
        if name.startswith("T"):
            window = (0.0, window[1])
        symmetric = pictures.symmetric_window([error[1][good]], 0.97)
        masked = [np.where(inside, v, np.nan) for v in (truth, *maps)]
        rows.append(
            [
                pictures.Panel(np.nan_to_num(masked[0], nan=window[0]), f"{name}: truth", "", window, unit, spacing, colors="viridis"),
                pictures.Panel(np.nan_to_num(masked[1], nan=window[0]), "without noise", "", window, unit, colors="viridis"),
                pictures.Panel(np.nan_to_num(masked[2], nan=window[0]), "with noise", "", window, unit, colors="viridis"),
                pictures.Panel(
                    np.where(good, error[1], 0),
                    "error with noise",
                    f"bias {centre:+.1e}",
                    symmetric,
                    "Hz" if unit == "Hz" else "relative",
                    colors="RdBu_r",
                ),
            ]
        )
    with run.stage("report"):
        title = config.title or "Quantitative maps"
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        text = (
            "Voxels of mixed tissue carry the mean of its parameters and decay with one constant, as the fits assume: this tests the fits, "
        )
        report.picture("Maps", overview, text + "not the assumption.")
        report.table("Metrics", run.metrics["methods"], ("worst", "bias", "mean", "deviation", "predicted"))
        run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("worst", "bias", "deviation", "predicted"))
