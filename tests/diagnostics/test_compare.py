"""Back ends made by hand from exact independent draws of bento, so that every verdict is known beforehand."""

import json
import math
import re
import sys
import types

import numpy as np
import pytest

import inference
from diagnostics import summaries, tables, verdicts
from diagnostics.compare import compare, plan
from diagnostics.reference import Reference, Value, value_of
from diagnostics.rows import COLUMNS, row_of
from inference import smc
from inference.results import Cost, Draws, Exact, PointMass
from zoo.models.bento import bento
from zoo.models.coffee import coffee
from zoo.models.three_gaussians import three_gaussians

MEANS = np.array([350.25994801, 499.98666844])
SDS = np.array([0.70703608, 0.57731178])
LOG_EVIDENCE = -65.31374998980641
COST = Cost(1.0, 2.0, 100, 0, 1000)


def exact_draws(rng, shape, shift=0.0, stretch=1.0):
    """Independent draws of bento's posterior in random labels; `shift` and `stretch` spoil the lower mean, in sds."""
    lower = MEANS[0] + SDS[0] * (shift + stretch * rng.standard_normal(shape))
    upper = MEANS[1] + SDS[1] * rng.standard_normal(shape)
    means = np.stack([lower, upper], axis=-1)
    flip = rng.random(shape) < 0.5
    return np.where(flip[..., None], means[..., ::-1], means)


def chains(means):
    """Draws as a chain back end returns them."""
    x = np.asarray(bento().data.x)
    z = np.abs(x[:, None] - means[..., None, :]).argmin(axis=-1).astype(np.int32)
    return Draws(params={"means": means}, assignments=z, cost=COST, stats={"lp": np.zeros(means.shape[:2])})


def grid():
    """Quadrature's kind of answer: nodes over both labellings with their weights."""
    steps = np.linspace(-8, 8, 81)
    a, b = np.meshgrid(steps, steps, indexing="ij")
    means = np.stack([MEANS[0] + SDS[0] * a.ravel(), MEANS[1] + SDS[1] * b.ravel()], axis=-1)
    log_weights = np.tile(-0.5 * (a**2 + b**2).ravel(), 2)
    log_weights -= np.logaddexp.reduce(log_weights)
    nodes = {"means": np.concatenate([means, means[:, ::-1]])}
    return Exact(LOG_EVIDENCE, 1e-12, COST, nodes=nodes, log_weights=log_weights, missed_mass=1e-13)


def weighted(rng, num, noise):
    """Draws from a wider normal with their importance weights, blurred by `noise` in logs."""
    standard = 1.5 * rng.standard_normal((num, 2))
    means = MEANS + SDS * standard
    log_weights = (-0.5 * standard**2 + 0.5 * (standard / 1.5) ** 2).sum(axis=1) + noise * rng.standard_normal(num)
    return Draws(
        params={"means": means[None]},
        assignments=None,
        cost=COST,
        log_weights=log_weights[None],
        log_evidence=LOG_EVIDENCE + 0.01,
        log_evidence_se=0.02,
    )


def point(shift=0.0, admissible=True):
    means = np.array([[350.25990, 499.98668 + shift], [350.0, 350.0]])
    densities = np.array([float(bento().log_density({"means": m}, bento().data.x)) for m in means])
    kept = np.array([admissible, False])
    return PointMass({"means": means}, densities, np.array([5, 9]), kept, kept, np.zeros(2), COST)


def returning(outcome):
    """A back end that reports one step of two and then returns, or raises, `outcome`."""

    def run(model, x, key, *, num_draws=10, num_chains=4, width=1.0, progress=None):
        if progress is not None:
            progress(1, 2)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


@pytest.fixture
def backends(monkeypatch):
    """`backends(name=(kind, result or exception or refusal))` in place of the real ones."""

    def install(**fakes):
        table = {}
        for name, (kind, outcome) in fakes.items():
            module = types.ModuleType(f"fake_{name}")

            setattr(module, name, returning(outcome))
            module.refuses = lambda model, x, outcome=outcome: outcome if isinstance(outcome, str) else None
            monkeypatch.setitem(sys.modules, module.__name__, module)
            table[name] = (module.__name__, kind, True)
        monkeypatch.setattr(inference, "TABLE", table)

    return install


