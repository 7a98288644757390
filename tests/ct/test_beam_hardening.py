"""Water correction, the path through the materials, cupping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import brentq

from diffimg import ct
from diffimg.forward import xray

SPECTRUM = xray.tube_spectrum(120.0).coarsened(8)
WEIGHTS = SPECTRUM.fluence * xray.energy_integrating(SPECTRUM.energies)
WATER, BONE = xray.linear_attenuation(("water", "bone"), SPECTRUM.energies)


def test_equivalent_length_is_the_root_that_scipy_finds():
    w, mu = np.asarray(WEIGHTS, float), np.asarray(WATER, float)

    def log_data(t):
        return -np.log(np.sum(w * np.exp(-mu * t)) / w.sum())

    p = np.array([-0.05, 0.0, 0.3, 2.0, 6.0])
    expected = [brentq(lambda t, v=v: log_data(t) - v, -20, 600) for v in p]
    length = ct.equivalent_length(jnp.asarray(p, jnp.float32), WATER, WEIGHTS)
    np.testing.assert_allclose(length, expected, rtol=2e-5, atol=5e-5)
    np.testing.assert_allclose(ct.polyenergetic_integral(length, WATER, WEIGHTS), p, rtol=1e-5, atol=1e-6)


def test_derivatives_of_the_correction():
    with jax.enable_x64(True):
        w, mu, p = (jnp.asarray(v, jnp.float64) for v in (WEIGHTS / WEIGHTS.sum() + 1e-3, WATER, [0.5, 3.0]))
        check_grads(lambda *a: ct.equivalent_length(*a), (p, mu, w), 1, modes=("rev",), rtol=1e-4)


def test_a_spectrum_without_photons_is_refused():
    with pytest.raises(ValueError, match="weights: expected a spectrum with photons"):
        ct.water_correction(np.ones(2), WATER, np.zeros_like(WEIGHTS), 0.02)
    with pytest.raises(ValueError, match="weights: expected values ≥ 0"):
        ct.water_correction(np.ones(2), WATER, -WEIGHTS, 0.02)


def test_polynomial_agrees_with_the_exact_correction():
    p = ct.polyenergetic_integral(jnp.linspace(0, 250.0, 40), WATER, WEIGHTS)
    exact = ct.water_correction(p, WATER, WEIGHTS, 0.02)
    coefficients = ct.water_polynomial(WATER, WEIGHTS, 0.02, 250.0, degree=4)
    np.testing.assert_allclose(ct.linearize(p, coefficients), exact, atol=0.004)
    np.testing.assert_allclose(exact, 0.02 * np.linspace(0, 250.0, 40), rtol=1e-4, atol=1e-4)


def test_material_path_passes_through_its_nodes():
    path = ct.MaterialPath((0.022, 0.05), ((1.1, 0.0), (0.0, 1.0)), (7,))
    x = jnp.array([-0.011, 0.0, 0.011, 0.022, 0.036, 0.05, 0.1])
    expected = [[-0.55, 0], [0, 0], [0.55, 0], [1.1, 0], [0.55, 0.5], [0, 1], [0, 2]]
    np.testing.assert_allclose(path(x), np.transpose(expected), atol=1e-5)


def test_the_log_model_of_one_material_is_its_polyenergetic_integral():
    physics = xray.PolyenergeticTransmission(SPECTRUM.fluence, WATER[None], (6,), xray.energy_integrating(SPECTRUM.energies))
    model = ct.NegativeLog(physics.flat) @ physics
    t = jnp.linspace(0, 200, 6)
    np.testing.assert_allclose(model(t[None]), ct.polyenergetic_integral(t, WATER, WEIGHTS), rtol=1e-5, atol=1e-6)


def test_cupping():
    image = np.full((9, 9), 2.0, np.float32)
    image[4, 4] = 1.8
    centre, rim = np.zeros((2, 9, 9), bool)
    centre[4, 4], rim[0] = True, True
    assert float(ct.cupping(image, centre, rim)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ct.MaterialPath((2.0, 1.0), ((1.0,), (1.0,)), (3,)), "Sort the nodes"),
        (lambda: ct.MaterialPath((1.0, 2.0), ((1.0,),), (3,)), "One row a node"),
        (lambda: ct.NegativeLog(jnp.zeros(3)), "flat"),
        (lambda: ct.water_polynomial(WATER, WEIGHTS, 0.02, 0.0), "longest"),
        (lambda: ct.cupping(jnp.ones((3, 3)), jnp.zeros((3, 3)), jnp.ones((3, 3))), "pixels of centre"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
