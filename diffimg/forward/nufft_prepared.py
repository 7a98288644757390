"""A NUFFT whose tables are computed once: gathers both ways, and AᴴA as a convolution."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.forward import nufft_grid as grid
from diffimg.forward.batches import over_images
from diffimg.forward.node_runs import runs_by_node
from diffimg.forward.nufft import NUFFT


@pytree
class PreparedNUFFT(NUFFT):
    """``NUFFT`` with tables beside its trajectory; made by ``NUFFT.prepare()``.

    Trajectory and maps are fixed. ``normal`` is two FFTs of twice the size per coil.
    """

    approximate_normal: ClassVar[bool] = True

    first: Any = None  # [point] int32, the first node of each window; None without tables, e.g. in 3-D
    weights: Any = None  # per grid axis, [tap, point], the last [point, tap]
    by_node: Any = None  # the adjoint's samples of every grid node
    spectrum: Any = None  # of the normal operator

    def gram(self, x):
        images = self._to_coils(x)
        return self._from_coils(over_images(lambda v: grid.convolve(self.spectrum, v), images, len(self.image_shape), self._chunk))

    def tangent(self, direction, x):
        got = "one with respect to the tables or maps of a prepared NUFFT, which are fixed"
        remedy = "Differentiate the operator before prepare(); for learned maps, Channelwise(NUFFT(…).prepare(), n) @ CoilMaps(maps)."
        check.fail("trajectory, coils", "a derivative with respect to the image only", got, remedy)

    def prepare(self, tables=True):
        return self

    def _sample(self, x):
        if self.first is None:
            return super()._sample(x)
        p = self.plan
        weights = tuple(w.astype(x.real.dtype) for w in self.weights)
        return grid.interpolate(p, grid.to_grid(p, x), self.first, weights, stored=True).reshape(self.sample_shape)

    def _sample_adjoint(self, y):
        if self.first is None:
            return super()._sample_adjoint(y)
        return grid.from_grid(self.plan, self.by_node(y.reshape(-1)))


def prepare(operator: NUFFT, tables: bool = True) -> PreparedNUFFT:
    """Tables (not in 3-D) in float64 on the host, kept in the working precision; for a concrete trajectory."""
    real = jax.dtypes.canonicalize_dtype(np.float64)
    spectrum = _spectrum(operator.image_shape, jnp.asarray(operator.trajectory, real))
    fields = (operator.image_shape, operator.trajectory, operator.coils, operator.tolerance, operator.oversampling)
    if len(operator.image_shape) == 3 or not tables:
        return PreparedNUFFT(*fields, spectrum=spectrum)
    p = operator.plan
    trajectory = np.asarray(operator.trajectory, np.float64)
    first, weights = grid.locate(p, trajectory.reshape(-1, len(operator.image_shape)), np)
    by_node = _by_node(p, first, weights, trajectory.shape[-2])
    return PreparedNUFFT(*fields, jnp.asarray(first), tuple(jnp.asarray(w, real) for w in weights), by_node, spectrum)


@jax.jit
def _kernel(image, trajectory):
    return grid.convolution_order(grid.normal_spectrum(image.shape, trajectory))


def _spectrum(image_shape, trajectory):
    return _kernel(jnp.zeros(image_shape, trajectory.dtype), trajectory)


def _by_node(p, first, weights, line):
    *outer, last = weights
    count = first.size
    taps = [np.arange(p.width, dtype=np.int32) * s for s in p.strides]
    offsets = np.array([sum(t) for t in itertools.product(*taps)], np.int32)
    table = last[:, None, :]
    for w in outer:
        table = (w.T[:, :, None, None] * table[:, None]).reshape(count, -1, p.width)
    node, sample = (first[:, None] + offsets).reshape(-1), np.repeat(np.arange(count, dtype=np.int32), len(offsets))
    return runs_by_node(node, sample, table.reshape(-1), p.nodes, count, line, min(p.width, line))
