"""One row per back end and functional: what was found, how well it is known, and how far it is from the reference."""

import math
from typing import Any

import numpy as np

from diagnostics import verdicts
from diagnostics.summaries import FEW, LEAST, ROUNDING
from diagnostics.to_arviz import az

COLUMNS = (
    "backend", "functional", "mean", "sd", "mcse", "ess_bulk", "ess_tail", "rhat", "ess_per_second",
    "reference_mean", "reference_sd", "reference_error", "z", "z_sd",
)  # fmt: skip
FLAT = 1e-6  # probabilities and entropies that vary less are called constant


def rows_of(name, summary, result, reference) -> list[dict]:
    seconds, reference = result.cost.run_seconds, reference.against(name)
    return [row_of(name, f, v, summary, seconds, reference) for f, v in summary.values.items()]


def row_of(name, functional, f, summary, seconds, reference) -> dict:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"backend": name, "functional": functional}
    value = reference.values.get(functional)
    if value is not None:
        row |= {"reference_mean": value.mean, "reference_sd": value.sd, "reference_error": value.error}
    if not np.isfinite(f).all():
        return row
    row["mean"], error, num = summary.estimate(f)
    if summary.kind == "point":
        return row
    row["sd"] = sd_of(summary.estimate((f - row["mean"]) ** 2)[0], f)
    if constant(functional, f, row["sd"] if summary.kind == "weighted" else None):
        return row | {"sd": 0.0}
    if summary.kind == "weighted" and summary.weight_ess < verdicts.FEW_ESS:
        return row
    row["mcse"] = finite(error)
    row |= effective(f, summary)
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


def constant(functional: str, f, spread=None) -> bool:
    """Whether all draws are equal: to rounding, or to 1e-6 for probabilities, entropies and counts; finite draws.

    `spread` defaults to the range of f; of weighted draws it is the sd, since those without weight may lie anywhere.
    """
    if not np.isfinite(f).all():
        return False
    flat = FLAT if functional.startswith(("co_clustering", "entropy", "occupied")) else 0.0
    spread = float(np.ptp(f)) if spread is None else spread
    return spread <= max(flat, ROUNDING * (1 + abs(float(np.mean(f)))))


def stuck(values) -> tuple[str, ...]:
    """Functionals of which every chain keeps one value, and not all the same, over draws enough to have moved."""
    return tuple(
        name
        for name, f in values.items()
        if len(f) > 1 and f.shape[1] >= FEW and not constant(name, f) and all(constant(name, chain) for chain in f)
    )


def effective(f, summary) -> dict:
    """ESS and R-hat: ArviZ's for chains, the weights' for weighted draws, none for independent draws."""
    if summary.kind == "weighted":
        return {"ess_bulk": summary.weight_ess}
    if summary.kind != "chains" or f.shape[1] < LEAST:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never move: R-hat is infinite, which is null
        found = {"ess_bulk": finite(az.ess(f)), "ess_tail": finite(az.ess(f, method="tail"))}
        if f.shape[0] > 1:
            found["rhat"] = finite(az.rhat(f))
    return found


def _z(difference, *errors):
    se = math.sqrt(sum(e**2 for e in errors))
    return finite(difference / se) if se > 0 else None


def finite(value):
    return float(value) if value is not None and math.isfinite(value) else None


def sd_of(variance, f) -> float:
    return math.sqrt(max(variance, 0.0)) if np.ptp(f) > 0 else 0.0
