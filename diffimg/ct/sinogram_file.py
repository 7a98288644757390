"""Measured or simulated scans in a file: a documented layout in HDF5 or NPZ.

Layout, version 1 (attributes in brackets; in NPZ files they are JSON in the member ``attributes``)::

    /                [format = "diffimg-sinogram", version = 1]
    /sinogram        [unit = "1"] line integrals, [..., view, detector] or [..., view, row, column]
    /counts          [unit]  what the detector counted, the same shape
    /flat, /dark     [unit]  the detector without an object and without beam; of a shape that broadcasts to that of counts
    /energies        [unit = "keV"]  [energy]
    /spectrum        [unit = "1"]    [energy], relative numbers of photons
    /geometry        [class = "FanBeam", and each static field, such as image_shape; lengths in mm]
    /geometry/…      [unit]  each traced field: angles (rad), source_distance (mm), …; pairs as …/0 and …/1

Everything but one of ``sinogram`` and ``counts`` may be missing.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from diffimg import forward
from diffimg.core import check
from diffimg.data.containers import Attributes, read_container, write_container
from diffimg.energy.noise import Transmission

FORMAT, VERSION = "diffimg-sinogram", 1
_RADIANS = ("angles", "detector_tilt")
_ARRAYS = ("sinogram", "counts", "flat", "dark", "energies", "spectrum")
_UNITS = {"sinogram": "1", "energies": "keV", "spectrum": "1"}


@dataclasses.dataclass(frozen=True, eq=False)
class SinogramFile:
    """A scan as it is stored.

    Args:
        sinogram: line integrals, ``[..., view, detector]`` or ``[..., view, row, column]``; None where only counts are known.
        geometry: one of ``diffimg.forward``'s; None where it is not known.
        counts: detector readings of the same shape, ≥ 0.
        flat, dark: readings without an object and without beam, of a shape that broadcasts to that of ``counts``, flat > dark.
        energies, spectrum: ``[energy]``, keV and relative photon numbers.
        unit: of ``counts``, ``flat`` and ``dark``: "photons" or, for unknown gain, "1".

    Raises:
        ValueError: neither sinogram nor counts; shapes that disagree; NaN/Inf, negative counts, a zero flat field, a spectrum that
            cannot be normalised.
    """

    sinogram: Any = dataclasses.field(default=None, repr=False)
    geometry: Any = None
    counts: Any = dataclasses.field(default=None, repr=False)
    flat: Any = dataclasses.field(default=None, repr=False)
    dark: Any = dataclasses.field(default=None, repr=False)
    energies: Any = dataclasses.field(default=None, repr=False)
    spectrum: Any = dataclasses.field(default=None, repr=False)
    unit: str = "photons"

    def __post_init__(self):
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None:
                value = np.asarray(check.array(name, value))
                check.real(name, value)
                check.finite(name, value, "Mask or interpolate bad cells first.")
                object.__setattr__(self, name, value)
        data = self.counts if self.sinogram is None else self.sinogram
        if data is None:
            check.fail("sinogram, counts", "at least one of them", "neither", "A scan without data is none.")
        if self.geometry is not None:
            axes = "view, detector" if len(self.geometry.sinogram_shape) == 2 else "view, row, column"
            check.trailing_shape("sinogram" if self.counts is not data else "counts", data, self.geometry.sinogram_shape, axes)
        self._check_counts(data)
        self._check_spectrum()

    def line_integrals(self, floor: float = 1.0) -> np.ndarray:
        """``sinogram``, or where that is missing −log((counts − dark) / (flat − dark)), float32.

        Args:
            floor: what starved readings (counts − dark below it) are raised to, in the unit of the counts.

        Raises:
            ValueError: counts without a flat field.
        """
        if self.sinogram is not None:
            return self.sinogram
        if self.flat is None:
            check.fail("flat", "the reading without an object", "none", "SinogramFile(counts=…, flat=…): a number will do.")
        dark = np.float32(0) if self.dark is None else self.dark.astype(np.float32)
        return np.asarray(Transmission(self.flat - dark, dark, floor=floor).log(self.counts.astype(np.float32)))

    def _check_counts(self, data: np.ndarray) -> None:
        if self.counts is not None:
            check.shape("counts", self.counts, data.shape, "as the sinogram")
            check.minimum("counts", self.counts, 0, remedy="Counts are read before dark field and flat field are taken off.")
        for name in ("flat", "dark"):
            field = getattr(self, name)
            if field is not None:
                try:
                    fits = np.broadcast_shapes(field.shape, data.shape) == data.shape
                except ValueError:
                    fits = False
                if not fits:
                    remedy = "Average the frames of the field first: [row, column]."
                    check.fail(name, f"a shape that broadcasts to {data.shape}", str(field.shape), remedy)
        if self.flat is not None:
            net = self.flat - (0 if self.dark is None else self.dark.astype(np.float64))
            check.minimum("flat", net, 0, strict=True, remedy="Flat minus dark must be positive: interpolate dead cells first.")

    def _check_spectrum(self) -> None:
        if (self.energies is None) != (self.spectrum is None):
            check.fail("energies, spectrum", "both or neither", "one of them", "They belong together.")
        if self.spectrum is not None and self.energies is not None:
            check.ndim("energies", self.energies, 1, "[energy]")
            check.shape("spectrum", self.spectrum, self.energies.shape, "[energy], as energies")
            check.minimum("energies", self.energies, 0, strict=True, remedy="Energies are in keV.")
            check.minimum("spectrum", self.spectrum, 0, remedy="Photon numbers cannot be negative.")
            check.minimum("spectrum", np.sum(self.spectrum), 0, strict=True, remedy="A spectrum of zeros cannot be normalised.")


def write_sinogram(path: str | os.PathLike[str], scan: SinogramFile) -> None:
    """Write ``….h5`` or ``….npz`` in the layout above, in one piece; a file that is there is replaced.

    Raises:
        ValueError: another suffix, or a geometry that is being traced.
        ImportError: h5py is not installed.
    """
    arrays = {name: getattr(scan, name) for name in _ARRAYS if getattr(scan, name) is not None}
    attributes: Attributes = {"": {"format": FORMAT, "version": VERSION}}
    attributes |= {name: {"unit": _UNITS.get(name, scan.unit)} for name in arrays}
    if scan.geometry is not None:
        _store_geometry(scan.geometry, arrays, attributes)
    write_container(path, arrays, attributes)


def read_sinogram(path: str | os.PathLike[str]) -> SinogramFile:
    """Read a file of the layout above, with its geometry as an object of ``diffimg.forward``.

    For the files of synchrotrons (``/exchange/data``) see :func:`read_exchange`.

    Raises:
        ValueError: missing, truncated, of another layout or of a newer version.
        ImportError: h5py is not installed.
    """
    file = os.path.basename(os.fspath(path))
    arrays, attributes = read_container(path)
    if attributes[""].get("format") != FORMAT:
        remedy = "diffimg.ct.read_exchange reads /exchange/data." if any(n.startswith("exchange/") for n in arrays) else ""
        expected = f"{file} with the attribute format = {FORMAT!r}"
        check.fail("path", expected, repr(attributes[""].get("format")), remedy or "diffimg.ct.sinogram_file documents the layout.")
    if attributes[""].get("version") != VERSION:
        check.fail("path", f"{file} of version {VERSION}", repr(attributes[""].get("version")), "A newer diffimg may read it.")
    geometry = _restore_geometry(file, arrays, attributes) if "geometry" in attributes else None
    unit = next((attributes[name]["unit"] for name in ("counts", "flat", "dark") if "unit" in attributes.get(name, {})), "photons")
    return SinogramFile(geometry=geometry, unit=unit, **{name: arrays[name] for name in _ARRAYS if name in arrays})


def _store_geometry(geometry: Any, arrays: dict[str, Any], attributes: Attributes) -> None:
    own: dict[str, Any] = {"class": type(geometry).__name__}
    attributes["geometry"] = own
    if _geometry_class(own["class"]) is not type(geometry):
        check.fail("geometry", "a geometry of diffimg.forward", own["class"], "Store its poses as forward.Modular.")
    for field in dataclasses.fields(geometry):
        value = getattr(geometry, field.name)
        if value is None:
            continue
        if field.metadata.get("static"):
            own[field.name] = list(value) if isinstance(value, tuple) else value
            continue
        parts = {f"/{k}": part for k, part in enumerate(value)} if isinstance(value, tuple) else {"": value}
        for suffix, part in parts.items():
            if not check.is_concrete(part):
                check.fail(f"geometry.{field.name}", "known numbers", check.describe(part), "Write outside of jit and grad.")
            arrays[f"geometry/{field.name}{suffix}"] = np.asarray(part)
            attributes[f"geometry/{field.name}{suffix}"] = {"unit": "rad" if field.name in _RADIANS else "mm"}


def _restore_geometry(file: str, arrays: dict[str, np.ndarray], attributes: Attributes) -> Any:
    stored = dict(attributes["geometry"])
    name = str(stored.pop("class", ""))
    cls = _geometry_class(name)
    if cls is None:
        check.fail("path", f"{file} with a geometry of diffimg.forward", repr(name), "A newer diffimg may know it.")
    values: dict[str, Any] = {key: _tuples(value) for key, value in stored.items()}
    for path, array in arrays.items():
        group, *field = path.split("/")
        if group == "geometry" and field:
            value = array.item() if np.ndim(array) == 0 else array
            values[field[0]] = (*values.get(field[0], ()), value) if len(field) == 2 else value
    unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        check.fail("path", f"{file} with the fields of {name}", f"also {', '.join(sorted(unknown))}", "A newer diffimg may know them.")
    try:
        return cls(**values)
    except TypeError as error:
        missing = str(error).partition("missing ")[2] or str(error)
        check.fail("path", f"{file} with all fields of {name}", missing, "The file is incomplete.")


def _geometry_class(name: str) -> Any:
    cls = getattr(forward, name, None) if name in forward.__all__ else None
    return cls if dataclasses.is_dataclass(cls) and hasattr(cls, "sinogram_shape") else None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
