"""A series with an operator for each frame: against the operators one by one, and a golden-angle series of low rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, mri

RNG = np.random.default_rng(11)


def noise(*shape):
    return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)


def trajectories(frames, spokes, readout):
    return np.asarray(mri.trajectories.radial(frames * spokes, readout)).reshape(frames, spokes, readout, 2)


@pytest.mark.slow
def test_every_frame_has_its_operator(x64):
    k, coils = trajectories(3, 4, 12), noise(2, 6, 7)
    each = [forward.NUFFT((6, 7), t, coils, tolerance=1e-8) for t in k]
    A = forward.Frames(each)
    x, y = noise(3, 6, 7), noise(3, 2, 4, 12)
    np.testing.assert_allclose(A(x), np.stack([a(v) for a, v in zip(each, x, strict=True)]), atol=1e-10)
    np.testing.assert_allclose(A.H(y), np.stack([a.H(v) for a, v in zip(each, y, strict=True)]), atol=1e-10)
    prepared = A.prepare()
    np.testing.assert_allclose(prepared.normal(x), A.H(A(x)), atol=1e-6)
    np.testing.assert_allclose(prepared.H(prepared(x)), A.H(A(x)), atol=1e-10)
    # derivatives reach the trajectory of each frame
    slopes = jax.grad(lambda a: jnp.vdot(y, a(x)).real)(A).operators.trajectory
    alone = jax.grad(lambda a: jnp.vdot(y[1], a(x[1])).real)(jax.tree.map(jnp.asarray, each[1])).trajectory
    np.testing.assert_allclose(slopes[1], alone, atol=1e-8)


@pytest.mark.slow
def test_low_rank_from_golden_angle_spokes():
    """7 spokes a frame of 32²: the frames help one another. The samples are those of a finer object: no inverse crime."""
    n, frames = 32, 12
    axis = (np.arange(2 * n) - n) / n
    y, x = np.meshgrid(axis, axis, indexing="ij")
    still = (np.hypot(x, 1.2 * y) < 0.7) * np.exp(1j * x)
    beating = np.exp(-20 * ((x - 0.3) ** 2 + y**2))
    t = np.cos(2 * np.pi * np.arange(frames) / frames)[:, None, None]
    fine = (still + 0.5 * t * beating).astype(np.complex64)
    k = trajectories(frames, 7, 2 * n)
    samples = forward.Frames([forward.NUFFT((2 * n, 2 * n), v / 2) for v in k])(fine)
    samples = np.asarray(samples) + 0.02 * noise(frames, 7, 2 * n).astype(np.complex64)
    # pixels' means by the fully sampled spectrum
    spectrum = np.asarray(forward.fft(fine))[:, n // 2 : n // 2 + n, n // 2 : n // 2 + n]
    truth = np.asarray(forward.ifft(spectrum))
    A = forward.Frames([forward.NUFFT((n, n), v) for v in k]).prepare()
    error = lambda v: np.linalg.norm(np.asarray(v) - truth) / np.linalg.norm(truth)  # noqa: E731
    alone = min(error(mri.sense(samples, A, steps).x) for steps in (5, 10, 20))
    together = min(error(mri.low_rank(samples, A, w, 60).x) for w in (0.02, 0.05))
    assert together < 0.65 * alone


def test_refused():
    k = trajectories(2, 4, 12)
    one = forward.NUFFT((6, 7), k[0])
    for operators, message in (
        ([], "list of Operators"),
        ([one, np.eye(3)], "list of Operators"),
        ([one, forward.NUFFT((6, 7), k[1, :3])], r"operators\[1\].*as many samples"),
        ([one, forward.NUFFT((7, 7), k[1])], r"operators\[1\]"),
        ([forward.PhaseRetrieval(one)] if hasattr(forward, "PhaseRetrieval") else [], "linear"),
    ):
        with pytest.raises(ValueError, match=message):
            forward.Frames(operators)
