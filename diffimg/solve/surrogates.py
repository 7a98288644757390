"""Separable quadratic surrogates with ordered subsets, for penalized weighted least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Zero
from diffimg.energy.weight import real_like
from diffimg.solve.algebraic import check_relaxation, reciprocal
from diffimg.solve.data_term import data_like, least_squares, project, require_bounds
from diffimg.solve.solver import Solver
from diffimg.solve.subsets import check_subsets, restrict, subset_views, sweep, take


class SQSState(NamedTuple):
    """Iterate, extrapolated point, momentum t, 1/D, number of passes."""

    x: Any
    y: Any
    t: jax.Array
    scale: jax.Array
    count: jax.Array


@pytree
class SQS(Solver):
    """x ← P(x − relaxation · D⁻¹ M ∇E_k(x)) over M subsets k; D = AᵀWA1 + L_R bounds the Hessian of the whole energy from above.

    For penalized weighted least squares, ``Problem(smooth=LeastSquares(A, y, weights) + R)`` with a linear A ≥ 0 and any smooth R with a
    known Lipschitz constant L_R (none is needed), optionally with bounds (``proximable=NonNegative()`` or ``Box``). D is a diagonal: it
    costs one forward and one backprojection, no operator norm, and adapts the step to each pixel. One subset converges monotonically;
    more are faster at first and end in a cycle near the solution. A step is one pass over all subsets. Derivatives hold D constant.

    H. Erdoğan & J. A. Fessler, Phys. Med. Biol. 44(11), 1999; with ``momentum`` D. Kim, S. Ramani & J. A. Fessler, IEEE Trans. Med.
    Imaging 34(1), 2015.

    Args:
        relaxation: in (0, 2); of the pass k it is relaxation/(1 + decay·k).
        decay: a positive one lets the cycle shrink to a point.
        subsets: how many; divides the number of views (the data's first axis).
        order: in which they are visited, see ``subsets.access_order``.
        momentum: Nesterov's, after every subset: faster, and unstable with too many subsets (few views in each) or relaxation > 1. With
            more than one subset, ``Implicit`` differentiates the cycle without momentum, which is close to that with it.

    With more than one subset, the operator must be one that ``subsets.restrict`` can split; prepared Fourier projectors cannot:
    ``run(…, prepare=False)``.
    """

    relaxation: Any = 1.0
    decay: Any = 0.0
    subsets: int = static(default=1)
    order: str = static(default="golden")
    momentum: bool = static(default=False)

    def __post_init__(self):
        check_relaxation(self.relaxation, self.decay)
        check_subsets(self.subsets, self.order)

    def init(self, problem, x0):
        require_bounds(problem, "SQS")
        data = least_squares(problem, "SQS", penalty=True)
        operator = data.operator
        ones = jnp.ones(operator.domain.shape, x0.dtype)
        bound = operator.H(data_like(data.level, data.y, operator, x0) * operator(ones))
        if not isinstance(data.penalty, Zero):
            bound = bound + real_like(data.penalty.lipschitz(), x0)
        # The solution does not depend on D.
        scale = jax.lax.stop_gradient(reciprocal(bound, len(operator.domain.shape)))
        return SQSState(x0, x0, jnp.ones((), scale.dtype), scale, jnp.int32(0))

    def step(self, problem, state):
        data = least_squares(problem, "SQS", penalty=True)
        step = real_like(self.relaxation / (1 + self.decay * state.count), state.x) * state.scale

        def slope(v, operator, y, weights, share):
            gradient = share * operator.H(weights * (operator(v) - real_like(y, v)))
            return gradient if isinstance(data.penalty, Zero) else gradient + data.penalty.grad(v)

        def advance(carry, gradient):
            x, y, t = carry
            new = project(problem, y - step * gradient)
            if not self.momentum:
                return new, new, t
            later = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            return new, new + (t - 1) / later * (new - x), later

        def update(carry, index):
            part = restrict(data.operator, index)
            y, w = (take(v, index, data.operator) for v in (data.y, weights))
            return advance(carry, slope(carry[1], part, y, w, self.subsets))

        weights = data_like(data.level, data.y, data.operator, state.x)
        carry = state.x, state.y, state.t
        if self.subsets == 1:
            carry = advance(carry, slope(state.y, data.operator, data.y, weights, 1))
        else:
            carry = sweep(update, carry, subset_views(data.operator.codomain.shape[0], self.subsets, self.order))
        return SQSState(*carry, state.scale, state.count + 1)

    def with_variables(self, state, z):
        return state._replace(x=z, y=z, t=jnp.ones_like(state.t))
