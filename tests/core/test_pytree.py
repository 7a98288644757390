import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.core import check
from diffimg.core import pytree as tree
from diffimg.core.pytree import pytree, static


@pytree
class Thing:
    weights: jax.Array
    count: int = static(default=1)

    def __post_init__(self):
        check.minimum("weights", self.weights, 0.0)


def test_is_frozen_and_validates_on_construction_only():
    thing = Thing(jnp.ones(3), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing.count = 3
    with pytest.raises(ValueError, match="weights: expected values ≥ 0"):
        Thing(-jnp.ones(3))
    negative = jax.tree.map(lambda w: -w, thing)  # JAX may rebuild it with anything
    assert negative.count == 2
    assert jax.tree.map(lambda _: None, thing).weights is None
    assert jax.tree.map(lambda _: object(), thing).count == 2


def test_static_fields_are_part_of_the_program_and_leaves_are_traced():
    traces = []

    @jax.jit
    def f(thing):
        traces.append(1)
        return thing.weights * thing.count

    f(Thing(jnp.ones(3), 2)), f(Thing(jnp.zeros(3), 2))
    assert len(traces) == 1
    f(Thing(jnp.ones(3), 3))
    assert len(traces) == 2


def test_equality_is_by_value_and_hash_agrees():
    a, b = Thing(jnp.ones(3)), Thing(np.ones(3, np.float32))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Thing(jnp.zeros(3))
    assert a != Thing(jnp.ones(3), 2)
    assert a != "a"
    assert tree.replace(a, count=2) == Thing(jnp.ones(3), 2)


def test_vmap_and_grad_through_leaves():
    stacked = Thing(jnp.arange(6.0).reshape(2, 3))
    assert jax.vmap(lambda t: t.weights.sum())(stacked).shape == (2,)
    g = jax.grad(lambda t: (t.weights**2).sum())(Thing(jnp.ones(3)))
    np.testing.assert_allclose(g.weights, 2.0)


def test_inner_product_is_hermitian():
    a = {"p": jnp.array([1 + 2j, 3.0]), "q": jnp.array(2j)}
    b = {"p": jnp.array([1j, 1.0]), "q": jnp.array(1.0 + 0j)}
    flat = [np.concatenate([np.ravel(v) for v in (t["p"], t["q"])]) for t in (a, b)]
    np.testing.assert_allclose(tree.dot(a, b), np.vdot(*flat))
    np.testing.assert_allclose(tree.norm(a), np.linalg.norm(flat[0]), rtol=1e-6)


def test_errors_name_argument_expectation_value_and_remedy():
    with pytest.raises(ValueError, match=r"x: expected shape \[\.\.\., 4, 5\].*got shape \(5, 4\).*transpose"):
        check.trailing_shape("x", np.zeros((5, 4)), (4, 5), "y, x")
    with pytest.raises(ValueError, match=r"y: expected finite values, got 1 NaN or Inf of 3 \(first at \(1,\)\)"):
        check.finite("y", np.array([0, np.nan, 1]))
    with pytest.raises(ValueError, match="Did you mean 'hann'"):
        check.one_of("filter", "han", ["hann", "ramlak"])
