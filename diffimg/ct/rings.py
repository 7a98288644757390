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


def remove_stripes(sinogram: Any, width: int = 11) -> jax.Array:
    """The sinogram without stripes along the views, by sorting (N. T. Vo, R. C. Atwood, M. Drakopoulos, Opt. Express 26 (2018) 28396,
    algorithm 3).

    The values of each cell are sorted; neighbouring cells then differ in their gain alone, and a median along the detector levels it;
    the values go back to their views. Strong against stripes of a cell or a few; features that stand still in the sinogram suffer a
    little.

    Args:
        sinogram: ``[..., view, detector]``. Of a cone beam, ``[view, row, column]``, each row by itself:
            ``jnp.moveaxis(remove_stripes(jnp.moveaxis(sinogram, 1, 0)), 0, 1)``.
        width: cells of the median, odd, more than twice the widest stripe.

    Raises:
        ValueError: a width that is even or larger than the detector, a complex sinogram.
    """
    sinogram = check.array("sinogram", sinogram)
    check.real("sinogram", sinogram)
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram)
    cells = jnp.shape(sinogram)[-1]
    if check.positive_int("width", width) % 2 == 0 or width > cells:
        check.fail("width", f"an odd number of at most {cells} cells", str(width))
    sinogram = jnp.asarray(sinogram)
    order = jnp.argsort(sinogram, axis=-2)
    ranked = jnp.take_along_axis(sinogram, order, axis=-2)
    reach = width // 2
    padded = jnp.pad(ranked, [(0, 0)] * (ranked.ndim - 1) + [(reach, reach)], mode="symmetric")
    level = jnp.median(jnp.stack([padded[..., k : k + cells] for k in range(width)]), axis=0)
    return jnp.take_along_axis(level, jnp.argsort(order, axis=-2), axis=-2)


@pytree
class DampedViewMean(Operator):
    """v ↦ v with the mean over the views (its first axis) filtered along the detector (its last, taken as periodic): self-adjoint.

    Args:
        response: ``[detector // 2 + 1]``, the filter's real transfer function; 1 leaves a frequency of the mean as it is.
        shape: ``(view, ..., detector)``.
    """

    response: Any
    shape: tuple[int, ...] = static()

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    def __call__(self, x):
        return x + filtered(jnp.mean(x, axis=0), jnp.asarray(self.response, x.real.dtype) - 1)

    def adjoint(self, y):
        return self._forward(y)


def filtered(v: jax.Array, response: Any) -> jax.Array:
    """``v [..., detector]`` by a real transfer function ``[detector // 2 + 1]``, periodically."""
    return jnp.fft.irfft(jnp.fft.rfft(v) * response, n=v.shape[-1])


class GainEstimate(NamedTuple):
    """``image [y, x]``; ``gains [..., detector]``, the relative gain of each cell; ``result`` of ``solve.run``."""

    image: jax.Array
    gains: jax.Array
    result: Result


def estimate_gains(
    sinogram: Any,
    geometry: Any,
    weight: Any,
    steps: int = 100,
    *,
    spread: Any = 1.0,
    smooth: float = 4.0,
    lower: Any = 0.0,
    method: str = "auto",
) -> GainEstimate:
    """The image and the gain of every cell together: ½‖Ax − log g − y‖² + weight · TV(x) + ½⟨log g, C⁻¹ log g⟩, by FISTA.

    C = ``spread``² (1 − Gaussian of ``smooth`` cells along the detector): gains that vary smoothly would be taken for the part of
    the object that has circular symmetry about the axis, and are left to flat fields. The gains are eliminated in closed form: what is
    left of the data term weighs a frequency of the mean over the V views by 1/√(1 + V C), and all deviations from the mean by 1.

    Args:
        sinogram: ``[view, detector]`` or ``[view, row, column]`` of ``geometry``.
        geometry: any.
        weight: of TV, as in ``fista_tv``.
        spread: in units where the data term has weight 1: for a statistical choice, the standard deviation of log g over the noise's.
        smooth: standard deviation in cells.
        lower: bound of the image, or None.

    Returns:
        ``GainEstimate``. Gains above 1 read too many photons.

    Raises:
        ValueError: a sinogram of the wrong shape or not finite; a spread or a ``smooth`` that is not positive.
    """
    check.minimum("spread", spread, 0.0, strict=True)
    check.minimum("smooth", smooth, 0.0, strict=True)
    operator = Radon(geometry, method)
    y = jnp.asarray(check.array("sinogram", sinogram))
    check.shape("sinogram", y, operator.codomain.shape)
    check.inexact("sinogram", y)
    f = np.fft.rfftfreq(y.shape[-1])
    variance = y.shape[0] * jnp.asarray(spread) ** 2 * (1 - np.exp(-2 * (np.pi * smooth * f) ** 2))
    levelled = DampedViewMean(1 / jnp.sqrt(1 + variance), operator.codomain.shape)
    data = LeastSquares(levelled @ operator, levelled(y))
    tv = TotalVariation(weight, lower=lower, gap=0.0, max_steps=10)
    result = run(FISTA(), Problem(data, tv), jnp.zeros(operator.domain.shape, y.dtype), steps, objective_every=0)
    log_gain = filtered(jnp.mean(operator(result.x) - y, axis=0), jnp.asarray(variance / (1 + variance), y.dtype))
    return GainEstimate(result.x, jnp.exp(log_gain), result)
