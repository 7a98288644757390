"""Cone-beam projection at 128³, 180 views, 128 × 128 cells, float32, against MBIRJAX (CPU), and FDK."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, clock, compiled, difference
from benchmarks.mbirjax_worker import Mbirjax
from diffimg import ct, data, forward

NOTES = (
    "The poses are an argument of the compiled program: nothing is computed before. MBIRJAX runs in a process of its own that imports "
    "it before JAX, in turn with this one; it projects only the cylinder in the volume (78 % of the voxels), where the results of the "
    "back projection are compared. agreement: relative difference of own and peer's result. accuracy: relative L2 error against the "
    "analytic projections of Kak and Slaney's three-dimensional Shepp–Logan head."
)


def scan(n: int, views: int) -> forward.ConeBeam:
    """A cell at the centre is a voxel wide; the magnification is 1.5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the corners of the volume are empty
        return forward.ConeBeam((n, n, n), np.linspace(0, 2 * np.pi, views, endpoint=False), (n, n), 4.0 * n, 2.0 * n, 1.0, None, 1.5)


def run(quick: bool = False) -> Table:
    """The table."""
    n, views = (32, 45) if quick else (128, 180)
    geometry = scan(n, views)
    table = Table("cone", f"Cone beam, {n}³, {views} views, {n} × {n} cells, float32", NOTES)
    phantom = data.shepp_logan_3d(n / 2, modified=False)
    x = phantom.rasterize((n, n, n)).astype(jnp.float32)
    operator = forward.Radon(geometry)
    program, seconds, memory = compiled(lambda a, v: a(v), operator, x)
    y = program(operator, x)
    back, back_seconds, back_memory = compiled(lambda a, v: a.H(v), operator, y)
    note = f"temporary memory {max(memory, back_memory) / 1e6:.0f} MB"

    peer = Mbirjax(geometry, x, y)
    try:
        forwards = alternate(lambda: program(operator, x), peer.forward, 3)
        backs = alternate(lambda: back(operator, y), peer.back, 3)
        sinogram, volume = peer.results()
    finally:
        peer.close()
    r = np.hypot(*np.meshgrid(*geometry.pixel_positions[1:], indexing="ij"))
    inside = r < n / 2 - 1
    table.add("cone forward", "MBIRJAX", *forwards, difference(y, sinogram), seconds, note)
    agreement = difference(np.asarray(backs[0].result)[:, inside], volume[:, inside])
    table.add("cone back", "MBIRJAX", *backs, agreement, back_seconds)

    exact = data.project(phantom, geometry)
    theirs = difference(sinogram, exact)
    for model in ("pixel", "band-limited"):
        error = difference(forward.Radon(geometry, image_model=model)(x), exact)
        table.quantity(f"cone accuracy, {model}", "MBIRJAX", error, theirs)
        if n >= 128:  # the size that the bound is meant for
            table.quantity(f"cone accuracy, {model}", "bound of 0.8 %", error, 0.008)

    fdk, fdk_seconds, _ = compiled(lambda s: ct.fdk(s, geometry), y)
    own = clock(lambda: fdk(y), 3)
    table.add("cone FDK, end to end", "bound of 2 back projections", own, backs[0], None, fdk_seconds, scale=2.0)
    return table
