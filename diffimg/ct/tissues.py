"""Hounsfield units of tissues, as a table, a label map and colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check


class Tissue(NamedTuple):
    """A substance: its range of Hounsfield units (``low`` = ``high`` where one value is given) and a colour, RGB in 0…255."""

    name: str
    group: str
    low: float
    high: float
    colour: tuple[int, int, int]


# The table of the lecture ("Hounsfield Units", definition 15); liver 60 ± 6 as a range.
TISSUES: tuple[Tissue, ...] = (
    Tissue("air", "air", -1000, -1000, (20, 24, 38)),
    Tissue("lung", "parenchyma", -700, -600, (92, 139, 176)),
    Tissue("fat", "fat", -120, -90, (243, 205, 91)),
    Tissue("urine", "fluids", -5, 15, (214, 223, 110)),
    Tissue("water", "fluids", 0, 0, (88, 180, 232)),
    Tissue("CSF", "fluids", 15, 15, (60, 133, 196)),
    Tissue("blood, unclotted", "blood", 13, 50, (196, 48, 43)),
    Tissue("blood, clotted", "blood", 50, 75, (122, 22, 28)),
    Tissue("kidney", "parenchyma", 20, 45, (168, 84, 60)),
    Tissue("liver", "parenchyma", 54, 66, (140, 62, 92)),
    Tissue("muscle", "parenchyma", 35, 55, (217, 116, 104)),
    Tissue("white matter", "parenchyma", 20, 30, (238, 232, 219)),
    Tissue("grey matter", "parenchyma", 37, 45, (158, 150, 160)),
    Tissue("bone, cancellous", "bone", 300, 1900, (250, 247, 224)),
)


def membership(hu: Any, tissues: Sequence[Tissue] = TISSUES, tolerance: float = 5.0) -> jax.Array:
    """Which tissues a value may be: bool ``[tissue, *hu]``, all of those that overlap.

    Ranges are closed; a substance with a single value is widened by ``tolerance`` HU on both sides.
    """
    hu, low, high = _prepared(hu, tissues, tolerance)
    return (hu >= low) & (hu <= high)


def label_map(hu: Any, tissues: Sequence[Tissue] = TISSUES, tolerance: float = 5.0) -> jax.Array:
    """One label a pixel: 0 where no range holds the value, k + 1 for ``tissues[k]``.

    The ranges overlap (kidney, muscle, brain and blood share 20 to 55 HU): HU alone cannot tell such tissues apart. The label is that of
    the *narrowest* range which holds the value, as the most specific statement; of equal ones the first. ``membership`` gives all
    candidates; for a known region pass only the tissues that occur there.

    Args:
        hu: Hounsfield units, any shape. NaN gets label 0, and so do noisy values below air: ``jnp.maximum(hu, -1000)`` labels them air.
        tissues: the table, or part of it.
        tolerance: half-width (HU) given to single values (air, water, CSF).

    Returns:
        int32, shaped like ``hu``. Piecewise constant: not differentiable.
    """
    hu, low, high = _prepared(hu, tissues, tolerance)
    inside = (hu >= low) & (hu <= high)
    width = jnp.where(inside, jnp.broadcast_to(high - low, inside.shape), jnp.inf)
    return jnp.where(inside.any(0), jnp.argmin(width, 0) + 1, 0).astype(jnp.int32)


def colours(tissues: Sequence[Tissue] = TISSUES, unlabelled: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """uint8 ``[label, 3]``: ``colours()[np.asarray(label_map(hu))]`` is an RGB picture; label 0 is ``unlabelled``."""
    return np.array([unlabelled, *(t.colour for t in tissues)], np.uint8)


def _prepared(hu, tissues, tolerance):
    hu = check.array("hu", hu)
    check.real("hu", hu)
    if not len(tissues):
        check.fail("tissues", "at least one Tissue", "none")
    for t in tissues:
        if not t.low <= t.high:
            check.fail("tissues", "low ≤ high", f"{t.name}: {t.low} > {t.high}")
    check.minimum("tolerance", tolerance, 0.0)
    hu = jnp.asarray(hu)
    hu = hu if jnp.issubdtype(hu.dtype, jnp.floating) else hu.astype(jnp.float32)
    single = np.array([tolerance if t.low == t.high else 0.0 for t in tissues])
    shape = (len(tissues),) + (1,) * hu.ndim
    low = jnp.asarray(np.array([t.low for t in tissues]) - single, hu.dtype).reshape(shape)
    high = jnp.asarray(np.array([t.high for t in tissues]) + single, hu.dtype).reshape(shape)
    return hu, low, high
