"""The U-Net: convolutions on several scales, joined by concatenation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.convolution import max_pool
from diffimg.nn.layers import ACTIVATIONS, Convolution, UpConvolution, admit, padded, sizes


class UNet(nnx.Module):
    """``[..., *space, inputs]`` → ``[..., *space, outputs]``; space of any size of at least 2 on the coarsest scale.

    Sizes that 2^(scales − 1) does not divide are continued by their edge, and cut again.

    Args:
        channels: of each scale, from fine to coarse. inputs, outputs: channels of the images. ndim: 2 or 3 axes of space.
        convolutions: of each scale, on the way down and up.
        activation: "relu", "softplus", "silu", "gelu" or "elu".
        residual: add the input to the output (as many channels): the network learns what is wrong with an image, as FBPConvNet does.
        gain: of the last layer's random start, see ``Convolution``; default 1, with ``residual`` 0.
        rngs: ``nnx.Rngs(seed)``.

    Raises:
        ValueError: sizes that do not fit, an unknown activation.

    O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015; K. H. Jin et al., IEEE Trans. Image Process. 26 (2017) 4509 (residual).
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64, 128), inputs: int = 1, outputs: int = 1, *, ndim: int = 2, convolutions: int = 2,
        activation: str = "relu", residual: bool = False, gain: float | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        check.one_of("activation", activation, ACTIVATIONS)
        channels = sizes("channels", channels)
        if residual and inputs != outputs:
            check.fail("residual", "as many inputs as outputs", f"{inputs} and {outputs}")
        self.ndim, self.inputs, self.residual, self.activation = ndim, inputs, bool(residual), activation
        check.positive_int("convolutions", convolutions)

        def block(first, last):
            widths = [first, *[last] * convolutions]
            return nnx.List([Convolution(a, b, ndim=ndim, rngs=rngs) for a, b in itertools.pairwise(widths)])

        self.down = nnx.List([block(a, b) for a, b in itertools.pairwise([inputs, *channels])])
        pairs = list(itertools.pairwise(channels[::-1]))
        self.up = nnx.List([UpConvolution(a, b, ndim=ndim, rngs=rngs) for a, b in pairs])
        self.merge = nnx.List([block(2 * b, b) for _, b in pairs])
        gain = (0.0 if residual else 1.0) if gain is None else gain
        self.last = Convolution(channels[0], outputs, 1, ndim=ndim, gain=gain, rngs=rngs)

    def __call__(self, x: Any) -> jax.Array:
        start = x = admit(x, self.inputs, self.ndim)
        space = x.shape[-self.ndim - 1 : -1]
        x = padded(x, 2 ** (len(self.down) - 1), self.ndim)
        skips = []
        for k, block in enumerate(self.down):
            x = max_pool(x, self.ndim) if k else x
            x = self._block(block, x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.merge, strict=True):
            x = self._block(block, jnp.concatenate([skips.pop(), up(x)], -1))
        x = self.last(x)[(..., *(slice(n) for n in space), slice(None))]
        return start + x if self.residual else x

    def _block(self, block, x):
        for convolution in block:
            x = ACTIVATIONS[self.activation](convolution(x))
        return x
