"""Imaging sequences as data: excitation, phase and frequency encoding, echoes.

Along x the frequency is encoded while the signal is read, along y the phase before it; one excitation reads one line of k-space (or, in an
echo train, one line an echo). k = γ∫G dτ; the sample of index n//2 lies at the centre of k-space.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.nuclei import GAMMA
from diffimg.forward.sequence import Sequence, concatenate
from diffimg.mri.contrast import ernst_angle
from diffimg.mri.pulses import Pulse, excitation, hard_pulse


@pytree
class Acquisition:
    """A sequence and the k-space that its samples fill.

    ``sequence``; ``shape`` (y, x) of k-space; ``fov`` (y, x) in m; ``echoes`` per excitation. Samples come line by line, [line, echo, x].
    """

    sequence: Sequence
    shape: tuple[int, int] = static()
    fov: tuple[float, float] = static()
    echoes: int = static(default=1)

    def kspace(self, signal: Any) -> jax.Array:
        """Samples ``[..., sample]`` sorted to ``[..., (echo,) y, x]``; ``forward.ifft`` of it has the unit of magnetization per voxel."""
        ny, nx = self.shape
        signal = jnp.asarray(signal)
        lines = signal.reshape(*signal.shape[:-1], ny, self.echoes, nx) / math.sqrt(ny * nx)
        lines = jnp.moveaxis(lines, -2, -3)
        return lines[..., 0, :, :] if self.echoes == 1 else lines

    def run(self, spins: Spins, **options: Any) -> jax.Array:
        """Play it to spins, one by one, and sort the signal: k-space ``[..., (echo,) y, x]``. ``options``: of ``bloch.simulate``."""
        return self.kspace(simulate(self.sequence, spins, **options).signal)


def _interval(duration, gradient=(0.0, 0.0, 0.0), samples=False, spoil=False):
    spoiled = np.array([True]) if spoil else None
    return Sequence(
        np.array([duration]), np.zeros(1, complex), np.array([gradient], float), np.zeros(1, int) if samples else np.zeros(0, int), spoiled
    )


def _wait(duration, name, spoil=False):
    if duration < -1e-12:
        check.fail(name, f"at least {-duration * 1e3:.3f} ms more", "too short a time", "Shorten readout, pulse or prephase.")
    return [_interval(max(duration, 1e-9), spoil=spoil)] if duration > 1e-12 or spoil else []


class _Encoder:
    """Gradient areas (T s/m) and lobes of a Cartesian scan."""

    def __init__(self, shape, fov, readout, prephase):
        self.ny, self.nx = (check.positive_int("shape", n) for n in shape)
        fov = (fov, fov) if np.isscalar(fov) else tuple(fov)
        for name, value in (("fov", min(fov)), ("readout", readout), ("prephase", prephase)):
            check.minimum(name, value, 0.0, strict=True)
        check.plausible("fov", max(fov), 5.0, "metres", "If it is in mm, divide by 1000.")
        self.fov, self.readout, self.prephase = tuple(float(f) for f in fov), readout, prephase
        self.dwell = readout / self.nx
        self.step_y, self.step_x = (2 * math.pi / (GAMMA * f) for f in self.fov)

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
        gradient = np.zeros((self.nx, 3))
        gradient[:, 0] = self.step_x / self.dwell
        return Sequence(np.full(self.nx, self.dwell), np.zeros(self.nx, complex), gradient, np.arange(self.nx))

    def rewind(self, line, z=0.0):
        """What brings k back to the centre after a readout; ``z``: area along the slice, T s/m."""
        return self.lobe(line, -1.0, x=-(self.nx - self.nx // 2 - 1) * self.step_x, z=z)


def _time(sequence):
    return float(np.sum(np.asarray(sequence.duration, np.float64)))


def _after_centre(pulse_sequence, pulse):
    """Time from the pulse's centre to the end of the excitation (rephasing lobe included)."""
    return _time(pulse_sequence) - 0.5 * int(jnp.shape(pulse.rf)[0]) * float(pulse.dwell)


