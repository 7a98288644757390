"""Samples of exp(−E/T): Langevin dynamics without and with Metropolis' correction or momentum; posterior means and deviations."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.random import standard_normal
from diffimg.energy import Energy
from diffimg.energy.weight import positive

METHODS = ("unadjusted", "metropolis", "kinetic")


class Samples(NamedTuple):
    """Moments of a chain; chains run along the first axis.

    Attributes:
        last: state of the chains. mean: of each chain. standard_deviation: √E|x − mean|², of each chain; of complex values both parts
            together. acceptance: share of the proposals that were taken, one a chain (1 without correction). finite: whether all stayed so.
    """

    last: Any
    mean: Any
    standard_deviation: Any
    acceptance: jax.Array
    finite: jax.Array


def langevin(
    energy: Energy, x0: Any, steps: int, step_size: Any, key: Any, *, temperature: Any = 1.0, burn_in: int = 0,
    method: str = "unadjusted", momentum: Any = 0.9,
) -> Samples:  # fmt: skip
    """x ← x − τ∇E(x) + √(2τT) ξ, ξ standard normal (of complex x in each part).

    "unadjusted" is biased: its variance on a quadratic with curvature c is T / (c (1 − τc/2)). "metropolis" accepts each proposal of each
    chain with the probability that makes exp(−E/T) exact (MALA); aim at an acceptance of 0.57. "kinetic" gives the chains a velocity of
    which each step keeps ``momentum`` (BAOAB with time step √(2τ)): exact on quadratics, and directions of curvature c are crossed in about
    1/√(2τc) steps instead of 1/(τc), the choice for ill-conditioned posteriors; best with momentum near 1 − 2√(2τc) for the least c.

    Args:
        energy: E, a sum over the chains with the same function for each (for data of its own per chain: ``jax.vmap`` of this function).
            x0: ``[chain, ...]``. steps: in all. step_size: τ, below 2/L for "unadjusted" and "kinetic".
        temperature: T; below 1 the samples gather at the modes: then they are not samples of exp(−E).
        burn_in: steps that do not count for the moments. momentum: 0 … 1 (excluded), of "kinetic".

    Raises:
        ValueError: numbers out of range, an unknown method.

    G. O. Roberts, R. L. Tweedie, Bernoulli 2 (1996) 341; B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 ("kinetic").
    """
    steps, burn_in = check.positive_int("steps", steps), int(burn_in)
    check.one_of("method", method, METHODS)
    positive("step_size", step_size)
    check.minimum("temperature", temperature, 0.0, strict=method == "metropolis")
    check.minimum("momentum", momentum, 0.0)
    if check.is_concrete(momentum) and momentum >= 1:
        check.fail("momentum", "a share below 1", repr(momentum), "With 1 the velocity is never renewed.")
    if not isinstance(energy, Energy):
        check.fail("energy", "an Energy", check.describe(energy), "Wrap a function of (params, x) in energy.Network.")
    if not 0 <= burn_in < steps:
        check.fail("burn_in", f"0 … {steps - 1}, fewer than the steps", str(burn_in))
    x0 = jnp.asarray(x0)
    check.inexact("x0", x0)
    if not x0.ndim:
        check.fail("x0", "chains along the first axis", "a scalar", "x0[None] for one chain.")
    energy = energy.prepare()
    if method == "metropolis":
        _admit_chains(energy, x0)
    return _run(method, steps, energy, x0, step_size, key, temperature, burn_in, momentum)


def _admit_chains(energy, x0):
    """Metropolis' correction needs the energy of each chain: that of data which differ from chain to chain cannot be told apart."""
    remedy = "Data of its own per chain: jax.vmap(lambda energy, x, key: langevin(energy, x[None], …))."
    whole, each = energy.grad(x0), jax.vmap(energy.grad)(x0)
    same = whole.shape == each.shape
    if same and check.is_concrete(whole):
        same = not bool(jnp.linalg.norm((whole - each).ravel()) > 1e-2 * jnp.linalg.norm(whole.ravel()))
    if not same:
        check.fail("energy", "a sum of one function over the chains", "one that treats the chains differently or together", remedy)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(method, steps, energy, x0, step_size, key, temperature, burn_in, momentum):
    real = jnp.finfo(x0.dtype).dtype
    tau, heat, keep = (jnp.asarray(v, real) for v in (step_size, temperature, momentum))
    first, move = {
        "unadjusted": (lambda x: energy.grad(x), _diffuse),
        "metropolis": (lambda x: (energy.grad(x), jax.vmap(energy)(x)), _diffuse_or_stay),
        "kinetic": (lambda x: (energy.grad(x), jnp.sqrt(heat) * standard_normal(key, x.shape, x.dtype)), _fly),
    }[method]

    def step(carry, k):
        x, state, mean, spread, taken = carry
        x, state, accepted = move(energy, x, state, jax.random.fold_in(key, k), tau, heat, keep)
        # Welford's update: no difference of large sums
        count = jnp.maximum(k - burn_in + 1, 1).astype(real)
        away = x - mean
        counts = k >= burn_in
        mean = jnp.where(counts, mean + away / count, mean)
        spread = jnp.where(counts, spread + (away * jnp.conj(x - mean)).real, spread)
        return (x, state, mean, spread, taken + accepted), None

    start = (x0, first(x0), jnp.zeros_like(x0), jnp.zeros(x0.shape, real), jnp.zeros(x0.shape[0], real))
    last, _, mean, spread, taken = jax.lax.scan(step, start, jnp.arange(steps))[0]
    finite = jnp.all(jnp.isfinite(last)) & jnp.all(jnp.isfinite(spread))
    return Samples(last, mean, jnp.sqrt(spread / (steps - burn_in)), taken / steps, finite)


