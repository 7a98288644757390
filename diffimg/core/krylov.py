"""Krylov solvers on pytrees: CG, MINRES, GMRES, BiCGSTAB and LSQR, with one result type.

A map is any callable on an array or a pytree of arrays. If it is itself a pytree (an ``Operator``, a
``jax.tree_util.Partial``) the compiled program is kept and reused; a plain function is traced at every call, so call the
solver from inside your own ``jit``. One ``b`` is one system: for many, ``jax.vmap`` the solver; each system then stops
on its own and is left as it was at that step.

Derivatives with respect to ``b`` and to the arrays inside the map are those of the exact solution (``lax.custom_linear_solve``), at
the cost of one more solve to the same tolerance; starting points and preconditioners carry none. ``lsqr`` has no reverse mode.
A starting point whose residual is not below that of zero is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import add, dot, norm, real_dot, scale, where, zeros_like

Map = Callable[[Any], Any]


class SolveResult(NamedTuple):
    """Solution of a linear system or least-squares problem.

    ``x``: of the structure of the unknown. ``residual_norm``: ‖b − A x‖, measured at the end and not taken from a recurrence.
    ``iterations``: int32. ``converged``: the stopping rule of the solver holds. ``indefinite``: CG met a direction of curvature
    ≤ 0 (or a preconditioner that is not positive) and stopped at the iterate before it.
    """

    x: Any
    residual_norm: jax.Array
    iterations: jax.Array
    converged: jax.Array
    indefinite: jax.Array


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


def lsqr(apply: Map, adjoint: Map, b: Any, damping: float = 0.0, *, tolerance: float = 1e-6, max_steps: int = 1000) -> SolveResult:
    """LSQR: argmin_x ‖A x − b‖² + damping²‖x‖²; of several minimizers the shortest (Paige & Saunders 1982).

    ``adjoint`` is Aᴴ (in Re⟨·,·⟩). ``converged`` means that ‖r̄‖ ≤ tolerance·‖b‖ or ‖Āᴴr̄‖ ≤ tolerance·‖Ā‖‖r̄‖, where Ā and r̄ include the
    damping; ``residual_norm`` is ‖b − A x‖.
    """
    b = vector("b", b)
    b = promoted(b, jax.eval_shape(apply, jax.eval_shape(adjoint, b)))
    check.minimum("damping", damping, 0)
    _check_stopping(tolerance, max_steps)
    run = _lsqr_compiled if is_pytree(apply, adjoint) else _lsqr
    return run(apply, adjoint, b, damping, tolerance, max_steps)


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


def _check_stopping(tolerance, max_steps):
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
    _check_stopping(tolerance, max_steps)
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
        better = norm(warm) < size
        x, r, n = where(better, x0, x), where(better, warm, r), jnp.where(better, norm(warm), n)

    def unfinished(state):
        _, _, n, previous, k, indefinite = state
        return (n > target) & (n < plan.progress * previous) & (k < max_steps) & ~indefinite

    def one_round(state):
        x, r, n, _, k, _ = state
        new, steps, indefinite = plan.method(plan, apply, precondition, x, r, n, target, tolerance, max_steps - k)
        residual = add(b, apply(new), -1)
        length = norm(residual)
        keep = (length <= n) | (not plan.monotone)
        return where(keep, new, x), where(keep, residual, r), jnp.where(keep, length, n), n, k + steps, indefinite

    start = (x, r, n, jnp.full_like(n, jnp.inf), jnp.int32(0), jnp.bool_(False))
    x, _, n, _, k, indefinite = jax.lax.while_loop(unfinished, one_round, start)
    return x, n, k, n <= target, indefinite


def _ratio(a, b):
    """a / b, and 0 where b = 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _cg(plan, apply, precondition, x, r, n, target, tolerance, budget):
    z = precondition(r)

    def unfinished(state):
        *_, n, k, bad = state
        return (n > target) & (k < budget) & ~bad

    def step(state):
        x, r, p, rz, _, k, _ = state
        q = apply(p)
        curvature = real_dot(p, q)
        bad = curvature <= 0
        alpha = jnp.where(bad, 0, _ratio(rz, curvature))
        x, r = add(x, p, alpha), add(r, q, -alpha)
        z = precondition(r)
        n, previous, rz = norm(r), rz, real_dot(r, z)
        bad |= (rz <= 0) & (n > target)
        return x, r, add(z, p, _ratio(rz, previous)), rz, n, k + 1, bad

    rz = real_dot(r, z)
    start = (x, r, z, rz, n, jnp.int32(0), rz <= 0)
    x, *_, k, bad = jax.lax.while_loop(unfinished, step, start)
    return x, k, bad


