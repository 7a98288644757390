"""Image measures against scikit-image and the published fastMRI formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics as oracle

from diffimg import metrics


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 33)[:, None] * np.linspace(1, 3, 29)
    reference = np.stack([100 + ramp + 0.1 * rng.standard_normal(ramp.shape) for _ in range(3)])
    return reference + 0.2 * rng.standard_normal(reference.shape), reference


def test_psnr_matches_skimage_and_fastmri(pair):
    x, r = (v.astype(np.float32) for v in pair)
    got = metrics.psnr(x, r)
    want = [oracle.peak_signal_noise_ratio(b, a, data_range=np.ptp(b)) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    want = oracle.peak_signal_noise_ratio(pair[1], pair[0], data_range=pair[1].max())
    np.testing.assert_allclose(metrics.psnr(x, r, definition="fastmri", ndim=3), want, rtol=1e-5)
    np.testing.assert_allclose(
        metrics.psnr(x[0], r[0], data_range=2.0), oracle.peak_signal_noise_ratio(pair[1][0], pair[0][0], data_range=2.0), rtol=1e-5
    )
    assert np.isposinf(metrics.psnr(r, r)).all()


def test_ssim_matches_skimage_in_each_definition(pair):
    x, r = (v.astype(np.float32) for v in pair)
    for k in range(2):
        a, b = pair[0][k], pair[1][k]
        np.testing.assert_allclose(metrics.ssim(x, r)[k], oracle.structural_similarity(b, a, data_range=np.ptp(b)), atol=1e-5)
        want = oracle.structural_similarity(b, a, data_range=2.5, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        np.testing.assert_allclose(metrics.ssim(x, r, 2.5, "wang")[k], want, atol=1e-5)
    volume = pair[1].max()  # fastMRI: per slice with the range of the volume, then the mean
    want = np.mean([oracle.structural_similarity(b, a, data_range=volume) for a, b in zip(*pair, strict=True)])
    np.testing.assert_allclose(metrics.ssim(x, r, volume, "fastmri").mean(), want, atol=1e-5)
    np.testing.assert_allclose(metrics.ssim(r, r), 1, atol=1e-6)


def test_ssim_in_three_dimensions_and_per_image_ranges():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 9, 10, 11))
    got = metrics.ssim(a.astype("f4"), b.astype("f4"), 1.0, ndim=3)
    np.testing.assert_allclose(got, oracle.structural_similarity(b, a, data_range=1.0), atol=1e-5)
    ranges = np.linspace(0.5, 2, 9)
    got = metrics.ssim(a.astype("f4"), b.astype("f4"), ranges)
    np.testing.assert_allclose(
        got, [oracle.structural_similarity(q, p, data_range=s) for p, q, s in zip(a, b, ranges, strict=True)], atol=1e-5
    )


def test_errors_match_skimage_and_fastmri(pair):
    x, r = pair
    a, b = x[0], r[0]
    np.testing.assert_allclose(metrics.nmse(x, r, ndim=3), np.linalg.norm(r - x) ** 2 / np.linalg.norm(r) ** 2, rtol=1e-5)
    np.testing.assert_allclose(metrics.rmse(a, b) ** 2, oracle.mean_squared_error(b, a), rtol=1e-4)
    np.testing.assert_allclose(metrics.mae(a, b), np.abs(a - b).mean(), rtol=1e-4)
    for normalization in ("euclidean", "min-max", "mean"):
        np.testing.assert_allclose(
            metrics.nrmse(a, b, normalization), oracle.normalized_root_mse(b, a, normalization=normalization), rtol=1e-4
        )
    z = a + 1j * b
    np.testing.assert_allclose(metrics.nmse(z, b + 1j * b), np.sum((a - b) ** 2) / (2 * np.sum(b**2)), rtol=1e-4)


def test_mask_restricts_and_integers_do_not_wrap(pair):
    x, r = (v.astype(np.float32) for v in pair)
    mask = metrics.circle(r.shape[1:])
    np.testing.assert_allclose(metrics.rmse(x[0], r[0], mask), np.sqrt(np.mean((x[0] - r[0])[mask] ** 2)), rtol=1e-5)
    np.testing.assert_allclose(metrics.nmse(x[0], r[0], mask), np.sum((x[0] - r[0])[mask] ** 2) / np.sum(r[0][mask] ** 2), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.psnr(x[0], r[0], mask=mask),
        oracle.peak_signal_noise_ratio(r[0][mask], x[0][mask], data_range=np.ptp(r[0][mask])),
        rtol=1e-4,
    )
    _, full = oracle.structural_similarity(pair[1][0], pair[0][0], data_range=3.0, full=True)
    inner = np.zeros_like(mask)
    inner[3:-3, 3:-3] = mask[3:-3, 3:-3]
    np.testing.assert_allclose(metrics.ssim(x[0], r[0], 3.0, mask=mask), full[inner].mean(), atol=1e-5)
    assert metrics.mae(np.array([[0]], "u1"), np.array([[255]], "u1")) == 255
    assert metrics.circle((4, 4)).sum() == 12


def test_differentiable_under_jit_and_vmap(pair):
    x, r = (jnp.asarray(v, jnp.float32) for v in pair)
    grads = jax.jit(jax.vmap(jax.grad(lambda a, b: 1 - metrics.ssim(a, b, 3.0)), in_axes=(0, 0)))(x, r)
    assert grads.shape == x.shape
    assert bool(jnp.isfinite(grads).all())
    assert float(jnp.abs(grads).max()) > 0
    with jax.enable_x64(True):
        a, b = (jnp.asarray(v[0]) for v in pair)
        direction = jnp.asarray(np.random.default_rng(2).standard_normal(a.shape))
        f = jax.jit(lambda t: metrics.ssim(a + t * direction, b, 3.0))
        np.testing.assert_allclose(jax.grad(f)(0.0), (f(1e-5) - f(-1e-5)) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.psnr(np.ones((3, 4)), np.ones((4, 3))), "x: expected shape"),
        (lambda: metrics.psnr(np.full((8, 8), np.nan), np.ones((8, 8))), "x: expected finite"),
        (lambda: metrics.psnr(np.ones((8, 8)), np.ones((8, 8))), "data_range"),
        (lambda: metrics.ssim(np.ones((8, 8)), np.eye(8), definition="gauss"), "definition"),
        (lambda: metrics.ssim(np.ones((5, 8)), np.ones((5, 8)), 1.0), "at least 7 pixels"),
        (lambda: metrics.ssim(np.eye(8) * 1j, np.eye(8) * 1j, 1.0), "real dtype"),
        (lambda: metrics.mae(np.ones((8, 8)), np.ones((8, 8)), mask=np.zeros((8, 8), bool)), "mask"),
        (lambda: metrics.mae(np.ones(8), np.ones(8)), "ndim"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
