"""Off-resonance: spins that precess at another frequency while the signal is read."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import pytree, replace
from diffimg.forward.operator import Operator, apply_adjoint, apply_forward


@pytree
class OffResonance(Operator):
    """Samples of an image whose pixels precess at ω: s(t) = Σ_n x[n] e^{−iω[n]t} e^{−ik(t)·n}, by time segments.

    e^{−iωt} ≈ Σ_l b_l(t) e^{−iωt_l}: one transform a segment. Made by ``off_resonance``; differentiable in the image, the field map
    and the leaves of the transform.

    Args:
        operator: ``NUFFT``, ``MaskedFFT`` or another operator that takes batches: the transform without off-resonance.
        field_map: ω, ``[*image_shape]`` in rad/s.
        interpolators: b, ``[segment, *trailing axes of the samples]`` complex.
        segment_times: t, ``[segment]`` in s.
    """

    batched: ClassVar[bool] = True

    operator: Operator
    field_map: Any
    interpolators: Any
    segment_times: Any

    def __post_init__(self):
        if not (isinstance(self.operator, Operator) and self.operator.batched):
            check.fail("operator", "an operator that takes batches, such as NUFFT or MaskedFFT", repr(self.operator))

    @property
    def domain(self):
        return self.operator.domain

    @property
    def codomain(self):
        return self.operator.codomain

    def __call__(self, x):
        def add(total, segment):
            b, t = segment
            return total + b.astype(x.dtype) * apply_forward(self.operator, self._phase(t, x.dtype) * x), None

        return lax.scan(add, self._zero(x, self.domain, self.codomain), (self.interpolators, self.segment_times))[0]

    def adjoint(self, y):
        def add(total, segment):
            b, t = segment
            return total + jnp.conj(self._phase(t, y.dtype)) * apply_adjoint(self.operator, jnp.conj(b).astype(y.dtype) * y), None

        return lax.scan(add, self._zero(y, self.codomain, self.domain), (self.interpolators, self.segment_times))[0]

    def prepare(self):
        return replace(self, operator=self.operator.prepare())

    def _phase(self, t, dtype):
        turns = self.field_map.astype(jnp.finfo(dtype).dtype) * t.astype(jnp.finfo(dtype).dtype)
        return lax.complex(jnp.cos(turns), -jnp.sin(turns))

    @staticmethod
    def _zero(v, domain, codomain):
        return jnp.zeros(v.shape[: v.ndim - len(domain.shape)] + codomain.shape, v.dtype)

    def _name(self):
        return f"OffResonance[{len(self.segment_times)} segments] ∘ {self.operator._name()}"


def off_resonance(
    operator: Operator,
    field_map: Any,
    times: Any,
    *,
    segments: int | None = None,
    tolerance: float = 1e-3,
    band: tuple[float, float] | None = None,
) -> OffResonance:
    """``operator`` with off-resonance, by segments of the readout with least-squares interpolators over the band of ω.

    Args:
        operator: ``NUFFT`` or ``MaskedFFT``.
        field_map: ω, ``[*image_shape]`` in rad/s (2π times Hz, γ times T).
        times: when each sample is read, in s from the excitation (from the echo, for a spin echo): the trailing axes of the samples, e.g.
            ``[readout]`` for samples ``[coil, spoke, readout]``.
        segments: number of segments; default: the fewest whose largest error over the band stays below ``tolerance``.
        tolerance: of e^{−iωt}, absolute.
        band: (lowest, highest) ω in rad/s; default: those of the field map. Needed where the field map is traced.

    Raises:
        ValueError: shapes that do not fit, traced times, a band that is missing or empty, more than 64 segments.

    J. A. Fessler et al., Toeplitz-based iterative image reconstruction for MRI with correction for magnetic field inhomogeneity, IEEE
    Trans. Signal Process. 53 (2005) 3393; B. P. Sutton et al., IEEE Trans. Med. Imaging 22 (2003) 178.
    """
    field_map = check.array("field_map", field_map)
    check.real("field_map", field_map, "Off-resonance is a real angular frequency in rad/s.")
    check.shape("field_map", field_map, operator.domain.shape, "[*image_shape]")
    check.finite("field_map", field_map)
    if not check.is_concrete(times) and not isinstance(times, (list, tuple)):
        check.fail("times", "times known before the computation (the interpolators are fitted to them)", "a traced array")
    times = np.asarray(check.array("times", times), np.float64)
    if times.ndim == 0 or tuple(operator.codomain.shape[-times.ndim :]) != times.shape:
        expected = f"the trailing axes of the samples {tuple(operator.codomain.shape)}"
        check.fail("times", expected, f"shape {times.shape}", "Give one time for each sample of a readout.")
    check.finite("times", times)
    if band is None:
        if not check.is_concrete(field_map):
            check.fail("band", "(lowest, highest) ω in rad/s for a traced field map", "None", "Give the range that it may take.")
        values = np.asarray(field_map, np.float64)
        band = float(values.min()), float(values.max())
    interpolators, nodes = time_segments(times, band, segments, tolerance)
    return OffResonance(operator, field_map, jnp.asarray(interpolators), jnp.asarray(nodes))


def time_segments(times: np.ndarray, band: tuple[float, float], segments: int | None, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """(interpolators ``[segment, *times.shape]``, segment times ``[segment]``) for frequencies in ``band`` (rad/s)."""
    low, high = (float(v) for v in band)
    if not (np.isfinite([low, high]).all() and low <= high):
        check.fail("band", "(lowest, highest) ω in rad/s", repr(band))
    unique, place = np.unique(times.reshape(-1), return_inverse=True)
    frequencies = np.linspace(low, high, 257)
    turns = (high - low) * float(np.ptp(unique)) / (2 * np.pi)
    if segments is not None:
        counts: Any = (check.positive_int("segments", segments),)
    else:
        counts = range(max(1, int(min(turns, 65))), 65)  # as many segments as turns of spread are too few
    for count in counts:
        nodes = np.linspace(unique[0], unique[-1], count) if count > 1 else np.array([unique.mean()])
        basis = np.exp(-1j * np.outer(frequencies, nodes))
        inverse = np.linalg.pinv(basis, rcond=1e-10)
        weights, worst = np.empty((count, unique.size), complex), 0.0
        for part in np.array_split(np.arange(unique.size), max(1, unique.size // 4096)):
            exact = np.exp(-1j * np.outer(frequencies, unique[part]))
            weights[:, part] = inverse @ exact
            worst = max(worst, float(np.abs(basis @ weights[:, part] - exact).max()))
        if segments is not None or worst <= tolerance:
            return weights[:, place].reshape(count, *times.shape), nodes
    remedy = "Read shorter, or correct the field map: is it in rad/s, are the times in s?"
    check.fail("field_map", f"an error ≤ {tolerance:g} with at most 64 segments", f"{turns:.1f} turns of spread over the readout", remedy)

