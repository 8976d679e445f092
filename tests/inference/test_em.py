"""EM: the stored optima, never downhill, never a singularity passed off as an optimum."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import categorical, gamma, gen, poisson
from jax.experimental import disable_x64
from numpy.testing import assert_allclose, assert_array_equal

from diagnostics.truth import stored, tolerance
from inference import Refused, conjugacy, fit
from inference import em as module
from inference.em import em
from inference.importance import importance
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_full, bento_known
from zoo.models.coffee import coffee
from zoo.models.three_gaussians import three_gaussians

KEY = jax.random.key(1)
SMALL = three_gaussians().data.x[:60]
TIED = np.append(SMALL[:56], np.full(4, 21.25))
NO_ESTIMATE = "no restart reached an admissible optimum: nothing here is an estimate"


@functools.cache
def fitted(model, **settings):
    return em(model, model.data.x, KEY, **settings)


@functools.cache
def fitted_small(prior):
    return em(three_gaussians(), SMALL, KEY, prior=prior)


def best(result):
    return {name: np.asarray(leaf)[0] for name, leaf in result.params.items()}


def by_means(result):
    """The best restart's parameters, components in the order of their means."""
    params = best(result)
    return {name: leaf[np.argsort(params["means"])] for name, leaf in params.items()}


# -- the stored optima ---------------------------------------------------------------------------------------


def test_maximum_likelihood_of_three_gaussians_is_the_stored_one():
    truth, result = stored("three_gaussians_em")["blog.mle_K3"], fitted(three_gaussians(), prior=False)
    assert result.admissible[0] and result.converged[0]
    assert abs(result.log_density[0] - truth["value"]["loglik"]) < 1e-6
    found = by_means(result)
    assert_allclose(found["weights"], truth["value"]["weights"], **tolerance(truth))
    assert_allclose(found["means"], truth["value"]["means"], **tolerance(truth))
    assert_allclose(found["scales"], truth["value"]["sds"], **tolerance(truth))


def test_the_posterior_modes_of_bento_are_the_stored_ones():
    truth, result = stored("bento")["bento.modes"], fitted(bento())
    assert result.admissible.all() and result.warnings == ()
    assert abs(result.log_density[0] - truth["value"]["log_p_x_mu"][0]) < 1e-8
    assert_allclose(by_means(result)["means"], truth["value"]["mu"][0], **tolerance(truth))


def test_maximum_likelihood_of_bento_is_the_two_averages():
    x = bento().data.x
    assert_allclose(by_means(fitted(bento(), prior=False))["means"], [x[x < 400].mean(), x[x > 400].mean()], rtol=1e-12)


def test_under_a_flat_dirichlet_the_modal_weights_are_the_expected_counts_over_n():
    model = bento_full()
    result = fitted(model)
    r = model.responsibilities(best(result), jnp.asarray(model.data.x))
    assert_allclose(best(result)["weights"], np.asarray(r).mean(0), atol=1e-9)
    assert_allclose(by_means(result)["weights"], [0.4, 0.6], atol=1e-9)  # 8 light bentos, 12 heavy ones


def test_the_labelling_that_the_coffee_priors_favour_is_the_mode():
    assert np.all(np.diff(best(fitted(coffee()))["means"]) > 0)


@pytest.mark.parametrize("model, prior", [(bento(), True), (bento_full(), True), (three_gaussians(), False)])
def test_the_reported_density_and_gradient_are_those_of_the_declared_model(model, prior):
    result, x = fitted(model, prior=prior), jnp.asarray(model.data.x)
    density = lambda params: model.log_likelihood(params, x) + (model.log_prior(params) if prior else 0.0)
    each = [density(jax.tree.map(lambda leaf: jnp.asarray(leaf)[r], result.params)) for r in range(3)]  # noqa: B023
    assert_allclose(result.log_density[:3], each, rtol=1e-12)
    # no Jacobian: at an interior mode the gradient vanishes in the declared means
    gradient = jax.grad(lambda means: density({**best(result), "means": means}))(jnp.asarray(best(result)["means"]))
    assert np.abs(gradient).max() / len(x) < 1e-6


def test_no_nearby_point_is_better_than_the_mode():
    model, x, mode = bento_full(), jnp.asarray(bento_full().data.x), best(fitted(bento_full()))

    def moved(step):
        odds = mode["weights"] * jnp.exp(jnp.append(step[0], 0.0))
        variances = mode["variances"] * jnp.exp(step[3:])
        return {"weights": odds / odds.sum(), "means": mode["means"] + step[1:3], "variances": variances}

    steps = 0.01 * jax.random.normal(KEY, (200, 5))
    assert jax.vmap(lambda step: model.log_density(moved(step), x))(steps).max() < fitted(model).log_density[0]


# -- monotone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [True, False])
def test_the_log_density_never_falls_from_step_to_step(prior):
    trace = []
    for steps in range(module.NEWTON_STARTS, module.NEWTON_STARTS + 25):  # the starts' own steps are no climb
        result = em(three_gaussians(), SMALL, KEY, prior=prior, max_steps=steps)
        assert result.num_steps.max() == steps and not result.converged.all()
        assert not any("fell" in said for said in result.warnings)
        trace.append(np.sort(result.log_density))  # if every restart climbs, so does every order statistic
    assert np.min(np.diff(trace, axis=0)) > -1e-10 and trace[-1].sum() > trace[0].sum() + 0.1


