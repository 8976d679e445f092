"""Data with their provenance: arrays, names, units, where they come from, and a checksum."""

import hashlib
import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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


def checksum(x) -> str:
    """SHA-256 of the little-endian float64 bytes of `x` (dict entries in the order of their names)."""
    digest = hashlib.sha256()
    leaves = x.items() if isinstance(x, dict) else [("", x)]
    for name, leaf in sorted(leaves, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(leaf), dtype="<f8").tobytes())
    return digest.hexdigest()


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
    import csv

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
    if text.lower() in {"", "na", "n/a", "null", "none"}:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return None
