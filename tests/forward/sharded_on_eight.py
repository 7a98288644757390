"""What ``test_sharded`` runs in a process of eight simulated devices: prints the relative errors against one device as JSON."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.forward import ConeBeam, FanBeam, ParallelBeam, Radon, Sharded

RNG = np.random.default_rng(0)


def relative(a, b):
    parts = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return max(float(np.linalg.norm(np.asarray(p) - np.asarray(q)) / max(np.linalg.norm(np.asarray(q)), 1e-30)) for p, q in parts)


def errors(geometry, devices=None):
    operator = Radon(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry))
    sharded = Sharded(operator, devices)
    x = jnp.asarray(RNG.normal(size=geometry.image_shape), jnp.float32)
    y = jnp.asarray(RNG.normal(size=geometry.sinogram_shape), jnp.float32)

    def loss(a, x):
        return 0.5 * jnp.sum((a(x) - y) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    (slope, image), (own_slope, own_image) = gradient(operator, x), gradient(sharded, x)
    return {
        "forward": relative(sharded(x), operator(x)),
        "adjoint": relative(sharded.H(y), operator.H(y)),
        "gradient in the image": relative(own_image, image),
        "gradient in the geometry": relative(own_slope.operator, slope),
    }


def batch(geometry):
    operator = Radon(geometry)
    sharded = Sharded(operator, over="batch")
    x = jnp.asarray(RNG.normal(size=(16, *geometry.image_shape)), jnp.float32)
    y = sharded(x)
    assert len(y.sharding.device_set) == 8 and y.addressable_shards[0].data.shape[0] == 2
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(sharded(v) ** 2)))(x)
    normal = operator.H(y)
    return {
        "forward": relative(y, operator(x)),
        "adjoint": relative(sharded.H(y), normal),
        "normal": relative(sharded.normal(x), normal),
        "gradient": relative(gradient, 2 * normal),
    }


def main(slow):
    assert jax.device_count() == 8
    angles = np.linspace(0.1, 6, 20)
    fan = FanBeam((12, 14), angles, 40, 30.0, 20.0, 1.0, 1.2, detector_offset=0.2)
    out = {"fan, 20 views on 8": errors(fan), "batch": batch(fan)}
    if slow:
        cone = ConeBeam((4, 6, 7), angles[::2], (5, 18), 20.0, 10.0, 1.0, None, 1.4)
        out["fan on 4"] = errors(fan, jax.devices()[:4])
        out["cone, 10 views on 8"] = errors(cone, jax.sharding.Mesh(np.array(jax.devices()), ("machines",)))
        out["parallel, 16 views"] = errors(ParallelBeam((12, 14), angles[:16], 22))
    operator = Sharded(Radon(fan.subset(slice(0, 16))))
    y = operator(jnp.ones((3, 12, 14)))  # each device keeps its views
    assert {s.data.shape for s in y.addressable_shards} == {(3, 2, 40)}
    y = operator.subset(jnp.arange(8))(jnp.ones((12, 14)))
    assert {s.data.shape for s in y.addressable_shards} == {(1, 40)}
    print(json.dumps(out))


if __name__ == "__main__":
    main("slow" in sys.argv)
