"""AUTOMAP, the end-to-end variational network, input-convex networks and critics: what each promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from diffimg import energy, forward, learn, nn, solve, testing
from diffimg.testing import PLATFORMS

RNG = np.random.default_rng(41)


def real(*shape):
    return RNG.normal(size=shape).astype("f4")


def complex_(*shape):
    return (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype("c8")


LINES = (np.arange(8) % 2 == 0).astype("f4")[:, None]
CENTRED = np.maximum(LINES, np.abs(np.arange(8) - 4) < 2)
NETWORKS = {  # network, data, other arguments, shape and dtype that come out
    "automap": (lambda rngs: nn.Automap((5, 7), (6, 6), hidden=9, width=4, rngs=rngs), real(2, 5, 7), (), (2, 6, 6), "f4"),
    "automap, complex": (
        lambda rngs: nn.Automap((4, 4), (4, 4), complex_data=True, complex_values=True, width=3, rngs=rngs),
        complex_(4, 4), (), (4, 4), "c8",
    ),
    "end-to-end": (
        lambda rngs: nn.EndToEndVarNet(1, (3, 4), (3, 4), rngs=rngs), complex_(2, 3, 8, 8), (CENTRED, 2), (2, 8, 8), "f4",
    ),
    "lista": (lambda rngs: nn.LISTA(np.eye(6, 9, dtype="f4") + 0.1, 0.3, 4), real(2, 6), (), (2, 9), "f4"),
    "in-painting": (lambda rngs: nn.Inpainting((3, 4), rngs=rngs), real(2, 8, 9), (LINES,), (2, 8, 9), "f4"),
    "input-convex": (lambda rngs: nn.InputConvexNetwork(1, 4, 3, size=3, rngs=rngs), real(2, 7, 8, 1), (), (2,), "f4"),
    "critic": (lambda rngs: nn.Critic(1, (3, 4), rngs=rngs), real(2, 9, 10, 1), (), (2,), "f4"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_properties(name):
    make, y, more, shape, dtype = NETWORKS[name]
    apply, params = nn.split(make(nnx.Rngs(0)))
    evaluate = lambda p, y: apply(p, y, *more)  # noqa: E731

    def value(params, y):
        out = evaluate(params, y)
        return jnp.sum(jnp.abs(out - 0.1) ** 2), out

    slope = jax.jit(jax.grad(value, (0, 1), has_aux=True))
    slopes, out = slope(params, y)
    assert out.shape == shape and out.dtype == dtype
    assert jax.tree.structure(slopes[0]) == jax.tree.structure(params)
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(slopes)) and float(jnp.linalg.norm(slopes[1])) > 0
    both = jax.jit(jax.vmap(evaluate, (None, 0)))(params, np.stack([y, 2 * y]))
    np.testing.assert_allclose(both[0], out, atol=1e-5)
    jax.export.export(slope, platforms=PLATFORMS)(params, y)


def inverse_dft(n):
    """A linear AUTOMAP whose weights are the centred inverse DFT of n × n samples."""
    apply, params = nn.split(
        nn.Automap((n, n), (n, n), complex_data=True, complex_values=True, hidden=2 * n * n, width=0, linear=True, rngs=nnx.Rngs(0))
    )
    one = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(np.eye(n), 0), axis=0, norm="ortho"), 0)
    F = np.kron(one, one)
    # real and imaginary parts alternate on both sides
    weights = np.zeros((n * n, 2, n * n, 2))
    weights[:, 0, :, 0], weights[:, 0, :, 1] = F.real.T, F.imag.T
    weights[:, 1, :, 0], weights[:, 1, :, 1] = -F.imag.T, F.real.T
    return apply, params | {"first": np.eye(2 * n * n, dtype="f4"), "second": weights.reshape(2 * n * n, -1).astype("f4")}


def test_automap_can_be_the_inverse_transform_and_knows_no_shift():
    """One sample's shift of k-space modulates the image: a linear inversion follows, what AUTOMAP learned of real images does not."""
    n = 12
    apply, params = inverse_dft(n)
    x = RNG.normal(size=(2, n, n)).astype("c8")
    y = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1)).astype("c8")
    np.testing.assert_allclose(apply(params, y), x, atol=1e-5)
    shifted = np.asarray(apply(params, np.roll(y, 1, -1)))
    modulation = np.exp(2j * np.pi * (np.arange(n) - n // 2) / n)
    np.testing.assert_allclose(shifted, x * modulation, atol=1e-5)


@pytest.mark.slow
def test_automap_fails_where_the_data_are_shifted():
    """Trained on real images, it does not know that a shift of k-space by one sample is a phase ramp, which leaves magnitudes alone."""
    n, grid = 12, np.mgrid[:12, :12]
    apply, start = nn.split(nn.Automap((n, n), (n, n), complex_data=True, complex_values=True, hidden=64, width=8, rngs=nnx.Rngs(0)))

    def images(key):
        centres, widths = jax.random.uniform(key, (16, 3, 2), minval=3, maxval=9), jax.random.uniform(key, (16, 3), minval=1.5, maxval=3)
        apart = jnp.sum((grid[None, None] - centres[..., None, None]) ** 2, 2)
        return jnp.sum(jnp.exp(-apart / widths[..., None, None] ** 2), 1)

    def error(params, truth, shift=0):
        x = apply(params, jnp.roll(forward.fft(truth.astype(complex)), shift, -1))
        return jnp.linalg.norm(jnp.abs(x) - truth) / jnp.linalg.norm(truth)

    def loss(params, truth, key):
        x = apply(params, forward.fft(truth.astype(complex)))
        return jnp.mean(jnp.abs(x - truth) ** 2)

    trained = learn.train(loss, start, lambda key, step: images(key), 1500, key=jax.random.key(0), optimizer=optax.adam(1e-3)).check()
    unseen = images(jax.random.key(99))
    assert error(trained.params, unseen) < 0.1
    assert error(trained.params, unseen, 1) > 3 * error(trained.params, unseen)


def test_automap_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"0\.\d+ GiB|[\d.]+ GiB"):
        nn.Automap((256, 256), (256, 256), complex_data=True, rngs=nnx.Rngs(0))
    apply, params = nn.split(nn.Automap((5, 7), (6, 6), hidden=9, width=4, rngs=nnx.Rngs(0)))
    y = RNG.normal(size=(3, 5, 7)).astype("f4")
    assert apply(params, y).shape == (3, 6, 6)
    np.testing.assert_allclose(apply(params, y[1]), apply(params, y)[1], atol=1e-5)
    with pytest.raises(ValueError, match="real data"):
        apply(params, y.astype("c8"))
    with pytest.raises(ValueError, match="y"):
        apply(params, y[:, :4])


def coil_data(n=16, coils=3):
    grid = (np.arange(n) - n / 2) / n
    maps = np.stack([np.exp(-((grid[:, None] - a) ** 2 + (grid - b) ** 2)) * np.exp(1j * a) for a, b in RNG.normal(size=(coils, 2))])
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, 0))
    x = np.zeros((n, n))
    x[4:12, 5:11] = 1 + 0.3 * RNG.normal(size=(8, 6))
    full = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * x, (-2, -1)), norm="ortho"), (-2, -1)).astype("c8")
    mask = np.zeros((n, n), "f4")
    mask[::2] = mask[6:10] = 1
    return x, full, mask


