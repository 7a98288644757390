"""A network as a pure function of its parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx

from diffimg.core import check


@dataclasses.dataclass(frozen=True)
class Apply:
    """``apply(params, *inputs)``: the network without its numbers; hashable, so that it may be a static argument of ``jit``."""

    graph: Any

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


def join(apply: Apply, params: Any) -> nnx.Module:
    """The module again, with these numbers."""
    return nnx.merge(apply.graph, nnx.State(params))


def count(params: Any) -> int:
    """How many numbers a network has."""
    return sum(int(v.size) for v in jax.tree.leaves(params))
