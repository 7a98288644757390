"""What every operator promises, checked: ``di.testing.check_operator(A)``."""

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
    reverse: float
    parameters: float
    prepared: float
    platforms: tuple[str, ...]

    def __str__(self) -> str:
        values = zip(self._fields[:-1], self[:-1], strict=True)
        rows = [f"  {name:<11}" + ("not applicable" if np.isnan(value) else f"{value:.1e}") for name, value in values]
        return "\n".join(["relative errors", *rows, f"  lowers for {', '.join(self.platforms) or '(not asked)'}"])


def check_operator(
    operator: Operator,
    key: jax.Array | None = None,
    tolerance: float | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> OperatorReport:
    """Check what every operator promises, on random inputs; raise ``AssertionError`` naming the first broken promise.

    - codomain: A(x) has the stated shape and dtype,
    - linearity: A(ax + bz) = aA(x) + bA(z) (linear operators; complex a, b where the domain is complex),
    - adjoint: \\|⟨Ax, y⟩ − ⟨x, Aᴴy⟩\\| / (‖Ax‖‖y‖), summed in float64,
    - normal: ``A.normal(x)`` against ``A.H(A(x))`` (to 5e-3 where the class says ``approximate_normal``); ``orthonormal``: A Aᴴ = I,
    - batch: a batch of two equals the two one by one,
    - derivative: forward mode equals A itself (linear) or a difference quotient (nonlinear); reverse mode is its adjoint,
    - parameters: forward mode in the floating leaves against a difference quotient (to 0.2, so that it also holds in float32 and for
      derivatives that are deliberately better than differences, as ``Radon``'s are; not where ``refined_tangent`` says that they
      are those of a smoother operator), and reverse mode against forward mode,
    - prepared: ``A.prepare()`` against A, forward and adjoint,
    - lowering for ``platforms`` by ``jax.export`` (no such device is needed; pass ``()`` to save the time).

    ``tolerance``: default 1e-5 in single, 1e-12 in double precision.
    """
    if not isinstance(operator, Operator):
        raise TypeError(f"check_operator takes an Operator, not {type(operator).__name__}: derive the class from diffimg.forward.Operator.")
    key = jax.random.key(0) if key is None else key
    k1, k2, k3, k4 = jax.random.split(key, 4)
    x, z = random_like(k1, operator.domain), random_like(k3, operator.domain)
    single = jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).bits == 32
    tolerance = tolerance or (1e-5 if single else 1e-12)
    ax = operator(x)
    _same(ax, operator.codomain, f"{operator!r}: codomain")
    nan = float("nan")
    linearity = adjoint = normal = nan
    y = random_like(k2, operator.codomain)
    if operator.linear:
        a, b = (2 - 1j, -3 + 0.5j) if _is_complex(x) else (2.0, -3.0)
        mixed = jax.tree.map(lambda p, q: a * p + b * q, ax, operator(z))
        linearity = relative_error(operator(jax.tree.map(lambda p, q: a * p + b * q, x, z)), mixed)
        _assert(linearity <= 10 * tolerance, operator, "A is linear, A(ax + bz) = aA(x) + bA(z)", linearity, 10 * tolerance)
        adjoint = dot_test(operator, x, y)
        _assert(adjoint <= tolerance, operator, "⟨Ax, y⟩ = ⟨x, Aᴴy⟩", adjoint, tolerance)
        normal = relative_error(operator.normal(x), operator.H(ax))
        allowed = 5e-3 if operator.approximate_normal else 10 * tolerance
        _assert(normal <= allowed, operator, "A.normal(x) = A.H(A(x))", normal, allowed)
        if operator.orthonormal:
            error = relative_error(operator(operator.H(y)), y)
            _assert(error <= 10 * tolerance, operator, "A Aᴴ = I (orthonormal = True)", error, 10 * tolerance)
    pair = operator(jax.tree.map(lambda p, q: jnp.stack([p, q]), x, z))
    batch = relative_error(jax.tree.map(lambda v: v[1], pair), operator(z))
    _assert(batch <= 10 * tolerance, operator, "a batch equals its members", batch, 10 * tolerance)
    derivative, reverse = _derivative_errors(operator, x, z, y)
    allowed = 10 * tolerance if operator.linear else (1e-2 if single else 1e-5)
    _assert(derivative <= allowed, operator, "forward mode in x is the derivative of A", derivative, allowed)
    _assert(reverse <= 10 * tolerance, operator, "reverse mode in x is the adjoint of forward mode", reverse, 10 * tolerance)
    parameters = _parameter_error(operator, x, y, k4, single)
    prepared = _prepared_error(operator, x, y)
    allowed = 5e-4 if single else 1e-9
    _assert(not prepared > allowed, operator, "A.prepare() equals A", prepared, allowed)
    if platforms:
        check_lowering(operator, platforms)
    return OperatorReport(linearity, adjoint, normal, batch, derivative, reverse, parameters, prepared, tuple(platforms))


