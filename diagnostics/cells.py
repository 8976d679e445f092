"""Back ends on models of the zoo with default settings: how each cell ends, as JSON beside one page.

python -m diagnostics.cells [--backends B,...] [--minutes M] [--file docs/backends.json] [MODEL ...]
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import inference
import zoo
from diagnostics.calibrate import commit, versions
from diagnostics.compare import Comparison, compare
from inference import loop

HEAD = """\
# Every back end on every model

Made by `python -m diagnostics.cells` with seed 0 and default settings; {versions}. A call names the models and back
ends that it runs and replaces their rows; each row names its commit. Where the machine did other work too, seconds are
upper bounds.

Each cell ends as *mixed* or *not mixed*, *usable* or *not usable*, *exact*, *at the MAP*, *refused*, *stopped* when
its time was over, or *failed*, with the reason; what agrees was held against the reference named with the model.
"""
CHAINS = tuple(name for name, entry in inference.TABLE.items() if entry[1] == "mcmc")


def cells_of(comparison: Comparison, source: str) -> dict:
    """Back end -> how its cell ended: seconds to compile and to run (none where it did not run), whether a Markov
    chain mixed, its verdict or the reason, and the commit."""
    cells = {}
    for name, entry in comparison.backends.items():
        ran = entry["status"] == "ok"
        cells[name] = {
            "status": entry["status"],
            "seconds": [round(entry["cost"][f"{what}_seconds"], 1) for what in ("compile", "run")] if ran else None,
            "mixed": bool(entry["usable"]) if ran and name in CHAINS else None,
            "says": entry["verdict"] if ran else entry["reason"],
            "commit": source,
        }
    return cells


def not_mixed(cells: dict) -> list[str] | None:
    """The Markov chain back ends that serve the model and did not end mixed; None where that is not known, since some
    were not run and the others mixed, or where none serves it."""
    served = [name for name in CHAINS if name in cells and cells[name]["status"] != "refused"]
    missed = [name for name in served if not cells[name]["mixed"]]
    return missed if missed or (served and all(name in cells for name in CHAINS)) else None


def markdown(table: dict) -> str:
    """The page: which models mix, what was not run, and one section per model."""
    order = [name for name in zoo.MODELS if name in table]
    ended = {name: not_mixed(table[name]["cells"]) for name in order}
    mixed = [name for name in order if ended[name] == []]
    rest = [f"{name} ({', '.join(missed)})" for name, missed in ended.items() if missed]
    missing = {
        name: [b for b in inference.BACKENDS if b not in table.get(name, {"cells": ()})["cells"]] for name in zoo.MODELS
    }
    unrun = [f"{name} ({', '.join(them)})" for name, them in missing.items() if them]
    lines = [f"**Mixed under every Markov chain that serves them** ({len(mixed)}): {', '.join(mixed) or 'none'}."]
    if rest:
        lines += ["", f"Not mixed somewhere ({len(rest)}), the reasons below: {', '.join(rest)}."]
    if unrun:
        lines += ["", f"Not run yet: {', '.join(unrun)}."]
    for name in order:
        cells = table[name]["cells"]
        lines += ["", f"## {name}", "", f"Reference: {table[name]['reference']}.", ""]
        lines += ["| back end | compile + run s | how it ends | commit |", "| --- | --- | --- | --- |"]
        for backend in (b for b in inference.BACKENDS if b in cells):
            cell = cells[backend]
            seconds = "{:.1f} + {:.1f}".format(*cell["seconds"]) if cell["seconds"] else ""
            says = cell["says"] if cell["status"] == "ok" else f"{cell['status']}: {cell['says']}"
            lines.append(f"| {backend} | {seconds} | {says.replace('|', '/')} | {cell['commit']} |")
    return "\n".join([HEAD.format(versions=versions()), *lines]) + "\n"


def grown(table: dict, names, backends) -> Iterator[dict]:
    """The table after each of the models `names` was run under `backends`, whose rows are replaced."""
    source = commit() or "unknown"
    for name in names:
        comparison = compare(zoo.MODELS[name], backends, seed=0)
        reference = comparison.reference
        known = f"{reference.kind}, {reference.source}" if reference.values else "none"
        yield (table := joined(table, name, known, cells_of(comparison, source)))
        loop.forget_programs()


def joined(table: dict, name: str, reference: str, cells: dict) -> dict:
    """The table with these cells of one model in the place of their rows."""
    return {**table, name: {"reference": reference, "cells": {**table.get(name, {"cells": {}})["cells"], **cells}}}


def limited(table: dict, names, backends, minutes: float) -> Iterator[dict]:
    """The table after each cell, run in a process of its own that is stopped after so many minutes."""
    source = commit() or "unknown"
    for name, backend in ((name, backend) for name in names for backend in backends):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "cell.json"
            command = [sys.executable, "-m", "diagnostics.cells", "--backends", backend, "--file", str(file), name]
            try:
                subprocess.run(command, check=True, timeout=60 * minutes)
                found = json.loads(file.read_text(encoding="utf-8"))[name]
            except subprocess.SubprocessError as error:
                over = isinstance(error, subprocess.TimeoutExpired)
                status = "stopped" if over else "failed"
                says = f"did not end in {minutes:g} minutes" if over else str(error).partition("' ")[2]
                cell = {"status": status, "seconds": None, "mixed": None, "says": says, "commit": source}
                found = {"reference": table.get(name, {}).get("reference", "none"), "cells": {backend: cell}}
        yield (table := joined(table, name, **found))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m diagnostics.cells")
    parser.add_argument("--backends", help="names with commas between them; default all")
    parser.add_argument("--minutes", type=float, help="stop a cell after so many; default none")
    parser.add_argument("--file", type=pathlib.Path, default=pathlib.Path("docs/backends.json"))
    parser.add_argument("models", nargs="*", help="default all")
    args = parser.parse_args(arguments)
    if args.file.suffix != ".json":
        parser.error(f"--file should end in .json, beside which the page is written; got {args.file}")
    backends = args.backends.split(",") if args.backends else list(inference.BACKENDS)
    table = json.loads(args.file.read_text(encoding="utf-8")) if args.file.exists() else {}
    grow = grown if args.minutes is None else functools.partial(limited, minutes=args.minutes)
    for table in grow(table, args.models or list(zoo.MODELS), backends):  # noqa: B020
        args.file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        args.file.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main(sys.argv[1:])
