"""Peers of the plane tomography benchmarks: ASTRA on the CPU and a cached SciPy sparse matrix, with one interface."""

from __future__ import annotations

import numpy as np

from diffimg.forward import FanBeam, ParallelBeam


class Astra:
    """ASTRA's projector of a given model ("linear" is Joseph's, "line", "strip"; "cuda" for a GPU), on this project's geometry.

    Fan beams: "line" and "strip", flat detectors without offsets; they take and give images upside down.
    """

    def __init__(self, geometry: ParallelBeam | FanBeam, model: str = "linear") -> None:
        import astra

        self.astra, self.geometry = astra, geometry
        ny, nx = geometry.image_shape
        half_x, half_y = nx * geometry.pixel_size / 2, ny * geometry.pixel_size / 2
        self.volume = astra.create_vol_geom(ny, nx, -half_x, half_x, -half_y, half_y)
        angles, cells = np.asarray(geometry.angles), (geometry.detector_spacing, geometry.detector_count)
        # ASTRA's y axis points up and ours down the rows
        if isinstance(geometry, FanBeam):
            distances = (float(geometry.source_distance), float(geometry.detector_distance))
            self.projection = astra.create_proj_geom("fanflat", *cells, angles, *distances)
            model = model if model == "cuda" else f"{model}_fanflat"
        else:
            self.projection = astra.create_proj_geom("parallel", *cells, -angles)  # the mirror image
        self.projector = astra.create_projector(model, self.projection, self.volume)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Sinogram of an image."""
        identifier, y = self.astra.create_sino(np.asarray(x, np.float32), self.projector)
        self.astra.data2d.delete(identifier)
        return y

    def back(self, y: np.ndarray) -> np.ndarray:
        """Unfiltered backprojection."""
        identifier, x = self.astra.create_backprojection(np.asarray(y, np.float32), self.projector)
        self.astra.data2d.delete(identifier)
        return x

    def matrix(self):
        """The projector as a SciPy CSR matrix, and its transpose as one."""
        identifier = self.astra.projector.matrix(self.projector)
        matrix = self.astra.matrix.get(identifier).tocsr().astype(np.float32)
        self.astra.matrix.delete(identifier)
        return matrix, matrix.T.tocsr()
