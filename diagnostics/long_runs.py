"""Long runs of `gibbs` as stored references, for models whose posterior has no exact answer.

python -m diagnostics.long_runs MODEL ...

Each is held to `importance_modes`, which has no Markov chain, before it is stored: they must agree by the rule of the
comparison. A record already there for the model is replaced.
"""

import json
import pathlib
import sys

from diagnostics import verdicts
from diagnostics.compare import compare
from diagnostics.truth import LONG_RUNS
from zoo import MODELS

SEED = 1_000_003  # no seed that anybody else asks for: a reference is no copy of the runs it judges
LEAST, RHAT = 10_000, 1.005  # effective draws, and R-hat at most: ten times better than what mixed asks of others
SETTINGS = {"gibbs": {"num_draws": 25_000, "num_warmup": 2_000, "thin": 10}}
SETTINGS |= {"importance_modes": {"num_particles": 400_000}}


def record(name: str) -> dict:
    """The record of one model. Raises ValueError where the run does not mix or the two disagree."""
    found = compare(MODELS[name], list(SETTINGS), seed=SEED, settings=SETTINGS, reference="gibbs")
    verdict = found.backends["importance_modes"].get("verdict") or found.backends["importance_modes"]["reason"]
    rows = [row for row in found.rows if row["backend"] == "gibbs" and verdicts.varies(row)]
    least, rhat = min(min(row["ess_bulk"], row["ess_tail"]) for row in rows), max(row["rhat"] for row in rows)
    if least < LEAST or rhat > RHAT or "agrees with" not in verdict:
        figures = f"gibbs: effective sample sizes from {least:,.0f}, R-hat up to {rhat:.3f}"
        raise ValueError(f"{name}: no reference; {figures}; importance_modes: {verdict}")
    value = {row["functional"]: {"mean": row["mean"], "sd": row["sd"], "error": row["mcse"]} for row in rows}
    check = found.backends["importance_modes"]
    return {
        "name": name,
        "inputs": {"sha256": MODELS[name].data.sha256, "seed": SEED, "settings": SETTINGS, "versions": found.versions},
        "value": value,
        "tolerance": {"abs_in_posterior_sd": max(v["error"] / v["sd"] for v in value.values())},
        "method": f"gibbs, 4 chains of 25,000 draws, every tenth sweep, effective sample sizes from {least:,.0f}",
        "check": {"method": "importance_modes, 400,000 particles", "value": verdict},
        "log_evidence": {"value": check["log_evidence"], "error": check["log_evidence_se"]},
    }


def main(names: list[str]) -> None:
    file = pathlib.Path(__file__).parent / "references" / f"{LONG_RUNS}.json"
    there = json.loads(file.read_text())["records"] if file.is_file() else []
    for name in names:
        there = [found for found in there if found["name"] != name] + [record(name)]
        title = "Long runs where there is no exact posterior: python -m diagnostics.long_runs MODEL"
        file.write_text(json.dumps({"title": title, "records": there}, indent=1) + "\n")
        print(f"{name}: {there[-1]['method']}; {there[-1]['check']['value']}", flush=True)


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main(sys.argv[1:])
