"""Imaging sequences as data: excitation, phase and frequency encoding, echoes.

Along x the frequency is encoded while the signal is read, along y the phase before it; one excitation reads one line of k-space (or, in an
echo train, one line an echo). k = γ∫G dτ; the sample of index n//2 lies at the centre of k-space. Times, angles, phases and pulses may
be traced: their derivatives pass through the simulation of the sequence. Shape and field of view may not.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, replace, static
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.isochromats import isochromats as spread_frequencies
from diffimg.forward.nuclei import NUCLEI, Nucleus, named
from diffimg.forward.sequence import Sequence, concatenate
from diffimg.mri.contrast import ernst_angle
from diffimg.mri.pulses import Pulse, excitation, hard_pulse


@pytree
class Acquisition:
    """A sequence and the k-space that its samples fill.

    ``sequence``; ``shape`` (y, x) of k-space; ``fov`` (y, x) in m; ``echoes`` per excitation; ``nucleus`` for which
    gradients and pulses are scaled. Samples come line by line, [line, echo, x].
    """

    sequence: Sequence
    shape: tuple[int, int] = static()
    fov: tuple[float, float] = static()
    echoes: int = static(default=1)
    nucleus: Nucleus = static(default=NUCLEI["1H"])

    def kspace(self, signal: Any) -> jax.Array:
        """Samples ``[..., sample]`` sorted to ``[..., (echo,) y, x]``; ``forward.ifft`` of it has the unit of magnetization per voxel."""
        ny, nx = self.shape
        signal = jnp.asarray(signal)
        lines = signal.reshape(*signal.shape[:-1], ny, self.echoes, nx) / math.sqrt(ny * nx)
        lines = jnp.moveaxis(lines, -2, -3)
        return lines[..., 0, :, :] if self.echoes == 1 else lines

    def run(self, spins: Spins, **options: Any) -> jax.Array:
        """Play it to spins, one by one, and sort the signal: k-space ``[..., (echo,) y, x]``. ``options``: of ``bloch.simulate``."""
        return self.kspace(simulate(self.sequence, spins, nucleus=self.nucleus, **options).signal)


def _number(value):
    """In double precision where it is known: sums of thousands of single ones would leave gaps that are no waits."""
    return float(value) if check.is_concrete(value) else value


def _module(*values):
    return np if all(check.is_concrete(v) for v in values) else jnp


def _interval(duration, gradient=(0.0, 0.0, 0.0), spoil=False):
    xp = _module(duration, *gradient)
    spoiled = np.array([True]) if spoil else None
    return Sequence(xp.array([duration]), np.zeros(1, complex), xp.array([gradient], float), np.zeros(0, int), spoiled)


def _wait(duration, name, spoil=False):
    if not check.is_concrete(duration):
        return [_interval(duration, spoil=spoil)]
    if duration < -1e-12:
        check.fail(name, f"at least {-duration * 1e3:.3f} ms more", "too short a time", "Shorten readout, pulse or prephase.")
    return [_interval(max(duration, 1e-9), spoil=spoil)] if duration > 1e-12 or spoil else []


class _Encoder:
    """Gradient areas (T s/m) and lobes of a Cartesian scan."""

    def __init__(self, shape, fov, readout, prephase, nucleus, **times):
        for name, value in times.items():
            check.minimum(name, value, 0.0, strict=True, remedy="Give seconds.")
            check.plausible(name, value, 30.0 if name == "tr" else 2.0, "seconds", "If it is in ms, divide by 1000.")
        self.ny, self.nx = (check.positive_int("shape", n) for n in shape)
        if not all(check.is_concrete(f) for f in jax.tree.leaves(fov)):
            check.fail("fov", "a known size", "one that is being traced", "Close over it: it belongs to the compiled program.")
        fov = (fov, fov) if np.isscalar(fov) else tuple(fov)
        for name, value in (("fov", min(fov)), ("readout", readout), ("prephase", prephase)):
            check.minimum(name, value, 0.0, strict=True)
        check.plausible("fov", max(fov), 5.0, "metres", "If it is in mm, divide by 1000.")
        self.fov, self.readout, self.prephase = tuple(float(f) for f in fov), _number(readout), _number(prephase)
        self.dwell = self.readout / self.nx
        self.nucleus = named(nucleus)
        self.step_y, self.step_x = (2 * math.pi / (self.nucleus.gamma * f) for f in self.fov)

    @property
    def before(self):
        """Time from the start of the readout to its centre sample."""
        return (self.nx // 2 + 1) * self.dwell

    def lobe(self, line, sign=1.0, x=None, z=0.0):
        """Prephasing (sign 1) or rewinding (−1) in the time ``prephase``."""
        x = -(self.nx // 2 + 1) * self.step_x if x is None else x
        y = (line - self.ny // 2) * self.step_y * sign
        return _interval(self.prephase, (x / self.prephase, y / self.prephase, z / self.prephase))

    def read(self):
        xp = _module(self.dwell)
        gradient = xp.full((self.nx, 1), self.step_x / self.dwell) * np.array([1.0, 0.0, 0.0])
        return Sequence(xp.full(self.nx, self.dwell), np.zeros(self.nx, complex), gradient, np.arange(self.nx))

    def rewind(self, line, z=0.0):
        """What brings k back to the centre after a readout; ``z``: area along the slice, T s/m."""
        return self.lobe(line, -1.0, x=-(self.nx - self.nx // 2 - 1) * self.step_x, z=z)


def _time(sequence):
    duration = sequence.duration
    return float(np.sum(np.asarray(duration, np.float64))) if check.is_concrete(duration) else jnp.sum(duration)


def _after_centre(pulse_sequence, pulse):
    """Time from the pulse's centre to the end of the excitation (rephasing lobe included)."""
    return _time(pulse_sequence) - 0.5 * _number(pulse.duration)


