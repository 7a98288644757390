"""Quantitative maps: T1, T2, B₀ and B₁ by gradient-based fits of the signal equation in every voxel at once.

Every model is an amplitude times a curve, s_i = c f_i(θ): c is linear (complex, real for magnitudes), θ is searched on a grid first, then
both are refined together by Levenberg–Marquardt with JAX's derivatives. Any differentiable curve will do, the Bloch simulation and
phase graphs included.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.mri.contrast import inversion_recovery


@pytree
class Fit:
    """Maps of a fit, each ``[...]`` (voxels) but for the leading axis of parameters.

    ``parameters`` ``[q, ...]``; ``amplitude`` (complex, or real for magnitudes); ``deviation`` ``[q, ...]``: the Cramér–Rao standard error
    at the residual's noise level; ``residual``: root mean square, relative to the amplitude of the data; ``valid``: there is signal, and
    the fit is finite and inside its bounds. Parameters are 0 where it is not.
    """

    parameters: Any
    amplitude: Any
    deviation: Any
    residual: Any
    valid: Any


def fit_signal(
    curve: Callable[..., Any], data: Any, grid: Any, *, extras: Any = None, steps: int = 15, magnitude: bool = False, noise: Any = 0.0,
    threshold: float = 0.05,
) -> Fit:  # fmt: skip
    """Fit c·f(θ) to ``data [n, ...]`` in every voxel.

    Args:
        curve: ``curve(theta [q], extra) → [n]``, real or complex; a module-level function (or one made once): it keys the compiled fit.
        data: ``[n, ...]`` measurements, complex, or real (signed or magnitude).
        grid: ``[g, q]`` candidates of θ to start from; its range, widened by a tenth, bounds θ.
        extras: array(s) ``[...]`` known in every voxel, handed to the curve, e.g. a B₁ map.
        steps: of Levenberg–Marquardt.
        magnitude: data are magnitudes: |c f| is fitted. noise: standard deviation of real and imaginary part, for √(|c f|² + 2 noise²), the
            root mean square of a Rician magnitude.
        threshold: voxels whose mean |data| is below this part of the 99th percentile are not valid.

    Returns:
        ``Fit``.

    Raises:
        ValueError: NaN, fewer measurements than parameters, shapes that do not fit.
    """
    data = jnp.asarray(check.array("data", data))
    check.finite("data", data)
    grid = np.asarray(check.array("grid", grid), np.float64)
    if grid.ndim == 1:
        grid = grid[:, None]
    n, q = data.shape[0], grid.shape[1]
    if n * (2 if jnp.iscomplexobj(data) else 1) < q + (2 if jnp.iscomplexobj(data) else 1):
        check.fail("data", f"more than {q} measurements [n, ...]", f"{n}", "The first axis is that of the measurements.")
    if magnitude:
        data = jnp.abs(data)
    voxels = data.shape[1:]
    flat = data.reshape(n, -1).T
    extra = jax.tree.map(lambda v: jnp.broadcast_to(jnp.asarray(v, flat.real.dtype), voxels).reshape(-1), extras)
    size = jnp.mean(jnp.abs(flat), axis=1)
    seen = size > threshold * jnp.percentile(size, 99)
    noise = jnp.asarray(noise, flat.real.dtype)
    theta, amplitude, deviation, residual = _fit(curve, flat, jnp.asarray(grid, flat.real.dtype), extra, noise, steps, magnitude)
    low, high = _bounds(jnp.asarray(grid, flat.real.dtype))
    inside = jnp.all((theta > low) & (theta < high) & jnp.isfinite(theta), axis=1)
    valid = seen & inside & jnp.isfinite(residual)
    shape = lambda v: jnp.where(valid, v, 0).reshape(*v.shape[:-1], *voxels)  # noqa: E731
    return Fit(shape(theta.T), shape(amplitude), shape(deviation.T), shape(residual), valid.reshape(voxels))


def _bounds(grid):
    low, high = jnp.min(grid, axis=0), jnp.max(grid, axis=0)
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _fit(curve, data, grid, extra, noise, steps, magnitude):
    is_complex = jnp.iscomplexobj(data)
    real = data.real.dtype
    low, high = _bounds(grid)
    eps = jnp.finfo(real).tiny * 1e3

    def parts(v):
        return jnp.concatenate([v.real, v.imag]) if is_complex else v

    def predicted(p, extra):
        c = jax.lax.complex(p[0], p[1]) if is_complex else p[0]
        s = c * curve(p[2:] if is_complex else p[1:], extra)
        if magnitude:
            return jnp.sqrt((s * jnp.conj(s)).real + 2 * noise**2 + eps)
        return s if is_complex else s.real

    def start(y, extra):
        curves = jax.vmap(lambda t: curve(t, extra))(grid)
        if magnitude:
            curves = jnp.abs(curves)
        power = jnp.sum((curves * jnp.conj(curves)).real, axis=1) + eps
        c = jnp.sum(jnp.conj(curves) * y, axis=1) / power
        c = c if is_complex else c.real
        best = jnp.argmax(jnp.abs(c) ** 2 * power * (jnp.ones(()) if not magnitude else (c > 0)))
        c = c[best]
        return jnp.concatenate([jnp.stack([c.real, c.imag]) if is_complex else c[None], grid[best]])

    linear = 2 if is_complex else 1

    def one(y, extra):
        p = start(y, extra)

        def misfit(p):
            return parts(predicted(p, extra) - y)

        def step(state, _):
            p, r, damping = state
            jacobian = jax.jacfwd(misfit)(p)
            gram = jacobian.T @ jacobian
            scale = jnp.diag(gram) + 1e-7 * jnp.max(jnp.diag(gram)) + eps
            change = jnp.linalg.solve(gram + damping * jnp.diag(scale), -jacobian.T @ r)
            new = p + change
            new = jnp.concatenate([new[:linear], jnp.clip(new[linear:], low, high)])
            new_r = misfit(new)
            better = jnp.sum(new_r**2) <= jnp.sum(r**2)  # False for NaN
            p, r = jnp.where(better, new, p), jnp.where(better, new_r, r)
            return (p, r, jnp.where(better, 0.2 * damping, jnp.minimum(5 * damping, 1e6))), None

        (p, r, _), _ = jax.lax.scan(step, (p, misfit(p), jnp.asarray(1e-2, real)), None, length=steps)
        jacobian = jax.jacfwd(misfit)(p)
        gram = jacobian.T @ jacobian
        scale = jnp.sqrt(jnp.diag(gram) + eps)
        inverse = jnp.linalg.inv(gram / scale[:, None] / scale + 1e-9 * jnp.eye(p.size, dtype=real)) / scale[:, None] / scale
        freedom = max(1, r.size - p.size)
        variance = jnp.sum(r**2) / freedom
        deviation = jnp.sqrt(jnp.maximum(jnp.diag(inverse) * variance, 0))
        amplitude = jax.lax.complex(p[0], p[1]) if is_complex else p[0]
        residual = jnp.sqrt(jnp.mean(r**2)) / (jnp.sqrt(jnp.mean(jnp.abs(y) ** 2)) + eps)
        return p[linear:], amplitude, deviation[linear:], residual

    return jax.vmap(one)(data, extra)


def _settings(name, value, images):
    """The settings of the measurements, as a tuple: times in s, flip angles in rad."""
    value = np.asarray(check.array(name, value), np.float64)
    check.ndim(name, value, 1, "[measurement]")
    check.finite(name, value)
    if len(np.unique(value)) < 2:
        check.fail(name, "at least 2 different values", str(value.tolist()))
    angles = name == "flip"
    check.minimum(name, value, 0.0, remedy="Give radians." if angles else "Give seconds from the excitation.")
    count = np.shape(images)[0] if np.ndim(images) else 0
    if count != len(value):
        expected = f"{len(value)} images [{name}, ...], one for each value of {name}"
        check.fail("images", expected, f"shape {tuple(np.shape(images))}", "The first axis is that of the measurements.")
    if angles:
        check.plausible(name, value, 2 * math.pi, "radians", "If they are degrees, multiply by π/180.")
    else:
        check.plausible(name, value, 2.0 if name == "te" else 60.0, "seconds", "If they are ms, divide by 1000.")
    return tuple(float(v) for v in value)


def _logarithmic(fit):
    """From log θ to θ: times are positive, and their errors relative."""
    value = jnp.where(fit.valid, jnp.exp(fit.parameters[0]), 0)
    return Fit(value, fit.amplitude, fit.deviation[0] * value, fit.residual, fit.valid)


@functools.lru_cache(maxsize=32)
def _recovery(times, repetition):
    def curve(theta, extra):
        t = jnp.asarray(times, theta.dtype)
        return inversion_recovery(1.0, jnp.exp(theta[0]), ti=t, tr=repetition)

    return curve


def fit_t1_inversion_recovery(
    images: Any, ti: Any, *, tr: float = np.inf, magnitude: bool = False, noise: Any = 0.0, **options: Any
) -> Fit:
    """T1 (s) from inversion-recovery images ``[ti, ...]``: M₀ (1 − 2e^{−TI/T1} + e^{−TR/T1}); ``parameters`` is the T1 map ``[...]``.

    Args:
        images: complex, signed, or magnitudes (``magnitude=True``). ti: ``[ti]`` s. tr: s. noise, options: as for ``fit_signal``.
    """
    ti = _settings("ti", ti, images)
    grid = np.log(np.geomspace(0.05, 6.0, 48))
    return _logarithmic(fit_signal(_recovery(ti, float(tr)), images, grid, magnitude=magnitude, noise=noise, **options))


@functools.lru_cache(maxsize=32)
def _variable_flip(angles, repetition):
    def curve(theta, extra):
        a = jnp.asarray(angles, theta.dtype) * (1.0 if extra is None else extra)
        e1 = jnp.exp(-repetition * jnp.exp(-theta[0]))
        return jnp.sin(a) * (1 - e1) / (1 - e1 * jnp.cos(a))

    return curve


def fit_t1_variable_flip_angle(
    images: Any, flip: Any, tr: float, *, b1: Any = None, magnitude: bool = False, noise: Any = 0.0, **options: Any
) -> Fit:
    """T1 (s) from spoiled gradient echoes ``[flip, ...]`` of several flip angles (rad); ``b1``: map of their factor.

    R. K. Gupta, J. Magn. Reson. 25 (1977) 231; S. C. L. Deoni et al., Magn. Reson. Med. 49 (2003) 515.
    """
    flip = _settings("flip", flip, images)
    check.minimum("tr", tr, 0.0, strict=True, remedy="Give seconds.")
    grid = np.log(np.geomspace(0.05, 6.0, 48))
    return _logarithmic(fit_signal(_variable_flip(flip, float(tr)), images, grid, extras=b1, magnitude=magnitude, noise=noise, **options))


@functools.lru_cache(maxsize=32)
def _decay(times):
    def curve(theta, extra):
        return jnp.exp(-jnp.asarray(times, theta.dtype) * jnp.exp(-theta[0]))

    return curve


def fit_t2_multi_echo(images: Any, te: Any, *, magnitude: bool = False, noise: Any = 0.0, **options: Any) -> Fit:
    """T2 (s) from spin echoes (T2* from gradient echoes) ``[te, ...]``: M₀ e^{−TE/T2}; ``parameters`` is the T2 map ``[...]``."""
    te = _settings("te", te, images)
    grid = np.log(np.geomspace(2e-3, 4.0, 48))
    return _logarithmic(fit_signal(_decay(te), images, grid, magnitude=magnitude, noise=noise, **options))


@functools.lru_cache(maxsize=32)
def _precession(times):
    def curve(theta, extra):
        t = jnp.asarray(times, theta.dtype) - times[0]
        return jnp.exp(-theta[1] * t) * jnp.exp(-1j * theta[0] * t)

    return curve


def fit_b0(images: Any, te: Any, **options: Any) -> Fit:
    """Off-resonance ω (rad/s) and R2* (1/s) from complex gradient echoes ``[te, ...]``: c e^{−(R2* + iω)TE}, without unwrapping phases.

    ``parameters`` is ``[2, ...]``, (ω, R2*). ω is unique within ± π over the shortest echo spacing; R2* up to 220/s.
    """
    te = _settings("te", te, images)
    if not jnp.iscomplexobj(jnp.asarray(images)):
        check.fail("images", "complex echoes", "real ones", "Magnitudes do not show the field.")
    limit = np.pi / np.min(np.diff(np.sort(te)))
    count = 4 * int(np.ceil(np.ptp(te) / np.min(np.diff(np.sort(te))))) + 9
    # rates from −20 to 220: around 0 noise makes some negative, and leaving those out would bias the rest
    omega, rate = np.meshgrid(np.linspace(-limit, limit, count), [0.0, 15.0, 60.0, 200.0], indexing="ij")
    return fit_signal(_precession(te), images, np.stack([omega.ravel(), rate.ravel()], -1), **options)


@functools.lru_cache(maxsize=32)
def _sines(angles):
    def curve(theta, extra):
        return jnp.sin(jnp.asarray(angles, theta.dtype) * theta[0])

    return curve


def fit_b1(images: Any, flip: Any, *, magnitude: bool = False, noise: Any = 0.0, **options: Any) -> Fit:
    """The factor of the flip angles (1 where they are as nominal) from fully relaxed images ``[flip, ...]`` ∝ sin(B₁ · flip), e.g. at α
    and 2α (double angle).

    E. K. Insko and L. Bolinger, J. Magn. Reson. A 103 (1993) 82.
    """
    flip = _settings("flip", flip, images)
    grid = np.linspace(0.3, min(1.9, 0.95 * np.pi / max(flip)), 33)
    fit = fit_signal(_sines(flip), images, grid, magnitude=magnitude, noise=noise, **options)
    return Fit(fit.parameters[0], fit.amplitude, fit.deviation[0], fit.residual, fit.valid)
