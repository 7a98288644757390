"""Learning principles where the right answer is known: Gaussians, Gaussian mixtures, Wasserstein distances."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from diffimg import energy, forward, learn

RNG = np.random.default_rng(17)
KEY = jax.random.key(4)


def gaussian(precision):
    """½ Σ precision x²."""
    return energy.SquaredL2(precision)


def test_metropolis_is_exact_and_unadjusted_langevin_has_its_known_bias():
    start, tau, c = jnp.zeros((400, 3)), 0.3, 2.0
    exact, biased = (
        learn.langevin(gaussian(c), start, 600, tau, KEY, burn_in=100, method=m) for m in ("metropolis", "unadjusted")
    )
    for samples, variance in ((exact, 1 / c), (biased, 1 / (c * (1 - tau * c / 2)))):
        mean, deviation = learn.pooled(samples)
        np.testing.assert_allclose(deviation**2, variance, rtol=0.02)
        np.testing.assert_allclose(mean, 0, atol=0.02)
        assert bool(samples.finite)
    assert 0.7 < float(exact.acceptance.mean()) < 0.99 and float(biased.acceptance.min()) == 1


@pytest.mark.parametrize("complex_values", [False, True])
def test_kinetic_langevin_is_exact_on_quadratics_at_any_step_and_crosses_flat_directions(complex_values):
    """Curvatures 1 and 1/400: without momentum 400 steps are τ·c·n = 0.3 of the flat direction's time, and it stays narrow."""
    curvature = jnp.asarray([1.0, 1 / 400])
    start = jnp.zeros((1000, 2), jnp.complex64 if complex_values else jnp.float32)
    parts = 2 if complex_values else 1
    for tau in (0.3, 1.2):
        samples = learn.langevin(gaussian(curvature), start, 400, tau, KEY, temperature=0.5, burn_in=200, method="kinetic", momentum=0.85)
        np.testing.assert_allclose(learn.pooled(samples)[1] ** 2, parts * 0.5 / curvature, rtol=0.06)
    slow = learn.langevin(gaussian(curvature), start, 400, 0.3, KEY, temperature=0.5, burn_in=200)
    assert float(learn.pooled(slow)[1][1] ** 2) < 0.5 * parts * 0.5 / float(curvature[1])
    with pytest.raises(ValueError, match="momentum"):
        learn.langevin(gaussian(curvature), start, 4, 0.3, KEY, method="kinetic", momentum=1.0)


def test_scale_reduction_tells_chains_that_have_not_settled():
    """White noise: 1. A random walk, which never settles: well above 1.1.."""
    start = jnp.zeros((4, 500))
    settled = learn.langevin(gaussian(1.0), start, 400, 0.5, KEY, burn_in=50, method="kinetic", momentum=0.0)
    assert float(jnp.max(learn.scale_reduction(settled))) < 1.1
    walk = learn.langevin(gaussian(0.0), start, 400, 0.5, KEY)
    reduction = learn.scale_reduction(walk)
    assert float(jnp.mean(reduction)) > 1.3
    means, deviations = np.asarray(walk.mean), np.asarray(walk.standard_deviation)
    np.testing.assert_allclose(reduction, np.sqrt(1 + means.var(0, ddof=1) / (deviations**2).mean(0)), rtol=1e-4)
    with pytest.raises(ValueError, match="two chains"):
        learn.scale_reduction(learn.langevin(gaussian(1.0), start[:1], 4, 0.5, KEY))


def test_kinetic_langevin_samples_a_double_well():
    """Not a quadratic: moments against SciPy's integrals of exp(−(x² − 1)²)."""
    well = energy.Network(lambda p, x: p * jnp.sum((x**2 - 1) ** 2), jnp.ones(()))
    samples = learn.langevin(well, jnp.zeros((500, 1)), 2000, 0.02, KEY, burn_in=400, method="kinetic")
    density = lambda x: np.exp(-((x**2 - 1) ** 2))  # noqa: E731
    from scipy.integrate import quad

    variance = quad(lambda x: x**2 * density(x), -4, 4)[0] / quad(density, -4, 4)[0]
    np.testing.assert_allclose(learn.pooled(samples)[1][0] ** 2, variance, rtol=0.02)


