"""Which modes the starts of the chains covered."""

import numpy as np
import pytest

from diagnostics import compare, report, starts
from inference import fit
from zoo import MODELS


@pytest.fixture(scope="module")
def comparison():
    settings = {"num_warmup": 5, "num_draws": 5, "num_chains": 3}
    return compare(MODELS["bento_425"], ["gibbs", "em"], settings=settings)


def test_the_modes_of_the_starts_are_those_that_em_knows(comparison):
    found = fit(MODELS["bento_425"], "em")
    known = {round(float(f), 6) for f in found.log_density[found.admissible]}
    modes = starts.covered(comparison)
    assert set(modes) == {"gibbs"} and any(m.log_density is not None for m in modes["gibbs"])
    for each in modes.values():
        assert sum(m.num_chains for m in each) == 3
        assert {round(m.log_density, 6) for m in each if m.log_density is not None} <= known
        assert [m.log_density for m in each] == sorted((m.log_density for m in each), reverse=True)


def test_a_mode_in_which_no_chain_began_is_named(comparison):
    best = float(comparison.results["em"].log_density[0])
    ends = comparison.results["em"]
    worse = next(r for r in range(len(ends.log_density)) if ends.log_density[r] < best - 1 and ends.admissible[r])
    there = {"means": np.repeat(np.asarray(ends.params["means"])[worse][None], 3, axis=0)}
    gibbs = comparison.results["gibbs"]
    comparison.results["gibbs"] = gibbs._replace(starts=there)
    try:
        modes = starts.covered(comparison)["gibbs"]
        said = starts.sentences(comparison)
    finally:
        comparison.results["gibbs"] = gibbs
    assert [m.num_chains for m in modes] == [3]
    assert modes[0].log_density == pytest.approx(float(ends.log_density[worse]), abs=1e-6)
    assert any(f"of log density {best:.3f}" in sentence and "gibbs" in sentence for sentence in said)


def test_the_starts_are_the_uninterrupted_runs_when_resumed():
    short = fit(MODELS["bento"], "gibbs", num_warmup=5, num_draws=5)
    longer = fit(MODELS["bento"], "gibbs", num_warmup=5, num_draws=9, resume=short)
    assert np.array_equal(short.starts["means"], longer.starts["means"])
    assert np.shape(short.starts["means"]) == (4, 2)


def test_chains_without_starts_and_models_without_em_say_nothing():
    known = compare(MODELS["bento_known"], ["gibbs"], settings={"num_warmup": 5, "num_draws": 5})
    assert starts.covered(known) == {} and starts.sentences(known) == []


def test_a_climb_that_fails_is_said_in_the_report(comparison, monkeypatch):
    def fails(*args):
        raise FloatingPointError("no number")

    monkeypatch.setattr(starts.em, "climb_from", fails)
    (said,) = report._starts(comparison)
    assert "EM from their starts failed (FloatingPointError: no number)" in said
