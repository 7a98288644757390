"""How each method of the comparison is tuned or trained on a problem; every one returns a function of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from diffimg.experiment.recipes.learned_tasks import Problem, scores
from diffimg.experiment.recipes.training import trained

CLASSICAL = ("start", "total variation", "wavelets")
NETWORKS = ("U-Net", "AUTOMAP", "learned PGM", "variational network", "MoDL", "learned primal-dual")
RIDGE = ("ridge, implicit", "ridge, unrolled", "ridge, Jacobian-free")
PLUG_AND_PLAY = ("DPIR",)
METHODS = (*CLASSICAL, *NETWORKS, *RIDGE, *PLUG_AND_PLAY)


@dataclasses.dataclass
class Method:
    """``reconstruct(y)`` → images, how many numbers it has, what its training took (s), what was chosen on validation."""

    reconstruct: Callable[[Any], Any]
    parameters: int = 0
    training_seconds: float | None = None
    weight: float | None = None


def build(name: str, problem: Problem, config: Any, run: Any, key: Any) -> Method:
    """Tune or train one method."""
    if name in CLASSICAL:
        return _classical(name, problem, config)
    if name in RIDGE:
        return _ridge(name, problem, config, run, key)
    if name in PLUG_AND_PLAY:
        return _dpir(problem, config)
    return _network(name, problem, config, run, key)


def tuned(problem: Problem, reconstruct: Callable[[float, Any], Any], weights: list[float]) -> Method:
    """The weight with the highest PSNR on the validation slices."""
    import jax

    compiled = jax.jit(reconstruct)
    truth, y = problem.validation
    best = max(weights, key=lambda w: scores(compiled(w, y), truth)["psnr_db"])
    return Method(lambda y: compiled(best, y), 1, weight=best)


def _classical(name, problem, config):
    from diffimg import energy, forward, solve

    if name == "start":
        return Method(problem.start)
    n = problem.operator.domain.shape[-1]
    lower = None if problem.name == "MRI" else 0.0
    wavelet = forward.Wavelet((n, n), "db4", 3, dtype=problem.operator.domain.dtype.name)

    def reconstruct(weight, y):
        if name == "wavelets":
            prior = energy.WaveletL1(weight, wavelet)
        else:
            prior = energy.TotalVariation(weight, lower=lower, spacing=(1.0, 1.0), max_steps=10, gap=0.0)
        task = solve.Problem(smooth=energy.LeastSquares(problem.operator, y), proximable=prior)
        return solve.run(solve.FISTA(), task, problem.start(y), config.classical.steps, objective_every=0).x

    return tuned(problem, reconstruct, config.classical.weights)


def _network(name, problem, config, run, key):
    import jax
    import jax.numpy as jnp
    import optax

    from diffimg import nn

    section = config.networks
    rngs = nn.Rngs(config.seed)
    if name == "U-Net":
        channels = 2 if problem.name == "MRI" else 1
        apply, start = nn.split(nn.UNet(section.unet, channels, channels, residual=True, rngs=rngs))
        images = nn.on_images(apply)
        network = lambda params, y: images(params, problem.start(y))  # noqa: E731
    elif name == "AUTOMAP":
        apply, start = nn.split(_automap(problem, section, rngs))
        network = apply
    else:
        apply, start = nn.split(_unrolled(name, problem, section, rngs))
        network = lambda params, y: apply(params, y, problem.operator, problem.start(y))  # noqa: E731
    evaluate = jax.jit(network)

    def batch(key, step):
        return problem.batch(key, section.batch)

    def loss(params, batch, key):
        truth, y = batch
        error = network(params, y) - truth
        return 1e3 * jnp.mean((error * jnp.conj(error)).real)

    def validate(params):
        truth, y = problem.validation
        return -scores(evaluate(params, y), truth)["psnr_db"]

    steps = section.steps
    top = section.rate / 10 if name == "AUTOMAP" else section.rate  # dense layers: all weights of an output move together
    rate = optax.warmup_cosine_decay_schedule(0.0, top, min(50, max(1, steps // 10)), steps)
    settings = {"problem": config.problem_settings(problem.name), "networks": section.model_dump(exclude={"steps"}), "seed": config.seed}
    options = {"optimizer": optax.adam(rate), "clip": 1.0, "validate": validate, "validate_every": 200, "log_every": 20}
    result, seconds = trained(run, config.cache, f"{problem.name} {name}", settings, loss, start, batch, steps, key, **options)
    return Method(lambda y: evaluate(result.params, y), nn.count(result.params), seconds)


def _automap(problem, section, rngs):
    from diffimg import nn

    complex_values = problem.name == "MRI"
    shapes = problem.operator.codomain.shape, problem.operator.domain.shape
    options = {"complex_data": complex_values, "complex_values": complex_values, "hidden": section.automap}
    return nn.Automap(*shapes, width=16, linear=True, **options, rngs=rngs)


def _unrolled(name, problem, section, rngs):
    from diffimg import nn

    complex_values = problem.name == "MRI"
    kinds = {
        "learned PGM": nn.LearnedPGM,
        "variational network": nn.VariationalNetwork,
        "MoDL": nn.MoDL,
        "learned primal-dual": nn.LearnedPrimalDual,
    }
    return kinds[name](section.iterations, complex_values=complex_values, rngs=rngs)


def _ridge(name, problem, config, run, key):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from diffimg import energy, learn, solve
    from diffimg.energy.ridge import constrained_ridge, ridge_parameters

    section = config.ridge
    rules = {
        "ridge, implicit": solve.Implicit("minres", tolerance=1e-2, max_steps=30),
        "ridge, unrolled": solve.Checkpoint(),
        "ridge, Jacobian-free": solve.JacobianFree(),
    }
    first = learn.pretrained(section.start).params if section.start else ridge_parameters(5, scale=0.02)
    start = {"ridge": first, "log_weight": np.float32(np.log(section.weight))}

    def lower(params, batch):
        y = batch["y"]
        prior = jnp.exp(params["log_weight"]) * constrained_ridge(params["ridge"], section.weak)
        return solve.Problem(smooth=energy.LeastSquares(problem.operator, y) + prior), problem.start(y)

    def outer(x, batch):
        error = x - batch["truth"]
        return 1e3 * jnp.mean((error * jnp.conj(error)).real)

    unrolled = name == "ridge, unrolled"
    loss = learn.Bilevel(lower, outer, steps=section.iterations, tolerance=0.0 if unrolled else 1e-3, gradient=rules[name])
    exact = learn.Bilevel(lower, outer, steps=400, tolerance=1e-4)
    evaluate = jax.jit(lambda params, y: exact.solve(params, {"y": y}).x)

    def batch(key, step):
        truth, y = problem.batch(key, section.batch)
        return {"truth": truth, "y": y}

    def validate(params):
        truth, y = problem.validation
        return -scores(evaluate(params, y), truth)["psnr_db"]

    decay = optax.cosine_decay_schedule(1.0, section.steps)
    rates = {"filters": 1e-3, "log_scales": 1e-2, "curvatures": 3e-2, "log_steepness": 2e-2, "log_weight": 5e-2}
    kinds = {k: optax.adam(lambda step, rate=rate: rate * decay(step)) for k, rate in rates.items()}
    labels = {"ridge": {k: k for k in start["ridge"]}, "log_weight": "log_weight"}
    settings = {"problem": config.problem_settings(problem.name), "ridge": section.model_dump(exclude={"steps"}), "seed": config.seed}
    options = {"optimizer": optax.partition(kinds, labels), "clip": 1.0, "validate": validate, "validate_every": 50, "log_every": 10}
    result, seconds = trained(run, config.cache, f"{problem.name} {name}", settings, loss, start, batch, section.steps, key, **options)
    size = sum(int(np.size(v)) for v in jax.tree.leaves(result.params))
    return Method(lambda y: evaluate(result.params, y), size, seconds)


def _dpir(problem, config):
    import jax
    import numpy as np

    from diffimg import energy, learn

    prior = learn.pretrained(config.dpir.denoiser).prior()
    low, high = prior.sigma_range

    def reconstruct(strength, y):
        # each of the last levels is reached at its own strength: σ of the data is that of the task
        data = energy.LeastSquares(problem.operator, y)
        level = max(problem.noise, low, 0.005)
        return learn.dpir(data, prior, level, problem.start(y), config.dpir.steps, first=min(high, 0.19), strength=strength)

    method = tuned(problem, reconstruct, config.dpir.strengths)
    method.parameters = sum(int(np.size(v)) for v in jax.tree.leaves(prior.params))
    return method
