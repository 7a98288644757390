"""One bundle over all energies: gradient against finite differences, the prox as a minimum, firm non-expansiveness, Moreau, one trace."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import energy as en
from diffimg.core.pytree import pytree, static
from diffimg.forward.basic import Diagonal, Identity, Matrix
from diffimg.forward.operator import Operator

SHAPE = (4, 5)
rng = np.random.default_rng(0)
MATRIX = rng.normal(size=(7, 20))
DATA = rng.normal(size=7)
SPD = np.cov(rng.normal(size=(7, 30))) + 0.1 * np.eye(7)
COUNTS = rng.poisson(3.0, SHAPE).astype(float)
ORTHOGONAL = np.linalg.qr(rng.normal(size=(20, 20)))[0]


@pytree
class Flat(Operator):
    """matrix @ x.ravel()."""

    entries: jax.Array
    orthonormal: bool = static(default=False)  # type: ignore[assignment]
    domain = property(lambda self: jax.ShapeDtypeStruct(SHAPE, self.entries.dtype))

    def __call__(self, x):
        return jnp.matmul(self.entries, x.reshape(-1), precision="highest")


def smooth():
    a, eye = Flat(jnp.asarray(MATRIX)), Identity(SHAPE, "float64")
    return {
        "least squares": en.LeastSquares(a, DATA, tolerance=1e-12),
        "prepared": en.LeastSquares(eye, COUNTS).prepare(),
        "weighted": en.LeastSquares(a, DATA, np.arange(7.0), tolerance=1e-12),
        "diagonal": en.LeastSquares(Diagonal(jnp.asarray(COUNTS)), COUNTS[::-1].copy(), 0.5),
        "gaussian": en.GaussianLikelihood(a, DATA, SPD, tolerance=1e-12),
        "gaussian, prepared": en.GaussianLikelihood(a, DATA, SPD, tolerance=1e-12).prepare(),
        "gaussian, variances": en.GaussianLikelihood(a, DATA, np.arange(1.0, 8.0), tolerance=1e-12),
        "gaussian, variance": en.GaussianLikelihood(a, DATA, 0.3, tolerance=1e-12).prepare(),
        "poisson": en.PoissonLikelihood(eye, COUNTS, 9.0),
        "squared L2": en.SquaredL2(0.7, COUNTS),
        "tikhonov": en.Tikhonov(0.7, a, DATA, tolerance=1e-12),
        "H1": en.H1(0.7, spacing=(0.5, 2.0)),
        "huber TV": en.HuberTV(0.7, 0.4, spacing=(0.5, 2.0)),
        "smooth TV": en.SmoothTV(COUNTS, 0.4, isotropic=False),
        "sum": en.SquaredL2(0.7) + 2.0 * en.H1(0.3),
        "composed": en.SquaredL2(0.7, DATA) @ a,
    }


def proximable():
    quadratic = {k: e for k, e in smooth().items() if e.has_prox}
    return quadratic | {
        "scaled": 0.5 * en.L1(0.4),
        "L1": en.L1(COUNTS / 5),
        "wavelet L1": en.WaveletL1(0.4, Flat(jnp.asarray(ORTHOGONAL), orthonormal=True)),
        "group L1": en.GroupL1(0.9, axis=1),
        "box": en.Box(-0.5, 0.5),
        "half box": en.Box(upper=COUNTS / 3),
        "non-negative": en.NonNegative(),
        "TV": en.TotalVariation(0.4, gap=1e-12, max_steps=2000),
        "TV, anisotropic": en.TotalVariation(0.4, isotropic=False, spacing=(0.5, 2.0), gap=1e-12, max_steps=2000),
        "TV, box, map": en.TotalVariation(COUNTS / 8, lower=-0.5, upper=0.8, gap=1e-12, max_steps=2000),
        "TV, stack": en.TotalVariation(0.4, spacing=(1.0,), gap=1e-12, max_steps=2000),
    }


with jax.enable_x64(True):
    SMOOTH, PROXIMABLE = smooth(), proximable()


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_matches_finite_differences(name):
    e = SMOOTH[name]
    with jax.enable_x64(True):
        x, d = (jnp.asarray(v) for v in np.random.default_rng(1).normal(size=(2, *SHAPE)))
        h = 1e-5
        both = jax.jit(lambda e, x: (e.value_and_grad(x), jax.value_and_grad(e)(x)))
        (value, gradient), (expected, automatic) = both(e, x)
        finite = (both(e, x + h * d)[0][0] - both(e, x - h * d)[0][0]) / (2 * h)
        np.testing.assert_allclose(np.vdot(gradient, d), finite, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(gradient, automatic, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert gradient.shape == x.shape
        assert value.shape == ()


@pytest.mark.parametrize("name", SMOOTH)
def test_lipschitz_constant_bounds_the_gradient(name):
    e = SMOOTH[name]
    with jax.enable_x64(True):
        x, d = (jnp.asarray(v) for v in np.random.default_rng(2).normal(size=(2, *SHAPE)))
        change, hessian, bound = jax.jit(lambda e, x: (e.grad(x + d) - e.grad(x), jax.jacfwd(e.grad)(x), e.lipschitz()))(e, x)
        assert np.linalg.norm(change) <= bound * np.linalg.norm(d) * (1 + 1e-9)
        assert np.linalg.eigvalsh(hessian.reshape(20, 20))[-1] <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", PROXIMABLE)
def test_prox_is_the_minimum_and_firmly_non_expansive(name):
    e, step = PROXIMABLE[name], 0.8
    generator = np.random.default_rng(3)
    with jax.enable_x64(True):
        v, w = (jnp.asarray(2 * u) for u in generator.normal(size=(2, *SHAPE)))
        prox = jax.jit(lambda e, v: e.prox(v, step))
        p, q = prox(e, v), prox(e, w)
        assert p.shape == v.shape
        assert p.dtype == v.dtype
        objective = jax.jit(jax.vmap(lambda x: e(x) + jnp.sum((x - v) ** 2) / (2 * step)))
        scale = 10.0 ** generator.uniform(-4, 0, size=(200, 1, 1))
        others = jnp.asarray(np.asarray(p) + scale * generator.normal(size=(200, *SHAPE)))
        best = objective(p[None])[0]
        assert bool(jnp.isfinite(best))
        # strong convexity: f(x) ≥ f(p) + ‖x − p‖²/(2 step)
        excess = objective(others) - best - jnp.sum((others - p) ** 2, (1, 2)) / (2 * step)
        assert float(excess.min()) >= -1e-8 * max(1.0, float(best)), float(excess.min())
        moved = p - q
        assert float(jnp.sum(moved * (v - w)) - jnp.sum(moved**2)) >= -1e-7


@pytest.mark.parametrize("name", ["L1", "squared L2", "box", "group L1", "poisson"])
def test_conjugate_prox_is_moreau(name):
    e, step = PROXIMABLE[name], 0.6
    with jax.enable_x64(True):
        v = jnp.asarray(np.random.default_rng(4).normal(size=SHAPE))
        np.testing.assert_allclose(e.conjugate_prox(v, step) + step * e.prox(v / step, 1 / step), v, atol=1e-12)


def test_float32_stays_float32():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(5).normal(size=SHAPE), jnp.float32)
        terms = {
            "L1": en.L1(np.float64(0.1)),
            "SquaredL2": en.SquaredL2(np.ones(SHAPE), np.ones(SHAPE)),
            "H1": en.H1(np.float64(0.1), spacing=np.ones(2)),
            "GroupL1": en.GroupL1(np.ones((1, 5))),
            "TV": en.TotalVariation(np.ones(SHAPE), lower=np.float64(0), spacing=np.ones(2), max_steps=5),
            "least squares": en.LeastSquares(Identity(SHAPE), jnp.ones(SHAPE), np.ones(SHAPE)),
            "Poisson": en.PoissonLikelihood(Identity(SHAPE), COUNTS.astype(np.float32), np.float64(1)),
        }
        step = jnp.asarray(0.5, jnp.float64)
        for name, e in terms.items():
            results = jax.eval_shape(lambda x, e=e: (e.prox(x, step), e(x), e.grad(x) if e.smooth else x), x)
            assert {r.dtype for r in results} == {jnp.dtype("float32")}, name


def test_changed_leaves_take_one_trace():
    @jax.jit
    @chex.assert_max_traces(1)
    def prox(e, v, step):
        return e.prox(v, step), e(v)

    v = jnp.ones(SHAPE)
    for weight, gap, spacing in ((0.1, 1e-3, 1.0), (0.7, 1e-5, 2.0), (0.0, 0.0, 0.5)):
        prox(en.TotalVariation(weight, gap=gap, spacing=(spacing, 1.0), max_steps=5), v, weight + 0.1)


@pytest.mark.parametrize("e", [en.TotalVariation(0.3, gap=1e-5, max_steps=50), en.L1(0.2), en.H1(0.5), en.GroupL1(0.4)], ids=repr)
def test_vmap_equals_loop(e):
    v = jnp.asarray(np.random.default_rng(6).normal(size=(3, *SHAPE)), jnp.float32)
    together, one = jax.jit(jax.vmap(lambda u: e.prox(u, 0.9))), jax.jit(lambda u: e.prox(u, 0.9))
    np.testing.assert_allclose(together(v), np.stack([one(u) for u in v]), atol=1e-6)


def test_lowers_for_every_platform():
    e = en.TotalVariation(0.3, lower=0.0, max_steps=10)
    v = jnp.ones(SHAPE)
    loss = jax.jit(jax.value_and_grad(lambda e, v: jnp.sum(e.prox(v, 0.5) ** 2) + en.H1(0.1).prox(v, 1.0).sum(), allow_int=True))
    exported = jax.export.export(loss, platforms=["cpu", "cuda", "rocm", "tpu"])(e, v)
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: en.L1(-0.1), "weight: expected values ≥ 0"),
        (lambda: en.TotalVariation(np.array([0.1, -1.0])), "weight: expected values ≥ 0"),
        (lambda: en.H1(np.nan), "weight: expected finite values"),
        (lambda: en.H1(np.ones(3)), "weight: expected a scalar"),
        (lambda: en.H1(1.0, spacing=(1.0, 0.0)), "spacing: expected values > 0"),
        (lambda: en.HuberTV(1.0, 0.0), "delta: expected values > 0"),
        (lambda: en.Box(1.0, 0.0), "lower ≤ upper"),
        (lambda: en.Box(0.0)(jnp.ones(3, complex)), "x: expected a real dtype"),
        (lambda: en.TotalVariation(1.0, max_steps=0), "max_steps"),
        (lambda: en.TotalVariation(1.0)(jnp.ones((1, 1, 2, 2))), "at most 3 axes"),
        (lambda: en.L1(1.0).grad(jnp.ones(3)), "a smooth energy"),
        (lambda: en.L1(1.0, Matrix(np.ones((2, 3)))).prox(jnp.ones(3), 1.0), "composed"),
        (lambda: en.WaveletL1(1.0, Matrix(np.eye(3))), "an orthonormal transform"),
    ],
)
def test_bad_input_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
