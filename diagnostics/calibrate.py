"""The table of proofs: ratio tests, joint tests and simulation-based calibration, models x back ends."""

import collections
import concurrent.futures
import functools
import inspect
import multiprocessing
import pathlib
import platform
import subprocess
import time
import zlib
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

import inference
import zoo
from diagnostics import calibration, sbc
from diagnostics.cli import hush, prepare
from diagnostics.rows import finite

LEVEL = 0.01  # familywise, of each of the tables
RATIO = 1e-12  # largest error of a conjugate conditional that is rounding
AGAIN = 4  # a cell that fails calibration gets so many times the data sets, with a new seed

UNKNOWN = "galaxy_finite_mixtures"  # its number of components is a parameter
DATASETS = 200  # of the calibration, and
MANY = {"bento": 1000, "coffee": 1000, UNKNOWN: 1000}  # ... of some models at their wide constants
QUICK = 10  # `quick` divides the replicates of joint tests by it,
QUICK_DATASETS = 40  # and simulates so many data sets


class Row(NamedTuple):
    """One back end on one model."""

    model: str
    backend: str
    kind: str
    joint: Any = None  # JointTest, or None where the back end has no kernel
    sbc: Any = None  # Calibration, or None of a further kernel of its back end, or of a model whose kernels alone count
    failed: str = ""  # the error, where it stopped
    seconds: float = 0.0
    commit: str = ""  # of the code that measured it; empty outside a git checkout, and of rows from before it was kept

    def at(self, joint_level, sbc_level) -> "Row":
        """The same figures against other bounds."""
        return self._replace(
            joint=self.joint and self.joint._replace(level=joint_level),
            sbc=self.sbc and self.sbc._replace(level=sbc_level),
        )

    @property
    def ok(self) -> bool:
        """Nothing disproves it. An approximation is expected to fail calibration."""
        calibrated = self.sbc is None or self.sbc.verdict != "FAILED" or self.kind == "approximate"
        return not self.failed and calibrated and (self.joint is None or self.joint.passed)


class Table(NamedTuple):
    """What was tested. `ratios`: model -> site -> error."""

    ratios: dict[str, dict[str, float]]
    rows: list[Row]
    seed: int
    quick: bool
    num_cells: int  # rows when all is done

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows) and all(self.ratio_ok(name) for name in self.ratios)

    def ratio_ok(self, name) -> bool:
        return all(error < RATIO for error in self.ratios[name].values())


def ranked_models() -> list:
    """The named models at their wide constants, bento with weights that tell its labels apart, and UNKNOWN."""
    apart = calibration.wide("bento", weights=(0.7, 0.3))
    return [*map(calibration.wide, calibration.NAMED), apart, calibration.wide(UNKNOWN)]


def other_models() -> list:
    """Every other model of the zoo at its wide constants: their kernels have joint tests, and no back end is ranked."""
    return [calibration.wide(name) for name in zoo.MODELS if name not in (*calibration.NAMED, UNKNOWN)]


def _many(model) -> int:
    """Data sets of a model's calibration."""
    name = model.name.partition("[")[0]
    return MANY[name] if name in MANY and model.name == calibration.wide(name).name else DATASETS


def served(model) -> dict[str, str | None]:
    """back end -> None, or the sentence why it refuses the model; those that return draws, not points."""
    x = calibration.example(model, 10)
    return {name: inference.BACKENDS[name].refuses(model, x) for name in inference.BACKENDS if returns_draws(name)}


def returns_draws(backend) -> bool:
    """Whether what it returns can be ranked among."""
    settings = inspect.signature(inference.BACKENDS[backend].run).parameters
    return inference.TABLE[backend][1] != "point" and not {"num_draws", "num_particles"}.isdisjoint(settings)


class Cell(NamedTuple):
    """What a row is to be measured of, and how."""

    backend: str
    label: str  # of a move beside the back end's default
    ranked: bool
    seed: int
    quick: bool
    num_datasets: int
    joint_level: float
    sbc_level: float
    commit: str


