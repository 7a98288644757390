"""Non-Cartesian MRI: coil maps and the Fourier transform at any points of k-space."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg.core import check
from diffimg.core.pytree import pytree, replace, static
from diffimg.forward import nufft_grid as grid
from diffimg.forward.batches import over_images
from diffimg.forward.channelwise import Channelwise
from diffimg.forward.coil_maps import CoilMaps, admit_coils
from diffimg.forward.operator import Operator


@pytree
class NUFFT(Operator):
    """Samples of an image's Fourier transform: s_c(k) = N^{−1/2} Σ_n S_c[n] x[n] exp(−i k·(n − n₀)), n₀ = shape // 2.

    ``[..., *image_shape]`` → ``[..., (coil,) *trajectory.shape[:-1]]``. On a Cartesian trajectory it equals the centred orthonormal FFT.
    Differentiable in the image, the coil maps and the trajectory, to any order: derivatives in the trajectory are transforms of the
    image weighted by its coordinates, not derivatives of the interpolation, and as precise as the values.

    Args:
        image_shape: (y, x), (z, y, x), or one axis.
        trajectory: ``[..., axis]`` in rad/voxel, axes ordered as those of the image; periodic, in [−π, π). A trajectory in rad/m times
            the voxel's size, or γ∫G dτ times it (``diffimg.mri.kspace_trajectory``). Keep the axis of time last: ``[spoke, readout, 2]``.
        coils: complex maps ``[coil, *image_shape]``, or None for one coil of unit sensitivity.
        tolerance: relative error of the transform on white images (root mean square), ≥ 1e-6 in float32.
        oversampling: of the FFT, 1.25 … 2: smaller ones save memory (in 3-D), larger ones need fewer taps.

    Raises:
        ValueError: a trajectory that does not fit the image, or with NaN; maps that do not fit or vanish everywhere.

    Warns:
        UserWarning: a trajectory that leaves [−π, π], or that looks as if in cycles/voxel.

    ``prepare()`` (in 1-D and 2-D) makes tables for both directions, gathers only, and the convolution kernel of AᴴA (in 3-D, that alone,
    and no table grows with the number of points times the window). Without it the adjoint scatters. See ``nufft_grid`` for sources.
    """

    batched: ClassVar[bool] = True

    image_shape: tuple[int, ...] = static()
    trajectory: Any
    coils: Any = None
    tolerance: float = static(default=1e-3)
    oversampling: float = static(default=2.0)

    def __post_init__(self):
        shape = tuple(check.positive_int("image_shape", n) for n in self.image_shape)
        if not 1 <= len(shape) <= 3:
            check.fail("image_shape", "1 to 3 axes, (y, x) or (z, y, x)", str(shape))
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "trajectory", admit_trajectory(self.trajectory, shape))
        if self.coils is not None:
            object.__setattr__(self, "coils", admit_coils(self.coils, shape))
            check.ndim("coils", self.coils, len(shape) + 1, "[coil, *image_shape]")
        if not 1e-12 <= self.tolerance <= 0.1:
            check.fail("tolerance", "a relative error in 1e-12 … 0.1", repr(self.tolerance))
        if not 1.2 <= self.oversampling <= 4:
            check.fail("oversampling", "1.2 … 4", repr(self.oversampling), "2 is the usual one, 1.25 saves memory.")

    @property
    def plan(self) -> grid.Plan:
        """Sizes of grid and window."""
        return grid.plan(self.image_shape, self.tolerance, self.oversampling)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one coil's samples."""
        return tuple(jnp.shape(self.trajectory)[:-1])

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, jnp.complex64)

    def __call__(self, x):
        return over_images(self._sample, self._to_coils(x), len(self.image_shape), self._chunk)

    def adjoint(self, y):
        return self._from_coils(over_images(self._sample_adjoint, y, len(self.sample_shape), self._chunk))

    def prepare(self, tables: bool = True) -> Operator:
        """The operator with its tables computed: several times faster, and AᴴA as a convolution. ``tables`` False: the latter alone.

        The tables need a concrete trajectory: where it is traced (inside ``jit`` or a derivative with respect to it), the operator
        itself is returned, which keeps such derivatives right. Where only the maps are traced, the transform is prepared and composed
        with them.
        """
        if not check.is_concrete(self.trajectory):
            return self
        from diffimg.forward.nufft_prepared import prepare

        if self.coils is None or check.is_concrete(self.coils):
            return prepare(self, tables)
        return Channelwise(prepare(replace(self, coils=None), tables), jnp.shape(self.coils)[0]) @ CoilMaps(self.coils)

    def _sample(self, x):
        return grid.samples(self.plan, x, self.trajectory.astype(x.real.dtype))

    def _sample_adjoint(self, y):
        return grid.samples_adjoint(self.plan, y, self.trajectory.astype(y.real.dtype))

    def _to_coils(self, x):
        return x if self.coils is None else jnp.expand_dims(x, -len(self.image_shape) - 1) * self.coils.astype(x.dtype)

    def _from_coils(self, x):
        return x if self.coils is None else jnp.sum(jnp.conj(self.coils).astype(x.dtype) * x, axis=-len(self.image_shape) - 1)

    @property
    def _chunk(self):
        return max(1, 2**24 // self.plan.nodes)  # images at once on an accelerator

    def _name(self):
        return f"{type(self).__name__}[{math.prod(self.sample_shape)} points]"


def admit_trajectory(trajectory: Any, image_shape: tuple[int, ...]) -> Any:
    """``[..., axis]``, real, finite; warns where the unit seems wrong."""
    trajectory = check.array("trajectory", trajectory)
    axes = "..., " + ", ".join("zyx"[3 - len(image_shape) :])
    if trajectory.dtype.kind in "biu":
        trajectory = trajectory.astype(np.float32)
    check.real("trajectory", trajectory, "Real and imaginary part are no axes: stack k_y and k_x in the last one.")
    got = tuple(jnp.shape(trajectory))
    if len(got) < 2 or got[-1] != len(image_shape):
        remedy = "The last axis holds (k_y, k_x), rad/voxel: jnp.moveaxis(trajectory, 0, -1) if it came first."
        check.fail("trajectory", f"shape [..., {len(image_shape)}] with the last axis ({axes[5:]})", f"shape {got}", remedy)
    check.finite("trajectory", trajectory)
    if check.is_concrete(trajectory) and trajectory.size:
        largest = float(np.max(np.abs(np.asarray(trajectory))))
        if largest > math.pi * (1 + 1e-5):
            text = f"trajectory: values up to {largest:.4g}, expected rad/voxel in [−π, π). They are taken modulo 2π, which "
            text += "folds the image's spectrum. Multiply rad/m by the voxel size in m; indices −N/2 … N/2 by 2π/N."
            warnings.warn(text, UserWarning, stacklevel=4)
        elif largest <= 0.5 * (1 + 1e-5) and math.prod(got[:-1]) > 1:
            text = f"trajectory: values up to {largest:.4g} only, expected rad/voxel in [−π, π). If they are cycles/voxel, multiply by 2π."
            warnings.warn(text, UserWarning, stacklevel=4)
    return trajectory
