"""Noise models: one object that draws noisy data and knows the matching negative log-likelihood.

    model = Poisson(scale=1e3)
    y = model.noise(key, A(x))
    problem = Problem(smooth=model.likelihood(A, y) + …)

Parameters are traced leaves and broadcast against the data. Samples are constants for differentiation with respect to the clean
data, except where noise is added.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy
from diffimg.energy.data import LeastSquares
from diffimg.energy.poisson import PoissonLikelihood
from diffimg.forward.operator import Operator


class Noise:
    """The law of data y given clean data A(x)."""

    def noise(self, key: jax.Array, clean: Any) -> jax.Array:
        """Noisy data of the shape and dtype of ``clean``, any batch axes included."""
        raise TypeError(f"{type(self).__name__} must define noise(self, key, clean).")

    def likelihood(self, operator: Operator, y: Any) -> Energy:
        """−log p(y | A(x)) up to a constant, as an energy of x."""
        raise TypeError(f"{type(self).__name__} must define likelihood(self, operator, y).")


@pytree
class Gaussian(Noise):
    """y = A(x) + n, n ~ N(0, sigma²); for complex data ``sigma`` is that of the real and of the imaginary part.

    Likelihood: ½‖(A(x) − y)/sigma‖².
    """

    sigma: Any

    def __post_init__(self):
        _parameter("sigma", self.sigma, strict=True)

    def noise(self, key, clean):
        clean = _data("clean", clean)
        return clean + (self.sigma * _normal(key, clean)).astype(clean.dtype)

    def likelihood(self, operator, y):
        y = _data("y", y)
        return LeastSquares(operator, y, _full(1 / jnp.square(self.sigma), y))


@pytree
class Poisson(Noise):
    """Counts y ~ Poisson(scale·A(x) + background).

    ``scale``: a scalar, counts per unit of A(x) (exposure, gain); ``background``: expected counts that do not come from x.
    Likelihood: Σ μ − y log μ with μ = scale·A(x) + background.
    """

    scale: Any = 1.0
    background: Any = 0.0

    def __post_init__(self):
        _scalar("scale", self.scale)
        _parameter("background", self.background)

    def noise(self, key, clean):
        clean = _data("clean", clean)
        return _counts(key, self.scale * clean + self.background, clean)

    def likelihood(self, operator, y):
        return PoissonLikelihood(self.scale * operator, _data("y", y), self.background)


@pytree
class PoissonGaussian(Noise):
    """y = Poisson(scale·A(x) + background) + N(0, sigma²): photon counting with read-out noise.

    Likelihood: the shifted Poisson law, y + sigma² ~ Poisson(scale·A(x) + background + sigma²), whose mean and variance are right
    (D. L. Snyder, A. M. Hammoud, R. L. White, J. Opt. Soc. Am. A 10(5), 1993); negative y + sigma² count as 0.
    """

    scale: Any = 1.0
    background: Any = 0.0
    sigma: Any = 1.0

    def __post_init__(self):
        _scalar("scale", self.scale)
        _parameter("background", self.background)
        _parameter("sigma", self.sigma)

    def noise(self, key, clean):
        clean = _data("clean", clean)
        photons, electrons = jax.random.split(key)
        counts = _counts(photons, self.scale * clean + self.background, clean)
        return counts + (self.sigma * _normal(electrons, clean)).astype(clean.dtype)

    def likelihood(self, operator, y):
        y = _data("y", y)
        variance = jnp.square(self.sigma)
        return PoissonLikelihood(self.scale * operator, jnp.maximum(y + variance, 0).astype(y.dtype), self.background + variance)


@pytree
class Transmission(Noise):
    """Transmission CT (Beer–Lambert): N ~ Poisson(photons·e^{−A(x)} + background) + N(0, sigma²), y = −log((N − background)/photons).

    Likelihood: penalised weighted least squares on the post-log data, ½Σ w (A(x) − y)² with w = 1/var(y) estimated from y
    (K. Sauer, C. Bouman, IEEE Trans. Signal Process. 41(2), 1993).

    Args:
        photons: mean count of the unattenuated beam, a scalar or e.g. ``[detector]``.
        background: mean scattered counts, known and subtracted before the logarithm.
        sigma: standard deviation of the electronic noise, in counts.
        floor: counts below it, after subtraction, are raised to it (photon starvation).
    """

    photons: Any
    background: Any = 0.0
    sigma: Any = 0.0
    floor: Any = 1.0

    def __post_init__(self):
        _parameter("photons", self.photons, strict=True)
        _parameter("background", self.background)
        _parameter("sigma", self.sigma)
        _parameter("floor", self.floor, strict=True)

    def counts(self, key: jax.Array, clean: Any) -> jax.Array:
        """Detector readings for line integrals ``clean``."""
        clean = _data("clean", clean)
        photons, electrons = jax.random.split(key)
        counts = _counts(photons, self.photons * jnp.exp(-clean) + self.background, clean)
        return counts + (self.sigma * _normal(electrons, clean)).astype(clean.dtype)

    def log(self, counts: Any) -> jax.Array:
        """Line integrals from detector readings; negative ones are electronic noise, and refused where ``sigma`` is 0."""
        counts = _data("counts", counts)
        if check.is_concrete(self.sigma) and not np.any(self.sigma):
            check.minimum("counts", counts, 0.0, remedy="Detectors count up; state electronic noise as sigma.")
        signal = jnp.maximum(counts - self.background, self.floor)
        return (jnp.log(self.photons) - jnp.log(signal)).astype(counts.dtype)

    def weights(self, y: Any) -> jax.Array:
        """1/var(y), estimated from the post-log data: S²/(S + background + sigma²) with S = photons·e^{−y}."""
        y = _data("y", y)
        signal = self.photons * jnp.exp(-y)
        return (signal**2 / (signal + self.background + jnp.square(self.sigma))).astype(y.dtype)

    def noise(self, key, clean):
        return self.log(self.counts(key, clean))

    def likelihood(self, operator, y):
        y = _data("y", y)
        return LeastSquares(operator, y, self.weights(y))


def _data(name, value):
    value = check.array(name, value)
    check.inexact(name, value)
    check.finite(name, value)
    return jnp.asarray(value)


def _parameter(name, value, strict=False):
    check.array(name, value)
    check.real(name, value)
    check.finite(name, value)
    check.minimum(name, value, 0.0, strict=strict)


def _scalar(name, value):
    _parameter(name, value, strict=True)
    if jnp.ndim(value):
        check.fail(name, "a scalar", f"shape {jnp.shape(value)}", "Put a map of gains into the operator: Diagonal(gain) @ A.")


def _counts(key, mean, clean):
    check.real("clean", clean)
    return jax.random.poisson(key, jnp.maximum(mean, 0), clean.shape).astype(clean.dtype)


def _normal(key, clean):
    """Standard normal; for complex data in both parts (JAX's complex normal has total variance 1)."""
    normal = jax.random.normal(key, clean.shape, clean.dtype)
    return normal * 2**0.5 if jnp.iscomplexobj(clean) else normal


def _full(value, y):
    return jnp.broadcast_to(value, y.shape).astype(jnp.finfo(y.dtype).dtype)
