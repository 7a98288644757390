"""Registration of slices by networks, by optimisation of every pair, and by both, on deformations that are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.training import Cache, trained
from diffimg.experiment.run import Run


class Pairs(Section):
    """Slices of the MNI152 template and what deforms them."""

    size: int = Field(default=96, ge=16, le=128)  # pixels over 256 mm
    spacing: float = Field(default=40.0, gt=0)  # mm between the control points of the true deformation
    amplitude: float = Field(default=8.0, ge=0)  # mm, standard deviation of their moves
    noise: float = Field(default=0.02, ge=0)  # of the largest value
    tested: int = Field(default=12, ge=2)  # pairs of the test slab


class Training(Section):
    """Without supervision: similarity and penalty of what the network answers."""

    channels: list[int] = Field(default=[16, 32, 32, 32], min_length=2)
    batch: int = Field(default=8, ge=1)
    steps: int = Field(default=1500, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight: float = Field(default=0.03, ge=0)  # of the penalty


class Config(Experiment):
    """Everything that determines a run of ``learned_registration``."""

    pairs: Pairs = Pairs()
    training: Training = Training()
    heads: list[Literal["displacement", "velocity", "spline"]] = Field(default=["displacement", "velocity", "spline"])
    similarity: Literal["ssd", "ncc"] = "ssd"
    weights: list[float] = Field(default=[0.01, 0.03, 0.1], min_length=1)  # of the penalty of optimised pairs: the best on validation
    knots: float = Field(default=24.0, gt=0)  # mm between the control points that are sought: not those of the truth
    steps: int = Field(default=100, ge=1)  # of the optimisation of a pair
    refinement: int = Field(default=30, ge=1)  # steps after a network
    cache: Cache = Cache()


DEFINITIONS = {
    "mean_error_mm": "mean distance to the true deformation within the brain, over all test pairs",
    "dice": "mean Dice coefficient of grey and white matter, warped by nearest neighbours",
    "folding_percent": "inner samples whose Jacobian determinant is not positive",
    "sd_log_jacobian": "standard deviation of log det ∂T/∂x",
    "seconds_per_pair": "compiled, one pair at a time",
    "training_seconds": "of the network, all steps",
    "weight": "of the penalty, chosen on validation pairs",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """How a pair is registered: ``register(fixed, moving) → transform``, compiled."""

    register: Callable[[Any, Any], Any]
    about: dict[str, float]


def function(config: Config, run: Run) -> None:
    """Draw pairs, train, register the test pairs by every method, judge."""
    run.define(**DEFINITIONS)
    with run.stage("data"):
        splits = {name: _pairs(config, name) for name in ("validation", "test")}
        draw, grid = _training_pairs(config), splits["test"]["grid"]
    shown: dict[str, Any] = {}
    _judge(config, run, "as they lie", Method(lambda f, m: _still(grid), {}), splits["test"], shown)
    for name, stage, penalised in (("free-form, optimised", "bspline", True), ("velocity, optimised", "velocity", True),
                                   ("SIREN, optimised", "implicit", False)):  # fmt: skip
        with run.stage(name):
            method = _tuned(config, splits["validation"], lambda w, s=stage: _optimised(config, grid, s, w), penalised)
            _judge(config, run, name, method, splits["test"], shown)
    for head in config.heads:
        name = f"network, {head}"
        network, refined = _learned(config, run, head, grid, draw, splits["validation"])
        with run.stage(name):
            _judge(config, run, name, network, splits["test"], shown)
            _judge(config, run, f"{name}, refined", refined, splits["test"], shown)
    with run.stage("report"):
        _report(config, run, splits["test"], shown)


def _slices(config, split):
    """(images, labels, grid): 0 outside, 1 grey, 2 white matter."""
    import numpy as np

    from diffimg import data

    size = config.pairs.size
    images, grey, white = (data.brain_slices(split, size, 2, name=f"mni152_{k}") for k in ("t1", "gm", "wm"))
    grid = data.Grid.centred((size, size), images.spacing)
    labels = np.where(white.truth > 0.5, 2, np.where(grey.truth > 0.5, 1, 0)).astype(np.int32)
    return images.truth, labels, grid


def _training_pairs(config):
    from diffimg import registration

    images, _, grid = _slices(config, "train")
    p = config.pairs
    return registration.synthetic_pairs(
        images, grid, config.training.batch, spacing=p.spacing, amplitude=p.amplitude, noise=p.noise
    )


def _pairs(config, split):
    """Fixed and moving images, labels of both, true deformations: the same at every run."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import forward, registration

    images, labels, grid = _slices(config, split)
    p = config.pairs
    chosen = np.linspace(0, len(images) - 1, p.tested).round().astype(int)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1 + (split == "test")), p.tested)

    @jax.jit
    def make(key, image, label):
        moves, grain = jax.random.split(key)
        truth = registration.random_deformation(moves, grid, p.spacing, p.amplitude)
        noise = p.noise * jax.random.normal(grain, (2, *image.shape))
        fixed = forward.warp(image, truth, 3, grid=grid)
        return fixed + noise[0], image + noise[1], forward.warp(label, truth, 0, grid=grid), truth.displacement(grid), fixed

    rows = [make(k, jnp.asarray(images[i]), jnp.asarray(labels[i])) for k, i in zip(keys, chosen, strict=True)]
    fixed, moving, there, moves, clean = (np.stack([np.asarray(r[k]) for r in rows]) for k in range(5))
    return {"fixed": fixed, "moving": moving, "labels": there, "own": labels[chosen], "moves": moves, "inside": clean > 0.15, "grid": grid}


