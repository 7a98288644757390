"""RF pulses and slice selection."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.nuclei import Nucleus, named
from diffimg.forward.sequence import Sequence, concatenate

WINDOWS = ("hann", "hamming", "none")


@pytree
class Pulse:
    """``rf`` ``[interval]`` complex T, ``dwell`` s per interval, ``bandwidth`` Hz (full width at half maximum of a small flip's slice).

    ``nucleus``: whose spins it turns by that angle, a name or a ``forward.Nucleus``.
    """

    rf: Any
    dwell: Any
    bandwidth: Any
    nucleus: str | Nucleus = static(default="1H")

    def __post_init__(self):
        object.__setattr__(self, "nucleus", named(self.nucleus))

    @property
    def intervals(self) -> int:
        """How many."""
        return int(jnp.shape(self.rf)[0])

    @property
    def duration(self) -> Any:
        """s."""
        return self.intervals * self.dwell

    @property
    def flip(self) -> Any:
        """γ ∫B₁dt on resonance, rad."""
        return abs(self.nucleus.gamma) * jnp.abs(jnp.sum(jnp.asarray(self.rf))) * self.dwell


def _scaled(shape, flip, phase, duration, bandwidth, nucleus):
    check.minimum("duration", duration, 0.0, strict=True, remedy="Give seconds.")
    check.plausible("flip", flip, 2 * math.pi, "radians", "If they are degrees, multiply by π/180.")
    dwell = duration / len(shape)
    rf = jnp.asarray(shape / np.sum(shape)) * (flip / (named(nucleus).gamma * dwell)) * jnp.exp(1j * jnp.asarray(phase))
    return Pulse(rf, dwell, bandwidth, nucleus)


def hard_pulse(flip: Any, duration: float = 1e-6, *, phase: Any = 0.0, nucleus: str | Nucleus = "1H") -> Pulse:
    """One interval of constant B₁ that turns by ``flip`` rad; its bandwidth is 1.21/duration."""
    return _scaled(np.ones(1), flip, phase, duration, 1.21 / duration, nucleus)


def sinc_pulse(
    flip: Any, duration: float, *, time_bandwidth: float = 4.0, intervals: int = 128, window: str = "hann", phase: Any = 0.0,
    nucleus: str | Nucleus = "1H",
) -> Pulse:  # fmt: skip
    """A windowed sinc: for small angles its slice is nearly a box.

    Args:
        flip: rad. duration: s. time_bandwidth: zero crossings; bandwidth = time_bandwidth/duration. intervals: of constant B₁.
        window: "hann", "hamming" or "none". phase: rad; 0 turns M from z to +y. nucleus: whose M.
    """
    check.one_of("window", window, WINDOWS)
    n = check.positive_int("intervals", intervals)
    t = (np.arange(n) + 0.5) / n - 0.5
    taper = {"hann": 0.5 + 0.5 * np.cos(2 * np.pi * t), "hamming": 0.54 + 0.46 * np.cos(2 * np.pi * t), "none": np.ones(n)}[window]
    return _scaled(np.sinc(time_bandwidth * t) * taper, flip, phase, duration, time_bandwidth / duration, nucleus)


def gaussian_pulse(
    flip: Any, duration: float, *, width: float = 0.2, intervals: int = 128, phase: Any = 0.0, nucleus: str | Nucleus = "1H"
) -> Pulse:
    """A Gaussian of standard deviation ``width`` · duration; its slice is a Gaussian too."""
    n = check.positive_int("intervals", intervals)
    check.minimum("width", width, 0.0, strict=True)
    t = (np.arange(n) + 0.5) / n - 0.5
    bandwidth = math.sqrt(2 * math.log(2)) / (math.pi * width * duration)
    return _scaled(np.exp(-0.5 * (t / width) ** 2), flip, phase, duration, bandwidth, nucleus)


def slice_gradient(bandwidth: Any, thickness: Any, nucleus: str | Nucleus = "1H") -> Any:
    """G = 2π · bandwidth/(γ · thickness), T/m: the pulse's frequencies meet a slice of that thickness (m)."""
    check.minimum("thickness", thickness, 0.0, strict=True, remedy="Give metres.")
    check.plausible("thickness", thickness, 1.0, "metres", "If it is in mm, divide by 1000.")
    return 2 * math.pi * bandwidth / (named(nucleus).gamma * thickness)


def excitation(pulse: Pulse, thickness: Any = None, *, offset: Any = 0.0, rephase: bool = True) -> Sequence:
    """A pulse as a sequence: with a thickness (m), under a gradient along z, and a rephasing lobe of minus half its area.

    ``offset``: of the slice from z = 0, m: the pulse's carrier is shifted.
    """
    n = pulse.intervals
    duration = jnp.full(n, pulse.dwell)
    if thickness is None:
        return Sequence(duration, pulse.rf, jnp.zeros((n, 3)), np.zeros(0, int))
    gradient = slice_gradient(pulse.bandwidth, thickness, pulse.nucleus)
    t = (np.arange(n) + 0.5) * pulse.dwell
    rf = jnp.asarray(pulse.rf) * jnp.exp(-1j * pulse.nucleus.gamma * gradient * offset * (t - 0.5 * n * pulse.dwell))
    along_z = jnp.zeros((n, 3)).at[:, 2].set(gradient)
    selective = Sequence(duration, rf, along_z, np.zeros(0, int))
    if not rephase:
        return selective
    lobe = Sequence(
        jnp.full(1, 0.5 * n * pulse.dwell), jnp.zeros(1, complex), jnp.zeros((1, 3)).at[0, 2].set(-gradient), np.zeros(0, int)
    )
    return concatenate([selective, lobe])


def slice_profile(sequence: Sequence, z: Any, *, nucleus: str | Nucleus = "1H", **tissue: Any) -> Any:
    """Complex M_xy ``[position]`` after a sequence at positions ``z`` (m) from equilibrium; ``tissue``: fields of ``Spins``."""
    z = jnp.asarray(z)
    position = jnp.stack([jnp.zeros_like(z), jnp.zeros_like(z), z], axis=-1)
    end = simulate(sequence, Spins(position, **tissue), nucleus=nucleus).magnetization
    return end[..., 0] + 1j * end[..., 1]
