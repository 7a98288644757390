"""Parallel projection through the central slice theorem.

The 1-D Fourier transform of the projection at angle θ is the 2-D transform of the image on the line
(u, v) = ν (cosθ, sinθ). That line is read off an oversampled FFT with a short separable window (Kaiser–Bessel, as
piecewise polynomials), weighed with the pixel's and the detector cell's transform, and brought back by a 1-D FFT.

Source: Fessler and Sutton, IEEE Trans. Signal Process. 51 (2003) 560; the window: ``gridding``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core.lengths import fast_length
from diffimg.core.pair import Pair, paired
from diffimg.forward.gathers import take_runs
from diffimg.forward.geometry import ParallelBeam, centred
from diffimg.forward.gridding import window, window_transform, wrap_crop, wrap_pad

IMAGE_MODELS = ("pixel", "band-limited")
DETECTOR_MODELS = ("bin", "point")


@dataclasses.dataclass(frozen=True)
class Plan:
    """All sizes of one transform; static and hashable."""

    image_shape: tuple[int, int]
    grid: tuple[int, int]  # oversampled (gy, gx), even
    width: int  # taps of the window per axis
    period: int  # samples in one period of the fine detector, even
    subsampling: int  # fine detector samples per detector cell, so that pixels wider than the fine spacing never alias
    detector_count: int
    ratio: float  # pixel size / fine detector spacing, ≤ 1 unless the detector is finer than the image
    pixel_size: float
    image_model: str
    detector_model: str

    @property
    def frequency_count(self) -> int:
        """Radial frequencies ν ≥ 0 per view."""
        return self.period // 2 + 1

    @property
    def left(self) -> int:
        """Columns u < 0 kept beside the half plane u ≥ 0."""
        return (self.width + 1) // 2 - 1

    @property
    def rows(self) -> int:
        """Grid rows, u = −left … gx/2 + width//2."""
        return self.left + self.grid[1] // 2 + 1 + self.width // 2

    @property
    def pitch(self) -> int:
        """Grid columns, v = 0 … gy−1 and the first width−1 again."""
        return self.grid[0] + self.width - 1


def plan(geometry: ParallelBeam, image_model: str, detector_model: str, width: int) -> Plan:
    """The sizes for a geometry."""
    spacing, pixel = geometry.detector_spacing, geometry.pixel_size
    q = max(1, math.ceil(spacing / pixel * (1 - 1e-9)))
    period = q * fast_length(math.ceil(geometry.diagonal / spacing) + 2, even=True)
    grid = tuple(fast_length(max(2 * n, 4 * width), even=True) for n in geometry.image_shape)
    return Plan(
        geometry.image_shape, grid, width, period, q, geometry.detector_count, q * pixel / spacing, pixel, image_model, detector_model
    )


