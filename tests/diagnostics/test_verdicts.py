"""The rules by which rows become words, on rows and draws made by hand."""

import math

import numpy as np
import pytest

from diagnostics import summaries, verdicts
from diagnostics.rows import COLUMNS, constant
from inference.importance import no_evidence


def test_the_number_of_draws_asked_for_shrinks_the_interval_enough():
    row = dict.fromkeys(COLUMNS) | {"functional": "f", "mean": 0.1, "sd": 1.0, "mcse": 0.1, "z": 1.0}
    row |= {"reference_mean": 0.0, "reference_sd": 1.0, "reference_error": 0.0, "ess_bulk": 100.0}
    says = verdicts.agreement([row], "exact", num_draws=100)
    assert says.startswith("cannot tell: effective sample size too small, about ")
    num = float(says.split("about ")[1].split(" draws")[0].replace(",", ""))
    assert verdicts.intervals([row | {"mcse": 0.1 * math.sqrt(100 / (1.05 * num))}])[0].close


def test_a_heavy_tail_of_many_effective_weights_is_named_and_not_called_few_draws():
    says = verdicts.of_weights([], "exact", 5000, 250.0, 0.9, (1.0, 0.1), (1.0, 0.0))
    assert says.startswith("not usable, Pareto k above 0.7 (") and "few effective draws" not in says


def test_weighted_draws_too_few_to_judge_are_not_called_rare():
    row = dict.fromkeys(COLUMNS) | {"functional": "f", "mean": 0.0, "sd": 1.0, "mcse": 0.2, "reference_mean": 0.1}
    assert verdicts.agreement([row], "exact", 30) == "cannot tell: too few draws to judge: f"
    assert verdicts.agreement([row], "exact", 3000) == "cannot tell: since rare draws make up their mean: f"


def test_bonferroni_quantiles_are_those_of_the_rule():
    assert verdicts.quantile(100, 0.001) == pytest.approx(4.4, abs=0.02)
    assert verdicts.quantile(10_000, 0.001) == pytest.approx(5.3, abs=0.05)


def test_failures_are_silent_for_a_good_row_and_speak_for_a_bad_one():
    good = dict.fromkeys(COLUMNS) | {"functional": "f", "mean": 1.0, "mcse": 0.1, "z": 3.0, "z_sd": 1.0}
    good |= {"ess_bulk": 900.0, "ess_tail": 900.0, "rhat": 1.0, "reference_mean": 0.7, "reference_error": 0.0}
    assert verdicts.failures([good]) == []
    assert "z = 5.0" in verdicts.failures([good | {"z": 5.0}])[0]
    assert "z_sd = -5.0" in verdicts.failures([good | {"z_sd": -5.0}])[0]
    assert "too small to test" in verdicts.failures([good | {"ess_tail": 100.0}])[0]
    assert "too small to test" in verdicts.failures([good | {"ess_tail": 100.0, "rhat": None}])[0]
    assert verdicts.failures([good | {"z": 3.8}]) and verdicts.failures([good | {"z": 3.8}], num=100) == []
    # eight runs have a standard error with 7 degrees of freedom: two comparisons at .001 allow 6.1, not 3.5
    runs = good | {"z": 5.0, "ess_bulk": None, "ess_tail": None}
    assert verdicts.failures([runs]) and verdicts.failures([runs], degrees=7) == []
    assert verdicts.failures([runs | {"z": 8.0}], degrees=7)


def test_a_probability_that_few_draws_carry_is_held_to_its_effective_draws():
    row = dict.fromkeys(COLUMNS) | {"functional": "co_clustering[0,1]", "mean": 6.5e-4, "sd": 0.02, "mcse": 4e-4}
    row |= {"ess_bulk": 4015.0, "ess_tail": 4015.0, "rhat": 1.0}
    far = row | {"reference_mean": 0.5, "reference_sd": 0.3, "reference_error": 1e-4}
    assert "by few draws, reference 0.5" in verdicts.failures([far])[0]
    assert verdicts.agreement([far], "it", 4000) == "disagrees with it in co_clustering[0,1]"
    near = row | {"reference_mean": 1e-3, "reference_sd": 0.03, "reference_error": 1e-5}
    assert verdicts.failures([near]) == [] and "cannot tell: since rare draws" in verdicts.agreement([near], "it", 4000)


