"""Expectation maximisation for Poisson data: MLEM (the Richardson–Lucy iteration) and its ordered-subset acceleration OSEM."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Zero
from diffimg.energy.regularizers import NonNegative
from diffimg.energy.weight import real_like
from diffimg.solve.data_term import DataTerm, backproject_both, data_like, poisson, require_bounds
from diffimg.solve.solver import Solver
from diffimg.solve.subsets import check_subsets, restrict, subset_views, sweep, take


class EMState(NamedTuple):
    """Iterate, and the sensitivity Aᵀ1."""

    x: Any
    sensitivity: jax.Array


@pytree
class MLEM(Solver):
    """x ← x/(Aᵀ1) · Aᵀ(y/(Ax + background)): the maximum-likelihood image under Poisson noise, non-negative from a positive start.

    Solves ``Problem(smooth=PoissonLikelihood(A, y, background))`` for any linear A without negative entries: in emission tomography
    (L. A. Shepp & Y. Vardi, IEEE Trans. Med. Imaging 1(2), 1982) and in deconvolution (W. H. Richardson 1972; L. B. Lucy 1974). Every step
    raises the likelihood. Further smooth terms R (``PoissonLikelihood(A, y) + HuberTV(…)``) make it a maximum a posteriori estimate by
    the split gradient, x ← x·(Aᵀ(y/(Ax + b)) + (∇R)⁻)/(Aᵀ1 + (∇R)⁺) with ∇R = (∇R)⁺ − (∇R)⁻ (H. Lantéri, M. Roche & C. Aime, Inverse
    Problems 18, 2002), non-negative for every R, but monotone only for weak ones.

    A start that is zero everywhere, of which no step could leave, stands for the flat image that explains the total count. Pixels
    without sensitivity keep their value; samples with Ax + background ≤ 0 are left out of the step. Where interpolation in the Fourier
    domain makes projections negative, use a non-negative model, e.g. ``Radon(geometry, method="joseph")``.
    """

    def init(self, problem, x0):
        require_bounds(problem, "MLEM", (NonNegative,))
        data = poisson(problem, "MLEM")
        return EMState(_positive_start(data, x0), _sensitivity(data, x0))

    def step(self, problem, state):
        data = poisson(problem, "MLEM")
        back = data.operator.H(_ratio(data.operator(state.x), data.y, data.level))
        return state._replace(x=_update(state.x, back, state.sensitivity, data.penalty, 1))

    def tail_step(self, problem, state):
        return self.step(problem, state._replace(sensitivity=_sensitivity(poisson(problem, "MLEM"), state.x)))


class OSEMState(NamedTuple):
    """The iterate."""

    x: Any


@pytree
class OSEM(Solver):
    """MLEM on one subset of the data after the other (H. M. Hudson & R. S. Larkin, IEEE Trans. Med. Imaging 13(4), 1994); a step is one
    pass over all of them.

    About ``subsets`` times as fast as MLEM at first; it ends in a cycle near the solution rather than there. One subset is MLEM.

    Args:
        subsets: how many; divides the length of the data's first axis (the views).
        order: in which they are visited, see ``subsets.access_order``.

    The operator must be one that ``subsets.restrict`` can split; prepared Fourier projectors cannot: ``run(…, prepare=False)``.
    """

    subsets: int = static(default=8)
    order: str = static(default="golden")

    def __post_init__(self):
        check_subsets(self.subsets, self.order)

    def init(self, problem, x0):
        require_bounds(problem, "OSEM", (NonNegative,))
        return OSEMState(_positive_start(poisson(problem, "OSEM"), x0))

    def step(self, problem, state):
        data = poisson(problem, "OSEM")
        background = data_like(data.level, data.y, data.operator, state.x)

        def update(x, index):
            part = restrict(data.operator, index)
            ratio = _ratio(part(x), take(data.y, index, data.operator), take(background, index, data.operator))
            back, sensitivity = backproject_both(part, ratio, jnp.ones(part.codomain.shape, x.dtype))
            return _update(x, back, sensitivity, data.penalty, self.subsets)

        return OSEMState(sweep(update, state.x, subset_views(data.operator.codomain.shape[0], self.subsets, self.order)))


def _sensitivity(data: DataTerm, x: Any) -> jax.Array:
    return data.operator.H(jnp.ones(data.operator.codomain.shape, x.dtype))


def _positive_start(data, x0):
    axes = tuple(range(-len(data.operator.domain.shape), 0))
    empty = ~jnp.any(x0 > 0, axis=axes, keepdims=True)
    y = real_like(data.y, x0)
    ones = jnp.ones(data.operator.domain.shape, x0.dtype)
    samples = tuple(range(-len(data.operator.codomain.shape), 0))
    level = jnp.sum(y, samples) / jnp.sum(data.operator(ones))
    return jnp.where(empty, level.reshape(level.shape + (1,) * len(axes)), x0).astype(x0.dtype)


def _ratio(ax, y, background):
    z = ax + real_like(background, ax)
    seen = z > 0
    return jnp.where(seen, real_like(y, ax) / jnp.where(seen, z, 1), 0)


def _update(x, back, sensitivity, penalty, subsets):
    up, down = back, sensitivity
    if not isinstance(penalty, Zero):
        slope = penalty.grad(x).astype(x.dtype) / subsets
        up, down = up + jnp.maximum(-slope, 0), down + jnp.maximum(slope, 0)
    sighted = down > 0
    return jnp.where(sighted, x * jnp.maximum(up, 0) / jnp.where(sighted, down, 1), x)
