"""Non-Cartesian trajectories in rad/voxel, ``[..., axis]`` with the axes of the image (y, x) or (z, y, x), in [−π, π]."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check

GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # 111.25°
_GOLDEN_MEANS = (0.4656, 0.6823)


def radial(spokes: int, readout: int, angles: Any = "golden") -> jnp.ndarray:
    """Spokes through the centre, ``[spoke, readout, 2]``; sample readout//2 is the centre.

    An image of N × N voxels is fully sampled by π/2·N spokes of N samples.

    Args:
        spokes, readout: numbers of spokes and of samples on each.
        angles: "golden" (each spoke turned by 111.25°), "uniform" over half a turn, or ``[spoke]`` in rad against the x axis.

    S. Winkelmann et al., IEEE Trans. Med. Imaging 26 (2007) 68.
    """
    check.positive_int("spokes", spokes)
    check.positive_int("readout", readout)
    if isinstance(angles, str):
        check.one_of("angles", angles, ("golden", "uniform"))
        angles = np.arange(spokes) * (GOLDEN_ANGLE if angles == "golden" else math.pi / spokes)
    check.shape("angles", angles, (spokes,), "[spoke]")
    angles = jnp.asarray(angles)[:, None]
    k = (np.arange(readout) - readout // 2) * (2 * math.pi / readout)
    return jnp.stack([k * jnp.sin(angles), k * jnp.cos(angles)], axis=-1)


def spiral(interleaves: int, readout: int, turns: float, *, density: float = 1.0) -> jnp.ndarray:
    """Archimedean spirals from the centre out, ``[interleave, readout, 2]``, each turned by 2π/interleaves.

    Args:
        interleaves, readout: numbers of arms and of samples on each. turns: of one arm; N/2 turns in all arms sample N voxels fully.
        density: exponent of the radius over the readout, r ∝ s^density; above 1 the centre is denser.

    C. B. Ahn et al., IEEE Trans. Med. Imaging 5 (1986) 2; C. H. Meyer et al., Magn. Reson. Med. 28 (1992) 202.
    """
    check.positive_int("interleaves", interleaves)
    check.positive_int("readout", readout)
    check.minimum("turns", turns, 0.0, strict=True)
    check.minimum("density", density, 0.0, strict=True)
    s = np.sqrt(np.arange(readout) / max(1, readout - 1))  # samples at constant distance, once outside the centre
    k = math.pi * s**density
    angle = 2 * math.pi * (turns * s + np.arange(interleaves)[:, None] / interleaves)
    return jnp.asarray(np.stack([k * np.sin(angle), k * np.cos(angle)], axis=-1), jnp.result_type(float))


def cartesian(shape: tuple[int, ...]) -> jnp.ndarray:
    """All points of the centred FFT, ``[*shape, axis]``."""
    axes = [2 * math.pi / check.positive_int("shape", n) * (np.arange(n) - n // 2) for n in shape]
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), jnp.result_type(float))


def echo_planar(shape: tuple[int, int], *, shots: int = 1, ramp: float = 0.0) -> jnp.ndarray:
    """Lines read to and fro after one excitation, ``[shot, line, readout, 2]`` in the order of time.

    Args:
        shape: (y, x). shots: interleaved excitations; they must divide the lines. ramp: part of each line, 0 … 0.5 on both sides, that
            is read while the gradient rises and falls: samples lie denser there.

    P. Mansfield, J. Phys. C 10 (1977) L55.
    """
    ny, nx = (check.positive_int("shape", n) for n in shape)
    if check.positive_int("shots", shots) > ny or ny % shots:
        check.fail("shots", f"a divisor of {ny} lines", str(shots))
    if not 0 <= ramp < 0.5:
        check.fail("ramp", "a part of the line in [0, 0.5)", repr(ramp))
    t = (np.arange(nx) + 0.5) / nx
    gradient = lambda s: np.clip(np.minimum(s, 1 - s) / ramp, 0, 1) if ramp else np.ones_like(s)  # noqa: E731
    fine = (np.arange(64 * nx) + 0.5) / (64 * nx)
    g = gradient(fine)
    path = np.interp(t, fine, (np.cumsum(g) - 0.5 * g) / np.sum(g))
    # the ends are those of the Cartesian grid, whatever the ramps
    reach = (path - path[0]) / (path[-1] - path[0]) if nx > 1 else np.zeros(1)
    kx = 2 * math.pi / nx * ((nx - 1) * reach - nx // 2)
    ky = 2 * math.pi / ny * (np.arange(ny) - ny // 2)
    out = np.empty((shots, ny // shots, nx, 2))
    for shot in range(shots):
        for line in range(ny // shots):
            out[shot, line, :, 0] = ky[line * shots + shot]
            out[shot, line, :, 1] = kx if line % 2 == 0 else kx[::-1]
    return jnp.asarray(out, jnp.result_type(float))


def stack_of_stars(slices: int, spokes: int, readout: int, angles: Any = "golden") -> jnp.ndarray:
    """Radial in the plane, Cartesian along z: ``[slice, spoke, readout, 3]``."""
    plane = radial(spokes, readout, angles)
    kz = 2 * math.pi / check.positive_int("slices", slices) * (np.arange(slices) - slices // 2)
    plane = jnp.broadcast_to(plane, (slices, *plane.shape))
    return jnp.concatenate([jnp.broadcast_to(kz[:, None, None, None], (*plane.shape[:-1], 1)).astype(plane.dtype), plane], axis=-1)


def radial_3d(spokes: int, readout: int) -> jnp.ndarray:
    """Spokes from side to side of a ball in directions of the two golden means: ``[spoke, readout, 3]``.

    R. W. Chan et al., Magn. Reson. Med. 61 (2009) 354.
    """
    n = np.arange(check.positive_int("spokes", spokes))
    z = np.mod(n * _GOLDEN_MEANS[0], 1)
    turn = 2 * math.pi * np.mod(n * _GOLDEN_MEANS[1], 1)
    plane = np.sqrt(1 - z * z)
    direction = np.stack([z, plane * np.sin(turn), plane * np.cos(turn)], axis=-1)
    k = (np.arange(check.positive_int("readout", readout)) - readout // 2) * (2 * math.pi / readout)
    return jnp.asarray(k[:, None] * direction[:, None], jnp.result_type(float))


def rad_per_voxel(trajectory: Any, voxel_size: Any) -> jnp.ndarray:
    """k in rad/m, ``[..., axis]``, times the voxel size in m (one, or one an axis)."""
    check.minimum("voxel_size", voxel_size, 0.0, strict=True, remedy="Give metres.")
    return jnp.asarray(trajectory) * jnp.asarray(voxel_size)
