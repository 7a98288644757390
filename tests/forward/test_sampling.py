"""In-painting, downsampling and phase retrieval against NumPy, SciPy and scikit-image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from diffimg.forward.blur import gaussian_psf
from diffimg.forward.phase_retrieval import CodedDiffraction, PhaseRetrieval
from diffimg.forward.sampling import Downsample, Inpaint
from diffimg.testing import check_operator

RNG = np.random.default_rng(0)


def test_inpaint():
    mask = RNG.random((6, 5)) > 0.4
    operator = Inpaint(mask)
    x = RNG.standard_normal((3, 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(operator(x), np.where(mask, x, 0))
    check_operator(operator, platforms=())
    assert operator.norm() == 1
    row = Inpaint(np.array([0.5, 2.0, 0.0], np.float32), (4, 3))
    np.testing.assert_allclose(row.norm(), np.linalg.norm(row.matrix(), 2))
    assert jnp.all(jax.grad(lambda m: Inpaint(m, (4, 3))(jnp.ones((4, 3))).sum())(jnp.ones(3)) == 4)


@pytest.mark.parametrize(("shape", "factor"), [((8, 6), 2), ((9, 8), (3, 4)), ((4, 6, 4), 2)])
def test_block_mean(shape, factor):
    operator = Downsample(shape, factor)
    x = RNG.standard_normal(shape).astype(np.float32)
    expected = measure.block_reduce(x, operator.factor, np.mean)
    np.testing.assert_allclose(operator(x), expected, atol=1e-6)
    kernel = np.full(operator.factor, 1 / np.prod(operator.factor), np.float32)
    np.testing.assert_allclose(Downsample(shape, factor, kernel)(x), expected, atol=1e-6)
    np.testing.assert_allclose(operator.norm(), np.linalg.norm(operator.matrix(), 2), rtol=1e-5)


@pytest.mark.parametrize(("factor", "size", "start"), [pytest.param(2, 6, 0, marks=pytest.mark.slow), (3, 7, 1)])
def test_blur_and_decimate(factor, size, start):
    kernel = gaussian_psf(0.6 * factor, (size, size))
    operator = Downsample((12, 18), factor, kernel)
    x = RNG.standard_normal((12, 18)).astype(np.float32)
    blurred = ndimage.convolve(x, np.asarray(kernel), mode="reflect")
    np.testing.assert_allclose(operator(x), blurred[start::factor, start::factor], atol=1e-5)
    if factor == 2:
        check_operator(operator, platforms=())
    ramp = np.broadcast_to(np.arange(18, dtype=np.float32), (12, 18))  # coarse pixels lie at the centres of their blocks
    expected = factor * np.arange(18 // factor) + (factor - 1) / 2
    np.testing.assert_allclose(operator(ramp)[2, 2:-2], expected[2:-2], atol=1e-4)


@pytest.mark.slow
def test_phase_retrieval():
    masks = np.exp(2j * np.pi * RNG.random((3, 6, 5))).astype(np.complex64)
    field = CodedDiffraction(masks)
    check_operator(field, platforms=("cuda",))
    operator = PhaseRetrieval(field)
    assert not operator.linear
    assert operator.codomain.dtype == jnp.float32
    x = (RNG.standard_normal((6, 5)) + 1j * RNG.standard_normal((6, 5))).astype(np.complex64)
    shifted = np.fft.fftn(np.fft.ifftshift(masks * x, (1, 2)), axes=(1, 2), norm="ortho")
    expected = np.abs(np.fft.fftshift(shifted, (1, 2))) ** 2
    np.testing.assert_allclose(operator(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator(np.stack([x, x * np.exp(1j).astype(np.complex64)]))[1], expected, rtol=1e-4, atol=1e-4)
    check_operator(operator, platforms=("tpu",))


def test_phase_retrieval_linearization():
    with jax.enable_x64(True):
        masks = RNG.standard_normal((2, 6, 5))
        operator = PhaseRetrieval(CodedDiffraction(masks))
        x, h = RNG.standard_normal((2, 6, 5)) + 1j * RNG.standard_normal((2, 6, 5))
        y = RNG.standard_normal((2, 6, 5))
        derivative = operator.linearize(jnp.asarray(x))
        tangent = derivative(h)
        np.testing.assert_allclose(tangent, (operator(x + h) - operator(x - h)) / 2, atol=1e-12)  # exact for a quadratic
        field = operator.operator
        np.testing.assert_allclose(derivative.H(y), 2 * field.H(y * field(x)), atol=1e-12)
        np.testing.assert_allclose(np.vdot(y, tangent), np.vdot(derivative.H(y), h).real, rtol=1e-12)
        np.testing.assert_allclose(field.norm(), np.linalg.norm(field.matrix(), 2), rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="mask: expected a shape that broadcasts"):
        Inpaint(np.ones((4, 3)), (3, 4))
    with pytest.raises(ValueError, match=r"image_shape: expected axes divisible by factor \(2, 2\), got \(7, 8\)"):
        Downsample((7, 8), 2)
    with pytest.raises(ValueError, match=r"kernel: expected axes odd or even like factor"):
        Downsample((8, 8), 2, np.ones((3, 3)))
    with pytest.raises(ValueError, match="operator: expected a linear operator"):
        PhaseRetrieval(PhaseRetrieval(CodedDiffraction(np.ones((1, 4, 4)))))
    with pytest.raises(ValueError, match="masks: expected 2 to 4 axes"):
        CodedDiffraction(np.ones(4))
