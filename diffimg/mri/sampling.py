"""Cartesian sampling patterns: which phase-encoding steps are measured. Seeded, on the host, boolean arrays of the k-space's shape."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from diffimg.core import check


def acceleration(mask: Any) -> float:
    """All samples over those measured."""
    mask = np.asarray(mask)
    count = np.count_nonzero(mask)
    if not count:
        check.fail("mask", "at least one sample", "none")
    return mask.size / count


def _lines(shape, axis):
    shape = tuple(check.positive_int("shape", n) for n in shape)
    if not -len(shape) <= axis < len(shape):
        check.fail("axis", f"an axis of {shape}", str(axis))
    return shape, axis % len(shape), shape[axis]


def _spread(lines, shape, axis):
    index = [None] * len(shape)
    index[axis] = slice(None)
    return np.broadcast_to(lines[tuple(index)], shape).copy()


def _check(n, acceleration, acs):
    if not acceleration >= 1:
        check.fail("acceleration", "a factor ≥ 1", repr(acceleration))
    if isinstance(acs, bool) or not isinstance(acs, (int, np.integer)) or not 0 <= acs <= n:
        check.fail("acs", f"0 … {n} lines", repr(acs))


def centre(n: int, count: int) -> slice:
    """The ``count`` lines around the zero frequency, which lies at n//2."""
    start = n // 2 - count // 2
    return slice(start, start + count)


def _generator(key):
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))


def equispaced_mask(shape: tuple[int, ...], acceleration: int, acs: int = 0, *, offset: int = 0, axis: int = -2) -> np.ndarray:
    """Every R-th line, and ``acs`` full ones around the centre for calibration: ``[*shape]`` bool.

    Args:
        shape: of k-space, e.g. (y, x). acceleration: R. offset: the first line. axis: of the lines (phase encoding), y by default.
    """
    shape, axis, n = _lines(shape, axis)
    check.positive_int("acceleration", acceleration)
    _check(n, acceleration, acs)
    lines = np.arange(n) % acceleration == offset % acceleration
    lines[centre(n, acs)] = True
    return _spread(lines, shape, axis)


def random_mask(shape: tuple[int, ...], acceleration: float, key: jax.Array, *, acs: int = 0, axis: int = -2) -> np.ndarray:
    """Lines drawn uniformly beside a full centre, as many as R allows in all: the random mask of the fastMRI challenge with an exact count.

    J. Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv:1811.08839.
    """
    return variable_density_mask(shape, acceleration, key, acs=acs, power=0.0, axis=axis)


def variable_density_mask(
    shape: tuple[int, ...], acceleration: float, key: jax.Array, *, acs: int = 16, power: float = 3.0, axis: int | None = -2
) -> np.ndarray:
    """Samples drawn without replacement with a density (1 − r)^power, r the distance from the centre of k-space.

    Args:
        shape: of k-space. acceleration: R; the number of samples is exact. acs: width of the full centre (a square for ``axis=None``).
        power: 0 is uniform. axis: of the lines; None draws points of the last two axes.

    M. Lustig et al., Magn. Reson. Med. 58 (2007) 1182.
    """
    generator = _generator(key)
    if axis is not None:
        shape, axis, n = _lines(shape, axis)
        _check(n, acceleration, acs)
        r = np.abs(np.arange(n) - n // 2) / (n / 2)
        full = np.zeros(n, bool)
        full[centre(n, acs)] = True
        return _spread(_draw(generator, r, full, acceleration, power), shape, axis)
    shape = tuple(check.positive_int("shape", n) for n in shape)
    plane = shape[-2:]
    _check(min(plane), acceleration, acs)
    r, full = _radius(plane), np.zeros(plane, bool)
    full[centre(plane[0], acs), centre(plane[1], acs)] = True
    drawn = _draw(generator, r.ravel(), full.ravel(), acceleration, power).reshape(plane)
    return np.broadcast_to(drawn, shape).copy()


def _radius(plane):
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in plane)
    return np.hypot(y[:, None], x) / math.sqrt(2)


def _draw(generator, r, full, acceleration, power):
    count = round(r.size / acceleration) - np.count_nonzero(full)
    if count < 0:
        remedy = f"At most R = {r.size / np.count_nonzero(full):.2f} with this centre."
        expected = f"a factor that leaves room for the {np.count_nonzero(full)} samples of the centre"
        check.fail("acceleration", expected, f"{acceleration}", remedy)
    weights = np.maximum(1 - r, 1e-6) ** power * ~full
    out = full.copy()
    if count:
        out[generator.choice(r.size, count, replace=False, p=weights / weights.sum())] = True
    return out