def gradient_echo(
    shape: tuple[int, int], fov: Any, *, tr: float, te: float, flip: float | None = None, t1: float = 1.0, thickness: float | None = None,
    pulse: Pulse | None = None, readout: float = 2e-3, prephase: float = 5e-4, preparation: Sequence | None = None,
) -> Acquisition:  # fmt: skip
    """FLASH: one excitation a line, transverse magnetization spoiled at the end of each TR.

    Args:
        shape: (y, x) of k-space. fov: m, one or (y, x). tr, te: s; TE from the pulse's centre to that of k-space.
        flip: rad; the Ernst angle for ``t1`` by default. thickness: of the slice (m), None for no slice selection.
        pulse: instead of a hard one (``sinc_pulse(flip, …)`` for a slice). readout, prephase: s.
        preparation: a sequence before every excitation (inversion, for one); its time is part of TR.

    Raises:
        ValueError: times into which the parts do not fit.
    """
    e = _Encoder(shape, fov, readout, prephase)
    flip = float(ernst_angle(tr, t1)) if flip is None else flip
    pulse = hard_pulse(flip) if pulse is None else pulse
    start = excitation(pulse, thickness)
    ahead = [] if preparation is None else [preparation]
    parts = []
    for line in range(e.ny):
        block = [*ahead, start, e.lobe(line), *_wait(te - _after_centre(start, pulse) - e.prephase - e.before, "te"), e.read()]
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr", spoil=True)]
    return Acquisition(concatenate(parts), (e.ny, e.nx), e.fov)


def inversion_recovery(shape: tuple[int, int], fov: Any, *, tr: float, te: float, ti: float, **options: Any) -> Acquisition:
    """A 180° pulse, TI, then a gradient echo after 90°: ``options`` of ``gradient_echo``. TR counts from inversion to inversion."""
    inversion = excitation(hard_pulse(math.pi))
    check.minimum("ti", ti, 0.0, strict=True)
    preparation = concatenate([inversion, _interval(ti, spoil=True)])
    return gradient_echo(shape, fov, tr=tr, te=te, flip=math.pi / 2, preparation=preparation, **options)


def spin_echo(
    shape: tuple[int, int], fov: Any, *, tr: float, te: float, thickness: float | None = None, pulse: Pulse | None = None,
    readout: float = 2e-3, prephase: float = 5e-4,
) -> Acquisition:  # fmt: skip
    """90° – TE/2 – 180° – TE/2 – echo: dephasing by off-resonance is undone. Arguments as for ``gradient_echo``."""
    return multi_echo(shape, fov, tr=tr, spacing=te, echoes=1, thickness=thickness, pulse=pulse, readout=readout, prephase=prephase)


def multi_echo(
    shape: tuple[int, int], fov: Any, *, tr: float, spacing: float, echoes: int, thickness: float | None = None, pulse: Pulse | None = None,
    readout: float = 2e-3, prephase: float = 5e-4,
) -> Acquisition:  # fmt: skip
    """A train of spin echoes after one excitation (CPMG), the same line in each: k-space ``[echo, y, x]`` at TE = spacing,
    2·spacing, …

    The refocusing pulses are hard, turn all slices, and lie 90° ahead of the excitation's phase, so that their errors cancel in the train.
    """
    e = _Encoder(shape, fov, readout, prephase)
    check.positive_int("echoes", echoes)
    pulse = hard_pulse(math.pi / 2, phase=-math.pi / 2) if pulse is None else pulse
    start = excitation(pulse, thickness)
    refocus = excitation(hard_pulse(math.pi, phase=jnp.angle(jnp.sum(jnp.asarray(pulse.rf))) + math.pi / 2))
    half = _time(refocus) / 2
    parts = []
    for line in range(e.ny):
        block = [start, *_wait(spacing / 2 - _after_centre(start, pulse) - half, "te")]
        for _ in range(echoes):
            block += [refocus, *_wait(spacing / 2 - half - e.prephase - e.before, "te"), e.lobe(line), e.read(), e.rewind(line)]
            block += _wait(spacing / 2 - (e.readout - e.before) - e.prephase - half, "te")
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr", spoil=True)]
    return Acquisition(concatenate(parts), (e.ny, e.nx), e.fov, echoes)


