"""The point-spread function of a sampling pattern: what its direct reconstruction makes of a point."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.operator import Operator


@dataclasses.dataclass(frozen=True)
class PointSpread:
    """``image``: Aᴴ W A of a point at the centre, scaled to 1 there; ``width``: full width at half maximum per axis, in voxels;
    ``sidelobe``: the largest magnitude outside the main lobe, over the peak (the coherence of aliasing)."""

    image: Any
    width: tuple[float, ...]
    sidelobe: float


def point_spread(operator: Operator, weights: Any = None) -> PointSpread:
    """The point-spread function of ``MaskedFFT`` or ``NUFFT`` without coil maps.

    Args:
        operator: from an image to samples. weights: of the samples (density compensation), or None.

    M. Lustig et al., Magn. Reson. Med. 58 (2007) 1182.
    """
    shape = operator.domain.shape
    point = jnp.zeros(shape, jnp.complex64).at[tuple(n // 2 for n in shape)].set(1.0)
    samples = operator(point)
    if weights is not None:
        check.trailing_shape("weights", weights, tuple(samples.shape), "samples")
        samples = weights * samples
    image = np.asarray(operator.H(samples))
    peak = abs(image[tuple(n // 2 for n in shape)])
    if not peak > 0:
        check.fail("operator", "a pattern that sees a point at the centre", "zero")
    image = image / image[tuple(n // 2 for n in shape)]
    size = np.abs(image)
    width, lobe = [], np.ones(shape, bool)
    for axis, n in enumerate(shape):
        line = size[tuple(slice(None) if a == axis else m // 2 for a, m in enumerate(shape))]
        half, extent = _half_width(line[n // 2 :]), _first_minimum(line[n // 2 :])
        width.append(half + _half_width(line[n // 2 :: -1]))
        distance = np.abs(np.arange(n) - n // 2)
        index = [None] * len(shape)
        index[axis] = slice(None)
        lobe &= (distance < max(extent, 1))[tuple(index)]
    outside = size[~lobe]
    return PointSpread(image, tuple(width), float(outside.max()) if outside.size else 0.0)


def _half_width(side):
    below = np.nonzero(side < 0.5)[0]
    if not below.size:
        return float(len(side))
    i = int(below[0])
    return i - 1 + (side[i - 1] - 0.5) / (side[i - 1] - side[i])


def _first_minimum(side):
    rising = np.nonzero(np.diff(side) > 0)[0]
    return int(rising[0]) if rising.size else len(side)