# (energy, x, what is kept between the steps, key, τ, T, momentum) → (x, kept, 1 for each chain that moved)


def _diffuse(energy, x, slope, key, tau, heat, _):
    x = x - tau * slope + jnp.sqrt(2 * tau * heat) * standard_normal(key, x.shape, x.dtype)
    return x, energy.grad(x), jnp.ones(x.shape[0], tau.dtype)


def _diffuse_or_stay(energy, x, kept, key, tau, heat, _):
    slope, value = kept
    noise_key, accept_key = jax.random.split(key)
    new, new_slope, _ = _diffuse(energy, x, slope, noise_key, tau, heat, _)
    new_value = jax.vmap(energy)(new)
    forth, back = _size(new - x + tau * slope), _size(x - new + tau * new_slope)
    log_ratio = -(new_value - value) / heat + (forth - back) / (4 * tau * heat)
    accepted = jnp.log(jax.random.uniform(accept_key, value.shape, tau.dtype)) < log_ratio
    choose = lambda a, b: jnp.where(accepted.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return choose(new, x), (choose(new_slope, slope), jnp.where(accepted, new_value, value)), accepted.astype(tau.dtype)


def _fly(energy, x, kept, key, tau, heat, keep):
    """Half a kick, half a drift, renewed velocity, half a drift, half a kick."""
    slope, velocity = kept
    half = jnp.sqrt(tau / 2)
    velocity = velocity - half * slope
    x = x + half * velocity
    velocity = keep * velocity + jnp.sqrt((1 - keep**2) * heat) * standard_normal(key, x.shape, x.dtype)
    x = x + half * velocity
    slope = energy.grad(x)
    return x, (slope, velocity - half * slope), jnp.ones(x.shape[0], tau.dtype)


def pooled(samples: Samples) -> tuple[Any, Any]:
    """(mean, standard deviation) over all chains, ``[...]``: the spread between the chains counts."""
    mean = jnp.mean(samples.mean, 0)
    apart = samples.mean - mean
    return mean, jnp.sqrt(jnp.mean(samples.standard_deviation**2 + (apart * jnp.conj(apart)).real, 0))


def scale_reduction(samples: Samples) -> Any:
    """R̂ = √(1 + variance of the chains' means / mean variance within them) of every value: near 1 once the chains tell the same, above 1.1
    they have not settled: take more steps, or ask whether exp(−E) has an integral at all. At least two chains.

    A. Gelman, D. B. Rubin, Stat. Sci. 7 (1992) 457.
    """
    count = samples.mean.shape[0]
    if count < 2:
        check.fail("samples", "at least two chains", str(count))
    apart = samples.mean - jnp.mean(samples.mean, 0)
    between = jnp.sum((apart * jnp.conj(apart)).real, 0) / (count - 1)
    within = jnp.mean(samples.standard_deviation**2, 0)
    return jnp.sqrt(1 + between / jnp.maximum(within, jnp.finfo(within.dtype).tiny))


def posterior(
    data: Energy, prior: Energy, x0: Any, steps: int, step_size: Any, key: Any, *, chains: int = 4, burn_in: int | None = None,
    **options: Any,
) -> tuple[Any, Any, Samples]:  # fmt: skip
    """(mean, standard deviation, samples) of exp(−D(x) − R(x)) by several chains from x0.

    Args:
        data: D, minus the logarithm of the likelihood: ``LeastSquares(A, y) * (1 / σ²)``, ``GaussianLikelihood``, ``PoissonLikelihood``.
        prior: R of a density exp(−R): a regularizer times the weight that makes it one.
        x0: ``[...]``, where all chains start. burn_in: default: a quarter of the steps. options: of ``langevin``.
    """
    check.positive_int("chains", chains)
    x0 = jnp.asarray(x0)
    start = jnp.broadcast_to(x0, (chains, *x0.shape))
    samples = langevin(data + prior, start, steps, step_size, key, burn_in=steps // 4 if burn_in is None else burn_in, **options)
    return *pooled(samples), samples


def _size(v):
    """‖v‖² of each chain."""
    return jnp.sum((v * jnp.conj(v)).real, tuple(range(1, v.ndim)))
