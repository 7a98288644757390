"""Packages that only some installations have, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, purpose: str, extra: str = "io") -> Any:
    """The module, or an ImportError that names the extra which brings it.

    Args:
        module: dotted name, e.g. ``"pydicom"``.
        purpose: what it is wanted for, e.g. ``"reading DICOM"``.
        extra: the extra of this distribution.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{purpose} needs {package}, which is not installed. Install it: pip install "diffimg-jax[{extra}]"') from error
