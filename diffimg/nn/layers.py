"""Layers of which the networks are built."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.convolution import convolve, down_convolve, up_convolve


class Convolution(nnx.Module):
    """``[..., *space, inputs]`` → ``[..., *space, outputs]``, of the same size with zeros outside.

    Args:
        inputs, outputs: channels. size: of the kernel, odd. ndim: axes of space. gain: of the random start, whose standard deviation is
            √(gain / (inputs · sizeⁿ)): 2 keeps the variance through ReLU (K. He et al., ICCV 2015), 0 starts with zeros.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, ndim: int = 2, bias: bool = True, gain: float = 2.0, rngs: nnx.Rngs):
        for name, value in (("inputs", inputs), ("outputs", outputs), ("size", size), ("ndim", ndim)):
            check.positive_int(name, value)
        if ndim > 3:
            check.fail("ndim", "1 to 3 axes of space", str(ndim))
        admit_rngs(rngs)
        shape = (*(size,) * ndim, inputs, outputs)
        deviation = math.sqrt(gain / (inputs * size**ndim))
        self.kernel = nnx.Param(deviation * standard_normal(rngs, shape))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Any) -> jax.Array:
        return convolve(x, self.kernel[...], None if self.bias is None else self.bias[...])


class DownConvolution(nnx.Module):
    """``[..., *2·space, inputs]`` → ``[..., *space, outputs]``: a convolution of size and stride 2."""

    def __init__(self, inputs: int, outputs: int, *, ndim: int = 2, bias: bool = True, rngs: nnx.Rngs):
        shape = (*(2,) * ndim, inputs, outputs)
        self.kernel = nnx.Param(standard_normal(rngs, shape) / math.sqrt(inputs * 2**ndim))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Any) -> jax.Array:
        return down_convolve(x, self.kernel[...], None if self.bias is None else self.bias[...])


class UpConvolution(nnx.Module):
    """``[..., *space, inputs]`` → ``[..., *2·space, outputs]``: a transposed convolution of size and stride 2."""

    def __init__(self, inputs: int, outputs: int, *, ndim: int = 2, bias: bool = True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(standard_normal(rngs, (inputs, *(2,) * ndim, outputs)) / math.sqrt(inputs))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Any) -> jax.Array:
        return up_convolve(x, self.kernel[...], None if self.bias is None else self.bias[...])


ACTIVATIONS = {"relu": jax.nn.relu, "softplus": jax.nn.softplus, "silu": jax.nn.silu, "gelu": jax.nn.gelu, "elu": jax.nn.elu}


def padded(x: Any, step: int, ndim: int) -> jax.Array:
    """Continued by its edge to sizes that ``step`` divides, ``[..., *space, channel]``."""
    fill = [-n % step for n in x.shape[-ndim - 1 : -1]]
    if not any(fill):
        return x
    return jnp.pad(x, ((0, 0),) * (x.ndim - ndim - 1) + tuple((0, f) for f in fill) + ((0, 0),), mode="edge")


def standard_normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    """Numbers to start from: float32 whatever JAX's default is, so that a network does not promote its images."""
    return jax.random.normal(rngs.params(), shape, jnp.float32)


def admit_rngs(rngs: Any) -> None:
    """Random numbers of flax."""
    if not isinstance(rngs, nnx.Rngs):
        check.fail("rngs", "nn.Rngs(seed)", check.describe(rngs))


def sizes(name: str, values: Any) -> list[int]:
    """Channels of each scale, from fine to coarse: at least one."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        check.fail(name, "the channels of each scale, e.g. (16, 32)", check.describe(values))
    found = [check.positive_int(name, v) for v in values]
    if not found:
        check.fail(name, "at least one scale", "none")
    return found


def admit(x: Any, channels: int, ndim: int) -> jax.Array:
    """``[..., *space, channels]``, or a clear error."""
    x = jnp.asarray(x)
    if x.ndim <= ndim or x.shape[-1] != channels:
        expected = f"[..., *space, {channels} channels] of {ndim} axes of space"
        check.fail("x", expected, f"shape {x.shape}", "Channels come last: x[..., None].")
    check.real("x", x, "nn.on_images(apply) takes complex images as two channels, or part by part.")
    return x
