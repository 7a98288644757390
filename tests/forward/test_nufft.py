"""The NUFFT against the direct non-uniform transform and FINUFFT, with its derivatives, tables and convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, testing
from diffimg.core.pytree import replace
from diffimg.forward import NUFFT, nufft_grid

RNG = np.random.default_rng(4)


def noise(*shape):
    return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)


def phases(shape, k):
    """exp(−i k·(n − n₀)), ``[point, pixel]``."""
    n = np.stack(np.meshgrid(*(np.arange(s) - s // 2 for s in shape), indexing="ij"), -1).reshape(-1, len(shape))
    return np.exp(-1j * np.asarray(k, np.float64).reshape(-1, len(shape)) @ n.T), n


def direct(x, k):
    return (phases(x.shape, k)[0] @ x.ravel() / np.sqrt(x.size)).reshape(k.shape[:-1])


def error(a, b):
    return np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)


@pytest.mark.parametrize("shape", [(21,), (16, 16), (15, 18), (6, 9, 7)])
@pytest.mark.parametrize(("tolerance", "oversampling"), [(1e-3, 2.0), (2e-3, 1.25), (1e-7, 2.0)])
def test_direct_transform(shape, tolerance, oversampling, x64):
    k = RNG.uniform(-np.pi, np.pi, (7, 13, len(shape)))
    x, y = noise(*shape), noise(7, 13)
    A = NUFFT(shape, k, tolerance=tolerance, oversampling=oversampling)
    exact = phases(shape, k)[0] / np.sqrt(x.size)
    back = (exact.conj().T @ y.ravel()).reshape(shape)
    for op in (A, A.prepare()):
        assert error(op(x), direct(x, k)) < 1.5 * tolerance
        assert error(op.H(y), back) < 1.5 * tolerance
        assert testing.dot_test(op, x, y) < 1e-12


@pytest.mark.slow
def test_error_model_of_the_window():
    k = RNG.uniform(-np.pi, np.pi, (400, 2))
    x = noise(24, 24)
    for oversampling in (1.25, 1.5, 2.0):
        for width in (3, 4, 6):
            p = nufft_grid.Plan((24, 24), (int(24 * oversampling),) * 2, width)
            with jax.enable_x64(True):
                measured = error(nufft_grid.samples(p, jnp.asarray(x), jnp.asarray(k)), direct(x, k))
            assert 0.6 < measured / nufft_grid.expected_error(width, oversampling, 2) < 1.4, (oversampling, width)


@pytest.mark.parametrize("shape", [(8, 10), (7, 9)])
def test_cartesian_points_give_the_centred_fft(shape, x64):
    axes = [2 * np.pi / n * (np.arange(n) - n // 2) for n in shape]
    k = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    x = noise(*shape)
    assert error(NUFFT(shape, k, tolerance=1e-9)(x), forward.fft(x)) < 1e-8


@pytest.mark.parametrize("shape", [(20, 24), (10, 12, 8)])
def test_finufft(shape):
    finufft = pytest.importorskip("finufft")
    k = RNG.uniform(-np.pi, np.pi, (300, len(shape)))
    x, y = noise(*shape), noise(300)
    A = NUFFT(shape, k, tolerance=1e-6)
    type2 = getattr(finufft, f"nufft{len(shape)}d2")(*k.T.copy(), x, isign=-1, eps=1e-12) / np.sqrt(x.size)
    type1 = getattr(finufft, f"nufft{len(shape)}d1")(*k.T.copy(), y, shape, isign=1, eps=1e-12) / np.sqrt(x.size)
    assert error(A(x), type2) < 5e-6
    assert error(A.H(y), type1) < 5e-6


@pytest.mark.parametrize("shape", [(12, 15), (5, 6, 7)])
def test_trajectory_gradient_is_the_exact_transforms(shape):
    """Float32, default tolerance: the bound is that of the values, not of the window's derivative."""
    k = RNG.uniform(-np.pi, np.pi, (40, len(shape)))
    x, y = noise(*shape), noise(40)
    E, n = phases(shape, k)
    A = NUFFT(shape, k, tolerance=1e-5)

    def misfit(t):
        return 0.5 * jnp.sum(jnp.abs(replace(A, trajectory=t)(x) - y) ** 2)

    residual = E @ x.ravel() / np.sqrt(x.size) - y
    derivative = -1j * (E * x.ravel()) @ n / np.sqrt(x.size)  # ds/dk, [point, axis]
    exact = (residual.conj()[:, None] * derivative).real
    assert error(jax.grad(misfit)(jnp.asarray(k, jnp.float32)), exact) < 1e-4
    direction = RNG.normal(size=k.shape)
    forward_mode = jax.jvp(misfit, (jnp.asarray(k, jnp.float32),), (jnp.asarray(direction, jnp.float32),))[1]
    np.testing.assert_allclose(forward_mode, np.vdot(exact, direction), rtol=2e-4, atol=1e-3)


def test_second_derivatives_in_the_trajectory(x64):
    shape, k = (8, 9), RNG.uniform(-np.pi, np.pi, (6, 2))
    x, direction = noise(*shape), RNG.normal(size=(6, 2))
    E, n = phases(shape, k)

    def real_part(t):
        return jnp.sum(NUFFT(shape, t, tolerance=1e-9)(x).real)

    second = jax.grad(lambda t: jnp.vdot(jax.grad(real_part)(t), direction))(k)
    along = n @ direction.T  # [pixel, point]
    exact = (-(E * x.ravel() * along.T) @ n / np.sqrt(x.size)).real
    assert error(second, exact) < 1e-7


