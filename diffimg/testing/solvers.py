"""What every solver promises, checked: ``di.testing.check_solver(solver, problem, x0)``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import pytree as tree
from diffimg.solve import Implicit, Problem, Solver, Unroll, run
from diffimg.testing.operators import random_like


def check_solver(
    solver: Solver, problem: Problem, x0: Any, steps: int = 1000, key: jax.Array | None = None, tolerance: float = 1e-5
) -> dict[str, float]:
    """Check a solver on a problem that it solves within ``steps``, in double precision; raise ``AssertionError`` naming the first broken
    promise.

    - the objective falls and the last steps no longer move x,
    - fixed point: the ``variables`` of the final state are left in place by ``fixed_point``, and ``solution`` gives x back from them,
    - memory: ``with_variables(state, z)`` continues from z: the solution depends on it,
    - gradients: ``Implicit`` agrees with ``Unroll`` along a random direction of the problem's arrays,
    - ``vmap`` over x0 equals one by one.

    Returns the relative errors found.
    """
    if not jax.config.jax_enable_x64:
        raise ValueError("check_solver: expected double precision, got single. Run it inside `with jax.enable_x64(True):`.")
    key = jax.random.key(0) if key is None else key
    result = run(solver, problem, x0, steps, objective_every=0)
    name = type(solver).__name__
    _assert(bool(result.objective[0] >= result.objective[-1]), name, "the objective falls")
    last = float(result.residual[-1])
    _assert(last <= tolerance, name, f"the solver has converged after {steps} steps: give it more, or an easier problem", last)
    z = solver.variables(result.state)
    moved = _distance(solver.fixed_point(problem, result.state, z), z)
    _assert(moved <= 100 * tolerance, name, "fixed_point leaves the variables of the solution where they are", moved)
    back = _distance(solver.solution(result.state, z), result.x)
    _assert(back <= tolerance, name, "solution(state, variables(state)) is x", back)
    elsewhere = jax.tree.map(lambda v: v + jnp.asarray(0.1, v.dtype) if tree.is_inexact(v) else v, z)
    answers = _distance(solver.solution(result.state, elsewhere), result.x)
    _assert(answers > 0, name, "the solution depends on the variables: does with_variables(state, z) return a stale x?")
    gradient = _gradient_error(solver, problem, x0, steps, key)
    _assert(gradient <= 1e3 * tolerance, name, "Implicit agrees with Unroll: do variables and with_variables hold all memory?", gradient)
    starts = jax.tree.map(lambda v: jnp.stack([v, v + 0.1]), x0)
    batch = jax.vmap(lambda v: run(solver, problem, v, steps, tolerance, objective_every=0).x)(starts)
    single = run(solver, problem, jax.tree.map(lambda v: v[1], starts), steps, tolerance, objective_every=0).x
    vmapped = _distance(jax.tree.map(lambda v: v[1], batch), single)
    _assert(vmapped <= 1e-8, name, "vmap over x0 equals one by one", vmapped)
    return {"residual": last, "fixed point": moved, "solution": back, "gradient": gradient, "vmap": vmapped}


def _gradient_error(solver, problem, x0, steps, key):
    leaves, structure = jax.tree.flatten(problem)
    active = [jnp.asarray(v) for v in leaves if tree.is_inexact(v)]
    k1, k2 = jax.random.split(key)
    weights = random_like(k1, jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x0))
    direction = random_like(k2, [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in active])

    def loss(chosen, rule):
        chosen = iter(chosen)
        inside = jax.tree.unflatten(structure, [next(chosen) if tree.is_inexact(v) else v for v in leaves])
        return tree.real_dot(weights, run(solver, inside, x0, steps, gradient=rule, objective_every=0).x)

    slopes = []
    for rule in (Unroll(), Implicit(tolerance=1e-10)):
        gradient = jax.grad(loss)(active, rule)
        slopes.append(sum(jnp.sum((g * d).real) for g, d in zip(gradient, direction, strict=True)))
    return float(jnp.abs(slopes[1] - slopes[0]) / jnp.maximum(jnp.abs(slopes[0]), 1e-30))


def _distance(a, b):
    difference = [jnp.asarray(p - q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True) if tree.is_inexact(q)]
    scale = [q for q in jax.tree.leaves(b) if tree.is_inexact(q)]
    return float(tree.norm(difference) / jnp.maximum(tree.norm(scale), 1e-30))


def _assert(condition, name, promise, error=None):
    if not condition:
        raise AssertionError(f"{name} breaks a promise: {promise}" + ("." if error is None else f" (error {error:.2e})."))
