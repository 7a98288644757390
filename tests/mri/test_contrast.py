"""Signal equations against the Bloch simulation run to its steady state, and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import mri
from diffimg.forward.bloch import Spins, simulate
from diffimg.forward.nuclei import GAMMA
from diffimg.forward.sequence import Sequence

T1, T2 = 0.8, 0.08
HARD = 1e-8


def play(events, repeats, off_resonance=0.0):
    """Transverse magnetization at the samples of the last repeat; events: ("pulse", angle, phase), ("wait", s), ("spoil",), ("read",)."""
    duration, rf, spoil, samples = [], [], [], []
    for repeat in range(repeats):
        for kind, *values in events(repeat):
            if kind == "read":
                samples.append(len(duration) - 1)
                continue
            if kind == "spoil":
                spoil[-1] = True
                continue
            duration.append(HARD if kind == "pulse" else values[0])
            rf.append(values[0] * np.exp(1j * values[1]) / GAMMA / HARD if kind == "pulse" else 0)
            spoil.append(False)
    n = len(duration)
    sequence = Sequence(np.array(duration), np.array(rf, complex), np.zeros((n, 3)), np.array(samples), np.array(spoil))
    return complex(simulate(sequence, Spins(np.zeros(3), t1=T1, t2=T2, off_resonance=off_resonance)).signal[-1])


def test_spoiled_gradient_echo_and_ernst_angle(x64):
    tr, te, flip = 0.02, 0.004, 0.3

    def events(_):
        return [("pulse", flip, 0.0), ("wait", te), ("read",), ("wait", tr - te), ("spoil",)]

    expected = mri.spoiled_gradient_echo(1.0, T1, T2, tr=tr, te=te, flip=flip)
    assert abs(play(events, 400)) == pytest.approx(float(expected), rel=1e-5)
    assert np.rad2deg(float(mri.ernst_angle(0.05, 1.56))) == pytest.approx(14.43, abs=0.01)
    angles = np.linspace(0.01, 1.5, 2000)
    best = angles[np.argmax(mri.spoiled_gradient_echo(1.0, T1, T2, tr=tr, te=te, flip=angles))]
    assert best == pytest.approx(float(mri.ernst_angle(tr, T1)), abs=1e-3)


def test_spin_echo(x64):
    tr, te = 0.5, 0.06

    def events(_):
        refocus = [("wait", te / 2), ("pulse", np.pi, np.pi / 2), ("wait", te / 2), ("read",)]
        return [("pulse", np.pi / 2, 0.0), *refocus, ("wait", tr - te), ("spoil",)]

    assert abs(play(events, 12)) == pytest.approx(float(mri.spin_echo(1.0, T1, T2, tr=tr, te=te)), rel=1e-5)
    exact = mri.spin_echo(1.0, 0.83, 0.075, tr=0.5, te=0.015)
    short = (1 - np.exp(-0.5 / 0.83)) * np.exp(-0.015 / 0.075)
    assert abs(short / exact - 1) == pytest.approx(0.02, abs=0.005)  # what the short form is off by


def test_inversion_and_saturation_recovery(x64):
    tr, ti = 2.0, 0.4

    def events(_):
        return [("pulse", np.pi, 0.0), ("wait", ti), ("spoil",), ("pulse", np.pi / 2, 0.0), ("read",), ("wait", tr - ti), ("spoil",)]

    got = play(events, 10)
    assert got.imag == pytest.approx(float(mri.inversion_recovery(1.0, T1, ti=ti, tr=tr)), abs=1e-5)
    assert float(mri.saturation_recovery(2.0, T1, time=T1)) == pytest.approx(2 * (1 - np.exp(-1)))


@pytest.mark.parametrize("turns", [0.0, 0.2, -0.35])
def test_balanced_steady_state(turns, x64):
    tr, flip = 0.005, 0.8

    def events(repeat):
        return [("pulse", flip, np.pi * (repeat % 2)), ("wait", tr / 2), ("read",), ("wait", tr / 2)]

    omega = 2 * np.pi * turns / tr
    signal = play(events, 1601, omega)  # the last pulse has phase 0
    np.testing.assert_allclose(signal, complex(mri.balanced_ssfp(1.0, T1, T2, tr=tr, flip=flip, off_resonance=omega)), atol=2e-5)


def test_weightings_order_the_tissues():
    at = mri.tissues(1.5)

    def signal(name, tr, te):
        t = at[name]
        return float(mri.spin_echo(t.density, t.t1, t.t2, tr=tr, te=te))

    assert signal("white", 0.5, 0.01) > signal("grey", 0.5, 0.01) > signal("csf", 0.5, 0.01)  # T1-weighted
    assert signal("csf", 6.0, 0.1) > signal("grey", 6.0, 0.1) > signal("white", 6.0, 0.1)  # T2-weighted
    assert signal("csf", 10.0, 0.01) > signal("grey", 10.0, 0.01) > signal("white", 10.0, 0.01)  # proton density


def test_maps_and_derivatives(x64):
    t1, t2 = jnp.array([[0.5, 0.8], [1.2, 3.0]]), 0.08
    assert mri.spin_echo(1.0, t1, t2, tr=0.5, te=0.01).shape == (2, 2)
    assert mri.multi_echo(1.0, jnp.full((3, 2), 0.05), te=[0.01, 0.02, 0.03]).shape == (3, 2, 3)
    gradient = jax.grad(lambda v: jnp.sum(mri.spin_echo(1.0, v, t2, tr=0.5, te=0.01)))(t1)
    assert np.all(gradient < 0)


def test_refused():
    with pytest.raises(ValueError, match="TE ≤ TR"):
        mri.spin_echo(1.0, 1.0, 0.1, tr=0.01, te=0.02)
    with pytest.raises(ValueError, match="t1"):
        mri.ernst_angle(0.1, 0.0)
    with pytest.raises(ValueError, match="field"):
        mri.tissues(7.0)
