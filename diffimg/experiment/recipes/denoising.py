"""Denoising photographs: total variation (one weight, or a learned map of them), ridge regularizers learned bilevel, a network."""

from __future__ import annotations

import functools
from typing import Any, Literal

from pydantic import Field

from diffimg.experiment.config import Experiment, Section
from diffimg.experiment.recipes import Recipe
from diffimg.experiment.recipes.training import Cache, trained
from diffimg.experiment.run import Run


class Data(Section):
    """Photographs out of installed packages, split by image, or images of a folder; noise that is not clipped."""

    folder: str | None = None  # one's own images of 0 … 1 (pictures, NPY, …): subfolders train, validation, test, or split by file
    noise: float = Field(default=25.0, gt=0, le=100)  # standard deviation, of 255
    patch: int = Field(default=64, ge=16)
    stride: int = Field(default=32, ge=8)
    scales: list[float] = Field(default=[1.0, 0.7, 0.5], min_length=1)  # of the training photographs
    test_size: int = Field(default=256, ge=32)  # central crop of every test photograph


class WeightMap(Section):
    """A network looks at the noisy photograph and sets the weight of total variation in each pixel, so that the minimiser is right."""

    channels: list[int] = Field(default=[16, 32], min_length=1)
    iterations: int = Field(default=60, ge=5)  # of the dual problem
    steps: int = Field(default=1000, ge=0)  # 0: none
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=1e-3, gt=0)


class Ridge(Section):
    """Filters and potential learned so that the minimiser of ½‖x − y‖² + R(x) is right."""

    filter_size: int = Field(default=7, ge=2, le=13)
    filters: int = Field(default=48, ge=1)
    weak: list[float] = [0.0, 0.99]  # most negative curvature of each: 0 is convex
    gradient: Literal["implicit", "unroll", "jacobian-free"] = "implicit"
    steps: int = Field(default=1500, ge=1)
    batch: int = Field(default=8, ge=1)


class Network(Section):
    """A DRUNet in small, for all levels of noise up to twice that of the data."""

    widths: list[int] = Field(default=[24, 48, 96], min_length=1)
    blocks: int = Field(default=2, ge=1)
    steps: int = Field(default=20000, ge=0)  # 0: none
    batch: int = Field(default=4, ge=1)
    rate: float = Field(default=1e-3, gt=0)


class Config(Experiment):
    """Everything that determines a run of ``denoising``."""

    data: Data = Data()
    tv_weights: list[float] = Field(default=[0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12], min_length=1)  # at σ = 25; they grow with the noise
    weight_map: WeightMap = WeightMap()
    ridge: Ridge = Ridge()
    network: Network = Network()
    cache: Cache = Cache()


DEFINITIONS = {
    "psnr_db": "10 log10(1/MSE), white = 1, mean over the test photographs",
    "ssim": "structural similarity, Gaussian windows, range 1, mean over the test photographs",
    "gain_db": "PSNR above tuned total variation",
    "parameters": "numbers that were learned",
    "training_seconds": "of all steps, compilation included",
    "trained_on": "the device of the training, which may have been an earlier run's",
    "milliseconds": "for one test photograph",
    "weight": "of total variation, chosen on the validation photographs",
    "expansion": "largest singular value of the denoiser's Jacobian at the noisy test photographs",
}
SIGMA_DATA, LOWEST = 0.25, 1 / 255  # standard deviation of photographs; the least level of noise that the network learns
BORDER = 8  # filters are periodic: images are continued by reflection, and training looks at the inside only


