"""X-ray computed tomography."""

from diffimg.ct.exchange import read_exchange
from diffimg.ct.fbp import angular_weights, backproject, fbp, ramp_filter, ramp_response
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
from diffimg.ct.iterative import cgls, fista_tv, mlem, os_sart, osem, pwls, sart, sirt
from diffimg.ct.rebin import rebin
from diffimg.ct.sinogram_file import SinogramFile, read_sinogram, write_sinogram
from diffimg.ct.tissues import TISSUES, Tissue, colours, label_map, membership
from diffimg.ct.transmission import local_contrast, log_transform, measured_snr, snr, swank_factor

__all__ = [
    "TISSUES",
    "Acquisition",
    "SinogramFile",
    "Tissue",
    "angular_weights",
    "attenuation",
    "backproject",
    "cgls",
    "colours",
    "fbp",
    "fifth_generation",
    "first_generation",
    "fista_tv",
    "fourth_generation",
    "hounsfield",
    "label_map",
    "local_contrast",
    "log_transform",
    "measured_snr",
    "membership",
    "mlem",
    "os_sart",
    "osem",
    "pwls",
    "ramp_filter",
    "ramp_response",
    "read_exchange",
    "read_sinogram",
    "rebin",
    "sart",
    "second_generation",
    "seventh_generation",
    "sirt",
    "sixth_generation",
    "snr",
    "swank_factor",
    "third_generation",
    "write_sinogram",
]
