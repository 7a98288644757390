"""SIRT, SART and CGLS against ASTRA on ASTRA's own matrix; weighted and bounded least squares against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffimg.core.pytree import pytree, static
from diffimg.energy import H1, L1, Box, GaussianLikelihood, LeastSquares, NonNegative, SquaredL2
from diffimg.forward import Matrix, Operator, ParallelBeam, Radon
from diffimg.solve import CGLS, SART, SIRT, SQS, ConjugateGradient, Implicit, Problem, Unroll, run

VIEWS, CELLS, SIDE = 15, 18, 16


@pytree
class Rays(Operator):
    """A matrix [view, cell, pixel]: a stranger's operator that can be split into views."""

    matrix_: jax.Array
    side: int = static(default=SIDE)

    @property
    def domain(self):
        return jax.ShapeDtypeStruct((self.side, self.side), self.matrix_.dtype)

    def __call__(self, x):
        return jnp.matmul(self.matrix_, x.reshape(-1), precision="highest")

    def subset(self, index):
        return Rays(self.matrix_[index], self.side)


@pytest.fixture(scope="module")
def astra_scan():
    astra = pytest.importorskip("astra")
    angles = np.linspace(0, np.pi, VIEWS, endpoint=False) + 0.05
    volume = astra.create_vol_geom(SIDE, SIDE)
    rays = astra.create_proj_geom("parallel", 1.0, CELLS, angles)
    projector = astra.create_projector("strip", rays, volume)
    matrix_id = astra.projector.matrix(projector)
    matrix = astra.matrix.get(matrix_id).toarray().reshape(VIEWS, CELLS, SIDE * SIDE)
    yx = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    truth = 1.0 * (np.hypot(yx[0] / 6, yx[1] / 4) < 1) + 0.5 * (np.hypot(*yx) < 3)
    rng = np.random.default_rng(0)
    y = (matrix @ truth.reshape(-1) + 0.05 * rng.normal(size=(VIEWS, CELLS))).astype(np.float32)

    def reconstruct(algorithm, iterations, **option):
        data, image = astra.data2d.create("-sino", rays, y), astra.data2d.create("-vol", volume, 0.0)
        config = astra.astra_dict(algorithm)
        config |= {"ProjectionDataId": data, "ReconstructionDataId": image, "ProjectorId": projector, "option": option}
        astra.algorithm.run(astra.algorithm.create(config), iterations)
        return astra.data2d.get(image)

    yield Rays(jnp.asarray(matrix, jnp.float32)), y, reconstruct
    astra.clear()


ZERO = jnp.zeros((SIDE, SIDE))


def test_sirt_is_astras(astra_scan):
    operator, y, reconstruct = astra_scan
    result = run(SIRT(), Problem(LeastSquares(operator, y)), ZERO, 30)
    np.testing.assert_allclose(result.x, reconstruct("SIRT", 30), atol=2e-5)
    bounded = run(SIRT(), Problem(LeastSquares(operator, y), Box(0.0, 1.2)), ZERO, 30)
    np.testing.assert_allclose(bounded.x, reconstruct("SIRT", 30, MinConstraint=0.0, MaxConstraint=1.2), atol=2e-5)


def test_sart_is_astras(astra_scan):
    operator, y, reconstruct = astra_scan
    peer = reconstruct("SART", 3 * VIEWS, ProjectionOrder="sequential", Relaxation=0.7, MinConstraint=0.0)  # counts single views
    result = run(SART(0.7, order="sequential"), Problem(LeastSquares(operator, y), NonNegative()), ZERO, 3)
    np.testing.assert_allclose(result.x, peer, atol=5e-5)


def test_cgls_is_astras_and_that_of_the_normal_equations(astra_scan):
    operator, y, reconstruct = astra_scan
    result = run(CGLS(), Problem(LeastSquares(operator, y)), ZERO, 4)
    np.testing.assert_allclose(result.x, reconstruct("CGLS", 4), atol=2e-4)  # rounding grows tenfold in two steps
    with jax.enable_x64(True):
        problem = Problem(LeastSquares(Rays(operator.matrix_.astype(float)), y.astype(float), np.linspace(1, 2, CELLS)))
        x0 = ZERO.astype(float)
        np.testing.assert_allclose(run(CGLS(), problem, x0, 6).x, run(ConjugateGradient(), problem, x0, 6).x, atol=1e-9)


