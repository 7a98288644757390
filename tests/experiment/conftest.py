import pytest
from small_job import SMALL, parse, read_json, sets
from typer.testing import CliRunner

from diffimg.experiment.cli import app


@pytest.fixture
def diffimg():
    """Call the command line in this process."""

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One small run of the main job, shared by the tests that only look."""
    pytest.importorskip("pydicom")
    folder = tmp_path_factory.mktemp("runs") / "first"
    result = CliRunner().invoke(app, ["run", "ct_sparse_view", "--out", str(folder), *sets(*SMALL)])
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="module")
def job(request, tmp_path_factory):
    """Run one of the module's ``JOBS`` (or with other settings), look at its files, and return its metrics."""

    def run(name, settings=None):
        folder = tmp_path_factory.mktemp(name) / "run"
        result = CliRunner().invoke(
            app, ["run", name, "--out", str(folder), *sets(*(request.module.JOBS[name] if settings is None else settings))]
        )
        assert result.exit_code == 0, result.output
        parse((folder / "report.html").read_text(encoding="utf-8"))
        assert (folder / "overview.png").stat().st_size > 20_000
        return read_json(folder / "metrics.json")["methods"]

    return run
