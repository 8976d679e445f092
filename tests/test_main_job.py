"""The main job end to end: every back end on one posterior, held against the exact one at default settings."""

import functools

import arviz as az
import numpy as np
import pytest

from diagnostics import compare
from diagnostics.reference import Reference, Value
from diagnostics.truth import stored
from diagnostics.verdicts import failures, quantile
from inference import fit
from inference.importance import log_evidence
from zoo import MODELS
from zoo.models.bento import bento
from zoo.models.coffee import coffee

CHAINS = ("gibbs", "metropolis", "nuts")


@functools.cache
def comparison(model, backends=None, seed=0, **settings):
    return compare(model, backends=backends and list(backends), seed=seed, settings=settings)


def rows_of(found, backend):
    return [row for row in found.rows if row["backend"] == backend]


def value(found, backend, functional):
    return next(row for row in rows_of(found, backend) if row["functional"] == functional)


def assert_mixed_and_right(found, backend):
    entry = found.backends[backend]
    assert entry["status"] == "ok" and entry["verdict"].startswith("mixed"), entry["verdict"]
    assert failures(rows_of(found, backend)) == []
    assert sum(row["z"] is not None for row in rows_of(found, backend)) >= 3


def test_bento_has_its_exact_evidence_and_sorted_means():
    found = comparison(MODELS["bento"])
    assert found.reference.kind == "exact"
    assert abs(found.backends["enumeration"]["log_evidence"] - -65.31374998981) < 1e-8
    assert abs(found.backends["quadrature"]["log_evidence"] - -65.31374998981) < 1e-8
    for k, (mean, sd) in enumerate([(350.25995, 0.70704), (499.98667, 0.57731)]):
        row = value(found, "quadrature", f"sorted_means[{k}]")
        assert abs(row["mean"] - mean) < 1e-5 and abs(row["sd"] - sd) < 1e-5


@pytest.mark.parametrize("backend", CHAINS)
def test_chains_on_bento_mix_and_agree_with_the_exact_posterior(backend):
    assert_mixed_and_right(comparison(MODELS["bento"]), backend)


def test_em_on_bento_is_at_the_map():
    found = comparison(MODELS["bento"])
    assert found.backends["em"]["verdict"].startswith("at the MAP")
    modes = stored("bento")["bento.modes"]["value"]
    assert abs(found.results["em"].log_density[0] - modes["log_p_x_mu"][0]) < 1e-8
    np.testing.assert_allclose(np.sort(found.results["em"].params["means"][0]), np.sort(modes["mu"][0]), rtol=1e-8)


def test_importance_on_bento_is_not_usable_but_its_summed_out_evidence_is_right():
    found = comparison(MODELS["bento"])
    joint, summed = found.backends["importance_joint"], found.backends["importance"]
    assert not joint["usable"] and "collapsed" in joint["verdict"] and joint["log_evidence"] is None
    assert not summed["usable"] and "few effective draws" in summed["verdict"]
    assert abs(summed["log_evidence"] - -65.31374998981) < 4 * summed["log_evidence_se"] < 4 * 0.5


@pytest.mark.parametrize(
    "constants",
    [
        pytest.param({"scale": 25.0}, marks=pytest.mark.slow),
        {"scale": 40.0},
        pytest.param({"scale": 40.0, "weights": (0.7, 0.3)}, marks=pytest.mark.slow),
    ],
)
def test_other_constants_work_the_same_way(constants):
    found = comparison(bento(**constants), ("enumeration", "quadrature", "gibbs"))
    entries = found.backends
    assert abs(entries["enumeration"]["log_evidence"] - entries["quadrature"]["log_evidence"]) < 1e-8
    assert failures(rows_of(found, "gibbs")) == []
    assert len(rows_of(found, "gibbs")) > 20
    pairs = found.results["enumeration"].co_clustering
    assert 0.001 < pairs[0, 1] < 0.999 or constants["scale"] == 25.0  # overlapping, not 0/1


@pytest.mark.parametrize("backend", CHAINS)
def test_chains_on_coffee_match_the_posterior_over_all_labellings(backend):
    found = comparison(MODELS["coffee"], ("quadrature", *CHAINS))
    assert_mixed_and_right(found, backend)
    exact = stored("coffee")["coffee.label_permutation_mass"]["value"]
    for labelling, mass in found.labellings[backend].items():
        truth = exact[str(labelling)]
        assert abs(mass - truth) < (0.01 if truth > 0.01 else 0.1 * truth), (labelling, mass, truth)


def test_coffee_by_quadrature_has_its_stored_values():
    found = comparison(MODELS["coffee"], ("quadrature", *CHAINS))
    records = stored("coffee")
    assert abs(found.backends["quadrature"]["log_evidence"] - records["coffee.log_evidence"]["value"]) < 1e-8
    for labelling, mass in found.labellings["quadrature"].items():
        assert abs(mass - records["coffee.label_permutation_mass"]["value"][str(labelling)]) < 1e-8
    ordered = records["coffee.ordered_posterior"]["value"]
    for k in range(3):
        row = value(found, "quadrature", f"sorted_means[{k}]")
        assert abs(row["mean"] - ordered["mean"][k]) < 1e-6 and abs(row["sd"] - ordered["sd"][k]) < 1e-6


@pytest.mark.parametrize("backend", CHAINS)
def test_without_the_permutation_move_the_comparison_shows_the_miss(backend):
    settings = {backend: {"permute": False}}
    found = compare(coffee(), backends=["quadrature", backend], settings=settings, seed=0)
    assert "disagrees" in found.backends[backend]["verdict"] or "chains disagree" in found.backends[backend]["verdict"]
    assert any("means[" in sentence for sentence in failures(rows_of(found, backend)))


