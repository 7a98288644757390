"""What a registration does one after the other: kinds of transforms, resolutions, and how long to look."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import Similarity
from diffimg.forward import deformation, implicit, linear_transform
from diffimg.forward.spline_lattice import spline_lattice
from diffimg.solve.gradients import GradientRule
from diffimg.solve.solver import Solver


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of transform, from coarse to fine.

    Args:
        levels: how many times coarser than the images each level is, first to last.
        steps: of the solver at each level, one number or one a level.
        tolerance: stop a level when parameters change by less, relative to their size or to 1 mm.
        gradient: rule by which ``register_batch`` is differentiated, e.g. ``solve.Unroll()``; None: forward mode only.
        similarity, penalty, solver: instead of those of ``register``; the solver by default is Levenberg–Marquardt for few parameters
            with SSD or NCC, and L-BFGS otherwise.

    Raises:
        ValueError: no levels, levels below 1 or that become coarser, or numbers of steps that do not fit.
    """

    levels: tuple[float, ...] = (4, 2, 1)
    steps: int | tuple[int, ...] = 50
    tolerance: float = 1e-4
    similarity: Similarity | None = None
    penalty: Deformation | None = None
    solver: Solver | None = None
    gradient: GradientRule | None = None
    few: ClassVar[bool] = True

    def __post_init__(self):
        levels = self.levels if isinstance(self.levels, (tuple, list)) else (self.levels,)
        if not levels:
            check.fail("levels", "at least one", "none", "levels=(1,) works at full resolution.")
        check.minimum("levels", np.asarray(levels, float), 1, remedy="4 means a quarter of the samples along each axis.")
        if list(levels) != sorted(levels, reverse=True):
            check.fail("levels", "factors from coarse to fine", repr(tuple(levels)), f"levels={tuple(sorted(levels, reverse=True))}.")
        object.__setattr__(self, "levels", tuple(levels))
        steps = tuple(self.steps) if isinstance(self.steps, (tuple, list)) else (self.steps,) * len(levels)
        if len(steps) != len(levels):
            check.fail("steps", f"one number, or {len(levels)}, one a level", f"{len(steps)}")
        object.__setattr__(self, "steps", tuple(check.positive_int("steps", s) for s in steps))
        check.minimum("tolerance", self.tolerance, 0)

    def frame(self, fixed: Grid, level: int, centre: Any, dtype: Any) -> Any:
        """The identity among the transforms of this stage, at a level."""
        raise TypeError(f"{type(self).__name__} must define frame.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Linear(Stage):
    kind: ClassVar[Any] = None

    def frame(self, fixed, level, centre, dtype):
        return self.kind.identity(fixed.ndim, centre, dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(_Linear):
    """x ↦ x + t."""

    kind: ClassVar[Any] = linear_transform.Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rigid(_Linear):
    """Rotation and translation: 3 numbers in 2-D, 6 in 3-D."""

    kind: ClassVar[Any] = linear_transform.Rigid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar(_Linear):
    """Rotation, translation and one scale."""

    kind: ClassVar[Any] = linear_transform.Similarity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine(_Linear):
    """Any linear map: 6 numbers in 2-D, 12 in 3-D."""

    kind: ClassVar[Any] = linear_transform.Affine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments(Stage):
    """Centre of mass onto centre of mass, a start without a search, where there is none yet.

    Args:
        of: ``"intensity"`` (above the lowest), or ``"grid"``: middle onto middle.
    """

    of: str = "intensity"

    def __post_init__(self):
        super().__post_init__()
        check.one_of("of", self.of, ("intensity", "grid"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BSpline(Stage):
    """Free-form deformation on a lattice, finer at every level.

    Args:
        spacing: mm between control points at the last level; each coarser level has them as much wider as its images are coarser.
        mesh: cells at the last level, instead.
        order: of the B-spline.
    """

    spacing: Any = None
    mesh: Any = None
    order: int = 3
    few: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if (self.spacing is None) == (self.mesh is None):
            check.fail("spacing, mesh", "one of the two", "both or neither", "BSpline(spacing=20.0), in mm.")
        for name in ("spacing", "mesh"):
            if getattr(self, name) is not None:
                check.minimum(name, np.asarray(getattr(self, name)), 0, strict=True)

    def frame(self, fixed, level, centre, dtype):
        last = spline_lattice(fixed, self.spacing, self.mesh, self.order)
        wider = self.levels[level] / self.levels[-1]
        mesh = tuple(max(1, int(np.ceil((n - self.order) / wider - 1e-9))) for n in last.shape)
        return deformation.FreeForm.identity(fixed, mesh=mesh, order=self.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Displacement(Stage):
    """A displacement of every sample; needs a penalty."""

    few: ClassVar[bool] = False

    def frame(self, fixed, level, centre, dtype):
        return deformation.DisplacementField.identity(fixed.coarser(self.levels[level]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Velocity(Stage):
    """exp of a stationary velocity field: one to one, with its inverse for free; needs a penalty.

    Args:
        squarings: of scaling and squaring.
    """

    squarings: int = 6
    few: ClassVar[bool] = False

    def frame(self, fixed, level, centre, dtype):
        return deformation.VelocityField.identity(fixed.coarser(self.levels[level]), self.squarings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implicit(Stage):
    """A deformation held by a network of coordinates (SIREN); no penalty is needed, but one is allowed.

    Args:
        widths: of the hidden layers.
        frequency: ω of the sines: the larger, the finer the deformation.
        seed: of the random start.
    """

    widths: tuple[int, ...] = (64, 64)
    frequency: float = 10.0
    seed: int = 0
    few: ClassVar[bool] = False

    def frame(self, fixed, level, centre, dtype):
        import jax

        return implicit.Siren.identity(fixed, self.widths, key=jax.random.key(self.seed), frequency=self.frequency)
