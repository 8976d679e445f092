"""Back ends on one posterior, each functional held against the best reference there is.

Rows are back end x functional; what a row's numbers mean depends on the back end's kind alone:
mcmc: ESS, R-hat and MCSE by ArviZ; weighted: self-normalised weights, delta-method standard errors, the ESS of the
weights and no R-hat; point: the value at the best admissible restart; exact: numerical error, or the standard error
of independent exact draws; approximate: the standard error of independent draws from the approximation.
"""

import dataclasses
import inspect
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

import inference
from diagnostics import verdicts
from diagnostics.functionals import log_likelihoods
from diagnostics.reference import Reference, check, choose
from diagnostics.rows import COLUMNS, finite, rows_of, stuck
from diagnostics.summaries import Summary, summarise
from diagnostics.to_arviz import to_arviz, versions, write
from inference.importance import no_evidence
from zoo import nearest
from zoo.dataset import Dataset, checksum
from zoo.dependent import FIT_ALONE
from zoo.mixture import Mixture
from zoo.tables import is_frame

SCHEMA = 1
NO_MAXIMUM = {  # how a restart ends at what is no maximum, and no singularity
    "not converged": "without converging",
    "not stationary": "at a point that is not stationary",
    "saddle point": "at a saddle point",
}
PER_CHAIN = ("num_chains", "num_warmup", "num_draws")  # given for all, they are not meant for the exact ones beside


