"""What the principles must not do silently, against closed forms and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from diffimg import energy, forward, learn

RNG = np.random.default_rng(5)
KEY = jax.random.key(3)


def test_chains_with_data_of_their_own_are_refused_by_metropolis():
    """The acceptance of a chain would see the data of all."""
    y = jnp.asarray([[0.0, 0.0], [8.0, 8.0], [-8.0, -8.0]])
    own = energy.LeastSquares(forward.Identity((2,)), y)
    with pytest.raises(ValueError, match="chains"):
        learn.langevin(own, y, 10, 0.1, KEY, method="metropolis")
    with pytest.raises(ValueError, match="chains"):
        jax.jit(lambda x: learn.langevin(own, x, 10, 0.1, KEY, method="metropolis").last)(y)
    coupled = energy.Network(lambda p, x: p * jnp.mean(x) ** 2, jnp.ones(()))
    with pytest.raises(ValueError, match="chains"):
        learn.langevin(coupled, y + 1, 10, 0.1, KEY, method="metropolis")


def test_chains_of_a_cold_limit_or_of_integers_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        learn.langevin(energy.SquaredL2(1.0), jnp.ones((2, 2)), 5, 0.1, KEY, temperature=0.0, method="metropolis")
    with pytest.raises(ValueError, match="x0"):
        learn.langevin(energy.SquaredL2(1.0), np.ones((2, 2), int), 5, 0.1, KEY)
    with pytest.raises(ValueError, match="energy"):
        learn.langevin(lambda x: jnp.sum(x**2), jnp.ones((2, 2)), 5, 0.1, KEY)


INTEGERS = np.ones((2, 4, 4), int)
SMOOTH = lambda weight, sigma=None: energy.SmoothTV(weight, 0.1)  # noqa: E731


@pytest.mark.parametrize("loss", [
    learn.explicit_score_matching(SMOOTH, lambda x: -x), learn.implicit_score_matching(SMOOTH), learn.denoising_score_matching(SMOOTH, 0.1),
    learn.denoiser_score_matching(lambda p, x, s: x, (0.1, 1.0), 0.3), learn.contrastive_divergence(SMOOTH, 2, 0.1),
    learn.sure(lambda p, y: p * y, 0.1), lambda p, batch, key: learn.adversarial(SMOOTH)(p, (batch, batch), key),
    lambda p, y, key: learn.tweedie(SMOOTH(p), y, 0.1), lambda p, y, key: learn.denoiser_score(lambda y, s: y, y, 0.1),
])  # fmt: skip
def test_images_of_integers_are_refused(loss):
    with pytest.raises(ValueError, match=r"(batch|y)(\[0\])?: expected a floating or complex dtype, got int"):
        loss(0.3, INTEGERS, KEY)


def test_levels_of_noise_may_be_traced():
    batch = jnp.asarray(RNG.normal(size=(3, 4, 4)), "float32")
    for levels in (0.2, np.array([0.1, 0.2])):
        value = lambda s: learn.denoising_score_matching(SMOOTH, s)(0.3, batch, KEY)[0]  # noqa: E731
        np.testing.assert_allclose(jax.jit(value)(levels), value(levels), rtol=1e-5)
    ends = lambda low: learn.denoiser_score_matching(lambda p, x, s: x, (low, 1.0), 0.3)(None, batch, KEY)[0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(ends)(0.1), ends(0.1), rtol=1e-5)
    with pytest.raises(ValueError, match="sigma_range"):
        ends(2.0)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_contrastive_divergence_learns_energy_over_temperature(temperature):
    """Maximum likelihood of exp(−E/T): E = T · E₁. Sampling error of 1/variance from 24 000 values: 0.9 %; of the training: a few %."""
    x = (RNG.normal(size=(4000, 6)) / 2).astype(np.float32)
    batch = jax.jit(lambda key, step: jnp.asarray(x)[jax.random.randint(key, (256,), 0, len(x))])
    loss = learn.contrastive_divergence(lambda p: energy.SquaredL2(jnp.exp(p)), 6, 0.15, temperature=temperature)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 500))
    trained = learn.train(loss, jnp.zeros(()), batch, 500, key=KEY, optimizer=optimizer, average=0.98).check()
    assert float(jnp.exp(trained.params)) == pytest.approx(temperature / x.var(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_contrastive_divergence_learns_a_gaussian_field(persistent):
    """Weights of a quadratic field of experts: SciPy's maximum of the exact likelihood, which the Fourier transform diagonalises."""
    n, scale = 8, 1e3
    filters = np.zeros((2, 3, 3), np.float32)
    filters[:, 1, 1], filters[0, 1, 2], filters[1, 2, 1] = -1, 1, 1
    wave = 2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)
    curvature = np.stack([np.tile(wave, (n, 1)), np.tile(wave, (n, 1)).T, np.ones((n, n))])
    precision = np.tensordot([1.5, 0.5, 1.0], curvature, 1)
    x = np.fft.ifft2(np.fft.fft2(RNG.normal(size=(3000, n, n))) / np.sqrt(precision)).real.astype(np.float32)
    power = np.mean(np.abs(np.fft.fft2(x)) ** 2, 0) / n**2

    def minus_log_likelihood(q):
        p = np.tensordot(np.exp(q), curvature, 1)
        return np.sum(p * power - np.log(p)) / 2

    def build(p):  # Huber's potential is quadratic below its scale
        experts = energy.FieldsOfExperts(jnp.asarray(filters), jnp.exp(p[:2]) * scale**2, scale, "huber")
        return experts + energy.SquaredL2(jnp.exp(p[2]))

    batch = jax.jit(lambda key, step: jnp.asarray(x)[jax.random.randint(key, (256,), 0, len(x))])
    options = {"carry": learn.Replay(jnp.zeros((256, n, n)))} if persistent else {}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 500))
    loss = learn.contrastive_divergence(build, 8, 0.05)
    trained = learn.train(loss, jnp.zeros(3), batch, 500, key=KEY, optimizer=optimizer, average=0.98, **options).check()
    best = np.exp(minimize(minus_log_likelihood, np.zeros(3)).x)
    np.testing.assert_allclose(np.exp(trained.params), best, rtol=0.06)


