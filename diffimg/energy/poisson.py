"""The Poisson likelihood of counts, finite for every image."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from diffimg.core import check, linalg
from diffimg.core.pytree import pytree
from diffimg.energy.base import Energy
from diffimg.energy.data import admit_data, admit_weights
from diffimg.energy.quadratic import forward_and_backward
from diffimg.energy.thresholding import safe_sqrt
from diffimg.energy.weight import positive, real_like
from diffimg.forward.algebra import Scaled
from diffimg.forward.basic import Diagonal, Identity
from diffimg.forward.operator import Operator
from diffimg.forward.structure import admit


class _Law(NamedTuple):
    """φ(z) for samples y: where its parabola begins (t), that parabola's curvature, and the one added for z < 0."""

    y: jax.Array
    t: jax.Array
    curvature: jax.Array
    barrier: jax.Array


@pytree
class PoissonLikelihood(Energy):
    """Σ φ(z) with z = Ax + background and φ(z) = z − y log z: minus the log likelihood of Poisson counts y, without its constants in x.

    φ has a pole at z = 0 and no value below, where unconstrained iterates, extrapolated ones and projectors that interpolate in the
    Fourier domain do go. So for z < t it is replaced by its second-order Taylor polynomial at t: C¹, convex and finite everywhere, with
    a gradient that is Lipschitz everywhere. (A. Chambolle, M. Ehrhardt, P. Richtárik, C. Schönlieb, SIAM J. Optim. 28(4), 2018, extend φ
    so below t = background, which bounds no curvature without one.) Here t = max((threshold·y!)^(1/y), min(background, y/2)); the
    first is the mean at which y or more counts have a probability of at most ``threshold``, since P(Y ≥ y) ≤ z^y/y!. For y < t, the
    polynomial would fall on to a minimum far below 0, so (1 − y/t)·z²/(2·max(threshold, background)) is added for z < 0: with y = 0 and
    no background, φ is z for z ≥ 0 and z + z²/(2·threshold) below.

    A minimiser with z ≥ t everywhere (z ≥ 0 where y = 0) minimises the exact likelihood as well: both agree around it and are convex.
    The constraint z ≥ 0 becomes soft: pair the energy with ``NonNegative`` or a bounded ``TotalVariation``.

    Args:
        operator: A, from image to expected counts.
        y: counts ≥ 0, shaped like ``operator.codomain``; finite.
        background: expected counts that do not come from x (scatter, dark counts), ≥ 0, a scalar or broadcasting to y. One of a few
            counts makes the problem far better conditioned (see ``lipschitz``).
        threshold: a probability, also t (in counts) where y = 1. The curvature there is 1/threshold²: a larger one, up to 0.1, allows
            longer steps; where most expected counts are below 0.02, lower it.

    ``prox`` is in closed form for real ``Identity`` and ``Diagonal`` operators and multiples of them; for any other, give a splitting
    solver ``composed=((PoissonLikelihood(Identity(A.codomain.shape), y), A),)``.

    Raises:
        ValueError: if y has the wrong shape, is negative, complex or not finite; if the background is negative or the threshold not
            in (0, 1).
    """

    operator: Operator
    y: Any
    background: Any = 0.0
    threshold: Any = 0.02

    def __post_init__(self):
        for leaf in jax.tree.leaves(self.y):
            check.real("y", leaf, "Counts are real numbers.")
        object.__setattr__(self, "y", admit_data(self.y, self.operator))
        for leaf in jax.tree.leaves(self.y):
            check.minimum("y", leaf, 0.0, remedy="Counts are not negative: subtract no offset, pass it as background=.")
        admit_weights("background", self.background, self.y)
        positive("threshold", self.threshold, "The likelihood itself has no value at z ≤ 0.")
        if jnp.ndim(self.threshold) or (check.is_concrete(self.threshold) and self.threshold >= 1):
            check.fail("threshold", "one probability in (0, 1)", f"{self.threshold!r}")

    def _terms(self, ax: Any) -> tuple[list[tuple[jax.Array, _Law]], Any]:
        """(z, φ) leaf by leaf, in the precision of Ax."""
        leaves, tree = jax.tree.flatten(ax)
        b = jax.tree.leaves(self.background)
        b = b if jax.tree.structure(self.background) == tree else b * len(leaves)
        terms = []
        for a, c, n in zip(leaves, b, jax.tree.leaves(self.y), strict=True):
            c, y, threshold = (real_like(v, a) for v in (c, n, self.threshold))
            # the y-th root of threshold·y!
            rare = jnp.exp((jnp.log(threshold) + gammaln(y + 1)) / jnp.maximum(y, 1))
            t = jnp.maximum(rare, jnp.minimum(c, y / 2))
            terms.append((a + c, _Law(y, t, y / t**2, jnp.maximum(1 - y / t, 0) / jnp.maximum(threshold, c))))
        return terms, tree

    def __call__(self, x: Any) -> jax.Array:
        """Σ φ(z), exact where z ≥ t. Leading (batch) axes are summed over."""
        terms, _ = self._terms(self.operator(x))
        return functools.reduce(jnp.add, (jnp.sum(_value(z, law)) for z, law in terms))

    def grad(self, x: Any) -> Any:
        """Aᴴφ′(z), which is Aᴴ(1 − y/z) where z ≥ t."""
        return self.value_and_grad(x)[1]

    def value_and_grad(self, x: Any) -> tuple[jax.Array, Any]:
        """(E(x), ∇E(x)) from one A(x)."""
        ax, backward = forward_and_backward(self.operator, x)
        terms, tree = self._terms(ax)
        value = functools.reduce(jnp.add, (jnp.sum(_value(z, law)) for z, law in terms))
        return value, backward(jax.tree.unflatten(tree, [_slope(z, law) for z, law in terms]))

    def lipschitz(self) -> Any:
        """‖Aᴴ diag(max φ″) A‖, from above: finite, and valid everywhere. max φ″ is y/t², or 1/max(threshold, background) for y = 0."""
        terms, tree = self._terms(jax.tree.map(jnp.zeros_like, self.y))
        leaves = zip(terms, jax.tree.leaves(self.operator.codomain), strict=True)
        # batch axes: one bound for all
        most = [jnp.max((law.curvature + law.barrier).reshape(-1, *s.shape), 0) for (_, law), s in leaves]
        root = jax.tree.unflatten(tree, [jnp.sqrt(c) for c in most])
        adjoint = self.operator.H

        def weighted(y):
            return jax.tree.map(lambda r, v: r.astype(v.dtype) * v, root, y)

        norm = linalg.operator_norm(lambda x: weighted(self.operator(x)), lambda y: adjoint(weighted(y)), self.operator.domain)
        return norm.upper**2

    @property
    def has_prox(self) -> bool:
        gain = _gain(self.operator)
        return gain is not None and not jnp.iscomplexobj(gain) and not jnp.issubdtype(self.operator.domain.dtype, jnp.complexfloating)

    def prox(self, v: Any, step: Any) -> Any:
        """argmin_x E(x) + ‖x − v‖²/(2·step): pixel by pixel the positive root of a quadratic in z, or the minimum of a parabola."""
        if not self.has_prox:
            return super().prox(v, step)
        v = admit(v, self.operator.domain, "v", self.operator)
        d = real_like(_gain(self.operator), v)
        ((shifted, law),) = self._terms(d * v)[0]
        z = _prox(shifted, real_like(step, v) * d * d, law)
        blind = d == 0
        return jnp.where(blind, v, (z - (shifted - d * v)) / jnp.where(blind, 1, d))

    def prepare(self) -> PoissonLikelihood:
        """The same energy with ``operator.prepare()``."""
        return PoissonLikelihood(self.operator.prepare(), self.y, self.background, self.threshold)

    def __repr__(self):
        return f"Poisson(y | {self.operator!r} + background)"


