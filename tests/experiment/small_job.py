"""The main job in small, and what its files are read with."""

import json
from html.parser import HTMLParser

SMALL = ["data.size=32", "geometry.views=12", "solver.steps=8", "tikhonov.steps=6"]
VOID = {"img", "meta", "br", "input", "line", "circle", "polyline"}


def sets(*overrides):
    return [part for o in overrides for part in ("--set", o)]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


class Strict(HTMLParser):
    """Every tag is closed in order, and nothing is loaded from anywhere."""

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not (name in ("src", "href") and not value.startswith("data:")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def parse(page):
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    for loading in ("http://", "https://", "url(", "@import"):
        assert loading not in page
    return parser