@dataclasses.dataclass(eq=False)
class Comparison:
    """What `compare` found. `rows` have the keys COLUMNS, None where a quantity has no meaning."""

    model: Any
    x: Any
    data: dict[str, Any]  # name, variant, columns, units, standardized, source, licence, sha256, N, D
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
    precision: str = "float64"
    # chain back end -> labelling -> share of the draws in that order, and its MCSE (None where it does not vary)
    labelling_shares: dict[str, dict[tuple[int, ...], tuple[float, float | None]]] = dataclasses.field(
        default_factory=dict
    )

    def degrees(self, backend: str) -> int | None:
        """Degrees of freedom of its standard errors, where a few independent runs make them up."""
        weighted = self.backends[backend]["kind"] == "weighted"
        num_runs = len(self.results[backend].log_weights) if weighted else 1
        return num_runs - 1 if num_runs > 1 else None

    def num_draws(self, backend: str) -> int:
        """Draws, or nodes, that its functionals were evaluated at."""
        return next(iter(self.functionals[backend].values())).size

    def to_dict(self) -> dict:
        """Everything but draws, in strict JSON's types: None instead of NaN and infinities."""
        reference = self.reference
        return _plain(
            {
                "schema": SCHEMA,
                "model": self.model.name,
                "data": self.data,
                "seed": self.seed,
                "precision": self.precision,
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
                **{
                    key: {
                        name: {str(labelling): each[i] for labelling, each in shares.items()}
                        for name, shares in self.labelling_shares.items()
                    }
                    for i, key in enumerate(("labelling_shares", "labelling_share_errors"))
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
            how = {"backend": name, "settings": self.settings.get(name), "seed": self.seed, "data": self.data}
            data = to_arviz(result, self.model, self.x, **how)
            paths.append(write(data, folder / f"{name}.nc"))
        return paths

    def _repr_html_(self) -> str:
        from html import escape

        says = "".join(f"<li><b>{escape(n)}</b>: {escape(b['verdict'])}</li>" for n, b in self.backends.items())
        table = self.to_frame().to_html(index=False, float_format=lambda v: f"{v:.5g}", na_rep="")
        return f"<h3>{escape(self.model.name)}</h3><ul>{says}</ul>{table}"


def compare(
    model, backends=None, x=None, seed=0, settings=None, reference=None, progress=None, resume=None
) -> Comparison:
    """Runs back ends on p(params, assignments | x) and compares every functional with a reference.

    backends: names, default every default one. settings: keywords of the back ends; a dictionary under a back end's
    name is for it alone, the others go to every back end that takes them. reference: None for the best available
    (quadrature, else enumeration, else a stored one, else none), the name of a back end of this run, a Reference, or
    "none". progress(backend, steps_done, steps_total) is called as they run, (backend, 0, 1) at the start of each and
    (backend, 1, 1) at its end. resume: Draws of an earlier run that the one back end named goes on from.

    A back end that refuses or fails does not stop the others; Ctrl-C keeps what is done. Raises ValueError for bad
    data, names or settings before anything runs.
    """
    x, data = _data(model, x)
    names = _names(backends)
    plans = plan(names, settings)
    check(reference, names)
    entries: dict[str, dict] = {}
    results: dict[str, Any] = {}
    interrupted = False
    for name in names:
        if interrupted:
            entries[name] = _entry(name, "failed", "interrupted before it began")
            continue
        if progress is not None:
            progress(name, 0, 1)
        entries[name], result = _run(model, name, x, seed, plans[name], progress, resume)
        if progress is not None:
            progress(name, 1, 1)
        said = entries[name]["reason"] or ""
        interrupted = said.startswith(INTERRUPTED) or getattr(result, "interrupted", False)
        if result is not None:
            results[name] = result
    summaries: dict[str, Summary] = {}
    for name, result in list(results.items()):
        try:
            summaries[name] = summarise(result, entries[name]["kind"], model, x)
        except Exception as error:  # a result that cannot be read is a failure of its back end, not of the others
            said = _sentence(error)
            entries[name] |= {"status": "failed", "reason": said, "usable": False, "verdict": f"failed: {said}"}
            del results[name]
    chosen = choose(reference, results, summaries, entries, model, x)
    rows = [row for name in summaries for row in rows_of(name, summaries[name], results[name], chosen)]
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
        precision=np.dtype(jnp.result_type(float)).name,
        labelling_shares={name: s.shares for name, s in summaries.items() if s.shares},
    )
    _judge(comparison, summaries)
    return comparison


# -- input --------------------------------------------------------------------------------------------------------


def plan(names, settings) -> dict[str, dict]:
    """back end -> its keyword settings; ValueError for one that no back end takes, or a number that makes no sense."""
    settings = dict(settings or {})
    taken = {name: accepted(name) for name in names}
    own = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for key in own:
        if key not in names:
            raise ValueError(f"settings for {key!r}, which is not a back end that runs: {nearest(key, names)}")
    common = {key: value for key, value in settings.items() if key not in own}
    every = list(dict.fromkeys(option for options in taken.values() for option in options))
    for option in common:
        if option not in every:
            raise ValueError(f"no back end that runs has a setting {option!r}: {nearest(option, every)}")
    chains = any(inference.TABLE[name][1] == "mcmc" for name in names)
    per_chain = lambda name: chains and inference.TABLE[name][1] == "exact"  # few draws of a chain say nothing of it
    plans = {
        name: {k: v for k, v in common.items() if k in taken[name] and not (k in PER_CHAIN and per_chain(name))}
        | own.get(name, {})
        for name in names
    }
    for name, options in plans.items():
        if options and taken[name]:  # what cannot be imported has none, and its run will say so
            inference.check_settings(name, options)
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
    return {key: given.get(key, value) for key, value in defaults.items() if key not in ("progress", "resume")}


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
    if not isinstance(model, Mixture):
        what = type(model).__name__
        raise ValueError(f"model should be a Mixture, got {what}" + FIT_ALONE * (what == "Dependent"))
    if is_frame(x):
        x = model.of_frame(x)
    dataset = x if isinstance(x, Dataset) else model.data
    if x is None and dataset is None:
        raise ValueError(f"{model.name} has no data of its own; give x")
    checked = model.check(dataset.x if x is None or isinstance(x, Dataset) else x)
    sha256 = checksum(checked)
    named = dataset is not None and dataset.sha256 == sha256
    leaves = [v for k, v in checked.items() if k != "covariates"] if isinstance(checked, dict) else [checked]
    given = dataset if named else Dataset(name="x", x=checked)
    return checked, {
        "name": given.name,
        "variant": given.variant,
        "columns": list(given.feature_names),
        "units": given.units,
        "standardized": {c: {"mean": mean, "sd": sd} for c, (mean, sd) in given.standardized.items()},
        "source": given.source,
        "licence": given.licence,
        "sha256": sha256,
        "N": len(leaves[0]),
        "D": sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in leaves),
    }


# -- running ------------------------------------------------------------------------------------------------------

INTERRUPTED = "interrupted"  # how every sentence of a KeyboardInterrupt begins


def _run(model, name, x, seed, settings, progress, resume=None):
    """One back end: its entry, and its result or None."""
    try:
        reason = inference.BACKENDS[name].refuses(model, x)
        if reason:
            return _entry(name, "refused", reason), None
        if progress is not None and "progress" in inspect.signature(inference.BACKENDS[name].run).parameters:
            settings = {**settings, "progress": lambda done, total: progress(name, done, total)}
        result = inference.fit(model, name, x, seed, resume=resume, **settings)
    except KeyboardInterrupt as stop:
        return _entry(name, "failed", str(stop) or INTERRUPTED), None
    except inference.Refused as error:  # a setting that the model does not allow
        return _entry(name, "refused", _sentence(error)), None
    except Exception as error:  # whatever went wrong in one back end, the others' results are kept
        return _entry(name, "failed", _sentence(error)), None
    draws = result.draws if getattr(result, "draws", None) is not None else result
    entry = _entry(name, "ok", None)
    entry["cost"] = result.cost._asdict()
    entry["log_evidence"] = getattr(result, "log_evidence", None)
    entry["log_evidence_se"] = getattr(result, "log_evidence_se", None)
    if getattr(draws, "stats", {}).get("elbo") is not None:
        entry["elbo"] = float(np.ravel(draws.stats["elbo"])[0])
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
        "elbo": None,
        "warnings": [],
        "verdict": f"{status}: {reason}",
    }


