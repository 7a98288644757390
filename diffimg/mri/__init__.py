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
from diffimg.mri.phantom import TEST_SLICES, TRAIN_SLICES, BrainPhantom, acquire, brain, reference
from diffimg.mri.point_spread import PointSpread, point_spread
from diffimg.mri.reconstruction import coil_images, compressed_sensing, low_rank, sense, zero_filled
from diffimg.mri.tissue import TISSUES, Tissue, tissues

__all__ = [
    "TEST_SLICES",
    "TISSUES",
    "TRAIN_SLICES",
    "BrainPhantom",
    "PointSpread",
    "Tissue",
    "acquire",
    "balanced_ssfp",
    "brain",
    "calibration_images",
    "calibration_region",
    "coil_images",
    "combine",
    "compressed_sensing",
    "compression_matrix",
    "density_compensation",
    "ellipses_kspace",
    "ernst_angle",
    "espirit",
    "inversion_recovery",
    "low_rank",
    "mix_coils",
    "multi_echo",
    "noise_covariance",
    "point_spread",
    "reference",
    "root_sum_of_squares",
    "sampling",
    "saturation_recovery",
    "sense",
    "simulated_coils",
    "spin_echo",
    "spoiled_gradient_echo",
    "tissues",
    "trajectories",
    "walsh",
    "whitening_matrix",
    "zero_filled",
]
