"""RAKI: missing lines of k-space by a small network, trained on the calibration lines of the same scan only."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.mri.grappa import GrappaKernel, Undersampling, balance, calibrate, fill, from_lattice, sources, to_lattice, undersampling

VARIANTS = ("raki", "residual", "linear-residual")


@pytree
class Raki:
    """The network's shape and training; all static.

    Args:
        variant: "raki": three convolutions with ReLU; "residual": the same on top of a GRAPPA kernel, of which it learns the error;
            "linear-residual": three complex linear convolutions on top of a GRAPPA kernel.
        features: channels of the two hidden layers.
        first, last: kernels (lines, samples along the readout) of the first and the third layer; the second is 1 × 1.
        steps, rate: of Adam; the rate falls to 0 along a cosine.
        kernel, regularization: of the GRAPPA kernel.
        weighting: of the calibration samples, of kernel and network: 1 all alike, 0 by their power.
        decay: weight decay, in units of the rate.
    """

    variant: str = static(default="raki")
    features: tuple[int, int] = static(default=(48, 24))
    first: tuple[int, int] = static(default=(2, 7))
    last: tuple[int, int] = static(default=(1, 5))
    steps: int = static(default=400)
    rate: float = static(default=3e-3)
    kernel: tuple[int, int] = static(default=(2, 9))
    regularization: float = static(default=1e-2)
    weighting: float = static(default=1.0)
    decay: float = static(default=1.0)

    def __post_init__(self):
        check.one_of("variant", self.variant, VARIANTS)
        check.positive_int("steps", self.steps)
        check.minimum("rate", self.rate, 0.0, strict=True)
        for n in (*self.features, *self.first, *self.last):
            check.positive_int("features, first, last", n)

    @property
    def linear(self) -> bool:
        """Whether the layers are complex and linear."""
        return self.variant == "linear-residual"


def raki(kspace: Any, key: jax.Array, *, network: Raki | None = None, pattern: Undersampling | None = None) -> jax.Array:
    """Fill the missing lines of ``[coil, y, x]``, measured every R-th line with a full centre, by a network trained on that centre.

    Args:
        kspace: zero-filled; missing lines along y are zero in every coil.
        key: of the initial weights. network: ``Raki(...)``. pattern: read off the data by default.

    Returns:
        ``[coil, y, x]`` complex, the measured samples unchanged.

    Raises:
        ValueError: an irregular pattern, too few calibration lines, NaN.

    M. Akçakaya et al., Magn. Reson. Med. 81 (2019) 439; C. Zhang et al., ISBI 2019 (residual RAKI).
    """
    network = Raki() if network is None else network
    pattern = undersampling(kspace) if pattern is None else pattern
    kspace = jnp.asarray(kspace)
    if pattern.acceleration == 1:
        return kspace
    region = kspace[:, pattern.start : pattern.stop]
    lines = (network.first[0] + network.last[0] - 2) * pattern.acceleration + 1
    if region.shape[1] < lines + 2:
        remedy = "Measure more lines around the centre (acs=)."
        check.fail("acs", f"at least {lines + 2} lines for this network at R = {pattern.acceleration}", f"{region.shape[1]}", remedy)
    parameters, linear = fit(region, pattern.acceleration, network, key)
    return apply(kspace, parameters, linear, network, pattern)


def fit(region: Any, acceleration: int, network: Raki, key: jax.Array) -> tuple[Any, GrappaKernel | None]:
    """(weights of the network, GRAPPA kernel or None) from calibration lines ``[coil, line, x]``; one compiled loop."""
    region = jnp.asarray(region)
    linear = None
    if network.variant != "raki":
        linear = calibrate(region, acceleration, network.kernel, network.regularization, network.weighting)
    return _fit(region, linear, acceleration, network, key), linear


@functools.partial(jax.jit, static_argnums=(2, 3))
def _fit(region, linear, r, network, key):
    scale = _scale(region)
    data = region / scale
    coils, lines, columns = data.shape
    rows = (network.first[0] + network.last[0] - 2) * r
    before = (sources((network.first[0] + network.last[0] - 1, 1)) - 1) * r
    sides = (network.first[1] + network.last[1] - 2) // 2
    bases = jnp.arange(lines - rows)
    # targets: the r − 1 lines behind the measured one in the middle of the receptive field
    index = bases[:, None] + before + jnp.arange(1, r)
    width = columns - (network.first[1] - 1) - (network.last[1] - 1)
    target = jnp.transpose(data[:, index, sides : sides + width], (2, 0, 1, 3))  # [r − 1, coil, base, x]
    if linear is not None:
        # what the kernel predicts for every base line, the region seen as lattices shifted by one line each
        target = target - _linear_prediction(data, linear, r, before, lines - rows)[..., sides : sides + width]
    reach = jnp.ones((1, 1, network.first[0] + network.last[0] - 1, network.first[1] + network.last[1] - 1), data.real.dtype)
    power = jnp.mean(jnp.abs(data) ** 2, axis=0)[None, None]
    weight = balance(lax.conv_general_dilated(power, reach, (1, 1), "VALID", rhs_dilation=(r, 1))[0, 0], network.weighting)
    size = jnp.sqrt(jnp.mean(weight * jnp.abs(target) ** 2)) + 1e-12
    target = target / size
    parameters = _initial(network, coils, r, key)
    schedule = optax.cosine_decay_schedule(network.rate, network.steps)
    optimizer = optax.adamw(schedule, weight_decay=network.decay)

    def loss(p):
        out = _layers(p, data, network, r, (0, 0), (0, 0)).reshape(r - 1, coils, lines - rows, width)
        return jnp.mean(weight * jnp.abs(out - target) ** 2)

    def step(state, _):
        p, moments = state
        value, gradient = jax.value_and_grad(loss)(p)
        updates, moments = optimizer.update(gradient, moments, p)
        return (optax.apply_updates(p, updates), moments), value

    (parameters, _), history = lax.scan(step, (parameters, optimizer.init(parameters)), None, length=network.steps)
    return {"layers": parameters, "scale": scale, "size": size, "loss": history}


def _linear_prediction(data, linear, r, before, count):
    ky, kx = linear.size
    weights = jnp.asarray(linear.weights).astype(data.dtype)
    coils = weights.shape[1]
    out = lax.conv_general_dilated(
        data[None],
        weights.reshape(-1, coils, ky, kx),
        (1, 1),
        (((sources((ky, kx)) - 1) * r, (ky - sources((ky, kx))) * r), (kx // 2, kx - 1 - kx // 2)),
        rhs_dilation=(r, 1),
        precision=lax.Precision.HIGHEST,
    )[0]
    # out[b] fills behind line b
    return out.reshape(r - 1, coils, *out.shape[1:])[:, :, before : before + count]


def apply(kspace: Any, parameters: Any, linear: GrappaKernel | None, network: Raki, pattern: Undersampling) -> jax.Array:
    """Fill zero-filled k-space ``[coil, y, x]`` with a trained network."""
    kspace = jnp.asarray(kspace)
    lattice, first = to_lattice(kspace, pattern)
    r, coils = pattern.acceleration, kspace.shape[0]
    rows = network.first[0] + network.last[0] - 2
    before = sources((rows + 1, 1)) - 1
    columns = network.first[1] + network.last[1] - 2
    padded = jnp.pad(lattice, ((0, 0), (before, rows - before), (columns // 2, columns - columns // 2)))
    out = _layers(parameters["layers"], padded / parameters["scale"], network, 1, (0, 0), (0, 0))
    out = out.reshape(r - 1, coils, *out.shape[1:]) * (parameters["scale"] * parameters["size"])
    if linear is not None:
        base = fill(kspace, linear, pattern)
        gaps = from_lattice(out, jnp.zeros_like(kspace), pattern, first)
        return jnp.where(pattern.measured[:, None], kspace, base + gaps)
    return from_lattice(out, kspace, pattern, first)


def _scale(region):
    return jnp.max(jnp.abs(region))


def _initial(network, coils, r, key):
    keys = jax.random.split(key, 3)
    a, b = network.features
    outputs = (r - 1) * coils
    sizes = ((a, coils, *network.first), (b, a, 1, 1), (outputs, b, *network.last))
    out = []
    for i, (k, (o, n, h, w)) in enumerate(zip(keys, sizes, strict=True)):
        if network.linear:
            shape = (2, o, n, h, w)
        else:
            shape = (o * (2 if i == 2 else 1), n * (2 if i == 0 else 1), h, w)
        fan = shape[-3] * h * w
        out.append(jax.random.normal(k, shape, jnp.float32) * (2.0 / fan) ** 0.5 * (0.3 if i == 2 else 1.0))
    return out


def _layers(parameters, data, network, dilation, rows, columns):
    """``[coil, line, x]`` complex to ``[(r − 1) · coil, …, …]`` complex; the lines of a kernel are ``dilation`` apart."""

    def convolve(x, w):
        return lax.conv_general_dilated(x[None], w, (1, 1), (rows, columns), rhs_dilation=(dilation if w.shape[-2] > 1 else 1, 1))[0]

    x = jnp.concatenate([data.real, data.imag])
    if network.linear:
        for w in parameters:
            w = jnp.concatenate([jnp.concatenate([w[0], -w[1]], axis=1), jnp.concatenate([w[1], w[0]], axis=1)], axis=0)
            x = convolve(x, w)
    else:
        x = jax.nn.relu(convolve(x, parameters[0]))
        x = jax.nn.relu(convolve(x, parameters[1]))
        x = convolve(x, parameters[2])
    real, imaginary = jnp.split(x, 2)
    return lax.complex(real, imaginary)
