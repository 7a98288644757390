"""Distance transform, overlap and surface distances against SciPy and SimpleITK."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import ndimage

from diffimg import metrics

RNG = np.random.default_rng(0)


def blob(shape, seed, threshold=0.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return noise > threshold * noise.std()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((40,), (1.5,)), ((23, 31), (1.0, 1.0)), ((23, 31), (0.7, 2.2)), ((12, 17, 14), (2.0, 0.5, 1.3))]
)
def test_distance_transform_equals_scipy(shape, spacing, x64):
    masks = [blob(shape, 1), RNG.random(shape) > 0.02, np.zeros(shape, bool)]
    single = np.ones(shape, bool)
    single[tuple(n // 3 for n in shape)] = False
    for mask in (*masks, single):
        found = metrics.distance_transform(mask, spacing)
        np.testing.assert_allclose(found, ndimage.distance_transform_edt(mask, spacing), atol=1e-12)
    signed = metrics.signed_distance(masks[0], spacing)
    expected = ndimage.distance_transform_edt(~masks[0], spacing) - ndimage.distance_transform_edt(masks[0], spacing)
    np.testing.assert_allclose(signed, expected, atol=1e-12)
    assert np.isinf(metrics.distance_transform(np.ones(shape, bool))).all()


def test_single_precision_is_exact_on_whole_numbers():
    mask = RNG.random((30, 41)) > 0.01
    np.testing.assert_array_equal(metrics.distance_transform(mask), ndimage.distance_transform_edt(mask).astype(np.float32))
    batch = np.stack([mask, ~mask])
    np.testing.assert_array_equal(jax.vmap(metrics.distance_transform)(batch)[1], metrics.distance_transform(~mask))


def surface_distances(a, b, spacing):
    edges = [v & ~ndimage.binary_erosion(v) for v in (a, b)]
    away = [ndimage.distance_transform_edt(~e, spacing) for e in edges]
    return away[1][edges[0]], away[0][edges[1]]


@pytest.mark.parametrize(("shape", "spacing"), [((30, 36), (1.0, 2.0)), ((14, 18, 16), (2.0, 0.5, 1.3))])
def test_surface_distances(shape, spacing, x64):
    a, b = blob(shape, 3, 0.3), blob(shape, 3, 0.0) | blob(shape, 4, 1.5)
    np.testing.assert_array_equal(metrics.surface(a), a & ~ndimage.binary_erosion(a))
    here, there = surface_distances(a, b, spacing)
    np.testing.assert_allclose(metrics.hausdorff(a, b, spacing), max(here.max(), there.max()))
    np.testing.assert_allclose(metrics.hd95(a, b, spacing), max(np.percentile(here, 95), np.percentile(there, 95)))
    np.testing.assert_allclose(metrics.average_surface_distance(a, b, spacing), np.concatenate([here, there]).mean())
    for tolerance in (0.0, 1.1):
        np.testing.assert_allclose(metrics.nsd(a, b, tolerance, spacing), (np.concatenate([here, there]) <= tolerance).mean())


def test_hausdorff_and_overlap_equal_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    a, b = blob((20, 24, 18), 5), blob((20, 24, 18), 6)
    images = [sitk.GetImageFromArray(v.astype(np.uint8)) for v in (a, b)]
    for image in images:
        image.SetSpacing((1.3, 0.5, 2.0))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    np.testing.assert_allclose(metrics.dice(a, b), overlap.GetDiceCoefficient(), rtol=1e-6)
    np.testing.assert_allclose(metrics.iou(a, b), overlap.GetJaccardCoefficient(), rtol=1e-6)
    whole = sitk.HausdorffDistanceImageFilter()  # of the masks, not of their surfaces: no nearer
    whole.Execute(*images)
    assert float(metrics.hausdorff(a, b, (2.0, 0.5, 1.3))) >= whole.GetHausdorffDistance() - 1e-4


def test_labels_and_empty_masks():
    a, b = RNG.integers(0, 4, (9, 8)), RNG.integers(0, 4, (9, 8))
    each = metrics.dice(a, b, [1, 3, 7])
    np.testing.assert_allclose(each[1], metrics.dice(a == 3, b == 3))
    assert float(each[2]) == 1 and float(metrics.iou(a, a)) == 1
    empty, full = np.zeros((5, 6), bool), np.ones((5, 6), bool)
    assert float(metrics.dice(empty, empty)) == 1 and float(metrics.dice(empty, full)) == 0
    assert float(metrics.hd95(empty, empty)) == 0 and float(metrics.hd95(empty, full)) == np.inf
    assert float(metrics.nsd(empty, empty, 1.0)) == 1 and float(metrics.nsd(full, empty, 1.0)) == 0
    assert float(metrics.average_surface_distance(full, full)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.distance_transform(np.zeros((2, 2, 2, 2))), "mask: expected one to three axes"),
        (lambda: metrics.distance_transform(np.zeros((2, 2)), (1.0, 0.0)), "spacing: expected values > 0"),
        (lambda: metrics.dice(np.array([0.3]), np.array([1])), "prediction: expected labels"),
        (lambda: metrics.dice(np.zeros(3), np.zeros(4)), "truth: expected shape"),
        (lambda: metrics.hausdorff(np.zeros((3, 3)), np.zeros((3, 3)), percentile=0), "percentile"),
        (lambda: metrics.nsd(np.zeros((3, 3)), np.zeros((3, 3)), -1.0), "tolerance: expected values ≥ 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
