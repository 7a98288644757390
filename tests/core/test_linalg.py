"""Krylov solvers, operator norm and the theory of linear inverse problems against NumPy, SciPy and the lecture's examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg as sparse
from jax.tree_util import Partial

from diffimg.core import linalg

CT = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], float)  # five rays through 2 × 2 pixels
N = 12


def product(matrix, x):
    return jnp.matmul(matrix, x, precision="highest")


def as_map(matrix):
    return Partial(product, jnp.asarray(matrix))


def random(*shape, seed=0, kind="complex"):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind == "complex" else 0)


def spd(n=N, kind="complex"):
    m = random(n, n, kind=kind)
    return m @ m.conj().T + np.eye(n)


def indefinite(n=N, kind="complex"):
    m = random(n, n, seed=1, kind=kind)
    return m + m.conj().T


def general(n=N, kind="complex"):
    return random(n, n, seed=2, kind=kind) + 3 * np.eye(n)


MATRICES = {"cg": spd, "minres": indefinite, "gmres": general, "bicgstab": general}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("name", MATRICES)
def test_square_solvers_reach_the_solution_as_scipy_does(name, kind, x64):
    A, b = MATRICES[name](kind=kind), random(N, seed=3, kind=kind)
    result = getattr(linalg, name)(as_map(A), b, tolerance=1e-10, max_steps=200)
    if (name, kind) == ("minres", "complex"):  # SciPy's is for real matrices
        peer = np.linalg.solve(A, b)
    else:
        peer, info = getattr(sparse, name)(A, b, rtol=1e-12, maxiter=500)
        assert info == 0
    assert result.converged and not result.indefinite
    np.testing.assert_allclose(result.x, peer, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b - A @ np.asarray(result.x)), rtol=1e-3, atol=1e-13)
    assert result.residual_norm <= 1e-10 * np.linalg.norm(b)


@pytest.mark.parametrize("name", ["cg", "bicgstab"])
def test_single_precision_reaches_its_tolerance(name):
    A, b = MATRICES[name](kind="real").astype(np.float32), random(N, kind="real").astype(np.float32)
    result = getattr(linalg, name)(as_map(A), b, tolerance=1e-5)
    assert result.converged and result.x.dtype == jnp.float32
    assert np.linalg.norm(b - A @ np.asarray(result.x)) <= 2e-5 * np.linalg.norm(b)


@pytest.mark.parametrize("name", MATRICES)
def test_zero_data_and_exact_starts_take_no_step(name, x64):
    A = MATRICES[name]()
    x = random(N, seed=5)
    zero = getattr(linalg, name)(as_map(A), np.zeros(N, complex))
    start = getattr(linalg, name)(as_map(A), A @ x, x)
    for result, expected in ((zero, 0 * x), (start, x)):
        assert result.converged and result.iterations == 0
        np.testing.assert_array_equal(result.x, expected)


@pytest.mark.parametrize("name", MATRICES)
def test_vmap_stops_each_system_on_its_own(name, x64):
    A = MATRICES[name](kind="real")
    eigen = np.linalg.eigh(A)[1][:, 0] if name in ("cg", "minres") else np.linalg.solve(A, np.ones(N))
    b = np.stack([random(N, kind="real"), np.zeros(N), A @ eigen, 1e-6 * random(N, seed=8, kind="real")])
    solve = jax.jit(lambda b: getattr(linalg, name)(as_map(A), b, tolerance=1e-8))
    batch = jax.vmap(solve)(b)
    assert batch.iterations[1] == 0 and batch.iterations[0] > 1 and np.all(batch.converged)
    for i in (0, 3):
        alone = solve(b[i])
        np.testing.assert_allclose(batch.x[i], alone.x, rtol=1e-6, atol=1e-14)
        assert abs(int(batch.iterations[i]) - int(alone.iterations)) <= 1  # rounding differs between the two programs


@pytest.mark.parametrize("name", MATRICES)
def test_derivatives_are_those_of_the_dense_solve(name, x64):
    A, b, w, D = MATRICES[name](), random(N, seed=3), random(N, seed=4), np.diag(np.arange(N))

    def ours(t, b):
        return jnp.abs(jnp.vdot(w, getattr(linalg, name)(as_map(A + t * D), b, b, tolerance=1e-12).x)) ** 2

    def dense(t, b):
        return jnp.abs(jnp.vdot(w, jnp.linalg.solve(A + t * D, b))) ** 2

    got, expected = (jax.jit(jax.grad(f, (0, 1)))(0.1, jnp.asarray(b)) for f in (ours, dense))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-7)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6, atol=1e-8 * np.abs(expected[1]).max())
    if name == "minres":
        np.testing.assert_allclose(jax.jit(lambda t: jax.jvp(lambda t: ours(t, b), (t,), (1.0,))[1])(0.1), expected[0], rtol=1e-7)


def test_cg_reports_an_indefinite_operator(x64):
    A = indefinite(kind="real")
    result = linalg.cg(as_map(A), random(N, kind="real"))
    assert result.indefinite and not result.converged and np.all(np.isfinite(result.x))
    assert linalg.cg(lambda x: 0 * x, np.ones(3)).indefinite


def test_cg_preconditioned_takes_fewer_steps(x64):
    d = np.logspace(0, 5, 60)
    A, b = np.diag(d) + 0.1 * spd(60, "real") / 60, np.ones(60)
    plain = linalg.cg(as_map(A), b, tolerance=1e-9)
    better = linalg.cg(as_map(A), b, tolerance=1e-9, preconditioner=as_map(np.diag(1 / d)))
    assert better.converged and better.iterations < plain.iterations / 4
    np.testing.assert_allclose(better.x, np.linalg.solve(A, b), rtol=1e-7)


def test_minres_stops_at_the_least_residual_of_a_singular_system(x64):
    A = np.diag([2.0, -1.0, 3.0, 0.0])
    result = linalg.minres(as_map(A), np.ones(4), max_steps=50)
    assert not result.converged and result.iterations < 50
    np.testing.assert_allclose(result.residual_norm, 1, rtol=1e-6)
    np.testing.assert_allclose(result.x[:3], [0.5, -1, 1 / 3], rtol=1e-5)


@pytest.mark.parametrize("name", ["gmres", "bicgstab"])
def test_real_inner_product_solves_real_linear_maps_with_their_derivative(name, x64):
    A, B, b = general() + 2 * np.eye(N), 0.3 * random(N, N, seed=6), random(N, seed=3)  # x ↦ A x + B conj(x)
    real = np.block([[(A + B).real, (B - A).imag], [(A + B).imag, (A - B).real]])
    expected = np.linalg.solve(real, np.concatenate([b.real, b.imag]))

    def solve(b):
        return getattr(linalg, name)(lambda x: A @ x + B @ jnp.conj(x), b, tolerance=1e-11, inner="real")

    result = solve(b)
    assert result.converged
    np.testing.assert_allclose(result.x, expected[:N] + 1j * expected[N:], rtol=1e-8)
    w = random(N, seed=7)
    gradient = jnp.conj(jax.jit(jax.grad(lambda b: jnp.vdot(w, solve(b).x).real))(jnp.asarray(b)))
    expected = np.linalg.solve(real.T, np.concatenate([w.real, w.imag]))
    np.testing.assert_allclose(gradient, expected[:N] + 1j * expected[N:], rtol=1e-7)


@pytest.mark.parametrize("name", ["cg", "minres", "bicgstab"])
def test_a_tolerance_beyond_rounding_ends_without_harm(name):
    q = np.linalg.qr(random(30, 30, kind="real"))[0]
    A, b = ((q * np.logspace(0, 7, 30)) @ q.T).astype(np.float32), np.ones(30, np.float32)
    result = getattr(linalg, name)(as_map(A), b, tolerance=1e-7)
    assert not result.converged
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b - A @ np.asarray(result.x)), rtol=0.1)
    if name != "cg":
        assert result.residual_norm <= np.linalg.norm(b)
    poisoned = getattr(linalg, name)(as_map(A), np.full(30, np.nan, np.float32))
    assert not poisoned.converged and poisoned.iterations == 0


def test_gmres_restarts_and_solves_on_trees(x64):
    A = general(20, "real") + 5 * np.eye(20)

    def apply(x):
        y = A @ jnp.concatenate([x["a"].ravel(), x["b"]])
        return {"a": y[:6].reshape(2, 3), "b": y[6:]}

    b = {"a": np.ones((2, 3)), "b": np.arange(14.0)}
    result = linalg.gmres(apply, b, restart=5, preconditioner=lambda x: jax.tree.map(lambda v: v / 8, x), tolerance=1e-9)
    assert result.converged and result.iterations > 5
    expected = np.linalg.solve(A, np.concatenate([b["a"].ravel(), b["b"]]))
    np.testing.assert_allclose(np.concatenate([result.x["a"].ravel(), result.x["b"]]), expected, rtol=1e-6)


def test_gmres_stops_where_a_singular_system_stagnates(x64):
    shift = np.eye(4, k=1)  # nilpotent, and b is outside its range
    result = linalg.gmres(as_map(shift), np.array([0, 0, 0, 1.0]), max_steps=40)
    assert not result.converged and np.all(np.isfinite(result.x)) and result.iterations < 40


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("shape", [(15, 8), (8, 15)])
def test_lsqr_agrees_with_scipy(shape, damping, x64):
    A, b = random(*shape), random(shape[0], seed=1)
    result = linalg.lsqr(as_map(A), as_map(A.conj().T), b, damping, tolerance=1e-12)
    peer = sparse.lsqr(A, b, damp=damping, atol=1e-13, btol=1e-13)[0]
    assert result.converged
    np.testing.assert_allclose(result.x, peer, atol=1e-9)
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b - A @ peer), atol=1e-9)
    assert linalg.lsqr(as_map(A), as_map(A.conj().T), 0 * b).iterations == 0


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_operator_norm_brackets_sigma_max(kind):
    U, V = (np.linalg.qr(random(n, 80, kind=kind))[0] for n in (100, 90))
    dtype = np.float32 if kind == "real" else np.complex64
    domain = jax.ShapeDtypeStruct((90,), dtype)
    keys = jax.random.split(jax.random.key(1), 20)
    bound = jax.jit(jax.vmap(lambda A, k: linalg.operator_norm(as_map(A), as_map(A.conj().T), domain, k), (None, 0)))
    for spectrum in (np.linspace(0, 1, 80), np.linspace(0, 1, 80) ** 0.1, np.r_[np.full(79, 0.97), 1]):
        bounds = bound((U * spectrum @ V.conj().T).astype(dtype), keys)
        assert np.all(bounds.lower <= 1 + 1e-5) and np.all(bounds.upper >= 1 - 1e-6)
        assert np.all(bounds.upper <= 1.04)


@pytest.mark.parametrize("matrix", [[[3.0]], np.eye(50), np.zeros((4, 60)), np.ones((60, 50))])
def test_operator_norm_where_the_krylov_space_ends_at_once(matrix):
    A = np.asarray(matrix, np.float32)
    bounds = linalg.operator_norm(as_map(A), as_map(A.T), jax.ShapeDtypeStruct(A.shape[1:], A.dtype))
    np.testing.assert_allclose(bounds, np.full(2, np.linalg.norm(A, 2)), rtol=1e-4)


def test_operator_norm_refuses_too_few_steps():
    with pytest.raises(ValueError, match="steps: expected at least"):
        linalg.operator_norm(lambda x: x, lambda x: x, jax.ShapeDtypeStruct((10**6,), jnp.float32), steps=5)


def of_rank(m, n, p, kind="complex"):
    return random(m, p, kind=kind) @ random(p, n, seed=9, kind=kind)


CASES = [(6, 6, 6, "bijective"), (8, 5, 5, "least squares"), (5, 8, 5, "minimum length"), (7, 6, 3, "rank deficient")]


@pytest.mark.parametrize(("m", "n", "p", "case"), CASES)
def test_generalized_inverse_in_its_four_cases(m, n, p, case, x64):
    A, y = of_rank(m, n, p), random(m, seed=4)
    inverse = linalg.generalized_inverse(A)
    assert (inverse.rank, inverse.case) == (p, case)
    np.testing.assert_allclose(inverse.matrix, np.linalg.pinv(A, rcond=1e-12), atol=1e-10)
    np.testing.assert_allclose(inverse(y), linalg.truncated_svd_solution(A, y), atol=1e-10)
    if case in ("bijective", "least squares"):
        np.testing.assert_allclose(linalg.least_squares(A, y).x, inverse(y), atol=1e-10)
    if case in ("bijective", "minimum length"):
        np.testing.assert_allclose(linalg.minimum_length(A, y).x, inverse(y), atol=1e-10)
    if case == "rank deficient":
        free = linalg.least_squares(as_map(A), y, as_map(A.conj().T), tolerance=1e-13)
        np.testing.assert_allclose(free.x, inverse(y), atol=1e-8)


def test_svd_is_thin_and_truncates(x64):
    A = of_rank(7, 6, 3)
    U, s, V = linalg.svd(A)
    assert U.shape == (7, 3) and V.shape == (6, 3) and linalg.svd(A, tolerance=0.9).rank == 1
    np.testing.assert_allclose((U * s) @ V.conj().T, A, atol=1e-12)
    np.testing.assert_allclose(s, scipy.linalg.svdvals(A)[:3])
    truncated = jax.jit(lambda y: linalg.truncated_svd_solution(A, y, rank=2))(np.ones(7))
    np.testing.assert_allclose(truncated, np.linalg.pinv((U[:, :2] * s[:2]) @ V[:, :2].conj().T) @ np.ones(7), atol=1e-10)
    assert linalg.svd(np.zeros((3, 2))).rank == 0 and not linalg.generalized_inverse(np.zeros((3, 2))).matrix.any()


def test_dense_solutions_refuse_the_wrong_rank():
    with pytest.raises(ValueError, match=r"least squares.*rank 3 < 6"):
        linalg.least_squares(of_rank(7, 6, 3, "real"), np.ones(7))
    with pytest.raises(ValueError, match=r"minimum length.*only 4 rows for 5 columns"):
        linalg.minimum_length(CT, np.ones(5))
    with pytest.raises(ValueError, match=r"y: expected shape \(5,\)"):
        linalg.least_squares(CT, np.ones(4))
    with pytest.raises(ValueError, match=r"adjoint: expected the adjoint map"):
        linalg.least_squares(lambda x: x, np.ones(4))


def test_two_by_two_tomography_with_five_rays(x64):
    x = np.array([1.0, 2.0, 3.0, 4.0])
    diagnosis = linalg.diagnose(CT, CT @ x)
    assert diagnosis.rank == 4 and diagnosis.uniqueness and not diagnosis.existence and diagnosis.solvable
    np.testing.assert_allclose(linalg.least_squares(CT, CT @ x).x, x, rtol=1e-12)
    noisy = CT @ x + np.array([0.1, -0.2, 0.3, 0, 0.1])
    np.testing.assert_allclose(linalg.least_squares(CT, noisy).x, np.linalg.solve(CT.T @ CT, CT.T @ noisy), rtol=1e-12)
    assert not linalg.diagnose(CT, noisy).solvable
    four = linalg.diagnose(CT[:4])  # without the diagonal ray the checkerboard is invisible
    board = np.array([1.0, -1.0, -1.0, 1.0])
    assert four.rank == 3 and not four.uniqueness and four.condition_number == np.inf
    np.testing.assert_allclose(four.null_space_component(x + board) - four.null_space_component(x), board, atol=1e-12)
    np.testing.assert_allclose(
        linalg.null_space_component(as_map(CT[:4]), as_map(CT[:4].T), x, tolerance=1e-12), four.null_space_component(x), atol=1e-10
    )


def test_minimum_length_by_lagrange_multiplier(x64):
    A, y = random(3, 7), random(3, seed=1)
    tau = np.linalg.solve(A @ A.conj().T, y)
    result = linalg.minimum_length(A, y)
    np.testing.assert_allclose(result.x, A.conj().T @ tau, atol=1e-12)
    assert result.residual_norm < 1e-12
    free = linalg.minimum_length(as_map(A), y, as_map(A.conj().T), tolerance=1e-12)
    np.testing.assert_allclose(free.x, result.x, atol=1e-10)
    other = result.x + linalg.diagnose(A).null_space_component(np.ones(7))
    assert np.linalg.norm(other) > np.linalg.norm(result.x)


def test_polynomial_regression(x64):
    a = np.linspace(-1, 1, 20)
    y = 1 - 2 * a + 0.5 * a**3 + 0.05 * random(20, kind="real")
    A = np.vander(a, 4, increasing=True)
    np.testing.assert_allclose(linalg.least_squares(A, y).x, np.polynomial.polynomial.polyfit(a, y, 3), rtol=1e-9)
    large = np.vander(a, 15, increasing=True)  # a very large degree, mended by regularization
    decayed = linalg.tikhonov(large, y, 1e-2)
    np.testing.assert_allclose(decayed.x, np.linalg.solve(large.T @ large + 1e-2 * np.eye(15), large.T @ y), rtol=1e-8)
    assert np.linalg.norm(decayed.x) < 0.1 * np.linalg.norm(linalg.least_squares(large, y).x)


def test_tikhonov_dense_and_matrix_free_with_any_G_and_reference(x64):
    A, y, G, reference = random(5, 8), random(5, seed=1), np.diff(np.eye(8), axis=0), random(7, seed=2)
    expected = np.linalg.solve(A.conj().T @ A + 0.3 * G.T @ G, A.conj().T @ y + 0.3 * G.T @ reference)
    result = linalg.tikhonov(A, y, 0.3, G, reference)
    np.testing.assert_allclose(result.x, expected, atol=1e-10)
    maps = as_map(A), y, 0.3, as_map(G), reference, as_map(A.conj().T), as_map(G.T)
    free = linalg.tikhonov(*maps, tolerance=1e-12)
    assert free.converged
    np.testing.assert_allclose(free.x, expected, atol=1e-9)
    np.testing.assert_allclose(free.residual_norm, result.residual_norm, rtol=1e-6)
    near = linalg.tikhonov(as_map(A), y, 0.3, None, np.ones(8), as_map(A.conj().T), tolerance=1e-12)
    np.testing.assert_allclose(near.x, linalg.tikhonov(A, y, 0.3, reference=np.ones(8)).x, atol=1e-9)


def test_tikhonov_derivative_in_the_weight(x64):
    A, y = random(6, 5), random(6, seed=1)

    def size(weight, free):
        arguments = (as_map(A), y, weight, None, None, as_map(A.conj().T)) if free else (A, y, weight)
        return jnp.sum(jnp.abs(linalg.tikhonov(*arguments, tolerance=1e-13).x) ** 2)

    x = np.linalg.solve(A.conj().T @ A + 0.5 * np.eye(5), A.conj().T @ y)
    expected = -2 * np.vdot(x, np.linalg.solve(A.conj().T @ A + 0.5 * np.eye(5), x)).real
    for free in (False, True):
        np.testing.assert_allclose(jax.jit(jax.grad(size), static_argnums=1)(0.5, free), expected, rtol=1e-8)


def test_tikhonov_refuses_a_common_null_space_and_a_negative_weight():
    with pytest.raises(ValueError, match="for Tikhonov"):
        linalg.tikhonov(np.zeros((2, 3)), np.ones(2), 1.0, np.diff(np.eye(3), axis=0))
    with pytest.raises(ValueError, match="weight"):
        linalg.tikhonov(CT, np.ones(5), -1.0)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_induced_norms(p, x64):
    A = random(5, 7)
    np.testing.assert_allclose(linalg.induced_norm(A, p), np.linalg.norm(A, p), rtol=1e-12)
    x = random(7, 1000, seed=1)
    ratio = np.linalg.norm(A @ x, p, axis=0) / np.linalg.norm(x, p, axis=0)
    assert ratio.max() <= linalg.induced_norm(A, p)


def test_jordan_wielandt_links_singular_values_and_eigenvalues(x64):
    A = random(4, 6)
    U, s, V = linalg.svd(A)
    eigenvalues = np.linalg.eigvalsh(linalg.jordan_wielandt(A))
    np.testing.assert_allclose(eigenvalues, np.sort(np.concatenate([s, -s, np.zeros(2)])), atol=1e-12)
    pairs = np.concatenate([U, V])
    np.testing.assert_allclose(linalg.jordan_wielandt(A) @ pairs, pairs * s, atol=1e-12)


def test_eigendecomposition_and_that_of_the_inverse(x64):
    A = np.array([[2.0, 3.0], [1.0, 2.0]])
    values, Q = linalg.eigendecomposition(A)
    np.testing.assert_allclose(values.real, [2 + np.sqrt(3), 2 - np.sqrt(3)])
    np.testing.assert_allclose(Q @ np.diag(values) @ np.linalg.inv(Q), A, atol=1e-12)
    inverse, P = linalg.eigendecomposition(np.linalg.inv(A))
    np.testing.assert_allclose(np.sort(inverse.real), np.sort(1 / values.real))
    np.testing.assert_allclose(np.abs(np.sum(np.conj(P[:, ::-1]) * Q, axis=0)), 1)  # the same eigenvectors
    H = indefinite()
    values, Q = linalg.eigendecomposition(H)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(Q.conj().T @ Q, np.eye(N), atol=1e-12)
    np.testing.assert_allclose((Q * values) @ Q.conj().T, H, atol=1e-11)


def test_well_posedness_of_the_lectures_examples():
    five = linalg.diagnose([[2, 3], [1, 2]], [1.0, 1.0])
    assert five.existence and five.uniqueness and five.stability and five.well_posed and five.solvable
    np.testing.assert_allclose(five.condition_number, np.linalg.cond([[2, 3], [1, 2]]))
    assert "well-posed" in str(five) and "2 × 2, rank 2" in str(five)
    # x ↦ x²: its derivative 2x is invertible at x = 1; towards x = 0 the inverse √y loses its stability, at 0 everything is lost
    assert linalg.diagnose([[2.0]]).well_posed
    flat = linalg.diagnose([[0.0]])
    assert not (flat.existence or flat.uniqueness or flat.stability) and "ill-posed" in str(flat)


def test_diagnosis_of_an_ill_conditioned_problem():
    A = scipy.linalg.hilbert(8)
    diagnosis = linalg.diagnose(A, A @ np.ones(8))  # float64 kept without x64
    assert diagnosis.existence and diagnosis.uniqueness and not diagnosis.stability
    np.testing.assert_allclose(diagnosis.condition_number, np.linalg.cond(A), rtol=1e-5)
    U, s, _ = np.linalg.svd(A)
    np.testing.assert_allclose(diagnosis.picard.coefficients, np.abs(U.T @ A @ np.ones(8)), atol=1e-14)
    np.testing.assert_allclose(diagnosis.picard.ratios, diagnosis.picard.coefficients / s)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: linalg.cg(lambda x: x[:2], np.ones(3)), "apply: expected a square map"),
        (lambda: linalg.cg(lambda x: x, np.ones(3), np.ones(2)), "x0: expected the structure of b"),
        (lambda: linalg.cg(lambda x: x, np.ones(3, int)), "b: expected a floating or complex dtype"),
        (lambda: linalg.cg(lambda x: x, np.ones(3), tolerance=-1), "tolerance"),
        (lambda: linalg.gmres(lambda x: x, np.ones(3), inner="reel"), "Did you mean 'real'"),
        (lambda: linalg.gmres(lambda x: x, (np.ones(3), np.ones(2, complex))), "'real' for a tree"),
        (lambda: linalg.induced_norm(CT, 3), "p: expected 1, 2 or inf"),
        (lambda: linalg.diagnose([[np.nan]]), "matrix: expected finite values"),
        (lambda: linalg.eigendecomposition(CT), "matrix: expected a square matrix"),
        (lambda: jax.jit(linalg.svd)(CT), "rank: expected an integer where the matrix is traced"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_one_trace_for_changed_arrays(x64):
    traces = []

    def counted(A, x):
        traces.append(1)
        return A @ x

    for seed in range(3):
        A = spd(kind="real") + seed * np.eye(N)
        linalg.cg(Partial(counted, jnp.asarray(A)), random(N, seed=seed, kind="real"), tolerance=10.0 ** -(6 + seed))
        if seed == 0:
            first = len(traces)
    assert len(traces) == first + 2  # one look at the shapes a call, no further trace of the solver


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_system_that_is_not_symmetric_is_noticed(share, x64):
    rng = np.random.default_rng(0)
    a = np.eye(30) + share * rng.normal(size=(30, 30)) / np.sqrt(30)
    b = rng.normal(size=30)
    symmetric = a @ a.T
    for solve in (linalg.cg, linalg.minres):
        found = solve(lambda v: a @ v, b)
        assert found.asymmetric and not found.converged
        assert not solve(lambda v: symmetric @ v, b).asymmetric
        for m in (1 / (1 + np.arange(12)[:, None] + np.arange(12)), np.diag(np.geomspace(1, 1e-6, 12))):  # conditions 1e16 and 1e6
            for dtype in (np.float32, np.float64):
                found = solve(lambda v: m.astype(v.dtype) @ v, rng.normal(size=12).astype(dtype), max_steps=100)  # noqa: B023
                assert not found.asymmetric


def test_data_that_are_not_numbers_have_no_solution():
    for solve in (linalg.cg, linalg.minres, linalg.gmres, linalg.bicgstab):
        assert np.all(np.isnan(solve(lambda v: 2 * v, np.array([1.0, np.nan], np.float32)).x))
        assert np.all(np.isnan(solve(lambda v: 2 * v, np.ones(2, np.float32), np.array([1.0, np.nan], np.float32)).x))
