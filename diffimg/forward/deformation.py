"""Deformations: free-form (B-spline lattice), displacement field, stationary velocity field, and the inverse of any transform."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.forward.interpolation import interpolate_planes
from diffimg.forward.spline_lattice import basis, separable, spline_lattice
from diffimg.forward.transform import Transform, determinant, grid_planes, to_index, value_and_jacobian


@pytree
class FreeForm(Transform):
    """x ↦ x + Σ_k c_k Π_a β((x_a − x_k,a)/h_a): a B-spline lattice of displacements (free-form deformation).

    The lattice reaches ``(order − 1)/2`` cells beyond its domain on every side; outside the domain nothing moves, as in ITK's
    BSplineTransform. At the samples of an image whose axes are the lattice's it is a matrix product an axis.

    Args:
        coefficients: c, ``[*lattice.shape, ndim]`` mm, array order.
        lattice: where the control points lie; make it with ``FreeForm.identity``.
        order: of the B-spline, 1 … 5; 3 is usual.

    Raises:
        ValueError: shapes do not fit.

    D. Rueckert et al., IEEE Transactions on Medical Imaging 1999.
    """

    free: ClassVar[dict[str, str]] = {"coefficients": "mm"}
    coefficients: Any
    lattice: Grid = static()
    order: int = static(default=3)

    def __post_init__(self):
        if self.order not in (1, 2, 3, 4, 5):
            check.fail("order", "a B-spline order 1 … 5", repr(self.order))
        object.__setattr__(self, "coefficients", _vectors("coefficients", self.coefficients, self.lattice))
        smallest = min(self.lattice.shape)
        if smallest <= self.order:
            check.fail("lattice", f"more than {self.order} control points along each axis", f"{smallest}", "FreeForm.identity makes one.")

    @classmethod
    def identity(cls, domain: Grid, spacing: float | tuple[float, ...] | None = None, mesh: Any = None, order: int = 3) -> FreeForm:
        """T = id on all cells of ``domain``, with cells of the lattice of about ``spacing`` mm, or ``mesh`` of them along each axis.

        Raises:
            ValueError: neither or both are given, or a number that is not positive.
        """
        lattice = spline_lattice(domain, spacing, mesh, order)
        return cls(jnp.zeros((*lattice.shape, domain.ndim)), lattice, order)

    @property
    def ndim(self):
        return self.lattice.ndim

    def refined(self, lattice: Grid) -> FreeForm:
        """The same deformation on another lattice with the same axes: exact where its knots are among the new ones, else the least
        squares fit."""
        inside = tuple(4 * (n - self.order) for n in lattice.shape)  # samples: four a cell
        spacing = tuple(h / 4 for h in lattice.spacing)
        first = np.asarray(lattice.spacing) * (self.order - 1) / 2 + np.asarray(spacing) / 2
        origin = np.asarray(lattice.origin) + np.asarray(lattice.direction) @ first
        grid = Grid(inside, spacing, tuple(origin.tolist()), lattice.direction)
        to_samples = [basis(grid, self.lattice, self.order, k) for k in range(self.ndim)]
        from_samples = [np.linalg.pinv(basis(grid, lattice, self.order, k)) for k in range(self.ndim)]
        matrices = [b @ a for a, b in zip(to_samples, from_samples, strict=True)]
        return FreeForm(separable(self.coefficients, matrices), lattice, self.order)

    def _map(self, planes):
        index = to_index(planes, self.lattice)
        inside = _within(index, self.lattice.shape, (self.order - 1) / 2)
        out = []
        for k, plane in enumerate(planes):
            u = interpolate_planes(self.coefficients[..., k], index, self.order, "mirror", prefilter=False)
            out.append(plane + jnp.where(inside, u, 0))
        return out

    def on_grid(self, grid, dtype=None):
        self._fits(grid)
        if grid.direction != self.lattice.direction:
            return super().on_grid(grid, dtype)
        u = self._products(grid, (0,) * self.ndim)
        return [x + u[k] for k, x in enumerate(grid_planes(grid, dtype or self.dtype))]

    def jacobian_on_grid(self, grid, dtype=None):
        self._fits(grid)
        if grid.direction != self.lattice.direction:
            return super().jacobian_on_grid(grid, dtype)
        along = [self._products(grid, tuple(int(a == k) for a in range(self.ndim))) for k in range(self.ndim)]
        axes = np.asarray(grid.direction)  # derivatives along the lattice's axes → along the world's
        rows = []
        for k in range(self.ndim):
            row = [sum(along[a][k] * axes[j, a] for a in range(self.ndim) if axes[j, a]) for j in range(self.ndim)]
            rows.append([value + (k == j) for j, value in enumerate(row)])
        return rows

    def _products(self, grid, derivatives):
        """``[ndim, *grid.shape]``: Σ_k c_k Π β, with the given derivative along each axis (1/mm)."""
        out = jnp.moveaxis(self.coefficients, -1, 0)
        for axis, derivative in enumerate(derivatives):
            matrix = jnp.asarray(basis(grid, self.lattice, self.order, axis, derivative), out.dtype)
            out = jnp.moveaxis(jnp.tensordot(out, matrix, axes=(axis + 1, 1), precision="highest"), -1, axis + 1)
        return out


def _within(index, shape, margin):
    """Whether indices are at least ``margin`` samples inside."""
    slack = 1e3 * float(jnp.finfo(jnp.result_type(jnp.float32, *index)).eps)
    checks = [(i >= margin - slack) & (i <= n - 1 - margin + slack) for i, n in zip(index, shape, strict=True)]
    return functools.reduce(lambda a, b: a & b, checks)


@pytree
class DisplacementField(Transform):
    """x ↦ x + u(x), u sampled on a grid and linear between its samples.

    Args:
        vectors: u, ``[*grid.shape, ndim]``, in *samples* along the grid's axes (array order): 1 is the way to the next sample.
            ``DisplacementField.from_world`` takes mm.
        grid: where the samples lie.
        outside: ``"nearest"``: u of the nearest sample; ``"zero"``: nothing moves more than half a sample
            beyond the grid, as in ITK.

    Raises:
        ValueError: shapes do not fit.
    """

    free: ClassVar[dict[str, str]] = {"vectors": "samples"}
    vectors: Any
    grid: Grid = static()
    outside: str = static(default="nearest")

    def __post_init__(self):
        object.__setattr__(self, "vectors", _vectors("vectors", self.vectors, self.grid))
        check.one_of("outside", self.outside, ("nearest", "zero"))

    @classmethod
    def identity(cls, grid: Grid) -> DisplacementField:
        """T = id."""
        return cls(jnp.zeros((*grid.shape, grid.ndim)), grid)

    @classmethod
    def from_world(cls, displacement: Any, grid: Grid, outside: str = "nearest") -> DisplacementField:
        """From ``[*grid.shape, ndim]`` mm along the world's axes (array order)."""
        vectors = _vectors("displacement", displacement, grid)
        inverse = np.linalg.inv(np.asarray(grid.direction) * np.asarray(grid.spacing))
        return cls(jnp.einsum("kj,...j->...k", jnp.asarray(inverse, vectors.dtype), vectors, precision="highest"), grid, outside)

    @property
    def ndim(self):
        return self.grid.ndim

    def _map(self, planes):
        index = to_index(planes, self.grid)
        u = [interpolate_planes(self.vectors[..., k], index, 1, "nearest") for k in range(self.ndim)]
        if self.outside == "zero":
            inside = _within(index, self.grid.shape, -0.5)
            u = [jnp.where(inside, v, 0) for v in u]
        return [x + v for x, v in zip(planes, _to_world(u, self.grid), strict=True)]

    def on_grid(self, grid, dtype=None):
        self._fits(grid)
        if grid != self.grid:
            return super().on_grid(grid, dtype)
        u = _to_world([self.vectors[..., k] for k in range(self.ndim)], grid)
        return [x + v for x, v in zip(grid_planes(grid, dtype or self.dtype), u, strict=True)]

    def jacobian_on_grid(self, grid, dtype=None):
        """Central differences at the field's own samples (one-sided at the border); the interpolant's derivative elsewhere."""
        self._fits(grid)
        if grid != self.grid or min(grid.shape) < 2:
            return super().jacobian_on_grid(grid, dtype)
        u = _to_world([self.vectors[..., k] for k in range(self.ndim)], grid)
        axes = np.asarray(grid.direction) / np.asarray(grid.spacing)
        rows = []
        for k in range(self.ndim):
            along = jnp.gradient(u[k])
            row = [sum(along[a] * axes[j, a] for a in range(self.ndim) if axes[j, a]) for j in range(self.ndim)]
            rows.append([value + (k == j) for j, value in enumerate(row)])
        return rows


