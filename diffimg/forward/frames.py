"""A series of images, each with an operator of its own: time frames with other trajectories, slices with other geometries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct, lax

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.forward.nufft import NUFFT
from diffimg.forward.operator import Operator, apply_adjoint, apply_forward


@pytree
class Frames(Operator):
    """x ↦ (A₁x₁, …, A_n x_n) on arrays ``[frame, *domain of A]``: one compiled program for all operators, whose arrays are stacked.

    For a golden-angle series: ``Frames([NUFFT(shape, spokes, coils) for spokes in trajectory])``. Where all frames share one operator,
    ``Channelwise`` holds it once; ``MaskedFFT`` takes a mask with an axis of frames itself.

    Args:
        operators: a list of linear operators that differ in the values of their arrays alone, of one array to one array.

    Raises:
        ValueError: none, something else than operators, or operators of different classes, static fields or shapes.

    ``prepare()`` computes what has the same shape in all frames: of a NUFFT the convolution kernel of AᴴA, not the tables.
    """

    operators: Any

    def __post_init__(self):
        if isinstance(self.operators, Operator):  # stacked already, by ``replace``
            return
        operators = list(self.operators) if isinstance(self.operators, (list, tuple)) else []
        if not operators or not all(isinstance(a, Operator) for a in operators):
            got = check.describe(self.operators) if not operators else ", ".join(sorted({type(a).__name__ for a in operators}))
            check.fail("operators", "a list of Operators", got, "E.g. [NUFFT(shape, spokes, coils) for spokes in trajectory].")
        operators = [jax.tree.map(jnp.asarray, a) for a in operators]
        first = operators[0]
        if not first.linear or not hasattr(first.domain, "shape") or not hasattr(first.codomain, "shape"):
            check.fail("operators", "linear operators of one array to one array", repr(first))
        for n, other in enumerate(operators):
            if jax.tree.structure(other) != jax.tree.structure(first) or _shapes(other) != _shapes(first):
                remedy = "Give every frame as many samples, and prepare the whole: Frames([…]).prepare()."
                check.fail(f"operators[{n}]", f"the class, static fields and shapes of operators[0], {first!r}", repr(other), remedy)
        object.__setattr__(self, "operators", jax.tree.map(lambda *v: jnp.stack(v), *operators))

    @property
    def count(self) -> int:
        """Of frames."""
        return jnp.shape(jax.tree.leaves(self.operators)[0])[0]

    @property
    def domain(self):
        one = jax.tree.map(lambda v: ShapeDtypeStruct(jnp.shape(v)[1:], v.dtype), self.operators).domain
        return ShapeDtypeStruct((self.count, *one.shape), one.dtype)

    @property
    def approximate_normal(self):  # type: ignore[override]
        return self.operators.approximate_normal

    def __call__(self, x):
        return self._each(apply_forward, x)

    def adjoint(self, y):
        return self._each(apply_adjoint, y)

    def gram(self, x):
        return self._each(lambda a, v: a.normal(v), x)

    def prepare(self):
        if not isinstance(self.operators, NUFFT) or not check.is_concrete(self.operators.trajectory):
            return self
        frames = (jax.tree.map(lambda v, n=n: v[n], self.operators) for n in range(self.count))
        return Frames([a.prepare(tables=False) for a in frames])

    def _each(self, function, x):
        each = lambda pair: function(*pair)  # noqa: E731
        return lax.platform_dependent(
            self.operators, x, cpu=lambda a, v: lax.map(each, (a, v)), default=lambda a, v: lax.map(each, (a, v), batch_size=16)
        )

    def _name(self):
        return f"{self.count} frames of {type(self.operators).__name__}"


def _shapes(operator):
    return [(jnp.shape(v), v.dtype) for v in jax.tree.leaves(operator)]
