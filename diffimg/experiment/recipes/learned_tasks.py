"""Two inverse problems to learn on, made from slices of a brain: sparse-view CT and undersampled MRI, measured on a finer grid."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from diffimg.experiment.config import Section

SPLIT = (
    "Axial slices of the MNI152 T1 template (one averaged subject), split by slab with 5 mm between: trained on z 20–46, 65–77, 100–112, "
    "129–144, tuned on 52–59, scored on 83–94 and 118–123. Measured on a grid twice as fine; white is the largest value of the volume."
)


class Images(Section):
    """What to measure: slices of the brain template, or of a folder of one's own or of a public data set (``data.folder_slices``)."""

    folder: str | None = None  # with subfolders train, validation, test, or split by file
    layout: Literal["images", "lodopab", "fastmri"] = "images"
    most: int = Field(default=2000, ge=1)  # slices a split


DENSER = 3  # times as many views, where those between are filled in


class CT(Section):
    """Parallel beams over half a turn, counting noise after the logarithm; the brightest voxel is water, voxels have 2 mm."""

    size: int = Field(default=128, ge=32, le=128)
    views: int = Field(default=60, ge=4)
    photons: float = Field(default=2e4, gt=0)  # of the unattenuated beam, per view and detector cell


class MRI(Section):
    """One coil, whole lines at random with a full centre, a smooth phase."""

    size: int = Field(default=128, ge=32, le=128)
    acceleration: float = Field(default=4.0, gt=1)
    centre: int = Field(default=10, ge=0)  # lines
    noise: float = Field(default=0.01, ge=0)  # standard deviation of real and imaginary part of a sample of the orthonormal transform

    @model_validator(mode="after")
    def _has_room(self) -> MRI:
        if self.centre and self.acceleration >= self.size / self.centre:
            largest = f"below {self.size / self.centre:.3g} with mri.centre = {self.centre} of mri.size = {self.size} lines"
            raise ValueError(f"expected an mri.acceleration {largest}, got {self.acceleration:g}. Lower it or mri.centre.")
        return self


@dataclasses.dataclass(eq=False)
class Denser:
    """A scan with more views: ``measured`` tells for each whether it was taken; ``reconstruct(sinogram)`` of all."""

    measured: Any
    reconstruct: Callable[[Any], Any]


@dataclasses.dataclass(eq=False)
class Problem:
    """An inverse problem y = A x + noise with images to learn from.

    ``operator`` has norm 1; ``measure(fine, key)`` → (truth, y) for ``[image, fine y, fine x]``, pure; ``start(y)`` is the usual first
    reconstruction; ``fine``, ``validation`` = (truth, y), ``test`` = (truth, y). ``shifted(y)``: data of an image of the same magnitude,
    one sample of k-space away (MRI). ``denser``: of few views (CT).
    """

    name: str
    operator: Any
    measure: Callable[[Any, Any], tuple[Any, Any]]
    start: Callable[[Any], Any]
    fine: Any
    validation: tuple[Any, Any]
    test: tuple[Any, Any]
    spacing: float
    noise: float
    shifted: Callable[[Any], Any] | None = None
    denser: Denser | None = None

    def batch(self, key: Any, count: int) -> tuple[Any, Any]:
        """(truth, y) of random training slices, turned and mirrored, measured anew."""
        import jax

        from diffimg import data

        a, b = jax.random.split(key)
        return self.measure(data.draw(self.fine, a, count), b)