@pytree
class VelocityField(Transform):
    """exp(v): the flow of a stationary velocity field for unit time, by scaling and squaring; its inverse is exp(−v).

    Args:
        vectors: v, ``[*grid.shape, ndim]``, in samples of the grid (array order).
        grid: where the samples lie.
        steps: squarings; v/2^steps should move less than half a sample.

    Raises:
        ValueError: shapes do not fit.

    V. Arsigny et al., MICCAI 2006; J. Ashburner, NeuroImage 2007.
    """

    free: ClassVar[dict[str, str]] = {"vectors": "samples"}
    vectors: Any
    grid: Grid = static()
    steps: int = static(default=7)

    def __post_init__(self):
        object.__setattr__(self, "vectors", _vectors("vectors", self.vectors, self.grid))
        check.positive_int("steps", self.steps)

    @classmethod
    def identity(cls, grid: Grid, steps: int = 7) -> VelocityField:
        """T = id."""
        return cls(jnp.zeros((*grid.shape, grid.ndim)), grid, steps)

    @property
    def ndim(self):
        return self.grid.ndim

    def field(self) -> DisplacementField:
        """The flow as a displacement field."""
        here = grid_planes(Grid(self.grid.shape), self.dtype)

        def squared(u, _):
            index = [x + v for x, v in zip(here, u, strict=True)]
            return [v + interpolate_planes(v, index, 1, "nearest") for v in u], None

        u, _ = jax.lax.scan(squared, [self.vectors[..., k] / 2**self.steps for k in range(self.ndim)], length=self.steps)
        return DisplacementField(jnp.stack(u, -1), self.grid)

    def _map(self, planes):
        return self.field()._map(planes)

    def on_grid(self, grid, dtype=None):
        return self.field().on_grid(grid, dtype)

    def jacobian_on_grid(self, grid, dtype=None):
        return self.field().jacobian_on_grid(grid, dtype)

    def inverse(self):
        return VelocityField(-self.vectors, self.grid, self.steps)


