"""The registry of recipes: experiments that join the layers, each a config model and a function.

A package outside diffimg adds its own by an entry point of the group ``diffimg.recipes``:

    [project.entry-points."diffimg.recipes"]
    my_recipe = "my_package.my_recipe:recipe"
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffimg.experiment.config import ConfigError, Experiment, nearest

if TYPE_CHECKING:
    from diffimg.experiment.run import Run


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An experiment: ``function(config, run)`` computes and writes what it finds into the run folder ``run``.

    ``headline``: the metrics to print at the end and to put in tables, in that order.
    """

    config: type[Experiment]
    function: Callable[[Any, Run], None]
    headline: tuple[str, ...] = ()


GROUP = "diffimg.recipes"
RECIPES = {
    "ct_artifacts": "diffimg.experiment.recipes.ct_artifacts:recipe",
    "ct_geometries": "diffimg.experiment.recipes.ct_geometries:recipe",
    "ct_generations": "diffimg.experiment.recipes.ct_generations:recipe",
    "ct_self_calibration": "diffimg.experiment.recipes.ct_self_calibration:recipe",
    "ct_beam_hardening": "diffimg.experiment.recipes.ct_beam_hardening:recipe",
    "ct_hounsfield": "diffimg.experiment.recipes.ct_hounsfield:recipe",
    "ct_material_decomposition": "diffimg.experiment.recipes.ct_material_decomposition:recipe",
    "ct_metal": "diffimg.experiment.recipes.ct_metal:recipe",
    "radiography": "diffimg.experiment.recipes.radiography:recipe",
    "ct_backprojection": "diffimg.experiment.recipes.ct_backprojection:recipe",
    "denoising": "diffimg.experiment.recipes.denoising:recipe",
    "learned_comparison": "diffimg.experiment.recipes.learned_comparison:recipe",
    "mri_compressed_sensing": "diffimg.experiment.recipes.mri_compressed_sensing:recipe",
    "mri_contrast": "diffimg.experiment.recipes.mri_contrast:recipe",
    "mri_dynamic": "diffimg.experiment.recipes.mri_dynamic:recipe",
    "mri_fields_of_experts": "diffimg.experiment.recipes.mri_fields_of_experts:recipe",
    "mri_non_cartesian": "diffimg.experiment.recipes.mri_non_cartesian:recipe",
    "mri_parallel": "diffimg.experiment.recipes.mri_parallel:recipe",
    "mri_pulse_design": "diffimg.experiment.recipes.mri_pulse_design:recipe",
    "mri_quantitative": "diffimg.experiment.recipes.mri_quantitative:recipe",
    "mri_sampling": "diffimg.experiment.recipes.mri_sampling:recipe",
    "mri_sequences": "diffimg.experiment.recipes.mri_sequences:recipe",
    "motion_compensated": "diffimg.experiment.recipes.motion_compensated:recipe",
    "registration": "diffimg.experiment.recipes.registration:recipe",
    "splines": "diffimg.experiment.recipes.splines:recipe",
    "learned_registration": "diffimg.experiment.recipes.learned_registration:recipe",
    "ct_sparse_view": "diffimg.experiment.recipes.ct_sparse_view:recipe",
}


def names() -> list[str]:
    """Names of all recipes, built in and installed."""
    return [*RECIPES, *(e.name for e in importlib.metadata.entry_points(group=GROUP) if e.name not in RECIPES)]


def find(name: Any) -> Recipe:
    """The recipe of that name, imported now."""
    if name in RECIPES:
        module, _, attribute = RECIPES[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == name:
            return entry.load()
    near = nearest(str(name), names())
    got = "nothing" if name is None else repr(name)
    raise ConfigError(f"recipe: expected one of {', '.join(names())}, got {got}." + (f" Did you mean {near!r}?" if near else ""))
