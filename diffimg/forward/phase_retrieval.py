"""Phase retrieval: detectors that measure the intensity |A x|² of a linear field A x."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator


@pytree
class PhaseRetrieval(Operator):
    """x ↦ |A x|² for a linear operator A: nonlinear, blind to the global phase (sign) of x.

    ``linearize(x)`` is h ↦ 2 Re(conj(Ax)·Ah), linear over the real numbers; its adjoint is y ↦ 2 Aᴴ(y·Ax), in Re⟨·,·⟩.

    Args:
        operator: the linear field operator A, whose codomain is one array, e.g. ``CodedDiffraction(masks)``.

    Raises:
        ValueError: A is nonlinear.

    E. J. Candès, X. Li, M. Soltanolkotabi, Phase retrieval via Wirtinger flow, IEEE Trans. Inf. Theory 61(4), 2015.
    """

    operator: Operator

    linear = False

    def __post_init__(self):
        if not isinstance(self.operator, Operator):
            check.fail("operator", "an Operator", type(self.operator).__name__, "E.g. PhaseRetrieval(CodedDiffraction(masks)).")
        if not self.operator.linear:
            check.fail("operator", "a linear operator", repr(self.operator))

    @property
    def domain(self):
        return self.operator.domain

    def __call__(self, x):
        return jax.tree.map(_intensity, self.operator(x))


@pytree
class CodedDiffraction(Operator):
    """Far fields of masked images, F(mask_k · x): ``[..., *image_shape]`` → ``[..., pattern, *image_shape]``, complex.

    F is the orthonormal, centred DFT. One mask of ones gives the plain Fourier transform; a handful of random phases
    makes the phase recoverable.

    Args:
        masks: ``[pattern, *image_shape]``, real or complex, one to three image axes. Traced. The image is complex.

    Raises:
        ValueError: masks of other rank, or not finite.

    E. J. Candès, X. Li, M. Soltanolkotabi, Phase retrieval from coded diffraction patterns, Appl. Comput. Harmon. Anal. 39(2), 2015.
    """

    masks: Any
    image_shape: tuple[int, ...] | None = static(default=None)

    def __post_init__(self):
        masks = check.array("masks", self.masks)
        if not 2 <= masks.ndim <= 4:
            check.fail("masks", "2 to 4 axes [pattern, *image_shape]", f"shape {masks.shape}", "Put one mask as masks[None].")
        if not jnp.issubdtype(masks.dtype, jnp.inexact):
            masks = masks.astype(np.float32)
        check.finite("masks", masks)
        image_shape = tuple(masks.shape[1:]) if self.image_shape is None else tuple(self.image_shape)
        check.trailing_shape("masks", masks, image_shape)
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "image_shape", image_shape)

    @property
    def domain(self):
        dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(self.masks))
        return ShapeDtypeStruct(self.image_shape, jnp.promote_types(dtype, jnp.complex64))

    def __call__(self, x):
        axes = tuple(range(1, 1 + x.ndim))
        field = jnp.fft.ifftshift(jnp.asarray(self.masks).astype(x.dtype) * x, axes)
        return jnp.fft.fftshift(jnp.fft.fftn(field, axes=axes, norm="ortho"), axes)

    def adjoint(self, y):
        axes = tuple(range(1, y.ndim))
        field = jnp.fft.fftshift(jnp.fft.ifftn(jnp.fft.ifftshift(y, axes), axes=axes, norm="ortho"), axes)
        return jnp.sum(jnp.conj(jnp.asarray(self.masks).astype(y.dtype)) * field, 0)

    def gram(self, x):
        return jnp.sum(jnp.abs(jnp.asarray(self.masks)) ** 2, 0).astype(x.dtype) * x

    def norm(self, key: jax.Array | None = None, steps: int = 40) -> jax.Array:
        """σ_max = max √(Σ_k |mask_k|²), since AᴴA is diagonal (nothing is iterated)."""
        return jnp.sqrt(jnp.max(jnp.sum(jnp.abs(jnp.asarray(self.masks)) ** 2, 0)))


def _intensity(field):
    return field.real**2 + field.imag**2 if jnp.iscomplexobj(field) else field**2
