"""A simulated multi-coil scan of real brain slices: what the MRI recipes share."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section

SPLIT = (
    "Tissue maps of the MNI152 template (one averaged subject; tuned on slices 96–119, scored on slices 66–85), T2-weighted spin echo at "
    "3 T, smooth simulated phase, data from a grid twice as fine."
)


class Scan(Section):
    """Slices of the template, coils around them, noise."""

    size: int = Field(default=192, ge=48, le=512)  # voxels along each side
    field_of_view: float = Field(default=230.0, gt=150)  # mm
    tune_slice: int = Field(default=108, ge=96, le=119)
    test_slices: list[int] = Field(default=[70, 78], min_length=1)
    coils: int = Field(default=8, ge=1, le=64)  # 1: a coil that sees everything alike
    coil_distance: float = Field(default=1.3, gt=0)  # of the loops from the axis, in units of half the field of view
    coil_radius: float = Field(default=0.5, gt=0)  # of each loop, likewise: eight of these touch
    noise: float = Field(default=0.004, ge=0)  # standard deviation of real and imaginary part; water at TE = 0 is 1
    echo_time: float = Field(default=0.08, gt=0)  # s
    repetition_time: float = Field(default=4.0, gt=0)  # s


@dataclasses.dataclass
class Slices:
    """Full k-space ``[slice, coil, y, x]``, noise-free images ``[slice, y, x]``, coil maps, voxels inside the brain, voxel size (mm), and
    the images on the fine grid."""

    kspace: Any
    truth: Any
    coils: Any
    inside: Any
    spacing: float
    image: Any


@dataclasses.dataclass
class Images:
    """Noise-free images on the fine grid ``[slice, fine y, fine x]``, at the resolution of the scan, their phantom, voxel size (mm)."""

    image: Any
    truth: Any
    brain: Any
    spacing: float


def brain_image(scan: Scan, slices: list[int], key: Any) -> Images:
    """T2-weighted images of slices of the template."""
    import numpy as np

    from diffimg import mri

    spacing = scan.field_of_view / scan.size
    brain = mri.brain(slices, (scan.size, scan.size), spacing=spacing, key=key)
    image = brain.image(lambda t: float(mri.spin_echo(t.density, t.t1, t.t2, tr=scan.repetition_time, te=scan.echo_time)))
    return Images(image, np.asarray(mri.reference(image, (scan.size, scan.size))), brain, spacing)


def coil_maps(scan: Scan, size: int) -> Any:
    """``[coil, size, size]``; one alone sees everything alike."""
    import jax.numpy as jnp

    from diffimg import mri

    if scan.coils == 1:
        return jnp.ones((1, size, size), jnp.complex64)
    return mri.simulated_coils((size, size), scan.coils, distance=scan.coil_distance, radius=scan.coil_radius)


def simulate(scan: Scan, slices: list[int], key: Any) -> Slices:
    """Acquire slices of the template."""
    import jax
    import numpy as np

    from diffimg import mri

    keys = jax.random.split(key, 2)
    made = brain_image(scan, slices, keys[0])
    fine = coil_maps(scan, 2 * scan.size)
    noise = jax.random.split(keys[1], len(slices))
    shape = (scan.size, scan.size)
    kspace = np.stack([np.asarray(mri.acquire(i, shape, fine, noise=scan.noise, key=k)) for i, k in zip(made.image, noise, strict=True)])
    return Slices(kspace, made.truth, coil_maps(scan, scan.size), made.brain.support(), made.spacing, made.image)


def scores(x: Any, truth: Any) -> dict[str, float]:
    """PSNR, SSIM and NMSE of magnitudes in the definitions of the fastMRI challenge, over all slices ``[slice, y, x]``."""
    import jax.numpy as jnp

    from diffimg import metrics

    x, truth = jnp.abs(jnp.asarray(x)), jnp.abs(jnp.asarray(truth))
    return {
        "psnr_db": float(metrics.psnr(x, truth, definition="fastmri", ndim=3)),
        "ssim": float(jnp.mean(metrics.ssim(x, truth, data_range=jnp.max(truth), definition="fastmri"))),
        "nmse": float(metrics.nmse(x, truth, ndim=3)),
    }


DEFINITIONS = {
    "psnr_db": "10 log10(max²/MSE) of magnitudes over all test slices, max of the truth (fastMRI definition)",
    "ssim": "structural similarity of magnitudes, 7 × 7 windows, range of the volume (fastMRI definition)",
    "nmse": "‖|x| − |truth|‖²/‖truth‖² over all test slices (fastMRI definition)",
}
