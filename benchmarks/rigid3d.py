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
    "criteria. Errors over the head. Cold: compilation included. agreement: mean distance between the two results, mm."
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
    return table