def calibrate(
    models,
    backends=None,
    seed=0,
    quick=False,
    num_datasets=None,
    progress=None,
    on_row=None,
    kept=(),
    joint_only=(),
    processes=1,
) -> Table:
    """The table for `models` and `backends` (default: all that serve each); joint tests alone of models `joint_only`.

    As it runs progress(cell, done, total), and after each row on_row(table so far, the kept rows to come included).
    `kept` are rows of an earlier table with this seed: their cells are not run again, whatever their number of data
    sets, which the row shows. Bounds are those of the whole table, whatever `backends`. More `processes` measure cells
    side by side, the figures the same; models are then those of `ranked_models` and `other_models`.
    """
    cells = [
        (model, name, label, ranked and not label)
        for ranked, each in ((True, models), (False, joint_only))
        for model in each
        for name, reason in served(model).items()
        if reason is None and (ranked or calibration.has_kernel(name))
        for label in ("", *calibration.MOVES.get(name, {}))
    ]
    each_joint = LEVEL / max(sum(calibration.has_kernel(name) for _, name, _, _ in cells), 1)
    each_ranked = LEVEL / max(sum(sbc.num_quantities(model) for model, _, _, ranked in cells if ranked), 1)
    earlier = {(row.model, row.backend): row.at(each_joint, each_ranked) for row in kept}
    chosen = [c for c in cells if backends is None or c[1] in backends or (c[0].name, c[1] + c[2]) in earlier]
    ratios = {model.name: calibration.ratio_test(model, jax.random.key(seed)) for model in (*models, *joint_only)}
    source = commit()  # before anything is written
    datasets = lambda model: num_datasets or (QUICK_DATASETS if quick else _many(model))
    todo = [
        (model, Cell(name, label, ranked, seed, quick, datasets(model), each_joint, each_ranked, source))
        for model, name, label, ranked in chosen
        if (model.name, name + label) not in earlier
    ]
    known, found = {name: errors for name, errors in ratios.items() if errors}, dict(earlier)

    def table():
        places = [(model.name, name + label) for model, name, label, _ in chosen]
        return Table(known, [found[place] for place in places if place in found], seed, quick, len(chosen))

    for row in _one_by_one(todo, progress) if processes == 1 else _side_by_side(todo, processes, progress):
        found[row.model, row.backend] = row
        if on_row is not None:  # an interruption loses no earlier row
            on_row(table())
    return table()


def _one_by_one(todo, progress):
    last = None
    for model, cell in todo:
        if model is not last:  # programs of one model serve no other, and hundreds of them fill the memory
            calibration.forget_programs()
            last = model
        named = f"{model.name} {cell.backend}"
        yield _measured(model, cell, progress and (lambda done, total, named=named: progress(named, done, total)))


