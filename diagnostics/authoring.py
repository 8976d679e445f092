"""For those who write a model: `zoo new` starts its file, `zoo check` says what holds, `zoo simulate` draws data."""

import csv
import json
import keyword
import pathlib
from importlib import resources

from diagnostics import tables
from diagnostics.arguments import chosen_model
from diagnostics.cli import hush, prepare

SENTENCES = {
    "assignment_has_k_values": "z is a choice among num_components, by probabilities",
    "densities_are_finite": "every observation simulated from the prior has a finite density in some component",
    "twin_equals_table": "the NumPyro twin has the density of the declaration",
    "twin_gradient_equals_tables": "so has its gradient",
    "halves_sum_to_the_table": "weights and components make up the table",
    "table_equals_enumeration": "summing the joint over all assignments gives the table's likelihood",
    "relabelling_permutes_columns": "permute relabels the components",
    "exchangeable_as_declared": "exchangeable is what it is declared to be",
    "simulation_is_finite": "forward draws have a finite density and pass the model's own check",
    "responsibilities_sum_to_one": "responsibilities sum to 1",
    "declared_leaves_are_probed": "component_params are what probing finds",
    "bad_data_is_refused": "NaN, infinities, no rows and wrong shapes are refused",
    "own_data_are_served": "the model's own data pass its check",
}


def check(args) -> int:
    """`zoo check`: the contract of a model, each identity in a sentence, and the back ends that serve it."""
    prepare("float64")
    hush()
    model = chosen_model(args)
    from diagnostics import contract

    found = contract.check(model)
    backends = _backends(model)
    if args.json:
        identities = {name: {"holds": one.holds, "detail": one.detail} for name, one in found.items()}
        print(json.dumps({"schema": 1, "name": model.name, "contract": identities, "backends": backends}, indent=1))
    else:
        tables.print_contract(tables.console(), model.name, [(SENTENCES[n], *f) for n, f in found.items()], backends)
    return int(not all(one.holds for one in found.values()))


def _backends(model) -> dict[str, str | None]:
    """back end -> None, or why it refuses the model on its own data; without data, on ten simulated observations."""
    import inference
    from diagnostics.calibration import example

    try:
        x = model.check(model.data.x) if model.data is not None else example(model, 10)
        return {name: backend.refuses(model, x) for name, backend in inference.BACKENDS.items()}
    except Exception as error:  # the contract says what is wrong with the model
        return {name: f"{type(error).__name__}: {error}" for name in inference.BACKENDS}


def new(args) -> int:
    """`zoo new`: NAME.py, a commented model that runs as it stands, and test_NAME.py; neither replaces a file."""
    name, folder = args.name, pathlib.Path(args.out or ".")
    if name is None or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"zoo new takes the NAME of a Python function, such as my_model; got {name!r}")
    files = {folder / f"{name}.py": "new_model.py.txt", folder / f"test_{name}.py": "new_test.py.txt"}
    for path in files:
        if path.exists():
            raise ValueError(f"{path} is there already; give another NAME, or --out FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in files.items():
        text = (resources.files("diagnostics") / "templates" / template).read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name), encoding="utf-8")
    first, second = files
    if args.json:
        print(json.dumps({"schema": 1, "model": f"{first}:{name}", "files": list(map(str, files))}, indent=1))
    else:
        print(f"{first}: fill it in, then\n  zoo check {first}:{name}\n  zoo compare {first}:{name}")
        print(f"{second}: its test, for pytest")
    return 0


def simulate(args) -> int:
    """`zoo simulate`: observations at one prior draw as CSV; their assignments beside them, the parameters above.

    Covariates are those of the model's data, over and over. Columns of a model whose data are standardised are in the
    units of the file that those were read from, as `zoo fit --data` takes them; parameters are not.
    """
    prepare("float64")
    hush()
    model = chosen_model(args)
    import jax
    import numpy as np

    from zoo import tables as columns

    draw = jax.jit(lambda key: model.simulate(key, args.n))
    params, assignments, x = jax.tree.map(np.asarray, draw(jax.random.key(args.seed)))
    named = columns.of_arrays(x if isinstance(x, dict) else {"x": x})
    if model.data is not None and len(model.data.columns) == len(named) and not isinstance(x, dict):
        named = dict(zip(model.data.columns, named.values(), strict=True))
    named |= {column: named[column] * sd + mean for column, (mean, sd) in model.scales.items()}
    if args.out is not None:
        with open(args.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*named, "assignment"])
            writer.writerows(zip(*(leaf.tolist() for leaf in named.values()), assignments.tolist(), strict=True))
    shown = {name: leaf.tolist() for name, leaf in params.items()}
    standardized = {column: {"mean": mean, "sd": sd} for column, (mean, sd) in model.scales.items()}
    if args.json:
        found = {"schema": 1, "model": model.name, "seed": args.seed, "params": shown, "standardized": standardized}
        found |= {"x": {name: leaf.tolist() for name, leaf in named.items()}, "assignments": assignments.tolist()}
        print(json.dumps(found, indent=1))
    elif args.out is not None:
        of = " of the standardised columns" if standardized else ""
        print(f"{args.out}: {args.n} rows of {', '.join(named)} from {model.name}; params{of} {json.dumps(shown)}")
    else:
        print(",".join([*named, "assignment"]))
        for row in zip(*(leaf.tolist() for leaf in named.values()), assignments.tolist(), strict=True):
            print(",".join(map(str, row)))
    return 0
