"""What a detector makes of photons: response to energy, energy bins, penumbra of the focal spot."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.xray_attenuation import Material, linear_attenuation
from diffimg.forward.xray_photon import floating, positive


def absorption_efficiency(material: str | Material, thickness: Any, energies: Any) -> jax.Array:
    """1 − exp(−μ(E)·thickness), ``[E]``: the fraction of photons that interact in ``thickness`` mm of scintillator or semiconductor."""
    thickness = positive("thickness", thickness, "In mm.")
    exponent = linear_attenuation(material, energies)
    return -jnp.expm1(-exponent * thickness.astype(exponent.dtype))


def energy_integrating(energies: Any, efficiency: Any = 1.0) -> jax.Array:
    """Response of an energy-integrating detector, keV per photon ``[E]``: E · efficiency.

    Args:
        energies: keV, ``[E]``.
        efficiency: fraction of the energy that is detected, a number or ``[E]`` (``absorption_efficiency``).
    """
    energies, efficiency = positive("energies", energies), _efficiency(efficiency)
    return energies * efficiency.astype(energies.dtype)


def photon_counting(energies: Any, thresholds: Any = None, efficiency: Any = 1.0, resolution: Any = 0.0) -> jax.Array:
    """Response of a photon-counting detector: the probability that a photon is counted, ``[E]``, or in each bin, ``[bin, E]``.

    Without thresholds every photon counts one, which does *not* remove beam hardening; bins (or a polyenergetic model) do.

    Args:
        energies: keV, ``[E]``.
        thresholds: keV, increasing: bin b holds the pulses from thresholds[b] to thresholds[b + 1], the last one all above it.
        efficiency: a number or ``[E]``.
        resolution: full width at half maximum (keV) of the pulse heights, a number or ``[E]``, Gaussian. With a positive one the response
            is differentiable in the thresholds. Pile-up, charge sharing and fluorescence escape are not modelled.
    """
    energies, efficiency = positive("energies", energies), _efficiency(efficiency)
    efficiency = jnp.broadcast_to(efficiency.astype(energies.dtype), energies.shape)
    if thresholds is None:
        return efficiency
    thresholds = floating("thresholds", thresholds)
    check.ndim("thresholds", thresholds, 1, "[bin]")
    if check.is_concrete(thresholds):
        check.minimum("thresholds", thresholds, 0.0)
        check.minimum("differences of thresholds", np.diff(np.asarray(thresholds)), 0.0, strict=True, remedy="Sort the thresholds, in keV.")
    width = floating("resolution", resolution)
    check.minimum("resolution", width, 0.0)
    sigma = jnp.asarray(width / 2.3548200450309493, energies.dtype)
    above = energies - jnp.asarray(thresholds, energies.dtype)[:, None]
    sharp = sigma == 0
    smooth = jax.scipy.stats.norm.cdf(above / jnp.where(sharp, 1, sigma))
    passed = jnp.where(sharp, (above >= 0).astype(energies.dtype), smooth)
    return efficiency * (passed - jnp.concatenate([passed[1:], jnp.zeros_like(passed[:1])]))


def penumbra(focal_spot: Any, magnification: Any) -> jax.Array:
    """f · (M − 1): width (mm, at the detector) of the blurred edge of an object at magnification M = source–detector / source–object."""
    magnification = floating("magnification", magnification)
    check.minimum("magnification", magnification, 1.0, remedy="The object is between source and detector.")
    return positive("focal_spot", focal_spot) * (magnification - 1)


def focal_spot_psf(focal_spot: Any, magnification: Any, spacing: Any, size: int) -> jax.Array:
    """The blur of a uniform focal spot at one magnification: a box of width f·(M − 1), exact over detector cells, ``[size]``, sum 1.

    It acts on intensities, before the logarithm: ``Blur(psf[None], sinogram_shape) @ physics``. In CT, where the magnification varies along
    the ray, M at the rotation axis is the customary approximation. A Gaussian detector blur: ``gaussian_psf``.

    Args:
        focal_spot: effective width, mm, traced.
        magnification: ≥ 1, traced.
        spacing: of the detector cells, mm.
        size: number of cells, odd; the box must fit into it.
    """
    size = check.positive_int("size", size)
    if size % 2 == 0:
        check.fail("size", "an odd number of cells", f"{size}", "An even PSF shifts the data by half a cell.")
    width = penumbra(focal_spot, magnification) / positive("spacing", spacing)
    if check.is_concrete(width) and float(width) > size:
        check.fail("size", f"at least {float(width):.3g} cells, the penumbra", f"{size}")
    half = jnp.maximum(width, 1e-3) / 2
    cell = jnp.arange(size, dtype=width.dtype) - size // 2
    overlap = jnp.minimum(cell + 0.5, half) - jnp.maximum(cell - 0.5, -half)
    return jnp.maximum(overlap, 0) / (2 * half)


def _efficiency(value):
    value = floating("efficiency", value)
    check.minimum("efficiency", value, 0.0)
    if check.is_concrete(value) and bool(np.any(np.asarray(value) > 1)):
        check.fail("efficiency", "fractions from 0 to 1", f"up to {float(np.max(np.asarray(value))):g}")
    return value
