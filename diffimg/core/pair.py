"""A linear map bound to a hand-written adjoint, so that each is the other's derivative, to any order.

``custom_vjp`` would forbid forward mode, ``linear_call`` cannot be vmapped, and the rule of a ``custom_jvp`` is dropped when a linear
map is transposed inside another derivative; this primitive has rules for jit, vmap, forward mode (in argument *and* parameters)
and transposition.

The derivative in the parameters, ⟨y, ∂A(p)[dp] x⟩, is linear in x, in y and in dp. Where the pair names its ``gradient`` (the
contraction with x and y) all three directions are hand-written, so that reverse mode in the parameters stores nothing.
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
    ``transpose(parameters, y) → x`` and ``transpose_tangent(parameters, direction, y)``; optionally ``gradient(parameters, x, y)``,
    the gradient of ⟨y, forward(parameters, x)⟩ in the parameters (their structure; entries of integers are not read), for real data,
    and ``gradient_tangent(parameters, direction, x, y)``, its derivative (by default, JAX's own).
    """

    forward: Callable
    transpose: Callable
    forward_tangent: Callable
    transpose_tangent: Callable
    gradient: Callable | None = None
    gradient_tangent: Callable | None = None

    @property
    def swapped(self) -> Pair:
        """The transpose as the forward map."""
        gradients = (_flipped(self.gradient), _flipped(self.gradient_tangent))
        return Pair(self.transpose, self.forward, self.transpose_tangent, self.forward_tangent, *gradients)


def by_jvp(function: Callable) -> Callable:
    """The tangent of ``function(parameters, *arguments)`` in its parameters, for a ``Pair``."""

    def tangent(parameters, direction, *arguments):
        return jax.jvp(lambda p: function(p, *arguments), (parameters,), (direction,))[1]

    return tangent


def by_transposition(tangent: Callable, domain: Callable) -> Callable:
    """The ``transpose_tangent`` to a ``forward_tangent``, by JAX (it scatters); ``domain(parameters, y)`` is shape and dtype of x."""

    def transposed(parameters, direction, y):
        return jax.linear_transpose(lambda x: tangent(parameters, direction, x), domain(parameters, y))(y)[0]

    return transposed


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
        pair.gradient and _FlatGradient(pair.gradient, p_tree, x_tree, y_tree),
        pair.gradient and _FlatGradient(pair.gradient_tangent or by_jvp(pair.gradient), p_tree, x_tree, y_tree, tangent=True),
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
class _FlatGradient:
    """``gradient`` (or its tangent, with a direction) from flat parameters, x and y to the entries of the inexact parameters."""

    function: Callable
    parameters: Any
    argument: Any
    value: Any
    tangent: bool = False

    def __call__(self, *flat):
        n = self.parameters.num_leaves
        parameters, rest = flat[:n], flat[n:]
        given = [jax.tree.unflatten(self.parameters, parameters)]
        if self.tangent:
            moving = iter(rest)
            direction = [next(moving) if _inexact(v) else np.zeros(jnp.shape(v), jax.dtypes.float0) for v in parameters]
            given.append(jax.tree.unflatten(self.parameters, direction))
            rest = tuple(moving)
        m = self.argument.num_leaves
        out = self.function(*given, jax.tree.unflatten(self.argument, rest[:m]), jax.tree.unflatten(self.value, rest[m:]))
        return [g for g, p in zip(jax.tree.leaves(out), parameters, strict=True) if _inexact(p)]


@dataclasses.dataclass(frozen=True)
class _Flipped:
    """A flat gradient with x and y exchanged: both have to be single arrays."""

    function: Callable

    def __call__(self, *flat):
        return self.function(*flat[:-2], flat[-1], flat[-2])


def _flipped(gradient):
    return gradient and (gradient.function if isinstance(gradient, _Flipped) else _Flipped(gradient))


@dataclasses.dataclass(frozen=True)
class _Batched:
    """vmap over given axes of the parameters (and directions); the argument is always batched along axis 0."""

    function: Callable
    axes: tuple[int | None, ...]

    def __call__(self, *flat):
        return jax.vmap(self.function, in_axes=self.axes + (0,) * (len(flat) - len(self.axes)))(*flat)


@dataclasses.dataclass(frozen=True)
class _BatchedGradient:
    """vmap of a flat gradient (or its tangent, with directions along ``inner``); what belongs to an unbatched direction of the result is
    summed, the rest goes to the axis of its direction."""

    function: Callable
    axes: tuple[int | None, ...]
    inner: tuple[int | None, ...]
    directions: tuple[int | None, ...]

    def __call__(self, *flat):
        axes = self.axes + self.inner
        out = jax.vmap(self.function, in_axes=axes + (0,) * (len(flat) - len(axes)))(*flat)
        return [g.sum(0) if d is None else jnp.moveaxis(g, 0, d) for g, d in zip(out, self.directions, strict=True)]


