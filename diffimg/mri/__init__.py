"""Magnetic resonance imaging: from spins to k-space to images."""

from diffimg.forward.bloch import Simulation, Spins, simulate
from diffimg.forward.isochromats import isochromats
from diffimg.forward.nuclei import NUCLEI, Nucleus, bulk_magnetization, larmor_frequency, polarization
from diffimg.forward.phase_graph import phase_graph, spin_echo_train, spoiled_train
from diffimg.forward.sequence import Sequence
from diffimg.forward.spins import precess, received_voltage, thermal_ensemble, torque
from diffimg.mri import sampling, sequences, trajectories
from diffimg.mri.analytic import ellipses_kspace
from diffimg.mri.coils import (
    combine,
    compression_matrix,
    mix_coils,
    noise_covariance,
    root_sum_of_squares,
    simulated_coils,
    unit_maps,
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
from diffimg.mri.greedy_sampling import greedy_lines
from diffimg.mri.learned_sampling import LearnedMask, SplineTrajectory
from diffimg.mri.noise_amplification import combined_image, full_deviation, grappa_g_factor, replica_deviation, sense_g_factor
from diffimg.mri.phantom import TEST_SLICES, TRAIN_SLICES, BrainPhantom, acquire, brain, reference
from diffimg.mri.point_spread import PointSpread, point_spread
from diffimg.mri.pulse_design import Design, design_pulse
from diffimg.mri.pulses import Pulse, excitation, gaussian_pulse, hard_pulse, sinc_pulse, slice_gradient, slice_profile
from diffimg.mri.quantitative import (
    Fit,
    fit_b0,
    fit_b1,
    fit_signal,
    fit_t1_inversion_recovery,
    fit_t1_variable_flip_angle,
    fit_t2_multi_echo,
)
from diffimg.mri.raki import Raki, raki
from diffimg.mri.reconstruction import coil_images, compressed_sensing, low_rank, sense, zero_filled
from diffimg.mri.sequences import Acquisition, kspace_path, kspace_trajectory, voxel_spins
from diffimg.mri.spirit import Consistency, spirit, spirit_consistency, spirit_kernel
from diffimg.mri.tissue import TISSUES, Tissue, tissues

__all__ = [
    "NUCLEI",
    "TEST_SLICES",
    "TISSUES",
    "TRAIN_SLICES",
    "Acquisition",
    "BrainPhantom",
    "Consistency",
    "Design",
    "Fit",
    "GrappaKernel",
    "LearnedMask",
    "Nucleus",
    "PointSpread",
    "Pulse",
    "Raki",
    "Sequence",
    "Simulation",
    "Spins",
    "SplineTrajectory",
    "Tissue",
    "Undersampling",
    "acquire",
    "balanced_ssfp",
    "brain",
    "bulk_magnetization",
    "calibrate",
    "calibration_images",
    "calibration_region",
    "coil_images",
    "combine",
    "combined_image",
    "compressed_sensing",
    "compression_matrix",
    "density_compensation",
    "design_pulse",
    "ellipses_kspace",
    "ernst_angle",
    "espirit",
    "excitation",
    "fill",
    "fit_b0",
    "fit_b1",
    "fit_signal",
    "fit_t1_inversion_recovery",
    "fit_t1_variable_flip_angle",
    "fit_t2_multi_echo",
    "full_deviation",
    "gaussian_pulse",
    "grappa",
    "grappa_g_factor",
    "greedy_lines",
    "hard_pulse",
    "inversion_recovery",
    "isochromats",
    "kspace_path",
    "kspace_trajectory",
    "larmor_frequency",
    "low_rank",
    "mix_coils",
    "multi_echo",
    "noise_covariance",
    "phase_graph",
    "point_spread",
    "polarization",
    "precess",
    "raki",
    "received_voltage",
    "reference",
    "replica_deviation",
    "root_sum_of_squares",
    "sampling",
    "saturation_recovery",
    "sense",
    "sense_g_factor",
    "sequences",
    "simulate",
    "simulated_coils",
    "sinc_pulse",
    "slice_gradient",
    "slice_profile",
    "spin_echo",
    "spin_echo_train",
    "spirit",
    "spirit_consistency",
    "spirit_kernel",
    "spoiled_gradient_echo",
    "spoiled_train",
    "thermal_ensemble",
    "tissues",
    "torque",
    "trajectories",
    "undersampling",
    "unit_maps",
    "voxel_spins",
    "walsh",
    "whitening_matrix",
    "zero_filled",
]
