import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core.pair import Pair, paired

MATRIX = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def forward(w, x):
    return (w**2)[:, None] * (MATRIX @ x)[:, None] * jnp.ones(2)


def transpose(w, y):
    return MATRIX.T @ ((w**2)[:, None] * y).sum(1)


def forward_tangent(w, dw, x):
    return jax.jvp(lambda v: forward(v, x), (w,), (dw,))[1]


def transpose_tangent(w, dw, y):
    return jax.jvp(lambda v: transpose(v, y), (w,), (dw,))[1]


def sevens(w, y):
    return jnp.full(3, 7.0)


PAIR = Pair(forward, transpose, forward_tangent, transpose_tangent)


def f(w, x):
    return paired(PAIR, w, x)


W, X, Y = np.arange(1, 6, dtype=np.float32), np.ones(3, np.float32), np.ones((5, 2), np.float32)


def test_every_transformation_agrees_with_the_plain_function():
    g = lambda x: forward(W, x)  # noqa: E731
    h = lambda x: f(W, x)  # noqa: E731
    np.testing.assert_allclose(jax.jit(f)(W, X), g(X), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(h, (X,), (X,))[1], g(X), rtol=1e-6)
    loss = lambda q: lambda x: jnp.sum(q(x) ** 3)  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss(h))(X), jax.grad(loss(g))(X), rtol=1e-5)
    np.testing.assert_allclose(jax.hessian(loss(h))(X), jax.hessian(loss(g))(X), rtol=1e-5)
    np.testing.assert_allclose(jax.linear_transpose(h, X)(Y)[0], jax.linear_transpose(g, X)(Y)[0], rtol=1e-6)
    twice = jax.linear_transpose(lambda y: jax.linear_transpose(h, X)(y)[0], Y)(X)[0]
    np.testing.assert_allclose(twice, g(X), rtol=1e-6)


def test_vmap_over_argument_and_parameters():
    xs, ws = np.stack([X, 2 * X]), np.stack([W, 3 * W])
    np.testing.assert_allclose(jax.vmap(f, (None, 0))(W, xs)[1], forward(W, xs[1]), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(f, (0, None))(ws, X)[1], forward(ws[1], X), rtol=1e-6)
    grads = jax.vmap(jax.grad(lambda x, w: jnp.sum(f(w, x) ** 2)), (None, 0))(X, ws)
    np.testing.assert_allclose(grads[1], jax.grad(lambda x: jnp.sum(forward(ws[1], x) ** 2))(X), rtol=1e-5)
    nested = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(ws, xs)
    np.testing.assert_allclose(nested[1, 1], forward(ws[1], xs[1]), rtol=1e-6)


@pytest.mark.slow
def test_derivatives_in_the_parameters_mix_with_those_in_x_to_second_order():
    def loss(q):
        return lambda v: jnp.sum(jnp.sin(q(v[:5], q(v[:5], v[5:])[:3, 0])))

    v = jnp.concatenate([0.1 * W, 0.1 * X])
    for derivative in (jax.grad, lambda g: jax.jacfwd(jax.grad(g)), lambda g: jax.grad(lambda u: jax.grad(g)(u)[1]), jax.hessian):
        np.testing.assert_allclose(derivative(loss(f))(v), derivative(loss(forward))(v), rtol=1e-4, atol=1e-5)


def test_the_given_transpose_is_the_one_that_runs():
    pair = Pair(forward, sevens, forward_tangent, transpose_tangent)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(paired(pair, W, x)))(X), 7.0)


def test_scan_checkpoint_and_lowering():
    def step(x, _):
        y = f(W, x)
        return x - 1e-3 * jax.linear_transpose(lambda v: f(W, v), x)(y)[0], None

    loss = lambda x: jnp.sum(jax.lax.scan(jax.checkpoint(step), x, None, length=3)[0] ** 2)  # noqa: E731
    assert np.isfinite(jax.grad(loss)(X)).all()
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        jax.export.export(jax.jit(f), platforms=[platform])(W, X)


def curved(w, x):
    """Nonlinear in its parameters (one of them an integer), linear in x."""
    weights, power = w
    return jnp.sin(weights) ** power * (MATRIX @ x)


def curved_transpose(w, y):
    return MATRIX.T @ (jnp.sin(w[0]) ** w[1] * y)


