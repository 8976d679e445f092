"""What the commands of `zoo` do and print. Everything that imports JAX is imported inside, after `cli.prepare`.

Bad input raises ValueError with one sentence, which `cli.main` prints; names, numbers, the data file and the output
folder are looked at before JAX is loaded.
"""

import json
import pathlib
import sys
import textwrap

from diagnostics import tables
from diagnostics.cli import prepare

MAX_NUMBERS = 9  # equal ones that `maths` writes out
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
        _entry(args)
        _check_folder(pathlib.Path(args.out), VIEWS)
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
    if args.resume and args.out is None:
        raise ValueError("--resume goes on with the table of --out FILE.md, which is not given")
    constants = _constants(args)
    if not everything:
        _entry(args)
    page, figures = (pathlib.Path(args.out), pathlib.Path(args.out).with_suffix(".json")) if args.out else (None, None)
    if page is not None:
        _check_file(page)
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
        how = dict(num_datasets=args.datasets, progress=progress, on_row=write, kept=calibrate.rows_of(kept))
        table = calibrate.calibrate(models, backends, args.seed, args.quick, joint_only=others, **how)
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


# -- input --------------------------------------------------------------------------------------------------------


def _run(args, backends, resume=None):
    """The comparison the command line asks for; cheap checks first, JAX after them."""
    import inference
    from zoo import nearest

    for name in backends or ():
        if name not in inference.TABLE:
            raise ValueError(f"no back end named {name!r}: {nearest(name, inference.TABLE)}")
    constants, settings = _constants(args), _settings(args)
    entry = _entry(args)
    for flag in ("out", "data", "column", "frequency", "units"):
        if getattr(args, flag) == "":
            raise ValueError(f"--{flag} is empty; give a value or leave it out")
    if args.out:
        files = ("comparison.json", "comparison.csv", "report.html", *(f"{name}.nc" for name in inference.TABLE))
        _check_folder(pathlib.Path(args.out), files)
    if args.data is None:
        _needs_data(args)
    early = args.data is not None and entry and entry["data"]["array"]
    data = None
    if early:
        own = entry["data"]
        scales = {column: tuple(pair) for column, pair in own["standardized"].items()}
        data = _read(args, entry["num_features"], model=args.name, names=own["features"], scales=scales)
    prepare(args.precision)
    hush()
    model = chosen_model(args, constants)
    if args.data is not None and data is None:
        data = _read_for(args, model)
    from diagnostics.compare import accepted, compare, plan

    names = backends or [name for name in inference.BACKENDS if inference.TABLE[name][2]]
    common = {"num_chains": args.chains, "num_warmup": args.warmup, "num_draws": args.draws}
    taken = {option for name in names for option in accepted(name)}
    common = {k: v for k, v in common.items() if v is not None}
    for option in sorted(common.keys() - taken):
        raise ValueError(f"--{option.removeprefix('num_')} means nothing to {', '.join(names)}; leave it out")
    settings = common | settings
    x = data if data is not None else _own(model)
    observed = checked(model, x.x, args.data)
    _check_distinct(model, observed, plan(names, settings))
    seed, earlier = args.seed or 0, None
    if resume is not None:
        seed, settings, earlier = _resumed(args, model, observed, plan(names, settings)[names[0]])
    with tables.progress_bars(not (args.quiet or args.json)) as progress:
        return compare(model, backends, x, seed, settings, progress=progress, resume=earlier)


def checked(model, x, file=None):
    """`model.check` of what was read from `file`, and in its sentence how it counts rows: as arrays do."""
    try:
        return model.check(x, "x" if file is None else str(file))
    except ValueError as error:
        counted = "; rows count from 0, the header does not" if file is not None and " row " in str(error) else ""
        raise ValueError(f"{error}{counted}") from None


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


def _entry(args) -> dict | None:
    """The catalogue's entry of MODEL; None where it, or --model, is FILE.py:NAME, which becomes `args.model`."""
    from zoo import catalogue, nearest

    if args.model is None and args.name is not None and ".py:" in args.name:
        args.model, args.name = args.name, None
    if args.model is not None:
        if args.name is not None:
            raise ValueError(f"MODEL {args.name!r} and --model are both given; give one of them")
        return None
    if args.name is None:
        raise ValueError(f"no MODEL is given: {nearest('', catalogue())}")
    if args.name not in catalogue():
        raise ValueError(f"no model named {args.name!r}: {nearest(args.name, catalogue())}")
    return catalogue()[args.name]


