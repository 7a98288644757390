"""k-space of ellipses in closed form: data that no grid has touched."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.phantoms import Ellipses


def ellipses_kspace(
    phantom: Ellipses, trajectory: Any, image_shape: tuple[int, int], pixel_size: float = 1.0, *, harmonics: Any = None
) -> jnp.ndarray:
    """The exact Fourier transform of ellipses, N^{−1/2} ∫ f(r) e^{−ik·r/pixel} dr/pixel², at any points.

    Scaled and centred as ``NUFFT`` and ``forward.fft``: the inverse transform of full Cartesian data approximates ``phantom.rasterize``.
    Differentiable in the phantom and the trajectory.

    Args:
        phantom: ellipses of constant density.
        trajectory: ``[..., 2]`` in rad/voxel, (y, x); values beyond π are meant (nothing is folded).
        image_shape: (y, x). pixel_size: mm.
        harmonics: (frequencies ``[h, 2]`` rad/voxel, coefficients ``[coil, h]``): coil maps Σ c e^{iκ·(n − n₀)}, for which it stays exact.

    Returns:
        ``[...]`` complex, or ``[coil, ...]`` with harmonics.

    Raises:
        ValueError: a trajectory without two axes, smooth ellipses.

    M. Guerquin-Kern et al., IEEE Trans. Med. Imaging 31 (2012) 626.
    """
    shape = tuple(check.positive_int("image_shape", n) for n in image_shape)
    k = jnp.asarray(check.array("trajectory", trajectory), jnp.result_type(float))
    check.finite("trajectory", k)
    if k.ndim < 1 or k.shape[-1] != 2 or len(shape) != 2:
        check.fail("trajectory", "shape [..., 2] with (k_y, k_x) and an image (y, x)", f"shape {k.shape} and {shape}")
    if harmonics is not None:
        frequencies, coefficients = (jnp.asarray(v) for v in harmonics)
        parts = jnp.stack([ellipses_kspace(phantom, k - f, shape, pixel_size) for f in frequencies])
        return jnp.tensordot(coefficients.astype(parts.dtype), parts, axes=1, precision="highest")
    cycles = k / (2 * math.pi * pixel_size)
    shift = np.array([n // 2 - (n - 1) / 2 for n in shape])  # the phantom's origin is the middle of the image
    turn = jnp.exp(1j * (k[..., 0] * shift[0] + k[..., 1] * shift[1]))
    return phantom.fourier(cycles[..., 0], cycles[..., 1]) * turn / (pixel_size**2 * math.sqrt(math.prod(shape)))
