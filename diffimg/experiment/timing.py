"""Compile time apart from run time: the seconds that JAX spent on tracing, lowering and compiling inside a block."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_COMPILE = "/jax/core/compile/"


class Stopwatch:
    """``with Stopwatch() as watch: …``, then ``watch.seconds`` (wall clock) and ``watch.compile_seconds`` of it.

    JAX reports a duration at the end of each phase of a compilation; phases nest (an inner jit is traced inside an outer one), so the
    union of their intervals is counted. Only this thread's compilations count. ``note``: what else there is to say of the block.
    """

    note = ""
    seconds = compile_seconds = 0.0

    def __enter__(self) -> Stopwatch:
        import jax.monitoring

        self._thread = threading.get_ident()
        self._intervals: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._record)
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import jax.monitoring

        end = time.perf_counter()
        self.seconds = end - self._start
        jax.monitoring.unregister_event_duration_listener(self._record)
        self.compile_seconds = min(_union(self._intervals), self.seconds)

    def _record(self, event: str, duration: float, **_: object) -> None:
        if event.startswith(_COMPILE) and threading.get_ident() == self._thread:
            now = time.perf_counter()
            self._intervals.append((now - duration, now))


def _union(intervals: list[tuple[float, float]]) -> float:
    total, reach = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total
