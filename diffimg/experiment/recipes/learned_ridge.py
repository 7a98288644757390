"""One ridge regularizer (Fields of Experts with learned filters and potential), trained by every principle, used in the same problem."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section
from diffimg.experiment.recipes.learned_method import Method, tuned
from diffimg.experiment.recipes.learned_tasks import Problem, scores
from diffimg.experiment.recipes.training import trained

BILEVEL = ("ridge, implicit", "ridge, unrolled", "ridge, Jacobian-free")
PRINCIPLES = ("ridge, adversarial", "ridge, likelihood", "ridge, score")
RIDGE = (*BILEVEL, *PRINCIPLES)


class Ridge(Section):
    """The ridge regularizer: learned so that the minimiser is right (bilevel), or from images alone."""

    start: str | None = "ridge"  # a pretrained one; None: cosines
    weight: float = Field(default=3e-3, gt=0)  # to start from
    weak: float = Field(default=0.99, ge=0)
    iterations: int = Field(default=200, ge=1)  # of the lower problem while learning
    tolerance: float = Field(default=1e-4, ge=0)  # at which they end
    unrolled: int = Field(default=50, ge=1)  # iterations where they are unrolled: each of them costs ten in the derivative
    steps: int = Field(default=100, ge=1)  # bilevel
    batch: int = Field(default=2, ge=1)
    # of the other principles, cheaper a step
    principle_steps: int = Field(default=1000, ge=1)
    principle_batch: int = Field(default=8, ge=1)
    sigma: float = Field(default=0.03, gt=0)  # standard deviation of the noise on images for score matching and likelihood
    chain_steps: int = Field(default=10, ge=1)  # Metropolis-adjusted Langevin steps an update (likelihood)
    chain_size: float = Field(default=0.05, gt=0)  # their size, in units of sigma²
    chains: int = Field(default=32, ge=1)  # of the replay buffer
    # what is fitted afterwards, on validation slices: multiples of the weight that theory gives, and of the filters' scales
    multiples: list[float] = Field(default=[1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0], min_length=1)
    stops: list[int] = Field(default=[30, 100, 300], min_length=1)  # steps of descent to choose from (adversarial)
    sizes: list[float] = Field(default=[0.35, 0.5, 0.7, 1.0, 1.4, 2.0], min_length=1)


def build(name: str, problem: Problem, config: Any, run: Any, key: Any, seed: int) -> Method:
    """The method of that name."""
    make = _bilevel if name in BILEVEL else _principle
    return make(name, problem, config, run, key, seed)


def prior_of(params: dict[str, Any], weak: float, weight: Any = 1.0, size: Any = 1.0) -> Any:
    """weight · exp(log_weight) · R with the filters' scales times ``size``."""
    import jax.numpy as jnp

    from diffimg.core.pytree import replace
    from diffimg.energy.ridge import constrained_ridge

    ridge = constrained_ridge(params["ridge"], weak)
    return replace(ridge, scales=size * ridge.scales, weight=weight * jnp.exp(params["log_weight"]))


def _start(section, weight):
    import numpy as np

    from diffimg import learn
    from diffimg.energy.ridge import ridge_parameters

    first = learn.pretrained(section.start).params if section.start else ridge_parameters(5, scale=0.02)
    return {"ridge": first, "log_weight": np.float32(np.log(weight))}


def _optimizer(start, steps):
    import optax

    decay = optax.cosine_decay_schedule(1.0, steps)
    rates = {"filters": 1e-3, "log_scales": 1e-2, "curvatures": 3e-2, "log_steepness": 2e-2, "log_weight": 5e-2}
    kinds = {k: optax.adam(lambda step, rate=rate: rate * decay(step)) for k, rate in rates.items()}
    return optax.partition(kinds, {"ridge": {k: k for k in start["ridge"]}, "log_weight": "log_weight"})


def _settings(problem, config, section, seed, steps):
    return {"problem": config.problem_settings(problem.name), "ridge": section.model_dump(exclude={*steps}), "seed": seed}


CHAIN, BURN_IN = 1000, 250  # steps of posterior sampling
FITTED = {"multiples", "sizes", "stops"}  # after the training
IMAGES = {"principle_steps", "principle_batch", "sigma", "chain_steps", "chain_size", "chains"}  # of the principles that look at images


