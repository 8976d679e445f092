"""What the commands of `zoo` print: tables, verdicts and progress, by rich, which is imported when needed."""

import contextlib
import sys

WIDTH = 130  # of tables that do not go to a terminal
LABELLINGS = (
    "mass: given each draw up to its labels, so it says nothing about switching; "
    "share: how often the draws were in this order"
)
TERSE = ("log_predictive", "co_clustering")  # functionals that a terminal shows as one line each

# what a conjugate rule gives, as `zoo show` says it
USES = {
    "draw": "an exact draw",
    "m_step": "a closed M-step",
    "variational": "a closed variational update",
    "marginal": "its integral",
}


def console(stderr=False):
    """Standard output or error; what is printed is never read as markup, since names have brackets."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, markup=False, width=None if terminal else WIDTH)


@contextlib.contextmanager
def progress_bars(wanted: bool):
    """A bar per back end where standard error is a terminal, else None: the argument `progress` of `compare`."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = TextColumn("left"), TimeRemainingColumn(compact=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn(), *left)
    tasks: dict = {}
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:

        def progress(backend, done, total):
            if backend not in tasks:
                tasks[backend] = bars.add_task(backend, total=total)
            bars.update(tasks[backend], completed=done, total=total)

        yield progress


def print_model(out, found):
    """What `describe.describe` found."""
    from diagnostics.graph import Node, lines

    out.print(found["name"] + (f": {found['title']}" if found["title"] else ""), style="bold")
    if found["description"]:
        out.print(f"\n{found['description'].strip()}\n", soft_wrap=True)
    out.print(f"Model ({found['family'] or 'mixture'}, K = {found['num_components']})", style="bold")
    for line in [*found["prior"], *found["observation"]]:
        out.print(f"    {line}", soft_wrap=True)
    nodes = [Node(**node) for node in found["graph"]]
    out.print("Graph, an arrow from each site to its parents", style="bold")
    for line in lines(nodes, found["num_components"], found["data"] and found["data"]["N"]):
        out.print(f"    {line}", soft_wrap=True)
    own = ", ".join(found["component_parameters"]) or "none"
    unknown = "" if found["num_free_parameters"] is None else f"; {found['num_free_parameters']} unknown numbers in all"
    out.print("Labels", style="bold")
    alike = "exchangeable, relabelling changes nothing" if found["exchangeable"] else "not exchangeable, labels matter"
    out.print(f"    {alike}; {'a' if found['relabels'] else 'no'} relabelling exists")
    out.print(f"    parameters of the components: {own}{unknown}")
    out.print("Conjugate sites, found from the declaration", style="bold")
    for site, gives in found["conjugate"].items():
        uses = [use for key, use in USES.items() if gives[key]]
        out.print(f"    {site}: {gives['rule']}; gives {', '.join(uses)}", soft_wrap=True)
    if not found["conjugate"]:
        out.print("    none")
    if found["data"]:
        data = found["data"]
        out.print("Data", style="bold")
        units = f", in {data['units']}" if data["units"] else ""
        variant = f" ({data['variant']})" if data["variant"] else ""
        out.print(f"    {data['name']}{variant}, N = {data['N']}, D = {data['D']}{units}")
        out.print(f"    {data['source']}; {data['licence']}; SHA-256 {data['sha256'][:16]}", soft_wrap=True)
    out.print("Back ends", style="bold")
    for name, reason in found["backends"].items():
        out.print(f"    {name}: {'serves it' if reason is None else f'refuses, {reason}'}", soft_wrap=True)


def print_datasets(out, found):
    """The list of `zoo data`: a line of facts, then a line of words, for each."""
    table = _table("", "name", "N", "D", "variant", "licence", "models")
    for column in table.columns[3:]:
        column.justify = "left"
    for about in found:
        cells = about["name"], f"{about['N']:,}", str(about["D"]), about["variant"], about["licence"]
        table.add_row(*cells, ", ".join(about["models"]))
    out.print(table)
    out.print("What they are, their units and origin", style="bold")
    for about in found:
        units = f" [{about['units']}]" if about["units"] else ""
        out.print(f"{about['name']}: {about['what']}{units}. {about['origin']}", soft_wrap=True)
    out.print("\nzoo data NAME shows one of them; zoo data NAME --out FILE.csv exports it", soft_wrap=True)


def print_dataset(out, about, first):
    """What is known of one data set, its columns, and its first rows."""
    variant = f" ({about['variant']})" if about["variant"] else ""
    out.print(f"{about['name']}{variant}: {about['what']}", style="bold")
    out.print(f"N = {about['N']:,}, D = {about['D']}")
    for key in ("units", "origin", "carrier", "licence", "note", "sha256"):
        if about[key]:
            out.print(f"{'SHA-256' if key == 'sha256' else key}: {about[key]}", soft_wrap=True)
    out.print(f"models: {', '.join(about['models']) or 'none'}", soft_wrap=True)
    if about["classes"]:
        sizes = ", ".join(f"{name} {size}" for name, size in about["classes"]["sizes"].items())
        out.print(f"classes ({about['classes']['column']}): {sizes}", soft_wrap=True)
    table = _table("", "column", "least", "mean", "largest", "missing", "categories")
    for name, column in about["columns"].items():
        figures = (_figure(column[key]) for key in ("least", "mean", "largest"))
        words = ", ".join(f"{i} {word}" for i, word in enumerate(column["categories"] or ()))
        table.add_row(name, *figures, str(column["missing"] or ""), words)
    out.print(table)
    head, *rows = first
    if len(head) <= 12:
        table = _table("First rows", *map(str, head))
        for row in rows:
            table.add_row(*map(str, row))
        out.print(table)


