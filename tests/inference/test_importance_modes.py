"""Importance sampling around modes: evidence against exact values, weights against SciPy, and what is said of few."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gen, normal
from jax.experimental import disable_x64
from numpy.testing import assert_allclose
from scipy import stats
from scipy.special import logsumexp

from diagnostics.truth import stored
from inference import Refused, fit
from inference import importance_modes as module
from inference.importance import pareto_k, weight_ess
from inference.importance_modes import importance_modes
from inference.space import space_of
from zoo import MODELS
from zoo.mixture import Mixture
from zoo.models.bento import bento
from zoo.models.coffee import coffee

KEY = jax.random.key(1)
BENTO, COFFEE = stored("bento"), stored("coffee")
KNOWN = {"bento": BENTO["bento.log_evidence"]["value"], "coffee": COFFEE["coffee.log_evidence"]["value"]}


@functools.cache
def run(name):
    return fit(MODELS[name], "importance_modes", seed=1)


# -- the evidence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bento", "coffee"])
def test_the_evidence_is_that_of_quadrature(name):
    assert run(name).log_evidence_se <= 0.02
    assert abs(run(name).log_evidence - KNOWN[name]) <= 4 * run(name).log_evidence_se
    assert run(name).warnings == ()


@pytest.mark.slow
def test_the_evidence_with_weights_and_variances_unknown_is_that_of_enumeration():
    exact = fit(MODELS["bento_full"], "enumeration", num_draws=4)
    assert run("bento_full").log_evidence_se <= 0.02
    assert abs(run("bento_full").log_evidence - exact.log_evidence) <= 4 * run("bento_full").log_evidence_se


@pytest.mark.slow
def test_the_evidence_of_a_thousand_points_is_the_stored_one():
    rounded = 0.1 / np.sqrt(12)  # the stored value has one decimal
    assert run("three_gaussians").log_evidence_se <= 0.02
    error = np.hypot(run("three_gaussians").log_evidence_se, rounded)
    assert abs(run("three_gaussians").log_evidence + 2548.0) <= 4 * error


def test_the_stated_error_is_the_spread_over_independent_runs():
    model, x = bento(), bento().data.x
    runs = [importance_modes(model, x, jax.random.key(seed), num_particles=400, num_restarts=4) for seed in range(60)]
    z = np.array([(r.log_evidence - KNOWN["bento"]) / r.log_evidence_se for r in runs])
    # 60 standard normals: the mean is within 4 / sqrt(60) of 0, the standard deviation within 4 / sqrt(120) of 1
    assert abs(z.mean()) < 0.52 and abs(z.std() - 1) < 0.37


# -- the posterior -------------------------------------------------------------------------------------------


def test_every_labelling_of_coffee_has_its_mass_the_rarest_too():
    """An order of the means seen in few draws of the posterior (2.7e-7 of it) has draws of its own here."""
    log_w, means = run("coffee").log_weights[0], run("coffee").params["means"][0]
    w = np.exp(log_w - logsumexp(log_w))
    orders = [tuple(int(k) for k in order) for order in np.argsort(means, axis=1)]
    for order in itertools.permutations(range(3)):
        here = np.array([o == order for o in orders])
        mass, known = w[here].sum(), COFFEE["coffee.label_permutation_mass"]["value"][str(order)]
        se = np.sqrt((w**2 * (here - mass) ** 2).sum())
        assert abs(mass - known) <= 4.4 * se and se < 0.1 * known


def test_resampled_draws_have_the_means_of_quadrature():
    draws = importance_modes(bento(), bento().data.x, KEY, num_resampled=4000)
    means = np.sort(draws.resampled.params["means"][0], axis=1)
    truth = BENTO["bento.ordered_posterior"]["value"]
    assert draws.resampled.assignments.shape == (1, 4000, 20)
    for k, side in enumerate(("lo", "hi")):
        sd = truth[f"{side}_sd"]
        assert abs(means[:, k].mean() - truth[f"{side}_mean"]) < 4.4 * sd / np.sqrt(weight_ess(draws.log_weights) / 3)
    first_below = (draws.resampled.params["means"][0, :, 0] < 425).mean()
    assert abs(first_below - 0.5) < 4.4 * 0.5 / np.sqrt(4000)


# -- the weights ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_log_weight_is_target_over_proposal_by_another_librarys_density():
    model = MODELS["bento_full"]
    x = jnp.asarray(model.data.x)
    of = space_of(model)
    proposal, said, _ = module.proposal_of(model, x, KEY, jax.random.key(2), 8)
    out = module._particles(model)(jnp.arange(200), None, KEY, proposal, x)
    assert said == ()
    us = jax.vmap(of.unconstrain)(out["params"])
    log_p = jax.vmap(lambda u: model.log_prior(of.constrain(u)) + of.log_det(u))(us)
    log_lik = jax.vmap(lambda u: model.log_likelihood(of.constrain(u), x))(us)
    parts = [
        np.log(share) + stats.multivariate_t(centre, factor @ factor.T, module.DEGREES).logpdf(us)
        for share, centre, factor in zip(proposal.shares, proposal.centres, proposal.factors, strict=True)
    ]
    log_q = np.logaddexp(np.log(0.1) + log_p, np.log(0.9) + logsumexp(parts, axis=0))
    assert_allclose(out["log_weights"], log_lik + log_p - log_q, rtol=1e-7, atol=1e-7)


def test_particles_follow_the_mixture_that_their_density_is_of():
    """With the likelihood left out, the mean of prior over proposal is 1: the draws are from q."""
    model = MODELS["coffee"]
    x = jnp.asarray(model.data.x)
    proposal, _, _ = module.proposal_of(model, x, KEY, jax.random.key(2), 8)
    out = module._particles(model)(jnp.arange(20_000), None, KEY, proposal, x)
    log_lik = jax.vmap(lambda p: model.log_likelihood(p, x))(out["params"])
    ratio = np.exp(np.asarray(out["log_weights"]) - np.asarray(log_lik))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.max() <= (1 + 1e-9) / module.DEFENSIVE


def test_modes_and_labellings_are_each_found_once():
    for name, num in (("bento", 2), ("coffee", 6)):
        x = jnp.asarray(MODELS[name].data.x)
        proposal, _, _ = module.proposal_of(MODELS[name], x, KEY, jax.random.key(2), 16)
        assert len(proposal.centres) == num


def test_smoothing_moves_the_tail_alone():
    log_w = 3 * np.random.default_rng(0).normal(size=2000) - 700
    after = module.smoothed(log_w)
    outside = np.argsort(log_w)[:1500]
    assert_allclose(after[outside], log_w[outside], rtol=1e-12)
    assert np.any(after != log_w) and after.max() <= log_w.max() + 1e-9
    with_zero = module.smoothed(np.append(log_w, -np.inf))
    assert np.isneginf(with_zero[-1]) and not np.isnan(with_zero).any()


def test_a_saddle_is_given_a_width_and_counted():
    """Two equal means are a saddle of bento by symmetry: uphill is nowhere to be seen from there."""
    model = bento()
    place = module._settle(model)(jnp.full(2, 425.0), jnp.full(2, 50.0), jnp.asarray(model.data.x))
    assert place.least < 0 and np.isfinite(place.factor).all() and np.isfinite(place.log_mass)
    assert np.linalg.norm(place.factor, ord=2) <= module.WIDEST * 50 * (1 + 1e-9)


# -- what is said --------------------------------------------------------------------------------------------


def test_few_effective_draws_give_no_estimate_and_a_sentence():
    draws = fit(coffee(), "importance_modes", seed=1, num_particles=80)
    assert draws.log_evidence is None and draws.log_evidence_se is None
    assert any("few effective draws" in said and "not usable" in said for said in draws.warnings)
    assert any("no estimate of the evidence" in said for said in draws.warnings)


def test_a_proposal_that_misses_the_posterior_gives_collapsed_weights_and_no_estimate(monkeypatch):
    """Places ten standard deviations off and as narrow: what the prior's share is worth is few draws."""
    right = module.proposal_of

    def off(*args):
        proposal, said, cost = right(*args)
        return proposal._replace(centres=proposal.centres + 10 * proposal.factors.sum(axis=2)), said, cost

    monkeypatch.setattr(module, "proposal_of", off)
    draws = importance_modes(bento(), bento().data.x, KEY, num_particles=2000)
    assert draws.log_evidence is None
    assert any("not usable" in said for said in draws.warnings)


