"""Ellipse phantoms: exact pixel averages, line integrals, parallel projections and the exact Fourier transform.

Everything is closed-form and differentiable, so the phantom is an oracle for projectors, for their derivatives with
respect to image and geometry, and for the central slice theorem. Arrays of points are (y, x), like the axes of an image.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.data import rays

# Density, semi-axes along x and y, centre x and y, rotation in degrees; y points up, the field of view is [−1, 1]².
# L. A. Shepp, B. F. Logan, IEEE Trans. Nucl. Sci. 21(3), 1974; contrast ("modified") by P. Toft, PhD thesis, 1996, table B.3.
_SHEPP_LOGAN = (
    (2.00, 0.6900, 0.9200, 0.00, 0.0000, 0.0),
    (-0.98, 0.6624, 0.8740, 0.00, -0.0184, 0.0),
    (-0.02, 0.1100, 0.3100, 0.22, 0.0000, -18.0),
    (-0.02, 0.1600, 0.4100, -0.22, 0.0000, 18.0),
    (0.01, 0.2100, 0.2500, 0.00, 0.3500, 0.0),
    (0.01, 0.0460, 0.0460, 0.00, 0.1000, 0.0),
    (0.01, 0.0460, 0.0460, 0.00, -0.1000, 0.0),
    (0.01, 0.0460, 0.0230, -0.08, -0.6050, 0.0),
    (0.01, 0.0230, 0.0230, 0.00, -0.6060, 0.0),
    (0.01, 0.0230, 0.0460, 0.06, -0.6050, 0.0),
)
_MODIFIED_DENSITY = (1.0, -0.8, -0.2, -0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)


@pytree
class Ellipses:
    """A sum of ellipses, f(y, x) = Σ density·(1−r²)ᵏ inside, where r = 1 on the rim; k = 0: constant density.

    The origin is the centre of the image, x grows with the column, y with the row; a ray is x cosθ + y sinθ = l. All fields but
    the exponent are traced leaves: differentiable and vmappable.

    Args:
        centers: ``[count, 2]``, (y, x), mm.
        semi_axes: ``[count, 2]``, mm, > 0; along y and along x where the rotation is zero.
        rotation: ``[count]``, radians, from +x towards +y (the sense of a projection angle).
        density: ``[count]``, e.g. attenuation in 1/mm; the value at the centre.
        exponent: k, an integer ≥ 0. Line integrals have k continuous derivatives with respect to the ray.

    Raises:
        ValueError: a wrong shape, non-finite values, semi-axes that are not positive, a negative or fractional exponent.
    """

    centers: Any
    semi_axes: Any
    rotation: Any
    density: Any
    exponent: int = static(default=0)

    def __post_init__(self):
        settle(self, 2, "[ellipse, (y, x)]", (), "[ellipse]")

    def rasterize(self, image_shape: tuple[int, int], pixel_size: float | jax.Array = 1.0) -> jax.Array:
        """The average of the phantom over each pixel, ``[y, x]``; differentiable, and exact where the exponent is 0.

        The area an ellipse shares with a pixel is that of the unit disc with a parallelogram, a sum over the four edges of
        triangles and circular sectors; every edge is shared by two pixels and computed once. A smooth ellipse is integrated
        exactly along x and with four Gauss–Legendre points along y.

        Args:
            image_shape: ``(rows, columns)``.
            pixel_size: mm.
        """
        if len(tuple(image_shape)) != 2:
            check.fail("image_shape", "(rows, columns)", repr(tuple(image_shape)))
        rows, columns = (check.positive_int("image_shape", int(n)) for n in image_shape)
        check.minimum("pixel_size", pixel_size, 0.0, strict=True)
        return (_rasterize_smooth if self.exponent else _rasterize)(self, pixel_size, rows, columns)

    def integrals(self, origins: Any, directions: Any) -> jax.Array:
        """Exact integrals along whole lines, ``[...]``, density × mm; differentiable in the rays and in the phantom.

        Args:
            origins: ``[..., 2]``, (y, x), mm: a point on each line.
            directions: ``[..., 2]``, (y, x), of any length but zero; broadcast against ``origins``.
        """
        return rays.integrals(self, origins, directions)

    def unit_frames(self) -> tuple[jax.Array, jax.Array]:
        """``(matrices [count, 2, 2], centers)``: matrix·(point − center) lies in the unit disc when the point is in the ellipse."""
        (b, a), cos, sin = self.semi_axes.T, jnp.cos(self.rotation), jnp.sin(self.rotation)
        return jnp.stack([jnp.stack([cos / b, -sin / b], -1), jnp.stack([sin / a, cos / a], -1)], -2), self.centers

    def project(self, angles: Any, positions: Any, bin_width: float | jax.Array | None = None) -> jax.Array:
        """The exact parallel-beam sinogram, ``[view, detector]``.

        Args:
            angles: ``[view]``, θ in radians.
            positions: ``[detector]``, l in mm, the centres of the detector bins: ``(arange(D) − (D−1)/2)·spacing + offset``.
            bin_width: mm; the line integrals are averaged over ``l ± bin_width/2`` by their antiderivative. ``None``:
                one line integral at each position.
        """
        angles, positions = check.array("angles", angles), check.array("positions", positions)
        check.ndim("angles", angles, 1, "[view]")
        check.ndim("positions", positions, 1, "[detector]")
        check.finite("angles", angles)
        check.finite("positions", positions)
        if bin_width is not None:
            check.minimum("bin_width", bin_width, 0.0, strict=True, remedy="None gives line integrals.")
        return _project(self, jnp.asarray(angles), jnp.asarray(positions), bin_width)

    def fourier(self, fy: Any, fx: Any) -> jax.Array:
        """The exact Fourier transform ∫∫ f(y, x) exp(−2πi(fx·x + fy·y)) dx dy, complex, of the broadcast shape of its arguments.

        ``fy``, ``fx`` in cycles/mm. The Bessel function J₁ in it is accurate to 1e-7 (absolute, of its maximum). Only for exponent 0.
        """
        if self.exponent:
            check.fail("exponent", "0: only the transform of uniform ellipses is at hand", str(self.exponent))
        return _fourier(self, jnp.asarray(check.array("fy", fy)), jnp.asarray(check.array("fx", fx)))


def shepp_logan(half_width: float = 1.0, modified: bool = True, dtype: Any = jnp.float32) -> Ellipses:
    """The Shepp–Logan head phantom (Shepp & Logan 1974), nose up, in a field of view of ``2·half_width`` mm.

    ``modified``: Toft's densities (0 … 1), which can be seen on a screen; otherwise the published ones (0 … 2).
    """
    check.minimum("half_width", half_width, 0.0, strict=True)
    table = np.asarray(_SHEPP_LOGAN)
    density, a, b, x, y, degrees = table.T
    if modified:
        density = np.asarray(_MODIFIED_DENSITY)
    half = float(half_width)
    # Rows grow downwards and the published y upwards: y and the rotation change sign.
    return Ellipses(
        jnp.asarray(half * np.stack([-y, x], -1), dtype),
        jnp.asarray(half * np.stack([b, a], -1), dtype),
        jnp.asarray(-np.deg2rad(degrees), dtype),
        jnp.asarray(density, dtype),
    )


def shepp_logan_image(n: int, modified: bool = True, dtype: Any = jnp.float32) -> jax.Array:
    """The Shepp–Logan phantom averaged over the pixels of an ``[n, n]`` image (pixel size 1, field of view n)."""
    n = check.positive_int("n", n)
    return shepp_logan(n / 2, modified, dtype).rasterize((n, n))


def random_ellipses(
    key: jax.Array,
    count: int,
    radius: float = 1.0,
    semi_axes: tuple[float, float] = (0.05, 0.4),
    density: tuple[float, float] = (0.1, 1.0),
    dtype: Any = jnp.float32,
) -> Ellipses:
    """``count`` random ellipses inside the disc of ``radius`` mm.

    Semi-axes are uniform in the range ``semi_axes`` (fractions of the radius), centres uniform over the area where the ellipse
    fits, rotations uniform in [0, π), densities uniform in the range ``density``.
    """
    count = check.positive_int("count", count)
    check.minimum("radius", radius, 0.0, strict=True)
    low, high = semi_axes
    if not 0 < low <= high < 1:
        check.fail("semi_axes", "a range (low, high) with 0 < low ≤ high < 1", repr(tuple(semi_axes)), "They are fractions of the radius.")
    axes, distance, direction, rotation, value = jax.random.split(key, 5)
    axes = jax.random.uniform(axes, (count, 2), dtype, low, high)
    distance = (1 - axes.max(-1)) * jnp.sqrt(jax.random.uniform(distance, (count,), dtype))
    direction = jax.random.uniform(direction, (count,), dtype, 0, 2 * math.pi)
    centers = distance[:, None] * jnp.stack([jnp.sin(direction), jnp.cos(direction)], -1)
    return Ellipses(
        radius * centers,
        radius * axes,
        jax.random.uniform(rotation, (count,), dtype, 0, math.pi),
        jax.random.uniform(value, (count,), dtype, *density),
    )


def settle(phantom: Any, dimension: int, axes: str, rotation_shape: tuple[int, ...], rotation_axes: str) -> None:
    """Validate the fields of a phantom and bring them to one dtype; called from its ``__post_init__``."""
    fields = {name: check.array(name, getattr(phantom, name)) for name in ("centers", "semi_axes", "rotation", "density")}
    dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(*fields.values(), jnp.float32))
    check.ndim("density", fields["density"], 1, rotation_axes.split(",")[0].rstrip("]") + "]")
    count = np.shape(fields["density"])[0]
    for name, shape, names in (
        ("centers", (count, dimension), axes),
        ("semi_axes", (count, dimension), axes),
        ("rotation", (count, *rotation_shape), rotation_axes),
    ):
        check.shape(name, fields[name], shape, names, "One row for each density.")
    for name, value in fields.items():
        check.real(name, value)
        check.finite(name, value)
        object.__setattr__(phantom, name, jnp.asarray(value, dtype))
    check.minimum("semi_axes", fields["semi_axes"], 0.0, strict=True)
    if isinstance(phantom.exponent, bool) or not isinstance(phantom.exponent, (int, np.integer)) or phantom.exponent < 0:
        check.fail("exponent", "an integer ≥ 0", repr(phantom.exponent))
    object.__setattr__(phantom, "exponent", int(phantom.exponent))


@jax.jit
def _project(ellipses, angles, positions, bin_width):
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]

    def term(e):
        (y, x), (b, a) = e.centers, e.semi_axes
        radius = jnp.hypot(a * jnp.cos(angles - e.rotation), b * jnp.sin(angles - e.rotation))[:, None]  # half of the shadow
        s = positions - (x * cos + y * sin)
        profile = e.exponent + 0.5  # the shadow of (1−r²)ᵏ is (1−t²)ᵏ⁺¹ᐟ² times a constant
        mass = rays.full(e.exponent) * e.density * a * b
        if bin_width is None:
            return mass / radius * rays.power(s / radius, profile)
        upper, lower = (s + bin_width / 2) / radius, (s - bin_width / 2) / radius
        return mass / bin_width * (rays.power_integral(upper, profile) - rays.power_integral(lower, profile))

    return rays.sum_over(term, ellipses)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _rasterize_smooth(ellipses, pixel_size, rows, columns):
    offsets, weights = rays.nodes(4, ellipses.exponent)
    y = jnp.asarray((np.arange(rows) - (rows - 1) / 2)[:, None] + offsets, ellipses.density.dtype) * pixel_size
    lines = rays.row_averages(ellipses, [y], columns, pixel_size)
    return (lines * jnp.asarray(weights, lines.dtype)[:, None]).sum(1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _rasterize(ellipses, pixel_size, rows, columns):
    dtype = ellipses.density.dtype
    row_edges = (jnp.arange(rows + 1, dtype=dtype) - rows / 2) * pixel_size
    column_edges = (jnp.arange(columns + 1, dtype=dtype) - columns / 2) * pixel_size

    def term(e):
        (b, a), cos, sin = e.semi_axes, jnp.cos(e.rotation), jnp.sin(e.rotation)
        y, x = row_edges[:, None] - e.centers[0], column_edges[None, :] - e.centers[1]
        corner = ((cos * x + sin * y) / a, (cos * y - sin * x) / b)  # in the frame where the ellipse is the unit disc
        right = (pixel_size * cos / a, -pixel_size * sin / b)
        down = (pixel_size * sin / a, pixel_size * cos / b)
        horizontal = _edge(*(c[:, :-1] for c in corner), *right)
        vertical = _edge(*(c[:-1, :] for c in corner), *down)
        area = (horizontal[:-1] + vertical[:, 1:] - horizontal[1:] - vertical[:, :-1]) * (a * b / pixel_size**2)
        area = jnp.clip(area, 0, 1)
        # Away from the rim the answer is 0 or 1; writing it down removes the rounding of four cancelling terms.
        square = corner[0] ** 2 + corner[1] ** 2
        covered = functools.reduce(jnp.maximum, (square[:-1, :-1], square[:-1, 1:], square[1:, :-1], square[1:, 1:])) <= 1
        reach = 1 + math.sqrt(2) * pixel_size / jnp.minimum(a, b)
        return e.density * jnp.where(covered, 1, jnp.where(square[:-1, :-1] > reach**2, 0, area))

    return rays.sum_over(term, ellipses)


def _edge(px, py, dx, dy):
    """Signed area between the origin and the part of the edge p → p+d that bounds (unit disc ∩ polygon)."""
    dd = dx * dx + dy * dy
    foot = -(px * dx + py * dy) / dd
    cross = px * dy - py * dx
    gap = 1 - cross * cross / dd  # 1 − squared distance of the line from the origin
    crosses = gap > 0
    half = jnp.where(crosses, jnp.sqrt(jnp.where(crosses, gap, 1) / dd), 0)
    t0 = jnp.clip(foot - half, 0, 1)
    t1 = jnp.where(crosses, jnp.clip(foot + half, 0, 1), t0)
    return 0.5 * ((t1 - t0) * cross + _angle(px, py, dx, dy, 0, t0) + _angle(px, py, dx, dy, t1, 1))


def _angle(px, py, dx, dy, start, stop):
    """The angle under which the origin sees p + t·d for t from ``start`` to ``stop``."""
    ux, uy = px + start * dx, py + start * dy
    length = jnp.asarray(stop - start)
    empty = length == 0
    sine = length * (ux * dy - uy * dx)
    cosine = ux * ux + uy * uy + length * (ux * dx + uy * dy)
    return jnp.where(empty, 0, jnp.arctan2(jnp.where(empty, 0, sine), jnp.where(empty, 1, cosine)))


@jax.jit
def _fourier(ellipses, fy, fx):
    def term(e):
        (y, x), (b, a), cos, sin = e.centers, e.semi_axes, jnp.cos(e.rotation), jnp.sin(e.rotation)
        square = (2 * math.pi) ** 2 * ((a * (cos * fx + sin * fy)) ** 2 + (b * (cos * fy - sin * fx)) ** 2)
        phase = -2 * math.pi * (fx * x + fy * y)
        amplitude = 2 * math.pi * e.density * a * b * _jinc(square)
        return jax.lax.complex(amplitude * jnp.cos(phase), amplitude * jnp.sin(phase))

    return rays.sum_over(term, ellipses)


def _jinc(square):
    """J₁(z)/z of z², by Abramowitz & Stegun 9.4.4 (z ≤ 3) and 9.4.6 (z > 3)."""
    small = square <= 9
    near = jnp.where(small, square, 0) / 9
    inner = jnp.polyval(jnp.asarray(_J1_SMALL[::-1], near.dtype), near)
    z = jnp.sqrt(jnp.where(small, 9, square))
    modulus = jnp.polyval(jnp.asarray(_J1_MODULUS[::-1], z.dtype), 3 / z)
    phase = z + jnp.polyval(jnp.asarray(_J1_PHASE[::-1], z.dtype), 3 / z)
    return jnp.where(small, inner, modulus * jnp.cos(phase) / (z * jnp.sqrt(z)))


_J1_SMALL = (0.5, -0.56249985, 0.21093573, -0.03954289, 0.00443319, -0.00031761, 0.00001109)
_J1_MODULUS = (0.79788456, 0.00000156, 0.01659667, 0.00017105, -0.00249511, 0.00113653, -0.00020033)
_J1_PHASE = (-2.35619449, 0.12499612, 0.00005650, -0.00637879, 0.00074348, 0.00079824, -0.00029166)
