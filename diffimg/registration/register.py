"""``register``: stages from coarse to fine, one transform after the other, one interpolation in the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.data.grid import Grid
from diffimg.data.volume import Volume
from diffimg.energy.deformation import Deformation
from diffimg.energy.similarity import NCC, Similarity
from diffimg.forward.deformation import DisplacementField, FreeForm, VelocityField
from diffimg.forward.interpolation import interpolate_planes
from diffimg.forward.linear_transform import Affine, LinearTransform, Rigid, Translation, rotation_vector
from diffimg.forward.linear_transform import Similarity as SimilarityTransform
from diffimg.forward.transform import Composition, Transform, grid_planes, to_index
from diffimg.registration import stages as kinds
from diffimg.registration.alignment import Alignment, prepared_image
from diffimg.registration.pyramid import coarse
from diffimg.registration.stages import Moments, Stage
from diffimg.solve import LBFGS, LevenbergMarquardt, Problem, Status, run


@dataclasses.dataclass(frozen=True)
class Level:
    """What happened at one level of a stage: name of the stage, grid, ``Status``, steps, energy before and after."""

    stage: str
    shape: tuple[int, ...]
    status: Status
    iterations: int
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Result:
    """``transform`` (fixed → moving, mm); ``warped``, the moving image on the fixed grid; ``levels``; ``status``, the first that is not
    well, else CONVERGED; the grids, and the energy of similarity before and after."""

    transform: Transform
    warped: jax.Array
    levels: tuple[Level, ...]
    status: Status
    fixed_grid: Grid
    moving_grid: Grid
    before: float
    after: float

    def check(self) -> Result:
        """Return self, or raise ``RuntimeError`` where a level failed."""
        if not (self.status.ok or self.status == Status.MAX_STEPS):
            raise RuntimeError(f"{self.status.name}: {self.status.message}. The transform is the best that was found.")
        return self

    def __repr__(self):
        steps = sum(level.iterations for level in self.levels)
        kinds = self.transform.transforms if isinstance(self.transform, Composition) else (self.transform,)
        names = " @ ".join(type(t).__name__ for t in kinds)
        return f"Result({self.status.name}, {steps} steps, similarity {self.before:.6g} → {self.after:.6g}, {names})"


def register(
    fixed: Any,
    moving: Any,
    stages: Sequence[Stage] = (Moments(), kinds.Rigid(), kinds.Affine()),
    similarity: Similarity = NCC(),  # noqa: B008
    regularizer: Deformation | None = None,
    *,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    initial: Transform | None = None,
    order: int = 1,
    progress: Callable[[Level], None] | None = None,
) -> Result:
    """Find T that makes the moving image match the fixed one, m(T(x)) ≈ f(x).

    Args:
        fixed, moving: ``data.Volume``, or real arrays ``[y, x]`` or ``[z, y, x]`` with ``fixed_grid`` and ``moving_grid`` (default: 1 mm,
            origin 0). Spacing, origin and direction are used: the two images may lie anywhere.
        stages: what is sought, one after the other. Linear stages continue each other; deformations are found on top of what came before.
        similarity: ``SSD``, ``NCC``, ``LNCC``, ``NGF``, ``MutualInformation``, ``MIND``.
        regularizer: of stages that deform, e.g. ``0.1 * Bending()``; a stage may have its own ``penalty``.
        fixed_mask, moving_mask: ≥ 0, what counts: arrays like the images, or ``data.Volume`` on any grid.
        initial: a transform to begin with, instead of ``Moments``.
        order: of the interpolation, 1 … 5 (1 is usual).
        progress: called with each finished ``Level``.

    Returns:
        ``Result(transform, warped, levels, status, …)``. A search that fails returns the best it found, and its status.

    Raises:
        ValueError: images, grids, masks or stages do not fit; NaN, constant images, or no overlap at the start.
    """
    images = images_of(fixed, moving, fixed_grid, moving_grid, fixed_mask, moving_mask)
    fixed, fixed_grid, moving_grid = images.fixed, images.fixed_grid, images.moving_grid
    stages = _stages(stages)
    admit(similarity, regularizer, order)
    if initial is not None and not (isinstance(initial, Transform) and initial.ndim == fixed_grid.ndim):
        got = type(initial).__name__ if not isinstance(initial, Transform) else f"one of {initial.ndim} axes"
        check.fail("initial", f"a diffimg transform of {fixed_grid.ndim} axes", got, "e.g. forward.Affine(matrix, offset).")
    similarity = prepared(similarity, images)
    levels: list[Level] = []

    def report(name, shape, result):
        count, objective = int(result.iterations), np.asarray(result.objective)
        levels.append(Level(name, shape, Status(int(result.status)), count, float(objective[0]), float(objective[count])))
        if progress is not None:
            progress(levels[-1])

    start = float(outcome(reached(images, similarity, initial, order))[0])
    if not np.isfinite(start) and not isinstance(stages[0], Moments):
        _no_overlap(fixed_grid, moving_grid)
    transform = pipeline(images, stages, similarity, regularizer, order, initial, report)
    after, warped = outcome(reached(images, similarity, transform, order))
    diverged = not np.isfinite(after)
    if diverged:
        if not np.isfinite(start):
            _no_overlap(fixed_grid, moving_grid)
        transform = Translation(jnp.zeros(fixed_grid.ndim, fixed.dtype)) if initial is None else initial
        after, warped = outcome(reached(images, similarity, transform, order))
    failed = [level.status for level in levels if not (level.status.ok or level.status == Status.MAX_STEPS)]
    failed = [Status.NONFINITE, *failed] if diverged else failed
    status = failed[0] if failed else next((v.status for v in levels if v.status == Status.MAX_STEPS), Status.CONVERGED)
    return Result(transform, warped, tuple(levels), status, fixed_grid, moving_grid, float(start), float(after))


def admit(similarity: Any, regularizer: Any, order: Any) -> None:
    """What a registration is asked to minimise."""
    if not isinstance(similarity, Similarity):
        check.fail("similarity", "a Similarity such as NCC(), with brackets", repr(similarity))
    if regularizer is not None and not isinstance(regularizer, Deformation):
        check.fail("regularizer", "a penalty such as 0.1 * Bending()", repr(regularizer))
    if order not in (1, 2, 3, 4, 5):
        check.fail("order", "a spline of order 1 … 5", repr(order), "Order 0 has no gradient; warp labels with it, afterwards.")


def prepared(similarity: Similarity, images: Images) -> Similarity:
    """The similarity with what depends on the images as a whole."""
    return similarity.prepared(images.fixed, images.moving, images.fixed_grid.spacing, images.moving_grid.spacing)


class Images(NamedTuple):
    """Both images, what counts in them (or None), and where they lie."""

    fixed: Any
    moving: Any
    fixed_mask: Any
    moving_mask: Any
    fixed_grid: Grid
    moving_grid: Grid

    def exchanged(self) -> Images:
        """The moving image as the fixed one."""
        return Images(self.moving, self.fixed, self.moving_mask, self.fixed_mask, self.moving_grid, self.fixed_grid)

    @property
    def radius(self) -> float:
        """mm, the root mean square distance from the middle of the fixed grid: what a turn is measured at."""
        return float(np.sqrt(np.sum(np.square(self.fixed_grid.extent)) / 12))


def images_of(
    fixed: Any, moving: Any, fixed_grid: Grid | None = None, moving_grid: Grid | None = None,
    fixed_mask: Any = None, moving_mask: Any = None,
) -> Images:  # fmt: skip
    """The pair as ``register`` takes it, looked at.

    Raises:
        ValueError: as there.
    """
    fixed, fixed_grid = _image("fixed", fixed, fixed_grid)
    moving, moving_grid = _image("moving", moving, moving_grid)
    if fixed_grid.ndim != moving_grid.ndim:
        got = f"{fixed_grid.ndim} and {moving_grid.ndim}"
        remedy = "Cut the slice out of the volume, or make the slice a volume: image[None]."
        check.fail("fixed, moving", "as many axes in one as in the other", got, remedy)
    fixed_mask, moving_mask = _mask("fixed_mask", fixed_mask, fixed_grid), _mask("moving_mask", moving_mask, moving_grid)
    for name, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        if mask is not None and not float(jnp.sum(mask)) > 0:
            check.fail(f"{name}_mask", f"a mask that leaves something of the {name} image", "nothing", "1 (True) is what counts.")
        seen = None if mask is None else image[mask > 0]
        if seen is not None and float(jnp.min(seen)) == float(jnp.max(seen)):
            check.fail(name, f"an image with contrast inside {name}_mask", f"the value {float(seen[0]):g} everywhere in it")
    return Images(fixed, moving, fixed_mask, moving_mask, fixed_grid, moving_grid)


def pipeline(
    images: Images, stages: Sequence[Stage], similarity: Similarity, regularizer: Deformation | None, order: int,
    initial: Transform | None, report: Callable[[str, tuple[int, ...], Any], None] | None = None,
) -> Transform:  # fmt: skip
    """The stages, one after the other: a pure function of the images (which may be traced) where ``report`` is None."""
    centre = jnp.asarray(images.fixed_grid.centre, images.fixed.dtype)
    settled, linear = initial, None  # T = settled ∘ linear; a linear stage continues ``linear``, a deformation comes before both
    if isinstance(initial, LinearTransform):
        settled, linear = None, initial
    for stage in stages:
        if isinstance(stage, Moments):
            if settled is None and linear is None:
                linear = _moments(images, stage)
            continue
        own = similarity if stage.similarity is None else prepared(stage.similarity, images)
        penalty = stage.penalty if stage.penalty is not None else (None if stage.few else regularizer)
        if isinstance(stage, (kinds.Displacement, kinds.Velocity)) and penalty is None:
            check.fail("regularizer", f"a penalty, for {type(stage).__name__}", "None", "e.g. regularizer=0.1 * Diffusion().")
        found = linear if stage.few else None
        after = settled if stage.few else _composed(settled, linear)
        for k, (factor, steps) in enumerate(zip(stage.levels, stage.steps, strict=True)):  # pyright: ignore[reportGeneralTypeIssues]
            frame = stage.frame(images.fixed_grid, k, centre, images.fixed.dtype)
            frame = frame if found is None else carried(found, frame)
            energy = alignment(images, factor, own, frame, penalty, after, order)
            solver = stage.solver or (LevenbergMarquardt(typical=1.0) if stage.few and energy.squares else LBFGS(typical=1.0))
            tolerance = max(stage.tolerance, 1e-12)
            options = {"gradient": stage.gradient, "objective_every": 0, "prepare": False}
            result = run(solver, Problem(smooth=energy), energy.start(), steps, tolerance, **options)
            found = energy.transform(result.x)
            if report is not None:
                report(type(stage).__name__, energy.fixed_grid.shape, result)
        settled, linear = (settled, found) if stage.few else (_composed(after, found), None)
    found = _composed(settled, linear)
    return Translation(jnp.zeros(images.fixed_grid.ndim, images.fixed.dtype)) if found is None else found


def _composed(outer, inner):
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer @ inner


def alignment(images, factor, similarity, frame, penalty, after, order) -> Alignment:
    """The energy at one level: both images coarser by a factor."""
    fixed, fixed_grid = coarse(images.fixed, images.fixed_grid, factor)
    if max(fixed_grid.shape) < 4 <= max(images.fixed_grid.shape):
        got = f"{factor:g}, which leaves {fixed_grid.shape} of {images.fixed_grid.shape}"
        check.fail("levels", "factors that leave 4 samples or more along some axis", got, "e.g. levels=(2, 1).")
    ratio = [max(1.0, factor * a / b) for a, b in zip(_steps_along(images), images.moving_grid.spacing, strict=True)]
    moving, moving_grid = coarse(images.moving, images.moving_grid, ratio if factor > 1 else 1)
    masks = []
    ratio = ratio if factor > 1 else 1
    for mask, grid, by in ((images.fixed_mask, images.fixed_grid, factor), (images.moving_mask, images.moving_grid, ratio)):
        masks.append(None if mask is None else coarse(mask, grid, by)[0])
    return Alignment(
        fixed, prepared_image(moving, order), similarity, frame, fixed_grid, moving_grid, penalty, after, *masks, order, images.radius
    )


def _steps_along(images):
    """The fixed image's spacing along each axis of the moving one."""
    turn = np.abs(np.asarray(images.moving_grid.direction).T @ np.asarray(images.fixed_grid.direction))
    return (turn**2 @ np.asarray(images.fixed_grid.spacing)).tolist()


