"""A parallel projection whose tables are computed once: gathers both ways, and a Toeplitz normal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward import radon_fourier as fourier
from diffimg.forward.batches import over_images
from diffimg.forward.node_runs import NodeRuns, runs_by_node
from diffimg.forward.operator import Operator
from diffimg.forward.radon_normal import convolve, normal_spectrum


@pytree
class PreparedRadon(Operator):
    """``Radon`` (Fourier method) with tables in place of angles; made by ``Radon.prepare()``.

    Its geometry is baked in: a derivative with respect to it is refused. ``normal`` is a convolution where the detector
    sees the whole object, and Aᴴ(A x) elsewhere.
    """

    plan: fourier.Plan = static()
    view_count: int = static()
    first: Any  # [point] int32, flat grid index of each window's first node
    row_weights: Any  # [tap, point]
    column_weights: Any  # [point, tap]
    sign: Any  # [view, 1] or [view, frequency]: −1 where the conjugate is read
    factor: Any  # [view, frequency] complex
    inside: Any  # [detector] bool
    by_node: NodeRuns  # the adjoint's samples of every grid node
    spectrum: Any  # of the normal operator, or None

    batched = True
    approximate_normal = True

    @property
    def domain(self):
        return ShapeDtypeStruct(self.plan.image_shape, jnp.float32)

    @property
    def codomain(self):
        return ShapeDtypeStruct((self.view_count, self.plan.detector_count), jnp.float32)

    def __call__(self, x):
        return over_images(self._project, x)

    def adjoint(self, y):
        return over_images(self._backproject, y)

    def gram(self, x):
        if self.spectrum is None:
            return self.adjoint(self._forward(x))
        return over_images(lambda v: convolve(self.spectrum, v), x)

    def tangent(self, direction, x):
        check.fail(
            "geometry",
            "a derivative with respect to the image only",
            "one with respect to the tables of a prepared Radon, whose geometry is fixed",
            "Differentiate the operator before prepare(): Radon(geometry)(x).",
        )

    def _project(self, x):
        p, dtype = self.plan, x.dtype
        weights = self.row_weights.astype(dtype), self.column_weights.astype(dtype)
        s = fourier.interpolate(p, fourier.to_grid(p, x), self.first, *weights, stored=True)
        s = fourier.conjugate(s.reshape(self.factor.shape), self.sign.astype(dtype))
        return fourier.to_detector(p, s * self.factor.astype(s.dtype), self.inside)

    def _backproject(self, y):
        p, dtype = self.plan, y.dtype
        s = fourier.from_detector(p, y, self.inside)
        s = fourier.conjugate(s * jnp.conj(self.factor).astype(s.dtype), self.sign.astype(dtype)).reshape(-1)
        return fourier.from_grid(p, self.by_node(s).reshape(p.rows, p.pitch))

    def _name(self):
        return "PreparedRadon"


def prepare(geometry: Any, p: fourier.Plan) -> PreparedRadon:
    """Tables in float64 on the host, kept in the working precision; for a concrete geometry."""
    angles, offset = np.asarray(geometry.angles, np.float64), float(geometry.detector_offset)
    u, v = fourier.points(p, angles, np)
    first, wu, wv, sign = fourier.locate(p, u, v, np)
    if p.ratio <= 1:
        sign = np.where(np.cos(angles) < 0, -1.0, 1.0)[:, None]
    spectrum = normal_spectrum(p, angles) if geometry.sees_whole_object else None
    real = jax.dtypes.canonicalize_dtype(np.float64)
    return PreparedRadon(
        plan=p,
        view_count=len(angles),
        first=jnp.asarray(first),
        row_weights=jnp.asarray(wu, real),
        column_weights=jnp.asarray(wv, real),
        sign=jnp.asarray(sign, real),
        factor=jnp.asarray(fourier.response(p, u, v, offset, np)),
        inside=jnp.asarray(fourier.in_period(p, offset, np)),
        by_node=_by_node(p, first, wu, wv),
        spectrum=None if spectrum is None else jnp.asarray(spectrum, real),
    )


def _by_node(p, first, wu, wv):
    taps = np.arange(p.width, dtype=np.int32)
    node = (first[:, None, None] + (taps[:, None] * p.pitch + taps)).reshape(-1)
    sample = np.repeat(np.arange(first.size, dtype=np.int32), p.width**2)
    weight = (wu.T[:, :, None] * wv[:, None, :]).reshape(-1)
    return runs_by_node(node, sample, weight, p.rows * p.pitch, first.size, p.frequency_count, p.width)
