"""Reconstruction in one line: each function builds the problem, and ``solve.run`` solves it, for ``MaskedFFT``, ``NUFFT`` and others.

All take samples ``y`` and the ``operator`` that made them, and return the ``Result`` of ``solve.run``, whose ``x`` is the complex image.
Weights of penalties are relative: they multiply max |Aᴴy|, so that they mean the same for every scaling of the data.
``options``: of ``solve.run``: ``tolerance``, ``gradient`` (how to differentiate the result), ``progress``, ``objective_every`` (0 by
default here: the objective at start and end only).
"""

from __future__ import annotations

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.energy import L1, Energy, LeastSquares, NuclearNorm, SquaredL2, TotalVariation, WaveletL1
from diffimg.forward.fourier import ifft
from diffimg.forward.operator import Operator
from diffimg.forward.sampling import Crop
from diffimg.forward.wavelet import Wavelet
from diffimg.mri.coils import root_sum_of_squares
from diffimg.mri.low_rank_sparse import LowRankAndSparse, Parts
from diffimg.solve import FISTA, ConjugateGradient, Problem, Result, run

_OPTIONS = {"tolerance", "gradient", "objective_every", "progress", "prepare"}
REGULARIZERS = ("wavelet", "tv")


def zero_filled(y: Any, operator: Operator) -> jnp.ndarray:
    """Aᴴy: what was not measured counts as zero. ``[..., *image_shape]`` complex."""
    y = _samples(y, operator)
    return operator.H(y)


def coil_images(kspace: Any, ndim: int = 2) -> jnp.ndarray:
    """The root of the sum of squares of the coils' zero-filled images, ``[..., coil, *spatial]`` → ``[..., *spatial]`` real."""
    check.finite("kspace", kspace, "Samples that were not measured are zero.")
    return root_sum_of_squares(ifft(kspace, ndim), axis=-ndim - 1)


def sense(y: Any, operator: Operator, steps: int = 30, *, regularization: Any = 0.0, x0: Any = None, **options: Any) -> Result:
    """min ½‖Ax − y‖² + ½ regularization ‖x‖² by conjugate gradients on AᴴA: SENSE for any mask or trajectory.

    Args:
        y: samples. operator: with coil maps.
        steps: at most; ``tolerance=`` stops earlier. Without regularization, stopping early regularizes.
        regularization: λ ≥ 0, absolute, against σ_max(A)² ≈ max Σ|S|².
        x0: start; zero by default.

    K. P. Pruessmann et al., Magn. Reson. Med. 42 (1999) 952 and 46 (2001) 638.
    """
    y = _samples(y, operator)
    check.minimum("regularization", regularization, 0.0)
    smooth: Energy = LeastSquares(operator, y)
    if not (check.is_concrete(regularization) and float(regularization) == 0):
        smooth = smooth + SquaredL2(regularization)
    return _run(ConjugateGradient(), Problem(smooth), operator, x0, steps, options, y.dtype)


