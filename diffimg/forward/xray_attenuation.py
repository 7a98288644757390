"""Attenuation of X-rays by matter: tabulated cross sections of the elements, materials, mixtures.

``diffimg/data/attenuation.npz``: photoelectric, incoherent (Compton) and coherent (Rayleigh) cross sections of 44 elements, 5 to 200 keV,
of W. T. Elam, B. D. Ravel, J. R. Sieber, Radiat. Phys. Chem. 63, 121 (2002), public domain; within 0.1 % of NIST's XCOM. Interpolation is
linear in log–log; every K and L edge is in the table twice, just below and just above, so that nothing is interpolated across it.

Units are those of the printed tables, cm²/g and g/cm³; *linear* attenuation is in 1/mm, the project's unit of images.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.xray_photon import floating, positive

PROCESSES = ("total", "photoelectric", "compton", "rayleigh")


@pytree
class Material:
    """What a ray passes: mass fractions of elements, and a density.

    Args:
        symbols: chemical symbols, e.g. ``("H", "O")``.
        fractions: ``[element]``, mass fractions ≥ 0, of any positive sum (traced).
        density: g/cm³, traced.

    Raises:
        ValueError: unknown elements, fractions that are negative, not finite or all zero, a density that is not positive.
    """

    symbols: tuple[str, ...] = static()
    fractions: Any
    density: Any

    def __post_init__(self):
        object.__setattr__(self, "symbols", tuple(self.symbols))
        for s in self.symbols:
            check.one_of("symbols", s, _table().symbols)
        check.shape("fractions", self.fractions, (len(self.symbols),), "[element]")
        check.finite("fractions", self.fractions)
        check.minimum("fractions", self.fractions, 0.0)
        if check.is_concrete(self.fractions):
            check.minimum("fractions", np.sum(np.asarray(self.fractions)), 0.0, strict=True, remedy="At least one must be positive.")
        positive("density", self.density, "In g/cm³.")

    @classmethod
    def from_formula(cls, atoms: Mapping[str, float], density: Any) -> Material:
        """A compound by its numbers of atoms: ``Material.from_formula({"Cs": 1, "I": 1}, 4.51)``."""
        table = _table()
        for s in atoms:
            check.one_of("atoms", s, table.symbols)
        mass = np.array([n * table.mass[table.symbols.index(s)] for s, n in atoms.items()], float)
        return cls(tuple(atoms), mass / mass.sum(), density)

    def __repr__(self):
        parts = " ".join(self.symbols)
        return f"Material({parts}, density={self.density!r} g/cm³)"


def material(name: str | Material) -> Material:
    """A material by name: one of ``MATERIALS``, or a chemical symbol of the table. A ``Material`` is returned as it is.

    Tissues: ICRU Report 44 (1989). Densities: the same; elements: NIST.
    """
    if isinstance(name, Material):
        return name
    if name in _COMPOUNDS:
        parts, density = _COMPOUNDS[name]
        if isinstance(parts, dict):
            return Material.from_formula(parts, density)
        words = parts.split()
        return Material(tuple(words[::2]), np.array(words[1::2], float), density)
    symbol = {long: short for short, (long, _) in _ELEMENTS.items()}.get(name, name)
    if symbol not in _ELEMENTS:
        check.one_of("material", name, MATERIALS, "Or build one: Material(symbols, fractions, density).")
    return Material((symbol,), np.ones(1), _ELEMENTS[symbol][1])


def mixture(parts: Mapping[str, Any] | Sequence[tuple[str | Material, Any]], density: Any = None) -> Material:
    """A mixture by mass: ``mixture({"water": 0.99, "iodine": 0.01})``.

    Args:
        parts: mass fractions by name of material, or pairs (material, mass fraction); any positive sum. Fractions may be traced.
        density: g/cm³; by default that of parts which keep their volumes, Σ w / Σ (w/ρ).
    """
    pairs = [(material(m), w) for m, w in (parts.items() if isinstance(parts, Mapping) else parts)]
    if not pairs:
        check.fail("parts", "at least one material", "none")
    symbols = tuple(dict.fromkeys(s for m, _ in pairs for s in m.symbols))
    total = sum(w for _, w in pairs)
    fractions = [0.0] * len(symbols)
    for m, w in pairs:
        own = _normalised(m.fractions)
        for k, s in enumerate(m.symbols):
            fractions[symbols.index(s)] += own[k] * w / total
    if density is None:
        density = total / sum(w / m.density for m, w in pairs)
    concrete = all(check.is_concrete(f) for f in fractions)
    return Material(symbols, np.array(fractions, float) if concrete else jnp.stack([jnp.asarray(f) for f in fractions]), density)


def mass_attenuation(material_: str | Material, energy: Any, process: str = "total") -> jax.Array:
    """μ/ρ in cm²/g.

    Args:
        material_: a name (see ``MATERIALS``) or a ``Material``.
        energy: keV, 5 to 200, any shape, traced; at an absorption edge itself the value above it.
        process: "total", "photoelectric", "compton" (incoherent) or "rayleigh" (coherent).

    Returns:
        Shape and dtype of ``energy``.

    Raises:
        ValueError: unknown material or process; energies outside the table.
    """
    check.one_of("process", process, PROCESSES)
    m, table, energy = material(material_), _table(), floating("energy", energy)
    if check.is_concrete(energy) and energy.size:
        low, high = float(np.min(np.asarray(energy))), float(np.max(np.asarray(energy)))
        if low < table.energy[0] * (1 - 1e-6) or high > table.energy[-1] * (1 + 1e-6):
            check.fail("energy", f"keV from {table.energy[0]:g} to {table.energy[-1]:g}", f"{low:g} to {high:g}", "Energies are in keV.")
    rows = [table.symbols.index(s) for s in m.symbols]
    parts = PROCESSES[1:] if process == "total" else (process,)
    cross_section = sum(_loglog(energy, table.energy, table.process[p][rows]) for p in parts)
    return _weighted(jnp.asarray(m.fractions, energy.dtype), cross_section)


def linear_attenuation(materials: str | Material | Sequence[str | Material], energy: Any, process: str = "total") -> jax.Array:
    """μ = ρ·(μ/ρ) in 1/mm: shaped like ``energy`` for one material, ``[material, *energy]`` for a sequence of them."""
    if isinstance(materials, (str, Material)):
        m = material(materials)
        mu = mass_attenuation(m, energy, process)
        return mu * jnp.asarray(m.density, mu.dtype) / 10
    if not len(materials):
        check.fail("materials", "at least one", "none")
    return jnp.stack([linear_attenuation(m, energy, process) for m in materials])


def air_energy_absorption(energy: Any) -> jax.Array:
    """Mass energy-absorption coefficient μ_en/ρ of dry air (cm²/g), 5 to 200 keV: what turns fluence into air kerma.

    J. H. Hubbell, S. M. Seltzer, NISTIR 5632 (1995), public domain; log–log between their energies.
    """
    energy = positive("energy", energy)
    return _loglog(energy, _AIR_ENERGY_ABSORPTION[0], _AIR_ENERGY_ABSORPTION[1:])[0]


def _loglog(x, grid, values):
    """``values`` [row, grid] interpolated at x → [row, *x]; the upper of two values at a doubled grid point."""
    log_grid, log_values = (jnp.asarray(np.log(np.asarray(v, float)), x.dtype) for v in (grid, values))
    return _interpolate(x, jnp.asarray(grid, x.dtype), log_grid, log_values)


@jax.jit
def _interpolate(x, grid, log_grid, log_values):
    x = jnp.maximum(x, 1e-3)
    k = jnp.clip(jnp.searchsorted(grid, x, side="right"), 1, grid.shape[0] - 1)
    low, high = log_grid[k - 1], log_grid[k]
    width = high - low
    t = (jnp.log(x) - low) / jnp.where(width > 0, width, 1)
    return jnp.exp(log_values[:, k - 1] * (1 - t) + log_values[:, k] * t)


@jax.jit
def _weighted(fractions, cross_section):
    return jnp.tensordot(fractions / jnp.sum(fractions), cross_section, 1, precision=jax.lax.Precision.HIGHEST)


def _normalised(fractions):
    f = np.asarray(fractions, float) if check.is_concrete(fractions) else fractions
    return f / f.sum()


class _Table(NamedTuple):
    energy: np.ndarray
    symbols: tuple[str, ...]
    mass: np.ndarray
    process: dict[str, np.ndarray]


@functools.lru_cache(maxsize=1)
def _table() -> _Table:
    with (importlib.resources.files("diffimg.data") / "attenuation.npz").open("rb") as file:
        data = dict(np.load(file, allow_pickle=False))
    return _Table(data["energy"], tuple(map(str, data["symbol"])), data["atomic_mass"], {p: data[p] for p in PROCESSES[1:]})


_AIR_ENERGY_ABSORPTION = np.array(
    [
        [5, 6, 8, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200],
        [39.31, 22.70, 9.446, 4.742, 1.334, 0.5389, 0.1537, 0.06833, 0.04098, 0.03041, 0.02407, 0.02325, 0.02496, 0.02672],
    ]
)

# name: (mass fractions or numbers of atoms, g/cm³)
_COMPOUNDS: dict[str, tuple[Any, float]] = {
    "air": ("C 0.000124 N 0.755268 O 0.231781 Ar 0.012827", 1.20479e-3),
    "water": ("H 0.111894 O 0.888106", 1.0),
    "adipose": ("H 0.114 C 0.598 N 0.007 O 0.278 Na 0.001 S 0.001 Cl 0.001", 0.95),
    "soft tissue": ("H 0.102 C 0.143 N 0.034 O 0.708 Na 0.002 P 0.003 S 0.003 Cl 0.002 K 0.003", 1.06),
    "muscle": ("H 0.102 C 0.143 N 0.034 O 0.710 Na 0.001 P 0.002 S 0.003 Cl 0.001 K 0.004", 1.05),
    "bone": ("H 0.034 C 0.155 N 0.042 O 0.435 Na 0.001 Mg 0.002 P 0.103 S 0.003 Ca 0.225", 1.92),
    "blood": ("H 0.102 C 0.110 N 0.033 O 0.745 Na 0.001 P 0.001 S 0.002 Cl 0.003 K 0.002 Fe 0.001", 1.06),
    "brain": ("H 0.107 C 0.145 N 0.022 O 0.712 Na 0.002 P 0.004 S 0.002 Cl 0.003 K 0.003", 1.04),
    "lung": ("H 0.103 C 0.105 N 0.031 O 0.749 Na 0.002 P 0.002 S 0.003 Cl 0.003 K 0.002", 0.26),
    "breast": ("H 0.106 C 0.332 N 0.030 O 0.527 Na 0.001 P 0.001 S 0.002 Cl 0.001", 1.02),
    "hydroxyapatite": ({"Ca": 5, "P": 3, "O": 13, "H": 1}, 3.16),
    "pmma": ("H 0.080538 C 0.599848 O 0.319614", 1.19),
    "caesium iodide": ({"Cs": 1, "I": 1}, 4.51),
    "cadmium telluride": ({"Cd": 1, "Te": 1}, 5.85),
    "gadolinium oxysulfide": ({"Gd": 2, "O": 2, "S": 1}, 7.32),
}

_COMPOUNDS["fat"] = _COMPOUNDS["adipose"]

# symbol: (name, g/cm³ of the pure element; gases at 20 °C)
_ELEMENTS: dict[str, tuple[str, float]] = {
    "Be": ("beryllium", 1.848),
    "C": ("carbon", 1.70),
    "Al": ("aluminium", 2.699),
    "Si": ("silicon", 2.33),
    "Ar": ("argon", 1.662e-3),
    "Ca": ("calcium", 1.55),
    "Ti": ("titanium", 4.54),
    "Cr": ("chromium", 7.18),
    "Mn": ("manganese", 7.44),
    "Fe": ("iron", 7.874),
    "Co": ("cobalt", 8.90),
    "Ni": ("nickel", 8.902),
    "Cu": ("copper", 8.96),
    "Zn": ("zinc", 7.133),
    "Mo": ("molybdenum", 10.22),
    "Rh": ("rhodium", 12.41),
    "Ag": ("silver", 10.50),
    "Cd": ("cadmium", 8.65),
    "Sn": ("tin", 7.31),
    "Te": ("tellurium", 6.24),
    "I": ("iodine", 4.93),
    "Cs": ("caesium", 1.873),
    "Ba": ("barium", 3.50),
    "La": ("lanthanum", 6.154),
    "Gd": ("gadolinium", 7.90),
    "Yb": ("ytterbium", 6.73),
    "Lu": ("lutetium", 9.84),
    "Ta": ("tantalum", 16.65),
    "W": ("tungsten", 19.30),
    "Pt": ("platinum", 21.45),
    "Au": ("gold", 19.32),
    "Pb": ("lead", 11.35),
    "Bi": ("bismuth", 9.747),
}
MATERIALS = (*_COMPOUNDS, *(name for name, _ in _ELEMENTS.values()))
