"""Projection radiography: scatter and the grid, penumbra and magnification, local contrast, and SNR = C·√N measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run


class Object(Section):
    """A slab of water with three discs in it: bone, a void and a lesion that is denser by some mm of water."""

    thickness: float = Field(default=150.0, gt=0)  # mm of water
    bone: float = Field(default=5.0, gt=0)  # mm, the thickness of each insert
    void: float = Field(default=5.0, gt=0)
    lesion: float = Field(default=2.0, gt=0)
    radius: float = Field(default=12.0, gt=0)  # mm, at the object


class Detector(Section):
    """A flat counting panel with an anti-scatter grid."""

    size: int = Field(default=192, ge=32)  # cells along a side
    spacing: float = Field(default=0.8, gt=0)  # mm
    primary_transmission: float = Field(default=0.7, gt=0, le=1)  # of the grid
    scatter_transmission: float = Field(default=0.1, gt=0, le=1)


class Scatter(Section):
    """Kernel superposition: Compton photons made in the ray, spread by a double Gaussian."""

    fraction: float = Field(default=0.35, ge=0)  # scattered photons that reach the panel, per interaction (buildup included)
    sigma_narrow: float = Field(default=10.0, gt=0)  # mm
    sigma_broad: float = Field(default=40.0, gt=0)  # mm
    broad_weight: float = Field(default=0.3, ge=0)


class Tube(Section):
    """Voltage, dose and focal spot."""

    kvp: float = Field(default=80.0, gt=20, le=150)
    photons: float = Field(default=2e5, gt=0)  # of a cell without object, for the pictures
    counts: tuple[float, ...] = Field(default=(1e2, 1e3, 1e4, 1e5, 1e6), min_length=2, strict=False)  # behind the slab, for the SNR curve
    focal_spot: float = Field(default=1.2, gt=0)  # mm
    magnifications: tuple[float, ...] = Field(default=(1.05, 1.25, 1.5, 2.0, 3.0), min_length=2, strict=False)


class Config(Experiment):
    """Everything that determines a run of ``radiography``."""

    object: Object = Object()
    tube: Tube = Tube()
    detector: Detector = Detector()
    scatter: Scatter = Scatter()
    draws: int = Field(default=64, ge=2)  # noisy radiographs in each measurement of the SNR


DEFINITIONS = {
    "contrast_bone": "local contrast C = (I_t − I_b)/I_b of the bone disc's mean reading against a ring of slab around it",
    "contrast_void": "the same of the void",
    "contrast_lesion": "the same of the lesion",
    "scatter_to_primary": "mean scattered over primary counts in the middle of the slab, behind the grid if there is one",
    "snr_lesion": "measured (mean I_t − mean I_b)/σ_b of the lesion at the dose of the pictures, σ_b the quantum noise of one cell",
    "largest_snr_deviation": "max |measured SNR / (C·√N) − 1| over the photon counts of the curve (narrow beam)",
    "largest_penumbra_deviation_mm": "max |measured − f·(M − 1)| over the magnifications, width = 10–90 % rise of the edge / 0.8",
}


def function(config: Config, run: Run) -> None:
    """Three beams, five magnifications, a sweep over the dose."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report
    from diffimg.forward import xray

    run.define(**DEFINITIONS)
    detector, kernel = config.detector, config.scatter
    key = jax.random.key(config.seed)
    shape = (detector.size, detector.size)
    with run.stage("simulate"):
        spectrum = xray.tube_spectrum(config.tube.kvp).scaled(config.tube.photons)
        mu = xray.linear_attenuation(("water", "bone"), spectrum.energies)
        lengths, discs = slab(config)
        primary = xray.PolyenergeticTransmission(spectrum.fluence, mu, shape)(lengths)
        size = 2 * detector.size - 1  # every cell sees every other one
        spread = xray.double_gaussian_kernel(kernel.sigma_narrow, kernel.sigma_broad, kernel.broad_weight, detector.spacing, (size, size))
        broad = xray.ScatterKernel(spread, shape, kernel.fraction, flat=config.tube.photons)
        grid = xray.ScatterKernel(
            spread, shape, kernel.fraction, 0.0, 1.0, config.tube.photons, detector.primary_transmission, detector.scatter_transmission
        )
        beams = {"narrow beam": primary, "broad beam": broad(primary), "broad beam, grid": grid(primary)}
        images = {name: jax.random.poisson(jax.random.fold_in(key, k), i).astype(jnp.float32) for k, (name, i) in enumerate(beams.items())}
    middle = tuple(slice(n // 2 - n // 16, n // 2 + n // 16) for n in shape)
    ratios = {"narrow beam": 0.0, "broad beam": broad.scatter_to_primary(primary), "broad beam, grid": grid.scatter_to_primary(primary)}
    for name, mean in beams.items():
        contrasts = {f"contrast_{k}": float(ct.local_contrast(mean[t].mean(), mean[b].mean())) for k, (t, b) in discs.items()}
        target, background = discs["lesion"]
        spr = jnp.broadcast_to(jnp.asarray(ratios[name]), shape)[middle].mean()
        quantum_noise = jnp.std((images[name] - mean)[background], ddof=1)  # without the field's shading, which is no noise
        snr = (images[name][target].mean() - images[name][background].mean()) / quantum_noise
        run.metric(name, **contrasts, scatter_to_primary=float(spr), snr_lesion=float(snr))

    with run.stage("SNR"):
        counts, measured, expected = snr_curve(config, key, primary, discs["lesion"])
        deviation = float(np.max(np.abs(measured / expected - 1)))
    with run.stage("penumbra"):
        edges, widths, theory = penumbra_curve(config)
    run.metric(
        "curves",
        largest_snr_deviation=deviation,
        largest_penumbra_deviation_mm=float(np.max(np.abs(np.asarray(widths) - np.asarray(theory)))),
    )
    run.arrays(**{k.replace(",", "").replace(" ", "_"): v for k, v in images.items()}, counts=counts, snr=measured, penumbra=widths)

    with run.stage("report"):
        panels = []
        for name, image in images.items():
            values = run.metrics["methods"][name]
            level = float(beams[name][middle].mean())
            contrast = f"contrast: bone {values['contrast_bone']:.2f}, lesion {values['contrast_lesion']:.3f}"
            caption = f"SPR {values['scatter_to_primary']:.2f} · {contrast}"
            panels.append(pictures.Panel(image / level, name, caption, (0.6, 1.3), "counts / counts of the slab", detector.spacing))
        magnifications = config.tube.magnifications
        plots = [
            pictures.Plot(edges, "an edge, by magnification", ("mm on the detector", "transmitted")),
            pictures.Plot(
                {"measured": (magnifications, widths, "o"), "f·(M − 1)": (magnifications, theory, "-")},
                f"penumbra of a focal spot of {config.tube.focal_spot:g} mm",
                ("magnification M", "width (mm)"),
            ),
            pictures.Plot(
                {"measured": (counts, measured, "o"), "|C|·√N": (counts, expected, "-")},
                f"SNR of the lesion, |C| = {abs(run.metrics['methods']['narrow beam']['contrast_lesion']):.3f}",
                ("photons behind the slab, a cell", "SNR"),
                (True, True),
            ),
        ]
        title = config.title or "Projection radiography"
        overview = pictures.png(pictures.grid([panels, plots], title))
        run.write("overview.png", overview)
        report = standard_report(run, title, config.description, DEFINITIONS)
        report.picture("Overview", overview)
        beam_columns = [c for c in DEFINITIONS if not c.startswith("largest")]
        report.table("Beams", {k: v for k, v in run.metrics["methods"].items() if k != "curves"}, beam_columns)
        rows = {f"N = {n:g}": {"measured SNR": m, "C·√N": e} for n, m, e in zip(counts, measured, expected, strict=True)}
        report.table("SNR", rows, ("measured SNR", "C·√N"))
        rows = {f"M = {m:g}": {"measured (mm)": w, "f·(M − 1) (mm)": t} for m, w, t in zip(magnifications, widths, theory, strict=True)}
        report.table("Penumbra", rows, ("measured (mm)", "f·(M − 1) (mm)"))
        run.write("report.html", report.html())


def slab(config: Config) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Lengths ``[water/bone, y, x]`` in mm; for each insert the masks of target and background, away from its edge."""
    import jax.numpy as jnp
    import numpy as np

    o, n, spacing = config.object, config.detector.size, config.detector.spacing
    at = (np.arange(n) - (n - 1) / 2) * spacing
    reach = n * spacing / 4
    centres = {"bone": (-reach / 2, -reach), "void": (-reach / 2, reach), "lesion": (reach, 0.0)}
    r = {name: np.hypot(at[:, None] - y, at - x) for name, (y, x) in centres.items()}
    inside = {name: d <= o.radius for name, d in r.items()}
    water = np.full((n, n), o.thickness) - o.bone * inside["bone"] - o.void * inside["void"] + o.lesion * inside["lesion"]
    masks = {name: (d <= 0.7 * o.radius, (d >= 1.3 * o.radius) & (d <= 1.8 * o.radius)) for name, d in r.items()}
    return jnp.asarray(np.stack([water, o.bone * inside["bone"]]), jnp.float32), masks


def snr_curve(config: Config, key: Any, primary: Any, masks: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """``(counts, measured SNR, |C|·√N)`` of the lesion's cells against the slab's, at several doses, from many noisy radiographs."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct

    target, background = (primary[m] for m in masks)
    level = background.mean()
    contrast = ct.local_contrast(target.mean(), level)
    counts, measured = np.asarray(config.tube.counts), []
    for k, count in enumerate(counts):
        one, two = jax.random.split(jax.random.fold_in(key, 100 + k))
        draws = [
            jax.random.poisson(q, v * (count / level), (config.draws, *v.shape)).astype(jnp.float32)
            for q, v in ((one, target), (two, background))
        ]
        measured.append(abs(float(ct.measured_snr(*draws))))
    return counts, np.asarray(measured), np.abs(np.asarray(ct.snr(contrast, counts)))


def penumbra_curve(config: Config) -> tuple[dict[str, Any], list[float], list[float]]:
    """``(profiles for a plot, measured widths, f·(M − 1))`` in mm of the image of a sharp edge under a uniform focal spot."""
    import numpy as np

    from diffimg.forward import Blur, xray

    spot, magnifications = config.tube.focal_spot, config.tube.magnifications
    spacing = spot * (max(magnifications) - 1) / 400  # finer than any detector: the geometry alone
    size = 801
    at = (np.arange(size) - size // 2) * spacing
    edge = (at > 0).astype(np.float32)
    profiles, widths, theory = {}, [], []
    for m in magnifications:
        profile = np.asarray(Blur(xray.focal_spot_psf(spot, m, spacing, 401), (size,))(edge))
        rise = np.interp([0.1, 0.9], profile, at)
        widths.append(float(rise[1] - rise[0]) / 0.8)
        theory.append(float(xray.penumbra(spot, m)))
        profiles[f"M = {m:g}"] = (at, profile)
    return profiles, widths, theory


recipe = Recipe(
    Config, function, headline=("scatter_to_primary", "contrast_bone", "contrast_lesion", "snr_lesion", "largest_snr_deviation")
)