def carried(found: Transform, frame: Transform) -> Transform:
    """A transform in the form of another: of the same kind on a finer grid, or a linear one with more freedom (or less: the nearest)."""
    if isinstance(frame, FreeForm) and isinstance(found, FreeForm):
        return found.refined(frame.lattice)
    if isinstance(frame, VelocityField) and isinstance(found, VelocityField):
        index = to_index(grid_planes(frame.grid, found.dtype), found.grid)
        scale = np.asarray(found.grid.spacing) / np.asarray(frame.grid.spacing)
        values = [interpolate_planes(found.vectors[..., k], index, 1) * scale[k] for k in range(found.ndim)]
        return replace(frame, vectors=jnp.stack([jnp.broadcast_to(v, frame.grid.shape) for v in values], -1).astype(found.dtype))
    if type(frame) is type(found) and not isinstance(frame, (DisplacementField, LinearTransform)):
        return found
    if isinstance(frame, DisplacementField):
        return DisplacementField.from_world(found.displacement(frame.grid), frame.grid, frame.outside)
    if not (isinstance(frame, LinearTransform) and isinstance(found, LinearTransform)):
        check.fail("stages", f"a {type(frame).__name__} that continues one of its kind", f"after {type(found).__name__}")
    matrix, offset = jnp.asarray(found.matrix), jnp.asarray(found.offset)
    centre = getattr(frame, "centre", jnp.zeros_like(offset))
    shift = jnp.matmul(matrix, centre, precision="highest") + offset - centre
    if isinstance(frame, Translation):
        middle = shift if not hasattr(found, "centre") else found(found.centre) - found.centre
        return Translation(middle)
    if isinstance(frame, Affine):
        return Affine(matrix, shift, centre)
    if isinstance(found, Translation):
        return replace(frame, translation=shift)
    if isinstance(found, (Rigid, SimilarityTransform)):
        rotation = found.rotation
    else:
        rotation = jnp.asarray(rotation_vector(matrix), offset.dtype)
    if isinstance(frame, Rigid):
        return Rigid(rotation, shift, centre)
    return SimilarityTransform(rotation, jnp.log(jnp.linalg.det(matrix)) / found.ndim, shift, centre)