def verdict_of(backends, result, kind="mcmc"):
    backends(quadrature=("exact", grid()), tried=(kind, result))
    return compare(bento()).backends["tried"]


def rows_of(comparison, name):
    return {row["functional"]: row for row in comparison.rows if row["backend"] == name}


def test_exact_independent_draws_are_mixed_and_agree_on_every_functional(backends):
    entry = verdict_of(backends, chains(exact_draws(np.random.default_rng(0), (4, 1000))))
    assert entry["verdict"].startswith("mixed (R-hat at most 1.0")
    assert "; agrees with quadrature (to within 0.3 sd) on 28 functionals (12 constant)" in entry["verdict"]
    assert entry["usable"] and entry["status"] == "ok"


def test_draws_shifted_by_a_fifth_of_an_sd_disagree_in_that_functional(backends):
    entry = verdict_of(backends, chains(exact_draws(np.random.default_rng(0), (4, 1000), shift=0.2)))
    assert entry["verdict"].startswith("mixed") and "disagrees with quadrature in" in entry["verdict"]
    backends(
        quadrature=("exact", grid()), tried=("mcmc", chains(exact_draws(np.random.default_rng(0), (4, 1000), 0.2)))
    )
    rows = rows_of(compare(bento()), "tried")
    assert abs(rows["sorted_means[0]"]["z"]) > 8 and abs(rows["sorted_means[1]"]["z"]) < 4


def test_draws_too_spread_disagree_in_the_spread_though_their_means_are_right(backends):
    backends(
        quadrature=("exact", grid()),
        tried=("mcmc", chains(exact_draws(np.random.default_rng(3), (4, 1000), stretch=1.3))),
    )
    comparison = compare(bento())
    row = rows_of(comparison, "tried")["sorted_means[0]"]
    assert abs(row["z"]) < 4 and row["z_sd"] > 8
    assert "the spread of sorted_means[0]" in str(verdicts.intervals([row])) and verdicts.intervals([row])[1].differs
    assert "disagrees with quadrature in" in comparison.backends["tried"]["verdict"]


def test_chains_at_different_levels_cannot_tell(backends):
    means = exact_draws(np.random.default_rng(0), (4, 1000))
    means[3] += 3.0
    says = verdict_of(backends, chains(means))["verdict"]
    assert says.startswith("not mixed (R-hat") and says.endswith("cannot tell, chains disagree")


def test_chains_that_never_move_cannot_tell(backends):
    means = np.broadcast_to(exact_draws(np.random.default_rng(0), (4, 1)), (4, 1000, 2)).copy()
    says = verdict_of(backends, chains(means))["verdict"]
    assert says.startswith("not mixed (every chain keeps its own value of log_density")
    assert says.endswith("chains disagree")


def test_too_few_draws_cannot_tell_and_ask_for_more(backends):
    says = verdict_of(backends, chains(exact_draws(np.random.default_rng(1), (4, 25))))["verdict"]
    assert "not mixed (effective sample size" in says or "not mixed (R-hat" in says
    assert "cannot tell" in says


def test_z_of_exact_draws_has_the_spread_of_a_standard_normal():
    model, truth = bento(), summaries.summarise(grid(), "exact", bento(), bento().data.x)
    rng, found = np.random.default_rng(5), {"z": [], "z_sd": []}
    names = ("sorted_means[0]", "sorted_means[1]", "log_density")
    reference = Reference("exact", "grid", {name: value_of(truth.values[name], truth) for name in names})
    for _ in range(60):
        summary = summaries.summarise(chains(exact_draws(rng, (4, 500))), "mcmc", model, model.data.x)
        for name in names:
            row = row_of("tried", name, summary.values[name], summary, 1.0, reference)
            found["z"].append(row["z"])
            found["z_sd"] += [row["z_sd"]] if row["z_sd"] is not None else []  # few draws may carry E[log_density^2]
    assert len(found["z_sd"]) > 120
    for kind, z in found.items():
        spread = np.sqrt(np.mean(np.square(z)))
        assert abs(spread - 1) < 4 * spread / math.sqrt(2 * 120), f"{kind} has root mean square {spread:.2f}"


