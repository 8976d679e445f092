import dataclasses
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gamma, gen, mv_normal, normal, uniform
from scipy import stats

from diagnostics.functionals import (
    _plan,
    expected_occupied,
    fixed_pairs,
    fixed_points,
    functionals,
    labelling_masses,
    log_likelihoods,
    pointwise_log_likelihoods,
    sorted_by,
    visited_labellings,
)
from zoo import MODELS
from zoo import distributions as gx
from zoo.dataset import Dataset
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_full, bento_known
from zoo.models.coffee import coffee

functionals_module = importlib.import_module("diagnostics.functionals")


def draws_of(model, shape, seed=0):
    """Spread-out parameters with leaves (C, S, ...), and assignments (C, S, N) unrelated to them."""
    rng, K = np.random.default_rng(seed), model.num_components
    centre = np.mean(model.data.x)
    leaves = {
        "means": rng.normal(centre, 0.4 * centre / K, (*shape, K)),
        "variances": rng.gamma(5.0, 1000.0, (*shape, K)),
        "weights": rng.dirichlet(np.ones(K), shape),
    }
    z = rng.integers(K, size=(*shape, model.data.num_observations))
    return {name: leaves[name] for name in model.param_shapes}, z


def blurred():
    """Bento with wide components, whose responsibilities are far from 0 and 1."""
    return bento(scale=40.0)


def test_bento_has_exactly_the_functionals_that_vary():
    model = bento()
    params, z = draws_of(model, (2, 3))
    found = functionals(model, params, z, model.data.x)
    pairs = [f"co_clustering[{i},{j}]" for i, j in fixed_pairs(model.data.x)]
    expected = ["log_density", "entropy", "occupied", "sorted_means[0]", "sorted_means[1]", "mixture_mean[0]"]
    expected += [
        "mixture_covariance[0,0]",
        "mixture_log_variance[0]",
        *pairs,
        *(f"log_predictive[{i}]" for i in range(10)),
    ]
    assert sorted(found) == sorted(expected)
    assert {value.shape for value in found.values()} == {(2, 3)}


def test_positive_quantities_have_their_logarithms_beside_them():
    model = MODELS["coffee_full"]
    params, z = draws_of(model, (2, 3))
    found = functionals(model, params, z, model.data.x)
    for k in range(3):
        np.testing.assert_allclose(found[f"sorted_log_scales[{k}]"], np.log(found[f"sorted_scales[{k}]"]))
    np.testing.assert_allclose(np.exp(found["mixture_log_variance[0]"]), found["mixture_covariance[0,0]"])
    assert not [name for name in found if name.startswith("sorted_log_means")]


@pytest.mark.parametrize(
    ("name", "leaf"), [("schizophrenia_onset", "shapes"), pytest.param("candy", "rates", marks=pytest.mark.slow)]
)
def test_what_is_positive_is_read_off_the_support(name, leaf):
    model = MODELS[name]
    params = model.prior_draws(jax.random.key(0), 2)
    draws = {k: np.asarray(v)[None] for k, v in params.items()}
    found = functionals(model, draws, None, model.data.x)
    np.testing.assert_allclose(found[f"sorted_log_{leaf}[0]"], np.log(found[f"sorted_{leaf}[0]"]))


def test_occupied_is_left_out_without_assignments():
    model = bento()
    params, _ = draws_of(model, (1, 2))
    assert "occupied" not in functionals(model, params, None, model.data.x)


def test_occupied_counts_the_components_that_own_an_observation():
    model = coffee()
    params, z = draws_of(model, (1, 3))
    z = np.zeros_like(z)
    z[0, 1, 4], z[0, 2, 5], z[0, 2, 6] = 2, 1, 2
    assert functionals(model, params, z, model.data.x)["occupied"].tolist() == [[1, 2, 3]]


