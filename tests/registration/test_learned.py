"""Implicit networks and learned registration: identities, known answers, and a training that finds unseen deformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import data, forward, learn, nn, registration
from diffimg.energy import SSD, Diffusion

GRID = data.Grid.centred((32, 32), 4.0)


def blobs(n, seed=0):
    """Smooth images with a few blobs each, largest value about 1."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(GRID.shape) - 15.5
    out = np.zeros((n, *GRID.shape), np.float32)
    for image in out:
        for _ in range(6):
            cy, cx = rng.uniform(-9, 9, 2)
            image += rng.uniform(0.3, 1) * np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(2, 4) ** 2))
    return out / 2


def network(head, seed=0):
    make = nn.Encoder if head == "spline" else nn.UNet
    return nn.split(make((8, 16, 16), 2, 2, gain=1e-2, rngs=nn.Rngs(seed)))


def learned(head):
    apply, params = network(head)
    return registration.LearnedRegistration(apply, GRID, head, spacing=16.0 if head == "spline" else None, squarings=4), params


def test_siren_is_the_network_of_its_coordinates(x64):
    domain = data.Grid((5, 7), (2.0, 3.0), (1.0, -4.0), ((0.6, -0.8), (0.8, 0.6)))
    transform = forward.Siren.identity(domain, (8, 6), key=jax.random.key(1))
    points = np.random.default_rng(0).normal(0, 5, (11, 2))
    assert np.allclose(transform(points), points)  # the last layer starts at zero
    rng = np.random.default_rng(1)
    weights = (*transform.weights[:-1], 0.1 * rng.standard_normal(transform.weights[-1].shape))
    transform = forward.Siren(weights, transform.biases, domain, 3.0, 7.0)
    local = (points - domain.centre) @ np.asarray(domain.direction) / (np.asarray(domain.extent) / 2)
    hidden = local
    for w, b in zip(weights[:-1], transform.biases[:-1], strict=True):
        hidden = np.sin(7.0 * (hidden @ np.asarray(w, float) + np.asarray(b, float)))
    assert np.allclose(transform(points), points + 3.0 * hidden @ weights[-1], atol=1e-12)
    step = 1e-6
    matrix = np.stack([(transform(points + step * e) - transform(points - step * e)) / (2 * step) for e in np.eye(2)], -1)
    ours = registration_jacobian(transform, points)
    assert np.allclose(ours, matrix, atol=1e-7)


def registration_jacobian(transform, points):
    return np.asarray(jax.vmap(jax.jacfwd(transform))(jnp.asarray(points)))


def test_siren_registers():
    image = blobs(1)[0]
    truth = registration.random_deformation(jax.random.key(3), GRID, 40.0, 8.0)
    fixed = np.asarray(forward.warp(image, truth, 3, grid=GRID))
    stage = registration.Implicit(levels=(2, 1), steps=60, widths=(24, 24))
    result = registration.register(fixed, image, stage, SSD(), fixed_grid=GRID, moving_grid=GRID)
    assert isinstance(result.transform, forward.Siren)
    assert result.after < 0.05 * result.before
    assert float(result.transform.jacobian_determinant(GRID).min()) > 0


@pytest.mark.parametrize("head", ["displacement", "velocity", "spline"])
def test_heads(head):
    model, params = learned(head)
    fixed, moving = blobs(2)
    transform = jax.jit(model.transform)(params, fixed, moving)
    kinds = {"displacement": forward.DisplacementField, "velocity": forward.VelocityField, "spline": forward.FreeForm}
    assert isinstance(transform, kinds[head])
    value, slope = jax.value_and_grad(model.loss(SSD(), 0.1 * Diffusion()))(params, (fixed[None], moving[None]))
    assert float(value) == pytest.approx(float(SSD()(fixed, forward.warp(moving, transform, grid=GRID))), rel=0.1)
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(slope))
    assert any(bool(jnp.any(v != 0)) for v in jax.tree.leaves(slope))


