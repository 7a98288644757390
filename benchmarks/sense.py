"""SENSE by conjugate gradients, coil maps and compressed sensing at 256², 8 coils, R = 4, complex64, against SigPy (CPU)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, clock, complex_difference
from diffimg import forward, mri

NOTES = (
    "Same data, mask, maps, regularization and number of iterations on both sides; own: compiled before, the mask known (prepared) or an "
    "argument (traced). agreement: relative difference of the two images. ratio: peer over own."
)


def run(quick: bool = False) -> Table:
    """The table."""
    import sigpy.mri

    n, count, steps = (96, 4, 10) if quick else (256, 8, 30)
    repeats = 3 if quick else 7
    table = Table("sense", f"Cartesian MRI, {n}², {count} coils, R = 4, complex64", NOTES)
    coils = mri.simulated_coils((n, n), count)
    coils = coils / jnp.max(mri.root_sum_of_squares(coils))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    image = ((np.hypot(x, 1.2 * y) < 0.8) * (1 + 0.5 * np.cos(20 * x) * np.cos(15 * y)) * np.exp(1j * x)).astype(np.complex64)
    noise = 0.01 * (rng.standard_normal((count, n, n)) + 1j * rng.standard_normal((count, n, n)))
    full = np.asarray(forward.fft(coils * image)) + noise.astype(np.complex64)
    maps = np.asarray(coils)

    patterns = {
        "lines": mri.sampling.equispaced_mask((n, n), 4, 24),
        "points": mri.sampling.variable_density_mask((n, n), 4, jax.random.key(0), acs=24, axis=None),
    }
    solve = jax.jit(lambda a, v: mri.sense(v, a, steps, regularization=1e-3).x)
    for name, mask in patterns.items():
        kspace = full * mask
        data = jnp.asarray(kspace)

        def peer(kspace=kspace, mask=mask):
            app = sigpy.mri.app.SenseRecon(kspace, maps, lamda=1e-3, weights=mask.astype(np.float32), max_iter=steps, show_pbar=False)
            return app.run()

        traced = forward.MaskedFFT(mask, coils)
        for kind, operator in (("prepared", traced.prepare()), ("traced", traced)):
            own, theirs = alternate(lambda o=operator, d=data: solve(o, d), peer, repeats, 2)
            case = f"SENSE-CG, {steps} steps, {name}, {kind}"
            table.add(case, "SigPy SenseRecon", own, theirs, complex_difference(own.result, theirs.result))

    own = clock(lambda: mri.espirit(full), repeats, 1)

    def espirit():
        return sigpy.mri.app.EspiritCalib(full, calib_width=24, kernel_width=6, thresh=0.02, crop=0.95, show_pbar=False).run()

    theirs = clock(espirit, 3, 1)
    seen = (np.abs(theirs.result).sum(0) > 0) & (np.abs(np.asarray(own.result)).sum(0) > 0)
    overlap = np.abs(np.sum(np.conj(theirs.result) * np.asarray(own.result), axis=0))[seen]
    table.add("ESPIRiT maps", "SigPy EspiritCalib", own, theirs, float(1 - overlap.min()), note="agreement: 1 − smallest overlap")

    mask = patterns["points"]
    kspace = full * mask
    operator = forward.MaskedFFT(mask, coils).prepare()
    weight = 1e-3
    size = float(jnp.max(jnp.abs(operator.H(jnp.asarray(kspace)))))
    for name, kind, app in (("L1-wavelet", "wavelet", "L1WaveletRecon"), ("total variation", "tv", "TotalVariationRecon")):
        iterations = 20 if quick else 60
        program = jax.jit(lambda a, v, k=kind, i=iterations: mri.compressed_sensing(v, a, weight, k, i).x)
        own = clock(lambda p=program: p(operator, jnp.asarray(kspace)), 3, 1)
        theirs = clock(
            lambda app=app, i=iterations: getattr(sigpy.mri.app, app)(
                kspace, maps, weight * size, weights=mask.astype(np.float32), max_iter=i, show_pbar=False
            ).run(),
            1,
            0,
        )
        note = f"error {_error(own.result, image):.3f}, peer's {_error(theirs.result, image):.3f}; wavelets and solvers differ"
        table.add(f"{name}, {iterations} steps", f"SigPy {app}", own, theirs, None, note=note)
    return table


def _error(x, image):
    return float(np.linalg.norm(np.asarray(x) - image) / np.linalg.norm(image))
