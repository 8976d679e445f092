import importlib
import json

import numpy as np
import pytest

from diagnostics.to_arviz import az, resample, to_arviz, write
from inference.results import Cost, Draws, Exact, PointMass
from zoo import MODELS
from zoo.models.bento import bento, bento_full, bento_known

COST = Cost(1.0, 2.0, 100, 7, 1000)
C, S, N, K = 2, 30, 20, 2


def chains(num_chains=C, num_draws=S, **changes):
    rng = np.random.default_rng(0)
    shape = (num_chains, num_draws)
    params = {
        "weights": rng.dirichlet([12.0, 8.0], shape),
        "means": np.array([500.0, 350.0]) + 0.6 * rng.standard_normal((*shape, K)),
        "variances": rng.gamma(4.0, 1.0, (*shape, K)),
    }
    z = rng.integers(K, size=(*shape, N)).astype(np.int32)
    stats = {"lp": rng.standard_normal(shape), "diverging": rng.random(shape) < 0.1}
    return Draws(params, z, COST, stats=stats, num_done=num_draws)._replace(**changes)


def there_and_back(result, model, path, **keywords):
    return az.from_netcdf(str(write(to_arviz(result, model, model.data.x, **keywords), path)))


def test_chains_come_back_from_the_file_as_they_were(tmp_path):
    draws = chains(state={"params": np.ones((C, K)), "step": np.arange(C)})
    data = there_and_back(draws, bento_full(), tmp_path / "gibbs.nc", backend="gibbs", settings={"thin": 5}, seed=3)
    assert set(data.posterior.data_vars) == {"weights", "means", "variances", "scales", "assignments"}
    assert data.posterior["means"].dims == ("chain", "draw", "component")
    assert data.posterior["assignments"].dims == ("chain", "draw", "observation")
    for name, leaf in draws.params.items():
        np.testing.assert_array_equal(data.posterior[name], leaf)
    np.testing.assert_allclose(data.posterior["scales"], np.sqrt(draws.params["variances"]))
    np.testing.assert_array_equal(data.posterior["assignments"], draws.assignments)
    np.testing.assert_array_equal(data.sample_stats["diverging"], draws.stats["diverging"])
    np.testing.assert_array_equal(data.observed_data["x"], bento_full().data.x)
    np.testing.assert_array_equal(data.sampler_state["params"], np.ones((C, K)))


def test_columns_are_called_as_those_of_the_data_that_were_used():
    model, N = MODELS["faithful_spherical"], 6
    draws = Draws({n: np.ones((2, 4, *s.shape)) for n, s in model.param_shapes.items()}, None, COST)
    x = np.asarray(model.data.x)
    own = to_arviz(draws, model, x)
    assert list(own.observed_data["feature"].values) == list(model.data.feature_names)
    named = to_arviz(draws, model, x[:N] + 1, data={"columns": ["a", "b"]})
    assert list(named.observed_data["feature"].values) == ["a", "b"]
    nameless = to_arviz(draws, model, x[:N] + 1)
    assert list(nameless.observed_data["feature"].values) == [0, 1]


def test_attributes_say_what_made_the_file(tmp_path):
    data = there_and_back(chains(), bento_full(), tmp_path / "a.nc", backend="gibbs", settings={"thin": 5}, seed=3)
    said = data.posterior.attrs
    assert (said["backend"], said["model"], said["seed"]) == ("gibbs", "bento_full", 3)
    assert json.loads(said["settings"]) == {"thin": 5}
    assert json.loads(said["cost"]) == {**COST._asdict()}
    assert said["data_sha256"] == bento_full().data.sha256 and said["data_name"] == "bento"
    assert json.loads(said["versions"])["jax"] == importlib.metadata.version("jax")


def test_the_log_likelihood_is_pointwise_with_the_assignments_summed_out():
    draws, x = chains(1, 2), np.asarray(bento_full().data.x)
    found = to_arviz(draws, bento_full(), x).log_likelihood["x"]
    assert found.dims == ("chain", "draw", "observation")
    p = {name: leaf[0, 1] for name, leaf in draws.params.items()}
    density = np.exp(-0.5 * (x[:, None] - p["means"]) ** 2 / p["variances"]) / np.sqrt(2 * np.pi * p["variances"])
    np.testing.assert_allclose(found[0, 1], np.log(density @ p["weights"]))


def test_replicates_look_like_the_posterior_and_are_the_same_for_a_seed():
    draws = chains()
    here = to_arviz(draws, bento_full(), bento_full().data.x, seed=1).posterior_predictive
    again = to_arviz(draws, bento_full(), bento_full().data.x, seed=1).posterior_predictive
    other = to_arviz(draws, bento_full(), bento_full().data.x, seed=2).posterior_predictive
    assert here["x"].dims == ("chain", "draw", "observation") and here["x"].shape == (C, S, N)
    assert here.equals(again) and not here.equals(other)
    heavy = (here["x"].values > 425).mean()
    assert abs(heavy - 0.6) < 4.4 * np.sqrt(0.24 / 1200 + np.var(draws.params["weights"][..., 0]) / 60)


def test_too_many_entries_leave_summaries_and_the_file_says_so(monkeypatch):
    module = importlib.import_module("diagnostics.to_arviz")
    draws, model = chains(1, 3), bento_full()
    whole = to_arviz(draws, model, model.data.x)
    monkeypatch.setattr(module, "MAX_ENTRIES", 50)
    data = to_arviz(draws, model, model.data.x)
    assert "assignments" not in data.posterior and "left out" in data.posterior.attrs["assignments"]
    assert "x" not in data.log_likelihood and "left out" in data.log_likelihood.attrs["x"]
    pointwise = whole.log_likelihood["x"]
    np.testing.assert_allclose(data.log_likelihood["log_likelihood"], pointwise.sum("observation"))
    np.testing.assert_allclose(
        data.log_likelihood["log_mean_density"], np.log(np.exp(pointwise).mean(("chain", "draw")))
    )


