"""The X-ray experiments in small: the run folder is complete, and the cure is better than the disease."""

import numpy as np
import pytest
from small_job import parse, read_json, sets
from typer.testing import CliRunner

from diffimg.experiment.cli import app

FAN = ["fan.views=60", "fan.detector_spacing=5.0"]
GRID = ["image.size=48", "image.pixel_size=4.6"]
MODEL = ["model.steps=40", "model.energies_per_bin=15"]


def run(name, folder, overrides):
    result = CliRunner().invoke(app, ["run", name, "--out", str(folder), *sets(*overrides)])
    assert result.exit_code == 0, result.output
    for file in ("metrics.json", "overview.png", "report.html", "arrays.npz", "config.yaml"):
        assert (folder / file).stat().st_size > 0
    parse((folder / "report.html").read_text(encoding="utf-8"))
    metrics = read_json(folder / "metrics.json")
    values = [v for m in metrics["methods"].values() for v in m.values()]
    assert all(v is not None and np.isfinite(v) for v in values)
    assert {key for m in metrics["methods"].values() for key in m} <= set(metrics["definitions"])
    return metrics["methods"]


@pytest.mark.slow
def test_beam_hardening(tmp_path):
    found = run("ct_beam_hardening", tmp_path / "r", [*FAN, *GRID, *MODEL])
    assert found["FBP"]["cupping_percent"] > 3
    assert found["polyenergetic model"]["cupping_reduction"] > 3
    assert found["polyenergetic model"]["rmse_hu"] < found["FBP"]["rmse_hu"]


@pytest.mark.slow
def test_metal(tmp_path):
    found = run("ct_metal", tmp_path / "r", [*FAN, *GRID, *MODEL, "likelihood.steps=40", "inpainting.threshold_hu=1600.0"])
    assert found["NMAR"]["rmse_outside_hu"] < found["interpolation"]["rmse_outside_hu"]
    for method in ("PWLS", "Poisson TV"):
        assert found[method]["rmse_outside_hu"] < found["NMAR"]["rmse_outside_hu"]


@pytest.mark.slow
def test_material_decomposition(tmp_path):
    small = [*FAN, *GRID, "one_step.steps=10", "one_step.energies_per_bin=12"]
    found = run("ct_material_decomposition", tmp_path / "r", small)
    for method in ("ray by ray", "one step"):
        assert abs(found[method]["water_bias_percent"]) < 3
        assert abs(found[method]["bone_bias_percent"]) < 10


@pytest.mark.slow
def test_hounsfield(tmp_path):
    pytest.importorskip("pydicom")
    found = run("ct_hounsfield", tmp_path / "r", ["data.size=64", "fan.views=120", "fan.detector_spacing=4.0", *MODEL])
    assert found["FBP, water correction"]["soft_mae_hu"] < 0.5 * found["FBP, uncorrected"]["soft_mae_hu"]
    assert found["polyenergetic model"]["soft_mae_hu"] < 15


def test_radiography(tmp_path):
    found = run("radiography", tmp_path / "r", ["detector.size=64", "detector.spacing=2.4", "draws=8", "tube.counts=[1e3, 1e5]"])
    assert found["curves"]["largest_snr_deviation"] < 0.1
    assert found["curves"]["largest_penumbra_deviation_mm"] < 0.01
    narrow, broad, grid = (found[k] for k in ("narrow beam", "broad beam", "broad beam, grid"))
    assert abs(broad["contrast_bone"]) < abs(grid["contrast_bone"]) < abs(narrow["contrast_bone"])
    assert grid["scatter_to_primary"] == pytest.approx(broad["scatter_to_primary"] * 0.1 / 0.7, rel=1e-4)
