"""The tables of the report: numbers as text, rounded to what is known of them."""

import math
import re
from typing import Any

from diagnostics import plots, summaries, verdicts
from diagnostics.functionals import fixed_points
from inference.results import Draws, PointMass

DASH = "–"  # no such quantity
MINUS = "−"
NUM_ENDS = 20  # lines of a table of restarts


def number(value, error=None, digits=6) -> str:
    """A number to two figures of its error, or to `digits` figures where it has none; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    if error is not None and error > 0 and math.isfinite(error):
        places = 1 - math.floor(math.log10(error))
        if 0 <= places <= 8:
            text = f"{value:.{places}f}"
            return _minus(text if float(text) else text.lstrip("-"))
        if places < 0:
            return _minus(f"{round(value, places):,.0f}")
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return power(value)
    text = f"{value:.{digits}g}"
    return _minus(text if "e" not in text else f"{value:.0f}")


def _figure(value, digits) -> str:
    """A number with so many decimals; thousands separated."""
    return DASH if value is None else _minus(f"{value:,.{digits}f}")


def _spread(sd, error=None) -> str:
    """Three figures, trailing zeros kept, so that a column of them reads as equally exact."""
    if sd is None or not 1e-4 <= sd < 1e4:
        return number(sd, None, 3)
    return f"{sd:#.3g}".rstrip(".")


def _small(error) -> str:
    """Two figures of a standard error."""
    if error is None or not 1e-3 <= error < 100:
        return power(error)
    return f"{error:#.2g}".rstrip(".")


def _two(value) -> str:
    """Two figures, thousands separated."""
    if value is None:
        return DASH
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def power(value) -> str:
    """1.2 x 10^-7, readable without JavaScript."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return _minus(f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}")
    mantissa, exponent = f"{value:.1e}".split("e")
    sup = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return _minus(f"{mantissa}\u00a0×\u00a010{sup}")


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


def matrix(comparison) -> dict[str, Any]:
    """Functional x back end: means with z, marked where the verdict counts a difference."""
    names = [n for n in comparison.results if n != comparison.reference.source]
    cells = {(row["backend"], row["functional"]): row for row in comparison.rows}
    off = {name: differing(comparison, name) for name in names}
    groups: list[tuple[str, list]] = []
    functionals = plots.in_order(
        dict.fromkeys([*comparison.reference.values, *(r["functional"] for r in comparison.rows)])
    )
    for functional in functionals:
        if not groups or groups[-1][0] != plots.heading_of(functional):
            groups.append((plots.heading_of(functional), []))
        value = comparison.reference.values.get(functional)
        each: list[dict[str, Any]] = []
        line = {
            "functional": functional,
            "about": _about(comparison, functional),
            "mean": _short(functional, value.mean, _scale(value.error, value.sd)) if value else DASH,
            "sd": _short(functional, value.sd, None, _spread) if value else DASH,
            "cells": each,
        }
        for name in names:
            row = cells.get((name, functional), {})
            mean = row.get("mean")
            error = row.get("mcse") if row else None
            precision = _scale(error, value.sd if value else row.get("sd")) if error is None else error
            each.append(
                {
                    "mean": _short(functional, mean, precision),
                    "z": "" if row.get("z") is None else f"z {_signed(row['z'])}",
                    "off": off[name].get(functional, ""),
                    "usable": comparison.backends[name]["usable"],
                }
            )
        groups[-1][1].append(line)
    return {"names": names, "groups": groups, "any_off": any(off.values())}


def _short(functional, value, error, form=number) -> str:
    """A cell of the overview: probabilities and entropies below what a verdict tells apart are not spelled out."""
    tiny = value is not None and 0 < abs(value) < verdicts.SAME
    tiny = tiny and functional.startswith(("co_clustering", "entropy", "occupied"))
    return "< 10⁻⁶" if tiny else form(value, error)


