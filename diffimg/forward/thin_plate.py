"""Thin-plate splines through scattered points: the interpolant, or smoother, of least bending energy over all of space."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.forward.transform import Transform

_CHUNK = 16  # landmarks at a time


def thin_plate_spline(points: Any, values: Any, at: Any, smoothing: Any = 0.0) -> jax.Array:
    """f(at) of the thin-plate spline f through (points, values).

    f minimises Σ |f(x_i) − v_i|² + smoothing · J(f), J the bending energy ∫ ‖∇²f‖² up to the constant of the kernel: r² log r in 2-D,
    −r in 3-D (each the biharmonic one of its dimension). With smoothing 0 it goes through the points.

    Args:
        points: ``[n, ndim]``, ndim 2 or 3, n > ndim, not all in one line or plane.
        values: ``[n]`` or ``[n, values]``.
        at: ``[..., ndim]``.
        smoothing: ≥ 0; traced.

    Returns:
        ``[...]`` or ``[..., values]``; differentiable in all arguments.

    Raises:
        ValueError: shapes do not fit, NaN or Inf, or a negative smoothing.

    G. Wahba, Spline Models for Observational Data, SIAM 1990.
    """
    points, values = _landmarks(points, values, "points", "values")
    check.minimum("smoothing", smoothing, 0)
    _determined("points", points, smoothing)
    at = jnp.asarray(check.array("at", at), points.dtype)
    check.trailing_shape("at", at, (points.shape[1],), "(z, y, x)" if points.shape[1] == 3 else "(y, x)")
    planes = [at[..., k] for k in range(points.shape[1])]
    out = jnp.stack(_spline(points, values.reshape(len(values), -1), smoothing, planes), -1)
    return out.reshape(*at.shape[:-1], *values.shape[1:])


@pytree
class ThinPlate(Transform):
    """The transform that takes landmarks to landmarks with the least bending energy.

    Args:
        source: ``[n, ndim]`` mm in the fixed image, array order.
        target: ``[n, ndim]`` mm in the moving image.
        smoothing: ≥ 0: how far the landmarks may be missed, as in ``thin_plate_spline``; traced.

    Raises:
        ValueError: shapes do not fit, fewer than ndim + 1 landmarks, or NaN.

    F. Bookstein, IEEE Transactions on Pattern Analysis and Machine Intelligence 1989.
    """

    free: ClassVar[dict[str, str]] = {"target": "mm"}
    source: Any
    target: Any
    smoothing: Any = 0.0

    def __post_init__(self):
        source, target = _landmarks(self.source, self.target, "source", "target")
        check.shape("target", target, source.shape, "like the source")
        check.minimum("smoothing", self.smoothing, 0)
        _determined("source", source, self.smoothing)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "target", target)

    @property
    def ndim(self):
        return self.source.shape[1]

    def _map(self, planes):
        moves = _spline(self.source, self.target - self.source, self.smoothing, planes)
        return [x + u for x, u in zip(planes, moves, strict=True)]


def _spline(points, values, smoothing, planes):
    # In units of the landmarks' spread r² log r stays near 1: a change of unit adds r², which the weights annihilate.
    ndim = points.shape[1]
    centre = jax.lax.stop_gradient(points.mean(0))
    unit = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.sum((points - centre) ** 2, 1))))
    points = (points - centre) / unit
    weights, polynomial = _fitted(points, values, smoothing / unit ** (2 if ndim == 2 else 1))
    return _evaluated(points, weights, polynomial, [(p - c) / unit for p, c in zip(planes, centre, strict=True)])


def _fitted(points, values, smoothing):
    """(weights of the kernels ``[n, values]``, of 1 and the coordinates ``[1 + ndim, values]``)."""
    n, ndim = points.shape
    square = jnp.sum((points[:, None] - points[None]) ** 2, -1)
    kernel = _kernel(square, ndim) + smoothing * jnp.eye(n, dtype=points.dtype)
    affine = jnp.concatenate([jnp.ones((n, 1), points.dtype), points], 1)
    corner = jnp.zeros((ndim + 1, ndim + 1), points.dtype)
    system = jnp.concatenate([jnp.concatenate([kernel, affine], 1), jnp.concatenate([affine.T, corner], 1)])
    right = jnp.concatenate([values, jnp.zeros((ndim + 1, values.shape[1]), values.dtype)])
    factors = jax.scipy.linalg.lu_factor(system)
    solution = jax.scipy.linalg.lu_solve(factors, right)
    solution = solution + jax.scipy.linalg.lu_solve(factors, right - jnp.matmul(system, solution, precision="highest"))
    return solution[:n], solution[n:]


def _evaluated(points, weights, polynomial, planes):
    """One array a value: the kernels are added up in chunks, so that memory does not grow with the landmarks."""
    start = [sum(polynomial[k + 1, j] * x for k, x in enumerate(planes)) + polynomial[0, j] for j in range(polynomial.shape[1])]
    missing = -len(points) % _CHUNK
    chunks = jnp.pad(points, ((0, missing), (0, 0))).reshape(-1, _CHUNK, points.shape[1])
    factors = jnp.pad(weights, ((0, missing), (0, 0))).reshape(-1, _CHUNK, weights.shape[1])

    def add(total, chunk):
        places, amounts = chunk
        for i in range(_CHUNK):
            value = _kernel(sum((x - places[i, k]) ** 2 for k, x in enumerate(planes)), points.shape[1])
            total = [t + amounts[i, j] * value for j, t in enumerate(total)]
        return total, None

    start = [jnp.broadcast_to(s, jnp.broadcast_shapes(*(p.shape for p in planes))) for s in start]
    return jax.lax.scan(jax.checkpoint(add), start, (chunks, factors))[0]


def _kernel(square, ndim):
    """r² log r in 2-D, −r in 3-D, from r²; with a derivative of 0 at 0."""
    safe = jnp.where(square > 0, square, 1)
    return jnp.where(square > 0, square * jnp.log(safe) / 2 if ndim == 2 else -jnp.sqrt(safe), 0)


def _determined(name, points, smoothing):
    """Landmarks that determine a spline, where they are known."""
    if not check.is_concrete(points):
        return
    points = np.asarray(points, float)
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if spread[-1] <= 1e-6 * spread[0]:
        got = "points in one " + ("line" if points.shape[1] == 2 else "plane or line")
        check.fail(name, "landmarks that span the space", got, "Add a landmark beside it.")
    if check.is_concrete(smoothing) and not np.all(np.asarray(smoothing) > 0) and len(np.unique(points, axis=0)) < len(points):
        check.fail(name, "each landmark once, without smoothing", "some of them twice", "Average them, or set smoothing > 0.")


def _landmarks(points, values, first, second):
    points = jnp.asarray(check.array(first, points))
    points = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(jnp.float32)
    check.ndim(first, points, 2, "[n, ndim]")
    n, ndim = points.shape
    if ndim not in (2, 3) or n <= ndim:
        check.fail(first, "[n, ndim] with ndim 2 or 3 and more than ndim points", f"shape {points.shape}")
    values = jnp.asarray(check.array(second, values), points.dtype)
    check.shape(second, values[..., 0] if values.ndim > 1 else values, (n,), f"as many as {first}")
    for name, v in ((first, points), (second, values)):
        check.finite(name, v)
    return points, values
