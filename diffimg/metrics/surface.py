"""Distances between the surfaces of two masks, mm: Hausdorff, its percentile, average distance, and the share within a tolerance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.metrics.distance import squared_distance
from diffimg.metrics.overlap import label_map


def surface(mask: Any) -> jax.Array:
    """The samples of a mask with a face neighbour outside it; beyond the image is outside."""
    mask = label_map("mask", mask) != 0
    padded = jnp.pad(mask, 1)
    inside = mask
    for axis in range(mask.ndim):
        for shift in (0, 2):
            place = tuple(slice(shift, shift + n) if k == axis else slice(1, 1 + n) for k, n in enumerate(mask.shape))
            inside = inside & padded[place]
    return mask & ~inside


def hausdorff(prediction: Any, truth: Any, spacing: Any = None, percentile: float = 100.0) -> jax.Array:
    """The larger of the two directed percentiles of surface distances (100: the Hausdorff distance), as MONAI and Metrics Reloaded
    define it: surface samples are those of ``surface``, percentiles interpolate linearly.

    Args:
        prediction, truth: masks of one shape, one to three axes.
        spacing: mm, one number or one an axis.
        percentile: in (0, 100].

    Returns:
        A scalar, mm: 0 where both are empty, inf where one is.

    Raises:
        ValueError: shapes differ, or a percentile out of range.
    """
    if not 0 < percentile <= 100:
        check.fail("percentile", "a number in (0, 100]", repr(percentile))
    here, there, *_ = _distances(prediction, truth, spacing)
    both = jnp.maximum(_percentile(*here, percentile), _percentile(*there, percentile))
    return _settled(both, here[1], there[1], 0.0, jnp.inf)


def hd95(prediction: Any, truth: Any, spacing: Any = None) -> jax.Array:
    """``hausdorff`` with ``percentile=95``."""
    return hausdorff(prediction, truth, spacing, 95.0)


def average_surface_distance(prediction: Any, truth: Any, spacing: Any = None) -> jax.Array:
    """Mean of both sets of distances (ASSD), mm; 0 where both are empty, inf where one is. Arguments as for ``hausdorff``."""
    here, there = _distances(prediction, truth, spacing)
    total = sum(jnp.sum(jnp.where(edge, d, 0)) for d, edge in (here, there))
    count = sum(jnp.sum(edge) for _, edge in (here, there))
    return _settled(total / jnp.maximum(count, 1), here[1], there[1], 0.0, jnp.inf)


def nsd(prediction: Any, truth: Any, tolerance: float, spacing: Any = None) -> jax.Array:
    """Normalized surface distance: the share of both surfaces within ``tolerance`` mm of the other; 1 where both are empty, 0 where one is.

    Surface samples are counted (not weighted by area). S. Nikolov et al., 2018 (arXiv 1809.04430).
    """
    check.minimum("tolerance", tolerance, 0)
    here, there = _distances(prediction, truth, spacing)
    near = sum(jnp.sum(edge & (d <= tolerance)) for d, edge in (here, there))
    count = sum(jnp.sum(edge) for _, edge in (here, there))
    return _settled(near / jnp.maximum(count, 1), here[1], there[1], 1.0, 0.0)


def _distances(prediction, truth, spacing):
    """((distances to the truth's surface, the prediction's surface), the other way round)."""
    prediction, truth = label_map("prediction", prediction) != 0, label_map("truth", truth) != 0
    check.shape("truth", truth, prediction.shape, "of the prediction")
    a, b = surface(prediction), surface(truth)
    return (jnp.sqrt(squared_distance(b, spacing)), a), (jnp.sqrt(squared_distance(a, spacing)), b)


def _percentile(distances, edge, percentile):
    """Of the distances at the edge, interpolated as NumPy does."""
    ordered = jnp.sort(jnp.where(edge, distances, jnp.inf).ravel())
    place = (jnp.maximum(jnp.sum(edge), 1) - 1) * (percentile / 100)
    low = jnp.floor(place).astype(jnp.int32)
    first, second = ordered[low], ordered[jnp.minimum(low + 1, jnp.maximum(jnp.sum(edge) - 1, 0))]
    part = place - low
    return jnp.where(part > 0, first + part * (second - first), first)


def _settled(value, a, b, neither, one):
    first, second = jnp.any(a), jnp.any(b)
    return jnp.where(first & second, value, jnp.where(first | second, one, neither))


