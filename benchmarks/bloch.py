"""The Bloch simulation: 10⁴ spins through 10³ intervals, and its gradient, against the same algorithm vectorized in NumPy (CPU)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, clock, complex_difference
from diffimg import mri
from diffimg.forward.nuclei import GAMMA

NOTES = (
    "FLASH with slice-selective pulses of 32 intervals, every fourth interval with RF; spins of different tissue, place and off-resonance. "
    "NumPy: one vectorized step per interval in float32, without the pulse's mathematics where there is none. ratio: peer over own. "
    "Gradient: of ‖signal‖² with respect to tissue, positions, off-resonance, B₁, pulse, gradients and durations, all at once."
)


def sequence(lines: int, samples: int) -> mri.Sequence:
    """A short scan whose pulses, gradients and durations are arrays of the device."""
    pulse = mri.sinc_pulse(0.3, 1.5e-3, intervals=32)
    scan = mri.sequences.gradient_echo((lines, samples), 0.2, tr=0.02, te=0.006, flip=0.3, thickness=5e-3, pulse=pulse)
    s = scan.sequence
    return mri.Sequence(
        jnp.asarray(s.duration, jnp.float32), jnp.asarray(s.rf, jnp.complex64), jnp.asarray(s.gradient, jnp.float32), s.samples, s.spoil
    )


def spins(count: int) -> mri.Spins:
    """Random tissue in a slab."""
    rng = np.random.default_rng(0)
    uniform = lambda low, high, *shape: jnp.asarray(rng.uniform(low, high, (count, *shape)), jnp.float32)  # noqa: E731
    return mri.Spins(
        uniform(-0.09, 0.09, 3) * jnp.asarray([1, 1, 0.05], jnp.float32),
        uniform(0.5, 1),
        uniform(0.3, 3),
        uniform(0.03, 0.3),
        uniform(-300, 300),
        uniform(0.8, 1.2),
    )


def in_numpy(sequence: mri.Sequence, spins: mri.Spins) -> np.ndarray:
    """Signal ``[sample]``: rotation about the effective field between two half steps of relaxation, all spins at once."""
    duration, rf, gradient = (np.asarray(v) for v in (sequence.duration, sequence.rf, sequence.gradient))
    x, y, z = np.asarray(spins.position).T
    m0, t1, t2, omega, b1 = (np.asarray(getattr(spins, n)) for n in ("m0", "t1", "t2", "off_resonance", "b1"))
    gamma = np.float32(GAMMA)
    mx, my, mz = np.zeros_like(m0), np.zeros_like(m0), m0.copy()
    signal = np.empty(len(duration), complex)
    spoil = np.zeros(len(duration), bool) if sequence.spoil is None else np.asarray(sequence.spoil)
    half = np.float32(0.5)
    for i, (dt, b, (gx, gy, gz)) in enumerate(zip(duration, rf, gradient, strict=True)):
        wz = (omega + gamma * (gx * x + gy * y + gz * z)) * dt
        if b == 0:
            e1, e2 = np.exp(-dt / t1), np.exp(-dt / t2)
            c, s = e2 * np.cos(wz), e2 * np.sin(wz)
            mx, my = c * mx + s * my, c * my - s * mx
            mz = m0 + e1 * (mz - m0)
        else:
            e1, e2 = np.exp(-half * dt / t1), np.exp(-half * dt / t2)
            wx, wy = (gamma * dt * b.real) * b1, (gamma * dt * b.imag) * b1
            angle = np.sqrt(wx * wx + wy * wy + wz * wz)
            s = np.sin(half * angle) / angle
            p, q, r, u = np.cos(half * angle), s * wx, s * wy, s * wz
            mx, my, mz = e2 * mx, e2 * my, m0 + e1 * (mz - m0)
            tx, ty, tz = 2 * (my * u - mz * r), 2 * (mz * q - mx * u), 2 * (mx * r - my * q)
            mx, my, mz = mx + p * tx + (ty * u - tz * r), my + p * ty + (tz * q - tx * u), mz + p * tz + (tx * r - ty * q)
            mx, my, mz = e2 * mx, e2 * my, m0 + e1 * (mz - m0)
        if spoil[i]:
            mx, my = 0 * mx, 0 * my
        signal[i] = mx.sum() + 1j * my.sum()
    return signal[np.asarray(sequence.samples)]


def run(quick: bool = False) -> Table:
    """The table."""
    lines, samples, count = (2, 24, 500) if quick else (8, 90, 10_000)
    repeats = 3 if quick else 9
    scan, object_ = sequence(lines, samples), spins(count)
    table = Table("bloch", f"Bloch simulation, {count} spins × {len(scan)} intervals, float32", NOTES)
    forward = jax.jit(lambda s, o: mri.simulate(s, o).signal)
    own, theirs = alternate(lambda: forward(scan, object_), lambda: in_numpy(scan, object_), repeats, 4)
    table.add("simulation", "the same in NumPy", own, theirs, complex_difference(own.result, theirs.result))

    def value(parts, samples, spoil):
        s, o = parts
        s = mri.Sequence(s["duration"], s["rf"], s["gradient"], samples, spoil)
        return jnp.sum(jnp.abs(mri.simulate(s, mri.Spins(**o)).signal) ** 2)

    parts = (
        {n: getattr(scan, n) for n in ("duration", "rf", "gradient")},
        {f.name: getattr(object_, f.name) for f in dataclasses.fields(object_)},
    )
    gradient = jax.jit(lambda p: jax.grad(value)(p, scan.samples, scan.spoil))
    slope, plain = alternate(lambda: gradient(parts), lambda: forward(scan, object_), repeats, 2)
    table.quantity("gradient, in forward simulations", "bound", slope.median / plain.median, 4.0)
    few = mri.Spins(object_.position, off_resonance=object_.off_resonance)
    pulse = jax.jit(jax.grad(lambda rf, o: jnp.sum(jnp.abs(mri.simulate(dataclasses.replace(scan, rf=rf), o).magnetization[:, :2]) ** 2)))
    own = clock(lambda: pulse(scan.rf, few), repeats, 1)
    table.quantity("gradient in the pulse alone, likewise", "bound", own.median / plain.median, 4.0)

    with jax.enable_x64(True):
        double = jax.tree.map(
            lambda v: jnp.asarray(v, jnp.promote_types(v.dtype, jnp.float64)) if jnp.issubdtype(v.dtype, jnp.inexact) else v,
            (scan, object_),
        )
        exact = np.asarray(jax.jit(lambda: mri.simulate(*double).signal)())
    error = complex_difference(np.asarray(forward(scan, object_)), exact)
    table.quantity("float32 against float64, relative", "bound", error, 1e-3)
    return table
