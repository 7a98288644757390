"""Filling in data that were not measured, before a classical reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.unet import UNet


class Inpainting(nnx.Module):
    """mask · y + (1 − mask) · UNet(mask · y, mask): what was measured stays, the rest is learned; e.g. views or cells of a sinogram.

    Args:
        channels: of the U-Net. rngs: ``nnx.Rngs(seed)``.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64), *, rngs: nnx.Rngs):
        self.network = UNet(channels, 2, 1, rngs=rngs)

    def __call__(self, y: Any, mask: Any) -> jax.Array:
        """
        Args:
            y: real data ``[..., view, detector]``. mask: 1 where measured, broadcast to y.

        Returns:
            Like y.
        """
        y = jnp.asarray(y)
        check.real("y", y, "Real and imaginary part are two data sets.")
        try:
            mask = jnp.broadcast_to(jnp.asarray(mask, y.dtype), y.shape)
        except ValueError:
            check.fail("mask", f"a shape that broadcasts to {y.shape}", f"{jnp.shape(mask)}", "mask[:, None] for whole views.")
        known = mask * y
        return known + (1 - mask) * self.network(jnp.stack([known, mask], -1))[..., 0]
