"""Iterative reconstruction in one line: each function builds the problem, and ``solve.run`` solves it, for every geometry.

All take ``sinogram [..., *geometry.sinogram_shape]`` and return the ``Result`` of ``solve.run``, whose ``x`` is ``[..., *image_shape]`` in
1/mm. Common arguments:

- ``x0``: start; zero by default (``mlem``, ``osem``: a flat image),
- ``lower``, ``upper``: bounds of the image, None for none,
- ``weights``: of the data, ≥ 0, broadcasting to the sinogram: 0 where a cell is dead, 1/variance for statistical weighting (see ``pwls``),
- ``method``: of ``Radon``. For parallel beams the default is the one that suits the algorithm: "joseph", which is non-negative and has no
  tables, for ordered subsets and EM, otherwise "fourier",
- ``options``: of ``solve.run``: ``tolerance``, ``gradient`` (how to differentiate the result), ``progress``, ``objective_every`` (0 by
  default here: the objective at start and end only).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy import Box, Energy, LeastSquares, PoissonLikelihood, TotalVariation, Zero
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.operator import Operator
from diffimg.forward.radon import Radon
from diffimg.solve import CGLS, FISTA, MLEM, OSEM, SART, SIRT, SQS, Problem, Result, Solver, run


def sirt(
    sinogram: Any,
    geometry: Any,
    steps: int = 100,
    *,
    relaxation: Any = 1.0,
    weights: Any = None,
    lower: Any = 0.0,
    upper: Any = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """Simultaneous iterative reconstruction, see ``solve.SIRT``: slow, robust; stopping early regularizes."""
    operator = _radon(geometry, method, "auto")
    problem = Problem(LeastSquares(operator, sinogram, weights), _bounds(lower, upper))
    return _run(SIRT(relaxation), problem, operator, sinogram, x0, steps, options)


def sart(
    sinogram: Any,
    geometry: Any,
    steps: int = 3,
    *,
    relaxation: Any = 1.0,
    decay: Any = 0.0,
    weights: Any = None,
    lower: Any = 0.0,
    upper: Any = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """SART, see ``solve.SART``: one view after the other, a step is a pass over all views. With noisy data take a smaller relaxation."""
    return os_sart(
        sinogram, geometry, steps, subsets=geometry.view_count, relaxation=relaxation, decay=decay, weights=weights,
        lower=lower, upper=upper, x0=x0, method=method, **options,
    )  # fmt: skip


def os_sart(
    sinogram: Any,
    geometry: Any,
    steps: int = 10,
    *,
    subsets: int | None = None,
    relaxation: Any = 1.0,
    decay: Any = 0.0,
    weights: Any = None,
    lower: Any = 0.0,
    upper: Any = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """SART with ``subsets`` of views (by default the largest divisor of their number up to 10), see ``solve.SART``."""
    operator = _radon(geometry, method, "joseph")
    problem = Problem(LeastSquares(operator, sinogram, weights), _bounds(lower, upper))
    solver = SART(relaxation, decay, _subsets(geometry, subsets))
    return _run(solver, problem, operator, sinogram, x0, steps, options, prepare=False)


def cgls(
    sinogram: Any, geometry: Any, steps: int = 20, *, weights: Any = None, x0: Any = None, method: str | None = None, **options: Any
) -> Result:
    """Conjugate gradients on least squares, see ``solve.CGLS``: the fastest to a small residual, without bounds; stopping early
    regularizes."""
    operator = _radon(geometry, method, "auto")
    return _run(CGLS(), Problem(LeastSquares(operator, sinogram, weights)), operator, sinogram, x0, steps, options)


def mlem(
    sinogram: Any,
    geometry: Any,
    steps: int = 50,
    *,
    background: Any = 0.0,
    penalty: Energy | None = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """Maximum likelihood for emission counts (SPECT, PET), see ``solve.MLEM``.

    ``sinogram`` holds counts ≥ 0 with means Ax + ``background``. For transmission data, whose noise is another, prefer ``pwls``.
    ``penalty``: a smooth energy of the image.
    """
    return _em(MLEM(), sinogram, geometry, steps, background, penalty, x0, method, options)


def osem(
    sinogram: Any,
    geometry: Any,
    steps: int = 5,
    *,
    subsets: int | None = None,
    background: Any = 0.0,
    penalty: Energy | None = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """``mlem`` with ordered ``subsets`` of views (by default the largest divisor of their number up to 10), see ``solve.OSEM``."""
    return _em(OSEM(_subsets(geometry, subsets)), sinogram, geometry, steps, background, penalty, x0, method, options)


def pwls(
    sinogram: Any,
    geometry: Any,
    steps: int = 10,
    *,
    weights: Any,
    penalty: Energy | None = None,
    subsets: int | None = None,
    momentum: bool = True,
    relaxation: Any = 1.0,
    decay: Any = 0.0,
    lower: Any = 0.0,
    upper: Any = None,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """Penalized weighted least squares, ½Σ w |Ax − y|² + R(x), by ordered subsets of separable surrogates, see ``solve.SQS``.

    Args:
        weights: 1/variance of the data (K. Sauer & C. Bouman, IEEE Trans. Signal Process. 41(2), 1993): for counts N behind
            y = −log(N/N₀), w ≈ N, or ``energy.Transmission(photons, …).weights(sinogram)``. Only their ratios matter without a penalty.
        penalty: smooth R with a known Lipschitz constant, e.g. ``energy.HuberTV(weight, threshold)``.
        subsets: 1 converges to the minimum; by default the largest divisor of the number of views up to 10 that leaves 10 views in each.
        momentum: several times as fast; it diverges where a subset has too few views (4 of 40, for one).
    """
    operator = _radon(geometry, method, "joseph")
    data = LeastSquares(operator, sinogram, weights)
    problem = Problem(data if penalty is None else data + penalty, _bounds(lower, upper))
    solver = SQS(relaxation, decay, _subsets(geometry, subsets, min(10, max(1, geometry.view_count // 10))), momentum=momentum)
    return _run(solver, problem, operator, sinogram, x0, steps, options, prepare=False)


def fista_tv(
    sinogram: Any,
    geometry: Any,
    weight: Any,
    steps: int = 100,
    *,
    weights: Any = None,
    lower: Any = 0.0,
    upper: Any = None,
    inner_steps: int = 10,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """½Σ w |Ax − y|² + ``weight`` · TV(x) within bounds, by FISTA with warm-started duals.

    For volumes TV takes the slices' distance into account. ``inner_steps`` of the dual iteration follow each gradient.
    """
    operator = _radon(geometry, method, "auto")
    data = LeastSquares(operator, sinogram, weights)
    pixel = geometry.pixel_size
    spacing = (getattr(geometry, "slice_thickness", pixel) / pixel, 1.0, 1.0)[-len(operator.domain.shape) :]
    tv = TotalVariation(weight, lower=lower, upper=upper, spacing=spacing, gap=0.0, max_steps=inner_steps)
    solver = FISTA(None if _interpolates_in_fourier(operator) else 1 / jax.lax.stop_gradient(_row_sum_bound(data)))
    return _run(solver, Problem(data, tv), operator, sinogram, x0, steps, options)


def _row_sum_bound(data: LeastSquares) -> jax.Array:
    """max AᵀWA1 ≥ ‖AᵀWA‖ for A ≥ 0: two projections instead of a power iteration, and about 15 % larger than the norm."""
    operator = data.operator
    p = operator(jnp.ones(operator.domain.shape, jnp.result_type(data.y)))
    return jnp.max(operator.H(p if data.weights is None else jnp.asarray(data.weights, p.dtype) * p))


def _interpolates_in_fourier(operator: Radon) -> bool:
    return isinstance(operator.geometry, ParallelBeam) and operator.method != "joseph"


def _radon(geometry: Any, method: str | None, parallel: str) -> Radon:
    return Radon(geometry, method or (parallel if isinstance(geometry, ParallelBeam) else "auto"))


def _subsets(geometry: Any, subsets: int | None, most: int = 10) -> int:
    """The number asked for (checked by the solver), or the largest divisor of the number of views up to ``most``."""
    if subsets is not None:
        return check.positive_int("subsets", subsets)
    return max(d for d in range(1, most + 1) if geometry.view_count % d == 0)


def _bounds(lower: Any, upper: Any) -> Energy:
    return Zero() if lower is None and upper is None else Box(lower, upper)


def _em(solver, sinogram, geometry, steps, background, penalty, x0, method, options):
    operator = _radon(geometry, method, "joseph")
    data = PoissonLikelihood(operator, sinogram, background)
    return _run(solver, Problem(data if penalty is None else data + penalty), operator, sinogram, x0, steps, options, prepare=False)


def _run(
    solver: Solver, problem: Problem, operator: Operator, sinogram: Any, x0: Any, steps: int, options: dict[str, Any], prepare: bool = True
) -> Result:
    if x0 is None:
        batch = jnp.shape(sinogram)[: jnp.ndim(sinogram) - len(operator.codomain.shape)]
        x0 = jnp.zeros(batch + operator.domain.shape, jnp.promote_types(jnp.result_type(sinogram), jnp.float32))
    return run(solver, problem, x0, steps, **{"objective_every": 0, "prepare": prepare, **options})
