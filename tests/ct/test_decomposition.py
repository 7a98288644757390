"""Material decomposition of rays, and what belongs to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import least_squares

from diffimg import ct
from diffimg.forward import xray

ENERGIES = np.arange(20.0, 120.0, 5.0)
MU = np.asarray(xray.linear_attenuation(("water", "bone"), ENERGIES))
LOW, HIGH = (np.asarray(xray.tube_spectrum(kv, ENERGIES).scaled().fluence) for kv in (80.0, 119.0))
BINS = np.stack([LOW, HIGH])
LENGTHS = np.random.default_rng(3).uniform(0, 1, (2, 5, 4)) * np.array([200.0, 30.0])[:, None, None]


def log_data(lengths, weights=BINS):
    seen = np.einsum("be,eij->bij", weights / weights.sum(1, keepdims=True), np.exp(-np.einsum("me,mij->eij", MU, lengths)))
    return -np.log(seen)


def test_two_spectra_give_two_materials():
    t = ct.decompose(log_data(LENGTHS), MU, BINS)
    np.testing.assert_allclose(t, LENGTHS, atol=0.05)  # mm; float32


def test_more_bins_than_materials_give_scipys_weighted_fit():
    thresholds = np.array([20.0, 50.0, 80.0])
    weights = HIGH * np.asarray(xray.photon_counting(ENERGIES, thresholds))
    rng = np.random.default_rng(0)
    p = (log_data(LENGTHS, weights) + 0.01 * rng.normal(size=(3, 5, 4))).astype(np.float32)
    v = rng.uniform(1, 9, p.shape)
    t = np.asarray(ct.decompose(p, MU, weights, v))

    def residual(s):
        model = -np.log((weights / weights.sum(1, keepdims=True)) @ np.exp(-s @ MU))
        return np.sqrt(v[:, 2, 1]) * (model - p[:, 2, 1])

    np.testing.assert_allclose(t[:, 2, 1], least_squares(residual, [100.0, 10.0], xtol=1e-12).x, rtol=2e-3)


def test_derivatives_by_the_implicit_function_theorem():
    with jax.enable_x64(True):
        weights = BINS + 0.01  # stays positive under the differences
        p, mu, w = (jnp.asarray(v, jnp.float64) for v in (log_data(LENGTHS, weights)[:, 0, :2], MU, weights))
        check_grads(lambda *a: ct.decompose(*a), (p, mu, w), 1, modes=("rev",), rtol=1e-4, eps=1e-6)


def test_starved_rays_stay_finite():
    p = np.full((2, 3), 30.0, np.float32)
    assert np.isfinite(ct.decompose(p, MU, BINS, np.zeros_like(p))).all()
    assert np.isfinite(ct.decompose(p, MU, BINS, np.full_like(p, 1e-9))).all()


def test_whitened_basis_makes_the_coordinates_alike():
    lengths = np.array([200.0, 10.0])
    basis = np.asarray(ct.whitened_basis(MU, BINS, lengths), float)
    seen = BINS * np.exp(-lengths @ MU)
    j = seen @ MU.T / seen.sum(1, keepdims=True)
    fisher = j.T @ np.diag(seen.sum(1) / seen.sum()) @ j
    np.testing.assert_allclose(basis.T @ fisher @ basis, np.eye(2), atol=2e-3)


def test_virtual_monoenergetic():
    maps = LENGTHS.astype(np.float32)
    np.testing.assert_allclose(ct.virtual_monoenergetic(maps, MU[:, 3]), np.tensordot(MU[:, 3], LENGTHS, 1), rtol=1e-5)
    assert ct.virtual_monoenergetic(maps, MU).shape == (len(ENERGIES), 5, 4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ct.decompose(np.ones((1, 4)), MU, BINS[:1]), "as many bins as materials"),
        (lambda: ct.decompose(np.ones((2, 4)), MU, BINS[:1]), "weights"),
        (lambda: ct.whitened_basis(MU, BINS[[0, 0]], [100.0, 1.0]), "tell the materials apart"),
        (lambda: ct.virtual_monoenergetic(LENGTHS, MU[:1, 0]), "mu"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
