"""SPIRiT: every sample of k-space agrees with its neighbours in all coils, for any sampling pattern."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct, lax

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.energy import LeastSquares
from diffimg.forward.channelwise import Channelwise
from diffimg.forward.fourier import MaskedFFT
from diffimg.forward.operator import Operator
from diffimg.mri.espirit import calibration_matrix, calibration_region
from diffimg.solve import ConjugateGradient, Problem, Result, run


@pytree
class Consistency(Operator):
    """Coil images to what is inconsistent in them, (G − I) x; G is the convolution of k-space with the SPIRiT kernels, a product in the
    image. ``[coil, y, x]`` → ``[coil, y, x]``. Made by ``spirit_consistency``."""

    matrices: Any  # [coil (out), coil (in), y, x]

    @property
    def domain(self):
        return ShapeDtypeStruct(tuple(self.matrices.shape[1:]), jnp.complex64)

    def __call__(self, x):
        return jnp.einsum("cdyx,dyx->cyx", self.matrices.astype(x.dtype), x, precision="highest") - x

    def adjoint(self, y):
        return jnp.einsum("cdyx,cyx->dyx", jnp.conj(self.matrices).astype(y.dtype), y, precision="highest") - y


def spirit_kernel(region: Any, kernel: int = 5, regularization: float = 1e-3) -> jax.Array:
    """Weights ``[coil (out), coil (in), k, k]`` with which the neighbours predict a sample; its own weight is 0.

    Args:
        region: fully sampled ``[coil, y, x]``. kernel: width, odd. regularization: relative to the mean power of the neighbours.
    """
    if check.positive_int("kernel", kernel) % 2 == 0:
        check.fail("kernel", "an odd width", str(kernel))
    region = jnp.asarray(region)
    coils = region.shape[0]
    matrix = calibration_matrix(region / jnp.max(jnp.abs(region)), (kernel, kernel))
    gram = jnp.matmul(jnp.conj(matrix.T), matrix, precision=lax.Precision.HIGHEST)
    n = gram.shape[0]
    damping = (regularization * jnp.trace(gram).real / n).astype(gram.dtype)
    centres = np.arange(coils) * kernel**2 + kernel**2 // 2

    def one(c):  # without the sample itself: its row and column are those of the identity
        kept = (jnp.arange(n) != c).astype(gram.real.dtype)
        system = gram * jnp.outer(kept, kept) + damping * jnp.eye(n, dtype=gram.dtype)
        return jax.scipy.linalg.solve(system, gram[:, c] * kept, assume_a="pos") * kept

    weights = lax.map(one, jnp.asarray(centres))
    return weights.reshape(coils, coils, kernel, kernel)


def spirit_consistency(kernel: Any, shape: tuple[int, int]) -> Consistency:
    """The operator (G − I) on coil images ``[coil, *shape]`` from k-space weights."""
    kernel = jnp.asarray(kernel)
    ny, nx = shape
    k = kernel.shape[-1]
    lag = np.arange(k) - k // 2
    # K[n + lag] is the image times e^{−2πi lag·r}
    wave_y = np.exp(-2j * np.pi * np.outer(np.arange(ny) - ny // 2, lag) / ny)
    wave_x = np.exp(-2j * np.pi * np.outer(np.arange(nx) - nx // 2, lag) / nx)
    matrices = jnp.einsum("cdij,yi,xj->cdyx", kernel, wave_y.astype(kernel.dtype), wave_x.astype(kernel.dtype), precision="highest")
    return Consistency(matrices)


def spirit(
    kspace: Any, mask: Any, *, calibration: int | tuple[int, int] = 24, kernel: int = 5, weight: float = 1.0,
    regularization: float = 1e-3, steps: int = 40, **options: Any,
) -> Result:  # fmt: skip
    """Coil images from any Cartesian pattern: min ½‖M F x − y‖² + ½ weight ‖(G − I) x‖² by conjugate gradients.

    Args:
        kspace: ``[coil, y, x]``, zero where not measured, fully sampled in the middle.
        mask: ``[y, x]``, what was measured.
        calibration: width of the middle. kernel: of the neighbourhood, odd. weight: of the consistency.
        regularization: of the calibration. steps, options: of ``solve.run``.

    Returns:
        ``Result`` whose ``x`` is ``[coil, y, x]`` complex images; combine them with ``combine`` or ``root_sum_of_squares``.

    Raises:
        ValueError: a middle that is too small for the kernel or not fully sampled, NaN.

    M. Lustig and J. M. Pauly, Magn. Reson. Med. 64 (2010) 457.
    """
    region = calibration_region(kspace, calibration)
    kspace = jnp.asarray(kspace)
    coils, shape = kspace.shape[0], tuple(kspace.shape[1:])
    check.shape("mask", mask, shape, "[y, x]")
    check.minimum("weight", weight, 0.0, strict=True)
    consistency = spirit_consistency(spirit_kernel(region, kernel, regularization), shape)
    sampling = Channelwise(MaskedFFT(mask), coils)
    smooth = LeastSquares(sampling, kspace) + weight * LeastSquares(consistency, jnp.zeros_like(kspace))
    x0 = sampling.H(kspace)
    return run(ConjugateGradient(), Problem(smooth), x0, steps, **({"objective_every": 0} | options))
