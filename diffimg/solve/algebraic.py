"""Algebraic reconstruction: SIRT, SART with ordered subsets, and CGLS."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static
from diffimg.energy.weight import real_like
from diffimg.solve.data_term import DataTerm, backproject_both, data_like, least_squares, project, require_bounds
from diffimg.solve.solver import Solver
from diffimg.solve.subsets import check_subsets, restrict, subset_views, sweep, take

_GRAZING = 1e-3  # rays with less than this fraction of the longest path hold rounding only, or ringing of the Fourier method


def check_relaxation(relaxation: Any, decay: Any = 0.0) -> None:
    """0 < relaxation < 2 and decay ≥ 0, scalars, where they are concrete."""
    for name, value in (("relaxation", relaxation), ("decay", decay)):
        check.ndim(name, value, 0)
        check.finite(name, value)
    check.minimum("relaxation", relaxation, 0.0, strict=True)
    if check.is_concrete(relaxation) and relaxation >= 2:
        check.fail("relaxation", "a number in (0, 2)", f"{relaxation}", "Larger steps diverge.")
    check.minimum("decay", decay, 0.0)


def reciprocal(sums: jax.Array, axes: int, least: float = 1e-6) -> jax.Array:
    """1/sums, and 0 where they are below the fraction ``least`` of the largest (over the last ``axes`` axes)."""
    enough = sums > least * jnp.max(jnp.abs(sums), axis=tuple(range(-axes, 0)), keepdims=True)
    return jnp.where(enough, 1 / jnp.where(enough, sums, 1), 0)


class SIRTState(NamedTuple):
    """Iterate, R = weights / row sums of A, C = 1 / weighted column sums."""

    x: Any
    rows: jax.Array
    columns: jax.Array


@pytree
class SIRT(Solver):
    """x ← P(x + relaxation · C Aᵀ R (y − Ax)), R and C the inverse row and column sums of A (P. Gilbert, J. Theor. Biol. 36, 1972; in this
    form J. Gregor & T. Benson, IEEE Trans. Med. Imaging 27(7), 2008).

    For ``Problem(smooth=LeastSquares(A, y))`` with any linear A ≥ 0, optionally with bounds (``proximable=NonNegative()`` or ``Box``),
    P the projection onto them. Converges for 0 < relaxation < 2 to the minimum of ½Σ w R |Ax − y|²: every ray counts in inverse
    proportion to its length, so that the plain objective, which ``run`` reports, is not quite the one that falls. The weights w of
    ``LeastSquares`` (e.g. 0 at dead cells) enter R and C. Rays with less than a thousandth of the longest path are left out.
    """

    relaxation: Any = 1.0

    def __post_init__(self):
        check_relaxation(self.relaxation)

    def init(self, problem, x0):
        require_bounds(problem, "SIRT")
        return SIRTState(x0, *_scales(least_squares(problem, "SIRT"), x0))

    def step(self, problem, state):
        data, x = least_squares(problem, "SIRT"), state.x
        change = state.columns * data.operator.H(state.rows * (real_like(data.y, x) - data.operator(x)))
        return state._replace(x=project(problem, x + real_like(self.relaxation, x) * change))

    def tail_step(self, problem, state):
        """The solution depends on R, and R on A."""
        rows, columns = _scales(least_squares(problem, "SIRT"), state.x)
        return self.step(problem, SIRTState(state.x, rows, columns))


def _scales(data: DataTerm, x: Any) -> tuple[jax.Array, jax.Array]:
    operator = data.operator
    weights = data_like(data.level, data.y, operator, x)
    columns = reciprocal(operator.H(weights), len(operator.domain.shape))
    return weights * _row_scale(operator, x), columns


def _row_scale(operator, x):
    return reciprocal(operator(jnp.ones(operator.domain.shape, x.dtype)), len(operator.codomain.shape), _GRAZING)


class SARTState(NamedTuple):
    """Iterate, R = weights / row sums of A, number of passes."""

    x: Any
    rows: jax.Array
    count: jax.Array


@pytree
class SART(Solver):
    """SIRT on one subset of the views after the other; a step is one pass over all of them.

    One view a subset is the SART of A. H. Andersen & A. C. Kak (Ultrason. Imaging 6, 1984); ``subsets=k`` is OS-SART (G. Wang & M. Jiang,
    J. X-Ray Sci. Technol. 12, 2004); one subset is SIRT. Fast at first; with noisy data it ends in a cycle around the solution, which
    shrinks with the relaxation. Problem, bounds and weights as for ``SIRT``.

    Args:
        relaxation: in (0, 2); of the pass k it is relaxation/(1 + decay·k).
        decay: 0 keeps the relaxation; a positive one lets the cycle shrink to a point.
        subsets: how many; divides the number of views (the data's first axis). None: one view each.
        order: in which they are visited, see ``subsets.access_order``.

    The operator must be one that ``subsets.restrict`` can split; prepared Fourier projectors cannot: ``run(…, prepare=False)``.
    """

    relaxation: Any = 1.0
    decay: Any = 0.0
    subsets: int | None = static(default=None)
    order: str = static(default="golden")

    def __post_init__(self):
        check_relaxation(self.relaxation, self.decay)
        check_subsets(self.subsets, self.order)

    def init(self, problem, x0):
        require_bounds(problem, "SART")
        return SARTState(x0, self._rows(problem, x0), jnp.int32(0))

    def step(self, problem, state):
        data = least_squares(problem, "SART")
        weights = data_like(data.level, data.y, data.operator, state.x)
        relaxation = real_like(self.relaxation / (1 + self.decay * state.count), state.x)

        def update(x, index):
            part = restrict(data.operator, index)
            y, rows, w = (take(v, index, data.operator) for v in (data.y, state.rows, weights))
            change, columns = backproject_both(part, rows * (real_like(y, x) - part(x)), w)
            return project(problem, x + relaxation * reciprocal(columns, len(part.domain.shape)) * change)

        x = sweep(update, state.x, subset_views(data.operator.codomain.shape[0], self.subsets, self.order))
        return SARTState(x, state.rows, state.count + 1)

    def tail_step(self, problem, state):
        return self.step(problem, state._replace(rows=self._rows(problem, state.x)))

    def _rows(self, problem, x):
        data = least_squares(problem, "SART")
        return data_like(data.level, data.y, data.operator, x) * _row_scale(data.operator, x)


class CGLSState(NamedTuple):
    """Iterate, residual s = y − Ax of the data, direction, ‖AᴴWs‖², the value of it that counts as zero, the last α and β, an upper bound
    on the eigenvalues of AᴴWA seen so far."""

    x: Any
    s: jax.Array
    p: Any
    rr: jax.Array
    floor: jax.Array
    alpha: jax.Array
    beta: jax.Array
    largest: jax.Array


@pytree
class CGLS(Solver):
    """Conjugate gradients for ``Problem(smooth=LeastSquares(A, y))`` that carry the residual of the data (M. R. Hestenes & E. Stiefel,
    1952; Å. Björck, 1996, ch. 7.4), for any linear A, real or complex.

    In exact arithmetic the iterates are those of ``ConjugateGradient``, which works with AᴴA (faster where the operator has a fast, and
    perhaps approximate, one) and takes Tikhonov's term too. Early stopping regularizes. Stands still once the gradient is rounding error.
    """

    def init(self, problem, x0):
        problem.require("CGLS")
        data = least_squares(problem, "CGLS")
        s = data.y.astype(jnp.result_type(data.operator(x0))) - data.operator(x0)
        p = _gradient(data, s)
        rr = tree.real_dot(p, p)
        one, zero = jnp.ones_like(rr), jnp.zeros_like(rr)
        return CGLSState(x0, s, p, rr, rr * jnp.finfo(rr.dtype).eps ** 2, one, zero, zero)

    def step(self, problem, state):
        data = least_squares(problem, "CGLS")
        q = data.operator(state.p)
        curvature = tree.real_dot(q, real_like(data.level, q) * q)
        done = (state.rr <= state.floor) | (curvature == 0)
        alpha = jnp.where(done, 0, state.rr / jnp.where(done, 1, curvature))
        s = tree.add(state.s, q, -alpha)
        r = _gradient(data, s)
        rr = tree.real_dot(r, r)
        beta = jnp.where(done, 0, rr / jnp.where(done, 1, state.rr))
        # Gershgorin's bound for this row of the Lanczos matrix, as in ConjugateGradient.
        safe = jnp.where(done, 1, alpha)
        a, b, a0, b0 = jax.lax.stop_gradient((safe, beta, state.alpha, state.beta))
        largest = jnp.where(done, state.largest, jnp.maximum(state.largest, 1 / a + jnp.sqrt(b) / a + (b0 + jnp.sqrt(b0)) / a0))
        x, p = tree.add(state.x, state.p, alpha), tree.add(r, state.p, beta)
        return CGLSState(x, s, p, rr, state.floor, safe, beta, largest)

    def tail_step(self, problem, state):
        """A step of gradient descent: s and p hold the problem's parameters in their values."""
        data = least_squares(problem, "CGLS")
        tau = 1 / jnp.where(state.largest > 0, state.largest, 1)
        s = data.y.astype(state.s.dtype) - data.operator(state.x)
        return state._replace(x=tree.add(state.x, _gradient(data, s), jax.lax.stop_gradient(tau)))


def _gradient(data, s):
    return data.operator.H(real_like(data.level, s) * s)
