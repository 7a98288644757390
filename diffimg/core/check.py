"""The one place where shapes, dtypes and ranges are checked at the public boundary.

Every error names the argument, what was expected, what came, and how to mend it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np


def fail(argument: str, expected: str, got: str, remedy: str = "") -> NoReturn:
    """Raise the project's ValueError."""
    raise ValueError(f"{argument}: expected {expected}, got {got}." + (f" {remedy}" if remedy else ""))


def is_concrete(value: Any) -> bool:
    """Whether a value can be looked at now (it is not being traced)."""
    return not isinstance(value, jax.core.Tracer) and (isinstance(value, (int, float, complex, bool, np.generic, np.ndarray, jax.Array)))


def is_pytree(argument: str, value: Any) -> None:
    """An object of a class that JAX can take apart, i.e. one decorated with ``@pytree``."""
    if jax.tree_util.all_leaves([value]):
        name = type(value).__name__
        fail(argument, f"{name} to be a pytree", "a plain object", f"Decorate the class: @pytree above class {name} (diffimg.core.pytree).")


def describe(value: Any) -> str:
    """dtype[shape] of an array-like, or the type's name."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    return f"{type(value).__name__} {value!r}" if np.isscalar(value) else type(value).__name__


def array(argument: str, value: Any, remedy: str = "") -> Any:
    """The value as an array; lists become NumPy arrays, pytrees and strings are refused."""
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.dtype.kind in "OSUMm":
            fail(argument, "a numeric array", f"an array of dtype {value.dtype}", remedy or "Rows of different length make object arrays.")
        return value
    try:
        out = np.asarray(value)
    except (ValueError, TypeError):
        fail(argument, "a numeric array", describe(value), remedy)
    if out.dtype.kind not in "biufc":
        fail(argument, "a numeric array", describe(value), remedy)
    return out


def shape(argument: str, value: Any, expected: tuple[int, ...], axes: str = "", remedy: str = "") -> None:
    """Shape must equal ``expected``; ``axes`` names the axes, e.g. ``[view, detector]``."""
    if tuple(jnp.shape(value)) != tuple(expected):
        fail(argument, f"shape {_text(expected)}{' ' + axes if axes else ''}", f"shape {_text(jnp.shape(value))}", remedy)


def trailing_shape(argument: str, value: Any, expected: tuple[int, ...], axes: str = "", remedy: str = "") -> None:
    """The last axes must equal ``expected``; any leading axes are batch axes."""
    got = tuple(jnp.shape(value))
    n = len(expected)
    if len(got) < n or got[len(got) - n :] != tuple(expected):
        fail(
            argument,
            f"shape [..., {', '.join(map(str, expected))}]{' = [..., ' + axes + ']' if axes else ''}",
            f"shape {_text(got)}",
            f"{_axis_remedy(got, tuple(expected))} {remedy}".strip(),
        )


def _axis_remedy(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if sorted(got) == sorted(expected) and got != expected:
        return "The axes are permuted: transpose the array."
    if len(got) == len(expected) + 1 and got[: len(expected)] == expected:
        return "Batch axes come first: jnp.moveaxis(x, -1, 0)."
    return "Rebuild the operator for this shape, or crop, pad or resample the array."


def ndim(argument: str, value: Any, expected: int, axes: str = "", remedy: str = "") -> None:
    """Number of axes must be ``expected``."""
    if jnp.ndim(value) != expected:
        fail(argument, f"{expected} axes{' ' + axes if axes else ''}", f"{jnp.ndim(value)} axes, shape {_text(jnp.shape(value))}", remedy)


def inexact(argument: str, value: Any, remedy: str = "") -> None:
    """The dtype must be floating or complex."""
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.inexact):
        fail(argument, "a floating or complex dtype", str(dtype), remedy or f"Convert it: {argument}.astype('float32').")


def real(argument: str, value: Any, remedy: str = "") -> None:
    """The dtype must not be complex."""
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        fail(argument, "a real dtype", str(dtype), remedy or "Pass real and imaginary part separately.")


def finite(argument: str, value: Any, remedy: str = "") -> None:
    """No NaN or Inf (looked at only where the value is concrete)."""
    if is_concrete(value):
        v = np.asarray(value)
        if v.dtype.kind in "fc" or jnp.issubdtype(v.dtype, jnp.inexact):
            bad = int(v.size - np.count_nonzero(np.isfinite(v)))
            if bad:
                where = np.unravel_index(int(np.argmin(np.isfinite(v))), v.shape) if v.ndim else ()
                fail(
                    argument,
                    "finite values",
                    f"{bad} NaN or Inf of {v.size} (first at {tuple(int(i) for i in where)})",
                    remedy or f"Mask or replace them first, e.g. jnp.nan_to_num({argument}).",
                )


def minimum(argument: str, value: Any, low: float, strict: bool = False, remedy: str = "") -> None:
    """value ≥ low (or > low), looked at only where concrete. NaN fails."""
    if isinstance(value, str):
        fail(argument, f"a number {'>' if strict else '≥'} {low:g}", repr(value), remedy)
    if is_concrete(value):
        v = np.asarray(value)
        ok = (v > low) if strict else (v >= low)
        if not bool(np.all(ok)):
            got = repr(v.item()) if v.ndim == 0 else f"a smallest value of {v.min()}"
            fail(argument, f"values {'>' if strict else '≥'} {low:g}", got, remedy)


def plausible(argument: str, value: Any, largest: float, unit: str, remedy: str, stacklevel: int = 4) -> None:
    """Warn where a known, finite value is so large that its unit must be another one."""
    if is_concrete(value):
        v = np.abs(np.asarray(value))
        v = v[np.isfinite(v)]
        if v.size and v.max() > largest:
            warnings.warn(f"{argument}: values up to {v.max():.4g}, expected {unit}. {remedy}", UserWarning, stacklevel=stacklevel)


def noise_level(argument: str, value: Any, known: tuple[float, float]) -> None:
    """Standard deviations that a denoiser was trained for, (lowest, highest); looked at only where concrete."""
    if is_concrete(value):
        low, high = known
        v = np.asarray(value)
        if not np.all((v >= low * (1 - 1e-4)) & (v <= high * (1 + 1e-4))):
            remedy = "It is in the units of the image: scale the image, change weight or step, or take a denoiser trained for such noise."
            fail(argument, f"a noise level in {low:g} … {high:g}, for which the denoiser was trained", str(v), remedy)


def positive_int(argument: str, value: Any, remedy: str = "") -> int:
    """A Python integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        fail(argument, "an integer ≥ 1", describe(value), remedy)
    return int(value)


def one_of(argument: str, value: Any, choices: Iterable[str], remedy: str = "") -> None:
    """The value must be one of the named choices; the nearest is suggested."""
    choices = list(choices)
    if value not in choices:
        near = nearest(str(value), choices)
        fail(argument, "one of " + ", ".join(repr(c) for c in choices), repr(value), remedy or (f"Did you mean {near!r}?" if near else ""))


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice closest in spelling, or None."""
    import difflib

    plain = {"".join(c for c in choice.lower() if c.isalnum()): choice for choice in choices}
    found = difflib.get_close_matches("".join(c for c in word.lower() if c.isalnum()), list(plain), n=1, cutoff=0.5)
    return plain[found[0]] if found else None


def _text(s: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, s)) + ("," if len(tuple(s)) == 1 else "") + ")"
