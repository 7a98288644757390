"""Geometry self-calibration: the image and unknown numbers of the scan geometry from one sinogram, by Gauss–Newton through the projector.

    scan = replace(geometry, detector_offset=np.zeros(geometry.view_count))     # one unknown a view
    found = ct.calibrate(sinogram, scan, "detector_offset", prior=1.0)
    image = ct.fista_tv(sinogram, found.geometry, weight).x

What no data can tell (the gauge): moving or turning the object together with the scanner. A shift of the object is, view by view, a
shift of the detector by M (x cos β + y sin β), exactly for parallel rays and nearly for a narrow fan: of offsets per view the first
harmonics are free, while their mean, the centre of rotation, is not. ``prior`` settles such directions at the least change.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.energy.differences import gradient, gradient_adjoint
from diffimg.forward.divergent import Divergent
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.radon import Radon

_PROBES = 4  # random sinograms that measure how strongly the data depend on each parameter


class Calibration(NamedTuple):
    """What ``calibrate`` found.

    geometry: the calibrated one, to reconstruct with by any method.
    parameters: ``{name: value}``, their final values.
    image: ``[*image_shape]``, the smooth (Tikhonov) image that belongs to them.
    misfit: ``[step + 1]``, √(Σ w |Ax − y|² / Σ w) before every step and at the end.
    change: ``{name: [step]}``, root mean square of the update of each parameter in each step.
    """

    geometry: Any
    parameters: dict[str, Any]
    image: jax.Array
    misfit: jax.Array
    change: dict[str, jax.Array]


def calibrate(
    sinogram: Any,
    geometry: Any,
    parameters: str | Sequence[str] | Mapping[str, Any] = "detector_offset",
    *,
    model: Callable[[Any, dict[str, Any]], Any] | None = None,
    prior: Any = None,
    weights: Any = None,
    blur: Sequence[float] = (4.0, 2.0, 1.0, 0.0),
    steps: int = 5,
    inner_steps: int = 20,
    cutoff: float = 0.5,
    x0: Any = None,
    method: str = "auto",
    key: jax.Array | None = None,
) -> Calibration:
    """Image x and parameters θ that minimise ½Σ w |A(θ)x − y|² + λ/2 ‖∇x‖² + s²/2 Σ ((θ − θ₀)/prior)², s² the mean square residual.

    Each step is one of Gauss–Newton in x and θ together (A. Ruhe, P. Å. Wedin, SIAM Rev. 22 (1980) 318: it keeps what alternating
    between the two loses, and converges like elimination of the image, G. H. Golub, V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413). Its
    linear system is solved by conjugate gradients, which need one derivative of the projector in each direction a step, whatever the
    number of parameters; the image is preconditioned by the ramp filter, the parameters by the diagonal of JᵀJ. The data are first
    compared blurred, which widens the range of capture.

    Args:
        sinogram: ``[*geometry.sinogram_shape]``, line integrals.
        geometry: any geometry; the parameters start from its values. A field given one value a view is calibrated view by view.
        parameters: names of fields of the geometry; or, with ``model``, ``{name: start}``.
        model: ``model(geometry, parameters) → geometry``, a function (defined once: it is compiled for) that puts parameters which
            are no fields into the geometry, e.g. ``lambda g, p: g.moved(p["rotation"], p["translation"])`` of a ``Modular`` one.
        prior: standard deviation of θ − θ₀, in the parameters' units: a number, or ``{name: number}``; None: no prior.
        weights: w ≥ 0, broadcasting to the sinogram, of which only the ratios matter, e.g. 1/variance.
        blur: standard deviations (detector cells) of the blurs of the data, one after the other.
        steps: Gauss–Newton steps for each blur; enough when ``change`` has died out. Parallel rays over half a turn take about ten for
            the last blur, full turns three.
        inner_steps: conjugate gradients in a step.
        cutoff: fraction of the pixels' Nyquist frequency at which λ weighs as much as the data. Smoothing biases parameters that change
            the data little: a detector's tilt was found 20 % too small with 0.5, 1 % with 1.0.
        x0: start of the image; by default it is reconstructed with the starting geometry.
        method: of ``Radon``.
        key: of the random probes.

    Raises:
        ValueError: unknown fields, fields that are not traced, starts without a model, shapes, numbers out of range.
    """
    if not isinstance(geometry, (ParallelBeam, Divergent)):
        check.fail("geometry", "a scan geometry", type(geometry).__name__, "E.g. forward.FanBeam(...).")
    start = _start(geometry, parameters, model)
    sinogram = check.array("sinogram", sinogram)
    check.shape(
        "sinogram", sinogram, geometry.sinogram_shape, "[view, detector]" if len(geometry.image_shape) == 2 else "[view, row, column]"
    )
    check.real("sinogram", sinogram)
    check.inexact("sinogram", sinogram)
    check.finite("sinogram", sinogram)
    steps, inner_steps = check.positive_int("steps", steps), check.positive_int("inner_steps", inner_steps)
    blur = tuple(float(b) for b in blur)
    if not blur or min(blur) < 0:
        check.fail("blur", "standard deviations ≥ 0, one at least", repr(blur), "(0.0,) compares the data as they are.")
    if not 0 < cutoff <= 1:
        check.fail("cutoff", "a fraction in (0, 1]", repr(cutoff))
    y = jnp.asarray(sinogram)
    weights = jnp.ones((), y.dtype) if weights is None else jnp.asarray(weights, y.dtype)
    check.minimum("weights", weights, 0.0)
    x = jnp.zeros(geometry.image_shape, y.dtype) if x0 is None else jnp.asarray(x0, y.dtype)
    check.shape("x0", x, geometry.image_shape)

    settings = _Settings(_replaced if model is None else model, method, inner_steps)
    theta = jax.tree.map(lambda v: jnp.asarray(v, y.dtype), start)
    scan = _Scan(geometry, theta, _precision(prior, theta), y, jnp.sqrt(weights))
    power, probes = _probe(settings, scan, x, jax.random.key(0) if key is None else key)
    penalty = power / (np.pi * cutoff) ** 3

    def step(theta, x, width, free):
        return _step(settings, scan, power, penalty, probes, theta, x, jnp.asarray(width, y.dtype), jnp.asarray(free, y.dtype))

    if x0 is None:
        _, x, _, _ = step(theta, x, 0.0, 0.0)
    misfit, change = [], []
    for width in blur:
        for _ in range(steps):
            theta, x, before, moved = step(theta, x, width, 1.0)
            misfit.append(before)
            change.append(moved)
    _, x, last, _ = step(theta, x, 0.0, 0.0)
    found = settings.model(geometry, jax.tree.map(np.asarray, theta))
    return Calibration(found, theta, x, jnp.stack([*misfit, last]), {name: jnp.stack([c[name] for c in change]) for name in theta})


class _Settings(NamedTuple):
    model: Callable[[Any, Any], Any]
    method: str
    inner_steps: int


class _Scan(NamedTuple):
    geometry: Any
    start: Any
    precision: Any
    y: jax.Array
    root_weights: jax.Array


def _replaced(geometry, theta):
    return dataclasses.replace(geometry, **theta)


def _start(geometry, parameters, model):
    if isinstance(parameters, Mapping):
        if model is None:
            check.fail("model", "a function, since parameters are given with their values", "None", "Or pass the names of fields alone.")
        return {name: check.array(name, value) for name, value in parameters.items()}
    names = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    traced = [f.name for f in dataclasses.fields(geometry) if not f.metadata.get("static") and getattr(geometry, f.name) is not None]
    for name in names:
        check.one_of("parameters", name, traced)
    return {name: getattr(geometry, name) for name in names}


def _precision(prior, theta):
    def one(name, value):
        width = prior.get(name) if isinstance(prior, Mapping) else prior
        if width is None:
            return jax.tree.map(lambda v: jnp.zeros((), v.dtype), value)
        check.minimum("prior", width, 0.0, strict=True)
        return jax.tree.map(lambda v: jnp.asarray(1 / width**2, v.dtype), value)

    return {name: one(name, value) for name, value in theta.items()}


def _predict(settings, scan, theta, x):
    """√w A(θ) x."""
    return scan.root_weights * Radon(settings.model(scan.geometry, theta), settings.method)(x)


def _blurred(v, sigma):
    """Gaussian blur along the detector's rows; beyond their ends the data count as zero."""
    n = v.shape[-1]
    f = jnp.asarray(np.fft.rfftfreq(2 * n), v.dtype)
    spectrum = jnp.fft.rfft(v, n=2 * n) * jnp.exp(-2 * (np.pi * sigma * f) ** 2)
    return jnp.where(sigma > 0, jnp.fft.irfft(spectrum, n=2 * n)[..., :n], v)


