"""What a run returns: the solution, why it stopped, and its history."""

from __future__ import annotations

import enum
from typing import Any

import jax
import numpy as np

from diffimg.core.pytree import pytree


class Status(enum.IntEnum):
    """Why a solver stopped; each member carries its message."""

    message: str

    def __new__(cls, value: int, message: str):
        member = int.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member

    CONVERGED = 0, "the relative change fell below the tolerance"
    COMPLETED = 1, "all requested steps were taken (no tolerance was set)"
    MAX_STEPS = 2, "the tolerance was not reached within the steps allowed: raise steps= or tolerance="
    NONFINITE = 3, "an iterate became NaN or Inf (the last finite one is returned) or its energy is: lower the step size or check the data"
    INDEFINITE = 4, "the system is not positive definite: use MINRES, GMRES or a proximal solver instead of conjugate gradients"
    LINE_SEARCH = 5, "the backtracking line search found no acceptable step: check the gradient, start where the energy is finite"
    ASYMMETRIC = 6, "the system is not symmetric (or not linear): use a solver that needs a gradient only instead of conjugate gradients"

    @property
    def ok(self) -> bool:
        """Whether the solution can be used as asked for."""
        return self in (Status.CONVERGED, Status.COMPLETED)


@pytree
class Result:
    """``x``; ``status`` (a ``Status`` code); ``iterations`` taken; ``objective`` ``[steps + 1]`` and ``residual`` ``[steps]``
    (relative change), NaN where not recorded; ``state``: the solver's last state, for a warm start."""

    x: Any
    status: jax.Array
    iterations: jax.Array
    objective: jax.Array
    residual: jax.Array
    state: Any = None

    def check(self) -> Result:
        """Return self, or raise ``RuntimeError`` with the status's message (outside jit)."""
        codes = np.unique(np.asarray(self.status))
        bad = [Status(int(c)) for c in codes if not Status(int(c)).ok]
        if bad:
            messages = "; ".join(f"{s.name}: {s.message}" for s in bad)
            raise RuntimeError(f"{messages} (after {np.max(np.asarray(self.iterations))} iterations).")
        return self

    def __repr__(self):
        if any(isinstance(v, jax.core.Tracer) or not hasattr(v, "shape") for v in (self.status, self.iterations, self.objective)):
            return f"Result(status={self.status}, iterations={self.iterations})"
        names = ", ".join(sorted({Status(int(c)).name for c in np.ravel(np.asarray(self.status))}))
        history = np.asarray(self.objective)
        last = np.take_along_axis(history, np.asarray(self.iterations)[..., None], -1)[..., 0]
        return f"Result({names}, iterations={np.asarray(self.iterations)}, objective={last})"
