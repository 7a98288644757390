"""Linear transforms x ↦ M x + b and their parametrisations: translation, rigid, similarity, affine."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.core.pytree import pytree
from diffimg.forward.transform import Transform, linear_planes


class LinearTransform(Transform):
    """x ↦ M x + b; a subclass gives ``matrix`` M ``[ndim, ndim]`` and ``offset`` b ``[ndim]``, in array order."""

    @property
    def matrix(self) -> jax.Array:
        """M, ``[ndim, ndim]``, array order."""
        raise TypeError(f"{type(self).__name__} must define matrix.")

    @property
    def offset(self) -> jax.Array:
        """b, ``[ndim]`` mm."""
        raise TypeError(f"{type(self).__name__} must define offset.")

    def _map(self, planes):
        return linear_planes(self.matrix, self.offset, planes)

    def jacobian_on_grid(self, grid, dtype=None):
        self._fits(grid)
        return [[self.matrix[k, j] for j in range(self.ndim)] for k in range(self.ndim)]

    def inverse(self) -> Affine:
        """The inverse, as an ``Affine``."""
        inverse = jnp.linalg.inv(self.matrix)
        return Affine(inverse, -jnp.matmul(inverse, self.offset, precision="highest"))

    @property
    def homogeneous(self) -> jax.Array:
        """``[ndim+1, ndim+1]``, array order, mm."""
        top = jnp.concatenate([self.matrix, self.offset[:, None]], 1)
        return jnp.concatenate([top, jnp.eye(self.ndim + 1, dtype=top.dtype)[-1:]])


def _about(matrix, translation, centre):
    """b of x ↦ M (x − c) + c + t."""
    return translation + centre - jnp.matmul(matrix, centre, precision="highest")


@pytree
class Translation(LinearTransform):
    """x ↦ x + t.

    Args:
        translation: t, ``[2]`` or ``[3]`` mm, array order.
    """

    free: ClassVar[dict[str, str]] = {"translation": "mm"}
    translation: Any

    def __post_init__(self):
        object.__setattr__(self, "translation", vector("translation", self.translation))

    @classmethod
    def identity(cls, ndim: int, centre: Any = None, dtype: Any = jnp.float32) -> Translation:
        """T = id."""
        return cls(jnp.zeros(_axes(ndim), dtype))

    @property
    def ndim(self):
        return self.translation.shape[-1]

    @property
    def matrix(self):
        return np.eye(self.ndim, dtype=self.translation.dtype)

    @property
    def offset(self):
        return self.translation

    def inverse(self):
        return Translation(-self.translation)


@pytree
class Rigid(LinearTransform):
    """x ↦ R (x − c) + c + t with a rotation R = exp(ω): 3 numbers in 2-D, 6 in 3-D.

    Args:
        rotation: ω in radians: 2-D one angle ``[1]``, from the x axis towards the y axis; 3-D the rotation vector ``[3]`` in array
            order (about z, y, x), right-handed in (x, y, z), angle ‖ω‖.
        translation: t, ``[ndim]`` mm.
        centre: c, ``[ndim]`` mm, what the rotation leaves in place; default the origin.

    Raises:
        ValueError: shapes that do not fit together, NaN or Inf.
    """

    free: ClassVar[dict[str, str]] = {"rotation": "angle", "translation": "mm"}
    rotation: Any
    translation: Any
    centre: Any = None

    def __post_init__(self):
        translation, centre = _placed(self.translation, self.centre)
        object.__setattr__(self, "rotation", _rotation_vector(self.rotation, translation))
        object.__setattr__(self, "translation", translation)
        object.__setattr__(self, "centre", centre)

    @classmethod
    def identity(cls, ndim: int, centre: Any = None, dtype: Any = jnp.float32) -> Rigid:
        """T = id, to be turned about ``centre``."""
        zero = jnp.zeros(_axes(ndim), dtype)
        return cls(jnp.zeros(1 if ndim == 2 else 3, dtype), zero, zero if centre is None else jnp.asarray(centre, dtype))

    @property
    def ndim(self):
        return self.translation.shape[-1]

    @property
    def matrix(self):
        return rotation_matrix(self.rotation)

    @property
    def offset(self):
        return _about(self.matrix, self.translation, self.centre)


@pytree
class Similarity(LinearTransform):
    """x ↦ exp(s) R (x − c) + c + t: a rigid transform and one scale.

    Args:
        rotation, translation, centre: as for ``Rigid``.
        log_scale: s; 0 keeps lengths.
    """

    free: ClassVar[dict[str, str]] = {"rotation": "angle", "log_scale": "angle", "translation": "mm"}
    rotation: Any
    log_scale: Any
    translation: Any
    centre: Any = None

    def __post_init__(self):
        translation, centre = _placed(self.translation, self.centre)
        object.__setattr__(self, "rotation", _rotation_vector(self.rotation, translation))
        check.shape("log_scale", self.log_scale, ())
        check.finite("log_scale", self.log_scale)
        object.__setattr__(self, "log_scale", jnp.asarray(self.log_scale, translation.dtype))
        object.__setattr__(self, "translation", translation)
        object.__setattr__(self, "centre", centre)

    @classmethod
    def identity(cls, ndim: int, centre: Any = None, dtype: Any = jnp.float32) -> Similarity:
        """T = id, to be turned and scaled about ``centre``."""
        start = Rigid.identity(ndim, centre, dtype)
        return cls(start.rotation, jnp.zeros((), dtype), start.translation, start.centre)

    @property
    def ndim(self):
        return self.translation.shape[-1]

    @property
    def matrix(self):
        return jnp.exp(self.log_scale) * rotation_matrix(self.rotation)

    @property
    def offset(self):
        return _about(self.matrix, self.translation, self.centre)


@pytree
class Affine(LinearTransform):
    """x ↦ M (x − c) + c + t.

    Args:
        linear: M, ``[ndim, ndim]``, array order.
        translation: t, ``[ndim]`` mm.
        centre: c, ``[ndim]`` mm; default the origin.

    Raises:
        ValueError: shapes that do not fit together, NaN or Inf, or a determinant that is not positive (a mirrored or flattened image).
    """

    free: ClassVar[dict[str, str]] = {"linear": "angle", "translation": "mm"}
    linear: Any
    translation: Any
    centre: Any = None

    def __post_init__(self):
        translation, centre = _placed(self.translation, self.centre)
        n = translation.shape[-1]
        linear = jnp.asarray(check.array("linear", self.linear), translation.dtype)
        check.shape("linear", linear, (n, n), "[ndim, ndim]")
        check.finite("linear", linear)
        if check.is_concrete(linear) and not np.linalg.det(np.asarray(linear, float)) > 0:
            got = f"{np.linalg.det(np.asarray(linear, float)):.3g}"
            remedy = "It mirrors or flattens the image: give handedness to the Grid's direction, not to the transform."
            check.fail("linear", "a matrix of positive determinant", got, remedy)
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "translation", translation)
        object.__setattr__(self, "centre", centre)

    @classmethod
    def identity(cls, ndim: int, centre: Any = None, dtype: Any = jnp.float32) -> Affine:
        """T = id, about ``centre``."""
        zero = jnp.zeros(_axes(ndim), dtype)
        return cls(jnp.eye(ndim, dtype=dtype), zero, zero if centre is None else jnp.asarray(centre, dtype))

    @property
    def ndim(self):
        return self.translation.shape[-1]

    @property
    def matrix(self):
        return self.linear

    @property
    def offset(self):
        return _about(self.linear, self.translation, self.centre)


def rotation_matrix(rotation: Any) -> jax.Array:
    """exp(ω) in array order: ``[1]`` radians → ``[2, 2]``; ``[3]`` rotation vector (about z, y, x) → ``[3, 3]`` (Rodrigues)."""
    if rotation.shape[-1] == 1:
        c, s = jnp.cos(rotation[0]), jnp.sin(rotation[0])
        return jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])
    z, y, x = rotation
    zero = jnp.zeros_like(x)
    # the cross-product matrix of (x, y, z), rows and columns reversed
    k = jnp.stack([jnp.stack([zero, x, -y]), jnp.stack([-x, zero, z]), jnp.stack([y, -z, zero])])
    square = jnp.sum(rotation**2)
    small = square < 1e-3
    safe = jnp.where(small, 1.0, square)
    angle = jnp.sqrt(safe)
    first = jnp.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), jnp.sin(angle) / angle)
    second = jnp.where(small, 0.5 - square / 24 * (1 - square / 30 * (1 - square / 56)), (1 - jnp.cos(angle)) / safe)
    return jnp.eye(3, dtype=k.dtype) + first * k + second * jnp.matmul(k, k, precision="highest")


def rotation_vector(matrix: Any) -> Any:
    """The inverse of ``rotation_matrix``, float64 (traced matrices: their dtype); the nearest rotation of a matrix that is none."""
    np_ = np if check.is_concrete(matrix) else jnp
    matrix = np.asarray(matrix, float) if np_ is np else matrix
    u, _, v = np_.linalg.svd(matrix)
    last = np_.linalg.det(u @ v)
    r = np_.concatenate([u[:, :-1], u[:, -1:] * last], 1) @ v
    if len(r) == 2:
        return np_.array([np_.arctan2(r[0, 1], r[0, 0])])
    r = r[::-1, ::-1]
    # unit quaternion by the eigenvector of Bar-Itzhack's symmetric matrix: exact also at half turns
    q = np_.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [0, r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [0, 0, r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [0, 0, 0, np_.trace(r)],
        ]
    )
    x, y, z, w = np_.linalg.eigh(np_.triu(q) + np_.triu(q, 1).T)[1][:, -1]
    axis = np_.stack([z, y, x]) * np_.where(w < 0, -1, 1)
    sine = np_.linalg.norm(axis)
    return axis * np_.where(sine > 0, 2 * np_.arctan2(sine, abs(w)) / np_.where(sine > 0, sine, 1), 2.0)


def vector(name: str, value: Any) -> jax.Array:
    """A floating ``[2]`` or ``[3]``, finite where known."""
    value = jnp.asarray(check.array(name, value))
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
    if value.shape not in ((2,), (3,)):
        check.fail(name, "2 or 3 numbers, array order, mm", f"shape {value.shape}")
    check.finite(name, value)
    return value


def _placed(translation, centre):
    translation = vector("translation", translation)
    if centre is None:
        return translation, jnp.zeros_like(translation)
    centre = vector("centre", centre).astype(translation.dtype)
    check.shape("centre", centre, translation.shape, "like the translation")
    return translation, centre


def _rotation_vector(rotation, translation):
    n = 1 if translation.shape[-1] == 2 else 3
    value = jnp.asarray(check.array("rotation", rotation), translation.dtype)
    value = value[None] if value.ndim == 0 and n == 1 else value
    check.shape("rotation", value, (n,), "angle" if n == 1 else "rotation vector (about z, y, x)")
    check.finite("rotation", value)
    return value


def _axes(ndim):
    if ndim not in (2, 3):
        check.fail("ndim", "2 or 3", repr(ndim))
    return ndim