def test_rows_of_chains_hold_arviz_numbers_and_effective_draws_per_second(backends):
    import arviz as az

    draws = chains(exact_draws(np.random.default_rng(0), (4, 300)))
    backends(quadrature=("exact", grid()), tried=("mcmc", draws))
    row = rows_of(compare(bento()), "tried")["sorted_means[1]"]
    f = draws.params["means"].max(axis=-1)
    assert row["mean"] == pytest.approx(f.mean()) and row["sd"] == pytest.approx(f.std())
    assert row["ess_bulk"] == pytest.approx(float(az.ess(f))) and row["rhat"] == pytest.approx(float(az.rhat(f)))
    assert row["ess_tail"] == pytest.approx(float(az.ess(f, method="tail")))
    assert row["mcse"] == pytest.approx(float(az.mcse(f)))
    assert row["ess_per_second"] == pytest.approx(row["ess_bulk"] / COST.run_seconds)
    assert row["z"] == pytest.approx((row["mean"] - MEANS[1]) / row["mcse"], abs=1e-3)
    assert row["reference_mean"] == pytest.approx(MEANS[1]) and row["reference_sd"] == pytest.approx(SDS[1], rel=1e-6)


def test_a_functional_that_never_varies_is_compared_by_its_value(backends):
    backends(quadrature=("exact", grid()), tried=("mcmc", chains(exact_draws(np.random.default_rng(0), (4, 100)))))
    row = rows_of(compare(bento()), "tried")["co_clustering[3,15]"]
    assert [row[c] for c in ("mcse", "z", "z_sd", "rhat", "ess_bulk", "ess_tail")] == [None] * 6
    assert row["mean"] == row["reference_mean"] == 1.0
    assert not verdicts.constant_differs(row, 400)
    assert verdicts.constant_differs(row | {"reference_mean": 0.9}, 400)
    assert not verdicts.constant_differs(row | {"reference_mean": 1 - 1e-3}, 400)  # .999^400 is not rare
    assert verdicts.constant_differs(row | {"reference_mean": 1 - 1e-3}, 20_000)
    assert verdicts.constant_differs(row | {"functional": "entropy", "reference_mean": 1 - 1e-3}, 400)


def test_a_constant_that_is_not_the_references_is_a_disagreement():
    row = dict.fromkeys(COLUMNS) | {"functional": "co_clustering[0,1]", "mean": 1.0, "sd": 0.0}
    row |= {"reference_mean": 0.5, "reference_sd": 0.5, "reference_error": 0.0}
    assert verdicts.agreement([row], "exact", 4000) == "disagrees with exact in co_clustering[0,1]"
    assert verdicts.agreement([row | {"reference_mean": 1.0}], "exact", 4000).startswith("agrees")


def test_good_weights_are_usable_and_agree_and_have_no_rhat(backends):
    backends(quadrature=("exact", grid()), tried=("weighted", weighted(np.random.default_rng(0), 20_000, 0.0)))
    comparison = compare(bento())
    entry, row = comparison.backends["tried"], rows_of(comparison, "tried")["sorted_means[0]"]
    assert entry["usable"] and entry["verdict"].startswith("usable (effective sample size of the weights")
    assert "agrees with quadrature" in entry["verdict"] and "right within its error" in entry["verdict"]
    assert row["rhat"] is None and row["ess_tail"] is None and row["ess_bulk"] > 5000


def test_the_standard_error_of_weighted_means_is_that_of_repetitions():
    rng, errors, means = np.random.default_rng(2), [], []
    for _ in range(200):
        draws = weighted(rng, 400, 0.0)
        w = np.exp(draws.log_weights[0])
        mean, error, _ = summaries.weighted_mean(w / w.sum())(draws.params["means"][0, :, 0])
        means.append(mean)
        errors.append(error)
    spread = np.std(means)
    assert abs(np.mean(errors) - spread) < 4 * spread / math.sqrt(2 * 200)


def test_collapsed_weights_are_not_usable_and_few_effective_draws_are_said_to_be_few(backends):
    rng = np.random.default_rng(0)
    collapsed = verdict_of(backends, weighted(rng, 2000, 30.0), "weighted")
    assert not collapsed["usable"] and "not usable, the weights have collapsed" in collapsed["verdict"]
    few = verdict_of(backends, weighted(rng, 60, 0.0), "weighted")
    assert not few["usable"] and "few effective draws" in few["verdict"]
    assert "right within its error" in few["verdict"]


def test_a_wrong_log_evidence_is_told(backends):
    wrong = weighted(np.random.default_rng(0), 20_000, 0.0)._replace(log_evidence=LOG_EVIDENCE + 1)
    assert "off by more than 4 standard errors" in verdict_of(backends, wrong, "weighted")["verdict"]


