"""Material decomposition: lengths of materials from readings at several energies, and images at one energy from material maps."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.ct.beam_hardening import admit_weights
from diffimg.forward.operator import Operator
from diffimg.forward.xray_photon import floating


def decompose(log_data: Any, mu: Any, weights: Any, variance_weights: Any = None, steps: int = 12, ridge: float = 0.0) -> jax.Array:
    """Lengths of materials from polyenergetic log data in several bins or at several tube voltages, ray by ray.

    Solves min_t ½ Σ_b v_b (−log(Σ_E w_bE e^{−μ_E·t} / Σ_E w_bE) − p_b)² + ridge/2·|t|² by Gauss–Newton with a backtracking step: the
    model is close to linear in t, so that it converges from 0 in a few steps. With as many bins as materials the data are met exactly
    (R. E. Alvarez, A. Macovski, Phys. Med. Biol. 21, 733, 1976); with more, ``variance_weights`` make it the maximum likelihood
    estimate of the log data. Differentiable in data, spectra and attenuation (implicit function theorem).

    Args:
        log_data: ``[bin, ...]``, see ``log_transform``.
        mu: ``[material, E]``, 1/mm.
        weights: ``[bin, E]``, what each bin reads of each energy without an object: fluence·response.
        variance_weights: 1/variance of the log data, ``[bin, ...]``, about the counts; None: all alike.
        steps: of Gauss–Newton.
        ridge: > 0 steadies starved rays at the price of a bias (the unit is that of 1/mm² times that of ``variance_weights``).

    Returns:
        ``[material, ...]``, mm.

    Raises:
        ValueError: fewer bins than materials, shapes that do not fit, values that are not finite.
    """
    p, mu, weights = floating("log_data", log_data), floating("mu", mu), admit_weights(weights)
    check.ndim("mu", mu, 2, "[material, E]")
    check.shape("weights", weights, (p.shape[0] if p.ndim else 0, mu.shape[1]), "[bin, E]", "One row for each bin of log_data.")
    check.minimum("ridge", ridge, 0.0)
    steps = check.positive_int("steps", steps)
    if p.shape[0] < mu.shape[0] and not ridge:
        expected = f"at least as many bins as materials ({mu.shape[0]})"
        check.fail("log_data", expected, f"{p.shape[0]}", "Add a bin or a tube voltage, or fix the problem with ridge > 0.")
    v = jnp.ones((), p.dtype) if variance_weights is None else floating("variance_weights", variance_weights)
    check.minimum("variance_weights", v, 0.0)
    v = jnp.broadcast_to(v.astype(p.dtype), p.shape)
    flat = [a.reshape(p.shape[0], -1).T for a in (p, v)]
    t = _decompose(*flat, mu.astype(p.dtype), weights.astype(p.dtype), jnp.asarray(ridge, p.dtype), steps)
    return t.T.reshape(mu.shape[0], *p.shape[1:])


def _residual(t, p, mu, log_weights):
    """Model − data, [bin], of one ray; logsumexp keeps long paths from underflowing."""
    return -jax.nn.logsumexp(log_weights - t @ mu, axis=-1) - p


def _energy(t, p, v, mu, log_weights, ridge):
    return 0.5 * jnp.sum(v * _residual(t, p, mu, log_weights) ** 2) + 0.5 * ridge * jnp.sum(t**2)


def _normalised(weights):
    safe = jnp.where(weights > 0, weights, 1)
    return jnp.where(weights > 0, jnp.log(safe), -jnp.inf) - jnp.log(jnp.sum(weights, -1, keepdims=True))


@functools.partial(jax.jit, static_argnums=5)
def _decompose(p, v, mu, weights, ridge, steps):
    def one(ray):
        p, v = ray
        scale = jnp.where(jnp.max(v) > 0, jnp.max(v), 1)  # a starved ray has tiny weights, and the solution depends on their ratio
        arguments = p, v / scale, mu, _normalised(weights), ridge / scale
        fixed = jax.lax.stop_gradient(arguments)

        def step(t, _):
            j = jax.jacfwd(_residual)(t, fixed[0], fixed[2], fixed[3])
            h = (j.T * fixed[1]) @ j + fixed[4] * jnp.eye(t.size, dtype=t.dtype)
            direction = _solve(h, jax.grad(_energy)(t, *fixed))
            trials = t - direction * jnp.asarray([1.0, 0.5, 0.25, 0.0625, 0.0], t.dtype)[:, None]
            energies = jax.vmap(lambda s: _energy(s, *fixed))(trials)
            return trials[jnp.argmin(jnp.where(jnp.isfinite(energies), energies, jnp.inf))], None

        t = jax.lax.scan(step, jnp.zeros(mu.shape[0], p.dtype), None, length=steps)[0]
        h = jax.hessian(_energy)(t, *fixed)
        return t - _solve(h, jax.grad(_energy)(t, *arguments) - jax.grad(_energy)(t, *fixed))

    return jax.lax.map(one, (p, v), batch_size=2**14)


def _solve(h, g):
    """h⁻¹g of a small matrix, after scaling its diagonal to one; 0 where a ray holds no information."""
    d = jnp.sqrt(jnp.diagonal(h))
    d = jnp.where(d > 0, d, 1)
    x = jnp.linalg.solve(h / (d[:, None] * d), g / d) / d
    return jnp.where(jnp.isfinite(x), x, 0)


def virtual_monoenergetic(maps: Any, mu: Any) -> jax.Array:
    """Σ_m maps_m·μ_m: the image (1/mm) at an energy.

    ``maps``: ``[material, ...]``, volume fractions (or lengths); ``mu``: ``[material]``, 1/mm at that energy, or ``[material, E]`` for
    ``[E, ...]`` images.
    """
    maps, mu = floating("maps", maps), floating("mu", mu)
    if mu.ndim not in (1, 2) or mu.shape[0] != maps.shape[0]:
        check.fail("mu", f"[material] or [material, E] of {maps.shape[0]} materials, like maps", f"shape {mu.shape}")
    return jnp.tensordot(mu.T.astype(maps.dtype), maps, 1, precision=jax.lax.Precision.HIGHEST)


@pytree
class MaterialBasis(Operator):
    """z ↦ basis·z on maps ``[material, *image_shape]``: other coordinates for the materials.

    In the coordinates of ``whitened_basis`` the maps are uncorrelated and alike in noise, which is what first-order solvers and
    one regularization weight for all maps need; in water and bone the same problem is ill-conditioned.

    Args:
        basis: ``[material, coordinate]``, traced.
        image_shape: of one map; static.
    """

    basis: Any
    image_shape: tuple[int, ...] = static()

    def __post_init__(self):
        basis = floating("basis", self.basis)
        check.ndim("basis", basis, 2, "[material, coordinate]")
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "image_shape", tuple(check.positive_int("image_shape", n) for n in self.image_shape))

    @property
    def domain(self):
        return ShapeDtypeStruct((jnp.shape(self.basis)[1], *self.image_shape), jax.dtypes.canonicalize_dtype(jnp.result_type(self.basis)))

    def __call__(self, z):
        # a sum, not a matrix product: a handful of multiplications a pixel
        basis = jnp.asarray(self.basis, z.dtype)
        return sum(basis[:, k].reshape(-1, *(1,) * len(self.image_shape)) * z[k] for k in range(self.basis.shape[1]))


def whitened_basis(mu: Any, weights: Any, lengths: Any) -> jax.Array:
    """F^{−1/2} ``[material, coordinate]`` of the Fisher information F of log data, per count, behind ``lengths`` ``[material]`` mm.

    ``mu`` ``[material, E]``, ``weights`` ``[bin, E]`` as in ``decompose``; bins weigh as what they read behind these lengths, and together
    as one. See ``MaterialBasis``.
    """
    mu, weights, lengths = (floating(n, v) for n, v in (("mu", mu), ("weights", weights), ("lengths", lengths)))
    check.shape("lengths", lengths, mu.shape[:1], "[material]")
    seen = weights * jnp.exp(-lengths @ mu)  # [bin, E]
    total = jnp.sum(seen, -1)
    j = seen @ mu.T / total[:, None]  # effective attenuations, [bin, material]
    fisher = (j.T * (total / jnp.sum(total))) @ j
    values, vectors = jnp.linalg.eigh(fisher)
    if check.is_concrete(values) and not float(values[0]) > 1e-7 * float(values[-1]):
        check.fail("weights", "bins that tell the materials apart", f"eigenvalues {values}", "Add a bin or another tube voltage.")
    return vectors / jnp.sqrt(values) @ vectors.T
