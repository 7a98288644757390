"""The command line. JAX and matplotlib are imported by the commands that compute."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import diffimg
from diffimg.experiment.config import ConfigError, dump, flatten, locate, read, shipped, validate

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="diffimg",
    help="Differentiable medical imaging: run experiments, look at them, compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, the name of a shipped config, or a run folder.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. solver.steps=200; repeatable.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to write; by default runs/<recipe>-<time>.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")]
Where = Annotated[Device | None, typer.Option("--device", help="Where to compute; by default JAX's choice.")]
Cache = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Keep compiled programs here; off by default.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command("run")
def run_command(
    config: Config,
    set_: Set = [],  # noqa: B006  (typer copies it)
    out: Out = None,
    overwrite: Overwrite = False,
    device: Where = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Run an experiment and leave a run folder: config, provenance, metrics, log, arrays, pictures and report.html."""
    with _reported(debug):
        resolved, recipe = _resolve(config, set_)
        from diffimg.experiment.run import default_folder

        folder = out or default_folder(resolved.recipe)
        metrics = _execute(resolved, recipe, folder, overwrite, device, cache)
        _metrics_table(metrics, recipe.headline)
        typer.echo(f"{folder}{os.sep}")
        report = folder / "report.html"
        if report.is_file():
            typer.echo(f"open {report}")


@app.command("list")
def list_command() -> None:
    """List the shipped configs."""
    with _reported(False):
        for name, path in shipped().items():
            content = read(path)
            summary = content.get("title") or " ".join(str(content.get("description", "")).split())
            typer.echo(f"{name:<24} {summary}")


@app.command("show")
def show_command(config: Config, set_: Set = [], debug: Debug = False) -> None:  # noqa: B006
    """Print the whole config that a run would use, defaults and overrides included."""
    with _reported(debug):
        resolved, _ = _resolve(config, set_)
        typer.echo(dump(resolved), nl=False)


_STAGES = "One after the other: moments, translation, rigid, similarity, affine, bspline, displacement, velocity, implicit."
_SPACING = "Between the control points of bspline; default a tenth of the image."
_WEIGHT = "Of the regularizer: more for images of unlike contrast or noise; default 10 for bending and curvature, 1 or less for others."
_TRANSFORM_FILE = "transform.tfm, or transform.h5 (needs the extra io)."
_PENALTIES = "bending, diffusion, elastic, curvature, tv, volume or folding."


