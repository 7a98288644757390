"""The lecture's examples on inverse problems that join several layers; those of one layer are tested beside it."""

import jax.numpy as jnp
import numpy as np
from skimage.data import camera

from diffimg import data, energy, forward, solve
from diffimg.core import linalg


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


def test_example_1_computed_tomography_is_linear():
    geometry = forward.ParallelBeam((24, 24), np.linspace(0, np.pi, 20, endpoint=False), 35)
    phantom, other = data.shepp_logan_image(24), data.shepp_logan_image(24).T
    for method in ("fourier", "joseph"):
        radon = forward.Radon(geometry, method=method)
        assert relative(radon(2 * phantom - 3 * other), 2 * radon(phantom) - 3 * radon(other)) < 1e-5


def test_example_2_deconvolution_by_the_inverse_filter_fails_and_wiener_does_not():
    sharp = camera()[::4, ::4].astype(np.float32) / 255
    psf = forward.gaussian_psf(2.0, (13, 13))
    blur = forward.Blur(psf, sharp.shape, "periodic")
    noise = 0.01 * np.random.default_rng(0).normal(size=sharp.shape).astype(np.float32)
    measured = np.asarray(blur(sharp)) + noise
    transfer = np.asarray(forward.transfer_function(psf, sharp.shape))
    inverse = np.fft.ifft2(np.fft.fft2(measured) / transfer).real
    wiener = forward.wiener(measured, psf, 3e-3)
    assert relative(inverse, sharp) > 1  # zeros of the transfer function amplify the noise without bound
    assert relative(wiener, sharp) < relative(measured, sharp)


def test_example_9_two_by_two_ct_by_every_route():
    a = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], np.float32)
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    operator = forward.Matrix(a)
    y = operator(x)
    problem = solve.Problem(smooth=energy.LeastSquares(operator, y))
    routes = {
        "numpy": np.linalg.lstsq(a, np.asarray(y), rcond=None)[0],
        "generalized inverse": linalg.generalized_inverse(a).matrix @ y,
        "least squares": linalg.least_squares(operator, y).x,
        "conjugate gradient": solve.run(solve.ConjugateGradient(), problem, jnp.zeros(4), steps=6).x,
        "gradient descent": solve.run(solve.GradientDescent(), problem, jnp.zeros(4), steps=400).x,
    }
    for name, found in routes.items():
        np.testing.assert_allclose(found, x, atol=1e-4, err_msg=name)


def test_the_variational_formulation_is_the_maximum_a_posteriori_estimate(x64):
    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(9, 6)), rng.normal(size=9)
    root = rng.normal(size=(9, 9))
    covariance, eta = root @ root.T + np.eye(9), 0.7
    gradient = forward.Gradient((6,), dtype="float64")
    likelihood = energy.GaussianLikelihood(forward.Matrix(a), y, covariance)
    prior = energy.Tikhonov(1 / eta, gradient)
    found = solve.run(solve.ConjugateGradient(), solve.Problem(smooth=likelihood + prior), jnp.zeros(6), steps=12).x
    d = np.diff(np.eye(6), axis=0)
    precision = np.linalg.inv(covariance)
    expected = np.linalg.solve(a.T @ precision @ a + d.T @ d / eta, a.T @ precision @ y)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
