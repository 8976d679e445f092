"""`zoo data`: the data sets there are; one of them, shown or exported. Loads no JAX for the shipped ones."""

import csv
import itertools
import json
import pathlib
from collections.abc import Iterator

from diagnostics import tables

NUM_SHOWN = 5  # rows


def data(args) -> int:
    """The command: without NAME the list, with it one data set, with --out its CSV file."""
    if args.name is None:
        return _list(args)
    dataset, about = _one(args.name, args.column)
    if args.out is not None:
        _export(rows(dataset, about["classes"]), pathlib.Path(args.out))
    if args.json:
        print(json.dumps({"schema": 1, **about}, indent=1, ensure_ascii=False))
    elif args.out is not None:
        variant = f" ({about['variant']})" if about["variant"] else ""
        header = ", ".join(next(rows(dataset, about["classes"])))
        print(f"{args.out}: {about['name']}{variant}, {about['N']} rows of {header}")
    else:
        first = itertools.islice(rows(dataset, about["classes"]), NUM_SHOWN + 1)
        tables.print_dataset(tables.console(), about, list(first))
    return 0


def _list(args) -> int:
    for option in ("column", "out"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is for one data set: give NAME too")
    found = list(datasets().values())
    if args.json:
        print(json.dumps({"schema": 1, "datasets": found}, indent=1, ensure_ascii=False))
    else:
        tables.print_datasets(tables.console(), found)
    return 0


def datasets() -> dict[str, dict]:
    """name -> name, variant, N, D, what is recorded of it, and the models that have it as their own data.

    The shipped ones first, their checksums verified, then those that are written in a model's file.
    """
    from zoo import catalogue
    from zoo.dataset import provenance, shipped

    keys = ("what", "licence", "carrier", "origin", "note", "sha256")
    found: dict[str, dict] = {
        name: {"name": name, "variant": row["variant"], "N": int(row["N"]), "D": int(row["D"])}
        | {key: row[key] for key in keys}
        | {"units": shipped(name).units, "models": []}
        for name, row in provenance().items()
    }
    for entry in catalogue().values():
        own = entry["data"]
        shape = {"N": entry["num_observations"], "D": entry["num_features"]}
        written = {"what": entry["title"], "units": own["units"], "licence": own["licence"], "carrier": "this package"}
        known = {"name": own["name"], "variant": own["variant"], **shape, **written}
        known |= {"origin": own["source"], "note": "", "sha256": own["sha256"], "models": []}
        found.setdefault(own["name"], known)["models"].append(entry["name"])
    return found


def _one(name, column) -> tuple:
    """The Dataset, and what there is to say of it and of its columns."""
    import numpy as np

    from zoo import nearest
    from zoo.dataset import provenance, shipped

    about = datasets().get(name)
    if about is None:
        raise ValueError(f"no data set named {name!r}: {nearest(name, datasets())}")
    label = ""
    if name in provenance():
        columns = None if column is None else tuple(part.strip() for part in column.split(","))
        dataset, label = shipped(name, columns), provenance()[name]["labels"]
    elif column is None:
        dataset = _of_model(about["models"][0])
    else:
        raise ValueError(f"--column chooses columns of a shipped data set; {name} is written in a model's file")
    classes = None
    if dataset.labels is not None:
        words = dataset.categories.get(label) or tuple(map(str, range(int(np.max(dataset.labels)) + 1)))
        sizes = np.bincount(dataset.labels, minlength=len(words)).tolist()
        classes = {"column": label or "label", "sizes": dict(zip(words, sizes, strict=True))}
    summaries = {name: _summary(values, dataset.categories.get(name)) for name, values in dataset.columns.items()}
    about |= {"D": dataset.num_features, "units": dataset.units, "variant": dataset.variant}
    return dataset, about | {"columns": summaries, "classes": classes}


def _of_model(name):
    """The data that are written in a model's file: importing it loads JAX."""
    import zoo
    from diagnostics.cli import prepare

    prepare("float64")
    return zoo.MODELS[name].data


def _summary(values, words) -> dict:
    import numpy as np

    known = values[np.isfinite(values)]
    found = {"least": float(known.min()), "mean": float(known.mean()), "largest": float(known.max())}
    return found | {"missing": len(values) - len(known), "categories": list(words) if words else None}


def rows(dataset, classes) -> Iterator[list[str]]:
    """The header and the rows of the exported file: columns as numbers, then the class in words; missing is empty."""
    table = dataset.columns
    extra = classes is not None and classes["column"] not in table
    yield [*table, *([classes["column"]] if extra else [])]
    words = list(classes["sizes"]) if extra else []
    for n, row in enumerate(zip(*table.values(), strict=True)):
        yield [*map(_cell, row), *([words[int(dataset.labels[n])]] if extra else [])]


def _cell(value) -> str:
    if value != value:
        return ""
    return str(int(value)) if value == int(value) else repr(float(value))


def _export(table, path):
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--out {path} should be a CSV file, NAME.csv")
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(table)
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error.strerror or error}") from None
