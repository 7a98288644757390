"""The MRI experiments in small."""

import pytest
from small_job import parse, read_json, sets

from diffimg import mri
from diffimg.experiment.sequence_picture import sequence_picture

SCAN = ["scan.size=48", "scan.coils=4", "scan.test_slices=[74]"]
JOBS = {
    "mri_sequences": ["object.size=48"],
    "mri_contrast": ["object.size=48"],
    "mri_quantitative": ["object.size=48"],
    "mri_pulse_design": ["search.steps=60", "search.positions=81", "pulse.intervals=48"],
    "mri_sampling": [
        *SCAN,
        "patterns.size=48",
        "learning.train_slices=[100]",
        "learning.mask_steps=30",
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
        "methods.kernel=[2,5]",
        'methods.networks=["residual"]',
        "methods.network_steps=10",
        "methods.replicas=3",
    ],
}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Run one and return its metrics."""
    from typer.testing import CliRunner

    from diffimg.experiment.cli import app

    def run(name):
        folder = tmp_path_factory.mktemp(name) / "run"
        result = CliRunner().invoke(app, ["run", name, "--out", str(folder), *sets(*JOBS[name])])
        assert result.exit_code == 0, result.output
        parse((folder / "report.html").read_text(encoding="utf-8"))
        assert (folder / "overview.png").stat().st_size > 20_000
        return read_json(folder / "metrics.json")["methods"]

    return run


@pytest.mark.slow
def test_sequences_make_the_images_of_their_equations(job):
    assert all(v["error"] < 0.06 for v in job("mri_sequences").values())


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


def test_a_designed_pulse_is_better_than_its_start(job):
    m = job("mri_pulse_design")
    assert m["optimised"]["inside"] < 0.7 * m["sinc"]["inside"]
    assert m["optimised"]["outside"] < 0.7 * m["sinc"]["outside"]


@pytest.mark.slow
def test_sampling(job):
    m = job("mri_sampling")
    assert m["points"]["sidelobe"] < m["variable density"]["sidelobe"] < m["equispaced lines"]["sidelobe"]
    assert m["learned shots"]["psnr_db"] > m["radial (start)"]["psnr_db"] - 1


@pytest.mark.slow
def test_fields_of_experts(job):
    m = job("mri_fields_of_experts")
    assert m["field of experts"]["psnr_db"] > m["zero-filled"]["psnr_db"] + 3


@pytest.mark.slow
def test_dynamic(job):
    m = job("mri_dynamic")
    assert m["low rank"]["psnr_db"] > m["frame by frame"]["psnr_db"]


@pytest.mark.slow
def test_off_resonance_belongs_in_the_model(job):
    m = job("mri_non_cartesian")
    assert m["spiral: off-resonance in the model"]["psnr_db"] > m["spiral: off-resonance ignored"]["psnr_db"] + 3


def test_compressed_sensing(job):
    m = job("mri_compressed_sensing")
    assert m["total variation"]["psnr_db"] > m["zero-filled"]["psnr_db"] + 3


@pytest.mark.slow
def test_parallel_imaging(job):
    m = job("mri_parallel")
    assert m["R = 2: GRAPPA"]["psnr_db"] > m["R = 2: zero-filled"]["psnr_db"] + 3


def test_every_sequence_has_a_picture():
    s = mri.sequences
    scans = [
        s.gradient_echo((4, 4), 0.2, tr=0.02, te=0.005, pulse=mri.sinc_pulse(0.3, 1e-3), thickness=5e-3),
        s.balanced_ssfp((4, 4), 0.2, tr=6e-3, flip=0.5),
        s.inversion_recovery((4, 4), 0.2, tr=1.0, te=5e-3, ti=0.1),
        s.multi_echo((4, 4), 0.2, tr=1.0, spacing=0.02, echoes=2),
    ]
    for scan in scans:
        assert len(sequence_picture(scan.sequence, title="a title")) > 20_000
    with pytest.raises(ValueError, match="repetition"):
        sequence_picture(scans[0].sequence, repetition=9)
    with pytest.raises(ValueError, match="sequence"):
        sequence_picture(scans[0])
