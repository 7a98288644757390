"""Transforms as ITK, ANTs and 3D Slicer keep them in files: text (.tfm, .txt), HDF5 (.h5, .xfm) and ANTs' .mat."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.data.grid import Grid
from diffimg.forward.deformation import DisplacementField, FreeForm, VelocityField
from diffimg.forward.linear_transform import Affine, LinearTransform, Rigid, Similarity, Translation, rotation_matrix, rotation_vector
from diffimg.forward.transform import Composition, Transform

_TEXT, _HDF5, _MATLAB = (".tfm", ".txt"), (".h5", ".hdf5", ".xfm"), (".mat",)
SUFFIXES = (*_TEXT, *_HDF5, *_MATLAB)


class Record(NamedTuple):
    """One transform in ITK's terms: type without precision, parameters and fixed parameters (x first, LPS, mm), dimension."""

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray
    ndim: int
    order: int = 3  # of a B-spline


def read_itk(path: Any) -> Transform:
    """The transform of an ITK file, in array order.

    Raises:
        ValueError: not such a file, or a type that has no counterpart here.
        OSError: the file cannot be read.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    check.one_of("path", suffix, SUFFIXES, "Displacements in NIfTI and FSL's matrices: read_transform.")
    records = _read_text(path) if suffix in _TEXT else _read_hdf5(path) if suffix in _HDF5 else _read_matlab(path)
    if not records:
        check.fail(str(path), "at least one transform", "none")
    transforms = [from_record(r, path) for r in records if r.kind != "CompositeTransform"]
    if len(transforms) > 1 and records[0].kind != "CompositeTransform":
        got = f"a list of {len(transforms)}"
        check.fail(str(path), "one transform, or a CompositeTransform", got, "Read them from files of their own.")
    if not transforms:
        check.fail(str(path), "transforms inside the CompositeTransform", "none", "ITK keeps composites whole in .tfm and .h5 only.")
    return transforms[0] if len(transforms) == 1 else Composition(tuple(transforms))


def write_itk(path: Any, transform: Transform) -> None:
    """Write a transform as ITK's text (``.tfm``, ``.txt``) or HDF5 file (``.h5``); what SimpleITK reads back moves points alike.

    Outside the grid of a displacement or velocity field ITK moves nothing, where ``outside="nearest"`` goes on as at the border.

    Raises:
        ValueError: another suffix, or a transform without a counterpart in ITK.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    check.one_of("path", suffix, (*_TEXT, *_HDF5), "FLIRT's matrices are .fsl, displacements .nii.gz.")
    parts = transform.transforms if isinstance(transform, Composition) else (transform,)
    records = [to_record(t) for t in parts]
    if len(records) > 1:
        records = [Record("CompositeTransform", np.zeros(0), np.zeros(0), transform.ndim), *records]
    (_write_text if suffix in _TEXT else _write_hdf5)(path, records)