def _moments(images, stage):
    def middle(image, grid, mask):
        if stage.of == "grid":
            return jnp.asarray(grid.centre, image.dtype)
        mass = image - jnp.min(image)
        mass = mass if mask is None else mass * mask
        planes, total = grid_planes(grid, image.dtype), jnp.sum(mass)
        return jnp.stack([jnp.sum(mass * p) for p in planes]) / total

    moving = middle(images.moving, images.moving_grid, images.moving_mask)
    return Translation(moving - middle(images.fixed, images.fixed_grid, images.fixed_mask))


def reached(images: Images, similarity: Similarity, transform: Transform | None, order: int) -> Alignment:
    """The energy whose value at its start is the similarity under a transform, at full resolution."""
    frame = Translation(jnp.zeros(images.fixed_grid.ndim, images.fixed.dtype)) if transform is None else transform
    return Alignment(
        images.fixed, prepared_image(images.moving, order), similarity, frame, images.fixed_grid, images.moving_grid,
        fixed_mask=images.fixed_mask, moving_mask=images.moving_mask, order=order,
    )  # fmt: skip


@jax.jit
def outcome(energy: Alignment) -> tuple[jax.Array, jax.Array]:
    """(similarity, the moving image warped), at the start of an energy without penalty."""
    warped, weights = energy.warped(energy.start())
    return energy.similar(warped, weights), warped