def test_complex_samples_and_temperature():
    start, options = jnp.zeros((400, 2), jnp.complex64), {"burn_in": 80, "method": "metropolis"}
    samples = learn.langevin(gaussian(2.0), start, 400, 0.2, KEY, temperature=0.5, **options)
    # T/c for each part
    np.testing.assert_allclose(learn.pooled(samples)[1] ** 2, 2 * 0.5 / 2.0, rtol=0.03)


def test_moments_of_a_correlated_gaussian_not_at_zero():
    """Steps that Metropolis rejects often: the moments are still those of the density."""
    B = np.array([[2.0, 0.0], [1.2, 0.6]], np.float32)
    e = energy.LeastSquares(forward.Matrix(B), np.array([40.0, -3.0], np.float32))
    samples = learn.langevin(e, jnp.zeros((500, 2)), 3000, 0.35, KEY, burn_in=1000, method="metropolis")
    covariance = np.linalg.inv(B.T @ B)
    mean, deviation = learn.pooled(samples)
    np.testing.assert_allclose(deviation, np.sqrt(np.diag(covariance)), rtol=0.05)
    np.testing.assert_allclose(mean, np.linalg.solve(B, [40.0, -3.0]), atol=0.12)
    assert float(samples.acceptance.mean()) < 0.9


def test_posterior_covers_the_truth():
    """A linear Gaussian problem: mean and deviation of the closed form, and 90 % intervals that hold in 90 % of the pixels."""
    n, sigma, rng = 12, 0.3, np.random.default_rng(0)
    A = np.array(rng.normal(size=(16, n)) / 4, np.float32)
    truth = rng.normal(size=(50, n)).astype(np.float32)
    y = (truth @ A.T + sigma * rng.normal(size=(50, 16))).astype(np.float32)
    operator = forward.Matrix(A)

    def solve(y, key):
        data = (1 / sigma**2) * energy.LeastSquares(operator, y)
        return learn.posterior(data, gaussian(1.0), jnp.zeros(n), 2500, 0.05, key, chains=8, method="metropolis")[:2]

    mean, deviation = jax.vmap(solve)(jnp.asarray(y), jax.random.split(KEY, 50))
    precision = A.T @ A / sigma**2 + np.eye(n)
    np.testing.assert_allclose(mean, y @ np.linalg.solve(precision, A.T / sigma**2).T, atol=0.12)
    np.testing.assert_allclose(deviation, np.broadcast_to(np.sqrt(np.diag(np.linalg.inv(precision))), deviation.shape), rtol=0.12)
    covered = np.mean(np.abs(truth - np.asarray(mean)) < 1.645 * np.asarray(deviation))
    assert abs(covered - 0.9) < 3 * np.sqrt(0.09 / truth.size) + 0.01


@pytest.mark.parametrize("persistent", [False, True])
def test_contrastive_divergence_learns_a_precision(persistent):
    """At the exact temperature the maximum likelihood of a Gaussian is the inverse variance of the data."""
    true = 4.0
    pool = (RNG.normal(size=(4000, 6)) / np.sqrt(true)).astype(np.float32)
    loss = learn.contrastive_divergence(lambda p: gaussian(jnp.exp(p)), 6, 0.15)
    options = {"carry": learn.Replay(jnp.zeros((256, 6)))} if persistent else {}
    batch = jax.jit(lambda key, step: jnp.asarray(pool)[jax.random.randint(key, (256,), 0, len(pool))])
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 500))
    trained = learn.train(loss, jnp.zeros(()), batch, 500, key=KEY, optimizer=optimizer, average=0.98, **options).check()
    assert float(jnp.exp(trained.params)) == pytest.approx(1 / pool.var(), rel=0.06)
    assert 0.5 < trained.history[-1]["acceptance"] <= 1
    if persistent:
        assert trained.carry.chains.var() == pytest.approx(1 / true, rel=0.15)


