"""The centred transform and Cartesian sampling against NumPy's shifts and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import energy, forward

RNG = np.random.default_rng(3)
SHAPES = [(6,), (7,), (6, 10), (5, 7), (4, 9), (3, 4, 5)]


def noise(*shape):
    return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)


def shifted(x, ndim, inverse=False):
    axes = tuple(range(-ndim, 0))
    transform = np.fft.ifftn if inverse else np.fft.fftn
    return np.fft.fftshift(transform(np.fft.ifftshift(x, axes=axes), axes=axes, norm="ortho"), axes=axes)


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_numpys_with_shifts(shape, x64):
    x = noise(2, *shape)
    np.testing.assert_allclose(forward.fft(x, len(shape)), shifted(x, len(shape)), atol=1e-13)
    np.testing.assert_allclose(forward.ifft(x, len(shape)), shifted(x, len(shape), inverse=True), atol=1e-13)


def test_transform_compiles_without_shift_copies():
    text = jax.jit(forward.fft).lower(jnp.zeros((8, 8), jnp.complex64)).as_text()
    assert text.count("fft") and "concatenate" not in text and "gather" not in text


def test_transform_follows_the_precision_and_takes_real_images():
    assert forward.fft(np.ones((4, 4), np.float32)).dtype == jnp.complex64
    with pytest.raises(ValueError, match="ndim"):
        forward.fft(np.ones(4))


@pytest.mark.parametrize("shape", [(8, 9), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("coils", [None, 3])
def test_masked_transform_of_the_definition(shape, coils, x64):
    mask = RNG.random(shape) < 0.5
    maps = None if coils is None else noise(coils, *shape)
    A = forward.MaskedFFT(mask, maps)
    x = noise(2, *shape)
    images = x if coils is None else x[:, None] * maps
    expected = mask * shifted(images, len(shape))
    np.testing.assert_allclose(A(x), expected, atol=1e-12)
    for op in (A, A.prepare()):
        np.testing.assert_allclose(op.normal(x), A.H(A(x)), atol=1e-12)


def test_dynamic_series_with_a_mask_for_each_frame(x64):
    mask, maps, x = RNG.random((4, 6, 7)) < 0.5, noise(2, 6, 7), noise(4, 6, 7)
    A = forward.MaskedFFT(mask, maps, ndim=2)
    assert A.codomain.shape == (4, 2, 6, 7)
    np.testing.assert_allclose(A(x), mask[:, None] * shifted(x[:, None] * maps, 2), atol=1e-12)
    np.testing.assert_allclose(A.prepare().normal(x), A.H(A(x)), atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 10), (9, 7)])
def test_readout_transforms_cancel_in_the_prepared_normal(shape, x64):
    lines = RNG.random((shape[0], 1)) < 0.4
    A = forward.MaskedFFT(np.broadcast_to(lines, shape).copy(), noise(3, *shape)).prepare()
    assert A.order == (-1, -2)
    assert A.fixed == 1
    x = noise(*shape)
    np.testing.assert_allclose(A.normal(x), A.H(A(x)), atol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "weighted", "complex"])
@pytest.mark.parametrize("shape", [(6, 8), (5, 7)])
def test_prox_in_closed_form_minimises(kind, shape, x64):
    mask = {"binary": RNG.random(shape) < 0.5, "weighted": RNG.random(shape), "complex": noise(*shape)}[kind]
    A = forward.MaskedFFT(mask)
    y, v, step = noise(*shape), noise(*shape), 0.7
    data = energy.LeastSquares(A, y)
    x = data.exact_prox(v, step)
    matrix = np.asarray(A(np.eye(v.size, dtype=complex).reshape(-1, *shape))).reshape(v.size, -1).T
    expected = np.linalg.solve(
        np.eye(v.size) + step * matrix.conj().T @ matrix, v.ravel() + step * matrix.conj().T @ y.ravel()
    )
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-12)
    np.testing.assert_allclose(data.prox(v, step), x, atol=1e-12)
    weights = RNG.random(shape)
    weighted = energy.LeastSquares(A, y, weights)
    np.testing.assert_allclose(weighted.prox(v, step), weighted._iterative_prox(v, step), atol=1e-5)


def test_closed_form_is_refused_where_pixels_are_coupled():
    mask = np.ones((6, 6), bool)
    y = np.zeros((2, 6, 6), np.complex64)
    with pytest.raises(ValueError, match=r"exact_prox.*conjugate gradients"):
        energy.LeastSquares(forward.MaskedFFT(mask, noise(2, 6, 6)), y).exact_prox(np.zeros((6, 6), np.complex64), 1.0)
    A = forward.NUFFT((6, 6), RNG.uniform(-3, 3, (5, 2)))
    with pytest.raises(ValueError, match="exact_prox"):
        energy.LeastSquares(A, np.zeros(5, np.complex64)).exact_prox(np.zeros((6, 6), np.complex64), 1.0)


def test_mask_and_maps_can_be_learned(x64):
    mask, maps, x = RNG.random((5, 6)), noise(2, 5, 6), noise(5, 6)

    def misfit(mask, maps):
        return jnp.sum(jnp.abs(forward.MaskedFFT(mask, maps)(x)) ** 2)

    gradient = jax.grad(misfit)(mask, maps)
    step = 1e-6 * RNG.normal(size=mask.shape)
    difference = (misfit(mask + step, maps) - misfit(mask - step, maps)) / 2
    np.testing.assert_allclose(np.vdot(gradient, step), difference, rtol=1e-6)
    with pytest.raises(ValueError, match="prepared MaskedFFT"):
        jax.grad(lambda a: jnp.sum(jnp.abs(a(x)) ** 2), allow_int=True)(forward.MaskedFFT(mask, maps).prepare())


def test_norm_of_one_coil_is_known():
    assert float(forward.MaskedFFT(0.5 * np.eye(4)).norm()) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4)),), "at least one sample"),
        ((np.full((4, 4), np.nan),), "mask"),
        ((np.ones((2, 3, 4, 4)),), "ndim=2"),
        ((np.ones((4, 4)), np.zeros((2, 4, 4), np.complex64)), "zero everywhere"),
        ((np.ones((4, 4)), np.ones((2, 4, 5), np.complex64)), "coils"),
        ((np.ones((4, 4)), np.ones((4, 4), np.complex64)), r"coils\[None\]"),
        ((np.ones((4, 4)), None, 3), "ndim"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        forward.MaskedFFT(*arguments)


def test_nan_in_kspace_is_refused():
    y = np.zeros((4, 4), np.complex64)
    y[1, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        energy.LeastSquares(forward.MaskedFFT(np.ones((4, 4))), y)
