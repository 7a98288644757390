"""Energy-integrating X-ray detectors: the signal is a sum of photon energies, a compound Poisson variable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.energy.noise import Noise
from diffimg.energy.poisson import PoissonLikelihood


@pytree
class CompoundPoisson(Noise):
    """y = Σ_E quanta(E)·Poisson(n(E)) + N(0, sigma²): quanta of several sizes are counted, each with its own weight.

    Mean ∫ E n dE = A(x), variance ∫ E² n dE + sigma² (B. R. Whiting, Proc. SPIE 4682, 2002; J. Xu, B. M. W. Tsui, IEEE Trans. Med. Imaging
    28(10), 2009). Given A(x) alone, n keeps the *shape* of ``fluence``: exact for one spectrum. Where the object hardens it,
    ``PolyenergeticTransmission.draw`` is exact; there the variance at a given mean is larger than here (by up to the growth of the mean
    energy), which ``second_moment`` tells, as weights for ``LeastSquares`` or the covariance of ``GaussianLikelihood``.

    Likelihood: the shifted Poisson law of equal mean and variance, y/g + sigma²/g² ~ Poisson(A(x)/g + sigma²/g²) with the gain
    g = ∫E²n/∫E n, signal per effective quantum; values below 0 count as 0.

    Args:
        quanta: ``[E]``, signal of one photon of each energy, e.g. ``xray.energy_integrating(energies)``; positive.
        fluence: ``[E]``, relative numbers of photons ≥ 0, not all zero.
        sigma: standard deviation of the electronic noise, in units of the signal.

    Raises:
        ValueError: shapes differ, values negative, not finite or all zero.
    """

    quanta: Any
    fluence: Any
    sigma: Any = 0.0

    def __post_init__(self):
        for name in ("quanta", "fluence", "sigma"):
            value = check.array(name, getattr(self, name))
            check.real(name, value)
            check.finite(name, value)
            check.minimum(name, value, 0.0, strict=name == "quanta")
        check.ndim("quanta", self.quanta, 1, "[E]")
        check.shape("fluence", self.fluence, jnp.shape(self.quanta), "[E]")
        if check.is_concrete(self.fluence):
            check.minimum("sum of fluence", np.sum(np.asarray(self.fluence)), 0.0, strict=True, remedy="There are no photons.")

    @property
    def gain(self) -> jax.Array:
        """g = ∫E²n/∫E n: variance over mean."""
        quanta, fluence = jnp.asarray(self.quanta), jnp.asarray(self.fluence)
        return jnp.sum(quanta**2 * fluence) / jnp.sum(quanta * fluence)

    def variance(self, clean: Any) -> jax.Array:
        """g·clean + sigma²."""
        return self.gain * clean + jnp.square(self.sigma)

    def noise(self, key, clean):
        clean = jnp.asarray(check.array("clean", clean))
        check.inexact("clean", clean)
        check.real("clean", clean)
        check.finite("clean", clean)
        photons, electrons = jax.random.split(key)
        quanta, fluence = (jnp.asarray(v, clean.dtype) for v in (self.quanta, self.fluence))
        signal = _sum_of_quanta(photons, quanta, fluence, jnp.maximum(clean, 0) / jnp.sum(quanta * fluence))
        return jax.lax.stop_gradient(signal) + (self.sigma * jax.random.normal(electrons, clean.shape, clean.dtype)).astype(clean.dtype)

    def likelihood(self, operator, y):
        y = jnp.asarray(check.array("y", y))
        check.inexact("y", y)
        check.finite("y", y)
        gain = self.gain.astype(y.dtype)
        shift = jnp.square(jnp.asarray(self.sigma, y.dtype) / gain)
        return PoissonLikelihood((1 / gain) * operator, jnp.maximum(y / gain + shift, 0), shift)


@jax.jit
def _sum_of_quanta(key, quanta, fluence, exposure):
    def add(total, at):
        size, share, index = at
        count = jax.random.poisson(jax.random.fold_in(key, index), share * exposure)
        return total + size * count.astype(total.dtype), None

    return jax.lax.scan(add, jnp.zeros_like(exposure), (quanta, fluence, jnp.arange(quanta.shape[0])))[0]
