"""Parallel-beam projection at 512², 725 detectors, 720 views, float32, against ASTRA (CPU), a cached sparse matrix and scikit-image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, clock, compiled, difference, tree_bytes
from benchmarks.peers import Astra
from diffimg import ct, data, energy, forward, solve

NOTES = (
    "prepared: tables computed before; traced: the angles enter the compiled program as an argument and nothing is computed before. "
    "agreement: relative difference of own and peer's result (models differ: pixel + bin against Joseph's). ratio: peer over own."
)


def run(quick: bool = False) -> Table:
    """The table."""
    n, views, count = (128, 90, 185) if quick else (512, 720, 725)
    geometry = forward.ParallelBeam((n, n), np.linspace(0, np.pi, views, endpoint=False), count)
    table = Table("radon", f"Radon transform, {n}², {views} views, {count} detectors, float32", NOTES)
    astra = Astra(geometry)
    x = data.shepp_logan_image(n).astype(jnp.float32)
    xs = np.array(x)  # writable: scikit-image wants it so
    y = astra.forward(xs)
    yj = jnp.asarray(y)
    repeats, inner = (5, 5) if not quick else (3, 3)

    traced = forward.Radon(geometry)
    setup = clock(traced.prepare, repeats=1, warmup=0)
    prepared = setup.result
    joseph = forward.Radon(geometry, method="joseph")
    angles = jnp.asarray(geometry.angles, jnp.float32)

    forward_program, forward_compile, forward_memory = compiled(lambda a, v: a(v), prepared, x)
    adjoint_program, adjoint_compile, adjoint_memory = compiled(lambda a, v: a.H(v), prepared, yj)
    normal_program, normal_compile, normal_memory = compiled(lambda a, v: a.normal(v), prepared, x)
    traced_program, traced_compile, traced_memory = compiled(
        lambda t, v: forward.Radon(forward.ParallelBeam((n, n), t, count))(v), angles, x
    )
    joseph_program, joseph_compile, joseph_memory = compiled(lambda a, v: a(v), joseph, x)
    back_program, back_compile, back_memory = compiled(lambda a, v: a.H(v), joseph, yj)

    own, peer = alternate(lambda: forward_program(prepared, x), lambda: astra.forward(xs), repeats, inner)
    table.add("forward, fourier, prepared", "ASTRA linear", own, peer, difference(own.result, peer.result), forward_compile)
    fourier_forward = own
    own, peer = alternate(lambda: adjoint_program(prepared, yj), lambda: astra.back(y), repeats, inner)
    table.add("adjoint, fourier, prepared", "ASTRA linear", own, peer, difference(own.result, peer.result), adjoint_compile)
    fourier_adjoint = own
    own, peer = alternate(lambda: normal_program(prepared, x), lambda: astra.back(astra.forward(xs)), max(3, repeats - 2), inner)
    table.add("normal, Toeplitz, prepared", "ASTRA linear FP + BP", own, peer, difference(own.result, peer.result), normal_compile)
    own, peer = alternate(lambda: traced_program(angles, x), lambda: astra.forward(xs), repeats, inner)
    table.add("forward, fourier, traced", "ASTRA linear", own, peer, difference(own.result, peer.result), traced_compile)
    own, peer = alternate(lambda: joseph_program(joseph, x), lambda: astra.forward(xs), repeats, 1)
    table.add("forward, joseph", "ASTRA linear", own, peer, difference(own.result, peer.result), joseph_compile)
    joseph_forward = own
    own, peer = alternate(lambda: back_program(joseph, yj), lambda: astra.back(y), repeats, 1)
    table.add("adjoint, joseph", "ASTRA linear", own, peer, difference(own.result, peer.result), back_compile)
    joseph_adjoint = own

    _sparse_matrix(table, astra, xs, y, repeats, (fourier_forward, fourier_adjoint), (joseph_forward, joseph_adjoint))
    _scikit_image(table, geometry, xs, y, fourier_forward)
    _fista_tv(table, geometry, astra, y, quick)

    tables = tree_bytes(prepared)
    memory = max(forward_memory, adjoint_memory, normal_memory, traced_memory, joseph_memory, back_memory)
    case, note = "memory, bytes beyond inputs and outputs: tables + temporaries", f"tables {tables / 1e6:.0f} MB"
    table.quantity(case, "bound of 0.5 GB", tables + memory, 5e8, note)
    table.notes += f" Tables built in {setup.median:.2f} s."
    return table


def _sparse_matrix(table, astra, xs, y, repeats, fourier, joseph):
    building = clock(astra.matrix, repeats=1, warmup=0)
    matrix, transpose = building.result
    size = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) * 2
    note = f"matrix and its transpose: {size / 1e9:.2f} GB, built in {building.median:.0f} s"
    for direction, product, shape in (
        ("forward", lambda: matrix @ xs.reshape(-1), y.shape),
        ("adjoint", lambda: transpose @ y.reshape(-1), xs.shape),
    ):
        times = clock(product, repeats)
        which = 0 if direction == "forward" else 1
        table.add(f"{direction}, fourier, prepared", "SciPy sparse, cached", fourier[which], times, None, note=note)
        agreement = difference(joseph[which].result, times.result.reshape(shape))
        table.add(f"{direction}, joseph", "SciPy sparse, cached", joseph[which], times, agreement)


def _scikit_image(table, geometry, xs, y, own):
    from skimage.transform import iradon, radon

    degrees = np.rad2deg(np.asarray(geometry.angles))
    n = xs.shape[0]
    peer = clock(lambda: radon(xs, degrees, circle=True, preserve_range=True), repeats=1, warmup=0)
    table.add("forward, fourier, prepared", "scikit-image radon", own, peer, None, note="n detectors; one run")
    operator = jax.jit(lambda s: ct.fbp(s, geometry))
    start = clock(lambda: operator(jnp.asarray(y)), repeats=5)
    middle = (geometry.detector_count - n) // 2
    cropped = np.array(y).T[middle : middle + n]
    peer = clock(lambda: iradon(cropped, degrees, circle=True), repeats=1, warmup=0)
    table.add("FBP, ram-lak, traced", "scikit-image iradon", start, peer, None, note="n detectors; one run")


def _fista_tv(table, geometry, astra, y, quick):
    """100 iterations, and the same algorithm (and TV prox) on ASTRA's projectors, of which a few are timed and scaled up."""
    steps, timed = 100, 3
    weight = 0.2
    operator = forward.Radon(geometry)
    prox = energy.TotalVariation(weight, lower=0.0, gap=0.0, max_steps=5)

    def problem(data):
        return solve.Problem(smooth=energy.LeastSquares(operator, data), proximable=prox).prepare()

    prepared = problem(jnp.asarray(y))
    step = float(1 / prepared.lipschitz())
    x0 = jnp.zeros(geometry.image_shape, jnp.float32)
    solver = solve.FISTA(step_size=step)

    def own():
        return solve.run(solver, prepared, x0, steps=steps, objective_every=0, prepare=False).x

    first = clock(own, repeats=1, warmup=0)
    ours = clock(own, repeats=3, warmup=1)
    warm = jax.jit(lambda v, s: prox.prox_warm(v, jnp.float32(step), s))

    def on_astra(count):
        x = z = np.zeros(geometry.image_shape, np.float32)
        t, state = 1.0, prox.prox_state(x0)
        for _ in range(count):
            gradient = astra.back(astra.forward(z) - y)
            new, state = warm(jnp.asarray(z - step * gradient), state)
            new = np.asarray(new)
            t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
            z, x, t = new + (t - 1) / t_new * (new - x), new, t_new
        return x

    on_astra(1)  # compiles the prox
    peer = clock(lambda: on_astra(timed), repeats=2, warmup=0)
    few = solve.run(solve.FISTA(step_size=step, restart=False), prepared, x0, steps=timed, objective_every=0, prepare=False).x
    note = f"peer: {timed} iterations × {steps / timed:.1f}; agreement after {timed}"
    case = f"FISTA-TV, {steps} iterations, prepared"
    table.add(case, "the same on ASTRA", ours, peer, difference(few, peer.result), first.median, note, steps / timed)
