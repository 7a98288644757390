"""Krylov solvers on pytrees: CG, MINRES, GMRES and BiCGSTAB, with one result type (that of ``lsqr`` too).

A map is any callable on an array or a pytree of arrays. If it is itself a pytree (an ``Operator``, a
``jax.tree_util.Partial``) the compiled program is kept and reused; a plain function is traced at every call, so call the
solver from inside your own ``jit``. One ``b`` is one system: for many, ``jax.vmap`` the solver; each system then stops
on its own and is left as it was at that step.

Derivatives with respect to ``b`` and to the arrays inside the map are those of the exact solution (``lax.custom_linear_solve``), at
the cost of one more solve to the same tolerance; starting points and preconditioners carry none.
A starting point whose residual is not below that of zero is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import add, dot, norm, real_dot, scale, where, zeros_like

Map = Callable[[Any], Any]


class SolveResult(NamedTuple):
    """Solution of a linear system or least-squares problem.

    ``x``: of the structure of the unknown. ``residual_norm``: ‖b − A x‖, measured at the end and not taken from a recurrence.
    ``iterations``: int32. ``converged``: the stopping rule of the solver holds. ``indefinite``: CG met a direction of curvature
    ≤ 0 (or a preconditioner that is not positive) and stopped at the iterate before it. ``asymmetric``: CG or MINRES met residuals that
    are not orthogonal as those of a self-adjoint A are, beyond rounding, and stopped: take GMRES.
    """

    x: Any
    residual_norm: jax.Array
    iterations: jax.Array
    converged: jax.Array
    indefinite: jax.Array
    asymmetric: jax.Array


def cg(
    apply: Map, b: Any, x0: Any = None, *, tolerance: float = 1e-6, max_steps: int = 1000, preconditioner: Map | None = None
) -> SolveResult:
    """Conjugate gradients for A x = b, A self-adjoint positive definite in Re⟨·,·⟩ (Hestenes & Stiefel 1952).

    ``converged`` means ‖b − A x‖ ≤ tolerance·‖b‖. ``preconditioner`` approximates A⁻¹ and is self-adjoint positive definite.
    A may be complex-linear or, on complex arrays, only real-linear (a Hessian).
    """
    return _solve(_Plan(_cg, monotone=False, symmetric=True), apply, preconditioner, b, x0, tolerance, max_steps)


def minres(apply: Map, b: Any, x0: Any = None, *, tolerance: float = 1e-6, max_steps: int = 1000) -> SolveResult:
    """MINRES for A x = b, A self-adjoint in Re⟨·,·⟩, indefinite or singular (Paige & Saunders 1975).

    ``converged`` means ‖b − A x‖ ≤ tolerance·‖b‖. If b is not in the range of A it stops at the least residual, once
    ‖A r‖ ≤ tolerance·‖A‖‖r‖, with ``converged`` False.
    """
    return _solve(_Plan(_minres, symmetric=True), apply, None, b, x0, tolerance, max_steps)


def gmres(
    apply: Map,
    b: Any,
    x0: Any = None,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
    restart: int = 30,
    inner: str = "complex",
    preconditioner: Map | None = None,
    differentiable: bool = True,
) -> SolveResult:
    """Restarted GMRES for A x = b with any square A (Saad & Schultz 1986), right-preconditioned; stores ``restart + 1`` vectors.

    ``iterations`` counts applications of A inside the cycles. ``inner="real"`` orthogonalizes in Re⟨·,·⟩: for maps of complex
    arrays that are only real-linear (they contain a conjugate), and for trees with both real and complex leaves.
    ``differentiable=False`` spares tracing the transpose of A, and allows maps that have none.
    """
    check.positive_int("restart", restart)
    plan = _Plan(_gmres, inner, restart=restart, progress=1.0, differentiable=differentiable)
    return _solve(plan, apply, preconditioner, b, x0, tolerance, max_steps)


def bicgstab(
    apply: Map,
    b: Any,
    x0: Any = None,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
    inner: str = "complex",
    preconditioner: Map | None = None,
    differentiable: bool = True,
) -> SolveResult:
    """BiCGSTAB for A x = b with any square A (van der Vorst 1992), right-preconditioned; two applications of A an iteration.

    Storage does not grow. After a breakdown it starts again from the present iterate as long as the residual falls.
    ``inner`` and ``differentiable`` as in ``gmres``.
    """
    plan = _Plan(_bicgstab, inner, progress=1.0, differentiable=differentiable)
    return _solve(plan, apply, preconditioner, b, x0, tolerance, max_steps)


def is_pytree(*maps: Map | None) -> bool:
    """Whether all maps are pytrees of arrays, so that a compiled program can take them as arguments."""
    return not any(callable(leaf) for leaf in jax.tree.leaves(maps))


def vector(name: str, value: Any) -> Any:
    """The pytree with array leaves of floating or complex dtype."""
    for leaf in jax.tree.leaves(value):
        check.inexact(name, check.array(name, leaf))
    return jax.tree.map(jnp.asarray, value)


def promoted(value: Any, like: Any) -> Any:
    """``value`` in dtypes that also hold those of ``like``."""
    return jax.tree.map(lambda v, w: v.astype(jnp.promote_types(v.dtype, w.dtype)), value, like)


def check_stopping(tolerance: Any, max_steps: Any) -> None:
    """A tolerance ≥ 0, at least one step."""
    check.minimum("tolerance", tolerance, 0)
    if check.is_concrete(max_steps):
        check.minimum("max_steps", max_steps, 1)


class _Plan(NamedTuple):
    """What is static in a solve."""

    method: Callable
    inner: str = "real"
    restart: int = 0
    progress: float = 0.5  # another round only if the last one brought the residual below this fraction
    monotone: bool = True  # a round that ends above the residual it began with is undone (CG's residual may rise on its way)
    symmetric: bool = False
    differentiable: bool = True

    @property
    def product(self) -> Callable:
        return dot if self.inner == "complex" else real_dot


def _solve(plan, apply, preconditioner, b, x0, tolerance, max_steps):
    check.one_of("inner", plan.inner, ("complex", "real"))
    check_stopping(tolerance, max_steps)
    b = vector("b", b)
    image = jax.eval_shape(apply, b)
    if _shapes(image) != _shapes(b):
        check.fail("apply", f"a square map, {_shapes(b)} to itself", f"{_shapes(image)}", "Solve the normal equations, or use lsqr.")
    b = promoted(b, image)
    kinds = {jnp.issubdtype(v.dtype, jnp.complexfloating) for v in jax.tree.leaves(b)}
    if plan.inner == "complex" and len(kinds) > 1:
        check.fail("inner", "'real' for a tree of real and complex leaves", "'complex'")
    if x0 is not None:
        if _shapes(x0) != _shapes(b):
            check.fail("x0", f"the structure of b, {_shapes(b)}", f"{_shapes(x0)}")
        x0 = jax.tree.map(lambda v, w: jnp.asarray(v, w.dtype), x0, b)
    run = _run_compiled if is_pytree(apply, preconditioner) else _run
    return run(plan, apply, preconditioner, b, x0, tolerance, max_steps)


def _shapes(tree):
    return jax.tree.map(lambda v: tuple(jnp.shape(v)), tree)


def _run(plan, apply, preconditioner, b, x0, tolerance, max_steps):
    # The solve is posed on real and imaginary parts, where "self-adjoint" is "symmetric" and the transpose of A is Aᴴ, also for
    # maps that are only real-linear.
    def system(v):
        return _split(_cast(apply(_join(v, b)), b))

    def solver(matvec, precondition):
        def run(rhs):
            x, *aux = _rounds(plan, matvec, precondition, _join(rhs, b), x0, tolerance, max_steps)
            return _split(x), tuple(aux)

        return run

    def forward(_, rhs):
        return solver(lambda v: _cast(apply(v), b), preconditioner)(rhs)

    def backward(transposed, rhs):
        return solver(lambda v: _join(transposed(_split(v)), b), _adjoint(preconditioner, b))(rhs)

    if plan.differentiable:
        transpose = None if plan.symmetric else backward
        out, aux = jax.lax.custom_linear_solve(system, _split(b), forward, transpose, symmetric=plan.symmetric, has_aux=True)
    else:
        out, aux = forward(None, _split(b))
    return SolveResult(_join(out, b), *aux)


_run_compiled = functools.partial(jax.jit, static_argnums=0)(_run)


def _split(tree):
    return [(v.real, v.imag) if jnp.iscomplexobj(v) else (v,) for v in jax.tree.leaves(tree)]


def _join(parts, like):
    leaves = [jax.lax.complex(*p) if len(p) == 2 else p[0] for p in parts]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _cast(tree, like):
    return jax.tree.map(lambda v, w: v.astype(w.dtype), tree, like)


def _adjoint(precondition, like):
    if precondition is None:
        return None
    transposed = jax.linear_transpose(lambda v: _split(_cast(precondition(_join(v, like)), like)), _split(like))
    return lambda v: _join(transposed(_split(v))[0], like)


def _rounds(plan, apply, precondition, b, x0, tolerance, max_steps):
    """Rounds of a method, each from the measured residual, until that is small or no longer falls by the factor ``progress``."""
    precondition = precondition or (lambda v: v)
    size = norm(b)
    target = (tolerance * size).astype(size.dtype)
    x, r, n = zeros_like(b), b, size
    if x0 is not None:  # kept only if better than zero: the derivative solves, with another b, come through here too
        warm = add(b, apply(x0), -1)
        better = (norm(warm) < size) | jnp.isnan(norm(warm))  # NaN is not passed over
        x, r, n = where(better, x0, x), where(better, warm, r), jnp.where(better, norm(warm), n)

    def unfinished(state):
        _, _, n, previous, k, fault = state
        return (n > target) & (n < plan.progress * previous) & (k < max_steps) & (fault == _NONE)

    def one_round(state):
        x, r, n, _, k, _ = state
        new, steps, fault = plan.method(plan, apply, precondition, x, r, n, target, tolerance, max_steps - k)
        residual = add(b, apply(new), -1)
        length = norm(residual)
        keep = (length <= n) | (not plan.monotone)
        return where(keep, new, x), where(keep, residual, r), jnp.where(keep, length, n), n, k + steps, fault

    start = (x, r, n, jnp.full_like(n, jnp.inf), jnp.int32(0), _NONE)
    x, _, n, _, k, fault = jax.lax.while_loop(unfinished, one_round, start)
    x = jax.tree.map(lambda v: jnp.where(jnp.isnan(n), jnp.asarray(jnp.nan, v.dtype), v), x)  # NaN data have no solution
    return x, n, k, (n <= target) & (fault != _ASYMMETRIC), fault == _INDEFINITE, fault == _ASYMMETRIC


_NONE, _INDEFINITE, _ASYMMETRIC = (np.int32(k) for k in range(3))
_EARLY = 5  # steps in which a lack of symmetry shows; later ones gather rounding


def _is_asymmetric(product, a, b, scale):
    """Whether two vectors of lengths a, b whose inner product vanishes for a self-adjoint A have one beyond rounding (of ``scale``)."""
    return jnp.abs(product) > 0.01 * a * b + 1000 * jnp.finfo(jnp.result_type(product)).eps * scale


def ratio(a: Any, b: Any) -> jax.Array:
    """a / b, and 0 where b = 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _cg(plan, apply, precondition, x, r, n, target, tolerance, budget):
    z = precondition(r)

    def unfinished(state):
        *_, n, _, k, fault = state
        return (n > target) & (k < budget) & (fault == _NONE)

    def step(state):
        x, old, p, rz, _, largest, k, _ = state
        q = apply(p)
        length = norm(p)
        largest = jnp.maximum(largest, ratio(norm(q), length))  # ‖A‖, from below
        curvature = real_dot(p, q)
        bad = curvature <= 0
        alpha = jnp.where(bad, 0, ratio(rz, curvature))
        x, r = add(x, p, alpha), add(old, q, -alpha)
        z = precondition(r)
        n, previous, rz = norm(r), rz, real_dot(r, z)
        a, b = jnp.sqrt(jnp.abs(rz)), jnp.sqrt(jnp.abs(previous))
        skew = _is_asymmetric(real_dot(z, old), a, b, (a + b) ** 2 * (1 + ratio(largest * length**2, curvature)))
        bad |= (rz <= 0) & (n > target)
        fault = jnp.where(bad, _INDEFINITE, jnp.where(skew & (n > target) & (k < _EARLY), _ASYMMETRIC, _NONE))
        return x, r, add(z, p, ratio(rz, previous)), rz, n, largest, k + 1, fault

    rz = real_dot(r, z)
    start = (x, r, z, rz, n, jnp.zeros_like(n), jnp.int32(0), jnp.where(rz <= 0, _INDEFINITE, _NONE))
    x, *_, k, fault = jax.lax.while_loop(unfinished, step, start)
    return x, k, fault


