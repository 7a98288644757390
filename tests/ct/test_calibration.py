"""Self-calibration against scans whose geometry is known, simulated by exact projections."""

import dataclasses

import jax
import numpy as np
import pytest

from diffimg import ct
from diffimg.data import project, random_ellipses, random_ellipsoids
from diffimg.energy import Transmission
from diffimg.forward import ConeBeam, FanBeam, ParallelBeam

N, VIEWS, CELL = 32, 48, 1.5
ANGLES = np.linspace(0, 2 * np.pi, VIEWS, endpoint=False)
FAN = FanBeam((N, N), ANGLES, 62, 2.0 * N, 1.0 * N, detector_spacing=CELL)
PHANTOM = random_ellipses(jax.random.key(3), 12, 14.0, (0.1, 0.4), (0.01, 0.04))
HARMONICS = np.stack([np.ones(VIEWS), np.cos(ANGLES), np.sin(ANGLES)], 1)


def measured(geometry, phantom=PHANTOM, photons=1e6):
    return Transmission(photons).noise(jax.random.key(0), project(phantom, geometry))


@pytest.mark.slow
def test_centre_of_rotation_and_jitter():
    """Of offsets that are unknown view by view, all but a shift of the object (first harmonics) is found."""
    true = CELL * (2 + 0.5 * np.random.default_rng(1).standard_normal(VIEWS))
    start = dataclasses.replace(FAN, detector_offset=np.zeros(VIEWS))
    found = ct.calibrate(measured(dataclasses.replace(FAN, detector_offset=true)), start, "detector_offset", prior=3.0, steps=3)
    error = np.asarray(found.geometry.detector_offset) - true
    rest = error - HARMONICS @ np.linalg.lstsq(HARMONICS, error, rcond=None)[0]
    assert abs(error.mean()) < 0.02 * CELL
    assert np.sqrt(np.mean(rest**2)) < 0.06 * CELL
    assert found.image.shape == (N, N) and found.misfit.shape == (13,) and found.change["detector_offset"].shape == (12,)
    assert found.misfit[-1] < 0.3 * found.misfit[0]


@pytest.mark.slow
def test_two_fields_of_a_fan_and_one_of_a_parallel_beam():
    tilted = dataclasses.replace(FAN, detector_offset=2.0, detector_tilt=0.1)
    found = ct.calibrate(measured(tilted), FAN, ("detector_offset", "detector_tilt"), blur=(1.0, 0.0), steps=4, cutoff=1.0)
    assert abs(float(found.geometry.detector_offset) - 2.0) < 0.05
    assert abs(float(found.geometry.detector_tilt) - 0.1) < 0.02
    beam = ParallelBeam((N, N), ANGLES[: VIEWS // 2], 47)
    found = ct.calibrate(measured(dataclasses.replace(beam, detector_offset=0.8)), beam, blur=(1.0, 0.0), steps=10)
    assert abs(float(found.geometry.detector_offset) - 0.8) < 0.02


@pytest.mark.slow
def test_cone_beam_and_a_model_of_motion():
    """Parameters that are no fields, in 3-D: a steady shift during the scan."""
    shape, views = (8, 16, 16), 24
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    cone = ConeBeam(shape, angles, (14, 34), 40.0, 20.0, detector_spacing=1.5).modular()
    time = (np.arange(views) / views)[:, None]
    phantom = random_ellipsoids(jax.random.key(1), 8, 4.0, (0.3, 0.6), (0.02, 0.05))
    drift = np.array([0.8, -1.0, 1.2])
    y = measured(cone.moved(translation=time * drift), phantom)

    def moved(geometry, parameters):
        return geometry.moved(translation=time * parameters["drift"])

    found = ct.calibrate(y, cone, {"drift": np.zeros(3)}, model=moved, blur=(1.0, 0.0), steps=2, inner_steps=15)
    assert np.max(np.abs(found.parameters["drift"] - drift)) < 0.1
    assert found.geometry.sinogram_shape == y.shape


def test_bad_input():
    y = np.zeros(FAN.sinogram_shape, np.float32)
    with pytest.raises(ValueError, match=r"parameters: expected one of .*Did you mean 'detector_offset'"):
        ct.calibrate(y, FAN, "detector_ofset")
    with pytest.raises(ValueError, match="parameters: expected one of"):
        ct.calibrate(y, FAN, "pixel_size")  # static
    with pytest.raises(ValueError, match="model: expected a function"):
        ct.calibrate(y, FAN, {"detector_offset": 0.0})
    with pytest.raises(ValueError, match="sinogram: expected shape"):
        ct.calibrate(y[:-1], FAN)
    with pytest.raises(ValueError, match="prior: expected values > 0"):
        ct.calibrate(y, FAN, prior=0.0)
    with pytest.raises(ValueError, match="cutoff: expected a fraction"):
        ct.calibrate(y, FAN, cutoff=2.0)
    with pytest.raises(ValueError, match="blur: expected"):
        ct.calibrate(y, FAN, blur=())