def test_a_point_is_at_the_map_when_no_draw_is_higher(backends):
    entry = verdict_of(backends, point(), "point")
    assert entry["usable"] and entry["verdict"].startswith("at the MAP (log density -66.9487")
    likelihood = float(bento().log_likelihood({"means": np.array([350.25990, 499.98668])}, bento().data.x))
    assert f"log likelihood {likelihood:.6f}, reached by 1 of 2 restarts): best of 2 restarts; " in entry["verdict"]
    assert entry["verdict"].endswith("no draw of another back end is higher")


def test_a_point_below_a_draw_is_not_at_the_map(backends):
    assert verdict_of(backends, point(shift=1.0), "point")["verdict"].startswith("not at the MAP")


def test_a_point_without_an_admissible_restart_is_not_usable(backends):
    entry = verdict_of(backends, point(admissible=False), "point")
    assert not entry["usable"] and entry["verdict"].startswith("no admissible optimum")


@pytest.mark.slow
def test_a_point_without_an_admissible_restart_names_the_causes_that_are_there(backends):
    short = compare(bento(), ["em"], settings={"num_restarts": 4, "max_steps": 1}, reference="none").backends["em"]
    assert short["verdict"] == "no admissible optimum: all 4 restarts ended without converging"
    wide = compare(bento(scale=25.0), ["em"], settings={"num_restarts": 4}, reference="none").backends["em"]
    assert "no admissible" not in wide["verdict"]
    spurious = {"num_restarts": 4, "floor": 2.0, "max_steps": 300}
    narrow = compare(three_gaussians(), ["em"], settings=spurious, reference="none").backends["em"]
    assert narrow["verdict"] == "no admissible optimum: all 4 restarts ended in a singularity below the scale floor"
    said = point(admissible=False)._replace(ended=np.array(["empty component", "empty component"]))
    assert verdict_of(backends, said, "point")["verdict"].endswith("all 2 restarts ended with an empty component")


@pytest.mark.parametrize(
    "ended, phrase",
    [
        ("not converged", "without converging"),
        ("saddle point", "at a saddle point"),
        ("not stationary", "at a point that is not stationary"),
    ],
)
def test_a_point_below_a_restart_that_is_no_maximum_is_not_the_highest(backends, ended, phrase):
    found = point()
    climbing = found._replace(ended=np.array(["converged", ended]), log_density=found.log_density[0] + [0, 1])
    says = verdict_of(backends, climbing, "point")["verdict"]
    assert says.startswith("not at the MAP (") and f"a restart that ended {phrase} has -65.94" in says
    lower = climbing._replace(log_density=found.log_density[0] - [0, 1])
    assert phrase not in verdict_of(backends, lower, "point")["verdict"]
    backends(tried=("point", climbing._replace(log_density=found.log_density[0] + [0, 1e-10])))
    says = compare(bento(), reference="none").backends["tried"]["verdict"]
    assert says.endswith("nothing to hold it against")  # no higher but for rounding


def test_a_maximum_likelihood_is_held_against_the_stored_one():
    settings = {"prior": False, "num_restarts": 8}
    says = compare(three_gaussians(), ["em"], settings=settings, reference="none").backends["em"]["verdict"]
    assert says.startswith("at the maximum likelihood (log likelihood -2517.610055, reached by ")
    assert says.endswith("best of 8 restarts; the stored maximum likelihood is -2517.610055")
    lower = verdicts.of_point(-2600.0, -2600.0, None, -2517.6, map_estimate=False, admissible=True, restarts=(1, 8))
    assert lower.startswith("not at the maximum likelihood (") and "the stored maximum likelihood is -2517.6" in lower


def test_point_rows_hold_a_value_and_no_error(backends):
    backends(quadrature=("exact", grid()), tried=("point", point()))
    row = rows_of(compare(bento()), "tried")["sorted_means[0]"]
    assert row["mean"] == pytest.approx(350.2599) and row["reference_mean"] is not None
    assert all(row[c] is None for c in ("sd", "mcse", "z", "z_sd", "rhat", "ess_bulk"))


