"""Back ends on models of the zoo with default settings, and how each cell ends, as one page.

python -m diagnostics.cells [--backends B,...] [FILE.md] [MODEL ...]
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Iterator

import inference
import zoo
from diagnostics.calibrate import commit, versions
from diagnostics.compare import Comparison, compare

HEAD = """\
# Every back end on every model

Made by `{command}` in {minutes:.0f} minutes with seed 0 and default settings; {versions}, commit {commit}.

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


def not_mixed(comparison: Comparison) -> list[str] | None:
    """The Markov chain back ends that serve the model and did not end mixed; None where there is none to serve it."""
    chains = {
        name: entry
        for name, entry in comparison.backends.items()
        if inference.TABLE[name][1] == "mcmc" and entry["status"] != "refused"
    }
    return [name for name, entry in chains.items() if not entry["usable"]] if chains else None


def pages(names, command, backends=None) -> Iterator[str]:
    """Runs `backends` (default: all) on the models `names`; after each the page so far in Markdown, on top of it which
    chains mixed."""
    began, source, lines, mixed, rest = time.perf_counter(), commit() or "unknown", [], [], []
    for name in names:
        comparison = compare(zoo.MODELS[name], backends or list(inference.BACKENDS), seed=0)
        reference = comparison.reference
        known = f"{reference.kind}, {reference.source}" if reference.values else "none"
        lines += ["", f"## {name}", "", f"Reference: {known}.", "", "| back end | compile + run s | how it ends |"]
        lines += ["| --- | --- | --- |", *rows_of(comparison)]
        missing = not_mixed(comparison)
        if missing == []:
            mixed.append(name)
        elif missing:
            rest.append(f"{name} ({', '.join(missing)})")
        minutes = (time.perf_counter() - began) / 60
        head = HEAD.format(command=command, minutes=minutes, versions=versions(), commit=source)
        summary = [f"**Mixed under every Markov chain that serves them** ({len(mixed)}): {', '.join(mixed) or 'none'}."]
        if rest:
            summary += ["", f"Not mixed somewhere ({len(rest)}), the reasons below: {', '.join(rest)}."]
        if name != names[-1]:
            summary += ["", f"Unfinished: {names.index(name) + 1} of {len(names)} models."]
        yield "\n".join([head, *summary, *lines]) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m diagnostics.cells")
    parser.add_argument("--backends", help="names with commas between them; default all")
    parser.add_argument("file", nargs="?", default="docs/backends.md")
    parser.add_argument("models", nargs="*", help="default all")
    args = parser.parse_args(arguments)
    command = " ".join(["python -m diagnostics.cells", *arguments])
    backends = args.backends and args.backends.split(",")
    for page in pages(args.models or list(zoo.MODELS), command, backends):
        pathlib.Path(args.file).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main(sys.argv[1:])