def _gain(operator: Operator) -> Any:
    """d where the operator is x ↦ d·x, otherwise None."""
    if isinstance(operator, Identity):
        return 1.0
    if isinstance(operator, Diagonal):
        return operator.weights
    if isinstance(operator, Scaled):
        inner = _gain(operator.operator)
        return None if inner is None else operator.factor * inner
    return None


def _value(z, law):
    above, below, negative = jnp.maximum(z, law.t), jnp.minimum(z - law.t, 0), jnp.minimum(z, 0)
    exact = above - law.y * jnp.log(above)
    return exact + (1 - law.y / law.t) * below + law.curvature / 2 * below**2 + law.barrier / 2 * negative**2


def _slope(z, law):
    below = jnp.minimum(z - law.t, 0)
    return 1 - law.y / jnp.maximum(z, law.t) + law.curvature * below + law.barrier * jnp.minimum(z, 0)


def _prox(v, step, law):
    """argmin_z φ(z) + (z − v)²/(2·step)."""
    exact = _positive_root(v - step, step * law.y)
    down = v - step * (1 - 2 * law.y / law.t)  # v − step·φ′(0)
    parabola = down / (1 + step * (law.curvature + jnp.where(down < 0, law.barrier, 0)))
    return jnp.where(v - law.t >= step * (1 - law.y / law.t), exact, parabola)


def _positive_root(c, q):
    """The root z ≥ 0 of z² − c z − q = 0 for q ≥ 0, without cancellation for c < 0 and with finite derivatives at c = q = 0."""
    s = jnp.abs(c) + safe_sqrt(c * c + 4 * q)
    return jnp.where(c < 0, 2 * q / jnp.maximum(s, jnp.finfo(s.dtype).tiny ** 0.3), s / 2)
