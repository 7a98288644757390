"""Data terms: how well A(x) explains the measurement y, under Gaussian noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check, linalg
from diffimg.core.pytree import pytree, static
from diffimg.energy.base import Energy
from diffimg.energy.quadratic import Quadratic
from diffimg.energy.weight import nonnegative, positive
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


def admit_weights(argument: str, weights: Any, y: Any) -> None:
    """Weights ≥ 0 for data y: a scalar, an array that broadcasts to every leaf of y, or a pytree like y."""
    leaves, tree = jax.tree.flatten(weights)
    data, structure = jax.tree.flatten(y)
    if tree != structure and len(leaves) != 1:
        check.fail(argument, f"a scalar, an array or a pytree like y ({structure})", f"{tree}")
    for w, v in zip(leaves if tree == structure else leaves * len(data), data, strict=True):
        nonnegative(argument, w)
        if not _broadcasts(jnp.shape(w), v.shape):
            check.fail(argument, f"a shape that broadcasts to y, {v.shape}", f"shape {jnp.shape(w)}")


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
            admit_weights("weights", self.weights, self.y)

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
            admit_weights("covariance", self.covariance, self.y)
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
