"""diffimg: differentiable, GPU-accelerated medical imaging in JAX.

Importing it changes nothing: no x64 flag, no environment variable, no cache folder; submodules load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_SUBMODULES = (
    "bridge",
    "core",
    "ct",
    "data",
    "energy",
    "experiment",
    "forward",
    "learn",
    "metrics",
    "mri",
    "nn",
    "registration",
    "solve",
    "testing",
)
__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"diffimg.{name}")
    raise AttributeError(f"module 'diffimg' has no attribute {name!r}; it has {', '.join(_SUBMODULES)}")


def __dir__() -> list[str]:
    return sorted(__all__)
