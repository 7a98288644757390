"""Imports run one way; importing changes nothing; every module is short."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "diffimg"
CHAIN = ["core", "forward", "energy", "solve", "nn", "learn"]
APPLICATIONS = ["ct", "mri", "registration", "segmentation", "microscopy", "federated"]
BESIDE_CORE = ["data", "metrics"]
TOP = ["bridge", "testing"]


def allowed(layer: str) -> set[str]:
    if layer in BESIDE_CORE:
        return {"core", layer}
    if layer in CHAIN:
        return set(CHAIN[: CHAIN.index(layer) + 1]) | set(BESIDE_CORE)
    if layer in APPLICATIONS:
        return set(CHAIN) | set(BESIDE_CORE) | {layer}
    return set(CHAIN) | set(BESIDE_CORE) | set(APPLICATIONS) | set(TOP) | {"experiment"}


def imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}: relative import")


MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def test_arrows_point_one_way():
    for path in MODULES:
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "diffimg" and len(parts) > 1 and (PACKAGE / parts[1]).exists() | (PACKAGE / f"{parts[1]}.py").exists():
                assert parts[1] in allowed(layer), f"{path.relative_to(ROOT)} imports {name}: {layer} may not"
            if parts[0] == "flax":
                assert layer == "nn", f"{path.relative_to(ROOT)} imports flax: only nn may"


def test_modules_hold_one_concept():
    for path in MODULES:
        lines = len(path.read_text().splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines: split it by concept"


PROBE = """
import os, sys, time
import jax
before = dict(os.environ), jax.config.jax_enable_x64, set(sys.modules), jax.config.jax_compilation_cache_dir
start = time.perf_counter()
import diffimg
import diffimg.forward, diffimg.energy, diffimg.solve, diffimg.ct, diffimg.data, diffimg.metrics
seconds = time.perf_counter() - start
assert dict(os.environ) == before[0] and jax.config.jax_enable_x64 == before[1]
assert jax.config.jax_compilation_cache_dir == before[3]
names = "flax matplotlib orbax optax scipy.ndimage scipy.sparse torch skimage nilearn pydicom pydantic typer rich".split()
heavy = [m for m in names if m in sys.modules and m not in before[2]]
assert not heavy, heavy
assert not jax._src.xla_bridge._backends, "importing started a device"
print(seconds)
"""


def test_import_is_free_of_side_effects():
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
