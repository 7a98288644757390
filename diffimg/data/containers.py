"""Named arrays with attributes in one file: HDF5 for exchange, NPZ where only NumPy is at hand; the same content in both."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file
from diffimg.data.extras import optional

HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
_ATTRIBUTES = "attributes"  # the member of an NPZ file that holds them, as JSON

Attributes = dict[str, dict[str, Any]]


def read_container(path: str | os.PathLike[str], prefixes: tuple[str, ...] | None = None) -> tuple[dict[str, np.ndarray], Attributes]:
    """``(arrays, attributes)``: arrays by their path ``group/name``, and the attributes of each array, group and (``""``) the file.

    Args:
        path: HDF5 by its suffix, else NPZ (read without pickles).
        prefixes: read only arrays whose path is, or begins with, one of these; all by default.

    Raises:
        ValueError: missing, truncated or of another format.
        ImportError: h5py is not installed.
    """
    file = Path(path)
    if not file.is_file():
        check.fail("path", "an existing file", f"{file.name}, which is none", "Check the path.")
    reader = _read_hdf5 if file.suffix.lower() in HDF5 else _read_npz
    h5py = optional("h5py", "Reading HDF5") if reader is _read_hdf5 else None
    try:
        return reader(file, lambda name: prefixes is None or name.startswith(prefixes), h5py)
    except (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail(
            "path", f"a whole {'HDF5' if h5py else 'NPZ'} file", got, "It is truncated, damaged or of another format: fetch it again."
        )


def write_container(path: str | os.PathLike[str], arrays: Mapping[str, Any], attributes: Attributes) -> None:
    """Write arrays (by path) and attributes (numbers, text, booleans, flat lists of them) in one piece; a file that is there is replaced.

    HDF5 datasets of more than 1 MB are compressed (gzip, lossless).

    Raises:
        ValueError: the suffix is neither ``.npz`` nor one of HDF5's.
        ImportError: h5py is not installed.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".npz", *HDF5):
        check.fail("path", "a name that ends in .h5 or .npz", target.name, "Choose one of them.")
    values = {name: np.asarray(value) for name, value in arrays.items()}
    if suffix == ".npz":
        text = np.frombuffer(json.dumps(attributes, sort_keys=True).encode(), np.uint8)
        with whole_file(target) as temporary, open(temporary, "wb") as out:
            np.savez_compressed(out, **{_ATTRIBUTES: text}, **values)
        return
    h5py = optional("h5py", "Writing HDF5")
    with whole_file(target) as temporary, h5py.File(temporary, "w") as out:
        for name, value in values.items():
            out.create_dataset(name, data=value, compression="gzip" if value.nbytes > 2**20 else None)
        for name, own in attributes.items():
            place = out.require_group(name) if name and name not in out else out[name or "/"]
            for key, value in own.items():
                place.attrs[key] = value


def _read_hdf5(file: Path, wanted: Any, h5py: Any) -> tuple[dict[str, np.ndarray], Attributes]:
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(file, "r") as source:
        attributes = {"": _plain_attributes(source)}

        def visit(name: Any, item: Any) -> None:
            if isinstance(name, bytes):
                raise ValueError("a name that is no text")
            if wanted(name) and isinstance(item, h5py.Dataset):
                arrays[name] = item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()]
            if wanted(name) and len(item.attrs):
                attributes[name] = _plain_attributes(item)

        source.visititems(visit)
    return arrays, attributes


def _plain_attributes(item: Any) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for key, value in item.attrs.items()}


def _read_npz(file: Path, wanted: Any, _: Any) -> tuple[dict[str, np.ndarray], Attributes]:
    with np.load(file, allow_pickle=False) as source:
        if not isinstance(source, np.lib.npyio.NpzFile):
            raise ValueError("not an NPZ file")
        attributes = json.loads(bytes(source[_ATTRIBUTES])) if _ATTRIBUTES in source.files else {}
        arrays = {name: source[name] for name in source.files if name != _ATTRIBUTES and wanted(name)}
    return arrays, {"": {}} | attributes