def test_weighted_draws_keep_their_weights_and_a_resampled_posterior(tmp_path):
    log_weights = np.zeros((1, 40))
    log_weights[0, 7] = np.log(10.0)
    draws = chains(1, 40, log_weights=log_weights, log_evidence=-65.3, log_evidence_se=0.1)
    data = there_and_back(draws, bento_full(), tmp_path / "importance.nc")
    np.testing.assert_array_equal(data["weighted"]["log_weights"], log_weights)
    np.testing.assert_array_equal(data["weighted"]["means"], draws.params["means"])
    chosen = (data.posterior["means"].values == draws.params["means"][0, 7]).all(axis=-1)
    assert abs(chosen.mean() - 10 / 49) <= 1 / 1000  # systematic resampling is off by at most one copy
    assert data.posterior.attrs["log_evidence"] == -65.3


def test_collapsed_weights_leave_no_estimate_of_the_evidence(tmp_path):
    log_weights = np.zeros((1, 40))
    log_weights[0, 7] = 30.0
    draws = chains(1, 40, log_weights=log_weights, log_evidence=-65.3, log_evidence_se=1.0)
    data = there_and_back(draws, bento_full(), tmp_path / "importance.nc")
    assert "log_evidence" not in data.posterior.attrs and "log_evidence" not in data["weighted"].attrs


def test_a_heavy_tail_leaves_no_estimate_of_the_evidence_either():
    rng = np.random.default_rng(2)
    model, x = bento_full(), np.asarray(bento_full().data.x)
    for shape, kept in ((0.9, False), (0.2, True)):
        log_weights = np.log1p(rng.pareto(1 / shape, (1, 4000)))
        draws = chains(1, 4000, log_weights=log_weights, log_evidence=-65.3, log_evidence_se=0.1)
        assert 1 / np.square(np.exp(log_weights) / np.exp(log_weights).sum()).sum() > 100
        assert ("log_evidence" in to_arviz(draws, model, x).posterior.attrs) == kept
    smoothed = draws._replace(stats={"pareto_k": np.full((1, 4000), 0.9)})  # the raw weights' k counts
    assert "log_evidence" not in to_arviz(smoothed, model, x).posterior.attrs


def test_resampling_keeps_draws_and_their_assignments_together():
    draws = chains(2, 5, log_weights=np.arange(10.0).reshape(2, 5))
    again = resample(draws, 0, num=50)
    pairs = {(tuple(m), tuple(z)) for m, z in zip(again.params["means"][0], again.assignments[0], strict=True)}
    whole = {
        (tuple(m), tuple(z))
        for m, z in zip(draws.params["means"].reshape(10, K), draws.assignments.reshape(10, N), strict=True)
    }
    assert pairs <= whole and again.log_weights is None


def test_points_have_restarts_and_no_posterior(tmp_path):
    means = np.array([[350.0, 500.0], [425.0, 425.0], [500.0, 350.0]])
    flags = np.array([True, False, True])
    result = PointMass({"means": means}, np.array([-67.0, -90.0, -67.0]), np.arange(3), flags, flags, np.zeros(3), COST)
    ended, errors = np.array(["converged", "saddle point", "converged"]), {"means": np.array([0.7, 0.6])}
    result = result._replace(ended=ended, standard_errors=errors)
    data = there_and_back(result, bento(), tmp_path / "em.nc", backend="em")
    assert json.loads(data["point_estimates"].attrs["ended"]) == list(ended)
    assert data["point_estimates"]["standard_error_means"].dims == ("component",)
    np.testing.assert_array_equal(data["point_estimates"]["standard_error_means"], errors["means"])
    assert "posterior" not in data.groups() and data["point_estimates"]["means"].dims == ("restart", "component")
    np.testing.assert_array_equal(data["point_estimates"]["means"], means)
    np.testing.assert_array_equal(data["point_estimates"]["converged"], flags)


def test_exact_results_have_a_posterior_only_when_they_have_draws(tmp_path):
    probabilities = np.full((N, K), 0.5)
    nodes = {"means": np.array([[350.0, 500.0], [500.0, 350.0]])}
    result = Exact(
        -65.3, 1e-9, COST, nodes=nodes, log_weights=np.log([0.5, 0.5]), assignment_probabilities=probabilities
    )
    data = there_and_back(result, bento(), tmp_path / "quadrature.nc")
    assert "posterior" not in data.groups()
    np.testing.assert_array_equal(data["exact"]["means"], nodes["means"])
    np.testing.assert_array_equal(data["exact"]["assignment_probabilities"], probabilities)
    draws = chains(1, 5)._replace(params={"means": chains(1, 5).params["means"]})
    data = to_arviz(result._replace(draws=draws), bento(), bento().data.x)
    assert data.posterior["means"].shape == (1, 5, K)


def test_a_model_without_unknown_parameters_has_a_posterior_of_assignments():
    draws = Draws({}, chains().assignments, COST)
    data = to_arviz(draws, bento_known(), bento_known().data.x)
    assert list(data.posterior.data_vars) == ["assignments"]
    assert data.log_likelihood["x"].shape == (C, S, N)
    assert data.posterior_predictive["x"].shape == (C, S, N)


def test_data_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="shape"):
        to_arviz(chains(), bento_full(), np.ones((3, 2)))