def test_densities_responsibilities_and_moments_are_those_of_the_formulas():
    model = blurred()
    params, z = draws_of(model, (1, 2))
    x = np.asarray(model.data.x)
    found = functionals(model, params, z, x)
    for s in range(2):
        means = params["means"][0, s]
        each = 0.5 * stats.norm.pdf(x[:, None], means, 40.0)
        r = each / each.sum(axis=1, keepdims=True)
        log_p = np.log(each.sum(axis=1))
        take = lambda name, s=s: found[name][0, s]
        np.testing.assert_allclose(take("log_density"), stats.norm.logpdf(means, 400, 50).sum() + log_p.sum())
        for i, n in enumerate(fixed_points(x)):
            np.testing.assert_allclose(take(f"log_predictive[{i}]"), log_p[n])
        for i, j in fixed_pairs(x):
            np.testing.assert_allclose(take(f"co_clustering[{i},{j}]"), r[i] @ r[j])
        np.testing.assert_allclose(take("entropy"), -(r * np.log(r)).sum())
        np.testing.assert_allclose(take("mixture_mean[0]"), means.mean())
        np.testing.assert_allclose(take("mixture_covariance[0,0]"), 1600 + means.var())
        assert 0.01 < found["entropy"][0, s] < 20 * np.log(2)


def test_entropy_of_certain_assignments_is_zero_and_not_nan():
    model = bento()
    params = {"means": np.array([[[350.0, 500.0]]])}
    assert functionals(model, params, None, model.data.x)["entropy"].tolist() == [[0.0]]


def test_sorted_scales_follow_the_order_of_the_means_and_weights_their_own():
    model = bento_full()
    params = {
        "weights": np.array([[[0.3, 0.7]]]),  # in the order of the means, not ascending
        "means": np.array([[[500.0, 350.0]]]),
        "variances": np.array([[[4.0, 9.0]]]),
    }
    found = functionals(model, params, None, model.data.x)
    read = {name: float(value[0, 0]) for name, value in found.items() if name.startswith("sorted")}
    assert read == {
        "sorted_weights[0]": pytest.approx(0.7),
        "sorted_weights[1]": pytest.approx(0.3),
        "sorted_means[0]": 350.0,
        "sorted_means[1]": 500.0,
        "sorted_scales[0]": 3.0,
        "sorted_scales[1]": 2.0,
        "sorted_log_scales[0]": pytest.approx(np.log(3.0)),
        "sorted_log_scales[1]": pytest.approx(np.log(2.0)),
    }
    np.testing.assert_allclose(found["mixture_mean[0]"], 0.3 * 500 + 0.7 * 350)
    np.testing.assert_allclose(found["mixture_covariance[0,0]"], 0.3 * 4 + 0.7 * 9 + 0.21 * 150**2)