def test_refused_and_failed_back_ends_do_not_stop_the_others(backends):
    backends(
        no=("mcmc", "it cannot count"),
        broken=("mcmc", RuntimeError("the step size\nis zero")),
        set_so=("mcmc", inference.Refused("set_so: fast=True is not for bento")),
        quadrature=("exact", grid()),
    )
    comparison = compare(bento())
    assert {name: (e["status"], e["reason"]) for name, e in comparison.backends.items()} == {
        "no": ("refused", "it cannot count"),
        "broken": ("failed", "RuntimeError: the step size"),
        "set_so": ("refused", "set_so: fast=True is not for bento"),
        "quadrature": ("ok", None),
    }
    assert list(comparison.results) == ["quadrature"]


def test_ctrl_c_keeps_what_is_done(backends):
    backends(
        quadrature=("exact", grid()), slow=("mcmc", KeyboardInterrupt()), later=("mcmc", chains(np.ones((1, 5, 2))))
    )
    comparison = compare(bento())
    assert comparison.interrupted and list(comparison.results) == ["quadrature"]
    assert comparison.backends["slow"]["reason"] == "interrupted: nothing of an unfinished slow run is kept"
    assert comparison.backends["later"]["reason"] == "interrupted before it began"


def test_draws_that_are_not_finite_leave_nulls_and_a_warning(backends):
    means = exact_draws(np.random.default_rng(0), (4, 50))
    means[0, 0] = np.nan
    backends(quadrature=("exact", grid()), tried=("mcmc", chains(means)))
    comparison = compare(bento())
    assert rows_of(comparison, "tried")["log_density"]["mean"] is None
    assert "not finite in some draws" in comparison.backends["tried"]["warnings"][0]


def test_draws_that_are_not_finite_are_not_mixed_not_usable_and_agree_with_nothing(backends):
    means = exact_draws(np.random.default_rng(0), (4, 1000))
    means[0, 0] = np.nan
    backends(quadrature=("exact", grid()), tried=("mcmc", chains(means)))
    comparison = compare(bento())
    entry = comparison.backends["tried"]
    assert entry["verdict"].startswith("not mixed (not finite in some draws: log_density")
    assert "agrees" not in entry["verdict"] and not entry["usable"]
    rows = [row for row in comparison.rows if row["backend"] == "tried"]
    assert "log_density: not finite in some draws" in verdicts.failures(rows)


def test_one_chain_is_not_mixed_however_long_and_stuck_or_not(backends):
    rng = np.random.default_rng(0)
    entry = verdict_of(backends, chains(exact_draws(rng, (1, 5000))))
    assert entry["verdict"].startswith("not mixed (R-hat needs at least two chains of four draws); agrees with")
    stuck = np.repeat(exact_draws(rng, (1, 1)), 1000, axis=1)
    assert verdict_of(backends, chains(stuck))["verdict"].startswith("not mixed (R-hat needs at least two chains")


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_fewer_than_four_draws_are_too_few_to_judge_and_arviz_is_not_asked(backends, capfd, shape):
    backends(quadrature=("exact", grid()), tried=("mcmc", chains(exact_draws(np.random.default_rng(0), shape))))
    comparison = compare(bento())
    says = comparison.backends["tried"]["verdict"]
    assert says.startswith("not mixed (R-hat needs at least two chains of four draws)") and "rare draws" not in says
    assert "keeps its own value" not in says and "agrees" not in says.replace("disagrees", "")
    assert "Shape validation failed" not in capfd.readouterr().err
    rows = [row for row in comparison.rows if row["backend"] == "tried"]
    if shape != (1, 1):  # one draw varies no more than a constant
        assert "cannot tell: too few draws to judge: log_density" in says
        assert "log_density: too few draws to test" in verdicts.failures(rows)


def test_chains_that_have_not_moved_in_ten_draws_are_too_few_draws_and_not_stuck(backends):
    means = np.repeat(exact_draws(np.random.default_rng(0), (4, 1)), 10, axis=1)
    says = verdict_of(backends, chains(means))["verdict"]
    assert says.startswith("not mixed (too few draws to judge)")
    assert "keeps its own value" not in says and "rare draws" not in says


