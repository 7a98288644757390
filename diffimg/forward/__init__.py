"""Forward models: operators, their algebra, and geometries."""

from diffimg.forward import xray
from diffimg.forward.algebra import Adjoint, Compose, Linearized, Normal, Scaled, Stack, Sum
from diffimg.forward.basic import Diagonal, Function, Identity, Matrix
from diffimg.forward.bloch import Simulation, Spins, simulate
from diffimg.forward.blur import Blur, gaussian_psf, transfer_function, wiener
from diffimg.forward.channelwise import Channelwise
from diffimg.forward.coil_maps import CoilMaps
from diffimg.forward.cone_beam import ConeBeam, Helical
from diffimg.forward.deformation import DisplacementField, FreeForm, Inverse, VelocityField, invert
from diffimg.forward.fan_beam import FanBeam
from diffimg.forward.fourier import MaskedFFT, fft, ifft
from diffimg.forward.frames import Frames
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.implicit import Siren
from diffimg.forward.interpolation import interpolate
from diffimg.forward.isochromats import isochromats
from diffimg.forward.linear_transform import Affine, LinearTransform, Rigid, Similarity, Translation, rotation_matrix, rotation_vector
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
from diffimg.forward.spline import bspline, spline_coefficients
from diffimg.forward.spline_fit import Spline, fit_spline, smoothing_spline
from diffimg.forward.spline_lattice import spline_lattice
from diffimg.forward.stencil import Gradient, Laplacian
from diffimg.forward.thin_plate import ThinPlate, thin_plate_spline
from diffimg.forward.transform import Composition, Transform
from diffimg.forward.warp import Warp, warp
from diffimg.forward.wavelet import Wavelet
from diffimg.forward.xray_scatter import ScatterKernel
from diffimg.forward.xray_transmission import PolyenergeticTransmission

__all__ = [
    "NUCLEI",
    "NUFFT",
    "Adjoint",
    "Affine",
    "Blur",
    "Channelwise",
    "CodedDiffraction",
    "CoilMaps",
    "Compose",
    "Composition",
    "ConeBeam",
    "Crop",
    "Diagonal",
    "DisplacementField",
    "Downsample",
    "FanBeam",
    "Frames",
    "FreeForm",
    "Function",
    "Gradient",
    "Helical",
    "Identity",
    "Inpaint",
    "Inverse",
    "Laplacian",
    "LinearTransform",
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
    "Rigid",
    "Scaled",
    "ScatterKernel",
    "Sequence",
    "Sharded",
    "Similarity",
    "Simulation",
    "Siren",
    "Spins",
    "Spline",
    "Stack",
    "Sum",
    "ThinPlate",
    "Transform",
    "Translation",
    "VelocityField",
    "Warp",
    "Wavelet",
    "bspline",
    "bulk_magnetization",
    "fft",
    "fit_spline",
    "flux",
    "gaussian_psf",
    "ifft",
    "interpolate",
    "invert",
    "isochromats",
    "larmor_frequency",
    "off_resonance",
    "phase_graph",
    "polarization",
    "precess",
    "received_voltage",
    "rotation_matrix",
    "rotation_vector",
    "simulate",
    "smoothing_spline",
    "spline_coefficients",
    "spline_lattice",
    "thermal_ensemble",
    "thin_plate_spline",
    "torque",
    "transfer_function",
    "warp",
    "wiener",
    "xray",
]
