"""How exact the projections are, against analytic sinograms; ASTRA's models beside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, difference
from benchmarks.peers import Astra
from diffimg import data, forward

MODELS = (("band-limited", "point"), ("band-limited", "bin"), ("pixel", "bin"))


def run(quick: bool = False) -> Table:
    """Relative L2 errors; the columns "own" and "peer's" hold errors, not seconds."""
    n, views, count = (128, 90, 185) if quick else (256, 180, 365)
    title = f"Error against the analytic bin-averaged sinogram, {n}², {views} views"
    table = Table("radon_accuracy", title, "own, peer's: relative L2 error.")
    random_angles = np.sort(np.random.default_rng(0).uniform(0, np.pi, views))
    cases = {
        "Shepp–Logan, uniform views": (data.shepp_logan(n / 2), np.linspace(0, np.pi, views, endpoint=False)),
        "random ellipses, random views": (data.random_ellipses(jax.random.key(0), 12, radius=0.45 * n), random_angles),
    }
    for name, (phantom, angles) in cases.items():
        geometry = forward.ParallelBeam((n, n), angles, count)
        x = phantom.rasterize((n, n)).astype(jnp.float32)
        exact = phantom.project(jnp.asarray(angles), jnp.asarray(geometry.detector_positions), 1.0)
        peers = {m: difference(Astra(geometry, m).forward(np.asarray(x)), exact) for m in ("line", "linear", "strip")}
        best = min(peers, key=peers.__getitem__)
        own = {}
        for image, detector in MODELS:
            operator = forward.Radon(geometry, image_model=image, detector_model=detector)
            own[f"{image} + {detector}"] = difference(operator(x), exact)
        own["joseph"] = difference(forward.Radon(geometry, method="joseph")(x), exact)
        for model, error in own.items():
            note = ", ".join(f"{m} {v:.4f}" for m, v in peers.items())
            table.quantity(f"{name}: {model}", f"ASTRA {best} (its best)", error, peers[best], note)
    return table