def function(config: Config, run: Run) -> None:
    """Train, tune on validation photographs, score on the test ones, draw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffimg import data, energy, learn
    from diffimg.energy.ridge import KNOTS

    run.define(**DEFINITIONS)
    key = jax.random.key(config.seed)
    sigma = config.data.noise / 255
    with run.stage("photographs"):
        pool = _pool(config.data)
        validation, test = (_noisy(config, split, jax.random.fold_in(key, k)) for k, split in enumerate(("validation", "test")))
        draw = functools.partial(data.draw, pool)

    names = list(_images(config.data, "test"))
    images: dict[str, Any] = {"noisy": test[1]}
    files: dict[str, Any] = {}
    with run.stage("total variation"):
        weights = [w * sigma / (25 / 255) for w in config.tv_weights]
        reached = {w: _psnr(_total_variation(validation[1], w), validation[0]) for w in weights}
        best = max(reached, key=lambda w: reached[w])
        images["total variation"], ms = _timed(lambda y: _total_variation(y, best), test[1])
        run.metric("total variation", weight=best, milliseconds=ms, parameters=1)

    weight_map = None
    if config.weight_map.steps:
        name = "total variation, learned map"
        result, weight_of, solve_all = _train_map(config, run, name, best, sigma, draw, validation, jax.random.fold_in(key, 4))
        images[name], ms = _timed(lambda y: solve_all(result.params, y), test[1])
        size = sum(int(np.size(v)) for v in jax.tree.leaves(result.params))
        run.metric(name, parameters=size, training_seconds=result.seconds, trained_on=result.device, milliseconds=ms)
        weight_map = np.asarray(weight_of(result.params, jnp.asarray(test[1])))

    for weak in config.ridge.weak:
        name = "convex ridge" if weak == 0 else "weakly convex ridge"
        result = _train_ridge(config, run, name, weak, sigma, draw, validation, jax.random.fold_in(key, 2))
        solve_all = _ridge_problem(weak, "implicit", steps=300, tolerance=1e-4)
        images[name], ms = _timed(lambda y, s=solve_all, p=result.params: _inside(s.solve(p, {"y": _continued(y)}).x), test[1])
        size = sum(int(np.size(v)) for v in jax.tree.leaves(result.params))
        run.metric(name, parameters=size, training_seconds=result.seconds, trained_on=result.device, milliseconds=ms)
        files[name] = result.params, {"kind": "ridge", "weak": weak, "knots": KNOTS, "sigma": sigma}, "float32"

    if config.network.steps:
        result, denoise = _train_network(config, run, sigma, draw, validation, jax.random.fold_in(key, 3))
        images["DRUNet"], ms = _timed(lambda y: denoise(result.params, y, sigma), test[1])
        size = sum(int(np.size(v)) for v in jax.tree.leaves(result.params))
        prior = energy.PlugAndPlay(denoise, result.params)
        expansion = learn.lipschitz_estimate(prior, jnp.asarray(test[1][:1]), sigma, key, 20).denoiser
        learned = {"parameters": size, "training_seconds": result.seconds, "trained_on": result.device}
        run.metric("DRUNet", **learned, milliseconds=ms, expansion=float(expansion))
        model = {"kind": "drunet", "widths": config.network.widths, "blocks": config.network.blocks}
        model |= {"sigma_data": SIGMA_DATA, "sigma_range": [LOWEST, 2 * sigma]}
        files["DRUNet"] = result.params, model, "float16"

    for name, x in images.items():
        run.metric(name, psnr_db=_psnr(x, test[0]), ssim=_ssim(x, test[0]))
    for name in images:
        methods = run.metrics["methods"]
        run.metric(name, gain_db=methods[name]["psnr_db"] - methods["total variation"]["psnr_db"])
    for name, (params, model, dtype) in files.items():
        learn.save_weights(run.folder / f"{name.replace(' ', '_')}.npz", params, _about(config, run, name, model), dtype)
    with run.stage("report"):
        _report(config, run, images, test[0], names, weight_map)


def _about(config, run, name, model):
    scores = {k: v for k, v in run.metrics["methods"].get(name, {}).items() if k != "milliseconds"}
    return {"model": model, "name": name, "recipe": config.model_dump(mode="json", exclude={"cache"}), "metrics": scores}


def _pool(section: Data):
    from diffimg import data

    return data.patches(data.scaled(list(_images(section, "train").values()), section.scales), section.patch, section.stride)


def _images(section: Data, split: str):
    """{name: image} of a split."""
    from diffimg import data

    if section.folder is None:
        return {sample.name: sample.image for sample in data.photographs(split)}
    return dict(data.split_folder(section.folder, split))


def _noisy(config, split, key):
    """(photographs, noisy ones) ``[image, y, x]``: central crops."""
    import jax
    import numpy as np

    from diffimg.core import check

    size = config.data.test_size
    crops = []
    for name, image in _images(config.data, split).items():
        if image.ndim != 2 or min(image.shape) < size:
            check.fail("data.test_size", f"a crop that fits {name} of shape {image.shape}", str(size), "Choose a smaller one.")
        top, left = ((n - size) // 2 for n in image.shape)
        crops.append(image[top : top + size, left : left + size])
    truth = np.stack(crops)
    return truth, truth + config.data.noise / 255 * np.asarray(jax.random.normal(key, truth.shape))


def _total_variation(y, weight):
    import jax.numpy as jnp

    from diffimg import energy

    return energy.TotalVariation(weight, spacing=(1.0, 1.0), gap=1e-5, max_steps=400).prox(jnp.asarray(y), 1.0)


def _train_map(config, run, name, weight, sigma, draw, validation, key):
    """(outcome, the map of weights for noisy images, the denoised ones)."""
    import jax
    import jax.numpy as jnp
    import optax

    from diffimg import energy, nn

    section = config.weight_map
    apply, start = nn.split(nn.UNet(section.channels, 1, 1, rngs=nn.Rngs(config.seed)))
    network = nn.on_images(apply)

    def weight_of(params, y):
        return weight * jnp.exp(network(params, y))

    def denoise(params, y):
        prior = energy.TotalVariation(weight_of(params, y), spacing=(1.0, 1.0), gap=0.0, max_steps=section.iterations)
        return prior.prox(y, 1.0)

    evaluate = jax.jit(denoise)

    def batch(key, step):
        truth = draw(jax.random.fold_in(key, 0), section.batch)
        return truth, truth + sigma * jax.random.normal(jax.random.fold_in(key, 1), truth.shape)

    def loss(params, batch, key):
        truth, noisy = batch
        return 1e3 * jnp.mean((denoise(params, noisy) - truth) ** 2)

    def validate(params):
        return -_psnr(evaluate(params, jnp.asarray(validation[1])), validation[0])

    rate = optax.cosine_decay_schedule(section.rate, section.steps)
    settings = {"data": config.data.model_dump(exclude_none=True), "map": section.model_dump(), "weight": weight, "seed": config.seed}
    options = {"optimizer": optax.adam(rate), "clip": 1.0, "validate": validate, "validate_every": 250, "log_every": 25}
    return trained(run, config.cache, name, settings, loss, start, batch, section.steps, key, **options), weight_of, evaluate


def _ridge_problem(weak, gradient, **options):
    """The lower problem ½‖x − y‖² + R(x), its mean squared error inside the border as the upper one."""
    import jax.numpy as jnp

    from diffimg import energy, forward, learn, solve
    from diffimg.energy.ridge import constrained_ridge

    rules = {
        "implicit": solve.Implicit("cg", tolerance=1e-2, max_steps=30),
        "unroll": solve.Checkpoint(),
        "jacobian-free": solve.JacobianFree(),
    }

    def lower(params, batch):
        y = batch["y"]
        data_term = energy.LeastSquares(forward.Identity(y.shape[-2:], dtype=y.dtype.name), y)
        return solve.Problem(smooth=data_term + constrained_ridge(params, weak)), y

    def outer(x, batch):
        return 1e3 * jnp.mean(_inside(x - batch["truth"]) ** 2)

    return learn.Bilevel(lower, outer, gradient=rules[gradient], **options)


def _train_ridge(config, run, name, weak, sigma, draw, validation, key):
    import jax
    import optax

    from diffimg.energy.ridge import ridge_parameters

    section = config.ridge
    # the potential turns well below the noise that is left in a filter's response
    start = ridge_parameters(section.filter_size, min(section.filters, section.filter_size**2 - 1), 0.3 * sigma)
    problem = _ridge_problem(weak, section.gradient, steps=60, tolerance=1e-3)
    exact = _ridge_problem(weak, "implicit", steps=300, tolerance=1e-4)
    crop = [v[:, :128, :128] for v in validation]

    def batch(key, step):
        truth = draw(jax.random.fold_in(key, 0), section.batch)
        return {"truth": truth, "y": truth + sigma * jax.random.normal(jax.random.fold_in(key, 1), truth.shape)}

    def validate(params):
        return -_psnr(_inside(exact.solve(params, {"y": _continued(crop[1])}).x), crop[0])

    rates = {"filters": 3e-3, "log_scales": 1e-2, "curvatures": 5e-2, "log_steepness": 2e-2, "log_weight": 2e-2}
    decay = optax.cosine_decay_schedule(1.0, section.steps)
    kinds = {k: optax.adam(lambda step, rate=rate: rate * decay(step)) for k, rate in rates.items()}
    optimizer = optax.partition(kinds, {k: k for k in rates})
    settings = {"data": config.data.model_dump(exclude_none=True), "ridge": section.model_dump(exclude={"weak"})}
    settings |= {"weak": weak, "seed": config.seed}
    options = {"optimizer": optimizer, "clip": 1.0, "validate": validate, "validate_every": 250, "log_every": 25}
    return trained(run, config.cache, name, settings, problem, start, batch, section.steps, key, **options)


def _train_network(config, run, sigma, draw, validation, key):
    import jax
    import jax.numpy as jnp
    import optax

    from diffimg import nn

    section = config.network
    apply, start = nn.split(nn.DRUNet(1, section.widths, section.blocks, rngs=nn.Rngs(config.seed)))
    denoise = nn.preconditioned(nn.on_images(apply), SIGMA_DATA)
    evaluate = jax.jit(denoise)

    def batch(key, step):
        keys = jax.random.split(key, 3)
        truth = draw(keys[0], section.batch)
        levels = jax.random.uniform(keys[1], (section.batch,), minval=LOWEST, maxval=2 * sigma)
        return truth, truth + levels[:, None, None] * jax.random.normal(keys[2], truth.shape), levels

    def loss(params, batch, key):
        truth, noisy, levels = batch
        return jnp.mean(jnp.abs(denoise(params, noisy, levels) - truth))

    def validate(params):
        return -_psnr(evaluate(params, jnp.asarray(validation[1]), sigma), validation[0])

    optimizer = optax.adam(optax.cosine_decay_schedule(section.rate, section.steps))
    settings = {"data": config.data.model_dump(exclude_none=True), "network": section.model_dump(), "seed": config.seed}
    options = {"optimizer": optimizer, "average": 0.995, "validate": validate, "validate_every": 500, "log_every": 50}
    result = trained(run, config.cache, "DRUNet", settings, loss, start, batch, section.steps, key, **options)
    return result, evaluate


def _continued(y):
    import jax.numpy as jnp

    return jnp.pad(jnp.asarray(y), ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), mode="symmetric")


def _inside(x):
    return x[:, BORDER:-BORDER, BORDER:-BORDER]


def _timed(method, y):
    """(images, milliseconds for one), compiled before."""
    import time

    import jax
    import numpy as np

    jax.block_until_ready(method(y))
    start = time.perf_counter()
    x = np.asarray(method(y))
    return x, 1e3 * (time.perf_counter() - start) / len(y)


def _psnr(x, truth):
    import jax.numpy as jnp

    from diffimg import metrics

    return float(jnp.mean(metrics.psnr(jnp.asarray(x), jnp.asarray(truth), data_range=1.0)))


def _ssim(x, truth):
    import jax.numpy as jnp

    from diffimg import metrics

    return float(jnp.mean(metrics.ssim(jnp.asarray(x), jnp.asarray(truth), data_range=1.0)))


def _report(config, run, images, truth, names, weight_map):
    import numpy as np

    from diffimg.experiment import pictures
    from diffimg.experiment.report import standard_report

    title = config.title or "Denoising photographs"
    methods = run.metrics["methods"]
    shown = range(min(3, len(names)))
    rows: list[Any] = []
    for k in shown:
        row = [pictures.Panel(truth[k], names[k], "truth", (0.0, 1.0))]
        for name, x in images.items():
            psnr = -10 * np.log10(np.mean((np.asarray(x[k]) - truth[k]) ** 2))
            row.append(pictures.Panel(np.asarray(x[k]), name, f"{psnr:.2f} dB", (0.0, 1.0)))
        rows.append(row)
    overview = pictures.png(pictures.grid(rows, title))
    run.write("overview.png", overview)
    report = standard_report(run, title, config.description, DEFINITIONS)
    split = "Trained on astronaut, brick, china, coins, grass, gravel, hubble, moon; tuned on grace_hopper and rocket"
    if config.data.folder is not None:
        split = f"Images of the folder {config.data.folder}, split by file or by subfolder"
    scored = f"scored on {', '.join(names[:20])}, central {config.data.test_size}², noise {config.data.noise:g}/255."
    report.picture("Overview", overview, f"{split}; {scored}")
    if weight_map is not None:
        row = [pictures.Panel(weight_map[k], names[k], "weight", (0.0, float(np.quantile(weight_map, 0.99)))) for k in shown]
        drawn = pictures.png(pictures.grid([row], "Learned maps of the weight of total variation"))
        run.write("weight_map.png", drawn)
        report.picture("Weight maps", drawn, "What the network makes of the noisy photograph: black is no smoothing.")
    columns = ("psnr_db", "ssim", "gain_db", "parameters", "training_seconds", "trained_on", "milliseconds", "weight", "expansion")
    report.table("Metrics", methods, columns)
    run.write("report.html", report.html())


recipe = Recipe(Config, function, headline=("psnr_db", "ssim", "gain_db", "parameters", "training_seconds", "milliseconds"))
