"""Spins in an RF field: rotations about the effective field, with the derivatives that they have in closed form."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from diffimg.core.trigonometry import sincos


@jax.custom_jvp
def outer(per_interval: Any, per_spin: Any) -> Any:
    """``[interval, k]`` by ``[k, spin]`` → ``[interval, spin]``. Few terms: summed where they are used. Their derivatives are matrix
    products, as they sum over all spins or over all intervals."""
    return functools.reduce(jnp.add, (per_interval[:, k : k + 1] * per_spin[k] for k in range(per_spin.shape[0])))


@outer.defjvp
def _outer_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return outer(a, b), dot(da, b) + dot(a, db)


@jax.custom_jvp
def decay(duration: Any, rate: Any) -> Any:
    """e^{−duration · rate}, ``[interval, spin]``; one row where all durations are equal."""
    even = jnp.all(duration == duration[0])
    shape = (duration.shape[0], rate.shape[0])
    return lax.cond(
        even,
        lambda: jnp.broadcast_to(jnp.exp(-duration[0] * rate), shape),
        lambda: jnp.exp(-duration[:, None] * rate),
    )


@decay.defjvp
def _decay_jvp(primals, tangents):
    (duration, rate), (d_duration, d_rate) = primals, tangents
    e = decay(duration, rate)
    dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return e, -e * (dot(d_duration[:, None], rate[None]) + dot(duration[:, None], d_rate[None]))


def excite(state: Any, turns: Any, duration: Any, rates: Any, m0: Any, kept: Any, every: bool) -> Any:
    """Play intervals: half a step of relaxation, the rotation, half a step of relaxation, each.

    Args:
        state: (M_x, M_y, M_z), ``[spin]`` each.
        turns: (w_x, w_y, w_z), ``[interval, spin]`` each: the magnetization turns by −2π|w| about w.
        duration: ``[interval]`` s.
        rates: (R₁, R₂), ``[spin]`` 1/s each.
        m0: equilibrium, ``[spin]``.
        kept: ``[interval]``: 0 destroys the transverse magnetization after the interval.
        every: also return the state after every interval.

    Returns:
        ``(state, states)``, the latter ``[interval, 3, spin]`` or None.
    """
    rotations, carrier = _rotations(*turns), _carrier(*turns)
    half = 0.5 * duration
    # between two rotations lie the second half step of one interval and the first of the next
    e1, e2 = (decay(half + jnp.append(half[1:], 0), rate) for rate in rates)
    first1, first2 = (jnp.exp(-half[0] * rate) for rate in rates)
    # one complex array, here and below: XLA computes both parts in one pass
    start = first2 * lax.complex(*state[:2]), m0 + first1 * (state[2] - m0)
    (transverse, z), turned = _propagate(start, rotations, carrier, kept[:, None] * e2, e1, (None, m0 * (1 - e1)))
    states = None
    if every:
        e1, e2 = (decay(half, rate) for rate in rates)
        both, z_each = kept[:, None] * e2 * turned[0], m0 + e1 * (turned[1] - m0)
        states = jnp.stack([both.real, both.imag, z_each], axis=1)
    return (transverse.real, transverse.imag, z), states


def _halves(wx, wy, wz):
    """(sin(φ/2)/|w|, cos φ/2), φ = 2π|w|."""
    square = wx * wx + wy * wy + wz * wz
    small = square < 1e-8
    size = jnp.sqrt(jnp.where(small, 1.0, square))
    sin, cos = sincos(0.5 * size)
    series = math.pi - math.pi**3 / 6 * square, 1 - 0.5 * math.pi**2 * square
    both = lax.complex(jnp.where(small, series[0], sin / size), jnp.where(small, series[1], cos))
    return both.real, both.imag


def _rotations(wx, wy, wz):
    """Rodrigues' formula in the quaternion: cos φ, √2 cos φ/2, √2 n sin φ/2."""
    k, c = _halves(wx, wy, wz)
    k, half = math.sqrt(2) * k, math.sqrt(2) * c
    return half * half - 1, half, k * wx, k * wy, k * wz