def _minres(plan, apply, precondition, x, r, n, target, tolerance, budget):
    # Lanczos vectors v, direction vectors d; c, s the last reflection; phi the norm of the residual.
    zero, one, eps = jnp.zeros_like(n), jnp.ones_like(n), jnp.finfo(n.dtype).eps

    def unfinished(state):
        *_, phi, _, k, done = state
        return (phi > target) & (k < budget) & ~done

    def step(state):
        x, v_old, v, d_old, d, beta, c, s, delta, epsilon, phi, square, k, _ = state
        p = add(apply(v), v_old, -beta)
        alpha = real_dot(v, p)
        p = add(p, v, -alpha)
        beta_new = norm(p)
        square += alpha**2 + beta**2 + beta_new**2  # ‖A‖_F² seen so far, as in the authors' code
        delta2, gamma = c * delta + s * alpha, s * delta - c * alpha
        epsilon_new, delta_new = s * beta_new, -c * beta_new
        # ‖A r‖ of the present iterate: where it vanishes the residual cannot fall any more (b outside the range of A).
        level = jnp.sqrt(square)
        done = jnp.hypot(gamma, delta_new) <= tolerance * level
        rho = jnp.hypot(gamma, beta_new)
        # Beyond rounding: the triangular factor is singular, or the residual below what A x can be evaluated to.
        done |= (rho <= 10 * eps * level) | (phi <= eps * level * norm(x))
        c, s = _ratio(gamma, rho), _ratio(beta_new, rho)
        direction = scale(_ratio(one, rho), add(add(v, d, -delta2), d_old, -epsilon))
        x = where(done, x, add(x, direction, c * phi))
        phi = jnp.where(done, phi, s * phi)
        v, v_old = scale(_ratio(one, beta_new), p), v
        return x, v_old, v, d, direction, beta_new, c, s, delta_new, epsilon_new, phi, square, k + 1, done

    nothing = zeros_like(r)
    start = (x, nothing, scale(_ratio(one, n), r), nothing, nothing, zero, -one, zero, zero, zero, n, zero, jnp.int32(0), jnp.bool_(False))
    x, *_, k, _ = jax.lax.while_loop(unfinished, step, start)
    return x, k, jnp.bool_(False)


def _gmres(plan, apply, precondition, x, r, n, target, tolerance, budget):
    m = plan.restart
    inner = plan.product
    first = scale(_ratio(jnp.ones_like(n), n), r)
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
        basis = jax.tree.map(lambda q, v: q.at[j + 1].set(_ratio(v, length.astype(v.dtype))), basis, w)
        # left spans the left null space of the Hessenberg matrix: ‖r‖ = ‖r₀‖ / ‖left‖ for left₀ = 1 (Ayachour 2003)
        left = left.at[j + 1].set(_ratio(-jnp.sum(left * jnp.conj(h)), length.astype(kind)))
        hessenberg = hessenberg.at[:, j].set(h.at[j + 1].set(length.astype(kind)))
        return basis, hessenberg, left, n / norm(left), j + 1, done

    start = (basis, jnp.zeros((m + 1, m), kind), jnp.zeros(m + 1, kind).at[0].set(1), n, jnp.int32(0), jnp.bool_(False))
    basis, hessenberg, _, _, j, _ = jax.lax.while_loop(unfinished, step, start)
    # The columns not reached are zero and get coefficient zero, as the shortest solution has it.
    y = jnp.linalg.lstsq(hessenberg, jnp.zeros(m + 1, kind).at[0].set(n.astype(kind)))[0]
    return add(x, precondition(_combine(y, jax.tree.map(lambda q: q[:m], basis)))), j, jnp.bool_(False)


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
        alpha = _ratio(rho, inner(shadow, v))
        half = add(r, v, -alpha)
        correction = precondition(half)
        t = apply(correction)
        omega = _ratio(inner(t, half), real_dot(t, t).astype(rho.dtype))
        x = add(add(x, direction, alpha), correction, omega)
        r = add(half, t, -omega)
        n, previous, rho = norm(r), rho, inner(shadow, r)
        broken = (jnp.abs(rho) <= eps * n * norm(shadow)) | (alpha == 0) | (omega == 0)
        beta = _ratio(rho, previous) * _ratio(alpha, omega)
        return x, r, add(r, add(p, v, -omega), beta), rho, n, k + 1, broken

    start = (x, r, r, inner(shadow, r), n, jnp.int32(0), jnp.bool_(False))
    x, *_, k, _ = jax.lax.while_loop(unfinished, step, start)
    return x, k, jnp.bool_(False)


def _lsqr(apply, adjoint, b, damping, tolerance, max_steps):
    def normalized(v):
        n = norm(v)
        return scale(_ratio(jnp.ones_like(n), n), v), n

    u, beta = normalized(b)
    v, alpha = normalized(adjoint(u))
    kind = alpha.dtype
    damping = jnp.asarray(damping, kind)
    target = tolerance * beta

    def unfinished(state):
        *_, square, rnorm, anorm, k = state
        return (rnorm > target) & (anorm > tolerance * jnp.sqrt(square) * rnorm) & (k < max_steps)

    def step(state):
        x, u, v, w, alpha, rhobar, phibar, damped, square, _, _, k = state
        u, beta = normalized(add(apply(v), u, -alpha))
        square = square + alpha**2 + beta**2 + damping**2
        v, alpha = normalized(add(adjoint(u), v, -beta))
        rho1 = jnp.hypot(rhobar, damping)
        damped, phibar = damped + (damping / rho1 * phibar) ** 2, rhobar / rho1 * phibar
        rho = jnp.hypot(rho1, beta)
        c, s = rho1 / rho, beta / rho
        phi, phibar = c * phibar, s * phibar
        x, w = add(x, w, phi / rho), add(v, w, -s * alpha / rho)
        rnorm = jnp.sqrt(phibar**2 + damped)
        return x, u, v, w, alpha, -c * alpha, phibar, damped, square, rnorm, alpha * jnp.abs(s * phi), k + 1

    zero = jnp.zeros((), kind)
    start = (zeros_like(v), u, v, v, alpha, alpha, beta.astype(kind), zero, zero, beta.astype(kind), alpha * beta, jnp.int32(0))
    x, *_, square, rnorm, anorm, k = jax.lax.while_loop(unfinished, step, start)
    converged = (rnorm <= target) | (anorm <= tolerance * jnp.sqrt(square) * rnorm)
    return SolveResult(x, norm(add(b, apply(x), -1)), k, converged, jnp.bool_(False))


_lsqr_compiled = jax.jit(_lsqr)
