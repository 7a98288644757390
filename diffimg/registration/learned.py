"""Registration in one pass of a network: it looks at both images and returns the transform (VoxelMorph and its kin)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import NCC, Similarity
from diffimg.forward.deformation import DisplacementField, FreeForm, VelocityField
from diffimg.forward.spline_lattice import basis, separable, spline_lattice
from diffimg.forward.transform import Transform, grid_planes
from diffimg.registration.alignment import Alignment, prepared_image
from diffimg.solve import LBFGS, Problem, Status, run
from diffimg.solve.solver import Solver

HEADS = ("displacement", "velocity", "spline")


@dataclasses.dataclass(frozen=True)
class LearnedRegistration:
    """(parameters, fixed, moving) → T, by a network of both images.

    Args:
        apply: of ``nn.split``: ``[*shape, 2]`` (fixed, moving) → ``[*space, ndim]``, e.g. of ``nn.UNet(inputs=2, outputs=ndim)``. For
            ``"spline"`` the space may be coarser than the image's, as that of ``nn.Encoder``.
        grid: of both images.
        head: what the network's output is: a ``"displacement"`` of every sample, a stationary ``"velocity"``, in samples; or
            ``"spline"``: samples of a displacement, of which the B-spline is taken that fits them best.
        spacing: mm between the control points, for ``"spline"``.
        squarings: of scaling and squaring, for ``"velocity"``.
        order: of the interpolation.

    Raises:
        ValueError: an unknown head, or a spline without spacing.

    G. Balakrishnan et al., IEEE Transactions on Medical Imaging 38 (2019) 1788; A. V. Dalca et al., MICCAI 2018 (velocity).
    """

    apply: Callable[..., Any]
    grid: Grid
    head: str = "displacement"
    spacing: float | None = None
    squarings: int = 6
    order: int = 1

    def __post_init__(self):
        check.one_of("head", self.head, HEADS)
        if not isinstance(self.grid, Grid):
            check.fail("grid", "a data.Grid", type(self.grid).__name__)
        if (self.head == "spline") != (self.spacing is not None):
            check.fail("spacing", 'mm between control points for head="spline", and none otherwise', repr(self.spacing))
        check.positive_int("squarings", self.squarings)

    def transform(self, params: Any, fixed: Any, moving: Any) -> Transform:
        """T for one pair ``[*grid.shape]``; batches by ``jax.vmap``."""
        fixed, moving = (jnp.asarray(check.array(name, v), jnp.float32) for name, v in (("fixed", fixed), ("moving", moving)))
        for name, image in (("fixed", fixed), ("moving", moving)):
            check.shape(name, image, self.grid.shape, "the grid that the network was made for")
        out = self.apply(params, jnp.stack([fixed, moving], -1))
        if out.ndim != self.grid.ndim + 1 or out.shape[-1] != self.grid.ndim:
            expected = f"a network with {self.grid.ndim} outputs, one a coordinate"
            check.fail("apply", expected, f"an output of shape {out.shape}", f"nn.UNet(inputs=2, outputs={self.grid.ndim}).")
        if self.head == "spline":
            lattice, matrices = self._fit(out.shape[:-1])
            moved = DisplacementField(out, self._space(out.shape[:-1]))
            world = jnp.stack([p - q for p, q in zip(moved.on_grid(moved.grid), grid_planes(moved.grid), strict=True)], -1)
            return FreeForm(separable(world, matrices), lattice)
        if out.shape[:-1] != self.grid.shape:
            remedy = 'head="spline" takes coarser.'
            check.fail("apply", f"an output of the size {self.grid.shape} of the images", f"{out.shape[:-1]}", remedy)
        return DisplacementField(out, self.grid) if self.head == "displacement" else VelocityField(out, self.grid, self.squarings)

    def _space(self, shape):
        """The grid on which the network's output lies: the image's, or one of 2ᵏ times wider samples, which may reach beyond it."""
        if tuple(shape) == self.grid.shape:
            return self.grid
        factor = 2 ** round(np.log2(self.grid.shape[0] / shape[0]))
        if tuple(-(-n // factor) for n in self.grid.shape) != tuple(shape):
            check.fail("apply", "an output 2ᵏ times smaller than the images", f"{tuple(shape)} for images of {self.grid.shape}")
        spacing = tuple(factor * h for h in self.grid.spacing)
        origin = np.asarray(self.grid.origin) + np.asarray(self.grid.direction) @ (np.asarray(self.grid.spacing) * (factor - 1) / 2)
        return Grid(tuple(shape), spacing, tuple(origin.tolist()), self.grid.direction)

    def _fit(self, shape):
        """(lattice, a matrix an axis from samples to coefficients: least squares, the smallest ones where that leaves a choice)."""
        space, lattice = self._space(shape), spline_lattice(self.grid, self.spacing)
        return lattice, [np.linalg.pinv(basis(space, lattice, 3, k), rcond=1e-3) for k in range(self.grid.ndim)]

    def loss(
        self, similarity: Similarity = NCC(), penalty: Deformation | None = None, fixed_mask: Any = None, moving_mask: Any = None  # noqa: B008
    ) -> Callable[..., Any]:
        """``loss(params, (fixed, moving), key)`` for ``learn.train``, without supervision: similarity + penalty, means of a batch.

        ``fixed_mask``, ``moving_mask``: what counts, the same for every pair.
        """

        def one(params, fixed, moving):
            energy, start = self._energy(params, fixed, moving, similarity, penalty, (fixed_mask, moving_mask))
            return energy(start)

        def loss(params, batch, key=None):
            fixed, moving = batch[:2]
            return jnp.mean(jax.vmap(one, in_axes=(None, 0, 0))(params, fixed, moving))

        return loss

    def refine(
        self, params: Any, fixed: Any, moving: Any, similarity: Similarity = NCC(), penalty: Deformation | None = None, *,  # noqa: B008
        steps: int = 20, solver: Solver | None = None, fixed_mask: Any = None, moving_mask: Any = None,
    ) -> tuple[Transform, Status]:  # fmt: skip
        """(T, status): from the network's answer on, some steps of the optimisation of this very pair (instance optimisation)."""
        images, solver = (jnp.asarray(fixed), jnp.asarray(moving)), solver or LBFGS(typical=1.0)
        found, status = _refined(self, params, *images, similarity, penalty, steps, solver, (fixed_mask, moving_mask))
        return found, Status(int(status))

    def _energy(self, params, fixed, moving, similarity, penalty, masks):
        frame = self.transform(params, fixed, moving)
        similarity = similarity.prepared(fixed, moving, self.grid.spacing, self.grid.spacing)
        images = (jnp.asarray(fixed, jnp.float32), prepared_image(jnp.asarray(moving, jnp.float32), self.order))
        energy = Alignment(*images, similarity, frame, self.grid, self.grid, penalty, None, *masks, order=self.order)
        return energy, energy.start()


@functools.partial(jax.jit, static_argnums=(0, 6))
def _refined(learned, params, fixed, moving, similarity, penalty, steps, solver, masks):
    energy, start = learned._energy(params, fixed, moving, similarity, penalty, masks)
    result = run(solver, Problem(smooth=energy), start, steps, objective_every=0, prepare=False)
    return energy.transform(result.x), result.status
