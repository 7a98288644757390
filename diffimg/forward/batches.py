"""Work cut into pieces that suit the machine: small ones that stay in a CPU's cache, large ones that fill an accelerator."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import lax

WORK = {"cpu": 2**17, "default": 2**23}  # numbers in one step of a loop over views or lines
_CHUNK = 16  # images at once on an accelerator: 0.3 GB of temporaries at 512²


def over_images(function: Any, x: jax.Array, ndim: int = 2, chunk: int = _CHUNK) -> jax.Array:
    """``function`` over the axes before the last ``ndim`` of x: on a CPU one image after the other, so that the working set stays in
    the cache; on accelerators ``chunk`` at once."""
    lead = x.shape[: x.ndim - ndim]
    if not lead:
        return function(x)
    flat = x.reshape(-1, *x.shape[x.ndim - ndim :])
    if flat.shape[0] == 1:
        y = function(flat[0])[None]
    else:
        y = lax.platform_dependent(flat, cpu=lambda v: lax.map(function, v), default=lambda v: lax.map(function, v, batch_size=chunk))
    return y.reshape(*lead, *y.shape[1:])


def in_steps(function: Any, *operands: Any) -> Any:
    """``function(work, *operands)`` with the numbers that one step of its loops should hold on the machine that runs it."""
    return lax.platform_dependent(*operands, **{machine: functools.partial(function, work) for machine, work in WORK.items()})
