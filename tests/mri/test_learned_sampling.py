"""Trainable masks and trajectories against their expectations, SciPy's splines and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import make_lsq_spline

from diffimg import forward, mri

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(("shape", "acs", "shift"), [((40,), 4, -3.0), ((41,), 0, 2.0), ((12, 15), 3, 0.0)])
def test_probabilities_hold_the_acceleration(shape, acs, shift, x64):
    m = mri.LearnedMask(RNG.normal(size=shape) + shift, 4.0, acs)
    p = np.asarray(m.probabilities())
    assert p.min() >= 0 and p.max() <= 1
    np.testing.assert_allclose(p.sum(), round(np.prod(shape) / 4), rtol=1e-12)
    centre = tuple(slice(n // 2 - acs // 2, n // 2 - acs // 2 + acs) for n in shape)
    if acs:
        assert (p[centre] == 1).all()
    # the order of the probabilities is that of the logits
    free = p.ravel() < 1
    assert (np.argsort(p.ravel()[free]) == np.argsort(m.logits.ravel()[free])).all()


def test_draws_have_these_probabilities(x64):
    m = mri.LearnedMask(2 * RNG.normal(size=30), 3.0, 2)
    keys = jax.random.split(jax.random.key(0), 4000)
    p = np.asarray(m.probabilities())
    error = np.sqrt(p * (1 - p) / 4000) + 1e-9
    soft = np.asarray(jax.vmap(m)(keys))
    assert set(np.unique(soft)) == {0.0, 1.0}
    assert (np.abs(soft.mean(0) - p) < 5 * error).all()
    drawn = np.stack([m.draw(k) for k in keys[:600]])
    assert (drawn.sum(1) == 10).all()
    assert (np.abs(drawn.mean(0) - p) < 5 * error * np.sqrt(4000 / 600)).all()


@pytest.mark.slow
def test_gradient_points_where_the_expectation_falls(x64):
    """For Σ c·mask the expectation is Σ c·p: its gradient is known."""
    logits, c = RNG.normal(size=24), RNG.normal(size=24)
    m = mri.LearnedMask(logits, 2.5, 0, 40.0)
    exact = jax.grad(lambda v: jnp.vdot(c, mri.LearnedMask(v, 2.5).probabilities()))(logits)
    keys = jax.random.split(jax.random.key(1), 20000)
    mean = lambda v: jnp.mean(jax.vmap(lambda k: jnp.vdot(c, mri.LearnedMask(v, 2.5, 0, 40.0)(k)))(keys))  # noqa: E731
    estimate = jax.grad(mean)(m.logits)
    assert np.linalg.norm(estimate - exact) < 0.05 * np.linalg.norm(exact)


def test_a_learned_mask_beats_its_start():
    """Energy of k-space that is not measured: the best lines are known."""
    power = jnp.asarray(1.0 / (1 + (np.arange(32) - 20.0) ** 2))
    loss = lambda v, k: jnp.sum(power * (1 - mri.LearnedMask(v, 4.0)(k)))  # noqa: E731
    step = jax.jit(lambda v, k: v - 20.0 * jax.grad(lambda u: jnp.mean(jax.vmap(lambda q: loss(u, q))(jax.random.split(k, 16))))(v))
    v = jnp.zeros(32)
    for i in range(150):
        v = step(v, jax.random.key(i))
    p = np.asarray(mri.LearnedMask(v, 4.0).probabilities())
    assert set(np.argsort(p)[-5:]) == {18, 19, 20, 21, 22}
    assert p[18:23].min() > 0.8


def test_splines_are_scipys(x64):
    k = np.asarray(mri.trajectories.spiral(3, 60, 2.0), np.float64) * 0.8
    s = mri.SplineTrajectory.fit(k, 12)
    t = np.linspace(0, 1, 60)
    places = np.concatenate([[0.0] * 3, np.linspace(0, 1, 10), [1.0] * 3])
    for shot, own in zip(k, np.asarray(s()), strict=True):
        np.testing.assert_allclose(own, make_lsq_spline(t, shot, places, 3)(t), atol=1e-9)
    far = mri.SplineTrajectory(3 * jnp.asarray(s.knots), 60)()
    assert np.abs(far).max() < np.pi


def test_a_straight_line_has_its_gradient_and_no_slew(x64):
    line = np.linspace(-2.0, 2.0, 50)[None, :, None] * np.array([0.6, 0.8])
    s = mri.SplineTrajectory.fit(line, 6)
    g, slew = s.gradients(4e-6, 1e-3)
    np.testing.assert_allclose(g, 4.0 / 49 / (2.6752218744e8 * 4e-6 * 1e-3), rtol=1e-9)
    assert np.abs(slew).max() < 1e-6 * np.abs(g).max() / 4e-6
    assert float(s.violation(4e-6, 1e-3)) > 0
    assert float(s.violation(40e-6, 1e-3)) == 0


def test_image_error_has_a_gradient_in_the_knots(x64):
    image = RNG.normal(size=(12, 12)) + 1j * RNG.normal(size=(12, 12))
    s = mri.SplineTrajectory.fit(np.asarray(mri.trajectories.radial(4, 20), np.float64), 6)

    def loss(knots):
        A = forward.NUFFT((12, 12), mri.SplineTrajectory(knots, 20)(), tolerance=1e-8)
        return jnp.sum(jnp.abs(A.H(A(image)) / 80 - image) ** 2)

    direction = RNG.normal(size=s.knots.shape)
    h = 1e-5
    numeric = (loss(s.knots + h * direction) - loss(s.knots - h * direction)) / (2 * h)
    np.testing.assert_allclose(np.vdot(jax.grad(loss)(s.knots), direction), numeric, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: mri.LearnedMask(np.zeros(16), 0.5), "acceleration"),
        (lambda: mri.LearnedMask(np.zeros(16), 4.0, 6), "acs"),
        (lambda: mri.LearnedMask(np.full(16, np.nan), 4.0), "logits"),
        (lambda: mri.SplineTrajectory(np.zeros((2, 3, 2)), 20), "knots"),
        (lambda: mri.SplineTrajectory(np.zeros((2, 30, 2)), 20), "knots"),
        (lambda: mri.SplineTrajectory.fit(np.zeros((20, 2)), 5), "trajectory"),
        (lambda: mri.SplineTrajectory.fit(np.zeros((1, 20, 2)), 5).violation(0.0, 1e-3), "dwell"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_greedy_lines_are_the_best_of_every_choice():
    """Against a search by hand, on an error that couples the lines."""
    q = RNG.normal(size=(9, 9)).astype(np.float32)
    error = lambda mask: jnp.sum((q @ mask - 2) ** 2)  # noqa: E731
    mask, history = mri.greedy_lines(error, 9, 2.25, 1)
    chosen, expected = [4], []
    while len(chosen) < 4:
        left = [i for i in range(9) if i not in chosen]
        values = [np.sum((q[:, [*chosen, i]].sum(1) - 2) ** 2) for i in left]
        chosen.append(left[int(np.argmin(values))])
        expected.append(min(values))
    assert set(np.flatnonzero(mask)) == set(chosen)
    np.testing.assert_allclose(history, expected, rtol=1e-5)


def test_greedy_lines_refuse():
    for error, options, message in (
        (lambda m: m, (4.0,), "real scalar"),
        (lambda m: jnp.sum(m) * jnp.nan, (4.0,), "finite"),
        (jnp.sum, (4.0, 5), "smaller centre"),
        (jnp.sum, (0.5,), "acceleration"),
    ):
        with pytest.raises(ValueError, match=message):
            mri.greedy_lines(error, 12, *options)