def curved_tangent(w, dw, x):
    return jax.jvp(lambda v: curved((v, w[1]), x), (w[0],), (dw[0],))[1]


def curved_transpose_tangent(w, dw, y):
    return jax.jvp(lambda v: curved_transpose((v, w[1]), y), (w[0],), (dw[0],))[1]


def curved_gradient(w, x, y):
    return (jax.grad(lambda v: jnp.vdot(y, curved((v, w[1]), x)))(w[0]), w[1])


TRILINEAR = Pair(curved, curved_transpose, curved_tangent, curved_transpose_tangent, curved_gradient)
POWER = np.int32(2)


FIRST = {
    "reverse": lambda f, w, ws, xs, y: jax.grad(lambda w: jnp.sum(f(w, X) ** 3))(w),
    "of the transpose": lambda f, w, ws, xs, y: jax.grad(lambda w: jnp.sum(_transposed(f)(w, y) ** 3))(w),
    "summed over a batch": lambda f, w, ws, xs, y: jax.grad(lambda w: jnp.sum(jax.vmap(f, (None, 0))(w, xs) ** 3))(w),
    "vmap of reverse": lambda f, w, ws, xs, y: jax.vmap(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 3)), (0, None))(ws, X),
}
SECOND = {
    "hessian": lambda f, w, ws, xs, y: jax.hessian(lambda w: jnp.sum(f(w, X) ** 3))(w),
    "reverse over reverse": lambda f, w, ws, xs, y: jax.jacrev(jax.grad(lambda w: jnp.sum(f(w, X) ** 3)))(w),
    "reverse over reverse of a batch": lambda f, w, ws, xs, y: jax.jacrev(jax.grad(lambda w: jnp.sum(jax.vmap(f, (None, 0))(w, xs) ** 3)))(
        w
    ),
    "reverse over reverse of batches": lambda f, w, ws, xs, y: jax.jacrev(jax.grad(lambda w: jnp.sum(jax.vmap(f)(w, xs) ** 3)))(ws),
    "third order": lambda f, w, ws, xs, y: jax.grad(lambda w: jax.hessian(lambda w: jnp.sum(f(w, X) ** 3))(w)[0, 0])(w),
    "third order, mixed": lambda f, w, ws, xs, y: jax.grad(
        lambda x: jnp.vdot(y, jax.jvp(jax.grad(lambda w: jnp.sum(f(w, x) ** 3)), (w,), (y,))[1])
    )(X),
    "forward": lambda f, w, ws, xs, y: jax.jvp(lambda w: f(w, X), (w,), (y,))[1],
    "hessian of the transpose": lambda f, w, ws, xs, y: jax.hessian(lambda w: jnp.sum(_transposed(f)(w, y) ** 3))(w),
    "mixed, reverse": lambda f, w, ws, xs, y: jax.jacrev(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 3)), 1)(w, X),
    "mixed, forward": lambda f, w, ws, xs, y: jax.jacfwd(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 3), 1))(w, X),
    "batched both": lambda f, w, ws, xs, y: jax.grad(lambda w: jnp.sum(jax.vmap(f)(w, xs) ** 3))(ws),
    "hessian of a batch": lambda f, w, ws, xs, y: jax.jit(jax.hessian(lambda w: jnp.sum(jax.vmap(f, (0, None))(w, X) ** 2)))(ws),
    "vmap of hessian": lambda f, w, ws, xs, y: jax.vmap(jax.hessian(lambda w: jnp.sum(f(w, X) ** 3)))(ws),
}


def _transposed(f):
    return lambda w, y: jax.linear_transpose(lambda x: f(w, x), jnp.asarray(X))(y)[0]


@pytest.mark.parametrize("name", [*FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in SECOND)])
def test_gradient_in_the_parameters_in_every_mode_and_order(name):
    own = lambda w, x: paired(TRILINEAR, (w, POWER), x)  # noqa: E731
    plain = lambda w, x: curved((w, POWER), x)  # noqa: E731
    given = (W, np.stack([W, W / 3]), np.stack([X, 2 * X]), jnp.cos(W))
    quantity = jax.jit({**FIRST, **SECOND}[name], static_argnums=0)
    np.testing.assert_allclose(quantity(own, *given), quantity(plain, *given), rtol=2e-4, atol=1e-4)
