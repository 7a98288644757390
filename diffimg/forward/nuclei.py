"""Nuclei in a field: gyromagnetic ratios, Larmor frequency, equilibrium magnetization."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from diffimg.core import check

HBAR = 1.054571817e-34  # J s
BOLTZMANN = 1.380649e-23  # J/K


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """A nucleus seen by magnetic resonance: γ in rad/s/T (with its sign), spin quantum number, natural abundance."""

    name: str
    gamma: float
    spin: float
    abundance: float

    @property
    def gamma_bar(self) -> float:
        """γ/2π in Hz/T."""
        return self.gamma / (2 * math.pi)


# ¹H and ³He: CODATA 2018 (proton and helion gyromagnetic ratio); ²³Na and ³¹P from γ/2π = 11.262 and 17.235 MHz/T; abundances: IUPAC.
NUCLEI = {
    "1H": Nucleus("1H", 2.6752218744e8, 0.5, 0.99985),
    "3He": Nucleus("3He", -2.03789457e8, 0.5, 1.37e-6),
    "23Na": Nucleus("23Na", 2 * math.pi * 11.262e6, 1.5, 1.0),
    "31P": Nucleus("31P", 2 * math.pi * 17.235e6, 0.5, 1.0),
}
GAMMA = NUCLEI["1H"].gamma


def named(nucleus: str | Nucleus) -> Nucleus:
    """A nucleus by its name: "1H", "3He", "23Na" or "31P"; another one as a ``Nucleus``, which is returned."""
    if isinstance(nucleus, Nucleus):
        return nucleus
    check.one_of("nucleus", nucleus, NUCLEI, remedy="Or pass a Nucleus of your own.")
    return NUCLEI[nucleus]


def larmor_frequency(b0: Any, nucleus: str | Nucleus = "1H") -> Any:
    """ω₀ = γ B₀ in rad/s for a field in T; negative where γ is: those spins turn the other way."""
    return named(nucleus).gamma * b0


def bulk_magnetization(density: Any, b0: Any, temperature: Any = 310.0, nucleus: str | Nucleus = "1H") -> Any:
    """M₀ = ρ γ² ħ² I(I + 1) B₀/(3 k T), in A/m: what the thermal surplus of aligned spins adds up to.

    Args:
        density: ρ, nuclei per m³ (water protons: 6.7e28). b0: T. temperature: K. nucleus: its name.

    Raises:
        ValueError: a temperature that is not positive.

    P. Curie's law; A. Abragam, The Principles of Nuclear Magnetism, Oxford 1961. It is the limit γħB₀ ≪ kT, to 1e-11 at 3 T and 310 K.
    """
    check.minimum("temperature", temperature, 0.0, strict=True, remedy="Give it in kelvin.")
    n = named(nucleus)
    return density * (n.gamma * HBAR * math.sqrt(n.spin * (n.spin + 1))) ** 2 * b0 / (3 * BOLTZMANN * temperature)


def polarization(b0: Any, temperature: Any = 310.0, nucleus: str | Nucleus = "1H") -> Any:
    """Mean of m/I over the Boltzmann populations of the levels m = −I … I, with energies −mγħB₀: a few in a million.

    Args:
        b0: T. temperature: K. nucleus: its name.

    Raises:
        ValueError: a temperature that is not positive.
    """
    check.minimum("temperature", temperature, 0.0, strict=True, remedy="Give it in kelvin.")
    n = named(nucleus)
    levels = jnp.arange(-n.spin, n.spin + 0.5)
    exponent = jnp.asarray(n.gamma * HBAR / BOLTZMANN * b0 / temperature)[..., None] * levels
    weights = 1 + jnp.expm1(exponent)
    return jnp.sum(levels * jnp.expm1(exponent), -1) / jnp.sum(weights, -1) / n.spin