def test_means_and_spreads_that_are_left_out_are_named_beside_the_count():
    row = dict.fromkeys(COLUMNS) | {"mean": 0.0, "sd": 1.0, "mcse": 0.01, "reference_mean": 0.0, "reference_sd": 1.0}
    row |= {"reference_error": 0.0, "ess_bulk": 9e3, "functional": "both", "z": 0.1, "z_sd": 0.1}
    fixed = row | {"functional": "fixed", "sd": 0.0, "mcse": None, "z": None, "z_sd": None, "reference_sd": 0.0}
    rows = [row, row | {"functional": "no spread", "z_sd": None}, row | {"functional": "neither", "z": None}, fixed]
    assert verdicts.agreement(rows, "exact", 10_000) == (
        "agrees with exact (to within 0.3 sd) on 3 functionals (1 constant); "
        "left out, since rare draws make up their mean: neither; spreads left out: no spread"
    )
    spreads = "; spreads left out, since rare draws make up them: no spread"
    assert verdicts.agreement(rows[:2], "exact", 10_000).endswith(spreads)


def test_progress_is_called_with_the_back_ends_name(backends):
    backends(quadrature=("exact", grid()))
    calls = []
    compare(bento(), progress=lambda *call: calls.append(call))
    assert calls == [("quadrature", 0, 1), ("quadrature", 1, 2), ("quadrature", 1, 1)]


def test_json_is_strict_and_has_the_documented_keys(backends):
    backends(
        quadrature=("exact", grid()),
        tried=("mcmc", chains(exact_draws(np.random.default_rng(0), (4, 100)))),
        no=("mcmc", "it cannot count"),
    )
    found = json.loads(compare(bento(), seed=7).to_json(), parse_constant=lambda text: pytest.fail(text))
    assert list(found) == [
        *("schema", "model", "data", "seed", "precision", "settings", "versions", "reference", "backends", "rows"),
        *("labellings", "labelling_shares", "labelling_share_errors"),
    ]
    assert (found["schema"], found["model"], found["seed"], found["precision"]) == (1, "bento", 7, "float64")
    assert list(found["data"]) == [
        *("name", "variant", "columns", "units", "standardized", "source", "licence", "sha256", "N", "D")
    ]
    assert found["data"]["N"] == 20 and found["data"]["columns"] == ["weight"] and found["data"]["units"] == "g"
    assert found["reference"] == {
        "kind": "exact",
        "source": "quadrature",
        "log_evidence": LOG_EVIDENCE,
        "log_evidence_se": 1e-12,
    }
    assert set(found["backends"]["no"]) >= {
        *("status", "reason", "kind", "usable", "cost", "log_evidence", "log_evidence_se", "warnings")
    }
    assert all(list(row) == list(COLUMNS) for row in found["rows"])
    assert found["settings"]["tried"] == {"num_draws": 10, "num_chains": 4, "width": 1.0}


def test_save_leaves_json_csv_and_one_file_per_result(backends, tmp_path):
    import pandas as pd

    backends(quadrature=("exact", grid()), no=("mcmc", "it cannot count"))
    comparison = compare(bento())
    assert sorted(path.name for path in comparison.save(tmp_path / "new")) == sorted(
        path.name for path in (tmp_path / "new").iterdir()
    )
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("comparison.json", "comparison.csv", "quadrature.nc")
    }
    frame = pd.read_csv(tmp_path / "new" / "comparison.csv")
    assert tuple(frame.columns) == COLUMNS and len(frame) == len(comparison.rows)


def test_quadrature_comes_before_enumeration_as_reference_and_neither_is_judged_by_itself(backends):
    independent = Exact(LOG_EVIDENCE, 0.0, COST, draws=chains(exact_draws(np.random.default_rng(0), (4, 500))))
    backends(enumeration=("exact", independent), quadrature=("exact", grid()))
    comparison = compare(bento())
    assert comparison.reference.source == "quadrature"
    assert rows_of(comparison, "quadrature")["log_density"]["z"] is None
    row = rows_of(comparison, "enumeration")["log_density"]
    assert abs(row["z"]) < 4.4 and row["rhat"] is None and row["mcse"] == pytest.approx(row["sd"] / math.sqrt(1999))
    comparison = compare(bento(), ["enumeration"])
    assert comparison.reference.source == "enumeration" and comparison.reference.kind == "exact"
    assert comparison.reference.values["log_density"].error == pytest.approx(row["mcse"])


