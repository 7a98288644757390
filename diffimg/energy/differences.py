"""Forward differences with Neumann boundary as separate arrays, the form in which XLA fuses the inner loops of TV.

``forward.stencil.Gradient`` is the same map as an operator, with the components stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.energy.weight import positive, real_like


def admit_spacing(spacing: Any) -> tuple[Any, ...] | None:
    """``spacing`` as a tuple of positive lengths, one an axis, or None."""
    if spacing is None:
        return None
    if not isinstance(spacing, (tuple, list)) and np.ndim(spacing) != 1:
        check.fail("spacing", "one length for each spatial axis", repr(spacing), "E.g. spacing=(1.0, 1.0) for an image [y, x].")
    for h in spacing:
        positive("spacing", h, "Spacings are lengths, e.g. in mm.")
    return tuple(spacing)


def spatial_steps(x: jax.Array, spacing: Sequence[Any] | None) -> tuple[Any, ...]:
    """Grid spacings of the trailing axes of ``x`` over which to differentiate: all axes (at most 3), of spacing 1, by default."""
    if spacing is None:
        if jnp.ndim(x) > 3:
            check.fail("x", "at most 3 axes", f"shape {jnp.shape(x)}", "Give spacing, a length for each spatial axis; others are batch.")
        return (None,) * jnp.ndim(x)
    if len(spacing) > jnp.ndim(x):
        check.fail("x", f"at least {len(spacing)} axes (spacing has {len(spacing)})", f"shape {jnp.shape(x)}")
    return tuple(real_like(h, x) for h in spacing)


def gradient(x: jax.Array, steps: Sequence[Any]) -> tuple[jax.Array, ...]:
    """(x[i+1] − x[i])/h along each of the last ``len(steps)`` axes; 0 in the last place. Each part is shaped like x."""
    return tuple(_scaled(_forward(x, axis), h) for axis, h in _axes(x, steps))


def gradient_adjoint(parts: Sequence[jax.Array], steps: Sequence[Any]) -> jax.Array:
    """Adjoint of ``gradient`` (minus the divergence) for fields that vanish in the last place along their axis, as gradients do."""
    terms = [_scaled(_backward(p, axis), h) for p, (axis, h) in zip(parts, _axes(parts[0], steps), strict=True)]
    return sum(terms[1:], terms[0])


def vanish_last(parts: Sequence[jax.Array], steps: Sequence[Any]) -> tuple[jax.Array, ...]:
    """The fields with 0 in the last place along their axis, where ``gradient`` has it and ``gradient_adjoint`` needs it."""

    def cleared(p, axis):
        n = p.shape[axis]
        return lax.dynamic_update_slice_in_dim(p, jnp.zeros_like(lax.slice_in_dim(p, 0, 1, axis=axis)), n - 1, axis)

    return tuple(cleared(p, axis) for p, (axis, _) in zip(parts, _axes(parts[0], steps), strict=True))


def squared_norm_bound(steps: Sequence[Any] | None) -> Any:
    """Σ 4/h², an upper bound of ‖gradient‖², tight to π²/(4n²) relative on n points; that of 3 axes where the axes are not known."""
    return sum(4.0 if h is None else 4 / h**2 for h in ((None,) * 3 if steps is None else steps))


def _axes(x, steps):
    first = jnp.ndim(x) - len(steps)
    return [(first + k, h) for k, h in enumerate(steps)]


def _scaled(d, h):
    return d if h is None else d / h


def _forward(x, axis):
    n = x.shape[axis]
    ahead = [lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(x, n - 1, n, axis=axis)]
    return jnp.concatenate(ahead, axis) - x


def _backward(p, axis):
    n = p.shape[axis]
    first = jnp.zeros_like(lax.slice_in_dim(p, 0, 1, axis=axis))
    return jnp.concatenate([first, lax.slice_in_dim(p, 0, n - 1, axis=axis)], axis) - p
