"""The MNI152 template at 2 mm and known transforms of it, for the benchmarks of registration."""

from __future__ import annotations

import numpy as np

from diffimg import forward, registration
from diffimg.data import Grid, sample


def template(quick: bool = False, name: str = "mni152_t1") -> tuple[np.ndarray, Grid]:
    """float32 ``[95, 117, 99]`` (quick: about a quarter along each axis), largest value 1, and its grid."""
    volume = np.asarray(sample(name).image, np.float32)
    image, grid = registration.coarse(volume / volume.max(), Grid(volume.shape), 8 if quick else 2)
    return np.asarray(image), grid


def seen_through(image: np.ndarray, grid: Grid, transform: forward.Transform, noise: float = 0.01) -> np.ndarray:
    """The fixed image: the moving one at T(x), by a cubic spline, with Gaussian noise."""
    rng = np.random.default_rng(1)
    return np.asarray(forward.warp(image, transform, 3, grid=grid)) + noise * rng.standard_normal(image.shape).astype(np.float32)


def itk_image(values: np.ndarray, grid: Grid):
    """A SimpleITK image of the same samples in the same place."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values)
    image.SetOrigin(grid.itk["origin"])
    image.SetSpacing(grid.itk["spacing"])
    image.SetDirection(grid.itk["direction"])
    return image


def error(found: forward.Transform, truth: forward.Transform, grid: Grid, mask: np.ndarray) -> np.ndarray:
    """‖found − truth‖ in mm at the samples of a mask."""
    return np.linalg.norm(np.asarray(found.displacement(grid) - truth.displacement(grid)), axis=-1)[mask]
