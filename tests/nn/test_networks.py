"""Every network once: shapes, finite gradients, vmap, dtype, lowering, and what makes each what it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffimg import nn
from diffimg.testing import PLATFORMS

RNG = np.random.default_rng(1)
NETWORKS = {
    "unet": (lambda rngs: nn.UNet((4, 6, 8), rngs=rngs), (2, 12, 10, 1)),
    "unet, odd sizes": (lambda rngs: nn.UNet((4, 6), 2, 3, rngs=rngs), (9, 11, 2)),
    "unet 3-D, residual": (lambda rngs: nn.UNet((3, 4), 2, 2, ndim=3, residual=True, rngs=rngs), (1, 6, 4, 5, 2)),
    "dncnn": (lambda rngs: nn.DnCNN(2, 6, 4, rngs=rngs), (3, 8, 9, 2)),
    "drunet, odd sizes": (lambda rngs: nn.DRUNet(1, (4, 6, 8), 2, rngs=rngs), (2, 9, 10, 1)),
    "drunet 3-D": (lambda rngs: nn.DRUNet(2, (3, 4), 1, ndim=3, rngs=rngs), (4, 5, 6, 2)),
}


def split(name, seed=0):
    """(apply(params, x), params); a noise level of 0.1 for those that want one."""
    apply, params = nn.split(NETWORKS[name][0](nnx.Rngs(seed)))
    return (functools.partial(_with_level, apply) if "drunet" in name else apply), params


def _with_level(apply, params, x):
    return apply(params, x, 0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_properties(name):
    shape = NETWORKS[name][1]
    apply, params = split(name)
    x = RNG.normal(size=shape).astype(np.float32)

    def value(params, x):
        y = apply(params, x)
        return jnp.mean((y - 1) ** 2), y

    slope = jax.jit(jax.grad(value, (0, 1), has_aux=True))  # everything compiled: eager networks compile every layer
    slopes, y = slope(params, x)
    assert y.shape[:-1] == shape[:-1] and y.dtype == jnp.float32
    assert nn.count(params) == sum(v.size for v in jax.tree.leaves(params)) > 0
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(slopes))
    assert jax.tree.structure(slopes[0]) == jax.tree.structure(params)
    stacked = jax.jit(jax.vmap(apply, (None, 0)))(params, np.stack([x, 2 * x]))
    np.testing.assert_allclose(stacked[0], y, atol=1e-5)
    jax.export.export(slope, platforms=PLATFORMS)(params, x)
    # the numbers decide, not the object: another seed has another output, the same the same
    pure, other = nn.split(NETWORKS[name][0](nnx.Rngs(1)))
    assert pure == nn.split(NETWORKS[name][0](nnx.Rngs(2)))[0]
    if "residual" not in name and name != "dncnn":  # those start as the identity
        assert float(jnp.max(jnp.abs(slope(other, x)[1] - y))) > 1e-4
    if "drunet" not in name:
        np.testing.assert_allclose(jax.jit(nn.join(pure, params))(x), y, atol=1e-6)


@pytest.mark.parametrize("make", [lambda rngs: nn.UNet((4, 6), residual=True, rngs=rngs), lambda rngs: nn.DnCNN(1, 4, 3, rngs=rngs)])
def test_residual_nets_start_as_the_identity(make):
    apply, params = nn.split(make(nnx.Rngs(0)))
    x = RNG.normal(size=(7, 9, 1)).astype(np.float32)
    np.testing.assert_array_equal(apply(params, x), x)


def test_drunet_scales_with_image_and_noise_and_takes_a_level_for_every_image():
    apply, params = nn.split(nn.DRUNet(1, (4, 6), 1, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
    levels = np.array([0.1, 0.3], np.float32)
    y = apply(params, x, levels)
    np.testing.assert_allclose(apply(params, 3 * x, 3 * levels), 3 * y, rtol=1e-4, atol=1e-4)
    for k, level in enumerate(levels):
        np.testing.assert_allclose(apply(params, x[k], level), y[k], atol=1e-5)
        np.testing.assert_allclose(apply(params, x[k], np.full((8, 8), level)), y[k], atol=1e-5)
    with pytest.raises(ValueError, match="sigma"):
        apply(params, x, np.ones((2, 3, 3)))


def test_refused():
    rngs = nnx.Rngs(0)
    for make, message in (
        (lambda: nn.UNet((), rngs=rngs), "channels"),
        (lambda: nn.UNet((4, 0), rngs=rngs), "channels"),
        (lambda: nn.UNet(activation="rely", rngs=rngs), "relu"),
        (lambda: nn.UNet(inputs=2, residual=True, rngs=rngs), "residual"),
        (lambda: nn.UNet((4,), rngs=rngs)(np.zeros((8, 8))), "channels"),
        (lambda: nn.DnCNN(depth=1, rngs=rngs), "depth"),
        (lambda: nn.DRUNet(widths=(), rngs=rngs), "widths"),
        (lambda: nn.split(3), "nnx module"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_unet_is_pytorchs():
    """The same network with the same weights, built of PyTorch's own layers: output and gradient in every weight."""
    pytest.importorskip("torch")
    from benchmarks.unet_step import Torch

    channels = (4, 6, 8)
    apply, params = nn.split(nn.UNet(channels, rngs=nnx.Rngs(3)))
    x, y = (RNG.normal(size=(2, 16, 12, 1)).astype(np.float32) for _ in range(2))
    peer = Torch(channels, params, x, y)
    np.testing.assert_allclose(apply(params, x), peer.output(), atol=1e-5)
    slopes = jax.grad(lambda p: jnp.mean((apply(p, x) - y) ** 2))(params)
    for ours, theirs in zip(*map(jax.tree.leaves, (slopes, peer.gradient())), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


def test_mistakes_with_networks_are_named():
    for make, message in (
        (lambda: nn.UNet(4, rngs=nn.Rngs(0)), "channels: expected the channels of each scale"),
        (lambda: nn.UNet((4, 8), rngs=0), r"rngs: expected nn.Rngs\(seed\)"),
        (lambda: nn.UNet((4, 8), ndim=4, rngs=nn.Rngs(0)), "ndim"),
        (lambda: nn.UNet((4, 8), rngs=nn.Rngs(0))(np.ones((8, 8, 1), np.complex64)), "on_images"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert len(repr(nn.split(nn.UNet((4, 8), rngs=nn.Rngs(0)))[0])) < 80


@pytest.mark.parametrize("build", [
    lambda rngs: nn.UNet((2, 3), rngs=rngs), lambda rngs: nn.DRUNet(1, (2, 3), 1, rngs=rngs), lambda rngs: nn.DnCNN(1, 2, 3, rngs=rngs),
    lambda rngs: nn.Critic(1, (2, 3), rngs=rngs), lambda rngs: nn.InputConvexNetwork(1, 2, 2, rngs=rngs),
    lambda rngs: nn.Automap((4, 4), (4, 4), width=2, rngs=rngs), lambda rngs: nn.VariationalNetwork(1, filters=2, size=3, rngs=rngs),
    lambda rngs: nn.MoDL(1, width=2, rngs=rngs), lambda rngs: nn.LearnedPGM(1, width=2, rngs=rngs),
    lambda rngs: nn.LearnedPrimalDual(1, width=2, rngs=rngs), lambda rngs: nn.EndToEndVarNet(1, (2, 3), (2, 3), rngs=rngs),
    lambda rngs: nn.Inpainting((2, 3), rngs=rngs),
])  # fmt: skip
def test_networks_are_single_precision_in_double_mode_too(build, x64):
    """Otherwise they would promote the images."""
    assert {v.dtype.name for v in jax.tree.leaves(nn.split(build(nnx.Rngs(0)))[1])} == {"float32"}
