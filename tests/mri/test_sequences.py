"""Sequences: k-space paths by the definition, images of spins played one by one, contrast equations; pulses and their design."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, mri
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.nuclei import GAMMA
from diffimg.mri import sequences

SHAPE, FOV = (8, 10), (0.16, 0.2)


def expected_k(shape=SHAPE, fov=FOV):
    ky, kx = (2 * np.pi / f * (np.arange(n) - n // 2) for n, f in zip(shape, fov, strict=True))
    return np.stack(np.broadcast_arrays(kx, ky[:, None]), -1)


BUILDERS = {
    "gradient echo": lambda **o: sequences.gradient_echo(SHAPE, FOV, tr=20e-3, te=5e-3, flip=0.4, **o),
    "spin echo": lambda **o: sequences.spin_echo(SHAPE, FOV, tr=0.1, te=20e-3, **o),
    "inversion recovery": lambda **o: sequences.inversion_recovery(SHAPE, FOV, tr=0.5, te=5e-3, ti=0.1, **o),
    "balanced": lambda **o: sequences.balanced_ssfp(SHAPE, FOV, tr=8e-3, flip=0.6, **o),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_samples_lie_on_the_cartesian_grid(name):
    k = sequences.kspace_trajectory(BUILDERS[name]().sequence).reshape(*SHAPE, 3)
    np.testing.assert_allclose(k[..., :2], expected_k(), atol=1e-6 * np.abs(expected_k()).max())
    np.testing.assert_allclose(k[..., 2], 0, atol=1e-9)


def test_echoes_of_a_train_read_the_same_line():
    a = sequences.multi_echo(SHAPE, FOV, tr=0.2, spacing=20e-3, echoes=3)
    k = sequences.kspace_trajectory(a.sequence).reshape(SHAPE[0], 3, SHAPE[1], 3)
    for e in range(3):
        np.testing.assert_allclose(k[:, e, :, :2], expected_k(), atol=1e-6 * np.abs(expected_k()).max())


def test_slice_selection_rephases():
    pulse = mri.sinc_pulse(np.pi / 2, 2e-3)
    k = sequences.kspace_path(mri.excitation(pulse, 5e-3))
    assert abs(k[-1, 2]) < 1e-6 * np.abs(k[:, 2]).max()


@pytest.mark.parametrize("name", ["gradient echo", "spin echo"])
def test_spin_by_spin_image_is_the_fourier_transform_of_the_object(name, x64):
    """No relaxation in the readout: the samples are Σ m e^{−ik·x}, and the inverse FFT is the object times the contrast equation."""
    rng = np.random.default_rng(0)
    m0 = rng.random(SHAPE)
    t1, t2 = 0.05, 1e3
    a = BUILDERS[name]()
    spins = mri.voxel_spins(SHAPE, FOV, m0=m0, t1=t1, t2=t2)
    image = np.asarray(forward.ifft(a.run(spins)))
    if name == "spin echo":
        expected = mri.spin_echo(m0, t1, t2, tr=0.1, te=20e-3)
        tolerance = 0.06  # the first line is read before the steady state
    else:
        expected = mri.spoiled_gradient_echo(m0, t1, t2, tr=20e-3, te=5e-3, flip=0.4)
        tolerance = 0.1
    size = np.vdot(np.asarray(expected), np.abs(image)) / np.vdot(expected, expected)
    assert abs(size - 1) < tolerance
    assert np.corrcoef(np.abs(image).ravel(), m0.ravel())[0, 1] > 0.99


def test_signal_equation(x64):
    """s(k) = Σ m e^{−ik·x} exactly, for the first line of a 90° excitation."""
    a = sequences.gradient_echo(SHAPE, FOV, tr=1.0, te=5e-3, flip=np.pi / 2)
    spins = mri.voxel_spins(SHAPE, FOV, m0=np.random.default_rng(1).random(SHAPE))
    signal = np.asarray(simulate(a.sequence, spins).signal)[: SHAPE[1]]
    k = sequences.kspace_trajectory(a.sequence)[: SHAPE[1]]
    position, m0 = np.asarray(spins.position).reshape(-1, 3), np.broadcast_to(spins.m0, spins.shape).ravel()
    np.testing.assert_allclose(signal, 1j * np.exp(-1j * k @ position.T) @ m0, atol=1e-5 * m0.sum())


@pytest.mark.slow
def test_balanced_train_reaches_its_steady_state(x64):
    tr, flip, t1, t2 = 8e-3, 0.6, 0.1, 0.05
    a = sequences.balanced_ssfp((4, 4), 0.1, tr=tr, flip=flip, dummies=140)
    spins = Spins(np.zeros(3), t1=t1, t2=t2)
    k = np.asarray(a.run(spins)) * 4
    np.testing.assert_allclose(k[:, 2], complex(mri.balanced_ssfp(1.0, t1, t2, tr=tr, flip=flip)), rtol=2e-3)


def test_off_resonance_is_refocused_by_the_spin_echo_only(x64):
    spins = Spins(np.zeros(3), off_resonance=2 * np.pi * 30)
    phase = {n: np.angle(np.asarray(BUILDERS[n]().run(spins))[4, 5]) for n in ("gradient echo", "spin echo")}
    on = {n: np.angle(np.asarray(BUILDERS[n]().run(Spins(np.zeros(3))))[4, 5]) for n in phase}
    assert abs(phase["spin echo"] - on["spin echo"]) < 1e-3
    turned = np.angle(np.exp(1j * (phase["gradient echo"] - on["gradient echo"])))
    assert turned == pytest.approx(-2 * np.pi * 30 * 5e-3, abs=1e-3)


@pytest.mark.parametrize("phase", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_errors_of_the_refocusing_pulses_cancel_in_a_train(phase):
    train = sequences.multi_echo(
        (2, 2), 0.2, tr=0.4, spacing=0.02, echoes=4, thickness=5e-3, pulse=mri.sinc_pulse(np.pi / 2, 2e-3, phase=phase)
    )
    echoes = np.abs(np.asarray(train.run(Spins(np.zeros(3), b1=0.85))))[:, 0, 0]
    assert echoes.min() > 0.95 * echoes[0]


def test_small_tip_profile_is_the_pulses_fourier_transform(x64):
    """Pauly et al. 1989: M_xy ≈ i γ ∫B₁ e^{−ik z}, for small angles."""
    pulse = mri.sinc_pulse(0.05, 2e-3, time_bandwidth=4.0)
    g = float(mri.slice_gradient(pulse.bandwidth, 5e-3))
    z = np.linspace(-8e-3, 8e-3, 41)
    profile = np.asarray(mri.slice_profile(mri.excitation(pulse, 5e-3), z))
    t = (np.arange(128) + 0.5) * float(pulse.dwell)
    w = GAMMA * g * z
    expected = 1j * GAMMA * float(pulse.dwell) * np.exp(1j * np.outer(w, t - t.mean())) @ np.asarray(pulse.rf)
    np.testing.assert_allclose(profile, expected, atol=3e-3 * np.abs(expected).max())
    half = np.abs(profile) > 0.5 * np.abs(profile).max()
    assert np.ptp(z[half]) == pytest.approx(5e-3, rel=0.15)


def test_units_that_cannot_be_are_warned_of():
    with pytest.warns(UserWarning, match="flip: values up to 90, expected radians. If they are degrees"):
        mri.sinc_pulse(90, 1e-3)
    with pytest.warns(UserWarning, match="fov: values up to 200, expected metres"):
        mri.sequences.gradient_echo((4, 4), 200, tr=0.02, te=0.005)
    with pytest.warns(UserWarning, match="t1: values up to 2000, expected seconds"):
        mri.Spins(np.zeros(3), t1=2000.0)
    with pytest.warns(UserWarning, match="rf: values up to 10, expected tesla"):
        mri.Sequence([1e-3], [10.0], np.zeros((1, 3)), [0])


def test_pulses_have_their_flip_angle_and_bandwidth():
    for pulse in (mri.hard_pulse(0.7), mri.sinc_pulse(0.7, 1e-3), mri.gaussian_pulse(0.7, 1e-3)):
        assert float(pulse.flip) == pytest.approx(0.7, rel=1e-5)
    shifted = mri.excitation(mri.sinc_pulse(0.1, 2e-3), 5e-3, offset=4e-3)
    z = np.linspace(-10e-3, 10e-3, 81)
    profile = np.abs(np.asarray(mri.slice_profile(shifted, z)))
    assert np.average(z, weights=profile**2) == pytest.approx(4e-3, abs=2e-4)


@pytest.mark.slow
def test_designed_pulse_beats_the_windowed_sinc():
    """A 90° slice, where the small-tip design is wrong."""
    start = mri.sinc_pulse(np.pi / 2, 2e-3, time_bandwidth=4.0, intervals=48)
    z = np.linspace(-8e-3, 8e-3, 65)
    target = np.where(np.abs(z) < 2.5e-3, 1j, 0)
    weights = (np.abs(np.abs(z) - 2.5e-3) > 0.8e-3).astype(float)
    design = mri.design_pulse(start, 5e-3, z, target, weights=weights, steps=120)
    before = np.asarray(mri.slice_profile(mri.excitation(start, 5e-3), z))
    rms = lambda p: np.sqrt(np.sum(weights * (np.abs(p) - np.abs(target)) ** 2) / weights.sum())  # noqa: E731
    assert rms(np.asarray(design.profile)) < 0.5 * rms(before)
    bounded = mri.design_pulse(start, 5e-3, z, target, weights=weights, steps=20, peak=0.8 * float(jnp.abs(start.rf).max()))
    assert float(jnp.abs(bounded.pulse.rf).max()) <= 0.8 * float(jnp.abs(start.rf).max()) * 1.001


@pytest.mark.slow
def test_sequence_is_differentiable_through_the_image():
    a = sequences.gradient_echo((4, 4), 0.1, tr=20e-3, te=5e-3, flip=0.4)

    def brightness(t1):
        return jnp.sum(jnp.abs(a.run(mri.voxel_spins((4, 4), 0.1, t1=t1, t2=0.1))) ** 2)

    assert float(jax.grad(brightness)(0.5)) < 0


def test_refused():
    with pytest.raises(ValueError, match="te"):
        sequences.gradient_echo(SHAPE, FOV, tr=20e-3, te=1e-3)
    with pytest.raises(ValueError, match="tr"):
        sequences.gradient_echo(SHAPE, FOV, tr=3.5e-3, te=3e-3)
    with pytest.raises(ValueError, match="window"):
        mri.sinc_pulse(1.0, 1e-3, window="han")
    with pytest.raises(ValueError, match="thickness"):
        mri.slice_gradient(1e3, 0.0)
    with pytest.raises(ValueError, match="m0"):
        mri.voxel_spins((4, 4), 0.1, m0=np.ones((4, 5)))
    with pytest.raises(ValueError, match="target"):
        mri.design_pulse(mri.sinc_pulse(1.0, 1e-3), 5e-3, np.zeros(4), np.zeros(5))


@pytest.mark.parametrize("name", ["23Na", pytest.param("3He", marks=pytest.mark.slow)])
def test_other_nuclei_are_imaged_as_protons_are(name, x64):
    """Pulses turn by their angle, and samples lie where they should: gradients and B₁ are scaled with γ, and with its sign."""
    pulse = mri.sinc_pulse(np.pi / 2, 1e-3, nucleus=name)
    assert float(pulse.flip) == pytest.approx(np.pi / 2) and float(mri.hard_pulse(1.0, nucleus=name).flip) == pytest.approx(1.0)
    z = np.linspace(-6e-3, 6e-3, 49)
    profile = mri.slice_profile(mri.excitation(pulse, 5e-3, offset=1e-3), z, nucleus=name)
    proton = mri.slice_profile(mri.excitation(mri.sinc_pulse(np.pi / 2, 1e-3), 5e-3, offset=1e-3), z)
    np.testing.assert_allclose(profile, proton, atol=1e-9)
    for build in BUILDERS.values():
        k = sequences.kspace_trajectory(build(nucleus=name).sequence, name).reshape(*SHAPE, 3)
        np.testing.assert_allclose(k[..., :2], expected_k(), atol=1e-6 * np.abs(expected_k()).max())
    if name == "3He":  # γ < 0
        spins = mri.voxel_spins(SHAPE, FOV, m0=np.random.default_rng(3).random(SHAPE), t1=0.05, t2=0.04)
        build = BUILDERS["spin echo"]
        np.testing.assert_allclose(build(nucleus=name).run(spins), build().run(spins), atol=1e-9)


def test_a_pulse_for_another_nucleus_is_refused():
    with pytest.raises(ValueError, match=r"pulse: expected one for 1H, got one for 23Na.*nucleus"):
        sequences.gradient_echo(SHAPE, FOV, tr=0.02, te=5e-3, pulse=mri.hard_pulse(0.3, nucleus="23Na"))
    with pytest.raises(ValueError, match="nucleus"):
        mri.hard_pulse(0.3, nucleus="sodium")


def test_times_in_milliseconds_are_noticed():
    with pytest.warns(UserWarning, match="te: values up to 5.*divide by 1000"):
        sequences.gradient_echo(SHAPE, FOV, tr=20, te=5)
    with pytest.warns(UserWarning, match="thickness"):
        mri.slice_gradient(1e3, 5.0)
    with pytest.raises(ValueError, match="te"):
        sequences.spin_echo(SHAPE, FOV, tr=1.0, te=-0.01)


@pytest.mark.slow
def test_times_may_be_traced(x64):
    """d|S|/dTE = −|S|/T2; inversion, repetition and readout times against finite differences."""
    t2 = 30e-3
    spins = mri.voxel_spins((1, 4), 0.2, m0=np.arange(4.0) + np.ones((1, 1)), t1=0.3, t2=t2)

    @jax.jit
    def sizes(times):
        te, ti, tr, spacing, readout = times
        recovery = sequences.inversion_recovery((1, 4), 0.2, tr=tr, te=te, ti=ti)
        train = sequences.multi_echo((1, 4), 0.2, tr=tr, spacing=spacing, echoes=2, readout=readout)
        return jnp.stack([jnp.linalg.norm(a.run(spins)) for a in (recovery, train)])

    times = np.array([8e-3, 0.1, 0.5, 20e-3, 2e-3])
    known = sequences.inversion_recovery((1, 4), 0.2, te=times[0], ti=times[1], tr=times[2])
    value, slopes = sizes(times), jax.jacrev(sizes)(times)
    assert float(value[0]) == pytest.approx(float(jnp.linalg.norm(known.run(spins))), rel=1e-9)
    assert float(slopes[0, 0]) == pytest.approx(-float(value[0]) / t2, rel=1e-4)
    for i in range(5):
        h = 1e-7 * np.eye(5)[i]
        difference = (sizes(times + h) - sizes(times - h)) / 2e-7
        np.testing.assert_allclose(slopes[:, i], difference, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="fov"):
        jax.jit(lambda f: sequences.gradient_echo((1, 4), f, tr=0.1, te=5e-3).sequence.duration)(0.2)