def _scale(error, sd):
    """The error that decides how many figures are shown: never finer than a hundredth of the spread."""
    if sd is not None and sd > 1e-9:
        return max(error or 0.0, 1e-2 * sd)
    return error if error and error > 1e-12 else None


def differing(comparison, name) -> dict[str, str]:
    """Functional -> what differs from the reference there, by the rule of the verdict; for chains and usable draws."""
    entry = comparison.backends[name]
    if entry["kind"] == "point" or not (entry["usable"] or entry["kind"] == "mcmc"):
        return {}
    rows = [row for row in comparison.rows if row["backend"] == name and row["reference_mean"] is not None]
    names = [i.name for i in verdicts.intervals(rows, comparison.degrees(name)) if i.differs]
    spread = "the spread of "  # about the reference's mean: where the mean is off, the spread follows
    off = {name.removeprefix(spread): "sd differs" for name in names if name.startswith(spread)}
    off |= {name: "mean differs" for name in names if not name.startswith(spread)}
    least = verdicts.least_ess(rows, comparison.num_draws(name))
    off |= {row["functional"]: "value differs" for row in rows if verdicts.constant_differs(row, least)}
    return off | {row["functional"]: "mean differs" for row in rows if verdicts.missed(row, len(rows))}


def groups(comparison) -> list[dict[str, Any]]:
    """Every row with every figure, functional by functional, the reference's own line first."""
    source, groups = comparison.reference.source, []
    rows: dict[str, list[dict]] = {}
    for row in comparison.rows:
        rows.setdefault(row["functional"], []).append(row)
    for functional in plots.in_order(dict.fromkeys([*comparison.reference.values, *rows])):
        lines = []
        value = comparison.reference.values.get(functional)
        if value is not None:
            name = comparison.reference.label
            first = (number(value.mean, _scale(value.error, value.sd)), _spread(value.sd), power(value.error))
            lines.append(
                {
                    "name": name.removesuffix(" reference").removeprefix("the "),
                    "reference": True,
                    "cells": [*first, *[DASH] * 6],
                }
            )
        for row in rows.get(functional, ()):
            if row["backend"] == source and value is not None:
                continue
            precision = row["mcse"] if row["mcse"] is not None else _scale(None, row["sd"] or row["reference_sd"])
            cells = [
                number(row["mean"], precision),
                _spread(row["sd"]),
                _small(row["mcse"]),
                _figure(row["ess_bulk"], 0),
                _figure(row["ess_tail"], 0),
                _figure(row["rhat"], 3),
                _two(row["ess_per_second"]),
                DASH if row["z"] is None else _signed(row["z"]),
                DASH if row["z_sd"] is None else _signed(row["z_sd"]),
            ]
            lines.append({"name": row["backend"], "reference": False, "cells": cells})
        groups.append({"functional": functional, "about": _about(comparison, functional), "lines": lines})
    return groups


def _signed(z) -> str:
    return _minus(f"{z:+.1f}" if abs(z) < 100 else f"{z:+,.0f}")


def _about(comparison, functional) -> str:
    """What a functional is, in a few words."""
    if functional.startswith(("log_predictive", "co_clustering")) and not isinstance(comparison.x, dict):
        indices = [int(i) for i in re.findall(r"\d+", functional)]
        if functional.startswith("log_predictive"):
            indices = [int(fixed_points(comparison.x)[i]) for i in indices]
        values = [comparison.x[i] for i in indices]
        if all(getattr(value, "ndim", 0) == 0 for value in values):
            return " and ".join(f"{value:.4g}" for value in values)
    return {
        "log_density": "log p(parameters, data)",
        "entropy": "total, 0 when every assignment is certain",
        "occupied": "components with an observation",
    }.get(functional, "")


