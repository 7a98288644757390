"""A self-contained HTML report: pictures, tables, convergence curves, and images to zoom, pan and swipe between."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffimg.experiment import pictures
from diffimg.experiment.config import dump
from diffimg.experiment.curves import chart
from diffimg.experiment.run import Run, tabulate


class Report:
    """Collects sections and writes them as one HTML page that loads nothing from anywhere.

    report = Report("Title", "What was done.")
    report.table("Metrics", {"FBP": {"psnr_db": 24.1}}, ["psnr_db"])
    report.images("Reconstructions", {"truth": x, "FBP": y}, window=(0, 0.03), unit="1/mm", pixel_size=0.9)
    report.curves("Objective", {"TV": (iterations, values)}, "iteration", "objective")
    Path("report.html").write_text(report.html())
    """

    def __init__(self, title: str, description: str = "", definitions: Mapping[str, str] | None = None):
        self._title = title
        self._description = description
        self._definitions = dict(definitions or {})
        self._sections: list[tuple[str, str]] = []
        self._appendix: list[tuple[str, str]] = []

    def picture(self, title: str, png: bytes, text: str = "") -> None:
        """A PNG across the page."""
        note = f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
        self._add(title, f'<figure class="wide"><img alt="{html.escape(title)}" src="{_data_url(png)}">{note}</figure>')

    def text(self, title: str, text: str) -> None:
        """Paragraphs, separated by blank lines."""
        self._add(title, "".join(f"<p>{html.escape(p)}</p>" for p in text.split("\n\n")))

    def table(self, title: str, rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> None:
        """One row a method; columns that have a definition show it when pointed at."""
        heads = "".join(f'<th title="{html.escape(self._definitions.get(c, ""))}">{html.escape(c)}</th>' for c in columns)
        body = "".join(
            "<tr><th>" + html.escape(name) + "</th>" + "".join(f"<td>{html.escape(v)}</td>" for v in values) + "</tr>"
            for name, *values in tabulate(dict(rows), columns)  # type: ignore[arg-type]
        )
        self._add(title, f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>')

    def images(
        self,
        title: str,
        images: Mapping[str, Any],
        window: tuple[float, float],
        unit: str = "",
        pixel_size: float | None = None,
        captions: Mapping[str, str] | None = None,
        colors: str = "gray",
    ) -> None:
        """Images ``[y, x]`` of one window, zoomed and panned together, with a swipe between any two of them.

        All groups of the page whose images have the same shape move together.
        """
        shapes = {np.shape(image) for image in images.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"images: expected arrays [y, x] of one shape, got {sorted(shapes)}. Make a group for each shape.")
        ny, nx = next(iter(shapes))
        captions = captions or {}
        views = "".join(
            f'<figure><div class="view"><img alt="{html.escape(name)}" src="{_data_url(pictures.grey_png(image, window, colors))}"></div>'
            f"<figcaption><b>{html.escape(name)}</b> {html.escape(captions.get(name, ''))}</figcaption></figure>"
            for name, image in images.items()
        )
        scale = f' data-mm="{nx * pixel_size:.6g}"' if pixel_size else ""
        ramp = _data_url(pictures.grey_png(np.linspace(*window, 256)[None], window, colors))
        low, high = f"{window[0]:.3g}", html.escape(f"{window[1]:.3g} {unit}")
        bar = f'<div class="bar"><span>{low}</span><img alt="colour scale" src="{ramp}"><span>{high}</span></div>'
        group = f'<div class="group" data-sync="{nx}x{ny}" style="--aspect:{nx}/{ny}"{scale}>{bar}<div class="views">{views}</div></div>'
        self._add(title, group)

    def curves(
        self, title: str, series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, log: tuple[bool, bool] = (True, True)
    ) -> None:
        """Curves ``name: (x, y)``, on logarithmic axes by default; hovering shows the values."""
        self._add(title, chart(series, xlabel, ylabel, log))

    def code(self, title: str, text: str, *, appendix: bool = False) -> None:
        """Monospaced text, folded; ``appendix``: after all other sections."""
        body = f"<details><summary>show</summary><pre>{html.escape(text)}</pre></details>"
        (self._appendix if appendix else self._sections).append((title, body))

    def html(self) -> str:
        """The page."""
        folder = importlib.resources.files("diffimg.experiment")
        style, script = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        sections = list(self._sections)
        if self._definitions:
            terms = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in self._definitions.items())
            sections.append(("Definitions", f"<dl>{terms}</dl>"))
        body = "".join(f"<section><h2>{html.escape(t)}</h2>{b}</section>" for t, b in sections + self._appendix)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self._title)}</title><style>{style}</style></head>\n<body><header><h1>{html.escape(self._title)}</h1>"
            f"<p>{html.escape(self._description)}</p></header><main>{body}</main>\n<script>{script}</script></body></html>\n"
        )

    def _add(self, title: str, body: str) -> None:
        self._sections.append((title, body))


def standard_report(run: Run, title: str, description: str = "", definitions: Mapping[str, str] | None = None) -> Report:
    """A report that ends with the resolved config and the provenance of a run."""
    report = Report(title, description, definitions)
    report.code("Config", dump(run.config), appendix=True)
    report.code(
        "Provenance",
        json.dumps({k: v for k, v in run.provenance.items() if k not in ("status", "end", "seconds")}, indent=2),
        appendix=True,
    )
    return report


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