def _is_split(problem):
    """Whether the data term has a prox in closed form: the regularizer alone then sets the step, a hundred times larger."""
    return problem.operator.diagonal_form() is not None


def _lower(problem, prior, y):
    from diffimg import energy, solve

    data = energy.LeastSquares(problem.operator, y)
    # without it, descent in what was not measured is so slow that it seems to have arrived
    task = solve.Problem(smooth=prior, proximable=data) if _is_split(problem) else solve.Problem(smooth=data + prior)
    return task, problem.start(y)


def _bilevel(name, problem, config, run, key, seed):
    import jax
    import jax.numpy as jnp

    from diffimg import learn, solve

    section = config.ridge
    rules = {
        "ridge, implicit": solve.Implicit("gmres" if _is_split(problem) else "minres", tolerance=1e-2, max_steps=30),
        "ridge, unrolled": solve.Checkpoint(),
        "ridge, Jacobian-free": solve.JacobianFree(),
    }
    start = _start(section, section.weight)

    def lower(params, batch):
        return _lower(problem, prior_of(params, section.weak), batch["y"])

    def outer(x, batch):
        error = x - batch["truth"]
        return 1e3 * jnp.mean((error * jnp.conj(error)).real)

    unrolled = name == "ridge, unrolled"
    iterations, tolerance = (section.unrolled, 0.0) if unrolled else (section.iterations, section.tolerance)
    loss = learn.Bilevel(lower, outer, steps=iterations, tolerance=tolerance, gradient=rules[name])
    exact = learn.Bilevel(lower, outer, steps=400, tolerance=1e-4)
    evaluate = jax.jit(lambda params, y: exact.solve(params, {"y": y}).x)

    def batch(key, step):
        truth, y = problem.batch(key, section.batch)
        return {"truth": truth, "y": y}

    def validate(params):
        truth, y = problem.validation
        return -scores(evaluate(params, y), truth)["psnr_db"]

    options = {"optimizer": _optimizer(start, section.steps), "clip": 1.0, "validate": validate, "validate_every": 50, "log_every": 10}
    other = {"iterations", "tolerance"} if unrolled else {"unrolled"}
    settings = _settings(problem, config, section, seed, {"steps", *other, *FITTED, *IMAGES})
    result = trained(run, config.cache, f"{problem.name} {name}", settings, loss, start, batch, section.steps, key, **options)
    posterior = _posterior(problem, prior_of(result.params, section.weak))
    return Method.learned(result, lambda y: evaluate(result.params, y), posterior=posterior, model=_model(section, problem, 1.0, 1.0))


