"""Many 2-D registrations in one compiled program, against one after the other."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.harness import Table, Timing, clock
from diffimg import data, energy, forward, registration

NOTES = (
    "Slices of MNI152, each moved by a transform of its own, two levels. A single one: register_batch of one pair, compiled, the mean over "
    "all pairs; and register(), which also looks at its input and waits for every level. Bound on a CPU: 18 single ones for 16. Agreement: "
    "of the displacements of the first pair, mm."
)


def run(quick: bool = False) -> Table:
    """The table."""
    size, count = (48, 4) if quick else (96, 16)
    slices = data.brain_slices("test", size, factor=1)
    grid = data.Grid.centred((size, size), slices.spacing)
    moving = slices.truth[np.linspace(0, len(slices) - 1, count).round().astype(int)]
    table = Table("pairs", f"{count} pairs of {size}²", NOTES)
    penalty = 1e-3 * energy.Bending()
    options = {"fixed_grid": grid, "moving_grid": grid}
    centre = np.asarray(grid.centre, np.float32)
    for name, stage in (
        ("rigid, correlation", registration.Rigid(levels=(2, 1), steps=30)),
        ("free-form, correlation", registration.BSpline(spacing=30.0, levels=(2, 1), steps=30)),
    ):
        rng = np.random.default_rng(3)
        fixed = np.stack([np.asarray(forward.warp(m, _known(rng, grid, centre, name), 3, grid=grid)) for m in moving])

        def single(k, stage=stage, fixed=fixed):
            result = registration.register(fixed[k], moving[k], [stage], energy.NCC(), penalty, **options)
            jax.block_until_ready(result.warped)
            return result

        @jax.jit
        def batch(f, m, stage=stage):
            return registration.register_batch(f, m, [stage], energy.NCC(), penalty, **options)

        together = clock(lambda f=fixed, batch=batch: jax.block_until_ready(batch(f, moving)), 5)
        parts = [(fixed[k : k + 1], moving[k : k + 1]) for k in range(count)]
        ones = [clock(lambda p=p, batch=batch: jax.block_until_ready(batch(*p)), 3) for p in parts]
        each = float(np.mean([one.median for one in ones]))
        firsts = [jax.tree.map(lambda v: v[0], one.transform) for one in (together.result, ones[0].result)]
        displacements = [first.displacement(grid) for first in firsts]
        apart = float(np.abs(np.asarray(displacements[0] - displacements[1])).max())
        table.add(f"{name}: batch of {count}", f"{count} batches of one", together, Timing(each, 0.0, None), apart, scale=count)
        bound = 18 / 16 * count
        table.quantity(f"{name}: batch, in single ones", f"bound {bound:g}", together.median / each, bound)
        alone = clock(lambda single=single: single(0), 7)
        table.add(f"{name}: batch of {count}", f"{count} × register()", together, alone, None, scale=count)
    return table


def _known(rng, grid, centre, name):
    if name.startswith("rigid"):
        return forward.Rigid(np.float32(rng.normal(0, 0.1, 1)), np.float32(rng.normal(0, 5, 2)), centre)
    start = forward.FreeForm.identity(grid, mesh=4)
    return forward.FreeForm(np.float32(rng.normal(0, 5, start.coefficients.shape)), start.lattice)
