"""DRUNet: a residual U-Net that is told the level of the noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.layers import Convolution, DownConvolution, UpConvolution, admit, padded, sizes


class DRUNet(nnx.Module):
    """A denoiser for any level of noise: image and map of the noise level in, image out, ``[..., *space, channel]``.

    Residual blocks on every scale, convolutions of stride 2 between them, skips that are added; no biases, so that the output scales
    with image and noise level.

    Args:
        channels: of the images. widths: of the scales, from fine to coarse. blocks: residual blocks on each scale and way.
        ndim: axes of space. rngs: ``nnx.Rngs(seed)``.

    K. Zhang et al., IEEE Trans. Pattern Anal. Mach. Intell. 44 (2022) 6360 (DPIR: widths 64, 128, 256, 512, 4 blocks).
    """

    def __init__(self, channels: int = 1, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 4, *, ndim: int = 2, rngs: nnx.Rngs):
        widths = sizes("widths", widths)
        check.positive_int("blocks", blocks)
        self.channels, self.ndim = check.positive_int("channels", channels), ndim
        options = {"ndim": ndim, "bias": False, "rngs": rngs}

        def chain(width):
            return nnx.List([_Residual(width, blocks, options) for _ in range(blocks)])

        self.head = Convolution(channels + 1, widths[0], gain=1.0, **options)
        self.down_blocks = nnx.List([chain(w) for w in widths[:-1]])
        self.down = nnx.List([DownConvolution(a, b, **options) for a, b in itertools.pairwise(widths)])
        self.body = chain(widths[-1])
        self.up = nnx.List([UpConvolution(a, b, **options) for a, b in itertools.pairwise(widths[::-1])])
        self.up_blocks = nnx.List([chain(w) for w in widths[-2::-1]])
        self.tail = Convolution(widths[0], channels, gain=1.0, **options)

    def __call__(self, x: Any, sigma: Any) -> jax.Array:
        """``sigma``: of the noise, in units of x: a scalar, or ``[...]`` one for each image of the batch, or ``[..., *space]``."""
        x = admit(x, self.channels, self.ndim)
        space = x.shape[-self.ndim - 1 : -1]
        level = jnp.asarray(sigma, x.dtype)
        lead = x.shape[: x.ndim - self.ndim - 1]
        if level.shape == lead:
            level = level.reshape(*lead, *(1,) * self.ndim)
        if level.ndim and level.shape[-self.ndim :] not in (space, (1,) * self.ndim):
            check.fail("sigma", f"a scalar, shape {lead} or {(*lead, *space)}", f"shape {jnp.shape(sigma)}")
        x = jnp.concatenate([x, jnp.broadcast_to(level[..., None], (*x.shape[:-1], 1))], -1)
        x = self.head(padded(x, 2 ** len(self.down), self.ndim))
        skips = [x]
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            x = down(_through(blocks, x))
            skips.append(x)
        x = _through(self.body, x)
        for up, blocks in zip(self.up, self.up_blocks, strict=True):
            x = _through(blocks, up(x + skips.pop()))
        return self.tail(x + skips.pop())[(..., *(slice(n) for n in space), slice(None))]


class _Residual(nnx.Module):
    """x + conv(relu(conv(x))); the second convolution starts small, so that a deep chain starts near the identity."""

    def __init__(self, width, blocks, options):
        self.first = Convolution(width, width, **options)
        self.second = Convolution(width, width, gain=1.0 / blocks**2, **options)

    def __call__(self, x):
        return x + self.second(jax.nn.relu(self.first(x)))


def _through(blocks, x):
    for block in blocks:
        x = block(x)
    return x