@app.command("register")
def register_command(
    fixed: Annotated[str, typer.Argument(metavar="FIXED", help="The image that stays: NIfTI, DICOM (file or folder) or TIFF.")],
    moving: Annotated[str, typer.Argument(metavar="MOVING", help="The image that is brought onto it.")],
    out: Out = None,
    stages: Annotated[str, typer.Option("--stages", metavar="A,B,…", help=_STAGES)] = "rigid,affine,bspline",
    similarity: Annotated[str, typer.Option("--similarity", help="ssd, ncc, lncc, mi, nmi, ngf or mind.")] = "ncc",
    spacing: Annotated[float | None, typer.Option("--spacing", metavar="MM", help=_SPACING)] = None,
    regularizer: Annotated[str, typer.Option("--regularizer", help=_PENALTIES)] = "bending",
    weight: Annotated[float | None, typer.Option("--weight", help=_WEIGHT)] = None,
    levels: Annotated[str, typer.Option("--levels", metavar="A,B,…", help="How many times coarser each level is.")] = "4,2,1",
    steps: Annotated[int, typer.Option("--steps", help="Of the search, at each level (and of the joint one of --consistency).")] = 50,
    order: Annotated[int, typer.Option("--order", help="Of the spline that interpolates the result.")] = 3,
    transform_file: Annotated[str, typer.Option("--transform-file", help=_TRANSFORM_FILE)] = "transform.tfm",
    fixed_mask: Annotated[str | None, typer.Option("--fixed-mask", metavar="FILE", help="What counts in the fixed image.")] = None,
    moving_mask: Annotated[str | None, typer.Option("--moving-mask", metavar="FILE", help="What counts in the moving image.")] = None,
    fixed_labels: Annotated[str | None, typer.Option("--fixed-labels", metavar="FILE", help="To judge by: Dice and HD95.")] = None,
    moving_labels: Annotated[str | None, typer.Option("--moving-labels", metavar="FILE", help="The same of the moving image.")] = None,
    both_ways: Annotated[bool, typer.Option("--both-ways", help="Register back, too, and tell the inverse consistency.")] = False,
    consistency: Annotated[float, typer.Option("--consistency", help="Weight: both ways at once, held to be inverses.")] = 0.0,
    overwrite: Overwrite = False,
    device: Where = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Register two files: warped.nii.gz, transform.tfm (for ITK, ANTs, 3D Slicer), measures, pictures and report.html in a run folder."""
    with _reported(debug):
        from diffimg.experiment import recipes
        from diffimg.experiment.run import default_folder

        others = {"fixed-mask": fixed_mask, "moving-mask": moving_mask, "fixed-labels": fixed_labels, "moving-labels": moving_labels}
        for name, path in (("FIXED", fixed), ("MOVING", moving), *((f"--{k}", v) for k, v in others.items() if v)):
            if not Path(path).exists():
                raise ConfigError(f"{name}: expected a file or folder that exists, got {path}. Check the path.")
        try:
            factors = [float(v) for v in levels.split(",")]
        except ValueError:
            raise ConfigError(f"--levels: expected numbers such as 4,2,1, got {levels!r}.") from None
        common = {"levels": factors, "steps": steps}
        kinds = [name.strip() for name in stages.split(",") if name.strip()]
        content = {
            "recipe": "registration",
            "title": f"{Path(moving).name} onto {Path(fixed).name}",
            "fixed": _absolute(fixed),
            "moving": _absolute(moving),
            "stages": [{"kind": kind} | common | ({"spacing": spacing} if kind == "bspline" and spacing else {}) for kind in kinds],
            "order": order,
            "transform_file": transform_file,
            "similarity": similarity,
            "regularizer": regularizer,
            "weight": weight,
            "fixed_mask": _absolute(fixed_mask),
            "moving_mask": _absolute(moving_mask),
            "fixed_labels": _absolute(fixed_labels),
            "moving_labels": _absolute(moving_labels),
            "both_ways": both_ways,
            "consistency": consistency,
        }
        recipe = recipes.find("registration")
        config = validate(content, recipe.config, "register")
        folder = out or default_folder("registration")
        metrics = _execute(config, recipe, folder, overwrite, device, cache)
        _metrics_table(metrics, recipe.headline)
        typer.echo(f"{folder}{os.sep}")
        typer.echo(f"open {folder / 'report.html'}")


def _absolute(path: str | None) -> str | None:
    """So that the run's config can be run from anywhere."""
    return None if path is None else str(Path(path).resolve())


@app.command("sweep")
def sweep_command(
    config: Config,
    over: Annotated[list[str], typer.Option("--over", metavar="KEY=A,B,C", help="Values to run; repeat for all combinations.")],
    set_: Set = [],  # noqa: B006
    out: Out = None,
    device: Where = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Run a config for every combination of values; one folder a run, and sweep.csv."""
    with _reported(debug):
        from diffimg.experiment import sweep
        from diffimg.experiment.run import RunError, default_folder

        axes = sweep.parse_over(over)
        resolved, recipe = _resolve(config, set_)
        known = flatten(resolved.model_dump())
        for key, values in axes.items():
            if key not in known:
                _resolve(config, [*set_, f"{key}={json.dumps(values[0])}"])  # says which key was meant
        root = out or default_folder(f"sweep-{resolved.recipe}")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(f"--out: expected a new or empty folder, got {root}. Choose another --out.")

        def one(overrides: list[str], folder: Path) -> str:
            typer.echo(folder.name, err=True)
            try:
                point, _ = _resolve(config, [*set_, *overrides])
                _execute(point, recipe, folder, False, device, cache)
            except (ConfigError, RunError) as error:
                typer.echo(f"Error: {error}", err=True)
                return str(error)
            return ""

        root.mkdir(parents=True, exist_ok=True)
        rows = sweep.sweep(axes, root, one)
        headline = [c for c in recipe.headline if any(c in row for row in rows)]
        _table(["run", "method", *headline], [[row["run"], row.get("method", ""), *(row.get(c) for c in headline)] for row in rows])
        typer.echo(str(root / "sweep.csv"))
        failed = {row["run"] for row in rows if row["error"]}
        if failed:
            typer.echo(f"{len(failed)} of {len({row['run'] for row in rows})} runs failed: {', '.join(sorted(failed))}", err=True)
            raise typer.Exit(FAILED)


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another run folder.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write compare.png and compare.html there.")] = None,
    debug: Debug = False,
) -> None:
    """Show in what two runs differ: metrics and config."""
    with _reported(debug):
        from diffimg.experiment import compare
        from diffimg.experiment.run import load

        a, b = load(first), load(second)
        names = compare.labels(first, second)
        _table(["method", "metric", *names, "difference"], compare.metric_rows(a, b))
        differences = compare.config_rows(a, b)
        _table(["config key", *names], differences) if differences else typer.echo("The configs are the same.")
        if out is not None:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise ConfigError(f"--out: expected a new or empty folder, got {out}. Choose another --out.")
            png, report = compare.picture(a, b, names)
            out.mkdir(parents=True, exist_ok=True)
            (out / "compare.png").write_bytes(png)
            (out / "compare.html").write_text(report.html(), encoding="utf-8")
            typer.echo(f"{out}{os.sep}")


@app.command("bench")
def bench_command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A benchmark, e.g. radon; without it, all of them.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows there.")] = None,
    debug: Debug = False,
) -> None:
    """Time diffimg against its peers (python -m benchmarks); needs the repository."""
    with _reported(debug):
        root = Path(diffimg.__file__).resolve().parent.parent
        if not (root / "benchmarks" / "__main__.py").is_file():
            raise ConfigError(
                "bench: expected the benchmarks folder of the repository, got an installed package, which does not carry it. "
                'Clone the repository, then: pip install -e ".[bench]" and diffimg bench.'
            )
        arguments = [*([name] if name else []), *(["--quick"] if quick else []), *(["--json", str(json_.resolve())] if json_ else [])]
        raise typer.Exit(subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=root, check=False).returncode)


@app.command("doctor")
def doctor_command(debug: Debug = False) -> None:
    """Check Python, JAX, devices and optional packages; exit code 1 where results cannot be trusted."""
    with _reported(debug):
        from rich.console import Console
        from rich.markup import escape

        from diffimg.experiment.doctor import findings

        marks = {"ok": "[green]ok  [/]", "note": "[blue]note[/]", "warning": "[yellow]warn[/]", "bad": "[bold red]BAD [/]"}
        console = Console(highlight=False, soft_wrap=True)
        bad = 0
        for finding in findings():
            bad += finding.level == "bad"
            console.print(f"{marks[finding.level]} {finding.name:<16} {escape(finding.value)}")
            if finding.remedy:
                console.print(f"     {'':<16} → {escape(finding.remedy)}")
        if bad:
            console.print("[bold red]This installation cannot be trusted: follow the arrows above.")
            raise typer.Exit(FAILED)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"diffimg {diffimg.__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point ``diffimg``."""
    app(prog_name="diffimg")


def _resolve(source: str, overrides: Sequence[str]):
    from diffimg.experiment import recipes

    path = locate(source)
    content = read(path, list(overrides))
    try:
        recipe = recipes.find(content.get("recipe"))
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    return validate(content, recipe.config, path.name), recipe


def _execute(config, recipe, folder: Path, overwrite: bool, device: Device | None, cache: Path | None) -> dict:
    from diffimg.experiment.progress import progress
    from diffimg.experiment.run import Run, execute, find_device

    chosen = find_device(device.value) if device else None
    if cache is not None:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    run = Run(folder, config, overwrite=overwrite, progress=progress())
    with _terminable(), _plain_warnings():
        try:
            execute(recipe, run, chosen)
        except KeyboardInterrupt:
            typer.echo(f"Interrupted; {folder}{os.sep} holds what was finished.", err=True)
            if (folder / "trainings").is_dir():
                again = f"diffimg run {folder} --set cache.folder={folder / 'trainings'}"
                typer.echo(f"Its trainings go on from their last checkpoints by: {again}", err=True)
            raise
    return run.metrics


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line, without the place in the source."""
    previous = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"Warning: {message}", err=True)
    try:
        yield
    finally:
        warnings.showwarning = previous


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Errors become one message on stderr and an exit code."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        _leave_if_busy(INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {error}"
        hint = "" if debug or isinstance(error, ConfigError) else " (--debug shows the traceback)"
        typer.echo(f"Error: {text}{hint}", err=True)
        raise typer.Exit(USAGE if isinstance(error, ConfigError) else FAILED) from None


def _leave_if_busy(code: int) -> None:
    """A computation that is still going on cannot be joined at exit: end the process, since the folder is closed."""
    if any(t.name == "diffimg-run" and t.is_alive() for t in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _metrics_table(metrics: dict, columns: Sequence[str]) -> None:
    from diffimg.experiment.run import tabulate

    methods = metrics.get("methods", {})
    chosen = [c for c in columns if any(c in values for values in methods.values())]
    if methods:
        _table(["method", *chosen], tabulate(methods, chosen))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffimg.experiment.run import number

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(head):
        table.add_column(escape(column), justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(number(v) if not isinstance(v, str) else v) for v in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)
