"""Projections along rays that leave a point: the entry to the projectors of fan and cone beams."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffimg.core import check
from diffimg.forward import radon_cone, radon_fan, radon_modular
from diffimg.forward.divergent import Divergent

METHODS = ("distance-driven", "joseph")


def method(geometry: Divergent, name: str) -> str:
    """The projector behind ``"auto"``, and a refusal of one that does not exist for the geometry."""
    if name == "auto":
        return "distance-driven" if geometry.ndim == 2 or geometry.aligned else "joseph"
    check.one_of("method", name, ("auto", *METHODS), "The Fourier method needs parallel rays.")
    if geometry.ndim == 2 and name == "joseph":
        check.fail("method", "'distance-driven' for rays in the plane", "'joseph'", "It is as fast, and averages over the cells.")
    if geometry.ndim == 3 and name == "distance-driven" and not geometry.aligned:
        remedy = "Use method='joseph', or leave detector_tilt out (Modular: aligned=True if you know that it is)."
        check.fail("method", "'joseph' unless the detector's columns are parallel to z", "'distance-driven'", remedy)
    return name


@functools.partial(jax.jit, static_argnames=("kind", "image_model"))
def forward(geometry: Divergent, x: Any, kind: str, image_model: str) -> jax.Array:
    """Line integrals ``[..., *sinogram_shape]`` of ``x [..., *image_shape]``, real or complex, in the unit of x times mm."""
    check.trailing_shape("x", x, geometry.image_shape, ", ".join("zyx"[-geometry.ndim :]))
    check.inexact("x", x)
    return _batched(x, geometry.image_shape, geometry.sinogram_shape, lambda v: _forward(geometry, _samples(v, kind, image_model), kind))


@functools.partial(jax.jit, static_argnames=("kind", "image_model"))
def adjoint(geometry: Divergent, y: Any, kind: str, image_model: str) -> jax.Array:
    """The exact adjoint of ``forward``."""
    check.trailing_shape("y", y, geometry.sinogram_shape, "view, " + ("detector" if geometry.ndim == 2 else "row, column"))
    check.inexact("y", y)
    return _batched(y, geometry.sinogram_shape, geometry.image_shape, lambda v: _samples(_adjoint(geometry, v, kind), kind, image_model))


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


def _samples(x, kind, image_model):
    """What the interpolation has to be fed with to pass through the samples ``x [slice, ...]`` of a band-limited image.

    Along each axis it averages over a pixel ("distance-driven") or with a triangle two pixels wide ("joseph"): to second order in
    frequency that is undone by subtracting c times the second difference, c = 1/24 or 1/12. Symmetric, zero outside the image.
    """
    if image_model == "pixel":
        return x
    c = {"distance-driven": 1 / 24, "joseph": 1 / 12}[kind]
    for axis in range(1, x.ndim):
        n, padded = x.shape[axis], jnp.pad(x, [(1, 1) if k == axis else (0, 0) for k in range(x.ndim)])
        neighbours = lax.slice_in_dim(padded, 0, n, axis=axis) + lax.slice_in_dim(padded, 2, n + 2, axis=axis)
        x = (1 + 2 * c) * x - c * neighbours
    return x


def _forward(geometry, x, kind):
    if geometry.ndim == 2:
        fan, length = _fan(geometry, x.dtype)
        return length * radon_fan.project(fan, x)
    projector, (rays, length) = _space(geometry, x.dtype, kind)
    return lax.map(lambda v: length * projector.project(rays, v), x)


def _adjoint(geometry, y, kind):
    if geometry.ndim == 2:
        fan, length = _fan(geometry, y.dtype)
        return radon_fan.backproject(fan, length * y)
    projector, (rays, length) = _space(geometry, y.dtype, kind)
    return lax.map(lambda v: projector.backproject(rays, length * v), y)


def _fan(geometry, dtype):
    return radon_fan.rays(geometry.poses, geometry.image_shape, geometry.pixel_size, geometry.detector_shape[-1], dtype)


def _space(geometry, dtype, kind):
    projector = radon_modular if kind == "joseph" else radon_cone
    sizes = (geometry.slice_thickness, geometry.pixel_size)
    return projector, projector.rays(geometry.poses, geometry.image_shape, sizes, geometry.detector_shape, dtype)
