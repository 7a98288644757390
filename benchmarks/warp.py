"""Interpolation of a volume at displaced points, order 1 and 3, against SciPy, and the gradient in the points."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.harness import Table, alternate, compiled, difference
from benchmarks.template import template
from diffimg.forward.interpolation import interpolate_planes

NOTES = (
    "MNI152 at 2 mm, float32; points: every sample moved by up to 3 samples. Order 3 includes the prefilter on both sides. Bounds: 8 times "
    "SciPy for order 1, 3 times for order 3, equal within 1e-5. Gradient: value and derivatives in all points, against SciPy's value alone."
)


def run(quick: bool = False) -> Table:
    """The table."""
    image, _ = template(quick)
    rng = np.random.default_rng(0)
    moves = ndimage.gaussian_filter(rng.standard_normal((3, *image.shape)), (0, 8, 8, 8))
    points = (np.stack(np.indices(image.shape)) + 3 * moves / np.abs(moves).max()).astype(np.float32)
    x, p = jnp.asarray(image), jnp.asarray(points)
    table = Table("warp", f"Interpolation at {image.size:,} points, {image.shape}", NOTES)
    repeats = 5 if quick else 9
    for order, bound in ((1, 8.0), (3, 3.0)):
        peer = lambda o=order: ndimage.map_coordinates(image, points, order=o, mode="nearest")  # noqa: E731
        program, seconds, _ = compiled(lambda x, p, o=order: interpolate_planes(x, list(p), o, "nearest"), x, p)
        a, b = alternate(lambda f=program: f(x, p), peer, repeats, 3)
        worst = float(np.abs(np.asarray(a.result) - b.result).max())
        note = f"largest difference {worst:.1e}"
        table.add(f"order {order}", "SciPy map_coordinates", a, b, difference(a.result, b.result), seconds, note)
        table.quantity(f"order {order}, times SciPy", f"bound 1/{bound:.0f}", a.median / b.median, 1 / bound)

        def slopes(x, p, o=order):
            import jax

            value, pull = jax.vjp(lambda q: interpolate_planes(x, list(q), o, "nearest"), p)
            return value, pull(jnp.ones_like(value))[0]

        program, seconds, _ = compiled(slopes, x, p)
        a, b = alternate(lambda f=program: f(x, p), peer, repeats, 3)
        table.add(f"order {order}, value and gradient", "SciPy, value only", a, b, difference(a.result[0], b.result), seconds)
    return table
