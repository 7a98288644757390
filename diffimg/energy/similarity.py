"""How well a warped image matches a fixed one: mean squares and global correlation; the interface of all similarities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy


class Similarity:
    """A function of two images on one grid that is *minimised*, as a ``@pytree`` of its settings.

    ``similarity(fixed, moving, weights, spacing)`` checks its arguments; a subclass defines ``_value(fixed, moving, weights, spacing)``
    for floating images of one shape with one to three axes. ``weights`` (≥ 0, the overlap times the masks) say how much each sample
    counts; every similarity is a mean over them, so that images that overlap less do not match better. Gradients are finite for
    constant images and for empty weights, too.

    ``prepared(fixed, moving)`` fixes what depends on the two images as a whole (ranges of intensity, noise of gradients), so that it
    does not change while one of them is warped.
    """

    def _value(self, fixed: Any, moving: Any, weights: Any, spacing: tuple[float, ...]) -> jax.Array:
        raise TypeError(f"{type(self).__name__} must define _value(self, fixed, moving, weights, spacing).")

    def prepared(self, fixed: Any, moving: Any, fixed_spacing: Any = None, moving_spacing: Any = None) -> Similarity:
        """The same similarity with what depends on the unwarped images (and their spacing, mm; default 1) computed."""
        return self

    def to(self, fixed: Any, weights: Any = None, spacing: tuple[float, ...] | None = None) -> SimilarityTo:
        """The energy E(x) = similarity(fixed, x)."""
        return SimilarityTo(self, jnp.asarray(fixed), weights, spacing)

    def __call__(self, fixed: Any, moving: Any, weights: Any = None, spacing: tuple[float, ...] | None = None) -> jax.Array:
        """The value.

        Args:
            fixed: ``[*shape]``.
            moving: ``[*shape]``, warped onto the fixed grid.
            weights: ``[*shape]``, ≥ 0; default 1.
            spacing: mm, for similarities of gradients; default 1.

        Raises:
            ValueError: shapes or dtypes do not fit; NaN or Inf.
        """
        fixed, moving = _floating("fixed", fixed), _floating("moving", moving)
        for name, image in (("fixed", fixed), ("moving", moving)):
            check.finite(name, image, f"Fill what is missing, and leave it out: weights=isfinite({name}).")
        check.shape("moving", moving, fixed.shape, "of the fixed image", "Warp it onto the fixed grid first.")
        dtype = jnp.result_type(fixed, moving)
        weights = jnp.ones(fixed.shape, dtype) if weights is None else jnp.asarray(check.array("weights", weights), dtype)
        check.shape("weights", weights, fixed.shape, "of the fixed image")
        check.minimum("weights", weights, 0)
        spacing = (1.0,) * fixed.ndim if spacing is None else tuple(map(float, spacing))
        if len(spacing) != fixed.ndim:
            check.fail("spacing", f"{fixed.ndim} numbers, one an axis", f"{len(spacing)}")
        return self._value(fixed.astype(dtype), moving.astype(dtype), weights, spacing)


@pytree
class SimilarityTo(Energy):
    """E(x) = S(fixed, x), a similarity as an energy of the image x ``[*fixed.shape]``: for solvers, sums and compositions.

    Args:
        similarity: S.
        fixed: the image to match.
        weights: how much each sample counts.
        spacing: mm.
    """

    similarity: Similarity
    fixed: Any
    weights: Any = None
    spacing: tuple[float, ...] | None = static(default=None)

    def __call__(self, x):
        return self.similarity(self.fixed, x, self.weights, self.spacing)


def weighted_mean(values: Any, weights: Any) -> jax.Array:
    """Σ w v / Σ w, 0 where nothing counts."""
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1)


def ratio(numerator: Any, denominator: Any) -> jax.Array:
    """The quotient of numbers ≥ 0 below, 0 (with gradient 0) where the denominator is so small that its square underflows."""
    safe = denominator > jnp.finfo(denominator.dtype).tiny ** 0.5
    return jnp.where(safe, numerator / jnp.where(safe, denominator, 1), jnp.where(jnp.isnan(denominator), denominator, 0))


def root(square: Any) -> jax.Array:
    """√, with derivative 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), jnp.where(jnp.isnan(square), square, 0))


@pytree
class SSD(Similarity):
    """½ Σ w (f − m)² / Σ w: half the mean square, for one modality and one scale of intensity."""

    def _value(self, fixed, moving, weights, spacing):
        return 0.5 * weighted_mean((fixed - moving) ** 2, weights)


@pytree
class NCC(Similarity):
    """1 − corr(f, m): between 0 (m = a f + b, a > 0) and 2 (a < 0); for intensities that differ by scale and offset.

    Args:
        floor: standard deviations below ``floor`` times the root mean square of an image count as none (constant images).
    """

    floor: Any = 1e-4

    def __post_init__(self):
        check.minimum("floor", self.floor, 0, strict=True)

    def _value(self, fixed, moving, weights, spacing):
        a = fixed - weighted_mean(fixed, weights)
        b = moving - weighted_mean(moving, weights)
        floors = [self.floor**2 * weighted_mean(v**2, weights) for v in (fixed, moving)]
        squares = [weighted_mean(d**2, weights) + low for d, low in zip((a, b), floors, strict=True)]
        # half the squared distance of the normalized images: 1 − corr would cancel where they agree
        distance = weighted_mean((ratio(a, root(squares[0])) - ratio(b, root(squares[1]))) ** 2, weights)
        missing = [jnp.where(s > 0, ratio(low, s), 1) for low, s in zip(floors, squares, strict=True)]
        return 0.5 * (distance + missing[0] + missing[1])


def _floating(name, value):
    value = jnp.asarray(check.array(name, value))
    check.inexact(name, value)
    check.real(name, value, "Register magnitudes: abs(image).")
    if not 1 <= value.ndim <= 3:
        check.fail(name, "one to three axes", f"shape {value.shape}", "jax.vmap goes over batches.")
    return value
