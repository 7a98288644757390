"""Mutual information of two volumes with its gradient, against warps of the same volume and SimpleITK's metric."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.harness import Table, alternate, clock, compiled
from diffimg.energy import MutualInformation
from diffimg.forward.interpolation import interpolate_planes

NOTES = (
    "32 bins, every sample, cubic Parzen windows, float32. SimpleITK's metric on 2 threads, the value alone (its gradient is not exposed). "
    "Bounds: value and gradient within the time of 25 warps of order 1 of the same volume, 300 MB of temporaries."
)


def run(quick: bool = False) -> Table:
    """The table."""
    import SimpleITK as sitk

    n = 48 if quick else 128
    rng = np.random.default_rng(0)
    fixed = ndimage.gaussian_filter(rng.standard_normal((n, n, n)), 3).astype(np.float32)
    fixed /= fixed.std()
    moving = (np.cos(2 * fixed) + 0.2 * rng.standard_normal(fixed.shape)).astype(np.float32)
    f, m = jnp.asarray(fixed), jnp.asarray(moving)
    table = Table("mi", f"Mutual information, {n}³", NOTES)

    similarity = MutualInformation().prepared(f, m)
    value, seconds, _ = compiled(lambda s, f, m: s(f, m), similarity, f, m)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.TranslationTransform(3))
    method.SetNumberOfThreads(2)
    images = sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(moving)
    a, b = alternate(lambda: value(similarity, f, m), lambda: method.MetricEvaluate(*images), 5, 3)
    table.add("value", "SimpleITK, Mattes", a, b, abs(float(a.result) - b.result) / abs(b.result), seconds)

    gradient, seconds, bytes_ = compiled(jax.value_and_grad(lambda m, s, f: s(f, m)), m, similarity, f)
    points = (np.stack(np.indices(fixed.shape)) + rng.uniform(-1, 1, (3, 1, 1, 1))).astype(np.float32)
    warp, _, _ = compiled(lambda x, p: interpolate_planes(x, list(p), 1, "nearest"), m, jnp.asarray(points))
    p = jnp.asarray(points)
    one = clock(lambda: warp(m, p), 9)
    both = clock(lambda: gradient(m, similarity, f), 9)
    table.add("value and gradient", "one warp, order 1", both, one, None, seconds)
    table.quantity("value and gradient, in warps", "bound 25", both.median / one.median, 25.0)
    table.quantity("memory, MB of temporaries", "bound 300", bytes_ / 1e6, 300.0)
    return table
