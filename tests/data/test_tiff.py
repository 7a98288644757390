"""TIFF stacks in and out against tifffile."""

import numpy as np
import pytest

tifffile = pytest.importorskip("tifffile")

from diffimg import data  # noqa: E402
from diffimg.data import Grid, Volume, read_tiff, write_tiff  # noqa: E402

STACK = np.random.default_rng(0).integers(0, 255, (12, 6, 8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_stacks_of_any_type(tmp_path, dtype, compression):
    tifffile.imwrite(tmp_path / "s.tif", STACK.astype(dtype), photometric="minisblack", compression=compression, metadata=None)
    volume = data.read(tmp_path / "s.tif")
    np.testing.assert_array_equal(volume.image, STACK)
    assert volume.image.dtype == np.float32
    assert read_tiff(tmp_path / "s.tif", dtype=None).image.dtype == dtype
    assert (volume.grid, volume.metadata["spacing"]) == (Grid((12, 6, 8)), "unknown")


def test_folder_of_pages_in_natural_order(tmp_path):
    for k, page in enumerate(STACK):
        tifffile.imwrite(tmp_path / f"slice_{k + 1}.tif", page.astype(np.uint16))
    np.testing.assert_array_equal(data.read(tmp_path).image, STACK)
    chosen = [tmp_path / f"slice_{k}.tif" for k in (3, 1)]
    np.testing.assert_array_equal(data.read(chosen).image, STACK[[2, 0]])
    (tmp_path / "slice_7.tif").unlink()
    with pytest.raises(ValueError, match=r"gap between slice_6\.tif and slice_8\.tif"):
        data.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"resolution": (20, 40), "resolutionunit": "CENTIMETER"}, (0.25, 0.25, 0.5)),
        ({"resolution": (254, 254), "resolutionunit": "INCH"}, (0.1, 0.1, 0.1)),
        ({"resolution": (2, 4), "imagej": True, "metadata": {"axes": "ZYX", "spacing": 3.0, "unit": "mm"}}, (3.0, 0.25, 0.5)),
        ({"resolution": (2, 4), "imagej": True, "metadata": {"axes": "ZYX", "spacing": 3.0, "unit": "um"}}, (3e-3, 0.25e-3, 0.5e-3)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({}, None),
    ],
)
def test_resolution_tags(tmp_path, options, spacing):
    tifffile.imwrite(tmp_path / "s.tif", STACK.astype(np.uint8), photometric="minisblack", **options)
    volume = data.read(tmp_path / "s.tif")
    np.testing.assert_allclose(volume.grid.spacing, spacing or (1, 1, 1))
    assert volume.metadata["spacing"] == ("file" if spacing else "unknown")
    assert read_tiff(tmp_path / "s.tif", spacing=(2, 2, 2)).grid.spacing == (2, 2, 2)


def test_round_trip(tmp_path):
    volume = Volume(STACK + 0.25, Grid(STACK.shape, (2.0, 0.7, 0.3)))
    for name in ("stack.tif", "pages"):
        write_tiff(tmp_path / name, volume)
        back = data.read(tmp_path / name)
        np.testing.assert_array_equal(back.image, volume.image)
        np.testing.assert_allclose(back.grid.spacing, volume.grid.spacing, rtol=1e-6)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stack.tif"), volume.image)
    np.testing.assert_array_equal(tifffile.imread(sorted((tmp_path / "pages").iterdir())), volume.image)
    data.write(tmp_path / "one.tif", Volume(STACK[0], Grid.centred((6, 8), 0.5)))
    assert data.read(tmp_path / "one.tif").image.shape == (6, 8)
    with pytest.raises(ValueError, match="new or empty"):
        write_tiff(tmp_path / "pages", volume)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.7, 0.97])
@pytest.mark.parametrize("pages_apart", [True, False])
def test_truncated(tmp_path, share, pages_apart):
    file = tmp_path / "s.tif"
    with tifffile.TiffWriter(file) as writer:
        for page in STACK if pages_apart else [STACK]:
            writer.write(page.astype(np.uint16), photometric="minisblack", metadata=None)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"whole TIFF file, got s\.tif"):
        data.read(file)


def test_bad_files(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 5), np.nan, np.float32))
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(np.zeros((4, 5), np.uint8), metadata=None)
        writer.write(np.zeros((4, 6), np.uint8), metadata=None)
    for name, message in [("rgb.tif", "grey image"), ("nan.tif", "finite"), ("mixed.tif", "one size"), ("no.tif", "existing file")]:
        with pytest.raises(ValueError, match=message):
            data.read(tmp_path / name)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 6), np.uint8))
    with pytest.raises(ValueError, match="pages of one size"):
        read_tiff([tmp_path / "a.tif", tmp_path / "b.tif"])
    (tmp_path / "x.bin").write_bytes(b"0" * 200)
    with pytest.raises(ValueError, match="source: expected a DICOM file"):
        data.read(tmp_path / "x.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="DICOM files"):
        data.read(tmp_path / "empty")


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"diffimg-jax\[io\]"):
        data.read(tmp_path / "a.tif")
