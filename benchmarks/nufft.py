"""Non-uniform Fourier transform at 256² (205,824 radial points), complex64, against FINUFFT and SigPy, plans and tables reused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, compiled, complex_difference, tree_bytes
from diffimg import forward

THREADS = 2
NOTES = (
    "FINUFFT on 2 threads; plans and tables built before, at the stated error against the direct "
    "sum (400 random points). 'tuned' FINUFFT: upsampfac=1.25. agreement: relative difference of the two results. ratio: peer over own."
)


def radial(spokes: int, readout: int) -> np.ndarray:
    """Golden-angle spokes, ``[spoke, readout, (y, x)]`` in rad/voxel."""
    angles = np.arange(spokes) * np.pi * (np.sqrt(5) - 1) / 2
    k = (np.arange(readout) - readout // 2) * 2 * np.pi / readout
    return (k[:, None] * np.stack([np.sin(angles), np.cos(angles)], -1)[:, None]).astype(np.float32)


def run(quick: bool = False) -> Table:
    """The table."""
    import finufft

    n, spokes, readout, coils = (96, 60, 192, 4) if quick else (256, 402, 512, 8)
    repeats, inner = (5, 2) if quick else (15, 3)
    trajectory = radial(spokes, readout)
    points = trajectory.reshape(-1, 2)
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((coils, n, n)) + 1j * rng.standard_normal((coils, n, n))).astype(np.complex64)
    samples = (rng.standard_normal((coils, *trajectory.shape[:2])) + 1j * rng.standard_normal((coils, *trajectory.shape[:2]))).astype("c8")
    chosen = rng.choice(len(points), 400, replace=False)
    exact = _direct(images[0], points[chosen])
    table = Table("nufft", f"NUFFT, {n}², {len(points):,} radial points, complex64", NOTES)

    def plan(kind, upsampling, count=1, tolerance=2e-3):
        sign = -1 if kind == 2 else 1
        p = finufft.Plan(
            kind, (n, n), n_trans=count, eps=tolerance, isign=sign, dtype="complex64", nthreads=THREADS, upsampfac=upsampling
        )
        p.setpts(np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1]))
        return lambda v: p.execute(v) / n

    peers = {"FINUFFT": 0.0, "FINUFFT tuned": 1.25}  # 0: its own choice
    own = {
        "oversampling 2": forward.NUFFT((n, n), trajectory),
        "oversampling 1.56": forward.NUFFT((n, n), trajectory, tolerance=2e-3, oversampling=400 / 256),
    }
    prepared = {name: operator.prepare() for name, operator in own.items()}
    x, y = jnp.asarray(images[0]), jnp.asarray(samples[0])
    flat = samples.reshape(coils, -1)

    for name, operator in prepared.items():
        achieved = _error(np.asarray(operator(x)).ravel()[chosen], exact)
        table.quantity(f"error, type 2, {name}", "bound 2e-3", achieved, 2e-3)
        type2, compile2, _ = compiled(lambda a, v: a(v), operator, x)
        type1, compile1, _ = compiled(lambda a, v: a.H(v), operator, y)
        for peer, upsampling in peers.items():
            two, one = plan(2, upsampling), plan(1, upsampling)
            note = f"peer's error {_error(two(images[0])[chosen], exact):.1e}"
            a, b = alternate(lambda f=type2, o=operator: f(o, x), lambda two=two: two(images[0]), repeats, inner)
            agreement = complex_difference(a.result.ravel(), b.result)
            table.add(f"type 2, forward, {name}", peer, a, b, agreement, compile2, note)
            a, b = alternate(lambda f=type1, o=operator: f(o, y), lambda one=one: one(flat[0]), repeats, inner)
            table.add(f"type 1, adjoint, {name}", peer, a, b, complex_difference(a.result, b.result), compile1)

    operator = prepared["oversampling 1.56"]
    xs, ys = jnp.asarray(images), jnp.asarray(samples)
    type2, compile2, _ = compiled(lambda a, v: a(v), operator, xs)
    type1, compile1, _ = compiled(lambda a, v: a.H(v), operator, ys)
    for peer, upsampling in peers.items():
        two, one = plan(2, upsampling, coils), plan(1, upsampling, coils)
        a, b = alternate(lambda: type2(operator, xs), lambda two=two: two(images), max(5, repeats // 2), 1)
        agreement = complex_difference(a.result.ravel(), b.result.ravel())
        table.add(f"type 2, {coils} coils", f"{peer}, n_trans={coils}", a, b, agreement, compile2)
        a, b = alternate(lambda: type1(operator, ys), lambda one=one: one(flat), max(5, repeats // 2), 1)
        table.add(f"type 1, {coils} coils", f"{peer}, n_trans={coils}", a, b, complex_difference(a.result, b.result), compile1)

    normal, compile_normal, _ = compiled(lambda a, v: a.normal(v), operator, x)
    for peer, upsampling in peers.items():
        two, one = plan(2, upsampling), plan(1, upsampling)
        a, b = alternate(lambda: normal(operator, x), lambda one=one, two=two: one(two(images[0])), repeats, inner)
        table.add("normal, Toeplitz", f"{peer}, types 2 + 1", a, b, complex_difference(a.result, b.result), compile_normal)

    _traced(table, trajectory, x, y, plan, repeats)
    _sigpy(table, operator, trajectory, images[0], samples[0])
    _gradient(table, trajectory, images[0])
    tables = tree_bytes(operator)
    table.notes += f" Tables: {tables / 1e6:.0f} MB (2-D, prepared)."
    _memory(table, n)
    return table


def _traced(table, trajectory, x, y, plan, repeats):
    """The trajectory enters the compiled program as an argument; nothing is computed before."""
    shape = x.shape
    one, two = plan(1, 0.0), plan(2, 0.0)
    t = jnp.asarray(trajectory)
    type2, compile2, _ = compiled(lambda k, v: forward.NUFFT(shape, k)(v), t, x)
    type1, compile1, _ = compiled(lambda k, v: forward.NUFFT(shape, k).H(v), t, y)
    images, flat = np.asarray(x), np.asarray(y).ravel()
    a, b = alternate(lambda: type2(t, x), lambda: two(images), repeats, 1)
    table.add("type 2, trajectory traced", "FINUFFT, planned", a, b, complex_difference(a.result.ravel(), b.result), compile2)
    a, b = alternate(lambda: type1(t, y), lambda: one(flat), repeats, 1)
    table.add("type 1, trajectory traced", "FINUFFT, planned", a, b, complex_difference(a.result, b.result), compile1)


def _sigpy(table, operator, trajectory, image, samples):
    import sigpy

    n = image.shape[0]
    coordinates = trajectory / (2 * np.pi) * n
    x, y = jnp.asarray(image), jnp.asarray(samples)
    type2, type1 = jax.jit(lambda a, v: a(v)), jax.jit(lambda a, v: a.H(v))
    a, b = alternate(lambda: type2(operator, x), lambda: sigpy.nufft(image, coordinates), 3, 3)
    table.add("type 2, forward", "SigPy nufft", a, b, complex_difference(a.result, b.result))
    a, b = alternate(lambda: type1(operator, y), lambda: sigpy.nufft_adjoint(samples, coordinates, image.shape), 3, 3)
    table.add("type 1, adjoint", "SigPy nufft_adjoint", a, b, complex_difference(a.result, b.result))


def _gradient(table, trajectory, image):
    """d/dk of Σ|s|²/2 at 400 points, in float32, against the direct sum's in float64."""
    n = image.shape[0]
    k = trajectory.reshape(-1, 2)[np.random.default_rng(1).choice(trajectory[..., 0].size, 400, replace=False)]

    def value(t):
        return 0.5 * jnp.sum(jnp.abs(forward.NUFFT((n, n), t, tolerance=1e-5)(image)) ** 2)

    grid = np.arange(n) - n // 2
    ex = image.astype(complex)
    wave = [np.exp(-1j * np.outer(k[:, a].astype(float), grid)) for a in (0, 1)]
    s = np.einsum("py,yx,px->p", wave[0], ex, wave[1], optimize=True) / n
    dy = np.einsum("py,yx,px->p", wave[0] * grid, ex, wave[1], optimize=True) * -1j / n
    dx = np.einsum("py,yx,px->p", wave[0], ex, wave[1] * grid, optimize=True) * -1j / n
    exact = np.stack([(s.conj() * dy).real, (s.conj() * dx).real], -1)
    error = np.linalg.norm(np.asarray(jax.grad(value)(jnp.asarray(k))) - exact) / np.linalg.norm(exact)
    table.quantity("error, gradient in the trajectory", "bound 1e-4", float(error), 1e-4)


def _memory(table, n):
    """3-D: a table of windows would take points × width³ weights."""
    m, count = (64, 2**20) if n > 100 else (24, 2**16)
    a = forward.NUFFT((m, m, m), np.random.default_rng(2).uniform(-np.pi, np.pi, (count, 3)).astype(np.float32))
    _, _, forward_bytes = compiled(lambda a, v: a(v), a, jnp.zeros((m, m, m), jnp.complex64))
    _, _, adjoint_bytes = compiled(lambda a, v: a.H(v), a, jnp.zeros(count, jnp.complex64))
    stored = count * a.plan.width**3 * 8.0
    table.quantity(
        f"memory, bytes of temporaries, {m}³, {count:,} points", "a table of windows", max(forward_bytes, adjoint_bytes), stored
    )


def _direct(image, k):
    n = image.shape[0]
    grid = np.arange(n) - n // 2
    wave = [np.exp(-1j * np.outer(k[:, a].astype(float), grid)) for a in (0, 1)]
    return np.einsum("py,yx,px->p", wave[0], image.astype(complex), wave[1], optimize=True) / n


def _error(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
