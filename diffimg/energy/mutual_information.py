"""Mutual information of two images, from a smooth joint histogram."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, replace, static
from diffimg.energy.similarity import Similarity
from diffimg.forward.spline import tap_weights

_CHUNK = 8192  # samples at a time: partial sums keep float32 exact enough where a million samples share a bin


@pytree
class MutualInformation(Similarity):
    """−Σ p log(p/(p_f p_m)), the negative mutual information in nats, or −(H_f + H_m)/H_fm if normalized; for different modalities.

    The joint histogram p is a Parzen estimate: cubic B-splines in the moving intensity, and in the fixed one boxes (as Mattes et
    al., whose value it equals) or cubic B-splines too. Cost and memory grow with the samples alone: each is put into 4 (16) bins.

    Args:
        bins: of either image, ≥ 6.
        normalized: Studholme's normalized mutual information (−2 … −1), which depends less on the overlap.
        fixed_order: 0 (boxes; no gradient in the fixed image) or 3.
        fixed_range, moving_range: intensities (lowest, highest) that the bins span, ``[2]``; default those of the images given,
            which ``prepared`` takes from the unwarped images.

    Raises:
        ValueError: too few bins, another order.

    D. Mattes et al., IEEE Transactions on Medical Imaging 2003; C. Studholme et al., Pattern Recognition 1999.
    """

    bins: int = static(default=32)
    normalized: bool = static(default=False)
    fixed_order: int = static(default=0)
    fixed_range: Any = None
    moving_range: Any = None

    def __post_init__(self):
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 6:
            check.fail("bins", "an integer ≥ 6", repr(self.bins), "The outer two on each side are padding.")
        if self.fixed_order not in (0, 3):
            check.fail("fixed_order", "0 or 3", repr(self.fixed_order))
        for name in ("fixed_range", "moving_range"):
            value = getattr(self, name)
            if value is not None:
                check.shape(name, value, (2,), "(lowest, highest)")

    def prepared(self, fixed, moving, fixed_spacing=None, moving_spacing=None):
        ranges = [jnp.stack([jnp.min(v), jnp.max(v)]) for v in (fixed, moving)]
        keep = (self.fixed_range, self.moving_range)
        fixed_range, moving_range = (r if k is None else k for r, k in zip(ranges, keep, strict=True))
        return replace(self, fixed_range=fixed_range, moving_range=moving_range)

    def _value(self, fixed, moving, weights, spacing):
        this = self.prepared(*jax.lax.stop_gradient((fixed, moving)))
        a = _position(fixed, this.fixed_range, self.bins)
        b = _position(moving, this.moving_range, self.bins)
        p = joint_histogram(a, b, weights, self.bins, self.fixed_order)
        total = jnp.sum(p)
        p = p / jnp.where(total > 0, total, 1)
        joint, first, second = _entropy(p), _entropy(p.sum(1)), _entropy(p.sum(0))
        if self.normalized:
            return -(first + second) / jnp.where(joint > 1e-6, joint, 1) - jnp.where(joint > 1e-6, 0, 2)
        return joint - first - second


def _position(values, limits, bins):
    """Intensities in bins, two of padding at either end, as in ITK."""
    low, high = jnp.asarray(limits, values.dtype)
    width = high - low
    return jnp.clip((values - low) / jnp.where(width > 0, width, 1), 0, 1) * (bins - 4) + 2


def joint_histogram(first: Any, second: Any, weights: Any, bins: int, first_order: int = 0) -> jax.Array:
    """``[bins, bins]``: Σ w β(i − first) β³(j − second) for positions in bins, ``first`` with boxes (order 0) or cubic splines."""
    n = first.size
    # no chunk of zeros where the images are small
    chunk = min(_CHUNK, n)
    flat = [jnp.pad(jnp.ravel(v), (0, -n % chunk)).reshape(-1, chunk) for v in (first, second, weights)]
    part = functools.partial(_part, bins, first_order)

    def add(total, values):
        return total + part(*values), None

    return jax.lax.scan(jax.checkpoint(add), jnp.zeros((bins, bins), first.dtype), tuple(flat))[0]


def _part(bins, order, first, second, weights):
    scattered = functools.partial(_scattered, bins, order)
    return jax.lax.platform_dependent(first, second, weights, cpu=scattered, default=functools.partial(_multiplied, bins, order))


def _scattered(bins, order, first, second, weights):
    """Taps added into the table one by one: quickest on a CPU, whose first cache holds it."""
    row, column = (jnp.clip(jnp.floor(v).astype(jnp.int32), 2, bins - 3) for v in (first, second))
    across = tap_weights(second - column, 3)
    rows = [(row, weights)] if order == 0 else [(row - 1 + k, weights * v) for k, v in enumerate(tap_weights(first - row, 3))]
    table = jnp.zeros(bins * bins, first.dtype)
    for r, amount in rows:
        for k, value in enumerate(across):
            table = table.at[r * bins + column - 1 + k].add(amount * value, mode="promise_in_bounds")
    return table.reshape(bins, bins)


def _multiplied(bins, order, first, second, weights):
    """The same as a product of two matrices, where adding into one place from many threads is slow."""
    centres = jnp.arange(bins, dtype=first.dtype)
    row, column = (jnp.clip(jnp.floor(v), 2, bins - 3) for v in (first, second))
    across = _windows(second, column, centres)
    down = (row[:, None] == centres).astype(first.dtype) if order == 0 else _windows(first, row, centres)
    return jnp.matmul((down * weights[:, None]).T, across, precision="highest")


def _windows(position, start, centres):
    out = 0
    for k, value in enumerate(tap_weights(position - start, 3)):
        out = out + jnp.where(start[:, None] - 1 + k == centres, value[:, None], 0)
    return out


def _entropy(p):
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), jnp.where(jnp.isnan(p), p, 0)))
