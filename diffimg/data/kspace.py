"""Measured k-space and what a scanner says about it."""

from __future__ import annotations

import dataclasses
from typing import Any
from xml.etree import ElementTree

import numpy as np

from diffimg.core import check

NAMESPACE = "http://www.ismrm.org/ISMRMRD"


@dataclasses.dataclass(frozen=True)
class ScanHeader:
    """Parameters of a scan in SI units and radians; None where the file does not say.

    Attributes:
        matrix, fov: of the encoded k-space, (x, y, z), fov in m. recon_matrix, recon_fov: of the image.
        trajectory: "cartesian", "radial", "spiral", "epi", "goldenangle" or "other".
        centre: index of the phase-encoding step through the centre, (y, z).
        tr, te, ti: s, one for each contrast. flip: rad. field: T. frequency: Hz, of protons.
        xml: the header as it stands in the file.
    """

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]
    recon_matrix: tuple[int, int, int]
    recon_fov: tuple[float, float, float]
    trajectory: str = "cartesian"
    centre: tuple[int | None, int | None] = (None, None)
    tr: tuple[float, ...] = ()
    te: tuple[float, ...] = ()
    ti: tuple[float, ...] = ()
    flip: tuple[float, ...] = ()
    field: float | None = None
    frequency: float | None = None
    xml: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class KSpace:
    """What was measured.

    Attributes:
        data: complex64; Cartesian ``[*axes, coil, (kz,) ky, kx]``, zero where not measured; else ``[*axes, coil, readout, sample]``.
        axes: names of the leading axes, e.g. ("slice",).
        mask: ``[*axes, (kz,) ky]`` bool, the phase-encoding steps that were measured, or None for other trajectories.
        trajectory: ``[readout, sample, axis]`` rad/voxel, axes (y, x) or (z, y, x), or None for Cartesian data.
        noise: ``[coil, sample]`` of a noise scan, for ``mri.noise_covariance``, or None.
        reference: the image that the file brings along, ``[*axes, y, x]``, or None.
        header: what the scanner says, or None. attributes: further values of the file.
    """

    data: np.ndarray = dataclasses.field(repr=False)
    axes: tuple[str, ...] = ()
    mask: np.ndarray | None = dataclasses.field(default=None, repr=False)
    trajectory: np.ndarray | None = dataclasses.field(default=None, repr=False)
    noise: np.ndarray | None = dataclasses.field(default=None, repr=False)
    reference: np.ndarray | None = dataclasses.field(default=None, repr=False)
    header: ScanHeader | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def parse_header(xml: str | bytes) -> ScanHeader:
    """An ISMRMRD header.

    Raises:
        ValueError: not XML, with document types or entities, or without an encoding.
    """
    text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        check.fail("header", "plain XML", "a document type or entities", "Such declarations are refused: they can expand without bound.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        check.fail("header", "an ISMRMRD header (XML)", f"text that is none ({error})", "The file is damaged or of another format.")
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encoding = root.find("encoding")
    if encoding is None:
        check.fail("header", "an ISMRMRD header with an encoding", f"<{root.tag}> without one")

    def space(name):
        values = []
        for part, kind in (("matrixSize", int), ("fieldOfView_mm", float)):
            found = [encoding.findtext(f"{name}/{part}/{axis}") for axis in "xyz"]
            if None in found:
                check.fail("header", f"{name}/{part} with x, y and z", "none")
            values.append(tuple(kind(float(v)) for v in found if v is not None))
        return values[0], tuple(v * 1e-3 for v in values[1])

    def many(name, factor):
        return tuple(float(e.text) * factor for e in root.findall(f"sequenceParameters/{name}") if e.text)

    def one(name, kind=float):
        value = root.findtext(name)
        return None if value is None else kind(float(value))

    matrix, fov = space("encodedSpace")
    recon_matrix, recon_fov = space("reconSpace")
    limits = [encoding.findtext(f"encodingLimits/kspace_encoding_step_{i}/center") for i in (1, 2)]
    return ScanHeader(
        matrix, fov, recon_matrix, recon_fov,
        encoding.findtext("trajectory") or "cartesian",
        tuple(None if v is None else int(v) for v in limits),  # type: ignore[arg-type]
        many("TR", 1e-3), many("TE", 1e-3), many("TI", 1e-3), many("flipAngle_deg", np.pi / 180),
        one("acquisitionSystemInformation/systemFieldStrength_T"), one("experimentalConditions/H1resonanceFrequency_Hz"),
        text,
    )  # fmt: skip


def write_header(header: ScanHeader, coils: int) -> str:
    """The header as ISMRMRD's XML."""
    root = ElementTree.Element("ismrmrdHeader", xmlns=NAMESPACE)

    def add(parent, name, value):
        ElementTree.SubElement(parent, name).text = str(value)

    system = ElementTree.SubElement(root, "acquisitionSystemInformation")
    if header.field is not None:
        add(system, "systemFieldStrength_T", header.field)
    add(system, "receiverChannels", coils)
    conditions = ElementTree.SubElement(root, "experimentalConditions")
    frequency = header.frequency if header.frequency is not None else 42.577478518e6 * (header.field or 0.0)
    add(conditions, "H1resonanceFrequency_Hz", round(frequency))
    encoding = ElementTree.SubElement(root, "encoding")
    for name, matrix, fov in (
        ("encodedSpace", header.matrix, header.fov), ("reconSpace", header.recon_matrix, header.recon_fov)
    ):  # fmt: skip
        space = ElementTree.SubElement(encoding, name)
        for part, values in (("matrixSize", matrix), ("fieldOfView_mm", [f * 1e3 for f in fov])):
            element = ElementTree.SubElement(space, part)
            for axis, value in zip("xyz", values, strict=True):
                add(element, axis, value)
    limits = ElementTree.SubElement(encoding, "encodingLimits")
    for i in (1, 2):
        n, centre = header.matrix[i], header.centre[i - 1]
        step = ElementTree.SubElement(limits, f"kspace_encoding_step_{i}")
        for name, value in (("minimum", 0), ("maximum", n - 1), ("center", n // 2 if centre is None else centre)):
            add(step, name, value)
    add(encoding, "trajectory", header.trajectory)
    if header.tr or header.te or header.ti or header.flip:
        sequence = ElementTree.SubElement(root, "sequenceParameters")
        times = (("TR", header.tr, 1e3), ("TE", header.te, 1e3), ("TI", header.ti, 1e3))
        for name, values, factor in (*times, ("flipAngle_deg", header.flip, 180 / np.pi)):
            for value in values:
                add(sequence, name, value * factor)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def centred(k: np.ndarray, axes: tuple[int, ...], inverse: bool) -> np.ndarray:
    """The centred orthonormal FFT on the host, for readers."""
    transform = np.fft.ifftn if inverse else np.fft.fftn
    return np.fft.fftshift(transform(np.fft.ifftshift(k, axes=axes), axes=axes, norm="ortho"), axes=axes)