@jax.custom_jvp
def _propagate(start, rotations, carrier, e2, e1, sources):
    """m ← (e2, e2, e1) · R m + source over the intervals, R by −φ about n; ``(end, R m of every interval)``.

    A magnetization is (M_x + iM_y, M_z). ``carrier`` is zero and carries the derivatives of R in the place of ``rotations``. Derivatives
    are sources of the same recursion: one loop forwards, one backwards, and everything else at once.
    """

    def step(m, item):
        # only products of what comes in: nothing else has to be kept for the way back
        (c, p, q, r, s), e2, e1, (transverse, longitudinal) = item
        mx, my, mz = m[0].real, m[0].imag, m[1]
        along = q * mx + r * my + s * mz
        x = c * mx + p * (my * s - mz * r) + q * along
        y = c * my + p * (mz * q - mx * s) + r * along
        z = c * mz + p * (mx * r - my * q) + s * along
        m = lax.complex(e2 * x, e2 * y)
        return (m if transverse is None else m + transverse, e1 * z + longitudinal), (lax.complex(x, y), z)

    return lax.scan(step, start, (rotations, e2, e1, sources))


@functools.partial(_propagate.defjvp, symbolic_zeros=True)
def _propagate_jvp(primals, tangents):
    start, rotations, carrier, e2, e1, _ = primals
    d_start, _, turn, d_e2, d_e1, (d_transverse, d_longitudinal) = jax.tree.map(_or_none, tangents, is_leaf=_is_zero)
    end, (xy, z) = _propagate(*primals)
    zero = jnp.zeros_like(z)
    turned = (lax.complex(zero, zero), zero)
    if turn[0] is not None:
        ax, ay, az = (zero if a is None else a for a in turn)
        x, y = xy.real, xy.imag
        turned = lax.complex(ay * z - az * y, az * x - ax * z), ax * y - ay * x
    transverse, longitudinal = e2 * turned[0], e1 * turned[1]
    transverse += 0 if d_e2 is None else d_e2 * xy
    transverse += 0 if d_transverse is None else d_transverse
    longitudinal += 0 if d_e1 is None else d_e1 * z
    longitudinal += 0 if d_longitudinal is None else d_longitudinal
    d_start = tuple(jnp.zeros_like(m) if d is None else d for m, d in zip(start, d_start, strict=True))
    d_end, moved = _propagate(d_start, rotations, carrier, e2, e1, (transverse, longitudinal))
    return (end, (xy, z)), (d_end, (moved[0] + turned[0], moved[1] + turned[1]))


def _is_zero(tangent):
    return isinstance(tangent, SymbolicZero)


def _or_none(tangent):
    return None if _is_zero(tangent) else tangent


@jax.custom_jvp
def _carrier(wx, wy, wz):
    """Zeros whose derivative is J dθ with θ = −2πw and J the left Jacobian of the exponential map of rotations."""
    return jnp.zeros_like(wx), jnp.zeros_like(wy), jnp.zeros_like(wz)


@_carrier.defjvp
def _carrier_jvp(primals, tangents):
    (x, y, z), (dx, dy, dz) = primals, tangents
    k, c = _halves(x, y, z)
    square = x * x + y * y + z * z
    small = square < 0.01
    # (φ − sin φ)/φ³ in turns; a series where it cancels
    low = (2 * math.pi) ** 2 * jnp.where(small, square, 0.0)
    series = functools.reduce(lambda value, n: 1 / math.factorial(2 * n + 3) - low * value, range(5, -1, -1), jnp.zeros_like(x))
    along = jnp.where(small, (2 * math.pi) ** 3 * series, (2 * math.pi - 2 * c * k) / jnp.where(small, 1.0, square))
    # J dθ = sin φ/φ dθ + (1 − cos φ)/φ² θ × dθ + (φ − sin φ)/φ³ θ (θ · dθ)
    straight, across, along = -2 * c * k, 2 * k * k, -along * (x * dx + y * dy + z * dz)
    out = (
        straight * dx + across * (y * dz - z * dy) + along * x,
        straight * dy + across * (z * dx - x * dz) + along * y,
        straight * dz + across * (x * dy - y * dx) + along * z,
    )
    return _carrier(x, y, z), out
