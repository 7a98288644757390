"""Files of weights: exact round trips, and what is refused."""

import jax
import numpy as np
import pytest
from flax import nnx

from diffimg import learn, nn


def test_round_trip_of_a_network(tmp_path):
    apply, params = nn.split(nn.DnCNN(1, 4, 3, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda v: v + 0.1, params)
    learn.save_weights(tmp_path / "w.npz", params, {"kind": "dncnn", "width": 4})
    found, about = learn.load_weights(tmp_path / "w.npz")
    assert about == {"kind": "dncnn", "width": 4} and jax.tree.structure(found) == jax.tree.structure(params)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype("f4")
    np.testing.assert_array_equal(apply(params, x), apply(found, x))
    learn.save_weights(tmp_path / "h.npz", params, {}, "float16")
    np.testing.assert_allclose(apply(learn.load_weights(tmp_path / "h.npz")[0], x), apply(params, x), rtol=1e-2, atol=1e-3)
    assert not list(tmp_path.glob(".*"))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="existing file"):
        learn.load_weights(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"save_weights wrote.*bad\.npz"):
        learn.load_weights(tmp_path / "bad.npz")
    np.savez(tmp_path / "code.npz", **{"about.json": np.array([print], object)})
    with pytest.raises(ValueError, match="save_weights wrote"):
        learn.load_weights(tmp_path / "code.npz")
    with pytest.raises(ValueError, match="nested dicts"):
        learn.save_weights(tmp_path / "w.npz", [np.ones(2)], {})
    with pytest.raises(ValueError, match="finite"):
        learn.save_weights(tmp_path / "w.npz", {"a": np.array([1e9])}, {}, "float16")
