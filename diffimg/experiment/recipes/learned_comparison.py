"""One table of learned reconstructions: classical, post-processing, unrolled, bilevel and plug-and-play methods on the same data."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.learned_diffusion import Diffusion
from diffimg.experiment.recipes.learned_methods import METHODS
from diffimg.experiment.recipes.learned_ridge import Ridge
from diffimg.experiment.recipes.learned_tasks import CT, MRI, SPLIT, Images
from diffimg.experiment.recipes.training import Cache
from diffimg.experiment.run import Run

Positive = Annotated[float, Field(gt=0)]


class Classical(Section):
    """Weights to choose from, relative to an operator of norm 1, and steps of FISTA."""

    weights: list[Positive] = Field(default=[5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2, 2.56e-2], min_length=1)
    steps: int = Field(default=150, ge=1)


class Networks(Section):
    """Supervised trainings."""

    unet: list[int] = Field(default=[24, 48, 96], min_length=1)  # channels
    automap: int = Field(default=256, ge=1)  # width of its dense layer: one as wide as the image would not fit
    inpainting: list[int] = Field(default=[16, 32, 64], min_length=1)  # channels
    iterations: int = Field(default=6, ge=1)  # unrolled
    steps: int = Field(default=1500, ge=1)
    batch: int = Field(default=4, ge=1)
    rate: float = Field(default=1e-3, gt=0)


class DPIR(Section):
    """A denoiser of photographs in half-quadratic splitting."""

    denoiser: str = "drunet"  # a pretrained one
    steps: int = Field(default=16, ge=1)
    strengths: list[Positive] = Field(default=[3e-3, 0.01, 0.03, 0.1, 0.3, 1.0], min_length=1)


class Config(Experiment):
    """Everything that determines a run of ``learned_comparison``."""

    images: Images = Images()
    ct: CT | None = CT()
    mri: MRI | None = MRI()
    methods: list[str] = Field(default=list(METHODS), min_length=1)
    classical: Classical = Classical()
    networks: Networks = Networks()
    ridge: Ridge = Ridge()
    diffusion: Diffusion = Diffusion()
    seeds: int = Field(default=3, ge=1)  # trainings of the best methods
    best: int = Field(default=5, ge=0)  # how many methods that are, by PSNR on the validation slices
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

        if self.ct is None and self.mri is None:
            raise ValueError("ct, mri: expected at least one of the two problems, got neither. Leave out one of ct=null and mri=null.")
        if "DPIR" in self.methods:  # before hours of training
            one_of("dpir.denoiser", self.dpir.denoiser, pretrained_names("drunet"))
        if self.ridge.start is not None and any(name.startswith("ridge") for name in self.methods):
            one_of("ridge.start", self.ridge.start, pretrained_names("ridge"))
        return self

    def problem_settings(self, name: str) -> dict[str, Any]:
        """What determines the data of a problem."""
        section = self.ct if name == "CT" else self.mri
        own = {} if self.images.folder is None else {"images": self.images.model_dump(mode="json")}
        return own if section is None else section.model_dump(mode="json") | own


COLUMNS = (
    "psnr_db", "psnr_sd_db", "psnr_shifted_db", "ssim", "seeds", "parameters", "training_seconds", "milliseconds", "weight",
    "weight_at_edge", "coverage_90", "chain_rhat", "trained_on",
)  # fmt: skip
ERROR = 0.1  # where the colours of error maps end
SETTLED = 1.1  # R̂ up to which chains count as samples
SAMPLED = 4  # test slices whose posterior is sampled
DEFINITIONS = {
    "psnr_db": "10 log10(1/MSE) of magnitudes, white = 1 (the largest value of the volume), mean over the test slices (and seeds)",
    "psnr_sd_db": "standard deviation of psnr_db over the seeds",
    "psnr_shifted_db": "psnr_db of k-space shifted by one sample along the measured lines, which leaves the true magnitude alone (MRI)",
    "ssim": "structural similarity of magnitudes, range 1, mean over the test slices (and seeds)",
    "seeds": "trainings that were averaged",
    "parameters": "numbers that were learned or tuned",
    "training_seconds": "of all steps, compilation included",
    "trained_on": "the device of the training, which may have been an earlier run's",
    "milliseconds": "for one slice, compiled before",
    "weight": "of the penalty, chosen on the validation slices (DPIR: strength; ridge: multiple of theory)",
    "weight_at_edge": "1: the weight is the first or last of those to choose from; others may do better",
    "coverage_90": "share of the object's pixels in the method's own 90 % region (samples for four slices, or seeds): calibrated is 0.9",
    "chain_rhat": "R̂ of two chains of Langevin dynamics with momentum (1: independent samples); above 1.1 they did not settle: no coverage",
}


def function(config: Config, run: Run) -> None:
    """Every method on every problem."""
    from diffimg.experiment.recipes import learned_tasks

    run.define(**DEFINITIONS)
    problems = []
    with run.stage("data"):
        if config.ct is not None:
            problems.append(learned_tasks.ct_problem(config.ct, config.seed, config.images))
        if config.mri is not None:
            problems.append(learned_tasks.mri_problem(config.mri, config.seed, config.images))
    images = {problem.name: _compare(config, run, problem) for problem in problems}
    with run.stage("report"):
        _report(config, run, problems, images)


def _compare(config, run, problem):
    """(reconstructions of the test slices by every method, those of shifted data); metrics go to the run."""
    import time

    import jax
    import numpy as np

    from diffimg.experiment.recipes import learned_methods, learned_tasks
    from diffimg.experiment.recipes.learned_method import coverage

    (truth, y), (validation, validation_y) = problem.test, problem.validation
    shown: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    found: dict[str, list[dict[str, float]]] = {}
    reached: dict[str, float] = {}
    for name in (m for m in METHODS if m in config.methods and learned_methods.applies(m, problem)):
        label = f"{problem.name}, {_name(name, problem.name)}"
        method = learned_methods.build(name, problem, config, run, _key(config, name, 0), config.seed)
        with run.stage(label):
            jax.block_until_ready(method.reconstruct(y))
            begin = time.perf_counter()
            x = jax.block_until_ready(method.reconstruct(y))
            seconds = time.perf_counter() - begin
            found[name] = [learned_tasks.scores(x, truth)]
            values: dict[str, Any] = {"parameters": method.parameters, "milliseconds": 1e3 * seconds / len(truth)}
            if problem.shifted is not None and method.posterior is None:  # the others take minutes
                moved[name] = np.asarray(method.reconstruct(problem.shifted(y)))
                values["psnr_shifted_db"] = learned_tasks.scores(moved[name], truth)["psnr_db"]
            if method.weight is not None:
                values["weight"] = method.weight
                if method.at_edge:
                    values["weight_at_edge"] = 1
            if method.outcome is not None:
                values |= {"training_seconds": method.outcome.seconds, "trained_on": method.outcome.device}
                reached[name] = learned_tasks.scores(method.reconstruct(validation_y), validation)["psnr_db"]
                _write(config, run, problem, name, method, found[name][0])
            if method.posterior is not None:
                few = slice(None, None, -(-len(truth) // SAMPLED))
                mean, spread, reduction = method.posterior(x[few], y[few], jax.random.key(config.seed + 2))
                values["chain_rhat"] = float(reduction)
                if values["chain_rhat"] < SETTLED:
                    values["coverage_90"] = coverage(mean, spread, truth[few], method.draws)
        shown[name] = np.asarray(x)
        run.metric(label, **found[name][0], **values)
    for name in sorted(reached, key=lambda n: -reached[n])[: config.best if config.seeds > 1 else 0]:
        label = f"{problem.name}, {_name(name, problem.name)}"
        several = [shown[name]]
        for k in range(1, config.seeds):
            method = learned_methods.build(name, problem, config, run, _key(config, name, k), config.seed + k)
            several.append(np.asarray(method.reconstruct(y)))
            found[name].append(learned_tasks.scores(several[-1], truth))
        values = {key: float(np.mean([f[key] for f in found[name]])) for key in ("psnr_db", "ssim")}
        values |= {"psnr_sd_db": float(np.std([f["psnr_db"] for f in found[name]], ddof=1)), "seeds": config.seeds}
        if "chain_rhat" not in run.metrics["methods"][label]:
            stack = np.stack(several)
            apart = np.sqrt(np.sum(np.abs(stack - stack.mean(0)) ** 2, 0) / (config.seeds - 1))
            values["coverage_90"] = coverage(stack.mean(0), apart, truth, config.seeds)
        run.metric(label, **values)
    return shown, moved


def _key(config, name, repetition):
    import jax

    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), METHODS.index(name)), repetition)


def _write(config, run, problem, name, method, reached):
    """A file of weights that ``learn.load_weights`` reads."""
    import numpy as np

    from diffimg import learn

    if method.model is None:
        return
    recipe = {"methods": [name], problem.name.lower(): config.problem_settings(problem.name), "seed": config.seed}
    params, model = method.outcome.params, method.model
    if model["kind"] == "ridge":  # as Pretrained.prior reads it: what was fitted goes into scales and weight
        ridge = params["ridge"]
        model = model | {"weight": model["weight"] * float(np.exp(params["log_weight"]))}
        params = ridge | {"log_scales": ridge["log_scales"] + np.log(model["size"])}
    about = {"model": model, "name": f"{problem.name} {name}", "recipe": recipe, "metrics": reached}
    learn.save_weights(run.folder / f"{problem.name} {name}.npz".lower().replace(",", "").replace(" ", "_"), params, about)


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
        errors: list[Any] = [None]
        for name, x in images[problem.name][0].items():
            apart = np.abs(x[middle]) - truth[middle]
            psnr = -10 * np.log10(np.mean(apart**2))
            panels.append(pictures.Panel(np.abs(x[middle]), _name(name, problem.name), f"{psnr:.2f} dB", (0.0, 1.0)))
            errors.append(pictures.Panel(apart, "error", "", (-ERROR, ERROR), colors="RdBu_r"))
        width = -(-len(panels) // -(-len(panels) // 8))
        for i in range(0, len(panels), width):
            rows += [panels[i : i + width], errors[i : i + width]]
    overview = pictures.png(pictures.grid(rows, title))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    own = f"Slices of the folder {config.images.folder}, split by file or by subfolder. Measured on a grid twice as fine."
    report.picture("Overview", overview, SPLIT if config.images.folder is None else own)
    for problem in problems:
        rows = _shifted_rows(run, problem, *images[problem.name])
        if rows:
            drawn = pictures.png(pictures.grid(rows, f"{problem.name}: the same data, and one sample of k-space further (below)"))
            run.write("shifted.png", drawn)
            report.picture("One sample further", drawn, DEFINITIONS["psnr_shifted_db"] + ".")
    found = {column for row in run.metrics["methods"].values() for column in row}
    report.table("Metrics", run.metrics["methods"], [column for column in COLUMNS if column in found])
    run.write("report.html", report.html())


def _shifted_rows(run, problem, images, moved):
    """Two rows of panels: the networks before and after a shift of k-space."""
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.recipes.learned_methods import NETWORKS

    rows: list[Any] = [[], []]
    for name in (n for n in NETWORKS if n in moved):
        found = run.metrics["methods"][f"{problem.name}, {name}"]
        for row, x, key in zip(rows, (images, moved), ("psnr_db", "psnr_shifted_db"), strict=True):
            row.append(pictures.Panel(np.abs(x[name][len(x[name]) // 2]), name, f"{found[key]:.2f} dB", (0.0, 1.0)))
    return rows if rows[0] else []


recipe = Recipe(Config, function, headline=COLUMNS)
