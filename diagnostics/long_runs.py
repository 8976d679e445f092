"""Stored references for models whose posterior has no exact answer: long runs of `importance_modes`, held to `gibbs`.

python -m diagnostics.long_runs MODEL ...

The two have nothing in common but the model: independent weighted draws around the modes, and Markov chains over the
assignments. They must agree by the rule of the comparison, else nothing is stored. A record already there is replaced.
"""

import json
import math
import pathlib
import sys

from diagnostics import verdicts
from diagnostics.compare import compare
from diagnostics.truth import LONG_RUNS
from zoo import MODELS

SEED = 1_000_003  # no seed that anybody else asks for
MADE_BY, CHECK = "importance_modes", "gibbs"
SETTINGS = {MADE_BY: {"num_particles": 400_000}, CHECK: {"num_draws": 25_000, "num_warmup": 2_000, "thin": 10}}
LEAST = 20_000  # effective draws, of weights and of chains: twenty times what mixed asks of chains


def record(name: str) -> dict:
    """The record of one model. Raises ValueError where draws are few or the two disagree."""
    found = compare(MODELS[name], list(SETTINGS), seed=SEED, settings=SETTINGS, reference=MADE_BY)
    rows = [row for row in found.rows if verdicts.varies(row)]
    least = {backend: verdicts.least_ess([r for r in rows if r["backend"] == backend]) for backend in SETTINGS}
    verdict = found.backends[CHECK]["verdict"]
    if min(least.values()) < LEAST or not verdict.startswith("mixed") or "agrees with" not in verdict:
        raise ValueError(f"{name}: no reference; effective draws {least}; {CHECK}: {verdict}")
    reference = found.reference
    value: dict[str, dict] = {
        functional: entry._asdict()
        for functional, entry in reference.values.items()
        if entry.error is not None and entry.sd > 0 and math.isfinite(entry.variance_error or 0.0)
    }
    return {
        "name": name,
        "inputs": {"sha256": MODELS[name].data.sha256, "seed": SEED, "settings": SETTINGS, "versions": found.versions},
        "made_by": MADE_BY,
        "value": value,
        "tolerance": {"abs_in_posterior_sd": max(entry["error"] / entry["sd"] for entry in value.values())},
        "method": f"{MADE_BY}, 400,000 particles, effective sample size of the weights {least[MADE_BY]:,.0f}",
        "check": {"method": f"{CHECK}, 4 chains of 25,000 draws, every tenth sweep", "value": verdict},
        "labellings": [{"labelling": labels, "mass": mass} for labels, mass in reference.labellings.items()],
        "log_evidence": {"value": reference.log_evidence, "error": reference.log_evidence_se},
    }


def main(names: list[str]) -> None:
    file = pathlib.Path(__file__).parent / "references" / f"{LONG_RUNS}.json"
    there = json.loads(file.read_text())["records"] if file.is_file() else []
    for name in names:
        there = [found for found in there if found["name"] != name] + [record(name)]
        title = "Long runs where there is no exact posterior: python -m diagnostics.long_runs MODEL"
        file.write_text(json.dumps({"title": title, "records": there}, indent=1) + "\n")
        print(f"{name}: {there[-1]['method']}; {CHECK}: {there[-1]['check']['value']}", flush=True)


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main(sys.argv[1:])