def test_effective_draws_of_runs_come_from_their_spread_not_from_copies():
    runs = dict.fromkeys(COLUMNS) | {"functional": "f", "mean": 1.0, "sd": 1.0, "mcse": 0.05, "z": 0.0}
    runs |= {"reference_mean": 1.0, "reference_sd": 1.0, "reference_error": 0.0}
    assert verdicts.least_ess([runs], 16_384) == pytest.approx(400)
    constant = dict.fromkeys(COLUMNS) | {"functional": "occupied", "mean": 2.0, "sd": 0.0}
    constant |= {"reference_mean": 1.999, "reference_sd": 0.03, "reference_error": 0.0}
    assert "disagrees" not in verdicts.agreement([runs, constant], "it", 16_384, 7)
    other = constant | {"reference_mean": 1.5}
    assert "disagrees with it in occupied" == verdicts.agreement([runs, other], "it", 16_384, 7)
    assert verdicts.failures([constant]), "where nothing says how many draws there are, a constant is the reference's"


def test_mixing_wants_a_thousand_effective_draws_and_a_small_rhat():
    row = {"functional": "f", "mean": 1.0, "sd": 1.0, "mcse": 0.1, "rhat": 1.009, "ess_bulk": 1e3, "ess_tail": 1e3}
    assert verdicts.mixing([row])[0]
    assert verdicts.mixing([row | {"ess_tail": 999.0}]) == (False, "effective sample size 999 for f")
    assert verdicts.mixing([row | {"rhat": 1.01}]) == (False, "R-hat 1.010 for f")


def test_few_draws_that_carry_a_mean_leave_it_untested():
    rng = np.random.default_rng(0)
    assert summaries.carriers(rng.standard_normal(4000)) == pytest.approx(4000 / 3, rel=0.1)
    rare = np.zeros(4000)
    rare[:5] = 1.0
    assert summaries.carriers(rare - rare.mean()) == pytest.approx(5, rel=0.01)
    assert summaries.carriers(np.zeros(10)) == math.inf


def test_a_probability_that_only_weightless_draws_move_is_constant_under_the_weights():
    f = np.array([[1e-30, 2e-30, 0.7]])
    share = np.array([[0.6, 0.4, 1e-30]])
    mean = summaries.weighted_mean(share)
    sd = np.sqrt(mean((f - mean(f)[0]) ** 2)[0])
    assert constant("co_clustering[0,1]", f, sd)
    assert not constant("co_clustering[0,1]", f)
    assert not constant("co_clustering[0,1]", f, 1e-3)


def test_weights_whose_pareto_k_disproves_them_give_no_evidence():
    assert no_evidence(500, 0.95) and no_evidence(9, 0.1)
    assert not no_evidence(500, 0.7) and not no_evidence(50, 33.0), "few draws are shown as such"


def test_chains_that_stay_in_one_labelling_are_said_to():
    masses = {(0, 1, 2): 0.956, (1, 0, 2): 0.023}
    stuck, free = {(0, 1, 2): (1.0, None)}, {(0, 1, 2): (0.958, 0.003), (1, 0, 2): (0.021, 0.002)}
    said = "; every draw has the labelling (0, 1, 2), whose mass is 0.956"
    assert verdicts.of_shares(stuck, masses, 1000) == said and verdicts.of_shares(free, masses, 1000) == ""
    assert verdicts.of_shares(stuck, masses, 100) == "", "a hundred draws miss .044 once in ninety times"
