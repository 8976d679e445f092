"""`zoo predict`: new observations under a saved result, as a table, CSV files or JSON.

For each: its log predictive density, how anomalous that is, its component where components mean something, and what its
missing entries may be. Everything that imports JAX is imported inside, after `cli.prepare`.
"""

import csv
import json
import math
import pathlib

from diagnostics import tables
from diagnostics.arguments import check_folder, checked, constants_of, loaded
from diagnostics.cli import hush, prepare

NUM_SHOWN = 20  # rows of the printed table
NUM_JUDGED = 100  # rows whose log densities must have an R-hat below that of mixed chains


def predict(args) -> int:
    """The command: reads the result and the new data, predicts, prints and writes."""
    if args.set and args.model is None:
        raise ValueError("--set changes a constant of --model, which is not given; a zoo model's are in RESULT.nc")
    if args.draws is not None and (not args.out or args.out.lower().endswith(".csv")) and not args.json:
        raise ValueError("--draws leaves draws.csv in a folder: give --out FOLDER, or --json")
    if args.column == "":
        raise ValueError("--column is empty; give a value or leave it out")
    constants = constants_of(args)
    out = None if args.out is None else _writable(args.out)
    for given in (args.result, args.data):
        if not pathlib.Path(given).is_file():
            raise ValueError(f"no file {given}")
    prepare("float64")
    hush()
    from diagnostics import saved

    model = None
    if args.model is not None:
        model = loaded(args.model, constants)
    posterior = saved.read(args.result, model)
    new = read(posterior, args.data, args.column, args.missing == "marginalize")
    found = predictions(posterior, new, args.seed, args.draws)
    written = [] if out is None else _write(found, out)
    if args.json:
        print(json.dumps({"schema": 1, "command": "predict", **_plain(found)}, indent=1, ensure_ascii=False))
    else:
        show(tables.console(), found)
        tables.print_paths(tables.console(), written)
    return 0


# -- the new observations -------------------------------------------------------------------------------------------


def read(posterior, path, column=None, missing=False) -> dict:
    """New observations in the units of the run: `x` in the model's shape, `seen` (None where all entries are), `raw`
    columns as they are in the file, and mean and sd of each that the run's own data were standardised by."""
    import numpy as np

    from zoo import dataset, support

    model, said = posterior.model, posterior.said
    own = model.data is not None and model.data.sha256 == said["data_sha256"]
    names = tuple(json.loads(said.get("data_columns", "[]"))) or (tuple(model.data.columns) if own else ())
    standardized = standardized_by(posterior)
    shapes = model.data_shapes
    columns = tuple(name.strip() for name in column.split(",")) if column else ()
    if set(shapes) == {"x"}:
        if not columns and len(names) > 1:
            columns = _in_order(path, names)
        new = dataset.read(path, columns, int(np.prod(shapes["x"], dtype=int)), names=names, missing=True)
    else:
        new = dataset.read(path, columns, 0, keys=shapes, missing=True, words=model.categories)
    leaves = new.x if isinstance(new.x, dict) else {"x": new.x}
    raw = dict(new.columns)
    if "covariates" in shapes:
        raw = {name: values for name, values in raw.items() if not name.startswith("covariates")}
    lacking = {name: np.isnan(leaf) for name, leaf in leaves.items()}
    first = next((name for name, gone in lacking.items() if gone.any()), None)
    if first is not None:
        row = int(np.flatnonzero(lacking[first].reshape(len(lacking[first]), -1).any(axis=1))[0]) + 1
        if first == "covariates":
            raise ValueError(f"{path}: data row {row} lacks a covariate, which has no law to integrate it out by")
        if not missing:
            raise ValueError(
                f"{path}: data row {row} has a missing entry; give --missing marginalize, or remove the row"
            )
    scales = {name: _scale(name, leaf, standardized, model) for name, leaf in leaves.items()}
    observed = posterior.x if isinstance(posterior.x, dict) else {"x": posterior.x}
    filled = {}
    for name, leaf in leaves.items():
        mean, sd = scales[name]
        of_trials = name != "covariates" and model.observation_shapes[name].family in support.OUT_OF_TRIALS
        possible = 0 if of_trials else np.asarray(observed[name])[0]
        filled[name] = np.where(lacking[name], possible, (leaf - mean) / sd)
    x = checked(model, filled if isinstance(new.x, dict) else filled["x"], path)
    seen = None
    if first is not None:
        seen = {name: ~gone for name, gone in lacking.items() if name != "covariates"}
        from diagnostics.missing import why_not

        reason = why_not(model, seen)
        if reason is not None:
            raise ValueError(reason)
    entries = [name for name in leaves if name != "covariates"]
    flat = lambda name, i: np.ravel(np.broadcast_to(scales[name][i], np.shape(leaves[name])[1:]))
    means, sds = (np.concatenate([flat(name, i) for name in entries]) for i in (0, 1))
    return {
        "x": x,
        "seen": seen,
        "raw": raw,
        "means": means,
        "sds": sds,
        "standardized": standardized,
        "file": str(path),
    }


