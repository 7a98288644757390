"""Coil maps from the calibration region: ESPIRiT, and Walsh's local principal component."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.forward.fourier import ifft
from diffimg.mri.sampling import centre

SLICEWISE = "A volume: transform its fully sampled axis, forward.ifft(jnp.moveaxis(kspace, 1, -1), 1), and take slice by slice."


def calibration_region(kspace: Any, width: int | tuple[int, int]) -> jnp.ndarray:
    """The fully sampled middle ``[coil, width, width]`` of k-space ``[coil, y, x]``.

    Raises:
        ValueError: NaN, a region larger than k-space, or lines in it that were not measured.
    """
    kspace = check.array("kspace", kspace)
    check.ndim("kspace", kspace, 3, "[coil, y, x]", SLICEWISE)
    check.finite("kspace", kspace)
    sizes = (width, width) if isinstance(width, int) else tuple(width)
    if any(w > n or w < 1 for w, n in zip(sizes, kspace.shape[1:], strict=True)):
        check.fail("calibration", f"a region within {tuple(kspace.shape[1:])}", str(sizes))
    region = kspace[:, centre(kspace.shape[1], sizes[0]), centre(kspace.shape[2], sizes[1])]
    if check.is_concrete(region):
        seen = np.any(np.asarray(region) != 0, axis=0)
        if not seen.any():
            check.fail("kspace", "a calibration region with data", "zeros only", "Is the zero frequency in the middle (index N//2)?")
        missing = int(np.count_nonzero(~seen))
        if missing:
            remedy = "Take a smaller region, or measure more lines around the centre (acs=)."
            check.fail("calibration", f"a fully sampled middle of {sizes}", f"{missing} samples of it that are zero in every coil", remedy)
    return jnp.asarray(region)


def calibration_matrix(region: Any, kernel: tuple[int, int]) -> jnp.ndarray:
    """Every kernel-sized block of the region as a row: ``[block, coil · ky · kx]``."""
    coils, ny, nx = region.shape
    ky, kx = kernel
    if ny < ky or nx < kx:
        remedy = f"Measure at least {ky} lines around the centre, and more: two to four times the kernel; or take a smaller kernel."
        check.fail("calibration", f"at least the kernel's {ky} × {kx} samples", f"{ny} × {nx}", remedy)
    rows, columns = np.arange(ny - ky + 1)[:, None] + np.arange(ky), np.arange(nx - kx + 1)[:, None] + np.arange(kx)
    blocks = region[:, rows[:, None, :, None], columns[None, :, None, :]]  # [coil, row, column, ky, kx]
    return jnp.transpose(blocks, (1, 2, 0, 3, 4)).reshape(-1, coils * ky * kx)


def espirit(
    kspace: Any,
    *,
    calibration: int | tuple[int, int] = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    maps: int = 1,
) -> jnp.ndarray:
    """Coil maps as eigenvectors: the signals' subspace in small blocks of the calibration region, carried to every voxel.

    Args:
        kspace: ``[coil, y, x]``, fully sampled in the middle.
        calibration: width of that middle. kernel: of the blocks.
        threshold: singular values below this part of the largest belong to noise.
        crop: where the eigenvalue, near 1 inside the object, is smaller, maps are zero.
        maps: number of sets (more than one where the field of view is smaller than the object).

    Returns:
        ``[coil, y, x]`` complex of unit norm over the coils inside the object, their phase relative to that of the calibration image's
        first principal coil; ``[map, coil, y, x]`` for more than one set.

    Raises:
        ValueError: a region too small for the kernel, not fully sampled, or without signal.

    M. Uecker et al., Magn. Reson. Med. 71 (2014) 990. The eigenvalue problem is set up from the kernels' covariance in image space, a
    chunk of voxels at a time: memory does not grow with the number of kernels.
    """
    region = calibration_region(kspace, calibration)
    check.positive_int("kernel", kernel)
    check.positive_int("maps", maps)
    matrix = calibration_matrix(region, (kernel, kernel))
    shape = tuple(int(n) for n in kspace.shape[1:])
    out, values = _espirit(matrix, shape, int(kspace.shape[0]), kernel, threshold, min(maps, int(kspace.shape[0])))
    # one reference phase for all voxels: that of the coils' leading combination
    leading = jnp.linalg.eigh(jnp.matmul(region.reshape(region.shape[0], -1), jnp.conj(region.reshape(region.shape[0], -1).T)))[1][:, -1]
    phase = jnp.einsum("c,mcyx->myx", jnp.conj(leading), out)
    size = jnp.abs(phase)
    out = out * jnp.conj(jnp.where(size > 0, phase / jnp.where(size > 0, size, 1), 1))[:, None]
    out = jnp.where((values > crop)[:, None], out, 0)
    if check.is_concrete(out) and not np.any(np.asarray(out)):
        remedy = f"The largest eigenvalue is {float(jnp.max(values)):.3f}: lower crop, or threshold, or calibrate on more lines."
        check.fail("crop", "voxels whose eigenvalue exceeds it", f"none above {crop}", remedy)
    return out[0] if maps == 1 else out


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 5))
def _espirit(matrix, shape, coils, kernel, threshold, maps):
    # eigenvectors of the small Gram matrix are the right singular vectors
    gram = jnp.matmul(jnp.conj(matrix.T), matrix, precision=lax.Precision.HIGHEST)
    values, vectors = jnp.linalg.eigh(gram)
    keep = values > threshold**2 * values[-1]
    vectors = jnp.where(keep[None], vectors, 0)
    # the projection onto the subspace, as kernels from coil to coil: average over the blocks that hold a sample
    # (the blocks are rows: they lie in the span of the conjugate vectors)
    projection = jnp.matmul(jnp.conj(vectors), vectors.T, precision=lax.Precision.HIGHEST)
    blocks = projection.reshape(coils, kernel, kernel, coils, kernel, kernel)
    size = 2 * kernel - 1
    lags = jnp.zeros((coils, coils, size, size), projection.dtype)
    for i in range(kernel):
        for j in range(kernel):
            rows, columns = slice(kernel - 1 - i, 2 * kernel - 1 - i), slice(kernel - 1 - j, 2 * kernel - 1 - j)
            lags = lags.at[:, :, rows, columns].add(blocks[:, i, j])
    lags = lags / kernel**2
    ny, nx = shape
    # a correlation in k-space is a multiplication in the image: G[c, d](r) = Σ_lag lags[c, d, lag] e^{−2πi lag·r}
    lag = np.arange(size) - (kernel - 1)
    wave_y = jnp.asarray(np.exp(-2j * np.pi * np.outer(np.arange(ny) - ny // 2, lag) / ny), lags.dtype)
    wave_x = jnp.asarray(np.exp(-2j * np.pi * np.outer(np.arange(nx) - nx // 2, lag) / nx), lags.dtype)
    rows = jnp.einsum("cdij,xj->xcdi", lags, wave_x, precision=lax.Precision.HIGHEST)

    def line(wave):
        g = jnp.einsum("xcdi,i->xcd", rows, wave, precision=lax.Precision.HIGHEST)
        values, vectors = jnp.linalg.eigh(0.5 * (g + jnp.conj(jnp.swapaxes(g, -1, -2))))
        return values[:, -maps:], vectors[:, :, -maps:]

    values, vectors = lax.map(line, wave_y)
    order = np.arange(maps)[::-1]
    return jnp.transpose(jnp.take(vectors, order, axis=-1), (3, 2, 0, 1)), jnp.transpose(jnp.take(values, order, axis=-1), (2, 0, 1))


def walsh(images: Any, *, width: int = 5, steps: int = 10, threshold: float = 0.0) -> jnp.ndarray:
    """Coil maps as the principal component of the coils' images in a small neighbourhood of each voxel, by power iteration.

    Args:
        images: ``[coil, y, x]`` complex, fully sampled (low resolution is enough).
        width: of the neighbourhood, odd. steps: of the power iteration.
        threshold: voxels whose local power is below this part of the largest get zero maps.

    Returns:
        ``[coil, y, x]`` complex of unit norm over the coils, relative to the phase of the strongest coil.

    D. O. Walsh, A. F. Gmitro and M. W. Marcellin, Magn. Reson. Med. 43 (2000) 682.
    """
    images = check.array("images", images)
    check.ndim("images", images, 3, "[coil, y, x]", "A volume: slice by slice.")
    check.finite("images", images)
    if check.positive_int("width", width) % 2 == 0 or width > min(images.shape[1:]):
        check.fail("width", f"an odd number up to {min(images.shape[1:])}", str(width))
    if check.is_concrete(images) and not np.any(np.asarray(images)):
        check.fail("images", "images with signal", "zeros only")
    return _walsh(jnp.asarray(images), width, steps, threshold)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _walsh(images, width, steps, threshold):
    images = images.astype(jnp.promote_types(images.dtype, jnp.complex64))

    def box(v):  # sums over width × width voxels, separably, zero outside
        for axis in (-2, -1):
            pad = [(0, 0)] * v.ndim
            pad[axis] = (width // 2, width // 2)
            padded = jnp.pad(v, pad)
            v = sum(lax.slice_in_dim(padded, i, i + v.shape[axis], axis=v.ndim + axis) for i in range(width))
        return v

    covariance = lax.map(lambda c: box(images * jnp.conj(c)), images)  # [d, c, y, x] = Σ image_c conj(image_d)

    def iterate(_, v):
        v = jnp.einsum("dcyx,dyx->cyx", covariance, v, precision=lax.Precision.HIGHEST)
        norm = jnp.sqrt(jnp.sum(jnp.abs(v) ** 2, axis=0))
        return v / jnp.where(norm > 0, norm, 1)

    strongest = jnp.argmax(jnp.sum(jnp.abs(images) ** 2, axis=(1, 2)))
    v = lax.fori_loop(0, steps, iterate, covariance[strongest])
    reference = v[strongest]
    size = jnp.abs(reference)
    v = v * jnp.conj(jnp.where(size > 0, reference / jnp.where(size > 0, size, 1), 1))
    power = jnp.sum(box(jnp.abs(images) ** 2), axis=0)
    return jnp.where(power > threshold * jnp.max(power), v, 0)


def calibration_images(region: Any, shape: tuple[int, int]) -> jnp.ndarray:
    """Low-resolution images ``[coil, *shape]`` of a calibration region, with a Hann window against ringing."""
    region = jnp.asarray(region)
    ny, nx = region.shape[-2:]
    window = np.outer(np.hanning(ny + 2)[1:-1], np.hanning(nx + 2)[1:-1])
    y, x = centre(shape[0], ny), centre(shape[1], nx)
    padded = jnp.zeros((*region.shape[:-2], *shape), region.dtype).at[..., y, x].set(region * window.astype(region.real.dtype))
    return ifft(padded)
