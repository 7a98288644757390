"""The orthonormal wavelet transform against PyWavelets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.forward.wavelet import FILTERS, Wavelet
from diffimg.testing import check_operator

pywt = pytest.importorskip("pywt")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", FILTERS)
def test_filters(name):
    low = np.array(FILTERS[name])
    np.testing.assert_allclose(low, pywt.Wavelet(name).rec_lo, atol=2e-12)
    overlaps = [np.dot(low[: len(low) - 2 * k], low[2 * k :]) for k in range(len(low) // 2)]
    np.testing.assert_allclose(overlaps, np.eye(1, len(overlaps))[0], atol=4e-16)


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [("haar", (8,), 3), ("db2", (16, 24), 3), ("db8", (8, 12), 1), ("sym4", (4, 8, 6), 1), ("coif1", (12, 20), 2)],
)
def test_equals_pywavelets(name, shape, levels):
    x = RNG.standard_normal((2, *shape)).astype(np.float32)
    coefficients = pywt.wavedecn(x[1].astype(np.float64), name, mode="periodization", level=levels)
    expected = pywt.coeffs_to_array(coefficients)[0]
    operator = Wavelet(shape, name, levels)
    y = operator(x)
    np.testing.assert_allclose(y[1], expected, atol=1e-5)
    np.testing.assert_allclose(operator.H(y), x, atol=1e-5)


def test_promises():
    check_operator(Wavelet((4, 8), "db2", 1))
    with jax.enable_x64(True):
        operator = Wavelet((8, 16), "sym4", 2, "complex128")
        check_operator(operator, platforms=())
        x = jnp.asarray(RNG.standard_normal((8, 16)) + 0j)
        np.testing.assert_allclose(operator.H(operator(x)), x, atol=1e-13)
    assert operator.norm() == 1


@pytest.mark.filterwarnings("ignore:Level value")
def test_subbands():
    operator = Wavelet((16, 16), "db2", 2)
    x = RNG.standard_normal((16, 16)).astype(np.float32)
    coefficients = pywt.wavedecn(x, "db2", mode="periodization", level=2)
    y = operator(x)
    np.testing.assert_allclose(operator.subband(y, 1, (True, False)), coefficients[2]["da"], atol=1e-5)
    np.testing.assert_allclose(operator.subband(y, 2, (False, True)), coefficients[1]["ad"], atol=1e-5)
    np.testing.assert_allclose(operator.subband(y, 2, (False, False)), coefficients[0], atol=1e-5)


def test_bad_input():
    message = r"image_shape: expected axes divisible by 2\^levels = 8, got \(20, 24\).*\(24, 24\), or use levels ≤ 2"
    with pytest.raises(ValueError, match=message):
        Wavelet((20, 24), "haar", 3)
    with pytest.raises(ValueError, match=r"wavelet: expected one of.*Did you mean 'db2'"):
        Wavelet((8, 8), "dbb2", 1)
    with pytest.raises(ValueError, match="details: expected at least one True"):
        Wavelet((8, 8), "haar", 2).subband(np.ones((8, 8)), 1, (False, False))
