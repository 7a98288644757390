"""Finite differences against NumPy and SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffimg.forward.stencil import Gradient, Laplacian
from diffimg.testing import check_operator

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
@pytest.mark.parametrize(("shape", "spacing"), [((7,), None), ((5, 6), 0.5), ((4, 3, 5), (2.0, 1.0, 0.5))])
def test_gradient_and_laplacian(shape, spacing, boundary):
    gradient, laplacian = Gradient(shape, spacing, boundary), Laplacian(shape, spacing, boundary)
    x = RNG.standard_normal(shape).astype(np.float32)
    h = np.broadcast_to(1.0 if spacing is None else spacing, len(shape))
    extra = {"mode": "edge" if boundary == "neumann" else "wrap"}
    for k in range(len(shape)):
        widths = [(0, int(k == j)) for j in range(len(shape))]
        np.testing.assert_allclose(gradient(x)[k], np.diff(np.pad(x, widths, **extra), axis=k) / h[k], rtol=1e-5, atol=1e-6)
    mode = "nearest" if boundary == "neumann" else "wrap"
    expected = sum(ndimage.correlate1d(x.astype(np.float64), [1, -2, 1], k, mode=mode) / h[k] ** 2 for k in range(len(shape)))
    np.testing.assert_allclose(laplacian(x), expected, rtol=1e-4, atol=1e-4)
    for operator in (gradient, laplacian):
        np.testing.assert_allclose(operator.norm(), np.linalg.norm(operator.matrix(), 2), rtol=1e-5)
    assert gradient.norm() <= 2 * np.sqrt(np.sum(h**-2.0)) * (1 + 1e-6)


def test_promises():
    check_operator(Gradient((6, 5), 0.7))
    check_operator(Laplacian((6, 5), 0.7, "periodic"), platforms=())
    with jax.enable_x64(True):
        check_operator(Gradient((4, 5), 0.7, "periodic", "complex128"), platforms=())


def test_axes_of_length_one():
    assert jnp.all(Gradient((1, 4))(jnp.ones((1, 4))) == 0)
    assert Gradient((1, 1)).norm() == 0


def test_bad_input():
    with pytest.raises(ValueError, match="spacing: expected 1 or 2 positive numbers"):
        Gradient((4, 4), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="spacing: expected values > 0"):
        Laplacian((4, 4), 0.0)
    with pytest.raises(ValueError, match=r"boundary: expected one of.*Did you mean 'neumann'"):
        Gradient((4, 4), boundary="neuman")
