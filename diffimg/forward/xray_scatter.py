"""Scattered radiation: a differentiable kernel model, Klein–Nishina kernels, anti-scatter grids, broad-beam build-up."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.lengths import fast_length
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator
from diffimg.forward.xray_photon import floating, klein_nishina, klein_nishina_total, positive


@pytree
class ScatterKernel(Operator):
    """P ↦ T_p·P + T_s·S(P): primary readings with the scatter that they cause.

    Kernel superposition, S = kernel ∗ (A · P · (P/I₀)^α · ln(I₀/P)^β): M. Sun, J. M. Star-Lack, Phys. Med. Biol. 55, 6695 (2010), with the
    double-Gaussian kernel of the same authors (``double_gaussian_kernel``). With α = 0 and β = 1 the amplitude is the number of first
    interactions in the ray (B. Ohnesorge, T. Flohr, K. Klingenbeck-Regn, Eur. Radiol. 9, 563, 1999) and ``klein_nishina_kernel`` says where
    they land. Readings, not logarithms; every parameter is traced.

    Args:
        kernel: scatter per unit amplitude, ``[column]`` or ``[row, column]``, odd lengths, of any size: as many last axes are blurred.
        shape: of one measurement, e.g. ``[view, column]`` or ``[view, row, column]``.
        amplitude: A ≥ 0. α: ``alpha``, β: ``beta`` > 0.
        flat: I₀, the unattenuated reading, a number or broadcasting to ``shape``.
        primary_transmission, scatter_transmission: T_p and T_s of an anti-scatter grid or collimator (1 and 1: none).

    Raises:
        ValueError: shapes that do not fit, parameters out of range, zero or negative ``flat``.
    """

    linear: ClassVar[bool] = False

    kernel: Any
    shape: tuple[int, ...] = static()
    amplitude: Any = 1.0
    alpha: Any = 0.0
    beta: Any = 1.0
    flat: Any = 1.0
    primary_transmission: Any = 1.0
    scatter_transmission: Any = 1.0

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(check.positive_int("shape", n) for n in self.shape))
        kernel = floating("kernel", self.kernel)
        if kernel.ndim not in (1, 2) or kernel.ndim > len(self.shape):
            check.fail("kernel", f"[column] or [row, column], no more axes than {self.shape}", f"shape {kernel.shape}")
        if any(n % 2 == 0 for n in kernel.shape):
            check.fail("kernel", "odd lengths", f"shape {kernel.shape}", "An even kernel shifts the scatter by half a cell.")
        check.minimum("kernel", kernel, 0.0)
        check.minimum("amplitude", floating("amplitude", self.amplitude), 0.0)
        floating("alpha", self.alpha)
        positive("beta", self.beta)
        positive("flat", self.flat, "Without incident photons there is no transmission.")
        for name in ("primary_transmission", "scatter_transmission"):
            value = floating(name, getattr(self, name))
            check.minimum(name, value, 0.0)
            if check.is_concrete(value) and bool(np.any(np.asarray(value) > 1)):
                check.fail(name, "a fraction from 0 to 1", f"{value!r}")
        object.__setattr__(self, "kernel", kernel)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.shape, jax.dtypes.canonicalize_dtype(self.kernel.dtype))

    def __call__(self, primary):
        t_p, t_s = (jnp.asarray(t, primary.dtype) for t in (self.primary_transmission, self.scatter_transmission))
        return t_p * primary + t_s * self.scatter(primary)

    def scatter(self, primary: jax.Array) -> jax.Array:
        """S(P) in front of the grid, ``[..., *shape]``."""
        amplitude, alpha, beta, flat = (jnp.asarray(v, primary.dtype) for v in (self.amplitude, self.alpha, self.beta, self.flat))
        # readings ≤ 0 scatter nothing, rays without an object neither; both stay differentiable
        lit = primary > 0
        log = jnp.log(flat / jnp.where(lit, primary, flat))
        hit = lit & (log > 0)
        safe = jnp.where(hit, log, 1.0)
        source = jnp.where(hit, amplitude * primary * jnp.exp(-alpha * safe + beta * jnp.log(safe)), 0)
        return _convolve(source, jnp.asarray(self.kernel, primary.dtype))

    def scatter_to_primary(self, primary: jax.Array) -> jax.Array:
        """SPR behind the grid, T_s·S / (T_p·P), for readings P > 0."""
        return self.scatter_transmission * self.scatter(primary) / (self.primary_transmission * primary)


def double_gaussian_kernel(sigma_narrow: Any, sigma_broad: Any, broad_weight: Any, spacing: Any, size: int | tuple[int, ...]) -> jax.Array:
    """exp(−r²/2σ₁²) + B·exp(−r²/2σ₂²) on detector cells, of sum 1: ``[size]`` or ``[row, column]``; σ and ``spacing`` in mm."""
    narrow, broad = positive("sigma_narrow", sigma_narrow), positive("sigma_broad", sigma_broad)
    weight = floating("broad_weight", broad_weight)
    check.minimum("broad_weight", weight, 0.0)
    r2 = sum(v**2 for v in _offsets(spacing, size))
    kernel = jnp.exp(-r2 / (2 * narrow**2)) + weight * jnp.exp(-r2 / (2 * broad**2))
    return kernel / jnp.sum(kernel)


def klein_nishina_kernel(
    energy: Any, air_gap: Any, spacing: Any, size: int | tuple[int, ...], row_height: Any = None, grid_ratio: Any = 0.0
) -> jax.Array:
    """Where Compton photons land: probability per cell for a photon scattered once, ``air_gap`` mm before the detector.

    (1/σ)(dσ/dΩ)(θ) · cos³θ / g² · cell area with r = g·tan θ, g the gap. No absorption on the way out and no second scattering: the
    sum, below 1, bounds the fraction of scattered photons that is detected. It falls as 1/g², which is the air-gap technique.

    Args:
        energy: keV (of a spectrum: its mean behind the object).
        air_gap: mm from the scattering point to the detector (in CT customarily from the axis).
        spacing: of the cells, mm; one number or one an axis.
        size: cells, odd: an int for one detector row, or ``(rows, columns)``.
        row_height: mm, of a single row (``size`` an int): the collimation along the axis; by default ``spacing``.
        grid_ratio: height over gap of ideal septa that stand between the columns: admits a fraction 1 − ratio·|tan θ_column|.
    """
    energy, gap = positive("energy", energy), positive("air_gap", air_gap)
    ratio = floating("grid_ratio", grid_ratio)
    check.minimum("grid_ratio", ratio, 0.0)
    offsets = _offsets(spacing, size)
    step = _step(spacing, len(offsets))
    other = step[-1] if row_height is None else positive("row_height", row_height)
    return _landing(energy, gap, tuple(offsets), step[0] * (other if len(offsets) == 1 else step[1]), ratio)


@jax.jit
def _landing(energy, gap, offsets, area, grid_ratio):
    tangent2 = sum(v**2 for v in offsets) / gap**2
    cosine = jax.lax.rsqrt(1 + tangent2)
    angle = jnp.where(tangent2 > 0, jnp.arctan(jnp.sqrt(jnp.where(tangent2 > 0, tangent2, 1.0))), 0)
    density = klein_nishina(energy, angle) / klein_nishina_total(energy) * cosine**3 / gap**2
    admitted = jnp.maximum(1 - grid_ratio * jnp.abs(offsets[-1]) / gap, 0)
    return density * admitted * area


def grid_performance(primary_transmission: Any, scatter_transmission: Any, scatter_to_primary: Any) -> dict[str, jax.Array]:
    """Selectivity Σ = T_p/T_s, contrast improvement K = T_p/T_t and Bucky factor B = 1/T_t of an anti-scatter grid (IEC 60627).

    ``scatter_to_primary`` is the ratio in front of the grid; T_t = (T_p + SPR·T_s)/(1 + SPR) the transmission of all radiation.
    """
    t_p, t_s = positive("primary_transmission", primary_transmission), positive("scatter_transmission", scatter_transmission)
    spr = floating("scatter_to_primary", scatter_to_primary)
    check.minimum("scatter_to_primary", spr, 0.0)
    total = (t_p + spr * t_s) / (1 + spr)
    return {"selectivity": t_p / t_s, "contrast_improvement": t_p / total, "bucky_factor": 1 / total}


def buildup_factor(optical_depth: Any, a: Any, b: Any = 0.0) -> jax.Array:
    """B = 1 + a·μx·e^{b·μx}: broad-beam over narrow-beam intensity, I = B·I₀·e^{−μx}; B − 1 is the scatter-to-primary ratio.

    M. J. Berger's form (1956). ``a`` and ``b`` depend on energy, material and field; a narrow (collimated) beam has a = 0.
    """
    depth = floating("optical_depth", optical_depth)
    return 1 + a * depth * jnp.exp(b * depth)


def _step(spacing, axes):
    step = positive("spacing", spacing)
    if step.ndim > 1 or step.size not in (1, axes):
        check.fail("spacing", f"1 or {axes} numbers (mm)", f"shape {step.shape}")
    return jnp.broadcast_to(step.ravel(), (axes,))


def _offsets(spacing, size):
    """Positions (mm) of the cells along each axis, broadcast against each other."""
    size = tuple(check.positive_int("size", n) for n in (size if isinstance(size, (tuple, list)) else (size,)))
    if len(size) > 2 or any(n % 2 == 0 for n in size):
        check.fail("size", "one or two odd numbers", f"{size}")
    step = _step(spacing, len(size))
    lines = [(jnp.arange(n, dtype=step.dtype) - n // 2) * step[k] for k, n in enumerate(size)]
    return lines if len(size) == 1 else [lines[0][:, None], lines[1]]


def _convolve(x, kernel):
    """Zero-padded convolution over the last axes, centred on an odd kernel of any length."""
    n = x.shape[x.ndim - kernel.ndim :]
    axes = tuple(range(-kernel.ndim, 0))
    shape = [fast_length(a + k - 1) for a, k in zip(n, kernel.shape, strict=True)]
    out = jnp.fft.irfftn(jnp.fft.rfftn(x, shape, axes) * jnp.fft.rfftn(kernel, shape), shape, axes)
    return out[(..., *(slice(k // 2, k // 2 + a) for a, k in zip(n, kernel.shape, strict=True)))]