def evidence(comparison) -> list[dict[str, str]]:
    """Log evidence by back end, with its error, against the reference's."""
    reference, lines = comparison.reference, []
    for name, entry in comparison.backends.items():
        value, error = entry.get("log_evidence"), entry.get("log_evidence_se")
        if value is None and entry.get("elbo") is not None:
            lines.append(_bound(name, entry["elbo"], reference.log_evidence))
        if value is None:
            continue
        line = {
            "name": name,
            "value": number(value, error if error and error > 1e-8 else None, 13),
            "error": _small(error),
            "difference": DASH,
            "says": "not usable" if not entry["usable"] else "",
        }
        if reference.log_evidence is not None and name != reference.source:
            line["difference"] = power(value - reference.log_evidence)
            known = (reference.log_evidence, reference.log_evidence_se)
            says = verdicts.evidence_says((value, error), known, _largest_se(comparison.results.get(name)))
            line["says"] = "; ".join(filter(None, (says, line["says"])))
        elif name == reference.source:
            line["says"] = "reference"
        lines.append(line)
    return lines


def _largest_se(result) -> float:
    """Of the log evidence of weighted draws, or of independent runs of them."""
    log_weights = getattr(result, "log_weights", None)
    if not isinstance(result, Draws) or log_weights is None:
        return math.inf
    return verdicts.LARGEST_SE["runs" if len(log_weights) > 1 else "weighted"]


def _bound(name, elbo, known) -> dict[str, str]:
    difference = DASH if known is None else power(elbo - known)
    says = "ELBO, a lower bound"
    return {"name": name, "value": number(elbo, None, 7), "error": DASH, "difference": difference, "says": says}


def labellings(comparison) -> dict[str, Any] | None:
    """Mass of each labelling, largest first; None for models whose labels mean nothing."""
    masses = comparison.labellings
    if not masses or comparison.model.exchangeable:
        return None
    names = [n for n in ("reference", *(n for n in masses if n != "reference")) if n in masses]
    if comparison.reference.source in names and "reference" in names:
        names.remove(comparison.reference.source)
    shares, first = comparison.labelling_shares, masses[names[0]]
    columns = [(name, kind) for name in names for kind in ("mass", "share") if kind == "mass" or name in shares]
    rows = [
        (
            " < ".join(str(k) for k in labelling),
            [
                _mass(masses[name].get(labelling)) if kind == "mass" else _share(shares[name].get(labelling))
                for name, kind in columns
            ],
        )
        for labelling in sorted(first, key=lambda s: -first[s])
    ]
    return {"columns": columns, "rows": rows}


def _share(value) -> str:
    """A share of the draws with its MCSE, where it varies."""
    if value is None:
        return DASH
    share, error = value
    return _mass(share) if not error else f"{number(share, error)} ± {_small(error)}"


def _mass(value) -> str:
    return DASH if value is None else f"{value:.4f}" if value >= 5e-3 else power(value)


def restarts(comparison) -> dict[str, list[tuple[str, ...]]]:
    """Back end -> how its restarts ended, of those that give a point; the first NUM_ENDS lines."""
    points = {name: one for name, one in comparison.results.items() if isinstance(one, PointMass)}
    return {name: summaries.restarts(one)[:NUM_ENDS] for name, one in points.items()}


def costs(comparison) -> list[dict[str, str]]:
    lines = []
    for name in comparison.results:
        cost, kind = plots.cost_of(comparison, name), comparison.backends[name]["kind"]
        lines.append(
            {
                "name": name,
                "compile": _figure(cost.get("compile_seconds"), 2),
                "run": _figure(cost.get("run_seconds"), 2),
                "table": _figure(cost.get("table_evaluations"), 0),
                "gradient": _figure(cost.get("gradient_evaluations"), 0),
                "memory": f"{cost['program_bytes'] / 2**20:,.1f}" if cost.get("program_bytes") else DASH,
                "ess": _figure(cost["ess"], 0),
                "speed": _two(cost["ess_per_second"]),
                "error": DASH if kind == "point" else _two(cost["error"]),  # a point is not a mean
            }
        )
    return lines
