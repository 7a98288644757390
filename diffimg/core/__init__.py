"""Pytrees, checks, loops and linear algebra; knows no imaging."""

from diffimg.core import check, linalg, loops, pytree

__all__ = ["check", "linalg", "loops", "pytree"]