def balanced_ssfp(
    shape: tuple[int, int], fov: Any, *, tr: float, flip: float, thickness: float | None = None, pulse: Pulse | None = None,
    readout: float = 2e-3, prephase: float = 5e-4, dummies: int = 0,
) -> Acquisition:  # fmt: skip
    """All gradients balanced in each TR, pulses of alternating sign after one of half the angle, echo at TR/2.

    The receiver follows the sign.

    ``dummies``: excitations before the first line is kept. The rest: as for ``gradient_echo``.
    """
    e = _Encoder(shape, fov, readout, prephase)
    pulse = hard_pulse(flip) if pulse is None else pulse
    positive = excitation(pulse, thickness)
    negative = excitation(Pulse(-jnp.asarray(pulse.rf), pulse.dwell, pulse.bandwidth), thickness)
    half = excitation(Pulse(-0.5 * jnp.asarray(pulse.rf), pulse.dwell, pulse.bandwidth), thickness)
    after, length = _after_centre(positive, pulse), _time(positive)
    slab = float(np.asarray(positive.moment)[-1, 2])  # the rephasing lobe leaves this area: pulses meet it balanced
    parts = [half, *_wait(tr / 2 - length, "tr")]
    for n in range(check.minimum("dummies", dummies, 0) or dummies + e.ny):
        line = max(0, n - dummies)
        block = [positive if n % 2 == 0 else negative, *_wait(tr / 2 - after - e.prephase - e.before, "tr"), e.lobe(line), e.read()]
        if n < dummies:
            block[-1] = Sequence(block[-1].duration, block[-1].rf, block[-1].gradient, np.zeros(0, int))
        block.append(e.rewind(line, -slab))
        parts += [*block, *_wait(tr - sum(_time(p) for p in block), "tr")]
    return _Alternating(concatenate(parts), (e.ny, e.nx), e.fov, 1, dummies % 2)


@pytree
class _Alternating(Acquisition):
    """An acquisition whose lines alternate in sign."""

    first: int = static(default=0)

    def kspace(self, signal):
        sign = 1 - 2 * ((np.arange(self.shape[0]) + self.first) % 2)
        return super().kspace(signal) * sign[:, None]


def kspace_path(sequence: Sequence) -> np.ndarray:
    """k = γ∫G dτ at the end of every interval, ``[interval, 3]`` rad/m: 0 at the centre of an excitation, mirrored by a refocusing pulse.

    A run of intervals with RF that turns by more than 135° refocuses, another one excites. On the host.
    """
    duration, rf, gradient = (np.asarray(v) for v in (sequence.duration, sequence.rf, sequence.gradient))
    k, out, n = np.zeros(3), np.zeros((len(duration), 3)), len(duration)
    step = GAMMA * gradient.astype(np.float64) * duration[:, None]
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
        turns = GAMMA * abs(np.sum(rf[i:stop] * duration[i:stop]))
        elapsed = np.cumsum(duration[i:stop]) - 0.5 * duration[i:stop]
        late = elapsed > 0.5 * np.sum(duration[i:stop])
        before, after = step[i:stop][~late].sum(0), step[i:stop][late].sum(0)
        if stop - i == 1:
            before = after = 0.5 * step[i]
        k = -(k + before) + after if turns > 0.75 * math.pi else after
        out[i:stop] = k
        i = stop
    return out


def kspace_trajectory(sequence: Sequence) -> np.ndarray:
    """k at the samples, ``[sample, 3]`` rad/m, (x, y, z); see ``kspace_path``."""
    return kspace_path(sequence)[np.asarray(sequence.samples)]


def voxel_spins(shape: tuple[int, int], fov: Any, *, per_voxel: int = 1, thickness: float = 0.0, layers: int = 1, **maps: Any) -> Spins:
    """Spins on a grid in every voxel of an image: voxel n//2 of each axis is centred at 0.

    Args:
        shape: (y, x). fov: m, one or (y, x). per_voxel: spins along each axis of a voxel; its m0 is shared among them.
        thickness, layers: spins along z over ± thickness/2.
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
    for name, value in maps.items():
        value = check.array(name, value)
        if jnp.ndim(value):
            check.shape(name, value, (ny, nx), "[y, x]")
            value = jnp.asarray(value)[:, :, None, None, None]
        spread[name] = value
    spread["m0"] = jnp.asarray(spread.get("m0", 1.0)) / (p * p * layers)
    return Spins(position, **spread)
