"""``read_transform`` and ``write_transform``: ITK and ANTs files, displacements in NIfTI, FSL's matrices."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.deformation import DisplacementField
from diffimg.forward.linear_transform import Affine, LinearTransform
from diffimg.forward.transform import Transform
from diffimg.registration import itk_file


def read_transform(path: Any, fixed_grid: Grid | None = None, moving_grid: Grid | None = None) -> Transform:
    """A transform (fixed → moving, mm, array order) from a file.

    Args:
        path: ``.tfm``, ``.txt``, ``.h5``, ``.mat`` (ITK, ANTs); ``.nii``, ``.nii.gz`` (a displacement field as ITK and ANTs write it,
            LPS mm); ``.fsl`` or ``.mat`` in text (FLIRT's matrix, moving → fixed in FSL's own coordinates: needs both grids).
        fixed_grid, moving_grid: for FLIRT's matrices; of a displacement file ``fixed_grid``, where given, must be its own.

    Raises:
        ValueError: the file is none of these, or belongs to another grid.
        OSError: it cannot be read.
    """
    path = pathlib.Path(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        field = _read_displacement(path)
        if fixed_grid is not None and not _same(field.grid, fixed_grid):
            remedy = "Give no fixed_grid: the field is sampled wherever it is needed."
            check.fail("fixed_grid", f"the file's grid {field.grid!r}", f"{fixed_grid!r}", remedy)
        return field
    if name.endswith(".fsl") or (name.endswith(".mat") and _is_text(path)):
        if fixed_grid is None or moving_grid is None:
            check.fail("fixed_grid, moving_grid", "both grids, for FLIRT's matrix", "None", "Its coordinates depend on both images.")
        return from_fsl(np.loadtxt(path), fixed_grid, moving_grid)
    return itk_file.read_itk(path)


def write_transform(path: Any, transform: Transform, fixed_grid: Grid | None = None, moving_grid: Grid | None = None) -> None:
    """Write a transform (fixed → moving) so that ITK, ANTs, 3D Slicer or FSL apply the same.

    Args:
        path: ``.tfm``, ``.txt``, ``.h5`` (ITK); ``.nii``, ``.nii.gz`` (displacements at the samples of ``fixed_grid``, LPS mm);
            ``.fsl`` (FLIRT's matrix of a linear transform; needs both grids).
        transform: what to write.
        fixed_grid, moving_grid: see ``path``.

    Raises:
        ValueError: the format cannot hold the transform, or a grid is missing.
    """
    path = pathlib.Path(path)
    name = path.name.lower()
    if not isinstance(transform, Transform):
        check.fail("transform", "a diffimg transform", type(transform).__name__)
    if name.endswith((".nii", ".nii.gz")):
        if fixed_grid is None:
            check.fail("fixed_grid", "where to sample the displacements", "None", "The grid of the fixed image.")
        _write_displacement(path, transform, fixed_grid)
    elif name.endswith(".fsl"):
        if fixed_grid is None or moving_grid is None:
            check.fail("fixed_grid, moving_grid", "both grids, for FLIRT's matrix", "None", "Its coordinates depend on both images.")
        np.savetxt(path, to_fsl(transform, fixed_grid, moving_grid), fmt="%.10f")
    else:
        itk_file.write_itk(path, transform)


def to_fsl(transform: Transform, fixed_grid: Grid, moving_grid: Grid) -> np.ndarray:
    """FLIRT's ``[4, 4]`` matrix: from the moving to the fixed image, in voxels times spacing, x mirrored where the affine's determinant
    is positive.

    Raises:
        ValueError: the transform is not linear.
    """
    if not isinstance(transform, LinearTransform):
        check.fail("transform", "a linear transform, for FLIRT's matrix", type(transform).__name__)
    world = _ras(np.asarray(transform.homogeneous, float))  # fixed → moving in RAS
    voxels = np.linalg.inv(fixed_grid.affine) @ np.linalg.inv(world) @ moving_grid.affine  # moving → fixed
    return _fsl(fixed_grid) @ voxels @ np.linalg.inv(_fsl(moving_grid))


def from_fsl(matrix: Any, fixed_grid: Grid, moving_grid: Grid) -> Affine:
    """The inverse of ``to_fsl``.

    Raises:
        ValueError: no invertible 4 × 4 matrix.
    """
    if isinstance(matrix, (str, pathlib.Path)):
        check.fail("matrix", "a 4 × 4 matrix", repr(str(matrix)), "read_transform(path, fixed_grid, moving_grid) reads FLIRT's files.")
    matrix = np.asarray(matrix, float)
    check.shape("matrix", matrix, (4, 4), "", "FLIRT writes four rows of four numbers.")
    check.finite("matrix", matrix)
    if abs(np.linalg.det(matrix)) < 1e-9:
        check.fail("matrix", "an invertible matrix", f"determinant {np.linalg.det(matrix):.3g}")
    back = moving_grid.affine @ np.linalg.inv(_fsl(moving_grid)) @ np.linalg.inv(matrix)
    world = back @ _fsl(fixed_grid) @ np.linalg.inv(fixed_grid.affine)
    ours = _ras(world, back=True)
    n = fixed_grid.ndim
    keep = slice(3 - n, 3)
    return Affine(ours[keep, keep], ours[keep, 3])


def _ras(matrix, back=False):
    """A map in array order and LPS as one in (x, y, z) and RAS, or back; a 2-D matrix becomes that of one slice."""
    if matrix.shape[0] == 3:
        full = np.eye(4)
        full[1:, 1:] = matrix
        matrix = full
    flip = np.zeros((4, 4))
    flip[0, 2], flip[1, 1], flip[2, 0], flip[3, 3] = -1, -1, 1, 1
    return np.linalg.inv(flip) @ matrix @ flip if back else flip @ matrix @ np.linalg.inv(flip)


def _fsl(grid):
    """Voxel index (x, y, z) → FSL's millimetres."""
    volume = grid.as_volume()
    scale = np.diag([*volume.spacing[::-1], 1.0])
    if np.linalg.det(volume.affine) > 0:
        mirror = np.eye(4)
        mirror[0, 0], mirror[0, 3] = -1, (volume.shape[2] - 1) * volume.spacing[2]
        scale = mirror @ scale
    return scale


def _same(a, b):
    return a.shape == b.shape and all(np.allclose(getattr(a, k), getattr(b, k), atol=1e-3) for k in ("spacing", "origin", "direction"))


def _is_text(path):
    head = path.read_bytes()[:64]
    return all(c in b" \t\r\n+-.0123456789eE" for c in head)


def _read_displacement(path):
    nibabel = _nibabel()
    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, float)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: expected a NIfTI file, got one that cannot be read ({error}).") from None
    if values.ndim != 5 or values.shape[3] != 1 or values.shape[4] not in (2, 3):
        got = f"shape {values.shape}"
        check.fail(str(path), "displacements [x, y, z, 1, components] (intent vector)", got, "An image is read by data.read.")
    n = values.shape[4]
    if n == 2 and values.shape[2] != 1:
        check.fail(str(path), "one slice for displacements of two components", f"{values.shape[2]}")
    grid = Grid.from_affine(values.shape[2::-1], image.affine)
    u = np.transpose(values[:, :, :, 0, :], (2, 1, 0, 3))[..., ::-1]
    if n == 2:
        grid = Grid(grid.shape[1:], grid.spacing[1:], grid.origin[1:], np.asarray(grid.direction)[1:, 1:].tolist())
        u = u[0]
    return DisplacementField.from_world(u, grid, outside="zero")


def _write_displacement(path, transform, grid):
    nibabel = _nibabel()
    u = np.asarray(transform.displacement(grid), float)
    u = u[None] if grid.ndim == 2 else u
    values = np.transpose(u[..., ::-1], (2, 1, 0, 3))[:, :, :, None, :]
    image = nibabel.Nifti1Image(values, grid.affine)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    nibabel.save(image, path)


def _nibabel():
    try:
        import nibabel
    except ImportError:
        raise ImportError("NIfTI needs nibabel: pip install 'diffimg-jax[io]'.") from None
    return nibabel
