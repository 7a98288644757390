"""ISMRMRD raw data: one record for each readout, sorted into k-space.

S. J. Inati et al., ISMRM Raw data format, Magn. Reson. Med. 77 (2017) 411.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.data.atomic import whole_file
from diffimg.data.extras import optional
from diffimg.data.kspace import KSpace, ScanHeader, centred, parse_header, write_header

# flags of a readout, by their number (bit n − 1)
_NOISE, _REVERSE = 19, 22
_SKIPPED = (23, 24, 26, 27, 28, 29)  # navigators, phase correction, feedback, dummies, surface-coil scans
_COUNTERS = ("repetition", "set", "phase", "contrast", "slice")

_INDEX = np.dtype([(n, "<u2") for n in ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase",
    "repetition", "set", "segment")] + [("user", "<u2", (8,))])  # fmt: skip
_HEADER = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"), ("acquisition_time_stamp", "<u4"),
    ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2"),
    ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"),
    ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", (3,)),
    ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)), ("patient_table_position", "<f4", (3,)),
    ("idx", _INDEX), ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
])  # fmt: skip


def read_ismrmrd(path: str | os.PathLike[str], *, group: str = "dataset", remove_oversampling: bool = False) -> KSpace:
    """Read a file and sort its readouts by their counters; averages are averaged, calibration-only lines are kept.

    Args:
        path: HDF5. group: where the data lie.
        remove_oversampling: crop the image along x to that of the reconstruction (Cartesian data).

    Returns:
        ``KSpace``. Leading axes are those of "repetition", "set", "phase", "contrast", "slice" that are longer than 1. Trajectories in
        cycles/voxel (|k| ≤ ½), as is usual, or in steps (|k| ≤ N/2) become rad/voxel in (y, x) order.

    Raises:
        ValueError: missing, truncated or foreign files, NaN, readouts outside the encoded matrix or of different lengths.
        ImportError: h5py is not installed.
    """
    file = Path(path)
    if not file.is_file():
        check.fail("path", "an existing file", f"{file.name}, which is none", "Check the path.")
    h5py = optional("h5py", "Reading ISMRMRD")
    try:
        with h5py.File(file, "r") as source:
            if group not in source or "data" not in source[group] or "xml" not in source[group]:
                check.fail("path", f"an ISMRMRD file with {group}/xml and {group}/data", f"one with {sorted(source)[:6]}", "Say group=.")
            xml = source[group]["xml"][()]
            xml = xml[0] if isinstance(xml, np.ndarray) else xml
            records = source[group]["data"][()]
    except (OSError, EOFError, KeyError, TypeError, RuntimeError) as error:
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail("path", "a whole HDF5 file", got, "It is truncated, damaged or of another format: fetch it again.")
    header = parse_header(xml)
    if not len(records):
        check.fail("path", "readouts", "none", f"{file.name} holds a header only.")
    head = records["head"]
    flags = head["flags"]
    has = lambda *numbers: np.any([(flags >> np.uint64(n - 1)) & np.uint64(1) for n in numbers], axis=0)  # noqa: E731
    noise_scan = has(_NOISE)
    noise = None
    if noise_scan.any():
        noise = np.concatenate([_samples(r) for r in records[noise_scan]], axis=-1)
    keep = ~noise_scan & ~has(*_SKIPPED)
    records, reverse = records[keep], has(_REVERSE)[keep]
    if not len(records):
        check.fail("path", "imaging readouts", "noise or navigators only")
    lines = [_samples(r) for r in records]
    if len({v.shape[0] for v in lines}) > 1:
        check.fail("path", "readouts of one number of coils", str(sorted({v.shape[0] for v in lines})))
    check.finite("data", np.concatenate([v.ravel() for v in lines]), f"{file.name} is damaged.")
    head = records["head"]
    counts = {name: int(head["idx"][name].max()) + 1 for name in _COUNTERS}
    axes = tuple(name for name in _COUNTERS if counts[name] > 1)
    lead = tuple(counts[name] for name in axes)
    place = [tuple(int(h["idx"][name]) for name in axes) for h in head]
    if header.trajectory != "cartesian" and int(head["trajectory_dimensions"].max()) >= 2:
        return _other(records, lines, header, axes, lead, place, noise)
    return _cartesian(head, lines, reverse, header, axes, lead, place, noise, remove_oversampling)


def _samples(record):
    h = record["head"]
    data = np.asarray(record["data"], np.float32).view(np.complex64)
    n, coils = int(h["number_of_samples"]), int(h["active_channels"])
    if data.size != n * coils:
        check.fail("data", f"{coils} × {n} samples as its header says", str(data.size), "The file is damaged.")
    return data.reshape(coils, n)[:, int(h["discard_pre"]) : n - int(h["discard_post"])]


def _cartesian(head, lines, reverse, header, axes, lead, place, noise, remove_oversampling):
    nx, ny, nz = header.matrix
    volume = nz > 1
    coils = lines[0].shape[0]
    k = np.zeros((*lead, coils, nz, ny, nx), np.complex64)
    count = np.zeros((*lead, nz, ny), int)
    centre = [n // 2 if c is None else c for c, n in zip(header.centre, (ny, nz), strict=True)]
    for h, line, flip, where in zip(head, lines, reverse, place, strict=True):
        y = int(h["idx"]["kspace_encode_step_1"]) - centre[0] + ny // 2
        z = int(h["idx"]["kspace_encode_step_2"]) - centre[1] + nz // 2 if volume else 0
        middle = int(h["center_sample"]) - int(h["discard_pre"])
        if flip:
            line, middle = line[:, ::-1], line.shape[1] - 1 - middle
        start = nx // 2 - middle
        if not (0 <= y < ny and 0 <= z < nz and start >= 0 and start + line.shape[1] <= nx):
            got = f"step ({y}, {z}), samples {start} … {start + line.shape[1] - 1}"
            check.fail("data", f"readouts inside the encoded matrix ({nx}, {ny}, {nz})", got, "Its header does not describe these data.")
        k[(*where, slice(None), z, y, slice(start, start + line.shape[1]))] += line
        count[(*where, z, y)] += 1
    k /= np.maximum(count, 1)[..., None, :, :, None].astype(np.float32)
    if remove_oversampling and header.recon_matrix[0] < nx:
        image = centred(k, (-1,), inverse=True)
        new = header.recon_matrix[0]
        start = nx // 2 - new // 2
        k = centred(image[..., start : start + new], (-1,), inverse=False).astype(np.complex64)
    mask = count > 0
    if not volume:
        k, mask = k[..., 0, :, :], mask[..., 0, :]
    return KSpace(k, axes, mask, None, noise, None, header)


def _other(records, lines, header, axes, lead, place, noise):
    length = {v.shape[1] for v in lines}
    if len(length) > 1:
        check.fail("data", "readouts of one length", str(sorted(length)))
    dimensions = int(records["head"]["trajectory_dimensions"][0])
    used = 3 if header.matrix[2] > 1 and dimensions >= 3 else 2
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, where in enumerate(place):
        groups.setdefault(where, []).append(i)
    sizes = {len(v) for v in groups.values()}
    if len(sizes) > 1 or len(groups) != int(np.prod(lead)):
        check.fail("data", f"as many readouts for each of {dict(zip(axes, lead, strict=True))}", str(sorted(sizes)))
    trajectory = []
    for record in records:
        h = record["head"]
        n = int(h["number_of_samples"])
        t = np.asarray(record["traj"], np.float32).reshape(n, dimensions)[int(h["discard_pre"]) : n - int(h["discard_post"]), :used]
        trajectory.append(t[:, ::-1])
    first = groups[next(iter(groups))]
    path = np.stack([trajectory[i] for i in first]).astype(np.float64)
    largest = np.abs(path).max()
    if largest <= 0.5 * (1 + 1e-3):
        path *= 2 * np.pi
    elif largest > np.pi * (1 + 1e-3):
        path *= 2 * np.pi / np.array(header.matrix[:used][::-1])
    data = np.zeros((*lead, lines[0].shape[0], len(first), lines[0].shape[1]), np.complex64)
    for where, members in groups.items():
        data[where] = np.stack([lines[i] for i in members], axis=1)
    return KSpace(data, axes, None, path.astype(np.float32), noise, None, header)


def write_ismrmrd(
    path: str | os.PathLike[str], kspace: Any, header: ScanHeader, *, axes: tuple[str, ...] = (), trajectory: Any = None, noise: Any = None,
    group: str = "dataset",
) -> None:  # fmt: skip
    """Write k-space in one piece; phase-encoding steps that are zero in every coil are left out.

    Args:
        kspace: Cartesian ``[*axes, coil, (kz,) ky, kx]`` of the header's matrix, or ``[*axes, coil, readout, sample]`` with a trajectory.
        axes: names of the leading axes, of "repetition", "set", "phase", "contrast", "slice".
        trajectory: ``[readout, sample, axis]`` rad/voxel, (y, x) or (z, y, x); written in cycles/voxel, (x, y, z).
        noise: ``[coil, sample]``.

    Raises:
        ValueError: shapes that do not fit, unknown axes, NaN.
    """
    kspace = np.asarray(check.array("kspace", kspace)).astype(np.complex64)
    check.finite("kspace", kspace)
    for name in axes:
        check.one_of("axes", name, _COUNTERS)
    nx, ny, nz = header.matrix
    volume = nz > 1 and trajectory is None
    if trajectory is None:
        check.trailing_shape("kspace", kspace, (nz, ny, nx) if volume else (ny, nx), "(kz,) ky, kx")
    else:
        trajectory = np.asarray(trajectory, np.float64)
        check.shape("trajectory", trajectory, (*kspace.shape[-2:], trajectory.shape[-1]), "[readout, sample, axis]")
    if kspace.ndim != len(axes) + 3 + volume:
        check.fail("kspace", f"{len(axes)} leading axes {axes} and [coil, {'kz, ' if volume else ''}ky, kx]", f"shape {kspace.shape}")
    if not volume:
        kspace = kspace[..., None, :, :]
    coils = kspace.shape[len(axes)]
    rows = []

    def record(data, where=(), y=0, z=0, flags=0, traj=None):
        head = np.zeros((), _HEADER)
        head["version"], head["flags"] = 1, flags
        head["number_of_samples"], head["active_channels"], head["available_channels"] = data.shape[1], coils, coils
        head["center_sample"] = data.shape[1] // 2
        head["scan_counter"] = len(rows)
        head["trajectory_dimensions"] = 0 if traj is None else traj.shape[1]
        for direction, axis in (("read_dir", 0), ("phase_dir", 1), ("slice_dir", 2)):
            head[direction][axis] = 1
        head["idx"]["kspace_encode_step_1"], head["idx"]["kspace_encode_step_2"] = y, z
        for name, value in zip(axes, where, strict=True) if where else ():
            head["idx"][name] = value
        empty = np.zeros(0, np.float32)
        rows.append((head, empty if traj is None else traj.astype(np.float32).ravel(), np.ascontiguousarray(data).view(np.float32).ravel()))

    if noise is not None:
        record(np.asarray(noise, np.complex64), flags=1 << (_NOISE - 1))
    offsets = [n // 2 - (n // 2 if c is None else c) for c, n in zip(header.centre, (ny, nz), strict=True)]
    for where in np.ndindex(*kspace.shape[: len(axes)]):
        block = kspace[where]
        for z in range(block.shape[1]):
            for y in range(block.shape[2]):
                if trajectory is not None:
                    record(block[:, z, y], where, y, z, traj=trajectory[y][:, ::-1] / (2 * np.pi))
                elif np.any(block[:, z, y]):
                    record(block[:, z, y], where, y - offsets[0], z - offsets[1] if volume else 0)
    h5py = optional("h5py", "Writing ISMRMRD")
    variable = h5py.special_dtype(vlen=np.dtype("float32"))
    table = np.empty(len(rows), np.dtype([("head", _HEADER), ("traj", variable), ("data", variable)]))
    for i, (head, traj, data) in enumerate(rows):
        table[i]["head"], table[i]["traj"], table[i]["data"] = head, traj, data
    with whole_file(path) as temporary, h5py.File(temporary, "w") as out:
        place = out.create_group(group)
        text = place.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        text[0] = write_header(header, coils)
        place.create_dataset("data", data=table, maxshape=(None,), chunks=True)
