"""The log of a training for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def tensorboard(folder: str | os.PathLike[str]) -> Callable[[dict[str, Any]], None]:
    """A ``report`` for ``learn.train`` that writes every number of the log as a curve: ``tensorboard --logdir FOLDER`` shows them.

    Raises:
        ImportError: tensorboardX is not installed (extra ``tensorboard``).
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError('Writing for TensorBoard needs tensorboardX. Install it: pip install "diffimg-jax[tensorboard]"') from error
    writer = SummaryWriter(os.fspath(folder), flush_secs=1)  # written by a thread of its own

    def report(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                writer.add_scalar(name, value, line["step"])

    return report
