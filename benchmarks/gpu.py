"""On one GPU: projectors against ASTRA's CUDA kernels, NUFFT against cuFINUFFT, SENSE against SigPy on CuPy; data stays on the device."""

from __future__ import annotations

import functools
import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cone, fan
from benchmarks.harness import Table, Timing, alternate, clock, compiled, difference
from benchmarks.nufft import radial
from benchmarks.peers import Astra
from diffimg import data, forward, mri

NOTES = (
    "float32 and complex64; time of one of up to 20 calls that are waited for together. Peers that are not "
    "installed are left out. agreement: relative difference of own and peer's result (models differ, as on the CPU). ratio: peer over own."
)


def run(quick: bool = False) -> Table:
    """The table."""
    if jax.default_backend() != "gpu":
        raise RuntimeError('gpu: expected a GPU as JAX\'s device, found none. Remedy: pip install -e ".[cuda13]", or leave this one out.')
    table = Table("gpu", "On one GPU, against GPU peers", NOTES)
    for part in (_nufft, _sense, _parallel, _fan, _cone):
        part(table, quick)
    return table


def _module(*names: str) -> list[Any] | None:
    """The modules, or None where one of them cannot be imported."""
    try:
        return [importlib.import_module(name) for name in names]
    except (ImportError, OSError) as error:
        print(f"left out: {error}")
        return None


def _many(call: Callable[[], Any], wait: Callable[[Any], Any], calls: int) -> Callable[[], Any]:
    def run():
        result = None
        for _ in range(calls):
            result = call()
        wait(result)
        return result

    return run


def _calls(call, wait):
    """As many as take a twentieth of a second together, at most 20; compiled and warm afterwards."""
    wait(call())
    start = time.perf_counter()
    wait(call())
    return int(min(20, max(1, 0.05 / (time.perf_counter() - start))))


def _add(table, case, own, peer_name, peer, wait, read, seconds, note=""):
    """A row, which is also printed at once; ``peer`` None: without one. ``read``: the peer's last result as an array shaped as ours."""
    calls = _calls(own, jax.block_until_ready)
    if peer is None:
        timing, other, agreement = clock(_many(own, jax.block_until_ready, calls), 5), Timing(math.nan, math.nan, None), None
        peer_calls = 1
    else:
        peer_calls = _calls(peer, wait)
        timing, other = alternate(_many(own, jax.block_until_ready, calls), _many(peer, wait, peer_calls), 5, 1)
        agreement = difference(*(np.stack([np.real(v), np.imag(v)]) for v in (np.asarray(timing.result), read())))
    own_time, peer_time = _per_call(timing, calls), _per_call(other, peer_calls)
    table.add(case, peer_name if peer else "", own_time, peer_time, agreement, seconds, note)
    print(f"{case}: {own_time.median * 1e3:.3f} ms, {peer_name} {peer_time.median * 1e3:.3f} ms, agreement {agreement}", flush=True)


def _per_call(timing, calls):
    return Timing(timing.median / calls, timing.iqr / calls, timing.result)


class _Cuda:
    """ASTRA's CUDA projectors on CuPy arrays, in the plane; ``None`` for ``forward`` and ``back`` without ASTRA."""

    def __init__(self, geometry: Any, image: Any) -> None:
        found = _module("cupy", "astra.experimental")
        self.forward = self.back = None
        if found is None:
            return
        cupy, astra = found
        flip = slice(None, None, -1) if isinstance(geometry, forward.FanBeam) else slice(None)
        peer = Astra(geometry, "cuda")
        x = cupy.asarray(np.ascontiguousarray(np.asarray(image)[flip]))
        self.y, self.x = cupy.zeros(geometry.sinogram_shape, "f4"), cupy.zeros_like(x)
        self.wait = lambda _: cupy.cuda.Device().synchronize()
        self.forward = lambda: astra.direct_FP2D(peer.projector, x, self.y)
        self.back = lambda: astra.direct_BP2D(peer.projector, self.x, self.y)
        self.sinogram, self.image = lambda: self.y.get(), lambda: self.x.get()[flip]


