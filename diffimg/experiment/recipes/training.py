"""Trainings inside a recipe, kept in a folder by what determines them: one that was stopped goes on, one that ended is reused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from diffimg.experiment.config import Section
from diffimg.experiment.run import Run

SHIPPED = Path(__file__).resolve().parents[2] / "weights" / "trainings"  # a result.npz each, or a .json that names a pretrained model


class Cache(Section):
    """Where trainings are kept."""

    folder: str | None = Field(default=None)  # None: inside the run folder; another run with the same folder goes on from there
    shipped: bool = True  # take the trainings of the default configs that come with diffimg


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a training left: the best parameters by validation, the step they are of, seconds of all steps, and the device's kind."""

    params: Any
    step: int
    seconds: float
    device: str


def trained(
    run: Run, cache: Cache, name: str, settings: dict[str, Any], loss: Callable, params: Any, batch: Callable, steps: int, key: Any,
    **options: Any,
) -> Outcome:  # fmt: skip
    """``learn.train`` in a folder named after ``settings``, which ends with a small ``result.npz``: that is all a later run needs.

    ``settings``: everything that determines the training, JSON.
    """
    import jax
    import numpy as np

    from diffimg import learn

    digest = hashlib.sha256(json.dumps([name, steps, settings], sort_keys=True).encode()).hexdigest()[:12]
    root = run.folder / "trainings" if cache.folder is None else Path(cache.folder)
    label = f"{name.replace(' ', '_').replace(',', '')}-{digest}"
    folder, found = root / label, _shipped(label) if cache.shipped else None
    kept = folder / "result.npz"
    tell = run.iterations(name)

    def report(line):
        if "loss" in line:
            tell(line["step"], line["loss"], float("nan"))
        run.log("training", stage=name, **line)

    again = f" (seed {settings['seed']})" if settings.get("seed") else ""
    with run.stage(f"training {name}{again}", total=steps) as watch:
        ready = "came with diffimg" if found else "found in the cache" if kept.is_file() else "trained"
        if found is None and not kept.is_file():
            result = learn.train(loss, params, batch, steps, key=key, folder=folder, report=report, **options).check()
            seconds = _seconds(folder / "log.jsonl")
            about = {"step": result.best_step, "seconds": seconds, "device": jax.devices()[0].device_kind, "settings": settings}
            learn.save_weights(kept, jax.tree.map(np.asarray, result.params), about)
        params, about = found or learn.load_weights(kept)
        watch.note = f"{ready}, {about['device']}, {about['seconds']:.0f} s; best of step {about['step']} of {steps}"
    return Outcome(params, about["step"], about["seconds"], about["device"])


def _shipped(label: str) -> tuple[Any, dict[str, Any]] | None:
    """(parameters, what is told of the training), if it came with the package."""
    from diffimg import learn

    weights, note = SHIPPED / f"{label}.npz", SHIPPED / f"{label}.json"
    if weights.is_file():
        return learn.load_weights(weights)
    if note.is_file():
        about = json.loads(note.read_text(encoding="utf-8"))
        return learn.pretrained(about["model"]).params, about
    return None


def _seconds(log: Path) -> float:
    """Of all steps, from the log, which outlives interruptions."""
    total, last = 0.0, 0
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "steps_per_second" in line:
            total += (line["step"] - last) / line["steps_per_second"]
            last = line["step"]
    return total
