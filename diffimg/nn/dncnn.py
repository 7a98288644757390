"""DnCNN: a chain of convolutions that predicts the noise."""

from __future__ import annotations

import itertools
from typing import Any

import jax
from flax import nnx

from diffimg.core import check
from diffimg.nn.layers import Convolution, admit


class DnCNN(nnx.Module):
    """x ↦ x − noise(x), ``[..., *space, channel]``: ``depth`` convolutions with ReLU between them, for one level of noise.

    Without batch normalisation, which is merged into the convolutions of published weights.

    Args:
        channels: of the images. width: of the layers. depth: number of convolutions, ≥ 2. ndim: axes of space.
        rngs: ``nnx.Rngs(seed)``.

    K. Zhang et al., IEEE Trans. Image Process. 26 (2017) 3142.
    """

    def __init__(self, channels: int = 1, width: int = 64, depth: int = 17, *, ndim: int = 2, rngs: nnx.Rngs):
        if check.positive_int("depth", depth) < 2:
            check.fail("depth", "at least 2 convolutions", str(depth))
        self.channels, self.ndim = check.positive_int("channels", channels), ndim
        sizes = [channels, *[check.positive_int("width", width)] * (depth - 1), channels]
        gains = [2.0] * (depth - 1) + [0.0]  # it starts as the identity
        pairs = zip(itertools.pairwise(sizes), gains, strict=True)
        self.layers = nnx.List([Convolution(a, b, ndim=ndim, gain=gain, rngs=rngs) for (a, b), gain in pairs])

    def __call__(self, x: Any) -> jax.Array:
        start = x = admit(x, self.channels, self.ndim)
        for k, layer in enumerate(self.layers):
            x = layer(jax.nn.relu(x) if k else x)
        return start - x