def _minres(plan, apply, precondition, x, r, n, target, tolerance, budget):
    # Lanczos vectors v, direction vectors d; c, s the last reflection; phi the norm of the residual.
    zero, one, eps = jnp.zeros_like(n), jnp.ones_like(n), jnp.finfo(n.dtype).eps

    def unfinished(state):
        *_, phi, _, k, done, fault = state
        return (phi > target) & (k < budget) & ~done & (fault == _NONE)

    def step(state):
        x, v_old, v, d_old, d, beta, c, s, delta, epsilon, phi, square, k, _, _ = state
        p = add(apply(v), v_old, -beta)
        alpha = real_dot(v, p)
        p = add(p, v, -alpha)
        beta_new = norm(p)
        skew = _is_asymmetric(real_dot(p, v_old), beta_new, one, jnp.sqrt(square) + jnp.abs(alpha) + beta + beta_new)
        square += alpha**2 + beta**2 + beta_new**2  # ‖A‖_F² seen so far, as in the authors' code
        delta2, gamma = c * delta + s * alpha, s * delta - c * alpha
        epsilon_new, delta_new = s * beta_new, -c * beta_new
        # ‖A r‖ of the present iterate: where it vanishes the residual cannot fall any more (b outside the range of A).
        level = jnp.sqrt(square)
        done = jnp.hypot(gamma, delta_new) <= tolerance * level
        rho = jnp.hypot(gamma, beta_new)
        # Beyond rounding: the triangular factor is singular, or the residual below what A x can be evaluated to.
        done |= (rho <= 10 * eps * level) | (phi <= eps * level * norm(x))
        c, s = ratio(gamma, rho), ratio(beta_new, rho)
        direction = scale(ratio(one, rho), add(add(v, d, -delta2), d_old, -epsilon))
        x = where(done, x, add(x, direction, c * phi))
        phi = jnp.where(done, phi, s * phi)
        v, v_old = scale(ratio(one, beta_new), p), v
        fault = jnp.where(skew & (k < _EARLY), _ASYMMETRIC, _NONE)
        return x, v_old, v, d, direction, beta_new, c, s, delta_new, epsilon_new, phi, square, k + 1, done, fault

    nothing = zeros_like(r)
    first = scale(ratio(one, n), r)
    start = (x, nothing, first, nothing, nothing, zero, -one, zero, zero, zero, n, zero, jnp.int32(0), jnp.bool_(False), _NONE)
    x, *_, k, _, fault = jax.lax.while_loop(unfinished, step, start)
    return x, k, fault


