"""Time segments against the exact sum over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, testing

RNG = np.random.default_rng(5)
SHAPE = (9, 8)
TRAJECTORY = RNG.uniform(-np.pi, np.pi, (4, 30, 2))
TIMES = 2e-3 + np.linspace(0, 12e-3, 30)
FIELD = 2 * np.pi * RNG.uniform(-80, 120, SHAPE)  # rad/s


def noise(*shape):
    return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)


def exact(field=FIELD):
    n = np.stack(np.meshgrid(*(np.arange(s) - s // 2 for s in SHAPE), indexing="ij"), -1).reshape(-1, 2)
    phase = TRAJECTORY @ n.T + TIMES[:, None] * field.ravel()
    return np.exp(-1j * phase).reshape(-1, n.shape[0]) / np.sqrt(n.shape[0])


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_exact_sum(tolerance, x64):
    A = forward.off_resonance(forward.NUFFT(SHAPE, TRAJECTORY, tolerance=1e-8), FIELD, TIMES, tolerance=tolerance)
    x, y = noise(*SHAPE), noise(4, 30)
    E = exact()
    difference = np.linalg.norm(np.asarray(A(x)).ravel() - E @ x.ravel()) / np.linalg.norm(E @ x.ravel())
    assert difference < tolerance
    assert testing.dot_test(A, x, y) < 1e-12
    np.testing.assert_allclose(A.prepare()(x), A(x), atol=1e-10)
    more = forward.off_resonance(A.operator, FIELD, TIMES, segments=len(A.segment_times) + 3)
    assert np.linalg.norm(np.asarray(more(x)).ravel() - E @ x.ravel()) < np.linalg.norm(np.asarray(A(x)).ravel() - E @ x.ravel())


def test_field_map_can_be_fitted(x64):
    nufft = forward.NUFFT(SHAPE, TRAJECTORY, tolerance=1e-9)
    x, w = noise(*SHAPE), noise(4, 30)

    def value(field):
        A = forward.off_resonance(nufft, field, TIMES, tolerance=1e-7, band=(-700.0, 900.0))
        return jnp.vdot(w, A(x)).real

    E, t = exact(), np.tile(TIMES, 4)
    expected = ((w.ravel().conj() * -1j * t) @ E * x.ravel()).real.reshape(SHAPE)
    np.testing.assert_allclose(jax.grad(value)(FIELD), expected, rtol=1e-4, atol=1e-6 * abs(expected).max())


def test_cartesian_lines_with_coils(x64):
    mask, maps = np.ones(SHAPE, bool), noise(2, *SHAPE)
    times = np.linspace(-2e-3, 2e-3, SHAPE[1])  # one for each sample of the readout
    A = forward.off_resonance(forward.MaskedFFT(mask, maps), FIELD, times, tolerance=1e-6)
    x = noise(*SHAPE)
    axes = [2 * np.pi / n * (np.arange(n) - n // 2) for n in SHAPE]
    n = [np.arange(s) - s // 2 for s in SHAPE]
    y = np.zeros((2, *SHAPE), complex)
    for j, t in enumerate(times):
        images = maps * x * np.exp(-1j * FIELD * t)
        y[:, :, j] = np.einsum("cyx,ky,x->ck", images, np.exp(-1j * np.outer(axes[0], n[0])), np.exp(-1j * axes[1][j] * n[1]))
    np.testing.assert_allclose(A(x), y / np.sqrt(x.size), atol=1e-5)
    assert testing.dot_test(A, x, noise(2, *SHAPE)) < 1e-12


def test_refused():
    A = forward.NUFFT(SHAPE, TRAJECTORY)
    with pytest.raises(ValueError, match="turns of spread"):
        forward.off_resonance(forward.NUFFT(SHAPE, RNG.uniform(-3, 3, (300, 2))), 1e2 * FIELD, np.linspace(0, 12e-3, 300))
    with pytest.raises(ValueError, match="trailing axes"):
        forward.off_resonance(A, FIELD, TIMES[:7])
    with pytest.raises(ValueError, match="band"):
        jax.jit(lambda f: forward.off_resonance(A, f, TIMES)(noise(*SHAPE)))(FIELD)
    with pytest.raises(ValueError, match="real"):
        forward.off_resonance(A, FIELD + 0j, TIMES)
