"""T2*: the sum of spread spins against the exponential of its definition, with and without a refocusing pulse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, mri
from diffimg.forward import Sequence, Spins, isochromats, simulate
from diffimg.mri import sequences

T2, T2_STAR = 80e-3, 30e-3
STEP, COUNT = 1e-3, 100


def free(steps=COUNT, step=STEP):
    return Sequence(np.full(steps, step), np.zeros(steps, complex), np.zeros((steps, 3)), np.arange(steps))


@pytest.mark.parametrize("count", [pytest.param(16, marks=pytest.mark.slow), 64, 256])
def test_the_signal_of_an_excitation_decays_with_t2_star(count, x64):
    t2_star = np.array([T2_STAR, T2, 1e-2])
    spins = isochromats(Spins(np.zeros((3, 3)), m0=2.0, t2=T2, off_resonance=np.array([0.0, 40.0, -30.0])), t2_star, count)
    assert spins.shape == (3, count)
    states = simulate(free(), spins, initial=np.broadcast_to(spins.m0[..., None] * np.array([1.0, 0, 0]), (*spins.shape, 3)), history=True)
    signal = np.asarray(states.history).sum(-2) @ np.array([1, 1j, 0])
    t = STEP * (np.arange(COUNT)[:, None] + 1)
    expected = 2.0 * np.exp(-t / t2_star - 1j * t * np.array([0.0, 40.0, -30.0]))
    np.testing.assert_allclose(signal, expected, atol=2.0 * 1.6 / count)
    np.testing.assert_allclose(signal[:, 1], expected[:, 1], atol=1e-9)  # T2* = T2: no spread


@pytest.mark.slow
def test_an_echo_gets_back_all_but_t2(x64):
    """90°_x − τ − 180°_y − τ: e^{−2τ/T2} at the echo, the spread's e^{−|t − 2τ|/T2′} around it."""
    half = 40
    spins = isochromats(Spins(np.zeros(3), t2=T2), T2_STAR, 256)
    pulses = [mri.excitation(mri.hard_pulse(angle, phase=phase)) for angle, phase in ((np.pi / 2, 0), (np.pi, np.pi / 2))]
    joined = forward.sequence.concatenate([pulses[0], free(half), pulses[1], free(2 * half)])
    signal = np.asarray(simulate(joined, spins).signal)[half:]
    t = STEP * (np.arange(2 * half) + 1)
    rate = 1 / T2_STAR - 1 / T2
    expected = np.exp(-(t + half * STEP) / T2 - np.abs(t - half * STEP) * rate)
    np.testing.assert_allclose(np.abs(signal), expected, atol=1.6 / 256)
    assert abs(abs(signal[half - 1]) - np.exp(-2 * half * STEP / T2)) < 1e-4


@pytest.mark.slow
def test_gradient_and_spin_echo_images_weigh_t2_star_and_t2(x64):
    m0, t2_star = np.ones((4, 6)), np.full((4, 6), 20e-3)
    t2_star[:, 3:] = 60e-3
    spins = mri.voxel_spins((4, 6), 0.2, m0=m0, t1=0.5, t2=T2, t2_star=t2_star)
    times = {"tr": 10.0, "readout": 1e-5, "prephase": 1e-5}
    gradient = sequences.gradient_echo((4, 6), 0.2, te=25e-3, flip=np.pi / 2, **times)
    spin = sequences.spin_echo((4, 6), 0.2, te=25e-3, **times)
    image, refocused = (np.abs(np.asarray(forward.ifft(a.run(spins)))) for a in (gradient, spin))
    np.testing.assert_allclose(image, np.exp(-25e-3 / t2_star), atol=0.03)
    np.testing.assert_allclose(refocused, np.exp(-25e-3 / T2), atol=5e-3)


def test_derivative_with_respect_to_t2_star(x64):
    sequence = free(25)

    @jax.jit
    def last(t2_star):
        spins = isochromats(Spins(np.zeros(3), t2=T2), t2_star)
        start = spins.m0[:, None] * jnp.array([1.0, 0.0, 0.0])
        return jnp.sum(simulate(sequence, spins, initial=start).magnetization[:, 0])

    slope, h = jax.grad(last)(T2_STAR), 1e-7
    np.testing.assert_allclose(slope, (last(T2_STAR + h) - last(T2_STAR - h)) / (2 * h), rtol=1e-6)
    assert slope == pytest.approx(25 * STEP / T2_STAR**2 * np.exp(-25 * STEP / T2_STAR), rel=0.05)


def test_bad_input():
    spins = Spins(np.zeros((2, 3)), t2=T2)
    for t2_star, message in ((0.2, "above T2"), (0.0, "seconds"), (-1.0, "seconds"), (np.nan, "seconds"), (np.ones(3) * 0.01, "shape")):
        with pytest.raises(ValueError, match=message):
            isochromats(spins, t2_star)
    with pytest.raises(ValueError, match="count"):
        isochromats(spins, 0.01, 0)
