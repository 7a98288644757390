"""Gauss–Newton for images that a transform warps: gradient and matrix of SSD and NCC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffimg.data.grid import Grid
from diffimg.energy.similarity import SSD
from diffimg.forward.interpolation import value_and_slopes
from diffimg.forward.linear_transform import LinearTransform
from diffimg.forward.spline_lattice import separable

if TYPE_CHECKING:
    from diffimg.registration.alignment import Alignment


def normal_equations(energy: Alignment, parameters: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(E, gradient ``[n]``, matrix ``[n, n]``) over the raveled parameters."""
    linear = isinstance(energy.frame, LinearTransform) and (energy.after is None or isinstance(energy.after, LinearTransform))
    return (_of_linear if linear else _of_columns)(energy, parameters)


def _of_columns(energy, parameters):
    """Any transform: the derivative of the warped image in each parameter, and their products."""
    flat, back = ravel_pytree(parameters)

    def image(v):
        warped, weights = energy.warped(back(v))
        return warped.ravel(), (weights.ravel(), energy.similar(jax.lax.stop_gradient(warped), weights))

    warped, push, (weights, value) = jax.linearize(image, flat, has_aux=True)
    columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))  # [n, samples]
    weights = _normalised(weights)
    matrix = _dot(columns * weights, columns.T)
    gradient, matrix = _equations(energy, value, warped, weights, matrix, lambda image: _dot(columns, image))
    return value, gradient, matrix


def _of_linear(energy, parameters):
    """A linear transform moves samples by sums of a slope of the image times a coordinate: all products of those are moments of few
    images, contracted an axis at a time, and the parameters come in only then."""
    flat, back = ravel_pytree(parameters)
    grid: Grid = energy.fixed_grid
    ndim, size = grid.ndim, [max(n, 2) / 2 for n in grid.shape]
    here = np.asarray(grid.direction) * np.asarray(grid.spacing) * size  # from coordinates of about −1 … 1 to mm
    there = np.linalg.inv(np.asarray(energy.moving_grid.direction) * np.asarray(energy.moving_grid.spacing))
    product = lambda a, b: jnp.matmul(jnp.asarray(a, flat.dtype), jnp.asarray(b, flat.dtype), precision="highest")  # noqa: E731

    def index_map(v):  # [ndim, ndim + 1], from homogeneous coordinates to fractional indices of the moving image, up to a constant
        matrix, offset = energy.transform(back(v)).matrix, energy.transform(back(v)).offset
        moved = jnp.concatenate([product(matrix, here), (product(matrix, grid.centre) + offset)[:, None]], 1)
        return product(there, moved if energy.after is None else product(energy.after.matrix, moved))

    index = energy.index(energy.transform(parameters))
    warped, slopes = value_and_slopes(energy.moving, [jnp.broadcast_to(i, grid.shape) for i in index], energy.order)
    weights = energy.weights(index, warped.dtype)
    value = energy.similar(warped, weights)
    weights = _normalised(weights)
    axes = [(np.arange(n) - (n - 1) / 2) / s for n, s in zip(grid.shape, size, strict=True)]
    powers = [np.stack([x**0, x, x**2]) for x in axes]
    unit = [tuple(int(k == j) for j in range(ndim)) for k in range(ndim)] + [(0,) * ndim]  # exponents of the homogeneous coordinates
    both = np.array([[np.add(a, b) for b in unit] for a in unit])  # [ndim + 1, ndim + 1, ndim]

    def once(image):  # Σ image · coordinate, [ndim + 1]
        moment = separable(image, [p[:2] for p in powers])
        return jnp.stack([moment[e] for e in unit])

    pairs = {}
    for j in range(ndim):
        for k in range(j, ndim):
            pairs[j, k] = pairs[k, j] = separable(weights * slopes[j] * slopes[k], powers)[tuple(np.moveaxis(both, -1, 0))]
    matrix = jnp.stack([jnp.stack([pairs[j, k] for k in range(ndim)], 1) for j in range(ndim)])  # [ndim, ndim + 1, ndim, ndim + 1]
    matrix = matrix.reshape((ndim * (ndim + 1),) * 2)
    push = jax.jacfwd(index_map)(flat).reshape(-1, flat.size)
    matrix = product(push.T, product(matrix, push))

    def against(image):
        return product(push.T, jnp.concatenate([once(slope * image.reshape(grid.shape)) for slope in slopes]))

    gradient, matrix = _equations(energy, value, warped.ravel(), weights.ravel(), matrix, against)
    return value, gradient, matrix


def _equations(energy, value, warped, weights, products, against):
    """(gradient, matrix) from ``products`` Σ w C Cᵀ of the columns C and ``against(image)`` = Σ C image; Σ w = 1."""
    fixed = jnp.asarray(energy.fixed, warped.dtype).ravel()
    if isinstance(energy.similarity, SSD):
        return against(weights * (warped - fixed)), products
    (a, _), (b, scale) = (_standardised(energy, v, weights) for v in (fixed, warped))
    # Of ½‖b − a‖² with b centred and of norm 1: a column loses its mean and its part along b. 1 − Σ w a b is the energy itself.
    means, along = scale * against(weights), scale * against(weights * b)
    gradient = scale * against(weights * (b - a)) - along * value
    matrix = scale**2 * products - jnp.outer(means, means) + (jnp.sum(weights * b**2) - 2) * jnp.outer(along, along)
    return gradient, matrix


def _standardised(energy, image, weights):
    """(centred and divided by its standard deviation, what it was divided by, inverted)."""
    centred = image - jnp.sum(weights * image)
    floor = energy.similarity.floor**2 * jnp.sum(weights * image**2)
    scale = jax.lax.rsqrt(jnp.sum(weights * centred**2) + floor + jnp.finfo(image.dtype).tiny)
    return centred * scale, scale


def _normalised(weights):
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)


def _dot(a, b):
    return jnp.matmul(a, b, precision="highest")
