"""Polyenergetic transmission, detectors and scatter against NumPy, SciPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal, stats

import diffimg as di
from diffimg.forward import Blur, Channelwise, Matrix, PolyenergeticTransmission, ScatterKernel, gaussian_psf, xray

RNG = np.random.default_rng(3)
ENERGIES = np.array([30.0, 50.0, 70.0, 90.0, 110.0])
FLUENCE = np.array([2.0, 5.0, 4.0, 2.0, 1.0]) * 1e3
MU = np.asarray(xray.linear_attenuation(("water", "bone"), ENERGIES))
RAYS = (3, 4)
PATHS = (RNG.uniform(0, 1, (2, *RAYS)) * np.array([200.0, 20.0])[:, None, None]).astype("float32")


def expected(response):
    photons = FLUENCE[:, None, None] * np.exp(-np.einsum("me,mvd->evd", MU, PATHS))
    return np.einsum("be,evd->bvd", np.atleast_2d(response), photons)


def physics(response=1.0):
    return PolyenergeticTransmission(FLUENCE, MU, RAYS, response)


def test_integrating_counting_and_bins_against_numpy():
    np.testing.assert_allclose(physics()(PATHS), expected(np.ones(5))[0], rtol=1e-5)
    integrating = physics(xray.energy_integrating(ENERGIES))
    np.testing.assert_allclose(integrating(PATHS), expected(ENERGIES)[0], rtol=1e-5)
    np.testing.assert_allclose(integrating.flat, np.sum(FLUENCE * ENERGIES), rtol=1e-5)
    bins = xray.photon_counting(ENERGIES, thresholds=(20.0, 60.0, 100.0))
    np.testing.assert_array_equal(bins, [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    binned = physics(bins)
    assert binned.codomain.shape == (3, *RAYS)
    np.testing.assert_allclose(binned(PATHS), expected(bins), rtol=1e-5)
    np.testing.assert_allclose(binned(PATHS).sum(0), physics()(PATHS), rtol=1e-5)
    np.testing.assert_allclose(binned(np.stack([PATHS, 2 * PATHS]))[0], binned(PATHS), rtol=1e-6)


def test_monoenergetic_radiation_is_beer_lambert():
    op = PolyenergeticTransmission([7.0], MU[:, 1:2], RAYS)
    np.testing.assert_allclose(-np.log(op(PATHS) / op.flat), np.einsum("m,mvd->vd", MU[:, 1], PATHS), rtol=1e-4)


def test_beam_hardens_for_counting_detectors_too():
    water = PolyenergeticTransmission(FLUENCE, MU[:1], (2,))
    p = -np.log(water(np.array([[50.0, 300.0]], "float32")) / water.flat)
    assert p[1] / 300 < 0.97 * p[0] / 50


def test_bowtie_per_detector_cell():
    bowtie = FLUENCE[:, None, None] * np.linspace(0.5, 1, 4)[None, None, :]
    op = PolyenergeticTransmission(bowtie, MU, RAYS)
    np.testing.assert_allclose(op(PATHS), expected(np.ones(5))[0] * np.linspace(0.5, 1, 4), rtol=1e-5)


def test_derivatives_in_spectrum_materials_and_thickness():
    op = physics(xray.energy_integrating(ENERGIES))
    weights = RNG.normal(size=RAYS).astype("float32")

    def loss(o, t):
        return jnp.sum(weights * o(t))

    d_op, d_t = jax.grad(loss, (0, 1))(op, jnp.asarray(PATHS))
    photons = np.exp(-np.einsum("me,mvd->evd", MU, PATHS))
    np.testing.assert_allclose(d_op.fluence, ENERGIES * np.einsum("vd,evd->e", weights, photons), rtol=1e-4)
    each = (FLUENCE * ENERGIES)[:, None, None] * photons
    np.testing.assert_allclose(d_t, -np.einsum("me,evd,vd->mvd", MU, each, weights), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(d_op.attenuation, -np.einsum("mvd,evd,vd->me", PATHS, each, weights), rtol=1e-3, atol=100)


def test_memory_stays_that_of_the_rays():
    """Neither direction keeps [E × rays]."""
    shape, count = (64, 256), 60
    op = PolyenergeticTransmission(np.ones(count), np.full((2, count), 0.02), shape)
    gradient = jax.jit(jax.grad(lambda t, o: jnp.sum(jnp.log(o(t)))))
    used = gradient.lower(jnp.ones((2, *shape)), op).compile().memory_analysis().temp_size_in_bytes
    assert used < 12 * 4 * np.prod(shape)


def test_composes_with_a_projector():
    geometry = di.forward.ParallelBeam((8, 8), np.linspace(0, np.pi, 4, endpoint=False), 13)
    projector = di.forward.Radon(geometry, method="joseph")
    maps = RNG.uniform(0, 1, (2, 8, 8)).astype("float32")
    behind = PolyenergeticTransmission(FLUENCE, MU, geometry.sinogram_shape)
    np.testing.assert_allclose((behind @ Channelwise(projector, 2))(maps), behind(projector(maps)), rtol=1e-5)


def test_poisson_likelihood_of_material_maps():
    projector = Channelwise(Matrix(RNG.uniform(0, 20, (5, 3)).astype("float32")), 2)
    op = PolyenergeticTransmission(FLUENCE, MU, (5,)) @ projector
    maps = RNG.uniform(0, 1, (2, 3)).astype("float32")
    y = di.energy.Poisson().noise(jax.random.key(0), op(maps))
    energy = di.energy.PoissonLikelihood(op, y)
    photons = np.exp(-np.einsum("me,mr->er", MU, projector(maps)))
    mean = np.einsum("e,er->r", FLUENCE, photons)
    np.testing.assert_allclose(energy(maps), np.sum(mean - y * np.log(mean)), rtol=1e-4)
    slope = np.einsum("e,me,er->mr", FLUENCE, MU, photons) * (np.asarray(y) / mean - 1)
    np.testing.assert_allclose(energy.grad(maps), projector.H(jnp.asarray(slope, jnp.float32)), rtol=1e-3, atol=1.0)


def test_channelwise_norm_and_batched_operators():
    one = Matrix(RNG.normal(size=(5, 3)).astype("float32"))
    op = Channelwise(one, 4)
    np.testing.assert_allclose(op.norm(), one.norm(), rtol=1e-6)
    np.testing.assert_allclose(op.matrix(), np.kron(np.eye(4), one.matrix()), atol=1e-6)
    with pytest.raises(ValueError, match="one array"):
        Channelwise(di.forward.Stack((one, one)), 2)


def test_compound_poisson_readings_have_the_right_moments():
    op = PolyenergeticTransmission(FLUENCE / 500, MU, RAYS, xray.energy_integrating(ENERGIES))
    samples = np.asarray(jax.vmap(lambda k: op.draw(k, PATHS))(jax.random.split(jax.random.key(0), 4000)))
    mean, variance = np.asarray(op(PATHS)), np.asarray(op.second_moment(PATHS))
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / 4000))
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.25)
    np.testing.assert_allclose(samples.var(0).sum(), variance.sum(), rtol=0.04)
    assert np.all(samples % 10 == 0)  # sums of 30, 50, … keV


def test_energy_resolution_and_efficiency():
    blurred = xray.photon_counting(ENERGIES, thresholds=(20.0, 60.0), resolution=8.0, efficiency=0.9)
    sigma = 8 / 2.3548200450309493
    tail = stats.norm.cdf((ENERGIES - 60) / sigma)
    np.testing.assert_allclose(blurred[1], 0.9 * tail, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(blurred.sum(0), 0.9 * stats.norm.cdf((ENERGIES - 20) / sigma), rtol=1e-4)
    slope = jax.grad(lambda t: xray.photon_counting(ENERGIES, jnp.stack([20.0, t]), resolution=8.0)[1].sum())(60.0)
    np.testing.assert_allclose(slope, -stats.norm.pdf((ENERGIES - 60) / sigma).sum() / sigma, rtol=1e-4)
    efficiency = xray.absorption_efficiency("caesium iodide", 0.6, ENERGIES)
    np.testing.assert_allclose(efficiency, 1 - np.exp(-0.6 * np.asarray(xray.linear_attenuation("caesium iodide", ENERGIES))), rtol=1e-5)


def test_penumbra_and_focal_spot_blur():
    np.testing.assert_allclose(xray.penumbra(1.2, 1.5), 0.6, rtol=1e-6)
    assert xray.penumbra(1.2, 1.0) == 0
    psf = xray.focal_spot_psf(1.2, 1.5, 0.1, 9)  # 6 cells wide
    np.testing.assert_allclose(psf, np.array([0, 0.5, 1, 1, 1, 1, 1, 0.5, 0]) / 6, atol=1e-6)
    np.testing.assert_allclose(xray.focal_spot_psf(1.0, 1.0, 0.1, 3), [0, 1, 0], atol=1e-6)
    slope = jax.grad(lambda f: xray.focal_spot_psf(f, 1.5, 0.1, 9)[1])(1.2)
    h = 1e-2
    fd = (xray.focal_spot_psf(1.2 + h, 1.5, 0.1, 9)[1] - xray.focal_spot_psf(1.2 - h, 1.5, 0.1, 9)[1]) / (2 * h)
    np.testing.assert_allclose(slope, fd, rtol=1e-3)
    readings = RNG.uniform(1, 2, (4, 30)).astype("float32")
    blur = Blur(psf[None], (4, 30)) @ Blur(gaussian_psf(0.8, (1, 5)), (4, 30))
    reference = ndimage.convolve1d(ndimage.convolve1d(readings, np.asarray(gaussian_psf(0.8, 5)), axis=1), np.asarray(psf), axis=1)
    np.testing.assert_allclose(blur(readings), reference, rtol=1e-5)


def test_scatter_superposition_against_scipy():
    kernel = xray.double_gaussian_kernel(10.0, 60.0, 0.4, (4.0, 2.0), (15, 31))
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-5)
    flat, shape = 100.0, (2, 6, 9)
    op = ScatterKernel(kernel, shape, amplitude=0.2, alpha=-0.1, beta=1.3, flat=flat, primary_transmission=0.7, scatter_transmission=0.1)
    primary = (flat * np.exp(-RNG.uniform(0.1, 4, shape))).astype("float32")
    log = np.log(flat / primary)
    source = 0.2 * primary * (primary / flat) ** -0.1 * log**1.3
    scatter = np.stack([signal.convolve(s, np.asarray(kernel), mode="full")[7:13, 15:24] for s in source])
    np.testing.assert_allclose(op.scatter(primary), scatter, rtol=1e-4)
    np.testing.assert_allclose(op(primary), 0.7 * primary + 0.1 * scatter, rtol=1e-4)
    np.testing.assert_allclose(op.scatter_to_primary(primary), 0.1 * scatter / (0.7 * primary), rtol=1e-4)
    # no object, no scatter, and derivatives stay finite there
    nothing = jnp.full(shape, flat)
    np.testing.assert_allclose(op.scatter(nothing), 0, atol=1e-6)
    gradient = jax.grad(lambda o, p: jnp.sum(o(p)), (0, 1))(op, nothing)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))


def test_klein_nishina_kernel_integrates_the_cross_section():
    """A wide detector collects the forward half of the photons; half as close, the same."""
    forward = []
    for energy in (30.0, 100.0):
        kernel = xray.klein_nishina_kernel(energy, 50.0, 10.0, (401, 401))
        angles = np.linspace(0, np.pi / 2, 2001)
        half = np.trapezoid(2 * np.pi * np.sin(angles) * np.asarray(xray.klein_nishina(energy, angles)), angles)
        np.testing.assert_allclose(kernel.sum(), half / xray.klein_nishina_total(energy), rtol=0.03)
        forward.append(float(kernel.sum()))
    assert forward[1] > forward[0] > 0.5  # the harder, the more forward
    near, far = (xray.klein_nishina_kernel(60.0, g, 1.0, 101, row_height=20.0).sum() for g in (100.0, 400.0))
    assert near > 4 * far  # air gap
    grid = xray.klein_nishina_kernel(60.0, 100.0, 1.0, 101, grid_ratio=8.0)
    assert grid.sum() < 0.3 * xray.klein_nishina_kernel(60.0, 100.0, 1.0, 101).sum()
    assert bool(jnp.isfinite(jax.grad(lambda g: xray.klein_nishina_kernel(60.0, g, 1.0, 11).sum())(100.0)))


def test_grids_and_buildup():
    performance = xray.grid_performance(0.7, 0.1, 3.0)
    np.testing.assert_allclose(performance["selectivity"], 7, rtol=1e-6)
    np.testing.assert_allclose(performance["bucky_factor"], 4.0, rtol=1e-6)
    # contrast behind the grid over contrast without
    np.testing.assert_allclose(performance["contrast_improvement"], (1 + 3.0) / (1 + 3.0 * 0.1 / 0.7), rtol=1e-6)
    np.testing.assert_allclose(xray.buildup_factor(2.0, 1.1, 0.05), 1 + 2.2 * np.exp(0.1), rtol=1e-6)
    assert xray.buildup_factor(2.0, 0.0) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PolyenergeticTransmission(np.zeros(5), MU, RAYS), "no photons"),
        (lambda: PolyenergeticTransmission(-FLUENCE, MU, RAYS), "fluence"),
        (lambda: PolyenergeticTransmission(FLUENCE[:4], MU, RAYS), "material, E"),
        (lambda: PolyenergeticTransmission(FLUENCE, MU[0], RAYS), "attenuation"),
        (lambda: PolyenergeticTransmission(FLUENCE, MU, RAYS, np.ones((2, 4))), "bin, E"),
        (lambda: PolyenergeticTransmission(np.ones((5, 7)), MU, RAYS), "broadcast"),
        (lambda: physics()(PATHS[:1]), "shape"),
        (lambda: physics().draw(jax.random.key(0), np.stack([PATHS, PATHS])), "vmap"),
        (lambda: xray.photon_counting(ENERGIES, (60.0, 20.0)), "thresholds"),
        (lambda: xray.photon_counting(ENERGIES, efficiency=1.5), "efficiency"),
        (lambda: xray.penumbra(1.0, 0.5), "magnification"),
        (lambda: xray.focal_spot_psf(1.0, 3.0, 0.1, 5), "penumbra"),
        (lambda: xray.focal_spot_psf(1.0, 1.1, 0.1, 4), "odd"),
        (lambda: ScatterKernel(np.ones(4), RAYS), "odd"),
        (lambda: ScatterKernel(np.ones(3), RAYS, flat=0.0), "flat"),
        (lambda: ScatterKernel(np.ones(3), RAYS, scatter_transmission=2.0), "scatter_transmission"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