def _side_by_side(todo, processes, progress):
    """Rows as they end, from processes that each declare the models for themselves."""
    precision = "float64" if jax.config.jax_enable_x64 else "float32"
    how = dict(mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(precision,))
    with concurrent.futures.ProcessPoolExecutor(processes, **how) as pool:
        try:
            futures = [pool.submit(_measured_by_name, model.name, cell) for model, cell in todo]
            for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                row = future.result()
                if progress is not None:
                    progress("cells", done, len(todo))
                yield row
        except concurrent.futures.BrokenExecutor:
            raise ValueError(
                "a process ended in the middle of a cell, killed or out of memory; the table of --out has the rows "
                "before it: go on with --resume, and fewer --processes"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(precision):
    prepare(precision)
    hush()


@functools.lru_cache(1)
def _by_name(name):
    calibration.forget_programs()
    return next(model for model in (*ranked_models(), *other_models()) if model.name == name)


def _measured_by_name(name, cell) -> Row:
    return _measured(_by_name(name), cell, None)


def _measured(model, cell, progress) -> Row:
    began = time.perf_counter()
    row = Row(model.name, cell.backend + cell.label, inference.TABLE[cell.backend][1], commit=cell.commit)
    try:
        if calibration.has_kernel(cell.backend):
            row = row._replace(joint=_joint(model, cell))
        if cell.ranked:
            row = row._replace(sbc=_calibrated(model, cell, progress))
    except Exception as error:  # the rest of the table stands
        row = row._replace(failed=" ".join(f"{type(error).__name__}: {error}".split()))
    return row._replace(seconds=time.perf_counter() - began)


def _joint(model, cell):
    name = cell.backend + cell.label
    kernel = calibration.kernels(model, [cell.backend])[name]
    replicates, steps = calibration.SIZES.get(name, calibration.SIZES.get(cell.backend, (20_000, 5)))
    how = dict(num_replicates=replicates // QUICK if cell.quick else replicates, num_steps=steps)
    key = jax.random.fold_in(jax.random.key(cell.seed), zlib.crc32(f"{model.name} {name}".encode()))
    return calibration.joint_test(model, kernel, key, level=cell.joint_level, **how)


def _calibrated(model, cell, progress):
    """Once; where that fails, once more with a new seed and more data sets, which decide."""
    how = dict(level=cell.sbc_level, progress=progress)
    first = sbc.sbc(model, cell.backend, cell.seed, num_datasets=cell.num_datasets, **how)
    if first.verdict != "FAILED" or first.uniform or inference.TABLE[cell.backend][1] == "approximate":
        return first
    return sbc.sbc(model, cell.backend, cell.seed + 1, num_datasets=AGAIN * cell.num_datasets, **how)


# -- what is shown -----------------------------------------------------------------------------------------------------

COLUMNS = ("model", "back end", "joint test: largest z (allowed)", "SBC: least p (allowed)", "data sets (dropped)")


NOTES = """\
- **Joint test** of every kernel, adaptation off; names in brackets are moves beside a back end's default. {joint:,}
  exact draws of parameters, assignments and 8 observations ({others}), a few steps of the kernel, paired
  differences of functionals: z of the worst. The bound is familywise .01 over the table. A kernel that does not move
  fails.
- **SBC** of every back end whole, on the first models: simulated data sets of 10 observations, the generating value
  of each quantity ranked among {ranked} draws: the smallest exact p-value of the ranks' empirical distribution
  function. The bound is Bonferroni's at .01 over the table. A failing cell is run once more with a new seed and {again}
  times the data sets, which decide. *Not established*: more than 2 percent of the data sets were dropped, because
  chains had not mixed or weights had collapsed, or the thinned draws stayed correlated (not looked at where they are
  weighted).
- **Ratio test** of every conjugate conditional against the joint density: largest relative error.
- Models have constants at which 8 observations and the prior weigh alike: they are in the names.
- Approximations are expected to fail SBC, and the table says so. Points and grids have no draws to rank.
"""


def cells_of(row: Row) -> tuple[str, ...]:
    """A row as texts under COLUMNS."""
    joint, ranks = row.joint, row.sbc
    shown = [row.model, row.backend, "", "", ""]
    if joint is not None:
        shown[2] = f"{'passed' if joint.passed else 'FAILED'}, {abs(joint.worst[1]):.1f} ({joint.threshold:.1f})"
        shown[2] += f", still: {', '.join(joint.stuck)}" if joint.stuck else ""
    if ranks is not None:
        approximate = row.kind == "approximate" and ranks.verdict == "FAILED"
        verdict = "fails, as an approximation may" if approximate else ranks.verdict
        shown[3] = f"{verdict}, {ranks.worst[1]:.2g} ({ranks.level:.1g})"
        shown[4] = f"{ranks.num_simulated} ({ranks.num_dropped})"
    if row.failed:
        shown[3] = f"FAILED: {row.failed}"
    return tuple(shown)


def versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "genjax", "numpyro", "numpy"))
    return f"mixture-zoo {zoo.__version__}, Python {platform.python_version()}, {packages}"


