"""Sine and cosine of angles given in turns: a few multiplications, which vectorise, and no loss for many turns.

XLA's own call the scalar library function on a CPU: ten times slower. The polynomials (least squares in Chebyshev points, float64
coefficients) are for single precision; in double precision XLA's are used.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@functools.lru_cache(maxsize=1)
def _coefficients() -> tuple[np.ndarray, np.ndarray]:
    """(sin(πr)/r, cos(πr)) for |r| ≤ ½ as polynomials in r², lowest power first; errors 7e-9 and 2e-10."""
    r = 0.5 * np.cos(np.pi * (np.arange(512) + 0.5) / 512)

    def fit(values, degree):
        series = np.polynomial.Chebyshev.fit(r * r, values, degree, domain=[0, 0.25])
        return series.convert(kind=np.polynomial.Polynomial).coef

    return fit(np.sin(np.pi * r) / r, 4), fit(np.cos(np.pi * r), 5)


def half_turn(r: Any) -> tuple[Any, Any]:
    """(sin πr, cos πr) for |r| ≤ ½."""
    u = r * r
    out = []
    for c in _coefficients():
        value = jnp.asarray(c[-1], r.dtype)
        for a in c[-2::-1]:
            value = value * u + jnp.asarray(a, r.dtype)
        out.append(value)
    return out[0] * r, out[1]


@jax.custom_jvp
def sincos(turns: Any) -> tuple[Any, Any]:
    """(sin 2πt, cos 2πt) of t in turns; float32 to 1e-7, float64 to its precision."""
    r = turns - jnp.round(turns)
    if turns.dtype == jnp.float64:
        return jnp.sin(2 * jnp.pi * r), jnp.cos(2 * jnp.pi * r)
    s, c = half_turn(r)
    return 2 * s * c, 1 - 2 * s * s


@sincos.defjvp
def _sincos_jvp(primals, tangents):
    s, c = sincos(*primals)
    d = 2 * np.pi * tangents[0]
    return (s, c), (c * d, -s * d)
