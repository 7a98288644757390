"""A deformation held by a small network of coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data.grid import Grid
from diffimg.forward.transform import Transform, linear_planes


@pytree
class Siren(Transform):
    """x ↦ x + s · N(x), N a fully connected network with sines, of the coordinates −1 … 1 of a domain (implicit representation).

    Smooth, with derivatives of every order, and of a size that does not depend on the image's.

    Args:
        weights: matrices ``[inputs, outputs]`` of the layers, first to last. biases: ``[outputs]`` of each.
        domain: the grid whose extent the coordinates −1 … 1 span, along its own axes.
        scale: s, mm.
        frequency: ω of sin(ω (W x + b)): the larger, the finer what the network can hold.

    Raises:
        ValueError: shapes do not fit. Make one with ``Siren.identity``.

    V. Sitzmann et al., NeurIPS 2020; J. M. Wolterink, J. C. Zwienenberg, C. Brune, MIDL 2022 (registration).
    """

    free: ClassVar[dict[str, str]] = {"weights": "number", "biases": "number"}
    weights: tuple[Any, ...]
    biases: tuple[Any, ...]
    domain: Grid = static()
    scale: float = static(default=10.0)
    frequency: float = static(default=10.0)

    def __post_init__(self):
        object.__setattr__(self, "weights", tuple(self.weights))
        object.__setattr__(self, "biases", tuple(self.biases))
        if len(self.weights) < 2 or len(self.weights) != len(self.biases):
            check.fail("weights, biases", "one of each a layer, two layers or more", f"{len(self.weights)} and {len(self.biases)}")
        width = self.domain.ndim
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            last = k == len(self.weights) - 1
            check.shape(f"weights[{k}]", w, (width, self.domain.ndim if last else np.shape(w)[-1]), "[inputs, outputs]")
            width = np.shape(w)[-1]
            check.shape(f"biases[{k}]", b, (width,), "one an output")
        check.minimum("scale", self.scale, 0, strict=True)
        check.minimum("frequency", self.frequency, 0, strict=True)

    @classmethod
    def identity(
        cls, domain: Grid, widths: Sequence[int] = (64, 64), *, key: Any = None, scale: float | None = None, frequency: float = 10.0
    ) -> Siren:
        """T = id: random hidden layers, a last one of zeros.

        Args:
            domain: what the image covers. widths: of the hidden layers. key: of the random numbers; default ``jax.random.key(0)``.
            scale: mm; default a twentieth of the longest side. frequency: ω.
        """
        widths = [check.positive_int("widths", w) for w in widths]
        if not widths:
            check.fail("widths", "at least one hidden layer", "none")
        key = jax.random.key(0) if key is None else key
        sizes = [domain.ndim, *widths]
        weights, biases = [], []
        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            one, two, key = jax.random.split(key, 3)
            limit = 1 / a if k == 0 else float(np.sqrt(6 / a)) / frequency
            weights.append(jax.random.uniform(one, (a, b), jnp.float32, -limit, limit))
            biases.append(jax.random.uniform(two, (b,), jnp.float32, -1, 1) / np.float32(np.sqrt(a)))
        weights.append(jnp.zeros((sizes[-1], domain.ndim)))
        biases.append(jnp.zeros(domain.ndim))
        return cls(tuple(weights), tuple(biases), domain, max(domain.extent) / 20 if scale is None else scale, frequency)

    @property
    def ndim(self):
        return self.domain.ndim

    def _map(self, planes):
        half = np.asarray(self.domain.extent) / 2
        inward = np.asarray(self.domain.direction).T / half[:, None]
        local = linear_planes(inward, tuple((-inward @ np.asarray(self.domain.centre)).tolist()), planes)
        v = jnp.stack(jnp.broadcast_arrays(*local), -1).astype(self.dtype)
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            v = jnp.matmul(v, jnp.asarray(w, v.dtype), precision="highest") + jnp.asarray(b, v.dtype)
            if k < len(self.weights) - 1:
                v = jnp.sin(self.frequency * v)
        return [x + self.scale * v[..., k] for k, x in enumerate(planes)]
