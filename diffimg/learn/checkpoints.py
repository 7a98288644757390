"""Training states on disk: the last ones and the best, written so that a crash loses at most one interval."""

from __future__ import annotations

import json
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from diffimg.core import check


class Checkpoints:
    """A folder with ``last/<step>`` (the last two) and ``best/<step>``, in the format of orbax, and ``structure.json``.

    Raises:
        ValueError: a folder of another architecture or optimizer.
    """

    def __init__(self, folder: Any, like: Any, key: str = "") -> None:
        import orbax.checkpoint as ocp

        self._ocp, self.folder, self._like = ocp, pathlib.Path(folder).resolve(), like
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_structure(structure(like) | {"['key']": key})
        options = {"create": True, "enable_async_checkpointing": False}
        manager = lambda name, keep: ocp.CheckpointManager(  # noqa: E731
            self.folder / name, options=ocp.CheckpointManagerOptions(max_to_keep=keep, **options)
        )
        self._managers = {"last": manager("last", 2), "best": manager("best", 1)}

    def step(self, which: str = "last") -> int | None:
        """That of the newest complete checkpoint, or None."""
        return self._managers[which].latest_step()

    def save(self, which: str, step: int, state: Any) -> None:
        """Write a state; those of the same and of later steps go, which a killed run left behind and this one makes again."""
        manager = self._managers[which]
        for later in manager.all_steps():
            if later >= step:
                manager.delete(later)
        manager.save(step, args=self._ocp.args.StandardSave(state), force=True)

    def restore(self, which: str = "last") -> Any:
        """The newest state that can be read, in the structure, dtypes and sharding of ``like``."""
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, self._like)
        manager, reason = self._managers[which], None
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
            except (OSError, ValueError, KeyError) as error:  # files that are missing, cut off or empty
                reason = reason or error
                path = self.folder / which / str(step)
                warnings.warn(f"{path} cannot be read ({error}); taking the one before.", UserWarning, stacklevel=3)
        remedy = "Delete the folder to start again."
        check.fail("folder", "a checkpoint that can be read", f"none in {self.folder / which} ({reason})", remedy)

    def close(self) -> None:
        for manager in self._managers.values():
            manager.close()

    def _check_structure(self, here: dict[str, str]) -> None:
        path = self.folder / "structure.json"
        if not path.exists():
            temporary = path.with_suffix(f".{jax.process_index()}.new")
            temporary.write_text(json.dumps(here, indent=0))
            temporary.replace(path)
            return
        try:
            there = json.loads(path.read_text())
        except ValueError:
            check.fail("folder", "the structure of its checkpoints", f"{path}, which is damaged", "Delete that file if they are yours.")
        there = {"['key']": here["['key']"]} | there  # which older folders do not tell
        if here == there:
            return
        names = sorted(set(here) ^ set(there)) or [n for n in here if here[n] != there[n]]
        name = names[0]
        kind = {"['optimizer']": "optimizer", "['key']": "training"}.get(name[: name.find("]") + 1], "architecture")
        check.fail(
            "folder",
            f"checkpoints of this {kind} ({name}: {here.get(name, 'absent')})",
            f"{name}: {there.get(name, 'absent')} in {path.parent}",
            "Take another folder, or the network, optimizer and key that wrote it.",
        )


def structure(tree: Any) -> dict[str, str]:
    """``{path: dtype[shape]}`` of the leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{np.asarray(v).dtype if np.isscalar(v) else v.dtype}{list(np.shape(v))}" for path, v in leaves}
