"""How exact derivatives in the angles are, in float64, against the exact non-uniform DFT (not differences of the same approximation)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, difference
from diffimg import forward

BOUNDS = {"smooth image": (1e-4, 1e-2), "disc": (5e-3, 3e-2)}


def exact(x: np.ndarray, angles: np.ndarray, count: int, period: int = 8192) -> np.ndarray:
    """Pixel + bin model by direct summation, with a detector period so long that nothing wraps around."""
    n = np.arange(len(x)) - (len(x) - 1) / 2
    rho = np.fft.rfftfreq(period)
    rows = []
    for a in angles:
        u, v = rho * np.cos(a), rho * np.sin(a)
        s = ((np.exp(-2j * np.pi * np.outer(v, n)) @ x) * np.exp(-2j * np.pi * np.outer(u, n))).sum(1)
        s = s * np.sinc(u) * np.sinc(v) * np.sinc(rho) * np.exp(-2j * np.pi * rho * (count - 1) / 2)
        rows.append(np.fft.irfft(s, n=period)[:count])
    return np.array(rows)


def run(quick: bool = False) -> Table:
    """The table; the columns "own" and "peer's" hold relative errors and the bound on them, "note" whether it was missed."""
    title = "Projection and its derivatives in the angle, float64, against the exact non-uniform DFT"
    table = Table("radon_derivatives", title, "own: relative L2 error; missed: it exceeds the bound.")
    for n in (64, 128) if quick else (64, 96, 128, 256, 512):
        add_size(table, n, math.ceil(n * math.sqrt(2)) + 1)
    return table


def add_size(table: Table, n: int, count: int) -> None:
    """The rows of an n² image seen by ``count`` detector cells."""
    angles = np.array([0.3, 0.77, 1.2, 2.2])
    radius = np.hypot(*np.mgrid[-1 : 1 : n * 1j, -1.3 : 0.7 : n * 1j])
    images = {"smooth image": np.exp(-8 * radius**2) * np.cos(20 * radius), "disc": (radius < 0.5) * 1.0}
    with jax.enable_x64(True):
        for name, image in images.items():
            x = jnp.asarray(image)

            def project(t, x=x):
                return forward.Radon(forward.ParallelBeam((n, n), t, count), image_model="pixel")(x)

            t, ones = jnp.asarray(angles), jnp.ones(len(angles))

            def slope(t, project=project, ones=ones):
                return jax.jvp(project, (t,), (ones,))[1]

            small, large = 1e-5, 1e-4
            reference = exact(image, angles, count)
            first = (exact(image, angles + small, count) - exact(image, angles - small, count)) / (2 * small)
            second = (exact(image, angles + large, count) - 2 * reference + exact(image, angles - large, count)) / large**2
            second_own = jax.jvp(slope, (t,), (ones,))[1]
            table.quantity(f"{n}² {name}: projection", "bound", difference(project(t), reference), 5e-4)
            table.quantity(f"{n}² {name}: first derivative", "bound", difference(slope(t), first), BOUNDS[name][0])
            table.quantity(f"{n}² {name}: second derivative", "bound", difference(second_own, second), BOUNDS[name][1])
