"""The experiments of learned reconstruction in small."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from diffimg import learn
from diffimg.experiment.cli import app
from diffimg.experiment.recipes.learned_method import coverage

SMALL = [
    "data.test_size=48",
    "data.scales=[0.5]",
    "weight_map.channels=[4]",
    "weight_map.steps=10",
    "weight_map.batch=2",
    "weight_map.iterations=20",
    "ridge.filter_size=3",
    "ridge.steps=60",
    "ridge.weak=[0.5]",
    "network.widths=[8]",
    "network.blocks=1",
    "network.steps=40",
    "network.batch=4",
    "tv_weights=[0.08]",
]
JOBS = {
    "denoising": SMALL,
    "learned_comparison": [
        "ct.size=32",
        "ct.views=12",
        "mri.size=32",
        "mri.centre=6",
        'methods=["start","total variation","U-Net","AUTOMAP","learned PGM","ridge, implicit","in-painting"]',
        "classical.weights=[3e-4,3e-3]",
        "classical.steps=30",
        "networks.unet=[4,8]",
        "networks.iterations=2",
        "networks.steps=12",
        "networks.batch=2",
        "networks.automap=16",
        "networks.inpainting=[4]",
        "ridge.start=null",
        "ridge.steps=4",
        "ridge.iterations=20",
        "seeds=1",
    ],
}


@pytest.fixture(autouse=True)
def samples():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")


def test_a_ridge_regularizer_is_learned(job):
    m = job("denoising", [*SMALL, "network.steps=0", "weight_map.steps=0"])
    assert 26 < m["total variation"]["psnr_db"] < 30 and 20 < m["noisy"]["psnr_db"] < 20.4
    assert m["weakly convex ridge"]["psnr_db"] > 23
    assert m["weakly convex ridge"]["parameters"] == 8 * 9 + 8 + 9 + 2


@pytest.mark.slow
def test_denoising(job, tmp_path):
    m = job("denoising", [*SMALL, f"cache.folder={json.dumps(str(tmp_path))}"])
    assert m["DRUNet"]["psnr_db"] > 5  # a start
    assert m["total variation, learned map"]["psnr_db"] > m["total variation"]["psnr_db"] - 1
    # a second run takes the trainings as they are
    out = tmp_path / "again"
    arguments = [v for s in [*SMALL, f"cache.folder={json.dumps(str(tmp_path))}"] for v in ("--set", s)]
    assert CliRunner().invoke(app, ["run", "denoising", "--out", str(out), *arguments]).exit_code == 0
    again = json.loads((out / "metrics.json").read_text())
    assert again["methods"]["weakly convex ridge"]["psnr_db"] == pytest.approx(m["weakly convex ridge"]["psnr_db"], abs=1e-4)
    assert again["methods"]["DRUNet"]["training_seconds"] == pytest.approx(m["DRUNet"]["training_seconds"])
    params, about = learn.load_weights(out / "weakly_convex_ridge.npz")
    assert params["filters"].shape == (8, 3, 3) and about["model"]["kind"] == "ridge"


FEW = ["mri=null", 'methods=["start","learned PGM"]']


@pytest.mark.slow
def test_comparison(job):
    m = job("learned_comparison", JOBS["learned_comparison"] + FEW)
    assert m["CT, filtered backprojection"]["psnr_db"] > 15
    assert m["CT, learned PGM"]["psnr_db"] > 8 and m["CT, learned PGM"]["training_seconds"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['methods=["start","DPIR"]', "dpir.denoiser=none"], "dpir.denoiser"),
        (['methods=["start","DPIR"]', "dpir.denoiser=ridge"], "'drunet'"),
        (['methods=["ridge, score"]', "ridge.start=drunet"], "'ridge'"),
        (["classical.weights=[-1]"], "a value > 0"),
        (["ct=null", "mri=null"], "at least one of the two problems"),
        (["mri.size=32"], "mri.acceleration"),
        (['methods=["unet"]'], "'U-Net'"),
    ],
)
def test_what_cannot_work_is_missed_before_the_training(settings, message):
    result = CliRunner().invoke(app, ["run", "learned_comparison", *(v for s in settings for v in ("--set", s))])
    assert result.exit_code != 0 and message in result.output


def test_images_of_ones_own(job, tmp_path):
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    for k in range(5):
        np.save(tmp_path / f"{k}.npy", np.float32((x**2 + y**2 < 0.5 + 0.05 * k) * (1 + np.cos(9 * x))))
    folder = f"folder={json.dumps(str(tmp_path))}"
    classical = ["mri=null", 'methods=["start","total variation"]', "classical.weights=[0.01,0.1,1]"]
    m = job("learned_comparison", [*JOBS["learned_comparison"], *classical, f"images.{folder}"])
    assert m["CT, total variation"]["psnr_db"] > 15 and m["CT, total variation"]["weight_at_edge"] == 1
    small = [*SMALL, "network.steps=0", "weight_map.steps=0", "ridge.weak=[]", "data.patch=32"]
    assert job("denoising", [*small, f"data.{folder}"])["total variation"]["gain_db"] == 0


@pytest.mark.slow
def test_the_same_energy_by_every_principle_and_seeds(job, tmp_path):
    few = ["mri=null", 'methods=["learned PGM","ridge, adversarial","ridge, likelihood","ridge, score","diffusion"]', "seeds=2", "best=1"]
    cheap = ["ridge.principle_steps=6", "ridge.chain_steps=2", "ridge.multiples=[0.1,1]", "ridge.sizes=[0.7,1]", "ridge.stops=[5,20]"]
    score = ["diffusion.widths=[4,8]", "diffusion.blocks=1", "diffusion.steps=6", "diffusion.levels=5"]
    m = job("learned_comparison", JOBS["learned_comparison"] + few + cheap + score)
    for name in ("adversarial", "likelihood", "score"):
        row = m[f"CT, ridge, {name}"]
        assert row["psnr_db"] > 20
        assert ("coverage_90" in row) == (row["chain_rhat"] < 1.1)  # two steps settle nothing, and then nothing is claimed
    repeated = [row for row in m.values() if "seeds" in row]
    assert len(repeated) == 1 and repeated[0]["psnr_sd_db"] > 0 and 0 < repeated[0]["coverage_90"] <= 1


@pytest.mark.slow
def test_trainings_of_the_default_config_come_with_the_package(tmp_path, monkeypatch):
    """Found by what determines them: nothing is trained."""
    pytest.importorskip("nilearn")

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(learn, "train", refuse)
    m = _run(tmp_path / "run", ["seeds=1", "ct=null", 'methods=["learned PGM"]'])
    assert m["MRI, learned PGM"]["psnr_db"] > 37


@pytest.mark.slow
def test_the_file_of_a_ridge_regularizer_is_the_prior_that_was_used(tmp_path):
    few = ["mri=null", 'methods=["ridge, score"]', "ridge.principle_steps=6", "ridge.multiples=[0.1,1]", "ridge.sizes=[0.7]"]
    _run(tmp_path / "run", JOBS["learned_comparison"] + few)
    params, about = learn.load_weights(tmp_path / "run" / "ct_ridge_score.npz")
    prior = learn.Pretrained("ridge", params, about, "").prior()
    assert float(prior.weight) == pytest.approx(about["model"]["weight"]) and 0 < float(prior.weight) < 1


def _run(folder, settings):
    arguments = [v for s in settings for v in ("--set", s)]
    result = CliRunner().invoke(app, ["run", "learned_comparison", "--out", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "metrics.json").read_text())["methods"]


@pytest.mark.parametrize(("dtype", "draws"), [(float, None), (complex, None), (float, 3), (complex, 3)])
def test_coverage_of_gaussian_samples(dtype, draws):
    """Moments that are right cover nine tenths: of the density itself, or of a few samples."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype is complex else 0)  # noqa: E731
    truth, parts = 10 + normal(200_000), 2 if dtype is complex else 1
    if draws is None:
        mean, spread = np.full(truth.shape, 10.0), np.full(truth.shape, np.sqrt(parts))
    else:
        samples = 10 + normal(draws, truth.size)
        mean = samples.mean(0)
        spread = np.sqrt(np.sum(np.abs(samples - mean) ** 2, 0) / (draws - 1))
    assert coverage(mean, spread, truth, draws) == pytest.approx(0.9, abs=0.005)


@pytest.mark.slow
def test_comparison_of_all_kinds(job):
    m = job("learned_comparison")
    for problem, start in (("CT", "filtered backprojection"), ("MRI", "zero-filled")):
        assert m[f"{problem}, total variation"]["psnr_db"] > m[f"{problem}, {start}"]["psnr_db"] + 1
        for name in ("U-Net", "AUTOMAP", "learned PGM", "ridge, implicit"):
            assert m[f"{problem}, {name}"]["psnr_db"] > 5 and m[f"{problem}, {name}"]["training_seconds"] > 0
    assert m["CT, AUTOMAP"]["parameters"] > 16 * (12 * 47 + 32**2)
    assert m["CT, in-painting"]["psnr_db"] > 5 and "MRI, in-painting" not in m
    # a method that knows the Fourier transform reconstructs a shifted k-space as well
    moved = {name: abs(m[f"MRI, {name}"]["psnr_shifted_db"] - m[f"MRI, {name}"]["psnr_db"]) for name in ("zero-filled", "total variation")}
    assert moved["zero-filled"] < 1e-3 and moved["total variation"] < 1 and "psnr_shifted_db" not in m["CT, AUTOMAP"]
