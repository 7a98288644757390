"""Networks as energies: a scalar network, and denoisers in place of a proximal map (plug-and-play) or a gradient (RED)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.weight import nonnegative, positive, real_like


def _admit(name, function):
    if not callable(function):
        check.fail(name, "a pure function of (params, x, …)", check.describe(function), "E.g. nn.on_images(apply), of nn.split.")


@pytree
class Network(Energy):
    """weight · Σ function(params, x): a network whose output is summed, such as an input-convex one or a critic.

    Args:
        function: pure and hashable, x ↦ any real array; ``nn.on_images(apply)`` for networks with channels.
        params: traced, learned.
    """

    function: Callable[..., Any] = static()
    params: Any
    weight: Any = 1.0

    def __post_init__(self):
        _admit("function", self.function)
        nonnegative("weight", self.weight)

    def __call__(self, x):
        out = self.function(self.params, x)
        check.real("function(params, x)", out)
        return real_like(self.weight, x) * jnp.sum(out)


@pytree
class PlugAndPlay(Energy):
    """A denoiser in place of a proximal map: ``prox(v, step)`` = denoise(params, v, √(weight·step)).

    The third argument is the standard deviation of the noise that the denoiser is to remove, in units of the image: the proximal map of
    ``weight``·R is the maximum a posteriori denoiser at that level, where exp(−R) is the prior. Works with every solver that takes a
    proximable term; whether it converges depends on the denoiser (``learn.lipschitz_estimate``). There need be no energy: its value is 0.

    Args:
        denoise: pure and hashable ``denoise(params, x, sigma)``. weight: ≥ 0, such that √(weight·step) is the level to remove at each
            step, in units of the image. Tune it: for a CT of 60 views and images of 0 … 1, 0.004 to 0.01 did best, 0.03 harmed.
        sigma_range: the levels that the denoiser was trained for. Higher ones are refused where known, and NaN inside ``jit`` (a run ends
            with NONFINITE); below the lowest its correction shrinks with σ², as a score's does: a weight of 0 changes nothing.

    S. V. Venkatakrishnan, C. A. Bouman, B. Wohlberg, GlobalSIP (2013) 945.
    """

    denoise: Callable[..., Any] = static()
    params: Any
    weight: Any = 1.0
    sigma_range: tuple[float, float] | None = static(default=None)
    smooth = False

    def __post_init__(self):
        _admit("denoise", self.denoise)
        nonnegative("weight", self.weight)
        if self.sigma_range is not None:
            object.__setattr__(self, "sigma_range", _admit_range(self.sigma_range))

    def __call__(self, x):
        return jnp.zeros((), jnp.finfo(jnp.result_type(x)).dtype)

    def prox(self, v, step):
        sigma = jnp.sqrt(real_like(self.weight, v) * jnp.asarray(step)).astype(jnp.finfo(v.dtype).dtype)
        if self.sigma_range is None:
            return self.denoise(self.params, v, sigma)
        low = jnp.asarray(max(self.sigma_range[0], 1e-6), sigma.dtype)
        level = within("√(weight·step)", jnp.maximum(sigma, low), self.sigma_range)
        return v + jnp.minimum(sigma / low, 1) ** 2 * (self.denoise(self.params, v, level) - v)


@pytree
class RED(Energy):
    """Regularization by denoising, weight/2 ⟨x, x − D(x)⟩, whose gradient is taken as weight·(x − D(x)).

    That is its gradient where D is homogeneous and its Jacobian symmetric; networks are neither, and the fixed point is then one of the
    gradient field (Reehorst & Schniter, 2019). 1-Lipschitz D: the gradient is 2·weight-Lipschitz.

    Args:
        denoise: pure and hashable ``denoise(params, x, sigma)``. sigma: > 0, in units of the image.

    Y. Romano, M. Elad, P. Milanfar, SIAM J. Imaging Sci. 10 (2017) 1804.
    """

    denoise: Callable[..., Any] = static()
    params: Any
    sigma: Any
    weight: Any = 1.0
    sigma_range: tuple[float, float] | None = static(default=None)

    def __post_init__(self):
        _admit("denoise", self.denoise)
        positive("sigma", self.sigma)
        nonnegative("weight", self.weight)
        if self.sigma_range is not None:
            object.__setattr__(self, "sigma_range", _admit_range(self.sigma_range))

    def __call__(self, x):
        return 0.5 * jnp.sum((jnp.conj(x) * self.grad(x)).real)

    def grad(self, x):
        """weight · (x − denoise(x))."""
        sigma = within("sigma", jnp.asarray(self.sigma), self.sigma_range).astype(jnp.finfo(x.dtype).dtype)
        return real_like(self.weight, x) * (x - self.denoise(self.params, x, sigma))

    def lipschitz(self):
        """2·weight: that of a denoiser which does not expand."""
        return 2 * jnp.asarray(self.weight)


def _admit_range(sigma_range):
    low, high = (float(s) for s in sigma_range)
    if not 0 <= low < high:
        check.fail("sigma_range", "(smallest, largest) noise level", str(sigma_range))
    return low, high


def within(name: str, sigma: Any, sigma_range: tuple[float, float] | None) -> Any:
    """Noise levels that a denoiser was trained for: others are an error where they are known, and NaN where they are traced."""
    if sigma_range is None:
        return sigma
    check.noise_level(name, sigma, sigma_range)
    low, high = sigma_range
    known = (sigma >= low * (1 - 1e-4)) & (sigma <= high * (1 + 1e-4))
    return jnp.where(known, jnp.clip(sigma, low, high), jnp.nan)
