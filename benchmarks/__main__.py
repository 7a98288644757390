"""Run benchmarks by name."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent
SHARED = ("__init__", "__main__", "harness", "peers", "template", "mbirjax_worker")
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in SHARED)


def on_a_gpu() -> bool:
    """Whether JAX computes on one."""
    import jax

    return jax.default_backend() == "gpu"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time diffimg against its peers in one process run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(NAMES) + " (default: all, gpu only on one)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes, within a minute")
    parser.add_argument("--list", action="store_true", help="list the names")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(NAMES))
        return 0
    unknown = [n for n in options.names if n not in NAMES]
    if unknown:
        expected, got = ", ".join(NAMES), ", ".join(unknown)
        print(f"Error: NAME: expected one of {expected}, got {got}. Without a name all of them run.", file=sys.stderr)
        return 2
    if options.json and not options.json.resolve().parent.is_dir():
        print(f"Error: --json: expected a file in a folder that exists, got {options.json}. Make the folder first.", file=sys.stderr)
        return 2
    tables = []
    for name in options.names or [n for n in NAMES if n != "gpu" or on_a_gpu()]:
        try:
            table = importlib.import_module(f"benchmarks.{name}").run(quick=options.quick)
        except RuntimeError as error:
            if name != "gpu":
                raise
            print(f"Error: {error}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(f"Error: {name}: the peer {error.name} is not installed. Remedy: pip install -e '.[bench]'", file=sys.stderr)
            return 2
        table.show()
        tables.append(table)
    if options.json:
        from benchmarks.harness import write_json

        write_json(options.json, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
