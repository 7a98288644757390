"""``diffimg compare``: two run folders side by side, in metrics, configs and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffimg.experiment import pictures
from diffimg.experiment.config import flatten
from diffimg.experiment.report import Report
from diffimg.experiment.run import load, number


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
    """The images ``[y, x]`` of a run that have the shape of its truth, and the truth."""
    if run["arrays"] is None:
        return {}
    with np.load(run["arrays"]) as stored:
        if "truth" not in stored:
            return {}
        shape = stored["truth"].shape
        return {name: stored[name] for name in stored.files if stored[name].shape == shape}


def picture(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> tuple[bytes, Report]:
    """A PNG (a row a run) and an HTML report of both runs."""
    pair = [images(run) for run in (first, second)]
    window = _window(pair)
    rows = []
    for run, name, found in zip((first, second), names, pair, strict=True):
        captions = run["metrics"].get("methods", {})
        rows.append([pictures.Panel(i, f"{name}: {k}", _caption(captions, k), window, pixel_size=_pixel(run)) for k, i in found.items()])
    title = f"{names[0]} and {names[1]}"
    png = pictures.png(pictures.grid([row or [None] for row in rows], title))
    report = Report(title, "Two runs compared.")
    report.picture("Overview", png)
    columns = list(names)
    report.table("Metrics", {f"{m} {k}": dict(zip([*columns, "difference"], values, strict=True)) for m, k, *values in metric_rows(first, second)},
                 [*columns, "difference"])
    report.table("Config differences", {key: dict(zip(columns, values, strict=True)) for key, *values in config_rows(first, second)}, columns)
    both = {f"{name}: {k}": i for name, found in zip(names, pair, strict=True) for k, i in found.items()}
    for shape in dict.fromkeys(i.shape for i in both.values()):
        report.images(f"Images {shape[0]} × {shape[1]}", {k: i for k, i in both.items() if i.shape == shape}, window, pixel_size=_pixel(first))
    return png, report


def labels(first: Path, second: Path) -> tuple[str, str]:
    """Short, different names of two folders."""
    a, b = first.resolve().name, second.resolve().name
    return (a, b) if a != b else (f"{a} (1)", f"{b} (2)")


def _window(pair: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    truths = [found["truth"] for found in pair if found]
    if not truths:
        return 0.0, 1.0
    low, high = min(float(t.min()) for t in truths), max(float(np.quantile(t, 0.999)) for t in truths)
    return low, high if high > low else low + 1.0


def _pixel(run: dict[str, Any]) -> float | None:
    if run["arrays"] is None:
        return None
    with np.load(run["arrays"]) as stored:
        return float(stored["pixel_size"]) if "pixel_size" in stored else None


def _caption(methods: dict[str, Any], name: str) -> str:
    values = next((v for k, v in methods.items() if k.lower() == name), {})
    return f"PSNR {values['psnr_db']:.2f} dB" if isinstance(values.get("psnr_db"), float) else ""