def _pulse(given, flip, nucleus, phase=0.0):
    """The pulse that was given, if it fits, or a hard one."""
    if given is not None and given.nucleus != named(nucleus):
        check.fail("pulse", f"one for {named(nucleus).name}", f"one for {given.nucleus.name}", "Give both the same nucleus=…")
    return hard_pulse(flip, phase=phase, nucleus=nucleus) if given is None else given


def gradient_echo(
    shape: tuple[int, int], fov: Any, *, tr: Any, te: Any, flip: Any = None, t1: float = 1.0, thickness: Any = None,
    pulse: Pulse | None = None, readout: Any = 2e-3, prephase: Any = 5e-4, preparation: Sequence | None = None,
    nucleus: str | Nucleus = "1H",
) -> Acquisition:  # fmt: skip
    """FLASH: one excitation a line, transverse magnetization spoiled at the end of each TR.

    Args:
        shape: (y, x) of k-space. fov: m, one or (y, x). tr, te: s; TE from the pulse's centre to that of k-space.
        flip: rad; the Ernst angle for ``t1`` by default. thickness: of the slice (m), None for no slice selection.
        pulse: instead of a hard one (``sinc_pulse(flip, …)`` for a slice). readout, prephase: s.
        preparation: a sequence before every excitation (inversion, for one); its time is part of TR.
        nucleus: whose spins are imaged; that of the pulse.

    Raises:
        ValueError: times into which the parts do not fit, a pulse for another nucleus.
    """
    e = _Encoder(shape, fov, readout, prephase, nucleus, tr=tr, te=te)
    flip = _number(ernst_angle(tr, t1)) if flip is None else flip
    pulse = _pulse(pulse, flip, nucleus)
    start = excitation(pulse, thickness)
    ahead = [] if preparation is None else [preparation]
    parts = []
    for line in range(e.ny):
        block = [*ahead, start, e.lobe(line), *_wait(te - _after_centre(start, pulse) - e.prephase - e.before, "te"), e.read()]
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr", spoil=True)]
    return Acquisition(concatenate(parts), (e.ny, e.nx), e.fov, nucleus=e.nucleus)


def inversion_recovery(
    shape: tuple[int, int], fov: Any, *, tr: Any, te: Any, ti: Any, nucleus: str | Nucleus = "1H", **options: Any
) -> Acquisition:
    """A 180° pulse, TI, then a gradient echo after 90°: ``options`` of ``gradient_echo``. TR counts from inversion to inversion."""
    inversion = excitation(hard_pulse(math.pi, nucleus=nucleus))
    check.minimum("ti", ti, 0.0, strict=True)
    preparation = concatenate([inversion, _interval(ti, spoil=True)])
    return gradient_echo(shape, fov, tr=tr, te=te, flip=math.pi / 2, preparation=preparation, nucleus=nucleus, **options)


