"""Square patches of images, and random draws of them for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.samples import Sample, _overlaps


def patches(images: Sequence[Any], size: int, stride: int | None = None) -> np.ndarray:
    """All ``size`` × ``size`` patches of the images whose corners lie on a grid of ``stride`` pixels.

    Args:
        images: ``[y, x]`` each, real, of any sizes of at least ``size``; arrays, :class:`Sample` records or the pairs of ``read_folder``.
        size: side of a patch. stride: from one to the next; None: ``size``, so that they do not overlap.

    Returns:
        float32 ``[n, size, size]`` in the memory of the host, image after image, row after row.

    Raises:
        ValueError: no images, images that are not ``[y, x]`` or are smaller than a patch, NaN/Inf.
    """
    size = check.positive_int("size", size)
    stride = size if stride is None else check.positive_int("stride", stride)
    views = []
    for k, image in enumerate(_images(images)):
        if min(image.shape) < size:
            remedy = "Take smaller patches, or leave it out."
            check.fail(f"images[{k}]", f"at least {size} × {size} pixels", f"shape {image.shape}", remedy)
        views.append(np.lib.stride_tricks.sliding_window_view(image, (size, size))[::stride, ::stride])
    out = np.empty((sum(view.shape[0] * view.shape[1] for view in views), size, size), np.float32)
    start = 0
    for view in views:  # one after the other, for pools may be large
        stop = start + view.shape[0] * view.shape[1]
        out[start:stop].reshape(view.shape)[...] = view
        start = stop
    return out


def scaled(images: Sequence[Any], factors: Sequence[float]) -> list[np.ndarray]:
    """Smaller copies of the images by exact area averages, e.g. for patches of several scales.

    Args:
        images: as in :func:`patches`. factors: in (0, 1]; n pixels become round(factor · n), at least 1; 1 is the image itself.

    Returns:
        float32 ``[y, x]``: all images by the first factor, then all by the next.

    Raises:
        ValueError: no images or factors, factors outside (0, 1], images that are not ``[y, x]``, NaN/Inf.
    """
    originals = [image.astype(np.float32) for image in _images(images)]
    ratios = np.asarray(check.array("factors", factors), float)
    if ratios.ndim != 1 or not ratios.size:
        check.fail("factors", "a list of numbers", f"shape {ratios.shape}", "E.g. (1.0, 0.8, 0.6).")
    if not ((ratios > 0) & (ratios <= 1)).all():
        check.fail("factors", "values in (0, 1]", str(ratios.tolist()), "Area averages only make images smaller.")
    return [_shrunk(image, ratio) for ratio in ratios for image in originals]


def draw(pool: Any, key: jax.Array, count: int, augment: bool = True) -> Any:
    """``count`` random members of a pool, with replacement; each in one of the 8 orientations of a square if ``augment``.

    Pure, and jit-able with ``count`` and ``augment`` static (hand a large pool over as an argument; a NumPy pool outside ``jit`` stays on
    the host but for what is drawn).

    Args:
        pool: ``[n, y, x]``, or, without augmentation, any array or pytree of arrays with the same first axis.
        key: of ``jax.random``. count: how many. augment: turn and mirror, uniformly over the dihedral group; needs y = x.

    Returns:
        ``[count, …]`` of the pool's structure and dtype.

    Raises:
        ValueError: an empty pool, leaves of different length, or ``augment`` with something else than square images.
    """
    count = check.positive_int("count", count)
    leaves = jax.tree.leaves(pool)
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
    if len(lengths) != 1 or lengths == {0}:
        check.fail("pool", "arrays with one common first axis of at least 1", f"first axes {sorted(lengths)}")
    if augment and (len(leaves) != 1 or np.ndim(leaves[0]) != 3 or np.shape(leaves[0])[1] != np.shape(leaves[0])[2]):
        got = f"shapes {[np.shape(leaf) for leaf in leaves[:4]]}"
        check.fail("pool", "square images [n, y, x] where augment=True", got, "Pass augment=False to draw anything else.")
    which, turns = jax.random.split(key)
    index = jax.random.randint(which, (count,), 0, lengths.pop())
    chosen = jax.tree.map(lambda leaf: _taken(leaf, index), pool)
    if not augment:
        return chosen
    orientation = jax.random.randint(turns, (count, 1, 1), 0, 8)
    return jax.tree.map(lambda image: _turned(image, orientation), chosen)


def _taken(leaf, index):
    if isinstance(leaf, np.ndarray) and check.is_concrete(index):
        return jnp.asarray(leaf[np.asarray(index)])
    return jnp.asarray(leaf)[index]


def _turned(image, orientation):
    """The three bits say: transpose, mirror y, mirror x. Their combinations are the 8 symmetries of the square."""
    image = jnp.where(orientation & 1 != 0, jnp.swapaxes(image, 1, 2), image)
    image = jnp.where(orientation & 2 != 0, image[:, ::-1], image)
    return jnp.where(orientation & 4 != 0, image[:, :, ::-1], image)


def _images(images) -> list[np.ndarray]:
    members = [] if images is None else list(images)
    if not members:
        check.fail("images", "at least one image", "none", "E.g. data.photographs('train').")
    arrays = []
    for k, member in enumerate(members):
        name = f"images[{k}]"
        if isinstance(member, tuple) and len(member) == 2 and isinstance(member[0], str):  # of read_folder
            member = member[1]
        image = np.asarray(check.array(name, member.image if isinstance(member, Sample) else member))
        check.ndim(name, image, 2, "[y, x]", "Hand over a list of grey images; take volumes slice by slice.")
        check.real(name, image, "Take magnitudes, or patches of real and imaginary part.")
        if not image.size:
            check.fail(name, "an image with pixels", f"shape {image.shape}")
        check.finite(name, image)
        arrays.append(image)
    return arrays


def _shrunk(image: np.ndarray, ratio: float) -> np.ndarray:
    if ratio == 1:
        return image
    rows, columns = (_overlaps(n, max(1, round(ratio * n))) for n in image.shape)
    return (rows @ image @ columns.T).astype(np.float32)
