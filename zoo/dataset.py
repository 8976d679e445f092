"""Data with their provenance: arrays, names, units, where they come from, and a checksum.

`shipped("galaxy")` is a published data set as a Dataset; zoo/data/PROVENANCE.csv says where each comes from. No JAX.
"""

import csv
import functools
import hashlib
import pathlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo import nearest, tables

PER_UNIT = "a row per unit of "  # the variant of a table of frequencies, and the name of its column
FOLDER = pathlib.Path(__file__).with_name("data")


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """N observations and what is known about them. `x` is (N,) or (N, D), or a dict of such arrays."""

    name: str
    x: Any
    feature_names: tuple[str, ...] = ()
    units: str = ""
    labels: Any = None  # (N,) true or published classes, where known
    params: dict[str, Any] | None = None  # true values, if synthetic
    source: str = ""
    licence: str = ""
    sha256: str = field(default="")  # of the little-endian float64 bytes of x; computed when not given, else checked
    variant: str = ""
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)  # coded column -> what its codes 0, 1, .. mean
    standardized: dict[str, tuple[float, float]] = field(default_factory=dict)  # column -> mean and sd taken out of x

    def __post_init__(self):
        found = checksum(self.x)
        if self.sha256 and self.sha256 != found:
            raise ValueError(
                f"data set {self.name}: checksum {found} is not the recorded {self.sha256}; it has changed"
            )
        unknown = next((column for column in self.standardized if column not in self.columns), None)
        if unknown is not None:
            raise ValueError(f"data set {self.name}: standardized names {unknown!r}: {nearest(unknown, self.columns)}")
        object.__setattr__(self, "sha256", found)

    @property
    def num_observations(self) -> int:
        x = next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        return len(x)

    @property
    def num_features(self) -> int:
        leaves = [v for k, v in self.x.items() if k != "covariates"] if isinstance(self.x, dict) else [self.x]
        return sum(1 if np.ndim(leaf) == 1 else np.shape(leaf)[1] for leaf in leaves)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """name -> values (N,): the features by their names, or of a dict "key" and "key[i]"."""
        if not isinstance(self.x, dict) and len(self.feature_names) == self.num_features:
            return dict(zip(self.feature_names, np.reshape(self.x, (len(self.x), -1)).T, strict=True))
        return tables.of_arrays(self.x if isinstance(self.x, dict) else {"x": self.x})

    def complete(self) -> "Dataset":
        """The rows without a missing value, `variant` saying how many they are; itself where none is missing."""
        if isinstance(self.x, dict):
            raise ValueError(f"data set {self.name}: complete rows are taken of an array, not of a dict")
        whole = np.isfinite(self.x).reshape(len(self.x), -1).all(axis=1)
        if whole.all():
            return self
        says = f"{whole.sum()} complete rows of {len(whole)}"
        labels = None if self.labels is None else self.labels[whole]
        variant = ", ".join(filter(None, [self.variant, says]))
        return replace(self, x=_fixed(self.x[whole]), labels=_fixed(labels), sha256="", variant=variant)

    def standardised(self) -> "Dataset":
        """Each column of an array made of mean 0 and standard deviation (divisor N) 1; both are recorded."""
        if isinstance(self.x, dict) or self.standardized:
            said = "of a dict" if isinstance(self.x, dict) else "a second time"
            raise ValueError(f"data set {self.name}: columns are not standardised {said}")
        means, sds = self.x.mean(axis=0), self.x.std(axis=0)
        recorded = zip(self.columns, np.ravel(means).tolist(), np.ravel(sds).tolist(), strict=True)
        standardized = {name: (mean, sd) for name, mean, sd in recorded}
        for name, (_, sd) in standardized.items():
            if not sd > 0:
                raise ValueError(f"data set {self.name}: column {name!r} cannot be standardised: its sd is {sd:g}")
        x = _fixed((self.x - means) / sds)
        return replace(self, x=x, units="standardised", standardized=standardized, sha256="")


def checksum(x) -> str:
    """SHA-256 of the little-endian float64 bytes of `x` (dict entries in the order of their names)."""
    digest = hashlib.sha256()
    for name, leaf in _leaves(x):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(leaf), dtype="<f8").tobytes())
    return digest.hexdigest()


def _leaves(x, prefix=""):
    """(name, array) of every array in `x`, in the order of the names; those of an inner dict are "name.key"."""
    if not isinstance(x, dict):
        return [(prefix, x)]
    inner = {f"{prefix}.{name}" if prefix else name: leaf for name, leaf in x.items()}
    return [pair for name in sorted(inner) for pair in _leaves(inner[name], name)]


# -- shipped data ---------------------------------------------------------------------------------------------------