def test_evidence_that_two_exact_back_ends_state_differently_is_warned_of(backends):
    backends(quadrature=("exact", grid()), enumeration=("exact", grid()._replace(log_evidence=LOG_EVIDENCE + 1e-3)))
    assert all("differ" in entry["warnings"][0] for entry in compare(bento()).backends.values())
    backends(quadrature=("exact", grid()), enumeration=("exact", grid()))
    assert all(entry["warnings"] == [] for entry in compare(bento()).backends.values())


def test_a_stored_reference_serves_where_nothing_exact_ran_and_none_is_said_to_be_none(backends, monkeypatch):
    import diagnostics.truth as truth

    backends(tried=("mcmc", chains(exact_draws(np.random.default_rng(0), (4, 1000)))))
    stored = Reference("stored", "a long run", {"sorted_means[0]": Value(MEANS[0], SDS[0], 1e-3)}, LOG_EVIDENCE, 0.01)
    monkeypatch.setattr(truth, "stored_reference", lambda model, x: stored)
    comparison = compare(bento())
    assert comparison.reference.kind == "stored" and comparison.reference.log_evidence == LOG_EVIDENCE
    assert comparison.backends["tried"]["verdict"].endswith(
        "agrees with the stored reference (to within 0.3 sd) on 1 functional; 27 functionals have no reference"
    )
    monkeypatch.setattr(truth, "stored_reference", lambda model, x: None)
    comparison = compare(bento())
    assert comparison.reference.kind == "none" and comparison.reference.values == {}
    assert comparison.backends["tried"]["verdict"].endswith("there is no reference to compare with")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (3, "reference should be None, 'none', the name of a back end that runs or .* got int"),
        (Reference("stored", "s", {"occupied": (1.0, 0.1, 0.0)}), r"occupied should be a Value\(mean, sd, error\)"),
        (Reference("stored", "s", {"occupied": Value(math.nan, 0.1, 0.0)}), "occupied should have a finite mean"),
        (Reference("stored", "s", {"occupied": Value(1.0, -0.1, None)}), "sd and error of at least 0; got 1.0, -0.1"),
        (
            Reference("stored", "s", {"occupied": Value("a", 0.1, 0.0)}),
            "sd and error of at least 0; got a, 0.1 and 0.0",
        ),
        (Reference("stored", "s", None), "values should be a dict, name -> Value, got NoneType"),
        (Reference("stored", "s", {}, "-3", 0.1), "log evidence and its error should be finite; got -3 and 0.1"),
        (Reference("stored", "s", {}, -math.inf, 0.1), "log evidence and its error should be finite; got -inf"),
        (Reference("stored", "s", {}, -3.0, -0.1), "log evidence and its error should be finite; got -3.0 and -0.1"),
    ],
)
def test_a_reference_that_nothing_can_be_held_against_is_refused_before_anything_runs(backends, reference, says):
    backends(tried=("mcmc", None))
    with pytest.raises(ValueError, match=says):
        compare(bento(), reference=reference)


def test_a_named_back_end_is_a_long_run_only_when_mixed_and_ten_times_as_long(backends):
    rng = np.random.default_rng(0)
    long, apart = chains(exact_draws(rng, (4, 4000))), exact_draws(rng, (4, 4000))
    apart[3] += 3.0
    backends(long=("mcmc", long), tried=("mcmc", chains(exact_draws(rng, (4, 1000)))))
    assert compare(bento(), reference="long").reference.kind == "another back end"
    backends(long=("mcmc", chains(apart)), tried=("mcmc", chains(exact_draws(rng, (4, 250)))))
    assert compare(bento(), reference="long").reference.kind == "another back end"
    backends(long=("mcmc", long), tried=("mcmc", chains(exact_draws(rng, (4, 250)))))
    comparison = compare(bento(), reference="long")
    assert comparison.reference.kind == "long run"
    row = rows_of(comparison, "tried")["sorted_means[0]"]
    assert row["reference_error"] > 0 and abs(row["z"]) < 4.4
    with pytest.raises(ValueError, match="not one of the back ends"):
        compare(bento(), ["tried"], reference="long")


