"""MLEM against scikit-image's Richardson–Lucy and SciPy's optimizer; OSEM; zeros wherever they may occur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from skimage.restoration import richardson_lucy

from diffimg.energy import Box, PoissonLikelihood, SquaredL2
from diffimg.forward import Blur, Matrix, gaussian_psf
from diffimg.solve import MLEM, OSEM, Problem, run

RNG = np.random.default_rng(0)
A = RNG.uniform(size=(20, 6)) * (RNG.uniform(size=(20, 6)) < 0.6)
COUNTS = RNG.poisson(A @ np.array([0.0, 3, 8, 0.2, 20, 5]) + 0.5).astype(float)


@pytest.mark.usefixtures("x64")
def test_mlem_is_richardson_lucy():
    image = np.zeros((24, 20))
    image[9:13, 8:11], image[14, 9] = 3.0, 9.0
    psf = np.asarray(gaussian_psf(1.0, shape=(5, 5))) * np.linspace(0.5, 1.5, 5)
    psf /= psf.sum()
    blur = Blur(psf, (24, 20), boundary="zero")
    y = np.maximum(np.asarray(blur(image)), 0)
    y[y < 1e-12] = 0
    result = run(MLEM(), Problem(PoissonLikelihood(blur, y)), jnp.full((24, 20), 0.5), 12)
    np.testing.assert_allclose(result.x, richardson_lucy(y, psf, 12, clip=False), atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("penalty", [None, SquaredL2(0.05)], ids=["likelihood", "posterior"])
def test_limit_is_scipys_and_the_likelihood_rises(penalty):
    data = PoissonLikelihood(Matrix(A), COUNTS, 0.5)
    weight = 0.0 if penalty is None else 0.05

    def objective(x):
        z = A @ x + 0.5
        return np.sum(z - COUNTS * np.log(z)) + weight / 2 * x @ x, A.T @ (1 - COUNTS / z) + weight * x

    peer = scipy.optimize.minimize(objective, np.ones(6), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 6, tol=1e-15).x
    assert penalty is not None or np.any(peer == 0)
    problem = Problem(data if penalty is None else data + penalty)
    result = run(MLEM(), problem, jnp.ones(6), 5000, objective_every=0)
    np.testing.assert_allclose(result.x, peer, atol=2e-4)
    x, last = jnp.ones(6), np.inf
    for _ in range(15):
        x = run(MLEM(), problem, x, 1).x
        value = objective(np.asarray(x))[0]
        assert value < last
        last = value


def test_counts_are_preserved_and_zero_is_a_start():
    a = Matrix(A.astype(np.float32))
    y = COUNTS.astype(np.float32)
    result = run(MLEM(), Problem(PoissonLikelihood(a, y)), jnp.zeros(6), 5)
    assert float(jnp.sum(a(result.x))) == pytest.approx(COUNTS[A.sum(1) > 0].sum(), rel=1e-5)
    batch = run(OSEM(4), Problem(PoissonLikelihood(a, np.stack([y, 3 * y]))), jnp.zeros((2, 6)), 3).x
    np.testing.assert_allclose(batch[1], 3 * batch[0], rtol=1e-4)


def test_osem_with_one_subset_is_mlem_and_more_are_faster():
    a = RNG.uniform(size=(48, 30)) ** 4
    y = RNG.poisson(20 * a @ RNG.uniform(size=30) + 2).astype(np.float32)
    problem = Problem(PoissonLikelihood(20 * Matrix(a.astype(np.float32)), y, np.full(48, 2.0)))
    x0 = jnp.ones(30)
    slow = run(MLEM(), problem, x0, 8)
    np.testing.assert_allclose(run(OSEM(1), problem, x0, 8).x, slow.x, rtol=1e-4, atol=1e-5)
    fast = run(OSEM(4), problem, x0, 2)
    assert abs(float(fast.objective[2] - slow.objective[8])) < 0.1 * float(slow.objective[0] - slow.objective[8])


def test_zeros_do_no_harm():
    a = Matrix(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], np.float32))  # an empty ray, an unseen pixel
    y = np.array([4, 1, 7, 0], np.float32)
    for solver in (MLEM(), OSEM(2)):
        problem = Problem(PoissonLikelihood(a, y))
        result = run(solver, problem, jnp.ones(4), 60).check()
        np.testing.assert_allclose(result.x, [3, 1, 0, 1], atol=1e-3)
    slope = jax.grad(lambda v: jnp.sum(run(OSEM(2), Problem(PoissonLikelihood(a, v)), jnp.ones(4), 4, objective_every=0).x))(jnp.asarray(y))
    assert np.isfinite(slope).all()


def test_what_a_solver_would_ignore_is_refused():
    data = PoissonLikelihood(Matrix(A.astype(np.float32)), COUNTS.astype(np.float32))
    with pytest.raises(ValueError, match="NonNegative, for MLEM"):
        run(MLEM(), Problem(data, Box(0.0, 1.0)), jnp.ones(6), 1)
    with pytest.raises(ValueError, match="one PoissonLikelihood"):
        run(OSEM(), Problem(SquaredL2()), jnp.ones(6), 1)
    with pytest.raises(ValueError, match="divisor of the number of views, 20"):
        run(OSEM(3), Problem(data), jnp.ones(6), 1)
