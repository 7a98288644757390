"""Polyenergetic Beer–Lambert transmission: from the line integrals of materials to what a detector reads."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator
from diffimg.forward.xray_photon import floating


@pytree
class PolyenergeticTransmission(Operator):
    """t ↦ Σ_E fluence(E) · response(E) · exp(−Σ_m attenuation(m, E) · t_m): the expected reading of every ray.

        spectrum = xray.tube_spectrum(120.0).scaled(1e5)
        physics = PolyenergeticTransmission(
            spectrum.fluence,
            xray.linear_attenuation(("water", "bone"), spectrum.energies),
            geometry.sinogram_shape,
            xray.energy_integrating(spectrum.energies),
        )
        A = physics @ Channelwise(Radon(geometry), 2)       # maps of volume fractions [material, y, x] → readings [view, detector]

    ``t`` is ``[material, *ray_shape]``: mm of each material where ``attenuation`` is in 1/mm; in general any line integrals whose product
    with ``attenuation`` has no unit (g/cm³·mm with mass attenuation in cm²/g times 0.1). The logarithm comes after, see
    ``ct.log_transform``. Energies are summed one by one, in both directions: memory is a few times that of the rays, not [E × rays].

    Args:
        fluence: photons of each energy in an unattenuated ray, ``[E]``, or ``[E, …]`` with axes that broadcast to ``ray_shape``: a bowtie
            filter or the heel effect, e.g. ``[E, 1, detector]``.
        attenuation: ``[material, E]``.
        ray_shape: shape of one measurement, e.g. ``geometry.sinogram_shape``.
        response: signal per photon: ``[E]``, or ``[bin, E]``, which puts an axis ``[bin]`` before the rays. Energies for an integrating
            detector, 1 for a counting one (``energy_integrating``, ``photon_counting``). Default: 1.

    All arrays are traced leaves: differentiable, learnable.

    Raises:
        ValueError: shapes that do not fit; entries that are negative or not finite; a fluence that is zero everywhere.
    """

    linear: ClassVar[bool] = False

    fluence: Any
    attenuation: Any
    ray_shape: tuple[int, ...] = static()
    response: Any = 1.0

    def __post_init__(self):
        object.__setattr__(self, "ray_shape", tuple(check.positive_int("ray_shape", n) for n in self.ray_shape))
        for name in ("fluence", "attenuation", "response"):
            value = floating(name, getattr(self, name))
            check.minimum(name, value, 0.0)
            object.__setattr__(self, name, value)
        check.ndim("attenuation", self.attenuation, 2, "[material, E]")
        count = self.attenuation.shape[1]
        shape = self.fluence.shape
        if not shape or shape[0] != count:
            check.fail("fluence", f"[E = {count}, …] as in attenuation [material, E]", f"shape {shape}")
        if len(shape) > 1 and not _broadcasts(shape[1:], self.ray_shape):
            check.fail("fluence", f"axes after [E] that broadcast to the rays {self.ray_shape}", f"shape {shape}")
        if self.response.ndim > 2 or (self.response.ndim and self.response.shape[-1] != count):
            check.fail("response", f"a number, [E] or [bin, E] with E = {count}", f"shape {self.response.shape}")
        if check.is_concrete(self.fluence):
            check.minimum("sum of fluence", np.sum(np.asarray(self.fluence)), 0.0, strict=True, remedy="There are no photons.")

    @property
    def domain(self):
        return ShapeDtypeStruct((self.attenuation.shape[0], *self.ray_shape), jax.dtypes.canonicalize_dtype(self.attenuation.dtype))

    @property
    def flat(self) -> jax.Array:
        """The reading without an object, shaped like ``codomain``: the flat field that the logarithm is taken against."""
        return self(jnp.zeros(self.domain.shape, self.domain.dtype))

    @property
    def second_moment(self) -> PolyenergeticTransmission:
        """The operator with response²: the variance of an energy-integrating reading, ∫ E² n dE (compound Poisson).

        A counting detector's variance is its mean, bins with finite energy resolution included (thinned Poisson).
        """
        return PolyenergeticTransmission(self.fluence, self.attenuation, self.ray_shape, jnp.square(self.response))

    def __call__(self, t):
        response = self._response(t.dtype)
        start = jnp.zeros((*response.shape[1:], *self.ray_shape), t.dtype)

        def add(total, at):
            photons, r = self._photons(t, *at[:2]), at[2]
            return total + r.reshape(r.shape + (1,) * len(self.ray_shape)) * photons, None

        # the exponential is computed again in the backward pass instead of being kept for every energy
        step = jax.checkpoint(add, prevent_cse=False)
        return jax.lax.scan(step, start, (*self._energies(t.dtype), response))[0]

    def draw(self, key: jax.Array, t: Any) -> jax.Array:
        """One noisy energy-integrating reading, Σ_E response(E)·Poisson(photons of energy E): the exact compound Poisson law.

        Mean ``self(t)``, variance ``self.second_moment(t)``. (For counting detectors draw Poisson counts with mean ``self(t)``.)

        Args:
            key: random key.
            t: ``[material, *ray_shape]``, unbatched.

        Returns:
            As ``self(t)``, a constant for differentiation.
        """
        t = jnp.asarray(check.array("t", t))
        check.shape("t", t, self.domain.shape, "[material, *ray_shape]", "Use jax.vmap with several keys for a batch.")
        check.inexact("t", t)
        return _draw(self, key, t)

    def _response(self, dtype):
        """[E] or [E, bin]."""
        response = jnp.asarray(self.response, dtype)
        return jnp.moveaxis(response, -1, 0) if response.ndim else jnp.broadcast_to(response, self.fluence.shape[:1])

    def _energies(self, dtype):
        return jnp.asarray(self.fluence, dtype), jnp.asarray(self.attenuation, dtype).T

    def _photons(self, t, fluence, mu):
        """Photons of one energy that arrive. A sum, not a matrix product: it fuses with the exponential."""
        exponent = jnp.sum(mu.reshape(-1, *(1,) * len(self.ray_shape)) * t, 0)
        return fluence * jnp.exp(-exponent)


@jax.jit
def _draw(op, key, t):
    response = op._response(t.dtype)
    start = jnp.zeros((*response.shape[1:], *op.ray_shape), t.dtype)

    def add(total, at):
        photons, r = op._photons(t, *at[:2]), at[2]
        count = jax.random.poisson(jax.random.fold_in(key, at[3]), jnp.broadcast_to(photons, op.ray_shape)).astype(t.dtype)
        return total + r.reshape(r.shape + (1,) * len(op.ray_shape)) * count, None

    index = jnp.arange(response.shape[0])
    return jax.lax.stop_gradient(jax.lax.scan(add, start, (*op._energies(t.dtype), response, index))[0])


def _broadcasts(shape, to):
    try:
        return np.broadcast_shapes(shape, to) == tuple(to)
    except ValueError:
        return False
