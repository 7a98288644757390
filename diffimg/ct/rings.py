"""Rings: what detector cells of wrong gain draw around the axis of rotation, and two ways to be rid of them.

A gain error of a cell adds the same number, −log gain, to its line integrals in every view: a stripe along the views, a ring in the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy import LeastSquares, TotalVariation
from diffimg.forward.operator import Operator
from diffimg.forward.radon import Radon
from diffimg.solve import FISTA, Problem, Result, run


def stripe_offsets(sinogram: Any, width: float = 3.0, axis: int = -2) -> jax.Array:
    """What each cell adds to its line integrals in every view: ``[..., detector]``, the median over the views of a high-passed sinogram.

    The high-pass is 1 − Gaussian along the detector, as M. Boin, A. Haibel (Opt. Express 14 (2006) 12071) take it of the *mean* over the
    views; but an edge of the object passes a cell in few views, which move a mean and hardly a median. Of offsets that are independent
    from cell to cell, what the high-pass loses is smooth along the detector, and the ramp filter all but removes that from the image.

    Args:
        sinogram: ``[..., view, detector]``, line integrals; ``[view, row, column]`` of a cone beam with ``axis=0``.
        width: standard deviation of the Gaussian, cells.
        axis: that of the views; the last one is that of the detector's columns.

    Raises:
        ValueError: a complex sinogram or one that is not finite, a width that is not positive.
    """
    sinogram = check.array("sinogram", sinogram)
    check.real("sinogram", sinogram)
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram)
    check.minimum("width", width, 0.0, strict=True)
    sinogram = jnp.asarray(sinogram)
    if axis % sinogram.ndim == sinogram.ndim - 1:
        check.fail("axis", "the axis of the views, not the last one", str(axis))
    high_pass = jnp.asarray(_high_pass(sinogram.shape[-1], float(width)), sinogram.dtype)
    return jnp.median(jnp.matmul(sinogram, high_pass, precision="highest"), axis)


def remove_stripes(sinogram: Any, width: float = 3.0, axis: int = -2) -> jax.Array:
    """The sinogram without its ``stripe_offsets``. Arguments as there."""
    offsets = stripe_offsets(sinogram, width, axis)
    return jnp.asarray(sinogram) - jnp.expand_dims(offsets, axis)


def _high_pass(cells: int, width: float) -> np.ndarray:
    """The matrix of 1 − Gaussian along a row of cells, mirrored at both ends; applied from the right."""
    reach = int(np.ceil(4 * width))
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (at / width) ** 2)
    source = np.arange(cells)[:, None] + at  # the cells that each one averages, beyond the ends too
    source = np.mod(source, 2 * cells)
    source = np.where(source < cells, source, 2 * cells - 1 - source)
    average = np.zeros((cells, cells))
    np.add.at(average, (source, np.arange(cells)[:, None]), kernel / kernel.sum())
    return np.eye(cells) - average


@pytree
class DampedViewMean(Operator):
    """v ↦ v with its mean over the views (its first axis) multiplied by ``share``: self-adjoint.

    Args:
        share: 1 is the identity, 0 removes the mean.
        shape: ``(view, ..., detector)``.
    """

    share: Any
    shape: tuple[int, ...] = static()

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    def __call__(self, x):
        return x + (jnp.asarray(self.share, x.real.dtype) - 1) * jnp.mean(x, axis=0)

    def adjoint(self, y):
        return self._forward(y)


class GainEstimate(NamedTuple):
    """``image [*image_shape]``; ``gains [..., detector]``, the relative gain of each cell; ``result`` of the last ``solve.run``."""

    image: jax.Array
    gains: jax.Array
    result: Result


def estimate_gains(
    sinogram: Any,
    geometry: Any,
    weight: Any,
    steps: int = 100,
    *,
    spread: Any = 10.0,
    width: float = 3.0,
    lower: Any = 0.0,
    method: str = "auto",
) -> GainEstimate:
    """The image and the gain of every cell together: min ½‖Ax + d − y‖² + ``weight`` · TV(x) + ‖d − d₀‖²/(2 spread²), d = −log gain.

    d is eliminated in closed form: the data term then weighs the mean of the residual over the V views by 1/√(1 + V spread²) and all
    deviations from the mean by 1. What gains can hardly be told from, the part of the object with circular symmetry about the axis, is
    left to TV. d₀ are the ``stripe_offsets``; half of the ``steps`` of FISTA believe them, so that no rings enter the image which the
    rest, blind to them, would be slow to remove.

    Args:
        sinogram: ``[view, detector]`` or ``[view, row, column]`` of ``geometry``.
        geometry: any.
        weight: of TV, as in ``fista_tv``; too small a one keeps the rings.
        spread: of d − d₀, in units where the data term has weight 1: its standard deviation over that of the noise.
        width: as in ``stripe_offsets``, cells.
        lower: bound of the image, or None.

    Returns:
        ``GainEstimate``. Gains above 1 read too many photons.

    Raises:
        ValueError: a sinogram of the wrong shape or not finite; a spread or a width that is not positive.
    """
    check.minimum("spread", spread, 0.0, strict=True)
    check.positive_int("steps", steps)
    operator = Radon(geometry, method)
    y = jnp.asarray(check.array("sinogram", sinogram))
    check.shape("sinogram", y, operator.codomain.shape)
    offsets = stripe_offsets(y, width, axis=0)
    levelled = y - offsets
    spacing = (getattr(geometry, "slice_thickness", 1.0) / geometry.pixel_size, 1.0, 1.0)[-len(geometry.image_shape) :]
    tv = TotalVariation(weight, lower=lower, spacing=spacing, gap=0.0, max_steps=10)
    variance = y.shape[0] * jnp.asarray(spread, y.dtype) ** 2

    def improve(x, share, count):
        damped = DampedViewMean(share, operator.codomain.shape)
        return run(FISTA(), Problem(LeastSquares(damped @ operator, damped(levelled)), tv), x, count, objective_every=0)

    x = jnp.zeros(operator.domain.shape, y.dtype)
    if steps > 1:
        x = improve(x, jnp.ones((), y.dtype), steps // 2).x
    result = improve(x, 1 / jnp.sqrt(1 + variance), steps - steps // 2)
    offsets += variance / (1 + variance) * jnp.mean(levelled - operator(result.x), axis=0)
    return GainEstimate(result.x, jnp.exp(-offsets), result)