def _gmres(plan, apply, precondition, x, r, n, target, tolerance, budget):
    m = plan.restart
    inner = plan.product
    first = scale(ratio(jnp.ones_like(n), n), r)
    basis = jax.tree.map(lambda v: jnp.zeros((m + 1, *v.shape), v.dtype).at[0].set(v), first)
    kind = jax.eval_shape(inner, r, r).dtype
    eps = jnp.finfo(n.dtype).eps

    def coefficients(basis, w):
        return jax.vmap(lambda q: inner(q, w))(basis)

    def unfinished(state):
        *_, estimate, j, done = state
        return (j < m) & (estimate > target) & (j < budget) & ~done

    def step(state):
        basis, hessenberg, left, _, j, _ = state
        w = apply(precondition(jax.tree.map(lambda q: q[j], basis)))
        before = norm(w)
        h = coefficients(basis, w)
        w = add(w, _combine(h, basis), -1)
        again = coefficients(basis, w)  # classical Gram-Schmidt twice is orthogonal to rounding
        w = add(w, _combine(again, basis), -1)
        h = h + again
        length = norm(w)
        done = length <= 10 * eps * before
        length = jnp.where(done, 0, length)
        basis = jax.tree.map(lambda q, v: q.at[j + 1].set(ratio(v, length.astype(v.dtype))), basis, w)
        # left spans the left null space of the Hessenberg matrix: ‖r‖ = ‖r₀‖ / ‖left‖ for left₀ = 1 (Ayachour 2003)
        left = left.at[j + 1].set(ratio(-jnp.sum(left * jnp.conj(h)), length.astype(kind)))
        hessenberg = hessenberg.at[:, j].set(h.at[j + 1].set(length.astype(kind)))
        return basis, hessenberg, left, n / norm(left), j + 1, done

    start = (basis, jnp.zeros((m + 1, m), kind), jnp.zeros(m + 1, kind).at[0].set(1), n, jnp.int32(0), jnp.bool_(False))
    basis, hessenberg, _, _, j, _ = jax.lax.while_loop(unfinished, step, start)
    # The columns not reached are zero and get coefficient zero, as the shortest solution has it.
    y = jnp.linalg.lstsq(hessenberg, jnp.zeros(m + 1, kind).at[0].set(n.astype(kind)))[0]
    return add(x, precondition(_combine(y, jax.tree.map(lambda q: q[:m], basis)))), j, _NONE