def _no_overlap(fixed_grid, moving_grid):
    got = f"almost none: the middles lie at {np.round(fixed_grid.centre, 1).tolist()} and {np.round(moving_grid.centre, 1).tolist()} mm"
    remedy = "Begin with stages=[Moments(), …] (--stages moments,rigid), or give initial= or the right grids."
    check.fail("fixed, moving", "images that overlap", got, remedy)


def _image(name, value, grid):
    if not check.is_concrete(getattr(value, "image", value)):
        remedy = "Inside jit or grad take register_batch, or Alignment with solve.run(…, gradient=Implicit())."
        check.fail(name, "an image with values, as register looks at them", "one that is traced", remedy)
    if isinstance(value, Volume):
        if grid is not None:
            check.fail(f"{name}_grid", "none, the volume has its own", "a grid")
        value, grid = value.image, value.grid
    image = jnp.asarray(check.array(name, value))
    image = image if jnp.issubdtype(image.dtype, jnp.inexact) else image.astype(jnp.float32)
    check.real(name, image, "Register magnitudes: abs(image).")
    low, high = map(float, _extremes(image))
    if not (np.isfinite(low) and np.isfinite(high)):
        check.finite(name, image, "Fill the background, and leave it out: register(nan_to_num(image), …, fixed_mask=isfinite(image)).")
    if image.ndim not in (2, 3):
        check.fail(name, "[y, x] or [z, y, x]", f"shape {image.shape}", "Batches: jax.vmap, or one pair after the other.")
    grid = Grid(image.shape) if grid is None else grid
    check.shape(name, image, grid.shape, f"of {name}_grid")
    if low == high:
        check.fail(name, "an image with contrast", f"the value {low:g} everywhere", "There is nothing to match.")
    if image.dtype == jnp.float32:
        size, spread = max(abs(low), abs(high)), high - low
        if size > 1e15 or spread < 1e-15:
            expected = "values whose squares float32 holds (up to 1e15, spread over 1e-15 or more)"
            check.fail(name, expected, f"up to {size:.3g}, over {spread:.3g}", "Scale the image.")
    return image, grid


