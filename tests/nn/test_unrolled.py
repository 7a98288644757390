"""Unrolled networks: with the weights that make them the plain algorithm they are that algorithm; and the properties of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffimg import energy, forward, nn, solve
from diffimg.testing import PLATFORMS

RNG = np.random.default_rng(31)
SHAPE = (8, 9)
MASK = (RNG.random(SHAPE) < 0.6).astype(np.float32)
BLUR = np.outer([0.2, 0.6, 0.2], [0.1, 0.8, 0.1]).astype(np.float32)
KINDS = {"pgm": nn.LearnedPGM, "variational": nn.VariationalNetwork, "modl": nn.MoDL, "primal-dual": nn.LearnedPrimalDual}


def operator(complex_values, dtype="float32"):
    if complex_values:
        return forward.MaskedFFT(jnp.asarray(MASK, dtype))
    return forward.Blur(jnp.asarray(BLUR, dtype), SHAPE, "periodic")


def split(name, iterations=2, complex_values=False, **options):
    small = {"filters": 4, "size": 3} if name == "variational" else {"width": 6}
    return nn.split(KINDS[name](iterations, complex_values=complex_values, rngs=nnx.Rngs(0), **small | options))


def double(params):
    return jax.tree.map(lambda v: jnp.asarray(v, "float64"), params)


def data(complex_values, batch=2, dtype="float32"):
    A = operator(complex_values, dtype)
    x = RNG.normal(size=(batch, *SHAPE)) + (1j * RNG.normal(size=(batch, *SHAPE)) if complex_values else 0)
    return A, A(jnp.asarray(x, jnp.result_type(dtype, "complex64") if complex_values else dtype))


@pytest.mark.parametrize(("name", "complex_values"), [
    ("pgm", True), ("primal-dual", True), *(pytest.param(*p, marks=pytest.mark.slow) for p in (("variational", True), ("modl", False)))
])  # fmt: skip
def test_properties(name, complex_values):
    # conjugate gradients stop for the batch as a whole
    options = {"tolerance": 1e-6, "cg_steps": 60} if name == "modl" else {}
    apply, params = split(name, 1 if name == "variational" else 2, complex_values=complex_values, **options)
    # away from the zeros of the last layers
    params = jax.tree.map(lambda v: v + 0.05 * jax.random.normal(jax.random.key(v.size), v.shape), params)
    A, y = data(complex_values)
    traces = []

    @jax.jit
    def value(params, y, A):
        traces.append(1)
        x = apply(params, y, A)
        return jnp.mean((x * jnp.conj(x)).real)

    slopes = jax.jit(jax.grad(value, (0, 2), allow_int=True))(params, y, A)
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(slopes))
    assert all(float(jnp.max(jnp.abs(v))) > 0 for v in jax.tree.leaves(slopes[1]))  # the physics can be learned
    x = apply(params, y, A)
    assert x.shape == (2, *SHAPE) and x.dtype == (jnp.complex64 if complex_values else jnp.float32)
    np.testing.assert_allclose(apply(params, y[1], A), x[1], atol=2e-4)
    traces.clear()
    value(params, y, A)
    value(params, y, jax.tree.map(lambda v: 0.9 * v, A))
    assert len(traces) <= 1  # other numbers, same program
    jax.export.export(jax.jit(jax.grad(lambda p: value(p, y, A))), platforms=PLATFORMS)(params)


@pytest.mark.slow
def test_precision_follows_the_data(x64):
    for name in KINDS:
        apply, params = split(name)
        A, y = data(False, dtype="float64")
        assert apply(double(params), y, A).dtype == jnp.float64


@pytest.mark.parametrize("complex_values", [pytest.param(False, marks=pytest.mark.slow), True])
def test_without_networks_they_are_gradient_descent(complex_values, x64):
    A, y = data(complex_values, 1, "float64")
    plain = solve.run(solve.GradientDescent(0.7), solve.Problem(smooth=energy.LeastSquares(A, y)), A.H(y), 5).x
    for name in ("pgm", "variational"):
        apply, params = split(name, 5, complex_values)
        params = double(params) | {"steps": jnp.full(5, 0.7)}
        np.testing.assert_allclose(apply(params, y, A), plain, atol=1e-12)


def test_huber_activations_descend_on_the_field_of_experts(x64):
    """Linear activations up to ± scale are those of the Huber potential, real and complex images with one filter for both parts."""
    A, y = data(False, 1, "float64")
    filters, weights, scale = RNG.normal(size=(4, 3, 3)), RNG.random(4), 0.4
    filters -= filters.mean((1, 2), keepdims=True)
    prior = energy.FieldsOfExperts(filters, weights, scale, "huber")
    plain = solve.run(solve.GradientDescent(0.3), solve.Problem(smooth=energy.LeastSquares(A, y) + prior), A.H(y), 4).x
    apply, params = split("variational", 4, knots=2, extent=scale)
    slopes = 0.3 * weights / scale  # φ(r) = step · weight/scale · clip(r/scale)
    params = {
        "filters": np.broadcast_to(filters, (4, 1, 4, 3, 3)),
        "activations": np.broadcast_to(np.stack([-slopes, slopes], 1), (4, 4, 2)),
        "steps": jnp.full(4, 0.3),
    }
    np.testing.assert_allclose(apply(params, y, A), plain, atol=1e-12)


@pytest.mark.parametrize("complex_values", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_modl_without_a_network_is_iterated_tikhonov(complex_values, x64):
    A, y = data(complex_values, 1, "float64")
    apply, params = split("modl", 3, complex_values, tolerance=1e-13, cg_steps=300)
    params = double(params) | {"log_weight": jnp.log(0.2)}
    n = SHAPE[0] * SHAPE[1]
    basis = np.eye(n, dtype=complex if complex_values else float).reshape(n, *SHAPE)  # A.matrix() is in the nominal precision
    matrix = np.asarray(A(basis)).reshape(n, -1).T
    normal = matrix.conj().T @ matrix + 0.2 * np.eye(n)
    x = back = matrix.conj().T @ np.asarray(y).reshape(-1)
    for _ in range(3):
        x = np.linalg.solve(normal, back + 0.2 * x)
    np.testing.assert_allclose(np.asarray(apply(params, y, A)).reshape(-1), x, atol=1e-10)
    # its gradient in λ is that of the closed form
    value = lambda log: jnp.sum(jnp.abs(apply(params | {"log_weight": log}, y, A)) ** 2)  # noqa: E731
    h = 1e-4
    numeric = (value(np.log(0.2) + h) - value(np.log(0.2) - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(jnp.log(0.2)), numeric, rtol=1e-6, atol=1e-9)  # masked FFT: λ changes nothing


def test_primal_dual_can_be_gradient_descent(x64):
    """h₁ ← A f₂ − y, f ← f − τ Aᴴ h₁, built out of ReLU(v) − ReLU(−v) = v."""
    A, y = data(False, 1, "float64")
    tau, iterations = 0.7, 3
    apply, params = split("primal-dual", iterations, memory=2, depth=2, width=6)
    params = jax.tree.map(jnp.zeros_like, double(params))

    def pairs(kernel, inputs):
        for k, channel in enumerate(inputs):
            kernel = kernel.at[1, 1, channel, 2 * k].set(1.0).at[1, 1, channel, 2 * k + 1].set(-1.0)
        return kernel

    for k in range(iterations):
        dual, primal = params["dual"][k]["layers"], params["primal"][k]["layers"]
        # of (h₁, h₂, A f₂, y) the first, third and fourth; of (f₁, f₂, Aᴴh₁) the last
        dual[0]["kernel"] = pairs(dual[0]["kernel"], (0, 2, 3))
        signs = jnp.asarray([-1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
        dual[1]["kernel"] = dual[1]["kernel"].at[1, 1, :, 0].set(signs)
        primal[0]["kernel"] = pairs(primal[0]["kernel"], (2,))
        both = jnp.asarray([-tau, tau, 0, 0, 0, 0])
        primal[1]["kernel"] = primal[1]["kernel"].at[1, 1, :, 0].set(both).at[1, 1, :, 1].set(both)
    plain = solve.run(solve.GradientDescent(tau), solve.Problem(smooth=energy.LeastSquares(A, y)), A.H(y), iterations).x
    np.testing.assert_allclose(apply(params, y, A), plain, atol=1e-12)


def test_mistakes_are_explained():
    apply, params = split("pgm")
    A, y = data(True)
    with pytest.raises(ValueError, match="complex_values=True"):
        apply(params, y, A)
    with pytest.raises(ValueError, match="an Operator"):
        apply(params, y, lambda x: x)
    network, numbers = split("primal-dual", complex_data=True)
    with pytest.raises(ValueError, match="complex_data=False"):
        network(numbers, jnp.ones(SHAPE), forward.Identity(SHAPE))
    for options in ({"iterations": 0}, {"depth": 1}, {"width": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            nn.LearnedPGM(**{"iterations": 2} | options, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="memory"):
        nn.LearnedPrimalDual(2, memory=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="size"):
        nn.VariationalNetwork(2, size=1, rngs=nnx.Rngs(0))
