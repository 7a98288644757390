"""Where source and detector of a divergent beam are, view by view: all that a projector needs to know."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.core.rotation import turn_back


@pytree
class Poses:
    """Source and detector of every view, in mm from the image's centre; vectors in array order, (y, x) or (z, y, x).

    Column j and row k of the detector count from its centre: j − (columns−1)/2, k − (rows−1)/2. A flat cell lies at
    ``detector + j·column + k·row``. On a curved detector (2-D) the cells lie on the circle around the source through
    ``detector``, at equal angles of |column| / |detector − source|; ``column`` is its tangent there.

    Args:
        source: ``[view, nd]``, the focal spot.
        detector: ``[view, nd]``, the centre of the detector.
        column: ``[view, nd]``, the vector from one cell to the next along a row.
        row: ``[view, nd]``, the vector from one row to the next; None in 2-D.
        curved: whether the detector is an arc around the source (2-D).
    """

    source: Any
    detector: Any
    column: Any
    row: Any = None
    curved: bool = static(default=False)

    @property
    def ndim(self) -> int:
        """2 in a plane, 3 in space."""
        return jnp.shape(self.source)[-1]

    def points(self, j: Any, k: Any = None) -> Any:
        """Positions on the detector, ``[view, *j.shape, nd]`` or ``[view, *k.shape, *j.shape, nd]``.

        ``j``, ``k``: columns and rows counted from the centre, which may be fractional.
        """
        xp = array_module(self, j, k)
        j = xp.asarray(j)[..., None]
        lead = (slice(None), *(None,) * (j.ndim - 1))
        if self.curved:
            arm = self.detector - self.source
            radius = _length(xp, arm)
            tangent = self.column / _length(xp, self.column)
            angle = j * (_length(xp, self.column) / radius)[lead]
            return self.source[lead] + xp.cos(angle) * arm[lead] + xp.sin(angle) * (radius * tangent)[lead]
        if k is None:
            return self.detector[lead] + j * self.column[lead]
        k = xp.asarray(k)[..., None]
        k = k.reshape(*k.shape[:-1], *(1,) * (j.ndim - 1), 1)
        lead = (slice(None), *(None,) * (k.ndim - 1))
        return self.detector[lead] + j * self.column[lead] + k * self.row[lead]

    def moved(self, rotation: Any = None, translation: Any = None) -> Poses:
        """The poses as an object sees them that has been rotated about the origin, then shifted, view by view.

        A point p of the object is at R p + t during the view; source and detector move by the inverse.

        Args:
            rotation: 2-D: ``[view]`` or one angle in radians, from +x towards +y. 3-D: ``[view, 3]`` or ``[3]``, the rotation vector
                (axis · angle) with components (z, y, x), right-handed in (x, y, z).
            translation: ``[view, nd]`` or ``[nd]``, mm.
        """
        points, vectors = [self.source, self.detector], [self.column, self.row]
        if translation is not None:
            points = [p - translation for p in points]
        if rotation is not None:
            turn = _turn_in_plane if self.ndim == 2 else turn_back
            points, vectors = ([turn(v, rotation) if v is not None else None for v in vs] for vs in (points, vectors))
        return Poses(*points, *vectors, curved=self.curved)

    @property
    def aligned(self) -> bool:
        """Whether the rows run along z and the columns across it (2-D: always); False while traced."""
        if self.ndim == 2:
            return True
        if not all(check.is_concrete(v) for v in (self.column, self.row)):
            return False
        column, row = np.asarray(self.column, np.float64), np.asarray(self.row, np.float64)
        across = np.abs(row[:, 1:]).max(-1) <= 1e-9 * np.abs(row[:, 0])
        return bool(np.all(across & (np.abs(column[:, 0]) <= 1e-9 * np.linalg.norm(column, axis=-1))))


def array_module(*trees: Any) -> Any:
    """``jax.numpy`` where a leaf is a JAX array, ``numpy`` where all are on the host: geometry known there keeps double precision."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trees)) else np


def _length(xp, vectors):
    return xp.sqrt(xp.sum(vectors * vectors, axis=-1, keepdims=True))


def _turn_in_plane(v, angle):
    """v turned by −angle."""
    angle = jnp.asarray(angle)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = v[..., 0], v[..., 1]
    return jnp.stack([cos * y - sin * x, cos * x + sin * y], -1)
