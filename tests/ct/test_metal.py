"""Metal traces and their interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import ct
from diffimg.forward import FanBeam, ParallelBeam

TRACE = np.zeros((2, 12), bool)
TRACE[0, 4:7], TRACE[0, 10:], TRACE[1, :2] = True, True, True
VALUES = np.random.default_rng(1).uniform(0.5, 2, (3, 2, 12)).astype(np.float32)


def test_interpolation_is_that_of_numpy():
    out = np.asarray(ct.interpolate_trace(VALUES, TRACE))
    cell = np.arange(12)
    for b in range(3):
        for view in range(2):
            good = ~TRACE[view]
            np.testing.assert_allclose(out[b, view], np.interp(cell, cell[good], VALUES[b, view][good]), rtol=1e-6)


def test_gradient_of_the_interpolation():
    def of(s):
        return jnp.sum(ct.interpolate_trace(s, TRACE[0]) ** 2)

    slope = jax.grad(of)(jnp.asarray(VALUES[0, 0]))
    assert (np.asarray(slope)[TRACE[0]] == 0).all()
    assert (np.asarray(slope)[~TRACE[0]] > 0).all()


def test_a_true_prior_restores_the_sinogram():
    clean = VALUES[0]
    broken = np.where(TRACE, 9.0, clean).astype(np.float32)
    np.testing.assert_allclose(ct.normalized_interpolation(broken, 3 * clean, TRACE), clean, rtol=1e-5)
    assert np.abs(ct.interpolate_trace(broken, TRACE) - clean).max() > 0.1


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_trace_is_the_shadow_of_the_mask(kind):
    angles = np.array([0.0, np.pi / 2])
    if kind == "parallel":
        geometry = ParallelBeam((16, 16), angles, 23)
    else:
        geometry = FanBeam((16, 16), angles, 60, 60.0, 30.0)
    mask = np.zeros((16, 16), bool)
    mask[7:9, 12:14] = True
    trace = np.asarray(ct.metal_trace(mask, geometry, margin=0))
    scale = 1.5 if kind == "fan" else 1.0
    middle = [trace[v].nonzero()[0].mean() - (trace.shape[1] - 1) / 2 for v in (0, 1)]
    np.testing.assert_allclose(middle, [5 * scale, 0], atol=1.0)
    assert (np.asarray(ct.metal_trace(mask, geometry, margin=2)).sum(1) == trace.sum(1) + 4).all()


def test_tissue_prior():
    image = np.array([[0.001, 0.018, 0.022, 0.04, 0.3]])
    metal = image > 0.1
    np.testing.assert_allclose(ct.tissue_prior(image, 0.02, metal=metal), [[0, 0.02, 0.02, 0.04, 0.02]])


def test_bad_input():
    with pytest.raises(ValueError, match="a cell without metal in every view"):
        ct.interpolate_trace(VALUES, np.ones((2, 12), bool))
    with pytest.raises(ValueError, match="sinogram"):
        ct.interpolate_trace(VALUES[..., :5], TRACE)
    with pytest.raises(ValueError, match="bone_above"):
        ct.tissue_prior(VALUES[0], 0.02, bone_above=0.9)
    with pytest.raises(ValueError, match="mask"):
        ct.metal_trace(np.ones((3, 3)), ParallelBeam((16, 16), np.zeros(1), 23))
