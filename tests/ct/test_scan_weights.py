"""Redundancy weights: every line counts once."""

from __future__ import annotations

import numpy as np
import pytest

from diffimg import ct
from diffimg.core.pytree import replace
from diffimg.forward import FanBeam, Modular
from diffimg.forward.scan_fields import centred

FULL = np.linspace(0, 2 * np.pi, 180, endpoint=False)
FAN = FanBeam((48, 48), FULL, 120, 120.0, 60.0)


@pytest.mark.parametrize("span", [np.pi + 0.6, 4.5, 5.5, 2 * np.pi - 1e-3])
def test_parker_weights_of_the_two_views_of_a_line_sum_to_one(span):
    beta = np.linspace(0, span, 301)[:, None]
    gamma = np.linspace(-0.2, 0.2, 41)
    weights = ct.parker_weights(beta, gamma, span)
    assert weights.min() >= 0 and weights.max() <= 1 + 1e-12
    total, found = weights.copy(), np.ones_like(weights)
    for sense in (1, -1):
        other = beta + sense * np.pi - 2 * gamma
        there = (other >= 0) & (other <= span)
        total += np.where(there, ct.parker_weights(np.clip(other, 0, span), -gamma, span), 0)
        found += there
    assert np.all(found <= 2.0)
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert abs(np.diff(weights, axis=0)).max() < 0.2  # smooth: no jump


def test_parkers_own_formula():
    # Parker 1982, eq. 12 (Kak & Slaney, eq. 3.187-189), whose α has the other sign
    half = 0.3
    beta, alpha = np.linspace(0, np.pi + 2 * half, 200)[:, None], np.linspace(-0.28, 0.28, 11)
    expected = np.where(
        beta < 2 * half - 2 * alpha,
        np.sin(np.pi / 4 * beta / (half - alpha)) ** 2,
        np.where(beta <= np.pi - 2 * alpha, 1, np.sin(np.pi / 4 * (np.pi + 2 * half - beta) / (half + alpha)) ** 2),
    )
    np.testing.assert_allclose(ct.parker_weights(beta, -alpha, np.pi + 2 * half), expected, atol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.4), (-0.4, 0.1)])
def test_offset_weights_of_opposite_rays_sum_to_one(low, high):
    gamma = np.linspace(-0.1, 0.1, 31)
    np.testing.assert_allclose(ct.offset_weights(gamma, low, high) + ct.offset_weights(-gamma, low, high), 1, atol=1e-12)
    far = np.array([-0.3, 0.3])
    np.testing.assert_allclose(ct.offset_weights(far, low, high), far * (high + low) > 0)


@pytest.mark.filterwarnings("ignore:detector_count")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("full", {}),
        ("short", {"angles": FULL[:110]}),
        ("offset", {"detector_count": 64, "detector_offset": 20.0}),
        ("full", {"detector_offset": 0.25}),  # a quarter of a cell
        ("full", {"angles": np.random.default_rng(0).uniform(0, 4 * np.pi, 300)}),
        ("short", {"angles": 5 - np.sort(np.random.default_rng(1).uniform(0, 4, 300))}),
        ("full", {"detector_count": 30}),  # truncated on both sides
    ],
)
def test_scans_are_told_and_the_weights_make_half_a_turn_of_lines(name, change):
    fan = replace(FAN, **change)
    weights = ct.scan_weights(fan)
    np.testing.assert_allclose(weights, ct.scan_weights(fan, name))
    # measured in dθ dl, the rays of one distance l > 0, from both sides, fill half a turn of θ twice
    gamma = fan.fan_angles[0]
    low = min(-gamma[0], gamma[-1])
    both = weights.sum(0) + weights[:, ::-1].sum(0)
    if name != "offset":
        np.testing.assert_allclose(both[np.abs(gamma) < low], 2 * np.pi, rtol=0.02)
    alike = ct.scan_weights(fan.modular(), name)
    np.testing.assert_allclose(alike, weights, atol=1e-12)


@pytest.mark.filterwarnings("ignore:detector_shape")
def test_refusals():
    with pytest.raises(ValueError, match=r"geometry: expected views over at least π \+ the fan angle .* 203.*, got 182.*fista_tv"):
        ct.scan_weights(replace(FAN, angles=FULL[:91]))
    with pytest.raises(ValueError, match=r"geometry: expected a full turn for scan='full', got views over 220"):
        ct.scan_weights(replace(FAN, angles=FULL[:110]), "full")
    with pytest.warns(UserWarning, match="truncated"):
        half = replace(FAN, detector_count=64, detector_offset=20.0)
    with pytest.raises(ValueError, match="full turn for an offset detector"):
        ct.scan_weights(half.subset(slice(0, 110)))
    with pytest.warns(UserWarning, match="truncated"):
        beside = replace(FAN, detector_count=30, detector_offset=20.0)
    with pytest.raises(ValueError, match="a detector that sees both sides of the axis"):
        ct.scan_weights(beside)
    with pytest.raises(ValueError, match=r"scan: expected one of.*Did you mean 'short'"):
        ct.scan_weights(FAN, "shot")
    with pytest.raises(ValueError, match="weights: expected one of"):
        ct.scan_weights(FAN, weights="trapezoid")
    line = np.stack([-100 + 0 * FULL, 50 * centred(180) / 90], -1)
    with pytest.raises(ValueError, match="a source on a circle about the axis"):
        ct.scan_weights(Modular((48, 48), line, line * [-1, 1], np.full_like(line, [0.0, 1.5]), 200))