def _still(grid):
    import numpy as np

    from diffimg import forward

    return forward.Translation(np.zeros(grid.ndim, np.float32))


def _similarity(config):
    from diffimg import energy

    return energy.SSD() if config.similarity == "ssd" else energy.NCC()


def _optimised(config, grid, kind, weight):
    """A pair by optimisation, one program."""
    import jax

    from diffimg import energy, registration

    common = {"levels": (2, 1), "steps": config.steps}
    if kind == "bspline":
        stage = registration.BSpline(spacing=config.knots, penalty=weight * energy.Diffusion(), **common)
    elif kind == "velocity":
        stage = registration.Velocity(penalty=weight * energy.Diffusion(), squarings=5, **common)
    else:
        stage = registration.Implicit(**common)

    def one(fixed, moving):
        batch = registration.register_batch(fixed[None], moving[None], [stage], _similarity(config), fixed_grid=grid, moving_grid=grid)
        return jax.tree.map(lambda v: v[0], batch.transform)

    return Method(jax.jit(one), {"weight": weight} if weight is not None else {})


def _tuned(config, pairs, make, penalised):
    """The method with the weight that is best on validation pairs."""
    tries = [make(w) for w in (config.weights if penalised else [None])]
    if len(tries) == 1:
        return tries[0]
    return min(tries, key=lambda method: _errors(method, pairs)[0])


def _errors(method, pairs):
    """(mean error, the transforms)."""
    import numpy as np

    found = [method.register(f, m) for f, m in zip(pairs["fixed"], pairs["moving"], strict=True)]
    grid = pairs["grid"]
    apart = [np.linalg.norm(np.asarray(t.displacement(grid)) - u, axis=-1) for t, u in zip(found, pairs["moves"], strict=True)]
    return float(np.mean([a[i].mean() for a, i in zip(apart, pairs["inside"], strict=True)])), found