@pytest.fixture
def broken(monkeypatch):
    """`broken(rule, mode)` replaces the mode of one rule in every program built from then on."""
    rules, build = conjugacy.rules, module.build.__wrapped__

    def breaks(name, mode):
        def replaced(model):
            return tuple(
                rule._replace(mode=functools.partial(mode, rule.mode)) if rule.name == name else rule
                for rule in rules(model)
            )

        monkeypatch.setattr(module, "build", build)
        monkeypatch.setattr(conjugacy, "rules", replaced)

    return breaks


def test_an_m_step_that_overshoots_is_caught_because_the_log_density_falls(broken):
    def overshoot(mode, params, r, x, prior):
        return params["means"] + 2.5 * (mode(params, r, x, prior) - params["means"])

    broken("Normal mean", overshoot)
    result = em(bento(), bento().data.x, KEY, max_steps=30)
    assert any(re.search("log density fell by up to .* do not trust", said) for said in result.warnings)
    assert not result.admissible.any()


def test_an_m_step_with_a_wrong_optimum_is_caught_because_no_restart_is_stationary(broken):
    broken("Normal mean", lambda mode, *args: 1.0001 * mode(*args))
    result = em(bento(), bento().data.x, KEY, max_steps=30)
    assert not result.admissible.any() and np.all(result.gradient_norm > 1e-6)
    assert result.warnings[0] == NO_ESTIMATE and any("not stationary" in said for said in result.warnings)


def test_a_wrong_dirichlet_count_is_caught_because_no_restart_is_stationary(broken):
    broken("Dirichlet weights", lambda mode, params, r, x, prior: (r.sum(0) + 1) / (r.sum() + 2))
    assert not em(bento_full(), bento_full().data.x, KEY, max_steps=30).admissible.any()


def test_an_m_step_left_alone_is_not_accused(broken):
    broken("Normal mean", lambda mode, *args: mode(*args))
    assert em(bento(), bento().data.x, KEY, max_steps=30).warnings == ()


# -- singularities -------------------------------------------------------------------------------------------


def test_a_component_that_collapses_onto_tied_points_is_listed_as_spurious_after_the_admissible():
    result = em(three_gaussians(), TIED, KEY, prior=False)
    spurious = [said for said in result.warnings if "spurious" in said]
    assert result.admissible[0] and len(spurious) == 1
    count = int(spurious[0].split()[0])
    assert 0 < count < 32 and np.all(np.sort(result.admissible)[::-1] == result.admissible)
    assert np.all(np.diff(result.log_density[result.admissible]) <= 0)
    assert np.all(result.params["scales"][result.admissible] >= 0.02 * TIED.std())
    assert np.isfinite(result.log_density).all() and all(np.isfinite(leaf).all() for leaf in result.params.values())


def test_where_every_restart_collapses_it_says_that_nothing_is_an_estimate():
    result = em(three_gaussians(), np.ones(60), KEY)
    assert not result.admissible.any() and result.warnings[0] == NO_ESTIMATE
    assert not np.isnan(result.log_density).any()


def test_the_floor_decides_what_is_spurious():
    low, high = fitted_small(False), em(three_gaussians(), SMALL, KEY, prior=False, floor=0.3)
    assert low.floor == 0.02 and high.floor == 0.3
    assert high.admissible.sum() < low.admissible.sum()
    assert np.all(high.params["scales"][high.admissible] >= 0.3 * SMALL.std())


def test_a_known_scale_below_the_floor_is_no_collapse():
    model = bento(scale=0.7)  # 75 g between the data's points: .7 is below .02 of it
    assert 0.7 < 0.02 * model.data.x.std()
    assert fitted(model).admissible.all()


@pytest.mark.parametrize("prior, what", [(False, "likelihood"), (True, "density")])  # half-normal: positive at 0
def test_where_a_scale_can_shrink_onto_a_point_no_global_maximum_is_promised(prior, what):
    said = [text for text in fitted_small(prior).warnings if "no global maximum exists" in text]
    assert len(said) == 1 and said[0].startswith(f"the {what} grows without bound as a scale shrinks onto one point")
    assert fitted_small(prior).admissible[0]


def test_an_inverse_gamma_prior_bounds_the_density():
    # it falls faster than any likelihood rises
    assert not any("no global maximum" in said for said in fitted(bento_full()).warnings)


def test_a_dirichlet_below_one_is_said_to_have_no_global_mode():
    at = {name: leaf[:1] for name, leaf in fitted(bento_full()).params.items()}
    said, _ = module._rising(bento_full(concentration=(0.5, 0.5)), True, at, jnp.asarray(bento().data.x))
    assert said == "the prior density grows without bound towards the border of the parameter space"


