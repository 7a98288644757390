"""Reconstruction networks that unroll an algorithm: ``network(y, operator, x0)``, the operator an argument.

All take data ``y`` (leading axes are batch), an operator of norm about 1 (``(1 / A.norm()) * A``, data scaled likewise; prepared), whose
arrays are traced: one network serves any mask or geometry, with one trace for all of one shape, and gradients reach the physics. ``x0``
is the first image, Aᴴy by default. Images ``[..., y, x]`` out, like the operator's domain; ``complex_values`` says that these are
complex: two channels inside. Untrained, each is (close to) the plain algorithm without a prior.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.energy import LeastSquares
from diffimg.energy.filter_bank import dct_filters, responses
from diffimg.forward.operator import Operator
from diffimg.nn.layers import Convolution, standard_normal


class _Chain(nnx.Module):
    """Convolutions with ReLU between, the last one starting at zero."""

    def __init__(self, inputs, outputs, width, depth, rngs):
        sizes = [inputs, *[width] * (depth - 1), outputs]
        gains = [2.0] * (depth - 1) + [0.0]
        pairs = zip(itertools.pairwise(sizes), gains, strict=True)
        self.layers = nnx.List([Convolution(a, b, gain=gain, rngs=rngs) for (a, b), gain in pairs])

    def __call__(self, x):
        for k, layer in enumerate(self.layers):
            x = layer(jax.nn.relu(x) if k else x)
        return x


class _Unrolled(nnx.Module):
    """What the networks share: admission, channels."""

    def _settle(self, iterations, width, depth, complex_values):
        self.iterations = check.positive_int("iterations", iterations)
        check.positive_int("width", width)
        if check.positive_int("depth", depth) < 2:
            check.fail("depth", "at least 2 convolutions", str(depth))
        self.complex_values, self.channels = bool(complex_values), 2 if complex_values else 1

    def _start(self, y, operator, x0):
        if not isinstance(operator, Operator):
            check.fail("operator", "an Operator", check.describe(operator), "network(y, operator).")
        domain = operator.domain
        if jnp.issubdtype(domain.dtype, jnp.complexfloating) != self.complex_values:
            kind = "complex" if self.complex_values else "real"
            remedy = f"Build the network with complex_values={not self.complex_values}."
            check.fail("operator", f"one for {kind} images", str(domain.dtype), remedy)
        back = operator.H(y)
        if check.is_concrete(back):
            ratio = float(jnp.linalg.norm(jnp.ravel(back)) / jnp.maximum(jnp.linalg.norm(jnp.ravel(jnp.asarray(y))), 1e-30))
            if ratio > 3:  # a lower bound of the norm
                remedy = "Scale both: A = (1 / A.norm()) * A, and the data likewise."
                check.fail("operator", "one of norm about 1", f"one of norm ≥ {ratio:.3g}", remedy)
        x = back if x0 is None else jnp.asarray(x0)
        check.trailing_shape("x0", x, domain.shape)
        return x, back

    def _channels(self, x):
        return jnp.stack([x.real, x.imag], -1) if self.complex_values else x[..., None]

    def _image(self, channels):
        return jax.lax.complex(channels[..., 0], channels[..., 1]) if self.complex_values else channels[..., 0]


class LearnedPGM(_Unrolled):
    """Learned proximal gradients: x ← P_k(x − τ_k Aᴴ(Ax − y)), P_k = identity + CNN, steps τ_k learned.

    ``network(y, A, x0)`` with y ``[..., *data]``, A of norm about 1 and y scaled likewise, x0 by default Aᴴy → ``[..., y, x]``.

    Args:
        iterations: K. complex_values: of the images. width, depth: of the CNNs. shared: one CNN for all iterations.
        rngs: ``nnx.Rngs(seed)``.

    K. Gregor, Y. LeCun, ICML 2010 (the idea, with matrices: LISTA); M. Mardani et al., NeurIPS 2018.
    """

    def __init__(
        self, iterations: int = 6, *, complex_values: bool = False, width: int = 32, depth: int = 3, shared: bool = False, rngs: nnx.Rngs
    ):
        self._settle(iterations, width, depth, complex_values)
        self.steps = nnx.Param(jnp.ones(iterations, jnp.float32))
        self.networks = nnx.List([_Chain(self.channels, self.channels, width, depth, rngs) for _ in range(1 if shared else iterations)])

    def __call__(self, y: Any, operator: Operator, x0: Any = None) -> jax.Array:
        x, back = self._start(y, operator, x0)
        for k in range(self.iterations):
            x = x - self.steps[...][k].astype(x.real.dtype) * (operator.normal(x) - back)
            x = x + self._image(self.networks[k % len(self.networks)](self._channels(x)))
        return x


class VariationalNetwork(_Unrolled):
    """x ← x − Σ_i K_iᴴ φ_i(K_i x) − τ_k Aᴴ(Ax − y): gradient steps on a field of experts whose filters and activations are learned.

    φ_i are piecewise linear between ``knots`` points; complex images have a filter for the real and one for the imaginary part.

    ``network(y, A, x0)`` with y ``[..., *data]``, A of norm about 1 and y scaled likewise, x0 by default Aᴴy → ``[..., y, x]``.

    Args:
        iterations, complex_values: as above. filters: how many in every iteration. size: of the filters. knots: of the activations.
        extent: largest response (in units of the image) at which an activation still bends.

    K. Hammernik et al., Magn. Reson. Med. 79 (2018) 3055.
    """

    def __init__(
        self, iterations: int = 10, *, complex_values: bool = False, filters: int = 24, size: int = 7, knots: int = 15, extent: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self._settle(iterations, 1, 2, complex_values)
        check.minimum("extent", extent, 0.0, strict=True)
        count = check.positive_int("filters", filters)
        if check.positive_int("knots", knots) < 2:
            check.fail("knots", "at least 2", str(knots))
        self.extent = float(extent)
        if check.positive_int("size", size) < 2:
            check.fail("size", "filters of at least 2×2", str(size), "A filter of one pixel has mean 0 only if it is 0.")
        start = jnp.asarray(dct_filters(size), jnp.float32) / size
        start = jnp.tile(start, (-(-count * self.channels // len(start)), 1, 1))[: count * self.channels]
        noise = 0.02 / size * standard_normal(rngs, (iterations, *start.shape))
        self.filters = nnx.Param((start + noise).reshape(iterations, self.channels, count, size, size))
        self.activations = nnx.Param(jnp.zeros((iterations, count, knots), jnp.float32))
        self.steps = nnx.Param(jnp.ones(iterations, jnp.float32))

    def __call__(self, y: Any, operator: Operator, x0: Any = None) -> jax.Array:
        x, back = self._start(y, operator, x0)
        for k in range(self.iterations):
            data = self.steps[...][k].astype(x.real.dtype) * (operator.normal(x) - back)
            x = x - self._regularize(k, x) - data
        return x

    def _regularize(self, k, x):
        filters = self.filters[...][k]
        filters = filters - jnp.mean(filters, (-2, -1), keepdims=True)

        def respond(parts):
            return sum(responses(f, part) for f, part in zip(filters, parts, strict=True))

        parts = (x.real, x.imag) if self.complex_values else (x,)
        out, pull = jax.vjp(respond, parts)
        back = pull(self._activate(self.activations[...][k].astype(out.dtype), out))[0]
        return jax.lax.complex(*back) if self.complex_values else back[0]

    def _activate(self, values, r):
        """Piecewise linear through ``values`` ``[filter, knot]`` at equidistant points of −extent … extent; constant beyond."""
        knots = values.shape[1]
        width = 2 * self.extent / (knots - 1)
        values = values.reshape(*values.shape, *(1,) * (r.ndim - 1))
        out = jnp.broadcast_to(values[:, 0], r.shape)
        for j in range(knots - 1):
            low = -self.extent + j * width
            out = out + (values[:, j + 1] - values[:, j]) * ((jnp.clip(r, low, low + width) - low) / width)
        return out


class MoDL(_Unrolled):
    """x ← argmin ½‖Ax − y‖² + λ/2 ‖x − D(x)‖², D = identity + CNN the same in every iteration, λ learned.

    The inner problem is solved in closed form where the operator allows it (one-coil k-space), otherwise by conjugate gradients to
    ``tolerance``, whose derivatives are implicit.

    ``network(y, A, x0)`` with y ``[..., *data]``, A of norm about 1 and y scaled likewise, x0 by default Aᴴy → ``[..., y, x]``.

    Args:
        iterations, complex_values, width, depth: as above. weight: λ to start from. cg_steps: at most.

    H. K. Aggarwal, M. P. Mani, M. Jacob, IEEE Trans. Med. Imaging 38 (2019) 394.
    """

    def __init__(
        self, iterations: int = 5, *, complex_values: bool = False, width: int = 32, depth: int = 5, weight: float = 0.05,
        cg_steps: int = 15, tolerance: float = 1e-4, rngs: nnx.Rngs,
    ):  # fmt: skip
        self._settle(iterations, width, depth, complex_values)
        check.minimum("weight", weight, 0.0, strict=True)
        self.cg_steps, self.tolerance = check.positive_int("cg_steps", cg_steps), float(tolerance)
        self.log_weight = nnx.Param(jnp.log(jnp.asarray(weight, jnp.float32)))
        self.network = _Chain(self.channels, self.channels, width, depth, rngs)

    def __call__(self, y: Any, operator: Operator, x0: Any = None) -> jax.Array:
        x, _ = self._start(y, operator, x0)
        step = jnp.exp(-self.log_weight[...]).astype(x.real.dtype)
        data = LeastSquares(operator, y, tolerance=self.tolerance, max_steps=self.cg_steps).prepare()
        for _ in range(self.iterations):
            x = data.prox(x + self._image(self.network(self._channels(x))), step)
        return x


class LearnedPrimalDual(_Unrolled):
    """Primal-dual iterations whose proximal maps are CNNs, on data and on image, with memory on both sides.

    h ← h + CNN(h, A f₂, y), f ← f + CNN(f, Aᴴ h₁); the answer is f₁.

    ``network(y, A, x0)`` with y ``[..., *data]``, A of norm about 1 and y scaled likewise, x0 by default Aᴴy → ``[..., y, x]``.

    Args:
        iterations, complex_values, width, depth: as above; data are complex where the operator's codomain is.
        memory: images (and data sets) that are carried along. complex_data: default: as the images.

    J. Adler, O. Öktem, IEEE Trans. Med. Imaging 37 (2018) 1322.
    """

    def __init__(
        self, iterations: int = 6, *, complex_values: bool = False, complex_data: bool | None = None, width: int = 32, depth: int = 3,
        memory: int = 5, rngs: nnx.Rngs,
    ):  # fmt: skip
        self._settle(iterations, width, depth, complex_values)
        if check.positive_int("memory", memory) < 2:
            check.fail("memory", "at least 2", str(memory), "The second one goes into the forward model.")
        self.memory, self.complex_data = memory, self.complex_values if complex_data is None else bool(complex_data)
        c, d = self.channels, 2 if self.complex_data else 1
        self.dual = nnx.List([_Chain((memory + 2) * d, memory * d, width, depth, rngs) for _ in range(iterations)])
        self.primal = nnx.List([_Chain((memory + 1) * c, memory * c, width, depth, rngs) for _ in range(iterations)])

    def __call__(self, y: Any, operator: Operator, x0: Any = None) -> jax.Array:
        x, _ = self._start(y, operator, x0)
        y = jnp.asarray(y)
        if jnp.iscomplexobj(y) != self.complex_data:
            kind = "complex" if self.complex_data else "real"
            check.fail("y", f"{kind} data", str(y.dtype), f"Build the network with complex_data={not self.complex_data}.")
        c, d = self.channels, 2 if self.complex_data else 1
        f = jnp.concatenate([self._channels(x)] * self.memory, -1)
        data = _split_complex(y, self.complex_data)
        h = jnp.zeros((*data.shape[:-1], self.memory * d), data.dtype)
        for dual, primal in zip(self.dual, self.primal, strict=True):
            forward = _split_complex(operator(self._image(f[..., c : 2 * c])), self.complex_data)
            h = h + dual(jnp.concatenate([h, forward, data], -1))
            backward = self._channels(operator.H(_join_complex(h[..., :d], self.complex_data)))
            f = f + primal(jnp.concatenate([f, backward], -1))
        return self._image(f[..., :c])


def _split_complex(v, complex_values):
    return jnp.stack([v.real, v.imag], -1) if complex_values else v[..., None]


def _join_complex(v, complex_values):
    return jax.lax.complex(v[..., 0], v[..., 1]) if complex_values else v[..., 0]
