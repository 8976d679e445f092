"""What the commands of `zoo` do and print. Everything that imports JAX is imported inside, after `cli.prepare`.

Bad input raises ValueError with one sentence, which `cli.main` prints; names, numbers, the data file and the output
folder are looked at before JAX is loaded.
"""

import json
import pathlib
import sys
import textwrap

from diagnostics import tables
from diagnostics.arguments import (
    check_distinct,
    check_file,
    check_folder,
    check_no_data_options,
    checked,
    chosen_model,
    constants_of,
    entry_of,
    own_data,
    read_data,
    read_data_for,
    settings_of,
)
from diagnostics.cli import hush, prepare
from diagnostics.describe import describe

VIEWS = {"prior.png": "prior_predictive", "graph.png": "graph"}  # file -> function of `views`


def list_models(args) -> int:
    """`zoo list`: the catalogue, as a table or as JSON."""
    import inference
    from zoo import catalogue

    entries = list(catalogue().values())
    if args.json:
        shown = [{k: v for k, v in entry.items() if k not in ("module", "data")} for entry in entries]
        print(json.dumps({"schema": 1, "models": shown}, indent=1, ensure_ascii=False))
        return 0
    head = ("name", "family", "K", "N", "D", "labels", "exact", "title")
    rows = [
        (
            entry["name"],
            entry["family"],
            *(str(entry[f"num_{what}"]) for what in ("components", "observations", "features")),
            "alike" if entry["exchangeable"] else "differ",
            "yes" if entry["exact"] else "",
            entry["title"],
        )
        for entry in entries
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\nlabels: alike when relabelling the components changes nothing; exact: the posterior is known exactly")
    print("\n" + textwrap.fill(f"Back ends: {', '.join(inference.TABLE)}. Those that serve each model:", 100))
    for entry in entries:
        print(f"{entry['name'].ljust(widths[0])}  {_some(entry['backends'], list(inference.TABLE))}")
    return 0


def _some(chosen, every) -> str:
    """`chosen` of `every`, the shorter way."""
    left = [name for name in every if name not in chosen]
    if len(left) >= len(chosen):
        return ", ".join(chosen)
    return f"all but {', '.join(left)}" if left else "all"


def show(args) -> int:
    """`zoo show`: the declaration of one model, its graph, and who serves it; with --out, pictures of it."""
    if args.out == "":
        raise ValueError("--out is empty; give a value or leave it out")
    if args.out:
        entry_of(args)
        check_folder(pathlib.Path(args.out), VIEWS)
    prepare("float64")
    hush()
    model = chosen_model(args)
    found = describe(model)
    written, failures = _draw_views(model, pathlib.Path(args.out)) if args.out else ([], [])
    if args.json:
        print(json.dumps({"schema": 1, **found, "pictures": list(map(str, written))}, indent=1, ensure_ascii=False))
    else:
        out = tables.console()
        tables.print_model(out, found)
        tables.print_paths(out, written)
    for failure in failures:
        print(failure, file=sys.stderr)
    return int(bool(failures))


def _draw_views(model, folder):
    """The pictures of VIEWS in `folder`: those written, and a sentence for each that a stranger's model breaks."""
    from diagnostics import pictures, views

    written, failures = [], []
    for file, name in VIEWS.items():
        try:
            pictures.save(getattr(views, name)(model), folder / file)
            written.append(folder / file)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            failures.append(f"zoo show: {file} could not be drawn: {said}")
    return written, failures


def fit(args) -> int:
    """`zoo fit`: one back end; a summary, and <backend>.nc."""
    if args.resume is not None:
        _as_saved(args)
    if args.backend is None:
        args.backend = "gibbs"
    comparison = _run(args, [args.backend], args.resume)
    entry = comparison.backends[args.backend]
    written = []
    if args.out and args.backend in comparison.results:
        from diagnostics.to_arviz import to_arviz, write

        how = {"backend": args.backend, "settings": comparison.settings[args.backend], "seed": comparison.seed}
        result = comparison.results[args.backend]
        data = to_arviz(result, comparison.model, comparison.x, data=comparison.data, **how)
        written.append(write(data, pathlib.Path(args.out) / f"{args.backend}.nc"))
    if args.json:
        print(comparison.to_json())
    else:
        out = tables.console()
        if not args.quiet and entry["status"] == "ok":
            out.print(tables.summary(comparison, args.backend))
            if entry["kind"] == "point":
                tables.print_point(out, comparison.results[args.backend])
        tables.print_verdicts(out, comparison)
        tables.print_paths(out, written)
    if entry["status"] == "refused":
        import inference

        print(f"zoo fit: {inference.serving(comparison.model, comparison.x)}", file=sys.stderr)
    if comparison.interrupted and written and entry["kind"] == "mcmc":
        print(f"zoo fit: interrupted; the same command with --resume {written[0]} goes on from there", file=sys.stderr)
    return int(comparison.interrupted or entry["status"] != "ok")


def compare(args) -> int:
    """`zoo compare`: every applicable back end; tables, comparison.json, comparison.csv, report.html, <backend>.nc."""
    named = args.backends.split(",") if args.backends is not None else None
    comparison = _run(args, named)
    written, failure = [], None
    if args.out:
        written = comparison.save(args.out)
        try:
            from diagnostics import report

            path = pathlib.Path(args.out) / "report.html"
            report.write(comparison, path)
            written.append(path)
        except Exception as error:  # the numbers are on disk; a picture that fails must not hide them
            failure = f"zoo compare: the report could not be written: {type(error).__name__}: {error}"
    if args.json:
        print(comparison.to_json())
    else:
        out = tables.console()
        if not args.quiet:
            tables.print_tables(out, comparison)
        tables.print_verdicts(out, comparison)
        tables.print_paths(out, written)
    if failure:
        print(" ".join(failure.split()), file=sys.stderr)
    statuses = {name: entry["status"] for name, entry in comparison.backends.items()}
    refused = named is not None and "refused" in statuses.values()
    return int(refused or failure is not None or comparison.interrupted or "failed" in statuses.values())


def _run(args, backends, resume=None):
    """The comparison the command line asks for; cheap checks first, JAX after them."""
    import inference
    from zoo import nearest

    for name in backends or ():
        if name not in inference.TABLE:
            raise ValueError(f"no back end named {name!r}: {nearest(name, inference.TABLE)}")
    constants, settings = constants_of(args), settings_of(args)
    entry = entry_of(args)
    for flag in ("out", "data", "column", "frequency", "units"):
        if getattr(args, flag) == "":
            raise ValueError(f"--{flag} is empty; give a value or leave it out")
    if args.out:
        files = ("comparison.json", "comparison.csv", "report.html", *(f"{name}.nc" for name in inference.TABLE))
        check_folder(pathlib.Path(args.out), files)
    if args.data is None:
        check_no_data_options(args)
    early = args.data is not None and entry and entry["data"]["array"]
    data = None
    if early:
        own = entry["data"]
        scales = {column: tuple(pair) for column, pair in own["standardized"].items()}
        data = read_data(args, entry["num_features"], model=args.name, names=own["features"], scales=scales)
    prepare(args.precision)
    hush()
    model = chosen_model(args, constants)
    if args.data is not None and data is None:
        data = read_data_for(args, model)
    from diagnostics.compare import accepted, compare, plan

    names = backends or [name for name in inference.BACKENDS if inference.TABLE[name][2]]
    common = {"num_chains": args.chains, "num_warmup": args.warmup, "num_draws": args.draws}
    taken = {option for name in names for option in accepted(name)}
    common = {k: v for k, v in common.items() if v is not None}
    for option in sorted(common.keys() - taken):
        raise ValueError(f"--{option.removeprefix('num_')} means nothing to {', '.join(names)}; leave it out")
    settings = common | settings
    x = data if data is not None else own_data(model)
    observed = checked(model, x.x, args.data)
    check_distinct(model, observed, plan(names, settings))
    seed, earlier = args.seed or 0, None
    if resume is not None:
        seed, settings, earlier = _resumed(args, model, observed, plan(names, settings)[names[0]])
    with tables.progress_bars(not (args.quiet or args.json)) as progress:
        return compare(model, backends, x, seed, settings, progress=progress, resume=earlier)


def _as_saved(args):
    """Model and back end of the saved run, where the command line leaves them out."""
    if args.backend is not None and (args.name or args.model):
        return
    prepare(args.precision)
    hush()
    from diagnostics import resume, saved

    model, backend = resume.origin(args.resume)
    if args.backend is None:
        args.backend = backend
    if args.name or args.model:
        return
    if args.set:
        raise ValueError("--set changes a MODEL, and none is given; leave it out: the saved run's constants are taken")
    args.name, constants = saved.named(model, f"--resume: {args.resume}")
    args.set = [f"{name}={json.dumps(value)}" for name, value in constants.items()]  # TOML, too


def _resumed(args, model, x, given):
    """Seed, settings and draws of the saved run; ValueError where the command line asks for another one."""
    from diagnostics import resume
    from inference import TABLE

    if TABLE[args.backend][1] != "mcmc":
        raise ValueError(f"--resume goes on with Markov chains, and {args.backend} has none")
    saved = resume.read(args.resume, model, x)
    if saved.backend != args.backend:
        raise ValueError(f"--resume: {args.resume} is a run of {saved.backend}; give --backend {saved.backend}")
    if args.seed not in (None, saved.seed):
        raise ValueError(f"--resume: the saved run has seed {saved.seed}, not {args.seed}; leave --seed out")
    return saved.seed, {args.backend: resume.settings(saved, given)}, saved.draws


def calibrate(args) -> int:
    """`zoo calibrate`: the table of proofs, of one model or of all, for some back ends or for all."""
    import inference
    from zoo import nearest

    backends = args.backends.split(",") if args.backends is not None else None
    for name in backends or ():
        if name not in inference.TABLE:
            raise ValueError(f"no back end named {name!r}: {nearest(name, inference.TABLE)}")
    everything = args.name is None and args.model is None
    if everything and args.set:
        raise ValueError("--set changes a constant of MODEL, which is not given")
    if not everything and args.processes > 1:
        raise ValueError("--processes shares out the table of every model, and one was given; leave one of the two out")
    if args.resume and args.out is None:
        raise ValueError("--resume goes on with the table of --out FILE.md, which is not given")
    constants = constants_of(args)
    if not everything:
        entry_of(args)
    page, figures = (pathlib.Path(args.out), pathlib.Path(args.out).with_suffix(".json")) if args.out else (None, None)
    if page is not None:
        check_file(page)
    kept = _kept(figures, args) if args.resume else {"rows": []}
    prepare("float64")
    hush()
    from diagnostics import calibrate, calibration

    if everything:
        models, others = calibrate.ranked_models(), calibrate.other_models()
    else:
        others = []
        models = [calibration.wide(args.name, **constants) if args.name else chosen_model(args, constants)]
    for name in backends or ():
        if not calibrate.returns_draws(name):
            raise ValueError(f"{name} returns no draws, so there is nothing to calibrate")
        reasons = [calibrate.served(model)[name] for model in [*models, *others]]
        if None not in reasons:
            print(f"zoo calibrate: {name} refuses {models[0].name}: {reasons[0]}", file=sys.stderr)
            return 1

    named = {model.name for model in models}
    lost = sorted({row["model"] for row in kept["rows"]} - named)
    if lost and not everything:  # the table written holds the models asked for alone
        raise ValueError(
            f"--resume: {figures} has rows of {', '.join(lost[:4])}{' and others' * (len(lost) > 4)}, which would be "
            "lost; leave the model out, or give another --out"
        )

    def write(table):  # after every row: what is interrupted leaves what it has
        if page is not None:
            page.write_text(calibrate.markdown(table, args.line), encoding="utf-8")
            figures.write_text(json.dumps(calibrate.as_json(table), indent=1) + "\n", encoding="utf-8")

    with tables.progress_bars(not (args.quiet or args.json)) as progress:
        how = dict(
            num_datasets=args.datasets,
            progress=progress,
            on_row=write,
            kept=calibrate.rows_of(kept),
            processes=args.processes,
        )
        how |= dict(kept=calibrate.rows_of(kept), joint_only=others)
        table = calibrate.calibrate(models, backends, args.seed, args.quick, **how)
    if args.json:
        print(json.dumps({"command": "calibrate", **calibrate.as_json(table)}, indent=1, ensure_ascii=False))
    else:
        tables.print_calibration(tables.console(), table)
    return int(not table.ok)


def _kept(figures, args) -> dict:
    """The table of an earlier run with this seed and --quick, or ValueError with one sentence."""
    try:
        found = json.loads(figures.read_text(encoding="utf-8"))
        if (found["seed"], found["quick"]) != (args.seed, args.quick):
            raise ValueError(f"--resume: {figures} was made with another --seed or --quick; give the same")
        for row in found["rows"]:  # KeyError where one is missing
            row["model"], row["backend"], row["kind"], row["failed"], row["seconds"]
        return found
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"--resume: {figures} is not the table of an earlier run; leave --resume out") from None