def test_one_subset_is_sirt_and_batches_are_independent(astra_scan):
    operator, y, _ = astra_scan
    batch = np.stack([y, 2 * y, y[::-1]])
    problem = Problem(LeastSquares(operator, batch, np.linspace(0.5, 1.5, CELLS, dtype=np.float32)))
    x0 = jnp.zeros((3, SIDE, SIDE))
    np.testing.assert_allclose(run(SART(subsets=1), problem, x0, 4).x, run(SIRT(), problem, x0, 4).x, atol=1e-5)
    together = run(SART(subsets=5), problem, x0, 2).x
    alone = run(SART(subsets=5), Problem(LeastSquares(operator, batch[2], problem.smooth.weights)), ZERO, 2).x
    np.testing.assert_allclose(together[2], alone, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_limits_are_those_of_scipy():
    """SIRT weighs rays by their inverse length, SQS as it is told; both with bounds that bind."""
    rng = np.random.default_rng(1)
    a, y, w = rng.uniform(size=(14, 5)), 3 * rng.normal(size=14), rng.uniform(0.5, 2, size=14)
    a[:, 2] *= 3
    for solver, weights in ((SIRT(1.9), w / a.sum(1)), (SQS(momentum=True), w)):
        peer = scipy.optimize.lsq_linear(np.sqrt(weights)[:, None] * a, np.sqrt(weights) * y, (-0.4, 0.5), tol=1e-14).x
        assert np.sum((peer < -0.399) | (peer > 0.499)) in (1, 2, 3, 4)
        result = run(solver, Problem(LeastSquares(Matrix(a), y, w), Box(-0.4, 0.5)), jnp.zeros(5), 30000, 1e-13, objective_every=0)
        np.testing.assert_allclose(result.x, peer, atol=1e-6)


def test_surrogates_fall_monotonically_and_minimise_the_penalized_energy(astra_scan):
    operator, y, _ = astra_scan
    weights = np.exp(-y / 4)
    energy = 0.5 * LeastSquares(operator, y, weights) + H1(0.3) + SquaredL2(0.01)
    expected = run(ConjugateGradient(), Problem(energy), ZERO, 60).x
    result = run(SQS(), Problem(energy), ZERO, 100)
    assert np.all(np.diff(result.objective) <= 1e-6 * result.objective[0])
    errors = {}
    for name, solver in {
        "plain": SQS(),
        "momentum": SQS(momentum=True),
        "subsets": SQS(subsets=5),
        "both": SQS(subsets=5, momentum=True),
        "decay": SQS(subsets=5, decay=0.2),
    }.items():
        x = run(solver, Problem(energy), ZERO, 40, objective_every=0).x
        errors[name] = float(jnp.linalg.norm(x - expected) / jnp.linalg.norm(expected))
    assert errors["momentum"] < errors["plain"] / 3 and errors["decay"] < errors["subsets"] < errors["plain"] and errors["both"] < 0.03


def test_subsets_speed_up_and_a_decaying_relaxation_ends_the_cycle(astra_scan):
    operator, y, _ = astra_scan
    problem = Problem(LeastSquares(operator, y))
    assert run(SART(subsets=5), problem, ZERO, 3).objective[-1] < 0.5 * run(SIRT(), problem, ZERO, 3).objective[-1]
    late = [run(solver, problem, ZERO, 60).residual[-1] for solver in (SIRT(), SART(), SART(decay=0.5))]
    assert late[2] < late[0]


def test_dead_cells_and_unseen_pixels_do_no_harm():
    geometry = ParallelBeam((12, 12), np.linspace(0, np.pi, 8, endpoint=False), 19)
    a = Radon(geometry, method="joseph")
    truth = jnp.ones((12, 12)).at[3:6, 4:8].set(2.0)
    dead = np.ones(19, np.float32)
    dead[7] = 0
    y = a(truth).at[:, 7].set(50.0)
    x = run(SART(subsets=4), Problem(LeastSquares(a, y, dead)), jnp.zeros((12, 12)), 30, objective_every=0).x
    assert float(jnp.sqrt(jnp.mean((x - truth) ** 2))) < 0.25
    blind = Matrix(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], np.float32))
    for solver in (SIRT(), SART(subsets=2), SQS()):
        x = run(solver, Problem(LeastSquares(blind, np.array([4.0, 9.0], np.float32))), jnp.full(3, 0.5), 50).check().x
        np.testing.assert_allclose(x, [2, 0.5, 2], atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradients_reach_relaxation_and_geometry():
    angles = np.linspace(0, np.pi, 6, endpoint=False) + 0.1
    rng = np.random.default_rng(2)
    y = rng.uniform(1, 2, size=(6, 9))

    def loss(offset, relaxation):
        a = Radon(ParallelBeam((5, 5), angles, 9, 1.0, 1.0, offset), method="joseph")
        result = run(SART(relaxation, subsets=3), Problem(LeastSquares(a, y)), jnp.zeros((5, 5)), 2, objective_every=0, prepare=False)
        return jnp.sum(result.x**2)

    at, h = (jnp.asarray(0.13), jnp.asarray(0.8)), 1e-5
    for i, slope in enumerate(jax.grad(loss, (0, 1))(*at)):
        up, down = (loss(*(v + s * (k == i) for k, v in enumerate(at))) for s in (h, -h))
        np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-5)


