"""Real images out of installed packages; nothing is downloaded.

The packages (pydicom, Pillow, nilearn, scikit-image) are imported on use and come with ``pip install "diffimg-jax[demo]"``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from diffimg.core import check

# Linear attenuation of water at 70 keV, about the effective energy of 120 kVp, in 1/mm: J. H. Hubbell, S. M. Seltzer, NIST
# Standard Reference Database 126 (μ/ρ = 0.2059 and 0.1837 cm²/g at 60 and 80 keV, log-log interpolated, rounded).
MU_WATER = 0.0193

_EXTRA = 'pip install "diffimg-jax[demo]"'


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A real image and what is known of it.

    Attributes:
        image: float32, ``[y, x]``, ``[z, y, x]`` or, in colour, ``[y, x, channel]``; rows run from anterior to posterior and
            columns from the patient's right to left where the image is anatomical (DICOM's LPS), slices upwards.
        spacing: mm between the samples of each spatial axis, or None where it is not known.
        unit: "HU", "1/mm" or "1" (arbitrary intensity).
        source: package, file and what it shows.
        license: the terms it comes under.
    """

    name: str
    image: np.ndarray = dataclasses.field(repr=False)
    spacing: tuple[float, ...] | None
    unit: str
    source: str
    license: str


@dataclasses.dataclass(frozen=True, eq=False)
class CTSlice:
    """A slice for simulated CT without the inverse crime: measured on ``fine``, reconstructed and judged on ``truth``'s grid.

    Attributes:
        fine: ``[factor·n, factor·n]``, 1/mm, zero outside the inscribed circle; the grid to simulate on.
        fine_pixel_size: mm.
        truth: ``[n, n]``, 1/mm: the average of ``fine`` over factor × factor pixels.
        pixel_size: mm.
        sample: where it comes from.
    """

    fine: np.ndarray = dataclasses.field(repr=False)
    fine_pixel_size: float
    truth: np.ndarray = dataclasses.field(repr=False)
    pixel_size: float
    sample: Sample


def names() -> tuple[str, ...]:
    """The names that :func:`sample` knows."""
    return tuple(_LOADERS)


def sample(name: str, unit: str | None = None) -> Sample:
    """A real image by name; see :func:`names`.

    Args:
        name: ``"ct_head"`` (512², 0.43 mm, the whole head in the field of view), ``"ct_head_vertex"`` (512², 0.48 mm, another
            head, lossy: a second object to tune on), ``"ct_small"`` (128² interior view of a spine), ``"mr_abdomen"``,
            ``"mr_small"``, ``"mni152_t1"``, ``"mni152_gm"``, ``"mni152_wm"`` (volumes of 1 mm; one subject averaged from 152: split
            by slab), ``"camera"``, ``"cell"``, ``"coins"``, ``"ihc"``, ``"retina"``.
        unit: ``"1/mm"`` turns a CT image from HU into linear attenuation, μ = max(0, 0.0193·(1 + HU/1000)); air is 0.

    Raises:
        ValueError: an unknown name or unit.
        ImportError: the package that holds the image is not installed.
    """
    check.one_of("name", name, _LOADERS)
    loaded = _LOADERS[name](name)
    if unit is None or unit == loaded.unit:
        return loaded
    if loaded.unit != "HU":
        check.fail("unit", f"None or {loaded.unit!r} for {name!r}", repr(unit), "Only CT images have another unit.")
    check.one_of("unit", unit, ("HU", "1/mm"))
    return dataclasses.replace(loaded, image=_frozen(_attenuation(loaded.image)), unit="1/mm")


