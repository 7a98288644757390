"""A network as a pure function of its parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check


@dataclasses.dataclass(frozen=True)
class Apply:
    """``apply(params, *inputs)``: the network without its numbers; hashable, so that it may be a static argument of ``jit``."""

    graph: Any = dataclasses.field(repr=False)

    def __repr__(self):
        return f"Apply({self.graph.nodes[0].type.__name__})"

    def __call__(self, params: Any, *inputs: Any, **options: Any) -> Any:
        return nnx.merge(self.graph, nnx.State(params))(*inputs, **options)


def split(module: nnx.Module) -> tuple[Apply, dict]:
    """(apply, params) of a flax nnx module: a pure function and a nested dict of arrays, once and for all.

    ``apply(params, x)`` is ``module(x)`` with these numbers; it can be jitted, differentiated and vmapped like any function.

    Raises:
        ValueError: something else than a module.
    """
    if not isinstance(module, nnx.Module):
        check.fail("module", "a flax nnx module", check.describe(module), "E.g. nn.UNet(rngs=nnx.Rngs(0)).")
    graph, state = nnx.split(module)
    return Apply(graph), nnx.to_pure_dict(state)


def structure(module: type[nnx.Module], *arguments: Any, **options: Any) -> Apply:
    """The apply of ``split(module(*arguments, rngs=…, **options))``, without drawing any numbers: for parameters that come from a file."""
    return Apply(nnx.split(nnx.eval_shape(lambda: module(*arguments, rngs=nnx.Rngs(0), **options)))[0])


def join(apply: Apply, params: Any) -> nnx.Module:
    """The module again, with these numbers."""
    return nnx.merge(apply.graph, nnx.State(params))


@dataclasses.dataclass(frozen=True)
class OnImages:
    """``function(params, x, *more)`` for images without an axis of channels: see ``on_images``."""

    apply: Apply
    separately: bool = False

    def __call__(self, params: Any, x: Any, *more: Any) -> jax.Array:
        if not jnp.iscomplexobj(x):
            return self._real(params, x[..., None], *more)
        if self.separately:
            return jax.lax.complex(*(self._real(params, part[..., None], *more) for part in (x.real, x.imag)))
        out = self._real(params, jnp.stack([x.real, x.imag], -1), *more)
        return jax.lax.complex(out[..., 0], out[..., 1]) if out.ndim > x.ndim and out.shape[-1] == 2 else out

    def _real(self, params, channels, *more):
        out = self.apply(params, channels, *more)
        return out[..., 0] if out.ndim == channels.ndim and out.shape[-1] == 1 else out


def on_images(apply: Apply, separately: bool = False) -> OnImages:
    """The network on images ``[..., y, x]``: one channel for real ones, two (real and imaginary part) for complex ones.

    What ``energy.Network``, ``energy.PlugAndPlay`` and ``energy.RED`` take. ``separately``: a network of one channel is applied to the
    real and the imaginary part of complex images.
    """
    if not isinstance(apply, Apply):
        check.fail("apply", "the first result of nn.split", check.describe(apply))
    return OnImages(apply, bool(separately))


def count(params: Any) -> int:
    """How many numbers a network has."""
    return sum(int(v.size) for v in jax.tree.leaves(params))
