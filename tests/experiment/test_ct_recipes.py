"""The CT experiments on artifacts, calibration, generations and geometries, in small."""

import pytest

from diffimg.experiment.recipes import ct_artifacts

JOBS = {
    "ct_self_calibration": ["centre_alone=false", "scan.size=32", "scan.views=48", "search.blur=[2.0,0.0]", "tv_steps=20"],
    "ct_artifacts": [
        "scan.size=64", "scan.views=90", "artifacts.few_views=15", "artifacts.shift=2.0", "cures.tv_steps=20", "cures.knots=2",
        "cures.calibration_steps=1", "artifacts.gain=0.05",
    ],
    "ct_self_calibration_cone": [
        "scan.size=16", "scan.slices=4", "scan.views=32", "search.steps=1", "search.inner_steps=5", "tv_steps=5",
    ],
    "ct_generations": ["scan.size=32", "scan.views=32"],
    "ct_geometries": ["scan.size=24", "scan.slices=5", "scan.views=32", "reconstruction.tv_steps=10"],
}  # fmt: skip


@pytest.mark.slow
def test_self_calibration(job):
    m = job("ct_self_calibration")
    start, found = (m[f"centre and jitter: {how}"] for how in ("assumed 0", "calibrated"))
    assert abs(found["centre_error"]) < 0.02 < 1.9 < abs(start["centre_error"])
    assert found["jitter_error"] < 0.1 < 0.4 < start["jitter_error"]
    assert found["psnr_db"] > start["psnr_db"] + 3


@pytest.mark.slow
def test_self_calibration_of_a_cone_beam(job):
    m = job("ct_self_calibration_cone")
    assert list(m) == [f"centre and jitter: {how}" for how in ("assumed 0", "calibrated", "known")]
    assert abs(m["centre and jitter: calibrated"]["centre_error"]) < 0.5


@pytest.mark.slow
def test_rings_are_cured_up_to_the_noise():
    config = ct_artifacts.Config(recipe="ct_artifacts", scan={"size": 96, "views": 120}, cures={"tv_steps": 60})
    case = ct_artifacts.rings(config)
    rings, removed, estimated = (ct_artifacts.psnr(image, case) for image in case.images.values())
    analytic, _, iterative = (v["ceiling_db"] for v in case.numbers.values())
    assert removed > rings + 5 and removed > analytic - 2.5
    assert estimated > iterative - 2 and estimated > removed


@pytest.mark.slow
def test_artifacts(job):
    m = job("ct_artifacts")
    for case in ("aliasing", "rings", "truncation", "starvation"):
        artifact, *cures = (v["psnr_db"] for k, v in m.items() if k.startswith(f"{case}:"))
        assert max(cures) > artifact + 1, case
    assert m["motion: TV, estimated poses"]["pose_error"] < 0.5


@pytest.mark.slow
def test_generations(job):
    m = job("ct_generations")
    assert list(m) == [f"{k}G" for k in range(1, 8)]
    assert m["5G"]["psnr_db"] > max(m["1G"]["psnr_db"], m["3G"]["psnr_db"])


@pytest.mark.slow
def test_geometries(job):
    m = job("ct_geometries")
    assert len(m) == 11 and min(v["psnr_db"] for v in m.values()) > 12
