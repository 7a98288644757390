"""Lengths that FFTs take well."""

from __future__ import annotations


def fast_length(n: int, even: bool = False) -> int:
    """The smallest (even) 2ᵃ3ᵇ5ᶜ ≥ n: no prime factor for which an FFT library falls back to a slow algorithm."""
    step = 2 if even else 1
    n += n % step
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += step
