"""Training steps of unrolled networks for CT, with this project's projectors and with ASTRA's called back from the same program."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.harness import Table, alternate, compiled, difference
from benchmarks.peers import Astra
from diffimg import forward, nn
from diffimg.core.pytree import pytree, static

NOTES = (
    "Learned primal-dual and learned proximal gradients, 6 iterations, one training step (loss, gradient, Adam) in float32. The peer is "
    "the same network, program and batch, with ASTRA's CPU projectors (Joseph's model) through jax.pure_callback and their adjoints in "
    "the derivative, one image after the other. Agreement: of the sinograms of the batch (two discretizations)."
)


@pytree
class Called(forward.Operator):
    """ASTRA's projector as an operator: x ↦ scale · A x."""

    scale: Any
    projector: Any = static()
    batched = True

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.projector.geometry.image_shape, jnp.float32)

    def __call__(self, x):
        geometry = self.projector.geometry
        return self.scale * self._call(self.projector.forward, x, (len(geometry.angles), geometry.detector_count))

    def adjoint(self, y):
        """Aᴴ y."""
        return self.scale * self._call(self.projector.back, y, self.projector.geometry.image_shape)

    def _call(self, function, v, shape):
        def host(v):
            flat = np.asarray(v).reshape(-1, *v.shape[-2:])
            return np.stack([function(one) for one in flat]).reshape(*v.shape[:-2], *shape).astype(np.float32)

        return jax.pure_callback(host, jax.ShapeDtypeStruct((*v.shape[:-2], *shape), jnp.float32), v)


def run(quick: bool = False) -> Table:
    """The table."""
    table = Table("unrolled", "Training steps of unrolled networks for parallel-beam CT", NOTES)
    for size, views, batch in [(32, 12, 2)] if quick else [(128, 60, 4), (256, 360, 2), (512, 720, 1)]:
        _compare(table, size, views, batch, quick)
    return table


def _compare(table, size, views, batch, quick):
    angles = np.arange(views) * np.pi / views
    geometry = forward.ParallelBeam((size, size), angles, int(1.45 * size) | 1)
    own = forward.Radon(geometry).prepare()
    scale = 1 / float(own.norm())
    own, peer = scale * own, Called(scale, Astra(geometry))
    rng = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, size)
    disc = (ramp[:, None] ** 2 + ramp**2 < 0.8).astype(np.float32)
    truth = jnp.asarray(disc * (1 + 0.2 * rng.normal(size=(batch, size, size))).astype(np.float32))
    y = own(truth)
    agreement = difference(own(truth), peer(truth))
    for name, network in {
        "learned primal-dual": nn.LearnedPrimalDual(6, width=16, rngs=nnx.Rngs(0)),
        "learned proximal gradients": nn.LearnedPGM(6, width=16, rngs=nnx.Rngs(0)),
    }.items():
        apply, params = nn.split(network)
        optimizer = optax.adam(1e-4)

        def step(operator, params, state, y, truth, apply=apply, optimizer=optimizer):
            loss = lambda p: jnp.mean((apply(p, y, operator) - truth) ** 2)  # noqa: E731
            value, slope = jax.value_and_grad(loss)(params)
            change, state = optimizer.update(slope, state)
            return optax.apply_updates(params, change), state, value

        state = optimizer.init(params)
        ours, compile_s, _ = compiled(step, own, params, state, y, truth)
        theirs = jax.jit(step)
        rest = (params, state, y, truth)
        repeats = 5 if 128 <= size <= 256 else 3
        mine, others = alternate(functools.partial(ours, own, *rest), functools.partial(theirs, peer, *rest), repeats)
        case = f"{name}, {size}², {views} views, batch {batch}"
        table.add(f"{case}: training step", "ASTRA called back", mine, others, agreement, compile_s)
        if not quick:
            note = f"{others.median / mine.median:.1f}× the peer's steps a second"
            table.quantity(f"{case}: seconds a step", "bound: the peer's / 5", mine.median, others.median / 5, note)
