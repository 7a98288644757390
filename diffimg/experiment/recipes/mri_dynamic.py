"""Dynamic MRI: a contrast agent washes through a brain slice; frame by frame, low rank, and low rank plus sparse."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, brain_image, coil_maps, scores
from diffimg.experiment.run import Run


class Series(Section):
    """The object in time."""

    frames: int = Field(default=24, ge=4)
    enhancement: float = Field(default=0.5, ge=0)  # peak change of grey matter, relative; white matter a third of it
    motion: float = Field(default=1.5, ge=0)  # mm, amplitude of a periodic shift along y


class Methods(Section):
    """Sampling, and what is chosen on the tuning slice."""

    acceleration: float = Field(default=8.0, gt=1)
    acs: int = Field(default=6, ge=0)
    density: float = Field(default=1.0, ge=0)  # of the other lines: (1 − distance from the centre)^density
    sense_steps: list[int] = Field(default=[8, 16, 32, 64], min_length=1)
    low_rank: list[float] = Field(default=[3e-4, 1e-3, 3e-3, 1e-2], min_length=1)
    sparse: list[float] = Field(default=[1e-3, 3e-3], min_length=1)
    steps: int = Field(default=50, ge=1)


class Config(Experiment):
    """Everything that determines a run of ``mri_dynamic``."""

    scan: Scan = Scan(size=96, coils=6, noise=0.004, test_slices=[74])
    series: Series = Series()
    methods: Methods = Methods()


MORE = {
    "weight": "CG steps, or the weight of the nuclear norm, chosen on the tuning slice",
    "sparse": "weight of the temporal spectrum's L1 norm, chosen likewise",
    "curve_error": "root mean square error of the mean signal in grey matter over time, relative to its largest change",
}


def function(config: Config, run: Run) -> None:
    """Simulate, tune, reconstruct, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import forward, mri
    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, **MORE)
    scan, m, n = config.scan, config.methods, config.scan.size
    key = jax.random.key(config.seed)
    with run.stage("simulate"):
        fine, coils = coil_maps(scan, 2 * n), coil_maps(scan, n)
        masks = np.stack(
            [
                mri.sampling.variable_density_mask((n, n), m.acceleration, jax.random.fold_in(key, 100 + f), acs=m.acs, power=m.density)
                for f in range(config.series.frames)
            ]
        )
        maps, strength = mri.unit_maps(coils)
        operator = forward.MaskedFFT(masks, maps, ndim=2).prepare()
        tune, test = (series(config, s, jax.random.fold_in(key, i), fine) for i, s in enumerate((scan.tune_slice, scan.test_slices[0])))
    methods = {
        "frame by frame": ([(w, None) for w in m.sense_steps], lambda y, w, s: mri.sense(y, operator, int(w)).x / strength),
        "low rank": ([(w, None) for w in m.low_rank], lambda y, w, s: mri.low_rank(y, operator, w, m.steps).x / strength),
        "low rank + sparse": (
            [(w, s) for w in m.low_rank[2:] for s in m.sparse],
            lambda y, w, s: mri.low_rank(y, operator, w, m.steps, sparse=s).x / strength,
        ),
    }
    truth, grey, curve = test[1], test[2], test[3]
    images: dict[str, Any] = {}
    curves: dict[str, Any] = {"truth": (np.arange(len(truth)), curve, "k-")}

    def record(name, x, **more):
        images[name] = x
        mean = np.abs(x)[:, grey].mean(1)
        curves[name] = (np.arange(len(x)), mean)
        error = float(np.sqrt(np.mean((mean - curve) ** 2)) / np.ptp(curve))
        run.metric(name, **scores(x, truth), curve_error=error, **more)

    record("zero-filled", np.asarray(mri.combine(forward.ifft(masks[:, None] * test[0]), coils)))
    for name, (candidates, reconstruct) in methods.items():
        with run.stage(name):
            y = jnp.asarray(masks[:, None] * tune[0])
            tried = {c: scores(np.asarray(reconstruct(y, *c)), tune[1])["psnr_db"] for c in candidates}
            weight, sparse = best = max(tried, key=lambda c: tried[c])
            x = np.asarray(reconstruct(jnp.asarray(masks[:, None] * test[0]), *best))
            record(name, x, weight=float(weight), **({} if sparse is None else {"sparse": sparse}))
    with run.stage("report"):
        title = config.title or "Dynamic MRI"
        spacing, frame, column = scan.field_of_view / n, len(truth) // 2, n // 2
        window = (0.0, float(np.quantile(np.abs(truth), 0.999)))
        errors = {k: np.abs(v[frame]) - np.abs(truth[frame]) for k, v in images.items()}
        symmetric = pictures.symmetric_window([errors["frame by frame"]], 0.99)
        shown = {"truth": truth, **images}
        captions = {k: f"{run.metrics['methods'][k]['psnr_db']:.1f} dB" for k in images}
        rows = [
            [pictures.Panel(np.abs(v[frame]), k, captions.get(k, f"frame {frame}"), window, pixel_size=spacing) for k, v in shown.items()],
            [
                pictures.Panel(np.abs(v[:, :, column]).T, "one column in time", "", window, axes=("frame", "y"), extent=(0, len(v), n, 0))
                for v in shown.values()
            ],
            [
                pictures.Panel(
                    masks[:, :, 0].T.astype(float),
                    "lines of each frame",
                    "",
                    (0.0, 1.0),
                    axes=("frame", "k_y"),
                    extent=(0, len(masks), n, 0),
                )
            ]
            + [pictures.Panel(e, "error", "", symmetric, colors="RdBu_r") for e in errors.values()],
        ]
        overview = pictures.png(pictures.grid(rows, title))
        run.write("overview.png", overview)
        plot = pictures.png(pictures.grid([[pictures.Plot(curves, "grey matter", ("frame", "mean signal"))]], width=8.0))
        run.write("curves.png", plot)
        report = standard_report(run, title, config.description, DEFINITIONS | MORE)
        report.picture("Overview", overview, SPLIT + " Enhancement and motion are simulated.")
        report.picture("Grey matter over time", plot, "What a perfusion measurement would read.")
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "curve_error", "weight", "sparse"))
        run.write("report.html", report.html())


