"""Back ends on one posterior, each functional held against the best reference there is.

Rows are back end x functional; what a row's numbers mean depends on the back end's kind alone:
mcmc: ESS, R-hat and MCSE by ArviZ; weighted: self-normalised weights, delta-method standard errors, the ESS of the
weights and no R-hat; point: the value at the best admissible restart; exact: numerical error, or the standard error
of independent exact draws.
"""

import dataclasses
import inspect
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

import inference
from diagnostics import verdicts
from diagnostics.functionals import log_likelihoods
from diagnostics.summaries import FEW, ROUNDING, Summary, summarise
from diagnostics.to_arviz import az, to_arviz, versions, write
from zoo import nearest
from zoo.dataset import Dataset, checksum

SCHEMA = 1
COLUMNS = (
    "backend", "functional", "mean", "sd", "mcse", "ess_bulk", "ess_tail", "rhat", "ess_per_second",
    "reference_mean", "reference_sd", "reference_error", "z", "z_sd",
)  # fmt: skip
FLAT = 1e-6  # probabilities and entropies that vary less are called constant


class Value(NamedTuple):
    """What the reference says of one functional."""

    mean: float
    sd: float
    error: float | None  # standard error of the mean, Monte Carlo or numerical; None: not known
    variance_error: float | None = None  # of the variance; None: sqrt(2) sd error, as for normal draws
    square_sd: float | None = None  # of (f - mean)^2 under the reference; None: not known


class Reference(NamedTuple):
    """What the others are held against, and how well it is known itself."""

    kind: str  # "exact", "stored", "long run" or "none"
    source: str  # a back end of this run, or where the stored values come from
    values: dict[str, Value]
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    labellings: dict[tuple[int, ...], float] = {}

    @property
    def label(self) -> str:
        """A few words for it in a sentence."""
        return "the stored reference" if self.kind == "stored" else self.source


