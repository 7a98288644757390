"""Phantoms made of materials, for simulations with many photon energies."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.phantoms import Ellipses

# Density of elemental iodine, g/cm³: J. H. Hubbell, S. M. Seltzer, NIST Standard Reference Database 126, table 1.
_IODINE_DENSITY = 4.930

# What lies where: material, what it displaces, centre x and y, semi-axes along x and y, rotation in degrees; y points down, lengths
# are fractions of the radius. "metal" is replaced by the metal asked for, "contrast" is iodine in water, "void" is air.
_LAYOUTS = {
    "cylinder": (
        ("water", "void", 0.0, 0.0, 1.0, 1.0, 0.0),
        ("bone", "water", 0.55, 0.0, 0.15, 0.15, 0.0),
        ("bone", "water", -0.55, 0.0, 0.15, 0.15, 0.0),
        ("contrast", "water", 0.0, 0.55, 0.12, 0.12, 0.0),
        ("metal", "water", 0.0, -0.55, 0.05, 0.05, 0.0),
    ),
    "head": (
        ("water", "void", 0.0, 0.0, 0.78, 1.0, 0.0),
        ("bone", "water", 0.0, 0.0, 0.73, 0.95, 0.0),
        ("water", "bone", 0.0, 0.0, 0.66, 0.88, 0.0),
        ("bone", "water", 0.0, 0.62, 0.22, 0.07, 0.0),
        ("bone", "water", 0.36, 0.34, 0.16, 0.06, 35.0),
        ("bone", "water", -0.36, 0.34, 0.16, 0.06, -35.0),
        ("contrast", "water", 0.0, -0.1, 0.06, 0.06, 0.0),
        ("contrast", "water", -0.25, -0.35, 0.04, 0.04, 0.0),
        ("metal", "water", 0.3, -0.2, 0.03, 0.03, 0.0),
    ),
    "thorax": (
        ("water", "void", 0.0, 0.0, 1.0, 0.68, 0.0),
        ("void", "water", 0.48, -0.02, 0.34, 0.48, 8.0),
        ("void", "water", -0.48, -0.02, 0.34, 0.48, -8.0),
        ("bone", "water", 0.0, 0.45, 0.13, 0.11, 0.0),
        ("bone", "water", 0.0, -0.6, 0.1, 0.035, 0.0),
        ("contrast", "water", -0.02, -0.15, 0.11, 0.13, 20.0),
        ("contrast", "water", 0.06, 0.22, 0.05, 0.05, 0.0),
        ("metal", "bone", 0.05, 0.45, 0.025, 0.025, 0.0),
    ),
}


def material_phantom(
    layout: str = "cylinder", radius: float = 100.0, iodine: float = 10.0, metal: str = "titanium", dtype: Any = jnp.float32
) -> dict[str, Ellipses]:
    """An object of water with inserts of bone, dilute iodine and metal: for every material a map of volume fractions.

    The fractions add up to one inside the body and to zero in air, for an insert displaces what it lies in. The attenuation at an
    energy is Σ fraction·μ(material, energy), with μ in 1/mm at the pure material's nominal density; the projection of a map is the
    length of the material along the ray, in mm. Soft tissue is taken as water.

    Args:
        layout: ``"cylinder"`` (a disc with two bone rods: dark bands between them), ``"head"`` (a skull), ``"thorax"`` (lungs are
            void, a spine with a metal screw).
        radius: half of the largest width or height of the body, mm.
        iodine: concentration in the vessels, mg/ml; elemental iodine has 4.93 g/cm³.
        metal: the name under which the metal insert is returned.

    Returns:
        ``{"water": …, "bone": …, "iodine": …, metal: …}``.

    Raises:
        ValueError: an unknown layout, a radius that is not positive, iodine beyond that of the pure element.
    """
    check.one_of("layout", layout, _LAYOUTS)
    check.minimum("radius", radius, 0.0, strict=True)
    if not 0 <= iodine <= 1000 * _IODINE_DENSITY:
        check.fail("iodine", f"0 … {1000 * _IODINE_DENSITY:g} mg/ml", repr(iodine), "Vessels hold about 2 to 20 mg/ml.")
    if metal in ("water", "bone", "iodine", "void"):
        check.fail("metal", "a material of its own", repr(metal), "Take e.g. 'titanium' or 'iron'.")
    share = iodine / (1000 * _IODINE_DENSITY)
    rows: dict[str, list] = {"water": [], "bone": [], "iodine": [], metal: []}
    for material, host, *ellipse in _LAYOUTS[layout]:
        name = {"metal": metal, "contrast": "iodine"}.get(material, material)
        fraction = share if material == "contrast" else 1.0
        for kind, sign in ((name, 1), (host, -1)):
            if kind != "void":
                rows[kind].append((*ellipse, sign * fraction))
    return {name: _ellipses(np.asarray(table), radius, dtype) for name, table in rows.items()}


def _ellipses(table, radius, dtype):
    x, y, a, b, degrees, density = table.T
    return Ellipses(
        jnp.asarray(radius * np.stack([y, x], -1), dtype),
        jnp.asarray(radius * np.stack([b, a], -1), dtype),
        jnp.asarray(degrees * (math.pi / 180), dtype),
        jnp.asarray(density, dtype),
    )