def chosen_model(args, constants=None):
    """The Mixture that MODEL or --model, and --set, name."""
    constants = _constants(args) if constants is None else constants
    entry = _entry(args)
    if entry is not None:
        import zoo

        return zoo.MODELS.builder(args.name)(**constants)
    return loaded(args.model, constants)


def loaded(path, constants):
    """The Mixture that --model names; ValueError with one sentence for whatever goes wrong in it."""
    from zoo.load import load

    try:
        return load(path, **constants)
    except ValueError:
        raise
    except Exception as error:  # a stranger's builder may do anything
        raise ValueError(f"{path} failed: {type(error).__name__}: {error}") from None


def _own(model):
    if model.data is None:
        raise ValueError(f"{model.name} has no data of its own; give --data FILE")
    return model.data


def _needs_data(args):
    """ValueError for an option that says how to read --data, which is not given."""
    says = {
        "column": "chooses columns",
        "frequency": "names a column",
        "units": "are those",
        "standardize": "changes columns",
    }
    for flag, does in says.items():
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag} {does} of --data, which is not given")


def _read(args, num_features, **options):
    from zoo import dataset

    columns = tuple(name.strip() for name in args.column.split(",")) if args.column else ()
    options |= {"frequency": args.frequency, "units": args.units or "", "standardize": args.standardize}
    return dataset.read(args.data, columns, num_features, **options)


def _read_for(args, model):
    """The data of --data in the shape that `model` observes: an array, or a dict by its keys."""
    import numpy as np

    shapes = model.data_shapes
    if set(shapes) == {"x"}:
        names = tuple(model.data.columns) if model.data is not None else ()
        return _read(args, int(np.prod(shapes["x"], dtype=int)), model=model.name, names=names, scales=model.scales)
    return _read(args, 0, model=model.name, keys=shapes, words=model.categories, scales=model.scales)


def _constants(args) -> dict:
    return dict(_assignment(text, "--set") for text in args.set)


def _settings(args) -> dict:
    """`--option nuts.permute=false` -> {"nuts": {"permute": False}}; without a prefix, for all."""
    import inference
    from zoo import nearest

    settings: dict = {}
    for text in args.option:
        name, value = _assignment(text, "--option")
        prefix, dot, option = name.rpartition(".")
        if dot and prefix not in inference.TABLE:
            raise ValueError(f"--option {text}: no back end named {prefix!r}: {nearest(prefix, inference.TABLE)}")
        if not dot and option in inference.TABLE:
            raise ValueError(f"--option {text}: {option} is a back end; name its setting, {option}.NAME=VALUE")
        (settings.setdefault(prefix, {}) if dot else settings)[option] = value
    return settings


def _assignment(text, flag):
    """NAME=VALUE with VALUE in TOML syntax."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{flag} takes NAME=VALUE, got {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise ValueError(f'{flag} {text}: {value!r} is not a TOML value (2.5, [1, 2], true or "text")') from None


def _check_folder(folder: pathlib.Path, files):
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror or error}") from None
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"--out {folder} cannot be written: {name} in it is a folder")


def _check_file(path: pathlib.Path):
    if path.suffix != ".md":
        raise ValueError(f"--out {path} should be a Markdown file, NAME.md")
    if path.is_dir():
        raise ValueError(f"--out {path} cannot be written: it is a folder")
    _check_folder(path.parent, ())


def _check_distinct(model, x, plans):
    """Without a prior a component on every distinct point has an infinite likelihood."""
    import numpy as np

    if isinstance(x, dict):
        return
    distinct = len(np.unique(x, axis=0))
    for name, options in plans.items():
        if options.get("prior") is False and distinct < model.num_components:
            raise ValueError(
                f"{name} without a prior needs at least {model.num_components} distinct points for "
                f"{model.num_components} components, the data have {distinct}"
            )


def hush():
    """Libraries' notices that no user of this program can act on: of their own future, of float32 as asked for."""
    import warnings

    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filterwarnings("ignore", message="Explicitly requested dtype .*float64", category=UserWarning)


# -- describing a model -------------------------------------------------------------------------------------------