class Inverse(NamedTuple):
    """What ``invert`` found: the inverse, a ``transform``, and how far T(T⁻¹(y)) is from y, mm, at the samples ``[*grid.shape]``."""

    transform: DisplacementField
    residual: jax.Array


def invert(transform: Transform, grid: Grid, steps: int = 20) -> Inverse:
    """The inverse of any transform, sampled on a grid, by damped Newton steps x ← x − J⁻¹(T(x) − y) at every sample.

    Args:
        transform: T, smooth and one to one near the grid.
        grid: where the inverse is wanted: the samples y of the *moving* space.
        steps: Newton steps; five do for most.

    Returns:
        ``Inverse(transform, residual)``: a ``DisplacementField`` on ``grid``; look at ``residual``, which is
        large where no point goes to a sample (at the border, or where T folds).
    """
    transform._fits(grid)
    target = [jnp.broadcast_to(y, grid.shape) for y in grid_planes(grid, transform.dtype)]
    limit = 4 * max(grid.spacing)

    def step(x, _):
        value, matrix = value_and_jacobian(transform, x)
        move = _solved(matrix, [a - b for a, b in zip(value, target, strict=True)])
        length = jnp.sqrt(sum(m * m for m in move) + 1e-30)
        shorter = jnp.minimum(1.0, limit / length)
        return [p - shorter * m for p, m in zip(x, move, strict=True)], None

    x, _ = jax.lax.scan(step, target, length=check.positive_int("steps", steps))
    residual = jnp.sqrt(sum((a - b) ** 2 for a, b in zip(transform._map(x), target, strict=True)))
    field = DisplacementField.from_world(jnp.stack([a - b for a, b in zip(x, target, strict=True)], -1), grid)
    return Inverse(field, residual)


def _solved(matrix, right):
    """Cramer's rule, for arrays of 2×2 or 3×3 systems; where the determinant vanishes the right side itself."""
    det = determinant(matrix)
    usable = jnp.abs(det) > 1e-3
    out = []
    for k in range(len(right)):
        replaced = [[right[i] if j == k else matrix[i][j] for j in range(len(right))] for i in range(len(right))]
        out.append(jnp.where(usable, determinant(replaced) / jnp.where(usable, det, 1), right[k]))
    return out


def _to_world(vectors, grid):
    steps = np.asarray(grid.direction) * np.asarray(grid.spacing)
    return [sum(steps[k, j] * vectors[j] for j in range(grid.ndim) if steps[k, j]) for k in range(grid.ndim)]


def _vectors(name, value, grid):
    if not isinstance(grid, Grid):
        check.fail("grid", "a data.Grid", type(grid).__name__)
    value = jnp.asarray(check.array(name, value))
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
    check.shape(name, value, (*grid.shape, grid.ndim), "[*grid, ndim]: components last, array order")
    check.finite(name, value)
    return value