@functools.cache
def provenance() -> dict[str, dict[str, str]]:
    """name -> what is recorded of a shipped data set: the rows of PROVENANCE.csv, cells as text."""
    with (FOLDER / "PROVENANCE.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def shipped(name: str, columns: tuple[str, ...] | None = None) -> Dataset:
    """A shipped data set: x is (N,) for one column, (N, D) for several; cached, the arrays are read-only.

    `columns` names those to take, in this order (default: the features of PROVENANCE.csv); names are in lower case.
    A text column is coded 0, 1, ... in alphabetical order, `categories` keeps the words. Missing values are NaN.
    A table of frequencies has a row per unit. The published classes are `labels`. Raises ValueError for an unknown
    name or column, and for a file whose checksum is not the recorded one.
    """
    if name not in provenance():
        raise ValueError(f"no data set named {name!r}: {nearest(name, provenance())}")
    if isinstance(columns, str):
        raise ValueError(f"columns should be a tuple of names, got the string {columns!r}; write ({columns!r},)")
    return _shipped(name, None if columns is None else tuple(columns))


@functools.cache
def _shipped(name: str, columns: tuple[str, ...] | None) -> Dataset:
    recorded = provenance()[name]
    table, categories = _table(recorded)
    chosen = columns if columns is not None else tuple(recorded["features"].split())
    if not chosen:
        raise ValueError(f"data set {name}: columns is empty; name at least one of {', '.join(table)}")
    for column in chosen:
        if column not in table:
            raise ValueError(f"data set {name} has no column {column!r}: {nearest(column, table)}")
    label = recorded["labels"]
    arrays = [table[column] for column in chosen]
    return Dataset(
        name=name,
        x=_fixed(arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)),
        feature_names=chosen,
        units=_units(recorded["units"], chosen, categories),
        labels=_fixed(table[label].astype(np.int32)) if label else None,
        source=recorded["origin"],
        licence=recorded["licence"],
        variant=recorded["variant"],
        categories={column: words for column, words in categories.items() if column in (*chosen, label)},
    )


def _table(recorded) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Column -> float64 values (N,), a row per unit, and the words of the coded columns; the checksum is verified."""
    path = FOLDER / recorded["file"]
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != recorded["sha256"]:
        raise ValueError(f"{path.name} has changed: its SHA-256 is {found}, the recorded one is {recorded['sha256']}")
    header, *rows = csv.reader(content.decode().splitlines())
    table, categories = {}, {}
    for column, cells in zip(header, zip(*rows, strict=True), strict=True):
        table[column.lower()], words = tables.coded(cells, column.lower() == recorded["labels"])
        if words:
            categories[column.lower()] = words
    if recorded["frequency"]:
        times = table.pop(recorded["frequency"]).astype(int)
        table = {column: np.repeat(values, times) for column, values in table.items()}
    return table, categories


def _units(recorded: str, columns, categories) -> str:
    """The units of `columns`: one for all, or "column: unit; ...; others: unit", which is how they are recorded."""
    named = dict(part.split(": ", 1) for part in recorded.split("; ")) if ": " in recorded else {"others": recorded}
    units = {
        column: "code" if column in categories else named.get(column, named.get("others", "not stated"))
        for column in columns
    }
    if len(set(units.values())) == 1:
        return units[columns[0]]
    own = {column: unit for column, unit in units.items() if column in categories or column in named}
    if len(own) < len(units):
        own["others"] = named.get("others", "not stated")
    return "; ".join(f"{column}: {unit}" for column, unit in own.items())


def _fixed(array):
    """The array, read-only: it is cached, and nobody may change it under another's feet."""
    if array is not None:
        array.setflags(write=False)
    return array


# -- a user's file --------------------------------------------------------------------------------------------------


def read(path: str | pathlib.Path, columns: tuple[str, ...] = (), num_features: int = 1, **options) -> Dataset:
    """A user's CSV, Parquet or npz file as a Dataset (`zoo.tables.read`); options and errors as of `of_table`."""
    path = pathlib.Path(path)
    where = str(path)
    return of_table(tables.read(path), path.stem, columns, num_features, where=where, source=path.name, **options)


