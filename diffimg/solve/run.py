"""``run``: the one driver of every solver, with history, stopping, progress and the gradient rules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check, linalg, loops
from diffimg.core import pytree as tree
from diffimg.core.pair import Pair, paired
from diffimg.solve.gradients import Checkpoint, GradientRule, Implicit, JacobianFree, Truncated, Unroll
from diffimg.solve.problem import Problem
from diffimg.solve.result import Result, Status
from diffimg.solve.solver import Solver


class _Settings(NamedTuple):
    """What is fixed when the loop is compiled."""

    steps: int
    tolerance: float
    objective_every: int
    progress: Callable[..., None] | None
    progress_every: int


class _Carry(NamedTuple):
    state: Any
    status: jax.Array  # COMPLETED while going on
    count: jax.Array


def run(
    solver: Solver,
    problem: Problem,
    x0: Any,
    steps: int = 100,
    tolerance: float = 0.0,
    gradient: GradientRule | None = None,
    *,
    objective_every: int = 1,
    progress: Callable[[int, float, float], None] | None = None,
    prepare: bool = True,
) -> Result:
    """Minimise ``problem`` from ``x0``.

    Args:
        solver: hyper-parameters, e.g. ``FISTA()``.
        problem: what to minimise.
        x0: start, an array or pytree; leading axes batch one joint problem; ``jax.vmap(run…)`` stops each sample by itself.
        steps: the most iterations to take.
        tolerance: stop when the relative change (``solver.residual``: ‖x⁺−x‖/‖x⁺‖, and of dual variables) is at most this;
            0 takes all steps. Small steps look like arrival: with a weak regularizer, one from Aᴴy, which agrees with the data, may
            end at once; where the data term has a closed prox, ``Problem(smooth=regularizer, proximable=data)`` takes larger ones.
        gradient: how to differentiate the solution (``Unroll``, ``Checkpoint``, ``Truncated``, ``Implicit``, ``JacobianFree``).
            None: ``Unroll`` where ``tolerance`` is 0; otherwise a loop that stops early and refuses reverse mode.
        objective_every: evaluate the objective every so many steps (0: at start and end only); it costs a forward model each time.
        progress: called from inside jit as ``progress(iteration, objective, residual)`` about a hundred times (vmapped: for each
            sample); the objective is NaN where ``objective_every`` skips it.
        prepare: compute the operators' tables once before the loop. Operators whose geometry (angles) is traced, as inside a
            gradient with respect to it, are left as they are, so such gradients are right, and slower. Prepare the problem
            yourself (``problem.prepare()``) before many runs with one geometry.

    Returns:
        ``Result(x, status, iterations, objective, residual, state)``; ``result.check()`` raises if the run failed. Gradients flow
        through ``x`` alone.

    Raises:
        ValueError: for arguments of the wrong kind or range, and for problems with a part that the solver would ignore.
    """
    steps = check.positive_int("steps", steps)
    check.minimum("tolerance", tolerance, 0.0)
    check.minimum("objective_every", objective_every, 0)
    if not isinstance(solver, Solver):
        check.fail("solver", "a Solver such as FISTA()", repr(solver), "Solvers are instances: run(FISTA(), …).")
    if not isinstance(problem, Problem):
        check.fail("problem", "a Problem", repr(problem), "Problem(smooth=LeastSquares(A, y), proximable=…).")
    check.is_pytree("solver", solver)
    if gradient is not None and not isinstance(gradient, GradientRule):
        check.fail("gradient", "a gradient rule", repr(gradient), "Unroll(), Checkpoint(), Truncated(last), Implicit() or JacobianFree().")
    x0 = jax.tree.map(jnp.asarray, x0)
    for leaf in jax.tree.leaves(x0):
        check.inexact("x0", leaf)
    settings = _Settings(steps, float(tolerance), int(objective_every), progress, max(1, steps // 100))
    if prepare:
        problem = problem.prepare()
    if isinstance(gradient, Implicit):
        return _run_implicit(settings, gradient, solver, problem, x0)
    return _run(settings, gradient, solver, problem, x0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(settings, gradient, solver, problem, x0):
    start = _start(solver, problem, x0)
    if isinstance(gradient, (Truncated, JacobianFree)):
        carry, records = _cut(settings, gradient, solver, problem, start)
        return _result(settings, solver, problem, start, carry, records, moved=True)
    if isinstance(gradient, (Unroll, Checkpoint)) or (gradient is None and settings.tolerance == 0.0):
        carry, records = _scan(settings, gradient, solver.step, solver, problem, start, settings.steps)
    else:
        carry, records = _advance(settings, solver, problem, start, settings.steps)
        x = paired(_FORWARD_ONLY, (), carry.state.x)
        carry = carry._replace(state=carry.state._replace(x=x))
    return _result(settings, solver, problem, start, carry, records)


def _start(solver, problem, x0):
    """The first state, after refusing at trace time what would fail obscurely, or silently, in the loop."""
    try:
        slope = jax.eval_shape(problem.grad, x0)
    except ValueError as error:
        got = ", ".join(check.describe(v) for v in jax.tree.leaves(x0))
        raise ValueError(f"x0: expected an image that the problem takes, got {got}. {error}") from None
    leaves = jax.tree.leaves(x0)
    complex_slope = any(jnp.iscomplexobj(g) and not jnp.iscomplexobj(v) for g, v in zip(jax.tree.leaves(slope), leaves, strict=True))
    complex_inside = any(jnp.issubdtype(d.dtype, jnp.complexfloating) for _, k in problem.composed for d in jax.tree.leaves(k.domain))
    if complex_slope or (complex_inside and not any(map(jnp.iscomplexobj, leaves))):
        check.fail("x0", "complex values, like the operators' domain", f"{leaves[0].dtype}", "x0.astype('complex64').")
    first = solver.init(problem, x0)
    if not hasattr(first, "x"):
        check.fail("solver.init", "a NamedTuple state with the iterate in the field x", type(first).__name__)
    then = jax.eval_shape(solver.step, problem, first)
    if jax.tree.structure(then) != jax.tree.structure(first):
        check.fail("solver.step", f"a state like that of init, {jax.tree.structure(first)}", f"{jax.tree.structure(then)}")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(then), strict=True):
        if jnp.shape(a) != b.shape or jnp.result_type(a) != b.dtype:
            name, remedy = jax.tree_util.keystr(path), "Give x0 the precision of the problem's arrays, or cast in the solver's step."
            check.fail(f"solver.step: state{name}", f"{jnp.result_type(a)}{list(jnp.shape(a))}, as from init", check.describe(b), remedy)
    return _Carry(first, jnp.int32(Status.COMPLETED), jnp.int32(0))


def _body(settings, step, solver, problem, carry, k):
    """One step; one that fails or is not finite is not taken, a finished sample stays as it is."""
    new = step(problem, carry.state)
    old_, new_, problem_ = jax.lax.stop_gradient((carry.state, new, problem))
    residual = solver.residual(old_, new_)
    finite = jnp.isfinite(residual) & jnp.isfinite(tree.norm(new_.x))
    outcome = jnp.asarray(getattr(new_, "status", Status.COMPLETED), jnp.int32)
    going = carry.status == Status.COMPLETED
    taken = going & finite & (outcome == Status.COMPLETED)
    outcome = jnp.where(finite, outcome, Status.NONFINITE)
    if settings.tolerance > 0:
        outcome = jnp.where((outcome == Status.COMPLETED) & (residual <= settings.tolerance), Status.CONVERGED, outcome)
    state = tree.where(taken, new, carry.state)

    objective = unknown = jnp.full_like(residual, jnp.nan)
    if settings.objective_every:
        due = (k + 1) % settings.objective_every == 0
        objective = jax.lax.cond(due, lambda x: problem_(x).astype(unknown.dtype), lambda x: unknown, new_.x)
    objective, residual = jnp.where(taken, objective, jnp.nan), jnp.where(going, residual, jnp.nan)
    loops.tell(settings.progress, going & ((k + 1) % settings.progress_every == 0), k + 1, objective, residual)
    status = jnp.where(going, outcome, carry.status).astype(jnp.int32)
    return _Carry(state, status, carry.count + taken), (objective, residual)


def _scan(settings, gradient, step, solver, problem, carry, steps, start=0):
    body = functools.partial(_body, settings, step, solver, problem)
    if isinstance(gradient, Checkpoint):
        return loops.checkpointed_scan(body, carry, steps, gradient.every or loops.sqrt_blocks(steps))
    return loops.scan(body, carry, steps, start)


def _advance(settings, solver, problem, carry, steps):
    body = functools.partial(_body, settings, solver.step, solver, problem)
    return loops.while_with_history(body, lambda c: c.status == Status.COMPLETED, carry, steps)[:2]


def _cut(settings, gradient, solver, problem, start):
    """Steps without derivatives, until they converge or only the last ones remain; then the last ones, with."""
    last = gradient.last if isinstance(gradient, Truncated) else 1
    if isinstance(gradient, Truncated) and last >= settings.steps:
        return _scan(settings, gradient, solver.step, solver, problem, start, settings.steps)
    fixed = jax.lax.stop_gradient((solver, problem, start))
    head, records = _advance(settings, *fixed, settings.steps - last)
    converged = head.status == Status.CONVERGED
    state = head.state
    if isinstance(gradient, JacobianFree):
        state = solver.with_variables(state, solver.variables(state))
    state = jax.lax.stop_gradient(state)
    carry = _Carry(state, jnp.where(converged, Status.COMPLETED, head.status).astype(jnp.int32), head.count)
    endless = settings._replace(tolerance=0.0)
    carry, tail = _scan(endless, gradient, solver.tail_step, solver, problem, carry, last, start=head.count)
    if settings.tolerance > 0:
        converged = (carry.status == Status.COMPLETED) & (converged | (tail[1][-1] <= settings.tolerance))
        carry = carry._replace(status=jnp.where(converged, Status.CONVERGED, carry.status).astype(jnp.int32))

    def joined(first, then):
        room = jnp.concatenate([first, jnp.full((last,), jnp.nan, first.dtype)])
        return jax.lax.dynamic_update_slice(room, then, (head.count,))

    return carry, jax.tree.map(joined, records, tail)


def _result(settings, solver, problem, start, carry, records, moved=False):
    """``moved``: the last steps changed the iterate alone, so that what else the state holds is not of it."""
    solver, problem, first, last = jax.lax.stop_gradient((solver, problem, start.state, carry.state))
    objective, residual = records
    objective = jnp.concatenate([solver.objective(problem, first)[0].astype(residual.dtype)[None], objective])
    value, smooth = Solver.objective(solver, problem, last) if moved else solver.objective(problem, last)
    if settings.objective_every != 1:
        objective = objective.at[carry.count].set(value.astype(residual.dtype))
    ended_well = (carry.status == Status.COMPLETED) | (carry.status == Status.CONVERGED)
    # of the smooth part alone: splitting methods may leave a constraint's domain by rounding
    unusable = ended_well & ~jnp.isfinite(smooth)
    status = jnp.where(unusable, Status.NONFINITE, carry.status).astype(jnp.int32)
    if settings.tolerance > 0:
        status = jnp.where(status == Status.COMPLETED, Status.MAX_STEPS, status).astype(jnp.int32)
    return Result(carry.state.x, status, carry.count, objective, residual, jax.lax.stop_gradient(carry.state))


def _identity(_, x):
    return x


def _refuse(_, x):
    check.fail(
        "run(gradient=)", "a gradient rule, because the result of a run that stops early (tolerance > 0) is being differentiated", "None",
        "Pass gradient=Unroll(), Checkpoint(), Truncated(last), Implicit() or JacobianFree().",
    )  # fmt: skip


_FORWARD_ONLY = Pair(_identity, _refuse, _identity, _refuse)  # forward mode passes; transposition explains itself


# Implicit differentiation. One problem, the prepared one, serves the forward run, the linear solves and (∂_θT)ᵀ, so that they belong
# to one fixed point; where the geometry is differentiated, ``prepare`` leaves its operator as it is. Only what is perturbed is
# differentiated: the tables of a prepared operator refuse to be.


@functools.partial(jax.jit, static_argnums=(0,))
def _run_implicit(settings, rule, solver, problem, x0):
    z, rest = _fixed_point(settings, rule, (solver, problem), x0)  # pyright: ignore[reportGeneralTypeIssues]
    result = jax.lax.stop_gradient(rest)
    return tree.replace(result, x=solver.solution(result.state, z))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fixed_point(settings, rule, theta, x0):
    solver, problem = theta
    start = _start(solver, problem, x0)
    carry, records = _advance(settings, solver, problem, start, settings.steps)
    return solver.variables(carry.state), _result(settings, solver, problem, start, carry, records)


@jax.tree_util.register_static
class _Perturbed(tuple):
    """Which leaves of (solver, problem) are differentiated."""


def _fixed_point_fwd(settings, rule, theta, x0):
    is_primal = lambda v: hasattr(v, "perturbed")  # noqa: E731
    rule, x0 = jax.tree.map(lambda v: v.value, (rule, x0), is_leaf=is_primal)
    leaves, structure = jax.tree.flatten(theta, is_leaf=is_primal)
    perturbed = _Perturbed(bool(v.perturbed) and tree.is_inexact(v.value) for v in leaves)
    theta = jax.tree.unflatten(structure, [v.value for v in leaves])
    z, result = _fixed_point(settings, rule, theta, x0)  # pyright: ignore[reportGeneralTypeIssues]
    return (z, result), (rule, theta, x0, z, result.state, perturbed)


def _fixed_point_bwd(settings, saved, cotangent):
    rule, theta, x0, z, state, perturbed = saved
    leaves, structure = jax.tree.flatten(theta)
    b = [_dense(c) for c, v in zip(jax.tree.leaves(cotangent[0], is_leaf=_is_zero), jax.tree.leaves(z), strict=True) if tree.is_inexact(v)]

    def step(chosen, active):
        chosen = iter(chosen)
        solver, problem = jax.tree.unflatten(structure, [next(chosen) if p else v for v, p in zip(leaves, perturbed, strict=True)])
        return _inexact(solver.fixed_point(problem, state, _with_inexact(z, active)))

    chosen = [v for v, p in zip(leaves, perturbed, strict=True) if p]
    # JAX's transpose and the adjoint in Re⟨·,·⟩ differ by a conjugation on both sides, which changes neither symmetry nor norms.
    _, pull_z = jax.vjp(functools.partial(step, chosen), _inexact(z))
    system = lambda v: tree.add(v, pull_z(v)[0], -1)  # noqa: E731
    w = _solve(rule, system, b)
    size = tree.norm(b)
    residual = tree.norm(tree.add(b, system(w), -1)) / jnp.where(size == 0, 1, size)
    bars = iter(jax.vjp(lambda c: step(c, _inexact(z)), chosen)[1](w)[0])
    theta_bar = jax.tree.unflatten(structure, [next(bars) if p else _zero_cotangent(v) for v, p in zip(leaves, perturbed, strict=True)])
    return tree.replace(rule, probe=residual.astype(rule.probe.dtype)), theta_bar, jax.tree.map(_zero_cotangent, x0)


_fixed_point.defvjp(_fixed_point_fwd, _fixed_point_bwd, symbolic_zeros=True)


def _is_zero(c):
    return isinstance(c, jax.custom_derivatives.SymbolicZero)


def _dense(c):
    return jnp.zeros(c.shape, c.dtype) if _is_zero(c) else c


def _inexact(z):
    """The floating and complex leaves of z (a warm-started prox may also count its steps)."""
    return [v for v in jax.tree.leaves(z) if tree.is_inexact(v)]


def _with_inexact(z, active):
    active = iter(active)
    return jax.tree.map(lambda v: next(active) if tree.is_inexact(v) else v, z)


def _zero_cotangent(v):
    return jnp.zeros_like(v) if tree.is_inexact(v) else np.zeros(jnp.shape(v), jax.dtypes.float0)


def _solve(rule, system, b):
    limits = {"tolerance": rule.tolerance, "max_steps": rule.max_steps}
    match rule.linear_solver:
        case "gmres":
            return linalg.gmres(system, b, restart=min(rule.restart, rule.max_steps), inner="real", differentiable=False, **limits).x
        case "bicgstab":
            return linalg.bicgstab(system, b, inner="real", differentiable=False, **limits).x
        case other:  # of a system that is not what they are for there is no half right answer
            found = (linalg.cg if other == "cg" else linalg.minres)(system, b, **limits)
            return jax.tree.map(lambda v: jnp.where(found.indefinite | found.asymmetric, jnp.nan, v), found.x)
