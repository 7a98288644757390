"""Similarities of neighbourhoods: local correlation, normalized gradient fields, and the MIND descriptor."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, replace, static
from diffimg.energy.similarity import SSD, Similarity, ratio, root, weighted_mean


@pytree
class LNCC(Similarity):
    """1 − mean of the squared (or signed) correlation within a window about every sample; for intensities that drift (bias fields).

    Args:
        width: of the window in samples, odd, one number or one an axis.
        kind: ``"box"``, or ``"gaussian"`` of standard deviation width/4.
        squared: squared correlations, so that inverted contrast counts as a match, too (as ANTs and VoxelMorph); else signed ones.
        floor: a window's standard deviation below ``floor`` times that of the whole image counts as none.

    Raises:
        ValueError: an even width, another kind.

    P. Cachier et al., Computer Vision and Image Understanding 2003; B. Avants et al., Medical Image Analysis 2008.
    """

    width: Any = static(default=9)
    kind: str = static(default="box")
    squared: bool = static(default=True)
    floor: Any = 0.01

    def __post_init__(self):
        for n in np.atleast_1d(self.width).tolist():
            if check.positive_int("width", n) % 2 == 0:
                check.fail("width", "an odd number of samples", repr(n), "An even window has no middle.")
        check.one_of("kind", self.kind, ("box", "gaussian"))
        check.minimum("floor", self.floor, 0, strict=True)

    def _value(self, fixed, moving, weights, spacing):
        # about the mean, so that the differences of squares keep their digits
        fixed, moving = (v - weighted_mean(v, weights) for v in (fixed, moving))
        smooth = functools.partial(windowed, width=self.width, kind=self.kind)
        count = smooth(weights)
        safe = jnp.where(count > 0, count, 1)
        a, b = smooth(weights * fixed) / safe, smooth(weights * moving) / safe
        aa = smooth(weights * fixed**2) / safe - a * a
        bb = smooth(weights * moving**2) / safe - b * b
        ab = smooth(weights * fixed * moving) / safe - a * b
        low = [self.floor**2 * weighted_mean(v**2, weights) for v in (fixed, moving)]
        product = (jnp.maximum(aa, 0) + low[0]) * (jnp.maximum(bb, 0) + low[1])
        correlation = ratio(ab * ab, product) if self.squared else ratio(ab, root(product))
        return 1 - weighted_mean(correlation, weights)


def windowed(x: Any, width: Any, kind: str = "box") -> jax.Array:
    """Weighted sums over a window about every sample, of total weight 1; zeros outside. One axis after the other."""
    widths = np.broadcast_to(np.asarray(width), (x.ndim,))
    for axis, n in enumerate(widths.tolist()):
        half = n // 2
        offsets = np.arange(-half, half + 1)
        kernel = np.ones(n) if kind == "box" else np.exp(-0.5 * (offsets / (n / 4)) ** 2)
        kernel = kernel / kernel.sum()
        padded = jnp.pad(x, [(half, half) if k == axis else (0, 0) for k in range(x.ndim)])
        parts = [kernel[k] * jax.lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis) for k in range(n)]
        # each axis is a pass of its own: fused, the sums would be nested
        x = jax.lax.optimization_barrier(functools.reduce(jnp.add, parts))
    return x


@pytree
class NGF(Similarity):
    """Mean of 1 − (⟨∇f, ∇m⟩ / (‖∇f‖_η ‖∇m‖_η))², ‖v‖_η = √(‖v‖² + η²): edges should be parallel; for different modalities.

    Args:
        noise: η as a multiple of the mean ‖∇I‖ of each image: smaller gradients count as noise.
        fixed_eta, moving_eta: η itself, 1/mm; ``prepared`` takes them from the unwarped images.

    E. Haber and J. Modersitzki, MICCAI 2006.
    """

    noise: Any = 0.5
    fixed_eta: Any = None
    moving_eta: Any = None

    def __post_init__(self):
        check.minimum("noise", self.noise, 0, strict=True)

    def prepared(self, fixed, moving, fixed_spacing=None, moving_spacing=None):
        sizes = []
        for image, spacing in ((fixed, fixed_spacing), (moving, moving_spacing)):
            gradients = central_differences(image, (1.0,) * image.ndim if spacing is None else spacing)
            sizes.append(jnp.mean(jnp.sqrt(sum(g * g for g in gradients))))
        etas = [self.noise * size for size in sizes]
        keep = (self.fixed_eta, self.moving_eta)
        fixed_eta, moving_eta = (e if k is None else k for e, k in zip(etas, keep, strict=True))
        return replace(self, fixed_eta=fixed_eta, moving_eta=moving_eta)

    def _value(self, fixed, moving, weights, spacing):
        this = self.prepared(*jax.lax.stop_gradient((fixed, moving)), spacing, spacing)
        f, m = central_differences(fixed, spacing), central_differences(moving, spacing)
        ff = sum(g * g for g in f) + this.fixed_eta**2
        mm = sum(g * g for g in m) + this.moving_eta**2
        fm = sum(a * b for a, b in zip(f, m, strict=True))
        return weighted_mean(1 - ratio(fm * fm, ff * mm), weights)


def central_differences(x: Any, spacing: tuple[float, ...]) -> list[jax.Array]:
    """∂x along each axis, per mm: central, one-sided at the border, 0 along an axis of one sample."""
    out = []
    for axis, h in enumerate(spacing):
        n = x.shape[axis]
        index = np.arange(n)
        after, before = np.minimum(index + 1, n - 1), np.maximum(index - 1, 0)
        scale = (1 / (np.maximum(after - before, 1) * h)).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
        out.append((jnp.take(x, after, axis) - jnp.take(x, before, axis)) * jnp.asarray(scale, x.dtype))
    return out


@pytree
class MIND(Similarity):
    """Half the mean squared difference of the self-similarity descriptors MIND-SSC: what each neighbourhood looks like from within.

    Args:
        radius: of the patches that are compared, in samples.
        distance: between their centres, in samples.

    In 3-D the 12 pairs of face neighbours at right angles, in 2-D the 4.

    M. Heinrich et al., MICCAI 2013.
    """

    radius: int = static(default=1)
    distance: int = static(default=2)

    def __post_init__(self):
        check.positive_int("radius", self.radius)
        check.positive_int("distance", self.distance)

    def _value(self, fixed, moving, weights, spacing):
        a, b = (self.descriptor(v) for v in (fixed, moving))
        return functools.reduce(jnp.add, [SSD()._value(p, q, weights, spacing) for p, q in zip(a, b, strict=True)]) / len(a)

    def descriptor(self, image: Any) -> list[jax.Array]:
        """exp(−D/V) for each pair, between 0 and 1; the least distance at every sample is made 0."""
        if image.ndim < 2:
            check.fail("image", "two or three axes", f"shape {image.shape}")
        distances = []
        for first, second in self._pairs(image.ndim):
            difference = _shifted(image, first) - _shifted(image, second)
            distances.append(windowed_edge(difference**2, 2 * self.radius + 1))
        least = functools.reduce(jnp.minimum, distances)
        distances = [d - least for d in distances]
        variance = functools.reduce(jnp.add, distances) / len(distances)
        mean = jnp.mean(variance)
        variance = jnp.clip(variance, 1e-3 * mean, 1e3 * mean) + jnp.finfo(image.dtype).tiny ** 0.5
        return [jnp.exp(-d / variance) for d in distances]

    def _pairs(self, ndim):
        neighbours = [tuple(s * self.distance * (k == axis) for k in range(ndim)) for axis in range(ndim) for s in (-1, 1)]
        pairs = []
        for i, a in enumerate(neighbours):
            for b in neighbours[i + 1 :]:
                if sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) == 2 * self.distance**2:
                    pairs.append((a, b))
        return pairs


def _shifted(image, offset):
    for axis, k in enumerate(offset):
        if k:
            image = jnp.take(image, np.clip(np.arange(image.shape[axis]) + k, 0, image.shape[axis] - 1), axis)
    return image


def windowed_edge(x: Any, width: int) -> jax.Array:
    """Mean over a box about every sample; beyond the border the nearest sample."""
    half = width // 2
    padded = jnp.pad(x, half, mode="edge")
    out = windowed(padded, width)
    return out[tuple(slice(half, -half) for _ in range(x.ndim))]