def spin_echo(
    shape: tuple[int, int], fov: Any, *, tr: Any, te: Any, thickness: Any = None, pulse: Pulse | None = None,
    readout: Any = 2e-3, prephase: Any = 5e-4, nucleus: str | Nucleus = "1H",
) -> Acquisition:  # fmt: skip
    """90° – TE/2 – 180° – TE/2 – echo: dephasing by off-resonance is undone. Arguments as for ``gradient_echo``."""
    options = {"thickness": thickness, "pulse": pulse, "readout": readout, "prephase": prephase, "nucleus": nucleus}
    return multi_echo(shape, fov, tr=tr, spacing=te, echoes=1, **options)


def multi_echo(
    shape: tuple[int, int], fov: Any, *, tr: Any, spacing: Any, echoes: int, thickness: Any = None, pulse: Pulse | None = None,
    readout: Any = 2e-3, prephase: Any = 5e-4, nucleus: str | Nucleus = "1H",
) -> Acquisition:  # fmt: skip
    """A train of spin echoes after one excitation (CPMG), the same line in each: k-space ``[echo, y, x]`` at TE = spacing,
    2·spacing, …

    The refocusing pulses are hard, turn all slices, and lie 90° ahead of the excitation's phase, so that their errors cancel in the train.
    """
    e = _Encoder(shape, fov, readout, prephase, nucleus, tr=tr, te=spacing)
    check.positive_int("echoes", echoes)
    pulse = _pulse(pulse, math.pi / 2, nucleus, phase=-math.pi / 2)
    start = excitation(pulse, thickness)
    refocus = excitation(hard_pulse(math.pi, phase=jnp.angle(jnp.sum(jnp.asarray(pulse.rf))) + math.pi / 2, nucleus=nucleus))
    half = _time(refocus) / 2
    parts = []
    for line in range(e.ny):
        block = [start, *_wait(spacing / 2 - _after_centre(start, pulse) - half, "te")]
        for _ in range(echoes):
            block += [refocus, *_wait(spacing / 2 - half - e.prephase - e.before, "te"), e.lobe(line), e.read(), e.rewind(line)]
            block += _wait(spacing / 2 - (e.readout - e.before) - e.prephase - half, "te")
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr", spoil=True)]
    return Acquisition(concatenate(parts), (e.ny, e.nx), e.fov, echoes, e.nucleus)


def balanced_ssfp(
    shape: tuple[int, int], fov: Any, *, tr: Any, flip: Any, thickness: Any = None, pulse: Pulse | None = None,
    readout: Any = 2e-3, prephase: Any = 5e-4, dummies: int = 0, nucleus: str | Nucleus = "1H",
) -> Acquisition:  # fmt: skip
    """All gradients balanced in each TR, pulses of alternating sign after one of half the angle, echo at TR/2.

    The receiver follows the sign.

    ``dummies``: excitations before the first line is kept. The rest: as for ``gradient_echo``.
    """
    e = _Encoder(shape, fov, readout, prephase, nucleus, tr=tr)
    pulse = _pulse(pulse, flip, nucleus)
    positive = excitation(pulse, thickness)
    negative = excitation(replace(pulse, rf=-jnp.asarray(pulse.rf)), thickness)
    half = excitation(replace(pulse, rf=-0.5 * jnp.asarray(pulse.rf)), thickness)
    after, length = _after_centre(positive, pulse), _time(positive)
    slab = _number(positive.moment[-1, 2])  # the rephasing lobe leaves this area: pulses meet it balanced
    parts = [half, *_wait(tr / 2 - length, "tr")]
    for n in range(check.minimum("dummies", dummies, 0) or dummies + e.ny):
        line = max(0, n - dummies)
        block = [positive if n % 2 == 0 else negative, *_wait(tr / 2 - after - e.prephase - e.before, "tr"), e.lobe(line), e.read()]
        if n < dummies:
            block[-1] = Sequence(block[-1].duration, block[-1].rf, block[-1].gradient, np.zeros(0, int))
        block.append(e.rewind(line, -slab))
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr")]
    return _Alternating(concatenate(parts), (e.ny, e.nx), e.fov, 1, e.nucleus, dummies % 2)


