"""HDF5 files in the layout of the fastMRI dataset.

``kspace`` ``[slice, (coil,) ky, kx]``, ``reconstruction_rss`` or ``reconstruction_esc`` ``[slice, y, x]``, ``ismrmrd_header``, for test
data ``mask`` ``[kx]``, and attributes. J. Zbontar et al., arXiv:1811.08839.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file
from diffimg.data.extras import optional
from diffimg.data.kspace import KSpace, ScanHeader, centred, parse_header, write_header

_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


def read_fastmri(path: str | os.PathLike[str], slices: Sequence[int] | None = None) -> KSpace:
    """One file, or some of its slices (only those are read).

    Returns:
        ``KSpace`` with ``data`` ``[slice, coil, ky, kx]`` (single-coil files: one coil), axes ("slice",); ``mask`` ``[slice, kx]``, the
        columns that were measured (this dataset undersamples along x); ``reference`` and ``attributes`` as they stand in the file.

    Raises:
        ValueError: missing, truncated or foreign files, NaN, slices out of range.
        ImportError: h5py is not installed.
    """
    file = Path(path)
    if not file.is_file():
        check.fail("path", "an existing file", f"{file.name}, which is none", "Check the path.")
    h5py = optional("h5py", "Reading fastMRI files")
    try:
        with h5py.File(file, "r") as source:
            if "kspace" not in source:
                check.fail("path", "a file of the fastMRI layout, with a dataset 'kspace'", f"one with {sorted(source)[:6]}")
            data = source["kspace"]
            if data.ndim not in (3, 4):
                check.fail("kspace", "shape [slice, (coil,) ky, kx]", f"shape {data.shape}")
            which = range(data.shape[0]) if slices is None else [int(s) for s in slices]
            if any(not 0 <= s < data.shape[0] for s in which):
                check.fail("slices", f"indices in 0 … {data.shape[0] - 1}", str(list(which)))
            kspace = np.stack([data[s] for s in which]).astype(np.complex64) if which else np.zeros((0, *data.shape[1:]), np.complex64)
            reference = next((np.stack([source[n][s] for s in which]) for n in _REFERENCES if n in source and which), None)
            columns = np.asarray(source["mask"][()]).astype(bool).reshape(-1) if "mask" in source else None
            xml = source["ismrmrd_header"][()] if "ismrmrd_header" in source else None
            attributes = {k: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in source.attrs.items()}
    except (OSError, EOFError, KeyError, TypeError, RuntimeError) as error:
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail("path", "a whole HDF5 file", got, "It is truncated, damaged or of another format: fetch it again.")
    check.finite("kspace", kspace, f"{file.name} is damaged.")
    if kspace.ndim == 3:
        kspace = kspace[:, None]
    seen = np.any(kspace != 0, axis=(1, 2)) if columns is None else np.broadcast_to(columns, (kspace.shape[0], kspace.shape[-1]))
    header = None if xml is None else parse_header(xml)
    return KSpace(kspace, ("slice",), seen, None, None, reference, header, attributes)


def write_fastmri(
    path: str | os.PathLike[str], kspace: Any, *, header: ScanHeader | None = None, mask: Any = None, reference: Any = None,
    crop: tuple[int, int] | None = None, attributes: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write ``[slice, coil, ky, kx]`` (or ``[slice, ky, kx]``, single-coil) in one piece.

    Args:
        kspace: complex. header: becomes ``ismrmrd_header``. mask: ``[kx]``, for undersampled data.
        reference: ``[slice, y, x]``; by default the root of the sum of squares of the coils' images, cropped to ``crop``
            (320² in the dataset).
        attributes: e.g. acquisition, patient_id; ``max`` and ``norm`` of the reference are added.

    Raises:
        ValueError: shapes that do not fit, NaN.
    """
    kspace = np.asarray(check.array("kspace", kspace))
    if kspace.ndim not in (3, 4):
        check.fail("kspace", "shape [slice, (coil,) ky, kx]", f"shape {kspace.shape}")
    check.finite("kspace", kspace)
    if mask is not None:
        check.shape("mask", mask, (kspace.shape[-1],), "[kx]")
    coils = 1 if kspace.ndim == 3 else kspace.shape[1]
    if reference is None and mask is None:
        images = centred(kspace, (-2, -1), inverse=True)
        reference = np.abs(images) if kspace.ndim == 3 else np.sqrt(np.sum(np.abs(images) ** 2, axis=1))
        if crop is not None:
            ny, nx = (min(c, n) for c, n in zip(crop, reference.shape[-2:], strict=True))
            top, left = (reference.shape[-2] - ny) // 2, (reference.shape[-1] - nx) // 2
            reference = reference[:, top : top + ny, left : left + nx]
    h5py = optional("h5py", "Writing fastMRI files")
    with whole_file(path) as temporary, h5py.File(temporary, "w") as out:
        out.create_dataset("kspace", data=kspace.astype(np.complex64))
        if header is not None:
            out.create_dataset("ismrmrd_header", data=write_header(header, coils).encode())
        if mask is not None:
            out.create_dataset("mask", data=np.asarray(mask).astype(np.uint8))
        if reference is not None:
            reference = np.asarray(reference, np.float32)
            out.create_dataset("reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc", data=reference)
            out.attrs["max"], out.attrs["norm"] = float(reference.max()), float(np.linalg.norm(reference))
        for name, value in (attributes or {}).items():
            out.attrs[name] = value
