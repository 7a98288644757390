"""Where to measure: sampling patterns and their point-spread functions, and a mask and a trajectory learned by gradients."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.mri_scan import DEFINITIONS, SPLIT, Scan, coil_maps, scores, simulate
from diffimg.experiment.run import Run


class Patterns(Section):
    """What is drawn."""

    size: int = Field(default=128, ge=32, le=512)
    acceleration: float = Field(default=4.0, gt=1)
    acs: int = Field(default=12, ge=0)


class Learning(Section):
    """Adam on slices of the tuning slab; the reconstruction is SENSE with a fixed number of conjugate-gradient steps."""

    acceleration: float = Field(default=5.0, gt=1)
    acs: int = Field(default=6, ge=0)
    train_slices: list[int] = Field(default=[98, 104, 110, 116], min_length=1)
    mask_steps: int = Field(default=100, ge=0)
    masks: int = Field(default=8, ge=1)  # drawn in each step
    shots: int = Field(default=12, ge=1)
    readout: int = Field(default=128, ge=8)
    knots: int = Field(default=16, ge=4)
    trajectory_steps: int = Field(default=60, ge=0)
    iterations: int = Field(default=10, ge=1)
    draws: int = Field(default=16, ge=1)
    regularization: float = Field(default=1e-3, ge=0)


class Config(Experiment):
    """Everything that determines a run of ``mri_sampling``."""

    scan: Scan = Scan(size=80, noise=0.004)
    patterns: Patterns = Patterns()
    learning: Learning = Learning()


MORE = {
    "acceleration": "all Cartesian samples of the field of view over those measured",
    "width": "full width at half maximum of the point-spread function along x, voxels",
    "sidelobe": "its largest value outside the main lobe, relative to the peak",
}
SLOPE = 30.0  # of the relaxed masks: a gentle one prefers the centre
SHOTS = "Data along shots are transforms of the twice finer images, with fresh noise in every step."
DWELL, MAX_GRADIENT, MAX_SLEW = 20e-6, 0.04, 180.0  # s, T/m, T/m/s


def function(config: Config, run: Run) -> None:
    """Draw the patterns, learn, score on held-out slices."""
    import jax
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    run.define(**DEFINITIONS, **MORE)
    key = jax.random.key(config.seed)
    with run.stage("patterns"):
        panels = patterns(config, run, jax.random.fold_in(key, 0))
    with run.stage("simulate"):
        train, test = (
            simulate(config.scan, s, jax.random.fold_in(key, i + 1))
            for i, s in enumerate((config.learning.train_slices, config.scan.test_slices))
        )
    with run.stage("learn a mask"):
        masks, images, history = learn_mask(config, train, test, run, jax.random.fold_in(key, 3))
    with run.stage("learn a trajectory"):
        paths, path_images, path_history = learn_trajectory(config, train, test, run)
    with run.stage("report"):
        title = config.title or "Where to measure"
        overview = pictures.png(pictures.grid(panels, title, width=24.0))
        run.write("overview.png", overview)
        truth = np.abs(test.truth[0])
        window = (0.0, float(np.quantile(truth, 0.999)))
        errors = {n: np.abs(i) - truth for n, i in (images | path_images).items()}
        symmetric = pictures.symmetric_window(list(errors.values()), 0.99)

        def error(name):
            score = run.metrics["methods"][name]
            return pictures.Panel(errors[name], f"{name}: error", f"{score['psnr_db']:.1f} dB", symmetric, colors="RdBu_r")

        rows = [
            [pictures.Panel(truth, "truth", "", window, pixel_size=test.spacing)]
            + [pictures.Panel(np.broadcast_to(m[:, None], truth.shape).astype(float), n, "", (0.0, 1.0)) for n, m in masks.items()],
            [pictures.Plot(history, "training", ("step", "loss"))] + [error(n) for n in images],
            [None]
            + [pictures.Plot({"": (k[..., 1].T, k[..., 0].T, "-")}, n, ("k_x (rad/voxel)", "k_y (rad/voxel)")) for n, k in paths.items()],
            [pictures.Plot(path_history, "training", ("step", "loss"))] + [error(n) for n in path_images],
        ]
        learned = pictures.png(pictures.grid(rows, "Learned by gradients"))
        run.write("learned.png", learned)
        report = standard_report(run, title, config.description, DEFINITIONS | MORE)
        report.picture("Patterns", overview, "Samples, and below them the point-spread function (log10 of its magnitude).")
        report.picture("Learned sampling", learned, SPLIT + f" Trained on slices {config.learning.train_slices}. {SHOTS}")
        report.table("Metrics", run.metrics["methods"], ("psnr_db", "ssim", "nmse", "acceleration", "width", "sidelobe"))
        run.write("report.html", report.html())


def patterns(config: Config, run: Run, key: Any) -> list[list[Any]]:
    """Two rows of panels: samples and point-spread functions."""
    import jax
    import numpy as np

    from diffimg import forward, mri
    from diffimg.experiment import pictures

    p = config.patterns
    n, r, s, t = p.size, p.acceleration, mri.sampling, mri.trajectories
    shape, keys = (n, n), jax.random.split(key, 4)
    masks = {
        "equispaced lines": s.equispaced_mask(shape, round(r), p.acs),
        "random lines": s.random_mask(shape, r, keys[0], acs=p.acs),
        "variable density": s.variable_density_mask(shape, r, keys[1], acs=p.acs),
        "points": s.variable_density_mask(shape, r, keys[2], acs=p.acs, axis=None),
        "Poisson disc": s.poisson_disc_mask(shape, r, keys[3], acs=p.acs),
    }
    spokes = round(np.pi / 2 * n / r)
    arms = 8
    paths = {
        "radial, golden angle": t.radial(spokes, n),
        "spiral": t.spiral(arms, round(n * n / r / arms), 0.5 * n / arms / np.sqrt(r), density=1.0),
        "EPI": t.echo_planar(shape, ramp=0.1),
    }
    top: list[Any] = []
    bottom: list[Any] = []
    for name, mask in masks.items():
        spread = mri.point_spread(forward.MaskedFFT(mask))
        top.append(pictures.Panel(mask.astype(float), name, f"R = {s.acceleration(mask):.2g}", (0.0, 1.0)))
        bottom.append(_spread_panel(spread))
        run.metric(name, acceleration=s.acceleration(mask), width=spread.width[1], sidelobe=spread.sidelobe)
    for name, path in paths.items():
        weights = mri.density_compensation(path, shape)
        spread = mri.point_spread(forward.NUFFT(shape, path), weights)
        k = np.asarray(path)
        step = max(1, len(k) // 16)  # some shots only: all would be a black square
        top.append(
            pictures.Plot(
                {"": (k[::step, ..., 1].reshape(-1, k.shape[-2]).T, k[::step, ..., 0].reshape(-1, k.shape[-2]).T, "-")},
                f"{name} (some shots)",
                ("k_x", "k_y"),
            )
        )
        bottom.append(_spread_panel(spread))
        measured = n * n / np.prod(k.shape[:-1])
        run.metric(name, acceleration=float(measured), width=spread.width[1], sidelobe=spread.sidelobe)
    return [top, bottom]


def _spread_panel(spread):
    import numpy as np

    from diffimg.experiment import pictures

    size = np.log10(np.maximum(np.abs(spread.image), 1e-6))
    caption = f"width {spread.width[1]:.2f}, sidelobe {spread.sidelobe:.2f}"
    return pictures.Panel(size, "point spread", caption, (-3.0, 0.0), "log10", colors="magma")


def learn_mask(config: Config, train: Any, test: Any, run: Run, key: Any) -> tuple[dict, dict, dict]:
    """(masks, images of the first test slice, loss): phase-encoding lines, learned and conventional ones."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from diffimg import forward, mri, solve

    c, size = config.learning, config.scan.size
    kspace, truth = jnp.asarray(train.kspace), jnp.asarray(train.truth)
    coils, strength = mri.unit_maps(test.coils)

    def reconstruct(mask, full):
        operator = forward.MaskedFFT(mask[:, None] * jnp.ones(size), coils)
        result = mri.sense(operator.mask * full, operator, c.iterations, regularization=c.regularization, gradient=solve.Unroll())
        return result.x / strength

    def loss(logits, key, full, truth):
        mask = mri.LearnedMask(logits, c.acceleration, c.acs, SLOPE)(key)
        return jnp.sum(jnp.abs(reconstruct(mask, full) - truth) ** 2) / jnp.sum(jnp.abs(truth) ** 2)

    def batch(key, step):
        """Several masks drawn at once: one alone says little about the probabilities."""
        which = jax.random.randint(key, (c.masks,), 0, len(truth))
        return jax.random.split(key, c.masks), kspace[which], truth[which]

    def mean_loss(logits, batch, key):
        return jnp.mean(jax.vmap(loss, (None, 0, 0, 0))(logits, *batch))

    # lines near the centre start likelier
    logits = jnp.asarray(1.0 - 4.0 * np.abs(np.arange(size) - size // 2) / size * 2, jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, max(1, c.mask_steps)))
    logits, losses = _trained(mean_loss, logits, batch, c.mask_steps, key, optimizer)
    learned = mri.LearnedMask(logits, c.acceleration, c.acs)
    shape = (size, size)

    @jax.jit
    def training_error(mask):
        return jnp.sum(jax.vmap(lambda y, x: jnp.sum(jnp.abs(reconstruct(mask, y) - x) ** 2))(kspace, truth))

    def best(draw):
        """Of several draws the one that suits the training slices, for random and learned masks alike."""
        drawn = [draw(jax.random.fold_in(key, 10**6 + i)) for i in range(c.draws)]
        return min(drawn, key=lambda mask: float(training_error(jnp.asarray(mask, jnp.float32))))

    # the centre costs samples: a larger step between lines makes up for it
    even = (mri.sampling.equispaced_mask(shape, r, c.acs) for r in range(2, size))
    masks = {
        "equispaced + centre": next(m for m in even if m.mean() < 1.02 / c.acceleration)[:, 0],
        "random lines, variable density": best(
            lambda key: mri.sampling.variable_density_mask(shape, c.acceleration, key, acs=c.acs)[:, 0]
        ),
        "learned density": best(learned.draw),
        "greedy lines": mri.greedy_lines(training_error, size, c.acceleration, c.acs)[0],
    }
    images = {}
    compiled = jax.jit(reconstruct)
    for name, mask in masks.items():
        x = np.stack([np.asarray(compiled(jnp.asarray(mask, jnp.float32), jnp.asarray(k))) for k in test.kspace])
        run.metric(name, **scores(x, test.truth), acceleration=float(mask.size / mask.sum()))
        images[name] = x[0]
    smooth = np.convolve(losses, np.ones(10) / 10, "valid") if len(losses) >= 10 else np.asarray(losses)
    return masks, images, {"relative error": (np.arange(len(smooth)), smooth)}


def learn_trajectory(config: Config, train: Any, test: Any, run: Run) -> tuple[dict, dict, dict]:
    """(trajectories, images of the first test slice, loss): shots as splines, from golden-angle spokes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from diffimg import forward, mri, solve

    c, size, voxel = config.learning, config.scan.size, config.scan.field_of_view / config.scan.size * 1e-3
    spokes = mri.trajectories.radial(c.shots, c.readout)
    start = mri.SplineTrajectory.fit(np.asarray(spokes) * 0.9, c.knots)
    fine, noise = coil_maps(config.scan, 2 * size), config.scan.noise
    coils, strength = mri.unit_maps(coil_maps(config.scan, size))

    def reconstruct(knots, image, key):
        """From samples of the object on a grid twice as fine, along the shots."""
        trajectory = mri.SplineTrajectory(knots, c.readout)()
        y = forward.NUFFT((2 * size, 2 * size), trajectory / 2, fine)(image) / 2
        parts = jax.random.normal(key, (2, *y.shape))
        operator = forward.NUFFT((size, size), trajectory, coils)
        y = y + noise * (parts[0] + 1j * parts[1])
        # the scale of Aᴴ A grows with the density at the centre: λ is relative to it
        return mri.sense(y, operator, c.iterations, regularization=c.regularization, gradient=solve.Unroll()).x / strength

    def loss(knots, image, truth, key):
        x = reconstruct(knots, image, key)
        s = mri.SplineTrajectory(knots, c.readout)
        penalty = s.violation(DWELL, voxel, max_gradient=MAX_GRADIENT, max_slew=MAX_SLEW)
        return jnp.sum(jnp.abs(x - truth) ** 2) / jnp.sum(jnp.abs(truth) ** 2) + 0.1 * penalty

    key = jax.random.key(config.seed + 5)
    images, truths = jnp.asarray(train.image), jnp.asarray(train.truth)

    def batch(key, step):
        return images[step % len(images)][None], truths[step % len(images)][None]

    def one(knots, batch, key):
        return loss(knots, batch[0][0], batch[1][0], key)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, max(1, c.trajectory_steps)))
    knots, losses = _trained(one, jnp.asarray(start.knots), batch, c.trajectory_steps, key, optimizer)
    shown, out = {}, {}
    compiled = jax.jit(reconstruct)
    for name, points in {"radial (start)": start.knots, "learned shots": knots}.items():
        s = mri.SplineTrajectory(points, c.readout)
        gradient, slew = s.gradients(DWELL, voxel)
        x = np.stack(
            [
                np.asarray(compiled(jnp.asarray(points), jnp.asarray(v), jax.random.fold_in(key, 10**6 + i)))
                for i, v in enumerate(test.image)
            ]
        )
        run.metric(
            name,
            **scores(x, test.truth),
            acceleration=size**2 / (c.shots * c.readout),
            gradient=float(gradient.max()),
            slew=float(slew.max()),
        )
        shown[name], out[name] = np.asarray(s()), x[0]
    return shown, out, {"relative error": (np.arange(len(losses)), losses)}


def _trained(loss, params, batch, steps, key, optimizer):
    """(parameters, loss of every step)."""
    from diffimg import learn

    if not steps:
        return params, []
    result = learn.train(loss, params, batch, steps, key=key, optimizer=optimizer, log_every=1).check()
    return result.params, [line["loss"] for line in result.history]


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "acceleration", "width", "sidelobe"))