def _turned(tangent):
    """The transpose of a gradient's tangent in its direction: itself, second derivatives being symmetric, but for the batch axes."""
    if isinstance(tangent, _Flipped):
        return _Flipped(_turned(tangent.function))
    if isinstance(tangent, _BatchedGradient):
        return _BatchedGradient(_turned(tangent.function), tangent.axes, tangent.directions, tangent.inner)
    return tangent


def _inexact(v):
    return jnp.issubdtype(v.dtype, jnp.inexact)


pair_p = Primitive("linear_pair")
tangent_p = Primitive("linear_pair_tangent")  # ∂A(p)[dp] x from (p, dp, x)
gradient_p = Primitive("linear_pair_gradient")  # its contraction with y over x: from (p, x, y)
curvature_p = Primitive("linear_pair_curvature")  # of that, the derivative in p: from (p, dp, x, y), self-adjoint in dp


def _some(tangents):
    return not all(isinstance(t, ad.Zero) for t in tangents)


def _total(parts, like):
    if not parts:
        return [jnp.zeros(o.shape, o.dtype) for o in like]
    return [sum(p[1:], p[0]) for p in zip(*parts, strict=True)]


def _jvp(primals, tangents, *, pair, count):
    out = pair_p.bind(*primals, pair=pair, count=count)
    parameters, directions, dx = primals[:count], tangents[:count], tangents[count:]
    parts = []
    if _some(dx):
        parts.append(pair_p.bind(*parameters, *map(ad.instantiate_zeros, dx), pair=pair, count=count))
    if _some(directions):
        given = [ad.instantiate_zeros(t) for t, p in zip(directions, parameters, strict=True) if _inexact(p)]
        if pair.gradient is None:
            parts.append(pair.forward_tangent(*parameters, *given, *primals[count:]))
        else:
            parts.append(tangent_p.bind(*parameters, *given, *primals[count:], pair=pair, count=count))
    return out, _total(parts, out)


def _transpose(cotangents, *flat, pair, count):
    ct = [ad.instantiate_zeros(c) for c in cotangents]
    return [None] * count + list(pair_p.bind(*flat[:count], *ct, pair=pair.swapped, count=count))


def _batch(args, dims, *, pair, count):
    axes, given = _axes(args, dims, count)
    directions = _inner(axes, args)
    out = pair_p.bind(*args[:count], *given, pair=_batched(pair, axes, directions, directions), count=count)
    return out, [0] * len(out)


def _tangent_jvp(primals, tangents, *, pair, count):
    out = tangent_p.bind(*primals, pair=pair, count=count)
    split = count + sum(_inexact(p) for p in primals[:count])
    parts = _parameter_part(pair.forward_tangent, primals, tangents, count)
    for low, high in ((count, split), (split, len(primals))):
        if _some(tangents[low:high]):
            changed = [ad.instantiate_zeros(t) if low <= k < high else p for k, (p, t) in enumerate(zip(primals, tangents, strict=True))]
            parts.append(tangent_p.bind(*changed, pair=pair, count=count))
    return out, _total(parts, out)


def _tangent_transpose(cotangents, *flat, pair, count):
    ct = [ad.instantiate_zeros(c) for c in cotangents]
    split = count + sum(_inexact(p) for p in flat[:count])
    directions, x = flat[count:split], flat[split:]
    if any(ad.is_undefined_primal(d) for d in directions):
        out = gradient_p.bind(*flat[:count], *x, *ct, pair=pair, count=count)
        return [None] * count + [g if ad.is_undefined_primal(d) else None for g, d in zip(out, directions, strict=True)] + [None] * len(x)
    return [None] * split + list(tangent_p.bind(*flat[:count], *directions, *ct, pair=pair.swapped, count=count))


def _tangent_batch(args, dims, *, pair, count):
    axes, given = _axes(args, dims, count)
    directions = (0,) * sum(_inexact(p) for p in args[:count])
    out = tangent_p.bind(*args[:count], *given, pair=_batched(pair, axes, directions, _inner(axes, args)), count=count)
    return out, [0] * len(out)


def _gradient_jvp(primals, tangents, *, pair, count):
    out = gradient_p.bind(*primals, pair=pair, count=count)
    parts = []
    if _some(tangents[:count]):
        given = [ad.instantiate_zeros(t) for t, p in zip(tangents[:count], primals[:count], strict=True) if _inexact(p)]
        parts.append(curvature_p.bind(*primals[:count], *given, *primals[count:], pair=pair, count=count))
    for k in (-2, -1):
        if not isinstance(tangents[k], ad.Zero):
            changed = list(primals)
            changed[k] = ad.instantiate_zeros(tangents[k])
            parts.append(gradient_p.bind(*changed, pair=pair, count=count))
    return out, _total(parts, out)


def _gradient_transpose(cotangents, *flat, pair, count):
    ct = [ad.instantiate_zeros(c) for c in cotangents]
    x, y = flat[count:]
    if ad.is_undefined_primal(x):
        return [None] * count + list(tangent_p.bind(*flat[:count], *ct, y, pair=pair.swapped, count=count)) + [None]
    return [None] * (count + 1) + list(tangent_p.bind(*flat[:count], *ct, x, pair=pair, count=count))


