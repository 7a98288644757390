"""GRAPPA, SPIRiT, RAKI and their noise amplification against pygrappa, definitions and replicas."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward, mri, testing

# the functions of the same names hide the modules
grappa_module, raki_module = (importlib.import_module(f"diffimg.mri.{n}") for n in ("grappa", "raki"))
RNG = np.random.default_rng(11)
SHAPE, COILS = (40, 36), 5


@pytest.fixture(scope="module")
def scan():
    coils = mri.simulated_coils(SHAPE, COILS)
    y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    r = np.hypot(y[:, None], 1.1 * x)
    image = ((r < 0.8) * (1 + 0.3 * np.cos(12 * r)) * np.exp(0.7j * x)).astype(np.complex64)
    kspace = np.asarray(forward.fft(coils * image))
    noise = 1e-3 * (RNG.normal(size=kspace.shape) + 1j * RNG.normal(size=kspace.shape))
    return coils, image, kspace + noise.astype(np.complex64)


def error(a, b):
    return np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)


@pytest.mark.parametrize(("r", "offset"), [(2, 0), (3, 1), (4, 3)])
def test_grappa_fills_the_gaps_and_keeps_what_was_measured(scan, r, offset):
    _, _, kspace = scan
    mask = mri.sampling.equispaced_mask(SHAPE, r, 20, offset=offset)
    y = kspace * mask
    out = np.asarray(mri.grappa(y, regularization=1e-5))
    assert np.array_equal(out[:, mask], y[:, mask])
    assert error(out, kspace) < {2: 0.25, 3: 0.45, 4: 0.75}[r] * error(y, kspace)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(41, 37), (40, 35)])
def test_grappa_on_odd_sizes(shape):
    coils = mri.simulated_coils(shape, 6)
    kspace = np.asarray(forward.fft(coils * np.ones(shape, np.complex64)))
    y = kspace * mri.sampling.equispaced_mask(shape, 2, 17, offset=1)
    assert error(mri.grappa(y, regularization=1e-5), kspace) < 0.3 * error(y, kspace)


def test_grappa_is_pygrappas(scan):
    """The same kernel and regularization; edges of k-space are treated differently."""
    pygrappa = pytest.importorskip("pygrappa")
    _, _, kspace = scan
    mask = mri.sampling.equispaced_mask(SHAPE, 2, 20)
    y = kspace * mask
    theirs = pygrappa.mdgrappa(y, kspace[:, 10:30].copy(), kernel_size=(5, 5), lamda=1e-4, coil_axis=0)
    ours = np.asarray(mri.grappa(y, kernel=(2, 5), regularization=1e-4, weighting=0.0))
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert error(ours[inner], kspace[inner]) < 1.2 * error(theirs[inner], kspace[inner]) + 1e-3
    assert error(ours[inner], theirs[inner]) < 0.02


def test_pattern_is_read_off_the_data(scan):
    _, _, kspace = scan
    p = mri.undersampling(kspace * mri.sampling.equispaced_mask(SHAPE, 3, 11, offset=2))
    assert (p.acceleration, p.offset) == (3, 2) and p.measured.sum() == mri.sampling.equispaced_mask(SHAPE, 3, 11, offset=2)[:, 0].sum()
    np.testing.assert_array_equal(mri.grappa(kspace), kspace)
    partial = kspace * (np.arange(SHAPE[1]) > 8)  # an echo that was not measured from its beginning
    np.testing.assert_array_equal(mri.grappa(partial), partial)


def test_kernel_is_least_squares(scan):
    _, _, kspace = scan
    region = jnp.asarray(kspace[:, 8:32])
    source, target = grappa_module.training_pairs(region, 2, (2, 3))
    kernel = mri.calibrate(region, 2, (2, 3), 0.0, 0.0)
    w = np.linalg.lstsq(np.asarray(source, np.complex128), np.asarray(target[:, 0], np.complex128), rcond=None)[0]
    residual = lambda v: np.linalg.norm(np.asarray(source) @ v - np.asarray(target[:, 0]))  # noqa: E731
    ours = np.transpose(np.asarray(kernel.weights[0]), (1, 2, 3, 0)).reshape(-1, COILS)
    assert residual(ours) < 1.02 * residual(w)


def test_weak_samples_that_count_amplify_less_noise(scan):
    _, _, kspace = scan
    y = kspace * mri.sampling.equispaced_mask(SHAPE, 4, 20)
    noise = 0.02 * (RNG.normal(size=y.shape) + 1j * RNG.normal(size=y.shape)) * (y != 0)
    plain = min(error(mri.grappa(y + noise, kernel=(2, 5), regularization=w, weighting=0.0), kspace) for w in (1e-4, 1e-3, 1e-2, 1e-1))
    assert error(mri.grappa(y + noise, kernel=(2, 5)), kspace) < 0.85 * plain
    with pytest.raises(ValueError, match="weighting"):
        mri.grappa(y, weighting=-1.0)


def test_spirit_reconstructs_any_pattern(scan):
    coils, image, kspace = scan
    mask = mri.sampling.variable_density_mask(SHAPE, 2, jax.random.key(2), acs=16, axis=None)
    result = mri.spirit(kspace * mask, mask, calibration=16, kernel=5, steps=40, regularization=1e-4)
    out = mri.combine(result.x, coils)
    zero = mri.combine(forward.ifft(kspace * mask), coils)
    assert error(out, image) < 0.5 * error(zero, image)


@pytest.mark.slow
def test_spirit_kernel_predicts_samples_from_their_neighbours(scan):
    _, _, kspace = scan
    kernel = np.asarray(mri.spirit_kernel(kspace[:, 8:32, 8:28], 5, 1e-6))
    assert np.all(kernel[np.arange(COILS), np.arange(COILS), 2, 2] == 0)
    at = (17, 19)
    patch = kspace[:, at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3]
    predicted = np.einsum("cdij,dij->c", kernel, patch)
    assert error(predicted, kspace[:, at[0], at[1]]) < 0.1
    consistency = mri.spirit_consistency(kernel, SHAPE)
    testing.check_operator(consistency, platforms=())
    left = np.asarray(forward.fft(consistency(forward.ifft(kspace))))[:, at[0], at[1]]
    np.testing.assert_allclose(left, predicted - kspace[:, at[0], at[1]], atol=1e-3 * np.abs(kspace).max())


@pytest.mark.parametrize("variant", [v if v == "raki" else pytest.param(v, marks=pytest.mark.slow) for v in raki_module.VARIANTS])
def test_raki_learns_on_the_calibration_lines(scan, variant):
    _, _, kspace = scan
    mask = mri.sampling.equispaced_mask(SHAPE, 2, 20)
    y = kspace * mask
    network = mri.Raki(variant=variant, steps=300, features=(24, 12))
    out = np.asarray(mri.raki(y, jax.random.key(0), network=network))
    assert np.array_equal(out[:, mask], y[:, mask])
    assert error(out, kspace) < (0.9 if variant == "raki" else 0.4) * error(y, kspace)
    if variant != "raki":
        assert error(out, kspace) < 1.1 * error(mri.grappa(y), kspace)


def test_raki_trains_and_is_seeded(scan):
    _, _, kspace = scan
    region = jnp.asarray(kspace[:, 10:30])
    network = mri.Raki(steps=100, features=(8, 4), rate=1e-2)
    first, _ = raki_module.fit(region, 2, network, jax.random.key(1))
    again, _ = raki_module.fit(region, 2, network, jax.random.key(1))
    assert first["loss"][-1] < 0.9 * first["loss"][0]
    np.testing.assert_array_equal(first["loss"], again["loss"])


def test_sense_g_factor_is_that_of_replicas(scan):
    coils, image, kspace = scan
    mask = mri.sampling.equispaced_mask(SHAPE, 2)
    inside = np.abs(image) > 0
    seen = coils * inside
    g = np.asarray(mri.sense_g_factor(seen, 2))
    A = forward.MaskedFFT(mask, seen)
    noise = 1e-2
    deviation = mri.replica_deviation(lambda k: mri.sense(k, A, 40).x, kspace * mask, noise, jax.random.key(3), replicas=200, mask=mask)
    measured = np.asarray(deviation)[inside] / np.asarray(mri.full_deviation(seen, noise))[inside] / np.sqrt(2)
    assert np.median(np.abs(measured / g[inside] - 1)) < 0.06
    assert (g[inside] >= 1).all()


@pytest.mark.slow
def test_grappa_g_factor_is_that_of_replicas(scan):
    coils, image, kspace = scan
    pattern = mri.Undersampling(SHAPE[0], 2, 0, 0, 0)
    kernel = mri.calibrate(kspace[:, 10:30], 2, (4, 5), 1e-3)
    mask = mri.sampling.equispaced_mask(SHAPE, 2)
    combination = jnp.conj(coils) / jnp.sum(jnp.abs(coils) ** 2, axis=0)
    g = np.asarray(mri.grappa_g_factor(kernel, SHAPE, combination))
    noise = 1e-2
    deviation = mri.replica_deviation(
        lambda k: mri.combined_image(mri.fill(k, kernel, pattern), coils), kspace * mask, noise, jax.random.key(4), replicas=200, mask=mask
    )
    measured = np.asarray(deviation) / np.asarray(mri.full_deviation(coils, noise)) / np.sqrt(2)
    inside = np.abs(image) > 0
    assert np.median(np.abs(measured / g - 1)[inside]) < 0.06


def test_refused(scan):
    coils, _, kspace = scan
    with pytest.raises(ValueError, match=r"acs.*Measure at least"):
        mri.grappa(kspace * mri.sampling.equispaced_mask(SHAPE, 4, 3))
    with pytest.raises(ValueError, match=r"acs.*weights"):
        mri.calibrate(kspace[:, 10:16], 4, (2, 31))
    with pytest.raises(ValueError, match=r"swapaxes"):
        mri.grappa(kspace * mri.sampling.equispaced_mask(SHAPE[::-1], 4, 12).T)
    with pytest.raises(ValueError, match="regular pattern"):
        mri.grappa(kspace * mri.sampling.random_mask(SHAPE, 2, jax.random.key(0), acs=8))
    with pytest.raises(ValueError, match="acs"):
        mri.raki(kspace * mri.sampling.equispaced_mask(SHAPE, 4, 4), jax.random.key(0))
    with pytest.raises(ValueError, match="variant"):
        mri.Raki(variant="rakki")
    with pytest.raises(ValueError, match="divisor"):
        mri.sense_g_factor(coils, 3)
    with pytest.raises(ValueError, match="odd"):
        mri.spirit_kernel(kspace, 4)
    bad = kspace.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        mri.grappa(bad)
    with pytest.raises(ValueError, match="replicas"):
        mri.replica_deviation(lambda k: k, kspace, 0.1, jax.random.key(0), replicas=1)
