"""Convolutions from fine to coarse: the way down of a U-Net, ending on the coarsest scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from diffimg.core import check
from diffimg.nn.convolution import max_pool
from diffimg.nn.layers import ACTIVATIONS, Convolution, admit, padded, sizes


class Encoder(nnx.Module):
    """``[..., *space, inputs]`` → ``[..., *space / 2^(scales − 1), outputs]`` (rounded up).

    Args:
        channels: of each scale, from fine to coarse. inputs, outputs: channels of the images. ndim: 2 or 3 axes of space.
        convolutions: of each scale. activation: as for ``UNet``. gain: of the last layer's random start.
        rngs: ``nn.Rngs(seed)``.

    Raises:
        ValueError: sizes that do not fit, an unknown activation.
    """

    def __init__(
        self, channels: Sequence[int] = (16, 32, 32, 32), inputs: int = 1, outputs: int = 1, *, ndim: int = 2, convolutions: int = 2,
        activation: str = "relu", gain: float = 1.0, rngs: nnx.Rngs,
    ):  # fmt: skip
        check.one_of("activation", activation, ACTIVATIONS)
        channels = sizes("channels", channels)
        check.positive_int("convolutions", convolutions)
        self.ndim, self.inputs, self.activation = ndim, inputs, activation

        def block(first, last):
            widths = [first, *[last] * convolutions]
            return nnx.List([Convolution(a, b, ndim=ndim, rngs=rngs) for a, b in itertools.pairwise(widths)])

        self.blocks = nnx.List([block(a, b) for a, b in itertools.pairwise([inputs, *channels])])
        self.last = Convolution(channels[-1], outputs, 3, ndim=ndim, gain=gain, rngs=rngs)

    def __call__(self, x: Any) -> jax.Array:
        x = padded(admit(x, self.inputs, self.ndim), 2 ** (len(self.blocks) - 1), self.ndim)
        for k, block in enumerate(self.blocks):
            x = max_pool(x, self.ndim) if k else x
            for convolution in block:
                x = ACTIVATIONS[self.activation](convolution(x))
        return self.last(x)
