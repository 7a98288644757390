"""Signal equations: what a sequence makes of proton density, T1 and T2 in the steady state.

All broadcast over tissue maps, are differentiable, and take times in s and angles in rad. E₁ = e^{−TR/T1}, E₂ = e^{−TR/T2}.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from diffimg.core import check


def _positive(**times):
    for name, value in times.items():
        check.minimum(name, value, 0.0, strict=True, remedy="Give seconds.")


def ernst_angle(tr: Any, t1: Any) -> Any:
    """The flip angle of the largest spoiled steady-state signal, cos α = e^{−TR/T1}, in rad.

    R. R. Ernst and W. A. Anderson, Rev. Sci. Instrum. 37 (1966) 93.
    """
    _positive(tr=tr, t1=t1)
    return jnp.arccos(jnp.exp(-jnp.asarray(tr) / t1))


def spoiled_gradient_echo(m0: Any, t1: Any, t2_star: Any, *, tr: Any, te: Any, flip: Any) -> Any:
    """FLASH: M₀ sin α (1 − E₁)/(1 − E₁ cos α) e^{−TE/T2*}.

    A. Haase et al., J. Magn. Reson. 67 (1986) 258.
    """
    _positive(tr=tr, t1=t1, t2_star=t2_star)
    e1 = jnp.exp(-jnp.asarray(tr) / t1)
    return m0 * jnp.sin(flip) * (1 - e1) / (1 - e1 * jnp.cos(flip)) * jnp.exp(-te / t2_star)


def spin_echo(m0: Any, t1: Any, t2: Any, *, tr: Any, te: Any) -> Any:
    """90°–180°: M₀ (1 − 2e^{−(TR−TE/2)/T1} + e^{−TR/T1}) e^{−TE/T2}, about M₀ (1 − E₁) e^{−TE/T2} for TE ≪ TR.

    Short TR and TE weigh T1, long ones T2, long TR and short TE the proton density.

    Raises:
        ValueError: TE longer than TR.
    """
    _positive(tr=tr, t1=t1, t2=t2)
    if check.is_concrete(tr) and check.is_concrete(te):
        check.minimum("tr − te", jnp.asarray(tr) - jnp.asarray(te), 0.0, remedy="The echo comes before the next excitation: TE ≤ TR.")
    longitudinal = 1 - 2 * jnp.exp(-(jnp.asarray(tr) - te / 2) / t1) + jnp.exp(-jnp.asarray(tr) / t1)
    return m0 * longitudinal * jnp.exp(-te / t2)


def saturation_recovery(m0: Any, t1: Any, *, time: Any) -> Any:
    """M_z after a 90° pulse: M₀ (1 − e^{−t/T1})."""
    _positive(t1=t1)
    return m0 * (1 - jnp.exp(-jnp.asarray(time) / t1))


def inversion_recovery(m0: Any, t1: Any, *, ti: Any, tr: Any = jnp.inf, inversion: Any = jnp.pi) -> Any:
    """M_z at TI after a pulse of the angle ``inversion``, read out by 90°: M₀ (1 − (1 − cos θ) e^{−TI/T1} − cos θ e^{−TR/T1}).

    With a perfect inversion M₀ (1 − 2e^{−TI/T1} + e^{−TR/T1}); it is signed: a magnitude image shows its absolute value.
    """
    _positive(t1=t1)
    c = jnp.cos(inversion)
    return m0 * (1 - (1 - c) * jnp.exp(-jnp.asarray(ti) / t1) - c * jnp.exp(-jnp.asarray(tr) / t1))


def balanced_ssfp(m0: Any, t1: Any, t2: Any, *, tr: Any, flip: Any, off_resonance: Any = 0.0, te: Any = None) -> Any:
    """Balanced steady state with alternating pulses (0, π, …), complex, at TE (default TR/2) after a pulse of phase 0.

    On resonance at TE = TR/2 of the size M₀ sin α √E₂ (1 − E₁)/(1 − (E₁ − E₂) cos α − E₁E₂). Phases are those of ``forward.bloch``: a
    pulse of phase 0 turns M from z to +y. ``off_resonance`` in rad/s; bands of no signal lie at odd multiples of π/TR.

    R. Freeman and H. D. W. Hill, J. Magn. Reson. 4 (1971) 366.
    """
    _positive(tr=tr, t1=t1, t2=t2)
    te = jnp.asarray(tr) / 2 if te is None else te
    e1, e2 = jnp.exp(-jnp.asarray(tr) / t1), jnp.exp(-jnp.asarray(tr) / t2)
    # alternating pulses look like pulses of one phase to spins that precess by π more each TR
    theta = off_resonance * jnp.asarray(tr) + jnp.pi
    sin, cos = jnp.sin(flip), jnp.cos(flip)
    d = (1 - e1 * cos) * (1 - e2 * jnp.cos(theta)) - e2 * (e1 - cos) * (e2 - jnp.cos(theta))
    after = 1j * m0 * (1 - e1) * sin * (1 - e2 * jnp.exp(1j * theta)) / d
    return after * jnp.exp(-te / t2) * jnp.exp(-1j * off_resonance * te)


def multi_echo(m0: Any, t2: Any, *, te: Any) -> Any:
    """M₀ e^{−TE/T2} for echo times ``te [echo]``: ``[..., echo]``. With T2* for gradient echoes."""
    _positive(t2=t2)
    m0, t2 = jnp.broadcast_arrays(jnp.asarray(m0), jnp.asarray(t2))
    return m0[..., None] * jnp.exp(-jnp.asarray(te) / t2[..., None])