@functools.partial(jax.jit, static_argnums=0)
def _probe(settings, scan, x, key):
    """c of AᵀWA ≈ c/|k| (k in radians a pixel), and random sinograms."""
    first, second = jax.random.split(key)
    sample = jnp.asarray(_disc(x.shape), x.dtype) * jax.random.rademacher(first, x.shape, x.dtype)
    answer = _predict(settings, scan, scan.start, sample)
    power = jnp.sum(answer**2) / (jnp.sum(sample**2) * np.mean(1 / _frequency(x.shape)))
    return power, jax.random.rademacher(second, (_PROBES, *scan.y.shape), x.dtype)


def _disc(shape):
    y, x = np.ogrid[: shape[-2], : shape[-1]]
    inside = (y - (shape[-2] - 1) / 2) ** 2 + (x - (shape[-1] - 1) / 2) ** 2 <= (min(shape[-2:]) / 2) ** 2
    return np.broadcast_to(inside, shape)


def _frequency(shape):
    """|k| in the slice's plane, radians a pixel, ``[ny, nx // 2 + 1]``; that of the mean counts as half a step."""
    ny, nx = shape[-2:]
    k = 2 * np.pi * np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx))
    k[0, 0] = np.pi / max(ny, nx)
    return k


def _filtered(x, power, penalty):
    """x with its frequencies divided by c/|k| + λ|k|²: nearly the inverse of AᵀWA + λ∇ᵀ∇."""
    k = jnp.asarray(_frequency(x.shape), x.dtype)
    return jnp.fft.irfft2(jnp.fft.rfft2(x) / (power / k + penalty * k**2), s=x.shape[-2:])


