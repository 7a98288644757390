"""Photons and cross sections against NIST's XCOM, xraydb, SpekPy's NIST table and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from diffimg.forward import xray
from diffimg.forward.xray_photon import ELECTRON_RADIUS, ELECTRON_REST_ENERGY, THOMSON

# NIST XCOM / NISTIR 5632, cm²/g
XCOM = [
    ("water", 60.0, 0.2059),
    ("water", 100.0, 0.1707),
    ("water", 20.0, 0.8096),
    ("aluminium", 60.0, 0.2778),
    ("bone", 60.0, 0.3148),
    ("lead", 100.0, 5.549),
    ("iodine", 33.17, 35.8),
    ("copper", 60.0, 1.593),
    ("tungsten", 100.0, 4.438),
    ("adipose", 60.0, 0.1974),
    ("soft tissue", 60.0, 0.2048),
    ("air", 60.0, 0.1875),
]


@pytest.mark.parametrize(("name", "energy", "expected"), XCOM)
def test_published_values(name, energy, expected):
    np.testing.assert_allclose(xray.mass_attenuation(name, energy), expected, rtol=2e-3)


def test_the_shipped_table_follows_its_recipe():
    pytest.importorskip("xraydb")
    from tests.data.attenuation_table import FILE, table

    shipped, made = np.load(FILE), table()
    for key, value in made.items():
        if value.dtype.kind == "U":
            assert list(shipped[key]) == list(value)
        else:
            np.testing.assert_allclose(shipped[key], value, rtol=1e-5)


def test_interpolation_between_table_entries_and_processes():
    xraydb = pytest.importorskip("xraydb")
    energy = np.exp(np.random.default_rng(0).uniform(np.log(5.0), np.log(200.0), 60))
    kinds = {"photoelectric": "photo", "compton": "incoh", "rayleigh": "coh", "total": "total"}
    for name, symbol in (("calcium", "Ca"), ("iodine", "I"), ("tungsten", "W"), ("lead", "Pb"), ("gadolinium", "Gd")):
        for process, kind in kinds.items():
            np.testing.assert_allclose(
                xray.mass_attenuation(name, energy, process), xraydb.mu_elam(symbol, energy * 1000, kind=kind), rtol=3e-3
            )
    np.testing.assert_allclose(
        sum(xray.mass_attenuation("bone", energy, p) for p in list(kinds)[:3]), xray.mass_attenuation("bone", energy), rtol=1e-5
    )


def test_nist_table_of_another_package():
    """SpekPy ships NIST's table; compared at its own energies, it interpolates coarsely between them."""
    spekpy = pytest.importorskip("spekpy")
    theirs = spekpy.Spek(kvp=150, dk=1.0, mu_data_source="nist").mu_data
    energy = np.array([20.0, 40.0, 60.0, 80.0, 100.0, 150.0])
    for symbol, number in (("Al", 13), ("Cu", 29), ("Ti", 22), ("Sn", 50), ("C", 6), ("Pb", 82)):
        np.testing.assert_allclose(xray.mass_attenuation(symbol, energy), theirs.get_mu_over_rho(number, energy), rtol=3e-3)


def test_edges_are_two_sided():
    edge = 33.17
    below, above = xray.mass_attenuation("I", np.array([edge - 0.01, edge + 0.01]))
    assert above > 5 * below
    slope = jax.vmap(jax.grad(lambda e: xray.mass_attenuation("I", e)))(jnp.array([33.1, 33.2]))
    assert bool(jnp.all(slope < 0))  # nothing is interpolated across the edge


def test_mixtures_densities_and_units():
    np.testing.assert_allclose(xray.linear_attenuation("water", 60.0), 0.02059, rtol=1e-3)  # 1/mm
    both = xray.mass_attenuation(xray.mixture({"water": 0.9, "iodine": 0.1}), 40.0)
    np.testing.assert_allclose(both, 0.9 * xray.mass_attenuation("water", 40.0) + 0.1 * xray.mass_attenuation("iodine", 40.0), rtol=1e-5)
    assert xray.mixture({"water": 1.0, "adipose": 1.0}).density == pytest.approx(2 / (1 + 1 / 0.95))
    water = xray.Material.from_formula({"H": 2, "O": 1}, 1.0)
    np.testing.assert_allclose(xray.mass_attenuation(water, 50.0), xray.mass_attenuation("water", 50.0), rtol=1e-4)
    assert xray.linear_attenuation(("water", "bone"), np.linspace(20, 80, 5)).shape == (2, 5)
    for name in xray.MATERIALS:
        assert xray.mass_attenuation(name, 60.0) > 0.1

    def iodine(fraction):  # contrast agent, traced
        return xray.linear_attenuation(xray.mixture({"water": 1 - fraction, "iodine": fraction}, density=1.0), 40.0)

    slope = jax.grad(iodine)(0.01)
    np.testing.assert_allclose(slope, (xray.mass_attenuation("iodine", 40.0) - xray.mass_attenuation("water", 40.0)) / 10, rtol=1e-4)