def of_table(
    table: tables.Table,
    name: str,
    columns: tuple[str, ...] = (),
    num_features: int = 1,
    *,
    model: str = "the model",
    names: tuple[str, ...] = (),
    keys: dict[str, tuple[int, ...]] | None = None,
    frequency: str | None = None,
    standardize: bool | None = None,
    scales: dict[str, tuple[float, float]] | None = None,
    missing: bool = False,
    words: dict[str, tuple[str, ...]] | None = None,
    units: str = "",
    where: str = "the table",
    source: str = "",
) -> Dataset:
    """Columns as a Dataset of shape (N,), or (N, D) for several features, or a dict of such.

    `columns` names those to take, in this order; without it they are `names`, the features that the model's own data
    have, where the table has them all (in any order, in capitals or not), else all there are. `keys` asks for a dict:
    key -> shape of one row, taken from the column "key" or the columns "key[0]", "key[1]", ..., or from `columns`
    given in that order. `frequency` is a column that says how often to repeat each row. `scales`: column -> mean and sd
    that the model's own data were standardised by, which are taken out of the columns of these names. `standardize`
    True makes each column's mean 0 and its standard deviation (divisor N) 1 instead; False leaves columns as they are.
    What was taken out is recorded. `missing` keeps missing entries, as NaN. `words`: key -> words of its categories,
    which stand for 0, 1, ....
    Raises ValueError with one sentence for an unknown column, the wrong number of columns, entries that are not finite
    numbers, and an array whose columns are not those of `scales`.
    """
    if frequency is not None:
        table = _repeated(table, frequency, where)
    if keys is not None:
        wanted = {key: tuple(tables.of_arrays({key: np.empty((1, *shape))})) for key, shape in keys.items()}
        under = tuple(column for own in wanted.values() for column in own)
        chosen = tuple(columns) or under
        if len(chosen) != len(under):
            raise ValueError(f"{len(chosen)} columns are named ({', '.join(chosen)}); {model} takes {', '.join(under)}")
    else:
        under = chosen = tuple(columns) or _by_name(table, names) or tuple(table)
    twice = next((column for column in chosen if chosen.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"column {twice!r} is asked for twice; name each column once")
    for column in chosen:
        if column not in table:
            needs = f"; {model} needs {', '.join(under)}, or --column with others in that order" if keys else ""
            raise ValueError(f"{where} has no column {column!r}: {nearest(column, table)}{needs}")
    if keys is None and len(chosen) != num_features:
        raise ValueError(
            f"{where} has {len(chosen)} columns ({', '.join(chosen)}) but the model takes {num_features}; "
            f"choose with --column NAME, or x[[...]] of a DataFrame"
        )
    words = words or {}
    values = {
        new: tables.column(table, old, where, missing, words.get(new, ()))
        for new, old in zip(under, chosen, strict=True)
    }
    standardized: dict[str, tuple[float, float]] = {}
    if scales and standardize is None:
        expected = names if keys is None else under
        own = {column.lower(): pair for column, pair in scales.items()}
        standardized = {new: own[old.lower()] for new, old in zip(under, chosen, strict=True) if old.lower() in own}
        made = {column: (values[column] - mean) / sd for column, (mean, sd) in standardized.items()}
        already = _looks_standard(values[column] for column in made) and not _looks_standard(made.values())
        if already or [column.lower() for column in chosen] != [column.lower() for column in expected]:
            are = f"{', '.join(chosen)}" + " with means near 0 and sds near 1 already" * already
            raise ValueError(
                f"{where}: the priors of {model} are for standardised columns, {', '.join(expected)} in this order, "
                f"and these are {are}; give raw ones of those names to have the same mean and sd taken out, or say "
                "--standardize (by their own), or --no-standardize (as they are; from Python, give an array)"
            )
        values |= made
    if standardize:
        for column, array in values.items():
            if array.min() == array.max():
                raise ValueError(f"{where}: column {column!r} is {array[0]:g} in every row: it cannot be standardised")
            mean, sd = float(array.mean()), float(array.std())
            values[column], standardized[column] = (array - mean) / sd, (mean, sd)
    if keys is not None:
        x: Any = {key: _joined([values[c] for c in own], keys[key]) for key, own in wanted.items()}
    else:
        x = _joined([values[column] for column in chosen], (num_features,) if num_features > 1 else ())
    return Dataset(
        name=name,
        x=x,
        feature_names=() if keys is not None else chosen,
        units=", from ".join(filter(None, ("standardised", units))) if standardized else units,
        source=source,
        variant=f"{PER_UNIT}{frequency}" if frequency is not None else "",
        standardized=standardized,
    )


def _looks_standard(columns) -> bool:
    """Whether every column has about the mean 0 and the standard deviation 1."""
    return all(abs(np.nanmean(column)) < 0.5 and 0.5 < np.nanstd(column) < 2 for column in columns)


def _by_name(table, names) -> tuple[str, ...] | None:
    """The table's columns that are called `names`, in that order; None where one is missing or called so twice."""
    lower = [column.lower() for column in table]
    if not names or any(lower.count(name.lower()) != 1 for name in names):
        return None
    every = list(table)
    return tuple(every[lower.index(name.lower())] for name in names)


def _joined(arrays, shape):
    return np.stack(arrays, axis=1).reshape(len(arrays[0]), *shape) if shape else arrays[0]


def _repeated(table, frequency, where) -> tables.Table:
    if frequency not in table:
        raise ValueError(f"{where} has no column {frequency!r}: {nearest(frequency, table)}")
    times = tables.column(table, frequency, where)
    bad = np.flatnonzero((times < 0) | (times != np.floor(times)))
    if len(bad):
        raise ValueError(
            f"{where}: column {frequency!r}, data row {bad[0] + 1} is {times[bad[0]]:g}; a frequency is 0, 1, 2, ..."
        )
    left = {column: cells for column, cells in table.items() if column != frequency}
    rows = np.repeat(np.arange(len(times)), times.astype(int))
    repeated = {c: [cells[n] for n in rows] if isinstance(cells, list) else cells[rows] for c, cells in left.items()}
    if not repeated or not times.sum():
        raise ValueError(f"{where} has nothing left to count: every frequency is 0, or there is no other column")
    return repeated