@dataclasses.dataclass(eq=False)
class Comparison:
    """What `compare` found. `rows` have the keys COLUMNS, None where a quantity has no meaning."""

    model: Any
    x: Any
    data: dict[str, Any]  # name, sha256, N, D
    seed: int
    settings: dict[str, dict]  # back end -> every setting it ran with
    versions: dict[str, str]
    reference: Reference
    backends: dict[str, dict]  # back end -> status, reason, kind, usable, cost, ..., verdict
    rows: list[dict]
    results: dict[str, Any]  # back end -> Draws, PointMass or Exact
    functionals: dict[str, dict[str, np.ndarray]]  # back end -> functional -> (C, S)
    labellings: dict[str, dict[tuple[int, ...], float]]  # back end or "reference" -> labelling -> posterior mass
    interrupted: bool = False

    def to_dict(self) -> dict:
        """Everything but draws, in strict JSON's types: None instead of NaN and infinities."""
        reference = self.reference
        return _plain(
            {
                "schema": SCHEMA,
                "model": self.model.name,
                "data": self.data,
                "seed": self.seed,
                "settings": self.settings,
                "versions": self.versions,
                "reference": {
                    "kind": reference.kind,
                    "source": reference.source,
                    "log_evidence": reference.log_evidence,
                    "log_evidence_se": reference.log_evidence_se,
                },
                "backends": self.backends,
                "rows": self.rows,
                "labellings": {
                    name: {str(labelling): mass for labelling, mass in masses.items()}
                    for name, masses in self.labellings.items()
                },
            }
        )

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_frame(self):
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def save(self, folder) -> list[pathlib.Path]:
        """Writes comparison.json, comparison.csv and <backend>.nc; the paths written."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "comparison.json", folder / "comparison.csv"]
        paths[0].write_text(self.to_json() + "\n")
        self.to_frame().to_csv(paths[1], index=False)
        for name, result in self.results.items():
            data = to_arviz(result, self.model, self.x, backend=name, settings=self.settings.get(name), seed=self.seed)
            paths.append(write(data, folder / f"{name}.nc"))
        return paths

    def _repr_html_(self) -> str:
        from html import escape

        says = "".join(f"<li><b>{escape(n)}</b>: {escape(b['verdict'])}</li>" for n, b in self.backends.items())
        table = self.to_frame().to_html(index=False, float_format=lambda v: f"{v:.5g}", na_rep="")
        return f"<h3>{escape(self.model.name)}</h3><ul>{says}</ul>{table}"


def compare(model, backends=None, x=None, seed=0, settings=None, reference=None, progress=None) -> Comparison:
    """Runs back ends on p(params, assignments | x) and compares every functional with a reference.

    backends: names, default every default one. settings: keywords of the back ends; a dictionary under a back end's
    name is for it alone, the others go to every back end that takes them. reference: None for the best available
    (quadrature, else enumeration, else a stored one, else none), the name of a back end of this run, a Reference, or
    "none". progress(backend, steps_done, steps_total) is called as they run, (backend, 0, 1) at the start of each and
    (backend, 1, 1) at its end.

    A back end that refuses or fails does not stop the others; Ctrl-C keeps what is done. Raises ValueError for bad
    data, names or settings before anything runs.
    """
    x, data = _data(model, x)
    names = _names(backends)
    plans = plan(names, settings)
    if isinstance(reference, str) and reference != "none" and reference not in names:
        raise ValueError(f"reference {reference!r} is not one of the back ends that run: {', '.join(names)}")
    entries: dict[str, dict] = {}
    results: dict[str, Any] = {}
    interrupted = False
    for name in names:
        if interrupted:
            entries[name] = _entry(name, "failed", "interrupted before it began")
            continue
        if progress is not None:
            progress(name, 0, 1)
        entries[name], result = _run(model, name, x, seed, plans[name], progress)
        if progress is not None:
            progress(name, 1, 1)
        interrupted = entries[name]["reason"] == INTERRUPTED or getattr(result, "interrupted", False)
        if result is not None:
            results[name] = result
    summaries: dict[str, Summary] = {}
    for name, result in list(results.items()):
        try:
            summaries[name] = summarise(result, entries[name]["kind"], model, x)
        except Exception as error:  # a result that cannot be read is a failure of its back end, not of the others
            entries[name] |= {"status": "failed", "reason": _sentence(error), "usable": False}
            del results[name]
    chosen = _reference(reference, results, summaries, entries, model, x)
    rows = [row for name in summaries for row in _rows(name, summaries[name], results[name], chosen)]
    labellings = {name: s.labellings for name, s in summaries.items() if s.labellings}
    if chosen.labellings and labellings:
        labellings["reference"] = dict(chosen.labellings)
    comparison = Comparison(
        model=model,
        x=x,
        data=data,
        seed=seed,
        settings={name: full_settings(name, plans[name]) for name in results},
        versions=versions(),
        reference=chosen,
        backends=entries,
        rows=rows,
        results=results,
        functionals={name: s.values for name, s in summaries.items()},
        labellings=labellings,
        interrupted=interrupted,
    )
    _judge(comparison, summaries)
    return comparison


# -- input --------------------------------------------------------------------------------------------------------


def plan(names, settings) -> dict[str, dict]:
    """back end -> its keyword settings; ValueError for one that no back end takes, or a number that makes no sense."""
    settings = dict(settings or {})
    taken = {name: accepted(name) for name in names}
    own = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for key, value in own.items():
        if key not in names:
            raise ValueError(f"settings for {key!r}, which is not a back end that runs: {nearest(key, names)}")
        for option in value:
            if option not in taken[key]:
                raise ValueError(f"{key} has no setting {option!r}: {nearest(option, taken[key])}")
    common = {key: value for key, value in settings.items() if key not in own}
    every = list(dict.fromkeys(option for options in taken.values() for option in options))
    for option in common:
        if option not in every:
            raise ValueError(f"no back end that runs has a setting {option!r}: {nearest(option, every)}")
    plans = {name: {k: v for k, v in common.items() if k in taken[name]} | own.get(name, {}) for name in names}
    for name, options in plans.items():
        for option, value in options.items():
            _check_count(name, option, value)
    return plans


def accepted(name: str) -> tuple[str, ...]:
    """The settings of a back end; none where it cannot be imported, which its run will report."""
    try:
        return tuple(full_settings(name, {}))
    except ImportError:
        return ()


def full_settings(name: str, given: dict) -> dict:
    """Every setting of a back end by name: those given, else its defaults."""
    parameters = inspect.signature(inference.BACKENDS[name].run).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {key: given.get(key, value) for key, value in defaults.items() if key != "progress"}


def _check_count(name, option, value):
    if not option.startswith("num_"):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: {option} should be a whole number, got {value!r}")
    least = 0 if option == "num_warmup" else 1
    if value < least:
        raise ValueError(f"{name}: {option} should be at least {least}, got {value}")


def _names(backends) -> list[str]:
    if backends is None:
        return [name for name in inference.BACKENDS if inference.TABLE[name][2]]
    names = [backends] if isinstance(backends, str) else list(dict.fromkeys(backends))
    for name in names:
        if name not in inference.TABLE:
            raise ValueError(f"no back end named {name!r}: {nearest(name, inference.TABLE)}")
    if not names:
        raise ValueError(f"no back ends to run: {nearest('', inference.TABLE)}")
    return names


def _data(model, x):
    """Checked observations, and their name, checksum and shape."""
    dataset = x if isinstance(x, Dataset) else model.data
    if x is None and dataset is None:
        raise ValueError(f"{model.name} has no data of its own; give x")
    checked = model.check(dataset.x if x is None or isinstance(x, Dataset) else x)
    sha256 = checksum(checked)
    named = dataset is not None and dataset.sha256 == sha256
    leaves = [v for k, v in checked.items() if k != "covariates"] if isinstance(checked, dict) else [checked]
    return checked, {
        "name": dataset.name if named else "x",
        "sha256": sha256,
        "N": len(leaves[0]),
        "D": sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in leaves),
    }


# -- running ------------------------------------------------------------------------------------------------------

INTERRUPTED = "interrupted"


def _run(model, name, x, seed, settings, progress):
    """One back end: its entry, and its result or None."""
    try:
        reason = inference.BACKENDS[name].refuses(model, x)
        if reason:
            return _entry(name, "refused", reason), None
        if progress is not None and "progress" in inspect.signature(inference.BACKENDS[name].run).parameters:
            settings = {**settings, "progress": lambda done, total: progress(name, done, total)}
        result = inference.fit(model, name, x, seed, **settings)
    except KeyboardInterrupt:
        return _entry(name, "failed", INTERRUPTED), None
    except Exception as error:  # whatever went wrong in one back end, the others' results are kept
        return _entry(name, "failed", _sentence(error)), None
    draws = result.draws if getattr(result, "draws", None) is not None else result
    entry = _entry(name, "ok", None)
    entry["cost"] = result.cost._asdict()
    entry["log_evidence"] = getattr(result, "log_evidence", None)
    entry["log_evidence_se"] = getattr(result, "log_evidence_se", None)
    entry["warnings"] = list(dict.fromkeys([*result.warnings, *draws.warnings]))
    return entry, result


def _entry(name, status, reason):
    return {
        "status": status,
        "reason": reason,
        "kind": inference.TABLE[name][1],
        "usable": False,
        "cost": None,
        "log_evidence": None,
        "log_evidence_se": None,
        "warnings": [],
        "verdict": f"{status}: {reason}",
    }


def _sentence(error) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if not isinstance(error, ValueError | inference.Refused) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 300 else text[:299] + "…"


# -- the reference ------------------------------------------------------------------------------------------------


def _reference(wanted, results, summaries, entries, model, x) -> Reference:
    evidence = _best_evidence(entries)
    if isinstance(wanted, str) and wanted != "none":
        if wanted not in summaries:
            return Reference("none", f"{wanted} gave no result", {}, *evidence)
        kind = "exact" if entries[wanted]["kind"] == "exact" else "long run"
        return _reference_of(wanted, kind, results, summaries, evidence)
    if wanted is not None and wanted != "none":
        return _adopt(wanted, evidence)
    if wanted is None:
        for name in ("quadrature", "enumeration", *summaries):
            if name in summaries and entries[name]["kind"] == "exact":
                return _reference_of(name, "exact", results, summaries, evidence)
        stored = _stored(model, x)
        if stored is not None:
            return _adopt(stored, evidence)
    return Reference("none", "no reference", {}, *evidence)


def _reference_of(name, kind, results, summaries, evidence) -> Reference:
    summary = summaries[name]
    values = {f: _value(v, summary) for f, v in summary.values.items() if np.isfinite(v).all()}
    for other, s in summaries.items():  # nodes have no assignments; independent exact draws of this run may
        if summary.kind == "nodes" and s.kind == "independent" and "occupied" in s.values and "occupied" not in values:
            values["occupied"] = _value(s.values["occupied"], summaries[other])
    if summary.occupied is not None:
        mean, second = summary.occupied
        sd = math.sqrt(max(second - mean**2, 0.0))
        values["occupied"] = Value(mean, sd, ROUNDING * mean, ROUNDING * mean)
    together = getattr(results[name], "co_clustering", None)
    if together is not None:
        together = np.asarray(together)
        for f in [f for f in values if f.startswith("co_clustering[")]:
            i, j = map(int, f[len("co_clustering[") : -1].split(","))
            values[f] = values[f]._replace(mean=float(together[i, j]), error=ROUNDING)
    return Reference(kind, name, values, evidence[0], evidence[1], summary.labellings)


def _value(f, summary) -> Value:
    mean, error, num = summary.estimate(f)
    variance, variance_error, num_variance = summary.estimate((f - mean) ** 2)
    return Value(
        mean,
        _sd(variance, f),
        _finite(error) if num >= FEW else None,
        _finite(variance_error) if num_variance >= FEW else math.nan,
        math.sqrt(max(summary.estimate(((f - mean) ** 2 - variance) ** 2)[0], 0.0)),
    )


def _sd(variance, f) -> float:
    return math.sqrt(max(variance, 0.0)) if np.ptp(f) > 0 else 0.0


def _adopt(stored, evidence) -> Reference:
    """A stored or user's reference: values name -> (mean, sd, error)."""
    values = {name: Value(*value) for name, value in stored.values.items()}
    log_evidence, se = (stored.log_evidence, stored.log_evidence_se) if stored.log_evidence is not None else evidence
    return Reference(stored.kind, stored.source, values, log_evidence, se, dict(getattr(stored, "labellings", {})))


