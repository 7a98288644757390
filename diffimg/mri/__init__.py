"""Magnetic resonance imaging: from spins to k-space to images."""

__all__ = []
