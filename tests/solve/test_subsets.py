"""Access orders, and operators restricted to some of their data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.forward import Blur, Diagonal, Identity, Matrix, ParallelBeam, Radon
from diffimg.solve.subsets import ORDERS, access_order, restrict, subset_views

RNG = np.random.default_rng(0)
GEOMETRY = ParallelBeam((7, 6), np.linspace(0, np.pi, 12, endpoint=False), 11)


@pytest.mark.parametrize("order", ORDERS)
def test_every_view_once_and_evenly_spread(order):
    for count in (1, 2, 7, 12, 16, 45):
        assert sorted(access_order(count, order)) == list(range(count))
    table = subset_views(12, 4, order)
    assert table.shape == (4, 3) and sorted(table.ravel()) == list(range(12))
    assert (np.diff(table, axis=1) == 4).all()


def test_neighbours_in_time_lie_far_apart():
    assert access_order(8, "bit-reversal").tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    golden = access_order(90)
    apart = np.abs(np.diff(golden))
    assert np.minimum(apart, 90 - apart).min() >= 90 / 3
    for n in (5, 10, 30):  # every beginning leaves no large gap
        assert np.diff(np.sort(golden[:n]), append=90 + golden[:n].min()).max() <= 2.7 * 90 / n


def test_uneven_subsets_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"divisor of the number of views, 12, got 5\. Take 4 or 6 subsets"):
        subset_views(12, 5)


@pytest.mark.parametrize(
    "operator",
    [
        Radon(GEOMETRY, method="joseph"),
        Radon(GEOMETRY),
        2.5 * Radon(GEOMETRY, method="joseph"),
        Diagonal(RNG.uniform(size=(12, 11)).astype(np.float32)) @ Radon(GEOMETRY, method="joseph"),
        Radon(GEOMETRY, method="joseph") @ Blur(RNG.uniform(size=(3, 3)).astype(np.float32), (7, 6)),
        Radon(GEOMETRY, method="joseph") + 0.5 * Radon(GEOMETRY),
        Matrix(RNG.normal(size=(12, 5)).astype(np.float32)),
    ],
    ids=repr,
)
def test_restriction_is_some_of_the_data(operator):
    index = jnp.array([9, 2, 5, 0])
    x = jax.random.normal(jax.random.key(0), operator.domain.shape)
    full = operator(x)
    part = jax.jit(lambda a, i, v: restrict(a, i)(v))(operator, index, x)
    np.testing.assert_allclose(part, full[index], atol=2e-5 * float(jnp.max(jnp.abs(full))))


def test_what_cannot_be_split_says_so():
    for operator in (Radon(GEOMETRY).prepare(), Identity((4, 4))):
        with pytest.raises(ValueError, match="prepare=False"):
            restrict(operator, jnp.arange(2))
