"""The responses of an image to a bank of filters, as matrix products: fast forwards, backwards and in every further derivative."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check


def admit_filters(filters: Any) -> jax.Array:
    """``[filter, ky, kx]``, real and finite."""
    filters = check.array("filters", filters)
    check.ndim("filters", filters, 3, "[filter, ky, kx]")
    check.real("filters", filters)
    check.finite("filters", filters)
    return filters


def responses(filters: Any, x: Any) -> jax.Array:
    """f_i ∗ x (correlation, periodic), ``[filter, ..., y, x]``; real filters act on real and imaginary part alike."""
    filters = jnp.asarray(filters, jnp.finfo(x.dtype).dtype)
    count, ky, kx = filters.shape
    if x.ndim < 2 or x.shape[-2] < ky or x.shape[-1] < kx:
        check.fail("x", f"images of at least {ky} × {kx}", f"shape {x.shape}")
    parts = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x[None]
    flat = parts.reshape(-1, *x.shape[-2:])
    top, left = ky // 2, kx // 2
    padded = jnp.pad(flat, ((0, 0), (top, ky - 1 - top), (left, kx - 1 - left)), mode="wrap")
    # a convolution from one channel, and all the more its derivatives, take three times as long on the CPU
    out = jax.lax.platform_dependent(filters, padded, cpu=_products, default=_convolution)
    out = out.reshape(count, *parts.shape)
    return jax.lax.complex(out[:, 0], out[:, 1]) if jnp.iscomplexobj(x) else out[:, 0]


def _products(filters, padded):
    count, ky, kx = filters.shape
    n, y, x = padded.shape[0], padded.shape[1] - ky + 1, padded.shape[2] - kx + 1
    shifted = jnp.stack([padded[:, i : i + y, j : j + x] for i in range(ky) for j in range(kx)])
    return jax.lax.dot(filters.reshape(count, -1), shifted.reshape(ky * kx, -1), precision="highest").reshape(count, n, y, x)


def _convolution(filters, padded):
    out = jax.lax.conv_general_dilated(padded[:, None], filters[:, None], (1, 1), "VALID", precision="highest")
    return jnp.moveaxis(out, 1, 0)


def gain(filters: Any, weights: Any = 1.0) -> jax.Array:
    """A bound of max over frequencies of Σ_i weight_i |f̂_i|², the squared norm of x ↦ (√weight_i f_i ∗ x)_i; 2 % above it for 7 × 7."""
    filters = jnp.asarray(filters)
    norms = jnp.sum(jnp.abs(filters), axis=(1, 2)) ** 2
    weights = jnp.broadcast_to(jnp.asarray(weights, norms.dtype), norms.shape)
    young = jnp.sum(weights * norms)
    # a trigonometric polynomial of degree d exceeds its largest of n equispaced samples by at most 1/cos(πd/n) (Ehlich & Zeller, 1964)
    size = 128
    degrees = [n - 1 for n in filters.shape[1:]]
    if max(degrees) * 2 >= size:
        return young
    spectrum = jnp.abs(jnp.fft.rfft2(filters, (size, size))) ** 2
    slack = math.prod(1 / math.cos(math.pi * d / size) for d in degrees)
    return jnp.minimum(jnp.max(jnp.tensordot(weights, spectrum, 1)) * slack, young)


def dct_filters(size: int = 5) -> np.ndarray:
    """The size² − 1 two-dimensional cosine filters without the constant one, ``[filter, size, size]`` float32, orthonormal."""
    check.positive_int("size", size)
    n = np.arange(size)
    basis = np.cos(np.pi * (n + 0.5) * n[:, None] / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    filters = np.einsum("iy,jx->ijyx", basis, basis).reshape(-1, size, size)
    return filters[1:].astype(np.float32)