def test_the_spline_head_fits_what_is_a_spline():
    """Samples of a spline on its own lattice give that spline back."""
    truth = registration.random_deformation(jax.random.key(0), GRID, 16.0, 3.0)
    samples = truth.displacement(GRID) / np.float32(4.0)
    model = registration.LearnedRegistration(lambda params, x: params, GRID, "spline", spacing=16.0)
    found = model.transform(samples, *blobs(2))
    assert np.allclose(found.displacement(GRID), truth.displacement(GRID), atol=1e-3)


def test_training_and_refinement():
    """Trained on some images and deformations, tried on others; refined on the pair."""
    draw = registration.synthetic_pairs(blobs(40), GRID, 8, spacing=40.0, amplitude=8.0, noise=0.01)
    model, params = learned("velocity")
    penalty = 0.02 * Diffusion()
    result = learn.train(model.loss(SSD(), penalty), params, draw, 250, key=jax.random.key(0)).check()
    unseen = registration.synthetic_pairs(blobs(8, seed=9), GRID, 6, spacing=40.0, amplitude=8.0, noise=0.01)
    fixed, moving, truths = unseen(jax.random.key(5), 0)
    inside = np.asarray(fixed) > 0.2

    def apart(transform, k):
        moves = transform.displacement(GRID) - jax.tree.map(lambda v: v[k], truths).displacement(GRID)
        return float(np.asarray(jnp.linalg.norm(moves, axis=-1))[inside[k]].mean())

    still = forward.Translation(np.zeros(2, np.float32))
    answers = [model.transform(result.params, fixed[k], moving[k]) for k in range(6)]
    assert np.mean([apart(t, k) for k, t in enumerate(answers)]) < 0.6 * np.mean([apart(still, k) for k in range(6)])
    transform, status = model.refine(result.params, fixed[0], moving[0], SSD(), penalty, steps=30)
    assert status.ok or status.name == "MAX_STEPS"
    assert apart(transform, 0) < apart(answers[0], 0)


def test_draws_are_the_same_again():
    draw = registration.synthetic_pairs(blobs(3), GRID, 2, spacing=40.0, amplitude=5.0, noise=0.01)
    first, second, other = draw(jax.random.key(0), 4), draw(jax.random.key(0), 4), draw(jax.random.key(0), 5)
    assert all(bool(jnp.array_equal(a, b)) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    assert not bool(jnp.array_equal(first[0], other[0]))
    still = registration.synthetic_pairs(blobs(3), GRID, 2, spacing=40.0, amplitude=0.0)(jax.random.key(0), 0)
    assert np.allclose(still[0], still[1], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: registration.LearnedRegistration(network("displacement")[0], GRID, "rigid"), "head: expected"),
        (lambda: registration.LearnedRegistration(network("displacement")[0], GRID, "spline"), "spacing: expected mm"),
        (lambda: learned("displacement")[0].transform(None, np.zeros((8, 8)), np.zeros((8, 8))), "fixed: expected shape"),
        (lambda: registration.LearnedRegistration(lambda p, x: x[..., :1], GRID).transform(None, *blobs(2)), "2 outputs"),
        (lambda: registration.LearnedRegistration(lambda p, x: x[::2, ::2], GRID).transform(None, *blobs(2)), "of the images"),
        (lambda: registration.LearnedRegistration(lambda p, x: x[:5], GRID, "spline", 16.0).transform(None, *blobs(2)), "times smaller"),
        (lambda: registration.synthetic_pairs(blobs(1)[0], GRID, 2, spacing=20.0, amplitude=1.0), "images: expected"),
        (lambda: registration.synthetic_pairs(blobs(1), GRID, 2, spacing=-1.0, amplitude=1.0), "spacing"),
        (lambda: forward.Siren.identity(GRID, ()), "widths: expected at least one"),
        (lambda: forward.Siren((np.zeros((3, 4)), np.zeros((4, 2))), (np.zeros(4), np.zeros(2)), GRID), r"weights\[0\]: expected shape"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
