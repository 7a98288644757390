"""Scalar networks: input-convex ones, and critics; energies by ``energy.Network(nn.on_images(apply), params)``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.layers import Convolution, DownConvolution, admit, sizes, standard_normal


class InputConvexNetwork(nnx.Module):
    """A convex function of each image: ``[..., *space, channel]`` → ``[...]``, the mean over space of the last layer.

    z ← softplus(W z + U x + b) with W ≥ 0 (the softplus of free numbers): a sum of convex, nondecreasing functions of convex ones.

    Args:
        channels: of the images. width: of the layers. depth: how many, ≥ 1. size: of the kernels. ndim: axes of space.
        rngs: ``nnx.Rngs(seed)``.

    B. Amos, L. Xu, J. Z. Kolter, ICML 2017; S. Mukherjee et al., arXiv:2008.02839 (as a regularizer).
    """

    def __init__(self, channels: int = 1, width: int = 16, depth: int = 4, *, size: int = 5, ndim: int = 2, rngs: nnx.Rngs):
        self.channels, self.ndim = check.positive_int("channels", channels), check.positive_int("ndim", ndim)
        check.positive_int("width", width)
        check.positive_int("depth", depth)
        options = {"ndim": ndim, "rngs": rngs}
        self.of_image = nnx.List([Convolution(channels, width, size, gain=1.0, **options) for _ in range(depth)])
        # softplus⁻¹ of weights whose sum over a layer's inputs is 1, so that values keep their size
        fill = jnp.log(jnp.expm1(jnp.asarray(1.0 / width, jnp.float32)))
        self.of_layer = nnx.List([nnx.Param(fill + 0.1 * standard_normal(rngs, (width, width))) for _ in range(depth - 1)])

    def __call__(self, x: Any) -> jax.Array:
        x = admit(x, self.channels, self.ndim)
        z = jax.nn.softplus(self.of_image[0](x))
        for weights, layer in zip(self.of_layer, self.of_image[1:], strict=True):
            z = jax.nn.softplus(jnp.matmul(z, jax.nn.softplus(weights[...]).astype(z.dtype), precision="highest") + layer(x))
        return jnp.mean(z, tuple(range(-self.ndim - 1, 0)))


class Critic(nnx.Module):
    """A number for each image: ``[..., *space, channel]`` → ``[...]``; convolutions, halved resolution between them, a global mean.

    Args:
        channels: of the images. widths: of the scales, from fine to coarse. ndim: axes of space. rngs: ``nnx.Rngs(seed)``.

    After the critic of S. Lunz, O. Öktem, C.-B. Schönlieb, NeurIPS 2018; smooth activations, so that its gradient can be trained.
    """

    def __init__(self, channels: int = 1, widths: Sequence[int] = (16, 32, 64), *, ndim: int = 2, rngs: nnx.Rngs):
        widths = sizes("widths", widths)
        self.channels, self.ndim = check.positive_int("channels", channels), check.positive_int("ndim", ndim)
        options = {"ndim": ndim, "rngs": rngs}
        self.first = Convolution(channels, widths[0], **options)
        self.layers = nnx.List([Convolution(w, w, **options) for w in widths])
        self.down = nnx.List([DownConvolution(a, b, **options) for a, b in itertools.pairwise(widths)])
        self.last = Convolution(widths[-1], 1, 1, gain=1.0, **options)

    def __call__(self, x: Any) -> jax.Array:
        x = admit(x, self.channels, self.ndim)
        if min(x.shape[-self.ndim - 1 : -1]) < 2 ** len(self.down):
            check.fail("x", f"at least {2 ** len(self.down)} pixels along each axis", f"shape {x.shape}", "Take fewer scales.")
        x = jax.nn.silu(self.first(x))
        for k, layer in enumerate(self.layers):
            x = jax.nn.silu(layer(x))
            if k < len(self.down):
                x = self.down[k](x[(..., *(slice(n // 2 * 2) for n in x.shape[-self.ndim - 1 : -1]), slice(None))])
        return jnp.mean(self.last(x), tuple(range(-self.ndim - 1, 0)))
