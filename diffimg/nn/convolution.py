"""Convolution of images with channels, and the sampling between scales of a network, with gradients as fast as the values.

XLA's weight gradient on a CPU takes several times as long as the convolution itself. Here it is a matrix product per block of rows:
the shifted copies of the block beside each other, times the gradient (im2col). On accelerators XLA's own is taken.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core import check
from diffimg.core.pair import Pair, paired

_ROWS = 2048  # pixels of one block: its shifted copies stay in the cache
_AXES = {1: "X", 2: "YX", 3: "ZYX"}


def convolve(x: Any, kernel: Any, bias: Any = None) -> jax.Array:
    """Σ_c kernel[…, c, :] ⋆ x[…, c] (+ bias), cross-correlation of the same size with zeros outside.

    Args:
        x: ``[..., *space, channel]``. kernel: ``[*odd size, channel, output]``; its number of axes tells that of space, 1 to 3.
        bias: ``[output]``.

    Returns:
        ``[..., *space, output]``. Differentiable to any order, in both modes.

    Raises:
        ValueError: channels that do not agree, an even kernel.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    ndim = kernel.ndim - 2
    if ndim not in _AXES:
        check.fail("kernel", "[*size, channel, output] with 1 to 3 axes of space", f"shape {kernel.shape}")
    if any(k % 2 == 0 for k in kernel.shape[:ndim]):
        check.fail("kernel", "odd sizes", str(kernel.shape[:ndim]), "Even ones have no middle.")
    if x.ndim <= ndim or x.shape[-1] != kernel.shape[-2]:
        check.fail("x", f"[..., *space, {kernel.shape[-2]} channels] of {ndim} axes of space", f"shape {x.shape}")
    flat = x.reshape(-1, *x.shape[-ndim - 1 :])
    dtype = jnp.result_type(flat, kernel)
    y = paired(_PAIR, kernel.astype(dtype), flat.astype(dtype))
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + jnp.asarray(bias, y.dtype)


def max_pool(x: Any, ndim: int = 2) -> jax.Array:
    """The largest of each 2 × 2 (× 2) block: max-pooling of ``[..., *space, channel]`` with even sizes.

    By reshaping: the gradient goes to the largest entries, in equal parts where several are, without a select-and-scatter.
    """
    blocks, axes = _blocks(x, ndim)
    return jnp.max(blocks, axis=axes)


def mean_pool(x: Any, ndim: int = 2) -> jax.Array:
    """The mean of each block."""
    blocks, axes = _blocks(x, ndim)
    return jnp.mean(blocks, axis=axes)


def down_convolve(x: Any, kernel: Any, bias: Any = None) -> jax.Array:
    """Half the size: every block of 2 × 2 (× 2) becomes a pixel, by one matrix product (a convolution of size and stride 2).

    Args:
        x: ``[..., *space, channel]`` with even sizes. kernel: ``[*(2, …), channel, output]``. bias: ``[output]``.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    ndim = kernel.ndim - 2
    if x.shape[-1] != kernel.shape[-2] or kernel.shape[:-2] != (2,) * ndim:
        check.fail("kernel", f"shape [{', '.join(['2'] * max(ndim, 1))}, {x.shape[-1]}, output]", f"shape {kernel.shape}")
    blocks, axes = _blocks(x, ndim)
    rest = [a for a in range(blocks.ndim - 1) if a not in axes]
    columns = jnp.transpose(blocks, (*rest, *axes, blocks.ndim - 1))
    y = jnp.matmul(columns.reshape(*columns.shape[: len(rest)], -1), kernel.reshape(-1, kernel.shape[-1]))
    return y if bias is None else y + jnp.asarray(bias, y.dtype)


def up_convolve(x: Any, kernel: Any, bias: Any = None) -> jax.Array:
    """Twice the size: every pixel becomes a block of 2 × 2 (× 2), by one matrix product (a transposed convolution of stride 2).

    Args:
        x: ``[..., *space, channel]``. kernel: ``[channel, *(2, …), output]``. bias: ``[output]``.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    ndim = kernel.ndim - 2
    if x.shape[-1] != kernel.shape[0] or kernel.shape[1:-1] != (2,) * ndim:
        check.fail("kernel", f"shape [{x.shape[-1]}, {', '.join(['2'] * max(ndim, 1))}, output]", f"shape {kernel.shape}")
    lead, space = x.shape[: x.ndim - ndim - 1], x.shape[x.ndim - ndim - 1 : -1]
    y = jnp.matmul(x, kernel.reshape(kernel.shape[0], -1)).reshape(-1, *space, *(2,) * ndim, kernel.shape[-1])
    order = [0, *itertools.chain(*((1 + a, 1 + ndim + a) for a in range(ndim))), 1 + 2 * ndim]
    y = jnp.transpose(y, order).reshape(*lead, *(2 * n for n in space), kernel.shape[-1])
    return y if bias is None else y + jnp.asarray(bias, y.dtype)