def print_tables(out, comparison):
    """Functionals, labellings and costs of a comparison."""
    data, reference = comparison.data, comparison.reference
    variant = f" ({data['variant']})" if data["variant"] else ""
    out.print(f"{comparison.model.name}, data {data['name']}{variant}: N = {data['N']}, D = {data['D']}", style="bold")
    if data["standardized"]:
        out.print(f"standardised: {', '.join(data['standardized'])}; means and scales below are in those units")
    known = "" if reference.log_evidence is None else f"; log evidence {reference.log_evidence:.13g}"
    source = f"{reference.kind}, {reference.source}" if reference.values else "none"
    out.print(f"Reference: {source}{known}\n")
    out.print(_functionals(comparison) if reference.values else _means(comparison))
    if comparison.labellings:
        out.print(_labellings(comparison))
    out.print(_costs(comparison))


def _table(title, *columns):
    """A table whose first column is text and whose others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        head = column.replace("_", "_\n") if i else column  # long names of back ends break there
        table.add_column(head, justify="right" if i else "left", overflow="fold", no_wrap=not i)
    return table


def _functionals(comparison):
    """z of every functional and back end; the value itself for points; = or ≠ for what never varied."""
    reference = comparison.reference
    by = {(row["functional"], row["backend"]): row for row in comparison.rows}
    names = [
        name
        for name in comparison.results
        if name != reference.source
        and any(row["backend"] == name and _z_or_value(row, comparison) for row in comparison.rows)
    ]
    title = "Posterior: z of each mean against the reference (= or ≠: did not vary; em: its value)"
    table = _table(title, "functional", "mean", "sd", *names)
    for functional in dict.fromkeys(row["functional"] for row in comparison.rows):
        if functional.startswith(TERSE):
            continue
        value = reference.values.get(functional)
        cells = (_z_or_value(by.get((functional, name)), comparison) for name in names)
        table.add_row(functional, _figure(value and value.mean), _figure(value and value.sd), *cells)
    for kind in TERSE:
        rows = [row for row in comparison.rows if row["functional"].startswith(kind)]
        cells = (_largest([row for row in rows if row["backend"] == name], comparison) for name in names)
        table.add_row(f"{kind}: largest", "", "", *cells)
    return table


def _means(comparison):
    """Without a reference: mean +- its standard error, per back end."""
    names = list(comparison.results)
    by = {(row["functional"], row["backend"]): row for row in comparison.rows}
    table = _table("Posterior means", "functional", *names)
    for functional in dict.fromkeys(row["functional"] for row in comparison.rows):
        cells = []
        for name in names:
            row = by.get((functional, name), {"mean": None, "mcse": None})
            cells.append(_figure(row["mean"]) + (f" ±{row['mcse']:.1g}" if row["mcse"] else ""))
        table.add_row(functional, *cells)
    return table


def _costs(comparison):
    columns = ("log evidence", "least bulk ESS", "ESS/s", "compile s", "run s", "table passes", "gradients")
    table = _table("Cost", "back end", *columns)
    for name in comparison.results:
        entry, rows = comparison.backends[name], [row for row in comparison.rows if row["backend"] == name]
        spent, se = entry["cost"], entry["log_evidence_se"]
        evidence = "" if entry["log_evidence"] is None else f"{entry['log_evidence']:.6f}"
        if not evidence and entry["elbo"] is not None:
            evidence = f"≥ {entry['elbo']:.6f}"
        table.add_row(
            name,
            evidence + (f" ±{se:.1g}" if se and se > 5e-7 and evidence else ""),
            *(_least(rows, column) for column in ("ess_bulk", "ess_per_second")),
            *(f"{spent[f'{kind}_seconds']:.2f}" for kind in ("compile", "run")),
            *(f"{spent[f'{kind}_evaluations']:,}" for kind in ("table", "gradient")),
        )
    return table


def _labellings(comparison):
    """The mass of each labelling, and beside a chain back end's the share of its draws in that order."""
    masses, shares = comparison.labellings, comparison.labelling_shares
    source = comparison.reference.source if "reference" in masses else None  # the reference's own are there once
    names = ["reference"] * ("reference" in masses) + [n for n in masses if n not in ("reference", source)]
    columns = [(name, kind) for name in names for kind in ("mass", "share") if kind == "mass" or name in shares]
    title = "Labellings (components in ascending order): mass, and share of the draws"
    table = _table(title, "labelling", *(f"{name}\n{kind}" for name, kind in columns))
    table.caption, table.caption_justify = LABELLINGS, "left"
    for labelling in sorted(next(iter(masses.values()))):
        cells = []
        for name, kind in columns:
            if kind == "mass":
                mass = masses[name].get(labelling)
                cells.append("" if mass is None else f"{mass:.4f}" if mass >= 1e-3 else f"{mass:.1e}")
            else:
                share, error = shares[name].get(labelling, (None, None))
                cells.append(("" if share is None else f"{share:.4g}") + (f" ±{error:.1g}" if error else ""))
        table.add_row(str(labelling), *cells)
    return table


