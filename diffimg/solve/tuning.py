"""Choosing the weight of a regularizer: discrepancy, L-curve, generalized cross-validation, SURE, validation.

Each takes a function that reconstructs for a given weight, so it serves any solver:

    def solve(weight, y):
        return run(FISTA(), Problem(LeastSquares(A, y), weight * TotalVariation()), x0, 200, 1e-5).x

It must be traceable (weights are tried in a ``lax.map``, one after another, compiled once). ``gcv`` and ``sure`` differentiate it
with respect to y, forwards; the others do not need y: ``lambda weight: solve(weight, y)``.

Which one? The noise level is known: ``sure`` (least prediction error) or ``discrepancy`` (cheapest, tends to smooth too much). It is not:
``gcv``, or ``l_curve`` where noise is correlated. True images like the one sought exist: ``validation_grid``.

Data y are admitted as the energies admit them: shaped like the operator's codomain, finite; leading (batch) axes get one weight in common.
Where the range of weights does not contain the answer, ``Choice.found`` is False, with a UserWarning (none inside ``jit`` or ``vmap``,
where the values are not known yet: look at ``found``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree
from diffimg.energy.data import admit_data
from diffimg.energy.weight import positive
from diffimg.forward.basic import Identity, Matrix
from diffimg.forward.operator import Operator, size

_STEP = 3e-4  # a smaller step along an L-curve may be rounding or an unfinished iteration, and has no direction
_CORNER = 0.01  # radians per unit of log λ: what turns less is no corner


@pytree
class Choice:
    """What a criterion chose.

    Attributes:
        weight: the chosen weight.
        weights: the weights that were tried ``[n]``.
        curve: the criterion at each of them ``[n]``.
        found: whether the criterion holds at ``weight``: it was bracketed (``discrepancy``), is a corner (``l_curve``), or is best
            strictly inside the range of ``weights`` (all others). Where False, ``weight`` is merely the best that was tried.
    """

    weight: jax.Array
    weights: jax.Array
    curve: jax.Array
    found: jax.Array


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

    By bisection in log λ between the ends of the bracket; the residual grows with λ.

    Args:
        solve: weight → x.
        operator, y: A and the data, m numbers.
        noise_level: standard deviation σ of one datum (of a complex one: √E|n|²).
        bracket: smallest and largest weight considered, both > 0.
        factor: > 1 leaves a margin against too small a weight.
        steps: bisections.

    Returns:
        ``Choice``; its curve holds ‖A x_λ − y‖ / (factor·√m·σ), which should be 1, first at the two ends of the bracket, then at its
        middles. Where it does not pass through 1 between the ends, ``found`` is False and ``weight`` is the nearer end.

    Raises:
        ValueError: if y does not fit the operator or is not finite; if noise level, factor or bracket are not positive and finite.
    """
    y = admit_data(y, operator)
    noise_level = _admit_noise(noise_level, y)
    positive("factor", factor)
    check.positive_int("steps", steps)
    low, high = bracket
    positive("bracket", low, "The search is logarithmic.")
    positive("bracket", high, "The search is logarithmic.")
    check.minimum("bracket", high - low, 0.0, strict=True, remedy="Give (smallest, largest).")
    expected = factor * noise_level * math.sqrt(size(y))
    limits = jnp.log(jnp.array([low, high], _dtype(y)))

    def bisect(ends, k):
        # Both ends first, in the same loop: ``solve`` is compiled once.
        trial = jnp.where(k < 2, limits[jnp.minimum(k, 1)], jnp.mean(ends))
        ratio = _residual_norm(operator, solve(jnp.exp(trial)), y) / expected
        halved = jnp.where(ratio > 1, jnp.stack([ends[0], trial]), jnp.stack([trial, ends[1]]))
        return jnp.where(k < 2, ends, halved), (trial, ratio)

    ends, (trials, curve) = jax.lax.scan(bisect, limits, jnp.arange(steps + 2))
    nearest = jnp.where(curve[0] > 1, limits[0], jnp.where(curve[1] < 1, limits[1], jnp.mean(ends)))
    found = (curve[0] <= 1) & (curve[1] >= 1)
    _warn(found, "discrepancy: the residual is not as large as the noise anywhere in the bracket", "Check noise_level, or widen bracket.")
    return Choice(jnp.exp(nearest), jnp.exp(trials), curve, found)


