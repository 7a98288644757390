"""Spatial transforms: maps of points, composed before an image is interpolated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, replace
from diffimg.data.grid import Grid

Planes = Sequence[Any]


class Transform:
    """A map T of points in space (mm, array order: (y, x) or (z, y, x)), as a ``@pytree`` whose numbers are traced leaves.

    Images are pulled back, (m ∘ T)(x) = m(T(x)): T takes points of the *fixed* image to points of the moving one, so points move
    the other way than images. A subclass defines ``ndim`` and ``_map(planes)``: one array a coordinate in, one out. It may define

    - ``on_grid(grid)``: the same at the samples of a grid, where the lattice makes it cheaper,
    - ``jacobian_on_grid(grid)``: ∂T_k/∂x_j at the samples, where it is known in closed form,
    - ``inverse()``.

    ``A @ B`` is x ↦ A(B(x)).
    """

    ndim: int
    # fields that an optimiser changes, and their unit: mm, or mm at the rim of the image (rotations, matrices), samples, or a mere number
    free: ClassVar[dict[str, str]] = {}

    def _map(self, planes: Planes) -> list[Any]:
        raise TypeError(f"{type(self).__name__} must define _map(self, planes).")

    def __call__(self, points: Any) -> jax.Array:
        """T of ``points`` ``[..., ndim]`` in mm; the same shape.

        Raises:
            ValueError: points of another number of coordinates.
        """
        points = jnp.asarray(check.array("points", points))
        points = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(jnp.float32)
        check.trailing_shape("points", points, (self.ndim,), "(z, y, x)" if self.ndim == 3 else "(y, x)", "Axes go last, mm.")
        out = self._map([points[..., k] for k in range(self.ndim)])
        return jnp.stack(jnp.broadcast_arrays(*out), -1)

    def on_grid(self, grid: Grid, dtype: Any = None) -> list[Any]:
        """T at the samples of a grid: one array for each coordinate, mm, shaped (or broadcasting) like the grid."""
        self._fits(grid)
        return self._map(grid_planes(grid, dtype or self.dtype))

    def jacobian_on_grid(self, grid: Grid, dtype: Any = None) -> list[list[Any]]:
        """∂T_k/∂x_j (row k, column j) at the samples of a grid; by forward-mode autodiff where no formula is known."""
        self._fits(grid)
        planes = [jnp.broadcast_to(p, grid.shape) for p in grid_planes(grid, dtype or self.dtype)]
        return value_and_jacobian(self, planes)[1]

    def jacobian_determinant(self, grid: Grid) -> jax.Array:
        """det ∂T/∂x at the samples of ``grid``, ``[*grid.shape]``: local change of volume; ≤ 0 where T folds."""
        return jnp.broadcast_to(determinant(self.jacobian_on_grid(grid)), grid.shape)

    def displacement(self, grid: Grid) -> jax.Array:
        """T(x) − x at the samples of ``grid``, ``[*grid.shape, ndim]`` mm."""
        here = grid_planes(grid, self.dtype)
        return jnp.stack([jnp.broadcast_to(a - b, grid.shape) for a, b in zip(self.on_grid(grid), here, strict=True)], -1)

    def inverse(self) -> Transform:
        """The inverse transform, where it is known in closed form.

        Raises:
            ValueError: it is not.
        """
        name = type(self).__name__
        check.fail(f"{name}.inverse", "a transform with an inverse in closed form", f"a {name}", "Use forward.invert(transform, grid).")

    def parameters(self, radius: float = 1.0) -> dict[str, Any]:
        """The free numbers in a common unit: a change of 1 moves points at ``radius`` mm from the centre by about 1 mm."""
        units = {name: self._unit(kind, radius) for name, kind in self.free.items()}
        return {name: jax.tree.map(lambda v, u=unit: v / u, getattr(self, name)) for name, unit in units.items()}

    def with_parameters(self, parameters: dict[str, Any], radius: float = 1.0) -> Transform:
        """The inverse of ``parameters``: this transform with other numbers."""
        units = {name: self._unit(kind, radius) for name, kind in self.free.items()}
        return replace(self, **{name: jax.tree.map(lambda v, u=unit: v * u, parameters[name]) for name, unit in units.items()})

    def _unit(self, kind, radius):
        if kind == "samples":
            return 1 / np.asarray(self.grid.spacing, np.float32)  # pyright: ignore[reportAttributeAccessIssue]
        return 1.0 if kind in ("mm", "number") else 1 / radius

    @property
    def dtype(self) -> Any:
        """Floating dtype of the numbers, at least float32."""
        leaves = [v for v in jax.tree.leaves(self) if hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.floating)]
        return jnp.result_type(jnp.float32, *(v.dtype for v in leaves))

    def __matmul__(self, other: Transform) -> Transform:
        if not isinstance(other, Transform):
            return NotImplemented
        mine = self.transforms if isinstance(self, Composition) else (self,)
        theirs = other.transforms if isinstance(other, Composition) else (other,)
        return Composition(mine + theirs)

    def _fits(self, grid):
        if not isinstance(grid, Grid):
            check.fail("grid", "a data.Grid", type(grid).__name__, "Grid(shape, spacing), or the grid of the image that was read.")
        if grid.ndim != self.ndim:
            expected, got = f"a grid of {self.ndim} axes, like the transform", f"{grid.ndim} axes"
            check.fail("grid", expected, got, "2-D and 3-D do not mix: grid.as_volume() makes one slice of a 2-D grid.")


@pytree
class Composition(Transform):
    """x ↦ T₁(T₂(… Tₙ(x))): the last is applied first, as in ``A @ B`` and in ITK's composite transform.

    Raises:
        ValueError: no transforms, or transforms of unlike dimension.
    """

    transforms: tuple[Transform, ...]

    def __post_init__(self):
        if not isinstance(self.transforms, (tuple, list)) or not self.transforms:
            check.fail("transforms", "a tuple of at least one transform", repr(self.transforms))
        object.__setattr__(self, "transforms", tuple(self.transforms))
        for t in self.transforms:
            if not isinstance(t, Transform):
                check.fail("transforms", "diffimg transforms", type(t).__name__)
        if len({t.ndim for t in self.transforms}) > 1:
            check.fail("transforms", "transforms of one dimension", f"dimensions {[t.ndim for t in self.transforms]}")

    @property
    def ndim(self):
        return self.transforms[0].ndim

    def _map(self, planes):
        for t in self.transforms[::-1]:
            planes = t._map(planes)
        return planes

    def on_grid(self, grid, dtype=None):
        planes = self.transforms[-1].on_grid(grid, dtype or self.dtype)
        for t in self.transforms[-2::-1]:
            planes = t._map(planes)
        return planes

    def inverse(self):
        return Composition(tuple(t.inverse() for t in self.transforms[::-1]))

    def __repr__(self):
        return " @ ".join(map(repr, self.transforms))


def value_and_jacobian(transform: Transform, planes: Planes) -> tuple[list[Any], list[list[Any]]]:
    """(T(x), ∂T_k/∂x_j) at points given by arrays of one shape; linearized once."""
    value, push = jax.linearize(lambda *p: tuple(transform._map(p)), *planes)
    columns = []
    for k in range(len(planes)):
        columns.append(push(*(jnp.ones_like(p) if j == k else jnp.zeros_like(p) for j, p in enumerate(planes))))
    return list(value), [[columns[j][k] for j in range(len(planes))] for k in range(len(planes))]


def grid_planes(grid: Grid, dtype: Any = jnp.float32) -> list[Any]:
    """World coordinates of a grid's samples, one array a coordinate, broadcasting to the grid's shape."""
    index = [np.arange(n).reshape([-1 if j == k else 1 for j in range(grid.ndim)]) for k, n in enumerate(grid.shape)]
    steps = np.asarray(grid.direction) * np.asarray(grid.spacing)
    return [jnp.asarray(p, dtype) for p in linear_planes(steps, grid.origin, index)]


def linear_planes(matrix: Any, offset: Any, planes: Planes) -> list[Any]:
    """``matrix @ x + offset`` coordinate by coordinate; entries that are known to be 0 cost nothing."""
    out = []
    for k in range(len(planes)):
        terms = [matrix[k][j] * planes[j] for j in range(len(planes)) if not (check.is_concrete(matrix) and float(matrix[k][j]) == 0)]
        out.append(sum(terms[1:], terms[0] + offset[k]) if terms else offset[k] + 0 * planes[k])
    return out


def to_index(planes: Planes, grid: Grid) -> list[Any]:
    """World coordinates → fractional indices of a grid."""
    inverse = np.linalg.inv(np.asarray(grid.direction) * np.asarray(grid.spacing))
    inverse[np.abs(inverse) < 1e-12 * np.abs(inverse).max()] = 0
    dtype = jnp.result_type(*planes)
    centred = [p - jnp.asarray(o, dtype) for p, o in zip(planes, grid.origin, strict=True)]
    return [jnp.asarray(p, dtype) for p in linear_planes(inverse, np.zeros(grid.ndim), centred)]


def determinant(rows: Sequence[Sequence[Any]]) -> Any:
    """Determinant of a 1×1, 2×2 or 3×3 matrix of arrays."""
    if len(rows) == 1:
        return rows[0][0]
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
