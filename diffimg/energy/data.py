"""Data terms: how well A(x) explains the measurement y, under Gaussian and Poisson noise."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check, linalg
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.quadratic import Quadratic, forward_and_backward
from diffimg.energy.thresholding import safe_sqrt
from diffimg.energy.weight import nonnegative, positive, real_like
from diffimg.forward.basic import Diagonal, Identity
from diffimg.forward.operator import Operator, provides
from diffimg.forward.structure import admit, size


def admit_data(y: Any, operator: Any, argument: str = "y") -> Any:
    """Measured data checked against the codomain of ``operator`` and cast to its precision; NaN and Inf are refused."""
    if not isinstance(operator, Operator):
        check.fail("operator", "an Operator", check.describe(operator), "Wrap a matrix in forward.Matrix, a function in forward.Function.")
    y = _floating(check.array(argument, y)) if isinstance(y, list) else jax.tree.map(lambda v: _floating(check.array(argument, v)), y)
    for leaf in jax.tree.leaves(y):
        check.finite(argument, leaf)
    return admit(y, operator.codomain, argument, operator)


def _floating(v):
    return v.astype(np.float32) if v.dtype.kind in "bui" else v


def _admit_weights(argument: str, weights: Any, y: Any) -> Any:
    leaves, tree = jax.tree.flatten(weights)
    data, structure = jax.tree.flatten(y)
    if tree != structure and len(leaves) != 1:
        check.fail(argument, f"a scalar, an array or a pytree like y ({structure})", f"{tree}")
    for w, v in zip(leaves if tree == structure else leaves * len(data), data, strict=True):
        nonnegative(argument, w)
        if not _broadcasts(jnp.shape(w), v.shape):
            check.fail(argument, f"a shape that broadcasts to y, {v.shape}", f"shape {jnp.shape(w)}")
    return weights


def _broadcasts(shape, to):
    try:
        return np.broadcast_shapes(shape, to) == tuple(to)
    except ValueError:
        return False


@pytree
class LeastSquares(Quadratic):
    """½ Σ w |Ax − y|².

    Args:
        operator: A, linear or not.
        y: measured data, shaped like ``operator.codomain`` (a tuple for ``Stack``), leading batch axes allowed; finite.
        weights: w ≥ 0, e.g. 1/variance or 0 where nothing was measured: a scalar, an array that broadcasts to y, or a pytree like y.
        tolerance, max_steps: of the conjugate gradients in ``prox``, see ``Quadratic``.

    Raises:
        ValueError: if y has the wrong shape, is not finite, or is complex where A(x) is real; if a weight is negative.
    """

    operator: Operator
    y: Any
    weights: Any = None
    tolerance: Any = 1e-6
    max_steps: int = static(default=200)

    def __post_init__(self):
        object.__setattr__(self, "y", admit_data(self.y, self.operator))
        if self.weights is not None:
            _admit_weights("weights", self.weights, self.y)

    @property
    def _target(self):
        return self.y

    @property
    def _weights(self):
        return self.weights

    def prepare(self) -> LeastSquares:
        """The same energy with ``operator.prepare()``. Where A has a fast AᴴA (``gram``) and the data are not weighted, the
        gradient becomes AᴴA x − Aᴴy with Aᴴy computed here, once; the value still comes from A(x), because ½⟨x, AᴴAx⟩ − ⟨x, Aᴴy⟩
        cancels in float32. The gradient is then as exact as ``gram`` is."""
        operator = self.operator.prepare()
        if self.weights is None and operator.linear and provides(operator, "gram"):
            return _NormalLeastSquares(operator, self.y, None, self.tolerance, self.max_steps, operator.H(self.y))
        return LeastSquares(operator, self.y, self.weights, self.tolerance, self.max_steps)

    def __repr__(self):
        return f"½‖{self.operator!r} − y‖²" + ("" if self.weights is None else "_w")


@pytree
class _NormalLeastSquares(LeastSquares):
    backprojection: Any = None

    def grad(self, x):
        return jax.tree.map(lambda n, b: n - b.astype(n.dtype), self.operator.normal(x), self.backprojection)

    def value_and_grad(self, x):
        return self(x), self.grad(x)

    def _hessian(self, x):
        return self.operator.normal(x)

    def lipschitz(self):
        normal = self.operator.normal
        return linalg.operator_norm(normal, normal, self.operator.domain, steps=20).upper

    def prepare(self):
        return self


@pytree
class GaussianLikelihood(Quadratic):
    """½ (Ax − y)ᴴ Σ⁻¹ (Ax − y): minus the log likelihood of Gaussian noise of covariance Σ, without its constants in x
    (½ log det Σ among them).

    Args:
        operator: A.
        y: measured data, shaped like ``operator.codomain``; finite.
        covariance: Σ, in squared units of y: a positive scalar variance, one variance a sample (broadcasts to y), or, for small
            problems, a dense symmetric (Hermitian) positive definite ``[m, m]`` with m the number of samples in ``y.reshape(-1)``.
            Half of E|n|² for complex noise n of which the real and the imaginary part have this variance each.
        tolerance, max_steps: of the conjugate gradients in ``prox``, see ``Quadratic``.

    Raises:
        ValueError: as ``LeastSquares``; if the covariance is not positive definite or of another shape.
    """

    operator: Operator
    y: Any
    covariance: Any
    tolerance: Any = 1e-6
    max_steps: int = static(default=200)

    def __post_init__(self):
        object.__setattr__(self, "y", admit_data(self.y, self.operator))
        if self._is_diagonal:
            _admit_weights("covariance", self.covariance, self.y)
            for c in jax.tree.leaves(self.covariance):
                positive("covariance", c, "Leave a sample out with LeastSquares(…, weights=0 there).")
        else:
            _admit_covariance(self.covariance, self.y)

    @property
    def _is_diagonal(self):
        samples = jax.tree.leaves(self.operator.codomain)
        m = size(samples)
        dense = jax.tree.structure(self.covariance).num_leaves == 1 and jnp.shape(self.covariance) == (m, m)
        return not dense or len(samples) > 1 or samples[0].shape == (m, m)

    @property
    def _target(self):
        return self.y

    @property
    def _weights(self):
        return jax.tree.map(lambda c: 1 / jnp.asarray(c), self.covariance)

    def _factor(self, like):
        dtype = like.dtype if jnp.iscomplexobj(self.covariance) else like.real.dtype
        return jax.scipy.linalg.cho_factor(jnp.asarray(self.covariance, dtype), lower=True)[0]

    def _precision(self, r):
        if self._is_diagonal:
            return super()._precision(r)
        columns = r.reshape(-1, size(self.operator.codomain)).T
        return jax.scipy.linalg.cho_solve((self._factor(r), True), columns).T.reshape(r.shape)

    def _precision_norm(self):
        if self._is_diagonal:
            return super()._precision_norm()
        return 1 / jnp.linalg.eigvalsh(jnp.asarray(self.covariance))[0]

    def prepare(self) -> Energy:
        """A scalar variance: the prepared (fast) ``LeastSquares``, scaled; variances: weights; dense Σ: factored once."""
        if not self._is_diagonal:
            factor = self._factor(self.y)
            return _FactoredGaussian(self.operator.prepare(), self.y, self.covariance, self.tolerance, self.max_steps, factor)
        if jnp.ndim(self.covariance) == 0 and len(jax.tree.leaves(self.covariance)) == 1:
            return (1 / self.covariance) * LeastSquares(self.operator, self.y, None, self.tolerance, self.max_steps).prepare()
        return LeastSquares(self.operator.prepare(), self.y, self._weights, self.tolerance, self.max_steps)

    def __repr__(self):
        return f"½‖{self.operator!r} − y‖²_Σ⁻¹"


def _admit_covariance(covariance, y):
    check.finite("covariance", covariance)
    if not jnp.iscomplexobj(y):
        check.real("covariance", covariance, "The data are real.")
    if check.is_concrete(covariance):
        c = np.asarray(covariance)
        if not np.allclose(c, c.conj().T, rtol=1e-5, atol=1e-6 * np.abs(c).max()):
            check.fail("covariance", "a symmetric (Hermitian) matrix", "one that is not", "Symmetrize it: (C + C.conj().T) / 2.")
        smallest = np.linalg.eigvalsh(c)[0]
        if not smallest > 0:
            check.fail("covariance", "a positive definite matrix", f"a smallest eigenvalue of {smallest:.3g}", "Add a small multiple of I.")


@pytree
class _FactoredGaussian(GaussianLikelihood):
    factor: Any = None

    def _factor(self, like):
        return self.factor

    def prepare(self):
        return self


@pytree
class PoissonLikelihood(Energy):
    """Σ z − y log z with z = Ax + background: minus the log likelihood of Poisson counts y, without its constants in x.

    Domain: z ≥ 0, and z > 0 where y > 0; +∞ outside. The gradient Aᴴ(1 − y/z) stays finite everywhere: where z < ε(1 + y), ε the machine
    epsilon of z, it is taken at z = ε(1 + y). It points back into the domain, so pair it with ``NonNegative`` or a backtracking step.

    Args:
        operator: A, from image to expected counts; entries of A and x ≥ 0 keep z in the domain.
        y: counts ≥ 0, shaped like ``operator.codomain``; finite.
        background: expected counts that do not come from x (scatter, dark counts), ≥ 0, a scalar or broadcasting to y. With a positive
            background the gradient is Lipschitz on {Ax ≥ 0} (see ``lipschitz``).

    ``prox`` is in closed form for ``Identity`` and real ``Diagonal`` operators; for any other, give a splitting solver
    ``composed=((PoissonLikelihood(Identity(shape), y), A),)``.

    Raises:
        ValueError: if y has the wrong shape, is negative, complex or not finite; if the background is negative.
    """

    operator: Operator
    y: Any
    background: Any = 0.0

    def __post_init__(self):
        for leaf in jax.tree.leaves(self.y):
            check.real("y", leaf, "Counts are real numbers.")
        object.__setattr__(self, "y", admit_data(self.y, self.operator))
        for leaf in jax.tree.leaves(self.y):
            check.minimum("y", leaf, 0.0, remedy="Counts are not negative: subtract no offset, pass it as background=.")
        _admit_weights("background", self.background, self.y)

    def _terms(self, ax):
        """(z, y), leaf by leaf, in the precision of Ax."""
        leaves, tree = jax.tree.flatten(ax)
        b = jax.tree.leaves(self.background)
        b = b if jax.tree.structure(self.background) == tree else b * len(leaves)
        y = jax.tree.leaves(self.y)
        return [(a + real_like(c, a), real_like(n, a)) for a, c, n in zip(leaves, b, y, strict=True)], tree

    def __call__(self, x: Any) -> jax.Array:
        """Σ z − y log z; +∞ outside the domain. Leading (batch) axes are summed over."""
        terms, _ = self._terms(self.operator(x))
        return functools.reduce(jnp.add, (jnp.sum(_poisson(z, y)) for z, y in terms))

    def grad(self, x: Any) -> Any:
        """Aᴴ(1 − y/z)."""
        ax, backward = forward_and_backward(self.operator, x)
        terms, tree = self._terms(ax)
        return backward(jax.tree.unflatten(tree, [1 - y / jnp.maximum(z, jnp.finfo(z.dtype).eps * (1 + y)) for z, y in terms]))

    def lipschitz(self) -> Any:
        """σ_max(A)²·max(y/background²), on {Ax ≥ 0}; infinite without a background."""
        terms, _ = self._terms(jax.tree.map(jnp.zeros_like, self.y))
        curvature = [jnp.max(jnp.where(y > 0, y / (b * b), 0)) for b, y in terms]
        return self.operator.norm() ** 2 * jnp.max(jnp.stack(curvature))

    @property
    def has_prox(self) -> bool:
        return isinstance(self.operator, (Identity, Diagonal)) and not jnp.issubdtype(self.operator.domain.dtype, jnp.complexfloating)

    def prox(self, v: Any, step: Any) -> Any:
        """argmin_x E(x) + ‖x − v‖²/(2·step), the positive root of a quadratic in z, pixel by pixel."""
        if not self.has_prox:
            return super().prox(v, step)
        v = admit(v, self.operator.domain, "v", self.operator)
        d = real_like(getattr(self.operator, "weights", 1.0), v)
        ((shifted, y),) = self._terms(d * v)[0]
        curvature = real_like(step, v) * d * d
        c = shifted - curvature
        z = _positive_root(c, curvature * y)
        blind = d == 0
        return jnp.where(blind, v, (z - (shifted - d * v)) / jnp.where(blind, 1, d))

    def prepare(self) -> PoissonLikelihood:
        """The same energy with ``operator.prepare()``."""
        return PoissonLikelihood(self.operator.prepare(), self.y, self.background)

    def __repr__(self):
        return f"Poisson(y | {self.operator!r} + background)"


def _poisson(z, y):
    inside = (z > 0) | ((z == 0) & (y == 0))
    logarithm = jnp.log(jnp.maximum(z, jnp.finfo(z.dtype).tiny))
    return jnp.where(inside, z - jnp.where(y > 0, y * logarithm, 0), jnp.inf)


def _positive_root(c, q):
    """The root z ≥ 0 of z² − c z − q = 0 for q ≥ 0, without cancellation for c < 0 and with finite derivatives at c = q = 0."""
    s = jnp.abs(c) + safe_sqrt(c * c + 4 * q)
    return jnp.where(c < 0, 2 * q / jnp.maximum(s, jnp.finfo(s.dtype).tiny ** 0.3), s / 2)
