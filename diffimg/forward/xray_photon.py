"""Single photons: energy and wavelength, photoelectric absorption, Compton scattering with the Klein–Nishina cross section."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check

# CODATA 2018
HC = 12.398419843  # h·c, keV·Å
ELECTRON_REST_ENERGY = 510.99895  # m_e·c², keV
ELECTRON_RADIUS = 2.8179403262e-13  # cm
THOMSON = 8 * np.pi / 3 * ELECTRON_RADIUS**2  # total cross section of a free electron at low energy, cm²


def photon_wavelength(energy: Any) -> jax.Array:
    """λ = hc/E: wavelength in Å of photons of ``energy`` keV (12.398 keV·Å)."""
    return HC / positive("energy", energy)


def photon_energy(wavelength: Any) -> jax.Array:
    """E = hc/λ: energy in keV of photons of ``wavelength`` Å."""
    return HC / positive("wavelength", wavelength)


def photoelectron_energy(energy: Any, binding_energy: Any) -> jax.Array:
    """hν − E_B (keV): kinetic energy of the electron that leaves a shell of ``binding_energy`` which absorbs a photon of ``energy``.

    Raises:
        ValueError: the photon has less energy than the shell binds: it cannot be absorbed there.
    """
    energy, binding = positive("energy", energy), floating("binding_energy", binding_energy)
    if check.is_concrete(energy) and check.is_concrete(binding) and bool(np.any(np.asarray(energy) < np.asarray(binding))):
        check.fail(
            "energy", "at least the binding energy", f"{energy} < {binding} keV", "A photon below the edge is absorbed by an outer shell."
        )
    return energy - binding


def compton_energy(energy: Any, angle: Any) -> jax.Array:
    """hν' = hν / (1 + (hν/m_ec²)(1 − cos θ)): energy (keV) of a photon scattered by ``angle`` (radians) off a free electron.

    The electron takes ``energy − compton_energy(energy, angle)``.
    """
    energy = positive("energy", energy)
    # 1 − cos θ, without cancellation at small angles
    return energy / (1 + energy / ELECTRON_REST_ENERGY * 2 * jnp.square(jnp.sin(floating("angle", angle) / 2)))


def klein_nishina(energy: Any, angle: Any) -> jax.Array:
    """dσ/dΩ = ½ r_e² P² (P + 1/P − sin² θ), P = hν'/hν: differential cross section (cm²/sr) of a free electron.

    O. Klein, Y. Nishina, Z. Phys. 52, 853 (1929). ``energy`` in keV, ``angle`` in radians.
    """
    ratio = compton_energy(energy, angle) / energy
    shape = 0.5 * ratio**2 * (ratio + 1 / ratio - jnp.square(jnp.sin(angle)))
    return shape * ELECTRON_RADIUS**2


def klein_nishina_total(energy: Any) -> jax.Array:
    """σ = ∫ dσ/dΩ dΩ (cm² per electron); tends to Thomson's 6.652e-25 cm² for low energies.

    By Gauss–Legendre quadrature in cos θ: the closed form cancels in float32 below some 20 keV.
    """
    energy = positive("energy", energy)
    nodes, weights = np.polynomial.legendre.leggauss(32)
    angle = jnp.asarray(np.arccos(nodes), energy.dtype)
    return 2 * np.pi * (klein_nishina(energy[..., None], angle) @ jnp.asarray(weights, energy.dtype))


def floating(argument: str, value: Any) -> jax.Array:
    """A real, finite array in its own precision; Python numbers and integers in the default one."""
    value = check.array(argument, value)
    check.real(argument, value)
    check.finite(argument, value)
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def positive(argument: str, value: Any, remedy: str = "") -> jax.Array:
    """``floating``, and greater than zero where that can be seen."""
    value = floating(argument, value)
    check.minimum(argument, value, 0.0, strict=True, remedy=remedy)
    return value
