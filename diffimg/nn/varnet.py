"""The end-to-end variational network: coil maps estimated by a network, k-space refined by networks in image space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffimg.core import check
from diffimg.forward.fourier import fft, ifft
from diffimg.nn.unet import UNet


class EndToEndVarNet(nnx.Module):
    """Multi-coil Cartesian k-space → image, sensitivities included.

    Maps S: a U-Net on the images of the fully sampled centre, coil by coil, divided by their root sum of squares. Then
    k ← k − η_t M(k − k₀) − F S U_t(S* F⁻¹ k), t = 1 … cascades, U_t U-Nets; data are scaled inside, so that the output scales with them.

    Args:
        cascades: T. channels: of the U-Nets U_t. map_channels: of that of the maps. rngs: ``nnx.Rngs(seed)``.

    A. Sriram et al., MICCAI 2020 (arXiv:2004.06688).
    """

    def __init__(
        self, cascades: int = 6, channels: Sequence[int] = (16, 32, 64), map_channels: Sequence[int] = (8, 16, 32), *, rngs: nnx.Rngs
    ):
        check.positive_int("cascades", cascades)
        self.of_maps = UNet(map_channels, 2, 2, activation="silu", residual=True, rngs=rngs)
        self.networks = nnx.List([_Refinement(channels, rngs) for _ in range(cascades)])
        self.steps = nnx.Param(jnp.ones(cascades, jnp.float32))

    def __call__(self, kspace: Any, mask: Any, centre: int, combine: str = "rss", axis: int = -2) -> jax.Array:
        """
        Args:
            kspace: ``[..., coil, ky, kx]`` complex, zero where not measured. mask: ``[ky, kx]``, or with leading axes like kspace's.
            centre: lines around the middle that are fully sampled; static. axis: along which lines are missing: −2 for ky, −1 for kx (the
                files of fastMRI).
            combine: "rss", the root sum of squares of the coil images (real), or "coils", Σ S* x (complex).

        Returns:
            ``[..., y, x]``.
        """
        kspace, mask = jnp.asarray(kspace), jnp.asarray(mask)
        check.one_of("combine", combine, ("rss", "coils"))
        if kspace.ndim < 3 or not jnp.iscomplexobj(kspace):
            check.fail("kspace", "complex [..., coil, ky, kx]", check.describe(kspace))
        check.trailing_shape("mask", mask, kspace.shape[-2:], "[ky, kx]")
        if axis not in (-2, -1):
            check.fail("axis", "-2 (lines of ky are missing) or -1 (of kx)", repr(axis))
        rows = kspace.shape[axis]
        if not 1 <= check.positive_int("centre", centre) <= rows:
            check.fail("centre", f"1 … {rows} lines", str(centre))
        if check.is_concrete(mask) and not np.all(np.moveaxis(np.asarray(mask), axis, 0)[_middle(rows, centre)]):
            remedy = "Of fastMRI's files give axis=-1, and the mask as np.broadcast_to(mask, kspace.shape[-2:])."
            check.fail("mask", f"one with its {centre} middle lines along axis {axis}", "one that lacks some of them", remedy)
        mask = mask.astype(kspace.real.dtype) if mask.ndim == 2 else mask[..., None, :, :].astype(kspace.real.dtype)
        images = ifft(kspace)
        size = jnp.max(jnp.abs(images), (-3, -2, -1), keepdims=True)
        size = jnp.where(size > 0, size, 1)
        given = k = kspace / size
        maps = self.maps(given, centre, axis)
        for step, network in zip(self.steps[...], self.networks, strict=True):
            image = jnp.sum(jnp.conj(maps) * ifft(k), -3)
            k = k - step.astype(mask.dtype) * mask * (k - given) - fft(maps * network(image)[..., None, :, :])
        x = ifft(k) * size
        if combine == "coils":
            return jnp.sum(jnp.conj(maps) * x, -3)
        squares = jnp.sum((x * jnp.conj(x)).real, -3)
        return jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))

    def maps(self, kspace: Any, centre: int, axis: int = -2) -> jax.Array:
        """Coil sensitivities ``[..., coil, y, x]`` with Σ|S|² = 1 where there is signal."""
        near = np.zeros(kspace.shape[axis], kspace.real.dtype)
        near[_middle(len(near), centre)] = 1
        x = ifft((near[:, None] if axis == -2 else near) * kspace)
        out = self.of_maps(jnp.stack([x.real, x.imag], -1))
        maps = jax.lax.complex(out[..., 0], out[..., 1])
        squares = jnp.sum((maps * jnp.conj(maps)).real, -3, keepdims=True)
        return maps / jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny ** 0.5))


def _middle(rows, centre):
    start = rows // 2 - centre // 2
    return slice(start, start + centre)


class _Refinement(nnx.Module):
    """A U-Net on real and imaginary part that starts at zero: nothing to correct."""

    def __init__(self, channels, rngs):
        self.network = UNet(channels, 2, 2, activation="silu", residual=True, rngs=rngs)

    def __call__(self, image):
        x = jnp.stack([image.real, image.imag], -1)
        out = self.network(x) - x  # a residual net starts as the identity
        return jax.lax.complex(out[..., 0], out[..., 1])
