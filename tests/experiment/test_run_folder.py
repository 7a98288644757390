"""The run folder: complete, partial after an interrupt, never half-written, and without private names."""

import json
import signal
import threading
import time

import numpy as np
import pytest
from small_job import read_json

from diffimg.experiment import provenance, timing
from diffimg.experiment.config import ConfigError, Experiment
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.run import Run, RunError, default_folder, execute, find_device, load

CONFIG = Experiment(recipe="test")


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_complete_run(tmp_path):
    def function(config, run):
        run.define(score="higher is better")
        with run.stage("work", 10) as watch:
            run.iterations("work")(5, 1.0, 0.1)
            watch.note = "done"
        run.metric("A", score=np.float32(1.5), bad=float("nan"))
        run.history("work", [3.0, 2.0, float("nan")], [0.5, float("nan")])
        run.arrays(x=np.arange(3))
        run.arrays(y=np.ones(2))

    run = Run(tmp_path / "r", CONFIG)
    assert read_json(run.folder / "provenance.json")["status"] == "running"
    execute(Recipe(Experiment, function), run)
    found = load(run.folder)
    assert found["provenance"]["status"] == "complete"
    assert found["provenance"]["device"]["platform"]
    assert found["provenance"]["versions"]["jax"]
    assert found["metrics"]["methods"] == {"A": {"score": 1.5, "bad": None}}
    assert found["metrics"]["definitions"] == {"score": "higher is better"}
    assert set(found["metrics"]["stages"]["work"]) == {"seconds", "compile_seconds"}
    assert found["config"]["recipe"] == "test"
    with np.load(found["arrays"]) as arrays:
        assert set(arrays.files) == {"x", "y"}
    events = [line["event"] for line in lines(run.folder)]
    assert events == ["start", "stage start", "stage end", "metrics", "iteration", "iteration", "end"]
    times = [line["t"] for line in lines(run.folder)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("error", "raised", "status"), [(KeyboardInterrupt, KeyboardInterrupt, "interrupted"), (OSError, RunError, "failed")]
)
def test_stopped_inside_a_stage(tmp_path, error, raised, status):
    def function(config, run):
        with run.stage("first"):
            run.metric("A", score=1.0)
        run.arrays(x=np.arange(3))
        with run.stage("second"):
            raise error(f"cannot read '{tmp_path / 'secret' / 'scan.dcm'}'")

    run = Run(tmp_path / "r", CONFIG)
    with pytest.raises(raised):
        execute(Recipe(Experiment, function), run)
    found = load(run.folder)
    assert found["provenance"]["status"] == status
    assert found["provenance"]["end"]
    assert found["metrics"]["methods"] == {"A": {"score": 1.0}}
    assert lines(run.folder)[-1]["status"] == status
    assert not [p for p in run.folder.iterdir() if p.name.endswith(".tmp")]
    everything = "".join(p.read_text() for p in run.folder.iterdir() if p.suffix in (".json", ".jsonl", ".yaml"))
    assert str(tmp_path) not in everything
    if status == "failed":
        assert found["provenance"]["error"] == "OSError: cannot read 'scan.dcm'"


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also in a process that was started with SIGINT ignored (a background job of a script)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_while_computing_is_at_once_and_ends_all_writing(tmp_path, interruptible):
    import _thread

    release, late = threading.Event(), []

    def function(config, run):
        run.metric("A", score=1.0)
        release.wait(20)  # a computation that cannot be stopped
        try:
            run.metric("B", score=2.0)
        except KeyboardInterrupt as error:
            late.append(error)

    run = Run(tmp_path / "r", CONFIG)
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        execute(Recipe(Experiment, function), run)
    found = load(run.folder)
    assert found["provenance"]["status"] == "interrupted"
    release.set()
    for _ in range(100):
        if late:
            break
        time.sleep(0.05)
    assert late
    assert load(run.folder) == found


def test_write_leaves_the_old_file_when_it_fails(tmp_path):
    run = Run(tmp_path / "r", CONFIG)
    run.write("a.txt", "old")
    with pytest.raises(TypeError):
        run.write("a.txt", 3)
    assert (run.folder / "a.txt").read_text() == "old"
    assert not list(run.folder.glob(".*"))


def test_folders(tmp_path):
    first = tmp_path / "r"
    Run(first, CONFIG).write("old.png", b"")
    (first / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds a run.*--overwrite"):
        Run(first, CONFIG)
    Run(first, CONFIG, overwrite=True)
    assert not (first / "old.png").exists()
    assert (first / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        Run(other, CONFIG, overwrite=True)
    with pytest.raises(ConfigError, match="got the file"):
        Run(other / "thesis.tex", CONFIG)
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty", CONFIG)
    assert default_folder("x", tmp_path).name.startswith("x-")
    with pytest.raises(ConfigError, match="expected a run folder"):
        load(other)
    (first / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match="readable run folder"):
        load(first)


def test_unknown_device():
    with pytest.raises(ConfigError, match=r"--device: expected an available device, got 'tpu'; this JAX sees"):
        find_device("tpu")
    assert find_device("cpu").platform == "cpu"


def test_command_and_paths_are_portable():
    arguments = [
        "/home/me/bin/diffimg",
        "run",
        "configs/a.yaml",
        "--out",
        "/home/me/x",
        "--set",
        "data.file=/home/me/scan.dcm",
        "--out=~/y",
        "../z",
    ]
    assert provenance.command(arguments) == "diffimg run configs/a.yaml --out x --set data.file=scan.dcm --out=y z"


def test_git_state_names_a_commit_or_nothing():
    state = provenance.git_state()
    assert state is None or set(state) == {"commit", "dirty"}


def test_stopwatch_separates_compilation():
    import jax
    import jax.numpy as jnp

    f = jax.jit(lambda x: jnp.sin(jax.jit(jnp.cos)(x) @ x).sum())
    x = jnp.ones((16, 16))
    with timing.Stopwatch() as first:
        f(x).block_until_ready()
    with timing.Stopwatch() as second:
        f(x).block_until_ready()
    assert 0 < first.compile_seconds <= first.seconds
    assert second.compile_seconds == 0


def test_nested_compile_phases_count_once():
    assert timing._union([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6
