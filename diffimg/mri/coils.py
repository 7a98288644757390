"""Receive coils: simulated sensitivities, and combining their images."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check


def simulated_coils(
    shape: tuple[int, ...], count: int, *, distance: float = 1.5, radius: float = 0.7, normalized: bool = True
) -> jnp.ndarray:
    """Sensitivities of circular loops around the object: the field of each, by Biot and Savart, B_x − iB_y (reciprocity).

    A function of continuous coordinates in the field of view: grids of different size sample the same maps.

    Args:
        shape: (y, x) or (z, y, x).
        count: number of loops, evenly around the z axis (in 3-D in two rings, shifted against each other).
        distance: of the loops from the axis, in units of half the field of view.
        radius: of the loops, in the same units.
        normalized: divide by the root of the sum of squares at the centre, so that it is 1 there.

    Returns:
        ``[count, *shape]`` complex64.

    Raises:
        ValueError: a shape that is not 2-D or 3-D, loops that reach into the axis.

    P. B. Roemer et al., Magn. Reson. Med. 16 (1990) 192; D. I. Hoult and R. E. Richards, J. Magn. Reson. 24 (1976) 71.
    """
    shape = tuple(check.positive_int("shape", n) for n in shape)
    if len(shape) not in (2, 3):
        check.fail("shape", "(y, x) or (z, y, x)", str(shape))
    check.positive_int("count", count)
    if not distance > 0 or not radius > 0:
        check.fail("distance, radius", "positive lengths in units of half the field of view", f"{distance}, {radius}")
    axes = [(np.arange(n) - n // 2) / (n / 2) for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    points = np.stack([grid[-1], grid[-2], grid[0] if len(shape) == 3 else np.zeros(shape)], axis=-1)
    segments = 48
    t = (np.arange(segments) + 0.5) * 2 * np.pi / segments
    rings = 2 if len(shape) == 3 and count >= 4 else 1
    maps = np.zeros((count, *shape), np.complex128)
    centre = np.zeros(count, np.complex128)
    for c in range(count):
        ring = c % rings
        angle = 2 * np.pi * (c + 0.5 * ring) / count
        normal = np.array([np.cos(angle), np.sin(angle), 0.0])
        tangent = np.array([-np.sin(angle), np.cos(angle), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        height = (ring - (rings - 1) / 2) * 1.0
        wire = distance * normal + height * up + radius * (np.cos(t)[:, None] * tangent + np.sin(t)[:, None] * up)
        element = radius * (2 * np.pi / segments) * (-np.sin(t)[:, None] * tangent + np.cos(t)[:, None] * up)
        for w, dl in zip(wire, element, strict=True):
            for target, where in ((maps, points), (centre, np.zeros(3))):
                d = where - w
                cube = np.maximum(np.sum(d * d, axis=-1), 1e-2) ** 1.5  # the wire itself has a thickness
                bx = (dl[1] * d[..., 2] - dl[2] * d[..., 1]) / cube
                by = (dl[2] * d[..., 0] - dl[0] * d[..., 2]) / cube
                target[c] += bx - 1j * by
    if normalized:
        maps /= math.sqrt(float(np.sum(np.abs(centre) ** 2)))
    return jnp.asarray(maps.astype(np.complex64))


def root_sum_of_squares(images: Any, axis: int = -3) -> jnp.ndarray:
    """√Σ|image|² over the coils' axis (−3 for ``[..., coil, y, x]``, −4 for volumes); its derivative where all vanish is 0, not NaN."""
    images = jnp.asarray(images)
    square = jnp.sum((images * jnp.conj(images)).real, axis=axis)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def unit_maps(coils: Any, axis: int = -3) -> tuple[jnp.ndarray, jnp.ndarray]:
    """(maps of unit norm over the coils, the norm √Σ|S|²): S x = unit · (norm x), so an image reconstructed with them is divided by it.

    First-order methods take steps that suit the most sensitive voxel: with maps whose norm varies, as measured ones' does towards the
    coils, all others converge slowly. ESPIRiT's have unit norm already. 0 where no coil sees anything.

    Args:
        coils: ``[coil, *spatial]`` complex; ``axis``: of the coils, −4 for volumes.

    Raises:
        ValueError: NaN.
    """
    coils = jnp.asarray(check.array("coils", coils))
    check.finite("coils", coils)
    norm = root_sum_of_squares(coils, axis)
    return coils / jnp.where(norm > 0, norm, 1)[(slice(None),) * (axis % coils.ndim) + (None,)], norm


