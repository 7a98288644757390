"""Similarities against SimpleITK's metrics, their gradients, and what must not happen on constant or empty images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from diffimg.energy import LNCC, MIND, NCC, NGF, SSD, MutualInformation
from diffimg.energy.mutual_information import joint_histogram

RNG = np.random.default_rng(0)
SPACING = (1.5, 0.8, 2.0)
FIXED = ndimage.gaussian_filter(RNG.standard_normal((12, 14, 10)), 2)
MOVING = np.sin(4 * FIXED) + 0.1 * ndimage.gaussian_filter(RNG.standard_normal(FIXED.shape), 1)
ALL = {
    "SSD": SSD(),
    "NCC": NCC(),
    "LNCC": LNCC(5),
    "LNCC gaussian, signed": LNCC((5, 3, 5), "gaussian", squared=False),
    "NGF": NGF(),
    "MI": MutualInformation(),
    "NMI cubic": MutualInformation(16, normalized=True, fixed_order=3),
    "MIND": MIND(),
}


def itk_metric(choose, mask=None):
    sitk = pytest.importorskip("SimpleITK")
    images = [sitk.GetImageFromArray(v) for v in (FIXED, MOVING)]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    method = sitk.ImageRegistrationMethod()
    choose(method)
    if mask is not None:
        where = sitk.GetImageFromArray(mask.astype(np.uint8))
        where.SetSpacing(SPACING[::-1])
        method.SetMetricFixedMask(where)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.TranslationTransform(3))
    method.SetMetricSamplingStrategy(method.NONE)
    return method.MetricEvaluate(*images)


def test_equal_itk(x64):
    np.testing.assert_allclose(2 * SSD()(FIXED, MOVING), itk_metric(lambda m: m.SetMetricAsMeanSquares()), rtol=1e-12)
    correlation = 1 - NCC(floor=1e-9)(FIXED, MOVING)
    np.testing.assert_allclose(-(correlation**2), itk_metric(lambda m: m.SetMetricAsCorrelation()), rtol=1e-12)
    np.testing.assert_allclose(correlation, stats.pearsonr(FIXED.ravel(), MOVING.ravel()).statistic, rtol=1e-12)
    for bins in (20, 50):
        expected = itk_metric(lambda m, bins=bins: m.SetMetricAsMattesMutualInformation(bins))
        np.testing.assert_allclose(MutualInformation(bins)(FIXED, MOVING), expected, rtol=1e-12)
    expected = itk_metric(lambda m: m.SetMetricAsANTSNeighborhoodCorrelation(2))
    np.testing.assert_allclose(LNCC(5, floor=1e-9)(FIXED, MOVING) - 1, expected, rtol=1e-9)


def test_masks_equal_itk(x64):
    mask = np.zeros(FIXED.shape, bool)
    mask[2:9, 3:12, 1:8] = True
    np.testing.assert_allclose(2 * SSD()(FIXED, MOVING, mask), itk_metric(lambda m: m.SetMetricAsMeanSquares(), mask), rtol=1e-12)
    inside = [FIXED[2:9, 3:12, 1:8], MOVING[2:9, 3:12, 1:8]]
    np.testing.assert_allclose(NCC()(FIXED, MOVING, mask), NCC()(*inside), rtol=1e-9)
    ranges = [np.array([v.min(), v.max()]) for v in (FIXED, MOVING)]
    metric = MutualInformation(24, fixed_range=ranges[0], moving_range=ranges[1])
    np.testing.assert_allclose(metric(FIXED, MOVING, mask), metric(*inside), rtol=1e-9)


def test_similarities_of_known_pairs(x64):
    for name, similarity in ALL.items():
        same, other, off = (similarity(FIXED, v) for v in (FIXED, MOVING, np.roll(FIXED, 3, 0)))
        assert float(same) < float(off), name
        assert float(same) <= float(other) + 1e-9 or "MI" in name, name
    scaled = 3 * FIXED + 5
    for name in ("NCC", "LNCC", "NGF", "MI", "MIND"):
        np.testing.assert_allclose(ALL[name](FIXED, scaled), ALL[name](FIXED, FIXED), atol=3e-3)
    assert float(NCC()(FIXED, -FIXED)) > 1.99
    assert float(LNCC(5)(FIXED, -FIXED)) < 0.01 and float(LNCC(5, squared=False)(FIXED, -FIXED)) > 1.9
    np.testing.assert_allclose(NGF()(FIXED, -FIXED), NGF()(FIXED, FIXED))
    np.testing.assert_allclose(MutualInformation(normalized=True, fixed_order=3)(FIXED, RNG.permuted(FIXED)), -1, atol=0.1)


@pytest.mark.parametrize("name", ALL)
def test_gradient(name, x64):
    similarity = ALL[name].prepared(FIXED, MOVING)
    weights = RNG.uniform(0, 1, FIXED.shape)
    direction = RNG.standard_normal(FIXED.shape)
    slope = jnp.vdot(jax.grad(lambda m: similarity(FIXED, m, weights, SPACING))(jnp.asarray(MOVING)), direction)
    step = 1e-5
    ends = [similarity(FIXED, MOVING + s * step * direction, weights, SPACING) for s in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=2e-4)  # the largest sample leaves its range


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ("MIND", "LNCC") else n for n in ALL])
def test_finite_on_constant_and_empty_images(name):
    similarity = ALL[name]
    value = jax.jit(jax.value_and_grad(lambda m, f, w: similarity(f, m, w)))
    image, flat, zero, one = (jnp.asarray(v, "float32") for v in (FIXED, np.full_like(FIXED, 3), 0 * FIXED, 1 + 0 * FIXED))
    for fixed, moving, weights in ((image, flat, one), (flat, image, one), (zero, zero, one), (flat, flat, one), (image, image, zero)):
        out, slope = value(moving, fixed, weights)
        assert np.isfinite(out) and np.isfinite(slope).all()


@pytest.mark.parametrize("name", ALL)
def test_nan_is_refused_and_inside_jit_stays_nan(name):
    broken = FIXED.astype(np.float32)
    broken[2, 3, 4] = np.nan
    for pair in ((FIXED, broken), (broken, FIXED)):
        with pytest.raises(ValueError, match="finite"):
            ALL[name](*pair)
    assert np.isnan(jax.jit(ALL[name])(np.float32(FIXED), broken))


def test_joint_histogram_is_the_same_by_matrix_product(x64):
    from diffimg.energy import mutual_information as module

    a, b, w = RNG.uniform(2, 14, 500), RNG.uniform(2, 14, 500), RNG.uniform(0, 1, 500)
    for order in (0, 3):
        table = joint_histogram(jnp.asarray(a), jnp.asarray(b), jnp.asarray(w), 16, order)
        np.testing.assert_allclose(module._multiplied(16, order, jnp.asarray(a), jnp.asarray(b), jnp.asarray(w)), table, atol=1e-12)
        np.testing.assert_allclose(table.sum(), w.sum())


def test_a_million_samples_in_one_bin():
    """Single precision would lose count of them one by one."""
    n = 1 << 21
    a = jnp.full((n,), 5.3)
    table = joint_histogram(a, a, jnp.full((n,), 0.7), 16)
    np.testing.assert_allclose(table.sum(), 0.7 * n, rtol=2e-4)


@pytest.mark.slow
def test_two_dimensions_and_energies():
    image = jnp.asarray(FIXED[5], "float32")
    for similarity in (SSD(), NCC(), LNCC(3), NGF(), MutualInformation(12), MIND()):
        energy = similarity.to(image, spacing=(1.0, 2.0))
        assert energy.grad(image + 0.1).shape == image.shape
    np.testing.assert_allclose((2 * SSD().to(image)).grad(image + 1.0), 2 / image.size, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SSD()(FIXED, MOVING[1:]), "moving: expected shape"),
        (lambda: SSD()(FIXED.astype(int), MOVING), "fixed: expected a floating"),
        (lambda: NCC()(FIXED + 1j, MOVING), "fixed: expected a real dtype"),
        (lambda: NCC()(FIXED, MOVING, -np.ones(FIXED.shape)), "weights: expected values ≥ 0"),
        (lambda: SSD()(FIXED, MOVING, spacing=(1.0, 2.0)), "spacing: expected 3 numbers"),
        (lambda: SSD()(np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 2))), "fixed: expected one to three axes"),
        (lambda: MutualInformation(5), "bins: expected an integer ≥ 6"),
        (lambda: MutualInformation(fixed_order=1), "fixed_order"),
        (lambda: LNCC(4), "width: expected an odd number"),
        (lambda: LNCC(5, "disc"), "kind: expected one of"),
        (lambda: NGF(noise=0.0), "noise: expected values > 0"),
        (lambda: MIND()(FIXED[0, 0], MOVING[0, 0]), "image: expected two or three axes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
