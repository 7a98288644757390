"""Image registration: any transform, any similarity, any penalty, 2-D and 3-D."""

from diffimg.registration.alignment import Alignment
from diffimg.registration.batch import Batch, register_batch
from diffimg.registration.both_ways import BothWays, register_both_ways
from diffimg.registration.evaluation import folding, log_jacobian_deviation, target_registration_error
from diffimg.registration.learned import LearnedRegistration
from diffimg.registration.motion import MotionEnergy
from diffimg.registration.pyramid import coarse
from diffimg.registration.register import Level, Result, register, resampled_labels
from diffimg.registration.stages import Affine, BSpline, Displacement, Implicit, Moments, Rigid, Similar, Stage, Translation, Velocity
from diffimg.registration.synthetic import random_deformation, synthetic_pairs
from diffimg.registration.transform_file import from_fsl, read_transform, to_fsl, write_transform

__all__ = [
    "Affine",
    "Alignment",
    "BSpline",
    "Batch",
    "BothWays",
    "Displacement",
    "Implicit",
    "LearnedRegistration",
    "Level",
    "Moments",
    "MotionEnergy",
    "Result",
    "Rigid",
    "Similar",
    "Stage",
    "Translation",
    "Velocity",
    "coarse",
    "folding",
    "from_fsl",
    "log_jacobian_deviation",
    "random_deformation",
    "read_transform",
    "register",
    "register_batch",
    "register_both_ways",
    "resampled_labels",
    "synthetic_pairs",
    "target_registration_error",
    "to_fsl",
    "write_transform",
]