def test_adjoint_is_differentiable_in_the_trajectory(x64):
    shape, k = (8, 9), RNG.uniform(-np.pi, np.pi, (6, 2))
    y, w = noise(6), noise(8, 9)

    def value(t):
        return jnp.vdot(w, NUFFT(shape, t, tolerance=1e-9).H(y)).real

    step = 1e-6 * RNG.normal(size=k.shape)
    difference = (value(k + step) - value(k - step)) / 2
    np.testing.assert_allclose(np.vdot(jax.grad(value)(k), step), difference, rtol=1e-6)


def test_coil_maps_are_differentiable_also_behind_a_prepared_transform(x64):
    shape, k, maps, x = (8, 9), RNG.uniform(-np.pi, np.pi, (3, 9, 2)), noise(3, 8, 9), noise(8, 9)

    def misfit(prepare):
        def value(maps):
            A = NUFFT(shape, k, maps)
            return jnp.sum(jnp.abs((A.prepare() if prepare else A)(x)) ** 2)

        return value

    expected = jax.grad(misfit(False))(maps)
    np.testing.assert_allclose(jax.grad(misfit(True))(maps), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.grad(misfit(True)))(maps), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(12, 15), (9, 10), (5, 6, 7)])
def test_normal_is_a_convolution(shape, x64):
    """Against the dense AᴴA of the exact transform."""
    k = RNG.uniform(-np.pi, np.pi, (60, len(shape)))
    E = phases(shape, k)[0]
    x = noise(*shape)
    maps = noise(2, *shape)
    exact = sum(m.conj() * (E.conj().T @ (E @ (m * x).ravel())).reshape(shape) / x.size for m in maps)
    assert error(NUFFT(shape, k, maps).prepare().normal(x), exact) < 1e-9


def test_prepared_equals_traced_for_batches_and_coils():
    maps = noise(2, 10, 11)
    A = NUFFT((10, 11), RNG.uniform(-np.pi, np.pi, (4, 9, 2)), maps)
    x, y = noise(3, 10, 11), noise(3, 2, 4, 9)
    np.testing.assert_allclose(A.prepare()(x), A(x), atol=1e-5)
    np.testing.assert_allclose(A.prepare().H(y), A.H(y), atol=1e-5)
    assert repr(A) == "<NUFFT[36 points]: complex64[10, 11] → complex64[2, 4, 9]>"


def test_a_flat_list_of_scattered_points_is_prepared_too():
    A = NUFFT((10, 11), RNG.uniform(-np.pi, np.pi, (97, 2)))
    y = noise(97)
    np.testing.assert_allclose(A.prepare().H(y), A.H(y), atol=1e-5)


@pytest.mark.slow
def test_points_are_taken_in_chunks(monkeypatch):
    A = NUFFT((6, 7), RNG.uniform(-np.pi, np.pi, (50, 2)))
    x, y = noise(6, 7), noise(50)
    whole = A(x), A.H(y)
    monkeypatch.setattr(nufft_grid, "_CHUNK", 16)
    nufft_grid._pair.cache_clear()
    jax.clear_caches()
    np.testing.assert_allclose(A(x), whole[0], atol=1e-5)
    np.testing.assert_allclose(A.H(y), whole[1], atol=1e-5)
    nufft_grid._pair.cache_clear()
    jax.clear_caches()


def test_three_dimensions_need_no_table_of_windows():
    """256 k points on 32³: temporaries of a traced pass stay below those of one chunk's windows and two grids."""
    A = NUFFT((32, 32, 32), RNG.uniform(-np.pi, np.pi, (2**18, 3)).astype(np.float32))
    x = jax.ShapeDtypeStruct((32, 32, 32), jnp.complex64)
    y = jax.ShapeDtypeStruct((2**18,), jnp.complex64)
    for function, argument in ((lambda a, v: a(v), x), (lambda a, v: a.H(v), y)):
        memory = jax.jit(function).lower(A, argument).compile().memory_analysis()
        table = 2**18 * A.plan.width**3 * 4
        assert memory.temp_size_in_bytes < table / 2


def test_refused_and_warned():
    k = RNG.uniform(-np.pi, np.pi, (5, 2))
    with pytest.warns(UserWarning, match=r"rad/voxel.*voxel size"):
        NUFFT((8, 8), 3 * k)
    with pytest.warns(UserWarning, match="cycles/voxel"):
        NUFFT((8, 8), k / np.abs(k).max() / 2)
    with pytest.raises(ValueError, match="trajectory"):
        NUFFT((8, 8), k.T)
    with pytest.raises(ValueError, match="finite"):
        NUFFT((8, 8), np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="zero everywhere"):
        NUFFT((8, 8), k, np.zeros((2, 8, 8), np.complex64))
    with pytest.raises(ValueError, match="coils"):
        NUFFT((8, 8), k, np.ones((2, 8, 9), np.complex64))
    with pytest.raises(ValueError, match="tolerance"):
        NUFFT((8, 8), k, tolerance=2.0)
    with pytest.raises(ValueError, match="image_shape"):
        NUFFT((8, 8, 8, 8), k)
    with pytest.raises(ValueError, match="before prepare"):
        jax.grad(lambda a: jnp.sum(jnp.abs(a(noise(8, 8))) ** 2), allow_int=True)(NUFFT((8, 8), k).prepare())