def _in_order(path, names) -> tuple[str, ...]:
    """No choice of columns where the file has all `names` or none; ValueError for a file whose header names others,
    which would be taken in an order that nobody asked for."""
    from zoo import tables as tables_of

    given = tuple(tables_of.read(pathlib.Path(path)))
    numbered = given == tuple(str(i + 1) for i in range(len(given)))
    if not numbered and not {name.lower() for name in names} <= {name.lower() for name in given}:
        raise ValueError(
            f"{path} has the columns {', '.join(given)}, the run had {', '.join(names)}; "
            f"say which is which by --column, in the order of the run"
        )
    return ()


def _scale(name, leaf, standardized, model):
    """Mean and sd that a leaf of the run's data was standardised by, of the shape of one row; 0 and 1 without."""
    import numpy as np

    from zoo.tables import of_arrays

    if not standardized:
        return 0.0, 1.0
    if set(model.data_shapes) == {"x"}:
        pairs = list(standardized.values())  # in the order of the features
    else:
        pairs = [standardized.get(column, (0.0, 1.0)) for column in of_arrays({name: leaf})]
    return tuple(np.reshape([pair[i] for pair in pairs], np.shape(leaf)[1:]) for i in (0, 1))


def standardized_by(posterior) -> dict:
    """Column -> mean and sd that the run's data were standardised by; of older files, what the model's own data say."""
    model, said = posterior.model, posterior.said
    recorded = {k: (v["mean"], v["sd"]) for k, v in json.loads(said.get("data_standardized", "{}")).items()}
    if recorded or model.data is None or model.data.sha256 != said["data_sha256"]:
        return recorded
    return model.data.standardized


# -- what is found --------------------------------------------------------------------------------------------------


def predictions(posterior, new, seed=0, num_draws=None) -> dict:
    """Everything that is said of the new observations, in the units of their file; and `num_draws` simulated ones."""
    import numpy as np

    from diagnostics import classification, prediction

    x, seen, sds = new["x"], new["seen"], new["sds"]
    names = list(new["raw"])
    known = np.stack([np.isfinite(column) for column in new["raw"].values()], axis=1)
    density = prediction.log_predictive(posterior, x, seen)
    tail = prediction.tail(posterior, x, seen, seed, density)
    how = classification.labelling(posterior)
    classes = classification.classify(posterior, x, seen, how)
    some = known.any(axis=1)  # of a row without any entry there is no density
    rows: list[dict] = []
    for n in range(len(known)):
        row: dict[str, float | None] = {name: float(column[n]) for name, column in new["raw"].items()}
        shift = float(np.log(sds[known[n]]).sum())
        row |= {"log_density": float(density.value[n]) - shift, "log_density_error": float(density.error[n])}
        row |= {"tail_probability": float(tail.value[n]), "tail_probability_error": float(tail.error[n])}
        if not some[n]:
            row |= dict.fromkeys(list(row)[-4:], math.nan)
        if classes.probabilities is not None:
            p, error = classes.probabilities.value[n], classes.probabilities.error[n]
            row["component"] = int(np.argmax(p)) if np.isfinite(p).all() else None
            row |= {f"probability[{k}]": float(p[k]) for k in range(len(p))}
            row |= {f"probability_error[{k}]": float(error[k]) for k in range(len(p))}
        rows.append(row)
    if seen is not None:
        given = prediction.conditional(posterior, x, seen)
        lacks = ~known
        for i, n in enumerate(given.rows):
            sd = np.sqrt(np.diagonal(given.covariance[i]))
            for d, name in enumerate(names):
                if lacks[n, d]:
                    rows[n][f"mean[{name}]"] = float(given.mean[i, d] * sds[d] + new["means"][d])
                    rows[n][f"sd[{name}]"] = float(sd[d] * sds[d])
                    rows[n][f"mean_error[{name}]"] = float(given.error[i, d] * sds[d])
    return {
        "model": posterior.model.name,
        "backend": posterior.backend,
        "data": new["file"],
        "num_draws": int(posterior.share.size),
        "standardized": {k: {"mean": mean, "sd": sd} for k, (mean, sd) in new["standardized"].items()},
        "missing": int((~known).sum()),
        "classification": classes.rule,
        "components": list(classes.clusters),
        "warnings": [*posterior.warnings, *_doubts(posterior, new, density, classes, some)],
        "columns": names,
        "rows": rows,
        "grid": _grid(posterior, new) if len(names) == 1 else None,
        "replicates": None if num_draws is None else _replicates(posterior, new, num_draws, seed, how.labels),
    }


