"""From spins to images: sequences played to a brain slice spin by spin, and what the FFT makes of the signal."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Object(Section):
    """A slice of the brain template, filled with spins."""

    size: int = Field(default=48, ge=16, le=256)  # voxels along each side
    field_of_view: float = Field(default=230.0, gt=150)  # mm
    slice: int = Field(default=74, ge=0, le=188)
    spins: int = Field(default=2, ge=1, le=8)  # along each side of a voxel
    off_resonance: float = Field(default=30.0, ge=0)  # Hz, standard deviation of the smooth field


class Slab(Section):
    """The slice-selective pulse and the gradient beneath it."""

    thickness: float = Field(default=5.0, gt=0)  # mm
    duration: float = Field(default=2.0, gt=0)  # ms
    time_bandwidth: float = Field(default=6.0, gt=0)
    flip: float = Field(default=30.0, gt=0, lt=180)  # degrees


class Decay(Section):
    """Tissue whose spins dephase, and the echoes that bring them back."""

    t2: float = Field(default=80.0, gt=0)  # ms
    t2_star: float = Field(default=20.0, gt=0)  # ms, not above T2
    spacing: float = Field(default=60.0, gt=0)  # ms between echoes
    echoes: int = Field(default=3, ge=1, le=16)
    isochromats: int = Field(default=128, ge=8)


class Config(Experiment):
    """Everything that determines a run of ``mri_sequences``."""

    object: Object = Object()
    slab: Slab = Slab()
    decay: Decay = Decay()


DEFINITIONS = {
    "error": "‖image − signal equation‖/‖signal equation‖ of magnitudes; the equation's is averaged over each voxel",
    "intervals": "intervals of constant field in the sequence",
    "spins": "spins played to",
    "seconds": "wall time of the simulation, compilation included",
}


def function(config: Config, run: Run) -> None:
    """Play five sequences, transform, compare with their signal equations, draw the diagrams."""
    import time

    import jax.numpy as jnp
    import numpy as np

    from diffimg import forward, mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report
    from diffimg.experiment.sequence_picture import sequence_picture

    run.define(**DEFINITIONS)
    o = config.object
    shape, fov = (o.size, o.size), o.field_of_view * 1e-3
    brain = mri.brain([o.slice], shape, spacing=o.field_of_view / o.size, oversampling=o.spins, phase=0.0, off_resonance=0.0)
    maps = {n: brain.coarse(brain.parameter(n))[0] for n in ("density", "t1", "t2")}
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, o.size)], indexing="ij")
    field = 2 * math.pi * o.off_resonance * (1.2 * y**2 - x * y - 0.4 + 0.5 * x)
    played = cases(shape, fov, maps, field)
    rows: list[list[Any]] = []
    for name, (acquisition, initial, expected) in played.items():
        with run.stage(name):
            spins = mri.voxel_spins(shape, fov, per_voxel=o.spins, m0=maps["density"], t1=maps["t1"], t2=maps["t2"], off_resonance=field)
            start = time.perf_counter()
            z = jnp.broadcast_to(jnp.asarray(initial)[:, :, None, None, None] / o.spins**2, spins.shape)
            kspace = acquisition.run(spins, initial=jnp.stack([0 * z, 0 * z, z], axis=-1))
            kspace = np.asarray(kspace if acquisition.echoes == 1 else kspace[-1])
            seconds = time.perf_counter() - start
        image = np.abs(forward.ifft(kspace))
        truth = np.abs(np.asarray(voxel_average(expected, o.size, o.spins)))
        error = float(np.linalg.norm(image - truth) / np.linalg.norm(truth))
        count = int(np.prod(spins.shape))
        run.metric(name, error=error, intervals=len(acquisition.sequence), spins=count, seconds=seconds)
        window = (0.0, float(np.quantile(truth, 0.998)))
        log = np.log10(np.abs(kspace) / np.abs(kspace).max() + 1e-6)
        rows.append(
            [
                pictures.Panel(log, f"{name}: |k-space|", f"{len(acquisition.sequence)} intervals", (-4.0, 0.0), "log10", colors="magma"),
                pictures.Panel(image, "spin by spin, FFT", f"{count} spins", window, pixel_size=o.field_of_view / o.size),
                pictures.Panel(truth, "signal equation", "", window, pixel_size=o.field_of_view / o.size),
                pictures.Panel(image - truth, "difference", f"{error:.1%}", (-0.1 * window[1], 0.1 * window[1]), colors="RdBu_r"),
            ]
        )

    with run.stage("report"):
        title = config.title or "Spins, sequences and images"
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        diagrams = {name: sequence_picture(sequence, title=name) for name, sequence in drawn(shape, fov, config.slab).items()}
        for name, diagram in diagrams.items():
            run.write(f"sequence_{name.replace(' ', '_')}.png", diagram)
        profile = pictures.png(slice_selection(config))
        run.write("slice_selection.png", profile)
        decay = pictures.png(dephasing(config.decay))
        run.write("dephasing.png", decay)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview, "Every spin of the slice precesses, is excited and relaxes through the whole sequence.")
        for name, diagram in diagrams.items():
            caption = "One repetition with a slice-selective pulse and short times; the others' gradients in grey, hard pulses as arrows."
            report.picture(f"Sequence: {name}", diagram, caption)
        report.picture("Slice selection", profile, "A windowed sinc under a gradient along z, rephased by half its area.")
        caption = "Between the 180° pulses the spread of frequencies dephases the spins (T2*); at each echo only T2 is lost."
        report.picture("T2 and T2*", decay, caption)
        report.table("Metrics", run.metrics["methods"], ("error", "intervals", "spins", "seconds"))
        run.write("report.html", report.html())


def cases(shape: tuple[int, int], fov: float, maps: dict[str, Any], field: Any) -> dict[str, tuple[Any, Any, Any]]:
    """``{name: (acquisition, M_z at its start in the steady state, expected signal)}`` for maps ``[y, x]``."""
    import jax.numpy as jnp

    from diffimg import mri

    pd, t1, t2 = (jnp.asarray(maps[n]) for n in ("density", "t1", "t2"))
    out = {}
    tr, te = 0.02, 0.005
    flip = float(mri.ernst_angle(tr, 0.83))
    e1, c = jnp.exp(-tr / t1), math.cos(flip)
    out["FLASH"] = (
        mri.sequences.gradient_echo(shape, fov, tr=tr, te=te, flip=flip),
        pd * (1 - e1) / (1 - e1 * c),
        mri.spoiled_gradient_echo(pd, t1, t2, tr=tr, te=te, flip=flip),
    )
    tr, te = 2.5, 0.08
    before = 1 - 2 * jnp.exp(-(tr - te / 2) / t1) + jnp.exp(-tr / t1)
    out["spin echo"] = (mri.sequences.spin_echo(shape, fov, tr=tr, te=te), pd * before, mri.spin_echo(pd, t1, t2, tr=tr, te=te))
    tr, te, ti = 4.0, 0.006, 0.9
    out["inversion recovery"] = (
        mri.sequences.inversion_recovery(shape, fov, tr=tr, te=te, ti=ti),
        pd * (1 - jnp.exp(-(tr - ti) / t1)),
        mri.inversion_recovery(pd, t1, ti=ti, tr=tr) * jnp.exp(-te / t2),
    )
    tr, flip = 0.006, math.radians(45)
    steady = mri.balanced_ssfp(pd, t1, t2, tr=tr, flip=flip, off_resonance=field)
    on = jnp.abs(mri.balanced_ssfp(pd, t1, t2, tr=tr, flip=flip)) * jnp.exp(tr / 2 / t2)
    # half a pulse lays this magnetization on the cone of the steady state
    out["bSSFP"] = (mri.sequences.balanced_ssfp(shape, fov, tr=tr, flip=flip), on / math.sin(flip / 2), steady)
    tr, spacing, echoes = 2.5, 0.04, 4
    recovered = _train_recovery(t1, tr, spacing, echoes)
    out["fourth spin echo"] = (
        mri.sequences.multi_echo(shape, fov, tr=tr, spacing=spacing, echoes=echoes),
        pd * recovered,
        pd * recovered * jnp.exp(-echoes * spacing / t2),
    )
    return out


def drawn(shape: tuple[int, int], fov: float, slab: Slab) -> dict[str, Any]:
    """The same kinds of sequence with a slice-selective pulse, and times short enough for a drawing."""
    from diffimg import mri

    def pulse(flip):
        return mri.sinc_pulse(flip, slab.duration * 1e-3, time_bandwidth=slab.time_bandwidth)

    common = {"thickness": slab.thickness * 1e-3}
    longer = 2 * slab.duration * 1e-3  # of everything that must wait for the pulse
    flip = math.radians(slab.flip)
    make = mri.sequences
    scans = {
        "FLASH": make.gradient_echo(shape, fov, tr=0.02 + longer, te=0.004 + longer / 2, pulse=pulse(flip), **common),
        "spin echo": make.spin_echo(shape, fov, tr=0.5, te=0.008 + longer, pulse=pulse(math.pi / 2), **common),
        "inversion recovery": make.inversion_recovery(
            shape, fov, tr=0.1 + longer, te=0.004 + longer / 2, ti=0.01, pulse=pulse(math.pi / 2), **common
        ),
        "bSSFP": make.balanced_ssfp(shape, fov, tr=0.006 + longer, flip=flip, pulse=pulse(flip), **common),
        "multi-echo": make.multi_echo(shape, fov, tr=0.5, spacing=0.008 + longer, echoes=4, pulse=pulse(math.pi / 2), **common),
    }
    return {name: scan.sequence for name, scan in scans.items()}


def _train_recovery(t1, tr, spacing, echoes):
    """M_z/M₀ before the excitation of a train of 180° pulses at (n + ½)·spacing, each of which turns M_z over."""
    import jax.numpy as jnp

    z, at = 0.0 * t1, 0.0
    for n in range(echoes):
        pulse = (n + 0.5) * spacing
        z = -(1 + (z - 1) * jnp.exp(-(pulse - at) / t1))
        at = pulse
    return 1 + (z - 1) * jnp.exp(-(tr - at) / t1)


def voxel_average(image: Any, size: int, spins: int) -> Any:
    """The image that k-space of voxels of ``spins`` alike spins along each side holds: k-space of the samples times their transform."""
    import numpy as np

    from diffimg import forward

    k = (np.arange(size) - size // 2) / size
    voxel = np.sinc(k) / np.sinc(k / spins)
    return forward.ifft(forward.fft(image) * voxel[:, None] * voxel)


def slice_selection(config: Config) -> Any:
    """RF and slice profile, simulated and as the small-angle theory (the pulse's Fourier transform) has it."""
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.forward.nuclei import GAMMA

    s = config.slab
    flip = math.radians(s.flip)
    pulse = mri.sinc_pulse(flip, s.duration * 1e-3, time_bandwidth=s.time_bandwidth)
    z = np.linspace(-1.5, 1.5, 301) * s.thickness * 1e-3
    profile = np.asarray(mri.slice_profile(mri.excitation(pulse, s.thickness * 1e-3), z))
    time = (np.arange(len(pulse.rf)) + 0.5) * float(pulse.dwell) * 1e3
    gradient = float(mri.slice_gradient(pulse.bandwidth, s.thickness * 1e-3))
    angle = GAMMA * gradient * z[:, None] * ((time - time.mean()) * 1e-3)
    small = np.abs(np.sum(np.asarray(pulse.rf) * np.exp(1j * angle), axis=1)) * GAMMA * float(pulse.dwell)
    box = np.where(np.abs(z) <= s.thickness * 5e-4, math.sin(flip), 0.0)
    z = z * 1e3
    plots = [
        pictures.Plot({"B₁": (time, np.asarray(pulse.rf).real * 1e6)}, f"{s.flip:g}° sinc pulse", ("time (ms)", "B₁ (µT)")),
        pictures.Plot(
            {"|M_xy|, Bloch": (z, np.abs(profile)), "small angle": (z, np.sin(small), "--"), "wanted": (z, box, ":")},
            f"profile of a {s.thickness:g} mm slice, G = {gradient * 1e3:.1f} mT/m",
            ("z (mm)", "|M_xy|/M₀"),
        ),
        pictures.Plot({"M_x": (z, profile.real), "M_y": (z, profile.imag)}, "after the rephasing lobe", ("z (mm)", "M/M₀")),
    ]
    return pictures.grid([plots], "Slice selection")


def dephasing(decay: Decay) -> Any:
    """|M_xy| of one voxel whose frequencies spread: after 90°, and between the 180° pulses of a train."""
    import numpy as np

    from diffimg import mri
    from diffimg.experiment import pictures
    from diffimg.forward.sequence import concatenate

    t2, t2_star, spacing = (v * 1e-3 for v in (decay.t2, decay.t2_star, decay.spacing))
    steps = 60  # in half a spacing
    step = spacing / 2 / steps
    spins = mri.isochromats(mri.Spins(np.zeros(3), t2=t2), t2_star, decay.isochromats)
    wait = mri.Sequence(np.full(steps, step), np.zeros(steps, complex), np.zeros((steps, 3)), np.arange(steps))
    start, refocus = (mri.excitation(mri.hard_pulse(math.radians(a), phase=math.radians(p))) for a, p in ((90, 0), (180, 90)))
    signals = {
        "free": concatenate([start, *[wait] * (2 * decay.echoes)]),
        "echoes": concatenate([start, *[wait, refocus, wait] * decay.echoes]),
    }
    size = {name: np.abs(np.asarray(mri.simulate(sequence, spins).signal)) for name, sequence in signals.items()}
    t = (np.arange(size["free"].size) + 1) * step
    curves = {
        "90°, then 180° every spacing": (t * 1e3, size["echoes"]),
        "90° alone": (t * 1e3, size["free"]),
        "exp(−t/T2)": (t * 1e3, np.exp(-t / t2), "--"),
        "exp(−t/T2*)": (t * 1e3, np.exp(-t / t2_star), ":"),
    }
    name = f"T2 = {decay.t2:g} ms, T2* = {decay.t2_star:g} ms, {decay.isochromats} isochromats"
    frequency, weight = (np.asarray(v).ravel() for v in (spins.off_resonance, spins.m0))
    width = 1 / t2_star - 1 / t2
    shown = np.abs(frequency) < 6 * width
    hertz = frequency[shown] / (2 * math.pi)
    density = (weight / np.gradient(frequency))[shown] * math.pi * width
    spread = {"isochromats": (hertz, density, "."), "Lorentz, half width 1/T2′": (hertz, 1 / (1 + (frequency[shown] / width) ** 2))}
    plots = [
        pictures.Plot(curves, name, ("time (ms)", "|M_xy|/M₀")),
        pictures.Plot(spread, "their frequencies", ("off-resonance (Hz)", "density (relative)")),
    ]
    return pictures.grid([plots], "Dephasing and refocusing")


recipe = Recipe(Config, function, headline=("error", "intervals", "spins"))
