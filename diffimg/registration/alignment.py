"""The energy of a registration: E(θ) = S(f, m ∘ T_θ) + R(T_θ)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.energy.base import Energy
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import NCC, SSD, Similarity
from diffimg.forward.interpolation import interpolate_planes
from diffimg.forward.spline import spline_coefficients
from diffimg.forward.transform import Transform, to_index
from diffimg.registration.normal_equations import normal_equations


@pytree
class Alignment(Energy):
    """E(θ) = S(f, m ∘ P ∘ T_θ) + R(T_θ), an energy of the parameters θ of a transform: for any solver and any gradient rule.

    θ is ``frame.parameters(radius)``, in mm; ``transform(θ)`` is T_θ. Everything is differentiable: images, weights of the penalty,
    settings of the similarity, P.

    Args:
        fixed: f, ``[*fixed_grid.shape]``, real.
        moving: m, ``[*moving_grid.shape]``, real; or its coefficients (``spline_coefficients(m, order, "nearest")``) for order > 1.
        similarity: S.
        frame: a transform of the kind that is sought; its fixed numbers (centre, lattice) are kept.
        fixed_grid, moving_grid: where the samples lie.
        penalty: R, or None.
        after: P, applied after T_θ: what earlier stages found.
        fixed_mask, moving_mask: ≥ 0, what counts; default everything.
        order: of the interpolation.
        radius: mm, what a turn by one unit is measured at.
        least_overlap: E is infinite where a smaller part of the fixed mask has a partner.

    Raises:
        ValueError: images, grids and transforms do not fit together.
    """

    fixed: Any
    moving: Any
    similarity: Similarity
    frame: Transform
    fixed_grid: Grid = static()
    moving_grid: Grid = static()
    penalty: Deformation | None = None
    after: Transform | None = None
    fixed_mask: Any = None
    moving_mask: Any = None
    order: int = static(default=1)
    radius: float = static(default=1.0)
    least_overlap: float = static(default=0.1)

    def __post_init__(self):
        for name, transform in (("frame", self.frame), ("after", self.after)):
            if transform is not None and not isinstance(transform, Transform):
                check.fail(name, "a diffimg transform", type(transform).__name__)
            if transform is not None:
                transform._fits(self.fixed_grid)
                transform._fits(self.moving_grid)
        check.shape("fixed", self.fixed, self.fixed_grid.shape, "the fixed grid")
        if self.order < 2:
            check.shape("moving", self.moving, self.moving_grid.shape, "the moving grid")
        for name, grid in (("fixed_mask", self.fixed_grid), ("moving_mask", self.moving_grid)):
            if getattr(self, name) is not None:
                check.shape(name, getattr(self, name), grid.shape, "of its image")

    def transform(self, parameters: Any) -> Transform:
        """T_θ (without P)."""
        return self.frame.with_parameters(parameters, self.radius)

    def start(self) -> dict[str, Any]:
        """θ of ``frame``."""
        return self.frame.parameters(self.radius)

    def warped(self, parameters: Any) -> tuple[jax.Array, jax.Array]:
        """(m ∘ P ∘ T_θ on the fixed grid, weights): no derivative flows through the weights."""
        transform = self.transform(parameters)
        index = self.index(transform)
        warped = interpolate_planes(self.moving, index, self.order, "nearest", prefilter=False)
        warped = jnp.broadcast_to(warped, self.fixed_grid.shape)
        return warped, self.weights(jax.lax.stop_gradient(index), warped.dtype)

    def __call__(self, parameters):
        warped, weights = self.warped(parameters)
        value = self.similar(warped, weights)
        if self.penalty is not None:
            value = value + self.penalty._transform(self.transform(parameters), self.fixed_grid)
        return value

    def value_and_grad(self, x):
        return jax.value_and_grad(self.__call__)(x)

    def similar(self, warped: Any, weights: Any) -> jax.Array:
        """The similarity of a warped image, ∞ where too little overlaps."""
        value = self.similarity._value(jnp.asarray(self.fixed, warped.dtype), warped, weights, self.fixed_grid.spacing)
        return jnp.where(self._enough(weights), value, jnp.inf)

    def index(self, transform: Transform) -> list[Any]:
        """Where the fixed samples lie in the moving image, fractional indices, one array an axis."""
        planes = transform.on_grid(self.fixed_grid)
        return to_index(planes if self.after is None else self.after._map(planes), self.moving_grid)

    def weights(self, index: Any, dtype: Any) -> jax.Array:
        """What counts: the masks, where the moving image reaches."""
        inside = True
        for i, n in zip(index, self.moving_grid.shape, strict=True):
            inside = inside & (i >= -0.5) & (i <= n - 0.5)
        weights = jnp.broadcast_to(inside, self.fixed_grid.shape).astype(dtype)
        if self.fixed_mask is not None:
            weights = weights * jnp.asarray(self.fixed_mask, dtype)
        if self.moving_mask is not None:
            mask = jnp.asarray(self.moving_mask, dtype)
            whole = interpolate_planes((mask > 0).astype(dtype), index, 1, "nearest") > 0.999  # no neighbour that does not count
            weights = weights * jnp.where(whole, interpolate_planes(mask, index, 1, "nearest"), 0)
        return weights

    def _enough(self, weights):
        whole = float(jnp.size(weights)) if self.fixed_mask is None else jnp.sum(jnp.asarray(self.fixed_mask, weights.dtype))
        return jnp.sum(weights) >= self.least_overlap * jnp.maximum(whole, 1e-30)

    @property
    def squares(self) -> bool:
        """Whether ``gauss_newton`` applies: sums of squares without a penalty."""
        return isinstance(self.similarity, (SSD, NCC)) and self.penalty is None

    def gauss_newton(self, parameters: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(E, gradient ``[n]``, Gauss–Newton matrix ``[n, n]``) for SSD and NCC: 1 − corr is half the squared distance of the images
        when both are centred and of norm 1.

        Raises:
            ValueError: another similarity, or a penalty.
        """
        if not self.squares:
            got = f"{self.similarity!r}" + ("" if self.penalty is None else " with a penalty")
            check.fail("similarity", "SSD or NCC without a penalty, for Gauss–Newton steps", got, "Take LBFGS().")
        return normal_equations(self, parameters)


def prepared_image(moving: Any, order: int) -> jax.Array:
    """What ``Alignment`` takes as ``moving``: the image, or its coefficients for orders above 1."""
    return spline_coefficients(moving, order, "nearest") if order > 1 else jnp.asarray(moving)
