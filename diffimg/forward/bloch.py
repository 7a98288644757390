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
from diffimg.forward.bloch_excitation import excite, outer
from diffimg.forward.bloch_readout import free_signal, phasors, product
from diffimg.forward.bloch_segments import BLOCKS, segments
from diffimg.forward.nuclei import Nucleus, named
from diffimg.forward.sequence import Sequence

_CHUNK = 2**14  # spins at once on a CPU: their state stays in its cache
_LARGE_CHUNK = 2**18  # on an accelerator: half a gigabyte of temporaries


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
        if check.is_concrete(self.t1):  # huge ones are meant as none
            t1 = np.asarray(self.t1)
            check.plausible("t1", np.where(t1 > 1e4, 0.0, t1), 100.0, "seconds", "If they are ms, divide by 1000.")
        check.plausible("position", self.position, 10.0, "metres", "If they are mm, divide by 1000.")

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
    nucleus: str | Nucleus = "1H",
) -> Simulation:
    """Play a sequence to a set of spins.

    Differentiable, in both modes and to any order, in tissue, positions, pulse, gradients, durations and sensitivities. A reverse-mode
    gradient keeps the states at the ends of blocks of intervals, and computes everything else again. In a readout without any RF there
    are no derivatives with respect to that of its intervals.

    Args:
        sequence: RF, gradients and samples.
        spins: positions and tissue.
        initial: magnetization at the start, ``[*spins, 3]``; default: equilibrium, (0, 0, m0).
        receive: complex sensitivities ``[coil, *spins]``, conjugate phases included; default: one coil that sees all spins alike.
        history: also return the magnetization after every interval (memory: intervals × spins).
        nucleus: its name, or one of your own (``forward.Nucleus``).

    Returns:
        A ``Simulation``.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape, count, gamma = spins.shape, math.prod(spins.shape), named(nucleus).gamma
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
    weights = jnp.ones((1, count), dtype)
    if receive is not None:
        receive = check.array("receive", receive)
        check.trailing_shape("receive", receive, shape, "*spins", "The first axis is that of the coils.")
        weights = jnp.asarray(receive).reshape(-1, count)
    weights = weights.astype(jnp.result_type(dtype, jnp.complex64))
    rows = [*flat, start]
    packed, cut = jnp.concatenate(rows), np.cumsum([r.shape[0] for r in rows])[:-1]

    def one(packed, weights):
        return _play(sequence, jnp.split(packed, cut), weights, history, gamma, dtype)

    if count <= _CHUNK:
        signal, end, states = one(packed, weights)
    else:
        sizes = {"cpu": _CHUNK, "default": _LARGE_CHUNK}
        chunked = {platform: functools.partial(_in_chunks, one, size) for platform, size in sizes.items()}
        signal, end, states = lax.platform_dependent(packed, weights, **chunked)
    signal = signal.T
    signal = signal[0] if receive is None else signal.reshape(*jnp.shape(receive)[: jnp.ndim(receive) - len(shape)], -1)
    past = None if states is None else jnp.moveaxis(states, 1, -1).reshape(-1, *shape, 3)
    return Simulation(signal, end.T.reshape(*shape, 3), past)


def _in_chunks(function, size, packed, weights):
    """``function`` over the spins, the last axis, in parts of about ``size``."""
    count = packed.shape[-1]
    chunks = -(-count // size)
    size = -(-count // chunks)
    fill = chunks * size - count
    # relaxation times of the added spins must not be zero, and their magnetization does not count
    packed = jnp.concatenate([packed, jnp.broadcast_to(packed[:, -1:], (packed.shape[0], fill))], axis=1)
    weights = jnp.pad(weights, ((0, 0), (0, fill)))
    parts = tuple(jnp.moveaxis(v.reshape(v.shape[0], chunks, size), 1, 0) for v in (packed, weights))
    signal, end, states = lax.map(lambda p: function(*p), parts)
    end = jnp.moveaxis(end, 0, 1).reshape(3, -1)[:, :count]
    states = None if states is None else jnp.moveaxis(states, 0, 2).reshape(states.shape[1], 3, -1)[..., :count]
    return jnp.sum(signal, axis=0), end, states


def _play(sequence, rows, weights, history, gamma, dtype):
    """(signal ``[sample, coil]``, end ``[3, spin]``, states ``[interval, 3, spin]`` or None) for one chunk of spins."""
    (x, y, z), (m0,), (t1,), (t2,), (omega,), (b1_real,), (b1_imag,), start = rows
    turn, count, samples = gamma / (2 * math.pi), len(sequence), np.asarray(sequence.samples, int)
    rf = jnp.asarray(sequence.rf)
    intervals = (
        jnp.asarray(sequence.duration, dtype),
        jnp.stack([rf.real.astype(dtype), rf.imag.astype(dtype)], axis=1) * turn,
        jnp.asarray(sequence.gradient, dtype) * turn,
        jnp.ones(count, dtype) if sequence.spoil is None else 1 - jnp.asarray(sequence.spoil).astype(dtype),
    )
    tissue = (jnp.stack([omega / (2 * math.pi), x, y, z]), jnp.stack([b1_real, b1_imag]), m0, 1 / t1, 1 / t2)
    if history:
        index = np.append(np.arange(count), np.full(-count % BLOCKS[0], -1)).reshape(-1, BLOCKS[0])
        play = jax.checkpoint(lambda m, block: _excited(m, block, tissue, every=True))
        end, states = lax.scan(play, tuple(start), _gather(intervals, index))
        states = states.reshape(-1, *states.shape[2:])[:count]
        return product((states[samples, 0], states[samples, 1]), (weights.real, weights.imag)), jnp.stack(end), states
    silent, read = segments(samples, count)

    def segment(m, parts):
        waits, readout = parts
        m, _ = lax.scan(lambda m, block: (_silent(m, block, tissue), None), m, waits)
        return _read(m, readout, tissue, weights) if read.size else (m, None)

    parts = _gather(intervals, silent), _gather(intervals, read, extend=True)
    end, signal = lax.scan(segment, tuple(start), parts)
    if not read.size:
        return jnp.zeros((0, weights.shape[0]), weights.dtype), jnp.stack(end), None
    slot = np.zeros(count, int)
    slot[read[read >= 0]] = np.flatnonzero(read >= 0)
    return signal.reshape(-1, signal.shape[-1])[slot[samples]], jnp.stack(end), None


def _gather(intervals, index, extend=False):
    """(duration, RF, gradient, kept, real) at ``index``; where there is no interval, one that lasts no time, or the last one again."""
    real = index >= 0
    last = np.maximum(np.maximum.accumulate(index, axis=-1), 0)
    duration, rf, gradient, kept = (v[last] for v in intervals)
    if not extend:
        duration = jnp.where(real, duration, 0)
    return duration, rf, gradient, jnp.where(real, kept, 1), real.astype(kept.dtype)


def _steps(duration, gradient):
    return jnp.concatenate([duration[:, None], gradient * duration[:, None]], axis=1)


def _excited(state, interval, tissue, every=False):
    """Any intervals; ``(state, states [interval, 3, spin] or None)``."""
    duration, rf, gradient, kept, _ = interval
    places, b1, m0, rate1, rate2 = tissue
    pulse = rf * duration[:, None]
    turns = (
        outer(pulse * jnp.asarray([1, -1], pulse.dtype), b1),
        outer(pulse[:, ::-1], b1),
        outer(_steps(duration, gradient), places),
    )
    return excite(state, turns, duration, (rate1, rate2), m0, kept, every)


def _freely(state, interval, tissue):
    """The state after intervals without RF."""
    (mx, my, mz), (duration, _, gradient, kept, real) = state, interval
    places, _, m0, rate1, rate2 = tissue
    duration = duration * real
    real, imaginary = phasors(jnp.sum(_steps(duration, gradient), axis=0, keepdims=True), rate2, places)
    c, s = jnp.prod(kept) * real[0], jnp.prod(kept) * imaginary[0]
    return c * mx - s * my, c * my + s * mx, m0 + jnp.exp(-jnp.sum(duration) * rate1) * (mz - m0)


def _played(state, interval, tissue):
    kind = jnp.where(jnp.any(interval[-1] > 0), jnp.where(jnp.any(interval[1] != 0), 2, 1), 0)
    return lax.switch(kind, (_untouched, _freely, lambda *a: _excited(*a)[0]), state, interval, tissue)


def _played_with_rf(state, interval, tissue):
    # checkpoint: what a branch keeps for derivatives, the other would have to keep too
    return lax.cond(jnp.any(interval[-1] > 0), jax.checkpoint(lambda *a: _excited(*a)[0]), _untouched, state, interval, tissue)


def _untouched(state, interval, tissue):
    return state


_silent = jax.custom_jvp(_played)


@_silent.defjvp
def _silent_jvp(primals, tangents):
    """Intervals without RF have derivatives with respect to it too, so that a pulse can be designed from nothing."""
    return jax.jvp(_played_with_rf, primals, tangents)


def _read(state, interval, tissue, weights):
    """(state, signal ``[interval, coil]``) of intervals at whose end the signal is read."""
    excited = jnp.any((interval[1] != 0) & (interval[-1] > 0)[:, None])
    return lax.cond(excited, jax.checkpoint(_read_excited), _read_freely, state, interval, tissue, weights)


def _read_freely(state, interval, tissue, weights):
    duration, _, gradient, kept, _ = interval
    signal = free_signal(_steps(duration, gradient), tissue[4], tissue[0], weights * lax.complex(state[0], state[1]))
    return _freely(state, interval, tissue), jnp.cumprod(kept)[:, None] * signal


def _read_excited(state, interval, tissue, weights):
    duration, *others, real = interval
    state, states = _excited(state, (duration * real, *others, real), tissue, every=True)
    return state, product((states[:, 0], states[:, 1]), (weights.real, weights.imag))
