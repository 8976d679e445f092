"""The stored reference values: complete, on their own feet, and given out only where they belong."""

import dataclasses
import json
from importlib import resources

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diagnostics.compare import compare
from diagnostics.truth import stored, stored_reference, tolerance
from inference import fit
from zoo import MODELS, gaussian
from zoo.models.bento import bento, bento_425, bento_full
from zoo.models.coffee import coffee
from zoo.models.three_gaussians import three_gaussians

NAMES = [
    "bento",
    "bento425",
    "coffee",
    "conjugate",
    "known_parameters",
    "long_runs",
    "three_gaussians",
    "three_gaussians_em",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_record_has_a_value_a_tolerance_and_a_method(name):
    records = stored(name)
    assert records
    for record in records.values():
        assert {"name", "inputs", "value", "tolerance", "method"} <= set(record)
        assert set(record["tolerance"]) <= {"abs", "rel", "abs_in_posterior_sd"} and record["tolerance"]


def test_the_reference_files_refer_to_nothing_outside_the_package():
    for file in (resources.files("diagnostics") / "references").iterdir():
        text = file.read_text()
        assert "shared" not in text and "../" not in text, file.name
        json.loads(text)


def test_an_unknown_reference_gets_a_sentence_with_the_names():
    with pytest.raises(ValueError, match="no stored reference 'galaxy'; there are bento, "):
        stored("galaxy")


def test_the_data_in_the_references_are_the_models_own():
    assert_allclose(stored("bento")["bento.log_evidence"]["inputs"]["x"], bento().data.x, rtol=0)
    assert_allclose(stored("coffee")["coffee.log_evidence"]["inputs"]["x"], coffee().data.x, rtol=0)


def test_three_gaussians_are_the_points_of_the_recipe():
    record = stored("three_gaussians_em")["blog.data"]
    value, data = record["value"], three_gaussians().data
    assert data.sha256 == value["sha256_little_endian_float64"] and len(data.x) == value["n"]
    assert_allclose(data.x[:5], value["first5"], **tolerance(record))
    assert_allclose(data.x[-3:], value["last3"], **tolerance(record))
    summary = [data.x.mean(), data.x.std(), data.x.std(ddof=1), data.x.min(), data.x.max()]
    assert_allclose(summary, [value[k] for k in ("mean", "sd_ddof0", "sd_ddof1", "min", "max")], **tolerance(record))
    assert np.bincount(data.labels).tolist() == value["counts"]
    for k, part in enumerate(value["per_component"]):
        own = data.x[data.labels == k]
        assert_allclose([own.mean(), own.std()], [part["mean"], part["sd_ddof0"]], **tolerance(record))


def test_the_density_and_moments_at_the_true_parameters_are_the_stored_ones():
    records, data = stored("three_gaussians_em"), three_gaussians().data
    truth = [data.params[name] for name in ("weights", "means", "scales")]
    density = records["blog.marginal_pdf"]
    assert_allclose(
        np.exp(gaussian.log_density(*truth, np.linspace(7, 23, 200))), density["value"], **tolerance(density)
    )
    record = records["blog.true_moments"]
    found = [*gaussian.moments(*truth), gaussian.log_density(*truth, data.x).sum()]
    assert_allclose(found, [record["value"][k] for k in ("mean", "sd", "loglik_at_truth")], **tolerance(record))


def test_the_stored_maximum_likelihood_is_attained_and_stationary():
    record = stored("three_gaussians_em")["blog.mle_K3"]
    value, x = record["value"], three_gaussians().data.x
    weights = np.array(value["weights"]) / sum(value["weights"])
    parameters = [weights, value["means"], value["sds"]]
    log_likelihood = gaussian.log_density(*parameters, x).sum()
    assert_allclose(log_likelihood, value["loglik"], atol=1e-8)
    assert_allclose(
        -2 * log_likelihood + np.array([np.log(1000), 2]) * 8, [value["bic"], value["aic"]], **tolerance(record)
    )
    table = gaussian.log_table(*parameters, x)
    r = np.exp(table - gaussian.log_density(*parameters, x)[:, None])
    assert_allclose(r.mean(0), weights, atol=1e-6)  # one more EM step stays
    assert_allclose(r.T @ x / r.sum(0), value["means"], atol=1e-5)


def test_the_stored_posterior_is_given_for_the_very_model_and_the_very_data():
    model = three_gaussians()
    reference = stored_reference(model, model.data.x)
    assert reference.kind == "stored" and "importance sampling" in reference.source and "NUTS" in reference.source
    assert sorted(reference.values) == sorted(
        f"sorted_{name}[{k}]" for name in ("weights", "means", "scales") for k in range(3)
    )
    assert_allclose(sum(reference.values[f"sorted_weights[{k}]"][0] for k in range(3)), 1.0, atol=1e-9)
    assert all(0 < error < 0.02 * sd for _, sd, error, *_ in reference.values.values())


def test_the_two_methods_behind_the_stored_posterior_agree_within_four_errors():
    model = three_gaussians()
    check = stored("three_gaussians")["blog.bayes_K3.posterior"]["check"]["value"]
    keys = [f"{key}{k}" for key in ("pi", "mu", "sigma") for k in range(3)]
    ours = list(stored_reference(model, model.data.x).values.values())
    for key, (mean, sd, error, *_) in zip(keys, ours, strict=True):
        importance_error = sd / np.sqrt(45299)
        assert abs(mean - check[key]["mean"]) < 4.4 * np.hypot(error, importance_error)


def test_a_variant_other_data_or_another_model_gets_no_stored_posterior():
    model = three_gaussians()
    assert stored_reference(three_gaussians(prior_sd=5.0), model.data.x) is None
    assert stored_reference(model, model.data.x[:-1]) is None
    assert stored_reference(model, model.data.x + 1e-9) is None
    assert stored_reference(bento_full(), bento_full().data.x) is None
    impostor = dataclasses.replace(bento(), title="another model of the same name")
    assert stored_reference(impostor, bento().data.x) is None


@pytest.mark.parametrize("model", [bento(), bento_425(), pytest.param(coffee(), marks=pytest.mark.slow)])
def test_stored_sorted_means_are_those_of_quadrature(model):
    reference = stored_reference(model, model.data.x)
    exact = fit(model, "quadrature")
    assert abs(reference.log_evidence - exact.log_evidence) <= reference.log_evidence_se + 1e-8
    ordered = np.sort(exact.nodes["means"], axis=1)
    means = np.exp(exact.log_weights) @ ordered
    sds = np.sqrt(np.exp(exact.log_weights) @ (ordered - means) ** 2)
    for k in range(model.num_components):
        mean, sd, error, *_ = reference.values[f"sorted_means[{k}]"]
        assert abs(means[k] - mean) < 2 * error and abs(sds[k] - sd) < 2 * error


@pytest.mark.slow
def test_a_stored_run_judges_every_back_end_but_its_own():
    model = MODELS["coffee_full"]
    reference = stored_reference(model, model.data.x)
    assert reference.made_by == "importance_modes" and sum(reference.labellings.values()) == pytest.approx(1, abs=1e-6)
    short = {
        "gibbs": {"num_draws": 100, "num_warmup": 50, "num_chains": 2},
        "importance_modes": {"num_particles": 2000},
    }
    found = compare(model, list(short), settings=short)
    z = lambda backend: [row["z"] for row in found.rows if row["backend"] == backend and row["z"] is not None]
    assert z("gibbs") and not z("importance_modes")
    assert "no reference" in found.backends["importance_modes"]["verdict"]