def compressed_sensing(
    y: Any,
    operator: Operator,
    weight: Any,
    regularizer: str = "wavelet",
    steps: int = 80,
    *,
    wavelet: str = "db4",
    levels: int = 4,
    inner_steps: int = 10,
    x0: Any = None,
    **options: Any,
) -> Result:
    """min ½‖Ax − y‖² + weight·max|Aᴴy|·R(x) by FISTA, R the L1 norm of wavelet coefficients or total variation.

    Args:
        y, operator: samples and what made them; one frame.
        weight: relative, e.g. 1e-3 … 1e-2.
        regularizer: "wavelet" or "tv".
        steps: of FISTA.
        wavelet, levels: of the transform; images whose axes 2^levels does not divide are continued to the next size that it does, where
            only the penalty sees them.
        inner_steps: of the total variation's dual iteration in each step.
        x0: start; Aᴴy by default.

    Maps of unit norm (``mri.unit_maps``; the image is that norm times as large) need up to ten times fewer steps than maps whose norm
    varies. Where the coil maps are all zero the data say nothing, and what the penalty extends there is set to zero.

    M. Lustig, D. Donoho and J. M. Pauly, Magn. Reson. Med. 58 (2007) 1182; A. Beck and M. Teboulle, SIAM J. Imaging Sci. 2 (2009) 183.
    """
    y = _samples(y, operator)
    check.one_of("regularizer", regularizer, REGULARIZERS)
    _warn_of_uneven_maps(operator)
    start = operator.H(y)
    size = _scale(start, weight)
    x0 = start if x0 is None else x0
    shape = operator.domain.shape
    if regularizer == "tv":
        penalty: Energy = TotalVariation(size, gap=0.0, max_steps=inner_steps)
        return _seen(_run(FISTA(), Problem(LeastSquares(operator, y), penalty), operator, x0, steps, options), operator)
    step = 2 ** check.positive_int("levels", levels)
    padded = tuple(-(-n // step) * step for n in shape)
    transform = Wavelet(padded, wavelet, levels, dtype="complex64")
    if padded == shape:
        return _seen(_run(FISTA(), Problem(LeastSquares(operator, y), WaveletL1(size, transform)), operator, x0, steps, options), operator)
    crop = Crop(padded, shape)
    result = _run(
        FISTA(), Problem(LeastSquares(operator @ crop, y), WaveletL1(size, transform)), operator, crop.H(jnp.asarray(x0)), steps, options
    )
    return _seen(replace(result, x=crop(result.x)), operator)


def _seen(result, operator):
    """The image where any coil sees it."""
    maps = getattr(operator, "coils", None)
    if maps is None:
        return result
    return replace(result, x=jnp.where(jnp.any(jnp.asarray(maps) != 0, axis=-1 - result.x.ndim), result.x, 0))


def _warn_of_uneven_maps(operator):
    maps = getattr(operator, "coils", None)
    if maps is None or not check.is_concrete(maps):
        return
    norm = np.linalg.norm(np.asarray(maps), axis=-1 - getattr(operator, "ndim", jnp.ndim(maps) - 1))
    seen = norm[norm > 0]
    largest = float(seen.max() / np.median(seen))
    if largest > 3:
        text = f"coils: the norm of the maps is {largest:.2g} times its median at some voxel, expected about one norm. FISTA's steps suit "
        text += "that voxel, and all others converge slowly: maps, norm = mri.unit_maps(coils), and divide the image by norm."
        warnings.warn(text, UserWarning, stacklevel=3)


def low_rank(
    y: Any, operator: Operator, weight: Any, steps: int = 60, *, sparse: Any = None, x0: Any = None, **options: Any
) -> Result:
    """A dynamic series as a matrix of low rank: min ½‖Ax − y‖² + weight·‖Aᴴy‖·‖x‖_* by FISTA; with ``sparse`` a second part is added
    that is sparse in temporal frequency, x = L + S (``result.x`` is the sum).

    Args:
        y, operator: samples and the operator of the whole series, domain ``[frame, y, x]``: ``MaskedFFT(mask, coils, ndim=2)``,
            or ``forward.Frames([NUFFT(shape, spokes, coils) for spokes in trajectory])``.
        weight: of the nuclear norm, relative to the largest singular value of Aᴴy. sparse: of the L1 norm of the temporal spectrum,
            relative to max|Aᴴy|, or None.
        steps: of FISTA; maps of unit norm (``mri.unit_maps``) need far fewer than maps whose norm varies.

    R. Otazo, E. Candès and D. K. Sodickson, Magn. Reson. Med. 73 (2015) 1125.
    """
    y = _samples(y, operator)
    shape = operator.domain.shape
    if len(shape) < 3:
        check.fail("operator", "the operator of a series [frame, y, x]", repr(operator), "MaskedFFT(mask, coils, ndim=2) or Frames([…]).")
    start = operator.H(y)
    check.minimum("weight", weight, 0.0, strict=True)
    _warn_of_uneven_maps(operator)
    nuclear = NuclearNorm(weight * jnp.linalg.norm(start.reshape(shape[0], -1), ord=2))
    if sparse is None:
        return _run(FISTA(), Problem(LeastSquares(operator, y), nuclear), operator, start if x0 is None else x0, steps, options)
    both = LowRankAndSparse(nuclear, L1(_scale(start, sparse)))
    x0 = jnp.stack([start, jnp.zeros_like(start)]) if x0 is None else x0
    result = _run(FISTA(), Problem(LeastSquares(operator @ Parts(tuple(shape)), y), both), operator, x0, steps, options)
    return replace(result, x=jnp.sum(result.x, axis=0))


def _samples(y, operator):
    if not isinstance(operator, Operator):
        check.fail("operator", "an Operator such as MaskedFFT(mask, coils)", check.describe(operator))
    y = check.array("y", y)
    check.trailing_shape("y", y, tuple(operator.codomain.shape), remedy=f"The operator is {operator!r}.")
    if tuple(jnp.shape(y)) != tuple(operator.codomain.shape):
        remedy = "Reconstruct slices in a loop, or with jax.vmap: each has a solution of its own."
        check.fail("y", f"one set of samples, shape {tuple(operator.codomain.shape)}", f"shape {tuple(jnp.shape(y))}", remedy)
    check.finite("y", y, "Samples that are NaN were not measured: set them to 0 and mask them.")
    return jnp.asarray(y, jnp.promote_types(jnp.result_type(y), jnp.complex64))


def _scale(start, weight):
    check.minimum("weight", weight, 0.0, strict=True)
    return weight * jnp.max(jnp.abs(start))


def _run(solver, problem, operator, x0, steps, options, dtype=jnp.complex64):
    unknown = set(options) - _OPTIONS
    if unknown:
        check.fail("options", "of " + ", ".join(sorted(_OPTIONS)), ", ".join(sorted(unknown)))
    if x0 is None:
        x0 = jnp.zeros(operator.domain.shape, dtype)
    return run(solver, problem, x0, steps, **({"objective_every": 0} | options))
