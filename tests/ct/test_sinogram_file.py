"""Sinogram files: every geometry comes back equal, foreign readers see the layout, bad scans are refused."""

import json

import numpy as np
import pytest

from diffimg.ct import SinogramFile, read_exchange, read_sinogram, write_sinogram
from diffimg.data import Grid, Volume, read, write
from diffimg.forward import ConeBeam, FanBeam, Helical, Modular, ParallelBeam

h5py = pytest.importorskip("h5py")

ANGLES = np.linspace(0, 2 * np.pi, 5, endpoint=False)
CONE = ConeBeam((4, 6, 6), ANGLES, (5, 13), 50.0, 30.0, detector_spacing=(2.0, 1.5), detector_offset=(0.3, np.linspace(0, 1, 5)))
GEOMETRIES = [
    ParallelBeam((6, 6), ANGLES.astype(np.float32), 9, 0.7, detector_offset=0.1),
    FanBeam((6, 6), ANGLES, 11, 50.0, np.linspace(30, 31, 5), detector_spacing=1.7, curved=True),
    CONE,
    ConeBeam((4, 6, 6), ANGLES, (5, 9), 50.0, 30.0, detector_spacing=2.0, detector_tilt=(0.0, 0.01, ANGLES / 100)),
    Helical((4, 6, 6), ANGLES, (5, 9), 50.0, 30.0, np.linspace(-2, 2, 5), detector_spacing=2.0),
    Modular((4, 6, 6), CONE.poses.source, CONE.poses.detector, CONE.poses.column, (5, 13), CONE.poses.row),
]


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: type(g).__name__)
def test_round_trip(tmp_path, geometry, suffix):
    counts = np.random.default_rng(0).integers(1, 1000, (2, *geometry.sinogram_shape)).astype(np.uint16)
    scan = SinogramFile(
        counts / np.float32(3),
        geometry,
        counts,
        np.full(geometry.sinogram_shape[1:], 1000.0),
        np.full(geometry.sinogram_shape[1:], 0.5),
        np.array([40.0, 60.0]),
        np.array([0.4, 0.6]),
    )
    write_sinogram(tmp_path / f"s{suffix}", scan)
    back = read_sinogram(tmp_path / f"s{suffix}")
    assert back.geometry == geometry
    assert type(back.geometry) is type(geometry)
    for name in ("sinogram", "counts", "flat", "dark", "energies", "spectrum"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scan, name))
        assert getattr(back, name).dtype == getattr(scan, name).dtype
    assert back.unit == "photons"


def test_layout_as_others_see_it(tmp_path):
    geometry = GEOMETRIES[1]
    scan = SinogramFile(np.zeros(geometry.sinogram_shape, np.float32), geometry)
    write_sinogram(tmp_path / "s.h5", scan)
    with h5py.File(tmp_path / "s.h5") as file:
        assert (file.attrs["format"], file.attrs["version"]) == ("diffimg-sinogram", 1)
        assert file["geometry"].attrs["class"] == "FanBeam"
        assert list(file["geometry"].attrs["image_shape"]) == [6, 6]
        np.testing.assert_array_equal(file["geometry/angles"], ANGLES)
        assert file["geometry/angles"].attrs["unit"] == "rad"
        assert file["geometry/source_distance"][()] == 50
        assert file["geometry/source_distance"].attrs["unit"] == "mm"
    write_sinogram(tmp_path / "s.npz", scan)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert json.loads(bytes(file["attributes"]))["geometry"]["class"] == "FanBeam"
        assert file["sinogram"].shape == geometry.sinogram_shape


def test_line_integrals():
    counts = np.array([[110.0, 60.0, 0.0]])
    scan = SinogramFile(counts=counts, flat=np.array([210.0, 110.0, 110.0]), dark=np.array(10.0))
    np.testing.assert_allclose(scan.line_integrals(), -np.log([[0.5, 0.5, 0.01]]), rtol=1e-6)
    with pytest.raises(ValueError, match="flat: expected"):
        SinogramFile(counts=counts).line_integrals()


def exchange(path, views=5, **changes):
    rng = np.random.default_rng(0)
    parts = {
        "data": rng.integers(100, 200, (views, 3, 8)).astype(np.uint16),
        "data_white": rng.integers(300, 310, (4, 3, 8)).astype(np.uint16),
        "data_dark": rng.integers(0, 10, (4, 3, 8)).astype(np.uint16),
        "theta": np.linspace(0, 180, 5, endpoint=False),
    } | changes
    with h5py.File(path, "w") as file:
        for name, value in parts.items():
            if value is not None:
                file[f"exchange/{name}"] = value
        file["measurement/sample/name"] = "DOE JOHN"
    return parts


