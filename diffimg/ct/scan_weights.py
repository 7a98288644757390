"""How often a circular scan of a divergent beam has measured each line, and the weights that make every line count once.

The line (θ, l) is seen from the source at angle β under the fan angle γ, θ = β − γ, and from the other side in view β + π − 2γ under
−γ. A full turn has measured every line twice; a short scan of π + the fan angle some of them; a detector that is shifted to one side
the lines near the axis. Weights are w(β, γ) + w(β + π − 2γ, −γ) = 1, smooth, because the ramp filter follows them.

D. L. Parker, Optimal short scan convolution reconstruction for fanbeam CT, Med. Phys. 9 (1982) 254; M. D. Silver, A method for
including redundant data in computed tomography, Med. Phys. 27 (2000) 773; G. Wang, X-ray micro-CT with a displaced detector array,
Med. Phys. 29 (2002) 1634.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward import scan_fields as fields
from diffimg.forward.divergent import Divergent
from diffimg.forward.poses import Poses, array_module

SCANS = ("auto", "full", "short", "offset")
_OUTLIER = 4  # a gap between views this many times the second largest ends a scan
_ON_CIRCLE = 0.02  # relative deviation of the source's distance from the axis


def parker_weights(beta: Any, gamma: Any, span: Any) -> Any:
    """Parker's short-scan weights, for scans of any length between π + the fan angle and a full turn.

    The fan angle in Parker's formula is that which the scan would just suffice for, span − π (Silver's virtual fan), so that an
    over-scan is used whole and the transitions are as wide as they can be.

    Args:
        beta: source angles from the scan's beginning, radians, in [0, span]; broadcast against ``gamma``.
        gamma: fan angles, radians, in the sense in which θ = β − γ.
        span: length of the scan, radians, in (π, 2π].

    Returns:
        Weights in [0, 1]. They sum to 1 over the two views of a line, and are 1 where the scan holds one of them only.
    """
    xp = array_module(beta, gamma, span)
    half_fan = (span - math.pi) / 2
    rising = beta / xp.maximum(half_fan + gamma, 1e-6)
    falling = (span - beta) / xp.maximum(half_fan - gamma, 1e-6)
    return xp.sin(math.pi / 4 * xp.clip(rising, 0, 2)) ** 2 * xp.sin(math.pi / 4 * xp.clip(falling, 0, 2)) ** 2


def offset_weights(gamma: Any, low: Any, high: Any) -> Any:
    """Wang's weights of a full turn with a detector that reaches further on one side of the axis than on the other.

    Args:
        gamma: fan angles, radians.
        low, high: fan angles of the detector's two ends, on either side of 0.

    Returns:
        ½ (1 ± sin(πγ / 2γ₀)) for |γ| < γ₀, the smaller of the two ends; beyond it 1 on the long side, 0 on the short one.
    """
    xp = array_module(gamma, low, high)
    overlap = xp.maximum(xp.minimum(-low, high), 1e-6)
    side = xp.where(high + low >= 0, 1.0, -1.0)
    return 0.5 * (1 + side * xp.sin(math.pi / 2 * xp.clip(gamma / overlap, -1, 1)))


def scan_weights(geometry: Divergent, scan: str = "auto", weights: str | Any = "voronoi") -> Any:
    """Weight of every reading in the integral over the views, redundancy times dβ, ``[view, detector]`` in radians.

    Args:
        geometry: ``FanBeam``, ``ConeBeam`` (its columns: a line is taken for its shadow in the plane of the source), or ``Modular`` with
            the source on a circle about the axis.
        scan: "full": ½. "short": ``parker_weights``. "offset": ``offset_weights``. "auto" tells them by the angles (views with a gap
            that is over four times the second largest are a short scan) and by the detector (one whose short side does not reach
            the circle inscribed in the image is offset); it needs a geometry whose leaves are known.
        weights: "voronoi": half the distance to the two neighbours; "uniform"; or dβ itself, ``[view]`` in radians.

    Raises:
        ValueError: unknown names, "auto" of a traced geometry, a source that leaves its circle, a scan that is too short, an offset
            detector that does not reach the axis or makes less than a full turn.
    """
    scan = recognise(geometry, scan)
    poses = geometry.poses
    xp = array_module(poses)
    beta, gamma = source_and_fan_angles(poses, np.arange(geometry.detector_shape[-1]) - (geometry.detector_shape[-1] - 1) / 2)
    start, span, cells = _arc(beta, scan != "short")
    if not isinstance(weights, str):
        cells = admit_weights(weights, geometry.view_count)
    elif check.one_of("weights", weights, ("voronoi", "uniform")) or weights == "uniform":
        cells = xp.ones_like(beta) * (span / geometry.view_count)
    if scan == "full":
        share = 0.5 * xp.ones_like(gamma)
    elif scan == "short":
        # views that lie on the beginning, to rounding, must not appear a turn later
        slack = (2 * math.pi - span) / 2
        since = xp.mod(beta - start + slack, 2 * math.pi) - slack
        share = parker_weights(since[:, None], gamma, span)
    else:
        share = offset_weights(gamma, *_ends(poses, geometry.detector_shape[-1]))
    return share * cells[:, None]


def recognise(geometry: Divergent, scan: str = "auto") -> str:
    """ "full", "short" or "offset", by the rules of ``scan_weights``; refuses what cannot be reconstructed, where the leaves are known."""
    check.one_of("scan", scan, SCANS)
    known = fields.host(geometry)
    if known is None:
        if scan == "auto":
            expected = "'full', 'short' or 'offset' for a traced geometry"
            check.fail("scan", expected, "'auto'", "Which one it is must be known when the program is compiled: pass scan='full'.")
        return scan
    poses = plane(known.poses)
    distance = np.linalg.norm(poses.source, axis=-1)
    if np.ptp(distance) > _ON_CIRCLE * distance.mean():
        got = f"distances from {distance.min():g} to {distance.max():g} mm"
        check.fail("geometry", "a source on a circle about the axis", got, f"Reconstruct iteratively: {ITERATIVE}.")
    beta, _ = source_and_fan_angles(poses, np.zeros(1))
    offset, short = one_sided(known), _is_open(beta)
    if scan == "auto":
        scan = "short" if short else "offset" if offset else "full"
    if scan == "short":
        low, high = _ends(poses, geometry.detector_shape[-1])
        _check_span(beta, min(_needed(known, distance), max(-low, high)))
    elif short:
        expected = f"a full turn for scan={scan!r}"
        check.fail("geometry", expected, f"views over {math.degrees(_arc(beta, False)[1]):.4g}°", "Pass scan='short', or 'auto'.")
    if scan == "short" and offset:
        remedy = f"Scan a full turn, centre the detector, or reconstruct iteratively: {ITERATIVE}."
        check.fail("geometry", "a full turn for an offset detector", "a short scan", remedy)
    if scan == "offset":
        check_sides(known)
    return scan


def one_sided(known: Divergent) -> bool:
    """Whether the columns reach further on one side, and on the other not to the circle inscribed in the image. ``known``: on the host."""
    poses, count = plane(known.poses), known.detector_shape[-1]
    low, high = _ends(poses, count)
    cell = (high - low) / count
    return bool(abs(high + low) > 1.5 * cell and min(-low, high) < _needed(known, np.linalg.norm(poses.source, axis=-1)) - cell)


def check_sides(known: Divergent) -> None:
    """Refuse an offset detector from which the axis is not seen with a margin of a cell."""
    low, high = _ends(plane(known.poses), known.detector_shape[-1])
    if min(-low, high) < (high - low) / known.detector_shape[-1]:
        got = f"one from {math.degrees(low):.4g}° to {math.degrees(high):.4g}°"
        check.fail("geometry", "a detector that sees both sides of the axis", got, "Reduce detector_offset or add cells.")


def _needed(geometry, distance):
    """Half the fan angle of the circle inscribed in the image."""
    return float(np.arcsin(min(geometry.pixel_size * min(geometry.image_shape[-2:]) / 2 / distance.min(), 1)))


ITERATIVE = "di.ct.sirt, cgls or fista_tv"


def plane(poses: Poses) -> Poses:
    """The poses projected along z."""
    if poses.ndim == 2:
        return poses
    return Poses(poses.source[:, 1:], poses.detector[:, 1:], poses.column[:, 1:])


def source_and_fan_angles(poses: Poses, columns: Any) -> tuple[Any, Any]:
    """β ``[view]`` of the source, and γ ``[view, column]`` of its rays, measured from the one through the axis, in radians."""
    poses = plane(poses)
    xp = array_module(poses)
    source = poses.source
    d = poses.points(columns) - source[:, None]
    towards = -xp.sum(d * source[:, None], -1)
    across = source[:, None, 1] * d[..., 0] - source[:, None, 0] * d[..., 1]
    return xp.arctan2(source[:, 1], -source[:, 0]), xp.arctan2(across, towards)


def admit_weights(weights: Any, view_count: int) -> Any:
    """Real, finite numbers ``[view]``."""
    weights = check.array("weights", weights, "Or name a rule: 'voronoi' or 'uniform'.")
    if not any(jnp.issubdtype(weights.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        remedy = "To leave views out: mask * angular_weights(geometry.angles)." if weights.dtype == bool else ""
        check.fail("weights", "real angles dθ in radians", str(weights.dtype), remedy)
    check.shape("weights", weights, (view_count,), "[view]")
    check.finite("weights", weights, "A weight of 0 leaves a view out.")
    return weights


def _ends(poses, count):
    """The smallest interval of fan angles that all views have, by the detector's edges."""
    _, gamma = source_and_fan_angles(poses, np.array([-0.5, 0.5]) * count)
    xp = array_module(gamma)
    return xp.max(xp.min(gamma, 1)), xp.min(xp.max(gamma, 1))


