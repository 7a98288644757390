"""A dynamic series as low rank plus sparse in temporal frequency."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import ShapeDtypeStruct

from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.forward.operator import Operator


@pytree
class Parts(Operator):
    """(L, S) ↦ L + S, ``[2, *shape]`` → ``[*shape]``."""

    shape: tuple[int, ...] = static()

    @property
    def domain(self):
        return ShapeDtypeStruct((2, *self.shape), jnp.complex64)

    def __call__(self, x):
        return x[0] + x[1]

    def adjoint(self, y):
        return jnp.stack([y, y])


@pytree
class LowRankAndSparse(Energy):
    """``first(L) + second(F_t S)`` of ``[2, frame, ...]``, F_t the orthonormal Fourier transform over the frames; the prox is exact."""

    first: Energy
    second: Any
    smooth: ClassVar[bool] = False

    def __call__(self, x):
        return self.first(x[0]) + self.second(jnp.fft.fft(x[1], axis=0, norm="ortho"))

    def prox(self, v, step):
        spectrum = self.second.prox(jnp.fft.fft(v[1], axis=0, norm="ortho"), step)
        return jnp.stack([self.first.prox(v[0], step), jnp.fft.ifft(spectrum, axis=0, norm="ortho")])
