"""AUTOMAP: an image from data by dense layers, without a forward model."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffimg.core import check
from diffimg.nn.layers import Convolution, standard_normal


class Automap(nnx.Module):
    """Dense layers data → hidden → image, then convolutions: learns the inversion itself, for one size and one sampling pattern.

    Its weights grow with (pixels)²: it refuses sizes that would not fit. It does not know that a shift of k-space is a modulation of the
    image: what was not in the training data fails (a test and the comparison show it).

    Args:
        data_shape, image_shape: of one data set and one image. complex_data, complex_values: two channels each then.
        hidden: width of the dense layer; None: as many as pixels. width: of the convolutions, 0 for none.
        linear: no tanh after the first dense layer.
        memory_limit: bytes that the weights in float32 may take.

    Raises:
        ValueError: weights beyond the limit; data of another shape.

    B. Zhu et al., Nature 555 (2018) 487.
    """

    def __init__(
        self, data_shape: tuple[int, ...], image_shape: tuple[int, int], *, complex_data: bool = False, complex_values: bool = False,
        hidden: int | None = None, width: int = 32, linear: bool = False, memory_limit: float = 2**30, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.data_shape, self.image_shape = tuple(int(n) for n in data_shape), tuple(int(n) for n in image_shape)
        self.complex_data, self.complex_values = bool(complex_data), bool(complex_values)
        self.linear = bool(linear)
        inputs = math.prod(self.data_shape) * (2 if complex_data else 1)
        channels = 2 if complex_values else 1
        outputs = math.prod(self.image_shape) * channels
        hidden = math.prod(self.image_shape) if hidden is None else check.positive_int("hidden", hidden)
        needed = 4 * (inputs * hidden + hidden * outputs)
        if needed > memory_limit:
            expected = f"weights of at most {memory_limit / 2**30:.3g} GiB"
            got = f"{inputs} → {hidden} → {outputs}, {needed / 2**30:.3g} GiB"
            check.fail("data_shape, image_shape", expected, got, "Take smaller images or hidden=, or raise memory_limit.")
        self.first = nnx.Param(standard_normal(rngs, (inputs, hidden)) / math.sqrt(inputs))
        self.second = nnx.Param(0.1 * standard_normal(rngs, (hidden, outputs)) / math.sqrt(hidden))
        if width:
            sizes = ((channels, width, 5), (width, width, 5), (width, channels, 7))
            gains = (2.0, 2.0, 0.0)
            self.layers = nnx.List([Convolution(a, b, s, gain=g, rngs=rngs) for (a, b, s), g in zip(sizes, gains, strict=True)])
        else:
            self.layers = nnx.List([])

    def __call__(self, y: Any) -> jax.Array:
        """``[..., *data_shape]`` → ``[..., y, x]``."""
        y = jnp.asarray(y)
        check.trailing_shape("y", y, self.data_shape)
        if jnp.iscomplexobj(y) != self.complex_data:
            check.fail("y", "complex data" if self.complex_data else "real data", str(y.dtype), "Say complex_data= when building.")
        lead = y.shape[: y.ndim - len(self.data_shape)]
        flat = jnp.stack([y.real, y.imag], -1) if self.complex_data else y
        hidden = flat.reshape(*lead, -1) @ self.first[...].astype(flat.dtype)
        hidden = hidden if self.linear else jnp.tanh(hidden)
        x = (hidden @ self.second[...].astype(hidden.dtype)).reshape(*lead, *self.image_shape, -1)
        out = x
        for k, layer in enumerate(self.layers):
            out = layer(jax.nn.relu(out) if k else out)
        x = x + out if self.layers else x
        return jax.lax.complex(x[..., 0], x[..., 1]) if self.complex_values else x[..., 0]
