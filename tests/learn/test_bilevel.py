"""Bilevel losses against closed forms and finite differences, under every gradient rule; DPIR and denoisers' expansion."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffimg import energy, forward, learn, solve
from diffimg.energy.ridge import constrained_ridge, ridge_parameters

RNG = np.random.default_rng(5)
RULES = [solve.Unroll(), solve.Checkpoint(), solve.Truncated(60), solve.Implicit("cg", tolerance=1e-12), solve.JacobianFree()]


def ridge_regression(matrix, y):
    """x* = (AᵀA + λ)⁻¹ Aᵀ y."""

    def lower(params, batch):
        data = energy.LeastSquares(forward.Matrix(matrix), y)
        return solve.Problem(smooth=data + jnp.exp(params) * energy.SquaredL2(1.0)), jnp.zeros(matrix.shape[1])

    return lower


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_hypergradient_of_ridge_regression(rule, x64):
    A, y, truth = RNG.normal(size=(9, 6)), RNG.normal(size=9), RNG.normal(size=6)
    problem = learn.Bilevel(ridge_regression(A, y), solver=solve.GradientDescent(), steps=3000, tolerance=1e-13, gradient=rule)
    loss, gradient, report = problem.hypergradient(jnp.asarray(-0.5), {"truth": truth})
    weight = np.exp(-0.5)
    inverse = np.linalg.inv(A.T @ A + weight * np.eye(6))
    x = inverse @ A.T @ y
    expected = 2 / 6 * (x - truth) @ (-inverse @ x) * weight
    assert float(loss) == pytest.approx(np.mean((x - truth) ** 2), rel=1e-9)
    assert float(report["lower_residual"]) <= 1e-12
    if isinstance(rule, solve.JacobianFree):  # one step at the solution: (∂_θT)ᵀ ∇L, T = x − τ∇E
        tau = 1 / (np.linalg.norm(A, 2) ** 2 + weight)
        assert float(gradient) == pytest.approx(2 / 6 * (x - truth) @ (-tau * x) * weight, rel=1e-2)
    else:
        assert float(gradient) == pytest.approx(expected, rel=1e-2 if isinstance(rule, solve.Truncated) else 1e-8)
    if isinstance(rule, solve.Implicit):
        assert float(report["adjoint_residual"]) <= 1e-11


def test_total_variation_map_learns_where_the_edges_are(x64):
    """A weight for each pixel, through the steps of FISTA: it falls where the truth jumps, and the loss does too."""
    truth = np.zeros((12, 12))
    truth[:, 6:] = 1
    y = truth + 0.2 * RNG.normal(size=truth.shape)

    def lower(params, batch):
        data = energy.LeastSquares(forward.Identity((12, 12), dtype="float64"), batch["y"])
        prior = energy.TotalVariation(jnp.exp(params), gap=0.0, max_steps=100)
        return solve.Problem(smooth=data, proximable=prior), batch["y"]

    problem = learn.Bilevel(lower, steps=30, tolerance=1e-6, gradient=solve.Unroll())
    batch = {"truth": truth, "y": y}
    start = jnp.full((12, 12), np.log(0.2))
    params, before = start, float(problem(start, batch)[0])
    optimizer = optax.adam(0.2)
    state = optimizer.init(params)
    step = jax.jit(lambda p, s: optimizer.update(jax.grad(lambda q: problem(q, batch)[0])(p), s))
    for _ in range(25):
        change, state = step(params, state)
        params = params + change
    assert float(problem(params, batch)[0]) < 0.6 * before
    # the difference across the edge is stored at column 5
    assert float(jnp.mean(params[:, 5])) < float(jnp.mean(params)) - 0.5


@pytest.mark.slow
def test_learned_ridge_denoises_unseen_noise():
    """A few dozen steps of bilevel training on synthetic edges beat the start on other edges."""
    sigma = 0.1

    def batch(key, step):
        a, b = jax.random.split(key)
        corner = jax.random.uniform(a, (4, 2, 2), minval=0, maxval=20)
        grid = jnp.arange(20.0)
        box = [(grid > jnp.minimum(*c)) & (grid < jnp.maximum(*c)) for c in (corner[:, 0].T[..., None], corner[:, 1].T[..., None])]
        truth = (box[0][:, :, None] & box[1][:, None, :]).astype(jnp.float32)
        return {"truth": truth, "y": truth + sigma * jax.random.normal(b, truth.shape)}

    def lower(params, batch):
        data = energy.LeastSquares(forward.Identity((20, 20)), batch["y"])
        return solve.Problem(smooth=data + constrained_ridge(params)), batch["y"]

    problem = learn.Bilevel(lower, steps=60, tolerance=1e-3, gradient=solve.Implicit("cg", tolerance=1e-2, max_steps=20))
    start = ridge_parameters(3, scale=0.05)
    test = batch(jax.random.key(99), 0)
    trained = learn.train(problem, start, jax.jit(batch), 60, key=jax.random.key(1), optimizer=optax.adam(3e-2)).check()
    losses = [float(problem(p, test)[0]) for p in (start, trained.params)]
    assert losses[1] < 0.8 * losses[0] and losses[1] < 0.6 * sigma**2
    assert trained.history[-1]["lower_converged"] == 1


def test_a_lower_problem_that_does_not_converge_says_so():
    problem = learn.Bilevel(ridge_regression(np.diag([1.0, 1e-2]).astype("f4"), np.ones(2, "f4")), steps=3, tolerance=1e-6)
    report = problem(jnp.asarray(-9.0), {"truth": np.ones(2, "f4")})[1]
    assert float(report["lower_converged"]) == 0 and float(report["lower_residual"]) > 1e-3


def test_bilevel_refuses_other_things():
    with pytest.raises(ValueError, match="gradient rule"):
        learn.Bilevel(lambda p, b: None, gradient="implicit")
    with pytest.raises(ValueError, match=r"\(Problem, x0\)"):
        learn.Bilevel(lambda p, b: p)(1.0, {})


def shrink(params, x, sigma):
    """The posterior mean under the prior N(0, params): the Wiener filter."""
    return x * params / (params + sigma**2)


def test_dpir_is_half_quadratic_splitting_by_hand(x64):
    mask = (RNG.random((6, 7)) < 0.5).astype(float)
    A = forward.Inpaint(mask)
    y = np.asarray(A(RNG.normal(size=(6, 7))))
    prior = energy.PlugAndPlay(shrink, jnp.asarray(0.5))
    x = learn.dpir(energy.LeastSquares(A, y), prior, 0.05, jnp.asarray(y), steps=6, first=0.4, strength=0.3)
    z = y
    for level in np.geomspace(0.4, 0.05, 6):
        alpha = 0.3 * 0.05**2 / level**2
        z = shrink(0.5, (mask * y + alpha * z) / (mask**2 + alpha), level)
    np.testing.assert_allclose(x, z, rtol=1e-10)
    with pytest.raises(ValueError, match="noise_level"):
        learn.dpir(energy.LeastSquares(A, y), prior, 0.0, jnp.asarray(y))
    with pytest.raises(ValueError, match="PlugAndPlay"):
        learn.dpir(energy.LeastSquares(A, y), energy.L1(), 0.1, jnp.asarray(y))


def linear(params, x, sigma):
    return jnp.einsum("ij,...j->...i", params, x)


def test_expansion_of_a_linear_denoiser_is_its_largest_singular_value(x64):
    W = RNG.normal(size=(7, 7)) / 3
    found = learn.lipschitz_estimate(energy.PlugAndPlay(linear, W), RNG.normal(size=7), 0.1, jax.random.key(0), 300)
    assert float(found.denoiser) == pytest.approx(np.linalg.norm(W, 2), rel=1e-6)
    assert float(found.residual) == pytest.approx(np.linalg.norm(np.eye(7) - W, 2), rel=1e-6)


N = 8
SQUARE = np.zeros((N, N))
SQUARE[2:6, 3:7] = 1


def mask_problem():
    """Which samples of k-space to weigh how much, a field of experts as the prior."""
    truth = SQUARE * np.exp(0.3j)
    rng = np.random.default_rng(1)
    full = forward.fft(jnp.asarray(truth)) + 0.02 * (rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N)))

    def lower(params, batch):
        mask = jax.nn.sigmoid(params)
        prior = energy.FieldsOfExperts(energy.dct_filters(3), 0.05, 0.3, "charbonnier")
        smooth = energy.LeastSquares(forward.MaskedFFT(mask), mask * full) + energy.SquaredL2(0.01) + prior
        return solve.Problem(smooth=smooth), jnp.zeros((N, N), complex)

    return lower, rng.normal(size=(N, N)), truth


def experts_problem():
    """Filters, weights and scale of a field of experts."""
    rng = np.random.default_rng(2)
    y = SQUARE + 0.1 * rng.normal(size=(N, N))

    def lower(params, batch):
        prior = energy.FieldsOfExperts(params["filters"], jnp.exp(params["weights"]), jnp.exp(params["scale"]), "student")
        return solve.Problem(smooth=energy.LeastSquares(forward.Identity((N, N)), y) + prior), jnp.asarray(y)

    return lower, {"filters": 0.3 * rng.normal(size=(3, 3, 3)), "weights": np.full(3, np.log(0.2)), "scale": np.log(0.5)}, SQUARE


def map_problem():
    """A weight of total variation for each pixel."""
    rng = np.random.default_rng(3)
    y = SQUARE + 0.1 * rng.normal(size=(N, N))

    def lower(params, batch):
        prior = energy.TotalVariation(jnp.exp(params), gap=0.0, max_steps=200)
        return solve.Problem(smooth=energy.LeastSquares(forward.Identity((N, N)), y), proximable=prior), jnp.asarray(y)

    return lower, np.log(0.15) + 0.1 * rng.normal(size=(N, N)), SQUARE


@pytest.mark.slow
@pytest.mark.parametrize("case", [mask_problem, experts_problem, map_problem], ids=lambda f: f.__name__)
def test_every_rule_on_masks_experts_and_maps(case, x64):
    """Against central differences of the loss; the biased rules by direction."""
    lower, params, truth = case()
    params = jax.tree.map(jnp.asarray, params)
    batch = {"truth": truth}
    direction = jax.tree.map(lambda v: jnp.asarray(np.random.default_rng(4).normal(size=v.shape)), params)
    loss = jax.jit(lambda p: learn.Bilevel(lower, steps=3000, tolerance=0.0, gradient=solve.Checkpoint())(p, batch)[0])
    ends = [loss(jax.tree.map(lambda a, b, h=h: a + h * b, params, direction)) for h in (1e-5, -1e-5)]
    exact = float(ends[0] - ends[1]) / 2e-5
    vector = lambda g: np.concatenate([np.ravel(v) for v in jax.tree.leaves(g)])  # noqa: E731
    found = {}
    rules = (solve.Unroll(), solve.Checkpoint(), solve.Truncated(60), solve.Implicit(tolerance=1e-11, max_steps=2000, restart=200))
    for rule in (*rules, solve.JacobianFree()):
        unrolled = isinstance(rule, (solve.Unroll, solve.Checkpoint))
        options = {"steps": 1500, "tolerance": 0.0} if unrolled else {"steps": 3000, "tolerance": 1e-12}
        problem = learn.Bilevel(lower, gradient=rule, **options)
        found[type(rule).__name__] = vector(jax.jit(problem.hypergradient)(params, batch)[1])
    for name, gradient in found.items():
        if name == "JacobianFree":
            implicit = found["Implicit"]
            cosine = gradient @ implicit / np.linalg.norm(gradient) / np.linalg.norm(implicit)
            assert cosine > 0.9 and np.linalg.norm(gradient) < np.linalg.norm(implicit)
        else:
            tolerance = 1e-4 if name == "Truncated" else 1e-6
            np.testing.assert_allclose(gradient @ vector(direction), exact, rtol=tolerance, atol=tolerance * np.linalg.norm(gradient))


def test_a_system_that_is_not_symmetric_gives_no_gradient(x64):
    """RED with a denoiser whose Jacobian is not symmetric: conjugate gradients and MINRES have nothing to say, GMRES has."""
    skew = np.eye(N) * 0.5 + 0.2 * np.random.default_rng(0).normal(size=(N, N)) / np.sqrt(N)
    y = np.random.default_rng(1).normal(size=N)

    def denoise(params, x, sigma):
        return params * jnp.asarray(skew) @ x

    def lower(params, batch):
        prior = energy.RED(denoise, params, 0.1)
        return solve.Problem(smooth=energy.LeastSquares(forward.Identity((N,)), y) + prior), jnp.asarray(y)

    def gradient(rule):
        options = {"solver": solve.GradientDescent(), "steps": 500, "tolerance": 1e-13}
        return learn.Bilevel(lower, gradient=rule, **options).hypergradient(jnp.asarray(0.9), {"truth": np.zeros(N)})[1]

    def exact(p):
        return np.mean(np.linalg.solve(2 * np.eye(N) - p * skew, y) ** 2)

    assert float(gradient(solve.Implicit())) == pytest.approx((exact(0.9 + 1e-6) - exact(0.9 - 1e-6)) / 2e-6, rel=1e-6)
    for name in ("cg", "minres"):
        assert np.isnan(gradient(solve.Implicit(name)))
    problem, x0 = lower(0.9, None)
    assert solve.run(solve.ConjugateGradient(), problem, x0, 8).status == solve.Status.ASYMMETRIC


def test_the_log_tells_how_well_the_gradient_was_solved_for():
    A, y, truth = RNG.normal(size=(9, 6)), RNG.normal(size=9), RNG.normal(size=6)
    options = {"solver": solve.GradientDescent(), "steps": 300, "gradient": solve.Implicit("cg", tolerance=1e-3)}
    problem = learn.Bilevel(ridge_regression(A, y), **options)
    batch = lambda key, step: {"truth": jnp.asarray(truth)[None]}  # noqa: E731
    loss = lambda p, b, key: problem(p, {"truth": b["truth"][0]}, key)  # noqa: E731
    trained = learn.train(loss, jnp.zeros(()), batch, 2, key=jax.random.key(0), log_every=1)
    assert "adjoint_residual" not in trained.history[0]  # a function of one's own has no probe
    own = learn.Bilevel(ridge_regression(A, y), outer=lambda x, b: jnp.mean((x - b["truth"][0]) ** 2), **options)
    trained = learn.train(own, jnp.zeros(()), batch, 2, key=jax.random.key(0), log_every=1)
    assert 0 < trained.history[0]["adjoint_residual"] <= 1e-3