def slice_for_ct(name: str | Sample = "ct_head", n: int | None = None, factor: int = 2) -> CTSlice:
    """A square, centred slice with attenuation values inside the inscribed circle, on two grids.

    ``"ct_head"`` is the best of them: a whole clinical head slice on 512², to be reconstructed on 256².

    Args:
        name: a two-dimensional grey sample, by name or loaded, or ``"mni152_t1"`` (its middle slice). Images that are not CT are
            scaled so that their largest value is that of water, 0.0193/mm.
        n: side of the reconstruction grid; ``None``: the largest that the native grid carries. Smaller ones cover the same
            field of view by exact area averages.
        factor: fine pixels along one side of a reconstruction pixel; at least 2 avoids the inverse crime.
    """
    factor = check.positive_int("factor", factor)
    chosen = name if isinstance(name, Sample) else sample(name)
    image = chosen.image[chosen.image.shape[0] // 2] if chosen.name.startswith("mni152") else chosen.image
    if image.ndim != 2:
        check.fail("name", "a grey image", f"{chosen.name!r} of shape {image.shape}", "Take 'ct_head'.")
    match chosen.unit:
        case "HU":
            mu = _attenuation(image)
        case "1/mm":
            mu = np.maximum(0, image)
        case _:
            mu = MU_WATER * image / image.max()
    native = -(-max(image.shape) // factor) * factor  # padded with air to a multiple of the factor
    size = native // factor if n is None else check.positive_int("n", n)
    if size * factor > native:
        check.fail("n", f"at most {native // factor} ({native} native pixels, factor {factor})", str(n), "Choose a smaller n or factor.")
    side = size * factor
    native_pixel = (chosen.spacing or (1.0, 1.0))[-1]
    square = _centered(mu.astype(np.float64), native)
    weights = _overlaps(native, side)
    fine = weights @ square @ weights.T
    ramp = np.arange(side) - (side - 1) / 2
    fine[np.hypot(ramp[:, None], ramp[None, :]) > side / 2 - 1] = 0
    truth = fine.reshape(size, factor, size, factor).mean((1, 3))
    pixel = native_pixel * native / side
    return CTSlice(fine.astype(np.float32), pixel, truth.astype(np.float32), pixel * factor, chosen)


def _attenuation(hu: np.ndarray) -> np.ndarray:
    return np.maximum(0, MU_WATER * (1 + hu / 1000))


def _centered(image: np.ndarray, side: int) -> np.ndarray:
    """The image cropped or zero-padded about its centre to a square."""
    for axis, length in enumerate(image.shape):
        if length > side:
            start = (length - side) // 2
            image = np.take(image, np.arange(start, start + side), axis)
        elif length < side:
            before = (side - length) // 2
            image = np.pad(image, [(before, side - length - before) if k == axis else (0, 0) for k in range(2)])
    return image


def _overlaps(native: int, side: int) -> np.ndarray:
    """``[side, native]``: the share of each native cell in each of ``side`` equal cells of the same interval."""
    edges = np.arange(side + 1) * (native / side)
    low, high = np.maximum(edges[:-1, None], np.arange(native)), np.minimum(edges[1:, None], np.arange(1, native + 1))
    return np.maximum(0, high - low) * (side / native)


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This sample is part of {package}, which is not installed. Install it: {_EXTRA}") from error


@functools.cache
def _dicom(file: str, shows: str, name: str) -> Sample:
    pydicom = _package("pydicom", "pydicom")
    path = _package("pydicom.data", "pydicom").get_testdata_file(file, download=False)
    if path is None:
        raise ImportError(f"This pydicom ({pydicom.__version__}) does not carry {file}. Install a tested one: {_EXTRA}")
    dataset = pydicom.dcmread(path)
    try:
        pixels = dataset.pixel_array
    except RuntimeError as error:  # compressed, and no decoder among the installed packages
        raise ImportError(f"{file} cannot be decoded here: Pillow with JPEG 2000 is needed. Install it: {_EXTRA}") from error
    image = pixels * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    if dataset.Modality == "CT":
        image = np.maximum(image, -1000)  # outside the scanner's circle the file holds a padding value
    return Sample(
        name,
        _frozen(image),
        tuple(float(v) for v in dataset.PixelSpacing),
        "HU" if dataset.Modality == "CT" else "1",
        f"pydicom test file {file}: {shows}",
        "MIT (pydicom); its README knows of no restriction on the use of the test files",
    )


@functools.cache
def _mni(loader: str, shows: str, name: str) -> Sample:
    datasets = _package("nilearn.datasets", "nilearn")
    volume = np.asarray(getattr(datasets, loader)(resolution=1).dataobj, np.float32)  # [x, y, z], towards right, front, top
    return Sample(
        name,
        _frozen(volume.transpose(2, 1, 0)[:, ::-1, ::-1]),
        (1.0, 1.0, 1.0),
        "1",
        f"nilearn {loader}: {shows}, ICBM 152 nonlinear symmetric template 2009a (Fonov et al., NeuroImage 54, 2011), an average subject",
        "© 1993–2009 Louis Collins, McConnell Brain Imaging Centre, McGill University: copy, modify and distribute with this notice",
    )


@functools.cache
def _skimage(loader: str, shows: str, terms: str, name: str) -> Sample:
    image = getattr(_package("skimage.data", "scikit-image"), loader)()
    return Sample(name, _frozen(image / 255.0), None, "1", f"scikit-image data.{loader}: {shows}", terms)


def _frozen(image: np.ndarray) -> np.ndarray:
    """float32, contiguous and read-only, for the samples are cached."""
    image = np.ascontiguousarray(image, np.float32)
    image.flags.writeable = False
    return image


_LOADERS: dict[str, Callable[[str], Sample]] = {
    "ct_head": functools.partial(
        _dicom, "J2K_pixelrep_mismatch.dcm", "axial CT of a head at the skull base, 120 kVp, 5 mm thick, lossless"
    ),
    "ct_head_vertex": functools.partial(
        _dicom, "693_J2KI.dcm", "axial CT of another head, near the vertex, 140 kVp, 5 mm thick, lossy compression"
    ),
    "ct_small": functools.partial(_dicom, "CT_small.dcm", "axial CT of a spine, 120 kVp, an interior view cut from a larger image"),
    "mr_abdomen": functools.partial(_dicom, "examples_overlay.dcm", "axial MR of an abdomen, cropped"),
    "mr_small": functools.partial(_dicom, "MR_small.dcm", "MR detail, cut from a larger image"),
    "mni152_t1": functools.partial(_mni, "load_mni152_template", "T1-weighted brain"),
    "mni152_gm": functools.partial(_mni, "load_mni152_gm_template", "grey matter probability"),
    "mni152_wm": functools.partial(_mni, "load_mni152_wm_template", "white matter probability"),
    "camera": functools.partial(_skimage, "camera", "a man with a camera, 512²", "CC0 (Lav Varshney)"),
    "cell": functools.partial(
        _skimage, "cell", "a cell floating in saline, quantitative phase, 0.107 µm a pixel", "CC0 (Müller et al., Optics Express 26, 2018)"
    ),
    "coins": functools.partial(_skimage, "coins", "Greek coins from Pompeii", "no known copyright restrictions (Brooklyn Museum)"),
    "ihc": functools.partial(
        _skimage, "immunohistochemistry", "stained colonic glands, 512², RGB", "no known copyright restrictions (CMMI)"
    ),
    "retina": functools.partial(_skimage, "retina", "a human retina, 1411², RGB", "CC0 (Häggström, WikiJournal of Medicine 1, 2014)"),
}
