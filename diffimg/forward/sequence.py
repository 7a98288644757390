"""A pulse sequence as data: what the scanner plays, interval by interval."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static


@pytree
class Sequence:
    """Intervals in which RF field and gradients are constant; all but ``samples`` is traced, so that pulses and gradients can be optimised.

    Args:
        duration: ``[interval]`` s, > 0.
        rf: ``[interval]`` complex T: B₁ in the frame that rotates with ω₀; its phase is the axis of the rotation.
        gradient: ``[interval, 3]`` T/m: (G_x, G_y, G_z).
        samples: ``[sample]`` int: the intervals at whose *end* the signal is read; static, kept as a tuple.
        spoil: ``[interval]`` bool, or None: intervals at whose end all transverse magnetization is destroyed (an ideal spoiler).

    Raises:
        ValueError: lengths that do not agree, durations that are not positive, samples out of range, NaN.
    """

    duration: Any
    rf: Any
    gradient: Any
    samples: Any = static()
    spoil: Any = None

    def __post_init__(self):
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        set_("duration", check.array("duration", self.duration))
        check.ndim("duration", self.duration, 1, "[interval]")
        n = int(jnp.shape(self.duration)[0])
        for name, shape in (("rf", (n,)), ("gradient", (n, 3))):
            set_(name, check.array(name, getattr(self, name)))
            check.shape(name, getattr(self, name), shape, "[interval]" if name == "rf" else "[interval, (x, y, z)]")
            check.finite(name, getattr(self, name))
        check.finite("duration", self.duration)
        check.plausible("rf", self.rf, 5.0, "tesla", "If they are µT, multiply by 1e-6.")
        check.minimum("duration", self.duration, 0.0, strict=True, remedy="Give seconds; leave empty intervals out.")
        if isinstance(self.samples, jax.core.Tracer):
            check.fail("samples", "known indices of intervals", "traced ones", "Close over them: they decide which program is compiled.")
        samples = np.asarray(self.samples)
        if not samples.size:
            samples = samples.astype(int)
        if samples.ndim != 1 or samples.dtype.kind not in "iu" or (samples.size and not (samples.min() >= 0 and samples.max() < n)):
            check.fail("samples", f"indices of intervals in 0 … {n - 1}", check.describe(samples))
        set_("samples", tuple(samples.tolist()))
        if self.spoil is not None:
            set_("spoil", check.array("spoil", self.spoil))
            check.shape("spoil", self.spoil, (n,), "[interval]")

    @property
    def times(self) -> Any:
        """``[interval]`` s: the end of each interval, from the start of the sequence."""
        return jnp.cumsum(jnp.asarray(self.duration))

    @property
    def moment(self) -> Any:
        """``[interval, 3]`` T s/m: ∫ G dτ from the start to the end of each interval; times γ, the unwrapped k-space position."""
        return jnp.cumsum(jnp.asarray(self.gradient) * jnp.asarray(self.duration)[:, None], axis=0)

    def __len__(self) -> int:
        return int(jnp.shape(self.duration)[0])


def concatenate(sequences: List[Sequence]) -> Sequence:
    """Sequences played one after the other."""
    sequences = list(sequences)
    if not sequences:
        check.fail("sequences", "at least one Sequence", "none")
    starts = np.cumsum([0, *(len(s) for s in sequences)])[:-1]
    spoil = None
    if any(s.spoil is not None for s in sequences):
        spoil = _join([np.zeros(len(s), bool) if s.spoil is None else s.spoil for s in sequences])
    samples = [int(start) + k for s, start in zip(sequences, starts, strict=True) for k in s.samples]
    return Sequence(*(_join([getattr(s, name) for s in sequences]) for name in ("duration", "rf", "gradient")), samples, spoil)


def _join(parts):
    """On the host where everything is known: thousands of parts would be thousands of operands of one program."""
    if all(check.is_concrete(p) for p in parts):
        return np.concatenate([np.asarray(p) for p in parts])
    return jnp.concatenate([jnp.asarray(p) for p in parts])
