"""The run folder: everything a run leaves behind, valid at any moment, and the driver that executes a recipe into one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffimg.experiment import provenance
from diffimg.experiment.config import ConfigError, Experiment, dump
from diffimg.experiment.progress import Progress, Silent
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.timing import Stopwatch

MARK = "provenance.json"  # the file that makes a folder a run folder
_FILES = (MARK, "config.yaml", "log.jsonl", "metrics.json", "arrays.npz", "report.html", "*.png", "transform.*", "warped.nii.gz", "back_*")


class RunError(RuntimeError):
    """A recipe could not finish."""


class Interrupted(KeyboardInterrupt):
    """The run was told to stop."""


class Run:
    """An open run folder, handed to a recipe.

    ``status``: running, then complete, interrupted or failed. Every file is replaced as a whole (log.jsonl grows by whole lines), so
    the folder can be read at any time and is what is left when the run is stopped.
    """

    def __init__(
        self, folder: str | Path, config: Experiment, *, overwrite: bool = False, progress: Progress | None = None, command: str = ""
    ):
        self.folder = prepare_folder(folder, overwrite)
        self.config = config
        self._progress = progress or Silent()
        self._lock = threading.RLock()
        self._closed = False
        self._began = time.perf_counter()
        self._metrics: dict[str, Any] = {}
        self._arrays: dict[str, Any] = {}
        self._provenance = {
            "status": "running",
            "recipe": config.recipe,
            "command": command or provenance.command(),
            "seed": config.seed,
            "start": _now(),
            "end": None,
            "seconds": None,
            "versions": provenance.versions(),
            "git": provenance.git_state(),
            "system": provenance.system(),
            "device": None,
        }
        self.write("config.yaml", dump(config))
        self._save_provenance()
        self.log("start", recipe=config.recipe)

    @property
    def status(self) -> str:
        """running, complete, interrupted or failed."""
        return self._provenance["status"]

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metric`` and ``define`` have recorded so far."""
        return self._metrics

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the run comes from, as in provenance.json."""
        return self._provenance

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file in one piece: into a temporary one first, then renamed."""
        with self._open():
            temporary = self.folder / f".{name}.tmp"
            try:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
                os.replace(temporary, self.folder / name)
            finally:
                temporary.unlink(missing_ok=True)

    def log(self, event: str, **fields: Any) -> None:
        """Append a line to log.jsonl: seconds since the start, event, fields."""
        line = json.dumps(
            {"t": round(time.perf_counter() - self._began, 4), "event": event, **_plain(fields)}, ensure_ascii=False, allow_nan=False
        )
        with self._open(), open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stopwatch]:
        """A named piece of the run, timed with its compilations apart; ``watch.note`` is shown. ``total``: iterations to expect."""
        self._check_open()
        self.log("stage start", stage=name)
        self._progress.start(name, total)
        with Stopwatch() as watch:
            yield watch
        times = {"seconds": watch.seconds - watch.compile_seconds, "compile_seconds": watch.compile_seconds}
        self.log("stage end", stage=name, **times)
        with self._lock:
            self._metrics.setdefault("stages", {})[name] = times
            self.write("metrics.json", _json(self._metrics))
        self._progress.end(name, watch.seconds, watch.compile_seconds, watch.note)

    def iterations(self, stage: str) -> Callable[[Any, Any, Any], None]:
        """A callback for ``diffimg.solve.run(progress=…)``."""
        _LATEST[stage] = self
        return _Iterations(stage)

    def history(self, stage: str, objective: Any, residual: Any) -> None:
        """Log the objective and the relative change of every iteration."""
        for k, value in enumerate(objective):
            if math.isfinite(value):
                change = float(residual[k - 1]) if k else math.nan
                self.log("iteration", stage=stage, iteration=k, objective=float(value), residual=change)

    def metric(self, method: str, **values: Any) -> None:
        """Record metrics of a method, in metrics.json and the log."""
        with self._lock:
            self._metrics.setdefault("methods", {}).setdefault(method, {}).update(_plain(values))
            self.write("metrics.json", _json(self._metrics))
        self.log("metrics", method=method, **values)

    def define(self, **definitions: str) -> None:
        """State what the metrics mean, in metrics.json."""
        with self._lock:
            self._metrics.setdefault("definitions", {}).update(definitions)
            self.write("metrics.json", _json(self._metrics))

    def arrays(self, **arrays: Any) -> None:
        """Add arrays to arrays.npz."""
        import numpy as np

        with self._lock:
            self._arrays.update({k: np.asarray(v) for k, v in arrays.items()})
            buffer = io.BytesIO()
            np.savez(buffer, **self._arrays)
            self.write("arrays.npz", buffer.getvalue())

    def device(self) -> None:
        """Record the device that is being used."""
        self._provenance["device"] = provenance.device()
        self._save_provenance()

    def close(self, status: str, error: str = "") -> None:
        """End the run; a computation that could not be stopped writes nothing any more."""
        with self._lock:
            if self._closed:
                return
            self._provenance |= {"status": status, "end": _now(), "seconds": round(time.perf_counter() - self._began, 3)}
            if error:
                self._provenance["error"] = error
            if not self._metrics:
                self.write("metrics.json", _json({"methods": {}}))
            self._save_provenance()
            self.log("end", status=status, **({"error": error} if error else {}))
            self._closed = True
        self._progress.close()

    def _save_provenance(self) -> None:
        self.write(MARK, _json(self._provenance))

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise Interrupted("the run was ended")


