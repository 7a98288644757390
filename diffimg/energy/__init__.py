"""Energies: real functions of an image with gradient and proximal map."""

from diffimg.energy.base import ComposedEnergy, Energy, EnergySum, ScaledEnergy, Zero
from diffimg.energy.compound_poisson import CompoundPoisson
from diffimg.energy.data import GaussianLikelihood, LeastSquares
from diffimg.energy.deformation import (
    Bending,
    Curvature,
    Deformation,
    Diffusion,
    Elastic,
    Folding,
    VectorTotalVariation,
    VolumeChange,
    inverse_consistency,
)
from diffimg.energy.fields_of_experts import FieldsOfExperts
from diffimg.energy.filter_bank import dct_filters
from diffimg.energy.group import GroupL1
from diffimg.energy.learned import RED, Network, PlugAndPlay
from diffimg.energy.local_similarity import LNCC, MIND, NGF
from diffimg.energy.low_rank import NuclearNorm
from diffimg.energy.mutual_information import MutualInformation
from diffimg.energy.noise import Gaussian, Noise, Poisson, PoissonGaussian, Transmission
from diffimg.energy.poisson import PoissonLikelihood
from diffimg.energy.regularizers import H1, L1, Box, NonNegative, SquaredL2, Tikhonov, WaveletL1
from diffimg.energy.ridge import RidgeRegularizer
from diffimg.energy.similarity import NCC, SSD, Similarity, SimilarityTo
from diffimg.energy.smooth_tv import HuberTV, SmoothTV
from diffimg.energy.tv import DualState, TotalVariation

__all__ = [
    "H1",
    "L1",
    "LNCC",
    "MIND",
    "NCC",
    "NGF",
    "RED",
    "SSD",
    "Bending",
    "Box",
    "ComposedEnergy",
    "CompoundPoisson",
    "Curvature",
    "Deformation",
    "Diffusion",
    "DualState",
    "Elastic",
    "Energy",
    "EnergySum",
    "FieldsOfExperts",
    "Folding",
    "Gaussian",
    "GaussianLikelihood",
    "GroupL1",
    "HuberTV",
    "LeastSquares",
    "MutualInformation",
    "Network",
    "Noise",
    "NonNegative",
    "NuclearNorm",
    "PlugAndPlay",
    "Poisson",
    "PoissonGaussian",
    "PoissonLikelihood",
    "RidgeRegularizer",
    "ScaledEnergy",
    "Similarity",
    "SimilarityTo",
    "SmoothTV",
    "SquaredL2",
    "Tikhonov",
    "TotalVariation",
    "Transmission",
    "VectorTotalVariation",
    "VolumeChange",
    "WaveletL1",
    "Zero",
    "dct_filters",
    "inverse_consistency",
]
