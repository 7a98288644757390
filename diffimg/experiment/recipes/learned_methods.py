"""How each method of the comparison is tuned or trained on a problem; every one returns a function of the data."""

from __future__ import annotations

from typing import Any

from diffimg.experiment.recipes import learned_diffusion, learned_ridge
from diffimg.experiment.recipes.learned_diffusion import DIFFUSION
from diffimg.experiment.recipes.learned_method import Method, tuned
from diffimg.experiment.recipes.learned_ridge import RIDGE
from diffimg.experiment.recipes.learned_tasks import Problem, scores
from diffimg.experiment.recipes.training import trained

CLASSICAL = ("start", "total variation", "wavelets")
NETWORKS = ("U-Net", "AUTOMAP", "learned PGM", "variational network", "MoDL", "learned primal-dual")
PLUG_AND_PLAY = ("DPIR",)
PRE_PROCESSING = ("in-painting",)  # of few views
METHODS = (*CLASSICAL, *NETWORKS, *RIDGE, *DIFFUSION, *PLUG_AND_PLAY, *PRE_PROCESSING)


def applies(name: str, problem: Problem) -> bool:
    """Whether a method is one for the problem."""
    return name not in PRE_PROCESSING or problem.denser is not None


def build(name: str, problem: Problem, config: Any, run: Any, key: Any, seed: int) -> Method:
    """Tune or train one method; ``seed`` of the training."""
    if name in CLASSICAL:
        return _classical(name, problem, config)
    if name in RIDGE:
        return learned_ridge.build(name, problem, config, run, key, seed)
    if name in DIFFUSION:
        return learned_diffusion.build(problem, config, run, key, seed)
    if name in PLUG_AND_PLAY:
        return _dpir(problem, config)
    return _network(name, problem, config, run, key, seed)


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


def _network(name, problem, config, run, key, seed):
    import jax
    import jax.numpy as jnp
    import optax

    from diffimg import nn

    section = config.networks
    rngs = nn.Rngs(seed)
    model = None
    if name == "U-Net":
        channels = 2 if problem.name == "MRI" else 1
        apply, start = nn.split(nn.UNet(section.unet, channels, channels, residual=True, rngs=rngs))
        images = nn.on_images(apply)
        network = lambda params, y: images(params, problem.start(y))  # noqa: E731
    elif name == "AUTOMAP":
        apply, start = nn.split(_automap(problem, section, rngs))
        network = apply
    elif name in PRE_PROCESSING:
        apply, start = nn.split(nn.Inpainting(section.inpainting, rngs=rngs))
        network = _inpainting(problem, apply)
    else:
        unrolled = _unrolled(name, problem, section, rngs)
        apply, start = nn.split(unrolled)
        network = lambda params, y: apply(params, y, problem.operator, problem.start(y))  # noqa: E731
        model = {"kind": "unrolled", "network": type(unrolled).__name__, "iterations": section.iterations}
        model["complex_values"] = problem.name == "MRI"
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
    own = {"batch", "rate", {"U-Net": "unet", "AUTOMAP": "automap", "in-painting": "inpainting"}.get(name, "iterations")}
    settings = {"problem": config.problem_settings(problem.name), "networks": section.model_dump(include=own), "seed": seed}
    options = {"optimizer": optax.adam(rate), "clip": 1.0, "validate": validate, "validate_every": 200, "log_every": 20}
    result = trained(run, config.cache, f"{problem.name} {name}", settings, loss, start, batch, steps, key, **options)
    return Method.learned(result, lambda y: evaluate(result.params, y), model=model)


def _inpainting(problem, apply):
    """The views between those measured, by a network (which learns through the filtered backprojection of all)."""
    import jax.numpy as jnp

    denser = problem.denser

    def network(params, y):
        views = jnp.zeros((*y.shape[:-2], len(denser.measured), y.shape[-1]), y.dtype).at[..., denser.measured, :].set(y)
        return denser.reconstruct(apply(params, views, denser.measured[:, None]))

    return network


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
