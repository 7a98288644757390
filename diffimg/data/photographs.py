"""Grey photographs out of installed packages, split by image, to train and test image priors on; nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffimg.core import check
from diffimg.data.extras import optional
from diffimg.data.samples import _EXTRA, Sample, _frozen

SPLITS = ("train", "validation", "test")
LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601
_DISTRIBUTION = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


class _Entry(NamedTuple):
    split: str
    module: str
    file: str
    shows: str
    license: str


_PUBLIC, _CC0 = "public domain", "CC0"
_PHOTOGRAPHS = {
    "astronaut": _Entry("train", "skimage", "data/astronaut.png", "Eileen Collins, NASA, 512²", _PUBLIC),
    "brick": _Entry("train", "skimage", "data/brick.png", "a brick wall, 512²", f"{_CC0} (cc0textures.com)"),
    "china": _Entry(
        "train", "sklearn", "datasets/images/china.jpg", "the Summer Palace, 427 × 640, JPEG", "CC BY 2.0 (danielbuechele, flickr)"
    ),
    "coins": _Entry("train", "skimage", "data/coins.png", "Greek coins, 303 × 384", "no known copyright restrictions (Brooklyn Museum)"),
    "grass": _Entry("train", "skimage", "data/grass.png", "grass, 512²", f"{_CC0} (linolafett, DeviantArt)"),
    "gravel": _Entry("train", "skimage", "data/gravel.png", "gravel, 512²", f"{_CC0} (cc0textures.com)"),
    "hubble": _Entry("train", "skimage", "data/hubble_deep_field.jpg", "galaxies, 872 × 1000, JPEG", f"{_PUBLIC} (NASA)"),
    "moon": _Entry("train", "skimage", "data/moon.png", "the surface of the moon, 512²", "distributed with scikit-image (BSD-3-Clause)"),
    "grace_hopper": _Entry(
        "validation", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "Grace Hopper, 600 × 512, JPEG", f"{_PUBLIC} (U.S. Navy)"
    ),
    "rocket": _Entry("validation", "skimage", "data/rocket.jpg", "a rocket on its pad, 427 × 640, JPEG", f"{_PUBLIC} (SpaceX)"),
    "camera": _Entry("test", "skimage", "data/camera.png", "a man with a camera, 512²", f"{_CC0} (Lav Varshney)"),
    "chelsea": _Entry("test", "skimage", "data/chelsea.png", "a cat, 300 × 451", f"{_CC0} (Stefan van der Walt)"),
    "coffee": _Entry("test", "skimage", "data/coffee.png", "a cup of coffee, 400 × 600", f"{_CC0} (Rachel Michetti)"),
    "flower": _Entry("test", "sklearn", "datasets/images/flower.jpg", "a dahlia, 427 × 640, JPEG", "CC BY 2.0 (vultilion, flickr)"),
    "motorcycle": _Entry(
        "test", "skimage", "data/motorcycle_left.png", "a motorcycle, 500 × 741", "for research (Scharstein et al., GCPR 2014, Middlebury)"
    ),
}


def photographs(split: str) -> tuple[Sample, ...]:
    """The photographs of one split, sorted by name: luminance 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), white = 1.

    The split is by image, and no scene is in two of them:

    - train: astronaut, brick, china, coins, grass, gravel, hubble, moon
    - validation: grace_hopper, rocket
    - test: camera, chelsea, coffee, flower, motorcycle (the left view of a stereo pair; the right one is in no split)

    Left out are scanned text (``page``, ``text``), computed images and the medical ones, so that these stay unseen. Few as they are, the
    images are no benchmark of their own: compare methods on the same split, and on BSD68 (:func:`bsd68`) where you have it. china, flower,
    grace_hopper, hubble and rocket come out of JPEG files with their compression.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Returns:
        Records with ``name``, ``image`` (float32 ``[y, x]`` in [0, 1], read-only, cached), ``source`` and ``license``; ``spacing`` is None.

    Raises:
        ValueError: an unknown split.
        ImportError: scikit-image, scikit-learn or matplotlib is not installed, or carries no such file.
    """
    check.one_of("split", split, SPLITS)
    return _of_split(split)


@functools.cache
def _of_split(split: str) -> tuple[Sample, ...]:
    return tuple(_load(name, entry) for name, entry in sorted(_PHOTOGRAPHS.items()) if entry.split == split)


def _load(name: str, entry: _Entry) -> Sample:
    # the file itself, for the packages' own loaders download what they miss
    package = _DISTRIBUTION[entry.module]
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"The photograph {name!r} is part of {package}, which is not installed. Install it: {_EXTRA}")
    file = Path(spec.submodule_search_locations[0]) / entry.file
    if not file.is_file():
        remedy = f"Install the wheel from PyPI: pip install --force-reinstall {package}"
        raise ImportError(f"The installed {package} does not carry {entry.file}, the photograph {name!r}. {remedy}")
    source = f"{package}, {entry.file}: {entry.shows}"
    return Sample(name, _frozen(read_picture(file)), None, "1", source, entry.license)


def read_picture(path: str | Path) -> np.ndarray:
    """A picture file (PNG, JPEG, …) as luminance, float32 ``[y, x]`` with white = 1; transparency is ignored.

    Raises:
        ValueError: not a picture, damaged, or of several frames.
        ImportError: Pillow is not installed.
    """
    file = Path(path)
    Image = optional("PIL.Image", "Reading pictures")
    try:
        with Image.open(file) as picture:
            frames, mode = getattr(picture, "n_frames", 1), picture.mode
            if mode not in ("1", "L", "I", "F", "RGB") and not mode.startswith("I;16"):
                picture = picture.convert("L" if mode == "LA" else "RGB")
            values = np.asarray(picture)
    except Exception as error:  # decoders raise many kinds
        check.fail("path", "a picture", f"{file.name} ({type(error).__name__} while reading it)", "It is damaged or of another format.")
    if frames > 1:
        check.fail("path", "one picture", f"{file.name} with {frames} frames", "Save its frames one by one.")
    if values.dtype == np.bool_ or values.dtype.kind == "f":
        white = 1.0
    else:
        white = 255.0 if values.dtype == np.uint8 else 65535.0
    if values.ndim == 3:
        values = values @ np.asarray(LUMINANCE)
    return (values / white).astype(np.float32)
