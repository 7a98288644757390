"""What a gradient in every pose of a scan costs, ½‖A(geometry) x − y‖², against one projection, and how exact it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cone, fan
from benchmarks.harness import Table, alternate, compiled, difference
from diffimg import data, forward

NOTES = (
    "All leaves of the geometry (angles, distances, offsets, tilt) are arguments of both programs. time: ratio = 6 projections over "
    "value and gradient; memory, bytes: arguments, results and temporaries; error: of the gradients in every view's angle and offsets, "
    "for smooth bodies scanned under wrong poses, against those of the analytic projections (the worst leaf)."
)


def run(quick: bool = False) -> Table:
    """The table."""
    table = Table("geometry_gradient", "Gradients in the geometry, float32", NOTES)
    small, large = (fan.scan(128, 90), cone.scan(32, 45)), (fan.scan(512, 720), cone.scan(128, 180))
    for name, geometry in zip(("fan", "cone"), small if quick else large, strict=True):
        _cost(table, name, geometry, 3 if quick else 5)
    _error(table, "fan", fan.scan(256, 24))
    if not quick:
        _error(table, "cone", cone.scan(128, 6))
    return table


def _cost(table, name, geometry, repeats):
    key = jax.random.key(0)
    geometry = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry)
    x = jax.random.uniform(key, geometry.image_shape)
    y = jnp.zeros(geometry.sinogram_shape)

    def loss(g, x, y):
        return 0.5 * jnp.sum((forward.Radon(g)(x) - y) ** 2)

    projection, _, _ = compiled(lambda g, x: forward.Radon(g)(x), geometry, x)
    gradient, seconds, _ = compiled(jax.value_and_grad(loss), geometry, x, y)
    own, peer = alternate(lambda: gradient(geometry, x, y), lambda: projection(geometry, x), repeats)
    shape = "×".join(map(str, geometry.image_shape)) + f", {geometry.view_count} views"
    note = f"{own.median / peer.median:.2f} projections"
    table.add(f"{name} gradient, {shape}", "bound of 6 projections", own, peer, None, seconds, note, scale=6.0)
    bytes_ = [_bytes(program) for program in (gradient, projection)]
    note = f"{bytes_[0] / bytes_[1]:.2f} projections'"
    table.quantity(f"{name} gradient memory", "bound of 4 projections'", bytes_[0], 4 * bytes_[1], note)


def _bytes(program):
    m = program.memory_analysis()
    return m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes


def _error(table, name, geometry):
    rng, views, n = np.random.default_rng(0), geometry.view_count, geometry.image_shape[-1]
    each = jnp.ones(views, jnp.float32)
    plane = geometry.ndim == 2
    centers, semi_axes = np.array([[0.02, -0.1], [-0.15, 0.12]]), np.array([[0.31, 0.23], [0.16, 0.13]])
    if plane:
        phantom = data.Ellipses(centers * n, semi_axes * n, [0.4, 1.0], [1.0, 0.5], exponent=2)
    else:
        along = np.array([[0.03], [-0.08]]), np.array([[0.25], [0.2]])
        solid = (np.concatenate(parts, 1) * n for parts in zip(along, (centers, semi_axes), strict=True))
        phantom = data.Ellipsoids(*solid, [0.4, 1.0], [1.0, 0.5], exponent=2)
    geometry = dataclasses.replace(
        jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), geometry),
        detector_offset=0.3 * each if plane else (0.2 * each, 0.3 * each),
        source_offset=0.2 * each if plane else (0.1 * each, 0.2 * each),
    )
    wobble = jnp.asarray(rng.normal(size=(2, views)), jnp.float32)
    shifted = 1.3 + 0.3 * wobble[1]
    true = dataclasses.replace(
        geometry, angles=geometry.angles + 0.01 * wobble[0], detector_offset=shifted if plane else (1 + shifted[::-1], shifted)
    )
    x = phantom.rasterize(geometry.image_shape)
    misfit = data.project(phantom, geometry) - data.project(phantom, true)
    shape = "×".join(map(str, geometry.image_shape))

    def own(g, x):
        return forward.Radon(g)(x)

    def exact(g, x):
        return data.project(phantom, g)

    def gradient(project):
        return jax.jit(jax.grad(lambda g, x: jnp.vdot(misfit, project(g, x))))(geometry, x)

    slopes, reference = gradient(own), gradient(exact)
    fields = ("angles", "detector_offset", "source_offset")
    pairs = {f: zip(jax.tree.leaves(getattr(slopes, f)), jax.tree.leaves(getattr(reference, f)), strict=True) for f in fields}
    errors = {f: max(difference(a, b) for a, b in leaves) for f, leaves in pairs.items()}
    note = ", ".join(f"{f} {e:.4f}" for f, e in errors.items())
    table.quantity(f"{name} gradient error, {shape}", "bound of 1 %", max(errors.values()), 0.01, note)

    def turning(project):
        def turned(t, x):
            return project(dataclasses.replace(geometry, angles=geometry.angles + t), x)

        def first(t, x):
            return jax.jvp(lambda t: turned(t, x), (t,), (jnp.ones_like(t),))[1]

        def second(t, x):
            reading = jax.jvp(lambda t: first(t, x), (t,), (jnp.ones_like(t),))[1]
            return jnp.sum(misfit * reading, tuple(range(1, reading.ndim)))

        return first, second

    for order, *derivatives in zip(("first, every reading", "second, every view"), turning(own), turning(exact), strict=True):
        error = difference(*(jax.jit(d)(jnp.zeros(()), x) for d in derivatives))
        table.quantity(f"{name} derivative in the angle, {order}", "bound of 1 %", error, 0.01)