def test_a_component_without_responsibility_gives_no_nan():
    far = em(bento(), np.linspace(100.0, 102.0, 20), KEY, prior=False)
    assert np.isfinite(far.log_density).all() and np.isfinite(far.params["means"]).all()
    alone = em(bento_full(), np.full(20, 350.0), KEY)
    assert np.isfinite(alone.log_density).all() and all(np.isfinite(leaf).all() for leaf in alone.params.values())


# -- gradient M-steps ----------------------------------------------------------------------------------------


@functools.cache
def counts():
    """Two Poisson components."""

    @gen
    def prior():
        rates = gamma(np.full(2, 2.0), 0.2) @ "rates"
        return {"rates": rates}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return poisson(params["rates"][z]) @ "x"

    def twin(x):
        rates = numpyro.sample("rates", dist.Gamma(np.full(2, 2.0), 0.2).to_event(1))
        kinds = dist.Categorical(probs=jnp.full(2, 0.5))
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Poisson(rates)), obs=x)

    return Mixture(name="counts", num_components=2, exchangeable=True, prior=prior, observation=observation, twin=twin)


def test_a_gradient_m_step_reaches_the_closed_form_of_two_separated_poissons(monkeypatch):
    monkeypatch.setattr(module, "build", module.build.__wrapped__)
    monkeypatch.setattr(conjugacy, "rules", lambda model: ())
    rng = np.random.default_rng(0)
    light, heavy = rng.poisson(2, 40), rng.poisson(400, 60)
    result = em(counts(), np.append(light, heavy).astype(float), KEY)
    assert result.admissible.all() and result.cost.table_evaluations > 0
    # Gamma(2, .2) prior and n counts: mode (2 - 1 + sum) / (.2 + n)
    expected = [(1 + part.sum()) / (0.2 + len(part)) for part in (light, heavy)]
    assert_allclose(np.sort(best(result)["rates"]), expected, rtol=1e-7)


def test_newton_and_closed_m_steps_agree_where_both_exist(monkeypatch):
    closed = fitted(bento_full())
    monkeypatch.setattr(module, "build", module.build.__wrapped__)
    monkeypatch.setattr(conjugacy, "rules", lambda model: ())
    newton = em(bento_full(), bento_full().data.x, KEY)
    assert newton.admissible[0] and newton.cost.table_evaluations > 0 and closed.cost.table_evaluations == 0
    assert newton.log_density[0] == pytest.approx(closed.log_density[0], abs=1e-9)


# -- running -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_result_and_compiles_nothing_the_second_time():
    first, second = fitted(bento()), em(bento(), bento().data.x, KEY)
    assert_array_equal(first.params["means"], second.params["means"])
    assert_array_equal(first.num_steps, second.num_steps)
    assert second.cost.compile_seconds < 0.2
    other = em(bento(), bento().data.x, jax.random.key(5), num_restarts=4)
    assert other.params["means"].shape == (4, 2)


def test_the_cost_counts_one_gradient_for_every_step_of_every_restart():
    result = fitted(bento())
    assert result.converged.all()
    assert result.cost.gradient_evaluations == (result.num_steps + 1).sum()
    assert result.cost.run_seconds > 0 and result.cost.program_bytes > 0


def test_restarts_in_groups_are_the_same_restarts(monkeypatch):
    whole = fitted(coffee())
    monkeypatch.setattr(module, "LANES", 7)  # five groups, the last filled up with copies
    seen = []
    parts = em(coffee(), coffee().data.x, KEY, progress=lambda done, total: seen.append((done, total)))
    assert_allclose(parts.log_density, whole.log_density, rtol=1e-12)
    assert seen[-1] == (10_000, 10_000) and seen == sorted(seen)


def test_float32_reaches_the_same_mode_within_its_rounding():
    model = bento(scale=2.5)
    with disable_x64():
        single = em(model, model.data.x.astype(np.float32), KEY)
    assert single.params["means"].dtype == np.float32 and single.admissible[0]
    assert_allclose(by_means(single)["means"], by_means(fitted(bento()))["means"], rtol=1e-3)


def test_fewer_distinct_points_than_components_are_refused_for_maximum_likelihood_before_anything_compiles(monkeypatch):
    monkeypatch.setattr(module, "build", None)
    with pytest.raises(ValueError, match="x has 2 distinct points for 3 components.*prior=True"):
        em(three_gaussians(), np.array([1.0, 1.0, 2.0, 1.0]), KEY, prior=False)


def test_models_that_em_cannot_serve_are_refused_with_the_reason():
    with pytest.raises(Refused, match="no unknown parameter"):
        fit(bento_known(), "em")
    with pytest.raises(ValueError, match="max_steps"):
        em(bento(), bento().data.x, KEY, max_steps=0)


def test_the_mode_is_where_importance_draws_of_the_posterior_are_densest():
    model = bento(scale=40.0)
    draws = importance(model, model.data.x, KEY, num_particles=20_000)
    assert fitted(model).log_density[0] > (draws.log_weights[0] + _log_prior(model, draws)).max()


def _log_prior(model, draws):
    return np.asarray(jax.vmap(model.log_prior)(jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), draws.params)))
