"""The Bloch simulation against SciPy's ODE solver, closed forms and finite differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.constants
from scipy.integrate import solve_ivp

from diffimg.core.pytree import replace
from diffimg.core.trigonometry import sincos
from diffimg.forward import bloch, nuclei
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.bloch_segments import segments
from diffimg.forward.sequence import Sequence, concatenate

RNG = np.random.default_rng(6)
GAMMA = nuclei.GAMMA


def random_case(spins=5, intervals=40, steps=1e-5):
    duration = RNG.uniform(0.5, 1.5, intervals) * steps
    rf = (RNG.normal(size=intervals) + 1j * RNG.normal(size=intervals)) * 2e-5
    rf[intervals // 3 : intervals // 2] = 0
    gradient = RNG.normal(size=(intervals, 3)) * 1e-2
    s = Spins(
        RNG.uniform(-0.05, 0.05, (spins, 3)),
        RNG.uniform(0.5, 1.5, spins),
        RNG.uniform(0.5e-3, 2e-3, spins),
        RNG.uniform(0.1e-3, 0.4e-3, spins),
        RNG.uniform(-2e3, 2e3, spins),
        RNG.uniform(0.8, 1.2, spins) * np.exp(1j * RNG.uniform(-0.3, 0.3, spins)),
    )
    return Sequence(duration, rf, gradient, np.arange(intervals)), s


def ode(sequence, spins, which):
    """dM/dt of one spin, interval by interval."""
    get = lambda v: np.broadcast_to(np.asarray(v), spins.shape)[which]  # noqa: E731
    position, m0, t1, t2 = np.asarray(spins.position)[which], get(spins.m0), get(spins.t1), get(spins.t2)
    m, out = np.array([0, 0, m0]), []
    for dt, rf, g in zip(sequence.duration, sequence.rf, sequence.gradient, strict=True):
        b1 = rf * get(spins.b1)
        field = np.array([b1.real, b1.imag, g @ position + get(spins.off_resonance) / GAMMA])

        def rate(t, m, field=field):
            return GAMMA * np.cross(m, field) - np.array([m[0] / t2, m[1] / t2, (m[2] - m0) / t1])

        m = solve_ivp(rate, (0, dt), m, rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]
        out.append(m)
    return np.array(out)


def test_ode(x64):
    sequence, spins = random_case(steps=2e-6)
    result = simulate(sequence, spins, history=True)
    for i in (0, 3):
        np.testing.assert_allclose(result.history[:, i], ode(sequence, spins, i), atol=1e-4)
    np.testing.assert_allclose(result.magnetization, result.history[-1], atol=1e-14)
    signal = np.asarray(result.history[..., 0] + 1j * result.history[..., 1]).sum(1)
    np.testing.assert_allclose(result.signal, signal, atol=1e-12)


@pytest.mark.slow
def test_splitting_error_is_of_second_order_and_free_intervals_are_exact(x64):
    sequence, spins = random_case(spins=1, intervals=1, steps=1e-4)
    sequence = replace(sequence, rf=np.array([3e-5 + 0j]))
    exact = ode(sequence, spins, 0)[-1]
    errors = []
    for parts in (16, 32, 64):
        fine = Sequence(
            np.repeat(sequence.duration / parts, parts), np.repeat(sequence.rf, parts), np.repeat(sequence.gradient, parts, 0), [0]
        )
        errors.append(np.abs(simulate(fine, spins).magnetization[0] - exact).max())
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5
    silent = replace(sequence, rf=np.zeros(1, complex))
    start = np.array([[0.3, -0.4, 0.2]])
    end = simulate(silent, spins, initial=start).magnetization[0]
    t, (t1, t2, m0) = silent.duration[0], (v[0] for v in (spins.t1, spins.t2, spins.m0))
    w = GAMMA * silent.gradient[0] @ spins.position[0] + spins.off_resonance[0]
    xy = (0.3 - 0.4j) * np.exp(-1j * w * t - t / t2)
    np.testing.assert_allclose(end, [xy.real, xy.imag, m0 + (0.2 - m0) * np.exp(-t / t1)], rtol=1e-12)


def test_signs_and_flip_angles(x64):
    """A positive B₁ along x turns M from z to +y (γ > 0, dM/dt = γ M × B); free precession is e^{−iωt}."""
    spin = Spins(np.zeros(3), off_resonance=2 * np.pi * 10)
    pulse = np.pi / 2 / GAMMA / 1e-6
    m = simulate(Sequence([1e-6], np.array([pulse + 0j]), np.zeros((1, 3)), [0]), replace(spin, off_resonance=0.0)).magnetization
    np.testing.assert_allclose(m, [0, 1, 0], atol=1e-12)
    out = simulate(Sequence([5e-3], np.zeros(1, complex), np.zeros((1, 3)), [0]), spin, initial=np.array([1.0, 0, 0]))
    np.testing.assert_allclose(out.signal, [np.exp(-2j * np.pi * 10 * 5e-3)], atol=1e-12)


def test_gradients_against_finite_differences(x64):
    sequence, spins = random_case(spins=3, intervals=35)
    weights = RNG.normal(size=35) + 1j * RNG.normal(size=35)

    @jax.jit
    def value(sequence, spins):
        return jnp.sum((weights * simulate(sequence, spins).signal).real)

    of_sequence, of_spins = jax.jit(jax.grad(value, argnums=(0, 1), allow_int=True))(sequence, spins)
    steps = {"position": 1e-8, "m0": 1e-6, "t1": 1e-9, "t2": 1e-9, "off_resonance": 1e-3, "gradient": 1e-8, "duration": 1e-12, "rf": 1e-11}
    for name, scale in steps.items():
        subject, gradient = (spins, of_spins) if hasattr(spins, name) else (sequence, of_sequence)
        direction = RNG.normal(size=np.shape(getattr(subject, name))) * scale
        ends = []
        for sign in (1, -1):
            moved = replace(subject, **{name: getattr(subject, name) + sign * direction})
            ends.append(value(sequence, moved) if subject is spins else value(moved, spins))
        got = np.vdot(np.conj(getattr(gradient, name)), direction).real
        np.testing.assert_allclose(got, (ends[0] - ends[1]) / 2, rtol=1e-5, err_msg=name)
    forward_mode = jax.jvp(lambda v: value(sequence, replace(spins, t2=v)), (spins.t2,), (np.ones(3),))[1]
    np.testing.assert_allclose(forward_mode, of_spins.t2.sum(), rtol=1e-9)


def scan():
    """Pulses, uneven waits and readouts that are even, uneven, spoiled and of several lengths."""
    def part(intervals, rf=0.0, even=False):
        n = intervals
        duration = np.full(n, 2e-5) if even else RNG.uniform(1e-5, 4e-5, n)
        gradient = np.tile(RNG.normal(size=3), (n, 1)) if even else RNG.normal(size=(n, 3))
        return duration, rf * (RNG.normal(size=n) + 1j * RNG.normal(size=n)), 0.02 * gradient

    parts = [part(11, 1e-4), part(3), part(13, even=True), part(20, 5e-5), part(9), part(5), part(13, even=True), part(2)]
    duration, rf, gradient = (np.concatenate(v) for v in zip(*parts, strict=True))
    ends = np.cumsum([len(p[0]) for p in parts])
    samples = np.concatenate([np.arange(ends[k - 1], ends[k]) for k in (2, 4, 6)])
    spoil = np.zeros(len(duration), bool)
    spoil[[ends[2] - 1, ends[4] - 4]] = True
    spins = random_case(spins=6)[1]
    return Sequence(duration, rf, gradient, samples, spoil), spins


def test_readouts_agree_with_the_states_of_every_interval(x64):
    sequence, spins = scan()
    sensitivity = RNG.normal(size=(2, 6)) + 1j * RNG.normal(size=(2, 6))
    fast, slow = (simulate(sequence, spins, receive=sensitivity, history=h) for h in (False, True))
    np.testing.assert_allclose(fast.signal, slow.signal, atol=1e-12)
    np.testing.assert_allclose(fast.magnetization, slow.magnetization, atol=1e-12)
    order = RNG.permutation(len(sequence.samples))
    shuffled = replace(sequence, samples=np.asarray(sequence.samples)[order])
    np.testing.assert_allclose(simulate(shuffled, spins, receive=sensitivity).signal, fast.signal[:, order], atol=1e-12)


@pytest.fixture(scope="module")
def objective():
    """(value of moves of everything, no move, a random one with no RF in readouts)."""
    with jax.enable_x64(True):
        sequence, spins = scan()
        target = RNG.normal(size=len(sequence.samples)) + 1j * RNG.normal(size=len(sequence.samples))
        start = {n: jnp.asarray(getattr(spins, n)) for n in ("position", "m0", "t1", "t2", "off_resonance", "b1")}
        start |= {n: jnp.asarray(getattr(sequence, n)) for n in ("duration", "rf", "gradient")}
        scale = {"position": 1e-2, "t1": 1e-4, "t2": 3e-5, "off_resonance": 100.0, "duration": 1e-6, "rf": 1e-5, "gradient": 2e-3}

        def value(move):
            v = {n: p + scale.get(n, 0.1) * move[n] for n, p in start.items()}
            played = replace(sequence, **{n: v.pop(n) for n in ("duration", "gradient", "rf")})
            return jnp.sum(jnp.abs(simulate(played, Spins(**v)).signal - target) ** 2)

        zero = jax.tree.map(jnp.zeros_like, start)
        way = jax.tree.map(lambda v: jnp.asarray(RNG.normal(size=v.shape), v.dtype), zero)
        way["rf"] = way["rf"].at[np.asarray(sequence.samples)].set(0)
        return value, zero, way


@pytest.mark.slow
def test_gradients_of_readouts_against_finite_differences(objective, x64):
    value, zero, way = objective
    gradient, value = jax.jit(jax.grad(value))(zero), jax.jit(value)
    for name, direction in way.items():
        ends = [float(value(zero | {name: t * direction})) for t in (1e-5, -1e-5)]
        np.testing.assert_allclose(jnp.vdot(gradient[name], direction).real, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_second_derivatives_of_readouts_against_finite_differences(objective, x64):
    value, zero, way = objective
    gradient = jax.jit(jax.grad(value))
    hessian = jax.jit(lambda move: jax.jvp(jax.grad(value), (zero,), (move,))[1])(way)
    ends = [gradient(jax.tree.map(lambda w, t=t: t * w, way)) for t in (1e-5, -1e-5)]
    for name, product in hessian.items():
        seen = way[name] != 0
        expected = (ends[0][name] - ends[1][name]) / 2e-5
        np.testing.assert_allclose(product[seen], expected[seen], atol=1e-6 * float(jnp.abs(product).max()), err_msg=name)


def test_a_pulse_can_be_designed_from_nothing(x64):
    """The derivative with respect to RF where there is none: of M_y by γ dt M_z on resonance."""
    spin = Spins(np.zeros(3))
    play = lambda rf: simulate(Sequence(np.full(20, 1e-5), rf, np.zeros((20, 3)), []), spin).magnetization[1]  # noqa: E731
    np.testing.assert_allclose(jax.grad(play)(jnp.zeros(20)), np.full(20, GAMMA * 1e-5), rtol=1e-12)
    assert float(play(jnp.zeros(20))) == 0


def test_segments_hold_every_interval_once():
    for n in (1, 7, 90, 400):
        for share in (0, 0.3, 0.9, 1):
            reads = np.repeat(RNG.random(n) < share, RNG.integers(1, 9, n))[:n]
            silent, read = segments(np.flatnonzero(reads), n)
            order = np.concatenate([np.append(a.ravel(), b) for a, b in zip(silent, read, strict=True)])
            np.testing.assert_array_equal(order[order >= 0], np.arange(n))
            assert reads[read[read >= 0]].all() and not reads[silent[silent >= 0]].any()
    flash = np.concatenate([np.arange(36, 126) + 126 * k for k in range(8)])
    assert [v.shape for v in segments(flash, 1008)] == [(8, 3, 12), (8, 90)]


@pytest.mark.slow
def test_single_precision_is_enough():
    """k-space within 0.1 % of double precision."""
    sequence, spins = random_case(spins=200, intervals=400)
    single = simulate(jax.tree.map(_single, sequence), jax.tree.map(_single, spins)).signal
    assert single.dtype == jnp.complex64
    with jax.enable_x64(True):
        double = np.asarray(simulate(sequence, spins).signal)
    assert np.linalg.norm(single - double) < 1e-4 * np.linalg.norm(double)


def _single(v):
    return v.astype({"c": np.complex64, "f": np.float32}.get(v.dtype.kind, v.dtype)) if hasattr(v, "dtype") else v


@pytest.mark.slow
def test_chunks_coils_and_an_unread_pulse_change_nothing(monkeypatch, x64):
    sequence, spins = random_case(spins=10, intervals=70)
    sensitivity = RNG.normal(size=(2, 10)) + 1j * RNG.normal(size=(2, 10))
    whole = simulate(sequence, spins, receive=sensitivity, history=True)
    expected = np.einsum("cs,ts->ct", sensitivity, whole.history[..., 0] + 1j * whole.history[..., 1])
    np.testing.assert_allclose(whole.signal, expected, atol=1e-12)
    late = replace(sequence, samples=np.array([69]))
    np.testing.assert_allclose(simulate(late, spins).signal, simulate(sequence, spins).signal[-1:], atol=1e-12)
    monkeypatch.setattr(bloch, "_CHUNK", 4)
    parts = simulate(sequence, spins, receive=sensitivity, history=True)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_ideal_spoiler_and_concatenation(x64):
    first = Sequence([1e-4], np.array([np.pi / 3 / GAMMA / 1e-4 + 0j]), np.zeros((1, 3)), [0], np.array([True]))
    second = Sequence([1e-4, 2e-4], np.zeros(2, complex), np.zeros((2, 3)), [1])
    both = concatenate([first, second])
    assert len(both) == 3 and list(both.samples) == [0, 2]
    out = simulate(both, Spins(np.zeros(3)))
    np.testing.assert_allclose(out.magnetization, [0, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(out.signal, 0, atol=1e-12)


def test_sine_and_cosine_of_turns():
    t = np.concatenate([RNG.uniform(-200, 200, 999), [0, 0.5, -0.5, 0.25]]).astype(np.float32)
    s, c = sincos(jnp.asarray(t))
    np.testing.assert_allclose(s, np.sin(2 * np.pi * t.astype(float)), atol=3e-7)
    np.testing.assert_allclose(c, np.cos(2 * np.pi * t.astype(float)), atol=6e-7)
    with jax.enable_x64(True):
        np.testing.assert_allclose(sincos(jnp.asarray(0.3))[0], math.sin(0.6 * math.pi), atol=1e-15)


def test_nuclei():
    assert pytest.approx(scipy.constants.value("proton gyromag. ratio"), rel=1e-7) == nuclei.GAMMA
    helion = 2 * scipy.constants.value("helion mag. mom.") / scipy.constants.hbar
    assert nuclei.larmor_frequency(1.0, "3He") == pytest.approx(helion, rel=1e-4)
    assert nuclei.larmor_frequency(3.0) / (2 * np.pi) == pytest.approx(127.7e6, rel=1e-3)
    # spin ½: ρ γ² ħ² B₀/(4kT); water at 1.5 T and 310 K: 4.9e-3 A/m
    m = nuclei.bulk_magnetization(6.7e28, 1.5, 310.0)
    expected = 6.7e28 * (nuclei.GAMMA * scipy.constants.hbar) ** 2 * 1.5 / (4 * scipy.constants.k * 310)
    assert m == pytest.approx(expected, rel=1e-6)
    sodium = nuclei.named("23Na")
    assert nuclei.bulk_magnetization(1.0, 1.0, 300.0, sodium) == pytest.approx(
        (sodium.gamma * scipy.constants.hbar) ** 2 * 1.5 * 2.5 / (3 * scipy.constants.k * 300), rel=1e-6
    )


@pytest.mark.parametrize("which", ["1H", "23Na"])
def test_bulk_magnetization_is_that_of_the_boltzmann_populations(which, x64):
    n = nuclei.named(which)
    moment = nuclei.polarization(1.5, 310.0, which) * n.spin * n.gamma * scipy.constants.hbar
    np.testing.assert_allclose(moment, nuclei.bulk_magnetization(1.0, 1.5, 310.0, which), rtol=1e-5)


def test_refused():
    with pytest.raises(ValueError, match="t2"):
        Spins(np.zeros(3), t2=0.0)
    with pytest.raises(ValueError, match="position"):
        Spins(np.zeros(2))
    with pytest.raises(ValueError, match="broadcast"):
        Spins(np.zeros((4, 3)), t1=np.ones(3))
    with pytest.raises(ValueError, match="gradient"):
        Sequence([1e-3], np.zeros(1, complex), np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match="samples"):
        Sequence([1e-3], np.zeros(1, complex), np.zeros((1, 3)), [1])
    with pytest.raises(ValueError, match="duration"):
        Sequence([0.0], np.zeros(1, complex), np.zeros((1, 3)), [0])
    with pytest.raises(ValueError, match="nucleus"):
        nuclei.larmor_frequency(1.0, "2H")
    with pytest.raises(ValueError, match="temperature"):
        nuclei.bulk_magnetization(1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="temperature"):
        nuclei.polarization(1.0, -3.0)
