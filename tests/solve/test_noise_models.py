"""Small tomographies, end to end: every noise model with its likelihood, and solvers where the energy is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core.pytree import pytree
from diffimg.energy import Energy, Gaussian, NonNegative, Poisson, PoissonGaussian, TotalVariation, Transmission
from diffimg.forward import Identity, ParallelBeam, Radon
from diffimg.solve import ADMM, FISTA, GradientDescent, PrimalDual, Problem, ProximalGradient, Status, run

N = 24
ROWS, COLUMNS = np.mgrid[:N, :N] - (N - 1) / 2
IMAGE = ((ROWS / 10) ** 2 + (COLUMNS / 8) ** 2 < 1) * 1.0 - 0.6 * ((ROWS - 2) ** 2 + (COLUMNS - 1) ** 2 < 9)
IMAGE = jnp.asarray(IMAGE + 0.5 * ((abs(ROWS + 4) < 2) & (abs(COLUMNS - 1) < 2)), jnp.float32)
GEOMETRY = ParallelBeam((N, N), np.linspace(0, np.pi, 24, endpoint=False), 36)
ZERO = jnp.zeros((N, N), jnp.float32)
# model, units of the image (Transmission: attenuation per pixel), weight of the total variation
MODELS = {
    "Gaussian": (Gaussian(1.0), 1.0, 1.0),
    "Poisson": (Poisson(2.0), 1.0, 2.0),
    "PoissonGaussian": (PoissonGaussian(3.0, 1.0, 1.0), 1.0, 2.0),
    "Transmission": (Transmission(300.0), 0.1, 6.0),
}


def nmse(x):
    return float(jnp.sum((x - IMAGE) ** 2) / jnp.sum(IMAGE**2))


@pytest.mark.parametrize("method", ["auto", pytest.param("joseph", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_every_noise_model_reconstructs(name, method):
    model, units, weight = MODELS[name]
    operator = units * Radon(GEOMETRY, method=method)
    data = model.noise(jax.random.key(1), operator(IMAGE))
    likelihood = model.likelihood(operator, data)
    assert np.isfinite(likelihood(IMAGE)) and np.isfinite(likelihood(ZERO))
    for solver in (FISTA(), FISTA(backtracking=0.5)):
        result = run(solver, Problem(likelihood, TotalVariation(weight, lower=0.0, max_steps=30)), ZERO, 200).check()
        assert np.isfinite(result.objective).all()
        assert result.objective[-1] < result.objective[0]
        assert nmse(result.x) < 0.13  # 1 at the start


@pytest.mark.slow
def test_splitting_reaches_poisson_through_the_projector():
    operator, model = Radon(GEOMETRY, method="joseph"), Poisson(2.0)
    data = model.noise(jax.random.key(1), operator(IMAGE))
    counts = model.likelihood(Identity(operator.codomain.shape), data)
    problem = Problem(proximable=NonNegative(), composed=((counts, operator),))
    direct = Problem(model.likelihood(operator, data), NonNegative())
    start = jnp.full((N, N), 0.5)
    reached = float(direct(run(FISTA(backtracking=0.5), direct, start, 200).check().x))
    assert reached < float(direct(IMAGE)) < float(direct(start))
    for solver in (PrimalDual(balance=1.0), ADMM(0.5)):
        x = run(solver, problem, start, 200).check().x
        assert float(direct(jnp.maximum(x, 0))) < reached + 5, solver


@pytree
class Barrier(Energy):
    """Σ x² / 2 − log x: infinite, with a finite gradient, outside x > 0; the minimum is at 1."""

    def __call__(self, x):
        return jnp.sum(jnp.where(x > 0, x**2 / 2 - jnp.log(jnp.maximum(x, 1e-30)), jnp.inf))

    def grad(self, x):
        return x - 1 / jnp.maximum(x, 1e-6)

    def lipschitz(self):
        return jnp.inf * jnp.ones(())


SEARCHES = [FISTA(backtracking=0.5), FISTA(backtracking=0.9, restart=False), ProximalGradient(backtracking=0.5)]


@pytest.mark.parametrize("solver", SEARCHES, ids=repr)
def test_backtracking_stays_where_the_energy_is_finite(solver):
    x0 = jnp.array([30.0, 0.1, 2.0])
    result = run(solver, Problem(Barrier()), x0, 5000, 1e-5).check()
    assert np.isfinite(result.objective[: result.iterations + 1]).all()
    np.testing.assert_allclose(result.x, 1, rtol=2e-3)
    if isinstance(solver, FISTA):  # extrapolated out of the domain: as a fresh start from x
        first = solver.init(Problem(Barrier()), x0)
        ahead = solver.step(Problem(Barrier()), first._replace(y=-x0, t=jnp.float32(9.0)))
        np.testing.assert_array_equal(ahead.x, solver.step(Problem(Barrier()), first).x)
        assert ahead.status == Status.COMPLETED and ahead.t < 2
    lost = run(solver, Problem(Barrier()), -x0, 20, 1e-6)
    assert lost.status == Status.LINE_SEARCH and lost.iterations == 0


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_no_run_ends_well_where_the_energy_is_infinite(tolerance):
    wrong = run(FISTA(1e-9), Problem(Barrier()), -jnp.ones(3), 5, tolerance)
    assert wrong.status == Status.NONFINITE


@pytest.mark.parametrize("solver", [GradientDescent(), FISTA(), ProximalGradient(), PrimalDual(), PrimalDual(balance=1.0)], ids=repr)
def test_an_infinite_lipschitz_constant_is_no_step_of_zero(solver):
    x0 = jnp.ones(3) / 2
    composed = ((NonNegative(), Identity((3,))),) if isinstance(solver, PrimalDual) else ()
    problem = Problem(Barrier(), composed=composed)
    with pytest.raises(ValueError, match=r"lipschitz\(\): expected a finite number, got inf. Give the solver a step size"):
        solver.init(problem, x0)
    result = run(solver, problem, x0, 50, 1e-4)  # traced
    assert result.status == Status.NONFINITE and result.iterations == 0
    np.testing.assert_array_equal(result.x, x0)
