"""How much noise a reconstruction makes of the data's: g-factor maps, in closed form and by replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffimg.core import check
from diffimg.forward.fourier import ifft
from diffimg.mri.coils import combine
from diffimg.mri.grappa import GrappaKernel, sources


def sense_g_factor(coils: Any, acceleration: int) -> jax.Array:
    """g = √([(SᴴS)⁻¹]ⱼⱼ [SᴴS]ⱼⱼ) for every R-th line, white noise: ``[y, x]``, 1 or more; 0 where no coil sees anything.

    Args:
        coils: ``[coil, y, x]``; whiten them with the data. acceleration: R, a divisor of the number of lines.

    K. P. Pruessmann et al., Magn. Reson. Med. 42 (1999) 952.
    """
    coils = jnp.asarray(check.array("coils", coils))
    check.ndim("coils", coils, 3, "[coil, y, x]")
    count, ny, nx = coils.shape
    r = check.positive_int("acceleration", acceleration)
    if ny % r:
        check.fail("acceleration", f"a divisor of the {ny} lines", str(r), "For others use replica_deviation.")
    folded = jnp.transpose(coils.reshape(count, r, ny // r, nx), (2, 3, 0, 1))  # voxels that fold onto each other
    gram = jnp.einsum("yxcr,yxcs->yxrs", jnp.conj(folded), folded, precision="highest")
    power = jnp.diagonal(gram, axis1=-2, axis2=-1).real
    seen = power > 1e-8 * jnp.max(power)
    # voxels outside the object take no part
    keep = seen[..., :, None] & seen[..., None, :]
    gram = jnp.where(keep, gram, jnp.eye(r, dtype=gram.dtype))
    inverse = jnp.diagonal(jnp.linalg.inv(gram), axis1=-2, axis2=-1).real
    g = jnp.where(seen, jnp.sqrt(jnp.maximum(inverse * power, 1.0)), 0.0)
    return jnp.transpose(g, (2, 0, 1)).reshape(ny, nx)


def grappa_g_factor(kernel: GrappaKernel, shape: tuple[int, int], combination: Any) -> jax.Array:
    """g of GRAPPA in closed form: the kernel is a product in the image, ``[y, x]``.

    Args:
        kernel: weights. shape: (y, x). combination: weights of the coils' images, ``[coil, y, x]``, e.g. conj of the maps.

    F. A. Breuer et al., Magn. Reson. Med. 62 (2009) 739.
    """
    ny, nx = shape
    weights = jnp.asarray(kernel.weights)
    r, (ky, kx) = kernel.acceleration, kernel.size
    coils = weights.shape[1]
    combination = jnp.asarray(combination)
    check.shape("combination", combination, (coils, ny, nx), "[coil, y, x]")
    before = sources((ky, kx)) - 1
    y, x = np.arange(ny) - ny // 2, np.arange(nx) - nx // 2
    # out[t] = Σ w[j, i] in[t − lag]: a phase e^{2πi lag·r} each
    along_x = np.exp(2j * np.pi * np.outer(x, kx // 2 - np.arange(kx)) / nx)
    total = jnp.broadcast_to(jnp.eye(coils, dtype=weights.dtype)[:, :, None, None], (coils, coils, ny, nx))
    rows = jnp.einsum("rcdji,xi->rcdjx", weights, along_x.astype(weights.dtype), precision="highest")
    for gap in range(1, r):
        lag = gap - (np.arange(ky) - before) * r
        along_y = np.exp(2j * np.pi * np.outer(y, lag) / ny)
        total = total + jnp.einsum("cdjx,yj->cdyx", rows[gap - 1], along_y.astype(weights.dtype), precision="highest")
    combined = jnp.einsum("cyx,cdyx->dyx", combination, total, precision="highest")
    own = jnp.sum(jnp.abs(combination) ** 2, axis=0)
    power = jnp.sum(jnp.abs(combined) ** 2, axis=0)
    seen = own > 1e-12 * jnp.max(own)
    return jnp.where(seen, jnp.sqrt(power / jnp.where(seen, own, 1)) / r, 0.0)


def replica_deviation(
    reconstruct: Callable[[Any], Any], kspace: Any, noise: float, key: jax.Array, *, replicas: int = 64, mask: Any = None
) -> jax.Array:
    """The standard deviation of a reconstruction under fresh noise on its data, by pseudo-replicas; for any function, nonlinear ones too.

    Args:
        reconstruct: k-space to an image, complex or real; jitted here.
        kspace: the data. noise: standard deviation of real and imaginary part. key: of the noise.
        replicas: how many; the estimate is off by 1/√(2·replicas). mask: where data were measured (noise is added there only).

    Returns:
        The shape of the image: √mean|x − mean x|².

    P. M. Robson et al., Magn. Reson. Med. 60 (2008) 895.
    """
    check.positive_int("replicas", replicas)
    if replicas < 2:
        check.fail("replicas", "at least 2", str(replicas))
    check.minimum("noise", noise, 0.0, strict=True)
    kspace = jnp.asarray(kspace)
    where = 1.0 if mask is None else jnp.asarray(mask).astype(kspace.real.dtype)

    def one(k):
        real, imaginary = jax.random.normal(k, (2, *kspace.shape), kspace.real.dtype)
        return reconstruct(kspace + noise * where * lax.complex(real, imaginary))

    images = lax.map(jax.jit(one), jax.random.split(key, replicas))
    mean = jnp.mean(images, axis=0)
    return jnp.sqrt(jnp.sum(jnp.abs(images - mean) ** 2, axis=0) / (replicas - 1))


def full_deviation(coils: Any, noise: float) -> jax.Array:
    """√2·noise/‖S‖: what ``replica_deviation`` is for fully sampled data combined with the maps ``[coil, y, x]``; 0 where they vanish."""
    power = jnp.sum(jnp.abs(jnp.asarray(coils)) ** 2, axis=0)
    seen = power > 1e-12 * jnp.max(power)
    return jnp.where(seen, np.sqrt(2) * noise / jnp.sqrt(jnp.where(seen, power, 1)), 0.0)


def combined_image(kspace: Any, coils: Any) -> jax.Array:
    """Coil images of full k-space ``[coil, y, x]``, combined with maps: the last step of GRAPPA and RAKI."""
    return combine(ifft(kspace), coils)