@pytree
class _Alternating(Acquisition):
    """An acquisition whose lines alternate in sign."""

    first: int = static(default=0)

    def kspace(self, signal):
        sign = 1 - 2 * ((np.arange(self.shape[0]) + self.first) % 2)
        return super().kspace(signal) * sign[:, None]


def kspace_path(sequence: Sequence, nucleus: str | Nucleus = "1H") -> np.ndarray:
    """k = γ∫G dτ at the end of every interval, ``[interval, 3]`` rad/m: 0 at the centre of an excitation, mirrored by a refocusing pulse.

    A run of intervals with RF that turns by more than 135° refocuses, another one excites. On the host.
    """
    gamma = named(nucleus).gamma
    if not all(check.is_concrete(v) for v in (sequence.duration, sequence.rf, sequence.gradient)):
        check.fail("sequence", "known values", "one that is being traced", "Follow it outside jit and grad.")
    duration, rf, gradient = (np.asarray(v) for v in (sequence.duration, sequence.rf, sequence.gradient))
    k, out, n = np.zeros(3), np.zeros((len(duration), 3)), len(duration)
    step = gamma * gradient.astype(np.float64) * duration[:, None]
    i = 0
    while i < n:
        if rf[i] == 0:
            k = k + step[i]
            out[i] = k
            i += 1
            continue
        stop = i
        while stop < n and rf[stop] != 0:
            stop += 1
        turns = abs(gamma) * abs(np.sum(rf[i:stop] * duration[i:stop]))
        elapsed = np.cumsum(duration[i:stop]) - 0.5 * duration[i:stop]
        late = elapsed > 0.5 * np.sum(duration[i:stop])
        before, after = step[i:stop][~late].sum(0), step[i:stop][late].sum(0)
        if stop - i == 1:
            before = after = 0.5 * step[i]
        k = -(k + before) + after if turns > 0.75 * math.pi else after
        out[i:stop] = k
        i = stop
    return out


def kspace_trajectory(sequence: Sequence, nucleus: str | Nucleus = "1H") -> np.ndarray:
    """k at the samples, ``[sample, 3]`` rad/m, (x, y, z); see ``kspace_path``."""
    return kspace_path(sequence, nucleus)[np.asarray(sequence.samples)]


def voxel_spins(
    shape: tuple[int, int], fov: Any, *, per_voxel: int = 1, thickness: float = 0.0, layers: int = 1, t2_star: Any = None,
    isochromats: int = 64, **maps: Any,
) -> Spins:  # fmt: skip
    """Spins on a grid in every voxel of an image: voxel n//2 of each axis is centred at 0.

    Args:
        shape: (y, x). fov: m, one or (y, x). per_voxel: spins along each axis of a voxel; its m0 is shared among them.
        thickness, layers: spins along z over ± thickness/2.
        t2_star: s, a scalar or ``[y, x]``: every spin becomes ``isochromats`` many, see ``forward.isochromats``; None for T2* = T2.
        maps: ``m0``, ``t1``, ``t2``, ``off_resonance``, ``b1``: scalars or ``[y, x]``.
    """
    ny, nx = (check.positive_int("shape", n) for n in shape)
    fov = (fov, fov) if np.isscalar(fov) else tuple(fov)
    p, layers = check.positive_int("per_voxel", per_voxel), check.positive_int("layers", layers)
    axes = [(np.arange(n)[:, None] - n // 2 + (np.arange(p) + 0.5) / p - 0.5) * (f / n) for n, f in zip((ny, nx), fov, strict=True)]
    z = ((np.arange(layers) + 0.5) / layers - 0.5) * thickness
    y, x = axes[0].reshape(ny, 1, p, 1, 1), axes[1].reshape(1, nx, 1, p, 1)
    position = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
    spread = {}
    for name, value in {**maps, **({} if t2_star is None else {"t2_star": t2_star})}.items():
        value = check.array(name, value)
        if jnp.ndim(value):
            check.shape(name, value, (ny, nx), "[y, x]")
            value = jnp.asarray(value)[:, :, None, None, None]
        spread[name] = value
    spread["m0"] = jnp.asarray(spread.get("m0", 1.0)) / (p * p * layers)
    t2_star = spread.pop("t2_star", None)
    spins = Spins(position, **spread)
    return spins if t2_star is None else spread_frequencies(spins, jnp.broadcast_to(t2_star, spins.shape), isochromats)
