"""One operator over several devices: its views, or a batch of images, in equal parts."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator

AXES = ("views", "batch")


@pytree
class Sharded(Operator):
    """An operator whose work is spread over devices (``jax.shard_map``); equal to it in every other respect, derivatives included.

    - ``over="views"``: each device projects the whole image into its part of the views, which stay where they were computed; the adjoint
      sums the devices' images (``psum``). If the devices do not divide the views, the last view is computed more than once.
    - ``over="batch"``: each device takes its part of the first batch axis of x, e.g. of a stack of slices, and nothing is exchanged.

    Arrays that are committed to one device (by ``jax.device_put``) have to be moved to the mesh before; others follow by themselves.

    Args:
        operator: for views, one with a ``geometry`` that has a ``subset``: a ``Radon`` of any scan.
        devices: a mesh of one axis, a sequence of devices, or None for all devices.
        over: "views" or "batch".

    Raises:
        ValueError: an operator without views, no devices, a mesh of several axes; when called, a batch that the devices do not divide.
    """

    operator: Operator
    devices: Any = static(default=None)
    over: str = static(default="views")

    def __post_init__(self):
        if not isinstance(self.operator, Operator):
            check.fail("operator", "an operator", type(self.operator).__name__, "Sharded(Radon(geometry)).")
        self.operator._needs_linear("Sharded")
        check.one_of("over", self.over, AXES)
        if self.over == "views" and not hasattr(getattr(self.operator, "geometry", None), "subset"):
            remedy = "Pass Radon(geometry) itself, not a prepared or composed one, or over='batch'."
            check.fail("operator", "one whose geometry can be split into views", f"{self.operator!r}", remedy)
        mesh = self.devices
        if not isinstance(mesh, Mesh):
            chosen = list(jax.devices() if mesh is None else mesh)
            if not chosen:
                check.fail("devices", "at least one device", "none", "Leave it out to take all of jax.devices().")
            mesh = Mesh(np.array(chosen), (self.over,))
        if mesh.devices.ndim != 1:
            check.fail("devices", "a mesh of one axis", f"the axes {mesh.axis_names}", "Mesh(mesh.devices.reshape(-1), ('views',)).")
        object.__setattr__(self, "devices", mesh)

    @property
    def domain(self):
        return self.operator.domain

    @property
    def codomain(self):
        return self.operator.codomain

    @property
    def batched(self):  # type: ignore[override]
        """Whether batch axes are this operator's own business."""
        return self.over == "batch"

    # No ``adjoint``: that of ``shard_map`` is derived from the parts' own, and hidden in a linear pair (core/pair.py) the compiler would
    # not see that the program is one of several devices.

    @property
    def H(self) -> Operator:
        return _rebuilt(self, operator=self.operator.H) if self.batched else super().H

    @property
    def normal(self) -> Operator:
        return _rebuilt(self, operator=self.operator.normal) if self.batched else super().normal

    def __call__(self, x):
        if self.batched:
            lead = x.shape[: x.ndim - len(self.domain.shape)]
            if not lead or lead[0] % self._count:
                expected = f"a first batch axis that {self._count} devices divide"
                check.fail("x", expected, f"shape {x.shape}", "Pad the batch, or take fewer devices, or over='views'.")
            split = PartitionSpec(self._axis)
            return self._map(lambda a, v: a(v), (PartitionSpec(), split), split)(self.operator, x)
        views = self._map(lambda a, v: self._part(a)(v), (PartitionSpec(), PartitionSpec()), PartitionSpec(self._axis))
        return lax.slice_in_dim(views(self.operator, x), 0, self.codomain.shape[0])

    def subset(self, index: Any) -> Sharded:
        """The operator of some of the views, over the same devices."""
        return _rebuilt(self, operator=_views_of(self.operator, index))

    @property
    def _axis(self):
        return self.devices.axis_names[0]

    @property
    def _count(self):
        return self.devices.devices.size

    @property
    def _views(self):
        """Views of a device."""
        return -(-self.codomain.shape[0] // self._count)

    def _part(self, operator):
        """This device's views."""
        index = lax.axis_index(self._axis) * self._views + jnp.arange(self._views, dtype=jnp.int32)
        return _views_of(operator, jnp.minimum(index, self.codomain.shape[0] - 1))

    def _map(self, function, inputs, outputs):
        # the rules of linear pairs (core/pair.py) do not say over which devices a value varies: nothing to check it by
        return jax.shard_map(function, mesh=self.devices, in_specs=inputs, out_specs=outputs, check_vma=False)

    def _name(self):
        return f"Sharded[{self.operator._name()}, {self.over} over {self._count}]"


def _views_of(operator, index):
    return _rebuilt(operator, geometry=operator.geometry.subset(index))


def _rebuilt(obj, **fields):
    """A copy with other fields, not validated again (they may be traced)."""
    new = copy.copy(obj)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new
