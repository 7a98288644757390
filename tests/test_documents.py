"""The code in the documents runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/learning.md", pytest.param("docs/registration.md", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.M | re.S)
    assert blocks
    space = {}
    for indent, block in blocks:
        source = "\n".join(line.removeprefix(indent) for line in block.splitlines())
        exec(compile(source, name, "exec"), space)


def test_readme_is_whole():
    text = (ROOT / "README.md").read_text()
    for needed in ("diffimg run configs/ct_sparse_view.yaml", "<!-- test command -->", "-m pytest -n 2", "## Measured", "## Design"):
        assert needed in text
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
