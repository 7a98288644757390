"""Integrating detectors: moments of the noise, and the likelihood at and around the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.energy import CompoundPoisson
from diffimg.forward import Identity, PolyenergeticTransmission

ENERGIES = np.array([30.0, 60.0, 90.0])
FLUENCE = np.array([1.0, 2.0, 1.0])
MODEL = CompoundPoisson(ENERGIES, FLUENCE, sigma=50.0)


def test_moments():
    clean = jnp.full((200, 200), 4000.0)
    y = MODEL.noise(jax.random.key(1), clean)
    gain = np.sum(ENERGIES**2 * FLUENCE) / np.sum(ENERGIES * FLUENCE)
    np.testing.assert_allclose(MODEL.gain, gain, rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 4000, rtol=2e-3)
    np.testing.assert_allclose(y.var(), gain * 4000 + 50.0**2, rtol=0.03)
    np.testing.assert_allclose(MODEL.variance(clean)[0, 0], gain * 4000 + 2500, rtol=1e-6)
    quiet = CompoundPoisson(ENERGIES, FLUENCE).noise(jax.random.key(1), clean)
    assert bool(jnp.all(quiet % 30 == 0))


def test_agrees_with_the_transmission_that_draws():
    op = PolyenergeticTransmission(FLUENCE * 10, np.zeros((1, 3)), (100, 100), ENERGIES)
    t = jnp.zeros((1, 100, 100))
    np.testing.assert_allclose(CompoundPoisson(ENERGIES, FLUENCE).variance(op(t)), op.second_moment(t), rtol=1e-5)


def test_likelihood_is_least_at_the_truth_with_the_right_curvature():
    y = MODEL.noise(jax.random.key(2), jnp.full((30, 30), 4000.0))
    energy = MODEL.likelihood(Identity((30, 30)), y)

    below, slope, above = (float(energy.grad(jnp.full((30, 30), level)).sum()) for level in (3960.0, 4000.0, 4040.0))
    curvature = (above - below) / 80
    deviation = 1 / np.sqrt(curvature)  # standard error of the level by the model
    np.testing.assert_allclose(deviation, np.sqrt(MODEL.variance(4000.0) / 900), rtol=0.05)
    assert abs(slope / curvature) < 4 * deviation


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((ENERGIES, FLUENCE[:2]), "fluence"),
        ((ENERGIES, np.zeros(3)), "no photons"),
        ((-ENERGIES, FLUENCE), "quanta"),
        ((ENERGIES, FLUENCE, -1.0), "sigma"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(ValueError, match=words):
        CompoundPoisson(*arguments)