def _stored(model, x):
    try:
        from diagnostics.truth import stored_reference
    except ImportError:
        return None
    return stored_reference(model, x)


def _best_evidence(entries):
    """Log evidence and its error: enumeration's, else another exact back end's. Exact ones that differ are told so."""
    exact = [n for n, e in entries.items() if e["kind"] == "exact" and e["log_evidence"] is not None]
    exact.sort(key=lambda name: name != "enumeration")
    if not exact:
        return None, None
    first = (entries[exact[0]]["log_evidence"], entries[exact[0]]["log_evidence_se"])
    for name in exact[1:]:
        other = (entries[name]["log_evidence"], entries[name]["log_evidence_se"] or 0.0)
        if verdicts.evidence_agrees(other, first) is False:
            text = f"log evidence {first[0]:.10g} by {exact[0]} and {other[0]:.10g} by {name} differ"
            for each in (exact[0], name):
                entries[each]["warnings"].append(text)
    return first


# -- rows ---------------------------------------------------------------------------------------------------------


def _rows(name, summary, result, reference) -> list[dict]:
    return [_row(name, f, v, summary, result.cost.run_seconds, reference) for f, v in summary.values.items()]


def _row(name, functional, f, summary, seconds, reference) -> dict:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"backend": name, "functional": functional}
    value = reference.values.get(functional)
    if value is not None:
        row |= {"reference_mean": value.mean, "reference_sd": value.sd, "reference_error": value.error}
    if not np.isfinite(f).all():
        return row
    row["mean"], error, num = summary.estimate(f)
    if summary.kind == "point":
        return row
    row["sd"] = _sd(summary.estimate((f - row["mean"]) ** 2)[0], f)
    if constant(functional, f) or (summary.kind == "weighted" and summary.weight_ess < verdicts.FEW_ESS):
        return row
    row["mcse"] = _finite(error)
    row |= _effective(f, summary)
    if row["ess_bulk"] is not None and seconds > 0 and summary.kind in ("chains", "weighted"):
        row["ess_per_second"] = row["ess_bulk"] / seconds
    if value is None or row["mcse"] is None or reference.source == name:
        return row
    if num >= FEW and value.error is not None:
        row["z"] = _z(row["mean"] - value.mean, row["mcse"], value.error)
        squares = (f - value.mean) ** 2
        second, second_error, num = summary.estimate(squares)
        if summary.kind == "chains" and value.square_sd is not None:
            # draws that miss a long tail understate their own error: it is at least that under the reference
            second_error = max(second_error, value.square_sd / math.sqrt(float(az.ess(squares))))
        spread = value.variance_error if value.variance_error is not None else math.sqrt(2) * value.sd * value.error
        if num >= FEW and value.sd > 0:
            row["z_sd"] = _z(second - value.sd**2, second_error, spread)
    return row


