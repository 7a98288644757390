"""Magnetic resonance imaging: from spins to k-space to images."""

from diffimg.mri.contrast import (
    balanced_ssfp,
    ernst_angle,
    inversion_recovery,
    multi_echo,
    saturation_recovery,
    spin_echo,
    spoiled_gradient_echo,
)
from diffimg.mri.density import density_compensation
from diffimg.mri.tissue import TISSUES, Tissue, tissues

__all__ = [
    "TISSUES",
    "Tissue",
    "balanced_ssfp",
    "density_compensation",
    "ernst_angle",
    "inversion_recovery",
    "multi_echo",
    "saturation_recovery",
    "spin_echo",
    "spoiled_gradient_echo",
    "tissues",
]
