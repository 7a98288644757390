"""Many registrations in one compiled program: pairs of images, or weights of the regularizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import NCC, Similarity
from diffimg.forward.transform import Transform
from diffimg.registration.register import Images, _stages, admit, outcome, pipeline, prepared, reached
from diffimg.registration.stages import Stage


class Batch(NamedTuple):
    """``transform``, whose arrays have a leading batch axis (``jax.tree.map(lambda v: v[k], transform)`` is that of pair k);
    ``warped`` ``[batch, *shape]``; ``value`` ``[batch]``, the similarity reached (∞ without overlap); ``status`` ``[batch]``, the gravest
    ``solve.Status`` of its levels."""

    transform: Transform
    warped: jax.Array
    value: jax.Array
    status: jax.Array

    def __repr__(self):
        return f"Batch({type(self.transform).__name__}, {self.warped.shape[0]} members, value {self.value}, status {self.status})"


def register_batch(
    fixed: Any, moving: Any, stages: Sequence[Stage], similarity: Similarity = NCC(), regularizer: Deformation | None = None, *,  # noqa: B008
    weights: Any = None, fixed_grid: Grid | None = None, moving_grid: Grid | None = None, fixed_mask: Any = None, moving_mask: Any = None,
    order: int = 1, parallel: bool | None = None,
) -> Batch:  # fmt: skip
    """``register`` for a batch, compiled once: pure, so it may be jitted and mapped again, and differentiated where the stages have a
    ``gradient`` rule.

    Args:
        fixed, moving: ``[batch, *shape]``; or one of them, or both, ``[*shape]`` to use it for every member.
        stages, similarity, regularizer, order: as for ``register``.
        fixed_mask, moving_mask: ``[*shape]``, or one for every member.
        weights: ``[batch]``, factors of the regularizer, one a member: the whole curve of accuracy against regularity.
        fixed_grid, moving_grid: the same for all members; default 1 mm.
        parallel: run the members side by side (``vmap``: as long as the slowest) or one by one; default side by side on GPU and TPU.

    Returns:
        ``Batch(transform, warped, value, status)``.

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
    admit(similarity, regularizer, order)
    masks = []
    for name, mask, grid in (("fixed_mask", fixed_mask, fixed_grid), ("moving_mask", moving_mask, moving_grid)):
        mask = jnp.ones(grid.shape) if mask is None else jnp.asarray(check.array(name, mask)).astype(fixed.dtype)
        check.trailing_shape(name, mask, grid.shape, "of its image")
        check.minimum(name, mask, 0)
        masks.append(mask)
    factors = jnp.asarray(1.0 if weights is None else weights, fixed.dtype)
    if weights is not None and regularizer is None:
        check.fail("weights", "a regularizer to weight", "regularizer=None", "regularizer=Bending(), weights=[0.01, 0.1, 1.0].")
    if factors.ndim > 1:
        check.fail("weights", "shape (batch,)", f"shape {factors.shape}")
    inputs = (fixed, moving, factors, *masks)
    plain = (ndim, ndim, 0, ndim, ndim)
    sizes = {v.shape[0] for v, n in zip(inputs, plain, strict=True) if v.ndim > n}
    if len(sizes) != 1 or fixed.ndim > ndim + 1 or moving.ndim > ndim + 1:
        got = f"shapes {fixed.shape}, {moving.shape}" + ("" if weights is None else f" and {factors.shape} weights")
        check.fail("fixed, moving, weights", "one batch axis of one length", got, "register() takes a single pair.")
    size = sizes.pop()
    batched = [v.ndim > n for v, n in zip(inputs, plain, strict=True)]
    masked = [fixed_mask is not None, moving_mask is not None]
    stages = tuple(_stages(stages))
    for name, image in (("fixed", fixed), ("moving", moving)):
        if check.is_concrete(image):
            rows = np.asarray(image).reshape(-1, int(np.prod(image.shape[image.ndim - ndim :])))
            flat = np.flatnonzero(rows.min(1) == rows.max(1))
            if flat.size:
                got = f"one value everywhere in member {flat[0]}" if image.ndim > ndim else "one value everywhere"
                check.fail(name, "images with contrast", got, "There is nothing to match.")
    check.minimum("weights", factors, 0)
    side_by_side = jax.default_backend() != "cpu" if parallel is None else parallel

    def one(f, m, factor, *counts):
        penalty = None if regularizer is None else factor * regularizer
        images = Images(f, m, *(c if used else None for c, used in zip(counts, masked, strict=True)), fixed_grid, moving_grid)
        metric = prepared(similarity, images)
        levels: list[jax.Array] = []
        transform = pipeline(images, stages, metric, penalty, order, None, lambda name, shape, result: levels.append(result.status))
        value, warped = outcome(reached(images, metric, transform, order))
        return Batch(transform, warped, value, jnp.max(jnp.stack([jnp.int32(0), *levels])))

    if side_by_side:
        return jax.vmap(one, in_axes=tuple(0 if b else None for b in batched))(*inputs)
    every = [v if b else jnp.broadcast_to(v, (size, *v.shape)) for v, b in zip(inputs, batched, strict=True)]
    return jax.lax.map(lambda v: one(*v), tuple(every))


def _floating(name, value):
    value = jnp.asarray(check.array(name, value))
    check.real(name, value)
    check.finite(name, value, f"Fill the background, and leave it out: nan_to_num({name}), {name}_mask=isfinite({name}).")
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
