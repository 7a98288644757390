"""½⟨Ax − y, P(Ax − y)⟩: what least squares, Gaussian likelihoods and Tikhonov's term share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check, linalg
from diffimg.core.pytree import add, real_dot
from diffimg.energy.base import Energy
from diffimg.energy.weight import real_like
from diffimg.forward.operator import Operator
from diffimg.forward.structure import admit


def forward_and_backward(operator: Operator, x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A(x), and the adjoint of A's derivative at x."""
    if operator.linear:
        return operator(x), operator.H
    ax, pullback = jax.vjp(operator, x)
    return ax, lambda r: jax.tree.map(jnp.conj, pullback(jax.tree.map(jnp.conj, r))[0])


class Quadratic(Energy):
    """½⟨r, P r⟩ with r = A(x) − y and a self-adjoint P ≥ 0.

    A subclass is a ``@pytree`` with the fields ``operator``, ``tolerance`` and ``max_steps``, and defines ``_target`` (y, or None for 0)
    and ``_weights`` (the diagonal of P: a scalar, an array or a pytree like y; None for the identity), or ``_precision`` and
    ``_precision_norm``.

    ``prox`` is in closed form where the operator has a ``diagonal_form`` (``Identity``, ``Diagonal``, ``MaskedFFT`` of one coil) and P is
    diagonal; otherwise conjugate gradients solve (I + step·AᴴPA) d = −step·∇E(v), x = v + d, to ‖residual‖ ≤ tolerance·‖step·∇E(v)‖ in
    at most ``max_steps`` steps: warm-started at v, and differentiable to any order through the solution
    (``jax.lax.custom_linear_solve``), not through the steps.
    """

    operator: Operator
    tolerance: Any
    max_steps: int

    @property
    def _target(self) -> Any:
        return None

    @property
    def _weights(self) -> Any:
        return None

    @property
    def _is_diagonal(self) -> bool:
        return True

    def _precision(self, r):
        w = self._weights
        if w is None:
            return r
        if jax.tree.structure(w) == jax.tree.structure(r):
            return jax.tree.map(lambda a, b: real_like(a, b) * b, w, r)
        return jax.tree.map(lambda b: real_like(w, b) * b, r)

    def _precision_norm(self):
        w = self._weights
        return 1.0 if w is None else jnp.max(jnp.stack([jnp.max(jnp.asarray(v)) for v in jax.tree.leaves(w)]))

    def _residual(self, ax):
        y = self._target
        return ax if y is None else jax.tree.map(lambda a, b: a - jnp.asarray(b, a.dtype), ax, y)

    def __call__(self, x: Any) -> jax.Array:
        """½⟨r, P r⟩; leading (batch) axes of x are summed over."""
        r = self._residual(self.operator(x))
        return 0.5 * real_dot(r, self._precision(r))

    def grad(self, x: Any) -> Any:
        """Aᴴ P (Ax − y); for a nonlinear A, its derivative's adjoint at x."""
        return self.value_and_grad(x)[1]

    def value_and_grad(self, x: Any) -> tuple[jax.Array, Any]:
        """(E(x), ∇E(x)) from one A(x)."""
        ax, backward = forward_and_backward(self.operator, x)
        r = self._residual(ax)
        p = self._precision(r)
        return 0.5 * real_dot(r, p), backward(p)

    def _hessian(self, x):
        return self.operator.H(self._precision(self.operator(x)))

    def lipschitz(self) -> Any:
        """σ_max(A)²·‖P‖."""
        return self.operator.norm() ** 2 * self._precision_norm()

    def prox(self, v: Any, step: Any) -> Any:
        """argmin_x E(x) + ‖x − v‖²/(2·step)."""
        if not self.operator.linear:
            check.fail(f"{self!r}.prox", "a linear operator", f"{self.operator!r}", "Use the gradient: Problem(smooth=…).")
        v = admit(v, self.operator.domain, "v", self.operator)
        if self._is_diagonal and self.operator.diagonal_form() is not None:
            return self._diagonal_prox(v, step)
        return self._iterative_prox(v, step)

    def exact_prox(self, v: Any, step: Any) -> Any:
        """``prox`` in closed form, x = Uᴴ[(U v + step·P w̄ y)/(1 + step·P|w|²)] for A = diag(w) U with a unitary U.

        Raises:
            ValueError: an operator without that form, such as a ``MaskedFFT`` with coil maps or a ``NUFFT``.
        """
        if not self._is_diagonal or self.operator.diagonal_form() is None:
            expected = "A = diag(w)·U with a unitary U (Identity, Diagonal, MaskedFFT of one coil) and diagonal weights"
            remedy = "Coil maps and non-Cartesian trajectories couple all pixels: prox(v, step) solves with conjugate gradients."
            check.fail(f"{type(self).__name__}.exact_prox", expected, f"{self.operator!r}", remedy)
        return self._diagonal_prox(admit(v, self.operator.domain, "v", self.operator), step)

    @jax.jit
    def _iterative_prox(self, v, step):
        step = real_like(step, jax.tree.leaves(v)[0])
        rhs = jax.tree.map(lambda g: -step * g, self.grad(v))
        # Solved for the change: the tolerance is then relative to what is to be corrected, and step = 0 is no special case.
        change = linalg.cg(lambda d: add(d, self._hessian(d), step), rhs, tolerance=self.tolerance, max_steps=self.max_steps).x
        return add(v, change)

    @jax.jit
    def _diagonal_prox(self, v, step):
        form = self.operator.diagonal_form()
        v = form.transform(v)
        step, d = real_like(step, v), jnp.asarray(form.weights).astype(v.dtype)
        w = step * real_like(1.0 if self._weights is None else self._weights, v)
        y = 0.0 if self._target is None else jnp.asarray(self._target, v.dtype)
        return form.inverse((v + w * jnp.conj(d) * y) / (1 + w * (d * jnp.conj(d)).real))
