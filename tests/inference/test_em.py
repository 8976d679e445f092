"""EM: the stored optima, never downhill, never a singularity passed off as an optimum."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import categorical, gamma, gen, normal, poisson
from jax.experimental import disable_x64
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq

from diagnostics.truth import stored, tolerance
from inference import Refused, conjugacy, em_step, fit, optimum
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


@pytest.mark.parametrize("prior, accelerate", [(True, True), (False, True), (False, False)])
def test_the_log_density_never_falls_from_step_to_step(prior, accelerate):
    trace = []
    for steps in range(em_step.NEWTON_STARTS, em_step.NEWTON_STARTS + 25):  # the starts' own steps are no climb
        result = em(three_gaussians(), SMALL, KEY, prior=prior, max_steps=steps, accelerate=accelerate, num_restarts=8)
        assert result.num_steps.max() == steps and not result.converged.all()
        assert not any("fell" in said for said in result.warnings)
        trace.append(np.sort(result.log_density))  # if every restart climbs, so does every order statistic
    assert np.min(np.diff(trace, axis=0)) > -1e-10 and trace[-1].sum() > trace[0].sum() + 0.1


@pytest.fixture
def broken(monkeypatch):
    """`broken(rule, mode)` replaces the mode of one rule in every program built from then on."""
    rules, build = conjugacy.rules, em_step.build.__wrapped__

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
    assert result.warnings[0] == NO_ESTIMATE and set(result.ended) == {"not converged"}


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
    model = bento_full(concentration=(0.5, 0.5))
    said, _ = optimum.rising(model, True, best(fitted(bento_full())), jnp.asarray(bento().data.x))
    assert said == "the prior density grows without bound towards the border of the parameter space"


def test_a_component_without_responsibility_gives_no_nan():
    far = em(bento(), np.linspace(100.0, 102.0, 20), KEY, prior=False)
    assert np.isfinite(far.log_density).all() and np.isfinite(far.params["means"]).all()
    alone = em(bento_full(), np.full(20, 350.0), KEY)
    assert np.isfinite(alone.log_density).all() and all(np.isfinite(leaf).all() for leaf in alone.params.values())


# -- how restarts end ------------------------------------------------------------------------------------------


def test_every_restart_says_how_it_ended():
    assert set(fitted(bento()).ended) == {"converged"}
    tied = em(three_gaussians(), TIED, KEY, prior=False)
    assert_array_equal(tied.admissible, tied.ended == "converged")
    assert "below the floor" in tied.ended and set(tied.ended) <= set(module.ENDED)
    assert set(em(coffee(), coffee().data.x, KEY, max_steps=1, num_restarts=4).ended) == {"not converged"}
    counted = sum(int(said.split()[0]) for said in tied.warnings if " of 32 restarts " in said)
    assert counted == 32 - tied.admissible.sum()


def test_a_saddle_point_is_not_admissible():
    # two equal components at the mean of all: stationary by symmetry, and they gain by parting
    model, x = bento(scale=20.0), jnp.asarray(bento().data.x)
    middle = {"means": jnp.full(2, _stationary_middle(model, x))}
    gradient = jax.grad(lambda means: model.log_density({"means": means}, x))(middle["means"])
    assert np.abs(gradient).max() < 1e-9
    found, _ = optimum.curvature(model, True, middle, x)
    assert found.highest > 0.1 and found.standard_errors is None
    best_one, _ = optimum.curvature(model, True, {"means": jnp.asarray(best(fitted(model))["means"])}, x)
    assert best_one.highest < -0.1


def test_restarts_that_end_at_a_saddle_point_are_named_and_are_no_estimates(monkeypatch):
    # nothing parts components again that merged while hot: all restarts end with equal components, and gradient zero
    monkeypatch.setattr(module, "build", em_step.build.__wrapped__)
    monkeypatch.setattr(em_step, "KEPT", 0.0)
    model = three_gaussians()
    result = em(model, model.data.x, KEY, prior=False, annealing=0.1, num_restarts=4)
    assert set(result.ended) == {"saddle point"} and result.converged.all() and not result.admissible.any()
    assert result.warnings[0] == NO_ESTIMATE and any("at a saddle point" in said for said in result.warnings)
    assert result.standard_errors is None


def _stationary_middle(model, x):
    """Where both means are equal and the gradient vanishes: one mean is as good as the other."""
    grad = jax.grad(lambda mean: model.log_density({"means": jnp.full(2, mean)}, x))
    return brentq(lambda mean: float(grad(mean)), 300.0, 600.0, xtol=1e-12)


# -- acceleration and annealing --------------------------------------------------------------------------------


@pytest.mark.parametrize("model, prior", [(bento(), True), (bento_full(), True), (three_gaussians(), False)])
def test_acceleration_ends_at_the_same_optimum(model, prior):
    plain, fast = (fitted(model, prior=prior, accelerate=way) for way in (False, True))
    assert fast.admissible[0] and fast.log_density[0] == pytest.approx(plain.log_density[0], abs=1e-8)
    assert_allclose(*(np.sort(np.asarray(best(result)["means"])) for result in (plain, fast)), rtol=1e-5)


def test_acceleration_takes_less_than_half_the_steps_where_em_is_slow():
    plain, fast = (fitted(three_gaussians(), prior=False, accelerate=way) for way in (False, True))
    assert fast.num_steps.mean() < 0.5 * plain.num_steps.mean()
    assert not any("fell" in said for said in fast.warnings)


def test_an_extrapolation_that_would_lower_the_log_density_is_refused(monkeypatch):
    # one that lands nowhere is always refused: what is left is plain EM, two steps of three
    monkeypatch.setattr(module, "build", em_step.build.__wrapped__)
    monkeypatch.setattr(em_step, "extrapolated", lambda u, change, bend, longest: (u + 10.0, jnp.array(2.0)))
    result = em(three_gaussians(), SMALL, KEY, prior=False, accelerate=True)
    assert not any("fell" in said for said in result.warnings)
    plain = em(three_gaussians(), SMALL, KEY, prior=False, accelerate=False)
    assert result.log_density[0] == pytest.approx(plain.log_density[0], abs=1e-7)


def test_annealing_leads_more_restarts_to_the_best_optimum():
    model = three_gaussians()
    plain, annealed = fitted(model, prior=False), fitted(model, prior=False, annealing=0.2)
    as_high = lambda result: np.sum(result.log_density > plain.log_density[0] - 1e-6)
    assert annealed.admissible[0] and annealed.log_density[0] == pytest.approx(plain.log_density[0], abs=1e-8)
    assert as_high(annealed) > as_high(plain)


def test_annealing_has_not_converged_before_the_inverse_temperature_is_one():
    result = em(bento(), bento().data.x, KEY, max_steps=em_step.COOLING - 1, annealing=0.5)
    assert set(result.ended) == {"not converged"}
    with pytest.raises(ValueError, match="annealing should be a number above 0, 1 at most"):
        fit(bento(), "em", annealing=1.5)


# -- standard errors -------------------------------------------------------------------------------------------


def test_the_standard_error_of_a_separated_mean_is_sd_over_root_n():
    x = bento().data.x  # 150 g between two kinds that the scale of 2 g keeps apart: 8 light ones, 12 heavy ones
    model = bento(scale=2.0)
    result = fitted(model, prior=False)
    expected = 2.0 / np.sqrt([np.sum(x < 400), np.sum(x > 400)])
    assert_allclose(np.asarray(result.standard_errors["means"])[np.argsort(best(result)["means"])], expected, rtol=1e-9)


def test_the_standard_errors_of_weights_on_the_simplex_are_those_of_a_proportion():
    result = fitted(bento_full(), prior=False)
    assert_allclose(result.standard_errors["weights"], np.sqrt(0.4 * 0.6 / 20), rtol=1e-6)


def test_standard_errors_are_those_of_a_finite_difference_hessian_of_the_declared_parameters():
    model, x = three_gaussians(), jnp.asarray(three_gaussians().data.x)
    result = fitted(model, prior=False)
    at = best(result)
    centre = np.concatenate([at["weights"][:2], at["means"], at["scales"]])

    @jax.jit
    def density(flat):
        weights = jnp.append(flat[:2], 1 - flat[:2].sum())
        return model.log_likelihood({"weights": weights, "means": flat[2:5], "scales": flat[5:]}, x)

    eye, h = np.eye(8), 1e-4
    square = lambda i, j: [density(centre + h * (a * eye[i] + b * eye[j])) for a in (1, -1) for b in (1, -1)]
    hessian = np.array(
        [[(p - q - r + s) / (4 * h * h) for p, q, r, s in (square(i, j) for j in range(8))] for i in range(8)]
    )
    errors = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    found = np.concatenate([result.standard_errors[name] for name in ("weights", "means", "scales")])
    assert_allclose(found[[0, 1, 3, 4, 5, 6, 7, 8]], errors, rtol=1e-4)


def test_a_flat_direction_has_no_standard_errors_and_says_so():
    # the likelihood alone does not know the prior's own site: nothing determines it
    result = em(idle(), bento().data.x, KEY, prior=False)
    assert result.admissible[0] and result.standard_errors is None
    assert any("flat in some direction" in said for said in result.warnings)
    assert em(idle(), bento().data.x, KEY).standard_errors["unused"] == pytest.approx(3.0)


def idle():
    """Bento with one more unknown, of which the data say nothing."""

    @gen
    def prior():
        means = normal(np.full(2, 425.0), 200.0) @ "means"
        normal(0.0, 3.0) @ "unused"
        return {"means": means}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.4, 0.6])) @ "z"
        return normal(params["means"][z], 2.0) @ "x"

    def twin(x):
        means = numpyro.sample("means", dist.Normal(np.full(2, 425.0), 200.0).to_event(1))
        numpyro.sample("unused", dist.Normal(0.0, 3.0))
        kinds = dist.Categorical(probs=jnp.array([0.4, 0.6]))
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(means, 2.0)), obs=x)

    return Mixture(name="idle", num_components=2, exchangeable=False, prior=prior, observation=observation, twin=twin)


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
    monkeypatch.setattr(module, "build", em_step.build.__wrapped__)
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
    monkeypatch.setattr(module, "build", em_step.build.__wrapped__)
    monkeypatch.setattr(conjugacy, "rules", lambda model: ())
    newton = em(bento_full(), bento_full().data.x, KEY)
    assert newton.admissible[0] and newton.cost.table_evaluations > 5 * closed.cost.table_evaluations
    assert newton.log_density[0] == pytest.approx(closed.log_density[0], abs=1e-9)


# -- running -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_result_and_compiles_nothing_the_second_time():
    first, second = fitted(bento()), em(bento(), bento().data.x, KEY)
    assert_array_equal(first.params["means"], second.params["means"])
    assert_array_equal(first.num_steps, second.num_steps)
    assert second.cost.compile_seconds < 0.2
    other = em(bento(), bento().data.x, jax.random.key(5), num_restarts=4)
    assert other.params["means"].shape == (4, 2)


def test_the_cost_counts_one_table_for_every_step_and_a_gradient_only_where_one_was_taken():
    result = fitted(three_gaussians(), prior=False)
    assert result.converged[result.admissible].all()
    at_least = (result.num_steps + 1).sum()
    assert at_least <= result.cost.table_evaluations <= 1.2 * at_least
    assert 2 * 32 <= result.cost.gradient_evaluations < 0.2 * result.cost.table_evaluations
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


def test_ctrl_c_keeps_the_restarts_that_had_ended():
    seen = []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 3:  # in the third group of four
            raise KeyboardInterrupt

    part, whole = fit(bento(), "em", progress=stop), fit(bento(), "em")
    assert part.interrupted and not whole.interrupted
    assert part.warnings[0] == "interrupted: only 8 of 32 restarts had ended"
    assert part.params["means"].shape == (8, 2) and part.admissible.shape == part.ended.shape == (8,)
    assert part.log_density[0] == whole.log_density[0]
    with pytest.raises(KeyboardInterrupt, match="before the first 4 restarts had ended: nothing is kept"):
        seen[:] = [0, 0]
        fit(bento(), "em", progress=stop)


def test_ctrl_c_ends_a_back_end_that_begins_at_the_optima_too(monkeypatch):
    found = fit(bento(), "em", num_restarts=4)
    monkeypatch.setattr(module, "em", lambda *args, **settings: found._replace(interrupted=True))
    with pytest.raises(KeyboardInterrupt, match="nothing of an unfinished importance_modes run is kept"):
        fit(bento(), "importance_modes")
