"""The transpose of an interpolation as a gather: every grid node reads the samples that it was read by.

Scattering adds conflicting writes one after the other (by two orders of magnitude slower on some accelerators); with a table known in
advance each node sums what belongs to it. A node is reached by neighbouring samples of the few lines that pass it: they are read as
runs of consecutive samples (with zero weights where a run is longer than needed), a third of the indices of a sparse matrix. Nodes
with similar numbers of runs share a rectangular table.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core.pytree import pytree
from diffimg.forward.gathers import take_runs


@pytree
class NodeRuns:
    """Sums of weighted samples, one a node; made by ``runs_by_node``."""

    buckets: Any  # by number of runs a node: ((start [node, run] int32, weights [node, run, tap]), …)
    node: Any  # [grid node] int32: its place in the concatenated buckets

    def __call__(self, s: jax.Array) -> jax.Array:
        """Complex samples ``[sample]`` to ``[grid node]``."""
        parts = lax.map(self._sum, jnp.stack([s.real, s.imag]))  # a loop, so that XLA does not compute s again for every tap
        return lax.complex(parts[0], parts[1])

    def _sum(self, s):
        sums = [
            jnp.sum(take_runs(s, start.reshape(-1), weights.shape[-1]).reshape(weights.shape) * weights.astype(s.dtype), axis=(1, 2))
            for start, weights in self.buckets
        ]
        return jnp.concatenate([*sums, jnp.zeros(1, s.dtype)]).at[self.node].get(mode="promise_in_bounds")


def runs_by_node(
    node: np.ndarray, sample: np.ndarray, weight: np.ndarray, nodes: int, samples: int, line: int, length: int
) -> NodeRuns:
    """The table to entries (node, sample, weight): ``samples`` of them in lines of ``line``, read in runs of ``length``."""
    from scipy import sparse

    table = sparse.coo_array((weight, (node, sample)), shape=(nodes, samples)).tocsr()
    table.sort_indices()
    sample, weight = np.asarray(table.indices), np.asarray(table.data)
    node = np.repeat(np.arange(nodes, dtype=np.int32), np.diff(np.asarray(table.indptr)))
    view, place_in_line = sample // line, sample % line

    new = np.ones(len(sample), bool)
    new[1:] = (node[1:] != node[:-1]) | (view[1:] != view[:-1])
    chunk = (place_in_line - place_in_line[new][np.cumsum(new) - 1]) // length
    new[1:] |= chunk[1:] != chunk[:-1]
    run = np.cumsum(new) - 1
    start = np.minimum(sample[new], samples - length).astype(np.int32)
    weights = np.zeros((len(start), length))
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
    real = jax.dtypes.canonicalize_dtype(np.float64)
    tables = tuple((jnp.asarray(start), jnp.asarray(weights, real)) for start, weights in buckets)
    return NodeRuns(tables, jnp.asarray(place.astype(np.int32)))


def _bucket_edges(longest):
    """1, 2, 3, 4, 6, 8, 12, 16, 32, 64, … up to ``longest``."""
    edges = [1, 2, 3, 4, 6, 8, 12, 16]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return edges
