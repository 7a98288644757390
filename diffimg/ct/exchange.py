"""Scans in the Data Exchange layout of synchrotron beamlines.

Source: F. De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data", Journal of Synchrotron
Radiation 21 (2014) 1224–1230.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from diffimg import forward
from diffimg.core import check
from diffimg.ct.sinogram_file import SinogramFile
from diffimg.data.containers import read_container

_DEGREES = ("deg", "degree", "degrees", "")


def read_exchange(path: str | os.PathLike[str], pixel_size: float = 1.0, rotation_centre: float | None = None) -> SinogramFile:
    """Read ``/exchange/data`` ``[view, row, column]`` with its white and dark fields and angles.

    The result is a stack of parallel-beam slices: counts ``[row, view, detector]``, rows as batch axis; ``flat`` and ``dark`` are the
    means of the frames of ``data_white`` and ``data_dark``, ``[row, 1, detector]``; ``geometry`` is a ``ParallelBeam`` of the angles in
    ``theta`` (degrees unless its attribute ``units`` says rad) on an image of detector × detector pixels. ``scan.line_integrals()`` is
    the sinogram.

    Args:
        path: the HDF5 file.
        pixel_size: of the detector at the sample, mm; the layout has no one place for it.
        rotation_centre: column, counted from 0, that the axis is seen in; the detector's centre by default.

    Raises:
        ValueError: missing or truncated, parts of the layout missing, frames of other sizes, negative counts, a zero flat field.
        ImportError: h5py is not installed.
    """
    file = os.path.basename(os.fspath(path))
    arrays, attributes = read_container(path, ("exchange",))
    for name in ("data", "theta", "data_white"):
        if f"exchange/{name}" not in arrays:
            found = ", ".join(sorted(arrays)) or "nothing in /exchange"
            check.fail("path", f"{file} with /exchange/{name}", found, "diffimg.ct.SinogramFile takes the arrays themselves.")
    data = arrays["exchange/data"]
    check.ndim("/exchange/data", data, 3, "[view, row, column]")
    theta = np.asarray(arrays["exchange/theta"], float).reshape(-1)
    check.shape("/exchange/theta", theta, data.shape[:1], "[view]", "The scan was cut short, or has views without an angle.")
    unit = str(attributes.get("exchange/theta", {}).get("units", "")).lower()
    if unit in _DEGREES:
        theta = np.deg2rad(theta)
    elif not unit.startswith("rad"):
        check.fail("/exchange/theta", "units of degrees or radians", repr(unit), "Mend the attribute with h5py.")
    centre = (data.shape[2] - 1) / 2
    offset = 0.0 if rotation_centre is None else (centre - rotation_centre) * pixel_size
    n = data.shape[2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "detector_count")  # these scans see the inscribed circle, not the image's corners
        geometry = forward.ParallelBeam((n, n), theta, n, pixel_size, pixel_size, offset)
    fields: dict[str, Any] = {}
    for name, source in (("flat", "exchange/data_white"), ("dark", "exchange/data_dark")):
        if source in arrays:
            frames = np.asarray(arrays[source], np.float32).reshape(-1, *arrays[source].shape[-2:])
            check.shape(f"/{source}", frames[0], data.shape[1:], "[row, column]")
            fields[name] = frames.mean(0)[:, None, :]
    return SinogramFile(geometry=geometry, counts=np.moveaxis(data, 1, 0), unit="1", **fields)