def ct_problem(section: CT, seed: int, images: Images | None = None) -> Problem:
    """Sparse-view CT; lengths in voxels, attenuation relative to the brightest voxel."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import ct, forward
    from diffimg.data.samples import MU_WATER

    n = section.size
    count = int(np.ceil(n * np.sqrt(2))) | 1
    angles = np.arange(section.views) * np.pi / section.views
    geometry = forward.ParallelBeam((n, n), angles, count)
    fine = forward.Radon(forward.ParallelBeam((2 * n, 2 * n), angles, count, pixel_size=0.5)).prepare()
    radon = forward.Radon(geometry).prepare()
    norm = float(radon.norm())
    water = MU_WATER * 256 / n  # 1/voxel

    def measure(images, key):
        counts = jax.random.poisson(key, section.photons * jnp.exp(-water * fine(images))).astype(images.dtype)
        y = -jnp.log(jnp.maximum(counts, 0.5) / section.photons) / water
        return _halved(images), y / norm

    def start(y):
        return ct.fbp(y * norm, geometry, filter="hann", cutoff=0.9)

    # where the beam lost most: the standard deviation of a measurement through the middle of the head
    noise = float(np.sqrt(np.exp(water * 0.5 * 0.7 * n) / section.photons) / water / norm)
    problem = _with_slices("CT", (1 / norm) * radon, jax.jit(measure), jax.jit(start), n, seed, noise, images or Images())
    views = DENSER * section.views
    full = forward.ParallelBeam((n, n), np.arange(views) * np.pi / views, count)
    problem.denser = Denser(np.arange(views) % DENSER == 0, lambda y: ct.fbp(y * norm, full, filter="hann", cutoff=0.9))
    return problem


def mri_problem(section: MRI, seed: int, images: Images | None = None) -> Problem:
    """Undersampled Cartesian MRI of one coil."""
    import jax
    import jax.numpy as jnp

    from diffimg import forward, mri
    from diffimg.core.random import standard_normal

    n = section.size
    mask = mri.sampling.variable_density_mask((n, n), section.acceleration, jax.random.key(seed + 77), acs=section.centre)
    operator = forward.MaskedFFT(jnp.asarray(mask, jnp.float32)).prepare()
    crop = slice(n // 2, n // 2 + n)
    grid = (jnp.arange(2 * n) - n) / n
    terms = jnp.stack([grid[:, None] ** i * grid[None] ** j for i in range(3) for j in range(3 - i)])

    def measure(images, key):
        phases, parts = jax.random.split(key)
        phase = jnp.tensordot(jax.random.uniform(phases, (images.shape[0], len(terms)), minval=-1, maxval=1), terms, 1)
        kspace = forward.fft(images * jnp.exp(1j * phase))[:, crop, crop] / 2
        y = operator.mask * (kspace + section.noise * standard_normal(parts, kspace.shape, kspace.dtype))
        return forward.ifft(kspace), y

    problem = _with_slices("MRI", operator, jax.jit(measure), jax.jit(operator.H), n, seed, section.noise, images or Images())
    problem.shifted = lambda y: jnp.roll(y, 1, -1)  # lines run along x, where every sample is measured
    return problem


def _with_slices(name, operator, measure, start, n, seed, noise, images):
    import jax
    import jax.numpy as jnp

    from diffimg import data

    if images.folder is None:
        slices = {split: data.brain_slices(split, n, 2, step) for split, step in (("train", 1), ("validation", 2), ("test", 2))}
        spacing = slices["test"].spacing
    else:
        limits = {"train": images.most, "validation": min(images.most, 50), "test": images.most}
        slices = {s: data.folder_slices(images.folder, s, n, 2, images.layout, most) for s, most in limits.items()}
        spacing = 1.0
    key = jax.random.key(seed + 1000)
    measured = {s: measure(jnp.asarray(slices[s].fine), jax.random.fold_in(key, k)) for k, s in enumerate(("validation", "test"))}
    fine = jnp.asarray(slices["train"].fine)
    return Problem(name, operator, measure, start, fine, measured["validation"], measured["test"], spacing, noise)


def _halved(images):
    return images.reshape(*images.shape[:-2], images.shape[-2] // 2, 2, images.shape[-1] // 2, 2).mean((-3, -1))


@functools.cache
def _scores():
    import jax
    import jax.numpy as jnp

    from diffimg import metrics

    def scores(x, truth):
        x, truth = jnp.abs(x), jnp.abs(truth)
        return jnp.mean(metrics.psnr(x, truth, data_range=1.0)), jnp.mean(metrics.ssim(x, truth, data_range=1.0))

    return jax.jit(scores)


def scores(x: Any, truth: Any) -> dict[str, float]:
    """PSNR (white = 1) and SSIM of magnitudes, means over the slices."""
    psnr, ssim = _scores()(x, truth)
    return {"psnr_db": float(psnr), "ssim": float(ssim)}
