"""Iterative reconstruction in one line: each function builds the problem, and ``solve.run`` solves it, for every geometry.

All take ``sinogram [..., *geometry.sinogram_shape]`` and return the ``Result`` of ``solve.run``, whose ``x`` is ``[..., *image_shape]`` in
1/mm. Common arguments:

- ``x0``: start; zero by default (``mlem``, ``osem``: a flat image),
- ``lower``, ``upper``: bounds of the image, None for none,
- ``weights``: of the data, ≥ 0, broadcasting to the sinogram: 0 where a cell is dead, 1/variance for statistical weighting (see ``pwls``),
- ``method``: of ``Radon``. For parallel beams the default is the one that suits the algorithm: "joseph", which is non-negative and has no
  tables, for ordered subsets and likelihoods of counts, otherwise "fourier",
- ``options``: of ``solve.run``: ``tolerance``, ``gradient`` (how to differentiate the result), ``progress``, ``objective_every`` (0 by
  default here: the objective at start and end only).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffimg.core import check
from diffimg.energy import Box, Energy, LeastSquares, PoissonLikelihood, TotalVariation, Zero
from diffimg.forward.basic import Function
from diffimg.forward.geometry import ParallelBeam
from diffimg.forward.radon import Radon
from diffimg.solve import CGLS, FISTA, MLEM, OSEM, SART, SIRT, SQS, Problem, Result, Solver, run

_OPTIONS = {"tolerance", "gradient", "objective_every", "progress", "prepare"}


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
    operator, sinogram = _scan("sinogram", sinogram, geometry, method, "auto")
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
    views = _radon(geometry, method, "joseph").geometry.view_count
    return os_sart(
        sinogram, geometry, steps, subsets=views, relaxation=relaxation, decay=decay, weights=weights,
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
    operator, sinogram = _scan("sinogram", sinogram, geometry, method, "joseph")
    problem = Problem(LeastSquares(operator, sinogram, weights), _bounds(lower, upper))
    solver = SART(relaxation, decay, _subsets(geometry, subsets))
    return _run(solver, problem, operator, sinogram, x0, steps, options, prepare=False)


def cgls(
    sinogram: Any, geometry: Any, steps: int = 20, *, weights: Any = None, x0: Any = None, method: str | None = None, **options: Any
) -> Result:
    """Conjugate gradients on least squares, see ``solve.CGLS``: the fastest to a small residual, without bounds; stopping early
    regularizes."""
    operator, sinogram = _scan("sinogram", sinogram, geometry, method, "auto")
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
    subsets = _subsets(_radon(geometry, method, "joseph").geometry, subsets)
    return _em(OSEM(subsets), sinogram, geometry, steps, background, penalty, x0, method, options)


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
    operator, sinogram = _scan("sinogram", sinogram, geometry, method, "joseph")
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
    operator, sinogram = _scan("sinogram", sinogram, geometry, method, "auto")
    data = LeastSquares(operator, sinogram, weights)
    tv = _total_variation(geometry, weight, lower, upper, inner_steps)
    solver = FISTA(None if _interpolates_in_fourier(operator) else 1 / _row_sum_bound(operator, data.weights, sinogram.dtype))
    return _run(solver, Problem(data, tv), operator, sinogram, x0, steps, options)


def poisson_tv(
    counts: Any,
    geometry: Any,
    weight: Any,
    steps: int = 100,
    *,
    flat: Any = None,
    background: Any = 0.0,
    lower: Any = 0.0,
    upper: Any = None,
    inner_steps: int = 10,
    x0: Any = None,
    method: str | None = None,
    **options: Any,
) -> Result:
    """−log P(counts | x) + ``weight`` · TV(x) within bounds, by proximal gradients with momentum (FISTA).

    Transmission, where ``flat`` is given: counts have means flat · exp(−Ax) + background; no logarithm is taken of them, which is what
    low counts want. Emission without it: means Ax + background, as in ``mlem``, twenty steps of which it starts from. The likelihood is
    ``energy.PoissonLikelihood``; the step is found by backtracking.

    Args:
        counts: ``[..., *geometry.sinogram_shape]``, ≥ 0.
        flat: mean counts without object, > 0, broadcasting to the counts; None for emission.
        background: mean counts that do not come from x (scatter, randoms), ≥ 0.
    """
    operator, counts = _counts("counts", counts, background, geometry, method)
    if flat is None:
        data = PoissonLikelihood(operator, counts, background)
        projections, curvature = jnp.maximum(counts - background, 0), 1 / jnp.maximum(counts, 1)
    else:
        flat = _flat_field(flat, operator, counts.dtype)
        data = PoissonLikelihood(Function(_attenuated, operator.codomain, flat, False) @ operator, counts, background)
        signal = jnp.maximum(counts - background, 1)
        projections, curvature = jnp.maximum(jnp.log(flat / signal), 0), signal
    if x0 is None and flat is None:
        x0 = mlem(counts, geometry, 20, background=background, method=method).x
    elif x0 is None:
        samples = tuple(range(-len(operator.codomain.shape), 0))
        level = jnp.mean(projections, samples) / jnp.mean(operator(jnp.ones(operator.domain.shape, projections.dtype)))
        x0 = jnp.broadcast_to(level.reshape(level.shape + (1,) * operator.domain.ndim), level.shape + operator.domain.shape)
    step = 4 / _row_sum_bound(operator, curvature, projections.dtype)  # the search for it can only shorten it
    problem = Problem(data, _total_variation(geometry, weight, lower, upper, inner_steps))
    return _run(FISTA(step, backtracking=0.5), problem, operator, counts, x0, steps, options, prepare=False)


def _attenuated(flat: jax.Array, p: jax.Array) -> jax.Array:
    return flat * jnp.exp(-p)


def _flat_field(flat: Any, operator: Radon, dtype: Any) -> jax.Array:
    flat = check.array("flat", flat)
    check.real("flat", flat)
    check.finite("flat", flat)
    check.minimum("flat", flat, 0.0, strict=True, remedy="A cell without flat field is dead: in-paint its counts.")
    shape = operator.codomain.shape
    try:
        return jnp.broadcast_to(jnp.asarray(flat, dtype), shape)
    except ValueError:
        check.fail("flat", f"a shape that broadcasts to {shape}", f"shape {jnp.shape(flat)}", "One number, or one a cell.")


def _total_variation(geometry: Any, weight: Any, lower: Any, upper: Any, inner_steps: int) -> TotalVariation:
    pixel = geometry.pixel_size
    spacing = (getattr(geometry, "slice_thickness", pixel) / pixel, 1.0, 1.0)[-len(geometry.image_shape) :]
    return TotalVariation(weight, lower=lower, upper=upper, spacing=spacing, gap=0.0, max_steps=inner_steps)


def _row_sum_bound(operator: Radon, weights: Any, dtype: Any) -> jax.Array:
    """max AᵀWA1 ≥ ‖AᵀWA‖ for A ≥ 0, held constant in derivatives: two projections instead of a power iteration, and about 15 % larger
    than the norm."""
    operator, weights = jax.lax.stop_gradient((operator, weights))
    p = operator(jnp.ones(operator.domain.shape, dtype))
    return jnp.max(operator.H(p if weights is None else jnp.asarray(weights, p.dtype) * p))


def _interpolates_in_fourier(operator: Radon) -> bool:
    return isinstance(operator.geometry, ParallelBeam) and operator.method != "joseph"


def _radon(geometry: Any, method: str | None, parallel: str) -> Radon:
    return Radon(geometry, method or (parallel if isinstance(geometry, ParallelBeam) else "auto"))


def _scan(name: str, data: Any, geometry: Any, method: str | None, parallel: str) -> tuple[Radon, jax.Array]:
    """The projector, and the data as a floating array."""
    operator = _radon(geometry, method, parallel)
    data = check.array(name, data)
    check.trailing_shape(name, data, operator.codomain.shape, "view, detector" if operator.codomain.ndim == 2 else "view, row, column")
    check.real(name, data, "Reconstruct real and imaginary part separately.")
    check.finite(name, data, "In-paint dead detector cells, or set them to 0 and give them weights of 0.")
    return operator, jnp.asarray(data, jnp.promote_types(jnp.result_type(data), jnp.float32))


def _counts(name: str, data: Any, background: Any, geometry: Any, method: str | None) -> tuple[Radon, jax.Array]:
    operator, data = _scan(name, data, geometry, method, "joseph")
    check.minimum(name, data, 0.0, remedy="Counts are not negative: subtract no offset, pass it as background=.")
    check.minimum("background", check.array("background", background), 0.0, remedy="It is a mean count.")
    return operator, data


def _subsets(geometry: Any, subsets: int | None, most: int = 10) -> int:
    """The number asked for (checked by the solver), or the largest divisor of the number of views up to ``most``."""
    if subsets is not None:
        return check.positive_int("subsets", subsets)
    return max(d for d in range(1, most + 1) if geometry.view_count % d == 0)


def _bounds(lower: Any, upper: Any) -> Energy:
    return Zero() if lower is None and upper is None else Box(lower, upper)


def _em(solver, sinogram, geometry, steps, background, penalty, x0, method, options):
    operator, sinogram = _counts("sinogram", sinogram, background, geometry, method)
    data = PoissonLikelihood(operator, sinogram, background)
    return _run(solver, Problem(data if penalty is None else data + penalty), operator, sinogram, x0, steps, options, prepare=False)


def _run(
    solver: Solver,
    problem: Problem,
    operator: Radon,
    sinogram: jax.Array,
    x0: Any,
    steps: int,
    options: dict[str, Any],
    prepare: bool = True,
) -> Result:
    for name in options.keys() - _OPTIONS:
        check.one_of("option", name, sorted(_OPTIONS), "These are passed on to solve.run; others are named in the signature.")
    if x0 is None:
        batch = sinogram.shape[: sinogram.ndim - operator.codomain.ndim]
        x0 = jnp.zeros(batch + operator.domain.shape, sinogram.dtype)
    return run(solver, problem, x0, steps, **{"objective_every": 0, "prepare": prepare, **options})
