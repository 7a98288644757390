"""An operator over several devices is the operator."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg.forward import FanBeam, Identity, Radon, Sharded
from diffimg.testing import dot_test, random_like

ROOT = pathlib.Path(__file__).parents[2]
GEOMETRY = FanBeam((8, 9), np.linspace(0.1, 6, 7), 30, 20.0, 10.0, detector_spacing=1.2)


@pytest.mark.parametrize("cases", ["few", pytest.param("slow", marks=pytest.mark.slow)])
def test_eight_devices_equal_one(cases):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.forward.sharded_on_eight", cases]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for case, errors in json.loads(result.stdout.splitlines()[-1]).items():
        for name, error in errors.items():
            assert error < 1e-4, f"{case}: {name}"


@pytest.mark.slow
def test_one_device():
    operator = Radon(GEOMETRY)
    sharded = Sharded(operator)
    x, y = (random_like(jax.random.key(k), s) for k, s in enumerate((operator.domain, operator.codomain)))
    np.testing.assert_allclose(sharded(x), operator(x), rtol=1e-5, atol=1e-5)
    assert dot_test(sharded, x, y) < 1e-5
    assert "Sharded[Radon[distance-driven], views over 1]" in repr(sharded)
    np.testing.assert_allclose(sharded(jnp.stack([x, 2 * x]))[1], 2 * sharded(x), rtol=1e-5, atol=1e-5)
    assert sharded.subset([0, 3]).codomain.shape == (2, 30)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sharded(GEOMETRY), "operator: expected an operator, got FanBeam"),
        (lambda: Sharded(Identity((3, 3))), "operator: expected one whose geometry can be split"),
        (lambda: Sharded(Radon(GEOMETRY), []), "devices: expected at least one"),
        (lambda: Sharded(Radon(GEOMETRY), over="rows"), "over: expected one of 'views', 'batch'"),
        (lambda: Sharded(Radon(GEOMETRY), jax.sharding.Mesh(np.array(jax.devices()[:1])[None], ("a", "b"))), "a mesh of one axis"),
        (lambda: Sharded(Radon(GEOMETRY), over="batch")(jnp.zeros((8, 9))), "x: expected a first batch axis"),
    ],
)
def test_bad_input(make, text):
    with pytest.raises(ValueError, match=text):
        make()
