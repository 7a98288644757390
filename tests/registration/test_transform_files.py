"""Transforms in files: what SimpleITK writes is read, what is written SimpleITK applies alike; FSL's matrices by their definition."""

from __future__ import annotations

import numpy as np
import pytest

from diffimg import forward as f
from diffimg import registration as r
from diffimg.data import Grid

sitk = pytest.importorskip("SimpleITK")
RNG = np.random.default_rng(0)


def grid(ndim):
    q = np.linalg.qr(np.random.default_rng(2).standard_normal((ndim, ndim)))[0]
    q *= np.sign(np.linalg.det(q))
    return Grid((6, 7, 5)[:ndim], (1.5, 0.8, 2.0)[:ndim], (3.0, -7.0, 5.0)[:ndim], q.tolist())


def transforms(ndim):
    t, c = np.array([0.5, -0.7, 0.3])[:ndim], np.array([1.0, 2.0, 3.0])[:ndim]
    rotation = np.array([0.3]) if ndim == 2 else np.array([0.1, -0.2, 0.3])
    where = grid(ndim)
    free = f.FreeForm.identity(where, mesh=2)
    return {
        "translation": f.Translation(t),
        "rigid": f.Rigid(rotation, t, c),
        "similarity": f.Similarity(rotation, 0.1, t, c),
        "affine": f.Affine(np.eye(ndim) + 0.1 * RNG.standard_normal((ndim, ndim)), t, c),
        "b-spline": f.FreeForm(RNG.standard_normal(free.coefficients.shape), free.lattice),
        "displacement": f.DisplacementField(0.3 * RNG.standard_normal((*where.shape, ndim)), where, "zero"),
        "composition": f.Rigid(rotation, t, c) @ f.FreeForm(RNG.standard_normal(free.coefficients.shape), free.lattice),
    }


def moved(transform, points):
    return np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points])


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", list(transforms(2)))
def test_both_ways(name, ndim, suffix, tmp_path, x64):
    ours = transforms(ndim)[name]
    points = np.asarray(grid(ndim).index_to_world(RNG.uniform(0.5, 3.5, (20, ndim))))
    expected = np.asarray(ours(points))
    path = tmp_path / f"there{suffix}"
    r.write_transform(path, ours)
    theirs = sitk.ReadTransform(str(path))
    np.testing.assert_allclose(moved(theirs, points), expected, atol=1e-9)
    back = r.read_transform(path)
    assert type(back) is type(ours)
    np.testing.assert_allclose(back(points), expected, atol=1e-9)
    again = tmp_path / f"back{suffix}"
    sitk.WriteTransform(theirs, str(again))
    np.testing.assert_allclose(r.read_transform(again)(points), expected, atol=1e-9)


def test_euler_angles_and_ants(tmp_path, x64):
    points = RNG.uniform(-9, 9, (10, 3))
    for order in (False, True):
        theirs = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.3, -0.2, 0.5, (4.0, 5.0, 6.0))
        theirs.SetComputeZYX(order)
        sitk.WriteTransform(theirs, str(tmp_path / "euler.tfm"))
        np.testing.assert_allclose(r.read_transform(tmp_path / "euler.tfm")(points), moved(theirs, points), atol=1e-9)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.eye(3) + 0.1 * RNG.standard_normal((3, 3))).ravel().tolist())
    affine.SetTranslation((1.0, 2.0, 3.0))
    affine.SetCenter((4.0, 5.0, 6.0))
    sitk.WriteTransform(affine, str(tmp_path / "0GenericAffine.mat"))
    np.testing.assert_allclose(r.read_transform(tmp_path / "0GenericAffine.mat")(points), moved(affine, points), atol=1e-9)