def _gaps(beta):
    xp = array_module(beta)
    folded = xp.mod(beta, 2 * math.pi)
    order = xp.argsort(folded)
    ordered = folded[order]
    return order, ordered, xp.diff(ordered, append=ordered[:1] + 2 * math.pi)


def _is_open(beta):
    gaps = np.sort(_gaps(beta)[2])
    return len(gaps) > 2 and gaps[-1] > _OUTLIER * gaps[-2] and gaps[-2] > 0


def _arc(beta, full):
    """Beginning and length of the arc that the views cover, half a step beyond the outer ones, and every view's cell of it."""
    xp = array_module(beta)
    order, ordered, gaps = _gaps(beta)
    start, span = ordered[0], 2 * math.pi
    if not full:
        widest = xp.argmax(gaps)
        covered = 2 * math.pi - gaps[widest]
        step = covered / (len(gaps) - 1)
        start, span = xp.roll(ordered, -1)[widest] - step / 2, covered + step
        gaps = xp.where(xp.arange(len(gaps)) == widest, step, gaps)
    cell = (gaps + xp.roll(gaps, 1)) / 2
    return start, span, cell[xp.argsort(order)]


def _check_span(beta, half_fan):
    span = _arc(beta, False)[1]
    if span + span / len(beta) < math.pi + 2 * half_fan:
        expected = f"at least π + the fan angle that sees the image, {math.degrees(math.pi + 2 * half_fan):.4g}°"
        remedy = f"Add views, or reconstruct iteratively: {ITERATIVE}."
        check.fail("geometry", f"views over {expected}", f"{math.degrees(span):.4g}°", remedy)
