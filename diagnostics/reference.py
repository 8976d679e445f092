"""What back ends are held against: the best answer known for this model and these data."""

import math
from typing import NamedTuple

import numpy as np

from diagnostics import verdicts
from diagnostics.rows import finite, rows_of, sd_of, stuck
from diagnostics.summaries import FEW, ROUNDING

LONGER = 10  # times the effective draws: what a long run has over those that are held against it


class Value(NamedTuple):
    """What the reference says of one functional."""

    mean: float
    sd: float
    error: float | None  # standard error of the mean, Monte Carlo or numerical; None: not known
    variance_error: float | None = None  # of the variance; None: sqrt(2) sd error, as for normal draws
    square_sd: float | None = None  # of (f - mean)^2 under the reference; None: not known


class Reference(NamedTuple):
    """What the others are held against, and how well it is known itself."""

    kind: str  # "exact", "stored", "long run", "another back end" or "none"
    source: str  # a back end of this run, or where the stored values come from
    values: dict[str, Value]
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    labellings: dict[tuple[int, ...], float] = {}
    made_by: str = ""  # the back end whose stored run this is

    def against(self, backend: str) -> "Reference":
        """What a back end is held against: none is judged by its own run."""
        return self if backend != self.made_by else Reference("none", "no reference but a run of its own", {})

    @property
    def label(self) -> str:
        """A few words for it in a sentence."""
        return "the stored reference" if self.kind == "stored" else self.source


def choose(wanted, results, summaries, entries, model, x) -> Reference:
    evidence = _best_evidence(entries)
    if isinstance(wanted, str) and wanted != "none":
        if wanted not in summaries:
            return Reference("none", f"{wanted} gave no result", {}, *evidence)
        kind = "exact" if entries[wanted]["kind"] == "exact" else "another back end"
        kind = "long run" if _is_long_run(wanted, results, summaries) else kind
        return _reference_of(wanted, kind, results, summaries, evidence)
    if isinstance(wanted, Reference):
        return _with_evidence(wanted, evidence)
    if wanted is None:
        for name in ("quadrature", "enumeration", *summaries):
            if name in summaries and entries[name]["kind"] == "exact":
                return _reference_of(name, "exact", results, summaries, evidence)
        from diagnostics.truth import stored_reference  # which makes References itself

        if (stored := stored_reference(model, x)) is not None:
            return _with_evidence(stored, evidence)
    return Reference("none", "no reference", {}, *evidence)


def _with_evidence(given, evidence) -> Reference:
    """A stored or user's reference; where it has no log evidence, with that of this run's exact back ends."""
    if given.log_evidence is not None:
        return given
    return given._replace(log_evidence=evidence[0], log_evidence_se=evidence[1])


def _is_long_run(name, results, summaries) -> bool:
    """Whether chains mixed, and have at least ten times the effective draws of every other back end."""
    if summaries[name].kind != "chains":
        return False
    rows = {n: rows_of(n, s, results[n], Reference("none", "", {})) for n, s in summaries.items()}
    values = summaries[name].values
    mixed, _ = verdicts.mixing(rows[name], stuck(values), next(iter(values.values())).shape)
    others = [_effective_draws(s, rows[n]) for n, s in summaries.items() if n != name]
    return mixed and all(_effective_draws(summaries[name], rows[name]) >= LONGER * other for other in others)


def _effective_draws(summary, rows) -> float:
    """The least effective sample size; none for a point, without end for nodes."""
    if summary.kind in ("point", "nodes"):
        return 0.0 if summary.kind == "point" else math.inf
    return verdicts.least_ess(rows, next(iter(summary.values.values())).size)


def _reference_of(name, kind, results, summaries, evidence) -> Reference:
    summary = summaries[name]
    values = {f: value_of(v, summary) for f, v in summary.values.items() if np.isfinite(v).all()}
    for other, s in summaries.items():  # nodes have no assignments; independent exact draws of this run may
        if summary.kind == "nodes" and s.kind == "independent" and "occupied" in s.values and "occupied" not in values:
            values["occupied"] = value_of(s.values["occupied"], summaries[other])
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


def value_of(f, summary) -> Value:
    mean, error, num = summary.estimate(f)
    variance, variance_error, num_variance = summary.estimate((f - mean) ** 2)
    return Value(
        mean,
        sd_of(variance, f),
        finite(error) if num >= FEW else None,
        finite(variance_error) if num_variance >= FEW else math.nan,
        math.sqrt(max(summary.estimate(((f - mean) ** 2 - variance) ** 2)[0], 0.0)),
    )


def check(wanted, names) -> None:
    """ValueError in one sentence where `wanted` is nothing that the back ends `names` can be held against."""
    if isinstance(wanted, str) and wanted != "none" and wanted not in names:
        raise ValueError(f"reference {wanted!r} is not one of the back ends that run: {', '.join(names)}")
    if wanted is None or isinstance(wanted, str):
        return
    if not isinstance(wanted, Reference):
        said = "None, 'none', the name of a back end that runs or a diagnostics.reference.Reference"
        raise ValueError(f"reference should be {said}; got {type(wanted).__name__}")
    if not isinstance(wanted.values, dict):
        raise ValueError(f"reference: values should be a dict, name -> Value, got {type(wanted.values).__name__}")
    for name, value in wanted.values.items():
        if not isinstance(value, Value):
            raise ValueError(f"reference: {name} should be a Value(mean, sd, error), got {value!r}")
        if not (_number(value.mean) and all(_number(v, 0) for v in (value.sd, value.error or 0.0))):
            said = f"{value.mean}, {value.sd} and {value.error}"
            raise ValueError(f"reference: {name} should have a finite mean, and sd and error of at least 0; got {said}")
    evidence, error = wanted.log_evidence, wanted.log_evidence_se
    if evidence is not None and not (_number(evidence) and _number(error or 0.0, 0)):
        raise ValueError(f"reference: log evidence and its error should be finite; got {evidence} and {error}")


def _number(value, least=-math.inf) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value) and value >= least


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
