"""T2*: each spin as a set of spins whose frequencies spread as a Lorentz distribution."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.forward.bloch import Spins


def isochromats(spins: Spins, t2_star: Any, count: int = 64) -> Spins:
    """Spins that dephase with T2*: each becomes ``count`` spins, a new last axis, whose frequencies spread by 1/T2′ = 1/T2* − 1/T2.

    Without refocusing their sum decays as e^{−t/T2*}; a spin echo gets all but e^{−TE/T2} back.

    Args:
        spins: with the T2 that an echo cannot undo; their off-resonance is the centre of the spread.
        t2_star: s, a scalar or ``[*spins]``, not above T2; differentiable.
        count: of isochromats. The sum is within 1.6·m0/count of the exponential for times up to 4 T2′: the tails of the distribution
            are long, and the error lies where they matter, in the first T2′/count.

    Returns:
        ``Spins`` of shape ``[*spins, count]`` with the same total m0.

    Raises:
        ValueError: a T2* that is not positive or above T2, NaN.

    The Lorentz distribution has e^{−|t|/T2′} as its Fourier transform (E. M. Haacke et al., Magnetic Resonance Imaging, Wiley 1999). Its
    frequencies are tan or, here, sinh of equidistant numbers: the latter need a tenth of the spins.
    """
    n = check.positive_int("count", count)
    t2_star = check.array("t2_star", t2_star)
    check.minimum("t2_star", t2_star, 0.0, strict=True, remedy="Give seconds; T2* = T2 means no spread.")
    if jnp.ndim(t2_star):
        check.shape("t2_star", t2_star, spins.shape, "[*spins]")
    if check.is_concrete(t2_star) and check.is_concrete(spins.t2):
        given, longest = np.broadcast_arrays(np.asarray(t2_star), np.asarray(spins.t2))
        if np.any(over := given > longest * (1 + 1e-6)):
            got = f"{given[over].flat[0]:.4g} s where T2 is {longest[over].flat[0]:.4g} s"
            check.fail("t2_star", "times not above T2", got, "1/T2* = 1/T2 + 1/T2′, in seconds: dephasing only adds.")
    end = math.log(1.2 * n + 1)  # balances what lies beyond the ends against the gaps between the frequencies
    s = end * ((2 * np.arange(n) + 1) / n - 1)
    weights = 1 / np.cosh(s)
    width = jnp.maximum(1 / jnp.asarray(t2_star) - 1 / jnp.asarray(spins.t2), 0)
    fields = {name: jnp.asarray(getattr(spins, name))[..., None] for name in ("m0", "t1", "t2", "off_resonance", "b1")}
    fields["m0"] = fields["m0"] * (weights / weights.sum())
    fields["off_resonance"] = fields["off_resonance"] + width[..., None] * np.sinh(s)
    return replace(spins, position=jnp.asarray(spins.position)[..., None, :], **fields)
