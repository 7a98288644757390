"""Gradients of a reconstruction with respect to the physics: angles and offset of a scan, the PSF of a blur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.energy import LeastSquares, NonNegative, SquaredL2
from diffimg.forward import Blur, ParallelBeam, Radon, gaussian_psf
from diffimg.solve import FISTA, ConjugateGradient, Implicit, Problem, Unroll, run

RNG = np.random.default_rng(0)
N = 12
TRUTH = np.abs(RNG.normal(size=(N, N)))
ANGLES = np.sort(RNG.uniform(0, np.pi, 15))


def scan(angles, offset=0.0):
    return Radon(ParallelBeam((N, N), angles, 19, detector_offset=offset), width=8)


def distance(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.slow
def test_angles_under_implicit_are_those_of_unroll_eager_or_compiled_prepared_or_not(x64):
    y = scan(ANGLES + 0.02)(jnp.asarray(TRUTH))

    def loss(angles, rule, prepare=True):
        problem = Problem(LeastSquares(scan(angles), y) + SquaredL2(jnp.float64(20.0)), NonNegative())
        result = run(FISTA(step_size=2e-3), problem, jnp.zeros((N, N)), 300, 0.0, rule, prepare=prepare, objective_every=0)
        return jnp.sum((result.x - TRUTH) ** 2)

    angles = jnp.asarray(ANGLES)
    unrolled = jax.grad(lambda a: loss(a, Unroll()))(angles)
    for prepare in (True, False):
        eager = jax.grad(lambda a: loss(a, Implicit(tolerance=1e-10), prepare))(angles)  # noqa: B023
        assert distance(eager, unrolled) < 1e-6
    compiled = jax.jit(jax.grad(lambda a: loss(a, Implicit(tolerance=1e-10))))(angles)
    assert distance(compiled, unrolled) < 1e-6


def test_data_and_weight_under_implicit_with_a_prepared_operator(x64):
    """The tables of a prepared operator refuse derivatives; those of everything else pass by them."""
    y = scan(ANGLES)(jnp.asarray(TRUTH))
    operator = scan(ANGLES).prepare()

    def loss(y, weight, rule):
        problem = Problem(LeastSquares(operator, y) + weight * SquaredL2())
        return jnp.sum(run(ConjugateGradient(), problem, jnp.zeros((N, N)), 60, 0.0, rule, objective_every=0).x ** 2)

    implicit = jax.grad(loss, (0, 1))(y, 20.0, Implicit(tolerance=1e-11))
    h = 1e-4
    difference = (loss(y, 20.0 + h, None) - loss(y, 20.0 - h, None)) / (2 * h)
    assert abs(implicit[1] - difference) < 1e-5 * abs(difference)
    direction = RNG.normal(size=y.shape)
    difference = (loss(y + h * direction, 20.0, None) - loss(y - h * direction, 20.0, None)) / (2 * h)
    assert abs(jnp.sum(implicit[0] * direction) - difference) < 1e-6 * abs(difference)


def test_psf_under_unroll_and_implicit(x64):
    psf = jnp.asarray(gaussian_psf(0.8, (3, 3)), jnp.float64)
    y = Blur(psf, (N, N))(jnp.asarray(TRUTH))

    def loss(psf, rule):
        problem = Problem(LeastSquares(Blur(psf, (N, N)), y) + SquaredL2(jnp.float64(0.1)), NonNegative())
        return jnp.sum(jnp.sin(run(FISTA(step_size=0.6), problem, jnp.zeros((N, N)), 400, 0.0, rule, objective_every=0).x))

    direction = RNG.normal(size=(3, 3))
    difference = (loss(psf + 1e-5 * direction, None) - loss(psf - 1e-5 * direction, None)) / 2e-5
    for rule in (Unroll(), Implicit(tolerance=1e-11)):
        assert abs(jnp.sum(jax.grad(loss)(psf, rule) * direction) - difference) < 1e-6 * abs(difference)


def test_a_real_start_for_complex_operators_and_a_wrong_shape_are_refused():
    from diffimg.forward import Matrix

    operator = Matrix(np.array([[1 + 1j, 2], [0, 1j]], np.complex64))
    problem = Problem(LeastSquares(operator, operator(np.array([1j, 1], np.complex64))))
    with pytest.raises(ValueError, match=r"x0: expected complex values.*float32.*astype"):
        run(FISTA(), problem, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"x0: expected an image that the problem takes, got float32\[3\]"):
        run(FISTA(), problem, jnp.zeros(3))