def _sentence(error) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if not isinstance(error, ValueError) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 300 else text[:299] + "…"


# -- verdicts -----------------------------------------------------------------------------------------------------


def _judge(comparison: Comparison, summaries):
    """Fills in `usable` and `verdict` of every back end that ran, and warns of rows that are not finite."""
    for name, summary in summaries.items():
        reference = comparison.reference.against(name)
        entry, result = comparison.backends[name], comparison.results[name]
        rows = [row for row in comparison.rows if row["backend"] == name]
        broken = verdicts.not_finite(rows)
        if broken:
            entry["warnings"].append(f"not finite in some draws: {', '.join(broken[:4])}")
        if summary.kind == "point":
            entry["usable"] = bool(np.asarray(result.admissible).any())
            entry["verdict"] = _point_verdict(comparison, summaries, name)
        elif reference.source == name:
            entry["usable"], entry["verdict"] = _is_reference(entry, reference, summary, rows)
        elif summary.kind == "weighted":
            if no_evidence(summary.weight_ess, summary.pareto_k):
                entry["log_evidence"] = entry["log_evidence_se"] = None
            evidence = (entry["log_evidence"], entry["log_evidence_se"])
            known = (reference.log_evidence, reference.log_evidence_se)
            figures = (summary.weight_ess, summary.pareto_k)
            entry["usable"] = verdicts.usable(*figures) and not broken
            size = np.size(result.log_weights)
            entry["verdict"] = verdicts.of_weights(rows, reference.label, size, *figures, evidence, known)
            if not entry["usable"]:
                comparison.labellings.pop(name, None)
        elif summary.kind == "runs":
            entry["usable"] = entry["log_evidence"] is not None and not broken
            num_runs, size = np.shape(result.log_weights)
            said = verdicts.agreement(rows, reference.label, num_runs * size, comparison.degrees(name))
            start = f"{num_runs} independent runs" if entry["usable"] else f"not usable{_why_no_estimate(entry)}"
            known = (reference.log_evidence, reference.log_evidence_se)
            evidence = (entry["log_evidence"], entry["log_evidence_se"])
            of_evidence = verdicts.of_evidence(evidence, known, verdicts.LARGEST_SE["runs"])
            entry["verdict"] = f"{start}; {said}{of_evidence}"
        else:
            entry["usable"] = not broken
            shape = next(iter(summary.values.values())).shape
            if summary.kind == "chains":
                entry["usable"] &= verdicts.mixing(rows, stuck(summary.values), shape)[0]
                entry["verdict"] = verdicts.of_chains(rows, reference.label, shape, stuck(summary.values))
                masses = {} if comparison.model.exchangeable else comparison.labellings.get("reference", {})
                ess = verdicts.least_ess(rows, comparison.num_draws(name))
                entry["verdict"] += verdicts.of_shares(summary.shares, masses, ess)
            else:
                start = {"exact": "exact", "approximate": "an approximation"}.get(entry["kind"], "independent draws")
                entry["verdict"] = f"{start}; {verdicts.agreement(rows, reference.label, shape[0] * shape[1])}"
                if entry["kind"] == "approximate":
                    entry["verdict"] += verdicts.of_spreads(rows)


