"""``diffimg compare``: two run folders side by side, in metrics, configs and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffimg.experiment import pictures
from diffimg.experiment.config import flatten
from diffimg.experiment.report import Report
from diffimg.experiment.run import number


def metric_rows(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """``[method, metric, first, second, second − first]`` for every metric that either run has."""
    a, b = (run["metrics"].get("methods", {}) for run in (first, second))
    rows = []
    for method in dict.fromkeys([*a, *b]):
        left, right = a.get(method, {}), b.get(method, {})
        for metric in dict.fromkeys([*left, *right]):
            p, q = left.get(metric), right.get(metric)
            if p is None and q is None:
                continue
            numeric = all(isinstance(v, (int, float)) for v in (p, q))
            rows.append([method, metric, number(p), number(q), f"{q - p:+.4g}" if numeric else ("" if p == q else "differs")])
    return rows


def config_rows(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """``[key, first, second]`` for every key in which the resolved configs differ."""
    a, b = flatten(first["config"]), flatten(second["config"])
    return [[k, repr(a.get(k, "–")), repr(b.get(k, "–"))] for k in dict.fromkeys([*a, *b]) if a.get(k, "–") != b.get(k, "–")]


def images(run: dict[str, Any]) -> dict[str, np.ndarray]:
    """The truth of a run and the images ``[y, x]`` of its shape, under the names of their methods."""
    if run["arrays"] is None:
        return {}
    methods = {method.lower(): method for method in run["metrics"].get("methods", {})}
    with np.load(run["arrays"]) as stored:
        if "truth" not in stored:
            return {}
        shape = stored["truth"].shape
        return {methods.get(name, name): stored[name] for name in stored.files if stored[name].shape == shape}


def picture(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> tuple[bytes, Report]:
    """A PNG (a row a run) and an HTML report of both runs, which are called A and B in it."""
    runs = {"A": first, "B": second}
    found = {letter: images(run) for letter, run in runs.items()}
    window = _window(list(found.values()))
    rows: list[list[pictures.Panel | None]] = []
    for letter, run in runs.items():
        panels = [
            pictures.Panel(image, f"{letter}: {name}", _caption(run, name), window, pixel_size=_pixel(run))
            for name, image in found[letter].items()
        ]
        rows.append([*panels] or [None])
    legend = f"A = {names[0]}\nB = {names[1]}"
    png = pictures.png(pictures.grid(rows, legend))
    report = Report("Two runs compared", legend)
    report.picture("Overview", png)
    columns = ("A", "B", "difference")
    report.table("Metrics", {f"{m} {k}": dict(zip(columns, values, strict=True)) for m, k, *values in metric_rows(first, second)}, columns)
    report.table(
        "Config differences", {key: dict(zip(columns, values, strict=False)) for key, *values in config_rows(first, second)}, columns[:2]
    )
    both = {f"{letter}: {name}": image for letter in runs for name, image in found[letter].items()}
    for shape in dict.fromkeys(image.shape for image in both.values()):
        group = {name: image for name, image in both.items() if image.shape == shape}
        report.images(f"Images {shape[0]} × {shape[1]}", group, window, pixel_size=_pixel(runs[next(iter(group))[0]]))
    return png, report


def labels(first: Path, second: Path) -> tuple[str, str]:
    """Short, different names of two folders."""
    a, b = first.resolve().name, second.resolve().name
    return (a, b) if a != b else (f"{a} (1)", f"{b} (2)")


def _window(found: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    truths = [one["truth"] for one in found if one]
    if not truths:
        return 0.0, 1.0
    low, high = min(float(t.min()) for t in truths), max(float(np.quantile(t, 0.999)) for t in truths)
    return low, high if high > low else low + 1.0


def _pixel(run: dict[str, Any]) -> float | None:
    if run["arrays"] is None:
        return None
    with np.load(run["arrays"]) as stored:
        return float(stored["pixel_size"]) if "pixel_size" in stored else None


def _caption(run: dict[str, Any], name: str) -> str:
    value = run["metrics"].get("methods", {}).get(name, {}).get("psnr_db")
    return f"PSNR {value:.2f} dB" if isinstance(value, float) else ""
