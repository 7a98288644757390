"""Trained parameters in one small file: arrays by name, and what they belong to, as JSON; nothing in it can run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffimg.core import check

_ABOUT = "about.json"


def save_weights(path: str | os.PathLike[str], params: Any, about: dict[str, Any], dtype: str = "float32") -> None:
    """Write nested dicts of arrays to an ``.npz``, complete or not at all.

    Args:
        params: dicts (keys without "/", or integers) of arrays, as from ``nn.split`` or ``energy`` parameters.
        about: what they belong to, JSON. dtype: of the file; "float16" halves it.
    """
    check.one_of("dtype", dtype, ("float32", "float16"))
    if not isinstance(about, dict):
        check.fail("about", "a dict", check.describe(about))
    with np.errstate(over="ignore"):
        arrays = {name: np.asarray(value).astype(dtype) for name, value in _flat(params).items()}
    for name, value in arrays.items():
        if not np.all(np.isfinite(value)):
            check.fail("params", f"finite numbers that fit into {dtype}", f"others in {name}")
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path = Path(path)
    if not path.parent.is_dir():
        check.fail("path", "a file in an existing folder", str(path), "Make the folder first.")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, **{_ABOUT: text})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(params in float32, about) of a file that ``save_weights`` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    path = Path(path)
    if not path.is_file():
        check.fail("path", "an existing file of weights", str(path), "Check the path.")
    try:
        with np.load(path, allow_pickle=False) as source:
            about = json.loads(bytes(source[_ABOUT]).decode())
            arrays = {name: source[name].astype(np.float32) for name in source.files if name != _ABOUT}
    except Exception as error:  # numpy and zipfile raise a dozen kinds
        got = f"{path.name} ({type(error).__name__})"
        raise ValueError(f"path: expected a file that learn.save_weights wrote, got {got}. It is damaged or of another kind.") from None
    return _nested(arrays), about


def _flat(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    out = {}
    for path, value in leaves:
        keys = [getattr(k, "key", None) for k in path]
        if not keys or any(not isinstance(k, (str, int)) or "/" in str(k) for k in keys):
            check.fail("params", 'nested dicts whose keys have no "/"', jax.tree_util.keystr(path), "Take the params of nn.split.")
        out["/".join(f"#{k}" if isinstance(k, int) else k for k in keys)] = value
    return out


def _nested(arrays):
    tree: dict[Any, Any] = {}
    for name, value in arrays.items():
        *parents, last = [int(k[1:]) if k.startswith("#") else k for k in name.split("/")]
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree
