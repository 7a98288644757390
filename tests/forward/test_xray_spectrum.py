"""Tube spectra against SpekPy (Monte Carlo based), half-value layers, filters, dose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from diffimg.forward import xray

ENERGIES = np.arange(5.5, 140.0)


@pytest.mark.parametrize("kvp", [80.0, 120.0, 140.0])
def test_tube_spectrum_against_spekpy(kvp):
    spekpy = pytest.importorskip("spekpy")
    theirs = spekpy.Spek(kvp=kvp, th=12, dk=0.5).filter("Al", 2.5)
    own = xray.tube_spectrum(kvp, ENERGIES)
    np.testing.assert_allclose(own.mean_energy, theirs.get_emean(), rtol=0.03)
    np.testing.assert_allclose(own.half_value_layer(), theirs.get_hvl1(), rtol=0.065)
    np.testing.assert_allclose(own.total * 100, theirs.get_flu(), rtol=0.04)  # per cm² and mAs at 1 m
    np.testing.assert_allclose(own.air_kerma * 1e6, theirs.get_kerma(), rtol=0.04)  # µGy


def test_heavy_filtration_and_steep_anode_against_spekpy():
    spekpy = pytest.importorskip("spekpy")
    theirs = spekpy.Spek(kvp=120, th=8, dk=0.5).multi_filter((("Al", 6.0), ("Cu", 0.2)))
    own = xray.tube_spectrum(120.0, ENERGIES, anode_angle=np.deg2rad(8), filtration={"aluminium": 6.0, "copper": 0.2})
    np.testing.assert_allclose(own.mean_energy, theirs.get_emean(), rtol=0.02)
    np.testing.assert_allclose(own.half_value_layer("copper"), theirs.get_hvl1(matl="Cu"), rtol=0.04)


def test_characteristic_lines_only_above_the_edge():
    at_peak = int(np.argmin(abs(ENERGIES - 59.5)))

    def peak(kvp):
        s = xray.tube_spectrum(kvp, ENERGIES).fluence
        return s[at_peak] / (0.5 * (s[at_peak - 5] + s[at_peak + 5]))

    assert 0.9 < peak(69.0) < 1.2
    assert peak(100.0) > 1.5
    coarse = xray.tube_spectrum(100.0, np.arange(5.0, 140.0, 2.0))
    np.testing.assert_allclose(coarse.total, xray.tube_spectrum(100.0, ENERGIES).total, rtol=5e-3)


def test_derivatives_of_the_tube():
    @jax.jit
    def layer(kvp, angle, aluminium):
        return xray.tube_spectrum(kvp, jnp.asarray(ENERGIES), angle, {"aluminium": aluminium}).half_value_layer()

    at = (100.3, 0.2, 2.5)
    slope = jax.jit(jax.grad(layer, (0, 1, 2)))(*at)
    for k, h in enumerate((0.5, 5e-3, 0.05)):
        high, low = (layer(*(v + s * h * (i == k) for i, v in enumerate(at))) for s in (1, -1))
        np.testing.assert_allclose(slope[k], (high - low) / (2 * h), rtol=1e-2)


def test_half_value_layer_by_root_finding():
    s = xray.tube_spectrum(90.0, ENERGIES)
    kerma = np.asarray(s.fluence * s.energies * xray.air_energy_absorption(s.energies), float)
    mu = np.asarray(xray.linear_attenuation("copper", s.energies), float)
    expected = brentq(lambda t: np.sum(kerma * np.exp(-mu * t)) / np.sum(kerma) - 0.1, 0, 50)
    np.testing.assert_allclose(s.half_value_layer("copper", 0.1), expected, rtol=1e-5)
    mono = xray.Spectrum([60.0], [3.0])
    np.testing.assert_allclose(mono.half_value_layer(), np.log(2) / xray.linear_attenuation("aluminium", 60.0), rtol=1e-5)


def test_filters_and_dose():
    s = xray.tube_spectrum(100.0, ENERGIES)
    twice = s.filtered({"copper": 0.1}).filtered({"copper": 0.2})
    np.testing.assert_allclose(twice.fluence, s.filtered({"copper": 0.3}).fluence, rtol=1e-4)
    assert twice.mean_energy > s.mean_energy  # harder
    np.testing.assert_allclose(s.scaled(1e5).total, 1e5, rtol=1e-5)
    np.testing.assert_allclose(s.at_air_kerma(1e-4).air_kerma, 1e-4, rtol=1e-5)
    coarse = s.coarsened(4)
    np.testing.assert_allclose([coarse.total, coarse.mean_energy], [s.total, s.mean_energy], rtol=1e-5)
    cell = xray.photons_per_cell(s, mas=2.0, distance=500.0, cell_area=0.25)
    np.testing.assert_allclose(cell.total, s.total * 2 * 0.25 * 4, rtol=1e-5)
    # 60 keV photons: 1e6/mm² give 1e8/cm² · 60 keV · 0.03041 cm²/g = 29.2 µGy
    np.testing.assert_allclose(xray.Spectrum([60.0], [1e6]).air_kerma, 1e8 * 60 * 0.03041 * 1.602177e-13, rtol=1e-5)


def test_tube_yield_is_about_one_per_cent():
    np.testing.assert_allclose(xray.tube_efficiency(120.0), 0.0098, rtol=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: xray.Spectrum([20.0, 30.0], [0.0, 0.0]), "sum of fluence"),
        (lambda: xray.Spectrum([20.0, 30.0], [1.0, -1.0]), "fluence"),
        (lambda: xray.Spectrum([20.0, 30.0], [1.0, np.nan]), "finite"),
        (lambda: xray.Spectrum([30.0, 20.0], [1.0, 1.0]), "energies"),
        (lambda: xray.Spectrum([30.0, 40.0], [1.0]), "fluence"),
        (lambda: xray.tube_spectrum(10.0), "20 to 200"),
        (lambda: xray.tube_spectrum(100.0, anode_angle=12.0), "radians"),
        (lambda: xray.tube_spectrum(100.0, filtration={"aluminium": -1.0}), "thickness of aluminium"),
        (lambda: xray.tube_spectrum(100.0, np.array([120.0, 130.0])), "sum of fluence"),
        (lambda: jax.jit(lambda k: xray.tube_spectrum(k).total)(100.0), "energies"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
