"""From fan to parallel beam: the sinogram resampled on the lines of another geometry."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.fan_beam import FanBeam
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.scan_fields import host

TAPS = {"linear": 2, "cubic": 4}
TOLERANCE = 0.01  # of the step between views


def rebin(sinogram: Any, fan: FanBeam, parallel: ParallelBeam | None = None, method: str = "cubic") -> tuple[jax.Array, ParallelBeam]:
    """The parallel-beam sinogram of the object that a fan beam has measured.

    The line (θ, l) is the ray of fan angle γ = asin(l / √(R² + s²)) − atan(s / R) in view β = θ + γ, for a source at distance R with
    offset s (Kak & Slaney, 1988, section 3.4). Seen from the other side, it is (θ + π, −l). Where the scan holds both they are
    averaged: a full turn is used whole, and in a short scan nothing is counted twice. Interpolation is separable in β and γ.
    Differentiable in the sinogram and in both geometries.

    Args:
        sinogram: ``[..., view, detector]`` of ``fan``.
        fan: flat or curved detector, with offsets and tilt that all views share; its angles increase or decrease steadily, over
            a full turn or at least π + the fan angle (an open scan: lines that it misses are refused).
        parallel: the lines wanted. By default half a turn in steps like the fan's, and the fan's cells as they appear at the axis.
        method: "linear", or "cubic" (Keys' convolution, IEEE Trans. ASSP 29 (1981) 1153).

    Returns:
        ``[..., view, detector]`` and its geometry. Lines beyond the detector's ends are 0: the object is taken to lie within.

    Raises:
        ValueError: wrong types or shapes, parameters per view, angles that turn back or too few of them, and lines (known ones) in
            directions that the scan did not measure.
    """
    if not isinstance(fan, FanBeam):
        check.fail("fan", "a FanBeam", type(fan).__name__)
    check.one_of("method", method, TAPS)
    sinogram = check.array("sinogram", sinogram)
    check.trailing_shape("sinogram", sinogram, fan.sinogram_shape, "view, detector")
    check.inexact("sinogram", sinogram)
    sinogram = jnp.asarray(sinogram)
    for name in ("source_distance", "detector_distance", "detector_offset", "source_offset", "detector_tilt"):
        if jnp.ndim(getattr(fan, name)):
            check.fail(name, "one value for all views", f"shape {jnp.shape(getattr(fan, name))}", "Rebinning interpolates between views.")
    full, direction = _turn(fan)
    if parallel is None:
        parallel = _natural(fan, full)
    elif not isinstance(parallel, ParallelBeam):
        check.fail("parallel", "a ParallelBeam", type(parallel).__name__)
    if check.is_concrete(parallel.angles) and check.is_concrete(parallel.detector_offset) and check.is_concrete(fan.angles) and not full:
        _refuse_missed(fan, parallel)

    return _resample(sinogram, fan, parallel, full, direction, TAPS[method]), parallel


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _resample(sinogram, fan, parallel, full, direction, taps):
    dtype = sinogram.real.dtype
    theta = jnp.asarray(parallel.angles, dtype)[:, None]
    l = jnp.asarray(parallel.detector_positions, dtype)[None]
    betas = jnp.asarray(fan.angles, dtype)
    total, weight = 0.0, 0.0
    for side in (0, 1):
        gamma, column = _ray(fan, -l if side else l)
        row, measured = _view(betas, theta + (math.pi * side) + gamma, full, direction)
        there = measured & (column >= -0.5) & (column <= fan.detector_count - 0.5)
        total = total + jnp.where(there, interpolate(sinogram, row, jnp.broadcast_to(column, row.shape), full, taps), 0)
        weight = weight + there.astype(dtype)
    return total / jnp.maximum(weight, 1)


def _ray(fan, l):
    """Fan angle and (fractional) cell of the line at distance l; NaN-free beyond the source's reach, where the cell is far outside."""
    distance, shift = fan.source_distance, fan.source_offset
    sine = l / jnp.sqrt(distance**2 + shift**2)
    beyond = jnp.abs(sine) >= 1
    gamma = jnp.arcsin(jnp.where(beyond, 0, sine)) - jnp.arctan2(shift, distance)
    reach, middle = distance + fan.detector_distance, (fan.detector_count - 1) / 2
    if fan.curved:
        cell = (gamma * reach - fan.detector_offset) / fan.detector_spacing
    else:
        tilt = fan.detector_tilt
        along = (shift - fan.detector_offset + reach * jnp.tan(gamma)) / (jnp.cos(tilt) - jnp.sin(tilt) * jnp.tan(gamma))
        cell = along / fan.detector_spacing
    return gamma, jnp.where(beyond, -1e6, cell + middle)


def _view(betas, beta, full, direction):
    """(Fractional) index of the view at β, and whether it was measured."""
    n = betas.shape[0]
    ascending = betas * direction
    beta = ascending[0] + jnp.mod(beta * direction - ascending[0], 2 * math.pi)
    if full:
        ascending = jnp.append(ascending, ascending[0] + 2 * math.pi)
    slack = TOLERANCE * (ascending[1] - ascending[0])  # rounding of a β at the very start would carry it a turn ahead
    beta = jnp.where(beta > ascending[0] + 2 * math.pi - slack, beta - 2 * math.pi, beta)
    before = jnp.clip(jnp.searchsorted(ascending, beta, side="right") - 1, 0, ascending.shape[0] - 2)
    start = ascending[before]
    index = before + (beta - start) / (ascending[before + 1] - start)
    return index, jnp.ones(beta.shape, bool) if full else index <= n - 1 + TOLERANCE


def interpolate(sinogram: jax.Array, row: Any, column: Any, full: bool, taps: int) -> jax.Array:
    """``sinogram [..., n, m]`` at fractional indices, which broadcast; clipped at the ends, rows periodic if ``full``; by 2 or 4 taps."""
    n, m = sinogram.shape[-2:]
    value = jnp.zeros((), sinogram.dtype)
    i, j = jnp.floor(row), jnp.floor(column)
    weights_i, weights_j = _weights(row - i, taps), _weights(column - j, taps)
    i, j = i.astype(int), j.astype(int)
    for a, wa in enumerate(weights_i, start=1 - taps // 2):
        view = jnp.mod(i + a, n) if full else jnp.clip(i + a, 0, n - 1)
        for b, wb in enumerate(weights_j, start=1 - taps // 2):
            value = value + wa * wb * sinogram[..., view, jnp.clip(j + b, 0, m - 1)]
    return value


def _weights(t, taps):
    if taps == 2:
        return 1 - t, t
    return (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


def _turn(fan):
    """Whether the scan closes to a full turn, and the sense in which it turns; traced angles are taken for an increasing full turn."""
    if not check.is_concrete(fan.angles):
        return True, 1
    angles = np.asarray(fan.angles, np.float64)
    steps = np.diff(angles)
    if len(angles) < 3 or not (np.all(steps > 0) or np.all(steps < 0)):
        check.fail("fan.angles", "at least 3 angles that increase or decrease steadily", f"{len(angles)} that do not", "Sort the views.")
    span = abs(angles[-1] - angles[0])
    if span > 2 * math.pi * (1 + 1e-6):
        check.fail("fan.angles", "at most one turn", f"{span:.4g} rad", "Take one turn: fan.subset(...).")
    if 2 * math.pi - span < 1e-3 * abs(steps).min():
        check.fail("fan.angles", "a turn that ends before its first view", "that view twice", "Drop it: fan.subset(slice(0, -1)).")
    return bool(2 * math.pi - span < 1.5 * abs(steps).max()), 1 if steps[0] > 0 else -1


def _natural(fan, full):
    """Half a turn in steps like the fan's, and cells as they appear at the axis, over all that the fan sees, centred."""
    known = host(fan)
    if known is None:
        check.fail("parallel", "given where the fan is traced", "None", "Pass ParallelBeam(image_shape, angles, detector_count).")
    angles = known.angles.astype(np.float64)
    span = abs(angles[-1] - angles[0]) * (len(angles) / (len(angles) - 1) if full else 1)
    count = max(1, math.ceil(math.pi * (len(angles) - (not full)) / span - 1e-6))
    start = angles.min() + (0.0 if full else (span - math.pi) / 2)
    spacing = fan.detector_spacing / float(known.magnification)
    cells = math.ceil(2 * np.max(np.abs(known.rays[1])) / spacing + 1 - 1e-6)
    return ParallelBeam(fan.image_shape, start + math.pi / count * np.arange(count), cells, fan.pixel_size, spacing)


def _refuse_missed(fan, parallel):
    angles = np.sort(np.asarray(fan.angles, np.float64))
    l = np.asarray(parallel.detector_positions, np.float64)
    theta = np.asarray(parallel.angles, np.float64)[:, None]
    slack = TOLERANCE * np.diff(angles).min()
    missed = np.ones((theta.size, l.size), bool)
    inside = np.zeros_like(missed)
    for side in (0, 1):
        gamma, cell = (np.asarray(v) for v in _ray(fan, -l if side else l))
        on = (cell >= -0.5) & (cell <= fan.detector_count - 0.5)
        beta = angles[0] + np.mod(theta + side * math.pi + gamma - angles[0] + slack, 2 * math.pi) - slack
        missed &= ~(on & (beta <= angles[-1] + slack))
        inside |= on
    if (missed & inside).any():
        expected = "lines that the fan has measured from one side or the other"
        remedy = f"The scan of {angles[-1] - angles[0]:.4g} rad must be π + the fan angle, {math.pi + float(fan.fan_angle):.4g} rad."
        check.fail("parallel", expected, f"{int((missed & inside).sum())} of {missed.size} that it has not", remedy)
