"""The exact Euclidean distance transform, on the device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check

_FAR = 1e30  # squared distance where there is nothing to be near to
_UNROLL = 4


def distance_transform(mask: Any, spacing: Any = None) -> jax.Array:
    """Distance of every sample inside the mask to the nearest sample outside it; 0 outside. As ``scipy.ndimage.distance_transform_edt``.

    Exact: one pass along each axis, the lower envelope of parabolas by growing shifts that stop where none can be lower.

    Args:
        mask: ``[*shape]``, one to three axes; what is not 0 is inside.
        spacing: mm, one number or one an axis; default 1.

    Returns:
        float32 ``[*shape]`` (float64 in JAX's double mode), mm; inf everywhere inside a mask without an outside.

    Raises:
        ValueError: other axes, or a spacing that is not positive.
    """
    mask = _mask("mask", mask)
    return jnp.where(mask, jnp.sqrt(squared_distance(~mask, spacing)), 0)


def signed_distance(mask: Any, spacing: Any = None) -> jax.Array:
    """Negative inside, positive outside, mm: distance to the nearest sample of the other kind."""
    mask = _mask("mask", mask)
    return jnp.sqrt(squared_distance(mask, spacing)) - jnp.where(mask, jnp.sqrt(squared_distance(~mask, spacing)), 0)


def squared_distance(features: Any, spacing: Any = None) -> jax.Array:
    """Squared distance to the nearest sample that is True, mm²; inf where there is none."""
    features = _mask("features", features)
    steps = np.broadcast_to(np.asarray(1.0 if spacing is None else spacing, float), (features.ndim,))
    check.minimum("spacing", steps, 0, strict=True, remedy="In mm.")
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    out = _along_last(features, float(steps[-1]), dtype)
    for axis in range(features.ndim - 1):
        out = _envelope(out, axis, float(steps[axis]))
    return jnp.where(out < _FAR, out, jnp.inf)


def _along_last(features, step, dtype):
    n = features.shape[-1]
    index = jnp.arange(n, dtype=jnp.int32)
    axis = features.ndim - 1
    before = jax.lax.cummax(jnp.where(features, index, -2 * n), axis=axis)
    after = jax.lax.cummin(jnp.where(features, index, 3 * n), axis=axis, reverse=True)
    distance = jnp.minimum(index - before, after - index)
    return jnp.where(distance < n, (step * distance.astype(dtype)) ** 2, _FAR)


def _envelope(squares, axis, step):
    """min_j squares[j] + (step (i − j))² along an axis that is not the last; slabs of two axes stay in cache."""
    moved = jnp.moveaxis(squares, axis, -2)
    n, m = moved.shape[-2:]

    def slab(values):
        padded = jnp.pad(values, ((n + _UNROLL, n + _UNROLL), (0, 0)), constant_values=_FAR)

        def lower(state):
            shift, out = state
            for _ in range(_UNROLL):
                low = jax.lax.dynamic_slice_in_dim(padded, n + _UNROLL - shift, n, 0)
                high = jax.lax.dynamic_slice_in_dim(padded, n + _UNROLL + shift, n, 0)
                out = jnp.minimum(out, jnp.minimum(low, high) + (step * shift.astype(out.dtype)) ** 2)
                shift = shift + 1
            return shift, out

        def useful(state):
            shift, out = state
            return (shift < n) & ((step * shift.astype(out.dtype)) ** 2 < jnp.max(out))

        return jax.lax.while_loop(useful, lower, (jnp.int32(1), values))[1]

    flat = moved.reshape(-1, n, m)
    out = slab(flat[0])[None] if len(flat) == 1 else jax.lax.map(slab, flat)
    return jnp.moveaxis(out.reshape(moved.shape), -2, axis)


def _mask(name, value):
    value = jnp.asarray(check.array(name, value))
    if not 1 <= value.ndim <= 3:
        check.fail(name, "one to three axes", f"shape {value.shape}", "jax.vmap goes over batches.")
    check.finite(name, value)
    return value != 0
