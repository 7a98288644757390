"""Image registration: any transform, any similarity, any penalty, 2-D and 3-D."""

from diffimg.registration.alignment import Alignment
from diffimg.registration.batch import Batch, register_batch
from diffimg.registration.pyramid import coarse
from diffimg.registration.register import Level, Result, register
from diffimg.registration.stages import Affine, BSpline, Displacement, Moments, Rigid, Similar, Stage, Translation, Velocity

__all__ = [
    "Affine",
    "Alignment",
    "BSpline",
    "Batch",
    "Displacement",
    "Level",
    "Moments",
    "Result",
    "Rigid",
    "Similar",
    "Stage",
    "Translation",
    "Velocity",
    "coarse",
    "register",
    "register_batch",
]
