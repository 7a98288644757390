"""What transforms on non-uniform points share: the Kaiser–Bessel window as polynomials, and padding with the centre at index 0.

Sources: Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41 (2019) C479 (polynomial windows); Beatty, Nishimura and Pauly,
IEEE Trans. Med. Imaging 24 (2005) 799 (β).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np


def _beta(width, oversampling):
    return 1.005 * math.pi * math.sqrt((width / oversampling) ** 2 * (oversampling - 0.5) ** 2 - 0.8)


@functools.lru_cache(maxsize=64)
def window_polynomials(width: int, oversampling: float) -> np.ndarray:
    """``[degree+1, tap]``, highest power first: tap i of the window as a polynomial in z ∈ [−1, 1], twice the offset minus one."""
    degree = width + 7
    z = np.cos(np.pi * (np.arange(4 * degree) + 0.5) / (4 * degree))
    d = (z[:, None] + 1) / 2 + width / 2 - 1 - np.arange(width)
    beta = _beta(width, oversampling)
    values = np.i0(beta * np.sqrt(np.maximum(0, 1 - (2 * d / width) ** 2))) / np.i0(beta)
    series = np.polynomial.chebyshev.chebfit(z, values, degree)
    return np.stack([np.polynomial.chebyshev.cheb2poly(c) for c in series.T], axis=1)[::-1]


def window_transform(width: int, size: int, positions: np.ndarray, oversampling: float) -> np.ndarray:
    """The window's Fourier transform at ``positions`` (pixels) on a grid of ``size``."""
    beta = _beta(width, oversampling)
    z = np.sqrt((np.pi * width * positions / size) ** 2 - beta**2 + 0j)
    return np.real(np.sinc(z / np.pi)) * width / np.i0(beta)


def window(width: int, oversampling: float, z: Any) -> Any:
    """The taps' weights at z (NumPy or JAX), by Horner's rule; the taps are the last axis."""
    coefficients = window_polynomials(width, oversampling).astype(z.dtype)
    z = z[..., None]
    value = coefficients[0] * z + coefficients[1]
    for c in coefficients[2:]:
        value = value * z + c
    return value


def wrap_pad(x: Any, size: int) -> Any:
    """Zero-pad the last axis so that its centre n//2 comes to index 0, as a transform without phases wants it."""
    n = x.shape[-1]
    zeros = jnp.zeros((*x.shape[:-1], size - n), x.dtype)
    return jnp.concatenate([x[..., n // 2 :], zeros, x[..., : n // 2]], axis=-1)


def wrap_crop(x: Any, n: int, xp: Any = jnp) -> Any:
    """The inverse of ``wrap_pad`` on what it kept, and its adjoint."""
    size = x.shape[-1]
    return xp.concatenate([x[..., size - n // 2 :], x[..., : n - n // 2]], axis=-1)
