"""Phase graphs against isochromats (the Bloch simulation), closed forms and published amplitudes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.nuclei import GAMMA
from diffimg.forward.phase_graph import phase_graph, spin_echo_train, spoiled_train
from diffimg.forward.sequence import Sequence

RNG = np.random.default_rng(7)
T1, T2 = 0.8, 0.06


def isochromats(flip, phase, time, shift, count):
    """The mean of spins dephased evenly over whole turns by each gradient."""
    hard = 1e-9
    duration = np.stack([np.full_like(time, hard), time], 1).ravel()
    rf = np.stack([flip * np.exp(1j * phase) / GAMMA / hard, np.zeros_like(flip)], 1).ravel()
    gradient = np.zeros((len(duration), 3))
    gradient[1::2, 0] = shift * 2 * np.pi / GAMMA / time  # one turn a metre
    position = np.zeros((count, 3))
    position[:, 0] = np.arange(count) / count
    sequence = Sequence(duration, rf, gradient, np.arange(1, len(duration), 2))
    return np.asarray(simulate(sequence, Spins(position, t1=T1, t2=T2)).signal) / count


def test_isochromats(x64):
    n = 6
    flip, phase = RNG.uniform(0.3, 3, n), RNG.uniform(-np.pi, np.pi, n)
    time, shift = RNG.uniform(5e-3, 20e-3, n), np.array([1, 1, 0, 1, 1, 1])
    graph = phase_graph(flip, phase, time, T1, T2, shift=shift)
    np.testing.assert_allclose(graph.signal, isochromats(flip, phase, time, shift, 64), atol=1e-6)


def test_perfect_refocusing_decays_with_t2_alone(x64):
    echoes = spin_echo_train(np.full(8, np.pi), 10e-3, T1, T2)
    np.testing.assert_allclose(np.abs(echoes), np.exp(-np.arange(1, 9) * 10e-3 / T2), rtol=1e-10)


def test_stimulated_echo_amplitudes(x64):
    """Three pulses α without relaxation: primary echo sin α sin²(α/2), stimulated echo ½ sin³α (Hahn 1950)."""
    a = 1.1
    # pulses at 0, 1 and 4 units: the primary echo at 2, the stimulated one at 5
    graph = phase_graph([a, a, 0, 0, a], 0.0, 1e-9, 1e9, 1e9)
    np.testing.assert_allclose(abs(graph.signal[1]), np.sin(a) * np.sin(a / 2) ** 2, rtol=1e-7)
    np.testing.assert_allclose(abs(graph.signal[4]), 0.5 * np.sin(a) ** 3, rtol=1e-7)


def test_spoiled_train_reaches_ernsts_signal(x64):
    tr, flip = 10e-3, np.deg2rad(12)
    signal = spoiled_train(np.full(600, flip), tr, T1, 0.03, orders=40)[-1]
    e1 = np.exp(-tr / T1)
    expected = np.sin(flip) * (1 - e1) / (1 - e1 * np.cos(flip))
    assert abs(abs(signal) / expected - 1) < 0.03


@pytest.mark.slow
def test_broadcast_and_differentiable(x64):
    t2 = jnp.array([0.03, 0.06, 0.1])
    flips = np.deg2rad([160.0, 140, 120, 120])
    many = spin_echo_train(flips, 8e-3, T1, t2, m0=2.0, b1=0.9)
    assert many.shape == (3, 4)
    np.testing.assert_allclose(many[1], spin_echo_train(flips, 8e-3, T1, 0.06, m0=2.0, b1=0.9), atol=1e-14)
    f = lambda v: jnp.sum(jnp.abs(spin_echo_train(v, 8e-3, T1, T2)))  # noqa: E731
    direction = RNG.normal(size=4) * 1e-6
    np.testing.assert_allclose(np.vdot(jax.grad(f)(flips), direction), (f(flips + direction) - f(flips - direction)) / 2, rtol=1e-6)


def test_refused():
    with pytest.raises(ValueError, match="shift"):
        phase_graph([1.0], 0.0, 1e-3, 1.0, 0.1, shift=2)
    with pytest.raises(ValueError, match="t2"):
        phase_graph([1.0], 0.0, 1e-3, 1.0, 0.0)
    with pytest.raises(ValueError, match="phase"):
        phase_graph([1.0, 1.0], [0.0, 0.0, 0.0], 1e-3, 1.0, 0.1)
