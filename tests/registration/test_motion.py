"""The energy of a motion: against finite differences, and its minimum at the motion that made the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import data, forward, registration
from diffimg.energy import Bending
from diffimg.solve import LBFGS, Problem, run


def moving_blob(states=2):
    grid = data.Grid.centred((24, 24), 1.0)
    y, x = np.indices((24, 24)) - 11.5
    image = np.exp(-((y / 5) ** 2) - (x / 4) ** 2) + 0.3 * np.exp(-(((y - 4) / 3) ** 2) - ((x + 3) / 2) ** 2)
    lattice = forward.spline_lattice(grid, mesh=2)
    theta = np.random.default_rng(0).normal(0, 1.5, (states, *lattice.shape, 2))
    theta[0] = 0
    angles = np.linspace(0, np.pi, 18, endpoint=False)
    scans = tuple(forward.Radon(forward.ParallelBeam((24, 24), angles[g::states], 34, 1.0, 1.0)) for g in range(states))
    measured = tuple(
        a(forward.warp(jnp.asarray(image), forward.FreeForm(jnp.asarray(t), lattice), grid=grid)) for a, t in zip(scans, theta, strict=True)
    )
    norm = sum(float(jnp.sum(y**2)) for y in measured)
    return registration.MotionEnergy(jnp.asarray(image), scans, measured, 1e-6 * Bending(), norm, grid, lattice), theta


def test_gradient(x64):
    energy, theta = moving_blob()
    rng = np.random.default_rng(1)
    point, direction = theta + 0.3 * rng.standard_normal(theta.shape), rng.standard_normal(theta.shape)
    slope = float(jnp.vdot(jax.grad(energy)(jnp.asarray(point)), direction))
    step = 1e-6
    numeric = float(energy(jnp.asarray(point + step * direction)) - energy(jnp.asarray(point - step * direction))) / (2 * step)
    assert slope == pytest.approx(numeric, rel=2e-4)  # linear interpolation has kinks


def test_the_first_state_rests(x64):
    energy, theta = moving_blob()
    assert float(energy(jnp.asarray(theta))) < 1e-4
    other = theta.copy()
    other[0] = 5.0
    assert float(energy(jnp.asarray(other))) == float(energy(jnp.asarray(theta)))
    assert not np.any(jax.grad(energy)(jnp.asarray(theta))[0])


def test_motion_is_found(x64):
    energy, theta = moving_blob()
    start = jnp.zeros_like(jnp.asarray(theta))
    found = run(LBFGS(typical=1.0), Problem(smooth=energy), start, 40)
    inside = np.asarray(energy.image) > 0.3

    def apart(x):
        moves = [
            np.asarray(a.displacement(energy.grid) - b.displacement(energy.grid))[inside]
            for a, b in zip(energy.motions(x), energy.motions(jnp.asarray(theta)), strict=True)
        ]
        return float(np.mean([np.linalg.norm(u, axis=-1).mean() for u in moves]))

    assert apart(found.x) < 0.3 * apart(start)


def test_bad_input():
    energy, _ = moving_blob()
    with pytest.raises(ValueError, match="scans, data: expected as many"):
        registration.MotionEnergy(energy.image, energy.scans[:1], energy.data, energy.penalty, 1.0, energy.grid, energy.lattice)
    with pytest.raises(ValueError, match="image"):
        registration.MotionEnergy(energy.image[:5], energy.scans, energy.data, energy.penalty, 1.0, energy.grid, energy.lattice)