def to_record(t: Transform) -> Record:
    """A transform in ITK's terms.

    Raises:
        ValueError: it has no counterpart.
    """
    n = t.ndim
    xyz = lambda v: np.asarray(v, float)[::-1]  # noqa: E731
    if isinstance(t, Translation):
        return Record("TranslationTransform", xyz(t.translation), np.zeros(0), n)
    if isinstance(t, (Rigid, Similarity)):
        scale = [np.exp(float(t.log_scale))] if isinstance(t, Similarity) else []
        shift, centre = xyz(t.translation), xyz(t.centre)
        if n == 2:
            kind = "Similarity2DTransform" if scale else "Euler2DTransform"
            return Record(kind, np.array([*scale, float(t.rotation[0]), *shift]), centre, n)
        angle = np.linalg.norm(np.asarray(t.rotation, float))
        versor = xyz(t.rotation) * (0.5 * np.sinc(angle / (2 * np.pi)))
        versor = -versor if np.cos(angle / 2) < 0 else versor  # ITK takes the scalar part as positive
        return Record("Similarity3DTransform" if scale else "VersorRigid3DTransform", np.array([*versor, *shift, *scale]), centre, n)
    if isinstance(t, LinearTransform):
        centre = np.asarray(getattr(t, "centre", np.zeros(n)), float)
        matrix, offset = np.asarray(t.matrix, float), np.asarray(t.offset, float)
        shift = offset - centre + matrix @ centre
        return Record("AffineTransform", np.array([*matrix[::-1, ::-1].ravel(), *xyz(shift)]), xyz(centre), n)
    if isinstance(t, VelocityField):
        t = t.field()
    if isinstance(t, FreeForm):
        if t.order > 3:
            remedy = "Sample it: DisplacementField.from_world(transform.displacement(grid), grid)."
            check.fail("transform", "a FreeForm of order 1 to 3, as ITK has them", f"order {t.order}", remedy)
        values = [np.asarray(t.coefficients[..., k], float).ravel() for k in range(n)[::-1]]
        return Record("BSplineTransform", np.concatenate(values), _grid_numbers(t.lattice), n, t.order)
    if isinstance(t, DisplacementField):
        u = np.asarray(t.displacement(t.grid), float)[..., ::-1]
        return Record("DisplacementFieldTransform", u.ravel(), _grid_numbers(t.grid), n)
    name = type(t).__name__
    remedy = "Sample it: DisplacementField.from_world(transform.displacement(grid), grid)."
    check.fail("transform", "a transform that ITK has, too", f"a {name}", remedy)


def from_record(r: Record, path: Any = "record") -> Transform:
    """A transform out of ITK's terms.

    Raises:
        ValueError: an unknown type, or a wrong number of parameters.
    """
    n, p, fixed = r.ndim, np.asarray(r.parameters, float), np.asarray(r.fixed, float)
    for name, values in (("parameters", p), ("fixed parameters", fixed)):
        check.finite(f"{path}: {name}", values)
    zyx = lambda v: jnp.asarray(np.asarray(v)[::-1].copy())  # noqa: E731
    angles = 1 if n == 2 else 3
    counts = {
        "IdentityTransform": None,
        "TranslationTransform": n,
        "Euler2DTransform": 3,
        "Rigid2DTransform": 3,
        "Euler3DTransform": 6,
        "VersorRigid3DTransform": 6,
        "VersorTransform": 3,
        "ScaleTransform": n,
        "ScaleVersor3DTransform": 9,
        "Similarity2DTransform": 4,
        "Similarity3DTransform": 7,
        "AffineTransform": n * n + n,
        "MatrixOffsetTransformBase": n * n + n,
    }
    if r.kind in counts:
        if counts[r.kind] is not None and len(p) != counts[r.kind]:
            check.fail(str(path), f"{counts[r.kind]} parameters of a {r.kind}", f"{len(p)}")
        centre = zyx(fixed[:n]) if len(fixed) >= n else jnp.zeros(n)
        match r.kind:
            case "IdentityTransform":
                return Translation(jnp.zeros(n))
            case "TranslationTransform":
                return Translation(zyx(p))
            case "Euler2DTransform" | "Rigid2DTransform":
                return Rigid(p[:1], zyx(p[1:]), centre)
            case "Similarity2DTransform":
                return Similarity(p[1:2], jnp.log(p[0]), zyx(p[2:]), centre)
            case "VersorRigid3DTransform":
                return Rigid(_of_versor(p[:3]), zyx(p[3:]), centre)
            case "VersorTransform":
                return Rigid(_of_versor(p), jnp.zeros(n), centre)
            case "ScaleTransform":
                return Affine(np.diag(p[::-1]), jnp.zeros(n), centre)
            case "ScaleVersor3DTransform":
                turn = np.asarray(rotation_matrix(np.asarray(_of_versor(p[:3]))))
                return Affine(turn + np.diag(p[6:][::-1] - 1), zyx(p[3:6]), centre)
            case "Similarity3DTransform":
                return Similarity(_of_versor(p[:3]), jnp.log(p[6]), zyx(p[3:6]), centre)
            case "Euler3DTransform":
                return Rigid(rotation_vector(_euler(p[:angles], len(fixed) > n and fixed[n] != 0)), zyx(p[3:]), centre)
        return Affine(p[: n * n].reshape(n, n)[::-1, ::-1], zyx(p[n * n :]), centre)
    if r.kind not in ("BSplineTransform", "DisplacementFieldTransform"):
        known = (*counts, "BSplineTransform", "DisplacementFieldTransform", "CompositeTransform")
        remedy = "Write its matrix, translation and centre as an AffineTransform, or sample it to a displacement field, in ITK."
        check.fail(str(path), f"one of {', '.join(known)}", r.kind, remedy)
    if len(fixed) < 3 * n + n * n:
        check.fail(str(path), f"{3 * n + n * n} fixed parameters (size, origin, spacing, direction)", f"{len(fixed)}")
    size, origin, spacing, direction = np.split(fixed[: 3 * n + n * n], [n, 2 * n, 3 * n])
    grid = Grid.from_itk([int(v) for v in size], spacing, origin, direction)
    if len(p) != n * np.prod(grid.shape):
        check.fail(str(path), f"{n * np.prod(grid.shape)} parameters for a grid {grid.shape}", f"{len(p)}")
    if r.kind == "BSplineTransform":
        return FreeForm(np.moveaxis(p.reshape(n, *grid.shape)[::-1], 0, -1), grid, r.order)
    return DisplacementField.from_world(p.reshape(*grid.shape, n)[..., ::-1], grid, outside="zero")


