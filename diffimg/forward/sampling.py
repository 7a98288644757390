"""Generic sampling operators: missing pixels (in-painting), coarser pixels (super-resolution), the middle of an image."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.blur import Blur
from diffimg.forward.operator import Operator


@pytree
class Inpaint(Operator):
    """x ↦ mask · x: pixels that were measured (1), missed (0) or measured with a weight, ``[..., *image_shape]``.

    Args:
        mask: broadcasts to the image; booleans become float32. Traced, so that a mask may change without a new trace, or be learned.
        image_shape: shape of one image; the mask's by default.

    Raises:
        ValueError: the mask does not broadcast to ``image_shape``, or is not finite.
    """

    mask: Any
    image_shape: tuple[int, ...] | None = static(default=None)

    def __post_init__(self):
        mask = check.array("mask", self.mask)
        if not jnp.issubdtype(mask.dtype, jnp.inexact):
            mask = mask.astype(np.float32)
        check.finite("mask", mask)
        image_shape = tuple(mask.shape if self.image_shape is None else (check.positive_int("image_shape", n) for n in self.image_shape))
        fits = mask.ndim <= len(image_shape) and all(m in (1, n) for m, n in zip(mask.shape[::-1], image_shape[::-1], strict=False))
        if not fits:
            check.fail("mask", f"a shape that broadcasts to image_shape {image_shape}", f"shape {mask.shape}")
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "image_shape", image_shape)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jax.dtypes.canonicalize_dtype(jnp.result_type(self.mask)))

    def __call__(self, x):
        return jnp.asarray(self.mask, x.dtype) * x

    def adjoint(self, y):
        return jnp.conj(jnp.asarray(self.mask, y.dtype)) * y

    def gram(self, x):
        mask = jnp.asarray(self.mask, x.dtype)
        return (jnp.conj(mask) * mask) * x

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max = max |mask| (nothing is iterated)."""
        return jnp.max(jnp.abs(jnp.asarray(self.mask)))


@pytree
class Downsample(Operator):
    """Images on pixels ``factor`` times as large, antialiased: the forward model of super-resolution.

    Without a kernel, y is the mean over each block of ``factor`` pixels (a detector that integrates over its area). With
    one, the image is blurred (``Blur``) and read at the blocks' centres. Coarse pixel i lies at fine index factor·i + (factor−1)/2 either
    way, so that ``kernel=np.full((f, f), 1/f²)`` is the block mean.

    Args:
        image_shape: shape of one fine image; each axis divisible by its factor.
        factor: integers ≥ 1, one or one an axis.
        kernel: PSF of the coarse pixel in fine pixels, each axis odd or even like its factor (else the image would move by
            half a pixel), e.g. ``gaussian_psf(0.5 * factor, 4 * factor + factor % 2)``. Traced.
        boundary: as in ``Blur``; only read with a kernel.
        dtype: nominal dtype of the block mean, real or complex; with a kernel that of the kernel.

    Raises:
        ValueError: factor, shape and kernel do not fit.
    """

    image_shape: tuple[int, ...] = static()
    factor: Any = static()
    kernel: Any = None
    boundary: str = static(default="reflect")
    dtype: str = static(default="float32")

    def __post_init__(self):
        shape = tuple(check.positive_int("image_shape", n) for n in self.image_shape)
        factor = tuple(self.factor) if isinstance(self.factor, (tuple, list)) else (self.factor,) * len(shape)
        factor = tuple(check.positive_int("factor", f) for f in factor)
        if len(factor) != len(shape):
            check.fail("factor", f"1 or {len(shape)} integers, one an axis", f"{len(factor)}")
        if any(n % f for n, f in zip(shape, factor, strict=True)):
            fitting = tuple(n - n % f for n, f in zip(shape, factor, strict=True))
            check.fail("image_shape", f"axes divisible by factor {factor}", str(shape), f"Crop the image to {fitting}, or pad it.")
        check.one_of("boundary", self.boundary, ("reflect", "periodic", "zero"))
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "factor", factor)
        if self.kernel is not None:
            kernel = Blur(self.kernel, shape, self.boundary).psf
            if any((k - f) % 2 for k, f in zip(kernel.shape, factor, strict=True)):
                fitting = tuple(k + (k - f) % 2 for k, f in zip(kernel.shape, factor, strict=True))
                check.fail("kernel", f"axes odd or even like factor {factor}", f"shape {kernel.shape}", f"Use e.g. shape {fitting}.")
            object.__setattr__(self, "kernel", kernel)

    @property
    def domain(self):
        dtype = self.dtype if self.kernel is None else jax.dtypes.canonicalize_dtype(jnp.result_type(self.kernel))
        return ShapeDtypeStruct(self.image_shape, jnp.dtype(dtype))

    def __call__(self, x):
        if self.kernel is None:
            blocks = x.reshape([m for n, f in zip(self.image_shape, self.factor, strict=True) for m in (n // f, f)])
            return blocks.mean(tuple(range(1, blocks.ndim, 2)))
        blurred = Blur(self.kernel, self.image_shape, self.boundary)._forward(x)
        return blurred[tuple(slice((f - 1) // 2, None, f) for f in self.factor)]

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max: (Π factor)^−½ in closed form for the block mean, an estimate from above with a kernel."""
        if self.kernel is None:
            return jnp.asarray(math.prod(self.factor) ** -0.5, jnp.finfo(jax.dtypes.canonicalize_dtype(jnp.dtype(self.dtype))).dtype)
        return super().norm(key, steps)


@pytree
class Crop(Operator):
    """The middle of an image, ``[*padded]`` → ``[*image_shape]``: index N//2 stays the centre. The adjoint pads with zeros.

    Args:
        padded: shape of the larger image. image_shape: of the middle, no larger.
        dtype: nominal dtype.
    """

    padded: tuple[int, ...] = static()
    image_shape: tuple[int, ...] = static()
    dtype: str = static(default="complex64")

    def __post_init__(self):
        for name in ("padded", "image_shape"):
            object.__setattr__(self, name, tuple(check.positive_int(name, n) for n in getattr(self, name)))
        if len(self.padded) != len(self.image_shape) or any(n > p for n, p in zip(self.image_shape, self.padded, strict=False)):
            check.fail("image_shape", f"axes no longer than {self.padded}", str(self.image_shape))

    @property
    def domain(self):
        return ShapeDtypeStruct(self.padded, jnp.dtype(self.dtype))

    def _start(self):
        return [p // 2 - n // 2 for n, p in zip(self.image_shape, self.padded, strict=True)]

    def __call__(self, x):
        return x[tuple(slice(s, s + n) for s, n in zip(self._start(), self.image_shape, strict=True))]

    def adjoint(self, y):
        widths = [(s, p - n - s) for s, n, p in zip(self._start(), self.image_shape, self.padded, strict=True)]
        return jnp.pad(y, widths)

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max = 1."""
        return jnp.ones((), jnp.finfo(jax.dtypes.canonicalize_dtype(jnp.dtype(self.dtype))).dtype)