def test_complex_cgls():
    rng = np.random.default_rng(3)
    a = (rng.normal(size=(9, 4)) + 1j * rng.normal(size=(9, 4))).astype(np.complex64)
    y = (rng.normal(size=9) + 1j * rng.normal(size=9)).astype(np.complex64)
    result = run(CGLS(), Problem(LeastSquares(Matrix(a), y)), jnp.zeros(4, jnp.complex64), 8)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(a, y)[0], atol=1e-5)


BAD = {
    "relaxation": lambda: SIRT(2.0),
    "relaxation: expected values > 0": lambda: SART(0.0),
    "decay": lambda: SQS(decay=-1.0),
    "subsets": lambda: SART(subsets=0),
    "order": lambda: SART(order="gold"),
}


@pytest.mark.parametrize("match", BAD)
def test_bad_hyper_parameters(match):
    with pytest.raises(ValueError, match=match):
        BAD[match]()


def test_what_a_solver_would_ignore_is_refused():
    a, y = Matrix(np.ones((4, 3), np.float32)), np.ones(4, np.float32)
    data, zero = LeastSquares(a, y), jnp.zeros(3)
    for solver, problem, match in (
        (SIRT(), Problem(data + SquaredL2()), "LeastSquares.A, y. alone, for SIRT"),
        (SIRT(), Problem(data, L1(0.1)), "Box or NonNegative, for SIRT"),
        (CGLS(), Problem(data, Box(0.0, 1.0)), "nothing, for CGLS"),
        (SQS(), Problem(SquaredL2()), "one LeastSquares"),
        (SART(subsets=3), Problem(data), "divisor of the number of views, 4.*Take 2 or 4 subsets"),
    ):
        with pytest.raises(ValueError, match=match):
            run(solver, problem, zero, 2)
    # prepared, a Gaussian likelihood is least squares
    np.testing.assert_allclose(
        run(CGLS(), Problem(GaussianLikelihood(a, y, 0.5)), zero, 3).x, run(CGLS(), Problem(data), zero, 3).x, rtol=1e-6
    )


@pytest.mark.slow
def test_implicit_gradient_through_the_geometry_agrees_with_finite_differences():
    with jax.enable_x64(True):
        truth = jax.random.normal(jax.random.key(0), (8, 8)) + 2
        weights = jax.random.normal(jax.random.key(2), (8, 8))

        def operator(offset):
            angles = np.linspace(0, np.pi, 24, endpoint=False) + 0.1  # Joseph's derivatives are those of its values
            return Radon(ParallelBeam((8, 8), angles, 24, detector_spacing=0.5, detector_offset=offset), method="joseph")

        y = operator(0.0)(truth) + 0.01 * jax.random.normal(jax.random.key(1), (24, 24))

        def value(offset, gradient):
            problem = Problem(smooth=LeastSquares(operator(offset), y))
            x = run(SIRT(1.9), problem, jnp.zeros((8, 8)), steps=8000, tolerance=0.0, gradient=gradient, prepare=False).x
            return jnp.vdot(weights, x)

        plain = jax.jit(lambda o: value(o, Unroll()))
        slope = jax.grad(lambda o: value(o, Implicit(tolerance=1e-10, max_steps=400)))(jnp.asarray(0.1))
        difference = (plain(jnp.asarray(0.1 + 1e-5)) - plain(jnp.asarray(0.1 - 1e-5))) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-6)