def _grid_numbers(grid):
    itk = grid.itk
    return np.array([*itk["size"], *itk["origin"], *itk["spacing"], *itk["direction"]], float)


def _of_versor(v):
    """The rotation vector (z, y, x) of the vector part (x, y, z) of a unit quaternion."""
    size = np.linalg.norm(v)
    if size > 1 + 1e-6:
        check.fail("versor", "a vector part of length ≤ 1", f"{size:.6g}")
    return jnp.asarray((v * (2 * np.arcsin(min(size, 1.0)) / size if size > 0 else 2.0))[::-1].copy())


def _euler(angles, zyx_order):
    """ITK's Rz Rx Ry (or Rz Ry Rx) in array order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (z @ y @ x if zyx_order else z @ x @ y)[::-1, ::-1]


def _typed(name, path):
    """(kind, ndim, order) of e.g. ``BSplineTransform_double_3_3`` (order 3) or ``BSplineTransform_double_3_3_1``."""
    parts = name.strip().split("_")
    if len(parts) < 3 or parts[1] not in ("double", "float") or not all(v.isdigit() for v in parts[2:]):
        check.fail(str(path), "a type like AffineTransform_double_3_3", repr(name.strip()))
    ndim = int(parts[2])
    if ndim not in (2, 3):
        check.fail(str(path), "a transform of 2 or 3 dimensions", f"{ndim}")
    order = int(parts[4]) if parts[0] == "BSplineTransform" and len(parts) > 4 else 3
    if order not in (1, 2, 3):
        check.fail(str(path), "a B-spline of order 1 to 3", f"{order}")
    return parts[0], ndim, order


def _type_name(r):
    order = f"_{r.order}" if r.kind == "BSplineTransform" and r.order != 3 else ""
    return f"{r.kind}_double_{r.ndim}_{r.ndim}{order}"


def _read_text(path):
    lines = path.read_text(errors="replace").splitlines()
    if not lines or not lines[0].startswith("#Insight Transform File"):
        check.fail(str(path), "'#Insight Transform File V1.0' as first line", repr(lines[0][:60]) if lines else "an empty file")
    records, current = [], {}
    for line in [*lines[1:], "#Transform end"]:
        if line.startswith("#Transform"):
            if current:
                records.append(_text_record(current, path))
            current = {}
        elif ":" in line:
            key, _, value = line.partition(":")
            current[key.strip()] = value.strip()
    return records


def _text_record(fields, path):
    if "Transform" not in fields:
        check.fail(str(path), "a line 'Transform: …'", f"lines {', '.join(fields)}")
    kind, ndim, order = _typed(fields["Transform"], path)
    numbers = []
    for name in ("Parameters", "FixedParameters"):
        try:
            numbers.append(np.array(fields.get(name, "").split(), float))
        except ValueError:
            check.fail(f"{path}: {name}", "numbers", repr(fields[name][:60]))
    return Record(kind, numbers[0], numbers[1], ndim, order)


def _write_text(path, records):
    lines = ["#Insight Transform File V1.0"]
    for k, r in enumerate(records):
        lines += [f"#Transform {k}", f"Transform: {_type_name(r)}"]
        for name, values in (("Parameters", r.parameters), ("FixedParameters", r.fixed)):
            lines.append(f"{name}: {' '.join(repr(float(v)) for v in values)}")
    path.write_text("\n".join(lines) + "\n")


def _read_hdf5(path):
    h5py = require_h5py()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: expected an HDF5 file, got one that h5py cannot open ({error}).") from None
    with file:
        if "TransformGroup" not in file:
            check.fail(str(path), "a group TransformGroup", f"{', '.join(file) or 'nothing'}", "Is it a transform, written by ITK?")
        group = file["TransformGroup"]
        records = []
        for key in sorted(group, key=int):
            entry = group[key]
            name = np.ravel(entry["TransformType"][()])[0]
            kind, ndim, order = _typed(name.decode() if isinstance(name, bytes) else str(name), path)
            numbers = [_numbers(entry, stem) for stem in ("Parameters", "FixedParameters")]
            records.append(Record(kind, numbers[0], numbers[1], ndim, order))
    return records


def _numbers(entry, stem):
    for name in (f"Transform{stem}", f"Tranform{stem}"):  # ITK 4 misspelt it
        if name in entry:
            return np.asarray(entry[name][()], float).ravel()
    return np.zeros(0)


def _write_hdf5(path, records):
    h5py = require_h5py()
    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w") as file:
        for name, value in (("ITKVersion", "5.4.0"), ("HDFVersion", h5py.version.hdf5_version), ("OSName", "Linux"), ("OSVersion", "0")):
            file.create_dataset(name, data=np.array([value], dtype=object), dtype=text)
        group = file.create_group("TransformGroup")
        for k, r in enumerate(records):
            entry = group.create_group(str(k))
            entry.create_dataset("TransformType", data=np.array([_type_name(r)], dtype=object), dtype=text)
            if r.kind != "CompositeTransform":
                entry.create_dataset("TransformParameters", data=r.parameters)
                entry.create_dataset("TransformFixedParameters", data=r.fixed)


def _read_matlab(path):
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except (MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path}: expected a MATLAB file as ANTs writes it, got one that cannot be read ({error}).") from None
    names = [k for k in content if not k.startswith("__") and k != "fixed"]
    if len(names) != 1 or "fixed" not in content:
        check.fail(str(path), "one transform and 'fixed', as in ANTs' GenericAffine.mat", f"{', '.join(names) or 'nothing'}")
    kind, ndim, _ = _typed(names[0], path)
    return [Record(kind, np.ravel(content[names[0]]).astype(float), np.ravel(content["fixed"]).astype(float), ndim)]


def require_h5py() -> Any:
    """The module, or an ``ImportError`` that says how to get it."""
    try:
        import h5py
    except ImportError:
        raise ImportError("HDF5 transforms need h5py: pip install 'diffimg-jax[io]'.") from None
    return h5py
