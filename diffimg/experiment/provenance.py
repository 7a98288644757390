"""Where a run comes from: versions, git state, device and command, without paths, user names or hosts."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import diffimg

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "pydantic", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of Python, diffimg and what it computes and draws with."""
    found = {"python": platform.python_version(), "diffimg": diffimg.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the working tree that diffimg is imported from; None where that is not one (installed)."""
    package = Path(diffimg.__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            out = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return out.stdout.strip() if out.returncode == 0 else None

    if not git("ls-files", "__init__.py"):  # a wheel inside somebody's repository is not under its version control
        return None
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def device() -> dict[str, Any]:
    """The device that computations of this thread go to."""
    import jax

    chosen = jax.config.jax_default_device or jax.devices()[0]
    return {"platform": chosen.platform, "kind": chosen.device_kind, "count": jax.device_count(chosen.platform)}


def command(arguments: Sequence[str] | None = None) -> str:
    """The command line; of absolute paths only the last part is kept."""
    arguments = sys.argv if arguments is None else arguments
    return " ".join(["diffimg", *(portable(a) for a in arguments[1:])])


def portable(argument: str) -> str:
    """The argument, or ``key=`` and the argument, with an absolute path cut to its last part."""
    head, equals, tail = argument.partition("=")
    if equals:
        return f"{head}={portable(tail)}"
    path = PurePath(argument)
    return path.name if path.is_absolute() or argument.startswith("~") or ".." in path.parts else argument


def system() -> dict[str, Any]:
    """Operating system, machine and number of cores."""
    import os

    return {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
