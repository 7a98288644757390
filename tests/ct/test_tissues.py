"""The table of Hounsfield units, label maps and their overlaps."""

import numpy as np
import pytest

from diffimg import ct


def name(hu, **kwargs):
    label = int(ct.label_map(np.float32(hu), **kwargs))
    return ct.TISSUES[label - 1].name if label else None


def test_unambiguous_values():
    for hu, tissue in (
        (-1000, "air"),
        (-650, "lung"),
        (-100, "fat"),
        (0, "water"),
        (60, "liver"),
        (72, "blood, clotted"),
        (800, "bone, cancellous"),
    ):
        assert name(hu) == tissue
    for hu in (-400, 150, 2500, np.nan):
        assert name(hu) is None


def test_every_printed_range_is_in_the_table():
    printed = {"fat": (-120, -90), "lung": (-700, -600), "kidney": (20, 45), "muscle": (35, 55), "liver": (54, 66), "CSF": (15, 15)}
    table = {t.name: (t.low, t.high) for t in ct.TISSUES}
    assert len(table) == 14
    assert {k: table[k] for k in printed} == printed


def test_overlaps_go_to_the_narrowest_range():
    candidates = ct.membership(np.float32([40.0]))[:, 0]
    found = {t.name for t, inside in zip(ct.TISSUES, candidates, strict=True) if inside}
    assert found == {"blood, unclotted", "kidney", "muscle", "grey matter"}
    assert name(40) == "grey matter"
    abdomen = [t for t in ct.TISSUES if "matter" not in t.name]
    assert abdomen[int(ct.label_map(np.float32(40.0), abdomen)) - 1].name == "muscle"


def test_pictures():
    hu = np.linspace(-1100, 2000, 60).reshape(6, 10)
    labels = ct.label_map(hu)
    picture = ct.colours()[np.asarray(labels)]
    assert labels.shape == (6, 10) and picture.shape == (6, 10, 3) and picture.dtype == np.uint8
    assert len({t.colour for t in ct.TISSUES}) == len(ct.TISSUES)
    assert int(ct.label_map(0)) > 0  # integers are fine


def test_bad_input():
    with pytest.raises(ValueError, match="tissues"):
        ct.label_map(0.0, ())
    with pytest.raises(ValueError, match="low ≤ high"):
        ct.label_map(0.0, [ct.Tissue("x", "x", 2, 1, (0, 0, 0))])
    with pytest.raises(ValueError, match="tolerance"):
        ct.label_map(0.0, tolerance=-1.0)