def constant(functional: str, f) -> bool:
    """Whether all draws are equal: to rounding, or to 1e-6 for probabilities, entropies and counts."""
    flat = FLAT if functional.startswith(("co_clustering", "entropy", "occupied")) else 0.0
    return float(np.ptp(f)) <= max(flat, ROUNDING * (1 + abs(float(np.mean(f)))))


def _effective(f, summary) -> dict:
    """ESS and R-hat: ArviZ's for chains, the weights' for weighted draws, none for independent draws."""
    if summary.kind == "weighted":
        return {"ess_bulk": summary.weight_ess}
    if summary.kind != "chains" or f.shape[1] < 4:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never move: R-hat is infinite, which is null
        found = {"ess_bulk": _finite(az.ess(f)), "ess_tail": _finite(az.ess(f, method="tail"))}
        if f.shape[0] > 1:
            found["rhat"] = _finite(az.rhat(f))
    return found


def _z(difference, *errors):
    se = math.sqrt(sum(e**2 for e in errors))
    return _finite(difference / se) if se > 0 else None


def _finite(value):
    return float(value) if value is not None and math.isfinite(value) else None


# -- verdicts -----------------------------------------------------------------------------------------------------


def _judge(comparison: Comparison, summaries):
    """Fills in `usable` and `verdict` of every back end that ran, and warns of rows that are not finite."""
    reference = comparison.reference
    for name, summary in summaries.items():
        entry, result = comparison.backends[name], comparison.results[name]
        rows = [row for row in comparison.rows if row["backend"] == name]
        broken = [row["functional"] for row in rows if row["mean"] is None]
        if broken:
            entry["warnings"].append(f"not finite in some draws: {', '.join(broken[:4])}")
        if summary.kind == "point":
            entry["usable"] = bool(np.asarray(result.admissible).any())
            entry["verdict"] = _point_verdict(comparison, summaries, name)
        elif reference.source == name:
            entry["usable"], entry["verdict"] = True, _is_reference(entry, reference)
        elif summary.kind == "weighted":
            if summary.weight_ess < verdicts.FEW_ESS:  # its standard error means nothing either: no estimate
                entry["log_evidence"] = entry["log_evidence_se"] = None
            evidence = (entry["log_evidence"], entry["log_evidence_se"])
            known = (reference.log_evidence, reference.log_evidence_se)
            figures = (summary.weight_ess, summary.pareto_k)
            entry["usable"] = verdicts.usable(*figures)
            size = np.size(result.log_weights)
            entry["verdict"] = verdicts.of_weights(rows, reference.label, size, *figures, evidence, known)
        else:
            entry["usable"] = True
            size = next(iter(summary.values.values())).size
            if summary.kind == "chains":
                stuck = tuple(f for f, v in summary.values.items() if _stuck(f, v))
                entry["verdict"] = verdicts.of_chains(rows, reference.label, size, stuck)
            else:
                start = "exact" if entry["kind"] == "exact" else "independent draws"
                entry["verdict"] = f"{start}; {verdicts.agreement(rows, reference.label, size)}"


