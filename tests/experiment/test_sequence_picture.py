"""The picture of a sequence."""

import io
import math

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from diffimg import mri
from diffimg.experiment.sequence_picture import sequence_picture

S, SHAPE = mri.sequences, (4, 6)
SLICE = {"pulse": mri.sinc_pulse(0.3, 1e-3), "thickness": 5e-3}
SCANS = {
    "gradient_echo": S.gradient_echo(SHAPE, 0.2, tr=0.02, te=0.005, **SLICE),
    "spin_echo": S.spin_echo(SHAPE, 0.2, tr=0.5, te=0.02),
    "inversion_recovery": S.inversion_recovery(SHAPE, 0.2, tr=1.0, te=0.005, ti=0.1),
    "multi_echo": S.multi_echo(SHAPE, 0.2, tr=1.0, spacing=0.02, echoes=2),
    "balanced_ssfp": S.balanced_ssfp(SHAPE, 0.2, tr=0.006, flip=math.pi / 4, dummies=2),
}
FLASH = SCANS["gradient_echo"].sequence


@pytest.mark.parametrize("name", SCANS)
def test_draws_every_builder(name):
    image = imread(io.BytesIO(sequence_picture(SCANS[name].sequence, title=name)), format="png")[..., :3]
    assert image.shape[1] > 1.5 * image.shape[0]
    for colour in ((0xD5, 0x5E, 0), (0xCC, 0x79, 0xA7)):  # phase and read gradients
        assert np.sum(np.all(np.abs(image * 255 - colour) < 2, -1)) > 100


def test_repetition():
    first, last = (sequence_picture(FLASH, repetition=n) for n in (0, SHAPE[0] - 1))
    assert first != last
    for wrong in (-1, SHAPE[0]):
        with pytest.raises(ValueError, match=f"repetition: expected 0 … 3, got {wrong}"):
            sequence_picture(FLASH, repetition=wrong)


def test_bad_arguments():
    with pytest.raises(ValueError, match="sequence: expected a Sequence, got Acquisition"):
        sequence_picture(SCANS["gradient_echo"])
    with pytest.raises(ValueError, match="sequence: expected known values"):
        jax.jit(sequence_picture)(FLASH)
    with pytest.raises(ValueError, match="repetition: expected an integer"):
        sequence_picture(FLASH, repetition=1.5)