def test_denoising_score_matching_of_complex_images():
    """Noise of the level in each part: the precision of a part is 1/(v + σ²)."""
    v, sigma = 0.5, 0.3
    x = jnp.asarray(np.sqrt(v) * (RNG.normal(size=(40_000, 1)) + 1j * RNG.normal(size=(40_000, 1))), jnp.complex64)
    loss = learn.denoising_score_matching(energy.SquaredL2, sigma)
    a, b = (float(jax.grad(lambda p: loss(p, x, KEY)[0])(p)) for p in (1.0, 2.0))
    assert 1 - a / (b - a) == pytest.approx(1 / (v + sigma**2), rel=0.03)


def test_divergence_of_a_matrix_is_its_trace(x64):
    M = RNG.normal(size=(6, 6)) / 3
    probes = 4000
    report = learn.sure(lambda p, y: y @ M.T, 0.3, probes)(None, jnp.asarray(RNG.normal(size=(1, 6))), KEY)[1]
    # Hutchinson with signs: variance 2 Σ_{i≠j} of the symmetric part
    symmetric = (M + M.T) / 2
    error = np.sqrt(2 * (np.sum(symmetric**2) - np.sum(np.diag(symmetric) ** 2)) / probes) / 6
    assert abs(float(report["divergence"]) - np.trace(M) / 6) < 4 * error
    with pytest.raises(ValueError, match="sigma"):
        learn.sure(lambda p, y: y, jnp.ones((2, 1, 1)))


def test_split_masks_keep_their_dtype():
    mask = jnp.ones((6, 6), bool)
    inside, outside = learn.split_mask(mask, KEY)
    assert inside.dtype == outside.dtype == bool and bool(jnp.all(inside ^ outside))


def wiener(v):
    return lambda x, sigma: x * v / (v + sigma**2)


@pytest.mark.parametrize("v", [0.05, 4.0])
def test_guidance_with_the_variance_of_the_images_is_exact(v):
    """Posterior of one Gaussian pixel, 20 000 samples: 1 % of a standard deviation, and 600 levels cost a percent of the variance."""
    sigma, y = 0.3, 0.5
    x = learn.diffusion_sample(
        wiener(v), (20_000, 1), jnp.geomspace(30, 0.005, 600), KEY, operator=forward.Identity((1,)), y=jnp.asarray([y]),
        noise_level=sigma, guidance="pigdm", prior_variance=v,
    )  # fmt: skip
    variance = 1 / (1 / v + 1 / sigma**2)
    assert float(x.mean()) == pytest.approx(variance * y / sigma**2, abs=0.03 * np.sqrt(variance))
    assert float(x.var()) == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_dps_ends_at_the_data(strength):
    """Its step has the length ``strength`` however small the misfit; the last one must not stay in the image."""
    A, y = forward.Inpaint(jnp.asarray([1.0, 0.0])), jnp.asarray([2.0, 0.0])
    given = {"operator": A, "y": y, "guidance": "dps", "strength": strength}
    x = learn.diffusion_sample(wiener(1.0), (2000, 2), jnp.geomspace(30, 0.01, 300), KEY, **given)
    assert float(jnp.median(jnp.abs(x[:, 0] - 2))) < 0.1 * strength
    assert float(x[:, 1].std()) == pytest.approx(1, abs=0.06)  # what is not measured keeps its prior
