"""Quadrature against stored exact values, against enumeration, and against itself; and when it must refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gen, normal, student_t
from jax.experimental import disable_x64
from numpy.testing import assert_allclose
from scipy import integrate, stats

from diagnostics.truth import stored, tolerance
from inference import enumeration as exact
from inference import quadrature as module
from inference.quadrature import quadrature, refuses
from zoo.dataset import Dataset
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_425, bento_full, bento_known
from zoo.models.coffee import coffee, coffee_full
from zoo.models.three_gaussians import three_gaussians

BENTO, BENTO_425, COFFEE = stored("bento"), stored("bento425"), stored("coffee")
KEY = jax.random.key(1)


@functools.cache
def fitted(model):
    return quadrature(model, model.data.x, KEY)


def expectation(result, value):
    return np.exp(result.log_weights) @ value


def mean_and_sd(result, value):
    mean = expectation(result, value)
    return [mean, np.sqrt(expectation(result, (value - mean) ** 2))]


def sorted_means(result):
    """Mean and sd of each mean in ascending order: [mean, sd, mean, sd, ...]."""
    return [mean_and_sd(result, row) for row in np.sort(result.nodes["means"], axis=1).T]


def labelling_masses(result):
    """(component with the smallest mean, ..., with the largest) -> posterior mass."""
    order = np.argsort(result.nodes["means"], axis=1)
    every = itertools.permutations(range(order.shape[1]))
    return {s: expectation(result, np.all(order == s, axis=1)) for s in every}


# -- every stored value of coffee ------------------------------------------------------------------------------


def test_the_evidence_of_coffee_is_the_stored_one():
    record, result = COFFEE["coffee.log_evidence"], fitted(coffee())
    assert_allclose(result.log_evidence, record["value"], **tolerance(record))
    assert result.log_evidence_se < 1e-9 and result.missed_mass < 1e-9


def test_every_labelling_of_coffee_has_the_stored_mass():
    record = COFFEE["coffee.label_permutation_mass"]
    masses = labelling_masses(fitted(coffee()))
    assert sorted(map(str, masses)) == sorted(record["value"])
    found = [masses[s] for s in masses]
    assert_allclose(found, [record["value"][str(s)] for s in masses], **tolerance(record))
    assert_allclose(found, [record["value"][str(s)] for s in masses], rtol=1e-8)  # the small ones too
    assert_allclose(sum(found), 1, rtol=1e-12)


def test_coffee_within_the_obvious_labelling_has_the_stored_moments():
    record, result = COFFEE["coffee.within_identity_labelling"], fitted(coffee())
    means = result.nodes["means"]
    inside = np.all(np.diff(means, axis=1) > 0, axis=1)
    weights = np.exp(result.log_weights[inside])
    weights /= weights.sum()
    mean = weights @ means[inside]
    sd = np.sqrt(weights @ (means[inside] - mean) ** 2)
    assert_allclose(mean, record["value"]["mean"], **tolerance(record))
    assert_allclose(sd, record["value"]["sd"], **tolerance(record))


def test_the_sorted_means_of_coffee_are_the_stored_ones():
    record = COFFEE["coffee.ordered_posterior"]
    mean, sd = np.transpose(sorted_means(fitted(coffee())))
    assert_allclose(mean, record["value"]["mean"], **tolerance(record))
    assert_allclose(sd, record["value"]["sd"], **tolerance(record))


def test_every_record_of_coffee_is_used_here():
    assert set(COFFEE) == {
        "coffee.log_evidence",
        "coffee.label_permutation_mass",
        "coffee.within_identity_labelling",
        "coffee.ordered_posterior",
    }


# -- bento ---------------------------------------------------------------------------------------------------


def test_bento_has_the_stored_evidence_and_moments():
    result = fitted(bento())
    assert_allclose(result.log_evidence, BENTO["bento.log_evidence"]["value"], rtol=0, atol=1e-8)
    record = BENTO["bento.ordered_posterior"]
    assert_allclose(np.ravel(sorted_means(result)), list(record["value"].values()), **tolerance(record))
    record = BENTO["bento.label_symmetric_posterior"]
    first, second = (mean_and_sd(result, row) for row in result.nodes["means"].T)
    covariance = expectation(result, (result.nodes["means"] - [first[0], second[0]]).prod(1))
    assert_allclose([*first, *second, covariance], list(record["value"].values()), **tolerance(record))
    assert_allclose(result.assignment_probabilities[:, 1], BENTO["bento.p_z1"]["value"], rtol=0, atol=1e-12)
    assert_allclose(result.co_clustering, BENTO["bento.cocluster"]["value"], rtol=0, atol=1e-12)


def test_overlapping_bentos_have_the_stored_values():
    result, record = fitted(bento(scale=40.0)), BENTO["bento.sigma40"]
    value = record["value"]
    found = dict(zip(("lo_mean", "lo_sd", "hi_mean", "hi_sd"), np.ravel(sorted_means(result)), strict=True))
    found |= dict(zip(("mu0_mean", "mu0_sd"), mean_and_sd(result, result.nodes["means"][:, 0]), strict=True))
    found["log_evidence"] = result.log_evidence
    centred = result.nodes["means"] - np.exp(result.log_weights) @ result.nodes["means"]
    found["mu0_mu1_cov"] = expectation(result, centred.prod(1))
    assert_allclose(list(found.values()), [value[k] for k in found], **tolerance(record))
    assert_allclose(result.co_clustering, value["cocluster"], **tolerance(record))


def test_bento_with_one_of_425_grams_has_the_stored_values():
    result, record = fitted(bento_425()), BENTO_425["bento425.evidence_and_ordered_means"]
    found = [result.log_evidence, *np.ravel(sorted_means(result))]
    assert_allclose(found, list(record["value"].values()), **tolerance(record))
    heavy = BENTO_425["bento425.log_p_heavy"]["value"]  # of mass 6e-13, of which nodes below 1e-18 are cut
    assert_allclose(np.log(result.co_clustering[20, 0]), heavy, rtol=0, atol=1e-5)
    wide, record = fitted(bento_425(scale=40.0)), BENTO_425["bento425.sigma40"]
    (low, _), (high, _) = sorted_means(wide)
    value = record["value"]
    found = [wide.log_evidence, low, high]
    assert_allclose(found, [value[k] for k in ("log_evidence", "lo_mean", "hi_mean")], **tolerance(record))
    assert_allclose(wide.co_clustering[20], value["cocluster_row"], **tolerance(record))


# -- against enumeration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "num"),
    [
        (bento(), 20),
        (bento(scale=25.0), 20),
        (bento(scale=100.0), 20),  # the two modes have merged
        (bento(scale=60.0, weights=(0.7, 0.3), prior_sd=30.0), 20),
        pytest.param(coffee(scale=15.0, weights=(0.5, 0.3, 0.2)), 8, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_quadrature_and_enumeration_agree(model, num):
    x = model.data.x[:num]
    ours = fitted(model) if num == len(model.data.x) else quadrature(model, x, KEY)
    theirs = exact.enumeration(model, x, KEY, num_draws=4)
    assert_allclose(ours.log_evidence, theirs.log_evidence, rtol=0, atol=1e-9)
    assert abs(ours.log_evidence - theirs.log_evidence) <= ours.log_evidence_se + 1e-12
    assert_allclose(ours.assignment_probabilities, theirs.assignment_probabilities, rtol=0, atol=1e-8)
    assert_allclose(ours.co_clustering, theirs.co_clustering, rtol=0, atol=1e-8)
    if theirs.nodes is not None:
        for k in range(model.num_components):
            found, expected = (mean_and_sd(r, r.nodes["means"][:, k]) for r in (ours, theirs))
            assert_allclose(found, expected, rtol=1e-8)


def test_an_exchangeable_model_has_equal_mass_on_every_labelling():
    masses = labelling_masses(fitted(bento(scale=25.0)))
    assert_allclose([masses[0, 1], masses[1, 0]], 0.5, rtol=1e-9)


def test_one_location_in_two_dimensions_has_the_density_of_a_normal():
    model = mixture(lambda: {"centre": normal(np.zeros((1, 2)), 3.0) @ "centre"}, lambda p, z: p["centre"][z], 1)
    x = np.random.default_rng(0).normal(1.0, 2.0, (6, 2))
    result = quadrature(model, x, KEY)
    covariance = 4.0 * np.eye(6) + 9.0
    expected = sum(stats.multivariate_normal.logpdf(column, np.zeros(6), covariance) for column in x.T)
    assert_allclose(result.log_evidence, expected, atol=1e-10)
    assert result.nodes["centre"].shape[1:] == (1, 2)


def test_a_location_of_student_t_components_has_the_evidence_of_adaptive_quadrature():
    family = lambda location, scale: student_t(4.0, location, scale)
    model = mixture(lambda: {"m": normal(np.zeros(1), 3.0) @ "m"}, lambda p, z: p["m"][z], 1, family=family)
    x = np.array([0.3, 1.2, -0.4, 3.0])
    density = lambda m: stats.norm.pdf(m, scale=3) * np.prod(stats.t.pdf(x, 4, loc=m, scale=2))
    assert_allclose(quadrature(model, x, KEY).log_evidence, np.log(integrate.quad(density, -30, 30)[0]), atol=1e-8)


def mixture(prior, location, components, scale=lambda p: 2.0, weights=None, family=normal, **fields):
    probs = np.full(components, 1 / components)

    @gen
    def observation(params):
        z = categorical(probs=probs if weights is None else weights(params)) @ "z"
        return family(location(params, z), scale(params)) @ "x"

    data = Dataset(name="few", x=np.array([400.0, 420.0, 470.0]))
    named = dict(name="few", num_components=components, exchangeable=True, data=data) | fields
    return Mixture(prior=gen(prior), observation=observation, **named)


# -- what it states ----------------------------------------------------------------------------------------------


def test_nodes_keep_nothing_below_a_billionth_billionth_and_weigh_one():
    result = fitted(bento())
    assert result.log_weights.min() > result.log_weights.max() + np.log(1e-18)
    assert_allclose(np.exp(result.log_weights).sum(), 1, rtol=1e-12)
    assert result.nodes["means"].shape == (len(result.log_weights), 2)
    assert result.cost.compile_seconds + result.cost.run_seconds > 0 and result.cost.table_evaluations > 10_000


def test_another_key_changes_nothing_but_rounding():
    again = quadrature(bento(), bento().data.x, jax.random.key(77))
    assert_allclose(again.log_evidence, fitted(bento()).log_evidence, rtol=0, atol=1e-9)


def test_the_answer_is_in_double_precision_whatever_the_callers():
    with disable_x64():
        result = quadrature(bento(), bento().data.x, jax.random.key(0), num_checks=1000)
        assert jnp.ones(()).dtype == jnp.float32  # and the caller's precision is left alone
    assert_allclose(result.log_evidence, fitted(bento()).log_evidence, rtol=0, atol=1e-9)


def test_progress_counts_to_its_total():
    seen = []
    quadrature(bento(), bento().data.x, KEY, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_labelling_left_out_is_noticed_as_missed_mass(monkeypatch):
    whole = module._centres

    def one_side(work, key):
        return [c for c in whole(work, key) if c.point[0] < c.point[1]]

    monkeypatch.setattr(module, "_centres", one_side)
    with pytest.raises(RuntimeError, match="missed posterior mass"):
        quadrature(bento(scale=25.0), bento().data.x, KEY)


def test_a_grid_that_cannot_be_refined_enough_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "MAX_NODES", 5000)
    with pytest.raises(RuntimeError, match="has not converged with 5,000 nodes"):
        quadrature(bento(), bento().data.x, KEY, tolerance=1e-9)


# -- what it refuses ----------------------------------------------------------------------------------------------


def test_models_out_of_reach_are_refused_with_the_reason():
    assert refuses(bento_known(), bento_known().data.x) == "no unknown parameter"
    assert refuses(bento_full(), bento_full().data.x) == "5 unknown numbers; quadrature goes up to 3"
    assert refuses(three_gaussians(), three_gaussians().data.x) == "8 unknown numbers; quadrature goes up to 3"
    assert refuses(coffee_full(), coffee_full().data.x) == "8 unknown numbers; quadrature goes up to 3"
    assert "without covariates" in refuses(bento(), {"x": bento().data.x, "covariates": bento().data.x})
    assert refuses(bento(), bento().data.x) is None and refuses(coffee(), coffee().data.x) is None


SENTENCE = "quadrature serves unknown component locations with known weights and scales"


def test_an_unknown_scale_is_refused():
    model = mixture(
        lambda: {"means": normal(np.zeros(2), 1.0) @ "means"},
        lambda p, z: p["means"][z],
        2,
        lambda p: 1 + p["means"][0],
    )
    assert refuses(model, model.data.x) == SENTENCE


def test_unknown_weights_are_refused():
    model = mixture(
        lambda: {"logits": normal(np.zeros(2), 1.0) @ "logits"},
        lambda p, z: jnp.array([0.0, 4.0])[z],
        2,
        weights=lambda p: jax.nn.softmax(p["logits"]),
    )
    assert refuses(model, model.data.x) == SENTENCE


def test_a_location_that_is_a_function_of_the_parameter_is_refused():
    model = mixture(lambda: {"m": normal(np.zeros(2), 1.0) @ "m"}, lambda p, z: jnp.exp(p["m"])[z], 2)
    assert refuses(model, model.data.x) == SENTENCE


def test_a_prior_with_a_kink_is_refused_by_name():
    from genjax import laplace

    model = mixture(lambda: {"m": laplace(np.zeros(2), 1.0) @ "m"}, lambda p, z: p["m"][z], 2)
    assert refuses(model, model.data.x).endswith("m is Laplace")


def test_a_model_that_cannot_be_relabelled_is_refused():
    model = mixture(
        lambda: {"means": normal(np.zeros(2), 1.0) @ "means"},
        lambda p, z: p["means"][z],
        2,
        permute=lambda params, s: params,
    )
    assert refuses(model, model.data.x) == (
        "the model has no relabelling, so quadrature could not look at every labelling"
    )


def test_a_tolerance_that_no_grid_meets_is_bad_input():
    with pytest.raises(ValueError, match="tolerance should be positive"):
        quadrature(bento(), bento().data.x, KEY, tolerance=0.0)
