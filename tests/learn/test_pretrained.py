"""The shipped models do what their cards say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import data, energy, forward, learn, metrics, solve
from diffimg.experiment.recipes import learned_tasks


def test_every_model_has_a_card_and_is_small():
    names = learn.pretrained_names()
    assert {"ridge", "drunet", "brain_score", "ct_primal_dual", "mri_learned_pgm"} <= set(names)
    sizes = [path.stat().st_size for path in learn.pretrained.__globals__["FOLDER"].rglob("*.npz")]
    assert max(sizes) <= 2e6 and sum(sizes) <= 8e6
    for name in names:
        model = learn.pretrained(name)
        assert "diffimg run" in model.card and "cores" in model.card and model.about["metrics"]
        assert "cache" not in model.about["recipe"]
    with pytest.raises(ValueError, match="ridge"):
        learn.pretrained("rigde")


def test_ridge_beats_total_variation_on_an_unseen_photograph():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    truth = next(s.image for s in data.photographs("test") if s.name == "coffee")[120:248, 200:328]
    y = jnp.asarray(truth) + 25 / 255 * jax.random.normal(jax.random.key(3), truth.shape)
    prior = learn.pretrained("ridge").prior()
    assert 0.9 < float(prior.weak_convexity()) < 1
    problem = solve.Problem(smooth=energy.LeastSquares(forward.Identity(y.shape), y) + prior)
    x = solve.run(solve.FISTA(), problem, y, 200, 1e-4, objective_every=0).x
    inside = (slice(8, -8), slice(8, -8))  # the filters are periodic
    psnr = lambda v: float(metrics.psnr(v[inside], truth[inside], data_range=1.0))  # noqa: E731
    assert psnr(x) > max(psnr(energy.TotalVariation(w).prox(y, 1.0)) for w in (0.06, 0.08, 0.1)) + 0.8
    assert np.all(np.isfinite(x))


def test_unrolled_networks_do_what_their_cards_say():
    """On four test slices, with the data of the recipe."""
    pytest.importorskip("nilearn")
    for name, make, section, gain in (
        ("ct_primal_dual", learned_tasks.ct_problem, learned_tasks.CT(), 6.0),
        ("mri_learned_pgm", learned_tasks.mri_problem, learned_tasks.MRI(), 10.0),
    ):
        problem, model = make(section, 0), learn.pretrained(name)
        truth, y = (v[:4] for v in problem.test)
        x0 = problem.start(y)
        x = model.network()(model.params, y, problem.operator, x0)
        better = learned_tasks.scores(x, truth)["psnr_db"] - learned_tasks.scores(x0, truth)["psnr_db"]
        assert better > gain, name
        with pytest.raises(ValueError, match="prior"):
            model.prior()


def test_the_denoiser_knows_its_levels():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    model = learn.pretrained("drunet")
    truth = next(s.image for s in data.photographs("test") if s.name == "coffee")[120:248, 200:328]
    psnr = lambda v: float(metrics.psnr(jnp.asarray(v), truth, data_range=1.0))  # noqa: E731
    denoise = jax.jit(model.denoiser())
    for sigma, least in ((5 / 255, 34.1 + 2), (25 / 255, 20.2 + 7), (50 / 255, 14.2 + 10)):  # dB of the noise, and what must be gained
        y = jnp.asarray(truth) + sigma * jax.random.normal(jax.random.key(3), truth.shape)
        assert psnr(denoise(model.params, y, sigma)) > least
    with pytest.raises(ValueError, match="noise level"):
        model.prior().prox(jnp.asarray(truth), 1.0)
    with pytest.raises(ValueError, match="network"):
        model.network()


def test_the_score_model_denoises_and_reconstructs_unseen_slices():
    pytest.importorskip("nilearn")
    problem, model = learned_tasks.ct_problem(learned_tasks.CT(), 0), learn.pretrained("brain_score")
    truth, y = (v[:2] for v in problem.test)
    denoise = lambda x, sigma: model.denoiser()(model.params, x, sigma)  # noqa: E731
    psnr = lambda x: learned_tasks.scores(x, truth)["psnr_db"]  # noqa: E731
    for sigma, least in ((0.05, 26 + 8), (0.2, 14 + 12.5)):  # dB of the noise, and what must be gained
        noisy = truth + sigma * jax.random.normal(jax.random.key(3), truth.shape)
        assert psnr(jax.jit(denoise)(noisy, sigma)) > least
    given = {"operator": problem.operator, "y": y, "noise_level": problem.noise, "guidance": "proximal", "prior_variance": 0.25**2}
    levels = jnp.geomspace(5, 0.005, 15)
    x = jax.jit(lambda key: learn.diffusion_sample(denoise, truth.shape, levels, key, max_steps=10, **given))(jax.random.key(0))
    assert psnr(x) > psnr(problem.start(y)) + 1