def summary(comparison, name):
    formats = {"mean": ".6g", "sd": ".4g", "mcse": ".2g", "ess_bulk": ",.0f", "ess_tail": ",.0f", "rhat": ".3f"}
    table = _table(f"{comparison.model.name} by {name}", "functional", *formats)
    for row in comparison.rows:
        cells = ("" if row[column] is None else format(row[column], spec) for column, spec in formats.items())
        table.add_row(row["functional"], *cells)
    return table


def print_point(out, result):
    """The best point with its standard errors, and how the restarts ended: one line for all that ended alike."""
    import numpy as np

    from diagnostics.summaries import restarts

    table = _table("Best admissible point", "parameter", "value", "standard error")
    for name, leaf in result.params.items():
        errors = None if result.standard_errors is None else np.asarray(result.standard_errors[name])
        for index in np.ndindex(np.shape(leaf)[1:]):
            label = name + "".join(f"[{i}]" for i in index)
            error = "" if errors is None else "on the border" if np.isnan(errors[index]) else f"{errors[index]:.3g}"
            table.add_row(label, _figure(np.asarray(leaf)[(0, *index)]), error)
    if np.any(result.admissible):
        out.print(table)
    table = _table("Restarts", "ended", "log density", "restarts", "steps", "largest gradient")
    for line in restarts(result):
        table.add_row(*line)
    out.print(table)


def print_verdicts(out, comparison):
    """One line per back end, warnings under it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, entry in comparison.backends.items():
        says = "\n".join([entry["verdict"], *(f"warning: {warning}" for warning in entry["warnings"])])
        table.add_row(Text(name, style="bold"), Text(says))
    out.print(table)


def print_paths(out, paths):
    if paths:
        names = ", ".join(path.name for path in paths)
        out.print(f"\nIn {paths[0].parent}: {names}", soft_wrap=True)


def print_contract(out, name, identities, backends):
    """What holds of a model and what does not, and who serves it. `identities`: sentence, whether it holds, detail."""
    for sentence, holds, detail in identities:
        said = "" if not detail else f" ({detail})" if holds else f": {detail}"
        out.print(f"{'holds' if holds else 'FAILS'}  {sentence}{said}", style=None if holds else "bold", soft_wrap=True)
    served = [backend for backend, reason in backends.items() if reason is None]
    out.print(f"\nserved by {', '.join(served) or 'no back end'}", soft_wrap=True)
    for backend, reason in backends.items():
        if reason is not None:
            out.print(f"  {backend} refuses: {reason}", soft_wrap=True)
    broken = sum(not holds for _, holds, _ in identities)
    out.print(f"\n{name}: {'the contract holds' if not broken else f'{broken} of {len(identities)} do not hold'}")


def print_calibration(out, table):
    """The table of proofs that `calibrate.calibrate` made."""
    from diagnostics.calibrate import COLUMNS, RATIO, cells_of

    shown = _table("Proof of the samplers", *COLUMNS)
    for row in table.rows:
        shown.add_row(*cells_of(row))
    out.print(shown)
    for name, found in table.ratios.items():
        errors = ", ".join(f"{site} {error:.1e}" for site, error in found.items())
        out.print(f"conjugate conditionals of {name}: relative error {errors}; allowed {RATIO:g}", soft_wrap=True)
    out.print("nothing fails" if table.ok else "something FAILS", style="bold")


def _figure(value) -> str:
    return "" if value is None else f"{value:.6g}"


def _z_or_value(row, comparison) -> str:
    from diagnostics.verdicts import constant_differs, least_ess, varies

    if row is None or row["mean"] is None:
        return ""
    entry = comparison.backends[row["backend"]]
    if entry["kind"] == "point":
        return _figure(row["mean"])
    if row["z"] is not None:
        return f"{row['z']:+.1f}"
    judged = entry["usable"] or entry["kind"] == "mcmc"  # a chain that has not mixed is held to the reference too
    if varies(row) or row["reference_mean"] is None or not judged:
        return ""
    rows = [other for other in comparison.rows if other["backend"] == row["backend"]]
    return "≠" if constant_differs(row, least_ess(rows, comparison.num_draws(row["backend"]))) else "="


def _largest(rows, comparison) -> str:
    """The z furthest from 0; without one, ≠ where a constant differs and = where all agree."""
    z = [row["z"] for row in rows if row["z"] is not None]
    if z:
        return f"{max(z, key=abs):+.1f}"
    found = {_z_or_value(row, comparison) for row in rows}
    return next((sign for sign in ("≠", "=") if sign in found), "")


def _least(rows, column) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    return f"{min(values):,.0f}" if values else ""
