"""Trainings inside a recipe, kept in a folder by what determines them: one that was stopped goes on, one that ended is reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section
from diffimg.experiment.run import Run


class Cache(Section):
    """Where trainings are kept."""

    folder: str | None = Field(default=None)  # None: inside the run folder; another run with the same folder goes on from there


def trained(
    run: Run, cache: Cache, name: str, settings: dict[str, Any], loss: Callable, params: Any, batch: Callable, steps: int, key: Any,
    **options: Any,
) -> Any:  # fmt: skip
    """``learn.train`` in a folder named after ``settings``; → (its result, its seconds, those of earlier runs included).

    ``settings``: everything that determines the training, JSON.
    """
    from diffimg import learn

    digest = hashlib.sha256(json.dumps([name, steps, settings], sort_keys=True).encode()).hexdigest()[:12]
    root = run.folder / "trainings" if cache.folder is None else Path(cache.folder)
    folder = root / f"{name.replace(' ', '_')}-{digest}"
    tell = run.iterations(name)

    def report(line):
        if "loss" in line:
            tell(line["step"], line["loss"], float("nan"))
        run.log("training", stage=name, **line)

    with run.stage(name, total=steps) as watch:
        result = learn.train(loss, params, batch, steps, key=key, folder=folder, report=report, **options).check()
        watch.note = f"step {result.best_step} of {result.step}"
    return result, _seconds(folder / "log.jsonl")


def _seconds(log: Path) -> float:
    """Of all steps, from the log, which outlives interruptions."""
    total, last = 0.0, 0
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "steps_per_second" in line:
            total += (line["step"] - last) / line["steps_per_second"]
            last = line["step"]
    return total
