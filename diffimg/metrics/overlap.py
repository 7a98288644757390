"""How much two masks, or two maps of labels, share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check


def dice(prediction: Any, truth: Any, labels: Sequence[int] | None = None) -> jax.Array:
    """2 |A ∩ B| / (|A| + |B|); 1 where both are empty.

    Args:
        prediction, truth: masks, or maps of labels, of one shape; leading axes are not treated apart (``jax.vmap``).
        labels: which ones: then one value a label; default: what is not 0.

    Returns:
        A scalar, or ``[len(labels)]``.

    Raises:
        ValueError: shapes differ, or values that are no labels.
    """
    return _each(prediction, truth, labels, lambda a, b: (2 * (a & b).sum(), a.sum() + b.sum()))


def iou(prediction: Any, truth: Any, labels: Sequence[int] | None = None) -> jax.Array:
    """|A ∩ B| / |A ∪ B| (Jaccard); 1 where both are empty. Arguments as for ``dice``."""
    return _each(prediction, truth, labels, lambda a, b: ((a & b).sum(), (a | b).sum()))


def _each(prediction, truth, labels, counts):
    prediction, truth = label_map("prediction", prediction), label_map("truth", truth)
    check.shape("truth", truth, prediction.shape, "of the prediction")

    def ratio(a, b):
        part, whole = counts(a, b)
        return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)

    if labels is None:
        return ratio(prediction != 0, truth != 0)
    return jnp.stack([ratio(prediction == k, truth == k) for k in labels])


def label_map(name: str, value: Any) -> jax.Array:
    """Booleans or whole numbers.

    Raises:
        ValueError: anything else.
    """
    value = jnp.asarray(check.array(name, value))
    if jnp.issubdtype(value.dtype, jnp.inexact):
        check.real(name, value)
        if check.is_concrete(value) and not bool(jnp.all(value == jnp.round(value))):
            check.fail(name, "labels", "numbers between them", "Threshold probabilities first: probability > 0.5.")
    return value
