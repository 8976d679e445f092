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

from zoo import nearest

FOLDER = pathlib.Path(__file__).with_name("data")
MISSING = {"", "na", "n/a", "nan", "null", "none"}


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

    def __post_init__(self):
        found = checksum(self.x)
        if self.sha256 and self.sha256 != found:
            raise ValueError(
                f"data set {self.name}: checksum {found} is not the recorded {self.sha256}; it has changed"
            )
        object.__setattr__(self, "sha256", found)

    @property
    def num_observations(self) -> int:
        x = next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        return len(x)

    @property
    def num_features(self) -> int:
        leaves = [v for k, v in self.x.items() if k != "covariates"] if isinstance(self.x, dict) else [self.x]
        return sum(1 if np.ndim(leaf) == 1 else np.shape(leaf)[1] for leaf in leaves)

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


def checksum(x) -> str:
    """SHA-256 of the little-endian float64 bytes of `x` (dict entries in the order of their names)."""
    digest = hashlib.sha256()
    leaves = x.items() if isinstance(x, dict) else [("", x)]
    for name, leaf in sorted(leaves, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(leaf), dtype="<f8").tobytes())
    return digest.hexdigest()


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
        table[column.lower()], words = _coded(cells, column.lower() == recorded["labels"])
        if words:
            categories[column.lower()] = words
    if recorded["frequency"]:
        times = table.pop(recorded["frequency"]).astype(int)
        table = {column: np.repeat(values, times) for column, values in table.items()}
    return table, categories


def _coded(cells, classes=False) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as float64: numbers as they are, words (and classes) as codes in alphabetical order; and the words."""
    values = [_number(cell) for cell in cells]
    if not classes and None not in values:
        return np.array(values), ()
    words = tuple(sorted({cell for cell in cells if cell.strip().lower() not in MISSING}))
    codes = {word: float(code) for code, word in enumerate(words)}
    return np.array([codes.get(cell, np.nan) for cell in cells]), words


def _units(recorded: str, columns, categories) -> str:
    """The units of `columns`: one for all, or "column: unit; ...; others: unit", which is how they are recorded."""
    named = dict(part.split(": ", 1) for part in recorded.split("; ")) if ": " in recorded else {"others": recorded}
    units = {column: "code" if column in categories else named.get(column, named.get("others", "not stated")) for column in columns}
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


def read(path: str | pathlib.Path, columns: tuple[str, ...] = (), num_features: int = 1) -> Dataset:
    """A user's CSV file as a Dataset of shape (N,), or (N, D) for several features.

    `columns` names the columns to take (default: all). A file without a header row is read too, its columns
    being "1", "2", ... Raises ValueError with one sentence for a file that is missing, empty, has no rows, the
    wrong number of columns, or entries that are not finite numbers.
    """
    path = pathlib.Path(path)
    rows = _csv_rows(path)
    header = [cell.strip() for cell in rows[0]]
    if all(_number(cell) is not None for cell in header):
        header = [str(i + 1) for i in range(len(header))]
    else:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} has a header but no rows of data; give at least one observation")
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise ValueError(f"{path}: data row {ragged + 1} has {len(rows[ragged])} fields, the header has {len(header)}")
    chosen = list(columns) or header
    for name in chosen:
        if name not in header:
            raise ValueError(f"{path} has no column {name!r}; its columns are {', '.join(header)}")
    if len(chosen) != num_features:
        raise ValueError(
            f"{path} has {len(chosen)} columns ({', '.join(chosen)}) but the model takes {num_features}; "
            f"choose with --column NAME"
        )
    table = np.empty((len(rows), len(chosen)))
    for j, name in enumerate(chosen):
        i = header.index(name)
        for n, row in enumerate(rows):
            value = _number(row[i])
            if value is None:
                raise ValueError(f"{path}: column {name!r}, data row {n + 1} is {row[i]!r}, not a number")
            if not np.isfinite(value):
                raise ValueError(f"{path}: column {name!r}, data row {n + 1} is {row[i]!r}; remove or impute it")
            table[n, j] = value
    return Dataset(
        name=path.stem,
        x=table[:, 0] if num_features == 1 else table,
        feature_names=tuple(chosen),
        source=str(path.name),
    )


def _csv_rows(path):
    try:
        if not path.exists():
            raise ValueError(f"no data file {path}; give the path of a CSV file")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the path of a CSV file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path} is empty; give a CSV file with one observation per row")
    return rows


def _number(cell: str) -> float | None:
    text = cell.strip()
    if text.lower() in MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return None
