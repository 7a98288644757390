"""How implausible a deformation is: penalties on the displacement u = T − id, in mm, as means over the fixed domain."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.data.grid import Grid
from diffimg.forward.deformation import FreeForm
from diffimg.forward.spline_lattice import gram, second_derivatives, separable
from diffimg.forward.transform import Transform, determinant, grid_planes


class Deformation:
    """A penalty R(T), a mean over the samples of a grid (of the integrand in 1/mm units), as a ``@pytree``.

    ``penalty(transform, grid)``. A subclass defines ``_field(u, spacing)`` for the components of u along the grid's axes (mm), or
    ``_transform(transform, grid)``; it may define ``_lattice(coefficients, lattice, order)``, the exact mean over the domain of a
    ``FreeForm`` from its coefficients ``[*lattice, ndim]``: closed form, and as cheap as the lattice is small.

    ``2 * penalty`` and ``penalty + other`` are penalties.
    """

    def _field(self, u: list[Any], spacing: tuple[float, ...]) -> Any:
        raise TypeError(f"{type(self).__name__} must define _field(self, u, spacing).")

    def _transform(self, transform, grid):
        if isinstance(transform, FreeForm) and hasattr(self, "_lattice"):
            axes = jnp.asarray(np.asarray(transform.lattice.direction), transform.coefficients.dtype)
            along = jnp.einsum("ka,...k->...a", axes, transform.coefficients, precision="highest")
            return self._lattice(along, transform.lattice, transform.order)  # pyright: ignore[reportAttributeAccessIssue]
        u = transform.displacement(grid)
        axes = jnp.asarray(np.asarray(grid.direction), u.dtype)
        u = jnp.einsum("ka,...k->a...", axes, u, precision="highest")
        return self._field(list(u), grid.spacing)

    def __call__(self, transform: Transform, grid: Grid) -> Any:
        """R(T), a scalar.

        Raises:
            ValueError: no transform, or a grid of another dimension.
        """
        if not isinstance(transform, Transform):
            check.fail("transform", "a diffimg transform", type(transform).__name__, "DisplacementField(u, grid) wraps an array.")
        transform._fits(grid)
        return self._transform(transform, grid)

    def __add__(self, other: Deformation) -> Deformation:
        if not isinstance(other, Deformation):
            return NotImplemented
        mine = self.terms if isinstance(self, Sum) else (self,)
        return Sum(mine + (other.terms if isinstance(other, Sum) else (other,)))

    def __mul__(self, factor: Any) -> Deformation:
        return Weighted(factor, self)

    __rmul__ = __mul__


@pytree
class Sum(Deformation):
    """R₁ + R₂ + …"""

    terms: tuple[Deformation, ...]

    def _transform(self, transform, grid):
        return functools.reduce(jnp.add, (t._transform(transform, grid) for t in self.terms))

    def __repr__(self):
        return " + ".join(map(repr, self.terms))


@pytree
class Weighted(Deformation):
    """factor · R, the factor traced."""

    factor: Any
    penalty: Deformation

    def __post_init__(self):
        check.minimum("factor", self.factor, 0)

    def _transform(self, transform, grid):
        return self.factor * self.penalty._transform(transform, grid)

    def __repr__(self):
        return f"{self.factor!r} · {self.penalty!r}"


@pytree
class Diffusion(Deformation):
    """½ mean ‖∇u‖²_F: slow changes; it also resists rotation, so apply it after an affine stage."""

    def _field(self, u, spacing):
        return 0.5 * sum(jnp.mean(_forward(c, axis, h) ** 2) for c in u for axis, h in enumerate(spacing))

    def _lattice(self, coefficients, lattice, order):
        return 0.5 * sum(_integral(coefficients, coefficients, lattice, order, d, d) for d in _first(lattice.ndim))


@pytree
class Bending(Deformation):
    """½ mean ‖∇²u‖²_F, mixed derivatives counted twice: 0 for affine maps. 1/mm²."""

    def _field(self, u, spacing):
        return 0.5 * sum(count * jnp.mean(_second(c, d, spacing) ** 2) for c in u for count, d in second_derivatives(len(u)))

    def _lattice(self, coefficients, lattice, order):
        terms = (count * _integral(coefficients, coefficients, lattice, order, d, d) for count, d in second_derivatives(lattice.ndim))
        return 0.5 * sum(terms)


@pytree
class Curvature(Deformation):
    """½ mean ‖Δu‖² (Fischer and Modersitzki, 2003): 0 for affine and all harmonic maps."""

    def _field(self, u, spacing):
        return 0.5 * sum(jnp.mean(_laplacian(c, spacing) ** 2) for c in u)

    def _lattice(self, coefficients, lattice, order):
        pure = [tuple(2 * (k == axis) for k in range(lattice.ndim)) for axis in range(lattice.ndim)]
        return 0.5 * sum(_integral(coefficients, coefficients, lattice, order, a, b) for a in pure for b in pure)


@pytree
class Elastic(Deformation):
    """mean of μ/4 Σ (∂_j u_i + ∂_i u_j)² + λ/2 (div u)²: the energy of a linear elastic body.

    Args:
        shear: μ.
        compression: λ, both ≥ 0.
    """

    shear: Any = 1.0
    compression: Any = 0.0

    def __post_init__(self):
        check.minimum("shear", self.shear, 0)
        check.minimum("compression", self.compression, 0)

    def _field(self, u, spacing):
        slopes = [[_forward(c, axis, h) for axis, h in enumerate(spacing)] for c in u]
        n = len(u)
        size = tuple(slice(0, max(k - 1, 1)) for k in u[0].shape)  # where all differences exist
        strain = sum(jnp.mean((slopes[i][j][size] + slopes[j][i][size]) ** 2) for i in range(n) for j in range(n))
        return self.shear / 4 * strain + self.compression / 2 * jnp.mean(sum(slopes[i][i][size] for i in range(n)) ** 2)

    def _lattice(self, coefficients, lattice, order):
        first, n = _first(lattice.ndim), lattice.ndim
        c = [coefficients[..., k] for k in range(n)]
        square = sum(_integral(c[i], c[i], lattice, order, first[j], first[j]) for i in range(n) for j in range(n))
        cross = sum(_integral(c[i], c[j], lattice, order, first[j], first[i]) for i in range(n) for j in range(n))
        divergence = sum(_integral(c[i], c[j], lattice, order, first[i], first[j]) for i in range(n) for j in range(n))
        return self.shear / 2 * (square + cross) + self.compression / 2 * divergence


@pytree
class VectorTotalVariation(Deformation):
    """mean of √(‖∇u‖²_F + ε²) − ε: sliding organs; sharp changes of u cost no more than slow ones.

    Args:
        smoothing: ε, mm per mm.
    """

    smoothing: Any = 1e-3

    def __post_init__(self):
        check.minimum("smoothing", self.smoothing, 0, strict=True)

    def _field(self, u, spacing):
        square = sum(_forward(c, axis, h, keep=True) ** 2 for c in u for axis, h in enumerate(spacing))
        return jnp.mean(jnp.sqrt(square + self.smoothing**2) - self.smoothing)


@pytree
class VolumeChange(Deformation):
    """mean |1 − det ∂T/∂x|, the lecture's Jacobian penalty, with √(v² + ε²) − ε for |v|.

    Args:
        smoothing: ε.
    """

    smoothing: Any = 1e-3

    def __post_init__(self):
        check.minimum("smoothing", self.smoothing, 0, strict=True)

    def _transform(self, transform, grid):
        change = 1 - determinant(transform.jacobian_on_grid(grid))
        return jnp.mean(jnp.sqrt(change**2 + self.smoothing**2) - self.smoothing)


@pytree
class Folding(Deformation):
    """½ mean max(0, (t − det ∂T/∂x)/t)²: 0 as long as every determinant is above the threshold t, growing before it folds.

    Args:
        threshold: t > 0.
    """

    threshold: Any = 0.2

    def __post_init__(self):
        check.minimum("threshold", self.threshold, 0, strict=True)

    def _transform(self, transform, grid):
        short = jnp.maximum(0, 1 - determinant(transform.jacobian_on_grid(grid)) / self.threshold)
        return 0.5 * jnp.mean(short**2)


def inverse_consistency(forward: Transform, backward: Transform, grid: Grid) -> Any:
    """½ mean ‖backward(forward(x)) − x‖² over a grid, mm²: 0 where they are inverses of each other."""
    here = grid_planes(grid, forward.dtype)
    back = (backward @ forward).on_grid(grid)
    return 0.5 * jnp.mean(sum((a - b) ** 2 for a, b in zip(back, here, strict=True)))


def _forward(c, axis, h, keep=False):
    """Forward differences per mm; ``keep``: 0 at the last sample, so that the axes agree in shape."""
    n = c.shape[axis]
    if n == 1:
        return jnp.zeros_like(c)
    out = jnp.diff(c, axis=axis) / h
    return jnp.pad(out, [(0, 1) if k == axis else (0, 0) for k in range(c.ndim)]) if keep else out


def _second(c, derivatives, spacing):
    """Second differences per mm², at the inner samples: [1, −2, 1] along one axis, the product of central ones along two."""
    axes = [axis for axis, d in enumerate(derivatives) for _ in range(d)]
    if min(c.shape[a] for a in axes) < 3:
        return jnp.zeros_like(c)
    if axes[0] == axes[1]:
        return jnp.diff(c, n=2, axis=axes[0]) / spacing[axes[0]] ** 2
    for a in axes:
        n = c.shape[a]
        c = (jax.lax.slice_in_dim(c, 2, n, axis=a) - jax.lax.slice_in_dim(c, 0, n - 2, axis=a)) / (2 * spacing[a])
    return c


def _laplacian(c, spacing):
    """Δc per mm² at the samples that are inner ones along every axis of three or more."""
    inner = [slice(1, -1) if n > 2 else slice(None) for n in c.shape]
    out = 0
    for axis, n in enumerate(c.shape):
        if n > 2:
            kept = tuple(slice(None) if k == axis else s for k, s in enumerate(inner))
            out = out + jnp.diff(c, n=2, axis=axis)[kept] / spacing[axis] ** 2
    return out


def _first(ndim):
    return [tuple(int(k == axis) for k in range(ndim)) for axis in range(ndim)]


def _integral(a, b, lattice, order, first, second):
    """Mean over the domain of ∂^first f ∂^second g for splines with coefficients a and b (summed over what follows the lattice)."""
    cells = [(n - order, h) for n, h in zip(lattice.shape, lattice.spacing, strict=True)]
    matrices = [gram(*m, order, p, q) for m, p, q in zip(cells, first, second, strict=True)]
    return jnp.sum(a * separable(b, matrices)) / float(np.prod([n * h for n, h in cells]))
