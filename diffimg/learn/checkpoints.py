"""Training states on disk: the last ones and the best, written so that a crash loses at most one interval."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np

from diffimg.core import check


class Checkpoints:
    """A folder with ``last/<step>`` (the last two) and ``best/<step>``, in the format of orbax, and ``structure.json``.

    Raises:
        ValueError: a folder of another architecture or optimizer.
    """

    def __init__(self, folder: Any, like: Any) -> None:
        import orbax.checkpoint as ocp

        self._ocp, self.folder, self._like = ocp, pathlib.Path(folder).resolve(), like
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_structure()
        options = {"create": True, "enable_async_checkpointing": False}
        manager = lambda name, keep: ocp.CheckpointManager(  # noqa: E731
            self.folder / name, options=ocp.CheckpointManagerOptions(max_to_keep=keep, **options)
        )
        self._managers = {"last": manager("last", 2), "best": manager("best", 1)}

    def step(self, which: str = "last") -> int | None:
        """That of the newest complete checkpoint, or None."""
        return self._managers[which].latest_step()

    def save(self, which: str, step: int, state: Any) -> None:
        self._managers[which].save(step, args=self._ocp.args.StandardSave(state), force=True)

    def restore(self, which: str = "last") -> Any:
        """The newest state, in the structure, dtypes and sharding of ``like``."""
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, self._like)
        return self._managers[which].restore(self.step(which), args=self._ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        for manager in self._managers.values():
            manager.close()

    def _check_structure(self) -> None:
        here = structure(self._like)
        path = self.folder / "structure.json"
        if not path.exists():
            temporary = path.with_suffix(f".{jax.process_index()}.new")
            temporary.write_text(json.dumps(here, indent=0))
            temporary.replace(path)
            return
        there = json.loads(path.read_text())
        if here == there:
            return
        names = sorted(set(here) ^ set(there)) or [n for n in here if here[n] != there[n]]
        name = names[0]
        check.fail(
            "folder",
            f"checkpoints of this architecture ({name}: {here.get(name, 'absent')})",
            f"{name}: {there.get(name, 'absent')} in {path.parent}",
            "Take another folder, or build the network and optimizer that wrote it.",
        )


def structure(tree: Any) -> dict[str, str]:
    """``{path: dtype[shape]}`` of the leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{np.asarray(v).dtype if np.isscalar(v) else v.dtype}{list(np.shape(v))}" for path, v in leaves}
