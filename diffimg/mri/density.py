"""Density compensation: the area of k-space that each sample stands for."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.forward import nufft_grid as grid
from diffimg.forward.nufft import admit_trajectory

METHODS = ("pipe", "voronoi")


def density_compensation(trajectory: Any, image_shape: tuple[int, ...], method: str = "pipe", steps: int = 30) -> jax.Array:
    """Weights w such that Aᴴ(w · y) approximates the image: areas of k-space in units of one Cartesian sample's, (2π)^d/N.

    Weights of a Cartesian trajectory are 1; those of a disc add up to π/4·N. Use them for a direct (gridding) reconstruction, or as
    ``weights`` of ``LeastSquares``, never by hand on one side of an iteration.

    Args:
        trajectory: ``[..., axis]`` in rad/voxel.
        image_shape: (y, x) or (z, y, x).
        method: ``"pipe"``: iterate w ← w/(K w), K the convolution of the points with the transform of the
            field of view's autocorrelation; differentiable in the
            trajectory. ``"voronoi"``: area of each point's Voronoi cell (volume in 3-D); points that
            coincide share a cell, and cells that reach out of the points' convex hull stand for as much as the nearest one that does
            not; 2-D and 3-D, on the host.
        steps: iterations of "pipe".

    Returns:
        ``[...]`` real.

    Raises:
        ValueError: unknown method, bad shapes, a Voronoi diagram of a traced trajectory or of points on one line.

    J. G. Pipe and P. Menon, Magn. Reson. Med. 41 (1999) 179; K. O. Johnson and J. G. Pipe, Magn. Reson. Med. 61 (2009) 439 (the
    kernel); V. Rasche et al., IEEE Trans. Med. Imaging 18 (1999) 385.
    """
    check.one_of("method", method, METHODS)
    image_shape = tuple(check.positive_int("image_shape", n) for n in image_shape)
    trajectory = admit_trajectory(trajectory, image_shape)
    if method == "pipe":
        check.positive_int("steps", steps)
        trajectory = jnp.asarray(trajectory)
        return _pipe(trajectory.reshape(-1, len(image_shape)), image_shape, steps).reshape(trajectory.shape[:-1])
    if not check.is_concrete(trajectory):
        check.fail("trajectory", "known values for method='voronoi'", "a traced array", "Use method='pipe'.")
    points = np.asarray(trajectory, np.float64)
    return jnp.asarray(_voronoi(points.reshape(-1, len(image_shape)), image_shape).reshape(points.shape[:-1]))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pipe(trajectory, image_shape, steps):
    # K is the transform of the field of view's autocorrelation, a triangle of twice its size: non-negative, and zero between Cartesian
    # samples, whose weights it leaves at 1.
    doubled = tuple(2 * n for n in image_shape)
    p = grid.plan(doubled, 1e-3, 1.5)
    taper = np.ones(())
    for n in image_shape:
        taper = np.multiply.outer(taper, 2 * (1 - np.abs(np.arange(2 * n) - n) / n))
    taper = taper.astype(trajectory.dtype)

    def step(w, _):
        # complex, since the transform is: its imaginary part is rounding
        image = grid.samples_adjoint(p, lax.complex(w, jnp.zeros_like(w)), trajectory)
        return w / grid.samples(p, taper * image, trajectory).real, None

    return lax.scan(step, jnp.ones(trajectory.shape[0], trajectory.dtype), None, length=steps)[0]


def _voronoi(points, image_shape):
    from scipy.spatial import ConvexHull, QhullError, Voronoi, cKDTree

    ndim = len(image_shape)
    unique, place, count = np.unique(np.round(points, 9), axis=0, return_inverse=True, return_counts=True)
    try:
        diagram, hull = Voronoi(unique), ConvexHull(unique)
    except (QhullError, ValueError) as error:
        check.fail("trajectory", "points that span k-space", f"points without a Voronoi diagram ({type(error).__name__})", "Use 'pipe'.")
    areas = np.full(len(unique), np.nan)
    for i, region in enumerate(diagram.point_region):
        corners = diagram.regions[region]
        if -1 not in corners:
            vertices = diagram.vertices[corners]
            if np.all(vertices @ hull.equations[:, :-1].T + hull.equations[:, -1] <= 1e-9):
                areas[i] = _volume(vertices)
    inside = np.isfinite(areas)
    if not inside.any():
        check.fail("trajectory", "points with some Voronoi cell inside their hull", f"{len(unique)} points", "Use method='pipe'.")
    # cells that reach out of the sampled region stand for as much as the nearest one that does not
    areas[~inside] = areas[inside][cKDTree(unique[inside]).query(unique[~inside])[1]]
    place = place.reshape(-1)
    return areas[place] / count[place] * math.prod(image_shape) / (2 * math.pi) ** ndim


def _volume(vertices):
    from scipy.spatial import ConvexHull

    if vertices.shape[1] > 2:
        return ConvexHull(vertices).volume
    centre = vertices.mean(0)
    order = np.argsort(np.arctan2(*(vertices - centre).T))
    y, x = (vertices - centre)[order].T
    return 0.5 * abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))
