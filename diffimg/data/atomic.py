"""Files and folders that appear whole or not at all: written beside their target under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from diffimg.core import check


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``path`` when the block ends well and vanishes when it does not.

    Raises:
        ValueError: the folder of ``path`` does not exist, or ``path`` is a folder.
    """
    target = _target(path)
    if target.is_dir():
        check.fail("path", "the name of a file", f"the folder {target.name}", "Choose another name.")
    temporary = target.with_name(f".{uuid.uuid4().hex}{''.join(target.suffixes[-2:])}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder to fill; it becomes ``path`` when the block ends well and vanishes when it does not.

    Raises:
        ValueError: ``path`` exists and is not an empty folder, or its parent does not exist.
    """
    target = _target(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        kind = "a folder with files in it" if target.is_dir() else "a file"
        check.fail("path", "a new or empty folder", f"{kind}, {target.name}", "Choose another name, or remove it first.")
    temporary = target.with_name(f".{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        if target.is_dir():
            target.rmdir()  # empty; not every system renames onto it
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if not target.absolute().parent.is_dir():
        check.fail("path", "a place in an existing folder", str(target), "Create the folder first: Path(path).parent.mkdir(parents=True).")
    return target
