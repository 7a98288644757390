"""A network as a denoiser of any level of noise: inputs and outputs scaled so that all levels are alike to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy.learned import within


@dataclasses.dataclass(frozen=True)
class Preconditioned:
    """``denoise(params, x, sigma)`` = c_skip x + c_out F(c_in x, ln(σ)/4): see ``preconditioned``."""

    network: Callable[..., Any]
    sigma_data: float
    sigma_range: tuple[float, float] | None = None

    def __call__(self, params: Any, x: Any, sigma: Any) -> jax.Array:
        x = jnp.asarray(x)
        sigma = within("sigma", sigma, self.sigma_range)
        check.minimum("sigma", sigma, 0, strict=True)
        sigma = jnp.asarray(sigma, jnp.finfo(x.dtype).dtype)
        each = sigma.reshape(*sigma.shape, *(1,) * (x.ndim - sigma.ndim)) if sigma.ndim else sigma
        total = jnp.sqrt(each**2 + self.sigma_data**2)
        out = self.network(params, x / total, jnp.log(sigma) / 4)
        return (self.sigma_data / total) ** 2 * x + each * self.sigma_data / total * out


def preconditioned(network: Callable[..., Any], sigma_data: float, sigma_range: tuple[float, float] | None = None) -> Preconditioned:
    """A denoiser of a network F(params, x, level), e.g. ``on_images`` of a ``DRUNet``, for noise far below and far above the images.

    Where there is little noise the image passes, where there is much the network makes it; F sees and returns numbers of size one.

    Args:
        network: pure and hashable. sigma_data: standard deviation of the images, in their units (of complex ones, of each part).
        sigma_range: (lowest, highest) level it was trained for; others are refused where known, and give NaN inside ``jit``.

    ``sigma``: > 0, a scalar or ``[n]``, one an image.

    T. Karras et al., NeurIPS 2022.
    """
    if not callable(network):
        check.fail("network", "a pure function (params, x, level)", check.describe(network), "E.g. nn.on_images(apply) of a DRUNet.")
    check.minimum("sigma_data", sigma_data, 0.0, strict=True)
    return Preconditioned(network, float(sigma_data), None if sigma_range is None else (float(sigma_range[0]), float(sigma_range[1])))