def describe(model) -> dict:
    """What `zoo show --json` holds: the declaration as maths, labels, data, back ends."""
    import inference
    from diagnostics.graph import graph
    from inference import conjugacy

    prior, observation = maths(model)
    data = model.data
    backends = {}
    if data is not None:
        x = model.check(data.x)
        backends = {name: inference.BACKENDS[name].refuses(model, x) for name in inference.BACKENDS}
    return {
        "name": model.name,
        "title": model.title,
        "family": model.family,
        "description": model.description,
        "source": model.source,
        "num_components": model.num_components,
        "num_free_parameters": None if model.lacks_twin else model.num_free_parameters,
        "exchangeable": bool(model.exchangeable),
        "prior": prior,
        "observation": observation,
        "graph": [node._asdict() for node in graph(model)],
        "component_parameters": list(model.component_leaves),
        "order_by": model.order_by,
        "relabels": bool(model.relabels),
        "conjugate": {rule.site: _gives(model, rule) for rule in conjugacy.rules(model)},
        "data": None
        if data is None
        else {
            "name": data.name,
            "N": data.num_observations,
            "D": data.num_features,
            "units": data.units,
            "source": data.source,
            "licence": data.licence,
            "sha256": data.sha256,
            "variant": data.variant,
        },
        "backends": backends,
    }


def _gives(model, rule) -> dict:
    """What a conjugate rule is good for in this model."""
    from inference import cavi, marginal

    return {
        "rule": rule.name,
        "draw": rule.conditional is not None,
        "m_step": rule.mode is not None,
        "variational": rule in cavi.served(model),
        "marginal": rule.collapsed is not None and marginal.collapsible(model) is None,
    }


def maths(model) -> tuple[list[str], list[str]]:
    """The prior's sites and the observation's as lines, `means ~ Normal(loc=[400, 400], scale=50)`.

    Numbers are shown where an argument is the same at two prior draws, a parameter's name where it equals that
    parameter (name[k] where it equals row k), "..." where it is computed from parameters otherwise.
    """
    import jax
    import numpy as np

    from diagnostics.functionals import one_row
    from zoo import introspect

    row = one_row(model)
    rows = row if isinstance(row, dict) else {"x": row}
    observed = {name: np.asarray(leaf)[0] for name, leaf in rows.items() if name != "covariates"}
    families = {}

    @jax.jit
    @jax.vmap
    def draw(key):
        params = introspect.sample(model.prior, (), key)[0]
        prior = model.prior_sites(params)

        def component(k):
            sites = model.observation_sites(params, k, observed, model.covariates_row)
            families.update({("observation", name): site.family for name, site in sites.items()})
            return {name: site.parameters for name, site in sites.items()}

        families.update({("prior", name): site.family for name, site in prior.items()})
        each = jax.vmap(component)(np.arange(model.num_components, dtype=np.int32))
        return {**model.derived(params), **params}, {name: site.parameters for name, site in prior.items()}, each

    values, prior, each = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(3))))

    def number(array):
        if np.ndim(array) == 0:
            return f"{float(array):.6g}"
        if np.size(array) > MAX_NUMBERS and np.all(array == array.flat[0]):
            return f"{float(array.flat[0]):.6g} ({' x '.join(map(str, array.shape))} times)"
        return "[" + ", ".join(number(a) for a in array) + "]"

    def argument(pair, by_component):
        """`pair`: the argument at two draws, (2, ...), or (2, K, ...) by component."""
        flat = pair[:, 0] if by_component and np.all(pair == pair[:, :1]) else pair
        names = [name for name, leaf in values.items() if leaf.shape == flat.shape and np.array_equal(leaf, flat)]
        rowwise = by_component and flat is pair
        if names:
            return names[0] + ("[k]" if rowwise else "")
        if np.array_equal(flat[0], flat[1]):
            return number(flat[0]) + ("[k]" if rowwise else "")
        return "..."

    def line(kind, name, arguments):
        family = families[kind, name] or "a density of its own"
        inside = ", ".join(f"{k}={argument(v, kind == 'observation')}" for k, v in arguments.items())
        given = " | z = k" if kind == "observation" and name != "z" else ""
        return f"{name}{given} ~ {family}({inside})"

    order = [name for name in families if name[0] == "prior"]  # as declared; JAX sorts the keys of dictionaries
    lines = [line("prior", name, prior[name]) for _, name in order]
    sites = [name for kind, name in families if kind == "observation"]
    return lines, [line("observation", name, each[name]) for name in sites]