def l_curve(solve: Callable[[Any], Any], operator: Operator, y: Any, seminorm: Callable[[Any], Any], weights: Any) -> Choice:
    """The corner of the curve (log ‖A x_λ − y‖, log |x_λ|), where it turns from steep to flat (Hansen & O'Leary, 1993).

    The corner is where the curve turns most per unit of log λ, its curvature times its speed in log λ. Curvature alone has no maximum
    at well-posed problems: below the smallest squared singular value the curve all but stands still, and turns within a step.

    Args:
        solve: weight → x.
        operator, y: A and the data.
        seminorm: x → the size that the regularizer penalises, e.g. ``lambda x: tree.norm(G(x))``.
        weights: at least 5 increasing positive weights ``[n]``; evenly in log λ is best, 3 to 10 a decade, two decades or more to
            either side of the corner.

    Returns:
        ``Choice``; its curve holds the turning angle (radians per unit of log λ, positive at a corner like that of an L) from each
        weight's two neighbours, 0 at both ends. The choice is the greatest of its local maxima of 0.01 or more, which can be at neither
        the first two nor the last two weights. Where there is none, ``found`` is False and ``weight`` is where the curve turns most.

    Raises:
        ValueError: if y does not fit the operator or is not finite; if weights are not positive and increasing, or fewer than 5.
    """
    y = admit_data(y, operator)
    weights = _admit_weights(weights, y, least=5)
    check.minimum("the differences of weights", jnp.diff(weights), 0.0, strict=True, remedy="Sort them.")

    def point(weight):
        x = solve(weight)
        return jnp.log(_residual_norm(operator, x, y)), jnp.log(seminorm(x))

    rho, eta = jax.lax.map(point, weights)
    check.shape("seminorm(x)", eta, weights.shape, remedy="Return one number.")
    turning = _turning(rho, eta, jnp.log(weights))
    middle = turning[1:-1]
    corner = (middle > turning[:-2]) & (middle >= turning[2:]) & (middle >= _CORNER)  # not beside NaN (a seminorm of 0)
    corner = jnp.pad(corner.at[jnp.array([0, -1])].set(False), 1)
    found = jnp.any(corner)
    best = jnp.argmax(jnp.where(jnp.isnan(turning) | (found & ~corner), -jnp.inf, turning))
    _warn(found, "l_curve: the curve has no corner inside the range of weights", "Widen weights, or choose by gcv or sure.")
    return Choice(weights[best], weights, turning, found)


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
    y = admit_data(y, operator)
    weights = _admit_weights(weights, y)
    check.positive_int("probes", probes)
    m = size(y)

    def score(weight):
        predicted, trace = _prediction(lambda v: operator(solve(weight, v)), y, key, probes)
        return m * _distance(predicted, y) ** 2 / (m - trace) ** 2

    return _best("gcv", weights, jax.lax.map(score, weights))


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
    check.inexact("coefficients", c)
    check.finite("singular_values", s)
    check.finite("coefficients", c)
    weights = _admit_weights(weights, c)
    return _best("gcv_spectrum", weights, _gcv_curve(s, c, weights, c.size if count is None else count, rest, penalty))


def gcv_tikhonov(matrix: Any, y: Any, weights: Any) -> Choice:
    """Exact generalized cross-validation of min ½‖Ax − y‖² + λ/2‖x‖² for a dense ``matrix`` ``[m, n]`` and data ``[m]``, by its SVD."""
    operator = Matrix(matrix)
    matrix = operator.matrix()
    check.shape("y", check.array("y", y), matrix.shape[:1], "[m]")
    y = admit_data(y, operator)
    u, s, _ = jnp.linalg.svd(matrix, full_matrices=False)
    c = jnp.matmul(u.conj().T, y, precision=jax.lax.Precision.HIGHEST)
    # Not ‖y‖² − ‖c‖², which cancels.
    rest = tree.norm(y - jnp.matmul(u, c, precision=jax.lax.Precision.HIGHEST)) ** 2
    weights = _admit_weights(weights, c)
    return _best("gcv_tikhonov", weights, _gcv_curve(s, jnp.abs(c), weights, len(y), rest, 1.0))


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
    y = _admit_image(y) if operator is None else admit_data(y, operator)
    noise_level = _admit_noise(noise_level, y)
    weights = _admit_weights(weights, y)
    check.positive_int("probes", probes)
    if epsilon is not None:
        positive("epsilon", epsilon)
    m = size(y)

    def score(weight):
        predict = lambda v: solve(weight, v) if operator is None else operator(solve(weight, v))  # noqa: E731
        predicted, divergence = _prediction(predict, y, key, probes, None if epsilon is None else epsilon * noise_level)
        return (_distance(predicted, y) ** 2 + 2 * noise_level**2 * divergence) / m - noise_level**2

    return _best("sure", weights, jax.lax.map(score, weights))


