"""Smooth functions out of noisy samples: smoothing splines of images and of scattered data."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from diffimg.core import check, krylov
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.forward.interpolation import interpolate_planes
from diffimg.forward.spline_lattice import basis, gram, second_derivatives, separable, spline_lattice
from diffimg.forward.transform import to_index


@pytree
class Spline:
    """f(x) = Σ_k c_k Π_a β((x_a − x_k,a)/h_a), a function of space with one or several values.

    Args:
        coefficients: c, ``[*lattice.shape, *values]``.
        lattice: the control points (``spline_lattice``).
        order: 1 … 5.

    Raises:
        ValueError: shapes do not fit.
    """

    coefficients: Any
    lattice: Grid = static()
    order: int = static(default=3)

    def __post_init__(self):
        coefficients = jnp.asarray(check.array("coefficients", self.coefficients))
        check.inexact("coefficients", coefficients)
        if coefficients.shape[: self.lattice.ndim] != self.lattice.shape:
            check.fail("coefficients", f"shape {self.lattice.shape} of the lattice, then values", f"shape {coefficients.shape}")
        object.__setattr__(self, "coefficients", coefficients)

    def __call__(self, points: Any) -> jax.Array:
        """f at ``points`` ``[..., ndim]`` mm: ``[..., *values]``. Outside the domain the lattice is mirrored."""
        points = jnp.asarray(check.array("points", points), self.coefficients.dtype)
        check.trailing_shape("points", points, (self.lattice.ndim,), "(z, y, x)" if self.lattice.ndim == 3 else "(y, x)")
        index = to_index([points[..., k] for k in range(self.lattice.ndim)], self.lattice)
        values = jnp.moveaxis(self.coefficients.reshape(*self.lattice.shape, -1), -1, 0)
        out = interpolate_planes(values, index, self.order, "mirror", prefilter=False)
        return jnp.moveaxis(out, 0, -1).reshape(*points.shape[:-1], *self.coefficients.shape[self.lattice.ndim :])

    def on_grid(self, grid: Grid) -> jax.Array:
        """f at the samples of a grid of the lattice's direction, ``[*grid.shape, *values]``; a matrix product an axis."""
        if grid.direction != self.lattice.direction:
            remedy = "Call the spline at points instead."
            check.fail("grid", f"the lattice's direction {self.lattice.direction}", f"{grid.direction}", remedy)
        return separable(self.coefficients, [basis(grid, self.lattice, self.order, k) for k in range(grid.ndim)])


def smoothing_spline(
    image: Any, weight: Any, grid: Grid | None = None, order: int = 3, steps: int = 200, tolerance: float = 1e-6
) -> Spline:
    """The B-spline with knots at the samples that minimises ½ Σ (f(x_i) − image_i)² + weight ∫ ‖∇²f‖²_F dx.

    Along an axis on which the image is constant it is the natural cubic smoothing spline, with SciPy's λ = 2 · weight · (n − 1)/n for n
    samples along that axis (the domain ends at the outer ones). Interpolation: ``spline_coefficients``.

    Args:
        image: ``[*samples]``, two or three axes.
        weight: > 0; traced.
        grid: where the samples lie; default spacing 1.
        order: of the spline.
        steps, tolerance: of the conjugate gradients.

    Returns:
        The ``Spline``; ``on_grid(grid)`` is the smooth image.

    Raises:
        ValueError: the image is no real array of the grid's shape, a weight that is not positive.
    """
    image = jnp.asarray(check.array("image", image))
    check.inexact("image", image)
    check.finite("image", image)
    grid = Grid(image.shape) if grid is None else grid
    check.shape("image", image, grid.shape, "the grid")
    check.minimum("weight", weight, 0, strict=True, remedy="To interpolate take interpolate(image, points, order=3).")
    # knots at the samples: the domain ends at the first and last of them
    inner = Grid(tuple(max(n - 1, 1) for n in grid.shape), grid.spacing, tuple(grid.index_to_world(_half(grid)).tolist()), grid.direction)
    lattice = spline_lattice(inner, mesh=inner.shape, order=order)
    matrices = [basis(grid, lattice, order, k) for k in range(grid.ndim)]

    def sample(c):
        return separable(c, matrices)

    def back(r):
        return separable(r, [m.T for m in matrices])

    return Spline(_solve(sample, back, image, 1.0, float(image.size), weight, lattice, order, steps, tolerance), lattice, order)


