"""Forward models: operators, their algebra, and geometries."""

from diffimg.forward.algebra import Adjoint, Compose, Linearized, Normal, Scaled, Stack, Sum
from diffimg.forward.basic import Diagonal, Function, Identity, Matrix
from diffimg.forward.blur import Blur, gaussian_psf, transfer_function, wiener
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.operator import Operator
from diffimg.forward.phase_retrieval import CodedDiffraction, PhaseRetrieval
from diffimg.forward.radon import Radon
from diffimg.forward.sampling import Downsample, Inpaint
from diffimg.forward.stencil import Gradient, Laplacian
from diffimg.forward.wavelet import Wavelet

__all__ = [
    "Adjoint",
    "Blur",
    "CodedDiffraction",
    "Compose",
    "Diagonal",
    "Downsample",
    "Function",
    "Gradient",
    "Identity",
    "Inpaint",
    "Laplacian",
    "Linearized",
    "Matrix",
    "Normal",
    "Operator",
    "ParallelBeam",
    "PhaseRetrieval",
    "Radon",
    "Scaled",
    "Stack",
    "Sum",
    "Wavelet",
    "gaussian_psf",
    "transfer_function",
    "wiener",
]
