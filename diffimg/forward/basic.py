"""The simplest operators: identity, diagonal, dense matrix, and any pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator
from diffimg.forward.structure import DiagonalForm


@pytree
class Identity(Operator):
    """x ↦ x on arrays of ``image_shape``."""

    orthonormal: ClassVar[bool] = True

    image_shape: tuple[int, ...] = static()
    dtype: str = static(default="float32")

    @property
    def domain(self):
        return ShapeDtypeStruct(tuple(self.image_shape), jnp.dtype(self.dtype))

    def __call__(self, x):
        return x

    def adjoint(self, y):
        return y

    def gram(self, x):
        return x

    def diagonal_form(self):
        return DiagonalForm(1.0, lambda x: x, lambda x: x)


@pytree
class Diagonal(Operator):
    """x ↦ weights · x; ``weights`` (traced) broadcast over ``image_shape`` and may be learned."""

    weights: jax.Array
    image_shape: tuple[int, ...] | None = static(default=None)

    def __post_init__(self):
        weights = check.array("weights", self.weights)
        check.inexact("weights", weights)
        if self.image_shape is None:
            object.__setattr__(self, "image_shape", tuple(weights.shape))

    @property
    def domain(self):
        return ShapeDtypeStruct(tuple(self.image_shape), jax.dtypes.canonicalize_dtype(jnp.result_type(self.weights)))

    def __call__(self, x):
        return self.weights * x

    def diagonal_form(self):
        return DiagonalForm(self.weights, lambda x: x, lambda x: x)


@pytree
class Matrix(Operator):
    """x ↦ matrix @ x for a dense ``[m, n]`` matrix; small problems and the lecture's examples."""

    matrix_: jax.Array

    def __post_init__(self):
        matrix = check.array("matrix", self.matrix_)
        check.ndim("matrix", matrix, 2, "[m, n]")
        if matrix.dtype.kind in "biu":
            matrix = matrix.astype(np.float32)
        check.finite("matrix", matrix)
        object.__setattr__(self, "matrix_", matrix)

    @property
    def domain(self):
        return ShapeDtypeStruct((jnp.shape(self.matrix_)[1],), jax.dtypes.canonicalize_dtype(jnp.result_type(self.matrix_)))

    def __call__(self, x):
        return jnp.matmul(self.matrix_, x, precision=jax.lax.Precision.HIGHEST)

    def matrix(self):
        return jnp.asarray(self.matrix_)


@pytree
class Function(Operator):
    """A pure, shape-static function as an operator: ``Function(f, domain)``; ``parameters`` (a pytree) are its traced leaves.

    ``function(x)`` or, with parameters, ``function(parameters, x)``.
    """

    function: Callable = static()
    input: Any = static()
    parameters: Any = None
    is_linear: bool = static(default=True)

    @property
    def domain(self):
        return self.input

    @property
    def linear(self):  # type: ignore[override]
        return self.is_linear

    def __call__(self, x):
        return self.function(x) if self.parameters is None else self.function(self.parameters, x)