def _blocks(x, ndim):
    x = jnp.asarray(x)
    space = x.shape[x.ndim - ndim - 1 : -1]
    if any(n % 2 for n in space):
        check.fail("x", "even sizes of space", str(space), "Pad it, or crop it, to a multiple of 2 for every scale of the network.")
    shape = itertools.chain(*((n // 2, 2) for n in space))
    lead = x.ndim - ndim - 1
    return x.reshape(*x.shape[:lead], *shape, x.shape[-1]), tuple(lead + 1 + 2 * a for a in range(ndim))


def _forward(kernel, x):
    axes = _AXES[kernel.ndim - 2]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, (1,) * len(axes), "SAME", dimension_numbers=numbers)


def _transpose(kernel, y):
    ndim = kernel.ndim - 2
    return _forward(jnp.swapaxes(jnp.flip(kernel, range(ndim)), -1, -2), y)


def _gradient(kernel, x, y):
    """Of ⟨y, kernel ⋆ x⟩ in the kernel."""
    return lax.platform_dependent(x, y, cpu=functools.partial(_by_blocks, kernel.shape), default=functools.partial(_by_xla, kernel.shape))


def _by_xla(shape, x, y):
    return jax.linear_transpose(lambda k: _forward(k, x), jax.ShapeDtypeStruct(shape, x.dtype))(y)[0]


def _by_blocks(shape, x, y):
    *size, channels, outputs = shape
    if channels == 1 or outputs == 1:
        return _by_xla(shape, x, y)  # the matrices would be vectors
    batch, first, *rest = x.shape[:-1]
    rows = max(1, min(first, _ROWS // max(1, math.prod(rest))))
    fill = -first % rows
    edges = [(k // 2, k // 2) for k in size]
    x = jnp.pad(x, ((0, 0), (edges[0][0], edges[0][1] + fill), *edges[1:], (0, 0)))
    y = jnp.pad(y, ((0, 0), (0, fill), *((0, 0),) * (y.ndim - 2)))
    blocks = (first + fill) // rows

    def add(total, k):
        image, start = k // blocks, (k % blocks) * rows
        zeros = (0,) * (x.ndim - 2)
        part = lax.dynamic_slice(x, (image, start, *zeros), (1, rows + size[0] - 1, *x.shape[2:]))[0]
        weights = lax.dynamic_slice(y, (image, start, *zeros), (1, rows, *y.shape[2:])).reshape(-1, outputs)
        shifts = itertools.product(*(range(s) for s in size))
        lengths = (rows, *rest)
        shifted = [part[tuple(slice(s, s + n) for s, n in zip(shift, lengths, strict=True))] for shift in shifts]
        columns = jnp.concatenate(shifted, -1).reshape(weights.shape[0], -1)
        return total + lax.dot_general(weights, columns, (((0,), (0,)), ((), ()))), None

    total = lax.scan(add, jnp.zeros((outputs, math.prod(size) * channels), x.dtype), jnp.arange(batch * blocks))[0]
    return total.T.reshape(shape)


def _forward_tangent(kernel, direction, x):
    return _forward(direction, x)


def _transpose_tangent(kernel, direction, y):
    return _transpose(direction, y)


def _gradient_tangent(kernel, direction, x, y):
    return jnp.zeros_like(kernel)  # the map is linear in the kernel


_PAIR = Pair(_forward, _transpose, _forward_tangent, _transpose_tangent, _gradient, _gradient_tangent)