# a mixture of Gaussians in one dimension: every expectation is an integral that Gauss and Hermite do exactly

WEIGHTS, MEANS, WIDTHS = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.3, 0.5])
SIGMA = 0.4


def features(params):
    """An energy that is no Gaussian: Σ θ_k log cosh(x − k)."""
    return energy.Network(_features, params)


def _features(params, x):
    centers = jnp.array([-1.0, 0.0, 1.0], x.dtype)
    return params[0] * x**2 + jnp.sum(params[1:] * jnp.log(jnp.cosh(x[..., None] - centers)), -1)


def nodes(count=100):
    z, w = np.polynomial.hermite_e.hermegauss(count)
    return z, w / w.sum()


def test_denoising_is_explicit_score_matching_of_the_noisy_density(x64):
    """Equal gradients in the parameters (Vincent, 2011)."""
    params = jnp.array([0.3, 0.5, -0.2, 0.4])
    z, w = nodes()

    def noisy_score(y):
        spread = np.sqrt(WIDTHS**2 + SIGMA**2)
        logs = jnp.log(WEIGHTS / spread) - (y - MEANS) ** 2 / (2 * spread**2)
        return -jnp.sum(jax.nn.softmax(logs) * (y - MEANS) / spread**2)

    def explicit(params):
        loss = learn.explicit_score_matching(features, lambda y: jax.vmap(noisy_score)(y))
        total = 0.0
        for weight, mean, width in zip(WEIGHTS, MEANS, WIDTHS, strict=True):
            y = mean + np.sqrt(width**2 + SIGMA**2) * z
            total += weight * jnp.sum(w * jax.vmap(lambda v: loss(params, v[None])[0])(jnp.asarray(y)))
        return SIGMA**2 * total

    def denoising(params):
        total = 0.0
        for weight, mean, width in zip(WEIGHTS, MEANS, WIDTHS, strict=True):
            x = jnp.asarray(mean + width * z)
            one = lambda v, n: learn.denoising_loss(features(params), v[None], n[None], SIGMA)  # noqa: E731
            values = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(x, jnp.asarray(z))
            total += weight * w @ values @ w
        return total

    np.testing.assert_allclose(jax.grad(denoising)(params), jax.grad(explicit)(params), rtol=1e-6, atol=1e-7)
    # their difference is a constant
    other = params + jnp.array([0.1, -0.2, 0.3, 0.2])
    np.testing.assert_allclose(denoising(params) - explicit(params), denoising(other) - explicit(other), rtol=1e-6)


def test_score_matching_finds_the_precision():
    """All three, on samples of a Gaussian: 1/variance, and 1/(variance + σ²) for noisy ones; and Tweedie's denoiser is Wiener's filter."""
    variance, sigma = 0.5, 0.3
    x = jnp.asarray(np.sqrt(variance) * RNG.normal(size=(20_000, 1)), jnp.float32)
    build = gaussian
    losses = {
        "explicit": (learn.explicit_score_matching(build, lambda v: -v / variance), 1 / variance),
        "implicit": (learn.implicit_score_matching(build), 1 / variance),
        "denoising": (learn.denoising_score_matching(build, sigma), 1 / (variance + sigma**2)),
    }
    for name, (loss, expected) in losses.items():
        slope = jax.jit(jax.grad(lambda p, loss=loss: loss(p, x, KEY)[0]))
        # quadratic in the precision: its slope is a line through the minimum
        a, b = float(slope(1.0)), float(slope(2.0))
        assert 1.0 - a / (b - a) == pytest.approx(expected, rel=0.06), name
    y = x[:5] + sigma
    np.testing.assert_allclose(
        learn.tweedie(gaussian(1 / (variance + sigma**2)), y, sigma), y * variance / (variance + sigma**2), rtol=1e-5
    )
    wiener = lambda y, s: y * variance / (variance + s**2)  # noqa: E731
    np.testing.assert_allclose(learn.denoiser_score(wiener, y, sigma), -y / (variance + sigma**2), rtol=1e-4)