def test_three_components_without_a_relabelling_are_refused():
    @gen
    def prior():
        return {"means": jnp.stack([normal(np.float64(0), 20.0) @ name for name in ("a", "b", "c")])}

    @gen
    def observation(params):
        z = categorical(probs=np.full(3, 1 / 3)) @ "z"
        return normal(params["means"][z], 1.0) @ "x"

    model = Mixture(name="numbered", num_components=3, exchangeable=False, prior=prior, observation=observation)
    with pytest.raises(Refused, match="no relabelling of its 3 components is known.* give Mixture"):
        fit(model, "importance_modes", np.array([-20.0, 0.0, 20.0]))


def test_a_model_without_unknown_parameters_is_refused_in_a_sentence():
    with pytest.raises(Refused, match="no unknown parameter, so there is no mode"):
        fit(MODELS["bento_known"], "importance_modes")


# -- running -------------------------------------------------------------------------------------------------


def test_the_block_size_changes_no_draw():
    whole, parts = (
        importance_modes(coffee(), coffee().data.x, KEY, num_particles=500, num_restarts=4, block=b) for b in (500, 77)
    )
    np.testing.assert_array_equal(whole.params["means"], parts.params["means"])
    assert_allclose(whole.log_weights, parts.log_weights, rtol=1e-12)


def test_ctrl_c_keeps_the_finished_blocks():
    def stop(done, total):
        if done == 400:
            raise KeyboardInterrupt

    draws = importance_modes(bento(), bento().data.x, KEY, num_particles=1000, block=200, progress=stop)
    assert draws.interrupted and draws.num_done == 400 and draws.log_weights.shape == (1, 400)
    assert any("interrupted" in said for said in draws.warnings)
    assert abs(draws.log_evidence - KNOWN["bento"]) < 4 * draws.log_evidence_se


@pytest.mark.slow
def test_float32_gives_the_same_evidence_within_its_error():
    model = bento(scale=43.0)  # a model of its own: shapes and dtypes are remembered with the model
    with disable_x64():
        single = importance_modes(model, model.data.x.astype(np.float32), KEY)
    double = importance_modes(bento(scale=43.0, prior_sd=50.000001), model.data.x, KEY)
    assert single.params["means"].dtype == np.float32 and pareto_k(single.log_weights) < 0.7
    combined = np.hypot(single.log_evidence_se, double.log_evidence_se)
    assert abs(single.log_evidence - double.log_evidence) < 4 * combined
