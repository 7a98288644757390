"""Brain slices from real tissue maps with MR parameters, and their k-space without the inverse crime."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.samples import sample
from diffimg.forward.fourier import fft, ifft
from diffimg.mri.tissue import Tissue, tissues

# slabs of the template (1 mm slices) for tuning and for tests, 10 mm apart
TRAIN_SLICES = tuple(range(96, 120))
TEST_SLICES = tuple(range(66, 86))


@dataclasses.dataclass(frozen=True, eq=False)
class BrainPhantom:
    """Slices of a brain on a grid ``oversampling`` times finer than the one to reconstruct on; all maps ``[slice, y, x]`` float32.

    The tissue maps are those of the MNI152 template: *one* averaged subject. It is smoother than any scan and flatters methods that
    like smooth images; phase and field are simulated.

    Attributes:
        fractions: of "grey", "white" and "csf" in each voxel, ≤ 1 together.
        phase: smooth image phase, rad.
        off_resonance: smooth, rad/s.
        shape: (y, x) of the grid to reconstruct on.
        spacing: of that grid, mm.
        oversampling: fine voxels per coarse one and axis.
        tissues: relaxation times.
    """

    fractions: dict[str, np.ndarray] = dataclasses.field(repr=False)
    phase: np.ndarray = dataclasses.field(repr=False)
    off_resonance: np.ndarray = dataclasses.field(repr=False)
    shape: tuple[int, int]
    spacing: float
    oversampling: int
    tissues: dict[str, Tissue] = dataclasses.field(repr=False)

    def image(self, signal: Callable[[Tissue], Any], phase: bool = True) -> np.ndarray:
        """Σ fraction · ``signal(tissue)`` on the fine grid, with the smooth phase: complex64 ``[slice, y, x]``."""
        out = sum(f * complex(signal(self.tissues[name])) for name, f in self.fractions.items())
        return (out * np.exp(1j * self.phase) if phase else out).astype(np.complex64)

    def parameter(self, name: str) -> np.ndarray:
        """The tissues' mean of "density", "t1", "t2" or "t2_star", weighted by their fractions; density is 0 outside, times are 1 s."""
        values = sum(f * getattr(self.tissues[t], name) for t, f in self.fractions.items())
        if name == "density":
            return values.astype(np.float32)
        total = sum(self.fractions.values())
        return np.where(total > 1e-3, values / np.maximum(total, 1e-3), 1.0).astype(np.float32)

    def support(self) -> np.ndarray:
        """``[slice, *shape]`` bool on the grid of the reconstruction: more than half inside the brain."""
        return self.coarse(sum(self.fractions.values())) > 0.5

    def coarse(self, fine: np.ndarray) -> np.ndarray:
        """A fine map at the centres of the voxels of the reconstruction, ``[..., *shape]``."""
        return _coarse(fine, self.oversampling)


