"""Projections along rays that leave a point: the entry to the projectors of fan and cone beams."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core import check
from diffimg.forward import radon_cone, radon_fan
from diffimg.forward.divergent import Divergent

METHODS = ("distance-driven", "joseph")


def method(geometry: Divergent, name: str) -> str:
    """The projector behind ``"auto"``, and a refusal of one that does not exist for the geometry."""
    if name == "auto":
        return "distance-driven" if geometry.ndim == 2 or geometry.aligned else "joseph"
    check.one_of("method", name, ("auto", *METHODS), "The Fourier method needs parallel rays.")
    return name


@functools.partial(jax.jit, static_argnames="kind")
def forward(geometry: Divergent, x: Any, kind: str) -> jax.Array:
    """Line integrals ``[..., *sinogram_shape]`` of ``x [..., *image_shape]``, real or complex, in the unit of x times mm."""
    check.trailing_shape("x", x, geometry.image_shape, ", ".join("zyx"[-geometry.ndim :]))
    check.inexact("x", x)
    return _batched(x, geometry.image_shape, geometry.sinogram_shape, lambda v: _forward(geometry, v, kind))


@functools.partial(jax.jit, static_argnames="kind")
def adjoint(geometry: Divergent, y: Any, kind: str) -> jax.Array:
    """The exact adjoint of ``forward``."""
    check.trailing_shape("y", y, geometry.sinogram_shape, "view, " + ("detector" if geometry.ndim == 2 else "row, column"))
    check.inexact("y", y)
    return _batched(y, geometry.sinogram_shape, geometry.image_shape, lambda v: _adjoint(geometry, v, kind))


def _batched(v, shape, out_shape, function):
    """A real linear function of ``[slice, ...]`` applied to any batch, in at least single precision, complex by parts."""
    lead = v.shape[: v.ndim - len(shape)]
    flat = v.astype(jnp.promote_types(v.dtype, jnp.float32)).reshape(math.prod(lead), *shape)
    if jnp.iscomplexobj(flat):
        parts = function(jnp.concatenate([flat.real, flat.imag]))
        out = jax.lax.complex(*jnp.split(parts, 2))
    else:
        out = function(flat)
    return out.astype(v.dtype).reshape(*lead, *out_shape)


def _forward(geometry, x, kind):
    if geometry.ndim == 2:
        fan, length = _fan(geometry, x.dtype)
        return length * radon_fan.project(fan, x)
    cone, length = _cone(geometry, x.dtype)
    return lax.map(lambda v: length * radon_cone.project(cone, v), x)


def _adjoint(geometry, y, kind):
    if geometry.ndim == 2:
        fan, length = _fan(geometry, y.dtype)
        return radon_fan.backproject(fan, length * y)
    cone, length = _cone(geometry, y.dtype)
    return lax.map(lambda v: radon_cone.backproject(cone, length * v), y)


def _fan(geometry, dtype):
    return radon_fan.rays(geometry.poses, geometry.image_shape, geometry.pixel_size, geometry.detector_shape[-1], dtype)


def _cone(geometry, dtype):
    sizes = (geometry.slice_thickness, geometry.pixel_size)
    return radon_cone.rays(geometry.poses, geometry.image_shape, sizes, geometry.detector_shape, dtype)