def _gradient_batch(args, dims, *, pair, count):
    axes, given = _axes(args, dims, count)
    directions = (0,) * sum(_inexact(p) for p in args[:count])
    out = gradient_p.bind(*args[:count], *given, pair=_batched(pair, axes, directions, _inner(axes, args)), count=count)
    return out, [0] * len(out)


def _curvature_jvp(primals, tangents, *, pair, count):
    """Linear in direction, x and y; of third order in the parameters."""
    out = curvature_p.bind(*primals, pair=pair, count=count)
    split = len(primals) - 2
    parts = _parameter_part(pair.gradient_tangent, primals, tangents, count)
    for low, high in ((count, split), (split, split + 1), (split + 1, split + 2)):
        if _some(tangents[low:high]):
            changed = [ad.instantiate_zeros(t) if low <= k < high else p for k, (p, t) in enumerate(zip(primals, tangents, strict=True))]
            parts.append(curvature_p.bind(*changed, pair=pair, count=count))
    return out, _total(parts, out)


def _curvature_transpose(cotangents, *flat, pair, count):
    ct = [ad.instantiate_zeros(c) for c in cotangents]
    directions, rest = flat[count:-2], flat[-2:]
    if any(ad.is_undefined_primal(d) for d in directions):
        turned = dataclasses.replace(pair, gradient_tangent=_turned(pair.gradient_tangent))
        out = curvature_p.bind(*flat[:count], *ct, *rest, pair=turned, count=count)
        return [None] * count + [g if ad.is_undefined_primal(d) else None for g, d in zip(out, directions, strict=True)] + [None, None]
    k = 0 if ad.is_undefined_primal(rest[0]) else 1

    def of(v):
        return pair.gradient_tangent(*flat[: count + len(directions)], *(v if j == k else w for j, w in enumerate(rest)))

    out = jax.linear_transpose(of, jax.ShapeDtypeStruct(rest[k].aval.shape, rest[k].aval.dtype))(ct)[0]
    return [None] * (count + len(directions)) + [out if j == k else None for j in range(2)]


def _curvature_batch(args, dims, *, pair, count):
    axes, given = _axes(args, dims, count)
    directions = (0,) * sum(_inexact(p) for p in args[:count])
    out = curvature_p.bind(*args[:count], *given, pair=_batched(pair, axes, directions, directions), count=count)
    return out, [0] * len(out)


def _parameter_part(function, primals, tangents, count):
    """The derivative of a function in its parameters, through its own code (second order and beyond)."""
    if not _some(tangents[:count]):
        return []
    moving = [k for k, p in enumerate(primals[:count]) if _inexact(p)]

    def of(*values):
        flat = list(primals)
        for k, v in zip(moving, values, strict=True):
            flat[k] = v
        return function(*flat)

    return [jax.jvp(of, [primals[k] for k in moving], [ad.instantiate_zeros(tangents[k]) for k in moving])[1]]


def _axes(args, dims, count):
    """Batch axes of the parameters, and everything else with the batch in front."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    axes = tuple(dims[:count])
    given = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(args[count:], dims[count:], strict=True)
    ]
    return axes, given


def _inner(axes, args):
    """Of the inexact parameters."""
    return tuple(d for d, p in zip(axes, args, strict=False) if _inexact(p))


def _batched(pair, axes, directions, inner):
    """The pair under vmap: parameters batched along ``axes``, directions along ``directions``, of a gradient's tangent ``inner``."""
    return Pair(
        _Batched(pair.forward, axes),
        _Batched(pair.transpose, axes),
        _Batched(pair.forward_tangent, axes + directions),
        _Batched(pair.transpose_tangent, axes + directions),
        pair.gradient and _BatchedGradient(pair.gradient, axes, (), directions),
        pair.gradient_tangent and _BatchedGradient(pair.gradient_tangent, axes, inner, directions),
    )


def _define(primitive, function, jvp, transpose, batch):
    """``function(pair)`` is what the primitive computes."""

    def implementation(*flat, pair, count):
        return function(pair)(*flat)

    def abstract(*avals, pair, count):
        out = jax.eval_shape(function(pair), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
        return [jax.core.ShapedArray(o.shape, o.dtype) for o in out]

    primitive.multiple_results = True
    primitive.def_impl(implementation)
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=True))


_define(pair_p, lambda pair: pair.forward, _jvp, _transpose, _batch)
_define(tangent_p, lambda pair: pair.forward_tangent, _tangent_jvp, _tangent_transpose, _tangent_batch)
_define(gradient_p, lambda pair: pair.gradient, _gradient_jvp, _gradient_transpose, _gradient_batch)
_define(curvature_p, lambda pair: pair.gradient_tangent, _curvature_jvp, _curvature_transpose, _curvature_batch)