def _parallel(table, quick):
    n, views, count = (128, 90, 185) if quick else (512, 720, 725)
    geometry = forward.ParallelBeam((n, n), np.linspace(0, np.pi, views, endpoint=False), count)
    x = data.shepp_logan_image(n).astype(jnp.float32)
    peer = _Cuda(geometry, x)
    wait, sinogram, image = (getattr(peer, name, None) for name in ("wait", "sinogram", "image"))
    size = f"{n}², {views} views"
    for method in ("fourier", "joseph"):
        operator = forward.Radon(geometry, method=method)
        for kind, a in (("prepared", operator.prepare()), ("traced", jax.tree.map(jnp.asarray, operator))):
            _both_ways(table, f"parallel {size}, {method}, {kind}", a, x, peer)
            if method == "fourier" and kind == "prepared":
                normal, seconds, _ = compiled(lambda a, v: a.normal(v), a, x)
                both = None if peer.forward is None else lambda: (peer.forward(), peer.back())
                own = functools.partial(normal, a, x)
                _add(table, f"parallel {size}, Toeplitz normal", own, "ASTRA CUDA, both", both, wait, image, seconds)
                stack = jnp.stack([x] * 16)
                program, seconds, _ = compiled(lambda a, v: a(v), a, stack)
                sixteen = None if peer.forward is None else lambda: [peer.forward() for _ in range(16)][-1]
                own = functools.partial(program, a, stack)
                read = lambda: np.stack([sinogram()] * 16)  # noqa: E731
                _add(table, f"parallel {size}, fourier: 16 slices", own, "ASTRA CUDA, in turn", sixteen, wait, read, seconds)


def _fan(table, quick):
    n, views = (128, 90) if quick else (512, 720)
    geometry = fan.scan(n, views)
    x = data.shepp_logan(n / 2).rasterize((n, n)).astype(jnp.float32)
    peer = _Cuda(geometry, x)
    _both_ways(table, f"fan {n}², {views} views", jax.tree.map(jnp.asarray, forward.Radon(geometry)), x, peer)


def _both_ways(table, case, a, x, peer):
    """Projection and back projection, of one sinogram on both sides."""
    program, seconds, _ = compiled(lambda a, v: a(v), a, x)
    y = program(a, x)
    back, back_seconds, _ = compiled(lambda a, v: a.H(v), a, y)
    wait, sinogram, image = (getattr(peer, name, None) for name in ("wait", "sinogram", "image"))
    _add(table, f"{case}: forward", functools.partial(program, a, x), "ASTRA CUDA", peer.forward, wait, sinogram, seconds)
    y = y if peer.forward is None else jnp.asarray(sinogram())
    _add(table, f"{case}: back", functools.partial(back, a, y), "ASTRA CUDA", peer.back, wait, image, back_seconds)


def _cone(table, quick):
    for n, views in ((32, 45),) if quick else ((128, 180), (256, 360)):
        geometry = cone.scan(n, views)
        x = data.shepp_logan_3d(n / 2, modified=False).rasterize((n, n, n)).astype(jnp.float32)
        operator = jax.tree.map(jnp.asarray, forward.Radon(geometry))
        program, seconds, memory = compiled(lambda a, v: a(v), operator, x)
        y = program(operator, x)
        back, back_seconds, back_memory = compiled(lambda a, v: a.H(v), operator, y)
        forwards = backs = wait = sinogram = volume = None
        found = _module("cupy", "astra", "astra.experimental")
        if found is not None:
            cupy, astra, direct = found
            poses = geometry.poses
            # (z, y, x) to (x, y, z)
            vectors = [np.asarray(v)[:, ::-1] for v in (poses.source, poses.detector, poses.column, poses.row)]
            space = astra.create_vol_geom(n, n, n)
            projector = astra.create_projector("cuda3d", astra.create_proj_geom("cone_vec", n, n, np.concatenate(vectors, 1)), space)
            gx, gy, gx2 = cupy.asarray(np.asarray(x)), cupy.zeros((n, views, n), "f4"), cupy.zeros((n, n, n), "f4")
            forwards = functools.partial(direct.direct_FP3D, projector, gx, gy)
            backs = functools.partial(direct.direct_BP3D, projector, gx2, gy)
            wait = lambda _: cupy.cuda.Device().synchronize()  # noqa: E731, B023
            sinogram, volume = lambda: gy.get().transpose(1, 0, 2), lambda: gx2.get()  # noqa: B023
        size, note = f"cone {n}³, {views} views", f"temporary memory {max(memory, back_memory) / 1e6:.0f} MB"
        own = functools.partial(program, operator, x)
        _add(table, f"{size}: forward", own, "ASTRA CUDA", forwards, wait, sinogram, seconds, note)
        if sinogram is not None:
            y = jnp.asarray(sinogram())
        _add(table, f"{size}: back", functools.partial(back, operator, y), "ASTRA CUDA", backs, wait, volume, back_seconds)


