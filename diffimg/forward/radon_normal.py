"""AᴴA of a parallel projection as a convolution.

Where the detector sees the whole object, AᴴA does not depend on position: it convolves with the inverse transform of the
squared response on the lines of all views. On an image of finite size that is a product in a Fourier space of twice the
size, whatever the number of views (Fessler et al., IEEE Trans. Signal Process. 53 (2005) 3393).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core.lengths import fast_length
from diffimg.forward import radon_fourier as fourier

_WIDTH = 8  # the kernel is built once, so its own error is kept far below that of the samples


def normal_spectrum(p: fourier.Plan, angles: np.ndarray) -> np.ndarray | None:
    """``[u, v]`` float64, real: the kernel's transform; ``None`` where aliasing on the detector forbids a convolution."""
    if p.subsampling > 1:
        return None
    ny, nx = p.image_shape
    double = dataclasses.replace(
        p,
        image_shape=(2 * ny, 2 * nx),
        grid=tuple(fast_length(max(4 * n, 4 * _WIDTH), even=True) for n in (ny, nx)),
        width=max(_WIDTH, p.width),
    )
    u, v = fourier.points(p, angles, np)
    power = abs(fourier.response(p, u, v, 0.0, np)) ** 2 / p.period
    power[:, 1:-1] *= 2
    first, wu, wv, _ = fourier.locate(double, u, v, np)
    grid = np.zeros(double.rows * double.pitch)
    for i in range(double.width):
        row = power.reshape(-1) * wu[i]
        for j in range(double.width):
            grid += np.bincount(first + (i * double.pitch + j), row * wv[:, j], minlength=grid.size)
    kernel = fourier.from_grid(double, grid.reshape(double.rows, double.pitch).astype(complex), np)
    kernel = kernel[1:, 1:]  # lags 1−n … n−1: the kernel is even, its transform real
    size = tuple(fast_length(2 * n, even=True) for n in (ny, nx))
    padded = np.zeros(size)
    padded[: 2 * ny - 1, : 2 * nx - 1] = kernel
    padded = np.roll(padded, (1 - ny, 1 - nx), (0, 1))
    return np.ascontiguousarray(np.fft.rfft2(padded).real.T)


def convolve(spectrum: jax.Array, x: jax.Array) -> jax.Array:
    """The kernel of ``spectrum`` over one image ``[ny, nx]``; rows of zeros are not transformed."""
    ny, nx = x.shape
    sy, sx = spectrum.shape[1], 2 * (spectrum.shape[0] - 1)
    f = jnp.fft.rfft(x, n=sx, axis=1).T
    f = jnp.fft.fft(f, n=sy, axis=1) * spectrum.astype(x.dtype)
    f = jnp.fft.ifft(f, axis=1)[:, :ny].T
    return jnp.fft.irfft(f, n=sx, axis=1)[:, :nx]
