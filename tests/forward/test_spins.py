"""Spins in the laboratory frame against SciPy's rotations and ODE solver, Boltzmann statistics and finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation

from diffimg.forward import nuclei
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.sequence import Sequence
from diffimg.forward.spins import flux, precess, received_voltage, thermal_ensemble, torque

RNG = np.random.default_rng(11)
GAMMA = nuclei.GAMMA
NAMES = list(nuclei.NUCLEI)


def rotated(m, b, time, gamma):
    return Rotation.from_rotvec(-gamma * np.asarray(time)[..., None] * b).apply(m)


@pytest.mark.parametrize("which", NAMES)
def test_precession_is_a_rotation(which, x64):
    m, b = RNG.normal(size=(2, 20, 3))
    gamma = nuclei.NUCLEI[which].gamma
    for angle in (1e-9, 2e-3, 1.9e-3, 1.0, 300.0):
        time = RNG.uniform(0.5, 1.0, 20) * angle / abs(gamma)
        np.testing.assert_allclose(precess(m, b, time, which), rotated(m, b, time, gamma), atol=1e-12)
    np.testing.assert_allclose(precess(precess(m, b, time, which), b, -time, which), m, atol=1e-12)


def test_precession_solves_the_torque_equation(x64):
    m, b, time = np.array([0.3, -0.5, 0.8]), np.array([0.02, -0.05, 1.5]), 2e-8
    for which in ("1H", "3He"):
        end = solve_ivp(lambda t, m: np.asarray(torque(m, b, which)), (0, time), m, rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]  # noqa: B023
        np.testing.assert_allclose(precess(m, b, time, which), end, atol=1e-9)
        rate = jax.jvp(lambda t: precess(m, b, t, which), (time,), (1.0,))[1]  # noqa: B023
        np.testing.assert_allclose(rate, torque(end, b, which), atol=1e-9 * GAMMA)


def test_torque(x64):
    m, b = RNG.normal(size=(4, 1, 3)), RNG.normal(size=(5, 3))
    np.testing.assert_allclose(torque(m, b, "31P"), nuclei.NUCLEI["31P"].gamma * np.cross(m, b), rtol=1e-12)
    # γ > 0: a field along z turns x to −y
    np.testing.assert_allclose(torque([1, 0, 0], [0, 0, 1]), [0, -GAMMA, 0], rtol=1e-12)
    np.testing.assert_allclose(precess([1, 0, 0], [0, 0, 1], math.pi / 2 / GAMMA), [0, -1, 0], atol=1e-12)


def test_precession_is_that_of_the_bloch_simulation(x64):
    """Of the rotating frame: a block pulse and off-resonance are one effective field."""
    b, time, m = np.array([3e-6, -2e-6, 5e-6]), 2e-3, np.array([0.2, 0.4, -0.6])
    spin = Spins(np.zeros(3), off_resonance=GAMMA * b[2])
    sequence = Sequence([time], np.array([b[0] + 1j * b[1]]), np.zeros((1, 3)), [0])
    np.testing.assert_allclose(precess(m, b, time), simulate(sequence, spin, initial=m).magnetization, atol=1e-10)


def test_precession_broadcasts_and_maps(x64):
    m, b, time = RNG.normal(size=(4, 1, 3)), RNG.normal(size=(5, 3)), RNG.uniform(0, 1e-8, (2, 1, 1))
    out = precess(m, b, time)
    assert out.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(out[1, 2, 3], precess(m[2, 0], b[3], time[1, 0, 0]), atol=1e-13)
    np.testing.assert_allclose(jax.vmap(lambda t: precess(m, b, t))(time[:, 0, 0]), out, atol=1e-13)
    np.testing.assert_allclose(jax.jit(precess)(m, b, time), out, atol=1e-13)


def test_gradient_against_finite_differences(x64):
    m, weight = RNG.normal(size=(2, 3))

    def value(m, b, t):
        return jnp.sum(weight * precess(m, b * 1e-8, t))

    for b in (np.array([0.3, -0.4, 0.7]), np.array([0.02, 0.05, -0.01]), np.zeros(3)):
        given = (m, b, 1.3)
        for i, grad in enumerate(jax.grad(value, (0, 1, 2))(*given)):
            for k in np.ndindex(np.shape(given[i])):
                step = np.zeros(np.shape(given[i]))
                step[k] = 1e-5
                up, down = ([*given[:i], given[i] + s * step, *given[i + 1 :]] for s in (1, -1))
                np.testing.assert_allclose(grad[k], (value(*up) - value(*down)) / 2e-5, atol=1e-8)


def test_no_field_no_nan(x64):
    m, weight = RNG.normal(size=(2, 3))
    scale = 1 / GAMMA
    grad = jax.jit(jax.grad(lambda b: jnp.sum(weight * precess(m, b, scale))))(jnp.zeros(3))
    np.testing.assert_allclose(grad, [weight @ np.cross(m, e) for e in np.eye(3)], rtol=1e-12)
    # second order: M × B × B/2 from the series of the rotation
    hessian = jax.jit(jax.hessian(lambda b: precess(m, b, scale)))(jnp.zeros(3))
    twice = np.array([[np.cross(np.cross(m, e), f) + np.cross(np.cross(m, f), e) for e in np.eye(3)] for f in np.eye(3)])
    np.testing.assert_allclose(hessian, np.moveaxis(twice, -1, 0) / 2, atol=1e-12)
    for b, t in ((jnp.zeros((2, 3)), 1.0), (jnp.ones((2, 3)), 0.0)):
        grads = jax.jit(jax.grad(lambda m, b, t: jnp.sum(precess(m, b, t) ** 2), (0, 1, 2)))(jnp.ones((2, 3)), b, t)
        assert all(np.all(np.isfinite(g)) for g in grads)


@pytest.mark.slow
def test_single_precision():
    m, b = RNG.normal(size=(2, 50, 3)).astype(np.float32)
    time = np.float32(10 / GAMMA)
    out = precess(m, b, time)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, rotated(m, b, np.full(50, time), GAMMA), atol=1e-5)
    grad = jax.grad(lambda b: jnp.sum(precess(m, b, 1.0)))(jnp.full((50, 3), 1e6, jnp.float32))
    assert np.all(np.isfinite(grad))  # too many turns for a value, but no NaN
    moments = thermal_ensemble(jax.random.key(0), 100, 3.0)
    assert moments.dtype == jnp.float32 and np.all(np.abs(moments[:, 2]) > 1e-27)
    assert np.all(torque(moments, b[:1]).any(axis=-1))


def test_dtype_follows_the_arrays(x64):
    m, b = jnp.ones(3, jnp.float32), jnp.ones(3, jnp.float32)
    assert precess(m, b, 1e-9).dtype == jnp.float32
    assert flux(m, b[None], 1e-9).dtype == jnp.float32
    assert precess([1, 0, 0], [0, 0, 1], 1e-9).dtype == jnp.float64


@pytest.mark.parametrize("which", NAMES)
def test_ensemble_follows_boltzmann(which, x64):
    n, count, boost = nuclei.NUCLEI[which], 200_000, 1e4
    moments = np.asarray(thermal_ensemble(jax.random.key(3), count, 7.0, 310.0, which, boost))
    assert moments.shape == (count, 3)
    unit = abs(n.gamma) * nuclei.HBAR
    # on the cones: |μ| = γħ√(I(I+1)), levels m = −I … I
    np.testing.assert_allclose(np.linalg.norm(moments / unit, axis=1), math.sqrt(n.spin * (n.spin + 1)), rtol=1e-10)
    levels, seen = np.unique(np.round(moments[:, 2] / (n.gamma * nuclei.HBAR), 9), return_counts=True)
    np.testing.assert_allclose(levels, np.arange(-n.spin, n.spin + 0.5))
    weights = np.exp(levels * n.gamma * nuclei.HBAR * 7.0 * boost / (nuclei.BOLTZMANN * 310.0))
    expected = weights / weights.sum()
    assert np.all(np.abs(seen / count - expected) < 5 * np.sqrt(expected * (1 - expected) / count))
    error = moments.std(axis=0) / math.sqrt(count)
    mean = n.gamma * nuclei.HBAR * n.spin * float(nuclei.polarization(7.0 * boost, 310.0, which))
    assert mean > 5 * error[2], "the surplus must be visible"
    assert np.all(np.abs(moments.mean(axis=0) - [0, 0, mean]) < 5 * error)
    # as many to each side
    np.testing.assert_allclose(np.mean(moments[:, :2] > 0, axis=0), 0.5, atol=5 * 0.5 / math.sqrt(count))


@pytest.mark.parametrize("which", NAMES)
def test_expected_moment_times_density_is_the_bulk_magnetization(which, x64):
    n, density = nuclei.NUCLEI[which], 6.7e28
    levels = np.arange(-n.spin, n.spin + 0.5)
    weights = np.exp(levels * n.gamma * nuclei.HBAR * 3.0 / (nuclei.BOLTZMANN * 310.0))
    moment = n.gamma * nuclei.HBAR * (levels @ weights) / weights.sum()
    bulk = nuclei.bulk_magnetization(density, 3.0, 310.0, which)
    np.testing.assert_allclose(density * moment, bulk, rtol=1e-4)
    np.testing.assert_allclose(density * n.gamma * nuclei.HBAR * n.spin * nuclei.polarization(3.0, 310.0, which), bulk, rtol=1e-4)


def test_ensemble_saturates_and_reverses(x64):
    draw = functools.partial(thermal_ensemble, jax.random.key(1), 2000)
    assert np.all(draw(3.0, boost=1e8)[:, 2] > 0) and np.all(draw(-3.0, boost=1e8)[:, 2] < 0)
    assert abs(np.sign(draw(3.0, boost=0.0)[:, 2]).mean()) < 5 / math.sqrt(2000)
    np.testing.assert_array_equal(jax.jit(lambda t: draw(3.0, t))(310.0), draw(3.0, 310.0))


def test_voltage_is_the_derivative_of_the_flux(x64):
    m, sensitivity = RNG.normal(size=(4, 5, 3)), RNG.normal(size=(2, 4, 5, 3)) * 1e-5
    b = np.array([0, 0, 1.5]) + RNG.normal(size=(4, 5, 3)) * 1e-3
    volume = RNG.uniform(1e-9, 2e-9, (4, 5))
    times = np.linspace(0, 5e-8, 7)
    history = lambda t: precess(m, b, jnp.asarray(t)[:, None, None])  # noqa: E731
    u = received_voltage(torque(history(times), b), sensitivity, volume)
    assert u.shape == (2, 7)
    step = 1e-13
    difference = (flux(history(times + step), sensitivity, volume) - flux(history(times - step), sensitivity, volume)) / (2 * step)
    np.testing.assert_allclose(u, -difference, atol=1e-6 * np.abs(u).max())
    rate = jax.jvp(history, (times,), (np.ones(7),))[1]
    np.testing.assert_allclose(received_voltage(rate, sensitivity, volume), u, atol=1e-10 * np.abs(u).max())
    expected = np.einsum("cyxk,tyxk,yx->ct", sensitivity, history(times), volume)
    np.testing.assert_allclose(flux(history(times), sensitivity, volume), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("which", NAMES)
def test_amplitude_of_the_voltage(which, x64):
    """ω₀ M₀ V B₁ sin α, at the Larmor frequency; a coil at right angles sees it a quarter of a turn later, one along B₀ sees nothing."""
    b0, flip, volume, b1 = 3.0, 0.7, 1e-9, 2e-5
    n, m0 = nuclei.NUCLEI[which], nuclei.bulk_magnetization(6.7e28, b0, nucleus=which)
    omega = nuclei.larmor_frequency(b0, which)
    field = np.array([0, 0, b0])
    pulse = precess([0, 0, m0], [1e-5, 0, 0], flip / (n.gamma * 1e-5), which)
    np.testing.assert_allclose(pulse, [0, m0 * math.sin(flip), m0 * math.cos(flip)], atol=1e-10 * m0)
    times = np.arange(64) / 64 * 2 * np.pi / abs(omega)
    u = received_voltage(torque(precess(pulse, field, times, which), field, which), b1 * np.eye(3), volume)
    amplitude = omega * m0 * volume * b1 * math.sin(flip)
    expected = [-np.cos(omega * times), np.sin(omega * times), 0 * times]
    np.testing.assert_allclose(u, amplitude * np.array(expected), atol=1e-10 * abs(amplitude))


def test_an_ensemble_induces_what_its_sum_does(x64):
    """Single moments, volume 1."""
    field = np.array([0, 0, 3.0])
    moments = thermal_ensemble(jax.random.key(2), 500, 3.0, boost=1e4)
    tipped = precess(moments, [1e-5, 0, 0], math.pi / 2 / (GAMMA * 1e-5))
    sensitivity = np.array([1e-5, 2e-5, 0])
    single = received_voltage(torque(tipped, field), np.broadcast_to(sensitivity, (1, 500, 3)))
    together = received_voltage(torque(tipped.sum(axis=0), field), sensitivity[None])
    assert single.shape == together.shape == (1,)
    np.testing.assert_allclose(single, together, rtol=1e-9)


def test_voltage_is_differentiable_in_the_coil(x64):
    m, s = RNG.normal(size=(3, 6, 3)), RNG.normal(size=(2, 6, 3))
    grad = jax.grad(lambda s, v: jnp.sum(received_voltage(m, s, v)), (0, 1))(s, 0.5)
    np.testing.assert_allclose(grad[0], np.broadcast_to(-0.5 * m.sum(axis=0), s.shape), rtol=1e-12)
    np.testing.assert_allclose(grad[1], -np.einsum("cik,tik->", s, m), rtol=1e-12)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torque(np.ones((3, 2)), np.ones(3)), r"m: expected shape \[\.\.\., 3\]"),
        (lambda: torque(np.ones(3), 3.0), r"b: expected shape \[\.\.\., 3\]"),
        (lambda: torque(np.ones((4, 3)), np.ones((5, 3))), "m, b: expected shapes that broadcast"),
        (lambda: torque([math.nan, 0, 0], np.ones(3)), "m: expected finite values"),
        (lambda: torque(np.ones(3), np.ones(3), "2H"), "nucleus: expected one of"),
        (lambda: precess(np.ones(3), np.ones(3) * 1j, 1.0), "b: expected a real dtype"),
        (lambda: precess(np.ones(3), np.ones(3), math.nan), "time: expected finite values"),
        (lambda: precess(np.ones((2, 3)), np.ones(3), np.ones(3)), "m, b, time: expected shapes that broadcast"),
        (lambda: thermal_ensemble(KEY, 0, 3.0), "count: expected an integer ≥ 1"),
        (lambda: thermal_ensemble(KEY, 2.5, 3.0), "count: expected an integer ≥ 1"),
        (lambda: thermal_ensemble(KEY, 5, [1.0, 2.0]), "b0: expected shape"),
        (lambda: thermal_ensemble(KEY, 5, math.nan), "b0: expected finite values"),
        (lambda: thermal_ensemble(KEY, 5, 3.0, 0.0), "temperature: expected values > 0"),
        (lambda: thermal_ensemble(KEY, 5, 3.0, math.nan), "temperature: expected values > 0"),
        (lambda: thermal_ensemble(KEY, 5, 3.0, boost=-1.0), "boost: expected values ≥ 0"),
        (lambda: flux(np.ones((5, 3)), np.ones(3)), r"sensitivity: expected shape \[coil, \*spins, 3\]"),
        (lambda: flux(np.ones((5, 4)), np.ones((2, 5, 3))), r"magnetization: expected shape \[\.\.\., 3\]"),
        (lambda: flux(np.ones((7, 5, 3)), np.ones((2, 4, 3))), r"magnetization: expected shape \[\*time, \*spins, 3\]"),
        (lambda: flux(np.ones(3), np.ones((2, 1, 3))), r"magnetization: expected shape \[\*time, \*spins, 3\]"),
        (lambda: received_voltage(np.ones((7, 5, 3)), np.ones((2, 4, 3))), r"rate: expected shape \[\*time, \*spins, 3\]"),
        (lambda: received_voltage(np.ones((5, 3)), np.ones((2, 5, 3)), 0.0), "volume: expected values > 0"),
        (lambda: received_voltage(np.ones((5, 3)), np.ones((2, 5, 3)), np.ones(2)), "volume: expected a scalar or shape"),
        (lambda: received_voltage(np.ones((5, 3)), np.full((2, 5, 3), np.inf)), "sensitivity: expected finite values"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
