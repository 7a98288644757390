"""Motion during a scan: the energy of the motion, given the image that moves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.energy.base import Energy
from diffimg.energy.deformation import Deformation
from diffimg.forward.deformation import FreeForm
from diffimg.forward.operator import Operator
from diffimg.forward.warp import warp


@pytree
class MotionEnergy(Energy):
    """E(θ) = Σ_g ½‖A_g(x ∘ T_g) − y_g‖² / norm + R(T_g), T_g the free-form deformations of states g = 0, 1, … of something that moves.

    θ is ``[states, *lattice.shape, ndim]`` mm. The first state rests (its θ counts as 0): what all states share belongs to the image.
    Alternated with a reconstruction of x through ``A_g @ Warp(T_g, grid)`` it estimates image and motion together.

    Args:
        image: x, ``[*grid.shape]``, real or complex, in the state of rest.
        scans: A_g, one operator a state.
        data: y_g.
        penalty: R.
        norm: e.g. Σ ‖y_g‖², so that E does not depend on the unit of the data.
        grid: of x.
        lattice: of the deformations (``forward.spline_lattice``).

    Raises:
        ValueError: as many data as scans are expected, at least two.
    """

    image: Any
    scans: tuple[Operator, ...]
    data: tuple[Any, ...]
    penalty: Deformation
    norm: Any
    grid: Grid = static()
    lattice: Grid = static()

    def __post_init__(self):
        object.__setattr__(self, "scans", tuple(self.scans))
        object.__setattr__(self, "data", tuple(self.data))
        if len(self.scans) < 2 or len(self.scans) != len(self.data):
            check.fail("scans, data", "as many of one as of the other, at least two", f"{len(self.scans)} and {len(self.data)}")
        check.trailing_shape("image", self.image, self.grid.shape, "the grid")

    def motions(self, x: Any) -> tuple[FreeForm, ...]:
        """T_g of θ."""
        return tuple(FreeForm(x[g] * (g > 0), self.lattice) for g in range(len(self.scans)))

    def __call__(self, x):
        total = jnp.zeros((), x.dtype)
        for motion, scan, y in zip(self.motions(x), self.scans, self.data, strict=True):
            difference = scan(warp(self.image, motion, grid=self.grid)) - y
            total = total + 0.5 * jnp.sum(jnp.abs(difference) ** 2) / self.norm + self.penalty(motion, self.grid)
        return total

    def value_and_grad(self, x):
        return jax.value_and_grad(self.__call__)(x)
