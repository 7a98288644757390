"""One training step of a U-Net, 128², batch 4, channels 32-64-128, float32, against the same network in PyTorch on the same cores."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.harness import Table, alternate, compiled, difference
from diffimg import nn

NOTES = (
    "Forward pass, mean squared error, gradient and Adam, the state donated. The same weights on both sides; agreement: of the outputs, or "
    "of the gradient in all weights."
)


def run(quick: bool = False) -> Table:
    """The table."""
    size, batch, channels = (32, 2, (8, 16)) if quick else (128, 4, (32, 64, 128))
    table = Table("unet_step", f"U-Net training step, {size}², batch {batch}, channels {'-'.join(map(str, channels))}", NOTES)
    apply, params = nn.split(nn.UNet(channels, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(batch, size, size, 1)).astype(np.float32) for _ in range(2))
    optimizer = optax.adam(1e-4)

    def loss(params, x, y):
        return jnp.mean((apply(params, x) - y) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, y):
        value, slope = jax.value_and_grad(loss)(params, x, y)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state, value

    peer = Torch(channels, params, x, y)
    program, _, _ = compiled(apply, params, x)
    agreement = difference(program(params, x), peer.output())
    slope = jax.jit(jax.grad(loss))(params, x, y)
    slopes = difference(_vector(slope), _vector(peer.gradient()))
    state = [jax.tree.map(jnp.array, params), optimizer.init(params)]

    def own():
        state[0], state[1], value = step(*state, x, y)
        return value

    repeats = 3 if quick else 9
    a, b = alternate(own, peer.step, repeats, 1)
    table.add("training step", "PyTorch", a, b, slopes, note="agreement of the gradients")
    a, b = alternate(lambda: program(params, x), peer.infer, repeats, 1)
    table.add("forward", "PyTorch", a, b, agreement)
    return table


def _vector(tree):
    return np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])


class Torch:
    """The same network with the same weights; ``gradient`` and ``output`` come in the shapes of ours."""

    def __init__(self, channels, params, x, y):
        import torch

        self.torch, self.params = torch, params
        tensor = lambda v: torch.tensor(np.asarray(v))  # noqa: E731
        self.x, self.y = (tensor(np.moveaxis(v, -1, 1)).contiguous() for v in (x, y))
        self.weights = jax.tree.map(lambda v: self._leaf(v).requires_grad_(), params)
        self.optimizer = torch.optim.Adam(jax.tree.leaves(self.weights), lr=1e-4)
        self.count = len(channels)

    def _leaf(self, v):
        v = np.asarray(v)
        return self.torch.tensor(v if v.ndim == 1 else self._theirs(v))

    @staticmethod
    def _theirs(v):
        # (ky, kx, in, out) to (out, in, ky, kx); of the up-convolution (in, 2, 2, out) to (in, out, 2, 2)
        return np.ascontiguousarray(np.transpose(v, (0, 3, 1, 2) if v.shape[1] == v.shape[2] == 2 else (3, 2, 0, 1)))

    def _net(self, x):
        f, w = self.torch.nn.functional, self.weights
        conv = lambda x, p: f.conv2d(x, p["kernel"], p["bias"], padding=p["kernel"].shape[-1] // 2)  # noqa: E731

        def block(x, convolutions):
            for k in sorted(convolutions):
                x = f.relu(conv(x, convolutions[k]))
            return x

        skips = []
        for k in range(self.count):
            x = block(f.max_pool2d(x, 2) if k else x, w["down"][k])
            skips.append(x)
        skips.pop()
        for k in range(self.count - 1):
            up = w["up"][k]
            x = block(self.torch.cat([skips.pop(), f.conv_transpose2d(x, up["kernel"], up["bias"], stride=2)], 1), w["merge"][k])
        return conv(x, w["last"])

    def _loss(self):
        return self.torch.mean((self._net(self.x) - self.y) ** 2)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        value = self._loss()
        value.backward()
        self.optimizer.step()
        return value.item()

    def infer(self):
        with self.torch.no_grad():
            return self._net(self.x).numpy()

    def output(self):
        return np.moveaxis(self.infer(), 1, -1)

    def gradient(self):
        self.optimizer.zero_grad(set_to_none=True)
        self._loss().backward()

        def back(ours, theirs):
            g = theirs.grad.numpy()
            if g.ndim == 1:
                return g
            return np.transpose(g, (0, 2, 3, 1) if np.shape(ours)[1] == np.shape(ours)[2] == 2 else (2, 3, 1, 0))

        return jax.tree.map(back, self.params, self.weights)