@pytest.mark.slow
def test_end_to_end_network_keeps_complete_data():
    """Untrained, with all of k-space: the image is the root sum of squares, and coil maps have unit norm and the right ratios."""
    x, full, _ = coil_data()
    apply, params = nn.split(nn.EndToEndVarNet(2, (4, 8), (4, 8), rngs=nnx.Rngs(0)))
    out = apply(params, full, np.ones((16, 16)), 16)
    np.testing.assert_allclose(out, np.abs(x), atol=1e-4)
    np.testing.assert_allclose(np.abs(apply(params, full, np.ones((16, 16)), 16, "coils")), np.abs(x), atol=1e-4)
    # lines along kx are missing, as in fastMRI's files: the maps come from the middle columns
    kept = np.isin(np.arange(16), (0, 3, 6, 7, 8, 9, 12, 15))
    lines = nn.join(apply, params).maps(kept[:, None] * full, 4)
    columns = nn.join(apply, params).maps(kept * full, 4, -1)
    middle = np.abs(np.arange(16) - 7.5) < 2
    np.testing.assert_allclose(columns, nn.join(apply, params).maps(middle * full, 16), atol=1e-5)
    assert lines.shape == columns.shape and apply(params, kept * full, np.broadcast_to(kept, (16, 16)), 4, axis=-1).shape == (16, 16)
    with pytest.raises(ValueError, match="axis=-1"):
        apply(params, kept * full, np.broadcast_to(kept, (16, 16)), 4)


