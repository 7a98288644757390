"""Ordered subsets: the views of a scan in equal, evenly spread parts, the order in which they are visited, and an operator's part."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.algebra import Compose, Scaled, Sum
from diffimg.forward.basic import Diagonal, Matrix
from diffimg.forward.operator import Operator, provides

ORDERS = ("golden", "bit-reversal", "sequential")


def check_subsets(subsets: int | None, order: str) -> None:
    """A number of subsets (None: one view each) and the name of an order."""
    if subsets is not None:
        check.positive_int("subsets", subsets)
    check.one_of("order", order, ORDERS)


def access_order(count: int, order: str = "golden") -> np.ndarray:
    """A permutation of 0 … count−1 in which neighbours, and all short runs, lie far apart: ``[count]``.

    "golden": ranks of the multiples of the golden ratio modulo 1 (T. Köhler, IEEE NSS 2004); "bit-reversal": multilevel access (H. Guan &
    R. Gordon, Phys. Med. Biol. 39, 1994; G. T. Herman & L. B. Meyer, IEEE Trans. Med. Imaging 12, 1993); "sequential": as they come.
    """
    count = check.positive_int("count", count)
    check.one_of("order", order, ORDERS)
    index = np.arange(count)
    if order == "golden":
        return np.argsort(np.argsort((index * (math.sqrt(5) - 1) / 2) % 1, kind="stable"), kind="stable")
    if order == "bit-reversal":
        bits = max(1, (count - 1).bit_length())
        reversed_ = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)])
        return reversed_[reversed_ < count]
    return index


def subset_views(views: int, subsets: int | None = None, order: str = "golden") -> np.ndarray:
    """Views of each subset, in visiting order: ``[subset, view]``. Subset k holds the views k, k + subsets, k + 2·subsets, …

    Args:
        views: number of views.
        subsets: number of subsets; it divides the number of views. None: one view a subset.
        order: of the subsets, see ``access_order``.

    Raises:
        ValueError: if the subsets would be of different sizes.
    """
    subsets = views if subsets is None else check.positive_int("subsets", subsets)
    if views % subsets:
        divisors = [d for d in range(1, views + 1) if views % d == 0]
        near = sorted(sorted(divisors, key=lambda d: abs(d - subsets))[:2])
        remedy = f"Take {' or '.join(map(str, near))} subsets, or leave views out."
        check.fail("subsets", f"a divisor of the number of views, {views}", str(subsets), remedy)
    return np.arange(views).reshape(views // subsets, subsets).T[access_order(subsets, order)]


def restrict(operator: Operator, index: Any) -> Operator:
    """The operator of some of the data: entries ``index`` (integers ``[n]``, may be traced) of the first axis of the codomain.

    An operator takes part by a method ``subset(self, index)`` that returns the smaller operator, or by a field ``geometry`` that has
    one (all scan geometries do).

    Raises:
        ValueError: for an operator that cannot be split.
    """
    if provides(operator, "subset"):
        return operator.subset(index)  # type: ignore[attr-defined]
    if isinstance(operator, Matrix):
        return _rebuilt(operator, matrix_=jnp.asarray(operator.matrix_)[index])
    if isinstance(operator, Scaled):
        return _rebuilt(operator, operator=restrict(operator.operator, index))
    if isinstance(operator, Sum):
        return _rebuilt(operator, terms=tuple(restrict(t, index) for t in operator.terms))
    if isinstance(operator, Compose):
        if isinstance(operator.outer, Diagonal):  # a gain of the data
            gain = jnp.broadcast_to(operator.outer.weights, operator.outer.image_shape)[index]
            return _rebuilt(
                operator, outer=_rebuilt(operator.outer, weights=gain, image_shape=gain.shape), inner=restrict(operator.inner, index)
            )
        return _rebuilt(operator, outer=restrict(operator.outer, index))
    geometry = getattr(operator, "geometry", None)
    if provides(geometry, "subset"):
        return _rebuilt(operator, geometry=geometry.subset(index))
    remedy = (
        "A prepared operator is whole: run(…, prepare=False), or Radon(…, method='joseph'). Your own operator: define subset(self, index)."
    )
    check.fail("problem.smooth", "an operator that can be restricted to some of its data, for ordered subsets", f"{operator!r}", remedy)


def take(values: jax.Array, index: Any, operator: Operator) -> jax.Array:
    """The entries ``index`` of data ``[..., *operator.codomain]`` along the codomain's first axis."""
    return jnp.take(values, index, axis=values.ndim - len(operator.codomain.shape))


def sweep(body: Any, carry: Any, views: np.ndarray) -> Any:
    """``carry = body(carry, index)`` for every row of ``views [subset, view]``: one program for all subsets."""
    return jax.lax.scan(lambda c, index: (body(c, index), None), carry, jnp.asarray(views, jnp.int32))[0]


def _rebuilt(obj, **fields):
    """A copy with other fields, not validated again (they may be traced)."""
    new = copy.copy(obj)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new
