"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from typing import Protocol, TextIO


class Progress(Protocol):
    """Stages with or without a known number of iterations."""

    def start(self, stage: str, total: int | None) -> None: ...
    def iterate(self, stage: str, iteration: int, objective: float, residual: float) -> None: ...
    def end(self, stage: str, seconds: float, compile_seconds: float, note: str) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, stage: str, total: int | None) -> None: ...
    def iterate(self, stage: str, iteration: int, objective: float, residual: float) -> None: ...
    def end(self, stage: str, seconds: float, compile_seconds: float, note: str) -> None: ...
    def close(self) -> None: ...


class Lines:
    """One line at the start, about four during and one at the end of a stage; for logs and pipes."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._total: int | None = None
        self._shown = 0

    def start(self, stage: str, total: int | None) -> None:
        self._total, self._shown = total, 0
        self._write(f"{stage} …")

    def iterate(self, stage: str, iteration: int, objective: float, residual: float) -> None:
        quarter = 4 * iteration // self._total if self._total else 0
        if quarter > self._shown and iteration < (self._total or 0):
            self._shown = quarter
            self._write(f"{stage}: {iteration}/{self._total}{_state(objective, residual)}")

    def end(self, stage: str, seconds: float, compile_seconds: float, note: str) -> None:
        self._write(f"{stage}: {_summary(seconds, compile_seconds, note)}")

    def close(self) -> None:
        self._stream.flush()

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class Live:
    """A rich progress bar a stage."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("[dim]{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
        )
        self._task = None
        self._bars.start()

    def start(self, stage: str, total: int | None) -> None:
        self._task = self._bars.add_task(stage, total=total or 1, note="compiling" if total else "")

    def iterate(self, stage: str, iteration: int, objective: float, residual: float) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=iteration, note=_state(objective, residual).lstrip(", "))

    def end(self, stage: str, seconds: float, compile_seconds: float, note: str) -> None:
        if self._task is not None:
            total = next(t.total for t in self._bars.tasks if t.id == self._task)
            self._bars.update(self._task, completed=total, note=_summary(seconds, compile_seconds, note))

    def close(self) -> None:
        self._bars.stop()


def progress() -> Progress:
    """Live bars where stderr is a terminal, plain lines elsewhere."""
    return Live() if sys.stderr.isatty() else Lines()


def _state(objective: float, residual: float) -> str:
    parts = [f"{name} {value:.4g}" for name, value in (("objective", objective), ("change", residual)) if math.isfinite(value)]
    return ", " + ", ".join(parts) if parts else ""


def _summary(seconds: float, compile_seconds: float, note: str) -> str:
    compiling = f" + {compile_seconds:.2f} s compiling" if compile_seconds >= 0.005 else ""
    return f"{seconds - compile_seconds:.2f} s{compiling}" + (f", {note}" if note else "")
