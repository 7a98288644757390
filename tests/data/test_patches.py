"""Patches, their random draws and smaller copies, against NumPy, scikit-learn, Pillow and the dihedral group by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.data import Sample, draw, patches, scaled

RNG = np.random.default_rng(0)


def test_patches_are_those_of_scikit_learn():
    image = pytest.importorskip("sklearn.feature_extraction.image")
    a = RNG.normal(size=(11, 8)).astype(np.float32)
    np.testing.assert_array_equal(patches([a], 4, 1), image.extract_patches_2d(a, (4, 4)))
    strided = patches([a], 4, 3)
    np.testing.assert_array_equal(strided, image.extract_patches_2d(a, (4, 4)).reshape(8, 5, 4, 4)[::3, ::3].reshape(-1, 4, 4))


def test_patches_of_several_images_and_records():
    a, b = RNG.normal(size=(9, 7)), RNG.normal(size=(4, 4))
    found = patches([a, Sample("b", b.astype(np.float32), None, "1", "", "")], 4)
    assert found.dtype == np.float32 and isinstance(found, np.ndarray) and found.shape == (3, 4, 4)
    np.testing.assert_allclose(found, [a[:4, :4], a[4:8, :4], b], rtol=1e-6)
    np.testing.assert_array_equal(patches(np.stack([b, 2 * b]), 4), np.stack([b, 2 * b]).astype(np.float32))
    np.testing.assert_array_equal(patches(iter([np.eye(4, dtype=np.uint8)]), 4), np.eye(4)[None])
    found[0] = 0  # a copy: the images are not touched
    assert a[0, 0] != 0


def test_scaled_is_an_area_average():
    image = pytest.importorskip("PIL.Image")
    a = RNG.random((12, 18)).astype(np.float32)
    same, half, odd = scaled([a], (1.0, 0.5, 0.7))
    np.testing.assert_array_equal(same, a)
    np.testing.assert_allclose(half, a.reshape(6, 2, 9, 2).mean((1, 3)), rtol=1e-6)
    assert odd.shape == (8, 13)
    np.testing.assert_allclose(odd.mean(), a.mean(), rtol=1e-6)
    fine = np.repeat(np.repeat(a, 8, 0), 13, 1)  # the least common grid
    np.testing.assert_allclose(odd, fine.reshape(8, 12, 13, 18).mean((1, 3)), rtol=1e-5)
    np.testing.assert_allclose(half, np.asarray(image.fromarray(a).resize((9, 6), image.Resampling.BOX)), rtol=1e-5)
    assert [i.shape for i in scaled([a, a[:4, :4]], (1, 0.5))] == [(12, 18), (4, 4), (6, 9), (2, 2)]


def orientations(image):
    """By rotations and one reflection: the definition of the group."""
    return [np.rot90(m, k) for m in (image, image[:, ::-1]) for k in range(4)]


def test_draws_are_uniform_over_members_and_orientations():
    pool = RNG.normal(size=(3, 4, 4)).astype(np.float32)
    drawn = np.asarray(draw(pool, jax.random.key(0), 4800))
    table = np.stack([o for member in pool for o in orientations(member)]).reshape(24, -1)
    distance = np.abs(drawn.reshape(-1, 1, 16) - table[None]).max(-1)
    np.testing.assert_array_equal(distance.min(1), 0)
    counts = np.bincount(distance.argmin(1), minlength=24)
    chi2 = float(((counts - 200) ** 2 / 200).sum())
    assert chi2 < 49.7  # the 99.9th percentile for 23 degrees of freedom


def test_draw_is_pure_and_traceable():
    pool = RNG.normal(size=(5, 6, 6)).astype(np.float32)
    key = jax.random.key(3)
    compiled = jax.jit(draw, static_argnums=(2, 3))
    host, device, traced = draw(pool, key, 7), draw(jnp.asarray(pool), key, 7), compiled(pool, key, 7)
    np.testing.assert_array_equal(host, device)
    np.testing.assert_array_equal(host, traced)
    assert isinstance(host, jax.Array) and host.dtype == jnp.float32 and host.shape == (7, 6, 6)
    assert np.abs(np.asarray(draw(pool, jax.random.key(4), 7)) - np.asarray(host)).max() > 0
    plain = draw(pool, key, 7, augment=False)
    assert all(any(np.array_equal(p, member) for member in pool) for p in np.asarray(plain))


def test_trees_are_drawn_together():
    pool = {"fine": RNG.normal(size=(9, 4, 6)), "y": np.arange(9) + 1j, "label": (np.arange(9),)}
    drawn = jax.jit(lambda p, k: draw(p, k, 20, augment=False))(pool, jax.random.key(1))
    index = np.asarray(drawn["label"][0])
    assert len(set(index)) > 4
    np.testing.assert_allclose(drawn["y"], pool["y"][index])
    np.testing.assert_allclose(drawn["fine"], pool["fine"][index], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches([], 4), "images: expected at least one image"),
        (lambda: patches(None, 4), "at least one image"),
        (lambda: patches([np.ones((9, 9)), np.ones((5, 3))], 4), r"images\[1\]: expected at least 4 × 4 pixels, got shape \(5, 3\)"),
        (lambda: patches([np.ones((9, 9)), np.ones((9, 9, 3))], 4), r"images\[1\]: expected 2 axes \[y, x\]"),
        (lambda: patches(np.ones((9, 9)), 4), r"images\[0\]: expected 2 axes"),
        (lambda: patches([np.ones((9, 9)) * 1j], 4), "real"),
        (lambda: patches([np.full((9, 9), np.nan)], 4), "finite"),
        (lambda: patches([np.ones((9, 9))], 0), "size"),
        (lambda: patches([np.ones((9, 9))], 4, 0), "stride"),
        (lambda: patches([[[1, 2], [3]]], 1), "numeric array"),
        (lambda: scaled([np.ones((4, 4))], (0.5, 1.5)), r"factors: expected values in \(0, 1\]"),
        (lambda: scaled([np.ones((4, 4))], ()), "factors"),
        (lambda: scaled([], (0.5,)), "images"),
        (lambda: draw(np.ones((3, 4, 5)), jax.random.key(0), 2), "square images.*augment=False"),
        (lambda: draw({"a": np.ones((3, 4, 4)), "b": np.ones(3)}, jax.random.key(0), 2), "augment=False"),
        (lambda: draw({"a": np.ones((3, 4)), "b": np.ones(2)}, jax.random.key(0), 2, False), r"first axes \[2, 3\]"),
        (lambda: draw(np.ones((0, 4, 4)), jax.random.key(0), 2), "at least 1"),
        (lambda: draw(np.ones((3, 4, 4)), jax.random.key(0), 0), "count"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