_LATEST: dict[str, Run] = {}  # by stage


@dataclasses.dataclass(frozen=True)
class _Iterations:
    """Callbacks of one stage are equal, so that the next run of a sweep reuses the compiled loop; they speak to the latest run."""

    stage: str

    def __call__(self, iteration: Any, objective: Any, residual: Any) -> None:
        run = _LATEST[self.stage]
        if not run._closed:
            run._progress.iterate(self.stage, int(iteration), float(objective), float(residual))


def execute(recipe: Recipe, run: Run, device: Any = None) -> None:
    """Run the recipe and close the folder, whatever happens.

    It works in a thread of its own: Python handles Ctrl-C only between the bytecodes of the main thread, which would otherwise be
    blocked in a computation. ``device``: a ``jax.Device``; JAX's choice by default. Raises KeyboardInterrupt when interrupted and
    RunError when the recipe failed.
    """
    import jax

    outcome: list[BaseException] = []
    done = threading.Event()  # an interrupted Thread.join marks a thread that still runs as stopped (Python 3.11)

    def work() -> None:
        try:
            with jax.default_device(device):
                run.device()
                recipe.function(run.config, run)
        except BaseException as error:
            outcome.append(error)
        finally:
            done.set()

    worker = threading.Thread(target=work, name="diffimg-run", daemon=True)
    try:
        worker.start()
        while not done.wait(0.1):
            pass
        worker.join()
    except KeyboardInterrupt:
        run.close("interrupted")
        raise
    error = outcome[0] if outcome else None
    if error is None:
        run.close("complete")
    elif isinstance(error, KeyboardInterrupt):
        run.close("interrupted")
        raise error
    else:
        text = str(error) if isinstance(error, (ValueError, RunError, ImportError)) else f"{type(error).__name__}: {error}"
        run.close("failed", _without_folders(text))
        raise RunError(text) from error


def prepare_folder(folder: str | Path, overwrite: bool = False) -> Path:
    """Create the folder; refuse one that holds anything, unless it is an older run that failed or may be overwritten."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: expected a folder, got the file {folder}. Choose another --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise ConfigError(f"--out: expected a new or empty folder, got {folder}, which holds other files. Choose another --out.")
        if not overwrite and _status(folder) != "failed":
            raise ConfigError(
                f"--out: expected a new or empty folder, got {folder}, which holds a run. Choose another --out, or replace it: --overwrite."
            )
        for pattern in _FILES:
            for file in folder.glob(pattern):
                file.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out: expected a folder that can be written, got {folder} ({error.strerror}). Choose another --out."
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out: expected a folder that can be written, got {folder}. Choose another --out, or change its rights.")
    return folder


def _status(folder):
    try:
        return json.loads((folder / MARK).read_text(encoding="utf-8")).get("status")
    except (ValueError, OSError, AttributeError):
        return None


def default_folder(recipe: str, root: str | Path = "runs") -> Path:
    """``runs/<recipe>-<time>``, with a number behind it where that exists."""
    base = Path(root) / f"{recipe}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    candidates = [base, *(base.with_name(f"{base.name}-{k}") for k in range(2, 100))]
    return next(c for c in candidates if not c.exists())


def load(folder: str | Path) -> dict[str, Any]:
    """What a run folder holds: ``config``, ``metrics``, ``provenance`` as mappings; ``arrays``: the file's path or None."""
    from diffimg.experiment.config import read

    folder = Path(folder)
    if not (folder / MARK).is_file():
        raise ConfigError(f"RUN: expected a run folder (one with {MARK}), got {folder}. `diffimg run CONFIG --out {folder}` makes one.")
    try:
        parts = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("metrics", "provenance")}
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"RUN: expected a readable run folder, got {folder} ({error}).") from error
    arrays = folder / "arrays.npz"
    return {**parts, "config": read(folder / "config.yaml"), "arrays": arrays if arrays.is_file() else None}


def find_device(name: str) -> Any:
    """The first device of a platform, or a ``ConfigError`` that says which there are."""
    import jax

    try:
        return jax.devices(name)[0]
    except RuntimeError:
        have = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise ConfigError(
            f"--device: expected an available device, got {name!r}; this JAX sees {have}. `diffimg doctor` says more."
        ) from None


def _without_folders(text: str) -> str:
    """Absolute paths in a message, cut to their last part."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\"`,;:()]+[\\/])+", "", text)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _json(content: Any) -> str:
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Built-in types only; NaN and Inf, which JSON does not know, become None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def tabulate(methods: dict[str, dict[str, Any]], columns: Sequence[str]) -> list[list[str]]:
    """Rows of text: method, then the columns; a dash for what is missing."""
    return [[name, *(number(values.get(c), c) for c in columns)] for name, values in methods.items()]


def number(value: Any, column: str = "") -> str:
    """A value for a table; decibels with two decimals."""
    if value is None:
        return "–"
    if column.endswith("_db") and isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