def _combine(weights, basis):
    return jax.tree.map(lambda q: jnp.tensordot(weights, q, 1, precision=jax.lax.Precision.HIGHEST), basis)


def _bicgstab(plan, apply, precondition, x, r, n, target, tolerance, budget):
    inner = plan.product
    shadow, eps = r, jnp.finfo(n.dtype).eps

    def unfinished(state):
        *_, n, k, broken = state
        return (n > target) & (k < budget) & ~broken

    def step(state):
        x, r, p, rho, _, k, _ = state
        direction = precondition(p)
        v = apply(direction)
        alpha = ratio(rho, inner(shadow, v))
        half = add(r, v, -alpha)
        correction = precondition(half)
        t = apply(correction)
        omega = ratio(inner(t, half), real_dot(t, t).astype(rho.dtype))
        x = add(add(x, direction, alpha), correction, omega)
        r = add(half, t, -omega)
        n, previous, rho = norm(r), rho, inner(shadow, r)
        broken = (jnp.abs(rho) <= eps * n * norm(shadow)) | (alpha == 0) | (omega == 0)
        beta = ratio(rho, previous) * ratio(alpha, omega)
        return x, r, add(r, add(p, v, -omega), beta), rho, n, k + 1, broken

    start = (x, r, r, inner(shadow, r), n, jnp.int32(0), jnp.bool_(False))
    x, *_, k, _ = jax.lax.while_loop(unfinished, step, start)
    return x, k, _NONE
