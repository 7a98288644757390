"""GRAPPA: missing lines of k-space as a linear combination of their neighbours in all coils, learned on the centre."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.mri.espirit import SLICEWISE


@pytree
class Undersampling:
    """Every R-th line and a full centre: which lines of k-space were measured; found by ``undersampling``."""

    lines: int = static()  # of the full k-space
    acceleration: int = static()  # R
    offset: int = static()  # the first of every R-th line
    start: int = static()  # of the calibration lines
    stop: int = static()

    @property
    def measured(self) -> np.ndarray:
        """``[line]`` bool."""
        out = np.arange(self.lines) % self.acceleration == self.offset
        out[self.start : self.stop] = True
        return out


def undersampling(kspace: Any, acceleration: int | None = None) -> Undersampling:
    """Read the pattern off zero-filled k-space ``[coil, y, x]``, whose missing lines (along y) are zero.

    Args:
        acceleration: R, where it cannot be told (everything measured); otherwise it is checked.

    Raises:
        ValueError: traced or non-finite data, lines that are not every R-th one with a full centre.
    """
    if not check.is_concrete(kspace):
        check.fail("kspace", "known values to read the sampling pattern off", "a traced array", "Make an Undersampling yourself.")
    kspace = np.asarray(check.array("kspace", kspace))
    check.ndim("kspace", kspace, 3, "[coil, y, x]", SLICEWISE)
    check.finite("kspace", kspace, "Lines that were not measured are zero.")
    seen = np.any(kspace != 0, axis=(0, 2))
    lines = np.nonzero(seen)[0]
    if not lines.size:
        check.fail("kspace", "measured lines", "zeros only")
    columns = np.flatnonzero(np.any(kspace != 0, axis=(0, 1)))
    gaps = int(columns[-1] - columns[0] + 1 - columns.size)  # empty columns at the edges are a partial echo
    if seen.all() and gaps:
        remedy = "Swap the axes, as for fastMRI's layout: kspace.swapaxes(1, 2)."
        check.fail("kspace", "lines missing along y, the middle axis", f"all lines, and {gaps} empty columns between others", remedy)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(int), [0]])))
    runs = edges.reshape(-1, 2)
    longest = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    start, stop = int(longest[0]), int(longest[1])
    outside = lines[(lines < start) | (lines >= stop)]
    if acceleration is None:
        steps = np.diff(lines)
        steps = steps[steps > 1]
        acceleration = int(np.bincount(steps).argmax()) if steps.size else 1
    r = check.positive_int("acceleration", acceleration)
    offset = int(outside[0] % r) if outside.size else start % r
    expected = np.arange(seen.size) % r == offset
    expected[start:stop] = True
    if not np.array_equal(expected, seen):
        got = f"{np.count_nonzero(expected != seen)} lines that differ from it"
        remedy = "GRAPPA and RAKI need a regular pattern: equispaced_mask; for others use sense, spirit or compressed_sensing."
        check.fail("kspace", f"every {r}-th line and a full centre", got, remedy)
    return Undersampling(int(seen.size), r, offset, start, stop)


def sources(kernel: tuple[int, int]) -> int:
    """How many of the kernel's lines lie before the gap that it fills."""
    return (kernel[0] + 1) // 2


