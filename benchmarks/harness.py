"""Timing, comparison and reporting shared by the benchmarks."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass
class Row:
    """One line of the table. ``ratio`` = peer_s / own_s: larger is better. ``agreement``: relative difference of the two results."""

    case: str
    peer: str
    own_s: float
    peer_s: float
    ratio: float
    agreement: float | None
    compile_s: float | None = None
    own_iqr_s: float | None = None
    peer_iqr_s: float | None = None
    note: str = ""


@dataclasses.dataclass
class Timing:
    """Median and interquartile range of the runs, in seconds, and the last result."""

    median: float
    iqr: float
    result: Any


def clock(function: Callable[[], Any], repeats: int = 5, warmup: int = 1, at_least: float = 0.0) -> Timing:
    """Call ``function`` ``warmup`` + ``repeats`` times (more until ``at_least`` seconds), blocking on what it returns."""
    result = None
    for _ in range(warmup):
        result = jax.block_until_ready(function())
    gc.collect()
    times: list[float] = []
    while len(times) < repeats or sum(times) < at_least:
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
        if len(times) >= 200:
            break
    low, middle, high = np.percentile(times, [25, 50, 75])
    return Timing(float(middle), float(high - low), result)


def alternate(own: Callable[[], Any], peer: Callable[[], Any], repeats: int = 5, inner: int = 1) -> tuple[Timing, Timing]:
    """Time two functions in turn, so that a drift of the machine's speed meets both; ``inner`` own calls to one of the peer's."""
    a, b = jax.block_until_ready(own()), jax.block_until_ready(peer())
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        b = jax.block_until_ready(peer())
        theirs.append(time.perf_counter() - start)
        for _ in range(inner):
            start = time.perf_counter()
            a = jax.block_until_ready(own())
            ours.append(time.perf_counter() - start)
    out = []
    for times, result in ((ours, a), (theirs, b)):
        low, middle, high = np.percentile(times, [25, 50, 75])
        out.append(Timing(float(middle), float(high - low), result))
    return out[0], out[1]


def compiled(function: Callable, *args: Any) -> tuple[Callable[..., Any], float, int]:
    """(compiled program, compile seconds, bytes of temporary memory)."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - start
    analysis = program.memory_analysis()
    return program, seconds, int(getattr(analysis, "temp_size_in_bytes", 0))


def difference(a: Any, b: Any) -> float:
    """‖a − b‖ / ‖b‖ in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def complex_difference(a: Any, b: Any) -> float:
    """``difference`` of complex results, in complex128."""
    a, b = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def tree_bytes(tree: Any) -> int:
    """Bytes held by a pytree's arrays."""
    return sum(int(np.prod(np.shape(v))) * np.asarray(v).dtype.itemsize for v in jax.tree.leaves(tree))


class Table:
    """The rows of one benchmark."""

    def __init__(self, name: str, title: str, notes: str = "") -> None:
        self.name, self.title, self.notes, self.rows = name, title, notes, []

    def add(
        self,
        case: str,
        peer: str,
        own: Timing,
        peer_time: Timing,
        agreement: float | None,
        compile_s: float | None = None,
        note: str = "",
        scale: float = 1.0,
    ) -> None:
        """A row from two timings; ``scale`` multiplies the peer's (fewer iterations timed than reported)."""
        peer_s = peer_time.median * scale
        ratio = peer_s / own.median
        self.rows.append(Row(case, peer, own.median, peer_s, ratio, agreement, compile_s, own.iqr, peer_time.iqr * scale, note))

    def quantity(self, case: str, peer: str, own: float, peer_value: float, note: str = "") -> None:
        """A row that compares another quantity than seconds (memory in bytes, an error): ``ratio`` is still peer over own.

        Where the peer is a bound (its name begins with "bound"), the note says if it was missed.
        """
        if peer.startswith("bound") and not own <= peer_value:  # NaN misses
            note = f"missed; {note}" if note else "missed"
        self.rows.append(Row(case, peer, own, peer_value, peer_value / own, None, None, None, None, note))

    def show(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table as Rich

        table = Rich(title=f"{self.title}\n{device()}", caption=self.notes or None, title_justify="left", caption_justify="left")
        for column in ("case", "own", "± IQR", "peer", "peer's", "± IQR", "ratio", "agreement", "compile", "note"):
            table.add_column(column, justify="left" if column in ("case", "peer", "note") else "right")
        for r in self.rows:
            seconds = r.own_iqr_s is not None
            table.add_row(
                r.case,
                _time(r.own_s) if seconds else f"{r.own_s:.4g}",
                _time(r.own_iqr_s),
                r.peer,
                _time(r.peer_s) if seconds else f"{r.peer_s:.4g}",
                _time(r.peer_iqr_s),
                "" if r.ratio != r.ratio else f"{r.ratio:.1f}×",
                "" if r.agreement is None else f"{r.agreement:.1e}",
                _time(r.compile_s),
                r.note,
            )
        Console(width=None if os.isatty(1) else 170).print(table)

    def as_dict(self) -> dict[str, Any]:
        """The machine-readable form."""
        return {
            "benchmark": self.name,
            "device": device(),
            "versions": versions(),
            "rows": [dataclasses.asdict(r) for r in self.rows],
        }


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds != seconds:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def device() -> str:
    """The device's name and, on a CPU, the number of cores this process may use."""
    d = jax.devices()[0]
    if d.platform != "cpu":
        return f"{d.device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} cores, {platform.machine()}"


def versions() -> dict[str, str]:
    """Versions of everything that is timed."""
    names = ("diffimg-jax", "jax", "jaxlib", "numpy", "scipy", "astra-toolbox", "mbirjax", "scikit-image", "torch", "finufft", "sigpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: pathlib.Path, tables: list[Table]) -> None:
    """One object, or a list of them where several benchmarks ran."""
    content = [t.as_dict() for t in tables]
    text = json.dumps(content[0] if len(content) == 1 else content, indent=1)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
