"""Choosing the weight of a regularizer: discrepancy, L-curve, generalized cross-validation, SURE, validation.

Each takes a function that reconstructs for a given weight, so it serves any solver:

    def solve(weight, y):
        return run(FISTA(), Problem(LeastSquares(A, y), weight * TotalVariation()), x0, 200, 1e-5).x

It must be traceable (weights are tried in a ``lax.map``, one after another, compiled once). ``gcv`` and ``sure`` differentiate it
with respect to y, forwards; the others do not need y: ``lambda weight: solve(weight, y)``.

Which one? The noise level is known: ``sure`` (least prediction error) or ``discrepancy`` (cheapest, tends to smooth too much). It is not:
``gcv``, or ``l_curve`` where noise is correlated. True images like the one sought exist: ``validation_grid``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree
from diffimg.forward.operator import Operator, size


@pytree
class Choice:
    """The chosen ``weight``; the ``weights`` that were tried ``[n]``; the criterion ``curve`` at each ``[n]``."""

    weight: jax.Array
    weights: jax.Array
    curve: jax.Array


def discrepancy(
    solve: Callable[[Any], Any],
    operator: Operator,
    y: Any,
    noise_level: Any,
    bracket: tuple[float, float] = (1e-6, 1e3),
    *,
    factor: float = 1.0,
    steps: int = 20,
) -> Choice:
    """The weight at which the residual is as large as the noise, ‖A x_λ − y‖² = factor² · m · σ² (Morozov, 1966).

    By bisection in log λ; the residual grows with λ. Where the bracket does not contain the answer, its nearer end comes out.

    Args:
        solve: weight → x.
        operator, y: A and the data, m numbers.
        noise_level: standard deviation σ of one datum (of a complex one: √E|n|²).
        bracket: smallest and largest weight considered, both > 0.
        factor: > 1 leaves a margin against too small a weight.
        steps: bisections.

    Returns:
        ``Choice``; its curve holds ‖A x_λ − y‖ / (factor·√m·σ), which should be 1.
    """
    check.minimum("noise_level", noise_level, 0.0, strict=True)
    check.minimum("factor", factor, 0.0, strict=True)
    check.positive_int("steps", steps)
    low, high = bracket
    check.minimum("bracket", low, 0.0, strict=True, remedy="The search is logarithmic.")
    check.minimum("bracket", high - low, 0.0, strict=True, remedy="Give (smallest, largest).")
    expected = factor * noise_level * jnp.sqrt(size(operator.codomain))

    def bisect(ends, _):
        middle = (ends[0] + ends[1]) / 2
        ratio = _residual_norm(operator, solve(jnp.exp(middle)), y) / expected
        ends = jnp.where(ratio > 1, jnp.stack([ends[0], middle]), jnp.stack([middle, ends[1]]))
        return ends, (jnp.exp(middle), ratio)

    ends = jnp.log(jnp.array([low, high], _dtype(y)))
    ends, (weights, curve) = jax.lax.scan(bisect, ends, None, length=steps)
    return Choice(jnp.exp(jnp.mean(ends)), weights, curve)


def l_curve(
    solve: Callable[[Any], Any], operator: Operator, y: Any, seminorm: Callable[[Any], Any], weights: Any
) -> Choice:
    """The corner of (log ‖A x_λ − y‖, log |x_λ|) in the sense of greatest curvature (Hansen & O'Leary, 1993).

    Args:
        solve: weight → x.
        operator, y: A and the data.
        seminorm: x → the size that the regularizer penalises, e.g. ``lambda x: tree.norm(G(x))``.
        weights: at least 5 increasing positive weights ``[n]``; evenly in log λ is best. The two ends are never chosen.

    Returns:
        ``Choice``; its curve holds the curvature, from central differences in log λ.
    """
    weights = _admit_weights(weights, y, least=5)

    def point(weight):
        x = solve(weight)
        return jnp.log(_residual_norm(operator, x, y)), jnp.log(seminorm(x))

    rho, eta = jax.lax.map(point, weights)
    t = jnp.log(weights)
    first = [jnp.gradient(v, t) for v in (rho, eta)]
    second = [jnp.gradient(v, t) for v in first]
    curvature = (first[0] * second[1] - second[0] * first[1]) / (first[0] ** 2 + first[1] ** 2) ** 1.5
    inside = jnp.where((jnp.arange(len(weights)) > 1) & (jnp.arange(len(weights)) < len(weights) - 2), curvature, -jnp.inf)
    return Choice(weights[jnp.argmax(inside)], weights, curvature)


def gcv(solve: Callable[[Any, Any], Any], operator: Operator, y: Any, weights: Any, key: jax.Array, *, probes: int = 1) -> Choice:
    """Generalized cross-validation, V(λ) = m‖A x_λ − y‖² / (m − tr H_λ)², H_λ = ∂(A x_λ)/∂y (Golub, Heath & Wahba, 1979).

    The trace is Hutchinson's, from exact directional derivatives in ``probes`` random directions (Girard, 1989), the same for all
    weights. White noise of unknown level is assumed. For nonlinear solvers H_λ is the Jacobian at y.

    Args:
        solve: (weight, y) → x, differentiable in y forwards.
        operator, y: A and the data, m numbers.
        weights: positive weights ``[n]``.
        key: of the probes.

    Returns:
        ``Choice``; its curve holds V(λ).
    """
    weights = _admit_weights(weights, y)
    check.positive_int("probes", probes)
    m = size(operator.codomain)

    def score(weight):
        predicted, trace = _prediction(lambda v: operator(solve(weight, v)), y, key, probes)
        return m * tree.norm(tree.add(predicted, y, -1)) ** 2 / (m - trace) ** 2

    return _least(weights, jax.lax.map(score, weights))


def gcv_spectrum(
    singular_values: Any, coefficients: Any, weights: Any, *, count: int | None = None, rest: Any = 0.0, penalty: Any = 1.0
) -> Choice:
    """Generalized cross-validation of Tikhonov regularization in a basis that makes A (and G) diagonal, exact.

    For min ½‖Ax − y‖² + λ/2‖Gx‖²: V(λ) = m (Σ((1−f)|c|)² + rest) / (m − Σ f)² with filter factors f = s²/(s² + λg²).

    Args:
        singular_values: s of A (``jnp.linalg.svd``, or the transfer function of a blur), any shape.
        coefficients: uᵢᴴy, the data in the left singular (or Fourier) basis, of the same shape.
        weights: positive weights λ ``[n]``.
        count: m, the number of data (default: of coefficients).
        rest: ‖y‖² − Σ|c|², the energy of the data outside the range of A.
        penalty: g of G in the same basis (1 for G = identity).

    Returns:
        ``Choice``; its curve holds V(λ).
    """
    s, c = jnp.abs(jnp.asarray(singular_values)), jnp.abs(jnp.asarray(coefficients))
    check.shape("coefficients", c, s.shape, remedy="One for each singular value.")
    weights = _admit_weights(weights, c)
    m = c.size if count is None else count
    power, penalty = s**2, jnp.abs(jnp.asarray(penalty)) ** 2

    def score(weight):
        total = power + weight * penalty
        kept = jnp.where(total > 0, power / jnp.where(total > 0, total, 1), 0)
        return m * (jnp.sum(((1 - kept) * c) ** 2) + rest) / (m - jnp.sum(kept)) ** 2

    return _least(weights, jax.lax.map(score, weights))


def gcv_tikhonov(matrix: Any, y: Any, weights: Any) -> Choice:
    """Exact generalized cross-validation of min ½‖Ax − y‖² + λ/2‖x‖² for a dense ``matrix`` ``[m, n]`` and data ``[m]``, by its SVD."""
    matrix, y = jnp.asarray(matrix), jnp.asarray(y)
    check.ndim("matrix", matrix, 2, "[m, n]")
    check.shape("y", y, matrix.shape[:1], "[m]")
    u, s, _ = jnp.linalg.svd(matrix, full_matrices=False)
    c = jnp.matmul(u.conj().T, y, precision=jax.lax.Precision.HIGHEST)
    # Not ‖y‖² − ‖c‖², which cancels.
    rest = tree.norm(y - jnp.matmul(u, c, precision=jax.lax.Precision.HIGHEST)) ** 2
    return gcv_spectrum(s, c, weights, count=len(y), rest=rest)


def sure(
    solve: Callable[[Any, Any], Any],
    y: Any,
    noise_level: Any,
    weights: Any,
    key: jax.Array,
    *,
    operator: Operator | None = None,
    probes: int = 1,
    epsilon: float | None = None,
) -> Choice:
    """Stein's unbiased estimate of the mean squared error of the prediction, by Monte Carlo (Ramani, Blu & Unser, 2008).

    SURE(λ) = ‖A x_λ − y‖²/m − σ² + 2σ²/m · div_y(A x_λ) estimates ‖A x_λ − A x‖²/m: for denoising (A = identity) the error of the image.

    Args:
        solve: (weight, y) → x.
        y: data with white Gaussian noise.
        noise_level: its standard deviation σ (of a complex datum: √E|n|²).
        weights: positive weights ``[n]``.
        key: of the probes, the same for all weights.
        operator: A; None for denoising.
        probes: random directions; the estimate's standard error falls with their root.
        epsilon: None takes the divergence from exact directional derivatives of ``solve``; a number takes differences of that length
            (times σ), for solvers without forward derivatives.

    Returns:
        ``Choice``; its curve holds SURE(λ), which may be negative.
    """
    check.minimum("noise_level", noise_level, 0.0, strict=True)
    weights = _admit_weights(weights, y)
    check.positive_int("probes", probes)
    if epsilon is not None:
        check.minimum("epsilon", epsilon, 0.0, strict=True)
    m = size(y)

    def score(weight):
        predict = lambda v: solve(weight, v) if operator is None else operator(solve(weight, v))  # noqa: E731
        predicted, divergence = _prediction(predict, y, key, probes, None if epsilon is None else epsilon * noise_level)
        return (tree.norm(tree.add(predicted, y, -1)) ** 2 + 2 * noise_level**2 * divergence) / m - noise_level**2

    return _least(weights, jax.lax.map(score, weights))


def validation_grid(solve: Callable[[Any], Any], metric: Callable[[Any], Any], weights: Any, *, maximize: bool = False) -> Choice:
    """The weight with the best ``metric(solve(weight))`` on held-out truth, e.g. ``lambda x: nmse(x, truth)``.

    ``solve`` may reconstruct several images and ``metric`` average over them. ``maximize`` for metrics such as PSNR. The images used
    here must not be among those on which results are reported.
    """
    weights = _admit_weights(weights, None)
    curve = jax.lax.map(lambda weight: metric(solve(weight)), weights)
    check.shape("metric(solve(weight))", curve, weights.shape, remedy="Return one number, e.g. a mean over images.")
    best = jnp.argmax(curve) if maximize else jnp.argmin(curve)
    return Choice(weights[best], weights, curve)


def _least(weights, curve):
    return Choice(weights[jnp.argmin(curve)], weights, curve)


def _residual_norm(operator, x, y):
    return tree.norm(tree.add(operator(x), y, -1))


def _prediction(predict, y, key, probes, epsilon=None):
    """predict(y), and the trace of its Jacobian in Re⟨·,·⟩ (for complex y half that over real and imaginary parts)."""
    y = jax.tree.map(jnp.asarray, y)
    predicted = predict(y)

    def along(key):
        leaves, structure = jax.tree.flatten(y)
        keys = jax.random.split(key, len(leaves))
        b = jax.tree.unflatten(structure, [_signs(k, v) for k, v in zip(keys, leaves, strict=True)])
        if epsilon is None:
            change = jax.jvp(predict, (y,), (b,))[1]
        else:
            change = tree.scale(1 / epsilon, tree.add(predict(tree.add(y, b, epsilon)), predicted, -1))
        return tree.real_dot(b, change)

    return predicted, jnp.mean(jax.lax.map(along, jax.random.split(key, probes)))


def _signs(key, v):
    """Random signs of unit variance; for complex v in real and imaginary part."""
    dtype = _dtype(v)
    if not jnp.iscomplexobj(v):
        return jax.random.rademacher(key, v.shape, dtype)
    return jax.lax.complex(*jax.random.rademacher(key, (2, *v.shape), dtype)) * jnp.sqrt(jnp.asarray(0.5, dtype))


def _dtype(y):
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(y))).dtype


def _admit_weights(weights, y, least=1):
    weights = jnp.asarray(weights)
    check.ndim("weights", weights, 1, "[n]")
    check.minimum("weights", weights, 0.0, strict=True)
    if len(weights) < least:
        check.fail("weights", f"at least {least}", str(len(weights)), "E.g. jnp.geomspace(1e-4, 1, 20).")
    return weights if y is None else weights.astype(_dtype(y))
