"""Structures of arrays (``ShapeDtypeStruct`` or pytrees of them): admission of inputs, size, flattening, text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check


def admit(x: Any, domain: Any, name: str, operator: Any) -> Any:
    """Check ``x`` against ``domain`` (leading axes allowed) and cast it to the working precision."""
    tree = jax.tree.structure(domain)
    if tree.num_leaves == 1 and jax.tree.structure(0) == tree:
        return _admit_leaf(x, domain, name, operator)
    if jax.tree.structure(x, is_leaf=lambda v: isinstance(v, (list,))) != tree:
        check.fail(name, f"a pytree {text(domain)}", f"{jax.tree.structure(x)}", f"The operator is {operator!r}.")
    return jax.tree.map(lambda v, d: _admit_leaf(v, d, name, operator), x, domain)


def _admit_leaf(x: Any, domain: ShapeDtypeStruct, name: str, operator: Any) -> jax.Array:
    x = check.array(name, x)
    check.trailing_shape(name, x, domain.shape, remedy=f"The operator is {operator!r}.")
    check.inexact(name, x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating) and not jnp.issubdtype(domain.dtype, jnp.complexfloating):
        check.fail(name, f"real values for {operator!r}", str(x.dtype), "Apply it to x.real and x.imag.")
    return jnp.asarray(x, working_dtype(x.dtype, domain.dtype))


def working_dtype(given: Any, nominal: Any) -> Any:
    """The dtype to compute in: of the nominal kind, in the higher precision of the two (as far as x64 allows)."""
    return jax.dtypes.canonicalize_dtype(jnp.promote_types(given, nominal))


def size(structure: Any) -> int:
    """Number of entries of an array, ``ShapeDtypeStruct`` or pytree of them."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(structure))


def ravel(x: Any) -> jax.Array:
    """All leaves as one vector."""
    return jnp.concatenate([v.reshape(-1) for v in jax.tree.leaves(x)])


def unravel(vector: jax.Array, structure: Any) -> Any:
    """The inverse of ``ravel`` for a given structure."""
    leaves, tree = jax.tree.flatten(structure)
    parts = jnp.split(vector, np.cumsum([math.prod(s.shape) for s in leaves])[:-1])
    return jax.tree.unflatten(tree, [p.reshape(s.shape) for p, s in zip(parts, leaves, strict=True)])


def same_structure(a: Any, b: Any) -> bool:
    """Whether two structures agree in tree and shapes, and in being real or complex."""
    la, ta = jax.tree.flatten(a)
    lb, tb = jax.tree.flatten(b)
    return ta == tb and all(
        p.shape == q.shape and jnp.issubdtype(p.dtype, jnp.complexfloating) == jnp.issubdtype(q.dtype, jnp.complexfloating)
        for p, q in zip(la, lb, strict=True)
    )


def text(structure: Any) -> str:
    """``float32[512, 512]``; tuples in parentheses."""
    if isinstance(structure, (tuple, list)):
        return "(" + ", ".join(text(s) for s in structure) + ")"
    return check.describe(structure) if hasattr(structure, "shape") else str(jax.tree.map(check.describe, structure))


@dataclasses.dataclass(frozen=True)
class DiagonalForm:
    """A = diag(weights) U with a unitary U: what gives ½‖Ax − y‖² its prox in closed form."""

    weights: Any
    transform: Callable[[Any], Any]  # U
    inverse: Callable[[Any], Any]  # Uᴴ
