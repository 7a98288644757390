"""The fields that scan geometries have in common: their checks, their text, and the selection of views."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import summary

G = TypeVar("G")


def centred(count: int) -> np.ndarray:
    """Indices 0 … count−1 counted from the centre (count−1)/2, float64."""
    return np.arange(count) - (count - 1) / 2


def image_shape(value: Any, axes: tuple[str, ...] = ("ny", "nx")) -> tuple[int, ...]:
    """The image's shape as a tuple of positive integers, one for each of ``axes``."""
    if not isinstance(value, (tuple, list)) or len(value) != len(axes):
        number, batch = {2: ("two", "stack of slices"), 3: ("three", "stack of volumes")}[len(axes)]
        check.fail(
            "image_shape", f"{number} integers ({', '.join(axes)})", repr(value), f"A {batch} is a batch: it stays out of the geometry."
        )
    return tuple(check.positive_int("image_shape", n) for n in value)


def detector_shape(value: Any, axes: tuple[str, ...]) -> tuple[int, ...]:
    """The detector's shape as a tuple of positive integers, one for each of ``axes``; a number stands for one axis."""
    if len(axes) == 1 and not isinstance(value, (tuple, list)):
        value = (value,)
    if not isinstance(value, (tuple, list)) or len(value) != len(axes):
        check.fail("detector_shape", f"{len(axes)} integers ({', '.join(axes)})", repr(value))
    return tuple(check.positive_int("detector_shape", n) for n in value)


def angles(value: Any, stacklevel: int = 4, many_turns: bool = False) -> Any:
    """``[view]`` in radians; concrete lists and NumPy arrays become float64 (float32 stays), so that tables keep full precision.

    Warns of what looks like degrees: beyond two turns, or, where ``many_turns`` are usual, also far apart.
    """
    if isinstance(value, (int, float)) or not isinstance(value, (jax.Array, np.ndarray)):
        value = check.array("angles", value, "Pass a vector of radians, e.g. np.linspace(0, np.pi, 180, endpoint=False).")
    check.ndim("angles", value, 1, "[view]", "Pass a vector of radians, one a view.")
    check.real("angles", value, "Pass radians.")
    if value.shape[0] == 0:
        check.fail("angles", "at least one view", "an empty array", "Pass e.g. np.linspace(0, np.pi, 180, endpoint=False).")
    value = floating(value)
    check.finite("angles", value, "Drop the views without a known angle.")
    if check.is_concrete(value) and _looks_like_degrees(np.asarray(value), many_turns):
        warnings.warn(
            f"angles: expected radians, got values up to {float(np.max(np.abs(np.asarray(value)))):g}, beyond 4π. "
            "If they are degrees, pass np.deg2rad(angles).",
            UserWarning,
            stacklevel=stacklevel,
        )
    return value


def _looks_like_degrees(values: np.ndarray, many_turns: bool) -> bool:
    far = float(np.max(np.abs(values))) > 4 * math.pi
    return far and not (many_turns and float(np.median(np.abs(np.diff(values, append=values[-1:])))) < 0.9)


def floating(value: Any) -> Any:
    """Integers as floating point: float64 on the host."""
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return value.astype(np.float64 if isinstance(value, np.ndarray) else jnp.float32)


def length(name: str, value: Any) -> float:
    """A static, positive number of mm."""
    if isinstance(value, (bool, str)) or not np.isscalar(value) or not np.isreal(value) or not math.isfinite(value) or value <= 0:
        check.fail(
            name, "a positive number of mm", check.describe(value), "Lengths are static Python floats; rescale the image to trace them."
        )
    return float(value)


def offset(value: Any) -> Any:
    """A traced scalar shift of the detector, mm."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        value = check.array("detector_offset", value, "Pass one shift in mm.")
    check.ndim("detector_offset", value, 0, "", "Pass one shift in mm for all views.")
    return per_view("detector_offset", value, 0)


def per_view(name: str, value: Any, view_count: int, unit: str = "mm") -> Any:
    """A traced number that all views share, or ``[view]``; concrete scalars become floats, host arrays float64 (float32 stays)."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        value = check.array(name, value, f"Pass one number in {unit}, or one a view.")
    if value.ndim > 0:
        check.shape(name, value, (view_count,), "[view]", f"Pass one number in {unit} for all views, or one a view.")
    check.real(name, value)
    check.finite(name, value)
    if value.ndim > 0:
        return floating(value)
    return value if isinstance(value, jax.Array) else float(value)


def distance(name: str, value: Any, view_count: int) -> Any:
    """As ``per_view``, positive."""
    value = per_view(name, value, view_count)
    virtual = "A virtual detector at the axis: put the real one in its place, with detector_spacing times the magnification."
    check.minimum(name, value, 0.0, strict=True, remedy=virtual if name == "detector_distance" else "From the source to the axis, in mm.")
    return value


