"""One linear operator applied to every channel: materials, coils, frames."""

from __future__ import annotations

from typing import Any

import jax
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator, apply_forward


@pytree
class Channelwise(Operator):
    """x ↦ (A x₁, …, A x_n) on arrays ``[channel, *domain of A]``: I ⊗ A, e.g. one projector for several material maps.

    An operator takes leading batch axes as it is; this one makes the axis part of the domain, so that operators which mix the channels
    compose with it: ``PolyenergeticTransmission(…) @ Channelwise(Radon(geometry), 2)``.

    Args:
        operator: A, of one array to one array.
        channels: how many.
    """

    operator: Operator
    channels: int = static()

    def __post_init__(self):
        object.__setattr__(self, "channels", check.positive_int("channels", self.channels))
        if not isinstance(self.operator, Operator):
            check.fail("operator", "an Operator", check.describe(self.operator))
        if not hasattr(self.operator.domain, "shape") or not hasattr(self.operator.codomain, "shape"):
            check.fail("operator", "one array to one array", repr(self.operator), "Apply it to the leaves of a tuple one by one.")

    @property
    def domain(self):
        one = self.operator.domain
        return ShapeDtypeStruct((self.channels, *one.shape), one.dtype)

    @property
    def linear(self):  # type: ignore[override]
        return self.operator.linear

    @property
    def orthonormal(self):  # type: ignore[override]
        return self.operator.orthonormal

    @property
    def approximate_normal(self):  # type: ignore[override]
        return self.operator.approximate_normal

    def __call__(self, x):
        if self.operator.batched:
            return apply_forward(self.operator, x)
        return jax.vmap(lambda v: apply_forward(self.operator, v))(x)

    @property
    def H(self):
        self._needs_linear("H")
        return Channelwise(self.operator.H, self.channels)

    @property
    def normal(self):
        self._needs_linear("normal")
        return Channelwise(self.operator.normal, self.channels)

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> Any:
        """σ_max of one channel: it is that of all."""
        return self.operator.norm(key, steps)

    def prepare(self):
        return Channelwise(self.operator.prepare(), self.channels)

    def _name(self):
        return f"{self.channels}×{self.operator._name()}"
