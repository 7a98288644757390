"""The Bloch equation: spins under RF pulses, gradients, off-resonance and relaxation.

dM/dt = γ M × B − (M_x, M_y)/T2 − (M_z − M₀)/T1, in the frame rotating with ω₀ = γB₀: precession is M_xy(t) = M_xy(0) e^{−iωt}.
In an interval of constant field, without RF, the solution is exact; with RF it is a rotation about the effective field between two
half steps of relaxation (Strang; the error is third order in the interval).

F. Bloch, Phys. Rev. 70 (1946) 460; E. T. Jaynes, Phys. Rev. 98 (1955) 1099; C. Graf et al., Magn. Reson. Med. 86 (2021) 1226 (splitting).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.core.trigonometry import sincos
from diffimg.forward.nuclei import GAMMA
from diffimg.forward.sequence import Sequence

_CHUNK = 2**14  # spins at once: their state stays in a CPU's cache
_BLOCK = 8  # intervals at once: long enough to hide the loop, short enough to leave intervals without RF alone


@pytree
class Spins:
    """Isochromats: points whose spins precess together. Fields broadcast with each other; all are traced.

    Args:
        position: ``[..., 3]`` m: (x, y, z).
        m0: equilibrium magnetization, any unit; the signal has it.
        t1, t2: relaxation times in s, > 0 (``jnp.inf`` for none).
        off_resonance: ω in rad/s.
        b1: transmit field over its nominal value, real or complex.

    Raises:
        ValueError: shapes that do not broadcast, relaxation times that are not positive, NaN.
    """

    position: Any
    m0: Any = 1.0
    t1: Any = math.inf
    t2: Any = math.inf
    off_resonance: Any = 0.0
    b1: Any = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, check.array(field.name, getattr(self, field.name)))
        if jnp.ndim(self.position) < 1 or jnp.shape(self.position)[-1] != 3:
            check.fail("position", "shape [..., 3] with (x, y, z) in m", f"shape {tuple(jnp.shape(self.position))}")
        try:
            _ = self.shape
        except ValueError:
            shapes = {f.name: tuple(jnp.shape(getattr(self, f.name))) for f in dataclasses.fields(self)}
            check.fail("spins", "fields that broadcast to one shape", str(shapes))
        for name in ("position", "m0", "off_resonance", "b1"):
            check.finite(name, getattr(self, name))
        for name in ("t1", "t2"):
            check.minimum(name, getattr(self, name), 0.0, strict=True, remedy="Give seconds; jnp.inf switches relaxation off.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the set of spins."""
        others = (jnp.shape(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "position")
        return tuple(np.broadcast_shapes(jnp.shape(self.position)[:-1], *others))


@pytree
class Simulation:
    """What ``simulate`` returns.

    ``signal``: ``[..., sample]`` complex, the sum of M_xy over the spins (weighted by the receive sensitivities, ``[coil, sample]``);
    ``magnetization``: ``[*spins, 3]`` at the end; ``history``: ``[interval, *spins, 3]`` at the end of every interval, or None.
    """

    signal: Any
    magnetization: Any
    history: Any = None


def simulate(
    sequence: Sequence,
    spins: Spins,
    *,
    initial: Any = None,
    receive: Any = None,
    history: bool = False,
    gamma: float = GAMMA,
) -> Simulation:
    """Play a sequence to a set of spins.

    Differentiable, in both modes and to any order, in tissue, positions, pulse, gradients, durations and sensitivities. A reverse-mode
    gradient keeps the state after every interval of one chunk of spins, and computes everything else again.

    Args:
        sequence: RF, gradients and samples.
        spins: positions and tissue.
        initial: magnetization at the start, ``[*spins, 3]``; default: equilibrium, (0, 0, m0).
        receive: complex sensitivities ``[coil, *spins]``, conjugate phases included; default: one coil that sees all spins alike.
        history: also return the magnetization after every interval (memory: intervals × spins).
        gamma: of the nucleus, rad/s/T.

    Returns:
        A ``Simulation``.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape, count = spins.shape, math.prod(spins.shape)
    given = (spins.position, spins.t1, spins.m0, sequence.gradient)
    dtype = jnp.finfo(jnp.result_type(*(jnp.asarray(v) for v in given), jnp.float32)).dtype
    flat = [jnp.broadcast_to(jnp.asarray(spins.position, dtype), (*shape, 3)).reshape(count, 3).T]
    for value in (spins.m0, spins.t1, spins.t2, spins.off_resonance):
        flat.append(jnp.broadcast_to(jnp.asarray(value, dtype), shape).reshape(1, count))
    b1 = jnp.broadcast_to(jnp.asarray(spins.b1), shape).reshape(1, count)
    flat.extend([b1.real.astype(dtype), b1.imag.astype(dtype)])
    if initial is None:
        start = jnp.concatenate([jnp.zeros((2, count), dtype), flat[1]])
    else:
        check.trailing_shape("initial", initial, (*shape, 3), "*spins, 3")
        start = jnp.asarray(initial, dtype).reshape(count, 3).T
    if receive is None:
        weights = None
    else:
        receive = check.array("receive", receive)
        check.trailing_shape("receive", receive, shape, "*spins", "The first axis is that of the coils.")
        weights = jnp.asarray(receive).reshape(-1, count)
    rows = [*flat, start]
    packed, cut = jnp.concatenate(rows), np.cumsum([r.shape[0] for r in rows])[:-1]

    def one(packed, weights):
        return _play(sequence, jnp.split(packed, cut), weights, history, gamma, dtype)

    chunks = -(-count // _CHUNK)
    if chunks == 1:
        signal, end, states = one(packed, weights)
    else:
        size = -(-count // chunks)
        fill = chunks * size - count
        # relaxation times of the added spins must not be zero, and their magnetization does not count
        packed = jnp.concatenate([packed, jnp.broadcast_to(packed[:, -1:], (packed.shape[0], fill))], axis=1)
        weights = jnp.pad(jnp.ones((1, count), dtype) if weights is None else weights, ((0, 0), (0, fill)))
        parts = tuple(jnp.moveaxis(v.reshape(v.shape[0], chunks, size), 1, 0) for v in (packed, weights))
        signal, end, states = lax.map(lambda p: one(*p), parts)
        signal = jnp.sum(signal, axis=0)
        end = jnp.moveaxis(end, 0, 1).reshape(3, -1)[:, :count]
        states = None if states is None else jnp.moveaxis(states, 0, 2).reshape(states.shape[1], 3, -1)[..., :count]
    signal = signal[jnp.asarray(sequence.samples)].T
    signal = signal[0] if receive is None else signal.reshape(*jnp.shape(receive)[: jnp.ndim(receive) - len(shape)], -1)
    past = None if states is None else jnp.moveaxis(states, 1, -1).reshape(-1, *shape, 3)
    return Simulation(signal, end.T.reshape(*shape, 3), past)


def _play(sequence, rows, weights, history, gamma, dtype):
    """(signal ``[interval, coil]``, end ``[3, spin]``, states ``[interval, 3, spin]`` or None) for one chunk of spins.

    Intervals are taken in blocks. Without RF a block is closed: all its phases at once, no step waits for the one before. With RF what
    does not depend on the state is computed at once, and the steps only multiply.
    """
    (x, y, z), (m0,), (t1,), (t2,), (omega,), (b1_real,), (b1_imag,), start = rows
    turn = gamma / (2 * math.pi)
    rf = jnp.asarray(sequence.rf)
    intervals = (
        jnp.asarray(sequence.duration, dtype),
        rf.real.astype(dtype) * turn,
        rf.imag.astype(dtype) * turn,
        jnp.asarray(sequence.gradient, dtype) * turn,
        jnp.ones(len(sequence), dtype) if sequence.spoil is None else 1 - jnp.asarray(sequence.spoil).astype(dtype),
    )
    tissue = (x, y, z, omega / (2 * math.pi), m0, 1 / t1, 1 / t2, b1_real, b1_imag)
    count = len(sequence)
    fill = -count % _BLOCK
    # added intervals last no time and keep everything
    blocks = tuple(jnp.pad(v, ((0, fill), *((0, 0),) * (v.ndim - 1)), constant_values=int(v is intervals[-1])) for v in intervals)
    blocks = tuple(v.reshape(-1, _BLOCK, *v.shape[1:]) for v in blocks)
    read = jnp.zeros(count + fill, bool).at[jnp.asarray(sequence.samples)].set(True).reshape(-1, _BLOCK)

    @jax.checkpoint
    def block(state, interval):
        *interval, read = interval
        excited = jnp.any((interval[1] != 0) | (interval[2] != 0))
        if history:
            state, out = lax.cond(excited, _excited_block, _free_block, state, interval, tissue)
            signal = _received(out[:, 0], out[:, 1], weights)
            return state, (signal, out)
        kind = jnp.where(excited, jnp.where(jnp.any(read), 2, 1), 0)
        branches = (_free_signal, _excited_silent, _excited_signal)
        return lax.switch(kind, [functools.partial(f, weights) for f in branches], state, interval, tissue)

    end, out = lax.scan(block, tuple(start), (*blocks, read))
    signal, states = out if history else (out, None)
    states = None if states is None else states.reshape(-1, *states.shape[2:])[:count]
    return signal.reshape(-1, signal.shape[-1])[:count], jnp.stack(end), states


def _received(mx, my, weights):
    """Σ over the spins, ``[interval, coil]`` complex."""
    if weights is None:
        return lax.complex(jnp.sum(mx, axis=1), jnp.sum(my, axis=1))[:, None]
    real, imaginary = weights.real.astype(mx.dtype).T, weights.imag.astype(mx.dtype).T
    dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return lax.complex(dot(mx, real) - dot(my, imaginary), dot(my, real) + dot(mx, imaginary))


def _outer(per_interval, per_spin):
    """``[interval, k]`` by ``[k, spin]``. A matrix product even where it is one term: its derivatives are sums over all spins and over
    all intervals, which XLA's reductions do slowly."""
    return jnp.matmul(per_interval, per_spin, precision=lax.Precision.HIGHEST)


def _free(state, interval, tissue):
    """(M_x, M_y) ``[interval, spin]`` after each interval without RF, and the way to M_z."""
    (mx, my, mz), (duration, _, _, gradient, kept) = state, interval
    x, y, z, omega, m0, rate1, rate2 = tissue[:7]
    time = jnp.cumsum(duration)[:, None]
    moment = jnp.cumsum(gradient * duration[:, None], axis=0)
    sin, cos = sincos(_outer(jnp.concatenate([time, moment], axis=1), jnp.stack([omega, x, y, z])))
    size = jnp.cumprod(kept)[:, None] * jnp.exp(_outer(-time, rate2[None]))
    both = lax.complex(size * cos, -size * sin) * lax.complex(mx, my)
    return both, lambda t: m0 + jnp.exp(-t * rate1) * (mz - m0), time


def _free_signal(weights, state, interval, tissue):
    both, longitudinal, time = _free(state, interval, tissue)
    end = (both[-1].real, both[-1].imag, longitudinal(time[-1]))
    signal = jnp.sum(both, axis=1)[:, None] if weights is None else _received(both.real, both.imag, weights)
    return end, signal


def _free_block(state, interval, tissue):
    both, longitudinal, time = _free(state, interval, tissue)
    out = jnp.stack([both.real, both.imag, longitudinal(time)], axis=1)
    return tuple(out[-1]), out


def _rotations(interval, tissue):
    """Unit quaternions (cos φ/2, n sin φ/2) and half-step decays (E1, E2) of all intervals, ``[interval, spin]``: nothing waits here."""
    duration, u, v, gradient = interval[:4]
    x, y, z, omega, _, rate1, rate2, b1_real, b1_imag = tissue
    dt = duration[:, None]
    pulse = jnp.stack([u, v], axis=1) * dt
    wx, wy = _outer(pulse, jnp.stack([b1_real, -b1_imag])), _outer(pulse, jnp.stack([b1_imag, b1_real]))
    wz = _outer(jnp.concatenate([dt, gradient * dt], axis=1), jnp.stack([omega, x, y, z]))
    square = wx * wx + wy * wy + wz * wz  # of the angle in turns
    small = square < 1e-16
    turns = jnp.sqrt(jnp.where(small, 1.0, square))
    sin, cos = sincos(0.5 * turns)
    # one complex array: XLA computes both parts in one pass
    both = lax.complex(jnp.where(small, math.pi, sin / turns), jnp.where(small, 1.0, cos))
    decay = (jnp.exp(_outer(-0.5 * dt, rate[None])) for rate in (rate1, rate2))
    return both.imag, both.real * wx, both.real * wy, both.real * wz, *decay


def _excite(state, item, m0):
    """One interval with RF: half a step of relaxation, the rotation by −φ about n, half a step of relaxation."""
    mx, my, mz = state
    (p, q, r, s, e1, e2), keep = item
    mx, my, mz = e2 * mx, e2 * my, m0 + e1 * (mz - m0)
    tx, ty, tz = 2 * (my * s - mz * r), 2 * (mz * q - mx * s), 2 * (mx * r - my * q)
    mx, my, mz = mx + p * tx + (ty * s - tz * r), my + p * ty + (tz * q - tx * s), mz + p * tz + (tx * r - ty * q)
    return keep * e2 * mx, keep * e2 * my, m0 + e1 * (mz - m0)


def _excited_silent(weights, state, interval, tissue):
    """Nothing is read: no signal is computed."""
    items = (_rotations(interval, tissue), interval[4])
    end, _ = lax.scan(lambda m, item: (_excite(m, item, tissue[4]), None), state, items)
    coils = 1 if weights is None else weights.shape[0]
    zero = jnp.zeros((interval[0].shape[0], coils), end[0].dtype)
    return end, lax.complex(zero, zero)


def _excited_block(state, interval, tissue):
    def step(m, item):
        m = _excite(m, item, tissue[4])
        return m, jnp.stack(m)

    return lax.scan(step, state, (_rotations(interval, tissue), interval[4]))


def _excited_signal(weights, state, interval, tissue):
    end, out = _excited_block(state, interval, tissue)
    return end, _received(out[:, 0], out[:, 1], weights)
