"""Experiments: configs, recipes, run folders, pictures and reports, and the command line. Submodules load on first use."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["cli", "compare", "config", "doctor", "geometry_picture", "pictures", "recipes", "report", "run", "sweep"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"diffimg.experiment.{name}")
    raise AttributeError(f"module 'diffimg.experiment' has no attribute {name!r}; it has {', '.join(__all__)}")