def _stuck(functional, f) -> bool:
    """Whether every chain keeps one value, and not all the same."""
    return len(f) > 1 and not constant(functional, f) and all(constant(functional, chain) for chain in f)


def _is_reference(entry, reference) -> str:
    if entry["kind"] != "exact":
        return "the reference of this comparison"
    known = "" if reference.log_evidence is None else f": log evidence {reference.log_evidence:.11f}"
    return f"exact, the reference of this comparison{known}"


def _point_verdict(comparison, summaries, name) -> str:
    result, model, x = comparison.results[name], comparison.model, comparison.x
    densities, admissible = np.asarray(result.log_density), np.asarray(result.admissible)
    best = int(np.argmax(admissible))
    value = float(densities[best])
    same = admissible & (densities >= value - verdicts.SAME * (1 + abs(value)))
    known = []
    for other, summary in summaries.items():
        if other == name or "log_density" not in summary.values:
            continue
        if summary.kind == "point":
            continue
        f = summary.values["log_density"] if result.prior else _likelihoods(comparison.results[other], model, x)
        if np.isfinite(f).any():
            known.append((float(np.max(f[np.isfinite(f)])), f"a draw of {other}"))
    return verdicts.of_point(
        value,
        max(known, default=None),
        map_estimate=bool(result.prior),
        admissible=bool(admissible.any()),
        restarts=(int(same.sum()), len(densities)),
    )


def _likelihoods(result, model, x):
    """Log likelihoods of a result's draws, or nodes, for judging a maximum likelihood."""
    if getattr(result, "nodes", None):
        return log_likelihoods(model, {k: np.asarray(v)[None] for k, v in result.nodes.items()}, x)
    draws = result.draws if getattr(result, "draws", None) is not None else result
    return log_likelihoods(model, draws.params, x)


def _plain(value):
    """Python's own types, None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return _finite(float(value))
    return value if value is None else str(value)