def test_several_noise_levels_have_an_energy_each():
    variance = 0.5
    x = jnp.asarray(np.sqrt(variance) * RNG.normal(size=(20_000, 1)), jnp.float32)
    loss = learn.denoising_score_matching(lambda p, s: gaussian(1 / (p + s**2)), [0.1, 0.3, 1.0])
    grid = np.linspace(0.3, 0.8, 26)
    values = jax.lax.map(lambda p: loss(p, x, KEY)[0], jnp.asarray(grid, jnp.float32))
    assert grid[int(jnp.argmin(values))] == pytest.approx(variance, abs=0.05)


def test_linear_critic_finds_the_wasserstein_distance():
    """Two clouds that differ by a shift: the best 1-Lipschitz critic is linear, along it, and its gap is its length."""
    shift = np.array([0.9, -1.2], np.float32)
    real = RNG.normal(size=(4000, 2)).astype(np.float32)
    fake = real[::-1] + shift
    loss = learn.adversarial(lambda p: energy.Network(lambda q, x: jnp.sum(q * x, -1), p), penalty=100.0)
    trained = learn.train(loss, jnp.zeros(2), lambda key, step: (real, fake), 400, key=KEY, optimizer=optax.adam(0.02)).check()
    direction = shift / np.linalg.norm(shift)
    distance = stats.wasserstein_distance(real @ direction, fake @ direction)
    assert distance == pytest.approx(1.5, rel=0.01)
    # the penalty lets the slope exceed 1 by distance / (2 · penalty)
    assert trained.history[-1]["gradient_norm"] == pytest.approx(1 + distance / 200, rel=2e-3)
    assert trained.history[-1]["gap"] / trained.history[-1]["gradient_norm"] == pytest.approx(distance, rel=0.01)
    np.testing.assert_allclose(trained.params / np.linalg.norm(trained.params), direction, atol=0.02)


def test_weight_of_an_adversarial_regularizer(x64):
    A = RNG.normal(size=(5, 4))
    truth, y = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 5))
    expected = np.mean(np.linalg.norm((truth @ A.T - y) @ A, axis=1))
    assert float(learn.adversarial_weight(forward.Matrix(A), truth, y)) == pytest.approx(expected)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="burn_in"):
        learn.langevin(gaussian(1.0), jnp.zeros((2, 2)), 5, 0.1, KEY, burn_in=5)
    with pytest.raises(ValueError, match="step_size"):
        learn.langevin(gaussian(1.0), jnp.zeros((2, 2)), 5, 0.0, KEY)
    with pytest.raises(ValueError, match="metropolis"):
        learn.langevin(gaussian(1.0), jnp.zeros((2, 2)), 5, 0.1, KEY, method="mala")
    with pytest.raises(ValueError, match="real images, fake images"):
        learn.adversarial(gaussian)(1.0, jnp.zeros((2, 2)), KEY)
    loss = learn.contrastive_divergence(gaussian, 1, 0.1)
    with pytest.raises(ValueError, match="as many chains"):
        loss(1.0, jnp.zeros((4, 2)), KEY, learn.Replay(jnp.zeros((2, 2))))
    with pytest.raises(ValueError, match="sigma"):
        learn.denoising_score_matching(gaussian, [0.1, -0.1])
    with pytest.raises(ValueError, match="carry like"):
        learn.train(lambda p, b, k, c: (p**2, {}, c[:1]), jnp.ones(()), lambda k, s: jnp.ones(1), 1, key=KEY, carry=jnp.zeros(2))
    with pytest.raises(ValueError, match="takes and returns it"):
        learn.train(lambda p, b, k, c: (p**2, {}), jnp.ones(()), lambda k, s: jnp.ones(1), 1, key=KEY, carry=jnp.zeros(2))
