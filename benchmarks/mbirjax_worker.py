"""MBIRJAX's cone-beam projectors in a process of their own: it wants to be imported before JAX, and is half as fast otherwise.

Reads commands from its standard input, one a line, and answers "done" when it has finished one. Shapes are those of this project.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np


class Mbirjax:
    """The peer, from the other side: volumes ``[z, y, x]`` and sinograms ``[view, row, column]`` of a ``ConeBeam`` with cubic voxels."""

    def __init__(self, geometry: Any, volume: Any, sinogram: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        row, column = geometry.detector_spacing
        scan = {
            "folder": str(folder),
            "shape": geometry.sinogram_shape,
            "source_detector_dist": float(geometry.source_distance + geometry.detector_distance),
            "source_iso_dist": float(geometry.source_distance),
            "parameters": {"delta_voxel": geometry.pixel_size, "delta_det_row": row, "delta_det_channel": column},
        }
        # their axis of rotation points the other way: β = π − angle, channels reversed
        np.savez(
            folder / "input.npz",
            angles=np.pi - np.asarray(geometry.angles),
            volume=np.transpose(np.asarray(volume, np.float32), (1, 2, 0)),
            sinogram=np.asarray(sinogram, np.float32)[:, :, ::-1],
        )
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.mbirjax_worker"]
        root = pathlib.Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._ask(json.dumps(scan))

    def _ask(self, line: str) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while (answer := self._process.stdout.readline()) and answer.strip() != "done":
            pass  # its own messages
        if not answer:
            raise ModuleNotFoundError("MBIRJAX's process has ended: is it installed?", name="mbirjax")

    def forward(self) -> None:
        self._ask("forward")

    def back(self) -> None:
        self._ask("back")

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """What the last ``forward`` and ``back`` gave."""
        self._ask("save")
        with np.load(pathlib.Path(self._folder.name) / "output.npz") as file:
            return file["sinogram"][:, :, ::-1], np.transpose(file["volume"], (2, 0, 1))

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.communicate("")
        self._folder.cleanup()


def main() -> None:
    """The worker."""
    import mbirjax  # before JAX

    scan = json.loads(sys.stdin.readline())
    folder = pathlib.Path(scan["folder"])
    given = np.load(folder / "input.npz")
    distances = {name: scan[name] for name in ("source_detector_dist", "source_iso_dist")}
    model = mbirjax.ConeBeamModel(tuple(scan["shape"]), given["angles"], **distances)
    volume, sinogram = given["volume"], given["sinogram"]
    model.set_params(no_warning=True, recon_shape=volume.shape, **scan["parameters"])
    print("done", flush=True)
    results: dict[str, Any] = {}
    for line in sys.stdin:
        if line.strip() == "forward":
            results["sinogram"] = np.asarray(model.forward_project(volume))
        elif line.strip() == "back":
            results["volume"] = np.asarray(model.back_project(sinogram))
        else:
            np.savez(folder / "output.npz", **results)
        print("done", flush=True)


if __name__ == "__main__":
    main()
