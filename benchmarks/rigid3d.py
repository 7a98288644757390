"""Rigid registration of a real volume moved by a known transform, against SimpleITK with the same metric, sampling and pyramid."""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.harness import Table, Timing, clock
from benchmarks.template import error, itk_image, seen_through, template
from diffimg import forward, registration
from diffimg.energy import SSD, MutualInformation

NOTES = (
    "MNI152 at 2 mm moved by 5.7°, −2.9°, 8.6° about z, y, x and 5, −8, 4 mm, noise of 1 %. Three levels (4, 2, 1), every sample, linear "
    "interpolation on both sides. SimpleITK: regular-step gradient descent with scales from physical shift, 2 threads, stopped by its own "
    "criteria. Errors over the head. Cold: compilation included. agreement: mean distance between the two results, mm. Capture range: the "
    "grey matter map against T1, in place, from random starts within 15° and 20 mm."
)


def known(grid) -> forward.Rigid:
    """The transform that is to be found."""
    return forward.Rigid(np.float32([0.1, -0.05, 0.15]), np.float32([5.0, -8.0, 4.0]), np.asarray(grid.centre, np.float32))


def simple_itk(fixed, moving, grid, metric: str):
    """(seconds, transform) of SimpleITK."""
    import SimpleITK as sitk

    images = itk_image(fixed, grid), itk_image(moving, grid)
    method = sitk.ImageRegistrationMethod()
    if metric == "MSE":
        method.SetMetricAsMeanSquares()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, relaxationFactor=0.5, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    start = sitk.VersorRigid3DTransform()
    start.SetCenter(grid.centre[::-1])
    method.SetInitialTransform(start, inPlace=False)
    method.SetNumberOfThreads(2)
    began = time.perf_counter()
    found = method.Execute(*images)
    seconds = time.perf_counter() - began
    matrix = np.eye(4)
    origin = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
    for k, unit in enumerate(np.eye(3)):
        matrix[:3, k] = np.array(found.TransformPoint(unit.tolist())) - origin
    turned = matrix[:3, :3][::-1, ::-1]
    return seconds, forward.Affine(np.float32(turned), np.float32(origin[::-1]))


def run(quick: bool = False) -> Table:
    """The table."""
    moving, grid = template(quick)
    truth = known(grid)
    fixed = seen_through(moving, grid, truth)
    head = fixed > 0.1
    table = Table("rigid3d", f"Rigid registration, {moving.shape}", NOTES)
    for metric, similarity, bound in (("MSE", SSD(), 10.0), ("Mattes MI", MutualInformation(), 4.0)):

        def own(similarity=similarity):
            result = registration.register(fixed, moving, [registration.Rigid()], similarity, fixed_grid=grid, moving_grid=grid)
            jax.block_until_ready(result.warped)
            return result

        began = time.perf_counter()
        own()
        cold = time.perf_counter() - began
        warm = clock(own, 3 if quick else 5, 0)
        seconds, theirs = simple_itk(fixed, moving, grid, metric)
        ours = warm.result.transform
        apart = float(error(ours, theirs, grid, head).mean())
        table.add(f"{metric}, warm", "SimpleITK", warm, Timing(seconds, 0.0, theirs), apart, cold - warm.median)
        table.add(f"{metric}, cold", "SimpleITK", Timing(cold, 0.0, None), Timing(seconds, 0.0, None), apart)
        mine, other = (float(error(t, truth, grid, head).max()) for t in (ours, theirs))
        table.quantity(f"{metric}, largest error, mm", "SimpleITK", mine, other)
        table.quantity(f"{metric}, largest error, voxels", "bound 0.05", mine / grid.spacing[0], 0.05)
        turn = forward.rotation_vector(np.asarray(ours.matrix, float) @ np.linalg.inv(np.asarray(truth.matrix, float)))
        table.quantity(f"{metric}, error of the rotation, degrees", "bound 0.05", float(np.rad2deg(np.linalg.norm(turn))) + 1e-9, 0.05)
        table.quantity(f"{metric}, own time over SimpleITK's", f"bound 1/{bound:.0f}", warm.median / seconds, 1 / bound)
    starts = 4 if quick else 50
    missed = sum(end > 1 for end in captured(moving, template(quick, "mni152_gm")[0], grid, head, starts))
    table.quantity(f"T1 against grey matter, share of {starts} starts that miss by > 1 mm", "bound 0.05", missed / starts + 1e-9, 0.05)
    return table


def captured(fixed, moving, grid, head, starts: int) -> list[float]:
    """Mean error in mm after each of many searches, from random starts within 15° and 20 mm, by mutual information."""
    rng = np.random.default_rng(7)
    centre, still = np.asarray(grid.centre, np.float32), forward.Translation(np.zeros(3, np.float32))
    ends = []
    for _ in range(starts):
        axis, way = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
        turn, shift = axis * np.deg2rad(rng.uniform(0, 15)), way * rng.uniform(0, 20)
        start = forward.Rigid(np.float32(turn), np.float32(shift), centre)
        stage, options = registration.Rigid(levels=(4, 2)), {"fixed_grid": grid, "moving_grid": grid, "initial": start}
        result = registration.register(fixed, moving, [stage], MutualInformation(), **options)
        ends.append(float(error(result.transform, still, grid, head).mean()))
    return ends