@pytest.mark.slow
def test_end_to_end_network_trains_and_scales_with_its_data():
    x, full, mask = coil_data()
    apply, params = nn.split(nn.EndToEndVarNet(2, (4, 8), (4, 8), rngs=nnx.Rngs(0)))
    y = mask * full
    value = lambda p, y: jnp.mean((apply(p, y, mask, 4) - x) ** 2)  # noqa: E731
    slopes = jax.jit(jax.grad(value))(params, y)
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(slopes))
    slope = jax.tree.map(lambda v: v / 50, slopes)
    assert float(value(jax.tree.map(jnp.subtract, params, slope), y)) < float(value(params, y))
    moved = jax.tree.map(lambda v: v + 0.05 * jax.random.normal(jax.random.key(v.size), v.shape), params)
    both = apply(moved, np.stack([y, 3 * y]), mask, 4)
    np.testing.assert_allclose(both[1], 3 * both[0], rtol=1e-3, atol=1e-4)
    jax.export.export(jax.jit(value), platforms=PLATFORMS)(params, y)
    with pytest.raises(ValueError, match="centre"):
        apply(params, y, mask, 40)
    with pytest.raises(ValueError, match="kspace"):
        apply(params, y.real, mask, 4)


def test_input_convex_network_is_convex(x64):
    apply, params = nn.split(nn.InputConvexNetwork(1, 6, 3, size=3, rngs=nnx.Rngs(1)))
    params = jax.tree.map(lambda v: jnp.asarray(v + 0.3 * RNG.normal(size=v.shape)), params)
    E = energy.Network(nn.on_images(apply), params, 5.0)
    a, b = (3 * RNG.normal(size=(40, 7, 8)) for _ in range(2))
    for t in (0.2, 0.5, 0.9):
        chord = [t * float(E(u)) + (1 - t) * float(E(v)) - float(E(t * u + (1 - t) * v)) for u, v in zip(a[:8], b[:8], strict=True)]
        assert min(chord) >= -1e-12
    hessian = jax.hessian(lambda v: E(v.reshape(7, 8)))(a[0].ravel())
    assert np.linalg.eigvalsh(hessian).min() > -1e-12
    testing.check_energy(E, jnp.asarray(a[0]))
    assert jnp.shape(apply(params, a[..., None])) == (40,)


@pytest.mark.slow
def test_critic_gives_a_number_for_each_image():
    apply, params = nn.split(nn.Critic(1, (3, 4), rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(3, 9, 10)).astype("f4")
    out = nn.on_images(apply)(params, x)
    assert out.shape == (3,) and float(jnp.std(out)) > 0
    np.testing.assert_allclose(nn.on_images(apply)(params, x[1]), out[1], rtol=1e-5)
    testing.check_energy(energy.Network(nn.on_images(apply), params), jnp.asarray(x[0]))
    jax.export.export(jax.jit(jax.grad(lambda p: jnp.sum(apply(p, x[..., None])))), platforms=PLATFORMS)(params)
    with pytest.raises(ValueError, match="at least 2 pixels"):
        apply(params, x[:, :1, :1, None])


def test_lista_starts_as_iterative_soft_thresholding(x64):
    A, y = RNG.normal(size=(6, 10)), RNG.normal(size=(2, 6))
    apply, params = nn.split(nn.LISTA(A, 0.3, 25))
    for given, code in zip(y, apply(params, y), strict=True):
        problem = solve.Problem(smooth=energy.LeastSquares(forward.Matrix(A), given), proximable=energy.L1(0.3))
        step = solve.ProximalGradient(1 / np.linalg.norm(A, 2) ** 2)
        np.testing.assert_allclose(code, solve.run(step, problem, np.zeros(10), 25).x, atol=1e-12)
    with pytest.raises(ValueError, match="y"):
        apply(params, y[:, :5])
    with pytest.raises(ValueError, match="weight"):
        nn.LISTA(A, 0.0)
    with pytest.raises(ValueError, match="dictionary"):
        nn.LISTA(0 * A, 0.3)


def test_inpainting_keeps_what_was_measured():
    apply, params = nn.split(nn.Inpainting((3, 4), rngs=nnx.Rngs(0)))
    y, mask = RNG.normal(size=(2, 9, 11)).astype("f4"), (np.arange(9) % 2).astype("f4")[:, None]
    out = apply(params, y, mask)
    np.testing.assert_array_equal(out[:, 1::2], y[:, 1::2])
    np.testing.assert_allclose(apply(params, y * mask, mask), out, atol=1e-6)  # nothing else is seen
    assert float(np.abs(out[:, ::2]).max()) > 0
    with pytest.raises(ValueError, match="broadcasts"):
        apply(params, y, np.ones(9))
