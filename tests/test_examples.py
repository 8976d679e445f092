"""The examples run as they stand, and a model in a file of its own gets every back end."""

import json
import pathlib

import jax
import numpy as np
import pytest

from diagnostics import calibration, contract
from diagnostics.cli import main
from inference import conjugacy, gibbs
from zoo.load import load

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def queues():
    return load(f"{EXAMPLES / 'two_queues.py'}:two_queues")


def test_the_python_example_of_the_readme_runs(tmp_path, printed_by):
    assert "(4, 500, 2)" in printed_by("fit_and_compare.py")
    assert (tmp_path / "out" / "example" / "comparison.json").exists()


@pytest.mark.slow
def test_a_model_with_one_address_per_observation_runs_with_five_back_ends(printed_by):
    lines = printed_by("unrolled.py").splitlines()
    assert sum("sorted_means[1]" in line for line in lines) == 6
    verdicts = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert all(verdicts[name].startswith("mixed") for name in ("gibbs", "metropolis", "nuts"))
    assert verdicts["em"].startswith("at the MAP")
    assert verdicts.keys() == {"quadrature", "importance", "metropolis", "gibbs", "em", "nuts"}


def test_a_model_in_one_file_keeps_the_contract(queues):
    broken = {k: f.detail for k, f in contract.check(queues).items() if not f.holds}
    assert not broken


def test_gibbs_serves_a_model_in_one_file_by_the_rule_that_it_meets(queues):
    assert [rule.name for rule in conjugacy.rules(queues)] == ["Gamma rate, exponential"]
    result = calibration.joint_test(queues, gibbs.build(queues, 0), jax.random.key(0))
    assert result.passed, result


@pytest.mark.slow
def test_a_model_in_one_file_is_compared_from_the_command_line(tmp_path, queues):
    spec = f"{EXAMPLES / 'two_queues.py'}:two_queues"
    short = ["--chains", "2", "--warmup", "50", "--draws", "100", "--option", "importance.num_particles=2000"]
    status = main(["compare", "--model", spec, "--out", str(tmp_path), "--quiet", *short])
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert status == 0 and found["model"].startswith("two_queues")
    ran = {name for name, backend in found["backends"].items() if backend["status"] == "ok"}
    assert {"gibbs", "metropolis", "nuts", "em", "importance"} <= ran
    assert found["backends"]["enumeration"]["status"] == "refused"
    assert all(np.isfinite(row["mean"]) for row in found["rows"] if row["mean"] is not None)
