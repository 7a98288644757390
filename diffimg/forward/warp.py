"""An image seen through a transform: (m ∘ T)(x) = m(T(x)) at the samples of the fixed grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.forward.interpolation import interpolate_planes
from diffimg.forward.operator import Operator
from diffimg.forward.spline import MODES, _check_order
from diffimg.forward.transform import Transform, to_index


def warp(
    image: Any,
    transform: Transform,
    order: int = 1,
    mode: str = "nearest",
    cval: Any = 0.0,
    grid: Grid | None = None,
    onto: Grid | None = None,
    modulated: bool = False,
) -> jax.Array:
    """The moving image at T(x) for every sample x of the fixed grid; one interpolation, however T is composed.

    Args:
        image: ``[..., *samples]``, the moving image; leading axes (channels, batch) go through the same transform. Labels: ``order=0``.
        transform: T, from points of the fixed image to points of the moving one, mm.
        order, mode, cval: of the interpolation, as in ``interpolate``.
        grid: where the moving image's samples lie; default spacing 1 mm, origin 0 (so that points are array indices).
        onto: the fixed grid; default ``grid``.
        modulated: multiply by det ∂T/∂x, which keeps the integral: for densities.

    Returns:
        ``[..., *onto.shape]``.

    Raises:
        ValueError: image, transform and grids do not fit together.
    """
    image = jnp.asarray(check.array("image", image))
    _is_transform(transform)
    ndim = transform.ndim
    if grid is None:
        if image.ndim < ndim:
            check.fail("image", f"at least {ndim} axes, like the transform", f"shape {image.shape}")
        grid = Grid(image.shape[image.ndim - ndim :])
    onto = grid if onto is None else onto
    transform._fits(grid)
    transform._fits(onto)
    check.trailing_shape("image", image, grid.shape, "the moving grid")
    dtype = jnp.result_type(jnp.float32, image.real.dtype if jnp.issubdtype(image.dtype, jnp.inexact) else jnp.float32)
    planes = to_index(transform.on_grid(onto, jnp.promote_types(dtype, transform.dtype)), grid)
    out = interpolate_planes(image, planes, order, mode, cval)
    out = jnp.broadcast_to(out, (*out.shape[: out.ndim - ndim], *onto.shape)) if out.shape[out.ndim - ndim :] != onto.shape else out
    if not modulated:
        return out
    check.inexact("image", image, "Modulated densities are floating: image.astype('float32').")
    return out * transform.jacobian_determinant(onto).astype(out.real.dtype)


@pytree
class Warp(Operator):
    """``warp`` as an operator, linear in the image: to compose with a scan, ``Radon(geometry) @ Warp(transform, grid)``.

    Args:
        transform: T; traced: its numbers are differentiable and may be estimated with the image.
        grid: where the samples of x lie; ``[*grid.shape]`` is the domain.
        onto: the grid of the result; default ``grid``.
        order, mode: of the interpolation; ``"nearest"`` or ``"constant"`` (0 outside) …
        modulated: keep the integral.
        dtype_name: nominal dtype of x.

    Raises:
        ValueError: the transform does not fit the grids.
    """

    transform: Transform
    grid: Grid = static()
    onto: Grid | None = static(default=None)
    order: int = static(default=1)
    mode: str = static(default="nearest")
    modulated: bool = static(default=False)
    dtype_name: str = static(default="float32")

    def __post_init__(self):
        _is_transform(self.transform)
        object.__setattr__(self, "onto", self.grid if self.onto is None else self.onto)
        self.transform._fits(self.grid)
        self.transform._fits(self.onto)
        _check_order(self.order)
        check.one_of("mode", self.mode, MODES)

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.grid.shape, jnp.dtype(self.dtype_name))

    def __call__(self, x):
        return warp(x, self.transform, self.order, self.mode, 0.0, self.grid, self.onto, self.modulated)


def _is_transform(transform):
    if not isinstance(transform, Transform):
        remedy = "e.g. forward.Rigid(rotation, translation, centre), or DisplacementField(u, grid)."
        check.fail("transform", "a diffimg transform", type(transform).__name__, remedy)