def tilt(name: str, value: Any, view_count: int) -> Any:
    """As ``per_view``, radians within ±80°."""
    value = per_view(name, value, view_count, "radians")
    if check.is_concrete(value) and float(np.max(np.abs(np.asarray(value)))) > math.radians(80):
        worst = float(np.max(np.abs(np.asarray(value))))
        check.fail(name, "angles within ±80° (1.396 rad)", f"{worst:g} rad", "If they are degrees, pass np.deg2rad(...).")
    return value


def pair(name: str, value: Any, view_count: int) -> tuple[Any, ...]:
    """``(along z, along the rows of cells)``, mm, each as ``per_view``."""
    values = _parts(name, value, ("along z", "along the rows of cells"), "(0.0, 1.5)")
    return tuple(per_view(f"{name}[{k}]", v, view_count) for k, v in enumerate(values))


def tilts(name: str, value: Any, view_count: int) -> tuple[Any, ...]:
    """``(roll, pitch, yaw)``, each as ``tilt``."""
    values = _parts(name, value, ("roll", "pitch", "yaw"), "(0.0, 0.01, 0.0), radians")
    return tuple(tilt(f"{name}[{k}]", v, view_count) for k, v in enumerate(values))


def _parts(name: str, value: Any, parts: tuple[str, ...], example: str) -> tuple[Any, ...]:
    try:
        values = tuple(value)
    except TypeError:
        values = ()
    if len(values) != len(parts) or isinstance(value, (str, dict)):
        got = f"{len(values)} of them" if values else check.describe(value)
        check.fail(name, f"{len(parts)} values ({', '.join(parts)})", got, f"E.g. {name}={example}.")
    return values


def select_views(geometry: G, index: Any, view_count: int) -> G:
    """The geometry with the views ``index``: a slice or integers, which may be traced. All its leaves with axes are per view."""
    if not isinstance(index, (slice, jax.Array)):
        index = check.array("index", index, "Pass a slice or integers.")
    if not isinstance(index, slice):
        check.ndim("index", index, 1, "[view]", "Pass a slice, or a vector of integers.")
        if not jnp.issubdtype(index.dtype, jnp.integer):
            remedy = "Pass np.flatnonzero(mask)." if index.dtype == bool else ""
            check.fail("index", "a slice or integers", check.describe(index), remedy)
        if check.is_concrete(index) and index.size and not -view_count <= int(np.min(index)) <= int(np.max(index)) < view_count:
            check.fail("index", f"views 0 … {view_count - 1}", f"{int(np.min(index))} … {int(np.max(index))}")
    count = len(range(*index.indices(view_count))) if isinstance(index, slice) else index.shape[0]
    if count == 0:
        check.fail("index", f"at least one of the {view_count} views", "none of them")

    def take(leaf):
        if jnp.ndim(leaf) == 0:
            return leaf
        return (jnp.asarray(leaf) if isinstance(index, jax.Array) else leaf)[index]

    return jax.tree.map(take, geometry)


def host(geometry: G) -> G | None:
    """The geometry with NumPy leaves, or None while a leaf is traced."""
    if not all(check.is_concrete(leaf) for leaf in jax.tree.leaves(geometry)):
        return None
    return jax.tree.map(np.asarray, geometry)


def geometry_text(geometry: Any) -> str:
    """``Class(field=value, …)``, which ``eval`` rebuilds where the leaves are concrete and ``np`` is in scope."""
    parts = (f"{f.name}={field_text(getattr(geometry, f.name))}" for f in dataclasses.fields(geometry))
    return f"{type(geometry).__name__}({', '.join(parts)})"


def field_text(value: Any) -> str:
    """One field: numbers and host or device arrays in full, regular vectors as ``np.linspace``, tracers in short."""
    if isinstance(value, tuple):
        return f"({', '.join(map(field_text, value))}{',' if len(value) == 1 else ''})"
    if not isinstance(value, (jax.Array, np.ndarray)):
        return repr(value)
    if not check.is_concrete(value):
        return summary(value)
    values = np.asarray(value)
    if values.ndim == 0:
        return repr(float(values))
    kind = "" if values.dtype == np.float64 else f", dtype=np.{values.dtype.name}"
    return (_linspace(values, kind) if values.ndim == 1 else None) or f"np.array({values.tolist()!r}{kind})"


def _linspace(values: np.ndarray, kind: str) -> str | None:
    first, last, n = float(values[0]), float(values[-1]), len(values)
    if n <= 2:
        return None
    stop = first + (last - first) * (n / (n - 1))
    eighth = math.pi / 4
    candidates = [(round(stop / eighth) * eighth, False), (last, True)]
    candidates += [(stop + ulps * float(np.spacing(stop)), False) for ulps in range(-4, 5)]
    for end, endpoint in candidates:
        if np.array_equal(np.linspace(first, end, n, endpoint=endpoint).astype(values.dtype), values):
            return f"np.linspace({first!r}, {end!r}, {n}{'' if endpoint else ', endpoint=False'}{kind})"
    return None
