"""Convolutions against XLA's and SciPy's, and their derivatives of every order against XLA's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.signal import correlate

from diffimg import nn
from diffimg.testing import PLATFORMS

RNG = np.random.default_rng(0)
CASES = {
    "1-D": ((2, 9, 3), (5, 3, 2)),
    "2-D": ((2, 7, 9, 3), (3, 3, 3, 4)),
    "3-D, uneven sizes": ((2, 5, 6, 4, 3), (3, 1, 5, 3, 2)),
    "no batch": ((40, 50, 2), (5, 3, 2, 3)),
    "large": ((2, 67, 64, 2), (3, 3, 2, 2)),
    "many channels": ((2, 6, 7, 8), (3, 5, 8, 9)),
    "many channels, several blocks": ((2, 19, 7, 8), (5, 3, 8, 9)),
    "one channel": ((2, 6, 5, 1), (3, 3, 1, 4)),
}


def by_xla(x, kernel):
    axes = {1: "X", 2: "YX", 3: "ZYX"}[kernel.ndim - 2]
    flat = x.reshape(-1, *x.shape[-len(axes) - 1 :])
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(flat, kernel, (1,) * len(axes), "SAME", dimension_numbers=numbers).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_xla(case, x64, monkeypatch):
    if "blocks" in case:
        monkeypatch.setattr("diffimg.nn.convolution._CACHED", 1)
    shape, size = CASES[case]
    x, kernel, dx, dk = (RNG.normal(size=s) for s in (shape, size, shape, size))

    def everything(convolve):
        value = lambda x, k: jnp.sum(jnp.sin(convolve(x, k)))  # noqa: E731
        slope = jax.grad(value, (0, 1))
        forward = jax.jvp(slope, (x, kernel), (dx, dk))[1]
        reverse = jax.grad(lambda *p: sum(jnp.vdot(a, b) for a, b in zip(slope(*p), (dx, dk), strict=True)), (0, 1))(x, kernel)
        return convolve(x, kernel), slope(x, kernel), forward, reverse

    for ours, theirs in zip(*(jax.tree.leaves(jax.jit(everything, static_argnums=0)(f)) for f in (nn.convolve, by_xla)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_values_are_scipys(x64):
    x, kernel, bias = RNG.normal(size=(8, 9, 2)), RNG.normal(size=(3, 5, 2, 3)), RNG.normal(size=3)
    expected = sum(np.stack([correlate(x[..., c], kernel[..., c, o], "same") for o in range(3)], -1) for c in range(2)) + bias
    np.testing.assert_allclose(nn.convolve(x, kernel, bias), expected, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_sampling_between_scales(ndim, x64):
    x = RNG.normal(size=(2, *(4, 6, 8)[:ndim], 3))
    blocks = x.reshape(2, *np.ravel([(n // 2, 2) for n in x.shape[1:-1]]), 3)
    axes = tuple(2 + 2 * a for a in range(ndim))
    np.testing.assert_allclose(nn.max_pool(x, ndim), blocks.max(axes))
    np.testing.assert_allclose(nn.mean_pool(x, ndim), blocks.mean(axes), atol=1e-14)
    kernel = RNG.normal(size=(3, *(2,) * ndim, 5))
    numbers = ("NYXC", "YXIO", "NYXC") if ndim == 2 else ("NZYXC", "ZYXIO", "NZYXC")
    theirs = lax.conv_transpose(x, jnp.flip(jnp.moveaxis(kernel, 0, -2), range(ndim)), (2,) * ndim, "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(nn.up_convolve(x, kernel), theirs, atol=1e-12)
    kernel = RNG.normal(size=(*(2,) * ndim, 3, 5))
    theirs = lax.conv_general_dilated(x, kernel, (2,) * ndim, "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(nn.down_convolve(x, kernel), theirs, atol=1e-12)


def test_lowers_everywhere():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    jax.export.export(jax.jit(jax.grad(lambda k, x: jnp.sum(nn.convolve(x, k) ** 2))), platforms=PLATFORMS)(kernel, x)


def test_in_loops_all_convolutions_are_fast_ones():
    """XLA's CPU backend is 30 times slower in loops for any other order of the axes than this one."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 3))
    slope = jax.grad(lambda x, k: jnp.sum(jnp.sin(nn.convolve(x, k))), (0, 1))

    def step(state, _):
        return jax.tree.map(jnp.add, state, slope(*state)), None

    program = jax.jit(lambda *state: lax.scan(step, state, None, 4)[0]).lower(x, kernel).compile().as_text()
    orders = re.findall(r"convolution\(.*dim_labels=([^,\s]*)", program)
    if jax.default_backend() == "cpu":
        assert len(orders) >= 3 and set(orders) == {"b01f_01io->b01f"}


def test_batches_of_kernels():
    x, kernel = RNG.normal(size=(2, 6, 7, 3)).astype("f"), RNG.normal(size=(4, 3, 3, 3, 2)).astype("f")
    slope = lambda k: jax.grad(lambda k: jnp.sum(nn.convolve(x, k) ** 2))(k)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(slope)(kernel), np.stack([slope(k) for k in kernel]), rtol=2e-5, atol=1e-4)


def test_refused():
    for x, kernel, message in (
        (np.zeros((4, 4, 2)), np.zeros((3, 3, 3, 1)), "channels"),
        (np.zeros((4, 4, 2)), np.zeros((2, 3, 2, 1)), "odd"),
        (np.zeros((4, 2)), np.zeros((3, 3, 2, 1)), "axes of space"),
        (np.zeros((4, 4, 2)), np.zeros((3, 2)), "kernel"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.convolve(x, kernel)
    with pytest.raises(ValueError, match="even"):
        nn.max_pool(np.zeros((5, 4, 1)))
    with pytest.raises(ValueError, match="kernel"):
        nn.up_convolve(np.zeros((4, 4, 3)), np.zeros((2, 2, 2, 1)))