def poisson_disc_mask(
    shape: tuple[int, ...], acceleration: float, key: jax.Array, *, acs: int = 16, growth: float = 1.0, tolerance: float = 0.02
) -> np.ndarray:
    """Points of the last two axes of which none is near another: random, without clusters and holes.

    No two points outside the centre are closer than d(r) = d₀ (1 + growth·r), at the nearer one's radius r; d₀ is found by bisection.

    Args:
        shape: of k-space. acceleration: R. acs: width of the full centre. growth: 0 is uniform. tolerance: of R, relative.

    Raises:
        ValueError: an R that the centre forbids, or that is not reached.

    R. Bridson, Fast Poisson disk sampling in arbitrary dimensions, SIGGRAPH sketches 2007; M. Lustig et al., Magn. Reson. Med. 58 (2007)
    1182.
    """
    shape = tuple(check.positive_int("shape", n) for n in shape)
    plane = shape[-2:]
    _check(min(plane), acceleration, acs)
    full = np.zeros(plane, bool)
    full[centre(plane[0], acs), centre(plane[1], acs)] = True
    target = plane[0] * plane[1] / acceleration
    if np.count_nonzero(full) > target:
        check.fail("acceleration", "a factor that leaves room for the centre", f"{acceleration}", "Take a smaller acs.")
    seed = _generator(key).integers(2**32)
    low, high, best = 0.3, float(max(plane)), None
    for _ in range(40):
        spacing = 0.5 * (low + high)
        mask = _throw(np.random.default_rng(seed), plane, full, spacing, growth)
        count = np.count_nonzero(mask)
        if best is None or abs(count - target) < abs(np.count_nonzero(best) - target):
            best = mask
        if abs(count / target - 1) <= 0.2 * tolerance:
            break
        low, high = (spacing, high) if count > target else (low, spacing)
    if abs(target / np.count_nonzero(best) - 1) > tolerance:
        got = f"{plane[0] * plane[1] / np.count_nonzero(best):.3f} at the nearest"
        check.fail("acceleration", f"{acceleration} to {tolerance:.0%}", got, "Change acs or growth, or allow a larger tolerance.")
    return np.broadcast_to(best, shape).copy()


def _throw(generator, plane, full, spacing, growth):
    """Darts in random order; each forbids a disc."""
    ny, nx = plane
    radius = _radius(plane) * math.sqrt(2)
    blocked, mask = full.copy(), full.copy()
    for flat in generator.permutation(ny * nx):
        i, j = divmod(int(flat), nx)
        if blocked[i, j]:
            continue
        mask[i, j] = True
        d = spacing * (1 + growth * radius[i, j])
        reach = int(d)
        rows, columns = slice(max(0, i - reach), i + reach + 1), slice(max(0, j - reach), j + reach + 1)
        y, x = np.ogrid[rows.start : min(ny, rows.stop), columns.start : min(nx, columns.stop)]
        blocked[rows, columns] |= (y - i) ** 2 + (x - j) ** 2 < d * d
    return mask


def partial_fourier_mask(shape: tuple[int, ...], fraction: float = 0.625, *, axis: int = -2) -> np.ndarray:
    """The first ``fraction`` of the lines, > ½: the rest follows from the conjugate symmetry of a real image."""
    shape, axis, n = _lines(shape, axis)
    if not 0.5 < fraction <= 1:
        check.fail("fraction", "a number in (0.5, 1]", repr(fraction))
    return _spread(np.arange(n) < math.ceil(fraction * n), shape, axis)


def shifted_mask(shape: tuple[int, ...], acceleration: int, acs: int = 0, *, axis: int = -2) -> np.ndarray:
    """``[frame, *shape]``-patterns of a dynamic scan: every R-th line, another one in each frame, so that R frames see all of k-space.

    Args:
        shape: (frame, y, x). The rest: as for ``equispaced_mask``.
    """
    shape = tuple(shape)
    if len(shape) < 3:
        check.fail("shape", "(frame, y, x)", str(shape))
    return np.stack([equispaced_mask(shape[1:], acceleration, acs, offset=t % acceleration, axis=axis) for t in range(shape[0])])
