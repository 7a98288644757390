"""Convolution of images with channels, and the sampling between the scales of a network: channels last, any batch axes."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core import check
from diffimg.core.pair import Pair, paired

_AXES = {1: "X", 2: "YX", 3: "ZYX"}
_CACHED = 2**23  # bytes that a kernel's gradient takes at a time


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
    y = paired(_CONVOLUTION, kernel.astype(dtype), flat.astype(dtype))
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + jnp.asarray(bias, y.dtype)


def _correlate(kernel, x, size=None):
    """As many values as x has with a kernel of the size ``size``, zeros outside."""
    ndim = kernel.ndim - 2
    axes = _AXES[ndim]
    pad = [(k // 2, k // 2) for k in size or kernel.shape[:ndim]]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, (1,) * ndim, pad, dimension_numbers=numbers)


# XLA's CPU backend computes a convolution in a loop quickly only if its axes stand in the order of ``_correlate``, which those of JAX's
# derivatives do not (0.10.1: 30 times slower); hence the derivatives in that order


def _input_gradient(kernel, y):
    def ordered(kernel, y):
        return _correlate(jnp.swapaxes(jnp.flip(kernel, range(kernel.ndim - 2)), -2, -1), y)

    def by_jax(kernel, y):
        like = jax.ShapeDtypeStruct((*y.shape[:-1], kernel.shape[-2]), y.dtype)
        return jax.linear_transpose(lambda x: _correlate(kernel, x), like)(y)[0]

    return lax.platform_dependent(kernel, y, cpu=ordered, default=by_jax)


def _kernel_gradient(kernel, x, y):
    ndim = kernel.ndim - 2

    def ordered(x, y):
        if ndim == 2 and min(kernel.shape[-2:]) >= 8:
            return _by_one_product(kernel.shape, x, y)
        # channels are the images, images the channels, and y is the kernel
        return jnp.moveaxis(_correlate(jnp.moveaxis(y, 0, -2), jnp.swapaxes(x, 0, -1), kernel.shape[:ndim]), 0, -2)

    def by_jax(x, y):
        return jax.linear_transpose(lambda kernel: _correlate(kernel, x), jax.ShapeDtypeStruct(kernel.shape, y.dtype))(y)[0]

    return lax.platform_dependent(x, y, cpu=ordered, default=by_jax)


def _by_one_product(shape, x, y):
    """The gradient in a kernel ``[ky, kx, channel, output]``: shifts along x stand beside the channels of x, shifts along y beside those
    of y, so that one matrix product over all pixels gives all entries (the convolution above takes 1.3 to 2 times as long). In blocks of
    rows: temporary arrays of some megabytes instead of seven times the image, and about as fast."""
    ky, kx, inputs, outputs = shape
    count, height, width, _ = x.shape
    row = count * width * (kx * inputs + ky * outputs) * x.dtype.itemsize
    blocks = -(-height // max(8, _CACHED // row))
    rows = -(-height // blocks)
    spare = blocks * rows - height
    padded = jnp.pad(x, ((0, 0), (ky // 2, ky // 2 + spare), (kx // 2, kx // 2), (0, 0)))
    y = jnp.pad(y, ((0, 0), (0, spare), (0, 0), (0, 0)))

    def products(first):
        near = lax.dynamic_slice_in_dim(padded, first, rows + ky - 1, 1)
        left = jnp.concatenate([near[:, :, j : j + width] for j in range(kx)], -1)
        own = jnp.pad(lax.dynamic_slice_in_dim(y, first, rows, 1), ((0, 0), (ky - 1, ky - 1), (0, 0), (0, 0)))
        right = jnp.concatenate([own[:, ky - 1 - i : 2 * (ky - 1) - i + rows] for i in range(ky)], -1)
        left, right = (v.reshape(count, (rows + ky - 1) * width, -1) for v in (left, right))
        return jnp.sum(lax.dot_general(left, right, (((1,), (1,)), ((0,), (0,)))), 0)  # [(kx, channel), (ky, output)]

    if blocks == 1:
        total = products(0)
    else:
        zero = jnp.zeros((kx * inputs, ky * outputs), x.dtype)
        total = lax.scan(lambda total, k: (total + products(k * rows), None), zero, jnp.arange(blocks))[0]
    return jnp.transpose(total.reshape(kx, inputs, ky, outputs), (2, 0, 1, 3))


_CONVOLUTION = Pair(
    _correlate,
    _input_gradient,
    lambda kernel, direction, x: _correlate(direction, x),
    lambda kernel, direction, y: _input_gradient(direction, y),
    _kernel_gradient,
    lambda kernel, direction, x, y: jnp.zeros_like(kernel),  # it does not depend on the kernel
)


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
