"""Operators in other frameworks: as a ``torch.autograd.Function`` (DLPack, no copy on one device) and a SciPy ``LinearOperator``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffimg.core import check
from diffimg.forward.operator import Operator
from diffimg.forward.structure import ravel, size, unravel


def to_scipy(operator: Operator) -> Any:
    """A linear operator as ``scipy.sparse.linalg.LinearOperator`` on flattened (C order) NumPy vectors.

    Shape ``(codomain size, domain size)``; pytree codomains are concatenated.
    """
    from scipy.sparse.linalg import LinearOperator

    if not operator.linear:
        check.fail("operator", "a linear operator", repr(operator), "Linearize it first: A.linearize(x).")
    forward = jax.jit(lambda a, v: ravel(a(unravel(v, a.domain))))
    adjoint = jax.jit(lambda a, v: ravel(a.H(unravel(v, a.codomain))))
    dtype = np.result_type(*(s.dtype for s in jax.tree.leaves((operator.domain, operator.codomain))))
    return LinearOperator(
        shape=(size(operator.codomain), size(operator.domain)),
        dtype=dtype,
        matvec=lambda v: np.asarray(forward(operator, _cast(v, operator.domain))),
        rmatvec=lambda v: np.asarray(adjoint(operator, _cast(v, operator.codomain))),
    )


def _cast(vector, structure):
    vector = np.asarray(vector).reshape(-1)
    target = jnp.result_type(*(s.dtype for s in jax.tree.leaves(structure)))
    return jnp.asarray(vector.real if not jnp.issubdtype(target, jnp.complexfloating) and vector.dtype.kind == "c" else vector, target)


def to_torch(operator: Operator) -> Any:
    """An operator (linear or not) as a differentiable PyTorch function ``tensor [..., *domain] → tensor [..., *codomain]``.

    Tensors cross by DLPack; the backward pass is the operator's own vector-Jacobian product. Domain and codomain are single arrays.
    Gradients reach the input tensor; the operator's own arrays are constants of it.
    """
    import torch

    for name, structure in (("domain", operator.domain), ("codomain", operator.codomain)):
        if len(jax.tree.leaves(structure)) != 1:
            check.fail(f"operator.{name}", "one array", repr(operator), "Bridge the parts of a Stack one by one.")
    forward = jax.jit(lambda a, x: a(x))
    # JAX cotangents are bilinear pairs, PyTorch's are conjugate-Wirtinger gradients: conjugate on the way in and out
    backward = jax.jit(lambda a, x, g: jnp.conj(jax.vjp(a, x)[1](jnp.conj(g))[0]))

    class _Bridged(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            value = _to_jax(x)
            ctx.value = value
            return _to_torch(forward(operator, value), x)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return _to_torch(backward(operator, ctx.value, _to_jax(g)), g)

    def call(x):
        if not isinstance(x, torch.Tensor):
            check.fail("x", "a torch.Tensor", type(x).__name__, "Call the operator itself for JAX and NumPy arrays.")
        return _Bridged.apply(x)

    return call


def _to_jax(x):
    return jnp.from_dlpack(x.detach().resolve_conj().contiguous())


def _to_torch(v, like):
    import torch

    return torch.from_dlpack(jax.block_until_ready(v)).to(like.device)