def validation_grid(solve: Callable[[Any], Any], metric: Callable[[Any], Any], weights: Any, *, maximize: bool = False) -> Choice:
    """The weight with the best ``metric(solve(weight))`` on held-out truth, e.g. ``lambda x: nmse(x, truth)``.

    ``solve`` may reconstruct several images and ``metric`` average over them. ``maximize`` for metrics such as PSNR. The images used
    here must not be among those on which results are reported.
    """
    weights = _admit_weights(weights, None)
    curve = jax.lax.map(lambda weight: metric(solve(weight)), weights)
    check.shape("metric(solve(weight))", curve, weights.shape, remedy="Return one number, e.g. a mean over images.")
    return _best("validation_grid", weights, curve, maximize)


def _gcv_curve(s, c, weights, m, rest, penalty):
    power, penalty = s**2, jnp.abs(jnp.asarray(penalty)) ** 2

    def score(weight):
        total = power + weight * penalty
        kept = jnp.where(total > 0, power / jnp.where(total > 0, total, 1), 0)
        return m * (jnp.sum(((1 - kept) * c) ** 2) + rest) / (m - jnp.sum(kept)) ** 2

    return jax.lax.map(score, weights)


def _best(criterion, weights, curve, maximize=False):
    """The weight of the least (greatest) value; NaN never wins."""
    worst = -jnp.inf if maximize else jnp.inf
    values = jnp.where(jnp.isnan(curve), worst, curve)
    best = jnp.argmax(values) if maximize else jnp.argmin(values)
    weight = weights[best]
    found = (weight > jnp.min(weights)) & (weight < jnp.max(weights)) & jnp.isfinite(curve[best])
    _warn(found, f"{criterion}: the best weight that was tried is at an end of their range", "Widen weights.", 4)
    return Choice(weight, weights, curve, found)


def _warn(found, what, remedy, stacklevel=3):
    if check.is_concrete(found) and not found:
        warnings.warn(f"{what} (Choice.found is False). {remedy}", UserWarning, stacklevel=stacklevel)


def _turning(rho, eta, t):
    """Angle by which the polygon (rho, eta)(t) turns left at every vertex, per unit of t; 0 at both ends."""
    p, q = jnp.diff(rho), jnp.diff(eta)
    angle = jnp.arctan2(p[:-1] * q[1:] - q[:-1] * p[1:], p[:-1] * p[1:] + q[:-1] * q[1:] + _STEP**2)
    return jnp.pad(angle / ((t[2:] - t[:-2]) / 2), 1)


def _residual_norm(operator, x, y):
    return _distance(operator(x), y)


def _distance(predicted, y):
    """‖predicted − y‖, without broadcasting."""
    expected, given = (jax.tree.map(jnp.shape, v) for v in (y, predicted))
    if given != expected:
        check.fail("solve", f"a reconstruction whose data have the shape of y, {expected}", f"{given}")
    return tree.norm(tree.add(predicted, y, -1))


def _prediction(predict, y, key, probes, epsilon=None):
    """predict(y), and the trace of its Jacobian in Re⟨·,·⟩ (for complex y half that over real and imaginary parts)."""
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


def _admit_image(y):
    """The data of a denoiser, admitted as ``admit_data`` does, of any structure and shape."""

    def admit(v):
        v = check.array("y", v)
        return admit_data(v, Identity(tuple(v.shape), v.dtype.name))

    return admit(y) if isinstance(y, list) else jax.tree.map(admit, y)


def _admit_noise(noise_level, y):
    positive("noise_level", noise_level)
    check.ndim("noise_level", noise_level, 0, remedy="Noise of several levels: whiten the data and the operator first.")
    return jnp.asarray(noise_level, _dtype(y))


def _admit_weights(weights, y, least=1):
    weights = jnp.asarray(check.array("weights", weights))
    check.ndim("weights", weights, 1, "[n]")
    positive("weights", weights)
    if len(weights) < least:
        check.fail("weights", f"at least {least}", str(len(weights)), "E.g. jnp.geomspace(1e-4, 1, 20).")
    return weights if y is None else weights.astype(_dtype(y))
