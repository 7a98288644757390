"""``diffimg doctor``: what this installation consists of, what is wrong with it, and how to mend it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator

KNOWN_BAD = {
    "0.10.2": "computes silently wrong results on the CPU (jax#39103, #40412)",
    "0.11.0": "has faults on GPUs (jax#40633)",
    "0.11.1": "has faults on GPUs (jax#40633)",
}
REQUIREMENT = "'jax>=0.10.1,!=0.10.2,!=0.11.0,!=0.11.1'"
EXTRAS = {
    "demo": ("pydicom", "nilearn", "skimage", "sklearn"),
    "io": ("pydicom", "nibabel", "h5py", "tifffile"),
    "bench": ("scipy", "skimage", "astra"),
    "test": ("pytest", "scipy", "pywt", "astra"),
    "torch": ("torch",),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report. ``level``: ok, note (nothing to do), warning, or bad (results cannot be trusted)."""

    name: str
    value: str
    level: str = "ok"
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in order; the later ones import jax."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    memory = _memory()
    yield Finding("cores, memory", f"{os.cpu_count()}, " + (f"{memory:.1f} GiB" if memory else "unknown"))
    for package in ("jax", "jaxlib"):
        yield release(package, _version(package))
    for package in ("numpy", "flax", "optax", "pydantic", "matplotlib"):
        version = _version(package)
        yield Finding(package, version or "missing", "ok" if version else "bad", "" if version else f"pip install {package}")
    if not _version("jax"):
        return
    yield from _jax()
    yield canary()
    for extra, modules in EXTRAS.items():
        absent = [m for m in modules if importlib.util.find_spec(m) is None]
        remedy = f'pip install "diffimg-jax[{extra}]"' if absent else ""
        yield Finding(f"extra {extra}", "without " + ", ".join(absent) if absent else "present", "note" if absent else "ok", remedy)


def release(package: str, version: str | None) -> Finding:
    """Whether a release of jax or jaxlib can be trusted."""
    if version is None:
        return Finding(package, "missing", "bad", f"pip install {REQUIREMENT}")
    reason = KNOWN_BAD.get(version)
    if reason:
        return Finding(package, f"{version} {reason}", "bad", f"pip install --upgrade {REQUIREMENT} (Python {platform.python_version()})")
    return Finding(package, version)


def canary() -> Finding:
    """A vmapped matrix-vector product with a reduction, compiled and not, against NumPy in double precision."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def f(matrix, x):
        return jax.vmap(lambda v: jnp.sum(jnp.square(jnp.matmul(matrix, v, precision="highest") - v)))(x)

    rng = np.random.default_rng(0)
    worst = 0.0
    for batch, n in ((8, 32), (64, 128), (3, 257)):
        matrix, x = rng.standard_normal((n, n)).astype(np.float32), rng.standard_normal((batch, n)).astype(np.float32)
        exact = np.sum(np.square(x.astype(np.float64) @ matrix.T.astype(np.float64) - x), -1)
        with jax.disable_jit():
            eager = np.asarray(f(matrix, x))
        for result in (np.asarray(jax.jit(f)(matrix, x)), eager):
            worst = max(worst, float(np.max(np.abs(result - exact) / exact)))
    if worst > 1e-4:
        return Finding(
            "canary",
            f"jit, eager and NumPy differ by {worst:.1e}: results cannot be trusted",
            "bad",
            f"pip install --upgrade {REQUIREMENT}",
        )
    return Finding("canary", f"jit, eager and NumPy agree to {worst:.0e}")


def _jax() -> Iterator[Finding]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Finding("devices", f"none can be used: {error}", "bad", "Unset JAX_PLATFORMS, or install the plugin of your accelerator.")
        return
    kinds = [f"{d.platform} ({d.device_kind})" for d in devices]
    text = ", ".join(f"{kinds.count(k)} × {k}" for k in dict.fromkeys(kinds))
    if devices[0].platform == "cpu":
        yield Finding("devices", text, "note", 'For an NVIDIA GPU: pip install "diffimg-jax[cuda12]" or "[cuda13]"')
    else:
        yield Finding("devices", text)
    for device in devices:
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit:
            yield Finding(f"memory of {device.platform}:{device.id}", f"{limit / 2**30:.1f} GiB usable")
    yield Finding("x64", "enabled" if jax.config.jax_enable_x64 else "off (float32; JAX_ENABLE_X64=1 turns it on)")
    cache = jax.config.jax_compilation_cache_dir
    yield Finding("compile cache", "on" if cache else "off (diffimg run --cache DIR keeps compiled programs)")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None
