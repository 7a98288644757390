"""The recipe of ``diffimg/data/attenuation.npz``: ``python -m tests.data.attenuation_table`` writes it anew (needs xraydb).

Values: W. T. Elam, B. D. Ravel, J. R. Sieber, Radiat. Phys. Chem. 63, 121 (2002), public domain, as distributed by xraydb: partial cross
sections of the elements, within 0.1 % of NIST's XCOM between 5 and 200 keV.
"""

from __future__ import annotations

import pathlib

import numpy as np

# fmt: off
SYMBOLS = (
    "H", "Be", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca", "Ti", "Cr", "Mn", "Fe", "Co", "Ni",
    "Cu", "Zn", "Br", "Mo", "Rh", "Ag", "Cd", "Sn", "Te", "I", "Cs", "Ba", "La", "Gd", "Yb", "Lu", "Ta", "W", "Pt", "Au", "Pb", "Bi",
)
# fmt: on
LOW, HIGH, POINTS = 5.0, 200.0, 112
FILE = pathlib.Path(__file__).parents[2] / "diffimg" / "data" / "attenuation.npz"


def _jump(symbol: str, edge: float) -> float:
    """Where (keV) the tabulated cross section jumps near an edge (eV): up to 5 eV from the edge's own entry; 0 if it does not."""
    import xraydb

    energy = np.arange(edge - 20, edge + 20, 0.1)
    step = np.diff(np.log(xraydb.mu_elam(symbol, energy, kind="photo")))
    return (energy[step.argmax()] + 0.05) / 1000 if step.max() > 0.02 else 0.0


def table() -> dict[str, np.ndarray]:
    """Energies (keV; every absorption edge twice: just below, just above) and cross sections (cm²/g) of the elements."""
    import xraydb

    jumps = [_jump(s, e.energy) for s in SYMBOLS for e in xraydb.xray_edges(s).values() if 1000 * LOW < e.energy < 1000 * HIGH]
    edges = np.unique(np.round([e for e in jumps if e], 4))
    smooth = np.geomspace(LOW, HIGH, POINTS)
    near = np.min(np.abs(smooth[:, None] - edges), axis=1) < 0.02
    near[[0, -1]] = False
    smooth = smooth[~near]
    energy = np.concatenate([smooth, edges, edges])
    at = np.concatenate([smooth, edges - 1e-4, edges + 1e-4])
    order = np.argsort(at)
    energy, at = energy[order], at[order]
    at[[0, -1]] = LOW, HIGH

    def cross_sections(kind):
        return np.array([xraydb.mu_elam(s, at * 1000, kind=kind) for s in SYMBOLS], np.float32)

    return {
        "energy": energy.astype(np.float32),
        "symbol": np.array(SYMBOLS),
        "atomic_number": np.array([xraydb.atomic_number(s) for s in SYMBOLS], np.int32),
        "atomic_mass": np.array([xraydb.atomic_mass(s) for s in SYMBOLS], np.float32),
        "photoelectric": cross_sections("photo"),
        "compton": cross_sections("incoh"),
        "rayleigh": cross_sections("coh"),
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **table())