def _apodization(p: Plan, dtype, xp=jnp):
    """1 / (transform of the separable window), ``[ny, 1]`` and ``[1, nx]``."""
    y, x = (1 / window_transform(p.width, g, np.arange(n) - n // 2, g / n) for n, g in zip(p.image_shape, p.grid, strict=True))
    return xp.asarray(y[:, None], dtype), xp.asarray(x[None, :], dtype)


# The grid: the image's oversampled transform on the half plane u ≥ 0, rows u, columns v


def to_grid(p: Plan, x: jax.Array) -> jax.Array:
    """Oversampled transform of one image, ``[rows, pitch]`` complex."""
    gy, gx = p.grid
    ay, ax = _apodization(p, x.dtype)
    f = jnp.fft.rfft(wrap_pad(x * ay * ax, gx), axis=1)
    before = jnp.conj(f[:, p.left : 0 : -1])
    after = jnp.conj(f[:, gx // 2 - p.width // 2 : gx // 2][:, ::-1])
    f = jnp.concatenate([before, f, after], axis=1).T
    f = jnp.fft.fft(wrap_pad(f, gy), axis=1)
    return jnp.concatenate([f, f[:, : p.width - 1]], axis=1)


def from_grid(p: Plan, h: Any, xp: Any = jnp) -> Any:
    """The adjoint of ``to_grid`` (real inner product)."""
    (ny, nx), (gy, gx), w = p.image_shape, p.grid, p.width
    h = h[:, :gy] + xp.pad(h[:, gy:], ((0, 0), (0, gy - w + 1)))
    h = wrap_crop(xp.fft.ifft(h, axis=1), ny, xp).T
    half, left, right = gx // 2, p.left, w // 2
    f = h[:, left : left + half + 1]
    before = xp.conj(h[:, :left][:, ::-1])
    after = xp.conj(h[:, left + half + 1 :][:, ::-1])
    f = f + xp.pad(before, ((0, 0), (1, half - left))) + xp.pad(after, ((0, 0), (half - right, 1)))
    scale = np.full(half + 1, 0.5)
    scale[[0, half]] = 1.0
    y = wrap_crop(xp.fft.irfft(f * scale.astype(h.real.dtype), n=gx, axis=1), nx, xp)
    ay, ax = _apodization(p, y.dtype, xp)
    return y * (ay * (gy * gx)) * ax


# The points on the grid


def locate(p: Plan, u: Any, v: Any, xp: Any = jnp) -> tuple[Any, Any, Any, Any]:
    """Where (u, v), cycles/pixel, lie on the grid.

    Returns the flat index of the window's first node (int32), the weights over rows ``[tap, point]`` and columns
    ``[point, tap]``, and −1 where the conjugate at (−u, −v) is read instead.
    """
    gy, gx = p.grid
    if p.ratio > 1:  # finer detectors look beyond the first period of the image's transform
        u, v = u - xp.round(u), v - xp.round(v)
    sign = xp.where(u < 0, -1, 1).astype(u.dtype)
    ku, kv = u * sign * gx, v * sign * gy
    shift = p.width / 2 - 1
    iu, iv = xp.floor(ku - shift), xp.floor(kv - shift)
    first = (iu.astype(np.int32) + p.left) * p.pitch + xp.mod(iv.astype(np.int32), gy)
    ny, nx = p.image_shape
    wu = window(p.width, gx / nx, 2 * (ku - shift - iu).reshape(-1) - 1)
    wv = window(p.width, gy / ny, 2 * (kv - shift - iv).reshape(-1) - 1)
    return first.reshape(-1), wu.T, wv, sign


def interpolate(p: Plan, grid: jax.Array, first: jax.Array, wu: jax.Array, wv: jax.Array, stored: bool = False) -> jax.Array:
    """Σ over the window, ``[point]``: one contiguous run of ``width`` nodes per row.

    Without ``stored`` tables the rows are a loop, or XLA would compute the weights again for every tap.
    """
    flat = grid.reshape(-1)

    def add_row(total, row):
        start, weight = row
        return total + jnp.sum(take_runs(flat, first + start, p.width) * wv, axis=1) * weight, None

    starts = np.arange(p.width, dtype=np.int32) * p.pitch
    return lax.scan(add_row, jnp.zeros(first.shape, grid.dtype), (starts, wu), unroll=p.width if stored else 1)[0]


def spread(p: Plan, s: jax.Array, first: jax.Array, wu: jax.Array, wv: jax.Array) -> jax.Array:
    """The adjoint of ``interpolate`` by scattering, for points known only at run time."""
    numbers = lax.ScatterDimensionNumbers(update_window_dims=(1,), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,))

    def add_row(flat, row):
        start, weight = row
        window = (s * weight)[:, None] * wv
        return lax.scatter_add(flat, (first + start)[:, None], window, numbers, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS), None

    starts = np.arange(p.width, dtype=np.int32) * p.pitch
    return lax.scan(add_row, jnp.zeros(p.rows * p.pitch, s.dtype), (starts, wu))[0].reshape(p.rows, p.pitch)


# The derivative in the points is exact: ∂/∂u of Σ f e^{−2πi(ux+vy)} is −2πi Σ (x f) e^{−2πi(ux+vy)}, the same transform of
# a weighted image. Differentiating the window instead would be 1 % wrong, and 12–29 % in the second derivative.


def samples(p: Plan, x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """Σ x[n, m] exp(−2πi (u (m − nx//2) + v (n − ny//2))) for one image, shaped as u and v, in cycles/pixel."""
    return paired(_sampling(p), (u, v), x)


def samples_transpose(p: Plan, s: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """The transpose (no conjugate) of ``samples`` in x, ``[ny, nx]`` real."""
    return paired(_sampling(p).swapped, (u, v), s)


@functools.lru_cache(maxsize=64)
def _sampling(p):
    """The transform and its transpose in x, with their derivatives in the points (u, v)."""
    ny, nx = p.image_shape
    along_u, along_v = np.arange(nx) - nx // 2, (np.arange(ny) - ny // 2)[:, None]

    def transform(points, x):
        first, wu, wv, sign = locate(p, *points)
        return conjugate(interpolate(p, to_grid(p, x), first, wu, wv).reshape(sign.shape), sign)

    def transpose(points, s):
        first, wu, wv, sign = locate(p, *points)
        return from_grid(p, spread(p, conjugate(jnp.conj(s), sign).reshape(-1), first, wu, wv))

    def transform_tangent(points, direction, x):
        du, dv = (_times(-2 * math.pi, d) for d in direction)
        along = [samples(p, x * n.astype(x.dtype), *points) for n in (along_u, along_v)]
        return du * along[0] + dv * along[1]

    def transpose_tangent(points, direction, s):
        du, dv = (_times(-2 * math.pi, d) for d in direction)
        u, v = (samples_transpose(p, d * s, *points) for d in (du, dv))
        return u * along_u.astype(u.dtype) + v * along_v.astype(v.dtype)

    return Pair(transform, transpose, transform_tangent, transpose_tangent)


def _times(imaginary, x):
    return lax.complex(jnp.zeros_like(x), imaginary * x)


def conjugate(s: jax.Array, sign: jax.Array) -> jax.Array:
    """conj(s) where ``sign`` is −1."""
    return lax.complex(s.real, s.imag * sign)


# From the line's samples to the detector


def points(p: Plan, angles: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """(u, v), cycles/pixel, ``[view, frequency]``."""
    k = (np.arange(p.frequency_count) * (p.ratio / p.period)).astype(angles.dtype)
    return xp.cos(angles)[:, None] * k, xp.sin(angles)[:, None] * k


def response(p: Plan, u: Any, v: Any, offset: Any, xp: Any = jnp) -> Any:
    """Factor of each sample: pixel and detector transforms, centring phases and scale, ``[view, frequency]`` complex."""
    (ny, nx), m = p.image_shape, p.period
    k = np.arange(p.frequency_count)
    radial = np.full(k.shape, p.pixel_size * p.ratio)
    if p.detector_model == "bin":
        radial = radial * np.sinc(k * p.subsampling / m)
    weight = radial.astype(u.dtype)
    if p.image_model == "pixel":
        weight = weight * xp.sinc(u) * xp.sinc(v)
    elif p.ratio > 1:
        weight = weight * ((abs(u) <= 0.5) & (abs(v) <= 0.5))
    shift = (p.ratio / p.pixel_size) * offset / m  # of the detector, in periods
    start = np.mod(k * ((p.detector_count - 1) / 2 * p.subsampling / m), 1)  # of its first cell; periods are dropped in float64
    turns = u * (nx // 2 - (nx - 1) / 2) + v * (ny // 2 - (ny - 1) / 2) + (start.astype(u.dtype) - k.astype(u.dtype) * shift)
    phase = (-2 * math.pi) * turns
    return (weight * xp.cos(phase)) + 1j * (weight * xp.sin(phase))


def in_period(p: Plan, offset: Any, xp: Any = jnp) -> Any:
    """``[detector]`` bool: cells inside the one period that holds the object; the others see nothing."""
    fine = centred(p.detector_count) * p.subsampling + offset * (p.ratio / p.pixel_size)
    return xp.abs(fine) <= p.period / 2


def to_detector(p: Plan, s: jax.Array, inside: jax.Array) -> jax.Array:
    """Inverse transform of the weighed samples ``[view, frequency]`` to ``[view, detector]``."""
    y = jnp.fft.irfft(s, n=p.period, axis=-1)
    if p.subsampling > 1:
        y = y[:, :: p.subsampling]
    copies = -(-p.detector_count // y.shape[1])
    if copies > 1:
        y = jnp.tile(y, (1, copies))
    return jnp.where(inside, y[:, : p.detector_count], 0)


def from_detector(p: Plan, y: jax.Array, inside: jax.Array) -> jax.Array:
    """The adjoint of ``to_detector``."""
    q, cells = p.subsampling, p.period // p.subsampling
    y = jnp.where(inside, y, 0)
    copies = -(-p.detector_count // cells)
    if copies > 1:
        y = jnp.pad(y, ((0, 0), (0, copies * cells - p.detector_count))).reshape(-1, copies, cells).sum(1)
    if q > 1:
        y = jnp.pad(y[:, :, None], ((0, 0), (0, cells - y.shape[1]), (0, q - 1))).reshape(-1, p.period)
    scale = np.full(p.frequency_count, 2 / p.period)
    scale[[0, -1]] = 1 / p.period
    return jnp.fft.rfft(y, n=p.period, axis=-1) * scale.astype(y.dtype)


# The projection. Its spectrum ends with a jump at the detector's Nyquist frequency, so that it decays slowly in l and wraps around
# the period: by less than 1e-3 of itself, but 1–5 % of its derivatives, which weigh high frequencies. What wraps around falls with
# the square of the period, so the derivatives, of any order, are those of a projection with a longer one (less than 5e-3 remains,
# on white noise too). A derivative is also smaller than the transforms that it is a difference of: it uses at least six taps.

DERIVATIVE_PERIODS = 3


def forward(p: Plan, angles: jax.Array, offset: jax.Array, x: jax.Array) -> jax.Array:
    """One image ``[ny, nx]`` to ``[view, detector]``, every table computed on the way; differentiable in all to any order."""
    return paired(_projection(p), _geometry(angles, offset, x.dtype), x)


def adjoint(p: Plan, angles: jax.Array, offset: jax.Array, y: jax.Array) -> jax.Array:
    """The adjoint of ``forward``, ``[view, detector]`` to ``[ny, nx]``."""
    return paired(_projection(p).swapped, _geometry(angles, offset, y.dtype), y)


def _geometry(angles, offset, dtype):
    return angles.astype(dtype), jnp.asarray(offset, dtype)


@functools.lru_cache(maxsize=64)
def _projection(p):
    """The projection and its transpose in x, with their derivatives in (angles, offset)."""
    long = dataclasses.replace(p, period=DERIVATIVE_PERIODS * p.period, width=max(p.width, 6))

    def project(plan, geometry, x):
        angles, offset = geometry
        u, v = points(plan, angles)
        return to_detector(plan, samples(plan, x, u, v) * response(plan, u, v, offset), in_period(p, offset))

    def backproject(plan, geometry, y):
        angles, offset = geometry
        u, v = points(plan, angles)
        s = from_detector(plan, y, in_period(p, offset)) * jnp.conj(response(plan, u, v, offset))
        return samples_transpose(plan, jnp.conj(s), u, v)

    def derivative(function):
        def along(geometry, direction, x):
            return jax.jvp(lambda g: function(long, g, x), (geometry,), (direction,))[1]

        return along

    return Pair(functools.partial(project, p), functools.partial(backproject, p), derivative(project), derivative(backproject))
