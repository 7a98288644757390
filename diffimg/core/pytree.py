"""Frozen pytree dataclasses, and the inner product and norm of pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the compiled program (hashable), not a traced leaf."""
    metadata = {**kwargs.pop("metadata", {}), "static": True}
    return dataclasses.field(metadata=metadata, **kwargs)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass whose non-``static()`` fields are pytree children.

    ``__post_init__`` runs when a user constructs the object and never when JAX rebuilds it, so it may
    validate and normalise (with ``object.__setattr__``); on rebuilding, leaves may be tracers, ``None`` or
    placeholders. Two objects are equal when type, static fields and all leaves agree.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)  # type: ignore[assignment]
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(obj):
        children = tuple((jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in data)
        return children, tuple(getattr(obj, name) for name in meta)

    def flatten(obj):
        return tuple(getattr(obj, name) for name in data), tuple(getattr(obj, name) for name in meta)

    def unflatten(aux, children):
        obj = object.__new__(cls)
        for name, value in zip(data, children, strict=True):
            object.__setattr__(obj, name, value)
        for name, value in zip(meta, aux, strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if "__eq__" not in cls.__dict__:
        cls.__eq__ = _equal  # type: ignore[method-assign, assignment]
        cls.__hash__ = _hash  # type: ignore[method-assign]
    if cls.__repr__ is object.__repr__:
        cls.__repr__ = _repr  # type: ignore[method-assign]
    return cls


def replace(obj: T, **changes: Any) -> T:
    """A copy of a pytree dataclass with some fields changed; its constructor validates it again."""
    return dataclasses.replace(obj, **changes)  # type: ignore[type-var]


def _equal(self, other):
    if self is other:
        return True
    if type(self) is not type(other):
        return NotImplemented
    a, tree_a = jax.tree.flatten(self)
    b, tree_b = jax.tree.flatten(other)
    return tree_a == tree_b and all(p is q or _same_values(p, q) for p, q in zip(a, b, strict=True))


def _same_values(p, q):
    if isinstance(p, jax.core.Tracer) or isinstance(q, jax.core.Tracer):  # values unknown: only the same tracer is equal
        return False
    return jnp.shape(p) == jnp.shape(q) and bool(np.array_equal(np.asarray(p), np.asarray(q)))


def _hash(self):
    return hash((type(self), jax.tree.structure(self)))


def _repr(self):
    inner = ", ".join(f"{f.name}={summary(getattr(self, f.name))}" for f in dataclasses.fields(self))
    return f"{type(self).__name__}({inner})"


def summary(value: Any) -> str:
    """A short text for a field: arrays as dtype[shape], dicts (of a network's numbers) by their size, everything else as its repr."""
    if isinstance(value, (jax.Array, np.ndarray)) and np.ndim(value) > 0:
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict) and value:
        return f"{{{', '.join(map(str, value))}: {sum(np.size(v) for v in jax.tree.leaves(value)):,} numbers}}"
    return repr(value)


def dot(a: Any, b: Any) -> jax.Array:
    """Hermitian inner product ⟨a, b⟩ = Σ conj(a)·b of two pytrees of the same structure."""
    parts = [jnp.vdot(p, q, precision=jax.lax.Precision.HIGHEST) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


def real_dot(a: Any, b: Any) -> jax.Array:
    """Re⟨a, b⟩, the inner product in which gradients of real functions of complex x are taken."""
    return dot(a, b).real


def norm(a: Any) -> jax.Array:
    """Euclidean norm of a pytree."""
    return jnp.sqrt(real_dot(a, a))


def add(a: Any, b: Any, scale: Any = 1) -> Any:
    """a + scale·b, leaf by leaf, in a's dtype."""
    return jax.tree.map(lambda p, q: p + jnp.asarray(scale * q, jnp.result_type(p)), a, b)


def scale(c: Any, a: Any) -> Any:
    """c·a, leaf by leaf."""
    return jax.tree.map(lambda p: c * p, a)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Leaf-wise ``where`` with a scalar condition."""
    return jax.tree.map(lambda p, q: jnp.where(condition, p, q), a, b)


def zeros_like(a: Any) -> Any:
    """Zeros of the shapes and dtypes of ``a`` (arrays or ShapeDtypeStructs)."""
    return jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), a)


def map_arrays(function: Callable[[Any], Any], a: Any) -> Any:
    """Apply ``function`` to the inexact (float or complex) leaves only."""
    return jax.tree.map(lambda p: function(p) if is_inexact(p) else p, a)


def is_inexact(p: Any) -> bool:
    """Whether a leaf is a floating or complex number or array."""
    return isinstance(p, (float, complex)) or (hasattr(p, "dtype") and jnp.issubdtype(p.dtype, jnp.inexact))
