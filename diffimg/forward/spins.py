"""Spins in the laboratory frame: torque, precession, the thermal ensemble of single moments, and the voltage they induce in a coil.

Nothing relaxes here: over a few Larmor periods nothing does. Sequences and tissue are played in the rotating frame by ``bloch.simulate``.
In single precision a phase of N turns is known to about N·1e-7 turns: take double precision for a long time in a strong field.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.trigonometry import sincos
from diffimg.forward.nuclei import BOLTZMANN, HBAR, Nucleus, named


def torque(m: Any, b: Any, nucleus: str | Nucleus = "1H") -> Any:
    """dM/dt = γ M × B.

    Args:
        m: ``[..., 3]``, magnetization in A/m or moments in A m²; the result is in that unit per second.
        b: ``[..., 3]`` T; broadcasts with ``m``. nucleus: its name.

    Raises:
        ValueError: a last axis that is not 3, shapes that do not broadcast, complex values, NaN.

    F. Bloch, Phys. Rev. 70 (1946) 460.
    """
    m, b = _vectors(m=m, b=b)
    _broadcast(m=m.shape, b=b.shape)
    return jnp.cross(m, named(nucleus).gamma * b)


def precess(m: Any, b: Any, time: Any, nucleus: str | Nucleus = "1H") -> Any:
    """M after ``time`` in a constant field: M turned about B by −γ|B|t (right-hand rule). Exact, and smooth at B = 0.

    Args:
        m: ``[..., 3]``, any unit, which is that of the result. b: ``[..., 3]`` T. time: ``[...]`` s, negative to go back; all broadcast.

    Raises:
        ValueError: as ``torque``.

    O. Rodrigues, J. Math. Pures Appl. 5 (1840) 380, with the half angle.
    """
    m, b = _vectors(m=m, b=b)
    time = _real("time", time)
    _broadcast(m=m.shape[:-1], b=b.shape[:-1], time=time.shape)
    turns = (-named(nucleus).gamma_bar * time)[..., None] * b
    square = jnp.sum(turns * turns, axis=-1, keepdims=True)
    small = square < 1e-6
    length = jnp.sqrt(jnp.where(small, 1.0, square))
    sin, cos = sincos(0.5 * length)
    h = jnp.where(small, square, 0.0) * math.pi**2  # the square of the half angle
    cos = jnp.where(small, 1 - h / 2 + h * h / 24, cos)
    axis = jnp.where(small, math.pi * (1 - h / 6 + h * h / 120), sin / length) * turns
    twice = 2 * jnp.cross(axis, m)
    return m + cos * twice + jnp.cross(axis, twice)


def thermal_ensemble(key: Any, count: int, b0: Any, temperature: Any = 310.0, nucleus: str | Nucleus = "1H", boost: Any = 1.0) -> Any:
    """Single nuclear moments in thermal equilibrium in a field along z: vectors on the 2I + 1 cones of the quantum levels.

    The level m = −I … I has the weight e^{mγħB₀·boost/(kT)}, the moment μ_z = γħm and |μ_xy| = γħ√(I(I+1) − m²) at a random phase. The
    mean of μ_z is γħI·``polarization``, and times the density it is ``bulk_magnetization``; that of μ_xy is zero.

    Args:
        key: random key. count: of spins. b0: T, along z; a scalar. temperature: K. nucleus: its name.
        boost: multiplies the field in the exponent: with 1, a surplus of 1e-5 drowns in the noise of fewer than 1e10 spins.

    Returns:
        ``[count, 3]`` in A m² (= J/T): about 1e-26, so that in single precision a square underflows.

    Raises:
        ValueError: a count below 1, a temperature not above 0, a negative boost, NaN, a field that is not one number.

    A. Abragam, The Principles of Nuclear Magnetism, Oxford 1961.
    """
    count, n = check.positive_int("count", count), named(nucleus)
    for name, value in (("b0", b0), ("temperature", temperature), ("boost", boost)):
        check.shape(name, check.array(name, value), (), remedy="Draw one ensemble for each value, e.g. with jax.vmap.")
    b0, boost = _real("b0", b0), _real("boost", boost)
    check.minimum("temperature", temperature, 0.0, strict=True, remedy="Give it in kelvin.")
    check.minimum("boost", boost, 0.0)
    levels = np.arange(-n.spin, n.spin + 0.5)
    exponent = jnp.asarray(levels) * (n.gamma * HBAR / BOLTZMANN * b0 * boost / temperature)
    level_key, phase_key = jax.random.split(key)
    drawn = jax.random.categorical(level_key, exponent, shape=(count,))
    sin, cos = sincos(jax.random.uniform(phase_key, (count,), exponent.dtype))
    along = jnp.asarray(n.gamma * HBAR * levels, exponent.dtype)[drawn]
    across = jnp.asarray(abs(n.gamma) * HBAR * np.sqrt(n.spin * (n.spin + 1) - levels**2), exponent.dtype)[drawn]
    return jnp.stack([across * cos, across * sin, along], axis=-1)


def flux(magnetization: Any, sensitivity: Any, volume: Any = 1.0) -> Any:
    """ψ = Σ_spins B₁(r)·M(r) ΔV, the flux of the spins through each coil, by reciprocity.

    Args:
        magnetization: ``[*time, *spins, 3]`` A/m in the laboratory frame; or moments in A m², with ``volume`` 1.
        sensitivity: ``[coil, *spins, 3]`` T/A: the field of a unit current in the coil, real.
        volume: m³ of a spin, a scalar or ``[*spins]``.

    Returns:
        ``[coil, *time]`` Wb.

    Raises:
        ValueError: shapes that do not fit, complex values, NaN, a volume not above 0.

    D. I. Hoult and R. E. Richards, J. Magn. Reson. 24 (1976) 71.
    """
    return _flux("magnetization", magnetization, sensitivity, volume)


def received_voltage(rate: Any, sensitivity: Any, volume: Any = 1.0) -> Any:
    """u = −dψ/dt = −Σ_spins B₁(r)·dM/dt(r) ΔV, the voltage that the spins induce in each coil, without noise.

    Args:
        rate: dM/dt, ``[*time, *spins, 3]`` A/m/s in the laboratory frame: ``torque(m, b)``, or ``jax.jvp`` of any M(t).
        sensitivity, volume: as in ``flux``.

    Returns:
        ``[coil, *time]`` V. After a flip angle α the amplitude is ω₀ M₀ V B₁ sin α, with B₁ that part of the coil's field across B₀.

    Raises:
        ValueError: as ``flux``; the source is that of ``flux``.
    """
    return -_flux("rate", rate, sensitivity, volume)


def _flux(name, values, sensitivity, volume):
    values, sensitivity = _vectors(**{name: values, "sensitivity": sensitivity})
    if sensitivity.ndim < 2:
        check.fail("sensitivity", "shape [coil, *spins, 3]", f"shape {sensitivity.shape}", "Add the axis of the coils: sensitivity[None].")
    spins = sensitivity.shape[1:-1]
    if values.shape[-1 - len(spins) : -1] != spins or values.ndim <= len(spins):
        expected = f"shape [*time, *spins, 3] with the spins {spins} of sensitivity"
        check.fail(name, expected, f"shape {values.shape}", "The first axis of sensitivity is that of the coils.")
    volume = _real("volume", volume)
    check.minimum("volume", volume, 0.0, strict=True, remedy="Give m³.")
    if volume.shape not in ((), spins):
        check.fail("volume", f"a scalar or shape {spins}", f"shape {volume.shape}")
    weights = (sensitivity * volume[..., None]).reshape(sensitivity.shape[0], -1)
    out = jnp.matmul(weights, values.reshape(-1, weights.shape[1]).T, precision=lax.Precision.HIGHEST)
    return out.reshape(-1, *values.shape[: values.ndim - 1 - len(spins)])


def _real(name, value):
    """As a finite real floating array; a Python number does not decide the dtype."""
    given = check.array(name, value)
    check.real(name, given)
    check.finite(name, given)
    value = jnp.asarray(value if isinstance(value, (int, float)) else given)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def _vectors(**given):
    for name, value in given.items():
        value = check.array(name, value)
        if value.ndim < 1 or value.shape[-1] != 3:
            check.fail(name, "shape [..., 3] with (x, y, z)", f"shape {tuple(value.shape)}", f"E.g. jnp.moveaxis({name}, 0, -1).")
        yield _real(name, value)


def _broadcast(**shapes):
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        check.fail(", ".join(shapes), "shapes that broadcast", ", ".join(f"{k} {v}" for k, v in shapes.items()))
