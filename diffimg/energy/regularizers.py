"""Regularizers with closed-form proximal maps: quadratic (L2, H1, Tikhonov), L1, and hard bounds."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.data import admit_data
from diffimg.energy.differences import admit_spacing, gradient, gradient_adjoint, spatial_steps, squared_norm_bound
from diffimg.energy.quadratic import Quadratic
from diffimg.energy.thresholding import modulus, soft_threshold, squared_modulus
from diffimg.energy.weight import nonnegative, real_like
from diffimg.forward.operator import Operator


@pytree
class SquaredL2(Energy):
    """weight/2 · ‖x − reference‖² = ½ Σ weight |x − reference|²; the weight is a scalar or broadcasts to x."""

    weight: Any = 1.0
    reference: Any = None

    def __post_init__(self):
        nonnegative("weight", self.weight)
        if self.reference is not None:
            check.finite("reference", check.array("reference", self.reference))

    def _difference(self, x):
        return x if self.reference is None else x - jnp.asarray(self.reference, x.dtype)

    def __call__(self, x):
        d = self._difference(x)
        return 0.5 * jnp.sum(real_like(self.weight, x) * squared_modulus(d))

    def grad(self, x):
        return real_like(self.weight, x) * self._difference(x)

    def lipschitz(self):
        return jnp.max(jnp.asarray(self.weight))

    def prox(self, v, step):
        w = real_like(step, v) * real_like(self.weight, v)
        return v - w / (1 + w) * self._difference(v)


@pytree
class Tikhonov(Quadratic):
    """weight/2 · ‖Gx − reference‖² for any operator G (Tikhonov 1963); ``prox`` as in ``Quadratic``.

    Args:
        weight: λ ≥ 0, a scalar or an array that broadcasts to Gx.
        operator: G.
        reference: shaped like ``G.codomain``; 0 by default.
        tolerance, max_steps: of the conjugate gradients in ``prox``.
    """

    weight: Any
    operator: Operator
    reference: Any = None
    tolerance: Any = 1e-6
    max_steps: int = static(default=200)

    def __post_init__(self):
        nonnegative("weight", self.weight)
        if self.reference is not None:
            object.__setattr__(self, "reference", admit_data(self.reference, self.operator, "reference"))

    @property
    def _target(self):
        return self.reference

    @property
    def _weights(self):
        return self.weight

    def prepare(self):
        return Tikhonov(self.weight, self.operator.prepare(), self.reference, self.tolerance, self.max_steps)


@pytree
class H1(Energy):
    """weight/2 · ‖∇x‖², forward differences with Neumann boundary; the prior x with ∇x ~ N(0, I/weight).

    Args:
        weight: λ ≥ 0, a scalar; 1 by default.
        spacing: lengths of a pixel along the trailing (spatial) axes; all (at most 3) axes, of spacing 1, by default.

    ``prox`` is exact: the cosine transform (DCT-II) diagonalizes the Neumann Laplacian.
    """

    weight: Any = 1.0
    spacing: Any = None

    def __post_init__(self):
        nonnegative("weight", self.weight)
        if jnp.ndim(self.weight):
            check.fail("weight", "a scalar", f"shape {jnp.shape(self.weight)}", "For a map use Tikhonov(weight, forward.Gradient(shape)).")
        object.__setattr__(self, "spacing", admit_spacing(self.spacing))

    def __call__(self, x):
        parts = gradient(x, spatial_steps(x, self.spacing))
        return 0.5 * real_like(self.weight, x) * jnp.sum(sum(squared_modulus(p) for p in parts))

    def grad(self, x):
        steps = spatial_steps(x, self.spacing)
        return real_like(self.weight, x) * gradient_adjoint(gradient(x, steps), steps)

    def lipschitz(self):
        return self.weight * squared_norm_bound(self.spacing)

    @jax.jit
    def prox(self, v, step):
        steps = spatial_steps(v, self.spacing)
        first = v.ndim - len(steps)
        eigenvalues = jnp.zeros((), v.real.dtype)
        for k, h in enumerate(steps):
            n = v.shape[first + k]
            along = real_like(2 - 2 * np.cos(np.pi * np.arange(n) / n), v) / (1 if h is None else h * h)
            eigenvalues = eigenvalues + along.reshape((n,) + (1,) * (len(steps) - 1 - k))
        damping = 1 / (1 + real_like(step, v) * real_like(self.weight, v) * eigenvalues)
        axes = range(first, v.ndim)

        def smooth(u):
            for axis in axes:
                u = jax.scipy.fft.dct(u, axis=axis, norm="ortho")
            u = u * damping
            for axis in axes:
                u = jax.scipy.fft.idct(u, axis=axis, norm="ortho")
            return u

        return jax.lax.complex(smooth(v.real), smooth(v.imag)) if jnp.iscomplexobj(v) else smooth(v)


@pytree
class L1(Energy):
    """Σ weight |Wx|, the sum of moduli; W = ``operator``, the identity by default.

    Args:
        weight: ≥ 0, a scalar, or an array (or pytree) that broadcasts to Wx.
        operator: W. ``prox`` exists where W Wᴴ = I, which an operator states by ``orthonormal = True`` (as the wavelet transform
            does): prox(v) = v + Wᴴ(soft(Wv) − Wv). For any other W give a splitting solver ``composed=((L1(weight), W),)``.
    """

    weight: Any = 1.0
    operator: Operator | None = None
    smooth: ClassVar[bool] = False

    def __post_init__(self):
        for w in jax.tree.leaves(self.weight):
            nonnegative("weight", w)

    def _map(self, function, coefficients):
        if jax.tree.structure(self.weight) == jax.tree.structure(coefficients):
            return jax.tree.map(lambda w, c: function(real_like(w, c), c), self.weight, coefficients)
        return jax.tree.map(lambda c: function(real_like(self.weight, c), c), coefficients)

    def __call__(self, x):
        coefficients = x if self.operator is None else self.operator(x)
        return sum(jax.tree.leaves(self._map(lambda w, c: jnp.sum(w * modulus(c)), coefficients)))

    @property
    def has_prox(self) -> bool:
        return self.operator is None or self.operator.orthonormal

    def prox(self, v, step):
        """Soft thresholding at weight·step."""
        if not self.has_prox:
            check.fail(f"{self!r}.prox", "an operator with W Wᴴ = I", f"{self.operator!r}", "Use Problem(composed=((L1(weight), W),)).")

        def shrink(w, c):
            return soft_threshold(c, w * real_like(step, c))

        if self.operator is None:
            return self._map(shrink, v)
        change = self._map(lambda w, c: shrink(w, c) - c, self.operator(v))
        return jax.tree.map(jnp.add, v, self.operator.H(change))

    def prepare(self):
        return self if self.operator is None else type(self)(self.weight, self.operator.prepare())


@pytree
class WaveletL1(L1):
    """Σ weight |Wx| for an orthonormal wavelet transform W: sparsity of piecewise smooth images; ``prox`` is exact.

    The weight is a scalar or an array that broadcasts to the coefficients, e.g. 0 on the coarse approximation.
    """

    def __post_init__(self):
        super().__post_init__()
        if not (isinstance(self.operator, Operator) and self.operator.orthonormal):
            check.fail("operator", "an orthonormal transform", check.describe(self.operator), "E.g. forward.Wavelet(image_shape).")


@pytree
class Box(Energy):
    """0 where lower ≤ x ≤ upper everywhere, +∞ otherwise; the prox is the projection. None means no bound."""

    lower: Any = None
    upper: Any = None
    smooth: ClassVar[bool] = False

    def __post_init__(self):
        admit_bounds(self.lower, self.upper)

    def __call__(self, x):
        return jnp.where(within(x, self.lower, self.upper), 0, jnp.inf).astype(x.dtype)

    def prox(self, v, step):
        return clip(v, self.lower, self.upper)


@pytree
class NonNegative(Energy):
    """0 where x ≥ 0 everywhere, +∞ otherwise."""

    smooth: ClassVar[bool] = False

    def __call__(self, x):
        return jnp.where(within(x, 0.0, None), 0, jnp.inf).astype(x.dtype)

    def prox(self, v, step):
        return clip(v, 0.0, None)


def admit_bounds(lower: Any, upper: Any) -> None:
    """Bounds are real, not NaN, and not crossed."""
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound is not None:
            check.real(name, check.array(name, bound))
            if check.is_concrete(bound) and np.isnan(bound).any():
                check.fail(name, "numbers", "NaN")
    concrete = check.is_concrete(lower) and check.is_concrete(upper)
    if concrete and not np.all(np.asarray(lower) <= np.asarray(upper)):
        check.fail("lower, upper", "lower ≤ upper", f"{lower} and {upper}", "Exchange them.")


def within(x: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """Whether all of x lies within the bounds."""
    check.real("x", x, "Bounds order real numbers: use no bounds for complex images.")
    inside = jnp.array(True)
    if lower is not None:
        inside &= jnp.all(x >= real_like(lower, x))
    if upper is not None:
        inside &= jnp.all(x <= real_like(upper, x))
    return inside


def clip(x: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """The nearest point within the bounds."""
    if lower is None and upper is None:
        return x
    check.real("x", x, "Bounds order real numbers: use no bounds for complex images.")
    return jnp.clip(x, None if lower is None else real_like(lower, x), None if upper is None else real_like(upper, x))
