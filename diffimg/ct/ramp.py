"""The ramp filter of filtered backprojection, its windows, and its form for fans of equal angles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.poses import array_module

WINDOWS = ("ramlak", "shepp-logan", "cosine", "hamming", "hann", "none")
_WIDEST = 3.0  # radians between two rays up to which the kernel of a fan is needed: all that see an object from outside


def ramp_filter(sinogram: jax.Array, spacing: float, window: str = "ramlak", cutoff: float = 1.0) -> jax.Array:
    """Convolve every view of ``[..., view, detector]``, real or complex, with the windowed ramp; ``spacing`` in mm."""
    check.inexact("sinogram", sinogram)
    admit_window(window, cutoff)
    count = sinogram.shape[-1]
    n = 2 ** math.ceil(math.log2(max(2 * count, 64)))
    response = jnp.asarray(ramp_response(n, spacing, window, cutoff), sinogram.real.dtype)
    return by_parts(lambda q: jnp.fft.irfft(jnp.fft.rfft(q, n=n, axis=-1) * response, n=n, axis=-1)[..., :count], sinogram)


def ramp_response(n: int, spacing: float, window: str = "ramlak", cutoff: float = 1.0) -> np.ndarray:
    """Transfer function ``[n//2 + 1]`` (1/mm) of the windowed ramp for ``n`` samples of ``spacing`` mm."""
    return np.fft.rfft(_kernel(n)).real / spacing * _window(n, window, cutoff)


def fan_response(n: int, step: Any, window: str = "ramlak", cutoff: float = 1.0) -> Any:
    """As ``ramp_response``, without the 1/spacing, for rays ``step`` radians apart: the kernel times (γ / sin γ)².

    ``step`` may be traced, and have axes ``[..., 1]``: ``[..., n//2 + 1]``. (A. C. Kak, M. Slaney, 1988, section 3.4.1.)
    """
    xp = array_module(step)
    angle = xp.clip(np.abs(np.fft.fftfreq(n) * n) * step, 1e-6, _WIDEST)
    return xp.fft.rfft(_kernel(n) * (angle / xp.sin(angle)) ** 2).real * _window(n, window, cutoff)


def filter_cells(q: jax.Array, response: Any, beyond: int = 0, fine: int = 1) -> jax.Array:
    """Real ``q [..., cell]`` filtered: ``[..., fine · (count + 2·beyond)]``, where the tails ``beyond`` the ends are kept too.

    ``response``: ``[..., n//2 + 1]`` with n ≥ 2 (count + beyond). With ``fine`` > 1 the band-limited function is read at a ``fine``-th
    of the cells' distance; entry k lies at cell k / fine − beyond.
    """
    count, n = q.shape[-1], 2 * (jnp.shape(response)[-1] - 1)
    spectrum = jnp.fft.rfft(q, n=n, axis=-1) * jnp.asarray(response, q.dtype)
    if fine > 1:
        spectrum = fine * spectrum.at[..., -1].multiply(0.5)  # half of the Nyquist frequency belongs to its negative
    out = jnp.fft.irfft(spectrum, n=fine * n, axis=-1)
    return jnp.roll(out, fine * beyond, -1)[..., : fine * (count + 2 * beyond)]


def length_for(count: int, beyond: int = 0) -> int:
    """A length of transform for ``filter_cells``."""
    return 2 ** math.ceil(math.log2(max(2 * (count + beyond), 64)))


def admit_window(window: str, cutoff: float, choices: tuple[str, ...] = WINDOWS) -> None:
    """Refuse unknown windows and cutoffs outside (0, 1]."""
    check.one_of("filter", window, choices)
    if not 0 < cutoff <= 1:
        check.fail("cutoff", "a fraction of Nyquist in (0, 1]", repr(cutoff))


def by_parts(function: Callable[[jax.Array], jax.Array], q: jax.Array) -> jax.Array:
    """A real linear function of real and imaginary part."""
    return jax.lax.complex(function(q.real), function(q.imag)) if jnp.iscomplexobj(q) else function(q)


def _kernel(n):
    k = np.fft.fftfreq(n) * n
    kernel = np.zeros(n)
    kernel[0] = 0.25
    odd = (k % 2) == 1
    kernel[odd] = -1 / (np.pi * k[odd]) ** 2
    return kernel


def _window(n, window, cutoff):
    f = np.fft.rfftfreq(n) * 2 / cutoff  # 1 at the cutoff
    shape = {
        "ramlak": np.ones_like(f),
        "shepp-logan": np.sinc(f / 2),
        "cosine": np.cos(np.pi * f / 2),
        "hamming": 0.54 + 0.46 * np.cos(np.pi * f),
        "hann": 0.5 + 0.5 * np.cos(np.pi * f),
        "none": np.ones_like(f),
    }[window]
    return np.where(f <= 1, shape, 0)
