"""One table of learned reconstructions: classical, post-processing, unrolled, bilevel and plug-and-play methods on the same data."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.learned_methods import METHODS
from diffimg.experiment.recipes.learned_tasks import CT, MRI, SPLIT
from diffimg.experiment.recipes.training import Cache
from diffimg.experiment.run import Run


class Classical(Section):
    """Weights to choose from, relative to an operator of norm 1, and steps of FISTA."""

    weights: list[float] = Field(default=[5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3], min_length=1)
    steps: int = Field(default=150, ge=1)


class Networks(Section):
    """Supervised trainings."""

    unet: list[int] = Field(default=[24, 48, 96], min_length=1)  # channels
    automap: int = Field(default=256, ge=1)  # width of its dense layer: one as wide as the image would not fit
    iterations: int = Field(default=6, ge=1)  # unrolled
    steps: int = Field(default=1500, ge=1)
    batch: int = Field(default=4, ge=1)
    rate: float = Field(default=1e-3, gt=0)


class Ridge(Section):
    """The ridge regularizer, learned so that the minimiser is right."""

    start: str | None = "ridge"  # a pretrained one; None: cosines
    weight: float = Field(default=3e-3, gt=0)  # to start from
    weak: float = Field(default=0.99, ge=0)
    iterations: int = Field(default=100, ge=1)
    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=2, ge=1)


class DPIR(Section):
    """A denoiser of photographs in half-quadratic splitting."""

    denoiser: str = "drunet"  # a pretrained one
    steps: int = Field(default=16, ge=1)
    strengths: list[float] = Field(default=[0.03, 0.1, 0.3, 1.0, 3.0], min_length=1)


class Config(Experiment):
    """Everything that determines a run of ``learned_comparison``."""

    ct: CT | None = CT()
    mri: MRI | None = MRI()
    # DPIR needs a denoiser of noise levels, and none is shipped yet: dpir.denoiser names one
    methods: list[str] = Field(default=[name for name in METHODS if name != "DPIR"], min_length=1)
    classical: Classical = Classical()
    networks: Networks = Networks()
    ridge: Ridge = Ridge()
    dpir: DPIR = DPIR()
    cache: Cache = Cache()

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        from diffimg.core.check import one_of

        for name in methods:
            one_of("methods", name, METHODS)
        return methods

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Config:
        from diffimg.core.check import one_of
        from diffimg.learn import pretrained_names

        if "DPIR" in self.methods:  # before hours of training
            one_of("dpir.denoiser", self.dpir.denoiser, pretrained_names())
        return self

    def problem_settings(self, name: str) -> dict[str, Any]:
        """What determines the data of a problem."""
        section = self.ct if name == "CT" else self.mri
        return {} if section is None else section.model_dump(mode="json")


DEFINITIONS = {
    "psnr_db": "10 log10(1/MSE) of magnitudes, white = 1 (the largest value of the volume), mean over the test slices",
    "ssim": "structural similarity of magnitudes, range 1, mean over the test slices",
    "parameters": "numbers that were learned or tuned",
    "training_seconds": "of all steps, compilation included",
    "milliseconds": "for one slice, compiled before",
    "weight": "of the penalty, chosen on the validation slices (DPIR: strength)",
}


def function(config: Config, run: Run) -> None:
    """Every method on every problem."""
    import time

    import jax
    import numpy as np

    from diffimg.experiment.recipes import learned_methods, learned_tasks

    run.define(**DEFINITIONS)
    problems = []
    with run.stage("data"):
        if config.ct is not None:
            problems.append(learned_tasks.ct_problem(config.ct, config.seed))
        if config.mri is not None:
            problems.append(learned_tasks.mri_problem(config.mri, config.seed))
    key = jax.random.key(config.seed)
    images: dict[str, dict[str, Any]] = {}
    for problem in problems:
        truth, y = problem.test
        shown = images[problem.name] = {}
        for index, name in enumerate(METHODS):
            if name not in config.methods:
                continue
            method = learned_methods.build(name, problem, config, run, jax.random.fold_in(key, index))
            label = f"{problem.name}, {_name(name, problem.name)}"
            with run.stage(label):
                jax.block_until_ready(method.reconstruct(y))
                begin = time.perf_counter()
                x = jax.block_until_ready(method.reconstruct(y))
                seconds = time.perf_counter() - begin
            shown[name] = np.asarray(x)
            more = {k: v for k, v in {"training_seconds": method.training_seconds, "weight": method.weight}.items() if v is not None}
            found = learned_tasks.scores(x, truth)
            run.metric(label, **found, parameters=method.parameters, milliseconds=1e3 * seconds / len(truth), **more)
    with run.stage("report"):
        _report(config, run, problems, images)


def _name(name, problem):
    return {"CT": "filtered backprojection", "MRI": "zero-filled"}[problem] if name == "start" else name


def _report(config, run, problems, images):
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    title = config.title or "Learned reconstruction, compared"
    rows: list[Any] = []
    for problem in problems:
        truth = np.abs(np.asarray(problem.test[0]))
        middle = len(truth) // 2
        panels: list[Any] = [pictures.Panel(truth[middle], f"{problem.name}: truth", "", (0.0, 1.0), pixel_size=problem.spacing)]
        for name, x in images[problem.name].items():
            psnr = run.metrics["methods"][f"{problem.name}, {_name(name, problem.name)}"]["psnr_db"]
            panels.append(pictures.Panel(np.abs(x[middle]), _name(name, problem.name), f"{psnr:.2f} dB", (0.0, 1.0)))
        width = -(-len(panels) // 2) if len(panels) > 7 else len(panels)
        rows += [panels[i : i + width] for i in range(0, len(panels), width)]
    overview = pictures.png(pictures.grid(rows, title))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    report.picture("Overview", overview, SPLIT)
    columns = ("psnr_db", "ssim", "parameters", "training_seconds", "milliseconds", "weight")
    report.table("Metrics", run.metrics["methods"], columns)
    run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "parameters", "training_seconds", "milliseconds", "weight"))
