"""Registration and motion compensation from the command line; SimpleITK reads and applies what was written."""

import gzip

import numpy as np
import pytest
from small_job import parse, read_json

from diffimg import data, forward, registration
from diffimg.experiment.recipes.registration_report import difference, intensity_fit

JOBS = {
    "registration": [
        "demo.factor=4", "demo.mesh=3", "stages=[{kind: bspline, spacing: 60.0, levels: [2, 1], steps: 40}]", "similarity=ssd",
    ],
    "splines": ["turns.size=32", "turns.turns=8"],
    "learned_registration": [
        "pairs.size=32", "pairs.tested=2", "training.channels=[8,8]", "training.steps=20", "training.batch=2", "weights=[0.03]", "steps=20",
        "refinement=10",
    ],
    "motion_compensated": ["object.size=48", "object.states=3", "ct.views=60", "estimation.rounds=4", "estimation.bending=0.1"],
}  # fmt: skip
STAGES = ("--stages", "rigid,bspline", "--spacing", "60", "--similarity", "ssd", "--weight", "0.001", "--consistency", "0.01")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A slice of the template, the same moved and its labels, as NIfTI; and where they lie."""
    folder = tmp_path_factory.mktemp("files")
    slices = data.brain_slices("test", size=64, factor=2)
    moving = np.asarray(slices.truth[10], np.float32)
    grid = data.Grid((1, *moving.shape), (4.0, slices.spacing, slices.spacing), (30.0, -100.0, -90.0))
    flat = data.Grid(grid.shape[1:], grid.spacing[1:], grid.origin[1:])
    truth = forward.Rigid(np.float32([0.12]), np.float32([6.0, -5.0]), np.asarray(flat.centre, np.float32))
    fixed = np.asarray(forward.warp(moving, truth, 3, grid=flat))
    labels = (moving > 0.5).astype(np.int16)
    for name, image in (
        ("moving", moving), ("fixed", fixed), ("moving_labels", labels),
        ("fixed_labels", np.asarray(forward.warp(labels, truth, 0, grid=flat))), ("nothing", np.zeros_like(fixed)),
    ):  # fmt: skip
        data.write_nifti(folder / f"{name}.nii.gz", data.Volume(image[None], grid))
    content = gzip.decompress((folder / "moving.nii.gz").read_bytes())
    (folder / "holes.nii.gz").write_bytes(gzip.compress(content[:-400] + np.full(100, np.nan, np.float32).tobytes()))
    (folder / "text.nii.gz").write_text("no image")
    return folder, fixed, grid


def test_two_files(diffimg, files, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder, fixed, _ = files
    labels = [word for name in ("fixed", "moving") for word in (f"--{name}-labels", folder / f"{name}_labels.nii.gz")]
    result = diffimg("register", folder / "fixed.nii.gz", folder / "moving.nii.gz", "--out", tmp_path / "run", *STAGES, *labels)
    assert result.exit_code == 0, result.output
    scores = read_json(tmp_path / "run" / "metrics.json")["methods"]
    assert scores["after"]["dice"] > 0.97 > scores["before"]["dice"]
    assert scores["after"]["nmse_foreground"] < 0.02 < scores["before"]["nmse_foreground"]
    assert scores["after"]["folding_percent"] == 0
    assert scores["after"]["inverse_consistency_mm"] < 0.2
    parse((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    for name in ("overview.png", "grid.png"):
        assert (tmp_path / "run" / name).stat().st_size > 20_000
    warped = np.squeeze(data.read(tmp_path / "run" / "warped.nii.gz").image)
    found = registration.read_transform(tmp_path / "run" / "transform.tfm")
    there = sitk.ReadTransform(str(tmp_path / "run" / "transform.tfm"))
    points = np.random.default_rng(0).uniform(-60, 60, (20, 2)).astype(np.float32)
    theirs = [there.TransformPoint(p[::-1].astype(float).tolist())[::-1] for p in points]
    assert np.allclose(found(points), theirs, atol=1e-3)
    assert np.linalg.norm(warped - fixed) < 0.1 * np.linalg.norm(fixed)


def test_difference_is_of_the_overlap():
    """What the moving image does not reach is not held against it; nothing seen, nothing told."""
    image = np.random.default_rng(0).random((20, 20))
    cut = np.where(np.arange(20) < 10, image, 0)
    seen = np.broadcast_to(np.arange(20) < 10, image.shape)
    assert difference(image, cut, seen, (1.0, 0.0)) == 0
    inside = (image > image.mean()) & seen
    assert np.isclose(difference(image, 0.9 * cut, seen, (1.0, 0.0)), np.mean(0.01 * image[inside] ** 2) / np.var(image[inside]))
    fit = intensity_fit(image, 0.9 * cut + 30, seen, "linear")
    assert np.allclose(fit, (1 / 0.9, -30 / 0.9)) and difference(image, 0.9 * cut + 30, seen, fit) < 1e-20
    assert intensity_fit(image, cut, seen, "same") == (1, 0) and intensity_fit(image, cut, seen, "other") is None
    assert np.isnan(difference(image, cut, np.zeros_like(seen), (1.0, 0.0)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("fixed", "absent"), "MOVING"),
        (("fixed", "text"), "text.nii.gz"),
        (("fixed", "nothing"), "an image with contrast"),
        (("fixed", "holes"), "finite"),
        (("fixed", "moving", "--stages", "rigid,bendy"), "stages"),
        (("fixed", "moving", "--stages", "displacement", "--weight", "0", "--similarity", "sdd"), "similarity"),
        (("fixed", "moving", "--fixed-mask", "nothing"), "a mask that leaves something"),
        (("fixed", "moving", "--fixed-labels", "fixed_labels"), "moving_labels"),
    ],
)
def test_bad_input(diffimg, files, tmp_path, options, words):
    folder = files[0]
    names = [folder / f"{o}.nii.gz" if (folder / f"{o}.nii.gz").exists() or o == "absent" else o for o in options]
    result = diffimg("register", *names, "--out", tmp_path / "run")
    assert result.exit_code not in (0, 1) or "Traceback" not in result.output
    assert result.exit_code != 0
    assert words in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_registration(job):
    scores = job("registration")
    assert scores["before"]["mean_error_mm"] > 2
    assert scores["after"]["mean_error_mm"] < 0.8
    assert scores["after"]["dice"] > 0.95 > scores["before"]["dice"]
    assert scores["after"]["folding_percent"] == 0


@pytest.mark.slow
def test_splines(job):
    scores = [v["psnr_db"] for v in job("splines").values()]
    assert len(scores) == 6
    assert scores[5] > scores[3] > scores[2] > scores[1] + 3


@pytest.mark.slow
def test_learned_registration(job):
    scores = job("learned_registration")
    start = scores["as they lie"]["mean_error_mm"]
    assert len(scores) == 10
    for name in ("free-form, optimised", "SIREN, optimised", "network, spline, refined"):
        assert scores[name]["mean_error_mm"] < 0.8 * start, name


@pytest.mark.slow
def test_motion_compensated(job):
    scores = job("motion_compensated")
    for name in ("CT", "MRI"):
        ignored, estimated = (scores[f"{name}, motion {how}"]["psnr_db"] for how in ("ignored", "estimated"))
        assert estimated > ignored + 1.5, (name, scores)
