"""Splitting methods: ADMM, the primal-dual hybrid gradient method, half-quadratic splitting."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check, linalg
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Zero
from diffimg.solve.descent import finite_lipschitz
from diffimg.solve.result import Status
from diffimg.solve.solver import Solver, relative_change


def _sum(parts):
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)


class ADMMState(NamedTuple):
    """Iterate, split variables zᵢ ≈ Kᵢx, scaled duals uᵢ, status."""

    x: Any
    z: Any
    u: Any
    status: jax.Array


@pytree
class ADMM(Solver):
    """Alternating direction method of multipliers (Boyd et al., 2011) for f(x) + h(x) + Σ gᵢ(Kᵢx).

    Each of h and gᵢ gets a copy zᵢ = Kᵢx. The x-update minimises f(x) + ρ/2 Σ‖Kᵢx − zᵢ + uᵢ‖² by conjugate gradients, warm-started, to
    ``inner_tolerance`` times the gradient or for ``inner_steps``: exact up to those for quadratic f, one inexact Newton step
    otherwise. ``penalty`` is ρ > 0. The answer is x; where h is a constraint, x meets it only at convergence.

    Derivatives take the x-update to be exact: where they must be accurate, lower ``inner_tolerance``. Reports INDEFINITE where
    the Hessian of f + ρ/2 Σ‖Kᵢx‖² is.
    """

    penalty: Any = 1.0
    inner_steps: int = static(default=30)
    inner_tolerance: Any = 1e-3

    def __post_init__(self):
        check.minimum("penalty", self.penalty, 0.0, strict=True)
        check.positive_int("inner_steps", self.inner_steps)
        check.minimum("inner_tolerance", self.inner_tolerance, 0.0)

    def init(self, problem, x0):
        terms = _terms(problem)
        if not terms:
            check.fail("problem", "a proximable or composed term, for ADMM", f"{problem!r}", "Use GradientDescent or ConjugateGradient.")
        z = tuple(_through(k, x0) for _, k in terms)
        return ADMMState(x0, z, jax.tree.map(jnp.zeros_like, z), jnp.int32(Status.COMPLETED))

    def step(self, problem, state):
        terms = _terms(problem)

        def gradient(x, targets):
            pulls = [_back(k, tree.add(_through(k, x), t, -1)) for (_, k), t in zip(terms, targets, strict=True)]
            return tree.scale(self.penalty, _sum(pulls))

        def hessian(d):
            curvature = jax.jvp(problem.grad, (state.x,), (d,))[1]
            return tree.add(curvature, gradient(d, jax.tree.map(jnp.zeros_like, state.z)))

        targets = tuple(tree.add(z, u, -1) for z, u in zip(state.z, state.u, strict=True))
        slope = tree.add(problem.grad(state.x), gradient(state.x, targets))
        newton = linalg.cg(hessian, tree.scale(-1, slope), tolerance=self.inner_tolerance, max_steps=self.inner_steps)
        x = tree.add(state.x, newton.x)
        v = tuple(tree.add(_through(k, x), u) for (_, k), u in zip(terms, state.u, strict=True))
        z = tuple(g.prox(w, 1 / self.penalty) for (g, _), w in zip(terms, v, strict=True))
        u = tuple(tree.add(w, q, -1) for w, q in zip(v, z, strict=True))
        status = jnp.where(newton.indefinite, Status.INDEFINITE, Status.COMPLETED).astype(jnp.int32)
        return ADMMState(x, z, u, status)

    def residual(self, old, new):
        """The largest relative change of x and of (z, u), whose changes are the primal and dual residuals."""
        return jnp.maximum(super().residual(old, new), relative_change((old.z, old.u), (new.z, new.u)))

    def variables(self, state):
        return state.x, state.z, state.u

    def with_variables(self, state, z):
        return state._replace(x=z[0], z=z[1], u=z[2])


def _terms(problem):
    own = () if isinstance(problem.proximable, Zero) else ((problem.proximable, None),)
    return own + problem.composed


def _through(k, x):
    return x if k is None else k(x)


def _back(k, y):
    return y if k is None else k.H(y)


class PrimalDualState(NamedTuple):
    """Iterate, duals yᵢ, the prox's auxiliary variable, primal and dual step."""

    x: Any
    y: Any
    auxiliary: Any
    tau: jax.Array
    sigma: jax.Array


