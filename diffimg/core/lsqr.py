"""LSQR: least squares from products with A and Aᴴ."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.krylov import Map, SolveResult, check_stopping, is_pytree, promoted, ratio, vector
from diffimg.core.pytree import add, norm, scale, zeros_like


def lsqr(apply: Map, adjoint: Map, b: Any, damping: float = 0.0, *, tolerance: float = 1e-6, max_steps: int = 1000) -> SolveResult:
    """LSQR: argmin_x ‖A x − b‖² + damping²‖x‖²; of several minimizers the shortest (Paige & Saunders 1982).

    ``adjoint`` is Aᴴ (in Re⟨·,·⟩). ``converged`` means that ‖r̄‖ ≤ tolerance·‖b‖ or ‖Āᴴr̄‖ ≤ tolerance·‖Ā‖‖r̄‖, where Ā and r̄ include the
    damping; ``residual_norm`` is ‖b − A x‖.
    """
    b = vector("b", b)
    b = promoted(b, jax.eval_shape(apply, jax.eval_shape(adjoint, b)))
    check.minimum("damping", damping, 0)
    check_stopping(tolerance, max_steps)
    run = _lsqr_compiled if is_pytree(apply, adjoint) else _lsqr
    return run(apply, adjoint, b, damping, tolerance, max_steps)


def _lsqr(apply, adjoint, b, damping, tolerance, max_steps):
    def normalized(v):
        n = norm(v)
        return scale(ratio(jnp.ones_like(n), n), v), n

    u, beta = normalized(b)
    v, alpha = normalized(adjoint(u))
    kind = alpha.dtype
    damping = jnp.asarray(damping, kind)
    target = tolerance * beta

    def unfinished(state):
        *_, square, rnorm, anorm, k = state
        return (rnorm > target) & (anorm > tolerance * jnp.sqrt(square) * rnorm) & (k < max_steps)

    def step(state):
        x, u, v, w, alpha, rhobar, phibar, damped, square, _, _, k = state
        u, beta = normalized(add(apply(v), u, -alpha))
        square = square + alpha**2 + beta**2 + damping**2
        v, alpha = normalized(add(adjoint(u), v, -beta))
        rho1 = jnp.hypot(rhobar, damping)
        damped, phibar = damped + (damping / rho1 * phibar) ** 2, rhobar / rho1 * phibar
        rho = jnp.hypot(rho1, beta)
        c, s = rho1 / rho, beta / rho
        phi, phibar = c * phibar, s * phibar
        x, w = add(x, w, phi / rho), add(v, w, -s * alpha / rho)
        rnorm = jnp.sqrt(phibar**2 + damped)
        return x, u, v, w, alpha, -c * alpha, phibar, damped, square, rnorm, alpha * jnp.abs(s * phi), k + 1

    zero = jnp.zeros((), kind)
    start = (zeros_like(v), u, v, v, alpha, alpha, beta.astype(kind), zero, zero, beta.astype(kind), alpha * beta, jnp.int32(0))
    x, *_, square, rnorm, anorm, k = jax.lax.while_loop(unfinished, step, start)
    converged = (rnorm <= target) | (anorm <= tolerance * jnp.sqrt(square) * rnorm)
    return SolveResult(x, norm(add(b, apply(x), -1)), k, converged, jnp.bool_(False), jnp.bool_(False))


_lsqr_compiled = jax.jit(_lsqr)
