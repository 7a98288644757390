"""Many registrations in one compiled program: pairs of images, or weights of the regularizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import NCC, Similarity
from diffimg.forward.transform import Transform
from diffimg.forward.warp import warp
from diffimg.registration.register import Images, _stages, pipeline
from diffimg.registration.stages import Stage


class Batch(NamedTuple):
    """``transform``, whose arrays have a leading batch axis (``jax.tree.map(lambda v: v[k], transform)`` is that of pair k);
    ``warped`` ``[batch, *shape]``; ``value`` ``[batch]``, the similarity reached."""

    transform: Transform
    warped: jax.Array
    value: jax.Array


def register_batch(
    fixed: Any, moving: Any, stages: Sequence[Stage], similarity: Similarity = NCC(), regularizer: Deformation | None = None, *,  # noqa: B008
    weights: Any = None, fixed_grid: Grid | None = None, moving_grid: Grid | None = None, order: int = 1, parallel: bool | None = None,
) -> Batch:  # fmt: skip
    """``register`` for a batch, compiled once: pure, so it may be differentiated with a gradient rule, jitted and mapped again.

    Args:
        fixed, moving: ``[batch, *shape]``; or one of them, or both, ``[*shape]`` to use it for every member.
        stages, similarity, regularizer, order: as for ``register``; no masks.
        weights: ``[batch]``, factors of the regularizer, one a member: the whole curve of accuracy against regularity.
        fixed_grid, moving_grid: the same for all members; default 1 mm.
        parallel: run the members side by side (``vmap``: as long as the slowest) or one by one; default side by side on GPU and TPU.

    Returns:
        ``Batch(transform, warped, value)``.

    Raises:
        ValueError: shapes do not fit, nothing is batched, or weights without a regularizer.
    """
    fixed, moving = (_floating(name, v) for name, v in (("fixed", fixed), ("moving", moving)))
    ndim = fixed_grid.ndim if fixed_grid is not None else moving_grid.ndim if moving_grid is not None else None
    if ndim is None:
        ndim = min(fixed.ndim, moving.ndim) if weights is not None or fixed.ndim != moving.ndim else fixed.ndim - 1
    fixed_grid = Grid(fixed.shape[-ndim:]) if fixed_grid is None else fixed_grid
    moving_grid = Grid(moving.shape[-ndim:]) if moving_grid is None else moving_grid
    check.trailing_shape("fixed", fixed, fixed_grid.shape, "the fixed grid")
    check.trailing_shape("moving", moving, moving_grid.shape, "the moving grid")
    factors = jnp.asarray(1.0 if weights is None else weights, fixed.dtype)
    if weights is not None and regularizer is None:
        check.fail("weights", "a regularizer to weight", "regularizer=None", "regularizer=Bending(), weights=[0.01, 0.1, 1.0].")
    if factors.ndim > 1:
        check.fail("weights", "shape (batch,)", f"shape {factors.shape}")
    sizes = {v.shape[0] for v, n in ((fixed, ndim), (moving, ndim), (factors, 0)) if v.ndim > n}
    if len(sizes) != 1 or fixed.ndim > ndim + 1 or moving.ndim > ndim + 1:
        got = f"shapes {fixed.shape}, {moving.shape}" + ("" if weights is None else f" and {factors.shape} weights")
        check.fail("fixed, moving, weights", "one batch axis of one length", got, "register() takes a single pair.")
    size = sizes.pop()
    batched = (fixed.ndim > ndim, moving.ndim > ndim, factors.ndim > 0)
    stages = tuple(_stages(stages))
    side_by_side = jax.default_backend() != "cpu" if parallel is None else parallel

    def one(f, m, factor):
        penalty = None if regularizer is None else factor * regularizer
        images = Images(f, m, None, None, fixed_grid, moving_grid)
        metric = similarity.prepared(f, m)
        transform = pipeline(images, stages, metric, penalty, order, None)
        warped = warp(m, transform, order, grid=moving_grid, onto=fixed_grid)
        return Batch(transform, warped, metric(f, warped, spacing=fixed_grid.spacing))

    if side_by_side:
        return jax.vmap(one, in_axes=tuple(0 if b else None for b in batched))(fixed, moving, factors)
    every = [v if b else jnp.broadcast_to(v, (size, *v.shape)) for v, b in zip((fixed, moving, factors), batched, strict=True)]
    return jax.lax.map(lambda v: one(*v), tuple(every))


def _floating(name, value):
    value = jnp.asarray(check.array(name, value))
    check.real(name, value)
    check.finite(name, value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
