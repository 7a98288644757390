"""Photographs by split: disjoint, read from installed files without a download, luminance as Pillow's and the packages' own loaders."""

import importlib
import pathlib
import socket

import numpy as np
import pytest

from diffimg.data import photographs

pytest.importorskip("skimage"), pytest.importorskip("sklearn"), pytest.importorskip("PIL")
MODULE = importlib.import_module("diffimg.data.photographs")  # the attribute of the package is the function
SPLITS = {
    "train": ["astronaut", "brick", "china", "coins", "grass", "gravel", "hubble", "moon"],
    "validation": ["grace_hopper", "rocket"],
    "test": ["camera", "chelsea", "coffee", "flower", "motorcycle"],
}


def test_splits_are_as_documented_and_offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    MODULE._of_split.cache_clear()
    for split, names in SPLITS.items():
        found = photographs(split)
        assert [one.name for one in found] == names
        assert photographs(split) is found
        for one in found:
            assert one.name in photographs.__doc__
            assert one.image.dtype == np.float32 and one.image.ndim == 2 and one.image.flags.c_contiguous
            assert 0 <= one.image.min() < 0.3 and 0.7 < one.image.max() <= 1
            assert one.source and one.license and one.unit == "1" and one.spacing is None
            with pytest.raises(ValueError, match="read-only"):
                one.image[0, 0] = 0


def test_no_two_photographs_are_alike():
    """The largest correlation of two of them, on 64² area averages, is far from 1 (that of the same scene)."""
    from PIL import Image

    images = [one for split in SPLITS for one in photographs(split)]
    small = [np.asarray(Image.fromarray(one.image).resize((64, 64), Image.Resampling.BOX)).ravel() for one in images]
    correlation = np.abs(np.corrcoef(small)) - np.eye(len(small))
    assert correlation.max() < 0.7
    motorcycle = next(k for k, one in enumerate(images) if one.name == "motorcycle")
    right = Image.open(pathlib.Path(importlib.import_module("skimage").__file__).parent / "data" / "motorcycle_right.png").convert("L")
    other = np.asarray(right.resize((64, 64), Image.Resampling.BOX)).ravel()
    assert np.corrcoef(small[motorcycle], other)[0, 1] > correlation.max()  # the measure does find the second view of a scene


def test_luminance_is_that_of_pillow_and_grey_images_are_as_stored():
    from PIL import Image
    from sklearn.datasets import load_sample_image

    loaded = {one.name: one.image for split in SPLITS for one in photographs(split)}
    data = importlib.import_module("skimage.data")
    colour = {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "hubble": data.hubble_deep_field(),
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    for name, rgb in colour.items():
        reference = np.asarray(Image.fromarray(rgb).convert("L")) / 255  # ITU-R 601, rounded to 8 bits
        assert np.abs(loaded[name] - reference).max() < 1.1 / 255, name
        assert abs(float((loaded[name] - reference).mean())) < 0.6 / 255, name
    for name in ("camera", "coins", "brick", "moon"):
        np.testing.assert_array_equal(loaded[name], (getattr(data, name)() / 255.0).astype(np.float32))


def test_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        photographs("valid")
    entry = MODULE._PHOTOGRAPHS["moon"]
    with pytest.raises(ImportError, match=r"does not carry data/nothing\.png"):
        MODULE._load("moon", entry._replace(file="data/nothing.png"))
    monkeypatch.setitem(MODULE._DISTRIBUTION, "no_such_package", "no-such-package")
    with pytest.raises(ImportError, match=r'no-such-package, which is not installed.*pip install "diffimg-jax\[demo\]"'):
        MODULE._load("moon", entry._replace(module="no_such_package"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode(tmp_path, mode):
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, (7, 9)).astype(np.uint8)
    if mode == "I;16":
        picture, expected = Image.fromarray(grey.astype(np.uint16) * 257), grey / 255
    elif mode == "1":
        picture, expected = Image.fromarray(grey > 99), (grey > 99).astype(float)
    else:
        picture, expected = Image.fromarray(grey).convert(mode), grey / 255
    file = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    picture.save(file)
    np.testing.assert_allclose(MODULE.read_picture(file), expected, atol=1e-6)


def test_pictures_that_are_none(tmp_path):
    from PIL import Image

    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png \(UnidentifiedImageError"):
        MODULE.read_picture(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.png"):
        MODULE.read_picture(tmp_path / "cut.png")
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (0, 99)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="2 frames"):
        MODULE.read_picture(tmp_path / "film.gif")
