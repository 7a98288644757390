"""Magnetic resonance imaging: from spins to k-space to images."""

from diffimg.mri.density import density_compensation

__all__ = [
    "density_compensation",
]
