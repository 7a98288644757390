"""Loops of table look-ups that compile to vectorised gathers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def take(table: Any, index: Any) -> Any:
    """table[index] for an index known to be inside: no wrapping, no fill, so that the loop around it vectorises."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
    return lax.gather(table, index[..., None], numbers, (1,), mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def take_rows(table: Any, index: Any) -> Any:
    """The rows table[index, :] for indices ``[...]`` known to be inside: ``[..., row length]``."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(index.ndim,), collapsed_slice_dims=(0,), start_index_map=(0,))
    return lax.gather(table, index[..., None], numbers, (1, table.shape[1]), mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def take_runs(x: jax.Array, start: jax.Array, length: int) -> jax.Array:
    """``[n, length]``: x[start], …, x[start + length − 1]; ``start`` must be in bounds."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(), start_index_map=(0,))
    return lax.gather(x, start[:, None], numbers, (length,), mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def split(arrays: tuple, chunk: int, block: int = 1) -> tuple:
    """Arrays with one leading length as scan inputs of ``chunk`` separate entries a step, fewer where the loop is short.

    Separate operands, not slices of one: XLA vectorises a gather only from a whole buffer. The length is filled up by
    repeating geometry (one axis) and appending zeros of data (more axes). With ``block`` > 1 they are stacked
    ``[outer, block, …]`` for a scan over scans.
    """
    length = arrays[0].shape[0]
    chunk = max(1, min(chunk, length // 16))
    fill = -length % (chunk * block)
    out = []
    for a in arrays:
        if fill and a.ndim == 1:
            a = jnp.concatenate([a, jnp.broadcast_to(a[-1:], (fill,))])
        elif fill:
            a = jnp.pad(a, ((0, fill), *((0, 0),) * (a.ndim - 1)))
        parts = (a[k::chunk] for k in range(chunk))
        out.append(tuple(p if block == 1 else p.reshape(-1, block, *p.shape[1:]) for p in parts))
    return tuple(out)


def stored(compute: Any, like: Any, needed: Any) -> Any:
    """``compute()``, of the shape and dtype of ``like``, kept in memory; zeros where the traced integer ``needed`` is 0.

    XLA on a CPU would compute it anew in everything that reads it, or gather it without vector instructions; it does not look
    through a loop whose length it does not know.
    """
    return lax.fori_loop(0, jnp.minimum(needed, 1), lambda k, v: compute(), jnp.zeros(like.shape, like.dtype))