@jax.jit
def _extremes(image):
    return jnp.min(image), jnp.max(image)


def _mask(name, value, grid):
    if value is None:
        return None
    if isinstance(value, Volume):
        value = resampled_labels(value, grid)
    mask = jnp.asarray(check.array(name, value)).astype(jnp.float32)
    check.shape(name, mask, grid.shape, "of its image")
    check.minimum(name, mask, 0)
    check.finite(name, mask)
    return mask


def resampled_labels(labels: Volume, grid: Grid) -> Any:
    """Labels or a mask on another grid, by nearest neighbours; 0 beyond them."""
    if labels.grid == grid or labels.image.shape != labels.grid.shape:
        return labels.image
    if labels.grid.ndim != grid.ndim:
        check.fail("labels, mask", f"{grid.ndim} axes, like the image", f"{labels.grid.ndim}")
    here = interpolate_planes(labels.image, to_index(grid_planes(grid), labels.grid), 0, "grid-constant")
    return np.asarray(jnp.broadcast_to(here, grid.shape))


def _stages(stages):
    stages = [stages] if isinstance(stages, Stage) else list(stages)
    if not stages:
        check.fail("stages", "at least one stage", "none", "e.g. stages=[Rigid(), BSpline(spacing=20.0)].")
    for stage in stages:
        if not isinstance(stage, Stage):
            check.fail("stages", "stages of diffimg.registration", f"{stage!r}", "e.g. stages=[registration.Rigid()], with brackets.")
    return stages