def _learned(config, run, head, grid, draw, validation):
    """(network, network and refinement)."""
    import jax
    import optax

    from diffimg import energy, nn, registration

    t, weight, key = config.training, config.training.weight, jax.random.key(config.seed)
    kind = nn.Encoder if head == "spline" else nn.UNet
    apply, params = nn.split(kind(t.channels, 2, 2, gain=1e-4, rngs=nn.Rngs(config.seed)))
    model = registration.LearnedRegistration(apply, grid, head, config.knots if head == "spline" else None, squarings=5)
    similarity, penalty = _similarity(config), weight * energy.Diffusion()
    loss = model.loss(similarity, penalty)
    settings = {"head": head, "knots": config.knots, "seed": config.seed, "similarity": config.similarity}
    settings |= {"pairs": config.pairs.model_dump(), "training": t.model_dump()}
    outcome = trained(
        run, config.cache, f"registration {head}", settings, loss, params, draw, t.steps, key,
        optimizer=optax.adam(optax.cosine_decay_schedule(t.learning_rate, t.steps, 0.05)), clip=1.0,
        validate=jax.jit(lambda p: loss(p, (validation["fixed"], validation["moving"]))), validate_every=max(1, t.steps // 10),
        log_every=max(1, t.steps // 20),
    )  # fmt: skip
    about = {"weight": weight, "training_seconds": outcome.seconds}

    def refine(f, m):
        return model.refine(outcome.params, f, m, similarity, penalty, steps=config.refinement)[0]

    return Method(jax.jit(lambda f, m: model.transform(outcome.params, f, m)), about), Method(refine, about)


def _judge(config, run, name, method, pairs, shown):
    """Register all test pairs, and keep measures and the first transform."""
    import time

    import jax
    import numpy as np

    from diffimg import forward, metrics, registration

    grid = pairs["grid"]
    jax.block_until_ready(method.register(pairs["fixed"][0], pairs["moving"][0]))  # compiles
    began = time.perf_counter()
    jax.block_until_ready([method.register(f, m) for f, m in zip(pairs["fixed"], pairs["moving"], strict=True)])
    seconds = (time.perf_counter() - began) / len(pairs["fixed"])
    error, found = _errors(method, pairs)
    labels = [np.asarray(forward.warp(own, t, 0, grid=grid)) for own, t in zip(pairs["own"], found, strict=True)]
    dice = [np.mean(metrics.dice(a, b, [1, 2])) for a, b in zip(labels, pairs["labels"], strict=True)]
    scores = {
        "mean_error_mm": error,
        "dice": float(np.mean(dice)),
        "folding_percent": 100 * float(np.mean([registration.folding(t, grid) for t in found])),
        "sd_log_jacobian": float(np.mean([registration.log_jacobian_deviation(t, grid) for t in found])),
        "seconds_per_pair": seconds,
    }
    run.metric(name, **scores, **method.about)
    shown[name] = found[0]


def _report(config, run, pairs, shown):
    import numpy as np

    from diffimg import forward
    from diffimg.experiment import pictures
    from diffimg.experiment.recipes.registration_report import deformed_grid
    from diffimg.experiment.report import standard_report

    grid, fixed, moving = pairs["grid"], pairs["fixed"][0], pairs["moving"][0]
    panel = lambda v, title: pictures.Panel(v, title, window=(0.0, 1.0), pixel_size=grid.spacing[0])  # noqa: E731
    change = lambda v, title: pictures.Panel(v - fixed, title, window=(-0.3, 0.3), colors="RdBu_r")  # noqa: E731
    top, bottom, images = [panel(fixed, "fixed")], [None], {"fixed": fixed, "moving": moving}
    for name, transform in shown.items():
        if name.endswith("refined"):
            continue
        image = np.asarray(forward.warp(moving, transform, 1, grid=grid))
        images[name] = image
        top.append(panel(image, name))
        bottom.append(change(image, "difference"))
    run.write("overview.png", pictures.png(pictures.grid([top, bottom], config.title or "Learned registration")))
    report = standard_report(run, config.title or "Learned registration", config.description or "", DEFINITIONS)
    report.table("Measures", run.metrics["methods"], list(DEFINITIONS))
    report.images("Swipe between them", images, (0.0, 1.0), pixel_size=grid.spacing[0])
    report.picture("Overview", (run.folder / "overview.png").read_bytes())
    for name in [n for n in shown if n.startswith("network")][:3]:
        file = f"grid_{name.replace(', ', '_').replace(' ', '_')}.png"
        run.write(file, pictures.png(deformed_grid(shown[name], grid)(fixed, (0.0, 1.0))))
        report.picture(f"Where the fixed image's grid goes: {name}", (run.folder / file).read_bytes())
    run.write("report.html", report.html())


recipe = Recipe(Config, function, tuple(DEFINITIONS))