def _doubts(posterior, new, density, classes, some) -> list[str]:
    """What stands against the numbers, a sentence each."""
    import numpy as np

    from diagnostics.verdicts import MIXED_RHAT

    doubts = []
    few = int((density.few & some & (density.error > 0)).sum())
    if few:
        doubts.append(f"the log density of {few} rows rests on few draws: its error is not to be trusted")
    if classes.probabilities is not None:
        p = classes.probabilities
        few = int((p.few & some & np.any(p.error > 0, axis=1)).sum())
        if few:
            doubts.append(
                f"the class probabilities of {few} rows rest on few draws: their errors are not to be trusted"
            )
    if np.isnan(density.error).any():
        doubts.append("there are too few draws for errors; four of a chain are needed")
    if classes.warning is not None:
        doubts.append(classes.warning)
    if posterior.kind == "chains" and posterior.shape[0] == 1:
        doubts.append("a single chain cannot show that it has mixed: run two or more")
    rhat = _rhat(posterior, new)
    if rhat > MIXED_RHAT:
        doubts.append(f"the chains disagree on the new rows (R-hat {rhat:.3f}): run them for longer before using this")
    return doubts


def _rhat(posterior, new) -> float:
    """The largest R-hat of p(x_n | params) over NUM_JUDGED rows; infinite where one is not a number, 0 without chains
    to compare."""
    import numpy as np

    from diagnostics import prediction
    from diagnostics.to_arviz import az

    if posterior.kind != "chains" or min(posterior.shape) < 2 or posterior.shape[1] < 4:
        return 0.0
    rows = np.unique(np.linspace(0, len(new["raw"][next(iter(new["raw"]))]) - 1, NUM_JUDGED).astype(int))
    some = None if new["seen"] is None else prediction.take(new["seen"], rows)
    found = []
    for table in prediction.tables(posterior, prediction.take(new["x"], rows), some):
        log_p = np.logaddexp.reduce(table, axis=-1)
        found += [float(az.rhat(log_p[..., n])) for n in range(log_p.shape[-1]) if np.ptp(log_p[..., n]) > 0]
    return max((value if value == value else np.inf for value in found), default=0.0)


def _replicates(posterior, new, num, seed, labels) -> dict:
    """Columns of observations simulated from the posterior predictive, in the units of the file."""
    import numpy as np

    from diagnostics import missing, prediction

    assignments, x = prediction.replicates(posterior, num, seed, new["x"], labels)
    covariates = isinstance(new["x"], dict) and "covariates" in new["x"]
    columns: dict[str, list] = {}
    if covariates:  # every draw at every row of the file
        N = prediction.num_rows(new["x"])
        columns["row"] = np.tile(np.arange(1, N + 1), num).tolist()
        flat = lambda leaf: np.reshape(leaf, (-1, *np.shape(leaf)[2:]))
        x = {name: flat(leaf) for name, leaf in x.items()} if isinstance(x, dict) else flat(x)
    values = missing.features(x).values()
    columns |= {
        n: (v * sd + m).tolist() for n, v, m, sd in zip(new["raw"], values, new["means"], new["sds"], strict=True)
    }
    if assignments is not None:
        columns["component"] = np.ravel(assignments).tolist()
    return columns


def _grid(posterior, new):
    """The predictive density on a grid, in the units of the file; None for a model that has none."""
    import numpy as np

    from diagnostics import prediction

    try:
        points, density = prediction.grid(posterior)
    except ValueError:
        return None
    mean, sd = new["means"][0], new["sds"][0]
    log_p = density.value - np.log(sd)
    return {"x": (points * sd + mean).tolist(), "log_density": log_p.tolist(), "error": density.error.tolist()}


