"""Forward models: operators, their algebra, and geometries."""

from diffimg.forward import xray
from diffimg.forward.algebra import Adjoint, Compose, Linearized, Normal, Scaled, Stack, Sum
from diffimg.forward.basic import Diagonal, Function, Identity, Matrix
from diffimg.forward.bloch import Simulation, Spins, simulate
from diffimg.forward.blur import Blur, gaussian_psf, transfer_function, wiener
from diffimg.forward.channelwise import Channelwise
from diffimg.forward.coil_maps import CoilMaps
from diffimg.forward.cone_beam import ConeBeam, Helical
from diffimg.forward.fan_beam import FanBeam
from diffimg.forward.fourier import MaskedFFT, fft, ifft
from diffimg.forward.frames import Frames
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.isochromats import isochromats
from diffimg.forward.modular import Modular
from diffimg.forward.nuclei import NUCLEI, Nucleus, bulk_magnetization, larmor_frequency, polarization
from diffimg.forward.nufft import NUFFT
from diffimg.forward.off_resonance import OffResonance, off_resonance
from diffimg.forward.operator import Operator
from diffimg.forward.phase_graph import phase_graph
from diffimg.forward.phase_retrieval import CodedDiffraction, PhaseRetrieval
from diffimg.forward.poses import Poses
from diffimg.forward.radon import Radon
from diffimg.forward.sampling import Crop, Downsample, Inpaint
from diffimg.forward.sequence import Sequence
from diffimg.forward.sharded import Sharded
from diffimg.forward.spins import flux, precess, received_voltage, thermal_ensemble, torque
from diffimg.forward.stencil import Gradient, Laplacian
from diffimg.forward.wavelet import Wavelet
from diffimg.forward.xray_scatter import ScatterKernel
from diffimg.forward.xray_transmission import PolyenergeticTransmission

__all__ = [
    "NUCLEI",
    "NUFFT",
    "Adjoint",
    "Blur",
    "Channelwise",
    "CodedDiffraction",
    "CoilMaps",
    "Compose",
    "ConeBeam",
    "Crop",
    "Diagonal",
    "Downsample",
    "FanBeam",
    "Frames",
    "Function",
    "Gradient",
    "Helical",
    "Identity",
    "Inpaint",
    "Laplacian",
    "Linearized",
    "MaskedFFT",
    "Matrix",
    "Modular",
    "Normal",
    "Nucleus",
    "OffResonance",
    "Operator",
    "ParallelBeam",
    "PhaseRetrieval",
    "PolyenergeticTransmission",
    "Poses",
    "Radon",
    "Scaled",
    "ScatterKernel",
    "Sequence",
    "Sharded",
    "Simulation",
    "Spins",
    "Stack",
    "Sum",
    "Wavelet",
    "bulk_magnetization",
    "fft",
    "flux",
    "gaussian_psf",
    "ifft",
    "isochromats",
    "larmor_frequency",
    "off_resonance",
    "phase_graph",
    "polarization",
    "precess",
    "received_voltage",
    "simulate",
    "thermal_ensemble",
    "torque",
    "transfer_function",
    "wiener",
    "xray",
]
