"""What the tests of the projectors' derivatives in the poses share."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.forward import Radon


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@functools.cache
def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def directions(geometry):
    """One for each leaf, and one for all together."""
    leaves, tree = jax.tree.flatten(geometry)
    full = [jnp.asarray(noise(*v.shape, seed=k)) for k, v in enumerate(leaves)]
    for k in range(len(leaves)):
        yield jax.tree.unflatten(tree, [v if j == k else jnp.zeros_like(v) for j, v in enumerate(full)])
    yield jax.tree.unflatten(tree, full)


def moved(geometry, step, direction):
    return jax.tree.map(lambda v, d: v + step * d, geometry, direction)


def dot(a, b):
    return sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def means(edges, fixed, bounds):
    """Shares of the pixels between ``bounds`` in the mean over each cell, ``[..., cell, pixel]``, where the cells' ``edges [..., edge]``
    moved from ``fixed`` over the pixels interpolated linearly."""
    width, middle = bounds[1] - bounds[0], (bounds[1:] + bounds[:-1]) / 2

    def way(x):
        u = np.clip((x[..., None] - middle) / width, -1, 1)
        return width * (u - u * np.abs(u) / 2)

    running = np.clip(fixed[..., None] - bounds[:-1], 0, width) + way(edges) - way(fixed)
    size = np.diff(edges)[..., None]
    return np.diff(running, axis=-2) / np.where(size == 0, 1, size)


def check_first(geometry, image, sinogram, reference, options=None):
    """Both modes, of projector and adjoint, against central differences of ``reference(geometry, fixed)``, the sinogram of the image."""
    x, y = jnp.asarray(image), jnp.asarray(sinogram)

    def project(g):
        return Radon(g, **(options or {}))(x)

    def back(g):
        return Radon(g, **(options or {})).H(y)

    slope = jax.jit(lambda d: jax.jvp(project, (geometry,), (d,))[1])
    slope_back = jax.jit(lambda d: jnp.vdot(x, jax.jvp(back, (geometry,), (d,))[1]))
    gradient = jax.jit(lambda g: jax.vjp(project, g)[1](y)[0])(geometry)
    gradient_back = jax.jit(lambda g: jax.vjp(back, g)[1](x)[0])(geometry)
    step = 1e-5
    for direction in directions(geometry):
        tangent = slope(direction)
        numeric = (reference(moved(geometry, step, direction), geometry) - reference(moved(geometry, -step, direction), geometry)) / (
            2 * step
        )
        np.testing.assert_allclose(tangent, numeric, rtol=0, atol=2e-5 * np.abs(numeric).max())
        expected = jnp.vdot(y, tangent)
        for other in (dot(gradient, direction), dot(gradient_back, direction), slope_back(direction)):
            np.testing.assert_allclose(other, expected, rtol=1e-9, atol=1e-9)


def check_second(geometry, image, sinogram, options=None):
    """Second derivatives in the poses are symmetric and the same in every order of modes, also those mixed with the image."""
    x, y, h = jnp.asarray(image), jnp.asarray(sinogram), jnp.asarray(noise(*image.shape, seed=9))
    *_, first = directions(geometry)
    second = jax.tree.map(lambda v: jnp.asarray(noise(*v.shape, seed=8)), geometry)

    def loss(g, x):
        return 0.5 * jnp.sum((Radon(g, **(options or {}))(x) - y) ** 2)

    both = jax.jit(lambda d: jax.jvp(lambda g: jax.grad(loss, (0, 1))(g, x), (geometry,), (d,))[1])
    curvature, mixed = both(first)
    reverse = jax.jit(jax.grad(lambda g: dot(jax.grad(loss)(g, x), first)))(geometry)
    np.testing.assert_allclose(dot(curvature, second), dot(both(second)[0], first), rtol=1e-9)
    np.testing.assert_allclose(dot(reverse, second), dot(curvature, second), rtol=1e-9)
    crossed = jax.jit(jax.grad(lambda g: jnp.vdot(h, jax.grad(loss, 1)(g, x))))(geometry)
    np.testing.assert_allclose(dot(crossed, first), jnp.vdot(h, mixed), rtol=1e-9)


def check_smooth(project, geometry, path, first, second):
    """Pointwise derivatives along ``path(geometry, t)`` against those of the analytic projections: ``project`` holds (own, exact)."""
    t = jnp.zeros(())

    def slope(function):
        return lambda t: jax.jvp(lambda s: function(path(geometry, s)), (t,), (jnp.ones_like(t),))[1]

    own, exact = (jax.jit(slope(p))(t) for p in project)
    assert relative(own, exact) < first, relative(own, exact)
    own, exact = (jax.jit(lambda t, p=p: jax.jvp(slope(p), (t,), (jnp.ones_like(t),))[1])(t) for p in project)
    assert relative(own, exact) < second, relative(own, exact)
