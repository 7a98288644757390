"""L-BFGS, Adam and Levenberg–Marquardt on problems with known answers and against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffimg.core.pytree import pytree
from diffimg.energy import Energy, LeastSquares
from diffimg.forward import Matrix, Operator
from diffimg.solve import LBFGS, Adam, Implicit, LevenbergMarquardt, Problem, Status, run

RNG = np.random.default_rng(0)


@pytree
class Rosenbrock(Energy):
    """A curved valley; the minimum is at (1, …, 1)."""

    steepness: jax.Array = 100.0

    def __call__(self, x):
        return jnp.sum(self.steepness * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_lbfgs_in_a_curved_valley(x64):
    start = np.array([-1.2, 1.0, 0.5, -0.7, 1.5])
    result = run(LBFGS(), Problem(smooth=Rosenbrock()), start, steps=400, tolerance=1e-12)
    np.testing.assert_allclose(result.x, 1, atol=1e-7)
    valley = Rosenbrock()
    theirs = scipy.optimize.minimize(lambda v: float(valley(v)), start, jac=lambda v: np.asarray(valley.grad(v)), method="L-BFGS-B")
    assert int(result.iterations) < 3 * theirs.nfev
    history = np.asarray(result.objective)
    assert (np.diff(history[np.isfinite(history)]) <= 1e-12).all()


def test_adam_in_a_curved_valley(x64):
    result = run(Adam(0.05, decay=0.002), Problem(smooth=Rosenbrock()), np.array([-1.2, 1.0]), steps=3000)
    np.testing.assert_allclose(result.x, 1, atol=0.03)


@pytree
class Decay(Operator):
    linear = False
    domain = {name: jax.ShapeDtypeStruct((), "float64") for name in ("amplitude", "time", "offset")}

    def __call__(self, x):
        return x["amplitude"] * jnp.exp(-jnp.linspace(0, 2, 40) / x["time"]) + x["offset"]


def test_levenberg_marquardt_fits_a_decay(x64):
    truth = {"amplitude": jnp.array(3.0), "time": jnp.array(0.7), "offset": jnp.array(0.4)}
    y = Decay()(truth) + 0.01 * RNG.standard_normal(40)
    start = {"amplitude": jnp.array(1.0), "time": jnp.array(2.0), "offset": jnp.array(0.0)}
    operator = Decay()
    result = run(LevenbergMarquardt(), Problem(smooth=LeastSquares(operator, y)), start, steps=50, tolerance=1e-10)
    assert int(result.status) == Status.CONVERGED and int(result.iterations) < 20
    t = np.linspace(0, 2, 40)
    expected = scipy.optimize.curve_fit(lambda t, a, tau, c: a * np.exp(-t / tau) + c, t, np.asarray(y), (1.0, 2.0, 0.0))[0]
    np.testing.assert_allclose([result.x["amplitude"], result.x["time"], result.x["offset"]], expected, rtol=1e-6)

    def found(y):
        return run(LevenbergMarquardt(), Problem(smooth=LeastSquares(operator, y)), start, 50, 1e-12, Implicit(tolerance=1e-12)).x["time"]

    direction = RNG.standard_normal(40)
    step = 1e-5
    slope = (found(y + step * direction) - found(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(found)(y), direction), slope, rtol=1e-4)


def test_levenberg_marquardt_needs_squares():
    with pytest.raises(ValueError, match="expected LeastSquares, or an energy with gauss_newton"):
        run(LevenbergMarquardt(), Problem(smooth=Rosenbrock()), jnp.zeros(3))
    wide = LeastSquares(Matrix(np.ones((2, 5000), "float32")), np.ones(2, "float32"))
    with pytest.raises(ValueError, match="at most 4096"):
        run(LevenbergMarquardt(), Problem(smooth=wide), jnp.zeros(5000))


@pytest.mark.parametrize("call", [lambda: LBFGS(memory=0), lambda: LBFGS(first_move=0.0), lambda: Adam(0.0), lambda: Adam(0.1, first=1.0)])
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_complex_unknowns(x64):
    matrix = RNG.standard_normal((9, 5)) + 1j * RNG.standard_normal((9, 5))
    y = RNG.standard_normal(9) + 1j * RNG.standard_normal(9)
    result = run(LBFGS(), Problem(smooth=LeastSquares(Matrix(matrix), y)), jnp.zeros(5, complex), steps=200, tolerance=1e-13)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(matrix, y)[0], atol=1e-8)
