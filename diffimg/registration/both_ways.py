"""Two registrations at once, there and back, held to be inverses of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy
from diffimg.energy.deformation import Deformation, inverse_consistency
from diffimg.energy.similarity import NCC, Similarity
from diffimg.forward.transform import Composition, Transform
from diffimg.registration.alignment import Alignment
from diffimg.registration.register import Level, Result, alignment, images_of, outcome, prepared, reached, register
from diffimg.registration.stages import Affine, Moments, Rigid, Stage
from diffimg.solve import LBFGS, Problem, Solver, Status, run


@pytree
class BothWays(Energy):
    """E(θ, φ) = there(θ) + back(φ) + w (½ mean ‖U_φ(T_θ(x)) − x‖² + ½ mean ‖T_θ(U_φ(y)) − y‖²), means over either grid, mm².

    An energy of the pair (θ, φ): for any solver and any gradient rule (Christensen and Johnson, IEEE Trans. Med. Imaging 20(7), 2001).

    Args:
        there: of the fixed image and the moving one.
        back: of the same images, exchanged.
        weight: w ≥ 0, per mm².
    """

    there: Alignment
    back: Alignment
    weight: Any = 0.1

    def __post_init__(self):
        for name in ("there", "back"):
            if not isinstance(getattr(self, name), Alignment):
                check.fail(name, "an Alignment", type(getattr(self, name)).__name__)
        check.minimum("weight", self.weight, 0)
        if self.there.fixed_grid.ndim != self.back.fixed_grid.ndim:
            check.fail("back", f"images of {self.there.fixed_grid.ndim} axes, as of there", f"{self.back.fixed_grid.ndim}")

    def start(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(θ, φ) of the frames."""
        return self.there.start(), self.back.start()

    def transforms(self, x: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Transform, Transform]:
        """The whole transforms, fixed → moving and back."""
        out = []
        for way, parameters in zip((self.there, self.back), x, strict=True):
            own = way.transform(parameters)
            out.append(own if way.after is None else way.after @ own)
        return out[0], out[1]

    def __call__(self, x):
        there, back = self.transforms(x)
        apart = inverse_consistency(there, back, self.there.fixed_grid) + inverse_consistency(back, there, self.back.fixed_grid)
        return self.there(x[0]) + self.back(x[1]) + self.weight * apart


def register_both_ways(
    fixed: Any,
    moving: Any,
    stages: Sequence[Stage] = (Moments(), Rigid(), Affine()),
    similarity: Similarity = NCC(),  # noqa: B008
    regularizer: Deformation | None = None,
    *,
    consistency: Any = 0.1,
    steps: int | None = None,
    solver: Solver | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    order: int = 1,
    **options: Any,
) -> tuple[Result, Result]:
    """(there, back): ``register`` from each side, then the last transforms of both together, held to be inverses by a penalty.

    Args:
        fixed, moving, stages, similarity, regularizer, fixed_mask, moving_mask, order, options: as for ``register``; no ``initial``.
        consistency: weight of the penalty of ``BothWays``, per mm²; 0 leaves the two as they were found.
        steps: of the joint search, at the resolution of the last level; default those of the last level.
        solver: of the joint search, default ``LBFGS()``.

    Raises:
        ValueError: as ``register`` does; a negative weight.
    """
    check.minimum("consistency", consistency, 0)
    if steps is not None:
        check.positive_int("steps", steps)
    if options.get("initial") is not None:
        check.fail("initial", "none, where both directions are sought", "a transform", "Begin with stages=[Moments(), …].")
    common = (stages, similarity, regularizer)
    grids = {"fixed_grid": options.pop("fixed_grid", None), "moving_grid": options.pop("moving_grid", None)}
    swapped = {"fixed_grid": grids["moving_grid"], "moving_grid": grids["fixed_grid"]}
    there = register(fixed, moving, *common, fixed_mask=fixed_mask, moving_mask=moving_mask, order=order, **grids, **options)
    progress = options.get("progress")
    if progress is not None:
        options["progress"] = lambda level: progress(dataclasses.replace(level, stage=f"back: {level.stage}"))
    back = register(moving, fixed, *common, fixed_mask=moving_mask, moving_mask=fixed_mask, order=order, **swapped, **options)
    if check.is_concrete(consistency) and float(consistency) == 0:
        return there, back
    images = images_of(fixed, moving, **grids, fixed_mask=fixed_mask, moving_mask=moving_mask)
    stage = ([stages] if isinstance(stages, Stage) else list(stages))[-1]
    similarity = similarity if stage.similarity is None else stage.similarity
    penalty = stage.penalty if stage.penalty is not None or stage.few else regularizer
    steps = stage.steps[-1] if steps is None else steps  # pyright: ignore[reportIndexIssue]
    ways = []
    for result, pair in ((there, images), (back, images.exchanged())):
        after, own = _split(result.transform)
        ways.append(alignment(pair, stage.levels[-1], prepared(similarity, pair), own, penalty, after, order))
    energy = BothWays(ways[0], ways[1], jnp.asarray(consistency, images.fixed.dtype))
    found = run(solver or LBFGS(typical=1.0), Problem(smooth=energy), energy.start(), steps, objective_every=0, prepare=False)
    status, count, objective = Status(int(found.status)), int(found.iterations), np.asarray(found.objective)
    level = Level("BothWays", ways[0].fixed_grid.shape, status, count, float(objective[0]), float(objective[count]))
    if progress is not None:
        progress(level)
    out = []
    for before, pair, transform in zip((there, back), (images, images.exchanged()), energy.transforms(found.x), strict=True):
        value, warped = outcome(reached(pair, prepared(similarity, pair), transform, order))
        worse = before.status if not (before.status.ok or before.status == Status.MAX_STEPS) else status
        levels = (*before.levels, level)
        out.append(dataclasses.replace(before, transform=transform, warped=warped, levels=levels, status=worse, after=float(value)))
    return out[0], out[1]


def _split(transform):
    """(what is applied afterwards or None, what is applied first): the last that was found is applied first."""
    if not isinstance(transform, Composition):
        return None, transform
    outer = transform.transforms[:-1]
    return (outer[0] if len(outer) == 1 else Composition(outer)), transform.transforms[-1]
