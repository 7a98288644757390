"""``diffimg sweep``: a config for every combination of values, each in a run folder of its own, and one table."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffimg.experiment.config import ConfigError, parse_scalar


def parse_over(arguments: Sequence[str]) -> dict[str, list[Any]]:
    """``k=a,b,c`` arguments as ``{"k": [a, b, c]}``; commas inside brackets do not split."""
    axes: dict[str, list[Any]] = {}
    for argument in arguments:
        key, equals, values = argument.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise ConfigError(f"--over: expected key=a,b,c such as tv.weight=0.01,0.1, got {argument!r}.")
        if key.strip() in axes:
            raise ConfigError(f"--over: the key {key.strip()!r} is given twice. Join its values with commas.")
        axes[key.strip()] = [parse_scalar(v, f"--over {key.strip()}") for v in _split(values)]
    if not axes:
        raise ConfigError("--over: expected at least one key=a,b,c, got none. E.g. --over tv.weight=0.01,0.1.")
    return axes


def combinations(axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last key running fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def folder_name(index: int, point: dict[str, Any]) -> str:
    """A name that sorts in the order of the sweep and reads as its values."""
    text = "_".join(f"{key}={value}" for key, value in point.items())
    return f"{index:03d}_" + "".join(c if c.isalnum() or c in "._=-+" else "-" for c in text)[:120]


def sweep(axes: dict[str, list[Any]], out: Path, one: Callable[[list[str], Path], str]) -> list[dict[str, Any]]:
    """Call ``one(overrides, folder) → error text or ""`` for every combination; a failed one is reported and the sweep goes on.

    Returns one row for each combination and method: the folder, the swept values, the method, its metrics and the run's error. Writes
    them to ``out/sweep.csv`` after every run, so that an interrupted sweep leaves its table.
    """
    rows: list[dict[str, Any]] = []
    for index, point in enumerate(combinations(axes)):
        folder = out / folder_name(index, point)
        error = one([f"{key}={json.dumps(value)}" for key, value in point.items()], folder)
        rows += _rows(folder, point, error)
        _write(out / "sweep.csv", rows)
    return rows


def _rows(folder: Path, point: dict[str, Any], error: str) -> list[dict[str, Any]]:
    try:
        methods = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("methods", {})
    except FileNotFoundError:
        methods = {}
    base = {"run": folder.name, **point}
    return [{**base, "method": name, **values, "error": error} for name, values in (methods or {"": {}}).items()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    buffer = io.StringIO()
    fields = list(dict.fromkeys(k for row in rows for k in row if k != "error")) + ["error"]
    writer = csv.DictWriter(buffer, fields, restval="")
    writer.writeheader()
    writer.writerows(rows)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(buffer.getvalue(), encoding="utf-8")
    temporary.replace(path)


def _split(values: str) -> list[str]:
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts]