def series(config: Config, which: int, key: Any, fine: Any) -> tuple[Any, Any, Any, Any]:
    """(k-space ``[frame, coil, y, x]``, truth ``[frame, y, x]``, grey matter ``[y, x]`` bool, its mean signal ``[frame]``)."""
    import jax
    import numpy as np
    from scipy.ndimage import shift

    from diffimg import mri

    scan, s = config.scan, config.series
    shape = (scan.size, scan.size)
    still = brain_image(scan, [which], key)
    signal = {
        name: float(mri.spin_echo(t.density, t.t1, t.t2, tr=scan.repetition_time, te=scan.echo_time))
        for name, t in still.brain.tissues.items()
    }
    t = np.linspace(0, 1, s.frames)
    bolus = np.where(t > 0.15, (t - 0.15) / 0.2 * np.exp(1 - (t - 0.15) / 0.2), 0.0)  # a gamma variate
    level = {"grey": 1 - s.enhancement * bolus, "white": 1 - s.enhancement / 3 * bolus, "csf": np.ones_like(t)}
    phase = np.exp(1j * still.brain.phase[0])
    step = still.spacing / still.brain.oversampling
    moved = s.motion * np.sin(2 * np.pi * 4 * t) / step
    frames = []
    for f in range(s.frames):
        image = sum(signal[n] * level[n][f] * part[0] for n, part in still.brain.fractions.items())
        frames.append(shift(image, (moved[f], 0), order=1) * phase)
    images = np.stack(frames).astype(np.complex64)
    kspace = np.asarray(mri.acquire(images, shape, fine, noise=scan.noise, key=jax.random.fold_in(key, 1)))
    truth = np.asarray(mri.reference(images, shape))
    grey = still.brain.coarse(still.brain.fractions["grey"])[0] > 0.8
    return kspace, truth, grey, np.abs(truth)[:, grey].mean(1)


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "nmse", "curve_error", "weight"))