def test_data_exchange(tmp_path):
    parts = exchange(tmp_path / "e.h5")
    scan = read_exchange(tmp_path / "e.h5", pixel_size=0.01, rotation_centre=3.0)
    assert scan.counts.shape == (3, 5, 8)
    np.testing.assert_allclose(scan.geometry.angles, np.deg2rad(parts["theta"]))
    assert float(scan.geometry.detector_positions[3]) == pytest.approx(0, abs=1e-12)
    dark, white = parts["data_dark"].mean(0), parts["data_white"].mean(0)
    expected = -np.log((parts["data"] - dark) / (white - dark))  # as TomoPy's normalize and minus_log
    np.testing.assert_allclose(scan.line_integrals(), expected.swapaxes(0, 1), rtol=1e-4)
    assert "DOE" not in repr(vars(scan))
    with pytest.raises(ValueError, match="read_exchange"):
        read_sinogram(tmp_path / "e.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": None}, "with /exchange/theta"),
        ({"views": 4}, "cut short"),
        ({"data_white": np.zeros((2, 3, 8))}, "flat: expected values > 0"),
        ({"data_white": np.ones((2, 3, 7))}, "data_white: expected shape"),
        ({"data": -np.ones((5, 3, 8))}, "counts: expected values ≥ 0"),
    ],
)
def test_bad_exchange(tmp_path, changes, message):
    exchange(tmp_path / "e.h5", **changes)
    with pytest.raises(ValueError, match=message):
        read_exchange(tmp_path / "e.h5")


COUNTS = np.ones((5, 11))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at least one"),
        ({"counts": -COUNTS}, "counts: expected values ≥ 0"),
        ({"counts": COUNTS, "flat": np.zeros(11)}, "flat: expected values > 0"),
        ({"counts": COUNTS, "flat": np.ones(11), "dark": np.ones(11)}, "flat: expected values > 0"),
        ({"counts": COUNTS, "flat": np.ones(10)}, "flat: expected a shape that broadcasts"),
        ({"sinogram": np.full((5, 11), np.nan)}, "sinogram: expected finite"),
        ({"sinogram": COUNTS, "counts": np.ones((5, 12))}, "counts: expected shape"),
        ({"sinogram": np.ones((5, 12)), "geometry": GEOMETRIES[1]}, "sinogram: expected shape"),
        ({"counts": np.ones((5, 12)), "geometry": GEOMETRIES[1]}, "counts: expected shape"),
        ({"sinogram": COUNTS, "energies": [60.0], "spectrum": [0.0]}, "cannot be normalised"),
        ({"sinogram": COUNTS, "energies": [60.0]}, "both or neither"),
    ],
)
def test_bad_scans(fields, message):
    with pytest.raises(ValueError, match=message):
        SinogramFile(**fields)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_bad_files(tmp_path, suffix):
    file = tmp_path / f"s{suffix}"
    geometry = GEOMETRIES[0]
    write_sinogram(file, SinogramFile(np.zeros(geometry.sinogram_shape), geometry))
    content = file.read_bytes()
    for keep in (0, 20, len(content) // 2):
        file.write_bytes(content[:keep])
        with pytest.raises(ValueError, match="whole"):
            read_sinogram(file)
    if suffix == ".npz":
        damaged = bytearray(content)
        start = content.index(b".npy") + 40
        damaged[start : start + 40] = bytes(40)
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="whole NPZ file"):
            read_sinogram(file)
    if suffix == ".h5":
        for place, name, value, message in [
            ("/", "version", 2, "newer"),
            ("geometry", "class", "Radon", "geometry of"),
            ("geometry", "x", 1, "x"),
        ]:
            file.write_bytes(content)
            with h5py.File(file, "r+") as opened:
                opened[place].attrs[name] = value
            with pytest.raises(ValueError, match=message):
                read_sinogram(file)
    with pytest.raises(ValueError, match="read_sinogram"):
        read(file)
    with pytest.raises(ValueError, match=r"\.h5 or \.npz"):
        write_sinogram(tmp_path / "s.mat", SinogramFile(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="path: expected"):
        write(tmp_path / "s.h5", Volume(np.zeros((2, 2)), Grid((2, 2))))
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
