"""Beam hardening: the correction for water, and what a polyenergetic model-based reconstruction is made of.

``weights`` are what the detector reads of each energy without an object, fluence·response ``[E]``, in any unit; ``mu`` is the linear
attenuation of one material at these energies, 1/mm.

    weights = spectrum.fluence * xray.energy_integrating(spectrum.energies)
    corrected = water_correction(log_data, xray.linear_attenuation("water", spectrum.energies), weights, mu_reference)

Water is all that this can mend. With bone, iodine or metal, model the physics:

    path = MaterialPath((1.1 * mu_water, mu_bone), ((1.1, 0.0), (0.0, 1.0)), geometry.image_shape)
    model = NegativeLog(physics.flat) @ physics @ Channelwise(Radon(geometry), 2) @ path      # one image → log data
    problem = Problem(LeastSquares(model, log_data, statistical_weights), TotalVariation(…))
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.operator import Operator
from diffimg.forward.xray_photon import floating
from diffimg.forward.xray_transmission import PolyenergeticTransmission

_NEWTON_STEPS = 12


def admit_weights(weights: Any) -> jax.Array:
    """``[..., E]``, none negative and some positive in every row."""
    weights = floating("weights", weights)
    check.minimum("weights", weights, 0.0)
    if check.is_concrete(weights) and not np.asarray(weights).any(-1).all():
        check.fail("weights", "a spectrum with photons in it", "one that is zero everywhere", "weights = fluence · detector response [E].")
    return weights


def polyenergetic_integral(length: Any, mu: Any, weights: Any) -> jax.Array:
    """−log(Σ w·e^{−μ·length} / Σ w): what the logarithm of a reading behind ``length`` mm of one material is, shaped like ``length``."""
    length, mu, weights = floating("length", length), floating("mu", mu), admit_weights(weights)
    physics = PolyenergeticTransmission(weights / jnp.sum(weights), mu[None], length.shape or (1,))
    return -jnp.log(physics(length.reshape(1, *physics.ray_shape))).reshape(length.shape)


def equivalent_length(line_integrals: Any, mu: Any, weights: Any) -> jax.Array:
    """The length (mm) of one material whose polyenergetic log data are ``line_integrals``; the inverse of ``polyenergetic_integral``.

    Newton's method, which rises to the root of the concave function without passing it; differentiable in all arguments
    (implicit function theorem).
    """
    p, mu, weights = floating("line_integrals", line_integrals), floating("mu", mu), admit_weights(weights)
    return _equivalent_length(p, mu.astype(p.dtype), weights.astype(p.dtype))


@jax.jit
def _equivalent_length(p, mu, weights):
    def value_and_slope(length, mu, weights):
        return jax.jvp(lambda t: polyenergetic_integral(t, mu, weights), (length,), (jnp.ones_like(length),))

    fixed = jax.lax.stop_gradient((p, mu, weights))

    def newton(length, _):
        value, slope = value_and_slope(length, *fixed[1:])
        return length + (fixed[0] - value) / slope, None

    length = jax.lax.scan(newton, jnp.zeros_like(p), None, length=_NEWTON_STEPS)[0]
    slope = value_and_slope(length, *fixed[1:])[1]
    return length + (p - polyenergetic_integral(length, mu, weights)) / slope


def water_correction(line_integrals: Any, mu: Any, weights: Any, mu_reference: Any) -> jax.Array:
    """Polyenergetic log data → line integrals at one energy, as if all of the object were water (``mu``, ``weights``: ``[E]``).

    μ_reference times the ``equivalent_length``. It is exact for water, removes its cupping, and leaves the dark bands between dense
    objects of another material (J. Hsieh, Computed Tomography, 2009, section 7.6). ``mu_reference``: of water, 1/mm.
    """
    return mu_reference * equivalent_length(line_integrals, mu, weights)


def water_polynomial(mu: Any, weights: Any, mu_reference: Any, longest: float, degree: int = 5) -> jax.Array:
    """Coefficients ``[degree]`` (of p, p², …) of the polynomial that a scanner applies in place of ``water_correction``.

    Least squares over path lengths from 0 to ``longest`` mm (G. T. Herman, Phys. Med. Biol. 24, 81, 1979); ``linearize`` applies it.
    """
    degree = check.positive_int("degree", degree)
    check.minimum("longest", longest, 0.0, strict=True, remedy="The longest path through the object, in mm.")
    length = jnp.linspace(0.0, longest, 64)[1:]
    p = polyenergetic_integral(length, mu, weights)
    scale = p[-1]  # powers of p/scale are all of order one
    powers = (p / scale)[:, None] ** jnp.arange(1, degree + 1)
    return jnp.linalg.lstsq(powers, mu_reference * length)[0] / scale ** jnp.arange(1, degree + 1)


def linearize(line_integrals: Any, coefficients: Any) -> jax.Array:
    """Σ_k coefficients[k]·p^{k+1} of log data p, any shape."""
    p = floating("line_integrals", line_integrals)
    check.ndim("coefficients", coefficients, 1, "[degree]")
    coefficients = jnp.asarray(coefficients, p.dtype)
    return p * jnp.polyval(coefficients[::-1], p)


def cupping(image: Any, centre: Any, rim: Any) -> jax.Array:
    """1 − mean(centre)/mean(rim): by how much a uniform object looks too thin in the middle; 0 without cupping.

    ``centre`` and ``rim`` are boolean masks ``[y, x]`` of one material; ``image`` ``[..., y, x]`` in 1/mm (not HU).
    """
    image = floating("image", image)
    means = []
    for name, mask in (("centre", centre), ("rim", rim)):
        check.trailing_shape(name, mask, image.shape[-2:], "y, x")
        mask = jnp.asarray(mask, image.dtype)
        check.minimum(f"pixels of {name}", jnp.sum(mask), 0.0, strict=True)
        means.append(jnp.sum(image * mask, (-2, -1)) / jnp.sum(mask))
    return 1 - means[0] / means[1]


@pytree
class NegativeLog(Operator):
    """I ↦ −log(I/flat): from readings to log data, for composition with a transmission model whose readings are positive.

    The logarithm makes the model nearly linear in the object, so that a least-squares fit with statistical weights converges like
    one in monoenergetic CT. Measured readings go through ``log_transform``, which knows what to do with starved ones.

    Args:
        flat: reading without an object, > 0; its shape is that of the readings (``PolyenergeticTransmission.flat``).
    """

    linear: ClassVar[bool] = False

    flat: Any

    def __post_init__(self):
        flat = floating("flat", self.flat)
        check.minimum("flat", flat, 0.0, strict=True, remedy="A cell without flat field is dead: set its flat to 1 and its weight to 0.")
        object.__setattr__(self, "flat", flat)

    @property
    def domain(self):
        return ShapeDtypeStruct(jnp.shape(self.flat), jax.dtypes.canonicalize_dtype(jnp.result_type(self.flat)))

    def __call__(self, x):
        # a ray through metal may underflow in float32
        return jnp.log(jnp.asarray(self.flat, x.dtype)) - jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


@pytree
class MaterialPath(Operator):
    """x ↦ volume fractions ``[material, *image_shape]`` of an image of attenuation: one unknown a pixel in place of one a material.

    The fractions run along straight lines in the space of materials, from nothing at x = 0 through the nodes; beyond the last node
    its composition becomes denser. Every x so has a spectrum of attenuations, which is what one scan with one spectrum can
    support: B. De Man, J. Nuyts, P. Dupont, G. Marchal, P. Suetens, IEEE Trans. Med. Imaging 20(10), 999 (2001); I. A. Elbakri,
    J. A. Fessler, Phys. Med. Biol. 48, 2453 (2003). A first node above water, e.g. 1.1·μ_water with composition (1.1, 0), keeps soft
    tissue and its noise from being read as a little bone.

    Args:
        values: ``[node]``, attenuation at the reference energy, > 0 and increasing, 1/mm.
        composition: ``[node, material]``, volume fractions at the nodes. For consistency Σ_m composition·μ_m(reference) = value.
        image_shape: of x; static.

    Differentiable almost everywhere (kinks at the nodes); both arrays are traced.
    """

    linear: ClassVar[bool] = False

    values: Any
    composition: Any
    image_shape: tuple[int, ...] = static()

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(check.positive_int("image_shape", n) for n in self.image_shape))
        values, composition = floating("values", self.values), floating("composition", self.composition)
        check.ndim("values", values, 1, "[node]")
        check.minimum("values", values, 0.0, strict=True, remedy="Nothing at 0 is understood.")
        if check.is_concrete(values):
            check.minimum("differences of values", np.diff(np.asarray(values)), 0.0, strict=True, remedy="Sort the nodes.")
        check.ndim("composition", composition, 2, "[node, material]")
        check.shape("composition", composition, (values.shape[0], composition.shape[1]), "[node, material]", "One row a node.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "composition", composition)

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jax.dtypes.canonicalize_dtype(jnp.result_type(self.values)))

    def __call__(self, x):
        values, composition = jnp.asarray(self.values, x.dtype), jnp.asarray(self.composition, x.dtype)
        start = jnp.concatenate([jnp.zeros(1, x.dtype), values])
        rise = jnp.diff(jnp.concatenate([jnp.zeros_like(composition[:1]), composition]), axis=0) / jnp.diff(start)[:, None]
        rise = jnp.concatenate([rise, composition[-1:] / values[-1]])
        count = self.values.shape[0] + 1
        total = 0.0
        for k in range(count):
            part = x if k == 0 else jnp.maximum(x, start[k])
            part = part if k == count - 1 else jnp.minimum(part, start[k + 1])
            total = total + rise[k].reshape(-1, *(1,) * len(self.image_shape)) * (part - start[k])
        return total