def commit() -> str:
    """The commit of the running code, "-dirty" behind it where files differ; empty outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = pathlib.Path(zoo.__file__).parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def markdown(table: Table, command: str) -> str:
    """The table as a page, with what made it."""
    share = QUICK if table.quick else 1
    others = ", ".join(f"{name}: {size // share:,}" for name, (size, _) in calibration.SIZES.items() if size < 20_000)
    row_of = lambda texts: f"| {' | '.join(texts)} |"
    lines = [
        "# Proof of the samplers",
        "",
        f"Made by `{command}` in {table.seconds / 60:.0f} minutes; seed {table.seed}; {versions()}.",
        _commits(table.rows),
        *([f"Unfinished: {len(table.rows)} of {table.num_cells} cells."] if len(table.rows) < table.num_cells else []),
        "",
        NOTES.format(joint=20_000 // share, others=others, ranked=sbc.NUM_RANKED, again=AGAIN),
        row_of(COLUMNS),
        row_of(["---"] * len(COLUMNS)),
        *(row_of(cells_of(row)) for row in table.rows),
        "",
        "| model | site | ratio test: largest error |",
        "| --- | --- | --- |",
        *(row_of((name, site, f"{e:.1e}")) for name, found in table.ratios.items() for site, e in found.items()),
    ]
    return "\n".join(lines) + "\n"


def _commits(rows) -> str:
    """Which code measured how many rows."""
    counted = collections.Counter(row.commit or "one before commits were kept" for row in rows)
    return f"Rows by commit: {', '.join(f'{name} ({count})' for name, count in counted.items())}."


def as_json(table: Table) -> dict:
    """The table as one JSON document; null is a number that is not finite."""

    def one(row):
        found: dict[str, Any] = {"model": row.model, "backend": row.backend, "kind": row.kind, "ok": row.ok}
        found |= {"seconds": row.seconds, "failed": row.failed, "commit": row.commit}
        if row.joint is not None:
            z = dict(zip(row.joint.names, map(finite, row.joint.z), strict=True))
            found["joint"] = {"passed": row.joint.passed, "threshold": row.joint.threshold, "level": row.joint.level}
            found["joint"] |= {"z": z, "moved": row.joint.moved, "num_replicates": row.joint.num_replicates}
        if row.sbc is not None:
            p = dict(zip(row.sbc.names, map(float, row.sbc.p), strict=True))
            found["sbc"] = {"verdict": row.sbc.verdict, "level": row.sbc.level, "p": p}
            found["sbc"] |= {"num_datasets": row.sbc.num_simulated, "num_dropped": row.sbc.num_dropped}
            found["sbc"] |= {name: finite(getattr(row.sbc, name)) for name in ("autocorrelation", "conjugacy_error")}
        return found

    return {
        "schema": 1,
        "seed": table.seed,
        "quick": table.quick,
        "seconds": table.seconds,
        "versions": versions(),
        "ok": table.ok,
        "ratios": {name: {site: finite(e) for site, e in found.items()} for name, found in table.ratios.items()},
        "rows": [one(row) for row in table.rows],
    }


def rows_of(document: dict) -> list[Row]:
    """The rows of `as_json`, those that failed left out; the ranks themselves are not in it."""
    beyond = lambda value: np.inf if value is None else value

    def one(row):
        joint, ranked = row.get("joint"), row.get("sbc")
        if joint is not None:
            z = np.array([beyond(v) for v in joint["z"].values()])
            joint = calibration.JointTest(tuple(joint["z"]), z, joint["moved"], joint["num_replicates"], joint["level"])
        if ranked is not None:
            p = np.array(list(ranked["p"].values()))
            errors = beyond(ranked["autocorrelation"]), beyond(ranked["conjugacy_error"])
            sizes = ranked["num_datasets"], ranked["num_dropped"], *errors
            ranked = sbc.Calibration(tuple(ranked["p"]), p, np.zeros((0, len(p)), int), *sizes, ranked["level"])
        about = row["model"], row["backend"], row["kind"]
        return Row(*about, joint, ranked, "", row["seconds"], row.get("commit", ""))

    return [one(row) for row in document["rows"] if not row["failed"]]
