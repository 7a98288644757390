"""Line charts as inline SVG, with the numbers beside them for hovering."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 620, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 14, 50


def chart(series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, log: tuple[bool, bool] = (True, True), points: int = 600) -> str:
    """An HTML figure with one curve for each ``name: (x, y)``.

    Values that are not finite, or not positive on a logarithmic axis, are left out; long curves are thinned to ``points``. Curves
    take the colours of the style sheet's classes s0, s1, …
    """
    cleaned = {name: _clean(x, y, log, points) for name, (x, y) in series.items()}
    cleaned = {name: xy for name, xy in cleaned.items() if len(xy[0])}
    if not cleaned:
        return "<p>Nothing was recorded.</p>"
    x_axis = _Axis(np.concatenate([x for x, _ in cleaned.values()]), log[0], _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis(np.concatenate([y for _, y in cleaned.values()]), log[1], _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for value, text in x_axis.ticks():
        at = f"{x_axis(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for value, text in y_axis.ticks():
        at = f"{y_axis(value):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{float(at) + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(xlabel)}</text>'
    )
    parts.append(f'<text class="label" transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{html.escape(ylabel)}</text>')
    data = []
    for k, (name, (x, y)) in enumerate(cleaned.items()):
        pixels = [(round(float(x_axis(a)), 1), round(float(y_axis(b)), 1)) for a, b in zip(x, y, strict=True)]
        parts.append(f'<polyline class="s{k % 6}" points="{" ".join(f"{a},{b}" for a, b in pixels)}"/>')
        values = [[float(a), float(f"{b:.6g}"), p, q] for a, b, (p, q) in zip(x, y, pixels, strict=True)]
        data.append({"name": name, "values": values})
    legend = "".join(f'<span><i class="s{k % 6}"></i>{html.escape(name)}</span>' for k, name in enumerate(cleaned))
    embedded = json.dumps({"x": xlabel, "series": data}, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure class="chart"><div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(ylabel)}">{"".join(parts)}'
        f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" hidden/></svg>'
        f'<output class="tip" hidden></output><script type="application/json">{embedded}</script></figure>'
    )


class _Axis:
    """Maps values to pixels."""

    def __init__(self, values: np.ndarray, log: bool, start: float, stop: float):
        self.log, self.start, self.stop = log, start, stop
        low, high = float(values.min()), float(values.max())
        if log:
            low, high = math.log10(low), math.log10(high)
        margin = 0.03 * (high - low) or 0.5 * (1.0 if log else abs(low) or 1.0)
        self.low, self.high = low - margin, high + margin

    def __call__(self, value: float) -> float:
        v = math.log10(value) if self.log else value
        return self.start + (v - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.log:
            step = _nice((self.high - self.low) / 5)
            first = math.ceil(self.low / step)
            return [(k * step, f"{k * step:.6g}") for k in range(first, math.floor(self.high / step) + 1)]
        decades = self.high - self.low
        factors: Sequence[float] = (1,) if decades > 3 else ((1, 2, 5) if decades > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))
        every = max(1, math.ceil(decades / 8))
        found = []
        for exponent in range(math.floor(self.low), math.ceil(self.high) + 1):
            if exponent % every == 0 or decades <= 3:
                found += [f * 10.0**exponent for f in factors if self.low <= math.log10(f * 10.0**exponent) <= self.high]
        if len(found) < 2:
            step = _nice((10**self.high - 10**self.low) / 4)
            found = [k * step for k in range(math.ceil(10**self.low / step), math.floor(10**self.high / step) + 1)]
        return [(v, _label(v)) for v in found]


def _label(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:.6g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    power = f'10<tspan dy="-5" font-size="9">{int(exponent)}</tspan>'
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * (1 - 1e-9))


def _clean(x: Any, y: Any, log: tuple[bool, bool], points: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    keep = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not log[0])) & ((y > 0) | (not log[1]))
    x, y = x[keep], y[keep]
    if len(x) > points:
        index = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
        x, y = x[index], y[index]
    return x, y
