"""The command line, from its end: exit codes, messages, files."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from small_job import SMALL, parse, read_json, sets

from diffimg.experiment import recipes
from diffimg.experiment.recipes import ct_sparse_view


def test_run_leaves_a_complete_folder(finished):
    folder, result = finished
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "provenance.json", "log.jsonl", "metrics.json", "arrays.npz", "overview.png", "report.html",
    }  # fmt: skip
    metrics = read_json(folder / "metrics.json")
    assert list(metrics["methods"]) == ["FBP", "Tikhonov", "TV"]
    for values in metrics["methods"].values():
        assert {"psnr_db", "ssim", "nmse", "seconds", "compile_seconds", "iterations", "status"} <= set(values)
    assert {"simulate", "FBP", "prepare", "Tikhonov", "TV", "report"} == set(metrics["stages"])
    assert metrics["methods"]["TV"]["iterations"] == 8
    assert read_json(folder / "provenance.json")["status"] == "complete"
    assert str(folder.parent) not in "".join(p.read_text(errors="ignore") for p in folder.iterdir() if p.suffix != ".npz")
    assert "psnr_db" in result.output
    assert "8 iterations" in result.output
    with np.load(folder / "arrays.npz") as arrays:
        assert arrays["truth"].shape == arrays["tv"].shape == (32, 32)
        assert arrays["sinogram"].shape[0] == 12
        assert arrays["tv"].min() >= 0
    log = (folder / "log.jsonl").read_text()
    assert log.count('"event": "iteration"') == 7 + 9


def test_report_of_a_run_is_self_contained(finished):
    page = (finished[0] / "report.html").read_text()
    tags = parse(page).tags
    assert tags.count("svg") == 2
    assert page.count("data:image/png;base64,") == 1 + 4 + 3 + 2


def test_metrics_agree_with_scikit_image(finished):
    skimage = pytest.importorskip("skimage.metrics")
    metrics = read_json(finished[0] / "metrics.json")["methods"]["TV"]
    with np.load(finished[0] / "arrays.npz") as arrays:
        truth, tv = arrays["truth"].astype(float), arrays["tv"].astype(float)
    span = np.ptp(truth)
    assert metrics["psnr_db"] == pytest.approx(skimage.peak_signal_noise_ratio(truth, tv, data_range=span), abs=1e-3)
    assert metrics["ssim"] == pytest.approx(skimage.structural_similarity(truth, tv, data_range=span), abs=1e-4)


def test_a_run_is_reproduced_from_its_own_folder(finished, diffimg, tmp_path):
    result = diffimg("run", finished[0], "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    with np.load(finished[0] / "arrays.npz") as a, np.load(tmp_path / "again" / "arrays.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    compared = diffimg("compare", finished[0], tmp_path / "again", "--out", tmp_path / "c")
    assert compared.exit_code == 0
    assert "The configs are the same." in compared.output
    parse((tmp_path / "c" / "compare.html").read_text())
    assert (tmp_path / "c" / "compare.png").stat().st_size > 1000
    assert diffimg("compare", finished[0], tmp_path / "again", "--out", tmp_path / "c").exit_code == 2


def test_sweep_goes_on_past_a_failed_run(diffimg, tmp_path):
    pytest.importorskip("pydicom")
    result = diffimg("sweep", "ct_sparse_view", *sets(*SMALL), "--over", "tv.weight=0.01,-1,0.3", "--out", tmp_path / "s")
    assert result.exit_code == 1
    assert "1 of 3 runs failed" in result.output
    with open(tmp_path / "s" / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 + 1 + 3
    assert "expected a value ≥ 0" in next(r for r in rows if r["tv.weight"] == "-1")["error"]
    tv = {r["tv.weight"]: float(r["psnr_db"]) for r in rows if r["method"] == "TV"}
    assert tv["0.01"] != tv["0.3"]
    first = next((tmp_path / "s").glob("000*"))
    assert diffimg("compare", first, next((tmp_path / "s").glob("002*"))).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nothing.yaml"], 2, "does not exist"),
        (["run", "ct_sparse_view", "--set", "solver.stps=3"], 2, "Did you mean 'solver.steps'"),
        (["run", "ct_sparse_view", "--set", "tv.weight=-1"], 2, "tv.weight: expected a value ≥ 0, got -1"),
        (["run", "ct_sparse_view", "--device", "tpu", "--out", "unused"], 2, "this JAX sees"),
        (["run", "ct_sparse_view", "--device", "abacus"], 2, "abacus"),
        (["show", "ct_sparse_view", "--set", "recipe=x"], 2, "recipe: expected one of"),
        (["sweep", "ct_sparse_view", "--over", "tv.wieght=1"], 2, "Did you mean 'tv.weight'"),
        (["sweep", "ct_sparse_view", "--over", "tv.weight"], 2, "--over: expected key=a,b,c"),
        (["compare", "no", "run"], 2, "expected a run folder"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_input_is_one_message(diffimg, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    result = diffimg(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "data.file: expected a readable"),
        (None, "data.file: expected a readable"),
        (np.full((8, 8), np.nan), "finite values"),
        (np.ones((3, 8, 8)), "one image [y, x]"),
    ],
)
def test_unreadable_image(diffimg, tmp_path, content, message):
    pytest.importorskip("pydicom")
    path = tmp_path / "scan.npy"
    if isinstance(content, bytes):
        path = tmp_path / "scan.dcm"
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    result = diffimg("run", "ct_sparse_view", "--set", f"data.file={path}", "--out", tmp_path / "r")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert read_json(tmp_path / "r" / "provenance.json")["status"] == "failed"
    assert str(tmp_path) not in (tmp_path / "r" / "config.yaml").read_text()


def test_image_from_a_file(tmp_path):
    y, x = np.mgrid[:64, :64] - 31.5
    np.save(tmp_path / "disc.npy", 0.02 * (np.hypot(y, x) < 20))
    image = ct_sparse_view.read_image(str(tmp_path / "disc.npy"), 0.5)
    assert (image.unit, image.spacing, image.image.shape) == ("1/mm", (0.5, 0.5), (64, 64))


def test_existing_folder_is_refused_with_a_remedy(finished, diffimg):
    result = diffimg("run", "ct_sparse_view", "--out", finished[0])
    assert result.exit_code == 2
    assert "--overwrite" in result.output


def test_interrupted_run(diffimg, tmp_path, monkeypatch):
    pytest.importorskip("pydicom")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ct_sparse_view, "solver_for", interrupt)
    result = diffimg("run", "ct_sparse_view", *sets(*SMALL), "--out", tmp_path / "r")
    assert result.exit_code == 130
    assert "holds what was finished" in result.output
    assert read_json(tmp_path / "r" / "provenance.json")["status"] == "interrupted"
    assert list(read_json(tmp_path / "r" / "metrics.json")["methods"]) == ["FBP"]
    with np.load(tmp_path / "r" / "arrays.npz") as arrays:
        assert "fbp" in arrays


def test_debug_shows_the_traceback(diffimg):
    result = diffimg("show", "nothing", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.output


def test_diverging_solver_fails_the_run(diffimg, tmp_path, monkeypatch):
    pytest.importorskip("pydicom")
    from diffimg import solve

    chosen = ct_sparse_view.solver_for
    monkeypatch.setattr(
        ct_sparse_view, "solver_for", lambda c, m: (solve.ProximalGradient(step_size=1e30), 8, 0.0) if m == "TV" else chosen(c, m)
    )
    result = diffimg("run", "ct_sparse_view", *sets(*SMALL), "--out", tmp_path / "r")
    assert result.exit_code == 1
    assert "TV: an iterate became NaN or Inf" in result.output


def test_list_and_show(diffimg):
    listed = diffimg("list")
    assert listed.exit_code == 0
    assert "ct_sparse_view" in listed.output
    shown = diffimg("show", "ct_sparse_view", "--set", "solver.steps=7")
    assert shown.exit_code == 0
    assert "steps: 7" in shown.output
    assert "inner_steps" in shown.output


def test_doctor(diffimg, monkeypatch):
    from diffimg.experiment import doctor

    good = diffimg("doctor")
    assert good.exit_code == 0, good.output
    assert "canary" in good.output
    for bad in ("0.10.2", "0.11.0", "0.11.1"):
        finding = doctor.release("jaxlib", bad)
        assert finding.level == "bad"
        assert "pip install" in finding.remedy
    assert doctor.release("jaxlib", "0.10.1").level == "ok"
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda p: "0.10.2" if p == "jaxlib" else version(p))
    result = diffimg("doctor")
    assert result.exit_code == 1
    assert "silently wrong" in result.output


def test_canary_sees_a_miscompilation(monkeypatch):
    import jax

    from diffimg.experiment import doctor

    monkeypatch.setattr(jax, "jit", lambda f: lambda *a: 1.002 * f(*a))
    assert doctor.canary().level == "bad"


def test_bench_without_the_repository(diffimg, monkeypatch, tmp_path):
    import diffimg as package

    monkeypatch.setattr(package, "__file__", str(tmp_path / "diffimg" / "__init__.py"))
    result = diffimg("bench")
    assert result.exit_code == 2
    assert "Clone the repository" in result.output


def test_recipe_of_another_package(monkeypatch):
    class Entry:
        name = "mine"

        def load(self):
            return "recipe"

    monkeypatch.setattr(recipes.importlib.metadata, "entry_points", lambda group: [Entry()])
    assert "mine" in recipes.names()
    assert recipes.find("mine") == "recipe"


def test_the_command_line_starts_without_jax():
    code = "import sys, diffimg.experiment.cli; sys.exit(bool({'jax', 'matplotlib', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    out = subprocess.run([sys.executable, "-m", "diffimg", "--version"], capture_output=True, text=True, check=True).stdout
    assert out.startswith("diffimg ")
