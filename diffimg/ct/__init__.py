"""X-ray computed tomography."""

from diffimg.ct.beam_hardening import (
    MaterialPath,
    NegativeLog,
    cupping,
    equivalent_length,
    linearize,
    polyenergetic_integral,
    water_correction,
    water_polynomial,
)
from diffimg.ct.calibration import Calibration, calibrate
from diffimg.ct.decomposition import MaterialBasis, decompose, virtual_monoenergetic, whitened_basis
from diffimg.ct.exchange import read_exchange
from diffimg.ct.fbp import angular_weights, backproject, fbp
from diffimg.ct.fdk import fdk
from diffimg.ct.generations import (
    Acquisition,
    fifth_generation,
    first_generation,
    fourth_generation,
    second_generation,
    seventh_generation,
    sixth_generation,
    third_generation,
)
from diffimg.ct.hounsfield import attenuation, hounsfield
from diffimg.ct.iterative import cgls, fista_tv, mlem, os_sart, osem, poisson_tv, pwls, sart, sirt
from diffimg.ct.metal import interpolate_trace, metal_trace, normalized_interpolation, tissue_prior
from diffimg.ct.ramp import ramp_filter, ramp_response
from diffimg.ct.rebin import rebin
from diffimg.ct.rings import GainEstimate, estimate_gains, remove_stripes, stripe_offsets
from diffimg.ct.scan_weights import offset_weights, parker_weights, scan_weights
from diffimg.ct.sinogram_file import SinogramFile, read_sinogram, write_sinogram
from diffimg.ct.tissues import TISSUES, Tissue, colours, label_map, membership
from diffimg.ct.transmission import local_contrast, log_transform, measured_snr, snr, swank_factor
from diffimg.ct.truncation import extrapolate

__all__ = [
    "TISSUES",
    "Acquisition",
    "Calibration",
    "GainEstimate",
    "MaterialBasis",
    "MaterialPath",
    "NegativeLog",
    "SinogramFile",
    "Tissue",
    "angular_weights",
    "attenuation",
    "backproject",
    "calibrate",
    "cgls",
    "colours",
    "cupping",
    "decompose",
    "equivalent_length",
    "estimate_gains",
    "extrapolate",
    "fbp",
    "fdk",
    "fifth_generation",
    "first_generation",
    "fista_tv",
    "fourth_generation",
    "hounsfield",
    "interpolate_trace",
    "label_map",
    "linearize",
    "local_contrast",
    "log_transform",
    "measured_snr",
    "membership",
    "metal_trace",
    "mlem",
    "normalized_interpolation",
    "offset_weights",
    "os_sart",
    "osem",
    "parker_weights",
    "poisson_tv",
    "polyenergetic_integral",
    "pwls",
    "ramp_filter",
    "ramp_response",
    "read_exchange",
    "read_sinogram",
    "rebin",
    "remove_stripes",
    "sart",
    "scan_weights",
    "second_generation",
    "seventh_generation",
    "sirt",
    "sixth_generation",
    "snr",
    "stripe_offsets",
    "swank_factor",
    "third_generation",
    "tissue_prior",
    "virtual_monoenergetic",
    "water_correction",
    "water_polynomial",
    "whitened_basis",
    "write_sinogram",
]
