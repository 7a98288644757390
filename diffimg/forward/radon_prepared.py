"""A parallel projection whose tables are computed once: gathers both ways, and a Toeplitz normal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct, lax

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import radon_fourier as fourier
from diffimg.forward.operator import Operator
from diffimg.forward.radon_normal import convolve, normal_spectrum

_CHUNK = 16  # images at once on an accelerator: 0.3 GB of temporaries at 512²


@pytree
class PreparedRadon(Operator):
    """``Radon`` (Fourier method) with tables in place of angles; made by ``Radon.prepare()``.

    Its geometry is baked in: a derivative with respect to it is refused. ``normal`` is a convolution where the detector
    sees the whole object, and Aᴴ(A x) elsewhere.
    """

    plan: fourier.Plan = static()
    view_count: int = static()
    first: Any  # [point] int32, flat grid index of each window's first node
    row_weights: Any  # [tap, point]
    column_weights: Any  # [point, tap]
    sign: Any  # [view, 1] or [view, frequency]: −1 where the conjugate is read
    factor: Any  # [view, frequency] complex
    inside: Any  # [detector] bool
    buckets: Any  # the adjoint's runs by number of runs per grid node: ((start [node, run], weights [node, run, tap]), …)
    node: Any  # [grid node] int32: its place in the concatenated buckets
    spectrum: Any  # of the normal operator, or None

    batched = True
    approximate_normal = True

    @property
    def domain(self):
        return ShapeDtypeStruct(self.plan.image_shape, jnp.float32)

    @property
    def codomain(self):
        return ShapeDtypeStruct((self.view_count, self.plan.detector_count), jnp.float32)

    def __call__(self, x):
        return over_images(self._project, x)

    def adjoint(self, y):
        return over_images(self._backproject, y)

    def gram(self, x):
        if self.spectrum is None:
            return self.adjoint(self._forward(x))
        return over_images(lambda v: convolve(self.spectrum, v), x)

    def tangent(self, direction, x):
        check.fail(
            "geometry",
            "a derivative with respect to the image only",
            "one with respect to the tables of a prepared Radon, whose geometry is fixed",
            "Differentiate the operator before prepare(): Radon(geometry)(x).",
        )

    def _project(self, x):
        p, dtype = self.plan, x.dtype
        weights = self.row_weights.astype(dtype), self.column_weights.astype(dtype)
        s = fourier.interpolate(p, fourier.to_grid(p, x), self.first, *weights, stored=True)
        s = fourier.conjugate(s.reshape(self.factor.shape), self.sign.astype(dtype))
        return fourier.to_detector(p, s * self.factor.astype(s.dtype), self.inside)

    def _backproject(self, y):
        p, dtype = self.plan, y.dtype
        s = fourier.from_detector(p, y, self.inside)
        s = fourier.conjugate(s * jnp.conj(self.factor).astype(s.dtype), self.sign.astype(dtype)).reshape(-1)
        parts = lax.map(self._gather, jnp.stack([s.real, s.imag]))  # a loop, so that XLA does not compute s again for every tap
        return fourier.from_grid(p, lax.complex(parts[0], parts[1]).reshape(p.rows, p.pitch))

    def _gather(self, s):
        sums = [
            jnp.sum((fourier.runs(s, start.reshape(-1), self.plan.width).reshape(weights.shape) * weights.astype(s.dtype)), axis=(1, 2))
            for start, weights in self.buckets
        ]
        return jnp.concatenate([*sums, jnp.zeros(1, s.dtype)]).at[self.node].get(mode="promise_in_bounds")

    def _name(self):
        return "PreparedRadon"


def prepare(geometry: Any, p: fourier.Plan) -> PreparedRadon:
    """Tables in float64 on the host, kept in the working precision; for a concrete geometry."""
    angles, offset = np.asarray(geometry.angles, np.float64), float(geometry.detector_offset)
    u, v = fourier.points(p, angles, np)
    first, wu, wv, sign = fourier.locate(p, u, v, np)
    if p.ratio <= 1:
        sign = np.where(np.cos(angles) < 0, -1.0, 1.0)[:, None]
    buckets, node = _runs_by_node(p, first, wu, wv)
    spectrum = normal_spectrum(p, angles) if geometry.sees_whole_object else None
    real = jax.dtypes.canonicalize_dtype(np.float64)
    return PreparedRadon(
        plan=p,
        view_count=len(angles),
        first=jnp.asarray(first),
        row_weights=jnp.asarray(wu, real),
        column_weights=jnp.asarray(wv, real),
        sign=jnp.asarray(sign, real),
        factor=jnp.asarray(fourier.response(p, u, v, offset, np)),
        inside=jnp.asarray(fourier.in_period(p, offset, np)),
        buckets=tuple((jnp.asarray(start), jnp.asarray(weights, real)) for start, weights in buckets),
        node=jnp.asarray(node),
        spectrum=None if spectrum is None else jnp.asarray(spectrum, real),
    )


def _runs_by_node(p, first, wu, wv):
    """The transpose of the interpolation as a gather.

    A grid node is reached by neighbouring frequencies of the few views that pass it. They are read as runs of ``width``
    consecutive samples (with zero weights where a run is longer than needed): a third of the indices of a sparse matrix.
    Nodes with similar numbers of runs share a rectangular table.
    """
    from scipy import sparse

    w, k, count, nodes = p.width, p.frequency_count, first.size, p.rows * p.pitch
    taps = np.arange(w, dtype=np.int32)
    column = (first[:, None, None] + (taps[:, None] * p.pitch + taps)).reshape(-1)
    row = np.repeat(np.arange(count, dtype=np.int32), w * w)
    weight = (wu.T[:, :, None] * wv[:, None, :]).reshape(-1)
    table = sparse.coo_array((weight, (column, row)), shape=(nodes, count)).tocsr()
    table.sort_indices()
    sample, weight = np.asarray(table.indices), np.asarray(table.data)
    node = np.repeat(np.arange(nodes, dtype=np.int32), np.diff(np.asarray(table.indptr)))
    view, radius = sample // k, sample % k

    new = np.ones(len(sample), bool)
    new[1:] = (node[1:] != node[:-1]) | (view[1:] != view[:-1])
    chunk = (radius - radius[new][np.cumsum(new) - 1]) // w
    new[1:] |= chunk[1:] != chunk[:-1]
    run = np.cumsum(new) - 1
    start = np.minimum(sample[new], count - w).astype(np.int32)
    weights = np.zeros((len(start), w))
    weights[run, sample - start[run]] = weight
    runs = np.bincount(node[new], minlength=nodes)
    offset = np.concatenate([[0], np.cumsum(runs)])

    buckets, place, filled, low = [], np.full(nodes, -1), 0, 0
    for high in _bucket_edges(int(runs.max())):
        members = np.nonzero((runs > low) & (runs <= high))[0]
        low = high
        if not len(members):
            continue
        longest = int(runs[members].max())
        index = offset[members][:, None] + np.arange(longest)
        valid = index < offset[members + 1][:, None]
        index = np.where(valid, index, 0)
        buckets.append((np.where(valid, start[index], 0), np.where(valid[..., None], weights[index], 0)))
        place[members] = filled + np.arange(len(members))
        filled += len(members)
    place[place < 0] = filled
    return buckets, place.astype(np.int32)


def _bucket_edges(longest):
    """1, 2, 3, 4, 6, 8, 12, 16, 32, 64, … up to ``longest``."""
    edges = [1, 2, 3, 4, 6, 8, 12, 16]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return edges


def over_images(function: Any, x: jax.Array) -> jax.Array:
    """``function`` over the leading axes of x: on a CPU one image after the other, so that the working set stays in the cache; on
    accelerators in chunks."""
    lead = x.shape[:-2]
    if not lead:
        return function(x)
    flat = x.reshape(-1, *x.shape[-2:])
    y = lax.platform_dependent(flat, cpu=lambda v: lax.map(function, v), default=lambda v: lax.map(function, v, batch_size=_CHUNK))
    return y.reshape(*lead, *y.shape[1:])
