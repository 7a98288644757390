"""Loops that can be differentiated, stopped and watched: scan, checkpointed scan, and a while loop with history.

``body(carry, k) → (carry, record)`` throughout, k the number of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Body = Callable[[Any, Any], tuple[Any, Any]]


def scan(body: Body, carry: Any, steps: int, start: Any = 0) -> tuple[Any, Any]:
    """``steps`` calls of ``body``, k = start, start + 1, …; returns (carry, records ``[steps, ...]``)."""
    return jax.lax.scan(body, carry, start + jnp.arange(steps))


def checkpointed_scan(body: Body, carry: Any, steps: int, every: int) -> tuple[Any, Any]:
    """Like ``scan``; reverse mode keeps one carry per ``every`` steps and computes the others again.

    Memory: steps/every carries and the intermediates of ``every`` steps (Griewank & Walther, 2008, with one level).
    """
    blocks, rest = divmod(steps, every)
    records = []

    @jax.checkpoint
    def block(c, start):
        return scan(body, c, every, start)

    if blocks:
        carry, blocked = jax.lax.scan(block, carry, every * jnp.arange(blocks))
        records.append(jax.tree.map(lambda r: r.reshape(blocks * every, *r.shape[2:]), blocked))
    if rest:
        carry, last = jax.checkpoint(lambda c: scan(body, c, rest, blocks * every))(carry)
        records.append(last)
    return carry, jax.tree.map(lambda *r: jnp.concatenate(r), *records)


def sqrt_blocks(steps: int) -> int:
    """The block length that minimises the memory of a checkpointed scan, ⌈√steps⌉."""
    return math.isqrt(max(steps, 1) - 1) + 1


def while_with_history(body: Body, going: Callable[[Any], Any], carry: Any, steps: int) -> tuple[Any, Any, Any]:
    """Call ``body`` while ``going(carry)`` and k < steps.

    Returns (carry, records ``[steps, ...]``, count); the records (floating) of steps not taken are NaN. Forward mode only.
    """
    shapes = jax.eval_shape(lambda c: body(c, jnp.int32(0))[1], carry)
    records = jax.tree.map(lambda s: jnp.full((steps, *s.shape), jnp.nan, s.dtype), shapes)

    def cond(loop):
        k, c, _ = loop
        return (k < steps) & going(c)

    def advance(loop):
        k, c, r = loop
        c, record = body(c, k)
        return k + 1, c, jax.tree.map(lambda a, v: a.at[k].set(v), r, record)

    count, carry, records = jax.lax.while_loop(cond, advance, (jnp.int32(0), carry, records))
    return carry, records, count


def tell(callback: Callable[..., None] | None, due: Any, *values: Any) -> None:
    """From inside jit, call ``callback(*values)`` on the host where the scalar ``due`` holds."""
    if callback is None:
        return

    def host(due, *v):
        if due:  # again, because under vmap both branches of a cond run
            callback(*v)

    jax.lax.cond(due, lambda *v: jax.debug.callback(host, *v), lambda *v: None, due, *values)
