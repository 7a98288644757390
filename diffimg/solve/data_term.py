"""What solvers for one kind of data term read from a problem: the operator and its data, the rest of the smooth part, the bounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy.base import Energy, EnergySum, ScaledEnergy, Zero
from diffimg.energy.data import LeastSquares
from diffimg.energy.poisson import PoissonLikelihood
from diffimg.energy.regularizers import Box, NonNegative
from diffimg.energy.weight import real_like
from diffimg.forward.operator import Operator
from diffimg.solve.problem import Problem


class DataTerm(NamedTuple):
    """``weights`` (least squares) or ``background`` (Poisson) is ``level``, of a shape that broadcasts to y ``[..., *codomain]``."""

    operator: Operator
    y: jax.Array
    level: Any
    penalty: Energy


def least_squares(problem: Problem, solver: str, *, penalty: bool = False) -> DataTerm:
    """The ``LeastSquares`` term (also scaled) of ``problem.smooth``, with its weights (1 where it has none).

    Raises:
        ValueError: if there is none or more than one, if A is not linear or has several outputs; if there are other smooth terms
            and ``penalty`` is False.
    """
    data, factor, rest = _find(problem, solver, LeastSquares, "LeastSquares(A, y)", penalty)
    weights = 1.0 if data.weights is None else data.weights
    return DataTerm(data.operator, data.y, factor * jnp.asarray(jax.tree.leaves(weights)[0]), rest)


def poisson(problem: Problem, solver: str) -> DataTerm:
    """The ``PoissonLikelihood`` of ``problem.smooth``, with its background; the other smooth terms are the penalty. Raises as above."""
    data, factor, rest = _find(problem, solver, PoissonLikelihood, "PoissonLikelihood(A, y)", True)
    if not isinstance(rest, Zero):
        rest = (1 / factor) * rest
    return DataTerm(data.operator, data.y, jax.tree.leaves(data.background)[0], rest)


def project(problem: Problem, x: Any) -> Any:
    """x within the problem's bounds. Projections onto bounds do not depend on the (diagonal) metric of a step; other proxes do."""
    return problem.proximable.prox(x, 1.0)


def require_bounds(problem: Problem, solver: str, allowed: tuple[type, ...] = (Box, NonNegative)) -> None:
    """Refuse a proximable part other than bounds, and composed terms."""
    problem.require(solver, proximable=True)
    if not isinstance(problem.proximable, (Zero, *allowed)):
        names = " or ".join(kind.__name__ for kind in allowed)
        check.fail("problem.proximable", f"{names}, for {solver}", f"{problem.proximable!r}", "Use FISTA, ADMM or PrimalDual.")


def backproject_both(operator: Operator, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(Aᴴa, Aᴴb) in one call, which shares the geometry's work; leading axes of a and b are batch axes."""
    shape, image = operator.codomain.shape, operator.domain.shape
    lead_a, lead_b = (v.shape[: v.ndim - len(shape)] for v in (a, b))
    flat = a.reshape(-1, *shape)
    both = operator.H(jnp.concatenate([flat, b.reshape(-1, *shape).astype(a.dtype)]))
    n = flat.shape[0]
    return both[:n].reshape(*lead_a, *image), both[n:].reshape(*lead_b, *image)


def data_like(value: Any, y: jax.Array, operator: Operator, x: Any) -> jax.Array:
    """``value`` on every sample, in the precision of x: shape ``codomain``, with the batch axes that it has itself."""
    value = real_like(value, x)
    return jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, operator.codomain.shape))


def _find(problem, solver, kind, text, penalty):
    terms = problem.smooth.terms if isinstance(problem.smooth, EnergySum) else (problem.smooth,)
    found = [t for t in terms if isinstance(_inner(t), kind)]
    if len(found) != 1:
        check.fail("problem.smooth", f"one {text}, for {solver}", f"{problem.smooth!r}", f"Problem(smooth={text}, …).")
    rest = tuple(t for t in terms if t is not found[0])
    if rest and not penalty:
        remedy = "Use SQS, ConjugateGradient or FISTA."
        check.fail("problem.smooth", f"{text} alone, for {solver}", f"{problem.smooth!r}", remedy)
    data, factor = _inner(found[0]), found[0].factor if isinstance(found[0], ScaledEnergy) else 1.0
    if not data.operator.linear:
        check.fail("problem.smooth", f"a linear operator, for {solver}", f"{data.operator!r}", "Use GradientDescent or FISTA.")
    if not (hasattr(data.operator.domain, "shape") and hasattr(data.operator.codomain, "shape")):
        check.fail("problem.smooth", f"an operator between single arrays, for {solver}", f"{data.operator!r}", "Use FISTA.")
    if not rest:
        return data, factor, Zero()
    return data, factor, rest[0] if len(rest) == 1 else EnergySum(rest)


def _inner(energy):
    return energy.energy if isinstance(energy, ScaledEnergy) else energy