def _laplacian(x):
    steps = (1.0,) * x.ndim
    return gradient_adjoint(gradient(x, steps), steps)


@functools.partial(jax.jit, static_argnums=0)
def _step(settings, scan, power, penalty, probes, theta, x, width, free):
    """A Gauss–Newton step, of the image alone where ``free`` is 0: θ, x, the misfit before it, and the change of θ."""
    at = (theta, x)

    def forward(z):
        return _predict(settings, scan, *z)

    predicted, back = jax.vjp(forward, at)
    residual = scan.root_weights * scan.y - predicted
    mean_square = jnp.sum(residual**2) / jnp.sum(jnp.broadcast_to(scan.root_weights, residual.shape) ** 2)
    precision = jax.tree.map(lambda p: p * mean_square, scan.precision)  # the residual tells the noise

    def pulled(v):
        """The gradient of ⟨√w A(θ) x, G²v⟩, G the blur."""
        moved, dx = back(_blurred(_blurred(v, width), width))[0]
        return jax.tree.map(lambda m: free * m, moved), dx

    # one program for all: compiling the projectors takes longer than running them
    pulls = jax.lax.map(pulled, jnp.concatenate([probes, residual[None]]))
    squares, (slope, image_slope) = jax.tree.map(lambda v: v[:-1] ** 2, pulls[0]), jax.tree.map(lambda v: v[-1], pulls)
    diagonal = jax.tree.map(_mean_over_views, squares, precision)
    slope = jax.tree.map(lambda g, p, v, s: g - free * p * (v - s), slope, precision, theta, scan.start)

    def normal(d):
        moved, dx = pulled(jax.jvp(forward, (at,), (d,))[1])
        return jax.tree.map(lambda m, p, v: m + p * v, moved, precision, d[0]), dx + penalty * _laplacian(d[1])

    def precondition(r):
        return jax.tree.map(lambda v, q: v / q, r[0], diagonal), _filtered(r[1], power, penalty)

    moved, dx = _conjugate_gradients(normal, precondition, (slope, image_slope - penalty * _laplacian(x)), settings.inner_steps)
    change = {name: tree.norm(v) / np.sqrt(sum(leaf.size for leaf in jax.tree.leaves(v))) for name, v in moved.items()}
    return tree.add(theta, moved), x + dx, jnp.sqrt(mean_square), change


def _mean_over_views(squares, precision):
    """The diagonal of JᵀJ + precision from its random samples ``[probe, ...]``, one number for all views."""
    mean = jnp.mean(squares, axis=tuple(range(min(squares.ndim, 2))), keepdims=True)[0]
    return mean + precision + jnp.finfo(mean.dtype).tiny


def _conjugate_gradients(normal, precondition, right, steps):
    """A fixed number of them from zero, so that ``normal`` is compiled once."""

    def step(carry, _):
        d, r, p, rho = carry
        q = normal(p)
        curvature = tree.real_dot(p, q)
        alpha = jnp.where(curvature > 0, rho / jnp.where(curvature > 0, curvature, 1), 0)
        d, r = tree.add(d, p, alpha), tree.add(r, q, -alpha)
        z = precondition(r)
        new = tree.real_dot(r, z)
        p = tree.add(z, p, jnp.where(rho > 0, new / jnp.where(rho > 0, rho, 1), 0))
        return (d, r, p, new), None

    z = precondition(right)
    start = (tree.zeros_like(right), right, z, tree.real_dot(right, z))
    return jax.lax.scan(step, start, length=steps)[0][0]
