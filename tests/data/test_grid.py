"""Grids against SimpleITK's and nibabel's own conversions of index to position."""

import numpy as np
import pytest

from diffimg.data import Grid, Volume


def rotation(seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


GRID = Grid((5, 7, 9), (2.5, 0.7, 0.6), (-10.0, 20.5, 3.25), rotation().tolist())


def test_positions_agree_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.Image(GRID.itk["size"], sitk.sitkFloat32)
    image.SetSpacing(GRID.itk["spacing"])
    image.SetOrigin(GRID.itk["origin"])
    image.SetDirection(GRID.itk["direction"])
    for index in [(0, 0, 0), (4, 6, 8), (1, 2, 3)]:
        expected = image.TransformIndexToPhysicalPoint(index[::-1])[::-1]
        np.testing.assert_allclose(GRID.index_to_world(np.array(index)), expected, atol=1e-12)
    back = Grid.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    np.testing.assert_allclose(back.direction, GRID.direction, atol=1e-15)
    assert (back.shape, back.spacing, back.origin) == (GRID.shape, GRID.spacing, GRID.origin)


def test_affine_agrees_with_nibabel():
    nibabel = pytest.importorskip("nibabel")
    index = np.array([3.0, 2.0, 1.0])
    z, y, x = GRID.index_to_world(index)
    np.testing.assert_allclose(nibabel.affines.apply_affine(GRID.affine, index[::-1]), (-x, -y, z), atol=1e-12)
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(GRID.affine), GRID.spacing[::-1])
    assert nibabel.aff2axcodes(Grid((2, 2, 2)).affine) == ("L", "P", "S")
    back = Grid.from_affine(GRID.shape, GRID.affine)
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(back, name), getattr(GRID, name), atol=1e-12)


def test_value_semantics():
    assert eval(repr(GRID)) == GRID
    assert hash(eval(repr(GRID))) == hash(GRID)
    points = np.random.default_rng(0).normal(size=(4, 2, 3))
    np.testing.assert_allclose(GRID.world_to_index(GRID.index_to_world(points)), points, atol=1e-12)
    centred = Grid.centred((4, 6), 0.5)
    assert centred.centre == (0.0, 0.0)
    assert centred.extent == (2.0, 3.0)
    slab = centred.as_volume(3.0)
    assert (slab.shape, slab.spacing, slab.origin) == ((1, 4, 6), (3.0, 0.5, 0.5), (0.0, -0.75, -1.25))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,),), "ny, nx"),
        (((4, 4), (1.0, 0.0)), "spacing: expected values > 0"),
        (((4, 4), (1.0, 1.0, 1.0)), "spacing: expected shape"),
        (((4, 4), (1.0, 1.0), (np.nan, 0.0)), "origin: expected finite"),
        (((4, 4), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.2), (0.0, 1.0))), "orthonormal"),
    ],
)
def test_bad_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


def test_volume_and_grid_agree():
    assert Volume(np.zeros((2, 5, 7, 9)), GRID).image.shape == (2, 5, 7, 9)
    with pytest.raises(ValueError, match="image: expected shape"):
        Volume(np.zeros((5, 7)), GRID)
    with pytest.raises(ValueError, match="finite"):
        Volume(np.full((5, 7, 9), np.nan), GRID)
