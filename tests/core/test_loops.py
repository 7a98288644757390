import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core import loops


def body(carry, k):
    carry = jnp.sin(carry) + 0.1 * k
    return carry, carry**2


def reference(x, steps, start=0):
    records = []
    for k in range(start, start + steps):
        x = np.sin(x) + 0.1 * k
        records.append(x**2)
    return x, records


def test_scan_counts_from_start():
    carry, records = loops.scan(body, jnp.float32(0.3), 4, start=2)
    x, expected = reference(0.3, 4, 2)
    np.testing.assert_allclose(carry, x, rtol=1e-6)
    np.testing.assert_allclose(records, expected, rtol=1e-6)


@pytest.mark.parametrize(("steps", "every"), [(6, 3), (7, 3), (2, 5), (5, 1)])
def test_checkpointed_scan_equals_scan_in_value_and_derivative(steps, every):
    def value(loop):
        return lambda x: (lambda c, r: c + jnp.sum(r))(*loop(x))

    plain = value(lambda x: loops.scan(body, x, steps))
    saving = value(lambda x: loops.checkpointed_scan(body, x, steps, every))
    x = jnp.float32(0.3)
    np.testing.assert_allclose(jax.value_and_grad(saving)(x), jax.value_and_grad(plain)(x), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(saving, (x,), (x,))[1], jax.jvp(plain, (x,), (x,))[1], rtol=1e-6)


def test_checkpointed_scan_stores_fewer_carries():
    """Stored between the passes: the carries at the block boundaries, not every carry."""
    x = jnp.ones(1000, jnp.float32)
    stored = {}
    for name, loop in (("plain", lambda x: loops.scan(body, x, 100)), ("saving", lambda x: loops.checkpointed_scan(body, x, 100, 10))):
        _, pullback = jax.vjp(lambda x, loop=loop: loop(x)[0].sum(), x)
        stored[name] = sum(v.size for v in jax.tree.leaves(pullback))
    assert stored["saving"] < stored["plain"] / 5


@pytest.mark.parametrize(("steps", "blocks"), [(1, 1), (2, 2), (4, 2), (5, 3), (100, 10), (101, 11)])
def test_sqrt_blocks_rounds_up(steps, blocks):
    assert loops.sqrt_blocks(steps) == blocks


def test_while_with_history_stops_and_marks_the_rest():
    def halve(c, k):
        return c / 2, c

    run = jax.jit(lambda c: loops.while_with_history(halve, lambda c: c > 0.2, c, 6))
    carry, records, count = run(jnp.float32(1.0))
    assert carry == 0.125 and count == 3
    np.testing.assert_array_equal(records, [1, 0.5, 0.25, np.nan, np.nan, np.nan])
    carries, _, counts = jax.vmap(run)(jnp.array([1.0, 0.1, 1e9], jnp.float32))
    assert counts.tolist() == [3, 0, 6] and carries[1] == np.float32(0.1)


def test_tell_calls_where_due():
    heard = []

    @jax.jit
    def loop(x):
        def told(c, k):
            loops.tell(lambda k, v: heard.append((int(k), float(v))), k % 3 == 0, k, c)
            return c + 1, None

        return loops.scan(told, x, 7)[0]

    jax.block_until_ready(loop(jnp.float32(0.0)))
    jax.block_until_ready(jax.vmap(loop)(jnp.array([10.0, 20.0], jnp.float32)))
    jax.effects_barrier()
    assert sorted(heard) == sorted((k, base + k) for base in (0, 10, 20) for k in (0, 3, 6))
    loops.tell(None, True, 1)