def training_pairs(region: Any, acceleration: int, kernel: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """(sources ``[sample, coil · ky · kx]``, targets ``[sample, R − 1, coil]``) from a fully sampled region ``[coil, line, x]``.

    Raises:
        ValueError: a region smaller than the kernel.
    """
    coils, lines, columns = region.shape
    (ky, kx), r = kernel, acceleration
    span = (ky - 1) * r + 1
    if lines < span or columns < kx:
        remedy = f"Measure at least {span} lines around the centre (acs=), better {2 * span}; or take a kernel of fewer lines."
        check.fail("acs", f"at least {span} lines × {kx} samples for a {ky} × {kx} kernel at R = {r}", f"{lines} × {columns}", remedy)
    first = np.arange(lines - span + 1)
    rows, columns_ = first[:, None] + np.arange(ky) * r, np.arange(columns - kx + 1)[:, None] + np.arange(kx)
    blocks = region[:, rows[:, None, :, None], columns_[None, :, None, :]]
    source = jnp.transpose(blocks, (1, 2, 0, 3, 4)).reshape(-1, coils * ky * kx)
    middle = first[:, None] + (sources(kernel) - 1) * r + np.arange(1, r)
    target = region[:, middle[:, None, :], (np.arange(columns - kx + 1) + kx // 2)[None, :, None]]
    return source, jnp.transpose(target, (1, 2, 3, 0)).reshape(-1, r - 1, coils)


@pytree
class GrappaKernel:
    """Weights ``[R − 1, coil (out), coil (in), ky, kx]``; made by ``calibrate``, applied by ``fill``."""

    weights: Any
    acceleration: int = static()

    @property
    def size(self) -> tuple[int, int]:
        """(ky, kx)."""
        return tuple(self.weights.shape[-2:])


def balance(power: jax.Array, weighting: float) -> jax.Array:
    """Weights of calibration samples from the mean power of their neighbours (any shape): power^(−weighting), floored at 1 % of the mean.

    Unweighted, the few strong samples in the very middle decide a fit that is used where k-space is weak.
    """
    return (power / jnp.mean(power) + 1e-2) ** -weighting


def calibrate(
    region: Any, acceleration: int, kernel: tuple[int, int] = (2, 9), regularization: float = 1e-2, weighting: float = 1.0
) -> GrappaKernel:
    """Weighted least squares on the calibration lines ``[coil, line, x]``, with Tikhonov's term relative to the mean power of the sources.

    Args:
        weighting: how much weak samples count: 1 all alike, 0 by their power (plain least squares).
    """
    region = jnp.asarray(region)
    for k in kernel:
        check.positive_int("kernel", k)
    check.minimum("regularization", regularization, 0.0)
    check.minimum("weighting", weighting, 0.0)
    scale = jnp.max(jnp.abs(region))
    if check.is_concrete(scale) and not float(scale) > 0:
        check.fail("acs", "calibration lines with signal", "zeros only")
    source, target = training_pairs(region / scale, acceleration, kernel)
    if source.shape[0] < source.shape[1]:
        remedy = "Measure more lines around the centre (acs=), or take a smaller kernel."
        check.fail("acs", f"at least as many positions of the kernel as its {source.shape[1]} weights", f"{source.shape[0]}", remedy)
    weight = jnp.sqrt(balance(jnp.mean(jnp.abs(source) ** 2, axis=1, keepdims=True), weighting))
    source, target = source * weight, target.reshape(target.shape[0], -1) * weight
    gram = jnp.matmul(jnp.conj(source.T), source, precision=lax.Precision.HIGHEST)
    right = jnp.matmul(jnp.conj(source.T), target, precision=lax.Precision.HIGHEST)
    n = gram.shape[0]
    damping = (regularization * jnp.trace(gram).real / n + jnp.finfo(gram.real.dtype).eps * jnp.trace(gram).real).astype(gram.dtype)
    w = jax.scipy.linalg.solve(gram + damping * jnp.eye(n, dtype=gram.dtype), right, assume_a="pos")
    coils = region.shape[0]
    w = w.reshape(coils, *kernel, acceleration - 1, coils)
    return GrappaKernel(jnp.transpose(w, (3, 4, 0, 1, 2)), acceleration)


def to_lattice(kspace: Any, pattern: Undersampling) -> tuple[jax.Array, int]:
    """(every R-th line ``[coil, m, x]``, zero where it would lie outside; the index of the first)."""
    r, n = pattern.acceleration, pattern.lines
    first = pattern.offset - r if pattern.offset else 0
    positions = np.arange(first, n, r)
    inside = (positions >= 0).astype(np.float32)
    return kspace[:, np.maximum(positions, 0)] * inside[:, None].astype(kspace.real.dtype), first


def from_lattice(filled: Any, kspace: Any, pattern: Undersampling, first: int) -> jax.Array:
    """Fill the gaps of zero-filled k-space with ``filled [R − 1, coil, m, x]``; measured lines stay."""
    r, n = pattern.acceleration, pattern.lines
    coils, count, columns = filled.shape[1:]
    together = jnp.concatenate([jnp.zeros((1, *filled.shape[1:]), filled.dtype), filled])
    lines = jnp.transpose(together, (1, 2, 0, 3)).reshape(coils, count * r, columns)
    lines = lines[:, -first : -first + n] if lines.shape[1] + first >= n else jnp.pad(lines[:, -first:], ((0, 0), (0, n), (0, 0)))[:, :n]
    return jnp.where(pattern.measured[:, None], kspace, lines)


def fill(kspace: Any, kernel: GrappaKernel, pattern: Undersampling) -> jax.Array:
    """Apply a kernel to zero-filled k-space ``[coil, y, x]``: all lines, the measured ones unchanged."""
    kspace = jnp.asarray(kspace)
    lattice, first = to_lattice(kspace, pattern)
    ky, kx = kernel.size
    before = sources((ky, kx)) - 1
    r = kernel.acceleration
    weights = jnp.asarray(kernel.weights).astype(kspace.dtype)
    coils = weights.shape[1]
    padding = ((before, ky - 1 - before), (kx // 2, kx - 1 - kx // 2))
    out = lax.conv_general_dilated(lattice[None], weights.reshape(-1, coils, ky, kx), (1, 1), padding, precision=lax.Precision.HIGHEST)[0]
    return from_lattice(out.reshape(r - 1, coils, *out.shape[1:]), kspace, pattern, first)


def grappa(
    kspace: Any, *, kernel: tuple[int, int] = (2, 9), regularization: float = 1e-2, weighting: float = 1.0,
    pattern: Undersampling | None = None,
) -> jax.Array:  # fmt: skip
    """Fill the missing lines of ``[coil, y, x]``, measured every R-th line with a full centre, by GRAPPA.

    Args:
        kspace: zero-filled; missing lines along y are zero in every coil.
        kernel: (measured lines, samples along the readout).
        regularization: of the calibration, relative; more for noisy data.
        weighting: how much the weak calibration samples count: 1 all alike, 0 by their power (the published plain least squares,
            which amplifies noise more from R = 4 on: see ``balance``).
        pattern: which lines were measured; read off the data by default.

    Returns:
        ``[coil, y, x]`` complex, the measured samples unchanged.

    Raises:
        ValueError: an irregular pattern, too few calibration lines for the kernel, NaN.

    M. A. Griswold et al., Magn. Reson. Med. 47 (2002) 1202.
    """
    pattern = undersampling(kspace) if pattern is None else pattern
    kspace = jnp.asarray(kspace)
    if pattern.acceleration == 1:
        return kspace
    region = kspace[:, pattern.start : pattern.stop]
    return fill(kspace, calibrate(region, pattern.acceleration, kernel, regularization, weighting), pattern)