# -- what is shown and written --------------------------------------------------------------------------------------


def show(out, found):
    """The table of the first rows, and the sentences that belong to it."""
    classified = "component" in found["rows"][0]
    gone = [name for name in found["columns"] if any(f"mean[{name}]" in row for row in found["rows"])]
    num = sum(key.startswith("probability[") for key in found["rows"][0])
    head = ["row", *found["columns"][:6], "log density", "tail probability"]
    head += ["component", *(f"P({k})" for k in range(num))][: 1 + min(num, 8)] if classified else []
    table = tables._table(f"{found['data']} under {found['model']} by {found['backend']}", *head)
    for n, row in enumerate(found["rows"][:NUM_SHOWN]):
        cells = [_cell(row, name) for name in found["columns"][:6]]
        cells += [_with_error(row, "log_density"), _with_error(row, "tail_probability")]
        if classified:
            cells += [str(row["component"]), *(f"{row[f'probability[{k}]']:.4f}" for k in range(min(num, 8)))]
        table.add_row(str(n + 1), *cells)
    out.print(table)
    if len(found["rows"]) > NUM_SHOWN:
        out.print(f"... and {len(found['rows']) - NUM_SHOWN:,} more rows; --out FILE.csv has all of them")
    out.print("log density: of the row given the data, averaged over draws; ± its Monte Carlo error", soft_wrap=True)
    out.print("tail probability: that a new observation is no more probable; small for an anomaly", soft_wrap=True)
    if gone:
        out.print("missing entries: integrated out, and shown as mean (sd) given the others", soft_wrap=True)
    out.print(found["classification"], soft_wrap=True)
    for k, means in enumerate(found["components"]):
        said = ", ".join(f"{name} {_short(value)}" for name, value in means.items())
        if said:
            out.print(f"    {k}: {said}", soft_wrap=True)
    if found["standardized"]:
        says = ", ".join(
            f"{name} by {one['mean']:.6g} and {one['sd']:.6g}" for name, one in found["standardized"].items()
        )
        out.print(f"the rows were standardised as the run's data were ({says}); all figures are in units of the file")
    for warning in found["warnings"]:
        out.print(f"warning: {warning}", soft_wrap=True)


def _cell(row, name) -> str:
    if f"mean[{name}]" in row:
        return f"{row[f'mean[{name}]']:.4g} ({row[f'sd[{name}]']:.2g})"
    return "missing" if math.isnan(row[name]) else f"{row[name]:.6g}"


def _with_error(row, key) -> str:
    value, error = row[key], row[f"{key}_error"]
    if math.isnan(value):
        return ""
    return f"{value:.4f}" + ("" if error == 0 or math.isnan(error) else f" ±{error:.1g}")


def _short(value) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(_short, value)) + ")"
    return f"{value:.4g}"


def _writable(text) -> pathlib.Path:
    """The path of --out, tried before anything runs."""
    path = pathlib.Path(text)
    if not text:
        raise ValueError("--out is empty; give a folder or NAME.csv, or leave it out")
    if path.suffix and path.suffix.lower() != ".csv" and not path.is_dir():
        raise ValueError(f"--out {path} should be a folder or a CSV file, NAME.csv")
    if path.suffix.lower() == ".csv":
        if path.is_dir():
            raise ValueError(f"--out {path} cannot be written: it is a folder")
        check_folder(path.parent, ())
    else:
        check_folder(path, ("predictions.csv", "density.csv", "draws.csv"))
    return path


def _write(found, out) -> list[pathlib.Path]:
    """predictions.csv, density.csv where there is a grid, and draws.csv, in the folder `out`; or the first as `out`."""
    keys = list(dict.fromkeys(key for row in found["rows"] for key in row))
    rows = [[_text(row.get(key)) for key in keys] for row in found["rows"]]
    files: dict[pathlib.Path, list] = {out if out.suffix.lower() == ".csv" else out / "predictions.csv": [keys, *rows]}
    for name, columns in (("density.csv", found["grid"]), ("draws.csv", found["replicates"])):
        if columns is not None and out.suffix.lower() != ".csv":
            files[out / name] = [list(columns), *zip(*(map(_text, c) for c in columns.values()), strict=True)]
    for path, content in files.items():
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(content)
    return list(files)


def _text(value) -> str:
    return "" if value is None or value != value else repr(value)


def _plain(value):
    """For JSON: numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
