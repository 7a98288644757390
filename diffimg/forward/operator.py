"""The Operator: a forward model as a frozen pytree, with adjoint, normal, norm and algebra derived once."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from diffimg.core import check, linalg
from diffimg.core.pair import Pair, paired
from diffimg.forward.structure import DiagonalForm, admit, ravel, same_structure, size, text, unravel


class Operator:
    """A forward model A: x ↦ A(x) whose arrays are traced leaves.

    A subclass is a ``@pytree`` with ``domain`` (a ``ShapeDtypeStruct``, or a pytree of them) and ``__call__`` for one
    unbatched ``x``. Everything else is derived:

    - ``A(x)`` checks, casts and jits with the operator as an *argument* (no constant in the compiled program); leading
      axes of ``x`` are batch axes.
    - ``A.codomain``, ``A.H`` (adjoint), ``A.normal`` (AᴴA), ``A.norm()`` (σ_max), ``A.linearize(x)``, ``A @ B``, ``A + B``,
      ``2 * A``, ``A.matrix()``, ``repr``.

    It may define, for speed (``diffimg.testing.check_operator`` tests them against the derived ones):

    - ``adjoint(self, y)``: Aᴴy for one y,
    - ``gram(self, x)``: AᴴA x for one x,
    - ``tangent(self, direction, x)``: d/dt A_{p + t·direction}(x), where the derivative of ``__call__`` in its parameters is not the
      one wanted; linear in ``direction`` (an operator of the same structure),
    - ``prepare(self)``: an operator with tables in place of parameters, for use in loops,
    - ``diagonal_form(self)``: its diagonal in a unitary basis, if it has one.

    ``linear = False`` marks a nonlinear operator; ``batched = True`` one whose methods take leading batch axes themselves;
    ``orthonormal = True`` one with A Aᴴ = I (the prox of ‖Ax‖₁ is then exact); ``approximate_normal = True`` one whose ``gram``
    agrees with AᴴA to 5e-3 only.
    """

    linear: ClassVar[bool] = True
    batched: ClassVar[bool] = False
    orthonormal: ClassVar[bool] = False
    approximate_normal: ClassVar[bool] = False
    domain: Any

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__call__")
        if own is not None:
            cls._forward = own
            del cls.__call__

    @property
    def refined_tangent(self) -> bool:
        """Whether the derivative in the parameters is meant to differ from that of the values."""
        return False

    def _forward(self, x):
        raise TypeError(f"{type(self).__name__} must define __call__(self, x).")

    def __call__(self, x: Any) -> Any:
        """A(x). ``x``: ``[..., *domain.shape]``; leading axes are batch. Returns ``[..., *codomain.shape]``."""
        check.is_pytree("operator", self)
        return _run(self, admit(x, self.domain, "x", self))

    @property
    def codomain(self) -> Any:
        """Shape and dtype of ``A(x)``."""
        check.is_pytree("operator", self)
        leaves, tree = jax.tree.flatten(self)
        x, x_tree = jax.tree.flatten(self.domain)
        return _codomain(tree, tuple(_struct(v) for v in leaves), x_tree, tuple(_struct(v) for v in x))

    @property
    def H(self) -> Operator:
        """The adjoint Aᴴ, ⟨Ax, y⟩ = ⟨x, Aᴴy⟩ (Re⟨·,·⟩ where the domain is real and the codomain complex)."""
        self._needs_linear("H")
        return algebra.Adjoint(self)

    @property
    def normal(self) -> Operator:
        """The normal operator AᴴA; fast (e.g. Toeplitz) where the class provides ``gram``."""
        self._needs_linear("normal")
        return algebra.Normal(self)

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """Estimate of σ_max(A) from above: Golub–Kahan with a probabilistic upper safeguard (``core.linalg.operator_norm``)."""
        self._needs_linear("norm()")
        return linalg.operator_norm(self, self.H, self.domain, key=key, steps=steps).upper

    def linearize(self, x: Any) -> Operator:
        """The derivative of A at ``x`` as a linear operator (A itself where A is linear)."""
        return self if self.linear else algebra.Linearized(self, admit(x, self.domain, "x", self))

    def prepare(self) -> Operator:
        """An equal operator whose tables are computed already; the operator itself where there is nothing to gain."""
        return self

    def diagonal_form(self) -> DiagonalForm | None:
        """A as diag(weights) U with a unitary U, where the class knows it; the prox of ½‖Ax − y‖² is then in closed form."""
        return None

    def matrix(self) -> jax.Array:
        """The dense matrix ``[codomain size, domain size]``; for small problems and tests."""
        self._needs_linear("matrix()")
        n = size(self.domain)
        if n * size(self.codomain) > 2**27:
            check.fail("operator", "a matrix of at most 2²⁷ entries", f"{size(self.codomain)} × {n}", "Use it matrix-free.")
        basis = jnp.eye(n, dtype=jax.tree.leaves(self.domain)[0].dtype)
        columns = jax.lax.map(lambda e: ravel(self(unravel(e, self.domain))), basis, batch_size=min(n, 64))
        return columns.T

    def __matmul__(self, other: Operator) -> Operator:
        if not isinstance(other, Operator):
            if hasattr(other, "shape"):
                check.fail("A @ B", "an operator B", f"an array {check.describe(other)}", "Apply A to it: A(x).")
            return NotImplemented
        if not same_structure(other.codomain, self.domain):
            expected, got = f"B to map into the domain of A, {text(self.domain)}", f"a B into {text(other.codomain)}"
            check.fail("A @ B", expected, got, f"A = {self!r}, B = {other!r}.")
        return algebra.Compose(self, other)

    def __add__(self, other: Operator) -> Operator:
        if not isinstance(other, Operator):
            return NotImplemented
        if not (same_structure(self.domain, other.domain) and same_structure(self.codomain, other.codomain)):
            check.fail("A + B", "the same domain and codomain", f"A = {self!r} and B = {other!r}")
        return algebra.Sum((self, other))

    def __mul__(self, factor: Any) -> Operator:
        if isinstance(factor, Operator):
            return NotImplemented
        return algebra.Scaled(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return algebra.Scaled(self, -1.0)

    def __sub__(self, other: Operator) -> Operator:
        return self + (-other)

    def __repr__(self) -> str:
        try:
            return f"<{self._name()}: {text(self.domain)} → {text(self.codomain)}>"
        except Exception:  # a half-built operator (placeholders as leaves) must still print
            return f"<{self._name()}>"

    def _name(self) -> str:
        return type(self).__name__

    def _needs_linear(self, what: str) -> None:
        if not self.linear:
            check.fail(f"{type(self).__name__}.{what}", "a linear operator", "a nonlinear one", "Linearize it first: A.linearize(x).")


def apply_forward(op, x):
    return paired(MATCHED, op, x) if provides(op, "adjoint") else op._forward(x)


def apply_adjoint(op, y):
    """Aᴴy for one y in the precision of y."""
    if provides(op, "adjoint"):
        return jax.tree.map(jnp.conj, paired(MATCHED.swapped, op, jax.tree.map(jnp.conj, y)))
    x = jax.tree.map(lambda d: jnp.zeros(d.shape, _domain_dtype(d.dtype, y)), op.domain)
    out, pullback = jax.vjp(op._forward, x)
    ct = jax.tree.map(lambda v, o: jnp.conj(v).astype(o.dtype), y, out)
    return jax.tree.map(jnp.conj, pullback(ct)[0])


def _domain_dtype(nominal, y):
    precision = jnp.finfo(jnp.result_type(*jax.tree.leaves(y))).dtype  # float32 for complex64
    return jnp.promote_types(nominal, precision)


@jax.jit
def _run(op, x):
    return _over_batch(apply_forward, op, x, op.domain)


def _over_batch(function, op, x, domain):
    lead = jnp.shape(jax.tree.leaves(x)[0])[: jnp.ndim(jax.tree.leaves(x)[0]) - len(jax.tree.leaves(domain)[0].shape)]
    if not lead or op.batched:
        return function(op, x)
    flat = jax.tree.map(lambda v, d: v.reshape(math.prod(lead), *d.shape), x, domain)
    out = jax.vmap(lambda v: function(op, v))(flat)
    return jax.tree.map(lambda v: v.reshape(*lead, *v.shape[1:]), out)


# Operators with a hand-written adjoint: A and Aᴴ are each other's derivative in x; the derivative in the parameters
# is op.tangent, by default that of __call__.


def _pair_forward(op, x):
    return op._forward(x)


def _pair_transpose(op, y):
    x = op.adjoint(jax.tree.map(jnp.conj, y))
    dtypes = jax.tree.map(lambda d: _domain_dtype(d.dtype, y), op.domain)
    return jax.tree.map(lambda v, t: jnp.conj(v).astype(t), x, dtypes)


def _tangent(op, direction, x):
    if provides(op, "tangent"):
        return op.tangent(direction, x)
    return jax.jvp(lambda o: o._forward(x), (op,), (direction,))[1]


def _transpose_tangent(op, direction, y):
    first = jnp.shape(jax.tree.leaves(y)[0])
    lead = first[: len(first) - len(jax.tree.leaves(op.codomain)[0].shape)]  # of an operator that takes batches itself
    zero = jax.tree.map(lambda d: jnp.zeros(lead + d.shape, _domain_dtype(d.dtype, y)), op.domain)
    return jax.vjp(lambda x: _tangent(op, direction, x), zero)[1](y)[0]


def _pair_gram(op, x):
    return jax.tree.map(lambda v, w: v.astype(w.dtype), op.gram(x), x)


def _pair_gram_transpose(op, x):
    return jax.tree.map(jnp.conj, _pair_gram(op, jax.tree.map(jnp.conj, x)))


def _gram_tangent(op, direction, x):
    return jax.jvp(lambda o: apply_adjoint(o, apply_forward(o, x)), (op,), (direction,))[1]


def _gram_transpose_tangent(op, direction, x):
    return jax.tree.map(jnp.conj, _gram_tangent(op, direction, jax.tree.map(jnp.conj, x)))


MATCHED = Pair(_pair_forward, _pair_transpose, _tangent, _transpose_tangent)
GRAM = Pair(_pair_gram, _pair_gram_transpose, _gram_tangent, _gram_transpose_tangent)


def provides(op, name):
    return getattr(type(op), name, None) is not None


@functools.lru_cache(maxsize=1024)
def _codomain(tree, leaves, x_tree, x):
    out = jax.eval_shape(lambda o, v: o._forward(v), jax.tree.unflatten(tree, leaves), jax.tree.unflatten(x_tree, x))
    return jax.tree.map(lambda o: ShapeDtypeStruct(o.shape, o.dtype), out)


def _struct(v):
    if isinstance(v, ShapeDtypeStruct):
        return v
    aval = jax.typeof(v if hasattr(v, "dtype") else jnp.asarray(v))
    return ShapeDtypeStruct(aval.shape, jax.dtypes.canonicalize_dtype(aval.dtype), weak_type=getattr(aval, "weak_type", False))


from diffimg.forward import algebra  # noqa: E402  (the algebra is made of operators: it needs the class above)