def combine(images: Any, coils: Any, ndim: int = 2) -> jnp.ndarray:
    """Σ conj(S) image / Σ|S|², the combination of the least noise; 0 where no coil sees anything.

    Args:
        images: ``[..., coil, *spatial]`` complex. coils: ``[coil, *spatial]``. ndim: spatial axes.

    P. B. Roemer et al., Magn. Reson. Med. 16 (1990) 192.
    """
    images, coils = jnp.asarray(images), jnp.asarray(coils)
    check.trailing_shape("images", images, tuple(coils.shape[coils.ndim - ndim - 1 :]), "coil, *spatial")
    check.finite("images", images)
    check.finite("coils", coils)
    power = jnp.sum((coils * jnp.conj(coils)).real, axis=-ndim - 1)
    seen = power > 1e-12 * jnp.max(power)
    return jnp.where(seen, jnp.sum(jnp.conj(coils) * images, axis=-ndim - 1) / jnp.where(seen, power, 1.0), 0.0)


def noise_covariance(noise: Any) -> jnp.ndarray:
    """``[coil, coil]``: the mean of n nᴴ over samples of noise ``[coil, ...]``."""
    noise = jnp.asarray(check.array("noise", noise))
    check.finite("noise", noise)
    flat = noise.reshape(noise.shape[0], -1)
    if flat.shape[1] < 2 * flat.shape[0]:
        expected = f"at least {2 * flat.shape[0]} samples of {flat.shape[0]} coils"
        check.fail("noise", expected, f"{flat.shape[1]}", "Is the coil axis the first?")
    return jnp.matmul(flat, jnp.conj(flat.T), precision="highest") / flat.shape[1]


def whitening_matrix(covariance: Any) -> jnp.ndarray:
    """W = L⁻¹ with Ψ = L Lᴴ: W n has unit, uncorrelated noise.

    Raises:
        ValueError: a covariance that is not square, Hermitian and positive.
    """
    covariance = np.asarray(check.array("covariance", covariance))
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        check.fail("covariance", "shape [coil, coil]", f"shape {covariance.shape}")
    check.finite("covariance", covariance)
    try:
        if not np.allclose(covariance, covariance.conj().T, rtol=1e-4, atol=1e-6 * np.abs(covariance).max()):
            raise np.linalg.LinAlgError
        lower = np.linalg.cholesky(covariance.astype(np.complex128))
    except np.linalg.LinAlgError:
        remedy = "A coil without noise is off: leave it out; estimate with noise_covariance from more samples."
        check.fail("covariance", "a Hermitian positive matrix", "one that is not", remedy)
    return jnp.asarray(np.linalg.inv(lower).astype(np.promote_types(covariance.dtype, np.complex64)))


def mix_coils(matrix: Any, data: Any, axis: int = -3) -> jnp.ndarray:
    """``matrix [virtual, coil]`` applied along the coils' axis of k-space, images or maps: whitening, compression."""
    data, matrix = jnp.asarray(data), jnp.asarray(matrix)
    moved = jnp.moveaxis(data, axis, 0)
    if matrix.ndim != 2 or matrix.shape[1] != moved.shape[0]:
        check.fail("matrix", f"shape [virtual, {moved.shape[0]}]", f"shape {matrix.shape}", "Say which axis holds the coils: axis=.")
    mixed = jnp.matmul(matrix.astype(data.dtype), moved.reshape(moved.shape[0], -1), precision="highest")
    return jnp.moveaxis(mixed.reshape(matrix.shape[0], *moved.shape[1:]), 0, axis)


def compression_matrix(calibration: Any, virtual: int, axis: int = -3) -> jnp.ndarray:
    """``[virtual, coil]``: the leading principal components of the coils' signals, orthonormal rows. Whiten first.

    Args:
        calibration: k-space or images with coils along ``axis``. virtual: how many virtual coils to keep.

    M. Buehrer et al., Magn. Reson. Med. 57 (2007) 1131; F. Huang et al., Magn. Reson. Imaging 26 (2008) 133.
    """
    data = jnp.moveaxis(jnp.asarray(check.array("calibration", calibration)), axis, 0)
    check.finite("calibration", data)
    if check.positive_int("virtual", virtual) > data.shape[0]:
        check.fail("virtual", f"at most {data.shape[0]} coils", str(virtual))
    flat = data.reshape(data.shape[0], -1)
    _, vectors = jnp.linalg.eigh(jnp.matmul(flat, jnp.conj(flat.T), precision="highest"))
    return jnp.conj(vectors[:, ::-1][:, :virtual].T)
