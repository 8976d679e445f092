"""Which modes of the posterior density the chains' starts covered, so that a mode no chain began near is seen."""

from typing import NamedTuple

import numpy as np

from diagnostics import verdicts
from inference import em


class Mode(NamedTuple):
    """A local maximum of log p(params, x), assignments summed out, up to a relabelling of exchangeable components."""

    log_density: float | None  # None: EM from these starts reached no mode
    num_chains: int


def covered(comparison) -> dict[str, list[Mode]]:
    """Chain back end -> the modes in whose basins its chains began, highest first.

    EM climbs from the start of every chain; ends of one log density (to 1e-6, relative) are taken for one mode. Left
    out are runs whose starts are not known (read from a file); empty where EM does not serve the model.
    """
    model, x = comparison.model, comparison.x
    starts = {
        name: result.starts
        for name, result in comparison.results.items()
        if comparison.backends[name]["kind"] == "mcmc" and getattr(result, "starts", None)
    }
    if not starts or em.refuses(model, x):
        return {}
    together = {leaf: np.concatenate([s[leaf] for s in starts.values()]) for leaf in model.param_shapes}
    densities, modes = em.climb_from(model, x, together)
    ends = np.split(np.where(modes, densities, np.nan), np.cumsum([_num_chains(s) for s in starts.values()])[:-1])
    return {name: _modes(each) for name, each in zip(starts, ends, strict=True)}


def sentences(comparison) -> list[str]:
    """What the report says of `covered`: one sentence for each back end, and what EM itself found."""
    modes = covered(comparison)
    if not modes:
        return []
    said = [f"{name}: {_said(each)}." for name, each in modes.items()]
    best = [
        float(result.log_density[0])
        for name, result in comparison.results.items()
        if comparison.backends[name]["kind"] == "point" and result.prior and result.admissible[0]
    ]
    missed = [
        name
        for name, each in modes.items()
        if best and not any(m.log_density is not None and _same(m.log_density, best[0]) for m in each)
    ]
    if missed:
        said.append(
            f"The highest mode that em found, of log density {best[0]:.3f}, was nobody's start in {', '.join(missed)}."
        )
    return said


def _said(modes) -> str:
    total = _chains(sum(m.num_chains for m in modes))
    known = [m for m in modes if m.log_density is not None]
    lost = sum(m.num_chains for m in modes if m.log_density is None)
    if not known:
        return f"from none of the starts of {total} did EM reach a mode"
    if len(known) == 1:
        said = (
            f"{_chains(known[0].num_chains)} began in the basin of one mode, of log density {known[0].log_density:.3f}"
        )
    else:
        each = ", ".join(f"{m.log_density:.3f} ({_chains(m.num_chains)})" for m in known)
        said = f"{total} began in the basins of {len(known)} modes, of log density {each}"
    return said + (f"; from {_chains(lost)} EM reached none" if lost else "")


def _chains(num) -> str:
    return "1 chain" if num == 1 else f"{num} chains"


def _num_chains(start) -> int:
    return len(next(iter(start.values())))


def _modes(ends) -> list[Mode]:
    modes: list[Mode] = []
    for value in -np.sort(-ends[np.isfinite(ends)]):
        if modes and _same(modes[-1].log_density, value):
            modes[-1] = modes[-1]._replace(num_chains=modes[-1].num_chains + 1)
        else:
            modes.append(Mode(float(value), 1))
    lost = int(np.sum(~np.isfinite(ends)))
    return modes + ([Mode(None, lost)] if lost else [])


def _same(a, b) -> bool:
    return abs(a - b) <= verdicts.SAME * (1 + abs(a))
