"""Data terms against closed forms, SciPy and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffimg.core.pytree import pytree
from diffimg.energy import GaussianLikelihood, LeastSquares, SquaredL2, Tikhonov
from diffimg.forward.algebra import Stack
from diffimg.forward.basic import Function, Matrix
from diffimg.forward.operator import Operator

rng = np.random.default_rng(0)
A = rng.normal(size=(6, 4))
C = rng.normal(size=(6, 4)) + 1j * rng.normal(size=(6, 4))
Y = rng.normal(size=6)
X = rng.normal(size=4)


@pytree
class Circulant(Operator):
    """A complex-free convolution with a fast AᴴA, of which ``gram`` counts."""

    spectrum: jax.Array
    domain = property(lambda self: jax.ShapeDtypeStruct((8,), jnp.float32))

    def __call__(self, x):
        return jnp.fft.irfft(jnp.fft.rfft(x) * self.spectrum, 8)

    def gram(self, x):
        return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.abs(self.spectrum) ** 2, 8)


def test_least_squares_prox_solves_the_normal_equations():
    w, s = np.arange(1.0, 7.0), 0.7
    with jax.enable_x64(True):
        for matrix, weights in ((A, None), (C, w)):
            y, v = (Y, X) if matrix is A else (Y + 1j * Y[::-1], X - 1j * X)
            e = LeastSquares(Matrix(matrix), y, weights, tolerance=1e-13)
            m = np.eye(6) if weights is None else np.diag(weights)
            expected = np.linalg.solve(matrix.conj().T @ m @ matrix + np.eye(4) / s, matrix.conj().T @ m @ y + v / s)
            np.testing.assert_allclose(e.prox(v, s), expected, atol=1e-11)
            r = matrix @ v - y
            np.testing.assert_allclose(e(v), 0.5 * np.vdot(r, m @ r).real)
            np.testing.assert_allclose(e.grad(v), matrix.conj().T @ m @ r, atol=1e-12)
            np.testing.assert_allclose(e.prox(v, 0.0), v)


def test_complex_gradient_is_the_descent_direction():
    with jax.enable_x64(True):
        e = LeastSquares(Matrix(C), Y + 1j * Y[::-1])
        x, d = X + 1j * X[::-1], X[::-1] - 2j * X
        finite = (e(x + 1e-6 * d) - e(x - 1e-6 * d)) / 2e-6
        np.testing.assert_allclose(np.vdot(e.grad(x), d).real, finite, rtol=1e-8)
        np.testing.assert_allclose(e.grad(x), jnp.conj(jax.grad(e)(jnp.asarray(x))), rtol=1e-12)


def test_nonlinear_operator():
    with jax.enable_x64(True):
        square = Function(lambda x: x**2, jax.ShapeDtypeStruct((4,), jnp.float64), is_linear=False)
        e = LeastSquares(square, np.ones(4))
        np.testing.assert_allclose(e.grad(X), 2 * X * (X**2 - 1), rtol=1e-12)
        with pytest.raises(ValueError, match="a linear operator"):
            e.prox(X, 1.0)


def test_stack_and_batch():
    e = LeastSquares(Stack((Matrix(A.astype("f4")), Matrix(2 * A[:2].astype("f4")))), (Y, Y[:2]), (2.0, np.ones(2)))
    x = X.astype("f4")
    r1, r2 = A @ X - Y, 2 * A[:2] @ X - Y[:2]
    np.testing.assert_allclose(e(x), r1 @ r1 + 0.5 * r2 @ r2, rtol=1e-5)
    np.testing.assert_allclose(e.grad(x), 2 * A.T @ r1 + 2 * A[:2].T @ r2, rtol=1e-4)
    batch = LeastSquares(Matrix(A.astype("f4")), np.stack([Y, -Y]))
    xs = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(batch.grad(xs)[1], A.T @ (2 * A @ X + Y), rtol=1e-4)


def test_prepare_uses_the_fast_normal_for_the_gradient_only():
    spectrum = jnp.asarray(rng.normal(size=5) + 1j * rng.normal(size=5), jnp.complex64).at[jnp.array([0, 4])].set(1.0)
    x, y = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
    plain = LeastSquares(Circulant(spectrum), y)
    prepared = plain.prepare()
    assert prepared.prepare() is prepared
    np.testing.assert_allclose(prepared(x), plain(x), rtol=1e-6)
    np.testing.assert_allclose(prepared.grad(x), plain.grad(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prepared.prox(x, 0.5), plain.prox(x, 0.5), rtol=1e-4, atol=1e-5)
    top = float(jnp.max(jnp.abs(spectrum)) ** 2)
    assert top * 0.999 <= float(prepared.lipschitz()) <= 1.2 * top
    # the gradient with respect to the data survives preparation
    loss = lambda e: lambda y: jnp.sum(e(y).grad(x) ** 2)  # noqa: E731
    expected = jax.grad(loss(lambda y: LeastSquares(Circulant(spectrum), y)))(y)
    np.testing.assert_allclose(jax.grad(loss(lambda y: LeastSquares(Circulant(spectrum), y).prepare()))(y), expected, rtol=1e-3, atol=1e-4)
    assert type(LeastSquares(Circulant(spectrum), y, 2.0).prepare()) is LeastSquares


def test_prox_is_differentiable_in_everything():
    with jax.enable_x64(True):

        def loss(a, y, v, s):
            return jnp.sum(LeastSquares(Matrix(a), y, tolerance=1e-13).prox(v, s) ** 2)

        def dense(a, y, v, s):
            return jnp.sum(jnp.linalg.solve(a.T @ a + jnp.eye(4) / s, a.T @ y + v / s) ** 2)

        arguments = (jnp.asarray(A), jnp.asarray(Y), jnp.asarray(X), 0.7)
        for got, expected in zip(jax.grad(loss, (0, 1, 2, 3))(*arguments), jax.grad(dense, (0, 1, 2, 3))(*arguments), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9)


def test_gaussian_likelihood_is_the_log_density_and_map_the_weighted_normal_equations():
    sigma = np.cov(rng.normal(size=(6, 40))) + 0.2 * np.eye(6)
    with jax.enable_x64(True):
        for covariance in (0.3, np.arange(1.0, 7.0), sigma):
            dense = np.eye(6) * covariance if np.ndim(covariance) < 2 else covariance
            e = GaussianLikelihood(Matrix(A), Y, covariance, tolerance=1e-13)
            law = scipy.stats.multivariate_normal(Y, dense)
            expected = law.logpdf(Y) - law.logpdf(A @ X)
            for energy in (e, e.prepare())[np.ndim(covariance) < 2 :]:
                np.testing.assert_allclose(energy(X), expected, rtol=1e-9)
                # MAP with the prior x ~ N(v, s I)
                inverse = np.linalg.inv(dense)
                posterior = np.linalg.solve(A.T @ inverse @ A + np.eye(4) / 0.7, A.T @ inverse @ Y + X / 0.7)
                np.testing.assert_allclose(energy.prox(X, 0.7), posterior, atol=1e-9)
        complex_data = GaussianLikelihood(Matrix(C), Y + 1j, sigma.astype(complex))
        r = C @ X - Y - 1j
        np.testing.assert_allclose(complex_data(X + 0j), 0.5 * np.vdot(r, np.linalg.solve(sigma, r)).real)
        batch = GaussianLikelihood(Matrix(A), np.stack([Y, Y]), sigma)
        np.testing.assert_allclose(batch(np.stack([X, X])), 2 * expected, rtol=1e-9)


def test_tikhonov_with_any_operator_and_reference():
    g = rng.normal(size=(5, 4))
    reference = rng.normal(size=5)
    with jax.enable_x64(True):
        e = Tikhonov(0.6, Matrix(g), reference, tolerance=1e-13)
        np.testing.assert_allclose(e(X), 0.3 * np.sum((g @ X - reference) ** 2))
        # its prox with v = Aᵀ… is the closed form of min ½‖x − v‖² + λ/2‖Gx − ref‖²
        np.testing.assert_allclose(e.prox(X, 1.0), np.linalg.solve(np.eye(4) + 0.6 * g.T @ g, X + 0.6 * g.T @ reference), atol=1e-11)
        total = LeastSquares(Matrix(A), Y) + e
        best = np.linalg.solve(A.T @ A + 0.6 * g.T @ g, A.T @ Y + 0.6 * g.T @ reference)
        np.testing.assert_allclose(total.grad(best), 0, atol=1e-12)
        np.testing.assert_allclose(Tikhonov(0.6, Matrix(np.eye(4))).prox(X, 2.0), SquaredL2(0.6).prox(X, 2.0), atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LeastSquares(Matrix(A), np.full(6, np.nan)), "y: expected finite values"),
        (lambda: LeastSquares(Matrix(A), Y[:5]), r"y: expected shape \[..., 6\]"),
        (lambda: LeastSquares(Matrix(A), Y + 1j), "y: expected real values"),
        (lambda: LeastSquares(Matrix(A), Y, -1.0), "weights: expected values ≥ 0"),
        (lambda: LeastSquares(Matrix(A), Y, np.ones(4)), "weights: expected a shape that broadcasts"),
        (lambda: LeastSquares(A, Y), "operator: expected an Operator"),
        (lambda: GaussianLikelihood(Matrix(A), Y, np.zeros((6, 6))), "positive definite"),
        (lambda: GaussianLikelihood(Matrix(A), Y, np.triu(np.ones((6, 6)))), "symmetric"),
        (lambda: GaussianLikelihood(Matrix(A), Y, np.ones((5, 5))), "covariance: expected a shape"),
        (lambda: GaussianLikelihood(Matrix(A), Y, 0.0), "covariance: expected values > 0"),
        (lambda: Tikhonov(1.0, Matrix(A), np.ones(4)), "reference: expected shape"),
    ],
)
def test_bad_input_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