def _principle(name, problem, config, run, key, seed):
    import jax
    import jax.numpy as jnp

    from diffimg import learn
    from diffimg.core.random import standard_normal

    section = config.ridge
    start = _start(section, 1.0)
    variance = section.sigma**2
    carry, natural = None, problem.noise**2 / variance  # weight of R where exp(−R/σ²) is the prior and the noise of the data is known

    def density(params):
        return (1 / variance) * prior_of(params, section.weak)

    def images(key, step):
        return problem.batch(key, section.principle_batch)[0]

    def images_and_reconstructions(key, step):
        truth, y = problem.batch(key, section.principle_batch)
        return truth, problem.start(y)

    def noisy_images(key, step):
        a, b = jax.random.split(key)
        return noisy(images(a, step), b)

    def noisy(truth, key):
        return truth + section.sigma * standard_normal(key, truth.shape, truth.dtype)

    batch, kept = images, IMAGES - {"sigma", "chain_steps", "chain_size", "chains"}
    if name == "ridge, adversarial":
        batch, loss = images_and_reconstructions, learn.adversarial(lambda params: prior_of(params, section.weak))
        truth, y = problem.batch(key, 16)
        natural = float(learn.adversarial_weight(problem.operator, truth, y))
    elif name == "ridge, score":
        loss, kept = learn.denoising_score_matching(density, section.sigma), kept | {"sigma"}
    else:  # the density of images with the noise of score matching: the images alone have none
        batch, kept = noisy_images, IMAGES
        loss = learn.contrastive_divergence(density, section.chain_steps, section.chain_size * variance)
        chains = max(section.chains, section.principle_batch)
        carry = learn.Replay(noisy(problem.batch(key, chains)[0], key), jnp.asarray(0.05))

    options: dict[str, Any] = {"optimizer": _optimizer(start, section.principle_steps), "clip": 1.0, "average": 0.99, "log_every": 20}
    other = {"steps", "iterations", "tolerance", "unrolled", "batch", "weight"}  # of bilevel learning
    settings = _settings(problem, config, section, seed, {*other, *FITTED, *(IMAGES - kept)})
    label, steps = f"{problem.name} {name}", section.principle_steps
    result = trained(run, config.cache, label, settings, loss, start, batch, steps, key, **options, carry=carry)

    if name == "ridge, adversarial":
        return _descent(problem, section, result, natural)
    exact = learn.Bilevel(lambda p, b: _lower(problem, prior_of(result.params, section.weak, p["weight"], p["size"]), b["y"]), steps=400)
    solve_all = jax.jit(lambda weight, size, y: exact.solve({"weight": weight, "size": size}, {"y": y}).x)
    first = tuned(problem, lambda w, y: solve_all(natural * w, 1.0, y), section.multiples, compiled=True)
    second = tuned(problem, lambda s, y: solve_all(natural * first.weight / s, s, y), section.sizes, compiled=True)  # same slope far out
    size = second.weight
    third = tuned(problem, lambda w, y: solve_all(natural * w, size, y), [first.weight / size * m for m in (0.5, 0.7, 1.0, 1.4, 2.0)], True)
    weight = natural * third.weight
    posterior = _posterior(problem, prior_of(result.params, section.weak, natural))  # the density that was learned
    model = _model(section, problem, weight, size)
    return Method.learned(result, lambda y: solve_all(weight, size, y), posterior=posterior, model=model, weight=third.weight)


def _descent(problem, section, result, natural):
    """An adversarial regularizer knows images between reconstructions and truth only: descent from the first towards the second, whose
    number of steps is chosen as well (Lunz et al. stop early too); its minimiser may lie far beyond the truth."""
    import jax

    from diffimg import energy, solve

    def descend(stop):
        def reconstruct(multiple, y):
            data = energy.LeastSquares(problem.operator, y)
            task = solve.Problem(smooth=data + prior_of(result.params, section.weak, natural * multiple))
            return solve.run(solve.FISTA(), task, problem.start(y), stop, 0.0, objective_every=0).x

        return jax.jit(reconstruct)

    truth, y = problem.validation
    found = {}
    for stop in section.stops:
        reconstruct = descend(stop)
        method = tuned(problem, reconstruct, section.multiples, compiled=True)
        found[stop] = scores(method.reconstruct(y), truth)["psnr_db"], method, reconstruct
    _, method, reconstruct = found[max(found, key=lambda stop: found[stop][0])]
    weight = method.weight
    model = _model(section, problem, natural * weight, 1.0)
    posterior = _posterior(problem, prior_of(result.params, section.weak, natural * weight))
    return Method.learned(result, lambda y: reconstruct(weight, y), posterior=posterior, model=model, weight=weight)


def _model(section, problem, weight, size):
    from diffimg.energy.ridge import KNOTS

    more = {"weight": float(weight), "size": float(size), "complex_values": problem.name == "MRI"}
    return {"kind": "ridge", "weak": section.weak, "knots": KNOTS, **more}


def _posterior(problem, prior):
    """Two chains of exp(−(½‖Ax − y‖² + R)/σ²), σ the noise of the data, from the minimiser on: (mean, standard deviation, R̂)."""
    import jax
    import jax.numpy as jnp

    from diffimg import energy, learn

    @jax.jit
    def sample(x, y, key):
        target = energy.LeastSquares(problem.operator, y) + prior
        size = 0.5 / (1 + prior.lipschitz())
        options = {"temperature": problem.noise**2, "burn_in": BURN_IN, "method": "kinetic", "momentum": 0.95}
        samples = learn.langevin(target, jnp.stack([x, x]), CHAIN, size, key, **options)
        return *learn.pooled(samples), jnp.sqrt(jnp.mean(learn.scale_reduction(samples) ** 2))

    return sample
