"""The ridge regularizer: one learned potential on the responses of learned filters, with its modulus of weak convexity known."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.filter_bank import admit_filters, dct_filters, gain, responses
from diffimg.energy.weight import nonnegative, positive, real_like

KNOTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@pytree
class RidgeRegularizer(Energy):
    """weight Σ_i s_i² Σ ψ(|f_i ∗ x|/s_i) for images ``[..., y, x]``, real or complex, with periodic boundaries.

    ψ is even, its second derivative constant between the knots and 0 beyond the last: a sparsifying potential, convex where
    ``curvatures`` ≥ 0, weakly convex elsewhere. All leaves are traced. The Hessian lies between −``weak_convexity()`` and
    ``lipschitz()``: ½‖x − y‖² + R(x) is convex, and its minimiser unique, where the first is below 1.

    Args:
        filters: ``[filter, ky, kx]`` real; ``dct_filters`` gives a start.
        scales: ``[filter]`` > 0 or one for all, in units of the responses.
        curvatures: ``[knots − 1]``: ψ'' between two knots.
        weight: ≥ 0.
        knots: increasing from 0, in units of ``scales``.

    Raises:
        ValueError: other shapes, scales that are not positive, knots that do not increase from 0.

    A. Goujon, S. Neumayer, M. Unser, SIAM J. Imaging Sci. 17 (2024) 91.
    """

    filters: Any
    scales: Any
    curvatures: Any
    weight: Any = 1.0
    knots: tuple[float, ...] = static(default=KNOTS)

    def __post_init__(self):
        filters = admit_filters(self.filters)
        object.__setattr__(self, "filters", filters)
        positive("scales", self.scales)
        if tuple(jnp.shape(self.scales)) not in ((), (filters.shape[0],)):
            check.fail("scales", f"one, or {filters.shape[0]} of them, one a filter", f"shape {tuple(jnp.shape(self.scales))}")
        nonnegative("weight", self.weight)
        knots = tuple(float(k) for k in self.knots)
        object.__setattr__(self, "knots", knots)
        if len(knots) < 2 or knots[0] != 0 or any(b <= a for a, b in itertools.pairwise(knots)):
            check.fail("knots", "at least two, increasing from 0", str(knots))
        check.shape("curvatures", check.array("curvatures", self.curvatures), (len(knots) - 1,), remedy="One between two knots.")
        check.finite("curvatures", self.curvatures)

    def __call__(self, x):
        r = responses(self.filters, x)
        scales = self._scales(r)
        squared = (r * jnp.conj(r)).real / scales**2
        far = squared > self.knots[1] ** 2
        t = jnp.sqrt(jnp.where(far, squared, 1))  # a root only where it is differentiable
        curvatures, pieces = real_like(self.curvatures, x), list(itertools.pairwise(self.knots))
        beyond = curvatures[0] * pieces[0][1] * (t - 0.5 * pieces[0][1])
        for c, (low, high) in zip(curvatures[1:], pieces[1:], strict=True):
            inside = jnp.clip(t, low, high) - low
            beyond = beyond + c * (0.5 * inside**2 + (high - low) * jnp.maximum(t - high, 0))
        return real_like(self.weight, x) * jnp.sum(scales**2 * jnp.where(far, beyond, 0.5 * curvatures[0] * squared))

    def grad(self, x):
        """weight Σ_i s_i f_iᵀ ∗ ψ'(f_i ∗ x / s_i)."""
        out, pull = jax.vjp(lambda v: responses(self.filters, v), x)
        scales = self._scales(out)
        t = out / scales
        if jnp.iscomplexobj(x):
            squared = (t * jnp.conj(t)).real
            far = squared > self.knots[1] ** 2
            size = jnp.sqrt(jnp.where(far, squared, 1))
            slope = jnp.where(far, self._slope(size) / size, real_like(self.curvatures, x)[0]) * t
        else:
            slope = self._slope(t)
        # real filters: the transpose is the adjoint, of either part
        return real_like(self.weight, x) * pull(scales * slope)[0]

    def weak_convexity(self) -> jax.Array:
        """m ≥ 0 such that R + m/2 ‖·‖² is convex."""
        return jnp.asarray(self.weight) * jnp.maximum(0, -jnp.min(jnp.asarray(self.curvatures))) * gain(self.filters)

    def lipschitz(self) -> jax.Array:
        """weight · max |ψ''| · max over frequencies of Σ_i |f̂_i|²."""
        return jnp.asarray(self.weight) * jnp.max(jnp.abs(jnp.asarray(self.curvatures))) * gain(self.filters)

    def _slope(self, t):
        """ψ'(t), odd, of real t."""
        curvatures, slope, last = real_like(self.curvatures, t), jnp.zeros_like(t), jnp.zeros_like(t)
        for c, high in zip(curvatures, self.knots[1:], strict=True):
            clipped = jnp.clip(t, -high, high)
            slope, last = slope + c * (clipped - last), clipped
        return slope

    def _scales(self, r):
        scales = real_like(self.scales, r)
        return scales.reshape(-1, *(1,) * (r.ndim - 1)) if scales.ndim else scales


def ridge_parameters(size: int = 7, count: int | None = None, scale: float = 0.05, knots: tuple[float, ...] = KNOTS) -> dict[str, Any]:
    """Free parameters to learn a :class:`RidgeRegularizer` from; ``constrained_ridge`` makes one of any such numbers.

    Args:
        size: of the filters. count: how many of the cosine filters to start from, the lowest frequencies first (default: all).
        scale: size of filter responses where the potential turns, in units of the image.
    """
    filters = dct_filters(size)
    order = np.argsort(np.add(*np.divmod(np.arange(1, size**2), size)), kind="stable")
    filters = filters[order][: check.positive_int("count", count) if count is not None else None]
    start = np.where(np.asarray(knots[:-1]) < 1, 1.0, -2.0)
    return {
        "filters": filters,
        "log_scales": np.full(len(filters), np.log(scale), np.float32),
        "curvatures": start.astype(np.float32),
        "log_steepness": np.zeros((), np.float32),
        "log_weight": np.zeros((), np.float32),
    }


def constrained_ridge(params: dict[str, Any], weak: float = 0.99, knots: tuple[float, ...] = KNOTS) -> RidgeRegularizer:
    """The regularizer of free parameters: filters without mean and of norm 1, −weak ≤ weight·ψ'' ≤ steepness, ψ' ≥ 0 for t ≥ 0.

    ``weak`` < 1 keeps ½‖x − y‖² + R(x) strongly convex, whatever was learned; 0 makes R convex. As ψ never falls, R ≥ 0: problems whose
    data leave something open have a solution.
    """
    check.minimum("weak", weak, 0.0)
    filters = params["filters"]
    filters = filters - jnp.mean(filters, axis=(1, 2), keepdims=True)
    filters = filters / jnp.sqrt(gain(filters))
    top = jnp.exp(params["log_steepness"] + params["log_weight"])
    share = jax.nn.sigmoid(params["curvatures"])
    curvatures = _never_falling(top * share - weak * (1 - share), np.diff(knots))
    return RidgeRegularizer(filters, jnp.exp(params["log_scales"]), curvatures, 1.0, knots)


def _never_falling(curvatures, widths):
    """Curvatures raised where the slope, their running integral, would become negative."""
    slope, raised = jnp.zeros_like(curvatures[0]), []
    for c, width in zip(curvatures, widths, strict=True):
        raised.append(jnp.maximum(c, -slope / width))
        slope = jnp.maximum(slope + raised[-1] * width, 0)
    return jnp.stack(raised)
