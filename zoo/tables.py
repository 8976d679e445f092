"""Tables, column name -> one value per row: read from files, pandas objects and arrays. pandas is for Parquet alone.

An array (N,) called x is the column "x"; an array (N, D) is the columns "x[0]", ..., "x[D-1]".
"""

import csv
import pathlib
from typing import Any

import numpy as np

MISSING = {"", "na", "n/a", "nan", "null", "none"}
Table = dict[str, Any]  # name -> list of cells as text, or an array (N,)


def read(path: pathlib.Path) -> Table:
    """The columns of a CSV, Parquet (.parquet, .pq) or NumPy (.npz, .npy) file.

    A CSV file without a header has the columns "1", "2", .... Raises ValueError with one sentence for a file that is
    missing, cannot be read, has no rows, or rows of different lengths.
    """
    kind = path.suffix.lower()
    try:
        if not path.exists():
            raise ValueError(f"no data file {path}; give the path of a CSV, Parquet or npz file")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the path of a CSV, Parquet or npz file")
        if kind in (".parquet", ".pq"):
            table = _parquet(path)
        elif kind in (".npz", ".npy"):
            table = _numpy(path)
        else:
            table = _csv(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not table or not all(map(len, table.values())):
        raise ValueError(f"{path} has a header but no rows of data; give at least one observation")
    return table


def _csv(path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path} is empty; give a CSV file with one observation per row")
    header = [cell.strip() for cell in rows[0]]
    if all(number(cell) is not None for cell in header):
        header = [str(i + 1) for i in range(len(header))]
    else:
        rows = rows[1:]
    twice = next((name for i, name in enumerate(header) if name in header[:i]), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns called {twice!r}; give each its own name")
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise ValueError(f"{path}: data row {ragged + 1} has {len(rows[ragged])} fields, the header has {len(header)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _parquet(path) -> Table:
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        says = _first_line(error)
        raise ValueError(f"{path}: Parquet is read by pyarrow ({says}): pip install 'mixture-zoo[data]'") from None
    try:
        return of_frame(pd.read_parquet(path, engine="pyarrow"))
    except OSError:
        raise
    except Exception as error:  # pyarrow's own kinds of errors
        raise ValueError(f"{path} cannot be read as Parquet: {_first_line(error)}") from None


def _numpy(path) -> Table:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a NumPy file: {_first_line(error)}") from None
    except Exception as error:  # zipfile.BadZipFile and its like
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} cannot be read as a NumPy file: {_first_line(error)}") from None
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: its arrays should have one length N, got {lengths}")
    return of_arrays(arrays)


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_frame(x) -> bool:
    """Whether `x` is a pandas DataFrame or Series, without importing pandas."""
    return type(x).__module__.partition(".")[0] == "pandas" and hasattr(x, "to_numpy")


def of_frame(frame) -> Table:
    """The columns of a pandas DataFrame or Series: numbers as arrays, anything else as cells of text."""
    frame = frame.to_frame(name="x" if frame.name is None else frame.name) if frame.ndim == 1 else frame
    table = {}
    for i, name in enumerate(map(str, frame.columns)):
        column = frame.iloc[:, i]
        if name in table:
            raise ValueError(f"the table has two columns called {name!r}; give each its own name")
        if column.dtype.kind in "biuf":
            table[name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            table[name] = ["" if gone else str(cell) for cell, gone in zip(column, column.isna(), strict=True)]
    return table


def of_arrays(arrays: dict[str, Any]) -> Table:
    """name -> array (N,) or (N, D), or a dictionary of such, as columns; those of a dictionary are "name.key"."""
    table: Table = {}
    for name, leaf in arrays.items():
        if isinstance(leaf, dict):
            table |= of_arrays({f"{name}.{key}": inner for key, inner in leaf.items()})
        elif np.ndim(leaf) <= 1:
            table[name] = np.atleast_1d(leaf)
        else:
            flat = np.reshape(leaf, (len(leaf), -1))
            table |= {f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return table


def column(table: Table, name: str, where: str, missing: bool = False, words: tuple[str, ...] = ()) -> np.ndarray:
    """A column as finite float64 numbers, with `missing` NaN too, or ValueError; `where` names the table.

    An entry that is no number but one of `words`, in capitals or not, is its place among them.
    """
    cells = table[name]
    code = {word.casefold(): float(place) for place, word in enumerate(words)}
    values = [number(cell, code) for cell in cells] if isinstance(cells, list) else _floats(cells)
    bad = next((n for n, value in enumerate(values) if value is None), None)
    if bad is not None:
        text = sum(value is None for value in values)
        mixed = f"; {text} of {len(values)} are text"
        if words:
            mixed = f" and none of {', '.join(words)}"
        elif text == len(values):
            mixed = "; all its entries are text, write codes 0, 1, ..."
        raise ValueError(f"{where}: column {name!r}, data row {bad + 1} is {str(cells[bad])!r}, not a number{mixed}")
    array = np.array(values, dtype=np.float64)
    bad = next(iter(np.flatnonzero(~np.isfinite(array) & ~(missing & np.isnan(array)))), None)
    if bad is not None:
        raise ValueError(f"{where}: column {name!r}, data row {bad + 1} is {str(cells[bad])!r}; remove or impute it")
    return array


def _floats(cells) -> list[float | None] | np.ndarray:
    return cells if cells.dtype.kind in "biuf" else [number(str(cell)) for cell in cells]


def number(cell: str, code: dict[str, float] | None = None) -> float | None:
    """The number a cell says, NaN where it says that the value is missing; what `code` has for a word, or None."""
    text = cell.strip()
    if text.lower() in MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return (code or {}).get(text.casefold())


def coded(cells, classes=False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cells as float64: numbers as they are, words (and `classes`) as codes in alphabetical order; and the words."""
    values = [number(cell) for cell in cells]
    if not classes and None not in values:
        return np.array(values), ()
    words = tuple(sorted({cell for cell in cells if cell.strip().lower() not in MISSING}))
    codes = {word: float(code) for code, word in enumerate(words)}
    return np.array([codes.get(cell, np.nan) for cell in cells]), words
