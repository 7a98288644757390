"""The code in the documents runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_code_blocks_run(name):
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.M | re.S)
    assert blocks
    space = {}
    for indent, block in blocks:
        source = "\n".join(line.removeprefix(indent) for line in block.splitlines())
        exec(compile(source, name, "exec"), space)


def test_no_code_block_was_missed():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        assert text.count("```") % 2 == 0
