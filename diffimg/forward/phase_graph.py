"""Extended phase graphs: what a train of pulses makes of spins that gradients dephase, without simulating a single one.

The magnetization along the dephasing direction is a Fourier series: F_k (transverse, orders k and −k) and Z_k. A pulse mixes F_k, F_−k and
Z_k; a gradient shifts k; relaxation damps. Signs are those of ``bloch``: a pulse of phase 0 turns M from z to +y.

J. Hennig, J. Magn. Reson. 78 (1988) 397; M. Weigel, J. Magn. Reson. Imaging 41 (2015) 266.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import pytree


@pytree
class PhaseGraph:
    """Signals of a train: ``signal`` F₀ and ``longitudinal`` Z₀ at the end of each step, ``[..., step]``, in units of m0."""

    signal: Any
    longitudinal: Any


def phase_graph(
    flip: Any,
    phase: Any,
    duration: Any,
    t1: Any,
    t2: Any,
    *,
    shift: Any = 1,
    m0: Any = 1.0,
    b1: Any = 1.0,
    orders: int | None = None,
) -> PhaseGraph:
    """F₀ and Z₀ after each step of a train. A step is a pulse (or none, flip 0), then relaxation for a time with a gradient.

    Differentiable in flip angles, phases, durations and tissue.

    Args:
        flip, phase: ``[step]`` rad.
        duration: ``[step]`` s, or one for all.
        t1, t2: tissue, s; any shapes that broadcast together and with m0 and b1.
        shift: gradient moment of each step in units of one order, ``[step]`` of 0 or 1, or one for all.
        m0: equilibrium magnetization. b1: factor of the flip angles.
        orders: highest order kept; default: the number of steps, which loses nothing.

    Returns:
        ``PhaseGraph`` with arrays ``[*tissue, step]``.

    Raises:
        ValueError: arrays of different lengths, relaxation times that are not positive, shifts other than 0 and 1.
    """
    flip = check.array("flip", flip)
    check.ndim("flip", flip, 1, "[step]")
    steps = int(jnp.shape(flip)[0])
    for name, value in (("phase", phase), ("duration", duration), ("shift", shift)):
        if tuple(jnp.shape(check.array(name, value))) not in ((), (steps,)):
            check.fail(name, f"one value, or {steps} [step]", f"shape {np.shape(value)}")
    for name, value in (("t1", t1), ("t2", t2)):
        check.minimum(name, value, 0.0, strict=True, remedy="Give seconds.")
    if check.is_concrete(shift) and not np.isin(np.asarray(shift), (0, 1)).all():
        check.fail("shift", "0 or 1 for each step", str(np.asarray(shift)), "Take the smallest moment of the train as the unit.")
    orders = steps if orders is None else check.positive_int("orders", orders)
    tissue = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.result_type(float)) for v in (t1, t2, m0, b1)))
    shape, dtype = tissue[0].shape, tissue[0].dtype
    t1, t2, m0, b1 = (v[..., None] for v in tissue)
    train = [jnp.broadcast_to(jnp.asarray(v, dtype), (steps,)) for v in (flip, phase, duration, shift)]
    zero = jnp.zeros((*shape, orders + 1), dtype)
    # plus[k] = F_k, minus[k] = conj(F_−k), k ≥ 0, so that minus[0] = conj(plus[0])
    empty = lax.complex(zero, zero)
    start = (empty, empty, empty.at[..., 0].set(m0[..., 0]))

    def step(state, event):
        plus, minus, z = state
        angle, axis, time, moved = event
        angle = angle * b1
        c2, s2 = jnp.cos(angle / 2) ** 2, jnp.sin(angle / 2) ** 2
        turn = lax.complex(jnp.cos(axis), jnp.sin(axis))
        s = 1j * turn * jnp.sin(angle)
        plus, minus, z = (
            c2 * plus + turn * turn * s2 * minus + s * z,
            jnp.conj(turn * turn) * s2 * plus + c2 * minus + jnp.conj(s) * z,
            0.5 * jnp.conj(s) * plus * -1 + 0.5 * s * minus * -1 + jnp.cos(angle) * z,
        )
        e1, e2 = jnp.exp(-time / t1), jnp.exp(-time / t2)
        plus, minus, z = e2 * plus, e2 * minus, e1 * z
        z = z.at[..., 0].add((m0 * (1 - e1))[..., 0])
        up = jnp.concatenate([jnp.conj(minus[..., 1:2]), plus[..., :-1]], axis=-1)
        down = jnp.concatenate([minus[..., 1:], jnp.zeros_like(minus[..., :1])], axis=-1)
        down = down.at[..., 0].set(jnp.conj(up[..., 0]))
        plus, minus = jnp.where(moved > 0, up, plus), jnp.where(moved > 0, down, minus)
        return (plus, minus, z), (plus[..., 0], z[..., 0].real)

    _, (signal, longitudinal) = lax.scan(step, start, tuple(train))
    return PhaseGraph(jnp.moveaxis(signal, 0, -1), jnp.moveaxis(longitudinal, 0, -1))


def spin_echo_train(refocusing: Any, spacing: Any, t1: Any, t2: Any, *, m0: Any = 1.0, b1: Any = 1.0, orders: int | None = None) -> Any:
    """Echo amplitudes of a CPMG train, ``[*tissue, echo]`` complex: excitation by 90° about y, refocusing pulses about x.

    Args:
        refocusing: flip angles of the refocusing pulses, ``[echo]`` rad.
        spacing: time between echoes, s.
        t1, t2, m0, b1, orders: as for ``phase_graph``.

    H. Y. Carr and E. M. Purcell, Phys. Rev. 94 (1954) 630; S. Meiboom and D. Gill, Rev. Sci. Instrum. 29 (1958) 688.
    """
    refocusing = jnp.asarray(check.array("refocusing", refocusing))
    check.ndim("refocusing", refocusing, 1, "[echo]")
    n = refocusing.shape[0]
    zeros = jnp.zeros_like(refocusing)
    flip = jnp.concatenate([jnp.full((1,), np.pi / 2, refocusing.dtype), jnp.stack([refocusing, zeros], axis=1).reshape(-1)])
    phase = np.zeros(2 * n + 1)
    phase[0] = -np.pi / 2
    graph = phase_graph(flip, phase, spacing / 2, t1, t2, m0=m0, b1=b1, orders=orders)
    return graph.signal[..., 1::2]


def spoiled_train(
    flip: Any, repetition: Any, t1: Any, t2: Any, *, increment: float = np.deg2rad(117.0), m0: Any = 1.0, b1: Any = 1.0, orders: int = 32
) -> Any:
    """Signals right after each pulse of an RF-spoiled gradient-echo train, demodulated by the pulse's phase, ``[*tissue, pulse]``.

    Pulse n has the phase n(n + 1)/2·increment; each repetition dephases by one order.

    Args:
        flip: ``[pulse]`` rad. repetition: TR, s. increment: rad; 117° by default. The rest: as for ``phase_graph``.

    Y. Zur et al., Magn. Reson. Med. 21 (1991) 251.
    """
    flip = jnp.asarray(check.array("flip", flip))
    n = np.arange(flip.shape[0])
    phase = np.mod(n * (n + 1) / 2 * increment, 2 * np.pi)
    # a step that only rotates, then one that only waits
    zeros = jnp.zeros_like(flip)
    pairs = lambda a, b: jnp.stack([jnp.broadcast_to(jnp.asarray(a, flip.dtype), flip.shape), b], axis=1).reshape(-1)  # noqa: E731
    wait = jnp.full(flip.shape, repetition, flip.dtype)
    shift = np.tile([0, 1], flip.shape[0])
    graph = phase_graph(pairs(flip, zeros), pairs(phase, zeros), pairs(0.0, wait), t1, t2, shift=shift, m0=m0, b1=b1, orders=orders)
    return graph.signal[..., ::2] * np.exp(-1j * phase)