def test_relabelling_every_draw_at_random_changes_no_functional_of_an_exchangeable_model():
    model = bento_full()
    params, z = draws_of(model, (2, 50))
    here = functionals(model, params, z, model.data.x)
    flip = np.random.default_rng(1).random((2, 50)) < 0.5
    swapped = {name: np.where(flip[..., None], leaf[..., ::-1], leaf) for name, leaf in params.items()}
    there = functionals(model, swapped, np.where(flip[..., None], 1 - z, z), model.data.x)
    assert not np.array_equal(params["means"], swapped["means"]) and here["entropy"].min() > 0.1
    for name, value in here.items():
        np.testing.assert_allclose(value, there[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_parameters_themselves_are_functionals_only_where_labels_mean_something():
    params, z = draws_of(coffee(), (1, 2))
    found = functionals(coffee(), params, z, coffee().data.x)
    for k in range(3):
        assert np.array_equal(found[f"means[{k}]"], params["means"][..., k])
    assert not any(name.startswith(("sorted_weights", "sorted_scales")) for name in found)


def test_a_model_with_known_parameters_compares_its_drawn_assignments():
    model = bento_known()
    z = np.zeros((1, 2, 20), np.int32)
    z[0, 1, 3] = 1
    found = functionals(model, {}, z, model.data.x)
    assert set(found) == {
        *(f"log_predictive[{i}]" for i in range(10)),
        *(f"co_clustering[{i},{j}]" for i, j in fixed_pairs(model.data.x)),
        *("log_density", "entropy", "occupied"),
    }
    assert found["co_clustering[3,15]"].tolist() == [[1, 0]]
    assert found["log_density"].shape == (1, 2)


def test_fixed_points_are_order_statistics_with_both_ends_and_no_more_than_ten():
    x = np.random.default_rng(0).permutation(37) * 1.0
    points = fixed_points(x)
    assert x[points].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert fixed_points(x[:4]).tolist() == np.argsort(x[:4]).tolist()
    assert fixed_points(np.array([[3.0, 0], [1.0, 9], [2.0, 5]])).tolist() == [1, 2, 0]


def test_fixed_pairs_join_neighbours_and_the_ends_with_the_smaller_index_first():
    assert fixed_pairs(np.array([5.0, 1.0, 3.0])).tolist() == [[1, 2], [0, 2], [0, 1]]
    assert fixed_pairs(np.array([5.0])).shape == (0, 2)


def test_blocks_of_any_size_give_the_same_numbers(monkeypatch):
    model = blurred()
    params, z = draws_of(model, (2, 5))
    whole = functionals(model, params, z, model.data.x)
    monkeypatch.setattr(functionals_module, "MAX_BLOCK", 3)
    parts = functionals(model, params, z, model.data.x)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-12, err_msg=name)


def test_pointwise_log_likelihoods_sum_to_the_log_likelihood():
    model = blurred()
    params, _ = draws_of(model, (2, 3))
    pointwise = pointwise_log_likelihoods(model, params, model.data.x)
    assert pointwise.shape == (2, 3, 20)
    np.testing.assert_allclose(pointwise.sum(axis=-1), log_likelihoods(model, params, model.data.x))


def test_expected_occupied_is_the_average_over_every_assignment():
    model = coffee(scale=30.0)
    x = np.array([90.0, 110.0, 125.0, 150.0])
    params, _ = draws_of(model, (1, 1))
    mean, second = expected_occupied(model, params, x)
    r = np.asarray(model.responsibilities({"means": params["means"][0, 0]}, x))
    numbers = [
        (np.prod([r[n, k] for n, k in enumerate(z)]), len(set(z))) for z in itertools.product(range(3), repeat=4)
    ]
    np.testing.assert_allclose(mean[0, 0], sum(p * count for p, count in numbers))
    np.testing.assert_allclose(second[0, 0], sum(p * count**2 for p, count in numbers))


def test_labelling_masses_are_the_prior_odds_of_the_relabelled_means():
    model = coffee()
    means = np.array([81.0, 157.0, 118.0])
    masses = labelling_masses(model, {"means": means[None, None]}, model.data.x)
    ordered = np.sort(means)
    prior = {
        s: np.exp(sum(stats.norm.logpdf(ordered[i], (80, 120, 160)[k], 20) for i, k in enumerate(s)))
        for s in itertools.permutations(range(3))
    }  # component s[0] has the smallest mean
    for s, mass in prior.items():
        np.testing.assert_allclose(masses[s], mass / sum(prior.values()), rtol=1e-9)


def test_the_visited_labelling_is_the_order_of_the_draw_itself():
    model = coffee()
    means = np.array([[[81.0, 118.0, 157.0], [157.0, 81.0, 118.0]]])
    visited = visited_labellings(model, {"means": means}, model.data.x)
    assert {s: f.tolist() for s, f in visited.items() if f.any()} == {(0, 1, 2): [[1.0, 0.0]], (1, 2, 0): [[0.0, 1.0]]}
    assert len(visited) == 6 and visited_labellings(bento(), {"means": means[..., :2]}, bento().data.x) == {}


def test_labelling_masses_do_not_depend_on_the_labelling_of_the_draw():
    model = coffee()
    params, _ = draws_of(model, (2, 4))
    here = labelling_masses(model, params, model.data.x)
    there = labelling_masses(model, {"means": params["means"][..., [2, 0, 1]]}, model.data.x)
    for s, mass in here.items():
        np.testing.assert_allclose(there[s], mass, rtol=1e-9)
    np.testing.assert_allclose(sum(here.values()), 1.0)


def test_exchangeable_models_have_no_labelling_masses():
    params, _ = draws_of(bento(), (1, 1))
    assert labelling_masses(bento(), params, bento().data.x) == {}


def planar(site):
    """Two components in the plane, unknown means and one unknown covariance direction; data of four points."""

    @gen
    def prior():
        means = normal(jnp.zeros((2, 2)), 3.0) @ "means"
        return {"means": means}

    @gen
    def observation(params):
        z = categorical(probs=jnp.array([0.25, 0.75])) @ "z"
        return site(params["means"][z]) @ "x"

    x = np.array([[0.0, 1.0], [2.0, -1.0], [1.0, 1.0], [3.0, 0.5]])
    data = Dataset(name="planar", x=x)
    return Mixture(name="planar", num_components=2, exchangeable=False, prior=prior, observation=observation, data=data)


@pytest.mark.parametrize(
    "site, within",
    [
        (lambda mean: mv_normal(mean, jnp.array([[2.0, 0.5], [0.5, 1.0]])), [[2.0, 0.5], [0.5, 1.0]]),
        (lambda mean: normal(mean, jnp.array([2.0, 1.0])), [[4.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_in_the_plane_moments_have_two_features_and_nothing_is_sorted(site, within):
    model = planar(site)
    means = np.array([[1.0, 2.0], [-1.0, 0.5]])
    found = functionals(model, {"means": means[None, None]}, None, model.data.x)
    w = np.array([0.25, 0.75])
    centre = w @ means
    covariance = np.array(within) + np.einsum("k,kd,ke->de", w, means - centre, means - centre)
    for d in range(2):
        np.testing.assert_allclose(found[f"mixture_mean[{d}]"], centre[d])
        for e in range(d, 2):
            np.testing.assert_allclose(found[f"mixture_covariance[{d},{e}]"], covariance[d, e])
    assert not any(name.startswith("sorted") for name in found)
    assert found["means[1,0]"].tolist() == [[-1.0]]


def test_angles_are_averaged_as_cosines_and_sines_so_that_the_cut_changes_nothing():
    """Just below pi and just above -pi are one direction: a draw on either side of the cut has the same functionals."""
    model = MODELS["directions"]
    means = np.array([[[np.pi - 1e-9, -0.5], [-np.pi + 1e-9, -0.5]]])
    params = {"weights": np.full((1, 2, 2), 0.5), "means": means, "concentrations": np.array([[[8.0, 4.0]] * 2])}
    found = functionals(model, params, None, model.data.x)
    assert not any(name.startswith(("sorted_means", "mixture_")) for name in found)
    for name, (one, other) in {name: values[0] for name, values in found.items()}.items():
        assert one == pytest.approx(other, rel=1e-6, abs=1e-8), name
    assert found["sorted_cos_means[1]"][0, 0] == pytest.approx(-1)  # the larger concentration is the last
    assert found["sorted_sin_means[0]"][0, 0] == pytest.approx(np.sin(-0.5))


def test_angles_do_not_sort_where_something_else_can_and_have_no_moments_however_they_are_declared():
    @gen
    def prior():
        turns = uniform(np.zeros(2), 1.0) @ "turns"
        kappas = gamma(np.full(2, 2.0), 0.2) @ "kappas"
        return {"at": 2 * np.pi * turns - np.pi, "kappas": kappas}

    @gen
    def observation(params):
        z = categorical(probs=jnp.array([0.4, 0.6])) @ "z"
        return gx.von_mises(loc=params["at"][z], concentration=params["kappas"][z]) @ "x"

    turning = Mixture(name="turning", num_components=2, exchangeable=False, prior=prior, observation=observation)
    assert not _plan(turning).moments
    directions = MODELS["directions"]
    assert sorted_by(dataclasses.replace(directions, order_by=None)) == "concentrations"
