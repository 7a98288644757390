"""Receive coils: the image times every coil's sensitivity."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.forward.operator import Operator


@pytree
class CoilMaps(Operator):
    """x ↦ (S₁x, …, S_c x): ``[*image_shape]`` → ``[coil, *image_shape]``.

    ``MaskedFFT`` and ``NUFFT`` take maps themselves; this is the operator to compose with where the maps are learned or estimated
    while everything behind them is prepared: ``Channelwise(NUFFT(shape, trajectory).prepare(), coils) @ CoilMaps(maps)``.

    Args:
        maps: complex ``[coil, *image_shape]``, traced.

    Raises:
        ValueError: no axis of coils, NaN, or maps that vanish everywhere.
    """

    maps: Any

    def __post_init__(self):
        maps = check.array("maps", self.maps)
        object.__setattr__(self, "maps", admit_coils(maps, tuple(jnp.shape(maps)[1:]), "maps"))

    @property
    def domain(self):
        return ShapeDtypeStruct(tuple(jnp.shape(self.maps)[1:]), jnp.complex64)

    def __call__(self, x):
        return self.maps.astype(x.dtype) * x

    def adjoint(self, y):
        return jnp.sum(jnp.conj(self.maps).astype(y.dtype) * y, axis=0)

    def gram(self, x):
        return jnp.sum((self.maps * jnp.conj(self.maps)).real.astype(x.real.dtype), axis=0) * x


def admit_coils(coils: Any, spatial: tuple[int, ...], name: str = "coils") -> Any:
    """Coil maps ``[..., coil, *spatial]``, finite and not zero everywhere."""
    coils = check.array(name, coils)
    axes = "coil, " + ", ".join("zyx"[3 - len(spatial) :])
    if jnp.ndim(coils) <= len(spatial):
        remedy = "One coil's map is [1, …]: coils[None]."
        check.fail(name, f"shape [..., {axes}]", f"shape {tuple(jnp.shape(coils))}", remedy)
    check.trailing_shape(name, coils, spatial, ", ".join("zyx"[3 - len(spatial) :]))
    check.inexact(name, coils)
    check.finite(name, coils)
    if check.is_concrete(coils) and not np.any(np.asarray(coils)):
        check.fail(name, "maps with some support", "zero everywhere", "Estimate them from the centre of k-space: diffimg.mri.espirit.")
    return coils