@pytree
class PrimalDual(Solver):
    """Primal-dual hybrid gradient (Chambolle & Pock, 2011; with a smooth term: Condat, 2013; Vũ, 2013).

    x⁺ = prox_{τh}(x − τ(∇f(x) + ΣKᵢᴴyᵢ)), yᵢ⁺ = prox_{σgᵢ*}(yᵢ + σKᵢ(2x⁺ − x)). Steps are given as ``tau`` and ``sigma``, or follow from
    ``balance`` = σ/τ, as long as 1/τ − σ‖K‖² ≥ L/2 allows (L the Lipschitz constant of ∇f); larger moves the dual faster.
    Its default L²/(2‖K‖²), or 1 without a smooth term, makes the iterates independent of the units of the energy and of K.
    Derivatives hold steps that were not given constant.
    """

    tau: Any = None
    sigma: Any = None
    balance: Any = None

    def __post_init__(self):
        for name in ("tau", "sigma", "balance"):
            if getattr(self, name) is not None:
                check.minimum(name, getattr(self, name), 0.0, strict=True)
        if (self.tau is None) != (self.sigma is None):
            check.fail("tau, sigma", "both or neither", f"tau={self.tau!r}, sigma={self.sigma!r}")

    def init(self, problem, x0):
        if not problem.composed:
            check.fail("problem.composed", "at least one pair (g, K), for PrimalDual", "none", "Use FISTA for smooth + proximable.")
        dtype = tree.norm(x0).dtype
        if self.tau is None:
            tau, sigma = self._steps(*jax.lax.stop_gradient((problem, x0)), dtype)
        else:
            tau, sigma = jnp.asarray(self.tau, dtype), jnp.asarray(self.sigma, dtype)
        y = tree.zeros_like(jax.eval_shape(lambda x: tuple(k(x) for _, k in problem.composed), x0))
        return PrimalDualState(x0, y, problem.prox_start(x0), tau, sigma)

    def _steps(self, problem, x0, dtype):
        norm = jnp.asarray(problem.composed_norm(x0), dtype)
        norm = jnp.where(norm == 0, 1, norm)
        half = finite_lipschitz(problem, dtype) / 2
        if self.balance is None:
            balance = jnp.where(half == 0, 1, 2 * (half / norm) ** 2)
        else:
            balance = jax.lax.stop_gradient(jnp.asarray(self.balance, dtype))
        # The positive root of 1/τ − balance·τ·‖K‖² = L/2.
        tau = 0.99 * 2 / (half + jnp.sqrt(half**2 + 4 * balance * norm**2))
        return tau, balance * tau

    def step(self, problem, state):
        tau = state.tau if self.tau is None else self.tau
        sigma = state.sigma if self.sigma is None else self.sigma
        pulls = [k.H(y) for (_, k), y in zip(problem.composed, state.y, strict=True)]
        direction = _sum([problem.grad(state.x), *pulls])
        x, auxiliary = problem.prox(tree.add(state.x, direction, -tau), tau, state.auxiliary)
        ahead = tree.add(tree.scale(2, x), state.x, -1)
        y = tuple(g.conjugate_prox(tree.add(y, k(ahead), sigma), sigma) for (g, k), y in zip(problem.composed, state.y, strict=True))
        return PrimalDualState(x, y, auxiliary, state.tau, state.sigma)

    def residual(self, old, new):
        """The larger of the relative change of x and that of (x, y) in the method's own metric ‖x‖²/τ + ‖y‖²/σ."""

        def scaled(s):
            return tree.scale(jax.lax.rsqrt(new.tau), s.x), tree.scale(jax.lax.rsqrt(new.sigma), s.y)

        return jnp.maximum(super().residual(old, new), relative_change(scaled(old), scaled(new)))

    def variables(self, state):
        return state.x, state.y, state.auxiliary

    def with_variables(self, state, z):
        return state._replace(x=z[0], y=z[1], auxiliary=z[2])


class HalfQuadraticState(NamedTuple):
    """Iterate x, split variable z, the prox's auxiliary variable, and by how much the coupling μ has grown."""

    x: Any
    z: Any
    auxiliary: Any
    grown: jax.Array


@pytree
class HalfQuadraticSplitting(Solver):
    """min f(x) + h(z) + μ/2‖x − z‖² by alternating x = prox_{f/μ}(z), z = prox_{h/μ}(x), while μ grows by ``growth`` up to ``limit``.

    The smooth energy needs a prox (``LeastSquares`` has one). At constant μ the fixed point minimises f + the Moreau envelope of h
    (Geman & Yang, 1995), so it solves the problem itself only in the limit of large μ; growth slower than convergence gets there.
    The answer is x, the minimiser of the data side.
    """

    coupling: Any = 1.0
    growth: Any = 1.0
    limit: Any = 1e6

    def __post_init__(self):
        check.minimum("coupling", self.coupling, 0.0, strict=True)
        check.minimum("growth", self.growth, 1.0)
        check.minimum("limit", self.limit, 0.0, strict=True)

    def init(self, problem, x0):
        problem.require("HalfQuadraticSplitting", proximable=True)
        if not problem.smooth.has_prox:
            expected = "an energy with a prox, for HalfQuadraticSplitting"
            check.fail("problem.smooth", expected, f"{problem.smooth!r}", "Use ProximalGradient or FISTA.")
        return HalfQuadraticState(x0, x0, problem.prox_start(x0), jnp.ones((), tree.norm(x0).dtype))

    def step(self, problem, state):
        dtype = state.grown.dtype
        width = 1 / (jnp.asarray(self.coupling, dtype) * state.grown)
        x = problem.smooth.prox(state.z, width)
        z, auxiliary = problem.prox(x, width, state.auxiliary)
        most = jnp.maximum(jax.lax.stop_gradient(jnp.asarray(self.limit / self.coupling, dtype)), 1)
        grown = jnp.minimum(state.grown * jnp.asarray(self.growth, dtype), most)
        return HalfQuadraticState(x, z, auxiliary, grown)

    def residual(self, old, new):
        """The largest relative change of x and z."""
        return jnp.maximum(super().residual(old, new), relative_change(old.z, new.z))

    def variables(self, state):
        return state.x, state.z, state.auxiliary

    def with_variables(self, state, z):
        return state._replace(x=z[0], z=z[1], auxiliary=z[2])
