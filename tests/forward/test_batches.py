"""Loops cut for an accelerator compute what loops cut for a CPU do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward
from diffimg.forward import batches


@pytest.mark.slow
@pytest.mark.parametrize("what", ["values", *(pytest.param(n, marks=pytest.mark.slow) for n in ("modular", "gradient"))])
def test_the_size_of_a_step_does_not_matter(what, monkeypatch, x64):
    geometry = forward.ConeBeam((5, 6, 7), np.linspace(0, 6, 3), (4, 9), 40.0, 20.0, 1.0, detector_spacing=1.6)
    geometry = geometry.modular() if what == "modular" else geometry
    geometry = jax.tree.map(jnp.asarray, geometry)
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=s)) for s in (geometry.image_shape, geometry.sinogram_shape))

    def everything(work):
        monkeypatch.setitem(batches.WORK, "cpu", work)
        jax.clear_caches()
        operator = forward.Radon(geometry)
        project = lambda angles: forward.Radon(dataclasses.replace(geometry, angles=angles))(x)  # noqa: E731
        if what == "gradient":
            return jax.vjp(project, geometry.angles)[1](y)[0]
        return operator(x), operator.H(y)

    few, many = everything(1), everything(2**23)
    jax.clear_caches()
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11 * np.abs(b).max())