def test_an_evidence_from_independent_runs_is_held_against_the_reference():
    assert "right within its error" in verdicts.of_evidence((-65.3, 0.05), (-65.31, 0.0))
    assert "off by more than 4 standard errors" in verdicts.of_evidence((-65.0, 0.05), (-65.31, 0.0))
    assert verdicts.LARGEST_SE["runs"] == smc.LARGEST_SE, "the bound up to which smc goes on"
    assert "too uncertain to count" in verdicts.of_evidence((-65.0, 0.45), (-65.31, 0.0), 0.1)
    assert "off by more than 4" in verdicts.of_evidence((-62.0, 0.45), (-65.31, 0.0), 0.1)
    uncertain = verdicts.of_weights([], "exact", 10_000, 1000.0, 0.5, (-118.539, 0.027), (-118.548, 0.0))
    assert "which is above 0.02: too uncertain to count as right" in uncertain
    assert verdicts.of_evidence((None, None), (-65.31, 0.0)) == verdicts.of_evidence((-65.0, 0.05), (None, None)) == ""


def test_settings_go_to_those_that_take_them_and_others_are_refused(backends):
    backends(quadrature=("exact", grid()), tried=("mcmc", "no"))
    names = ["quadrature", "tried"]
    assert plan(names, {"num_draws": 5, "tried": {"width": 2.0}}) == {
        "quadrature": {},  # few draws of a chain are not meant for an exact back end beside it
        "tried": {"num_draws": 5, "width": 2.0},
    }
    assert plan(["quadrature"], {"num_draws": 5}) == {"quadrature": {"num_draws": 5}}
    for settings, sentence in [
        ({"num_drows": 5}, "did you mean 'num_draws'"),
        ({"tried": {"widht": 2.0}}, "tried has no setting 'widht': did you mean 'width'"),
        ({"other": {"width": 2.0}}, "not a back end that runs"),
        ({"num_draws": -5}, "tried: num_draws should be a whole number, 1 or more, got -5"),
        ({"num_chains": 2.5}, "whole number"),
        ({"tried": {"width": "wide"}}, "tried: width should be a number above 0, got 'wide'"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            plan(names, settings)
    with pytest.raises(ValueError, match="no back end named 'quadratur': did you mean 'quadrature'"):
        compare(bento(), ["quadratur"])


def test_labelling_masses_stand_in_the_json_beside_the_references(backends):
    rng = np.random.default_rng(0)
    means = np.array([81.0, 118.6, 156.9]) + 1.5 * rng.standard_normal((4, 100, 3))
    z = np.zeros((4, 100, 30), np.int32)
    independent = Exact(-118.5, 0.0, COST, draws=Draws({"means": means}, z, COST))
    backends(enumeration=("exact", independent), tried=("mcmc", Draws({"means": means}, z, COST)))
    found = json.loads(compare(coffee()).to_json())["labellings"]
    assert set(found) == {"enumeration", "tried", "reference"}
    assert found["tried"]["(0, 1, 2)"] == pytest.approx(0.956, abs=0.01)
    assert sum(found["tried"].values()) == pytest.approx(1.0)


def test_shares_of_the_labellings_visited_show_chains_that_never_switch(backends):
    rng, z = np.random.default_rng(0), np.zeros((4, 100, 30), np.int32)
    means = np.array([81.0, 118.6, 156.9]) + 1.5 * rng.standard_normal((4, 100, 3))
    means[2:] = means[2:][..., [1, 0, 2]]
    backends(tried=("mcmc", Draws({"means": means}, z, COST)))
    comparison = compare(coffee(), reference="none")
    found = json.loads(comparison.to_json())
    shares, errors = found["labelling_shares"]["tried"], found["labelling_share_errors"]["tried"]
    assert shares == {"(0, 1, 2)": 0.5, "(1, 0, 2)": 0.5} | dict.fromkeys(set(shares) - {"(0, 1, 2)", "(1, 0, 2)"}, 0.0)
    assert len(shares) == 6 and errors["(0, 1, 2)"] > 0.1 and errors["(2, 1, 0)"] is None
    assert found["labellings"]["tried"]["(0, 1, 2)"] > 0.9  # the mass says nothing of it
    out = tables.console()
    with out.capture() as capture:
        tables.print_tables(out, comparison)
    assert re.search(r"\(0, 1, 2\) +0\.95\d* +0\.5 ±0\.\d", capture.get()) and "mass: given each draw" in capture.get()


def test_what_the_others_are_held_against_is_judged_itself():
    found = compare(bento(), ["importance_joint"], reference="importance_joint", settings={"num_particles": 200})
    entry = found.backends["importance_joint"]
    assert not entry["usable"]
    assert entry["verdict"].startswith("not usable (effective") and entry["verdict"].endswith("this comparison")
