"""Sampling patterns and trajectories with parameters to train: gradients of an image's error say where to measure."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.nuclei import Nucleus, named


@pytree
class LearnedMask:
    """Samples of k-space measured with probabilities σ(logits), scaled so that their mean is 1/acceleration.

    Args:
        logits: ``[y]`` for whole lines, ``[y, x]`` for points (or any other shape); traced.
        acceleration: R ≥ 1; static.
        acs: this many central elements of every axis are always measured; static.
        slope: of the relaxation that carries gradients, σ(slope · (p − u)); static.

    Raises:
        ValueError: an acceleration that the centre forbids.

    C. D. Bahadir et al., IEEE Trans. Comput. Imaging 6 (2020) 1139 (LOUPE); Y. Bengio et al., arXiv:1308.3432 (straight-through).
    """

    logits: Any
    acceleration: float = static()
    acs: int = static(default=0)
    slope: float = static(default=12.0)

    def __post_init__(self):
        object.__setattr__(self, "logits", check.array("logits", self.logits))
        check.minimum("acceleration", self.acceleration, 1.0)
        check.minimum("slope", self.slope, 0.0, strict=True)
        check.finite("logits", self.logits)
        wanted, fixed = self._count(), int(self._centre().sum())
        if wanted < fixed:
            check.fail("acs", f"at most the {wanted} samples that R = {self.acceleration:g} allows", f"{fixed}", "Take a smaller centre.")

    def _count(self):
        return round(math.prod(jnp.shape(self.logits)) / self.acceleration)

    def _centre(self):
        shape = jnp.shape(self.logits)
        out = np.ones(shape, bool)
        for axis, n in enumerate(shape):
            start = n // 2 - self.acs // 2
            near = (np.arange(n) >= start) & (np.arange(n) < start + self.acs)
            out &= near.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return out

    def probabilities(self) -> jax.Array:
        """``[*shape]`` in 0 … 1, as many expected samples as the acceleration allows; 1 in the centre."""
        centre = self._centre()
        free = max(1, int((~centre).sum()))
        target = (self._count() - int(centre.sum())) / free
        p = jax.nn.sigmoid(jnp.asarray(self.logits))
        mean = jnp.sum(jnp.where(centre, 0, p)) / free
        # towards 0 or towards 1, whichever needs no clipping
        fewer = p * (target / mean)
        more = 1 - (1 - p) * ((1 - target) / (1 - mean))
        return jnp.where(centre, 1.0, jnp.where(mean >= target, fewer, more))

    def __call__(self, key: jax.Array) -> jax.Array:
        """A random mask of zeros and ones, ``[*shape]`` float, whose gradient is that of its relaxation. For ``MaskedFFT``, lines as
        ``mask[:, None]``."""
        p = self.probabilities()
        u = jax.random.uniform(key, p.shape, p.dtype)
        soft = jax.nn.sigmoid(self.slope * (p - u))
        hard = jnp.where(self._centre(), 1.0, (u < p).astype(p.dtype))
        return hard + jnp.where(self._centre(), 0.0, soft - jax.lax.stop_gradient(soft))

    def draw(self, key: jax.Array) -> np.ndarray:
        """A mask to measure with, ``[*shape]`` bool, with an exact number of samples and these very probabilities (systematic
        sampling)."""
        centre = self._centre()
        p = np.asarray(self.probabilities(), np.float64)
        order, start = jax.random.split(key)
        free = np.flatnonzero(~centre.ravel())
        free = free[np.asarray(jax.random.permutation(order, len(free)))]
        ends = np.cumsum(p.ravel()[free])
        count = self._count() - int(centre.sum())
        ends *= count / max(ends[-1], 1e-12) if len(ends) else 1.0
        picked = np.diff(np.floor(np.concatenate([[0.0], ends]) + float(jax.random.uniform(start)))) > 0
        out = centre.ravel().copy()
        chosen = free[picked]
        # rounding of the last sum may cost or add one
        if len(chosen) < count:
            chosen = np.concatenate([chosen, free[~picked][: count - len(chosen)]])
        out[chosen[:count]] = True
        return out.reshape(centre.shape)


@pytree
class SplineTrajectory:
    """Shots as cubic B-splines through k-space: few parameters, bounded derivatives.

    Args:
        knots: control points ``[shot, knot, axis]`` in rad/voxel; traced.
        samples: on each shot, evenly in time; static.

    Raises:
        ValueError: fewer than 4 knots, more knots than samples.

    G. Wang et al., IEEE Trans. Med. Imaging 41 (2022) 2318 (spline-parametrized, learned trajectories).
    """

    knots: Any
    samples: int = static()

    def __post_init__(self):
        object.__setattr__(self, "knots", check.array("knots", self.knots))
        check.ndim("knots", self.knots, 3, "[shot, knot, axis]")
        check.finite("knots", self.knots)
        check.positive_int("samples", self.samples)
        count = int(jnp.shape(self.knots)[1])
        if not 4 <= count <= self.samples:
            check.fail("knots", f"from 4 to samples = {self.samples} of them", str(count))

    @staticmethod
    def _basis(count, samples):
        """``[sample, knot]``, clamped at both ends, on the host."""
        from scipy.interpolate import BSpline

        inner = np.linspace(0, 1, count - 2)
        places = np.concatenate([[0.0] * 3, inner, [1.0] * 3])
        return BSpline.design_matrix(np.linspace(0, 1, samples), places, 3).toarray()

    @classmethod
    def fit(cls, trajectory: Any, knots: int) -> SplineTrajectory:
        """The splines nearest to a trajectory ``[shot, sample, axis]``, e.g. ``trajectories.radial``: where training starts."""
        trajectory = np.asarray(check.array("trajectory", trajectory))
        check.ndim("trajectory", trajectory, 3, "[shot, sample, axis]")
        samples = trajectory.shape[1]
        if not 4 <= check.positive_int("knots", knots) <= samples:
            check.fail("knots", f"from 4 to {samples}, the samples of a shot", str(knots))
        solved = np.linalg.lstsq(cls._basis(knots, samples), np.moveaxis(trajectory, 1, 0).reshape(samples, -1), rcond=None)[0]
        points = np.moveaxis(solved.reshape(knots, trajectory.shape[0], trajectory.shape[2]), 0, 1)
        return cls(jnp.asarray(points, jnp.asarray(trajectory).dtype), samples)

    def __call__(self) -> jax.Array:
        """``[shot, sample, axis]`` rad/voxel, inside (−π, π): beyond 0.9π it bends smoothly."""
        knots = jnp.asarray(self.knots)
        basis = jnp.asarray(self._basis(knots.shape[1], self.samples), knots.dtype)
        k = jnp.einsum("sk,nka->nsa", basis, knots, precision="highest")
        start, room = 0.9 * math.pi, 0.1 * math.pi
        size = jnp.abs(k)
        over = jnp.maximum(size - start, 0.0)
        return jnp.where(size > start, jnp.sign(k) * (start + room * jnp.tanh(over / room)), k)

    def gradients(self, dwell: float, voxel_size: float, nucleus: str | Nucleus = "1H") -> tuple[jax.Array, jax.Array]:
        """What the scanner must play: (G ``[shot, sample − 1]`` in T/m, slew rate ``[shot, sample − 2]`` in T/m/s), magnitudes.

        ``dwell``: s between samples. ``voxel_size``: m.
        """
        g = jnp.diff(self(), axis=1) / (named(nucleus).gamma * dwell * voxel_size)
        size = lambda v: jnp.sqrt(jnp.sum(v * v, axis=-1) + 1e-30)  # noqa: E731
        return size(g), size(jnp.diff(g, axis=1) / dwell)

    def violation(
        self, dwell: float, voxel_size: float, *, max_gradient: float = 0.04, max_slew: float = 180.0, nucleus: str | Nucleus = "1H"
    ) -> jax.Array:
        """Mean squared relative excess over the scanner's limits (T/m, T/m/s): 0 where it can be played. A penalty for training."""
        for name, value in (("dwell", dwell), ("voxel_size", voxel_size), ("max_gradient", max_gradient), ("max_slew", max_slew)):
            check.minimum(name, value, 0.0, strict=True)
        g, s = self.gradients(dwell, voxel_size, nucleus)
        excess = lambda v, top: jnp.mean(jnp.maximum(v / top - 1, 0) ** 2)  # noqa: E731
        return excess(g, max_gradient) + excess(s, max_slew)
