"""Linear inverse problems A x = y: decompositions, generalized inverse, regularized solutions, Hadamard's diagnosis.

Dense tools take an ``[m, n]`` matrix (or a linear operator with a ``matrix()`` method) and compute in its precision; matrix-free ones take
callables on pytrees. The Krylov solvers (``core.krylov``) and the operator norm (``core.operator_norm``) are exported here too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.tree_util import Partial

from diffimg.core import check
from diffimg.core.krylov import Map, SolveResult, bicgstab, cg, gmres, minres, vector
from diffimg.core.lsqr import lsqr
from diffimg.core.operator_norm import OperatorNorm, operator_norm
from diffimg.core.pytree import add, norm, pytree, static

__all__ = [
    "SVD",
    "Diagnosis",
    "Eigendecomposition",
    "GeneralizedInverse",
    "OperatorNorm",
    "SolveResult",
    "bicgstab",
    "cg",
    "diagnose",
    "eigendecomposition",
    "generalized_inverse",
    "gmres",
    "induced_norm",
    "jordan_wielandt",
    "least_squares",
    "lsqr",
    "minimum_length",
    "minres",
    "null_space_component",
    "operator_norm",
    "svd",
    "tikhonov",
    "truncated_svd_solution",
]  # fmt: skip


def dense(matrix: Any, name: str = "matrix") -> jax.Array:
    """The ``[m, n]`` array of a matrix, nested list, or linear operator with a ``matrix()`` method; float32 at least."""
    value = jnp.asarray(_given(matrix, name))
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _given(matrix, name):
    value = matrix.matrix() if callable(matrix) and hasattr(matrix, "matrix") else check.array(name, matrix)
    check.ndim(name, value, 2, "[m, n]")
    check.finite(name, value)
    if 0 in value.shape:
        check.fail(name, "at least one row and one column", f"shape {value.shape}")
    return value


class SVD(NamedTuple):
    """A ≈ U diag(σ) Vᴴ: ``U`` [m, p], ``singular_values`` [p] (descending), ``V`` [n, p], p the numerical rank."""

    U: jax.Array
    singular_values: jax.Array
    V: jax.Array

    @property
    def rank(self) -> int:
        return self.singular_values.shape[0]


def svd(matrix: Any, rank: int | None = None, tolerance: float | None = None) -> SVD:
    """Thin singular value decomposition with the p singular values σ > tolerance·σ₁, or with ``rank`` of them.

    ``tolerance`` is max(m, n)·ε of the dtype by default (NumPy's and LAPACK's convention). Inside ``jit``, ``rank`` must be given.
    """
    A = dense(matrix)
    U, s, Vh = jnp.linalg.svd(A, full_matrices=False)
    p = _rank(s, A, tolerance) if rank is None else rank
    if not 0 <= p <= s.shape[0]:
        check.fail("rank", f"an integer in 0 … {s.shape[0]}", repr(p))
    return SVD(U[:, :p], s[:p], jnp.conj(Vh[:p]).T)


def _rank(s, A, tolerance):
    if not check.is_concrete(s):
        check.fail("rank", "an integer where the matrix is traced", "None", "The rank is a shape: decide it outside jit.")
    tolerance = _tolerance(A, tolerance)
    check.minimum("tolerance", tolerance, 0)
    s = np.asarray(s)
    return int(np.count_nonzero(s > tolerance * s[0]))


def _tolerance(A, tolerance):
    return max(A.shape) * float(jnp.finfo(A.dtype).eps) if tolerance is None else tolerance


@pytree
class GeneralizedInverse:
    """A⁺ = V_p Λ_p⁻¹ U_pᴴ as ``matrix`` [n, m], with the ``rank`` p it was formed with; call it on y: ``[m]``."""

    matrix: jax.Array
    rank: int = static()

    @property
    def case(self) -> str:
        """bijective (p = m = n), least squares (p = n < m), minimum length (p = m < n) or rank deficient (p < min(m, n))."""
        n, m = self.matrix.shape
        if self.rank < min(m, n):
            return "rank deficient"
        return "bijective" if m == n else "least squares" if n < m else "minimum length"

    def __call__(self, y: Any) -> jax.Array:
        return _mul(self.matrix, y)


def generalized_inverse(matrix: Any, rank: int | None = None, tolerance: float | None = None) -> GeneralizedInverse:
    """The generalized (Moore–Penrose) inverse by truncated SVD, in all four cases of the rank; ``svd`` chooses the rank."""
    U, s, V = svd(matrix, rank, tolerance)
    return GeneralizedInverse(_mul(V / s.astype(V.dtype), jnp.conj(U).T), s.shape[0])


def truncated_svd_solution(matrix: Any, y: Any, rank: int | None = None, tolerance: float | None = None) -> jax.Array:
    """x = Σ_{i≤p} vᵢ ⟨uᵢ, y⟩/σᵢ for y ``[m]``: of all least-squares solutions of rank p the shortest. Returns ``[n]``."""
    U, s, V = svd(matrix, rank, tolerance)
    return _mul(V, _mul(jnp.conj(U).T, _data(y, U.shape[0], U.dtype)) / s.astype(U.dtype))


def least_squares(operator: Any, y: Any, adjoint: Map | None = None, *, tolerance: float = 1e-6, max_steps: int = 1000) -> SolveResult:
    """argmin_x ½‖A x − y‖². Dense: needs full column rank p = n, solved by QR. Matrix-free: LSQR (the shortest minimizer).

    ``operator`` is a matrix, or a callable with its ``adjoint`` (default ``operator.H``).
    """
    if callable(operator):
        return lsqr(operator, _adjoint_of(operator, adjoint), y, tolerance=tolerance, max_steps=max_steps)
    A = dense(operator, "operator")
    y = _data(y, A.shape[0], A.dtype)
    Q, R = _full_column_rank(A, "least squares", "rank n (independent columns)")
    return _dense_result(A, y, solve_triangular(R, _mul(jnp.conj(Q).T, y)))


def minimum_length(operator: Any, y: Any, adjoint: Map | None = None, *, tolerance: float = 1e-6, max_steps: int = 1000) -> SolveResult:
    """argmin_x ½‖x‖² subject to A x = y: x = Aᴴτ with the Lagrange multiplier τ = (A Aᴴ)⁻¹y; needs full row rank p = m.

    ``operator`` is a matrix (solved by QR of Aᴴ, which does not square the condition number), or a callable with its ``adjoint``
    (default ``operator.H``; CG on A Aᴴ, so ``residual_norm`` is ‖y − A x‖ in both).
    """
    if callable(operator):
        backward = _adjoint_of(operator, adjoint)
        result = cg(Partial(_composed, operator, backward), y, tolerance=tolerance, max_steps=max_steps)
        return result._replace(x=backward(result.x))
    A = dense(operator, "operator")
    y = _data(y, A.shape[0], A.dtype)
    Q, R = _full_column_rank(jnp.conj(A).T, "minimum length", "rank m (independent rows; Aᴴ has independent columns)")
    return _dense_result(A, y, _mul(Q, solve_triangular(R, y, trans="C")))


def _full_column_rank(A, name, needed):
    remedy = "Use generalized_inverse, which takes any rank, or tikhonov with a G that is definite on the null space."
    if A.shape[0] < A.shape[1]:
        check.fail("operator", f"{needed} for {name}", f"only {A.shape[0]} rows for {A.shape[1]} columns", remedy)
    Q, R = jnp.linalg.qr(A)
    if check.is_concrete(A):
        rank = int(np.linalg.matrix_rank(np.asarray(A), rtol=_tolerance(A, None)))
        if rank < A.shape[1]:
            check.fail("operator", f"{needed} for {name}", f"rank {rank} < {A.shape[1]}", remedy)
    return Q, R


def tikhonov(
    operator: Any,
    y: Any,
    weight: Any,
    G: Any = None,
    reference: Any = None,
    adjoint: Map | None = None,
    G_adjoint: Map | None = None,
    x0: Any = None,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> SolveResult:
    """argmin_x ½‖A x − y‖² + weight/2·‖G x − reference‖²; G = identity and reference = 0 by default.

    Dense (``operator`` a matrix, ``G`` a matrix or None): QR of [A; √weight G], which must have full column rank.
    Matrix-free (``operator`` a callable, ``G`` a callable or None): CG on (AᴴA + weight GᴴG) x = Aᴴy + weight Gᴴreference, to
    which ``converged`` refers; ``operator.normal`` is used where there is one. Adjoints default to ``operator.H`` and ``G.H``.
    Differentiable in y, weight, reference and the operators' arrays. ``residual_norm`` is ‖y − A x‖.
    """
    check.minimum("weight", weight, 0)
    if callable(operator) != callable(G) and G is not None:
        check.fail("G", "a matrix where the operator is one, else a callable", type(G).__name__, "Wrap the matrix as an operator.")
    if callable(operator):
        backward = _adjoint_of(operator, adjoint)
        normal = _normal_of(operator, backward)
        y = vector("y", y)
        rhs = backward(y)
        pull = None if G is None else _adjoint_of(G, G_adjoint)
        penalty = None if G is None else _normal_of(G, pull)
        if reference is not None:
            reference = vector("reference", reference)
            rhs = add(rhs, reference if pull is None else pull(reference), weight)
        result = cg(Partial(_penalized, normal, penalty, weight), rhs, x0, tolerance=tolerance, max_steps=max_steps)
        return result._replace(residual_norm=norm(add(y, operator(result.x), -1)))
    A = dense(operator, "operator")
    y = _data(y, A.shape[0], A.dtype)
    L = jnp.eye(A.shape[1], dtype=A.dtype) if G is None else dense(G, "G").astype(A.dtype)
    if L.shape[1] != A.shape[1]:
        check.fail("G", f"{A.shape[1]} columns, one an unknown", f"shape {L.shape}")
    root = jnp.sqrt(jnp.asarray(weight, jnp.finfo(A.dtype).dtype)).astype(A.dtype)
    target = jnp.zeros(L.shape[0], A.dtype) if reference is None else _data(reference, L.shape[0], A.dtype, "reference")
    Q, R = _full_column_rank(jnp.concatenate([A, root * L]), "Tikhonov", "N(A) ∩ N(√weight G) = {0}")
    return _dense_result(A, y, solve_triangular(R, _mul(jnp.conj(Q).T, jnp.concatenate([y, root * target]))))


def null_space_component(apply: Map, adjoint: Map, x: Any, *, tolerance: float = 1e-6, max_steps: int = 1000) -> Any:
    """(I − A⁺A) x, the part of an image that the data A x do not see; matrix-free, A⁺A x by LSQR. Same structure as ``x``."""
    x = vector("x", x)
    return add(x, lsqr(apply, adjoint, apply(x), tolerance=tolerance, max_steps=max_steps).x, -1)


def _adjoint_of(operator, adjoint):
    if adjoint is None and not hasattr(operator, "H"):
        check.fail("adjoint", "the adjoint map, as the operator has no .H", "None", "Pass adjoint=, or use a diffimg Operator.")
    return operator.H if adjoint is None else adjoint


def _normal_of(operator, adjoint):
    return operator.normal if hasattr(operator, "normal") else Partial(_composed, adjoint, operator)


def _composed(outer, inner, x):
    return outer(inner(x))


def _penalized(normal, penalty, weight, x):
    return add(normal(x), x if penalty is None else penalty(x), weight)


def _data(y, size, dtype, name="y"):
    y = check.array(name, y)
    check.shape(name, y, (size,), remedy="One number per row of the matrix.")
    check.finite(name, y)
    y = jnp.asarray(y)
    return y.astype(jnp.promote_types(y.dtype, dtype))


def _dense_result(A, y, x):
    residual = jnp.linalg.norm(y - _mul(A, x))
    return SolveResult(x, residual, jnp.int32(0), jnp.all(jnp.isfinite(x)), jnp.bool_(False), jnp.bool_(False))


def _mul(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def induced_norm(matrix: Any, p: float = 2) -> jax.Array:
    """max_x ‖A x‖_p / ‖x‖_p: largest column sum (p = 1), σ_max (p = 2) or largest row sum (p = ∞) of |A|."""
    A = dense(matrix)
    if p not in (1, 2, math.inf):
        check.fail("p", "1, 2 or inf", repr(p), "Other induced norms are NP-hard to compute.")
    if p == 2:
        return jnp.max(jnp.linalg.svd(A, compute_uv=False))
    return jnp.max(jnp.sum(jnp.abs(A), axis=0 if p == 1 else 1))


def jordan_wielandt(matrix: Any) -> jax.Array:
    """[0 A; Aᴴ 0], ``[m+n, m+n]``: its eigenvalues are ±σᵢ with eigenvectors (uᵢ; ±vᵢ)/√2, and |m−n| zeros."""
    A = dense(matrix)
    m, n = A.shape
    return jnp.block([[jnp.zeros((m, m), A.dtype), A], [jnp.conj(A).T, jnp.zeros((n, n), A.dtype)]])


class Eigendecomposition(NamedTuple):
    """A Q = Q Λ: ``values`` [n] by falling magnitude, ``vectors`` Q [n, n] with unit columns."""

    values: jax.Array
    vectors: jax.Array


def eigendecomposition(matrix: Any, hermitian: bool | None = None) -> Eigendecomposition:
    """Eigenvalues and eigenvectors of a square matrix; real and orthonormal if it is Hermitian (found out unless stated).

    The general case is computed on the CPU, the only place where JAX has it. A defective matrix gives a singular Q.
    """
    A = dense(matrix)
    if A.shape[0] != A.shape[1]:
        check.fail("matrix", "a square matrix", f"shape {A.shape}", "Use svd for others.")
    if hermitian is None:
        if not check.is_concrete(A):
            check.fail("hermitian", "True or False where the matrix is traced", "None")
        hermitian = bool(np.array_equal(np.asarray(A), np.asarray(A).conj().T))
    if hermitian:
        values, vectors = jnp.linalg.eigh(A)
    else:
        if check.is_concrete(A):
            A = jax.device_put(A, jax.devices("cpu")[0])
        values, vectors = jnp.linalg.eig(A)
    order = jnp.argsort(-jnp.abs(values))
    return Eigendecomposition(values[order], vectors[:, order])


class Picard(NamedTuple):
    """Data of the Picard plot: σᵢ, |⟨uᵢ, y⟩| and their ratio (inf where σᵢ = 0), all ``[min(m, n)]``.

    A useful solution exists where the coefficients fall faster than the σᵢ (Hansen 1990); the ratio rises where noise takes over.
    """

    singular_values: np.ndarray
    coefficients: np.ndarray
    ratios: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """Hadamard's three questions for A x = y; ``print`` it.

    ``existence``: a solution for every y (rank = m). ``uniqueness``: N(A) = {0} (rank = n). ``stability``: in finite dimensions A⁺ is
    always continuous, so the question is how far it amplifies: the relative error of x is at most ``amplification`` = σ₁/σ_p times
    that of the data (within the range), and stability holds where ``amplification·noise`` ≤ 1.
    ``condition_number``: σ₁/σ_min, inf if rank < min(m, n). For a given y (else None): ``solvable``, whether it is in the range;
    ``misfit`` = ‖y − A A⁺y‖/‖y‖; ``picard``.
    """

    shape: tuple[int, int]
    rank: int
    singular_values: np.ndarray
    condition_number: float
    amplification: float
    noise: float
    existence: bool
    uniqueness: bool
    stability: bool
    solvable: bool | None
    misfit: float | None
    picard: Picard | None
    range_basis: np.ndarray = dataclasses.field(repr=False)  # V_p, [n, p]

    @property
    def well_posed(self) -> bool:
        """All three conditions hold."""
        return self.existence and self.uniqueness and self.stability

    def null_space_component(self, x: Any) -> np.ndarray:
        """(I − A⁺A) x for x ``[n]``: what the data cannot tell."""
        check.shape("x", x, (self.shape[1],))
        x = np.asarray(x)
        return x - self.range_basis @ (self.range_basis.conj().T @ x)

    def __str__(self) -> str:
        m, n = self.shape
        p, s = self.rank, self.singular_values

        def line(name: str, holds: bool, why: str) -> str:
            return f"  {name:<11}{'yes' if holds else 'no':<4} {why}"

        rows = [
            f"A x = y with A of shape {m} × {n}, rank {p}: {'well-posed' if self.well_posed else 'ill-posed'}",
            line("existence", self.existence, "every y is in the range" if self.existence else f"the range has dimension {p} of {m}"),
            line("uniqueness", self.uniqueness, "the null space is {0}" if self.uniqueness else f"the null space has dimension {n - p}"),
            line("stability", self.stability, f"relative errors grow by up to {self.amplification:.3g}; judged at noise {self.noise:g}"),
            f"  σ_max = {s[0]:.4g}, σ_min = {s[-1]:.4g}, condition number {self.condition_number:.4g}",
        ]
        if self.solvable is not None:
            rows.append(f"  the given y is {'' if self.solvable else 'not '}in the range: relative distance {self.misfit:.3g}")
        return "\n".join(rows)


def diagnose(matrix: Any, y: Any = None, noise: float = 1e-3, tolerance: float | None = None) -> Diagnosis:
    """Hadamard's diagnosis of a linear inverse problem, by SVD; on concrete values (not inside ``jit``).

    ``matrix``: ``[m, n]`` or an operator with ``matrix()``. ``y``: data ``[m]``, for solvability and the Picard coefficients.
    ``noise``: the relative error of the data at which stability is judged. ``tolerance``: relative, for the rank and, tenfold, for
    solvability (see ``svd``).
    """
    A = _given(matrix, "matrix")
    if not check.is_concrete(A):
        check.fail("matrix", "concrete values", "a traced array", "Call diagnose outside jit.")
    A = np.asarray(A)
    A = A.astype(np.result_type(A, np.float32))  # on the host a float64 matrix keeps its precision, whatever JAX's default
    check.minimum("noise", noise, 0)
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    m, n = A.shape
    p = _rank(s, A, tolerance)
    amplification = float(s[0] / s[p - 1]) if p else math.inf
    solvable = misfit = picard = None
    if y is not None:
        data = np.asarray(check.array("y", y))
        check.shape("y", data, (m,), remedy="One number per row of the matrix.")
        check.finite("y", data)
        inside = U[:, :p].conj().T @ data
        total = float(np.linalg.norm(data))
        misfit = float(np.linalg.norm(data - U[:, :p] @ inside)) / total if total else 0.0
        solvable = misfit <= 10 * _tolerance(A, tolerance)  # rounding in A x and in the projection
        coefficients = np.abs(U.conj().T @ data)
        ratios = np.divide(coefficients, s, out=np.full_like(coefficients, np.inf), where=s > 0)
        picard = Picard(s, coefficients, ratios)
    return Diagnosis(
        shape=(m, n),
        rank=p,
        singular_values=s,
        condition_number=amplification if p == min(m, n) else math.inf,
        amplification=amplification,
        noise=float(noise),
        existence=p == m,
        uniqueness=p == n,
        stability=amplification * noise <= 1,
        solvable=solvable,
        misfit=misfit,
        picard=picard,
        range_basis=Vh[:p].conj().T,
    )
