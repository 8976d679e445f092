"""Reference values kept with the package: exact or long-run answers, each with its error and origin.

Every file in `references/` holds records {name, inputs, value, tolerance, method, check}: `value` by `method`, held by
`check` to a second method where there is one, good to `tolerance`.
"""

import functools
import json
from importlib import resources
from typing import Any

from diagnostics.reference import Reference, Value
from zoo import MODELS
from zoo.dataset import checksum

LONG_RUNS = "long_runs"  # the file of the references made here, by `diagnostics.long_runs`


@functools.cache
def stored(name: str) -> dict[str, dict[str, Any]]:
    """The records of `references/<name>.json` by their names. Raises ValueError for a file that is not there."""
    folder = resources.files("diagnostics") / "references"
    file = folder / f"{name}.json"
    if not file.is_file():
        there = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
        raise ValueError(f"no stored reference {name!r}; there are {', '.join(there)}")
    return {record["name"]: record for record in json.loads(file.read_text())["records"]}


def tolerance(record) -> dict[str, float]:
    """The record's tolerance as NumPy's `rtol` and `atol`."""
    return {"rtol": record["tolerance"].get("rel", 0.0), "atol": record["tolerance"].get("abs", 0.0)}


def stored_reference(model, x) -> Reference | None:
    """The stored posterior of this model on these data, or None.

    It must be of the very model (a variant such as `three_gaussians[prior_sd=5.0]` is another) and the very data.
    """
    if model.name not in MODELS or model is not MODELS[model.name] or checksum(x) != model.data.sha256:
        return None
    if model.name in _STORED:
        return _STORED[model.name]()
    record = stored(LONG_RUNS).get(model.name)
    return None if record is None or record["inputs"]["sha256"] != model.data.sha256 else _long_run(record)


def _long_run(record) -> Reference:
    values = {name: Value(*found.values()) for name, found in record["value"].items()}
    source = f"{record['method']}; held to {record['check']['method']}"
    labellings = {tuple(entry["labelling"]): entry["mass"] for entry in record["labellings"]}
    evidence = record["log_evidence"]
    return Reference(
        "stored", source, values, evidence["value"], evidence["error"], labellings, made_by=record["made_by"]
    )


def _three_gaussians() -> Reference:
    record = stored("three_gaussians")["blog.bayes_K3.posterior"]
    check = record["check"]["value"]
    values = {
        f"sorted_{name}[{k}]": Value(record["value"][f"{key}{k}"]["mean"], record["value"][f"{key}{k}"]["sd"], error)
        for key, name in {"pi": "weights", "mu": "means", "sigma": "scales"}.items()
        for k in range(3)
        for error in [check[f"{key}{k}"]["mcse_mean"]]  # the larger of the two methods' errors
    }
    source = f"{record['method']}; in agreement with {record['check']['method']}, whose errors these are"
    return Reference("stored", source, values, -2548.0, 0.1 / 12**0.5)  # known to one decimal; the error is rounding's


def _sorted_means(evidence, moments, source) -> Reference:
    """Exact values: their tolerance is their error."""
    error = moments["tolerance"]["abs"]
    found = moments["value"]
    means = found.get("mean") or [found["lo_mean"], found["hi_mean"]]
    sds = found.get("sd") or [found["lo_sd"], found["hi_sd"]]
    values = {f"sorted_means[{k}]": Value(mean, sd, error) for k, (mean, sd) in enumerate(zip(means, sds, strict=True))}
    log_evidence = evidence["value"]["log_evidence"] if isinstance(evidence["value"], dict) else evidence["value"]
    return Reference("stored", source, values, log_evidence, evidence["tolerance"]["abs"])


def _bento() -> Reference:
    records = stored("bento")
    method = records["bento.log_evidence"]["method"]
    return _sorted_means(records["bento.log_evidence"], records["bento.ordered_posterior"], method)


def _bento_425() -> Reference:
    record = stored("bento425")["bento425.evidence_and_ordered_means"]
    return _sorted_means(record, record, record["method"])


def _coffee() -> Reference:
    records = stored("coffee")
    method = records["coffee.log_evidence"]["method"]
    return _sorted_means(records["coffee.log_evidence"], records["coffee.ordered_posterior"], method)


_STORED = {"bento": _bento, "bento_425": _bento_425, "coffee": _coffee, "three_gaussians": _three_gaussians}
