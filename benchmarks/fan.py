"""Fan-beam projection at 512², 720 views, float32, against ASTRA (CPU)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, compiled, difference
from benchmarks.peers import Astra
from diffimg import data, forward

NOTES = (
    "The poses are an argument of the compiled program: nothing is computed before. agreement: relative difference of own and peer's "
    "result. accuracy: relative L2 error against the analytic sinogram. ASTRA has no curved detector: its flat one stands beside ours."
)


def scan(n: int, views: int, curved: bool = False) -> forward.FanBeam:
    """A detector that sees the whole image at a magnification of 1.5; a cell at the centre is a pixel wide."""
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    return forward.FanBeam((n, n), angles, n * 198 // 128, 2.0 * n, 1.0 * n, 1.0, 1.5, curved=curved)


def run(quick: bool = False) -> Table:
    """The table."""
    n, views = (128, 90) if quick else (512, 720)
    table = Table("fan", f"Fan beam, {n}², {views} views, {scan(n, views).detector_count} cells, float32", NOTES)
    phantom = data.shepp_logan(n / 2)
    x = phantom.rasterize((n, n)).astype(jnp.float32)
    flipped = np.array(x)[::-1].copy()
    astra = Astra(scan(n, views), "line")
    for name, curved in (("fan", False), ("fan, curved,", True)):
        geometry = scan(n, views, curved)
        operator = forward.Radon(geometry)
        program, seconds, memory = compiled(lambda a, v: a(v), operator, x)
        y = program(operator, x)
        sinogram = np.array(y)
        back, back_seconds, back_memory = compiled(lambda a, v: a.H(v), operator, y)
        note = f"temporary memory {max(memory, back_memory) / 1e6:.0f} MB"
        own, peer = alternate(lambda p=program, a=operator: p(a, x), lambda: astra.forward(flipped), 3 if quick else 5)
        table.add(f"{name} forward", "ASTRA line", own, peer, None if curved else difference(own.result, peer.result), seconds, note)
        own, peer = alternate(lambda p=back, a=operator, y=y: p(a, y), lambda s=sinogram: astra.back(s), 3 if quick else 5)
        agreement = None if curved else difference(own.result, peer.result[::-1])
        table.add(f"{name} back", "ASTRA line", own, peer, agreement, back_seconds)
    _accuracy(table, 128 if quick else 256, 90 if quick else 180)
    return table


def _accuracy(table, n, views):
    geometry = scan(n, views)
    phantom = data.shepp_logan(n / 2)
    x, exact = phantom.rasterize((n, n)), data.project(phantom, geometry)
    errors = {model: difference(Astra(geometry, model).forward(np.asarray(x)[::-1]), exact) for model in ("line", "strip")}
    best = min(errors, key=errors.__getitem__)
    note = ", ".join(f"{m} {v:.4f}" for m, v in errors.items())
    for model in ("pixel", "band-limited"):
        error = difference(forward.Radon(geometry, image_model=model)(x), exact)
        table.quantity(f"fan accuracy, {model}, {n}², {views} views", f"ASTRA {best} (its best)", error, errors[best], note)
        if n >= 256:  # the size that the bound is meant for
            table.quantity(f"fan accuracy, {model}, {n}², {views} views", "bound of 0.8 %", error, 0.008)
