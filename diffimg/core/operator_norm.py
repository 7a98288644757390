"""The largest singular value of a linear map, estimated from below and from above."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.krylov import Map, is_pytree
from diffimg.core.pytree import add, scale


class OperatorNorm(NamedTuple):
    """σ_max(A) between ``lower`` (a Ritz value, below up to rounding) and ``upper`` (above with a stated probability)."""

    lower: jax.Array
    upper: jax.Array


def operator_norm(
    apply: Map, adjoint: Map, domain: Any, key: jax.Array | None = None, steps: int = 40, failure: float = 1e-4
) -> OperatorNorm:
    """σ_max(A) by Golub–Kahan bidiagonalization from a random start, with an upper bound.

    ``domain`` is the structure of x (``ShapeDtypeStruct`` or a pytree of them, or arrays). Storage does not grow with ``steps``: without
    reorthogonalization only copies of converged Ritz values appear, which do no harm to the largest one.

    ``upper`` fails to bound σ_max with probability at most ``failure`` over the start: for N real unknowns and k steps,
    P(θ < (1−ε) σ_max²) ≤ 1.648 √N exp(−(2k−1)√ε), θ the largest Ritz value of AᴴA (Kuczyński & Woźniakowski 1992, Theorem 4.2);
    solving for ε gives upper = √(θ/(1−ε)): 2 % above for 512² unknowns and 40 steps. Where the Krylov space is exhausted,
    upper = lower but for rounding.
    """
    check.positive_int("steps", steps)
    if not 0 < failure < 1:
        check.fail("failure", "a probability in (0, 1)", repr(failure))
    leaves = jax.tree.leaves(domain)
    unknowns = sum(math.prod(s.shape) * (2 if jnp.issubdtype(s.dtype, jnp.complexfloating) else 1) for s in leaves)
    if not unknowns:
        check.fail("domain", "at least one unknown", f"{domain}")
    epsilon = 0.0 if steps >= unknowns else (math.log(1.648 * math.sqrt(unknowns) / failure) / (2 * steps - 1)) ** 2
    if epsilon > 0.75:
        need = math.ceil((math.log(1.648 * math.sqrt(unknowns) / failure) / math.sqrt(0.75) + 1) / 2)
        check.fail("steps", f"at least {need} for {unknowns} unknowns", f"{steps}", "With fewer there is no bound from above.")
    key = jax.random.key(0) if key is None else key
    start = [jax.random.normal(k, s.shape, s.dtype) for k, s in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]
    start = jax.tree.unflatten(jax.tree.structure(domain), start)
    run = _bidiagonalize_compiled if is_pytree(apply, adjoint) else _bidiagonalize
    lower, exhausted = run(apply, adjoint, start, steps)
    rounding = 1 + 100 * jnp.finfo(lower.dtype).eps
    return OperatorNorm(lower, lower * rounding * jnp.where(exhausted, 1, 1 / math.sqrt(1 - epsilon)))


def _bidiagonalize(apply, adjoint, v, steps):
    """Largest singular value of the bidiagonal matrix, and whether the Krylov space came to its end."""

    def normalized(w):
        square = sum(jnp.sum(jnp.real(p * jnp.conj(p))) for p in jax.tree.leaves(w))
        n = jnp.sqrt(jnp.where(square > 0, square, 1))
        return scale(1 / n, w), jnp.where(square > 0, n, 0)

    def step(carry, _):
        u, v, beta, size, exhausted = carry
        u, alpha = normalized(add(apply(v), u, -beta))
        w, beta = normalized(add(scale(-alpha, v), adjoint(u)))
        size = jnp.maximum(size, jnp.hypot(alpha, beta))
        exhausted |= jnp.minimum(alpha, beta) <= 4 * jnp.finfo(alpha.dtype).eps * size
        return (u, w, beta, size, exhausted), (alpha, beta)

    v, length = normalized(v)
    u = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(apply, v))
    zero = jnp.zeros_like(length)
    (*_, exhausted), (alpha, beta) = jax.lax.scan(step, (u, v, zero, zero, jnp.bool_(False)), None, length=steps)
    bidiagonal = jnp.pad(jnp.diag(alpha), ((0, 0), (0, 1))) + jnp.pad(jnp.diag(beta), ((0, 0), (1, 0)))
    return jnp.max(jnp.linalg.svd(bidiagonal, compute_uv=False)), exhausted


_bidiagonalize_compiled = jax.jit(_bidiagonalize, static_argnums=3)
