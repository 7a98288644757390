"""A linear map bound to a hand-written adjoint, so that each is the other's derivative, to any order.

``custom_vjp`` would forbid forward mode, ``linear_call`` cannot be vmapped, and the rule of a ``custom_jvp`` is dropped when a linear
map is transposed inside another derivative; this primitive has rules for jit, vmap, forward mode (in argument *and* parameters)
and transposition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


@dataclasses.dataclass(frozen=True)
class Pair:
    """Module-level (or otherwise hashable) functions, linear in their last argument; without conjugation:

    ``forward(parameters, x) → y`` and its derivative ``forward_tangent(parameters, direction, x)`` in the parameters,
    ``transpose(parameters, y) → x`` and ``transpose_tangent(parameters, direction, y)``.
    """

    forward: Callable
    transpose: Callable
    forward_tangent: Callable
    transpose_tangent: Callable

    @property
    def swapped(self) -> Pair:
        """The transpose as the forward map."""
        return Pair(self.transpose, self.forward, self.transpose_tangent, self.forward_tangent)


def paired(pair: Pair, parameters: Any, x: Any) -> Any:
    """``pair.forward(parameters, x)``, transposed by ``pair.transpose``."""
    p, p_tree = jax.tree.flatten(parameters)
    leaves, x_tree = jax.tree.flatten(x)
    y_tree = jax.tree.structure(jax.eval_shape(pair.forward, parameters, x))
    flat = Pair(
        _Flat(pair.forward, p_tree, x_tree),
        _Flat(pair.transpose, p_tree, y_tree),
        _FlatTangent(pair.forward_tangent, p_tree, x_tree),
        _FlatTangent(pair.transpose_tangent, p_tree, y_tree),
    )
    out = pair_p.bind(*map(jnp.asarray, p), *map(jnp.asarray, leaves), pair=flat, count=len(p))
    return jax.tree.unflatten(y_tree, out)


@dataclasses.dataclass(frozen=True)
class _Flat:
    function: Callable
    parameters: Any
    argument: Any

    def __call__(self, *flat):
        n = self.parameters.num_leaves
        out = self.function(jax.tree.unflatten(self.parameters, flat[:n]), jax.tree.unflatten(self.argument, flat[n:]))
        return jax.tree.leaves(out)


@dataclasses.dataclass(frozen=True)
class _FlatTangent:
    """As ``_Flat``, with a direction between parameters and argument: one entry for each inexact parameter."""

    function: Callable
    parameters: Any
    argument: Any

    def __call__(self, *flat):
        n = self.parameters.num_leaves
        rest = iter(flat[n:])
        direction = [next(rest) if _inexact(v) else np.zeros(jnp.shape(v), jax.dtypes.float0) for v in flat[:n]]
        parameters = jax.tree.unflatten(self.parameters, flat[:n])
        out = self.function(parameters, jax.tree.unflatten(self.parameters, direction), jax.tree.unflatten(self.argument, list(rest)))
        return jax.tree.leaves(out)


@dataclasses.dataclass(frozen=True)
class _Batched:
    """vmap over given axes of the parameters (and directions); the argument is always batched along axis 0."""

    function: Callable
    axes: tuple[int | None, ...]

    def __call__(self, *flat):
        return jax.vmap(self.function, in_axes=self.axes + (0,) * (len(flat) - len(self.axes)))(*flat)


def _inexact(v):
    return jnp.issubdtype(v.dtype, jnp.inexact)


pair_p = Primitive("linear_pair")
pair_p.multiple_results = True


@pair_p.def_impl
def _impl(*flat, pair, count):
    return pair.forward(*flat)


@pair_p.def_abstract_eval
def _abstract(*avals, pair, count):
    out = jax.eval_shape(pair.forward, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
    return [jax.core.ShapedArray(o.shape, o.dtype) for o in out]


def _jvp(primals, tangents, *, pair, count):
    out = pair_p.bind(*primals, pair=pair, count=count)
    parameters, directions, dx = primals[:count], tangents[:count], tangents[count:]
    parts = []
    if not all(isinstance(t, ad.Zero) for t in dx):
        parts.append(pair_p.bind(*parameters, *map(ad.instantiate_zeros, dx), pair=pair, count=count))
    if not all(isinstance(t, ad.Zero) for t in directions):
        given = [ad.instantiate_zeros(t) for t, p in zip(directions, parameters, strict=True) if _inexact(p)]
        parts.append(pair.forward_tangent(*parameters, *given, *primals[count:]))
    if not parts:
        return out, [jnp.zeros(o.shape, o.dtype) for o in out]
    return out, [sum(p[1:], p[0]) for p in zip(*parts, strict=True)]


def _transpose(cotangents, *flat, pair, count):
    ct = [ad.instantiate_zeros(c) for c in cotangents]
    return [None] * count + list(pair_p.bind(*flat[:count], *ct, pair=pair.swapped, count=count))


def _batch(args, dims, *, pair, count):
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not batching.not_mapped)
    axes = tuple(None if d is batching.not_mapped else d for d in dims[:count])
    tangent_axes = axes + tuple(d for d, p in zip(axes, args, strict=False) if _inexact(p))
    x = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is batching.not_mapped else jnp.moveaxis(a, d, 0)
        for a, d in zip(args[count:], dims[count:], strict=True)
    ]
    batched = Pair(
        _Batched(pair.forward, axes),
        _Batched(pair.transpose, axes),
        _Batched(pair.forward_tangent, tangent_axes),
        _Batched(pair.transpose_tangent, tangent_axes),
    )
    out = pair_p.bind(*args[:count], *x, pair=batched, count=count)
    return out, [0] * len(out)


ad.primitive_jvps[pair_p] = _jvp
ad.primitive_transposes[pair_p] = _transpose
batching.primitive_batchers[pair_p] = _batch
mlir.register_lowering(pair_p, mlir.lower_fun(lambda *flat, pair, count: pair.forward(*flat), multiple_results=True))
