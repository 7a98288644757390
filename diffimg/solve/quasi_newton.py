"""Limited-memory BFGS, and Adam: for smooth problems whose gradient has no known Lipschitz constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static
from diffimg.solve.solver import Solver


class LBFGSState(NamedTuple):
    """Iterate, its energy and gradient, the last moves and changes of gradient ``[memory, n]``, how many there are, the step length to
    try, the scale γ of the inverse Hessian, whether the last trial was taken."""

    x: Any
    value: jax.Array
    gradient: Any
    moves: jax.Array
    changes: jax.Array
    count: jax.Array
    trial: jax.Array
    scale: jax.Array
    taken: jax.Array


@pytree
class LBFGS(Solver):
    """Limited-memory BFGS with backtracking: one energy and gradient a step.

    A trial that does not lower the energy enough (Armijo) is not taken; the next step tries a shorter one in the same direction, so
    the energy never rises. Derivatives hold the inverse Hessian and the step length constant: as the run converges they become those
    of the minimiser.

    Args:
        memory: pairs that the inverse Hessian is made of.
        first_move: length ‖x₁ − x₀‖ of the first trial, in the unit of x.
        typical: size of x below which changes count as absolute: the stopping criterion is ‖x⁺ − x‖ / max(‖x⁺‖, typical).

    Raises:
        ValueError: numbers that are not positive.

    D. Liu and J. Nocedal, Mathematical Programming 1989.
    """

    memory: int = static(default=8)
    first_move: Any = 1.0
    typical: Any = 0.0

    def __post_init__(self):
        check.positive_int("memory", self.memory)
        check.minimum("first_move", self.first_move, 0, strict=True)
        check.minimum("typical", self.typical, 0)

    def init(self, problem, x0):
        problem.require("LBFGS")
        value, gradient = problem.smooth.value_and_grad(x0)
        flat, _ = _flat(gradient)
        empty = jnp.zeros((self.memory, flat.size), flat.dtype)
        scale = self.first_move / jnp.maximum(jnp.linalg.norm(flat), jnp.finfo(flat.dtype).tiny)
        one = jnp.ones((), flat.dtype)
        return LBFGSState(x0, value, gradient, empty, empty, jnp.int32(0), one, scale.astype(flat.dtype), jnp.bool_(True))

    def step(self, problem, state):
        g, back = _flat(state.gradient)
        state = state._replace(**{k: jax.lax.stop_gradient(getattr(state, k)) for k in ("moves", "changes", "trial", "scale", "value")})
        d = -_inverse_hessian(g, state)
        slope = jnp.vdot(g, d)
        downhill = slope < 0
        d, slope = jnp.where(downhill, d, -state.scale * g), jnp.where(downhill, slope, -state.scale * jnp.vdot(g, g))
        x = tree.add(state.x, back(d), state.trial)
        value, gradient = problem.smooth.value_and_grad(x)
        new, _ = _flat(gradient)
        rounding = 4 * jnp.finfo(g.dtype).eps * jnp.abs(state.value)
        arrived = -slope <= rounding  # what is left to gain is less than the energy's last digits: stand still
        good = ~arrived & (value <= state.value + 1e-4 * state.trial * slope + rounding) & jnp.isfinite(value) & jnp.all(jnp.isfinite(new))
        move, change = jax.lax.stop_gradient((state.trial * d, new - g))
        curvature = jnp.vdot(move, change)
        size = jnp.vdot(change, change)
        learn = good & (curvature > 1e-8 * jnp.sqrt(jnp.vdot(move, move) * size)) & (curvature > 0)
        moves = jnp.where(learn, jnp.roll(state.moves, 1, 0).at[0].set(move), state.moves)
        changes = jnp.where(learn, jnp.roll(state.changes, 1, 0).at[0].set(change), state.changes)
        # the parabola through both energies and the slope
        excess = value - state.value - state.trial * slope
        shorter = jnp.where(jnp.isfinite(excess) & (excess > 0), -slope * state.trial**2 / (2 * jnp.where(excess > 0, excess, 1)), 0)
        shorter = jnp.clip(shorter, 0.1 * state.trial, 0.5 * state.trial)
        return LBFGSState(
            tree.where(good, x, state.x),
            jnp.where(good, value, state.value),
            tree.where(good, gradient, state.gradient),
            moves,
            changes,
            jnp.minimum(state.count + learn, self.memory),
            jnp.where(good, 1.0, jnp.where(arrived, 0.0, shorter)).astype(state.trial.dtype),
            jnp.where(learn, curvature / jnp.where(size > 0, size, 1), state.scale),
            good,
        )

    def objective(self, problem, state):
        return state.value, state.value

    def tail_step(self, problem, state):
        return state._replace(x=tree.add(state.x, problem.grad(state.x), -jax.lax.stop_gradient(state.scale)))

    def residual(self, old, new):
        change = change_of(old.x, new.x, self.typical)
        stuck = new.trial < 1e-6  # no descent left that numbers can show
        return jnp.where(new.taken | stuck, change, 1.0)


def _inverse_hessian(g, state):
    """H g by the two-loop recursion; empty pairs are zeros and do nothing."""
    products = jnp.sum(state.moves * state.changes, 1)
    rho = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)
    q, alphas = g, []
    for k in range(len(state.moves)):
        alphas.append(rho[k] * jnp.vdot(state.moves[k], q))
        q = q - alphas[k] * state.changes[k]
    q = state.scale * q
    for k in range(len(state.moves))[::-1]:
        q = q + (alphas[k] - rho[k] * jnp.vdot(state.changes[k], q)) * state.moves[k]
    return q


class AdamState(NamedTuple):
    """Iterate, means of the gradient and of its square, steps taken."""

    x: Any
    mean: Any
    square: Any
    count: jax.Array


@pytree
class Adam(Solver):
    """Adam: steps of about ``rate`` in every coordinate, whatever the size of the gradient; for rugged energies.

    Args:
        rate: in the unit of x.
        decay: rate of step k is rate/(1 + decay·k); 0 keeps it.
        first, second: how slowly the means forget.

    Raises:
        ValueError: numbers out of range.

    D. Kingma and J. Ba, ICLR 2015.
    """

    rate: Any
    decay: Any = 0.0
    first: Any = 0.9
    second: Any = 0.999

    def __post_init__(self):
        check.minimum("rate", self.rate, 0, strict=True)
        check.minimum("decay", self.decay, 0)
        for name in ("first", "second"):
            value = getattr(self, name)
            check.minimum(name, value, 0)
            if check.is_concrete(value) and not value < 1:
                check.fail(name, "a number in [0, 1)", repr(value))

    def init(self, problem, x0):
        problem.require("Adam")
        zero = jax.tree.map(jnp.zeros_like, x0)
        return AdamState(x0, zero, jax.tree.map(lambda v: jnp.zeros_like(v.real), x0), jnp.int32(0))

    def step(self, problem, state):
        g = problem.grad(state.x)
        k = state.count + 1
        mean = jax.tree.map(lambda m, v: self.first * m + (1 - self.first) * v, state.mean, g)
        square = jax.tree.map(lambda s, v: self.second * s + (1 - self.second) * jnp.abs(v) ** 2, state.square, g)
        rate = self.rate / (1 + self.decay * state.count)

        def moved(x, m, s):
            size = jnp.sqrt(s / (1 - self.second**k) + 1e-30) + 1e-8
            return x - (rate * (m / (1 - self.first**k)) / size).astype(x.dtype)

        x = jax.tree.map(moved, state.x, mean, square)
        like = lambda new, old: jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)  # noqa: E731
        return AdamState(x, like(mean, state.mean), like(square, state.square), k)

    def tail_step(self, problem, state):
        return state._replace(x=tree.add(state.x, problem.grad(state.x), -jax.lax.stop_gradient(self.rate)))


def change_of(old: Any, new: Any, typical: Any) -> jax.Array:
    """‖new − old‖ / max(‖new‖, typical)."""
    change, size = tree.norm(tree.add(new, old, -1)), tree.norm(new)
    return change / jnp.maximum(jnp.maximum(size, typical), jnp.finfo(size.dtype).tiny)


def _flat(x):
    """(a vector, the way back), real and imaginary parts one after the other."""
    leaves, structure = jax.tree.flatten(x)
    parts = [jnp.stack([v.real, v.imag]) if jnp.iscomplexobj(v) else v for v in leaves]
    dtype = jnp.result_type(*(p.dtype for p in parts))

    def back(vector):
        out, start = [], 0
        for leaf, part in zip(leaves, parts, strict=True):
            piece = vector[start : start + part.size].reshape(part.shape)
            start += part.size
            out.append((jax.lax.complex(piece[0], piece[1]) if jnp.iscomplexobj(leaf) else piece).astype(leaf.dtype))
        return jax.tree.unflatten(structure, out)

    return jnp.concatenate([p.ravel().astype(dtype) for p in parts]), back