def _nufft(table, quick):
    n, spokes, readout, coils = (96, 60, 192, 4) if quick else (256, 402, 512, 8)
    trajectory = radial(spokes, readout)
    rng = np.random.default_rng(0)
    images = jnp.asarray((rng.standard_normal((coils, n, n)) + 1j * rng.standard_normal((coils, n, n))).astype(np.complex64))
    operator = forward.NUFFT((n, n), trajectory, tolerance=2e-3, oversampling=400 / 256)
    prepared = operator.prepare()
    found = _module("cupy", "cufinufft")

    def plan(kind, count):
        cupy, library = found
        points = trajectory.reshape(-1, 2)
        shapes = {1: (n, n), 2: (len(points),)}
        best = None
        for method in (0, 1, 2):  # its own choice, points, shared memory
            p = library.Plan(kind, (n, n), count, 2e-3, -1 if kind == 2 else 1, "complex64", **({"gpu_method": method} if method else {}))
            p.setpts(*(cupy.ascontiguousarray(cupy.asarray(points[:, a])) for a in (0, 1)))
            lead = (count,) if count > 1 else ()
            given = cupy.asarray(np.asarray(images[:count] if kind == 2 else samples[:count]).reshape(*lead, *shapes[3 - kind]))
            out = cupy.zeros((*lead, *shapes[kind]), "c8")
            call = functools.partial(p.execute, given, out)
            wait = lambda _: cupy.cuda.Device().synchronize()  # noqa: E731
            try:
                seconds = clock(_many(call, wait, 10), 3, 1).median
            except RuntimeError:
                continue  # a method that this type or size has not
            if best is None or seconds < best[0]:
                best = seconds, call, wait, out
        return best[1:]

    samples = jax.jit(lambda a, v: a(v))(prepared, images)
    for count in (1, coils):
        x, y = (images, samples) if count > 1 else (images[0], samples[0])
        for kind, name, v in ((2, "type 2", x), (1, "type 1", y)):
            program, seconds, _ = compiled(lambda a, v: a(v), prepared, v) if kind == 2 else compiled(lambda a, v: a.H(v), prepared, v)
            call = wait = read = None
            if found is not None:
                call, wait, out = plan(kind, count)
                shape = (y if kind == 2 else x).shape
                read = lambda out=out, shape=shape: out.get().reshape(shape) / n  # noqa: E731
            own = functools.partial(program, prepared, v)
            case = f"NUFFT {n}², {trajectory[..., 0].size:,} points, {name}, {count} coil{'s' * (count > 1)}"
            _add(table, case, own, "cuFINUFFT", call, wait, read, seconds)
    normal, seconds, _ = compiled(lambda a, v: a.normal(v), prepared, images[0])
    _add(table, f"NUFFT {n}², Toeplitz normal", functools.partial(normal, prepared, images[0]), "", None, None, None, seconds)


def _sense(table, quick):
    n, count, steps = (96, 4, 10) if quick else (256, 8, 30)
    coils = mri.simulated_coils((n, n), count)
    coils = coils / jnp.max(mri.root_sum_of_squares(coils))
    mask = mri.sampling.equispaced_mask((n, n), 4, 24)
    kspace = forward.fft(coils * data.shepp_logan_image(n).astype(jnp.complex64)) * mask
    operator = forward.MaskedFFT(mask, coils).prepare()
    solve = jax.jit(lambda a, v: mri.sense(v, a, steps, regularization=1e-3).x)
    found = _module("cupy", "sigpy.mri.app")
    peer = wait = read = None
    if found is not None:
        cupy, app = found
        given = [cupy.asarray(np.asarray(v)) for v in (kspace, coils, np.asarray(mask, np.float32))]
        wait = lambda _: cupy.cuda.Device().synchronize()  # noqa: E731
        last = []

        def peer():
            last[:] = [app.SenseRecon(given[0], given[1], lamda=1e-3, weights=given[2], max_iter=steps, device=0, show_pbar=False).run()]

        read = lambda: last[0].get()  # noqa: E731
    own = functools.partial(solve, operator, kspace)
    _add(table, f"SENSE-CG {n}², {count} coils, {steps} steps", own, "SigPy", peer, wait, read, None)