def _why_no_estimate(entry) -> str:
    """What runs say of themselves where they give no estimate, without the advice that follows."""
    said = next((w for w in entry["warnings"] if w.startswith(("no estimate: ", "interrupted: "))), "")
    why = said.partition(": ")[2].partition("; not usable")[0]
    return why and f": {why}"


def _is_reference(entry, reference, summary, rows) -> tuple[bool, str]:
    """Whether what the others are held against is usable itself, and its verdict."""
    whole, said = not verdicts.not_finite(rows), "the reference of this comparison"
    if entry["kind"] == "exact":
        known = "" if reference.log_evidence is None else f": log evidence {reference.log_evidence:.11f}"
        return whole, f"exact, {said}{known}"
    if summary.kind == "chains":
        shape = next(iter(summary.values.values())).shape
        mixed, figures = verdicts.mixing(rows, stuck(summary.values), shape)
        return mixed and whole, f"{'mixed' if mixed else 'not mixed'} ({figures}); {said}"
    if summary.kind == "weighted":
        good = verdicts.usable(summary.weight_ess, summary.pareto_k)
        figures = verdicts.weight_figures(summary.weight_ess, summary.pareto_k)
        return good and whole, f"{'usable' if good else 'not usable'} ({figures}); {said}"
    return whole, said


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
    for ended, phrase in NO_MAXIMUM.items() if len(result.ended) else ():
        highest = float(np.max(densities[np.asarray(result.ended) == ended], initial=-np.inf))
        if highest - verdicts.SAME * (1 + abs(highest)) > value:
            known.append((highest, f"a restart that ended {phrase}"))
    params = {name: np.asarray(leaf)[best][None, None] for name, leaf in result.params.items()}
    return verdicts.of_point(
        value,
        float(log_likelihoods(model, params, x)[0, 0]),
        max(known, default=None),
        None if result.prior else _stored_likelihood(model, x),
        map_estimate=bool(result.prior),
        admissible=bool(admissible.any()),
        restarts=(int(same.sum()), len(densities)),
        causes=_causes(result),
        bounded=result.bounded,
    )


def _causes(result) -> tuple[str, ...]:
    """How the restarts that are not admissible ended."""
    phrases = {
        "below the floor": "in a singularity below the scale floor",
        "empty component": "with an empty component",
        "stopped at a singularity": "at a singularity",
        **NO_MAXIMUM,
    }
    ended = set(result.ended)
    return tuple(phrase for name, phrase in phrases.items() if name in ended)


def _stored_likelihood(model, x) -> float | None:
    """The largest likelihood with every scale above the floor, where it is known: it does not depend on the prior."""
    from diagnostics.truth import stored

    if model.name.partition("[")[0] != "three_gaussians":
        return None
    records = stored("three_gaussians_em")
    same = checksum(x) == records["blog.data"]["value"]["sha256_little_endian_float64"]
    return records["blog.mle_K3"]["value"]["loglik"] if same else None


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
        return finite(float(value))
    return value if value is None else str(value)
