"""MR images of one DICOM series told apart, and their acquisition parameters in the units of ``diffimg.mri``.

A series may hold several images of every slice: echoes, inversion times, flip angles, b-values, time points, or the components of complex
images. Source: DICOM PS3.3 C.8.3.1 (MR image), C.8.13 (enhanced MR: image type, echo, timing, temporal position).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from diffimg.core import check
from diffimg.data.deidentify import NUMBERS, TEMPORAL, number

_COMPONENTS = ("magnitude", "phase", "real", "imaginary")
_WORDS = {word: name for name in _COMPONENTS for word in (name[0].upper(), name.upper())} | {"PHASE MAP": "phase"}  # M, P, R, I by vendors
_TELLING = ("echo_time_ms", "inversion_time_ms", "flip_angle_deg", "repetition_time_ms", "diffusion_b_value", *TEMPORAL)  # in this order
_NEVER_MIXED = ("component", "echo_time_ms")  # other parameters may change from slice to slice of one image (interleaved, triggered)

# name in diffimg.mri (and in data.ScanHeader) → name in the metadata, its unit in SI
_SI = {
    "te": ("echo_time_ms", 1e-3),
    "tr": ("repetition_time_ms", 1e-3),
    "ti": ("inversion_time_ms", 1e-3),
    "flip": ("flip_angle_deg", math.pi / 180),
    "field": ("field_strength_t", 1.0),
    "frequency": ("imaging_frequency_mhz", 1e6),
}


def mr_parameters(metadata: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Acquisition parameters by the argument names of ``diffimg.mri``, in SI units: ``fit_t2_multi_echo(image, **mr_parameters(m, "te"))``.

    Args:
        metadata: of a volume that :func:`read_dicom` read.
        names: which of ``te``, ``tr``, ``ti`` (s), ``flip`` (rad), ``field`` (T) and ``frequency`` (Hz, of the nucleus) are wanted; by
            default all that the metadata hold.

    Returns:
        name → a float, or an array ``[image]`` (float64) of what differs along the volume's leading axis.

    Raises:
        ValueError: an unknown name, or one that the metadata do not hold (for each image).
    """
    found: dict[str, Any] = {}
    for name in names or _SI:
        check.one_of("names", name, _SI)
        key, unit = _SI[name]
        value = np.asarray(metadata.get(key), np.float64) * unit  # NaN for None
        if np.isfinite(value).all():
            found[name] = value if value.ndim else float(value)
        elif names:
            remedy = "The files do not tell it, or it changes from slice to slice: give the value yourself."
            check.fail("metadata", f"{key}, for {name!r}", str(metadata.get(key)), remedy)
    return found


def parameters(lookup: Callable[[str], Any]) -> dict[str, Any]:
    """What may tell an image from others of its slice, None where the file does not say.

    Args:
        lookup: the value of an attribute by keyword, or None; it knows of functional groups.
    """
    numbers = {name: number(lookup, (NUMBERS | TEMPORAL)[name]) for name in _TELLING}
    # rounded, so that 4.6 and the single-precision 4.5999999 are one echo
    rounded = {name: round(value, 4) if value is not None and math.isfinite(value) else None for name, value in numbers.items()}
    return {"component": _component(lookup), **rounded}


def told_apart(at: Sequence[Sequence[Any]], name: Callable[[Any], str]) -> tuple[list[list[Any]], dict[str, Any]]:
    """The images of a series, each with one frame a position, and what the metadata say of them.

    They are sorted by component, echo time, inversion time, flip angle, repetition time, b-value and temporal position.

    Args:
        at: for each position its frames, with their ``position`` (mm, LPS) and :func:`parameters`.
        name: names a frame in errors.

    Returns:
        ``[image][position]`` frames; and name → a tuple with one value an image, the component of all, or None for what has no single value
        because it changes from slice to slice.

    Raises:
        ValueError: two frames of one position that nothing tells apart; an image that is missing at a position.
    """
    values = {key: {frame.parameters[key] for here in at for frame in here} for key in at[0][0].parameters}
    needed = [key for key in _NEVER_MIXED if len(values[key]) > 1]
    telling = [key for key in values if key in needed or any(len({frame.parameters[key] for frame in here}) > 1 for here in at)]
    for count in range(len(telling), len(needed) - 1, -1):  # the last ones may change with the slice too, as trigger times do
        found = [{_key(frame, telling[:count]): frame for frame in here} for here in at]
        images = sorted(found[0], key=_rank)
        if all(len(here) == len(keys) and keys.keys() == found[0].keys() for here, keys in zip(at, found, strict=True)):
            metadata: dict[str, Any] = {"component": at[0][0].parameters["component"]}
            metadata |= {key: None for key, some in values.items() if len(some) > 1}
            metadata |= {key: tuple(image[i] for image in images) for i, key in enumerate(telling[:count])}
            return [[here[image] for here in found] for image in images], metadata
    _refuse(at, telling, name)


def _key(frame: Any, names: Sequence[str]) -> tuple:
    return tuple(frame.parameters[name] for name in names)


def _rank(key: tuple) -> tuple:
    """To sort by: what is not known first, components in their usual order."""
    return tuple((value is not None, _COMPONENTS.index(value) if isinstance(value, str) else value) for value in key)


def _refuse(at: Sequence[Sequence[Any]], telling: Sequence[str], name: Callable[[Any], str]) -> NoReturn:
    wanted: dict[tuple, Any] = {}
    for here in at:
        seen: dict[tuple, Any] = {}
        for frame in here:
            key = _key(frame, telling)
            if key in seen:
                remedy = f"A file is there twice, or none of component, {', '.join(_TELLING)} tells them apart: list the files of one."
                check.fail("source", "one slice at each position", f"{name(seen[key])} and {name(frame)} at the same one", remedy)
            seen[key] = frame
        wanted |= seen
    for here in at:
        missing = wanted.keys() - {_key(frame, telling) for frame in here}
        if missing:
            key = min(missing, key=_rank)
            what = ", ".join(f"{n} {v if v is None or isinstance(v, str) else f'{v:g}'}" for n, v in zip(telling, key, strict=True))
            place = f"({', '.join(f'{v:g}' for v in here[0].position)}) mm, where {name(here[0])} is"
            remedy = "Fetch what is missing, or list the files of one image, or of one slice, at a time."
            check.fail("source", f"each image at each position, as {name(wanted[key])} of {what}", f"none of it at {place}", remedy)
    raise AssertionError("told_apart refuses only series with images that are missing or there twice")


def _component(lookup: Callable[[str], Any]) -> str | None:
    """From ComplexImageComponent, or else from the third value on of FrameType or ImageType; None where they do not say."""
    for keyword, first in (("ComplexImageComponent", 0), ("FrameType", 2), ("ImageType", 2)):
        value = lookup(keyword)
        for word in ([value] if isinstance(value, str) else list(value or ()))[first:]:
            if str(word).strip().upper() in _WORDS:
                return _WORDS[str(word).strip().upper()]
    return None
