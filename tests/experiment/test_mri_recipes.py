"""The MRI experiments in small."""

import numpy as np
import pytest

from diffimg import forward, mri
from diffimg.experiment.recipes import mri_sequences

SCAN = ["scan.size=48", "scan.coils=4", "scan.test_slices=[74]"]
JOBS = {
    "mri_sequences": ["object.size=24", "object.spins=1"],
    "mri_contrast": ["object.size=48"],
    "mri_quantitative": ["object.size=48"],
    "mri_pulse_design": ["search.steps=60", "search.positions=81", "pulse.intervals=48"],
    "mri_sampling": [
        *SCAN,
        "patterns.size=48",
        "patterns.acs=4",
        "learning.acceleration=4.0",
        "learning.train_slices=[98,106,114]",
        "learning.mask_steps=300",
        "learning.trajectory_steps=3",
        "learning.readout=48",
        "learning.knots=8",
        "learning.iterations=5",
    ],
    "mri_fields_of_experts": ["scan.size=96", "scan.test_slices=[74]", "prior.steps=100", "prior.filter_size=3"],
    "mri_dynamic": [*SCAN, "series.frames=16", "methods.steps=40", "methods.acceleration=6.0", "methods.acs=4"],
    "mri_non_cartesian": [
        *SCAN,
        "radial.readout=64",
        "radial.spokes=16",
        "spiral.arms=4",
        "spiral.readout=400",
        "spiral.field=150.0",
        "solver.sense_steps=[10]",
        "solver.tv_weights=[3e-4]",
        "solver.tv_steps=20",
    ],
    "mri_compressed_sensing": [
        "scan.size=64",
        "scan.coils=4",
        "scan.test_slices=[74]",
        "sampling.pattern=points",
        "solver.steps=40",
        "solver.weights=[1e-3]",
    ],
    "mri_parallel": [
        *SCAN,
        "methods.accelerations=[2]",
        "methods.acs=20",
        "methods.kernel_lines=[2]",
        "methods.kernel_width=5",
        'methods.networks=["residual"]',
        "methods.network_steps=10",
        "methods.replicas=3",
    ],
}


@pytest.mark.slow
def test_sequences_make_the_images_of_their_equations(job):
    assert all(v["error"] < 0.05 for v in job("mri_sequences").values())


@pytest.mark.parametrize("spins", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_equation_knows_the_spins_of_a_voxel(spins):
    shape, edge = (16, 16), np.zeros((16, 16))
    edge[4:9, 3:12] = 1.0
    maps = {"density": edge, "t1": 1.0 + 0 * edge, "t2": 0.1 + 0 * edge}
    acquisition, initial, expected = mri_sequences.cases(shape, 0.2, maps, 0 * edge)["spin echo"]
    cells = mri.voxel_spins(shape, 0.2, per_voxel=spins, m0=edge, t1=1.0, t2=0.1)
    z = np.broadcast_to(np.asarray(initial)[:, :, None, None, None] / spins**2, cells.shape)
    image = forward.ifft(acquisition.run(cells, initial=np.stack([0 * z, 0 * z, z], -1)))
    truth = np.abs(mri_sequences.voxel_average(expected, 16, spins))
    assert np.linalg.norm(np.abs(image) - truth) < 5e-3 * np.linalg.norm(truth)


def test_contrast(job):
    m = job("mri_contrast")
    weighted = {
        k: [m[f"TR {tr} ms, TE {te} ms"][t] for t in ("white", "grey", "csf")] for k, tr, te in (("T1", 500, 10), ("T2", 12000, 100))
    }
    assert weighted["T1"][0] > weighted["T1"][1] > weighted["T1"][2]
    assert weighted["T2"][0] < weighted["T2"][1] < weighted["T2"][2]


@pytest.mark.slow
def test_maps_are_exact_without_noise_and_unbiased_with_it(job):
    for name, m in job("mri_quantitative").items():
        assert m["worst"] < 0.02, name
        assert abs(m["bias"]) < 0.2 * m["deviation"], name
        assert 0.6 < m["predicted"] / m["deviation"] < 1.5, name


@pytest.mark.slow
def test_a_designed_pulse_is_better_than_its_start(job):
    m = job("mri_pulse_design")
    assert m["optimised"]["inside"] < 0.7 * m["sinc"]["inside"]
    assert m["optimised"]["outside"] < 0.7 * m["sinc"]["outside"]


@pytest.mark.slow
def test_sampling(job):
    m = job("mri_sampling")
    assert m["points"]["sidelobe"] < m["variable density"]["sidelobe"] < m["equispaced lines"]["sidelobe"]
    lines = [m[k] for k in ("equispaced + centre", "random lines, variable density", "learned density", "greedy lines")]
    assert {v["acceleration"] for v in lines} == {4.0}
    assert lines[2]["psnr_db"] > lines[0]["psnr_db"] and lines[3]["psnr_db"] > lines[1]["psnr_db"]
    assert m["learned shots"]["psnr_db"] > m["radial (start)"]["psnr_db"]


@pytest.mark.slow
def test_fields_of_experts(job):
    m = job("mri_fields_of_experts")
    assert m["field of experts"]["psnr_db"] > m["zero-filled"]["psnr_db"] + 3


@pytest.mark.slow
def test_dynamic(job):
    m = job("mri_dynamic")
    assert m["low rank"]["psnr_db"] > m["frame by frame"]["psnr_db"] + 3
    assert m["low rank"]["curve_error"] < m["frame by frame"]["curve_error"]


@pytest.mark.slow
def test_off_resonance_belongs_in_the_model(job):
    m = job("mri_non_cartesian")
    assert m["spiral: off-resonance in the model"]["psnr_db"] > m["spiral: off-resonance ignored"]["psnr_db"] + 3


@pytest.mark.slow
def test_compressed_sensing(job):
    m = job("mri_compressed_sensing")
    assert m["total variation"]["psnr_db"] > m["zero-filled"]["psnr_db"] + 3


@pytest.mark.slow
def test_parallel_imaging(job):
    m = job("mri_parallel")
    assert m["R = 2: GRAPPA"]["psnr_db"] > m["R = 2: zero-filled"]["psnr_db"] + 3


@pytest.mark.slow
def test_calibrated_methods_keep_their_promises_at_fourfold_acceleration(job):
    m = job("mri_parallel", ["methods.accelerations=[4]", 'methods.networks=["raki"]', "methods.replicas=6"])
    assert m["R = 4: GRAPPA"]["psnr_db"] > m["R = 4: SENSE"]["psnr_db"] - 0.5
    assert m["R = 4: raki"]["noise"] < m["R = 4: GRAPPA"]["noise"] < m["R = 4: GRAPPA, unweighted"]["noise"]
