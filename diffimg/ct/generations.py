"""The seven generations of CT scanners: the geometry of each, and the moment at which every sample is taken.

The times follow from what moves: with them a moving object can be simulated as a scanner of that generation sees it. History and
table of properties: J. T. Bushberg et al., The Essential Physics of Medical Imaging; J. Hsieh, Computed Tomography.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree, static
from diffimg.forward.cone_beam import ConeBeam, Helical
from diffimg.forward.fan_beam import FanBeam
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.scan_fields import centred, length
from diffimg.forward.scan_fields import image_shape as checked_shape


@dataclasses.dataclass(frozen=True)
class Description:
    """How a generation is built, and what that brings."""

    generation: int
    source: str
    source_collimation: str
    detector: str
    detector_collimation: str
    movement: str
    advantages: str
    disadvantages: str


@pytree
class Acquisition:
    """A scan: its rays, and when each is measured.

    Args:
        geometry: the rays of all samples.
        times: of ``geometry.sinogram_shape``, in [0, 1): when each sample is taken, in units of the whole scan.
        description: the generation in words.
    """

    geometry: Any
    times: Any
    description: Description = static()


def first_generation(
    image_shape: tuple[int, int],
    views: int = 180,
    detector_count: int | None = None,
    pixel_size: float = 1.0,
    detector_spacing: float | None = None,
) -> Acquisition:
    """1G: a pencil beam is moved across the object sample by sample, then the gantry turns by π/views, and it is moved back.

    Args:
        detector_count: samples of one translation; enough for the image's diagonal by default.
        detector_spacing: distance of the samples, mm; the pixel size by default.
    """
    geometry = _parallel(image_shape, views, detector_count, pixel_size, detector_spacing)
    n = geometry.detector_count
    forth = np.arange(n) / n
    step = np.where(np.arange(views)[:, None] % 2 == 0, forth, forth[::-1])
    return Acquisition(geometry, (np.arange(views)[:, None] + step) / views, DESCRIPTIONS[1])


def second_generation(
    image_shape: tuple[int, int],
    views: int = 180,
    beams: int = 10,
    source_distance: float | None = None,
    detector_count: int | None = None,
    pixel_size: float = 1.0,
    detector_spacing: float | None = None,
) -> Acquisition:
    """2G: a narrow fan of pencil beams, π/views apart, is moved across: ``beams`` parallel views a translation, fewer turns.

    The beams are inclined, so they reach the same line at different times of the translation.

    Args:
        views: parallel views in half a turn, a multiple of ``beams``.
        source_distance: from the source's track to the axis, mm; the image's diagonal by default.
    """
    geometry = _parallel(image_shape, views, detector_count, pixel_size, detector_spacing)
    if views % check.positive_int("beams", beams):
        check.fail("beams", f"a divisor of the {views} views", str(beams), "Every translation measures that many views.")
    distance = geometry.diagonal if source_distance is None else length("source_distance", source_distance)
    if distance <= geometry.diagonal / 2:
        check.fail("source_distance", f"more than half the image's diagonal, {geometry.diagonal / 2:g} mm", f"{distance:g} mm")
    gamma = -centred(beams) * math.pi / views  # θ = β − γ: view k·beams + i belongs to beam i of translation k
    if np.max(np.abs(gamma)) >= math.pi / 4:
        check.fail("beams", "a fan of less than 90°", f"{math.degrees(beams * math.pi / views):.4g}°", "Use fewer beams or more views.")
    # the source's place on its track when beam i sees l
    track = (geometry.detector_positions - distance * np.sin(gamma)[:, None]) / np.cos(gamma)[:, None]
    low, high = track.min(), track.max()
    forth = (track - low) / (high - low) * (1 - 1 / track.size) if track.size > 1 else np.zeros_like(track)
    translations = views // beams
    step = np.where(np.arange(translations)[:, None, None] % 2 == 0, forth, (1 - 1 / track.size) - forth)
    times = (np.arange(translations)[:, None, None] + step) / translations
    return Acquisition(geometry, times.reshape(geometry.sinogram_shape), DESCRIPTIONS[2])


def third_generation(
    image_shape: tuple[int, int],
    views: int = 720,
    detector_count: int | None = None,
    source_distance: float | None = None,
    detector_distance: float | None = None,
    pixel_size: float = 1.0,
    detector_spacing: float | None = None,
    curved: bool = True,
    **others: Any,
) -> Acquisition:
    """3G: a fan that covers the object, and its detector, turn continuously about it; all cells are read at once.

    Args:
        source_distance, detector_distance: mm; by default 1.5 and 1 diagonals of the image.
        detector_count, detector_spacing: by default as many cells as cover the diagonal, a pixel wide at the axis.
        others: for ``FanBeam``, e.g. ``detector_offset``.
    """
    views = check.positive_int("views", views)
    scan = _gantry(image_shape, detector_count, source_distance, detector_distance, pixel_size, detector_spacing, curved)
    geometry = FanBeam(image_shape, 2 * math.pi / views * np.arange(views), pixel_size=pixel_size, curved=curved, **scan, **others)
    return Acquisition(geometry, _view_by_view(geometry), DESCRIPTIONS[3])


def fourth_generation(
    image_shape: tuple[int, int],
    detectors: int = 720,
    samples: int | None = None,
    ring_radius: float | None = None,
    source_radius: float | None = None,
    pixel_size: float = 1.0,
) -> Acquisition:
    """4G: only the source turns, inside a stationary ring of detectors; each detector collects a fan while the source passes.

    The fans' vertices are the detectors: a view of the returned ``FanBeam`` is a detector of the ring, a "cell" a direction in which it
    looks at the source. Detectors are read when the source crosses equally spaced directions.

    Args:
        detectors: number of detectors on the ring.
        samples: directions of each detector's fan; about one a pixel at the axis by default.
        ring_radius: mm; 1.5 diagonals of the image by default.
        source_radius: of the source's circle, mm; 1 diagonal by default.
    """
    detectors = check.positive_int("detectors", detectors)
    diagonal = math.hypot(*checked_shape(image_shape)) * length("pixel_size", pixel_size)
    ring = 1.5 * diagonal if ring_radius is None else length("ring_radius", ring_radius)
    track = diagonal if source_radius is None else length("source_radius", source_radius)
    if not diagonal / 2 < min(ring, track):
        check.fail("ring_radius, source_radius", f"more than half the image's diagonal, {diagonal / 2:g} mm", f"{ring:g} and {track:g} mm")
    samples = math.ceil(diagonal / pixel_size) + 1 if samples is None else check.positive_int("samples", samples)
    half = math.asin(diagonal / 2 / ring) * (1 + 1e-5)
    spacing = 2 * half / samples * (ring + track)
    vertices = 2 * math.pi / detectors * np.arange(detectors)
    geometry = FanBeam(image_shape, vertices, samples, ring, track, pixel_size, spacing, curved=True)
    gamma = centred(samples) * (2 * half / samples)
    along = ring * np.cos(gamma) + np.sqrt(track**2 - (ring * np.sin(gamma)) ** 2)  # to the source, across the object
    seen = np.arctan2(along * np.sin(gamma), along * np.cos(gamma) - ring)
    beta = vertices[:, None] - seen - math.pi  # of the source in the sense of a third-generation view
    return Acquisition(geometry, np.mod(beta / (2 * math.pi), 1.0) % 1.0, DESCRIPTIONS[4])


def fifth_generation(
    image_shape: tuple[int, int],
    anodes: int = 420,
    ring_detectors: int = 1440,
    ring_radius: float | None = None,
    arc: float = math.radians(210),
    pixel_size: float = 1.0,
) -> Acquisition:
    """5G, electron beam: the focal spot is swept electronically along tungsten anodes on an arc; detectors and patient rest.

    Anodes and detectors stand on one ring here (in scanners they are offset along z so as not to shade each other). Then equal steps on
    the ring are equal fan angles, half as large, from every anode, and a curved ``FanBeam`` holds the rays exactly.

    Args:
        anodes: positions of the focal spot on the arc.
        ring_detectors: detectors on the full ring; the anodes stand a whole number of their steps apart.
        ring_radius: mm; 2.5 diagonals of the image by default.
        arc: extent of the anodes, radians; at least π + the fan angle, so that every line is measured.
    """
    anodes, ring_detectors = check.positive_int("anodes", anodes), check.positive_int("ring_detectors", ring_detectors)
    diagonal = math.hypot(*checked_shape(image_shape)) * length("pixel_size", pixel_size)
    ring = 2.5 * diagonal if ring_radius is None else length("ring_radius", ring_radius)
    if ring <= diagonal / 2:
        check.fail("ring_radius", f"more than half the image's diagonal, {diagonal / 2:g} mm", f"{ring:g} mm")
    step = 2 * math.pi / ring_detectors
    check.minimum("arc", arc, 0.0, strict=True, remedy="It is in radians.")
    stride = round(arc / anodes / step)
    if stride < 1:
        check.fail(
            "anodes", f"at most one a detector, {int(arc / step)} on the arc", str(anodes), "Use more ring_detectors or fewer anodes."
        )
    half = math.ceil(math.asin(diagonal / 2 / ring) / (step / 2))
    if (anodes - 1) * stride * step < math.pi + (2 * half + 1) * step / 2:
        expected = f"at least π + the fan angle, {math.pi + (2 * half + 1) * step / 2:.4g} rad"
        check.fail("arc", expected, f"{(anodes - 1) * stride * step:.4g} rad in whole detector steps", "Use a larger arc or ring_radius.")
    angles = (np.arange(anodes) * stride) * step
    geometry = FanBeam(image_shape, angles, 2 * half + 1, ring, ring, pixel_size, step * ring, curved=True)
    return Acquisition(geometry, _view_by_view(geometry), DESCRIPTIONS[5])


def sixth_generation(
    image_shape: tuple[int, int, int],
    views_per_turn: int = 720,
    pitch: float = 1.0,
    detector_shape: tuple[int, int] | None = None,
    source_distance: float | None = None,
    detector_distance: float | None = None,
    pixel_size: float = 1.0,
    slice_thickness: float | None = None,
    turns: float | None = None,
    **others: Any,
) -> Acquisition:
    """6G, helical: source and detector turn while the table moves; one or several rows.

    Args:
        pitch: table feed in a turn over the beam's width at the axis.
        detector_shape: ``(rows, columns)``; by default one row, and columns that cover the slices' diagonal.
        turns: by default the volume's height, and half a turn more at either end.
        others: for ``Helical.from_pitch``, e.g. ``detector_spacing``.
    """
    thickness = pixel_size if slice_thickness is None else slice_thickness
    spacing = others.pop("detector_spacing", None)
    scan = _panel(image_shape, detector_shape, source_distance, detector_distance, pixel_size, thickness, spacing, 1)
    if turns is None:
        magnification = 1 + scan["detector_distance"] / scan["source_distance"]
        feed = abs(pitch) * scan["detector_shape"][0] * scan["detector_spacing"][0] / magnification
        turns = image_shape[0] * thickness / feed + 1 if feed > 0 else 1.0
    geometry = Helical.from_pitch(
        image_shape, turns, views_per_turn, pitch, pixel_size=pixel_size, slice_thickness=thickness, **scan, **others
    )
    return Acquisition(geometry, _view_by_view(geometry), DESCRIPTIONS[6])


def seventh_generation(
    image_shape: tuple[int, int, int],
    views: int = 720,
    detector_shape: tuple[int, int] | None = None,
    source_distance: float | None = None,
    detector_distance: float | None = None,
    pixel_size: float = 1.0,
    slice_thickness: float | None = None,
    **others: Any,
) -> Acquisition:
    """7G, multiple rows: a cone beam onto many rows of cells, turning about the volume; all rows are read at once.

    Args:
        detector_shape: ``(rows, columns)``; by default as many as cover the whole volume in every view.
        others: for ``ConeBeam``, e.g. ``detector_spacing``.
    """
    views = check.positive_int("views", views)
    thickness = pixel_size if slice_thickness is None else slice_thickness
    spacing = others.pop("detector_spacing", None)
    scan = _panel(image_shape, detector_shape, source_distance, detector_distance, pixel_size, thickness, spacing, None)
    angles = 2 * math.pi / views * np.arange(views)
    geometry = ConeBeam(image_shape, angles, pixel_size=pixel_size, slice_thickness=thickness, **scan, **others)
    return Acquisition(geometry, _view_by_view(geometry), DESCRIPTIONS[7])


GENERATIONS = {
    1: first_generation,
    2: second_generation,
    3: third_generation,
    4: fourth_generation,
    5: fifth_generation,
    6: sixth_generation,
    7: seventh_generation,
}


def _parallel(image_shape, views, detector_count, pixel_size, detector_spacing):
    views = check.positive_int("views", views)
    shape, pixel_size = checked_shape(image_shape), length("pixel_size", pixel_size)
    spacing = pixel_size if detector_spacing is None else length("detector_spacing", detector_spacing)
    count = math.ceil(math.hypot(*shape) * pixel_size / spacing) if detector_count is None else detector_count
    return ParallelBeam(shape, math.pi / views * np.arange(views), count, pixel_size, spacing)


def _gantry(image_shape, detector_count, source_distance, detector_distance, pixel_size, spacing, curved):
    diagonal = math.hypot(*checked_shape(image_shape)) * length("pixel_size", pixel_size)
    source = 1.5 * diagonal if source_distance is None else length("source_distance", source_distance)
    detector = diagonal if detector_distance is None else length("detector_distance", detector_distance)
    if source <= diagonal / 2:
        check.fail("source_distance", f"more than half the image's diagonal, {diagonal / 2:g} mm", f"{source:g} mm")
    spacing = pixel_size * (1 + detector / source) if spacing is None else length("detector_spacing", spacing)
    edge = math.asin(diagonal / 2 / source)
    extent = 2 * (source + detector) * (edge if curved else math.tan(edge))
    count = math.ceil(extent / spacing) if detector_count is None else detector_count
    return {"detector_count": count, "source_distance": source, "detector_distance": detector, "detector_spacing": spacing}


def _panel(shape, detector_shape, source_distance, detector_distance, pixel_size, thickness, spacing, rows):
    shape = checked_shape(shape, ("nz", "ny", "nx"))
    row, column = spacing if isinstance(spacing, (tuple, list)) else (spacing, spacing)
    scan = _gantry(shape[1:], None, source_distance, detector_distance, pixel_size, column, curved=False)
    source, detector = scan["source_distance"], scan["detector_distance"]
    row = thickness * (1 + detector / source) if row is None else length("detector_spacing", row)
    near = source - math.hypot(*shape[1:]) * pixel_size / 2
    rows = math.ceil(shape[0] * thickness * (source + detector) / near / row) if rows is None else rows
    return {
        "detector_shape": (rows, scan["detector_count"]) if detector_shape is None else detector_shape,
        "source_distance": source,
        "detector_distance": detector,
        "detector_spacing": (row, scan["detector_spacing"]),
    }


def _view_by_view(geometry):
    n = geometry.view_count
    return np.broadcast_to((np.arange(n) / n).reshape(n, *(1,) * len(geometry.sinogram_shape[1:])), geometry.sinogram_shape)


DESCRIPTIONS = {
    d.generation: d
    for d in (
        Description(
            1,
            source="one X-ray tube",
            source_collimation="pencil beam",
            detector="one cell",
            detector_collimation="none",
            movement="source and detector translate and rotate in unison",
            advantages="scattered photons miss the detector",
            disadvantages="slow",
        ),
        Description(
            2,
            source="one X-ray tube",
            source_collimation="narrow fan, less than the field of view",
            detector="several cells",
            detector_collimation="towards the source",
            movement="source and detector translate and rotate in unison",
            advantages="faster than the first generation",
            disadvantages="less efficient and noisier, for the collimators in front of the cells",
        ),
        Description(
            3,
            source="one X-ray tube",
            source_collimation="fan that covers the field of view",
            detector="many cells in an arc",
            detector_collimation="towards the source",
            movement="source and detector rotate together",
            advantages="faster than the second generation; slip rings allow continuous rotation",
            disadvantages="more expensive than the second generation; low efficiency",
        ),
        Description(
            4,
            source="one X-ray tube",
            source_collimation="fan that covers the field of view",
            detector="stationary ring of cells",
            detector_collimation="impossible: a cell sees the source from many directions",
            movement="the source rotates, the detectors are fixed",
            advantages="more efficient than the third generation",
            disadvantages="much scatter, for lack of collimation",
        ),
        Description(
            5,
            source="many tungsten anodes in one large tube, hit in turn by an electron beam",
            source_collimation="fan",
            detector="stationary ring of cells",
            detector_collimation="impossible: a cell sees the source from many directions",
            movement="none: only the electron beam moves",
            advantages="extremely fast: stops the motion of the beating heart",
            disadvantages="expensive, difficult to calibrate",
        ),
        Description(
            6,
            source="as in the third or fourth generation",
            source_collimation="as in the third or fourth generation",
            detector="as in the third or fourth generation",
            detector_collimation="as in the third or fourth generation",
            movement="rotation as in the third or fourth generation, and steady motion of the table",
            advantages="fast volumes",
            disadvantages="a little more expensive",
        ),
        Description(
            7,
            source="one X-ray tube",
            source_collimation="cone beam",
            detector="several arrays of cells",
            detector_collimation="towards the source",
            movement="as in the third, fourth or sixth generation",
            advantages="fast volumes",
            disadvantages="expensive",
        ),
    )
}
