"""What the comparison knows of a method: its reconstruction, its cost, its uncertainty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from diffimg.experiment.recipes.learned_tasks import Problem, scores
from diffimg.experiment.recipes.training import Outcome


@dataclasses.dataclass(eq=False)
class Method:
    """``reconstruct(y)`` → images.

    ``parameters``: how many numbers. ``weight``: what was chosen on validation; ``at_edge``: from the end of its list.
    ``outcome``: of the training. ``model``: what the file of weights says. ``posterior(x, y, key)`` → (mean, standard deviation, R̂) of
    samples given the data, ``draws`` of them (None: very many).
    """

    reconstruct: Callable[[Any], Any]
    parameters: int = 0
    weight: float | None = None
    outcome: Outcome | None = None
    model: dict[str, Any] | None = None
    posterior: Callable[[Any, Any, Any], tuple[Any, Any, Any]] | None = None
    draws: int | None = None
    at_edge: bool = False

    @classmethod
    def learned(cls, outcome: Outcome, reconstruct: Callable[[Any], Any], **more: Any) -> Method:
        """Of a training."""
        import jax
        import numpy as np

        size = sum(int(np.size(v)) for v in jax.tree.leaves(outcome.params))
        return cls(reconstruct, size, outcome=outcome, **more)


def tuned(problem: Problem, reconstruct: Callable[[float, Any], Any], weights: list[float], compiled: bool = False) -> Method:
    """The weight with the highest PSNR on the validation slices."""
    import jax

    program = reconstruct if compiled else jax.jit(reconstruct)
    truth, y = problem.validation
    best = max(weights, key=lambda w: scores(program(w, y), truth)["psnr_db"])
    at_edge = len(weights) > 2 and best in (min(weights), max(weights))
    return Method(lambda y: program(best, y), 1, weight=best, at_edge=at_edge)


def coverage(mean: Any, spread: Any, truth: Any, draws: int | None = None, level: float = 0.9) -> float:
    """Share of the pixels inside the object that lie where a Gaussian of these moments has ``level`` of its mass.

    ``spread``: standard deviation, of complex images √(of both parts together). ``draws``: how many samples the moments are of; few widen
    the region (Student's t).
    """
    import numpy as np
    from scipy import stats

    mean, spread, truth = (np.asarray(v) for v in (mean, spread, truth))
    parts = 2 if np.iscomplexobj(truth) else 1
    if draws is None:
        quantile = stats.chi2.ppf(level, parts) / parts
    else:
        quantile = (1 + 1 / draws) * stats.f.ppf(level, parts, parts * (draws - 1))
    inside = np.abs(truth) > 0.05
    return float(np.mean(np.abs(truth - mean)[inside] ** 2 <= quantile * spread[inside] ** 2))
