"""Collapsed Gibbs against enumeration, its predictive against a ratio of marginals, and planted mistakes."""

import functools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gen, inverse_gamma, normal

from diagnostics import calibration
from inference import Refused, collapsed, fit, marginal
from zoo import MODELS, Dataset, Mixture
from zoo.models.bento import bento
from zoo.models.coffee import coffee

WIDE = {"bento": functools.partial(bento, scale=40.0), "coffee": functools.partial(coffee, scale=20.0)}


@pytest.mark.parametrize("name", ["bento", pytest.param("coffee", marks=pytest.mark.slow)])
def test_the_kernel_leaves_the_joint_law_invariant(name):
    model = WIDE[name]()
    result = calibration.joint_test(model, collapsed.build(model), jax.random.key(1), level=0.005)
    assert result.passed, result


def test_a_sweep_over_assignments_that_forgets_to_take_the_observation_out_is_caught(monkeypatch):
    model = WIDE["bento"]()
    monkeypatch.setattr(collapsed, "left", lambda total, own, belongs: total)
    result = calibration.joint_test(model, collapsed.build.__wrapped__(model), jax.random.key(1))
    assert not result.passed, result


@pytest.mark.parametrize("name", ["bento", "coffee"])
def test_draws_agree_with_the_exact_posterior(name):
    exact = fit(MODELS[name], "enumeration" if name == "bento" else "quadrature")
    draws = fit(MODELS[name], "collapsed", seed=2)
    together = (draws.assignments[..., :1] == draws.assignments[..., 1:6]).astype(float)
    for j in range(5):
        p, ess = exact.co_clustering[0, 1 + j], az.ess(together[..., j])
        if together[..., j].std() == 0:
            assert max(p, 1 - p) ** 4000 > 0.001
        else:
            assert ess > 1000 and abs(together[..., j].mean() - p) < 4.4 * az.mcse(together[..., j])
    assert az.rhat(draws.stats["lp"]) < 1.01 and az.ess(draws.stats["lp"]) > 1000


@pytest.mark.slow
def test_variances_about_known_unequal_means_agree_with_enumeration():
    """What an observation adds to its component's squares differs from component to component."""

    @gen
    def prior():
        return {"variances": inverse_gamma(np.full(2, 3.0), 2.0) @ "variances"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return normal(jnp.array([-1.0, 2.0])[z], jnp.sqrt(params["variances"][z])) @ "x"

    model = Mixture(name="known", num_components=2, exchangeable=False, prior=prior, observation=observation)
    x = np.array([-1.2, -0.5, 0.6, 1.0, 2.4, 2.2, -2.0, 0.2])
    exact, draws = fit(model, "enumeration", x), fit(model, "collapsed", x, seed=3)
    second = (draws.assignments == 1).astype(float)
    for n in range(len(x)):
        assert az.ess(second[..., n]) > 1000
        assert abs(second[..., n].mean() - exact.assignment_probabilities[n, 1]) < 4.4 * az.mcse(second[..., n])


def test_log_marginal_sums_to_the_evidence():
    model = bento(scale=40.0)
    x = np.asarray(model.data.x)[:6]
    every = jnp.asarray(np.indices((2,) * 6).reshape(6, -1).T)
    summed = jax.scipy.special.logsumexp(
        jax.jit(jax.vmap(lambda z: marginal.log_marginal(model, z, jnp.asarray(x))))(every)
    )
    assert abs(float(summed) - fit(model, "enumeration", x).log_evidence) < 1e-9


def test_models_whose_parameters_stay_are_refused_with_the_reason():
    for name, reason in {
        "bento_full": "one given the others, not together",
        "three_gaussians": "no conjugate prior for scales",
        "bento_known": "no unknown parameter",
    }.items():
        with pytest.raises(Refused, match=reason):
            fit(MODELS[name], "collapsed")


def test_data_on_which_a_rule_fails_are_refused_where_the_declaration_did_not_show_it():
    """One value of a covariate, between those of the model's own data, brings another noise."""

    @gen
    def prior():
        return {"means": normal(np.array([-20.0, 20.0]), 1.0) @ "means"}

    @gen
    def observation(params, imputed):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return normal(params["means"][z], jnp.where(imputed == 0.5, 10.0, 1.0)) @ "x"

    x = {"x": np.tile([-20.0, 20.5], 10), "covariates": np.arange(20.0)}
    model = Mixture(
        name="imputed", num_components=2, exchangeable=False, prior=prior, observation=observation,
        data=Dataset(name="imputed", x=x),
    )  # fmt: skip
    assert collapsed.refuses(model, x) is None
    other = x | {"covariates": np.where(np.arange(20) == 7, 0.5, 1.0)}
    with pytest.raises(Refused, match="does not fit the joint density on these data"):
        fit(model, "collapsed", other)
    with pytest.raises(ValueError, match="does not fit the joint density on these data"):
        marginal.log_marginal(model, np.zeros(20, int), other)


def test_an_empty_component_has_totals_of_exactly_nothing():
    sums = jnp.array([[1e-9, -2e-9], [3.0, 0.0]])
    np.testing.assert_array_equal(collapsed.of_occupied(sums, jnp.array([0.0, 2.0])), [[0.0, 0.0], [3.0, 0.0]])
    np.testing.assert_array_equal(collapsed.of_occupied(sums[:, 0], jnp.array([1.0, 0.0])), [1e-9, 0.0])
