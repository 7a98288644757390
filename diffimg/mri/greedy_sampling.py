"""Lines of k-space chosen one after the other: each time the one that lowers the error of a reconstruction most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.mri.sampling import centre


def greedy_lines(error: Callable[[jax.Array], Any], lines: int, acceleration: float, acs: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which lines to measure, found on training images.

    Unlike ``LearnedMask``, whose lines are drawn independently of each other, the next line depends on those chosen before.

    Args:
        error: of a mask ``[line]`` of zeros and ones (float32), a real scalar: e.g. the mean squared error of SENSE over training slices.
            It is compiled, and called about lines²/acceleration times.
        lines: of k-space. acceleration: R ≥ 1, so that lines/R are chosen. acs: central lines to begin with.

    Returns:
        (mask ``[line]`` bool, error after each choice ``[choice]``).

    Raises:
        ValueError: more central lines than R allows, an error that is not a finite real scalar.

    B. Gözcü et al., IEEE Trans. Med. Imaging 37 (2018) 1394.
    """
    lines = check.positive_int("lines", lines)
    check.minimum("acceleration", acceleration, 1.0)
    if isinstance(acs, bool) or not isinstance(acs, (int, np.integer)) or not 0 <= acs <= lines:
        check.fail("acs", f"0 … {lines} lines", repr(acs))
    wanted = round(lines / acceleration)
    if wanted < max(acs, 1):
        check.fail("acs", f"at most the {wanted} lines that R = {acceleration:g} allows", str(acs), "Take a smaller centre.")
    shape = jax.eval_shape(error, jax.ShapeDtypeStruct((lines,), jnp.float32))
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        check.fail("error", "a function of a mask [line] to a real scalar", f"one to {shape}", "E.g. a mean over all training slices.")
    with_line = jax.jit(lambda mask: jax.lax.map(lambda i: error(mask.at[i].set(1.0)), jnp.arange(lines)))
    mask, history = np.zeros(lines, np.float32), []
    mask[centre(lines, acs)] = 1
    while mask.sum() < wanted:
        errors = np.where(mask > 0, np.inf, np.asarray(with_line(jnp.asarray(mask))))
        best = int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))
        if not np.isfinite(errors[best]):
            remedy = "Is the reconstruction stable with so few lines?"
            check.fail("error", "finite values", f"{errors[best]} for every further line", remedy)
        mask[best] = 1
        history.append(float(errors[best]))
    return mask > 0, np.asarray(history)