@pytest.mark.parametrize("angle", [3.1, 4.0, 6.0, 7.0])
def test_large_rotations(angle, tmp_path, x64):
    axis = np.array([2.0, -1.0, 2.0]) / 3
    points = RNG.uniform(-20, 20, (10, 3))
    for ours in (f.Rigid(angle * axis, np.ones(3), np.zeros(3)), f.Similarity(angle * axis, 0.1, np.ones(3), np.zeros(3))):
        r.write_transform(tmp_path / "turn.tfm", ours)
        np.testing.assert_allclose(moved(sitk.ReadTransform(str(tmp_path / "turn.tfm")), points), ours(points), atol=1e-9)
        np.testing.assert_allclose(r.read_transform(tmp_path / "turn.tfm")(points), ours(points), atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_of_b_splines(order, tmp_path, x64):
    theirs = sitk.BSplineTransform(2, order)
    theirs.SetTransformDomainMeshSize((5, 6))
    theirs.SetTransformDomainPhysicalDimensions((10.0, 12.0))
    theirs.SetParameters(RNG.standard_normal(len(theirs.GetParameters())).tolist())
    sitk.WriteTransform(theirs, str(tmp_path / "there.tfm"))
    points = RNG.uniform(1, 9, (20, 2))
    ours = r.read_transform(tmp_path / "there.tfm")
    assert ours.order == order
    np.testing.assert_allclose(ours(points), moved(theirs, points), atol=1e-9)
    r.write_transform(tmp_path / "back.tfm", ours)
    np.testing.assert_allclose(moved(sitk.ReadTransform(str(tmp_path / "back.tfm")), points), ours(points), atol=1e-9)


def test_other_linear_types(tmp_path, x64):
    points = RNG.uniform(-9, 9, (10, 3))
    versor, scale, both = sitk.VersorTransform(), sitk.ScaleTransform(3), sitk.ScaleVersor3DTransform()
    for t in (versor, both):
        t.SetRotation((1.0, 2.0, 2.0), 0.4)
    scale.SetScale((1.1, 0.9, 1.3))
    both.SetScale((1.1, 0.9, 1.3))
    both.SetTranslation((1.0, 2.0, 3.0))
    for k, t in enumerate((versor, scale, both)):
        t.SetCenter((4.0, 5.0, 6.0))
        sitk.WriteTransform(t, str(tmp_path / f"{k}.tfm"))
        np.testing.assert_allclose(r.read_transform(tmp_path / f"{k}.tfm")(points), moved(t, points), atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_displacements_in_nifti(ndim, tmp_path, x64):
    pytest.importorskip("nibabel")
    where = grid(3) if ndim == 3 else Grid((6, 7), (1.5, 0.8), (3.0, -7.0))
    ours = f.DisplacementField(0.3 * RNG.standard_normal((*where.shape, ndim)), where, "zero")
    path = tmp_path / "warp.nii.gz"
    r.write_transform(path, ours, where)
    points = np.asarray(where.index_to_world(RNG.uniform(0, 4, (20, ndim))))
    if ndim == 3:
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
        np.testing.assert_allclose(moved(theirs, points), ours(points), atol=1e-5)
    back = r.read_transform(path, where)
    np.testing.assert_allclose(back(points), ours(points), atol=1e-5)
    with pytest.raises(ValueError, match="fixed_grid: expected the file's grid"):
        r.read_transform(path, Grid((2,) * ndim))


def test_fsl(tmp_path, x64):
    """By FSL's own definition: voxels times spacing, x mirrored where the orientation is neurological."""
    fixed, moving = grid(3), Grid((5, 6, 7), (2.0, 1.0, 1.5), (-3.0, 4.0, 9.0), ((1, 0, 0), (0, 1, 0), (0, 0, -1)))
    assert np.linalg.det(fixed.affine) < 0 < np.linalg.det(moving.affine) or np.linalg.det(fixed.affine) > 0
    ours = transforms(3)["affine"]
    r.write_transform(tmp_path / "flirt.fsl", ours, fixed, moving)
    matrix = np.loadtxt(tmp_path / "flirt.fsl")
    index = RNG.uniform(0, 4, (10, 3))  # of the fixed image, z first
    there = moving.world_to_index(ours(fixed.index_to_world(index)))

    def fsl(grid, index):
        position = index[:, ::-1] * np.array(grid.spacing)[::-1]
        if np.linalg.det(grid.affine) > 0:
            position[:, 0] = (grid.shape[2] - 1) * grid.spacing[2] - position[:, 0]
        return np.concatenate([position, np.ones((len(index), 1))], 1)

    np.testing.assert_allclose(fsl(moving, np.asarray(there)) @ matrix.T, fsl(fixed, index), atol=1e-6)
    back = r.read_transform(tmp_path / "flirt.fsl", fixed, moving)
    np.testing.assert_allclose(back.matrix, ours.matrix, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "as first line, got an empty file"),
        ("hello", "as first line"),
        ("#Insight Transform File V1.0\n#Transform 0\nParameters: 1", "a line 'Transform"),
        ("#Insight Transform File V1.0\n#Transform 0\nTransform: Affine", "a type like"),
        ("#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\nParameters: 1 2", "12 parameters"),
        ("#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\nParameters: 1 x", "numbers"),
        ("#Insight Transform File V1.0\n#Transform 0\nTransform: ScaleSkew_double_3_3\nParameters: 1 1 1", "one of IdentityTransform"),
        ("#Insight Transform File V1.0\n#Transform 0\nTransform: BSplineTransform_double_3_3\nParameters: 1", "21 fixed|18 fixed"),
        ("#Insight Transform File V1.0\n", "at least one transform"),
    ],
)
def test_files_that_are_wrong(text, message, tmp_path):
    path = tmp_path / "wrong.tfm"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        r.read_transform(path)


def test_other_mistakes(tmp_path):
    where = Grid((4, 5))
    for name in ("a.h5", "a.mat", "a.nii"):
        (tmp_path / name).write_bytes(b"\x00\x01 no such file")
        with pytest.raises(ValueError, match="expected"):
            r.read_transform(tmp_path / name)
    with pytest.raises(ValueError, match="path: expected one of"):
        r.read_transform(tmp_path / "a.png")
    with pytest.raises(ValueError, match="Sample it"):
        r.write_transform(tmp_path / "b.tfm", f.ThinPlate(np.eye(3)[:, :2], np.eye(3)[:, :2]))
    with pytest.raises(ValueError, match="where to sample"):
        r.write_transform(tmp_path / "b.nii", f.Translation(np.zeros(2)))
    with pytest.raises(ValueError, match="both grids"):
        r.write_transform(tmp_path / "b.fsl", f.Translation(np.zeros(2)), where)
    with pytest.raises(FileNotFoundError):
        r.read_transform(tmp_path / "missing.tfm")
