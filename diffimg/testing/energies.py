"""What every energy promises, checked: ``di.testing.check_energy(E, x)``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.energy.base import Energy
from diffimg.testing.operators import random_like


def check_energy(energy: Energy, x: Any, key: jax.Array | None = None, step: float = 0.7) -> dict[str, float]:
    """Check an energy around ``x`` (double precision sharpens it); raise ``AssertionError`` naming the first broken promise.

    - the value is a real scalar of the precision of x, and ``prepare()`` leaves value and gradient as they are,
    - ``grad`` is the derivative (difference quotients along random directions), conjugated so that −grad descends,
    - ``lipschitz()`` bounds the change of ``grad``,
    - ``prox`` minimises E(x) + ‖x − v‖²/(2·step): no random neighbour is better, and it is firmly non-expansive (convex E),

    each where the energy has it. Returns the errors found.
    """
    check.is_pytree("energy", energy)
    key = jax.random.key(0) if key is None else key
    like = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x)
    directions = [random_like(k, like) for k in jax.random.split(key, 12)]
    value = energy(x)
    precision = tree.norm(x).dtype
    _assert(jnp.shape(value) == () and value.dtype == precision, energy, f"E(x) is a {precision} scalar, got {check.describe(value)}")
    single = precision == jnp.float32
    errors = {"prepare": _relative(energy.prepare()(x), value)}
    _assert(errors["prepare"] <= (1e-4 if single else 1e-9), energy, "prepare() leaves the value as it is", errors["prepare"])
    if energy.smooth:
        errors |= _check_gradient(energy, x, directions, single)
    if energy.has_prox:
        errors |= _check_prox(energy, x, directions, step, single)
    return errors


def _check_gradient(energy, x, directions, single):
    h = 1e-2 if single else 1e-6
    gradient = energy.grad(x)
    errors = []
    for d in directions[:3]:
        reference = (energy(tree.add(x, d, h)) - energy(tree.add(x, d, -h))) / (2 * h)
        scale = jnp.maximum(tree.norm(gradient) * tree.norm(d), 1e-30)
        errors.append(float(jnp.abs(tree.real_dot(gradient, d) - reference) / scale))
    _assert(max(errors) <= (3e-2 if single else 1e-6), energy, "grad is the derivative of E, Re⟨grad, d⟩ = dE/dd", max(errors))
    found = {"gradient": max(errors)}
    try:
        bound = energy.lipschitz()
    except ValueError:
        return found
    for d in directions[3:6]:
        slope = tree.norm(tree.add(energy.grad(tree.add(x, d, 1e-2)), gradient, -1)) / tree.norm(tree.scale(1e-2, d))
        _assert(bool(slope <= bound * (1 + 1e-2) + 1e-6), energy, "lipschitz() bounds the change of grad", float(slope))
    return found


def _check_prox(energy, v, directions, step, single):
    p = energy.prox(v, step)
    for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(v), strict=True):
        _assert(a.shape == b.shape and a.dtype == b.dtype, energy, f"prox(v) is like v, {check.describe(b)}; got {check.describe(a)}")

    def objective(x):
        return energy(x) + tree.norm(tree.add(x, v, -1)) ** 2 / (2 * step)

    best = objective(p)
    _assert(bool(jnp.isfinite(best)), energy, "E is finite at its prox")
    slack = (1e-4 if single else 1e-7) * (1 + abs(float(best)))
    worst = 0.0
    for d in directions:
        for size in (1e-1, 1e-3):
            gain = float(best - objective(tree.add(p, d, size)))
            worst = max(worst, gain if gain == gain else 0.0)
    _assert(worst <= slack, energy, "prox minimises E(x) + ‖x − v‖²/(2·step): a neighbour is better", worst)
    moved = tree.scale(0.1, directions[0])
    change = tree.add(energy.prox(tree.add(v, moved), step), p, -1)
    excess = float(tree.real_dot(change, change) - tree.real_dot(change, moved))
    _assert(excess <= slack, energy, "prox is firmly non-expansive (E is convex)", excess)
    return {"prox": worst}


def _relative(a, b):
    return float(jnp.abs(a - b) / jnp.maximum(jnp.abs(b), 1e-30)) if bool(jnp.isfinite(b)) else 0.0


def _assert(condition, energy, promise, error=None):
    if not condition:
        raise AssertionError(f"{energy!r} breaks a promise: {promise}" + ("." if error is None else f" (error {error:.2e})."))
