"""Checks for operators, energies and solvers: those that the project's own tests run over every registered one.

Use them on yours: ``di.testing.check_operator(A)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.forward.operator import Operator, apply_adjoint, apply_forward

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class OperatorReport(NamedTuple):
    """Relative errors found by ``check_operator``; NaN where a check does not apply."""

    linearity: float
    adjoint: float
    normal: float
    batch: float
    derivative: float
    platforms: tuple[str, ...]

    def __str__(self) -> str:
        rows = [f"  {name:<11}{value:.1e}" for name, value in zip(self._fields[:-1], self[:-1], strict=True)]
        return "\n".join(["relative errors", *rows, f"  lowers for {', '.join(self.platforms) or '(not asked)'}"])


def check_operator(
    operator: Operator,
    key: jax.Array | None = None,
    tolerance: float | None = None,
    normal_tolerance: float | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> OperatorReport:
    """Check what every operator promises, on random inputs; raise ``AssertionError`` naming the first broken promise.

    - linearity: A(ax + by) = aA(x) + bA(y) (linear operators),
    - adjoint: \\|⟨Ax, y⟩ − ⟨x, Aᴴy⟩\\| / (‖Ax‖‖y‖), summed in float64,
    - normal: ``A.normal(x)`` against ``A.H(A(x))``,
    - batch: a batch of two equals the two one by one,
    - derivative: forward mode equals A itself (linear) or a difference quotient's order (nonlinear), and reverse mode its adjoint,
    - lowering for ``platforms`` by ``jax.export`` (no such device is needed).

    ``tolerance``: default 1e-5 in single, 1e-12 in double precision; ``normal_tolerance`` for approximate (Toeplitz) normals: 5e-3.
    """
    key = jax.random.key(0) if key is None else key
    k1, k2, k3 = jax.random.split(key, 3)
    x, z = random_like(k1, operator.domain), random_like(k3, operator.domain)
    single = jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).bits == 32
    tolerance = tolerance or (1e-5 if single else 1e-12)
    normal_tolerance = normal_tolerance or 5e-3
    ax = operator(x)
    _same(ax, operator.codomain, f"{operator!r}: codomain")
    nan = float("nan")
    linearity = adjoint = normal = nan
    if operator.linear:
        both = operator(jax.tree.map(lambda p, q: 2 * p - 3 * q, x, z))
        linearity = relative_error(both, jax.tree.map(lambda p, q: 2 * p - 3 * q, ax, operator(z)))
        _assert(linearity <= 10 * tolerance, operator, "is linear", linearity, 10 * tolerance)
        y = random_like(k2, operator.codomain)
        adjoint = dot_test(operator, x, y)
        _assert(adjoint <= tolerance, operator, "⟨Ax, y⟩ = ⟨x, Aᴴy⟩", adjoint, tolerance)
        normal = relative_error(operator.normal(x), operator.H(ax))
        _assert(normal <= normal_tolerance, operator, "A.normal(x) = A.H(A(x))", normal, normal_tolerance)
    pair = operator(jax.tree.map(lambda p, q: jnp.stack([p, q]), x, z))
    batch = relative_error(jax.tree.map(lambda v: v[1], pair), operator(z))
    _assert(batch <= 10 * tolerance, operator, "a batch equals its members", batch, 10 * tolerance)
    derivative = _derivative_error(operator, x, z)
    allowed = 10 * tolerance if operator.linear else (1e-2 if single else 1e-5)
    _assert(derivative <= allowed, operator, "forward mode is right", derivative, allowed)
    if platforms:
        check_lowering(operator, platforms)
    return OperatorReport(linearity, adjoint, normal, batch, derivative, tuple(platforms))


def dot_test(operator: Operator, x: Any, y: Any) -> float:
    """\\|⟨Ax, y⟩ − ⟨x, Aᴴy⟩\\| / (‖Ax‖‖y‖), accumulated in float64; the real part where the domain is real."""
    ax, ahy = operator(x), operator.H(y)
    difference = _dot64(y, ax) - np.conj(_dot64(x, ahy))
    if not any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in jax.tree.leaves(operator.domain)):
        difference = difference.real
    return float(abs(difference) / max(_norm64(ax) * _norm64(y), 1e-300))


def _derivative_error(operator, x, dx):
    slope = jax.jvp(operator, (x,), (dx,))[1]
    if operator.linear:
        return relative_error(slope, operator(dx))
    h = 1e-3 if jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).bits == 32 else 1e-5
    up = operator(jax.tree.map(lambda p, d: p + h * d, x, dx))
    down = operator(jax.tree.map(lambda p, d: p - h * d, x, dx))
    return relative_error(jax.tree.map(lambda p, q: (p - q) / (2 * h), up, down), slope)


def check_lowering(operator: Operator, platforms: tuple[str, ...] = PLATFORMS) -> None:
    """Lower forward and (where linear) adjoint for platforms that need not be present."""
    leaves = jax.tree.map(lambda v: jax.ShapeDtypeStruct(jnp.shape(v), jax.dtypes.canonicalize_dtype(jnp.result_type(v))), operator)
    jax.export.export(jax.jit(apply_forward), platforms=platforms)(leaves, operator.domain)
    if operator.linear:
        jax.export.export(jax.jit(apply_adjoint), platforms=platforms)(leaves, operator.codomain)


def random_like(key: jax.Array, structure: Any) -> Any:
    """Standard normal leaves (complex ones in both parts) of a structure."""
    leaves, tree = jax.tree.flatten(structure)
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(tree, [jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)])


def relative_error(a: Any, b: Any) -> float:
    """‖a − b‖ / ‖b‖ over pytrees, in float64."""
    diff = jax.tree.map(lambda p, q: np.asarray(p, np.complex128) - np.asarray(q, np.complex128), a, b)
    return float(_norm64(diff) / max(_norm64(b), 1e-300))


def gradient_error(function: Any, x: Any, key: jax.Array, step: float = 1e-6) -> float:
    """Relative error of ``jax.grad(function)`` along a random direction against central differences; use float64."""
    direction = random_like(key, jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x))
    gradient = jax.grad(function)(x)
    slope = sum(float(jnp.sum((g * d).real)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    up = function(jax.tree.map(lambda p, d: p + step * d, x, direction))
    down = function(jax.tree.map(lambda p, d: p - step * d, x, direction))
    reference = float(up - down) / (2 * step)
    return abs(slope - reference) / max(abs(reference), 1e-300)


def _same(value, structure, name):
    for v, s in zip(jax.tree.leaves(value), jax.tree.leaves(structure), strict=True):
        if tuple(v.shape) != tuple(s.shape) or v.dtype != s.dtype:
            raise AssertionError(f"{name}: stated {s.dtype}{list(s.shape)}, but A(x) is {v.dtype}{list(v.shape)}.")


def _assert(condition, operator, promise, error, bound):
    if not condition:
        raise AssertionError(f"{operator!r} breaks the promise that {promise}: relative error {error:.2e}, allowed {bound:.1e}.")


def _dot64(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(np.vdot(np.asarray(p, np.complex128), np.asarray(q, np.complex128)) for p, q in pairs)


def _norm64(a):
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(p, np.complex128)) ** 2) for p in jax.tree.leaves(a))))