def test_air_kerma_coefficients():
    np.testing.assert_allclose(xray.air_energy_absorption(np.array([10.0, 60.0, 100.0])), [4.742, 0.03041, 0.02325], rtol=1e-5)


def test_dtype_follows_the_energy(x64):
    assert xray.mass_attenuation("water", jnp.ones(3, jnp.float32) * 50).dtype == jnp.float32
    assert xray.mass_attenuation("water", jnp.ones(3) * 50).dtype == jnp.float64


def test_wavelength_and_photoelectron():
    np.testing.assert_allclose(xray.photon_wavelength(12.398419843), 1.0, rtol=1e-6)
    np.testing.assert_allclose(xray.photon_energy(xray.photon_wavelength(60.0)), 60.0, rtol=1e-6)
    np.testing.assert_allclose(xray.photoelectron_energy(60.0, 33.17), 26.83, rtol=1e-5)
    with pytest.raises(ValueError, match="binding"):
        xray.photoelectron_energy(30.0, 33.17)


def test_compton_and_klein_nishina(x64):
    # backscatter: E' = E / (1 + 2E/mc²); conservation of momentum decides the rest
    np.testing.assert_allclose(xray.compton_energy(100.0, np.pi), 100 / (1 + 200 / ELECTRON_REST_ENERGY), rtol=1e-12)
    angle = 1.1
    after = float(xray.compton_energy(100.0, angle))
    electron = 100.0 - after  # kinetic energy
    momentum2 = 100.0**2 + after**2 - 2 * 100 * after * np.cos(angle)
    np.testing.assert_allclose((electron + ELECTRON_REST_ENERGY) ** 2, momentum2 + ELECTRON_REST_ENERGY**2, rtol=1e-12)

    energies = np.array([5.0, 60.0, 140.0, 511.0])
    closed = [klein_nishina_closed_form(e / ELECTRON_REST_ENERGY) for e in energies]
    np.testing.assert_allclose(xray.klein_nishina_total(energies), closed, rtol=1e-9)
    by_quad = integrate.quad(lambda a: 2 * np.pi * np.sin(a) * float(xray.klein_nishina(60.0, a)), 0, np.pi)[0]
    np.testing.assert_allclose(xray.klein_nishina_total(60.0), by_quad, rtol=1e-8)
    np.testing.assert_allclose(xray.klein_nishina_total(1e-3), THOMSON, rtol=1e-5)
    np.testing.assert_allclose(THOMSON, 6.6524587e-25, rtol=1e-7)


def test_klein_nishina_total_in_single_precision():
    np.testing.assert_allclose(xray.klein_nishina_total(5.0), klein_nishina_closed_form(5 / ELECTRON_REST_ENERGY), rtol=1e-6)


def klein_nishina_closed_form(k):
    """E.g. F. H. Attix, Introduction to Radiological Physics, eq. 7.15."""
    first = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - np.log(1 + 2 * k) / k)
    return 2 * np.pi * ELECTRON_RADIUS**2 * (first + np.log(1 + 2 * k) / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2)


def test_incoherent_cross_section_tends_to_free_electrons():
    """Water, 3.343e23 electrons per gram: binding reduces Compton scattering by a few per cent at 100 keV."""
    bound = xray.mass_attenuation("water", 150.0, "compton")
    free = 3.3428e23 * xray.klein_nishina_total(150.0)
    assert 0.97 < bound / free < 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: xray.mass_attenuation("watr", 60.0), "Did you mean|water"),
        (lambda: xray.mass_attenuation("water", 60.0, "pair"), "photoelectric"),
        (lambda: xray.mass_attenuation("water", 60000.0), "keV"),
        (lambda: xray.Material(("H", "Xx"), np.ones(2), 1.0), "symbols"),
        (lambda: xray.Material(("H",), np.zeros(1), 1.0), "positive"),
        (lambda: xray.Material(("H",), np.ones(1), 0.0), "density"),
        (lambda: xray.mixture({}), "at least one"),
        (lambda: xray.photon_wavelength(0.0), "energy"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
