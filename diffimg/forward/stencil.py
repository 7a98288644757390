"""Finite differences: the gradient, its adjoint (minus the divergence), and the Laplacian, in any number of dimensions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator

_BOUNDARIES = ("neumann", "periodic")


@pytree
class Gradient(Operator):
    """Forward differences ∇: ``[..., *image_shape]`` → ``[..., ndim, *image_shape]``, component k = (x[i + e_k] − x[i]) / spacing_k.

    Args:
        image_shape: shape of one image, any number of axes.
        spacing: distance of neighbouring pixels, one number or one an axis (the unit of the derivative); 1 by default.
        boundary: ``"neumann"`` (the last difference is 0) or ``"periodic"``.
        dtype: nominal dtype, real or complex.

    Raises:
        ValueError: an argument of the wrong kind or length.

    A. Chambolle, An algorithm for total variation minimization and applications, J. Math. Imaging Vis. 20, 2004, section 2.
    """

    image_shape: tuple[int, ...] = static()
    spacing: Any = static(default=None)
    boundary: str = static(default="neumann")
    dtype: str = static(default="float32")

    def __post_init__(self):
        _validate(self)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jnp.dtype(self.dtype))

    def __call__(self, x):
        return jnp.stack([_difference(x, k, self.boundary) / h for k, h in enumerate(self.spacing)])

    def adjoint(self, y):
        return sum(_difference_transpose(y[k], k, self.boundary) / h for k, h in enumerate(self.spacing))

    def gram(self, x):
        return self.adjoint(self._forward(x))

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max in closed form (nothing is iterated): √Σ_k (σ_k/h_k)² ≤ 2√(Σ_k h_k⁻²), with σ_k = 2cos(π/2N) for Neumann
        boundaries and 2sin(π⌊N/2⌋/N) for periodic ones. Exact, since the axes share their eigenvectors."""
        return _scalar(math.sqrt(_largest_eigenvalue(self)), self.dtype)


@pytree
class Laplacian(Operator):
    """Δ = −∇ᵀ∇ on ``[..., *image_shape]``: the 2·ndim + 1 point stencil, self-adjoint and negative semi-definite.

    Arguments as for ``Gradient``, with the same boundaries.
    """

    image_shape: tuple[int, ...] = static()
    spacing: Any = static(default=None)
    boundary: str = static(default="neumann")
    dtype: str = static(default="float32")

    def __post_init__(self):
        _validate(self)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jnp.dtype(self.dtype))

    def __call__(self, x):
        parts = (_difference_transpose(_difference(x, k, self.boundary), k, self.boundary) / h**2 for k, h in enumerate(self.spacing))
        return -sum(parts)

    def adjoint(self, y):
        return self._forward(y)

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max in closed form (nothing is iterated): the square of the gradient's."""
        return _scalar(_largest_eigenvalue(self), self.dtype)


def _validate(op):
    shape = op.image_shape if isinstance(op.image_shape, (tuple, list)) else (op.image_shape,)
    shape = tuple(check.positive_int("image_shape", n) for n in shape)
    if not shape:
        check.fail("image_shape", "at least one axis", "()")
    spacing = np.ones(()) if op.spacing is None else check.array("spacing", op.spacing, "Pass one number, or one an axis.")
    if isinstance(spacing, jax.core.Tracer) or spacing.ndim > 1 or spacing.size not in (1, len(shape)):
        remedy = "Pass one number, or one an axis; it is static."
        check.fail("spacing", f"1 or {len(shape)} positive numbers", check.describe(spacing), remedy)
    check.minimum("spacing", spacing, 0, strict=True)
    check.finite("spacing", spacing)
    check.one_of("boundary", op.boundary, _BOUNDARIES)
    object.__setattr__(op, "image_shape", shape)
    object.__setattr__(op, "spacing", tuple(float(h) for h in np.broadcast_to(np.ravel(spacing), len(shape))))


def _difference(x, axis, boundary):
    """x[i+1] − x[i] along an axis; past the end: 0, or around."""
    n = x.shape[axis]
    if boundary == "periodic":
        return jnp.roll(x, -1, axis) - x
    inner = jax.lax.slice_in_dim(x, 1, n, axis=axis) - jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)
    return jnp.pad(inner, _widths(x.ndim, axis, 0, 1))


def _difference_transpose(y, axis, boundary):
    """y[i−1] − y[i] along an axis; a Neumann difference never uses the last y."""
    if boundary == "periodic":
        return jnp.roll(y, 1, axis) - y
    inner = jax.lax.slice_in_dim(y, 0, y.shape[axis] - 1, axis=axis)
    return jnp.pad(inner, _widths(y.ndim, axis, 1, 0)) - jnp.pad(inner, _widths(y.ndim, axis, 0, 1))


def _widths(ndim, axis, before, after):
    return [(before, after) if k == axis else (0, 0) for k in range(ndim)]


def _largest_eigenvalue(op):
    """of ∇ᵀ∇."""
    if op.boundary == "periodic":
        one_axis = (2 * math.sin(math.pi * (n // 2) / n) for n in op.image_shape)
    else:
        one_axis = (2 * math.sin(math.pi * (n - 1) / (2 * n)) for n in op.image_shape)
    return sum((s / h) ** 2 for s, h in zip(one_axis, op.spacing, strict=True))


def _scalar(value, dtype):
    return jnp.asarray(value, jnp.finfo(jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))).dtype)
