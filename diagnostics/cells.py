"""Every back end on every model of the zoo with default settings, and how each cell ends, as one page.

python -m diagnostics.cells [FILE.md] [MODEL ...]
"""

import pathlib
import sys
import time

import inference
import zoo
from diagnostics.calibrate import versions
from diagnostics.compare import Comparison, compare

HEAD = """\
# Every back end on every model

Made by `{command}` in {minutes:.0f} minutes with seed 0 and default settings; {versions}.

Each cell ends as *mixed* or *not mixed*, *usable* or *not usable*, *exact*, *at the MAP*, or *refused*, with the
reason; what agrees was held against the reference named with the model.
"""


def rows_of(comparison: Comparison) -> list[str]:
    """One Markdown row per back end: name, seconds, verdict."""
    rows = []
    for name, entry in comparison.backends.items():
        if entry["status"] == "ok":
            cost = entry["cost"]
            seconds, said = f"{cost['compile_seconds']:.1f} + {cost['run_seconds']:.1f}", entry["verdict"]
        else:
            seconds, said = "", f"{entry['status']}: {entry['reason']}"
        rows.append(f"| {name} | {seconds} | {said.replace('|', '/')} |")
    return rows


def page(names, command, progress=print) -> str:
    """Runs every back end on the models `names`; the page in Markdown."""
    began, lines = time.perf_counter(), []
    for name in names:
        comparison = compare(zoo.MODELS[name], list(inference.BACKENDS), seed=0)
        reference = comparison.reference
        known = f"{reference.kind}, {reference.source}" if reference.values else "none"
        lines += ["", f"## {name}", "", f"Reference: {known}.", "", "| back end | compile + run s | how it ends |"]
        lines += ["| --- | --- | --- |", *rows_of(comparison)]
        progress(f"{name}: {time.perf_counter() - began:.0f} s")
    minutes = (time.perf_counter() - began) / 60
    return "\n".join([HEAD.format(command=command, minutes=minutes, versions=versions()).rstrip(), *lines]) + "\n"


def main(arguments: list[str]) -> None:
    file, *names = arguments or ["docs/backends.md"]
    command = " ".join(["python -m diagnostics.cells", *arguments])
    pathlib.Path(file).write_text(page(names or list(zoo.MODELS), command))


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main(sys.argv[1:])
