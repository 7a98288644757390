"""A score model: one denoiser of all levels of noise, with which images are drawn given the data."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section
from diffimg.experiment.recipes.learned_method import Method
from diffimg.experiment.recipes.learned_tasks import Problem
from diffimg.experiment.recipes.training import trained

DIFFUSION = ("diffusion",)


class Diffusion(Section):
    """The network and how it samples."""

    widths: list[int] = Field(default=[24, 48, 96], min_length=1)
    blocks: int = Field(default=2, ge=1)
    steps: int = Field(default=4000, ge=1)
    batch: int = Field(default=2, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    sigma_range: tuple[float, float] = (0.005, 5.0)
    sigma_data: float = Field(default=0.25, gt=0)
    levels: int = Field(default=60, ge=2)  # of sampling
    samples: int = Field(default=4, ge=2)  # a slice
    data_steps: int = Field(default=20, ge=1)  # of conjugate gradients, for the data at each level (CT)


def build(problem: Problem, config: Any, run: Any, key: Any, seed: int) -> Method:
    """The posterior mean of a few samples."""
    import jax
    import jax.numpy as jnp
    import optax

    from diffimg import learn, nn

    section = config.diffusion
    channels = 2 if problem.name == "MRI" else 1
    apply, start = nn.split(nn.DRUNet(channels, section.widths, section.blocks, rngs=nn.Rngs(seed)))
    denoise = nn.preconditioned(nn.on_images(apply), section.sigma_data)
    loss = learn.denoiser_score_matching(denoise, section.sigma_range, section.sigma_data)

    def batch(key, step):
        return problem.batch(key, section.batch)[0]

    fields = {"steps", "levels", "samples", "data_steps"}
    settings = {"problem": config.problem_settings(problem.name), "diffusion": section.model_dump(exclude=fields), "seed": seed}
    rate = optax.cosine_decay_schedule(section.rate, section.steps)
    options: dict[str, Any] = {"optimizer": optax.adam(rate), "clip": 1.0, "average": 0.995, "log_every": 20}
    result = trained(run, config.cache, f"{problem.name} diffusion", settings, loss, start, batch, section.steps, key, **options)

    low, high = section.sigma_range
    sigmas = jnp.geomspace(high, low, section.levels)
    given = {"guidance": "proximal", "noise_level": problem.noise, "prior_variance": section.sigma_data**2}

    @jax.jit
    def draw(y, key):
        a = problem.operator
        shape = (*y.shape[: y.ndim - len(a.codomain.shape)], *a.domain.shape)
        network = lambda x, sigma: denoise(result.params, x, sigma)  # noqa: E731
        more = {"operator": a, "y": y, "max_steps": section.data_steps}
        return learn.diffusion_sample(network, shape, sigmas, key, dtype=a.domain.dtype.name, **given, **more)

    def samples(y, key):
        return jnp.stack([draw(y, k) for k in jax.random.split(key, section.samples)])

    def posterior(x, y, key):
        drawn = samples(y, key)
        mean = jnp.mean(drawn, 0)
        return mean, jnp.sqrt(jnp.sum(jnp.abs(drawn - mean) ** 2, 0) / (section.samples - 1)), jnp.ones(())  # independent samples

    model = {"kind": "score", "channels": channels, "widths": section.widths, "blocks": section.blocks}
    model |= {"sigma_data": section.sigma_data, "sigma_range": list(section.sigma_range)}
    more = {"posterior": posterior, "model": model, "draws": section.samples}
    return Method.learned(result, lambda y: jnp.mean(samples(y, jax.random.key(seed + 1)), 0), **more)
