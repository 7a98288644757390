"""Registration of a real slice moved by known transforms, in grids that lie differently."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffimg import forward as f
from diffimg import registration as r
from diffimg.data import Grid, Volume, sample
from diffimg.energy import LNCC, NCC, NGF, SSD, Bending, Diffusion, MutualInformation
from diffimg.registration.alignment import Alignment, prepared_image
from diffimg.registration.register import Images, prepared, reached
from diffimg.solve import LBFGS, Adam, Implicit, Problem, Status, Unroll, run

RNG = np.random.default_rng(0)


@functools.cache
def brain():
    """An axial slice of the template, 58 × 49 pixels of 4 mm, its largest value 1."""
    pytest.importorskip("nilearn")
    volume = np.asarray(sample("mni152_t1").image, np.float32)
    image, grid = r.coarse(volume[95] / volume[95].max(), Grid(volume.shape[1:]), 4)
    return np.asarray(image), grid


def moved(truth, noise=0.005):
    """(fixed, moving, grid): the fixed image is the moving one seen through the true transform."""
    image, grid = brain()
    fixed = np.asarray(f.warp(image, truth, 3, grid=grid)) + noise * RNG.standard_normal(image.shape)
    return fixed.astype(np.float32), image, grid


def error(found, truth, grid, image):
    distance = np.linalg.norm(np.asarray(found.displacement(grid) - truth.displacement(grid)), axis=-1)
    return distance[image > 0.1].mean()


def rigid(degrees=8.0, shift=(9.0, -14.0)):
    centre = np.asarray(brain()[1].centre, np.float32)
    return f.Rigid(np.float32([np.deg2rad(degrees)]), np.float32(shift), centre)


def slow(*values, name):
    return pytest.param(*values, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize(
    "similarity",
    [SSD(), MutualInformation(24), slow(NCC(), name="NCC"), slow(LNCC(7), name="LNCC"), slow(NGF(), name="NGF")],
    ids=lambda s: type(s).__name__,
)
def test_rigid(similarity):
    truth = rigid()
    fixed, moving, grid = moved(truth)
    result = r.register(fixed, moving, [r.Rigid(levels=(4, 1))], similarity, fixed_grid=grid, moving_grid=grid).check()
    assert result.after < result.before
    assert error(result.transform, truth, grid, fixed) < (0.2 if isinstance(similarity, NGF) else 0.1)  # mm; a pixel is 4 mm
    assert isinstance(result.transform, f.Rigid)
    np.testing.assert_allclose(result.warped, f.warp(moving, result.transform, grid=grid), atol=1e-5)
    assert "similarity" in repr(result) and result.levels[-1].shape == grid.shape


@pytest.mark.slow
def test_other_contrast():
    """The fixed image has its contrast inverted: only mutual information and edges match."""
    truth = rigid(4.0, (4.0, -6.0))
    fixed, moving, grid = moved(truth)
    inverted = np.where(fixed > 0.1, 1 - fixed, 0).astype(np.float32)
    result = r.register(inverted, moving, [r.Rigid(levels=(2, 1))], MutualInformation(24), fixed_grid=grid, moving_grid=grid)
    assert error(result.transform, truth, grid, fixed) < 0.5


def test_affine_after_rigid():
    grid = brain()[1]
    matrix = np.float32([[1.06, 0.08], [-0.03, 0.95]])
    truth = f.Affine(matrix, np.float32([8.0, -12.0]), np.asarray(grid.centre, np.float32))
    fixed, moving, grid = moved(truth)
    stages = [r.Moments(), r.Rigid(levels=(4, 1)), r.Affine(levels=(1,))]
    result = r.register(Volume(fixed, grid), Volume(moving, grid), stages, NCC()).check()
    assert isinstance(result.transform, f.Affine)
    assert error(result.transform, truth, grid, fixed) < 0.15


@pytest.mark.parametrize(
    ("stage", "similarity", "regularizer", "bound"),
    [
        pytest.param(r.BSpline(mesh=5, levels=(2, 1), steps=60), SSD(), 1e-3 * Bending(), 0.6, id="b-spline"),
        slow(r.BSpline(spacing=40.0, levels=(2, 1), steps=60), NCC(), None, 0.9, name="b-spline, correlation"),
        slow(r.Displacement(levels=(4, 2, 1), steps=60), SSD(), 1e-2 * Diffusion(), 0.9, name="displacement"),
        slow(r.Velocity(levels=(4, 2, 1), steps=60, squarings=4), SSD(), 1e-2 * Diffusion(), 0.9, name="velocity"),
    ],
)
def test_deformations(stage, similarity, regularizer, bound):
    grid = brain()[1]
    truth = f.FreeForm.identity(grid, mesh=5)
    truth = f.FreeForm(np.float32(np.random.default_rng(3).normal(0, 9, truth.coefficients.shape)), truth.lattice)
    fixed, moving, grid = moved(truth)
    result = r.register(fixed, moving, stage, similarity, regularizer, fixed_grid=grid, moving_grid=grid)
    start = np.linalg.norm(truth.displacement(grid), axis=-1)[fixed > 0.1].mean()
    assert start > 4
    assert error(result.transform, truth, grid, fixed) < bound
    assert float(result.transform.jacobian_determinant(grid).min()) > 0


def test_grids_that_lie_differently():
    """Other spacing, origin, direction and handedness of the moving image: used, not ignored."""
    truth = rigid()
    fixed, image, grid = moved(truth)
    onto = Grid((70, 66), (3.1, 3.4), (40.0, 190.0), ((0.8, 0.6), (0.6, -0.8)))  # mirrored
    onto = Grid(onto.shape, onto.spacing, tuple(np.add(onto.origin, np.subtract(grid.centre, onto.centre))), onto.direction)
    moving = np.asarray(f.warp(image, f.Translation(np.zeros(2, np.float32)), 3, grid=grid, onto=onto))
    result = r.register(fixed, moving, [r.Rigid(levels=(4, 1))], NCC(), fixed_grid=grid, moving_grid=onto).check()
    assert error(result.transform, truth, grid, fixed) < 0.3
    far = Grid(onto.shape, onto.spacing, tuple(np.add(onto.origin, 1000.0)), onto.direction)
    with pytest.raises(ValueError, match="images that overlap"):
        r.register(fixed, moving, [r.Rigid(levels=(4, 1))], NCC(), fixed_grid=grid, moving_grid=far)
    found = r.register(fixed, moving, [r.Moments(), r.Rigid(levels=(4, 1))], NCC(), fixed_grid=grid, moving_grid=far).check()
    shifted = f.Translation(np.full(2, 1000.0, np.float32)) @ truth
    assert error(found.transform, shifted, grid, fixed) < 0.3


@pytest.mark.slow
def test_masks():
    truth = rigid()
    fixed, moving, grid = moved(truth)
    spoiled = fixed.copy()
    spoiled[:20] = RNG.uniform(0, 3, spoiled[:20].shape)
    mask = np.ones(grid.shape)
    mask[:20] = 0
    result = r.register(spoiled, moving, [r.Rigid(levels=(2, 1))], SSD(), fixed_grid=grid, moving_grid=grid, fixed_mask=mask)
    assert error(result.transform, truth, grid, fixed) < 0.15
    back = r.register(moving, spoiled, [r.Rigid(levels=(2, 1))], SSD(), fixed_grid=grid, moving_grid=grid, moving_mask=mask)
    assert error(back.transform, truth.inverse(), grid, moving) < 0.3


def small_alignment(weight, x64=False):
    image, grid = brain()
    image, grid = r.coarse(image, grid, 3)
    dtype = "float64" if x64 else "float32"
    truth = f.Affine(np.asarray([[1.1, 0.05], [0.0, 0.92]], dtype), np.asarray([3.0, -2.0], dtype), np.asarray(grid.centre, dtype))
    fixed = f.warp(np.asarray(image, dtype), truth, 3, grid=grid)
    frame = f.FreeForm(jnp.zeros((*f.spline_lattice(grid, mesh=2).shape, 2), dtype), f.spline_lattice(grid, mesh=2))
    return Alignment(fixed, prepared_image(np.asarray(image, dtype), 3), SSD(), frame, grid, grid, weight * Diffusion(), order=3)


def test_a_mask_with_a_grid_of_its_own():
    """A mask as a Volume means the places it covers, whatever its samples."""
    image, grid = brain()
    mask = np.broadcast_to((np.arange(grid.shape[0]) < 20)[:, None], grid.shape).astype(np.float32)
    (y, x), (dy, _) = grid.origin, grid.spacing
    part = Grid((22, *grid.shape[1:]), grid.spacing, (y - 2 * dy, x))
    np.testing.assert_array_equal(r.resampled_labels(Volume(np.ones(part.shape, np.float32), part), grid), mask)
    np.testing.assert_array_equal(r.resampled_labels(Volume(mask, grid), grid), mask)
    far = Volume(mask, Grid(grid.shape, grid.spacing, (1e4, 1e4)))
    with pytest.raises(ValueError, match="fixed_mask: expected a mask that leaves something"):
        r.register(image, image, fixed_mask=far, fixed_grid=grid, moving_grid=grid)


def test_energy_gradient_and_hessian(x64):
    energy = small_alignment(1e-3, True)
    at = jax.tree.map(lambda v: v + RNG.normal(0, 2, v.shape), energy.start())
    direction = jax.tree.map(lambda v: RNG.standard_normal(v.shape), at)
    step = 1e-4
    ends = [jax.tree.map(lambda a, d, s=s: a + s * step * d, at, direction) for s in (1, -1)]
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(energy.grad(at)), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (energy(ends[0]) - energy(ends[1])) / (2 * step), rtol=1e-5)
    product = jax.jvp(jax.grad(energy), (at,), (direction,))[1]  # exact Hessian times a vector
    slopes = [jax.grad(energy)(end) for end in ends]
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), *slopes)
    np.testing.assert_allclose(product["coefficients"], expected["coefficients"], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("similarity", [NCC(), slow(SSD(), name="SSD")])
def test_gauss_newton_matches_autodiff(similarity, x64):
    image, grid = brain()
    image, grid = r.coarse(np.asarray(image, "float64"), grid, 2)
    frame = f.Affine.identity(2, np.asarray(grid.centre), jnp.float64)
    fixed = f.warp(image, f.Rigid(np.array([0.02]), np.array([1.0, -2.0]), np.asarray(grid.centre)), 3, grid=grid)
    energy = Alignment(fixed, prepared_image(image, 3), similarity, frame, grid, grid, order=3, radius=50.0)
    value, gradient, matrix = energy.gauss_newton(energy.start())
    flat, back = jax.flatten_util.ravel_pytree(energy.start())
    np.testing.assert_allclose(value, energy(energy.start()), rtol=1e-9)
    np.testing.assert_allclose(gradient, jax.grad(lambda v: energy(back(v)))(flat), rtol=1e-3, atol=1e-9)
    hessian = jax.hessian(lambda v: energy(back(v)))(flat)
    assert np.linalg.norm(matrix - hessian) < 0.5 * np.linalg.norm(hessian)  # near the solution residuals are small


@pytest.mark.slow
def test_learned_weight(x64):
    """Implicit differentiation through the solution: how it changes with the weight of its penalty."""

    def solved(weight, rule=None):
        energy = small_alignment(weight, True)
        return run(LBFGS(typical=1.0), Problem(smooth=energy), energy.start(), 2000, 1e-13, rule).x["coefficients"]

    rule = Implicit(tolerance=1e-8, max_steps=500)
    slope = jax.grad(lambda weight: jnp.var(solved(weight, rule)))(0.1)
    # the implicit function theorem by dense linear algebra
    at = solved(0.1)

    def gradient(weight, c):
        return jax.grad(lambda v: small_alignment(weight, True)({"coefficients": v}))(c).ravel()

    hessian = jax.jacfwd(lambda v: gradient(0.1, v.reshape(at.shape)))(at.ravel())
    moved = -np.linalg.solve(hessian, jax.jacfwd(lambda w: gradient(w, at))(0.1))
    exact = jnp.vdot(jax.grad(jnp.var)(at).ravel(), moved)
    np.testing.assert_allclose(slope, exact, rtol=1e-2)


def test_batch_of_pairs():
    image, grid = brain()
    truths = [rigid(d, (s, -s)) for d, s in ((2.0, 5.0), (-5.0, 8.0))]
    fixed = np.stack([np.asarray(f.warp(image, t, 3, grid=grid)) for t in truths])
    stages = [r.Rigid(levels=(4, 1))]
    batch = r.register_batch(fixed, image, stages, SSD(), fixed_grid=grid, moving_grid=grid)
    for k, truth in enumerate(truths):
        assert error(jax.tree.map(lambda v, k=k: v[k], batch.transform), truth, grid, image) < 0.1


@pytest.mark.slow
def test_side_by_side_and_the_curve_of_weights():
    image, grid = brain()
    fixed = np.stack([np.asarray(f.warp(image, rigid(d), 3, grid=grid)) for d in (2.0, -5.0)])
    stages = [r.Rigid(levels=(4, 1))]
    batch = r.register_batch(fixed, image, stages, SSD(), fixed_grid=grid, moving_grid=grid)
    together = r.register_batch(fixed, image, stages, SSD(), fixed_grid=grid, moving_grid=grid, parallel=True)
    np.testing.assert_allclose(together.value, batch.value, atol=1e-6)
    deform = [r.BSpline(mesh=4, levels=(2,), steps=100)]
    weights = [1e-2, 1e-1, 10.0]
    curve = r.register_batch(fixed[0], image, deform, SSD(), Diffusion(), weights=weights, fixed_grid=grid, moving_grid=grid)
    assert curve.warped.shape == (3, *grid.shape)
    assert float(curve.value[0]) < float(curve.value[1]) < float(curve.value[2])


def test_status_and_progress():
    fixed, moving, grid = moved(rigid())
    seen = []
    result = r.register(fixed, moving, [r.Rigid(levels=(4, 1), steps=1)], NCC(), fixed_grid=grid, moving_grid=grid, progress=seen.append)
    assert result.status == Status.MAX_STEPS and len(seen) == 2 and seen[0].iterations == 1
    assert result.after <= result.before  # the best that was found


def test_a_start_is_kept():
    """``initial`` stays where the default stages begin with moments, and comes back where a search runs away."""
    truth = rigid(40.0)
    fixed, moving, grid = moved(truth, noise=0)
    stages = [r.Moments(), r.Rigid(levels=(2,), steps=5)]
    result = r.register(fixed, moving, stages, SSD(), fixed_grid=grid, moving_grid=grid, initial=truth)
    assert error(result.transform, truth, grid, fixed) < 0.2
    wild = [r.Rigid(levels=(2,), steps=5, solver=Adam(1e5))]
    result = r.register(fixed, moving, wild, SSD(), fixed_grid=grid, moving_grid=grid, initial=truth)
    assert result.status == Status.NONFINITE and result.after == result.before
    assert error(result.transform, truth, grid, fixed) == 0
    with pytest.raises(RuntimeError, match="NONFINITE"):
        result.check()


@pytest.mark.parametrize("size", [0.01, pytest.param(100.0, marks=pytest.mark.slow)])
def test_the_unit_of_length_does_not_matter(size):
    image, grid = brain()
    energies = []
    for unit in (1.0, size):
        scaled = Grid(grid.shape, tuple(unit * h for h in grid.spacing))
        start = f.Translation(np.float32([3.0, -2.0]) * unit)
        images = Images(jnp.asarray(image), jnp.asarray(image), None, None, scaled, scaled)
        energy = reached(images, prepared(NGF(), images), start, 1)
        energies.append(float(energy(energy.start())))
    np.testing.assert_allclose(energies[1], energies[0], rtol=1e-4)


def test_batch_has_masks_status_and_gradients():
    image, grid = brain()
    image, grid = r.coarse(image, grid, 2)
    fixed = jnp.stack([f.warp(image, rigid(d), 3, grid=grid) for d in (2.0, -3.0)])
    mask = jnp.ones((2, *grid.shape)).at[:, :5].set(0)
    stage = r.Rigid(levels=(1,), steps=6, gradient=Unroll())

    def value(scale):
        return r.register_batch(fixed, scale * image, [stage], SSD(), fixed_grid=grid, moving_grid=grid, fixed_mask=mask)

    batch = value(1.0)
    assert all(Status(int(s)) in (Status.CONVERGED, Status.MAX_STEPS) for s in batch.status)
    slope = jax.grad(lambda s: jnp.sum(value(s).value))(0.9)
    numeric = (jnp.sum(value(0.91).value) - jnp.sum(value(0.89).value)) / 0.02
    np.testing.assert_allclose(slope, numeric, rtol=0.1)
    far = Grid(grid.shape, grid.spacing, (1e4, 1e4))
    lost = r.register_batch(fixed, image, [stage], SSD(), fixed_grid=grid, moving_grid=far)
    assert np.all(np.isinf(lost.value))


@pytest.mark.slow
def test_fewer_freedoms_after_more_in_a_batch():
    image, grid = brain()
    truth = rigid(3.0, (2.0, -1.0))
    fixed = f.warp(image, truth, 3, grid=grid)
    stages = [r.Affine(levels=(4,)), r.Rigid(levels=(2,))]
    batch = r.register_batch(fixed[None], image, stages, SSD(), fixed_grid=grid, moving_grid=grid)
    assert error(jax.tree.map(lambda v: v[0], batch.transform), truth, grid, image) < 0.3


def test_coarse_copies():
    image, grid = brain()
    few, target = r.coarse(image, grid, 2)
    assert few.shape == target.shape == tuple(-(-n // 2) for n in image.shape)
    np.testing.assert_allclose(target.extent, grid.extent)
    np.testing.assert_allclose(target.centre, grid.centre, atol=1e-9)
    np.testing.assert_allclose(r.coarse(np.ones(grid.shape), grid, 3)[0], 1, atol=1e-6)
    assert abs(float(few.mean()) - float(image.mean())) < 0.01


IMAGE = np.random.default_rng(1).uniform(size=(8, 9)).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: r.register(IMAGE, IMAGE[None]), "fixed, moving: expected as many axes"),
        (lambda: r.register(IMAGE, np.ones_like(IMAGE)), "moving: expected an image with contrast"),
        (lambda: r.register(np.where(IMAGE > 0.5, np.nan, IMAGE), IMAGE), "fixed: expected finite values.*fixed_mask"),
        (lambda: r.register(IMAGE, IMAGE, fixed_mask=np.zeros_like(IMAGE)), "fixed_mask: expected a mask that leaves something"),
        (lambda: r.register(IMAGE, IMAGE, moving_mask=np.ones((3, 3))), "moving_mask: expected shape"),
        (lambda: r.register(IMAGE, IMAGE, []), "stages: expected at least one"),
        (lambda: r.register(IMAGE, IMAGE, [r.Rigid]), "stages: expected stages of"),
        (lambda: r.register(IMAGE, IMAGE, [r.Displacement()]), "regularizer: expected a penalty, for Displacement"),
        (lambda: r.register(IMAGE, IMAGE, similarity=SSD), "similarity: expected a Similarity"),
        (lambda: r.register_batch(IMAGE[None], IMAGE, [r.Rigid()], SSD), "similarity: expected a Similarity"),
        (lambda: r.register(IMAGE, IMAGE, [r.Displacement()], NCC(), 0.1), "regularizer: expected a penalty such as"),
        (lambda: r.register(IMAGE, IMAGE, order=0), "order: expected a spline"),
        (lambda: r.register(IMAGE * np.float32(1e20), IMAGE), "fixed: expected values whose squares"),
        (lambda: r.register(np.where(np.arange(9) < 4, 1, IMAGE), IMAGE, fixed_mask=IMAGE * 0 + (np.arange(9) < 4)), "inside fixed_mask"),
        (lambda: r.register(IMAGE, IMAGE, fixed_grid=Grid((9, 8))), "fixed: expected shape"),
        (lambda: r.register(IMAGE + 1j, IMAGE), "fixed: expected a real dtype"),
        (lambda: r.register(IMAGE[0], IMAGE[0]), r"fixed: expected \[y, x\]"),
        (lambda: r.BSpline(), "spacing, mesh: expected one of the two"),
        (lambda: r.Rigid(levels=(0.5,)), "levels: expected values ≥ 1"),
        (lambda: r.Rigid(levels=(1, 2)), "levels: expected factors from coarse to fine"),
        (lambda: r.register(IMAGE, IMAGE, [r.Rigid(levels=(4,))]), "levels: expected factors that leave 4 samples"),
        (lambda: r.BSpline(spacing=-5.0), "spacing: expected values > 0"),
        (lambda: r.register(IMAGE, IMAGE, initial=np.eye(3)), "initial: expected a diffimg transform of 2 axes"),
        (lambda: r.register(IMAGE, IMAGE, initial=f.Rigid.identity(3)), "initial: expected a diffimg transform of 2 axes"),
        (lambda: jax.jit(lambda v: r.register(v, IMAGE).warped)(IMAGE), "fixed: expected an image with values.*register_batch"),
        (lambda: r.register_both_ways(IMAGE, IMAGE, consistency="x"), "consistency: expected a number ≥ 0"),
        (lambda: r.register_batch(np.stack([IMAGE, 0 * IMAGE]), IMAGE, [r.Rigid()]), "fixed: expected images with contrast.*member 1"),
        (lambda: r.register_batch(IMAGE, IMAGE, [r.Rigid()], NCC(), Bending(), weights=[-1.0, 1]), "weights: expected values ≥ 0"),
        (lambda: r.Rigid(steps=(3, 4)), "steps: expected one number, or 3"),
        (lambda: r.register_batch(IMAGE, IMAGE, [r.Rigid()], weights=[1.0]), "weights: expected a regularizer"),
        (lambda: r.register_batch(IMAGE[None], np.stack([IMAGE] * 2), [r.Rigid()]), "one batch axis"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_both_ways():
    """Held to be inverses of each other, the two come closer together, and stay as near to the truth."""
    image, grid = brain()
    truth = r.random_deformation(jax.random.key(3), grid, spacing=60.0, amplitude=6.0)
    fixed, moving, _ = moved(truth, 0.03)
    stages = [r.Translation(levels=(4,)), r.BSpline(spacing=25.0, levels=(2, 1), steps=30)]
    common = {"fixed_grid": grid, "moving_grid": grid, "steps": 30}
    apart = {}
    for weight in (0.0, 0.3):
        there, back = r.register_both_ways(fixed, moving, stages, SSD(), 0.0003 * Bending(), consistency=weight, **common)
        away = np.asarray((back.transform @ there.transform).displacement(grid))
        apart[weight] = np.linalg.norm(away, axis=-1)[image > 0.1].mean(), error(there.transform, truth, grid, fixed), there.after
        np.testing.assert_allclose(there.warped, f.warp(moving, there.transform, grid=grid), atol=1e-5)
    print(apart)
    assert there.levels[-1].stage == "BothWays" and there.check() and isinstance(there.transform, f.Composition)
    assert apart[0.3][0] < 0.3 * apart[0.0][0] and apart[0.3][1] < 1.05 * apart[0.0][1]
    with pytest.raises(ValueError, match="consistency"):
        r.register_both_ways(fixed, moving, stages, consistency=-1.0, **common)