def dot_test(operator: Operator, x: Any, y: Any) -> float:
    """\\|⟨Ax, y⟩ − ⟨x, Aᴴy⟩\\| / (‖Ax‖‖y‖), accumulated in float64; the real part where the domain is real."""
    ax, ahy = operator(x), operator.H(y)
    difference = _dot64(y, ax) - np.conj(_dot64(x, ahy))
    if not any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in jax.tree.leaves(operator.domain)):
        difference = difference.real
    return float(abs(difference) / max(_norm64(ax) * _norm64(y), 1e-300))


def _derivative_errors(operator, x, dx, y):
    """Forward mode against A or differences; reverse mode against forward mode."""
    slope = jax.jvp(operator, (x,), (dx,))[1]
    if operator.linear:
        reference = operator(dx)
    else:
        h = 1e-3 if jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).bits == 32 else 1e-5
        up = operator(jax.tree.map(lambda p, d: p + h * d, x, dx))
        down = operator(jax.tree.map(lambda p, d: p - h * d, x, dx))
        reference = jax.tree.map(lambda p, q: (p - q) / (2 * h), up, down)
    return relative_error(slope, reference), _transposition_error(operator, x, dx, slope, y)


def _transposition_error(function, p, dp, slope, y):
    """\\|⟨y, J dp⟩ − ⟨Jᴴy, dp⟩\\| / (‖J dp‖‖y‖), the real part."""
    pulled = jax.tree.map(jnp.conj, jax.vjp(function, p)[1](jax.tree.map(jnp.conj, y))[0])
    difference = (_dot64(y, slope) - _dot64(pulled, dp)).real
    return float(abs(difference) / max(_norm64(slope) * _norm64(y), 1e-300))


def _parameter_error(operator, x, y, key, single):
    leaves, tree = jax.tree.flatten(operator)
    active = [jnp.asarray(v) for v in leaves if jnp.issubdtype(jnp.result_type(v), jnp.inexact)]
    if not active:
        return float("nan")

    def call(chosen):
        chosen = iter(chosen)
        return apply_forward(
            jax.tree.unflatten(tree, [next(chosen) if jnp.issubdtype(jnp.result_type(v), jnp.inexact) else v for v in leaves]), x
        )

    direction = random_like(key, [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in active])
    h = 1e-3 if single else 1e-5
    try:
        slope = jax.jvp(call, (active,), (direction,))[1]
    except ValueError:  # a prepared operator refuses
        return float("nan")
    up, down = (call([(v + s * h * d).astype(v.dtype) for v, d in zip(active, direction, strict=True)]) for s in (1, -1))
    error = relative_error(slope, jax.tree.map(lambda p, q: (p - q) / (2 * h), up, down))
    if not operator.refined_tangent:
        _assert(error <= 0.2, operator, "the derivative in its parameters is that of A (something stopped, a wrong tangent?)", error, 0.2)
    back = _transposition_error(call, active, direction, slope, y)
    _assert(back <= (1e-4 if single else 1e-10), operator, "reverse mode in the parameters agrees with forward mode", back, 1e-4)
    return error


def _prepared_error(operator, x, y):
    prepared = operator.prepare()
    if prepared is operator:
        return float("nan")
    _same(prepared.domain, operator.domain, f"{operator!r}.prepare(): domain")
    _same(prepared.codomain, operator.codomain, f"{operator!r}.prepare(): codomain")
    forward = relative_error(prepared(x), operator(x))
    return max(forward, relative_error(prepared.H(y), operator.H(y))) if operator.linear else forward


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


def _is_complex(x):
    return any(jnp.iscomplexobj(v) for v in jax.tree.leaves(x))


def _same(value, structure, name):
    if jax.tree.structure(value) != jax.tree.structure(structure):
        raise AssertionError(f"{name}: stated {jax.tree.structure(structure)}, got {jax.tree.structure(value)}.")
    for v, s in zip(jax.tree.leaves(value), jax.tree.leaves(structure), strict=True):
        if tuple(v.shape) != tuple(s.shape) or v.dtype != s.dtype:
            raise AssertionError(f"{name}: stated {s.dtype}{list(s.shape)}, got {v.dtype}{list(v.shape)}.")


def _assert(condition, operator, promise, error, bound):
    if not condition:
        raise AssertionError(f"{operator!r} breaks a promise: {promise}: relative error {error:.2e}, allowed {bound:.1e}.")


def _dot64(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(np.vdot(np.asarray(p, np.complex128), np.asarray(q, np.complex128)) for p, q in pairs)


def _norm64(a):
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(p, np.complex128)) ** 2) for p in jax.tree.leaves(a))))
