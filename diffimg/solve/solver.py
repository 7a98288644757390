"""The Solver protocol."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import pytree as tree
from diffimg.solve.problem import Problem


class Solver:
    """A ``@pytree`` of hyper-parameters with two pure methods:

    - ``init(problem, x0) → state``, a NamedTuple with the iterate in ``state.x``,
    - ``step(problem, state) → state``.

    A state may have a field ``status``: a step that sets it to anything but ``Status.COMPLETED`` has failed and is not taken.

    The rest is derived. A solver with memory besides x (dual variables, momentum) says what its fixed point consists of:

    - ``variables(state) → z``: the (floating or complex) variables that determine the solution; by default ``state.x``,
    - ``with_variables(state, z) → state``: a state that continues from z with every other memory (momentum) reset.
    """

    def init(self, problem: Problem, x0: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define init(self, problem, x0).")

    def step(self, problem: Problem, state: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define step(self, problem, state).")

    def variables(self, state: Any) -> Any:
        return state.x

    def with_variables(self, state: Any, z: Any) -> Any:
        return state._replace(x=z)

    def fixed_point(self, problem: Problem, state: Any, z: Any) -> Any:
        """T(z): one memoryless step; the answer is its fixed point. ``state`` gives step sizes only (no gradient)."""
        return self.variables(self.tail_step(problem, self.with_variables(jax.lax.stop_gradient(state), z)))

    def tail_step(self, problem: Problem, state: Any) -> Any:
        """The step that is differentiated after the graph was cut; ``step`` unless its memory hides the problem's parameters."""
        return self.step(problem, state)

    def solution(self, state: Any, z: Any) -> Any:
        """The image x that belongs to the variables z."""
        return self.with_variables(state, z).x

    def objective(self, problem: Problem, state: Any) -> tuple[Any, Any]:
        """(objective, its smooth part) of the state's iterate; a solver whose state holds them need not compute them again."""
        return problem(state.x), problem.smooth(state.x)

    def residual(self, old: Any, new: Any) -> jax.Array:
        """Relative change ‖x⁺ − x‖ / ‖x⁺‖, the stopping criterion."""
        return relative_change(old.x, new.x)


def relative_change(old: Any, new: Any) -> jax.Array:
    """‖new − old‖ / ‖new‖, and 0 where both are 0."""
    change, size = tree.norm(tree.add(new, old, -1)), tree.norm(new)
    return change / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
