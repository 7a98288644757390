"""Magnetic resonance imaging: from spins to k-space to images."""

from diffimg.mri import sampling, trajectories
from diffimg.mri.analytic import ellipses_kspace
from diffimg.mri.coils import (
    combine,
    compression_matrix,
    mix_coils,
    noise_covariance,
    root_sum_of_squares,
    simulated_coils,
    whitening_matrix,
)
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
from diffimg.mri.espirit import calibration_images, calibration_region, espirit, walsh
from diffimg.mri.grappa import GrappaKernel, Undersampling, calibrate, fill, grappa, undersampling
from diffimg.mri.noise_amplification import combined_image, full_deviation, grappa_g_factor, replica_deviation, sense_g_factor
from diffimg.mri.phantom import TEST_SLICES, TRAIN_SLICES, BrainPhantom, acquire, brain, reference
from diffimg.mri.point_spread import PointSpread, point_spread
from diffimg.mri.raki import Raki, raki
from diffimg.mri.reconstruction import coil_images, compressed_sensing, low_rank, sense, zero_filled
from diffimg.mri.spirit import Consistency, spirit, spirit_consistency, spirit_kernel
from diffimg.mri.tissue import TISSUES, Tissue, tissues

__all__ = [
    "TEST_SLICES",
    "TISSUES",
    "TRAIN_SLICES",
    "BrainPhantom",
    "Consistency",
    "GrappaKernel",
    "PointSpread",
    "Raki",
    "Tissue",
    "Undersampling",
    "acquire",
    "balanced_ssfp",
    "brain",
    "calibrate",
    "calibration_images",
    "calibration_region",
    "coil_images",
    "combine",
    "combined_image",
    "compressed_sensing",
    "compression_matrix",
    "density_compensation",
    "ellipses_kspace",
    "ernst_angle",
    "espirit",
    "fill",
    "full_deviation",
    "grappa",
    "grappa_g_factor",
    "inversion_recovery",
    "low_rank",
    "mix_coils",
    "multi_echo",
    "noise_covariance",
    "point_spread",
    "raki",
    "reference",
    "replica_deviation",
    "root_sum_of_squares",
    "sampling",
    "saturation_recovery",
    "sense",
    "sense_g_factor",
    "simulated_coils",
    "spin_echo",
    "spirit",
    "spirit_consistency",
    "spirit_kernel",
    "spoiled_gradient_echo",
    "tissues",
    "trajectories",
    "undersampling",
    "walsh",
    "whitening_matrix",
    "zero_filled",
]