def fit_spline(
    points: Any, values: Any, domain: Grid, spacing: Any = None, mesh: Any = None, weight: Any = 1e-3, order: int = 3,
    confidence: Any = 1.0, steps: int = 500, tolerance: float = 1e-6,
) -> Spline:  # fmt: skip
    """Scattered data: the B-spline on a lattice that minimises ½ Σ w_i |f(x_i) − v_i|² + weight ∫ ‖∇²f‖²_F dx.

    Args:
        points: ``[n, ndim]`` mm, array order.
        values: ``[n]`` or ``[n, values]``; displacements of landmarks make a ``FreeForm(fit.coefficients, fit.lattice)``.
        domain: what the lattice covers; points outside are refused.
        spacing, mesh: of the lattice, as for ``spline_lattice``.
        weight: > 0 (what no point determines is filled in smoothly); traced.
        order: of the spline.
        confidence: w, one number or ``[n]``.
        steps, tolerance: of the conjugate gradients.

    Returns:
        The ``Spline``.

    Raises:
        ValueError: shapes do not fit, points outside the domain, a weight that is not positive.
    """
    values = jnp.asarray(check.array("values", values))
    values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.float32)
    points = jnp.asarray(check.array("points", points), values.dtype)
    check.ndim("points", points, 2, "[n, ndim]")
    check.shape("points", points, (values.shape[0], domain.ndim), "[n, ndim], n of the values")
    for name, v in (("points", points), ("values", values)):
        check.finite(name, v)
    check.minimum("weight", weight, 0, strict=True, remedy="Without it the lattice is not determined where no points lie.")
    lattice = spline_lattice(domain, spacing, mesh, order)
    index = to_index([points[..., k] for k in range(domain.ndim)], lattice)
    low = (order - 1) / 2
    for i, n in zip(index, lattice.shape, strict=True):
        if check.is_concrete(i) and i.size and not bool(jnp.all((i >= low - 1e-3) & (i <= n - 1 - low + 1e-3))):
            check.fail("points", "points inside the domain", "some outside", "Give a larger domain, or leave them out.")

    def sample(c):
        flat = jnp.moveaxis(c.reshape(*lattice.shape, -1), -1, 0)
        return jnp.moveaxis(interpolate_planes(flat, index, order, "mirror", prefilter=False), 0, -1).reshape(values.shape)

    shape = (*lattice.shape, *values.shape[1:])
    _, back = jax.vjp(sample, jnp.zeros(shape, values.dtype))
    confidence = jnp.asarray(confidence, values.dtype)
    total = jnp.sum(jnp.broadcast_to(confidence, values.shape[:1]))
    confidence = confidence.reshape(confidence.shape + (1,) * (values.ndim - 1)) if confidence.ndim else confidence
    return Spline(_solve(sample, lambda r: back(r)[0], values, confidence, total, weight, lattice, order, steps, tolerance), lattice, order)


def _solve(sample, back, values, confidence, total, weight, lattice, order, steps, tolerance):
    cells = [(n - order, h) for n, h in zip(lattice.shape, lattice.spacing, strict=True)]

    def normal(c):
        out = back(confidence * sample(c))
        for count, derivatives in second_derivatives(lattice.ndim):
            out = out + 2 * weight * count * separable(c, [gram(*m, order, d, d) for m, d in zip(cells, derivatives, strict=True)])
        return out

    # preconditioner: the same system with evenly spread samples, nearly diagonal in the generalized eigenvectors of each axis
    right = back(confidence * values)
    spectra = [_spectrum(*m, order) for m in cells]
    bent = sum(np.sqrt(e).reshape([-1 if k == a else 1 for k in range(lattice.ndim)]) for a, (e, _) in enumerate(spectra)) ** 2
    diagonal = total / math.prod(m * h for m, h in cells) + 2 * weight * jnp.asarray(bent, right.dtype)
    diagonal = diagonal.reshape(diagonal.shape + (1,) * (right.ndim - lattice.ndim))

    def precondition(r):
        return separable(separable(r, [v.T for _, v in spectra]) / diagonal, [v for _, v in spectra])

    return krylov.cg(normal, right, max_steps=steps, tolerance=tolerance, preconditioner=precondition).x


@functools.lru_cache(64)
def _spectrum(cells, step, order):
    """(eigenvalues, vectors V) with Vᵀ G₀ V = 1, Vᵀ G₂ V = diag, of the Gram matrices of values and second derivatives."""
    values, vectors = scipy.linalg.eigh(gram(cells, step, order, 2, 2), gram(cells, step, order, 0, 0))
    return np.maximum(values, 0), vectors


def _half(grid):
    return np.asarray([0.5 if n > 1 else 0.0 for n in grid.shape])
