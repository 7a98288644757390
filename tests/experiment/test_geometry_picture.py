"""The picture of a geometry."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from diffimg.experiment.geometry_picture import geometry_picture
from diffimg.forward import ConeBeam, FanBeam, Helical, ParallelBeam

ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
FAN = FanBeam((16, 16), ANGLES, 60, 60.0, 40.0)


@pytest.mark.parametrize(
    ("geometry", "wide"),
    [
        (ParallelBeam((16, 16), ANGLES, 30), False),
        (FAN, False),
        (FanBeam((16, 16), ANGLES, 60, 60.0, 40.0, curved=True).modular(), False),
        (ConeBeam((8, 16, 16), ANGLES, (20, 60), 60.0, 40.0, detector_tilt=(0.1, 0.2, 0.3)), True),
        (Helical.from_pitch((8, 16, 16), 2, 12, 1.0, (4, 60), 60.0, 40.0), True),
    ],
    ids=lambda v: type(v).__name__,
)
def test_draws_every_class(geometry, wide):
    image = imread(io.BytesIO(geometry_picture(geometry)), format="png")[..., :3]
    assert (image.shape[1] > 1.3 * image.shape[0]) == wide
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)):  # the detectors of three views
        assert np.sum(np.all(np.abs(image * 255 - colour) < 2, -1)) > 100


def test_bad_arguments():
    with pytest.raises(ValueError, match="geometry: expected a scan geometry"):
        geometry_picture(ANGLES)
    with pytest.raises(ValueError, match="views: expected an integer"):
        geometry_picture(FAN, views=0)
    with pytest.raises(ValueError, match="geometry: expected known leaves"):
        jax.jit(lambda g: geometry_picture(g))(FAN)
