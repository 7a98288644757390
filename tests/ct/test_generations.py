"""The seven generations: every line of the field of view is measured, at the moments that the moving parts imply."""

from __future__ import annotations

import numpy as np
import pytest

from diffimg import ct
from diffimg.ct.generations import GENERATIONS
from diffimg.forward import ConeBeam, FanBeam, Helical, ParallelBeam

SMALL = {
    1: ct.first_generation((12, 16), 30),
    2: ct.second_generation((12, 16), 30, beams=5),
    3: ct.third_generation((12, 16), 60),
    4: ct.fourth_generation((12, 16), 72),
    5: ct.fifth_generation((12, 16), 70, 360),
    6: ct.sixth_generation((8, 12, 16), 24),
    7: ct.seventh_generation((8, 12, 16), 24),
}
KINDS = {1: ParallelBeam, 2: ParallelBeam, 3: FanBeam, 4: FanBeam, 5: FanBeam, 6: Helical, 7: ConeBeam}
every_generation = pytest.mark.parametrize("k", SMALL)


def lines(g):
    """(θ, l) of all samples."""
    if isinstance(g, ParallelBeam):
        return np.broadcast_arrays(np.asarray(g.angles)[:, None], np.asarray(g.detector_positions)[None])
    return g.rays


@every_generation
def test_kind_times_and_words(k):
    scan = SMALL[k]
    assert GENERATIONS[k].__name__ == f"{('first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh')[k - 1]}_generation"
    assert type(scan.geometry) is KINDS[k] and scan.description.generation == k
    assert scan.times.shape == scan.geometry.sinogram_shape
    assert scan.times.min() >= 0 and scan.times.max() < 1
    assert scan.times.min() < 0.05 and scan.times.max() > 0.95
    assert scan.geometry.sees_whole_object


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_every_line_of_the_field_of_view_is_measured(k):
    scan = SMALL[k]
    theta, l = (np.asarray(v, np.float64).ravel() for v in lines(scan.geometry))
    turns = np.floor(theta / np.pi)  # (θ + π, −l) is the same line
    theta, l = theta - turns * np.pi, np.where(turns % 2 == 0, l, -l)
    radius = scan.geometry.diagonal / 2
    seen, *_ = np.histogram2d(theta, l, (15, 10), ((0, np.pi), (-radius, radius)))
    assert seen.min() > 0


@pytest.mark.parametrize("k", [6, 7])
def test_every_slice_is_seen_over_a_turn(k):
    g = SMALL[k].geometry
    z = g.pixel_positions[0]
    half = g.detector_shape[0] * g.detector_spacing[0] / g.magnification / 2
    table = g.table if k == 6 else np.zeros(g.view_count)
    seen = np.abs(z[:, None] - np.asarray(table)) <= half * (1 + 1e-6)
    angles = [np.unique(np.round(np.mod(g.angles[s], 2 * np.pi), 6)).size for s in seen]
    assert min(angles) >= 24  # at pitch 1 each slice is in the beam for one turn


def test_pencil_beam_takes_one_sample_at_a_time_back_and_forth():
    t = SMALL[1].times
    assert np.unique(t).size == t.size
    assert np.all(np.diff(t[0]) > 0) and np.all(np.diff(t[1]) < 0)
    assert np.all(t[:-1].max(1) < t[1:].min(1))


def test_narrow_fan_takes_several_views_in_one_translation():
    t = SMALL[2].times
    group = np.floor(t * 6)
    np.testing.assert_array_equal(group, np.broadcast_to(np.repeat(np.arange(6), 5)[:, None], t.shape))
    assert not np.allclose(t[0], t[4])  # inclined beams meet the same l at another time
    # at one moment, the samples of a translation lie on one narrow fan: its rays meet in the source
    g, distance = SMALL[2].geometry, SMALL[2].geometry.diagonal
    gamma = -(np.arange(5) - 2) * np.pi / 30
    place = (g.detector_positions - distance * np.sin(gamma)[:, None]) / np.cos(gamma)[:, None]
    order = np.argsort(t[:5].ravel())
    assert np.all(np.diff(place.ravel()[order]) >= -1e-9)


def test_fans_and_cones_are_read_at_once():
    for k in (3, 5, 6, 7):
        t = SMALL[k].times.reshape(SMALL[k].geometry.view_count, -1)
        assert np.all(t == t[:, :1]) and np.all(np.diff(t[:, 0]) > 0)


def test_stationary_ring_sees_one_turning_source():
    scan = ct.fourth_generation((12, 16), 36, ring_radius=40.0, source_radius=25.0)
    g = scan.geometry
    beta = 2 * np.pi * scan.times  # the source of a third-generation view β is at −25 e
    source = 25 * np.stack([-np.cos(beta), np.sin(beta)], -1)
    np.testing.assert_allclose(np.linalg.norm(g.poses.source, axis=-1), 40)
    towards = source - g.poses.source[:, None]
    ray = g.cell_positions - g.poses.source[:, None]
    cross = towards[..., 0] * ray[..., 1] - towards[..., 1] * ray[..., 0]
    np.testing.assert_allclose(cross, 0, atol=1e-9)
    assert np.all(np.sum(towards * ray, -1) > 40**2 / 2)  # the object lies between


def test_electron_beam_detectors_rest():
    g = SMALL[5].geometry
    direction = g.cell_positions - g.poses.source[:, None]
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    chord = -2 * np.sum(g.poses.source[:, None] * direction, -1, keepdims=True)
    hit = g.poses.source[:, None] + chord * direction
    np.testing.assert_allclose(np.linalg.norm(hit, axis=-1), g.source_distance)
    place = np.arctan2(hit[..., 0], hit[..., 1]) / (2 * np.pi / 360)
    assert np.ptp(np.exp(2j * np.pi * place).real) < 1e-6 and np.ptp(np.exp(2j * np.pi * place).imag) < 1e-6
    assert g.angles[-1] - g.angles[0] >= np.pi + g.fan_angle  # a short scan, within 210° of anodes
    assert g.angles[-1] - g.angles[0] <= np.deg2rad(210)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ct.first_generation((8, 8), 0), "views: expected an integer"),
        (lambda: ct.second_generation((8, 8), 30, 7), "beams: expected a divisor of the 30 views"),
        (lambda: ct.second_generation((8, 8), 30, 30), "beams: expected a fan of less than 90°"),
        (lambda: ct.second_generation((8, 8), 30, 5, 2.0), "source_distance: expected more than half the image's diagonal"),
        (lambda: ct.third_generation((8, 8), source_distance=3.0), "source_distance: expected more than half the image's diagonal"),
        (lambda: ct.fourth_generation((8, 8), source_radius=3.0), "ring_radius, source_radius: expected more than half"),
        (lambda: ct.fifth_generation((8, 8), ring_radius=3.0), "ring_radius: expected more than half"),
        (lambda: ct.fifth_generation((8, 8), 500, 360), "anodes: expected at most one a detector"),
        (lambda: ct.fifth_generation((8, 8), 100, 720, ring_radius=8.0), r"arc: expected at least π \+ the fan angle"),
        (lambda: ct.sixth_generation((8, 8), 24), "image_shape: expected three integers"),
        (lambda: ct.sixth_generation((8, 8, 8), 24, 0.0), "pitch: expected a number other than 0"),
        (lambda: ct.seventh_generation((8, 8, 8), 24, (4,)), "detector_shape: expected 2 integers"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()
