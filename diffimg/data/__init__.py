"""Analytic phantoms with exact projections, and real images out of installed packages."""

from diffimg.data.phantoms import Ellipses, random_ellipses, shepp_logan, shepp_logan_image
from diffimg.data.samples import CTSlice, Sample, names, sample, slice_for_ct

__all__ = [
    "CTSlice",
    "Ellipses",
    "Sample",
    "names",
    "random_ellipses",
    "sample",
    "shepp_logan",
    "shepp_logan_image",
    "slice_for_ct",
]