def _coarse(fine, factor):
    """Samples of the fine maps at the coarse voxels' centres."""
    ny, nx = (n // factor for n in fine.shape[-2:])
    y = (np.arange(ny) - ny // 2) * factor + fine.shape[-2] // 2
    x = (np.arange(nx) - nx // 2) * factor + fine.shape[-1] // 2
    return fine[..., y[:, None], x]


def brain(
    slices: Sequence[int] = (90,),
    shape: tuple[int, int] = (256, 256),
    *,
    spacing: float = 0.9,
    oversampling: int = 2,
    field: float = 3.0,
    key: jax.Array | None = None,
    phase: float = 1.0,
    off_resonance: float = 2 * math.pi * 40,
) -> BrainPhantom:
    """Axial slices of the MNI152 template with tissue parameters, smooth phase and field inhomogeneity.

    Args:
        slices: indices of the template's 1 mm slices (0 … 188); tune on ``TRAIN_SLICES``, test on ``TEST_SLICES``.
        shape: (y, x) of the grid to reconstruct on. spacing: its voxels, mm.
        oversampling: the maps are this much finer.
        field: T, 1.5 or 3 (tissue parameters).
        key: of the phase and field maps. phase: their standard deviation, rad. off_resonance: rad/s.

    Raises:
        ValueError: slices outside the template, a field of view smaller than the brain.
    """
    shape = (check.positive_int("shape", shape[0]), check.positive_int("shape", shape[1]))
    check.positive_int("oversampling", oversampling)
    grey, white, t1 = (np.asarray(sample(f"mni152_{name}").image) for name in ("gm", "wm", "t1"))
    slices = [int(z) for z in slices]
    if not slices or not all(0 <= z < grey.shape[0] for z in slices):
        check.fail("slices", f"indices in 0 … {grey.shape[0] - 1}", str(slices))
    needed = 180 / spacing
    if min(shape) < 0.8 * needed:
        remedy = f"Take at least {math.ceil(needed)} voxels of {spacing} mm, or larger voxels."
        check.fail("shape, spacing", "a field of view that holds the brain, about 180 mm", f"{min(shape) * spacing:.0f} mm", remedy)
    fine = tuple(n * oversampling for n in shape)
    step = spacing / oversampling
    from scipy.ndimage import map_coordinates

    middle = (115.0, 98.5)  # of the brain in the template
    y, x = ((np.arange(n) - n // 2) * step + c for n, c in zip(fine, middle, strict=True))
    points = np.meshgrid(y, x, indexing="ij")

    def resample(volume):
        return np.stack([np.clip(map_coordinates(volume[z], points, order=1, prefilter=False), 0, 1) for z in slices])

    parts = {"grey": resample(grey), "white": resample(white)}
    inside = resample((t1 > 0).astype(np.float32))
    total = parts["grey"] + parts["white"]
    excess = np.maximum(total / np.maximum(inside, 1e-6), 1.0)
    parts = {name: (v / excess).astype(np.float32) for name, v in parts.items()}
    parts["csf"] = np.maximum(inside - parts["grey"] - parts["white"], 0).astype(np.float32)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key)).astype(np.uint32))
    maps = [np.stack([_smooth_field(generator, fine) for _ in slices]) for _ in range(2)]
    return BrainPhantom(
        parts,
        (phase * maps[0]).astype(np.float32),
        (off_resonance * maps[1]).astype(np.float32),
        shape,
        spacing,
        oversampling,
        tissues(field),
    )


def _smooth_field(generator, shape):
    """A random combination of the lowest cosines in the field of view, standard deviation about 1."""
    v, u = ((np.arange(n) - n // 2) / n for n in shape)
    out = np.zeros(shape)
    for i in range(4):
        for j in range(4):
            if 0 < i + j <= 4:
                a = generator.normal() / (i + j) ** 1.5
                out += a * np.cos(np.pi * i * (v + 0.5))[:, None] * np.cos(np.pi * j * (u + 0.5))
    return out


def acquire(image: Any, shape: tuple[int, int], coils: Any = None, *, noise: float = 0.0, key: jax.Array | None = None) -> jax.Array:
    """Fully sampled k-space on ``shape`` of an object on a finer grid: what a scanner of that resolution measures, Gibbs ringing included.

    Args:
        image: ``[..., fine y, fine x]`` complex, the fine grid a whole multiple of ``shape``.
        coils: ``[coil, fine y, fine x]`` complex, or None.
        noise: standard deviation of real and imaginary part of every sample; the FFT is orthonormal, so it is that of the image too.
        key: of the noise.

    Returns:
        ``[..., (coil,) y, x]`` complex64, scaled so that ``forward.ifft`` of it has the image's intensity.

    Raises:
        ValueError: shapes that are no multiple, noise without a key.
    """
    image = jnp.asarray(image)
    check.finite("image", image)
    fine = image.shape[-2:]
    if any(f % n for f, n in zip(fine, shape, strict=True)):
        check.fail("image", f"fine axes that are multiples of {tuple(shape)}", str(tuple(fine)), "See brain(oversampling=…).")
    if coils is not None:
        check.shape("coils", coils, (jnp.shape(coils)[0], *fine), "[coil, fine y, fine x]", "simulated_coils(fine_shape, count).")
        image = image[..., None, :, :] * jnp.asarray(coils)
    k = fft(image)
    for axis, (f, n) in enumerate(zip(fine, shape, strict=True), start=-2):
        start = f // 2 - n // 2
        k = jax.lax.slice_in_dim(k, start, start + n, axis=k.ndim + axis)
    k = k / math.sqrt(math.prod(fine) / math.prod(shape))
    if noise:
        if key is None:
            check.fail("key", "a jax.random.key for the noise", "None")
        real, imaginary = jax.random.normal(key, (2, *k.shape), k.real.dtype)
        k = k + noise * jax.lax.complex(real, imaginary)
    return k


def reference(image: Any, shape: tuple[int, int]) -> jax.Array:
    """The object at the resolution of ``shape``, without noise: what every reconstruction is compared with."""
    return ifft(acquire(image, shape))