def test_maximum_likelihood_of_three_gaussians_is_the_known_one():
    found = fit(MODELS["three_gaussians"], "em", prior=False)
    known = stored("three_gaussians_em")["blog.mle_K3"]["value"]
    assert abs(found.log_density[0] - -2517.610054588) < 1e-6 and found.admissible[0] and found.converged[0]
    order = np.argsort(found.params["means"][0])
    np.testing.assert_allclose(found.params["weights"][0][order], known["weights"], atol=1e-5)
    np.testing.assert_allclose(found.params["means"][0][order], known["means"], atol=1e-5)
    np.testing.assert_allclose(found.params["scales"][0][order], known["sds"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["gibbs", "nuts"])
def test_gibbs_and_nuts_on_three_gaussians_agree_with_the_stored_posterior(backend):
    found = comparison(MODELS["three_gaussians"], ("gibbs", "nuts"))
    assert found.reference.kind == "stored"
    assert_mixed_and_right(found, backend)
    assert sum(row["z"] is not None for row in rows_of(found, backend)) == 9  # weights, means and scales


@pytest.mark.slow
def test_gibbs_and_nuts_on_three_gaussians_agree_with_each_other():
    rows = comparison(MODELS["three_gaussians"], ("gibbs", "nuts")).rows
    pairs = {name: [r for r in rows if r["functional"] == name] for name in {r["functional"] for r in rows}}
    compared = [p for p in pairs.values() if all(r["mcse"] is not None for r in p)]
    assert len(compared) > 25
    limit = quantile(len(compared), 0.001)
    for a, b in compared:
        assert abs(a["mean"] - b["mean"]) < limit * np.hypot(a["mcse"], b["mcse"]), a["functional"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", CHAINS)
def test_chains_on_bento_full_agree_with_enumeration(backend):
    assert_mixed_and_right(comparison(MODELS["bento_full"], ("enumeration", *CHAINS), seed=1), backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", CHAINS)
def test_chains_on_bento_425_are_right_in_the_mode_that_has_the_mass(backend):
    # the 425 g bento stays with the kind a chain first gives it to: the lesser mode has mass 6e-13 and no way out
    found = comparison(MODELS["bento_425"], ("enumeration", *CHAINS))
    z = found.results[backend].assignments
    light = (z[..., 20] == z[..., 1]).all(axis=1)
    assert light.any()
    for k, (mean, sd) in enumerate([(358.56292214716893, 0.6666074), (499.9866684442033, 0.5773118)]):
        f = np.sort(found.results[backend].params["means"], axis=-1)[light][..., k]
        assert az.ess(f) > 400 and abs(f.mean() - mean) < 4.4 * az.mcse(f)
        assert abs(((f - mean) ** 2).mean() - sd**2) < 4.4 * az.mcse((f - mean) ** 2)
    if not light.all():
        assert found.backends[backend]["verdict"].startswith("not mixed")


@functools.cache
def long_run_on_coffee_full():
    found = compare(MODELS["coffee_full"], backends=["gibbs"], seed=99, settings={"num_draws": 20_000})
    values = {
        row["functional"]: Value(row["mean"], row["sd"], row["mcse"]) for row in found.rows if row["mcse"] is not None
    }
    return Reference("long run", "gibbs, 4 chains of 20,000 draws, another seed", values)


@pytest.mark.slow
@pytest.mark.parametrize("backend", CHAINS)
def test_chains_on_nine_cups_of_coffee_full_agree_with_enumeration(backend):
    model = MODELS["coffee_full"]
    found = compare(model, backends=["enumeration", backend], x=model.data.x[:9], seed=1, settings={"num_draws": 4000})
    assert found.reference.kind == "exact" and failures(rows_of(found, backend)) == []
    assert sum(row["z"] is not None for row in rows_of(found, backend)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["metropolis", "nuts"])
def test_chains_on_coffee_full_agree_with_a_long_run_of_gibbs(backend):
    found = compare(MODELS["coffee_full"], backends=[backend], reference=long_run_on_coffee_full(), seed=1)
    assert failures(rows_of(found, backend)) == []
    assert sum(row["z"] is not None for row in rows_of(found, backend)) > 20
    assert not found.backends[backend]["warnings"]


@pytest.mark.slow
def test_metropolis_on_three_gaussians_mixes_and_is_right():
    found = compare(MODELS["three_gaussians"], backends=["metropolis"], seed=0)
    assert failures(rows_of(found, "metropolis")) == []
    assert not found.backends["metropolis"]["verdict"].startswith("not mixed")
    assert sum(row["z"] is not None for row in rows_of(found, "metropolis")) == 9


def test_gibbs_with_known_parameters_draws_the_exact_assignments():
    found = comparison(MODELS["bento_known"])
    assert failures(rows_of(found, "gibbs")) == []
    served = {name for name, entry in found.backends.items() if entry["status"] == "ok"}
    assert served == {"enumeration", "gibbs", "importance", "importance_joint"}
    for name in set(found.backends) - served:
        assert found.backends[name]["reason"].startswith("no unknown parameter")
    exact = found.backends["enumeration"]["log_evidence"]
    assert abs(found.backends["importance"]["log_evidence"] - exact) < 1e-9
    few = MODELS["bento_known"].data.x[:3]
    joint = fit(MODELS["bento_known"], "importance_joint", few, num_particles=20_000)
    truth = fit(MODELS["bento_known"], "enumeration", few).log_evidence
    value, error = log_evidence(joint.log_weights)  # Pareto k is above .7, and the result has none
    assert error < 0.1 and abs(value - truth) < 4 * error and joint.log_evidence is None
